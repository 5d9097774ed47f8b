/* SPDX-License-Identifier: MIT */
/*
 * aio_read, aio_write, aio_flush: requests that run in the pool beside each other. These commands
 * count as done once the request is on its way, whatever becomes of it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/diag.h"
#include "io/cmd_args.h"
#include "io/io.h"
#include "io/pool.h"
#include "io/text.h"

static struct io_request *new_request(struct io *io, const char *name, bool write)
{
	struct io_request *r = malloc(sizeof(*r));

	if (!io->pool)
		io->pool = io_pool_new();
	if (!r || !io->pool) {
		cli_error("out of memory");
		free(r);
		return NULL;
	}
	io_request_init(r, io, name, write);
	return r;
}

/* Sends it on its way if rc is 0, else gives it up. */
static int submit(struct io_request *r, int rc)
{
	if (rc == 0) {
		io_pool_submit(r->io->pool, r);
		return 0;
	}
	io_request_release(r);
	free(r);
	return rc < 0 ? rc : 0;
}

/* -i: a request that QEMU only counts as failed. There are no statistics here to see it in. */
static int inject(const char *what)
{
	printf("injecting invalid %s request\n", what);
	return 1;
}

static int run_aio_read(struct io *io, const struct io_command *self, int nwords, char **words)
{
	struct io_request *r = new_request(io, "readv", false);
	bool invalid = false;
	int c, rc = 0;

	if (!r)
		return -ENOMEM;
	io_getopt_begin();
	while (rc == 0 && !invalid && (c = getopt(nwords, words, "CiP:qv")) != -1) {
		if (c == 'i')
			invalid = true;
		else if (!io_common_option(r, c, &rc))
			rc = io_misused(self);
	}
	if (rc == 0 && invalid)
		rc = inject("read");
	if (rc == 0)
		rc = io_parse_vector(self, r, nwords - optind, words + optind);
	return submit(r, rc);
}

struct write_args {
	bool invalid, unmap;
};

static int aio_write_options(const struct io_command *self, int nwords, char **words,
			     struct io_request *r, struct write_args *args)
{
	int c, rc = 0;

	io_getopt_begin();
	while (rc == 0 && !args->invalid && (c = getopt(nwords, words, "CfiP:quz")) != -1) {
		if (c == 'f')
			r->flags |= QCOW2_WRITE_FUA;
		else if (c == 'i')
			args->invalid = true;
		else if (c == 'u')
			args->unmap = true;
		else if (c == 'z')
			r->zero = true;
		else if (!io_common_option(r, c, &rc))
			rc = io_misused(self);
	}
	return rc;
}

static int aio_write_zeroes(struct io_request *r, bool unmap, int nwords, char **words)
{
	if (nwords != 2) {
		puts("-z supports only a single length parameter");
		return -EINVAL;
	}
	r->flags |= unmap ? QCOW2_WRITE_MAY_UNMAP : 0;
	return io_parse_range(r, words, IO_NO_LIMIT);
}

static int run_aio_write(struct io *io, const struct io_command *self, int nwords, char **words)
{
	struct io_request *r = new_request(io, "aio_write", true);
	struct write_args args = {0};
	int rc;

	if (!r)
		return -ENOMEM;
	rc = aio_write_options(self, nwords, words, r, &args);
	if (rc == 0 && args.invalid)
		rc = inject("write");
	else if (rc == 0 && optind > nwords - 2)
		rc = io_misused(self);
	else if (rc == 0 && args.unmap && !r->zero) {
		puts("-u requires -z to be specified");
		rc = -EINVAL;
	}
	if (rc == 0 && r->zero)
		rc = aio_write_zeroes(r, args.unmap, nwords - optind, words + optind);
	else if (rc == 0)
		rc = io_parse_vector(self, r, nwords - optind, words + optind);
	return submit(r, rc);
}

static int run_aio_flush(struct io *io, const struct io_command *self, int nwords, char **words)
{
	(void)self;
	(void)nwords;
	(void)words;
	io_pool_drain(io->pool);
	return 0;
}

const struct io_command io_aio_commands[] = {
	{"aio_flush", NULL, NULL, "completes all outstanding aio requests", NULL, 0, 0, 0,
	 run_aio_flush},
	{"aio_read", NULL, "[-Ciqv] [-P pattern] off len [len..]",
	 "asynchronously reads a number of bytes",
	 " Goes on at once, and reports when the request is done: at aio_flush at the latest.\n"
	 " -i           no request at all\n"
	 " -C, -P, -q, -v as for read\n",
	 2, IO_MANY, 0, run_aio_read},
	{"aio_write", NULL, "[-Cfiquz] [-P pattern] off len [len..]",
	 "asynchronously writes a number of bytes",
	 " Goes on at once, and reports when the request is done: at aio_flush at the latest.\n"
	 " -i           no request at all\n"
	 " -C, -f, -P, -q, -u, -z as for write\n",
	 2, IO_MANY, IO_CHANGES, run_aio_write},
	{.name = NULL},
};
