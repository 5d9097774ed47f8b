/* SPDX-License-Identifier: MIT */
/*
 * Breakpoints, for images on a blkdebug node: requests of aio_read and aio_write stop at a step,
 * and stay there until they are resumed.
 */
#include <errno.h>
#include <stdio.h>

#include "io/io.h"
#include "io/pool.h"

#define WAIT_MS 50

/* "<what>: <why>", on standard output as qemu-io has it. */
static int tell(int code, const char *what, const char *tag)
{
	if (code < 0)
		printf("Could not %s%s: %s\n", what, tag,
		       code == -ENOTSUP ? "Operation not supported" : "No such file or directory");
	return code;
}

static int run_break(struct io *io, const struct io_command *self, int nwords, char **words)
{
	int rc = -ENOTSUP;

	(void)self;
	(void)nwords;
	if (io->debug)
		rc = qcow2_debug_break(io->debug, qcow2_event_find(words[1]), words[2], NULL);
	return tell(rc, "set breakpoint", "");
}

static int run_remove_break(struct io *io, const struct io_command *self, int nwords, char **words)
{
	int rc = io->debug ? qcow2_debug_unbreak(io->debug, words[1], NULL) : -ENOTSUP;

	(void)self;
	(void)nwords;
	return tell(rc, "remove breakpoint ", words[1]);
}

static int run_resume(struct io *io, const struct io_command *self, int nwords, char **words)
{
	int rc = io->debug ? qcow2_debug_resume(io->debug, words[1], NULL) : -ENOTSUP;

	(void)self;
	(void)nwords;
	return tell(rc, "resume request", "");
}

/* qemu-io waits for ever where nothing can come; here it is an error. */
static int run_wait_break(struct io *io, const struct io_command *self, int nwords, char **words)
{
	(void)self;
	(void)nwords;
	if (!io->debug)
		return tell(-ENOTSUP, "wait for request ", words[1]);
	fflush(stdout); /* whoever watches shouldn't wait too */
	while (!qcow2_debug_wait(io->debug, words[1], WAIT_MS)) {
		io_pool_deliver(io->pool);
		if (!io_pool_is_busy(io->pool) && !qcow2_debug_wait(io->debug, words[1], 0))
			return tell(-ENOENT, "wait for request ", words[1]);
	}
	return 0;
}

const struct io_command io_break_commands[] = {
	{"break", NULL, "event tag",
	 "sets a breakpoint on event and tags the stopped request as tag", NULL, 2, 2, 0,
	 run_break},
	{"remove_break", NULL, "tag", "remove a breakpoint by tag", NULL, 1, 1, 0,
	 run_remove_break},
	{"resume", NULL, "tag", "resumes the request tagged as tag", NULL, 1, 1, 0, run_resume},
	{"wait_break", NULL, "tag", "waits for the suspension of a request", NULL, 1, 1, 0,
	 run_wait_break},
	{.name = NULL},
};
