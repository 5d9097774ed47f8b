/* SPDX-License-Identifier: MIT */
/* Commands that aren't about the image: help, quit, sleep, signals. */
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

const struct io_command io_misc_commands[] = {
	{"abort", NULL, NULL, "simulate a program crash using abort(3)", NULL, 0, 0, IO_ANYTIME,
	 run_abort},
	{"help", "?", "[command]", "help for one or all commands", NULL, 0, 1, IO_ANYTIME,
	 run_help},
	{"quit", "q", NULL, "exit the program", NULL, 0, IO_MANY, IO_ANYTIME, run_quit},
	{"sigraise", NULL, "signal", "raises a signal",
	 " Ends the program, for most numbers: 'sigraise 9' is a crash.\n", 1, 1, IO_ANYTIME,
	 run_sigraise},
	{"sleep", NULL, NULL, "waits for the given value in milliseconds", NULL, 1, 1, IO_ANYTIME,
	 run_sleep},
	{.name = NULL},
};
