/* SPDX-License-Identifier: MIT */
/* The shell: finds the command that a line means, checks what all commands share, runs it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/diag.h"
#include "cli/utf8.h"
#include "io/input.h"
#include "io/io.h"
#include "io/pool.h"

static const struct io_command *const groups[] = {
	io_rw_commands,	   io_aio_commands,   io_map_commands,
	io_state_commands, io_break_commands, io_misc_commands,
};
#define NGROUPS (sizeof(groups) / sizeof(groups[0]))

const struct io_command *io_find_command(const char *name)
{
	const struct io_command *c;
	size_t i;

	for (i = 0; i < NGROUPS; i++)
		for (c = groups[i]; c->name; c++)
			if (strcmp(c->name, name) == 0 || (c->alias && strcmp(c->alias, name) == 0))
				return c;
	return NULL;
}

/* The command whose name comes next after that of last, or NULL. */
static const struct io_command *next_by_name(const struct io_command *last)
{
	const struct io_command *c, *best = NULL;
	size_t i;

	for (i = 0; i < NGROUPS; i++)
		for (c = groups[i]; c->name; c++)
			if ((!last || strcmp(c->name, last->name) > 0) &&
			    (!best || strcmp(c->name, best->name) < 0))
				best = c;
	return best;
}

void io_each_command(void (*fn)(const struct io_command *command))
{
	const struct io_command *c = NULL;

	while ((c = next_by_name(c)))
		fn(c);
}

void io_print_usage(const struct io_command *command, const char *name)
{
	fputs(name, stdout);
	if (command->args)
		printf(" %s", command->args);
	printf(" -- %s\n", command->summary);
}

int io_misused(const struct io_command *command)
{
	io_print_usage(command, command->name);
	return -EINVAL;
}

void io_getopt_begin(void)
{
	optind = 0; /* glibc's way to forget the words before */
	opterr = 1;
}

void io_say(const char *text)
{
	char *copy = strdup(text), *rest = copy, *line = copy;

	if (!copy) {
		cli_error("out of memory");
		return;
	}
	strsep(&rest, "\n");
	cli_error("%s", line);
	while ((line = strsep(&rest, "\n"))) {
		cli_text_put(stderr, line);
		fputc('\n', stderr);
	}
	free(copy);
}

static int count_is_wrong(const struct io_command *c, const char *name, int nargs)
{
	if (nargs >= c->least && (c->most == IO_MANY || nargs <= c->most))
		return 0;
	fflush(stdout);
	fprintf(stderr, "bad argument count %d to %s, expected ", nargs, name);
	if (c->most == IO_MANY)
		fprintf(stderr, "at least %d arguments\n", c->least);
	else if (c->least == c->most)
		fprintf(stderr, "%d arguments\n", c->least);
	else
		fprintf(stderr, "between %d and %d arguments\n", c->least, c->most);
	return -EINVAL;
}

static int run_words(struct io *io, int nwords, char **words)
{
	const struct io_command *c = io_find_command(words[0]);

	if (!c) {
		fflush(stdout);
		fprintf(stderr, "command \"%s\" not found\n", words[0]);
		return -EINVAL;
	}
	if (!io->image && !(c->flags & IO_ANYTIME)) {
		fflush(stdout);
		fputs("no file open, try 'help open'\n", stderr);
		return -EINVAL;
	}
	if (count_is_wrong(c, words[0], nwords - 1))
		return -EINVAL;
	if (c->flags & IO_CHANGES && io->setup.access == NAMES_READ_ONLY) {
		io_say("Block node is read-only");
		return -EACCES;
	}
	return c->run(io, c, nwords, words);
}

void io_execute(struct io *io, const char *line)
{
	char *copy = strdup(line), *rest = copy, *word;
	/* a word and a space each, and a NULL at the end, as main gets it */
	char **words = calloc(strlen(line) / 2 + 2, sizeof(*words));
	int n = 0;

	if (!copy || !words) {
		cli_error("out of memory");
		io->failed = true;
	} else {
		while ((word = strsep(&rest, " ")))
			if (*word)
				words[n++] = word;
		if (n > 0 && run_words(io, n, words) < 0)
			io->failed = true;
	}
	free(words);
	free(copy);
}

/* Something got done while a line was waited for. */
static void deliver(void *opaque)
{
	struct io *io = opaque;

	io_pool_deliver(io->pool);
	fflush(stdout);
}

void io_interact(struct io *io)
{
	struct io_input input;
	char *line;

	io_input_init(&input, io->drop_in ? "qemu-io> " : "qcow2 io> ", io->drop_in);
	while (!io->quit && (line = io_input_line(&input, io_pool_fd(io->pool), deliver, io))) {
		io_execute(io, line);
		free(line);
	}
	io_input_release(&input);
}
