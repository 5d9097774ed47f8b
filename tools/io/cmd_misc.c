/* SPDX-License-Identifier: MIT */
/* Commands that aren't about the image: help, quit, sleep, signals; and those that we don't have.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "io/io.h"
#include "io/pool.h"
#include "io/text.h"

static void print_one(const struct io_command *command)
{
	io_print_usage(command, command->name);
}

static int run_help(struct io *io, const struct io_command *self, int nwords, char **words)
{
	const struct io_command *command;

	(void)io;
	(void)self;
	if (nwords < 2) {
		io_each_command(print_one);
		puts("\nUse 'help commandname' for extended help.");
		return 0;
	}
	command = io_find_command(words[1]);
	if (!command) {
		printf("command %s not found\n", words[1]);
		return -EINVAL;
	}
	io_print_usage(command, words[1]);
	if (command->help)
		printf("\n%s\n", command->help);
	return 0;
}

static int run_quit(struct io *io, const struct io_command *self, int nwords, char **words)
{
	(void)self;
	(void)nwords;
	(void)words;
	io->quit = true;
	return 0;
}

static int run_sleep(struct io *io, const struct io_command *self, int nwords, char **words)
{
	char *end;
	long ms;

	(void)self;
	(void)nwords;
	errno = 0;
	ms = strtol(words[1], &end, 0);
	if (end == words[1] || *end || ms < 0 || ms > INT_MAX || errno == ERANGE) {
		printf("%s is not a valid number\n", words[1]);
		return -EINVAL;
	}
	fflush(stdout); /* whoever watches shouldn't wait too */
	io_pool_sleep(io->pool, (uint64_t)ms * 1000000);
	return 0;
}

static int run_sigraise(struct io *io, const struct io_command *self, int nwords, char **words)
{
	uint64_t signum;

	(void)io;
	(void)self;
	(void)nwords;
	if (io_parse_number(words[1], &signum) < 0)
		return -EINVAL;
	if (signum >= NSIG) {
		printf("signal argument '%s' is too large to be a valid signal\n", words[1]);
		return -EINVAL;
	}
	fflush(stdout);
	raise((int)signum);
	return 0;
}

static int run_abort(struct io *io, const struct io_command *self, int nwords, char **words)
{
	(void)io;
	(void)self;
	(void)nwords;
	(void)words;
	fflush(stdout);
	abort();
}

/* ---- breakpoints: for images on a layer for debugging, which isn't there ---- */

static int run_break(struct io *io, const struct io_command *self, int nwords, char **words)
{
	(void)io;
	(void)self;
	(void)nwords;
	(void)words;
	puts("Could not set breakpoint: Operation not supported");
	return -ENOTSUP;
}

static int run_remove_break(struct io *io, const struct io_command *self, int nwords, char **words)
{
	(void)io;
	(void)self;
	(void)nwords;
	printf("Could not remove breakpoint %s: Operation not supported\n", words[1]);
	return -ENOTSUP;
}

static int run_resume(struct io *io, const struct io_command *self, int nwords, char **words)
{
	(void)io;
	(void)self;
	(void)nwords;
	(void)words;
	puts("Could not resume request: Operation not supported");
	return -ENOTSUP;
}

/* qemu-io waits for ever */
static int run_wait_break(struct io *io, const struct io_command *self, int nwords, char **words)
{
	(void)io;
	(void)self;
	(void)nwords;
	printf("Could not wait for request %s: Operation not supported\n", words[1]);
	return -ENOTSUP;
}

const struct io_command io_misc_commands[] = {
	{"abort", NULL, NULL, "simulate a program crash using abort(3)", NULL, 0, 0, IO_ANYTIME,
	 run_abort},
	{"break", NULL, "event tag",
	 "sets a breakpoint on event and tags the stopped request as tag", NULL, 2, 2, 0,
	 run_break},
	{"help", "?", "[command]", "help for one or all commands", NULL, 0, 1, IO_ANYTIME,
	 run_help},
	{"quit", "q", NULL, "exit the program", NULL, 0, IO_MANY, IO_ANYTIME, run_quit},
	{"remove_break", NULL, "tag", "remove a breakpoint by tag", NULL, 1, 1, 0,
	 run_remove_break},
	{"resume", NULL, "tag", "resumes the request tagged as tag", NULL, 1, 1, 0, run_resume},
	{"sigraise", NULL, "signal", "raises a signal",
	 " Ends the program, for most numbers: 'sigraise 9' is a crash.\n", 1, 1, IO_ANYTIME,
	 run_sigraise},
	{"sleep", NULL, NULL, "waits for the given value in milliseconds", NULL, 1, 1, IO_ANYTIME,
	 run_sleep},
	{"wait_break", NULL, "tag", "waits for the suspension of a request", NULL, 1, 1, 0,
	 run_wait_break},
	{.name = NULL},
};
