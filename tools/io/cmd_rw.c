/* SPDX-License-Identifier: MIT */
/*
 * read, write, readv, writev: requests that are waited for. In what order an argument's faults are
 * told is qemu-io's.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/cmd_args.h"
#include "io/io.h"
#include "io/pool.h"
#include "io/request.h"
#include "io/text.h"

#define SECTOR 512

static int check_sectors(const struct io_request *r)
{
	if (r->guest_off % SECTOR) {
		printf("%" PRIu64 " is not a sector-aligned value for 'offset'\n", r->guest_off);
		return -EINVAL;
	}
	if (r->len_bytes % SECTOR) {
		printf("%" PRIu64 " is not a sector-aligned value for 'count'\n", r->len_bytes);
		return -EINVAL;
	}
	return 0;
}

/* Does it, and tells the requests that got done before it. */
static int perform(struct io_request *r)
{
	io_request_perform(r);
	io_pool_deliver(r->io->pool);
	return io_request_tell(r);
}

/* ---- read ---- */

struct read_args {
	bool has_from, has_len;
	uint64_t from, len;
};

/* 0, or negative after telling. */
static int read_options(const struct io_command *self, int nwords, char **words,
			struct io_request *r, struct read_args *args)
{
	int c, rc = 0;

	io_getopt_begin();
	while (rc == 0 && (c = getopt(nwords, words, "bCl:pP:qs:v")) != -1) {
		if (c == 'b') {
			r->vm_state = true;
		} else if (c == 'l') {
			args->has_len = true;
			rc = io_parse_number(optarg, &args->len);
		} else if (c == 's') {
			args->has_from = true;
			rc = io_parse_number(optarg, &args->from);
		} else if (!io_common_option(r, c, &rc)) {
			rc = io_misused(self);
		}
	}
	if (rc == 0 && optind != nwords - 2)
		rc = io_misused(self);
	return rc;
}

static int read_range(const struct io_command *self, struct io_request *r,
		      const struct read_args *args)
{
	if (!r->check && (args->has_len || args->has_from))
		return io_misused(self);
	if (!r->check)
		return 0;
	r->check_off = args->from;
	r->check_len = args->has_len ? args->len : r->len_bytes - args->from;
	if (args->from > r->len_bytes || r->check_len > r->len_bytes - args->from) {
		printf("pattern verification range exceeds end of read data\n");
		return -EINVAL;
	}
	return 0;
}

static int run_read(struct io *io, const struct io_command *self, int nwords, char **words)
{
	struct read_args args = {0};
	struct io_request r;
	int rc;

	io_request_init(&r, io, "read", false);
	rc = read_options(self, nwords, words, &r, &args);
	if (rc == 0)
		rc = io_parse_range(&r, words + optind, IO_LIMIT);
	if (rc == 0)
		rc = read_range(self, &r, &args);
	if (rc == 0 && r.vm_state)
		rc = check_sectors(&r);
	if (rc == 0)
		rc = io_request_buffer(&r);
	if (rc == 0)
		rc = perform(&r);
	io_request_release(&r);
	return rc;
}

static int run_readv(struct io *io, const struct io_command *self, int nwords, char **words)
{
	struct io_request r;
	int c, rc = 0;

	io_request_init(&r, io, "readv", false);
	io_getopt_begin();
	while (rc == 0 && (c = getopt(nwords, words, "CP:qv")) != -1)
		if (!io_common_option(&r, c, &rc))
			rc = io_misused(self);
	if (rc == 0)
		rc = io_parse_vector(self, &r, nwords - optind, words + optind);
	if (rc == 0)
		rc = perform(&r);
	io_request_release(&r);
	return rc;
}

/* ---- write ---- */

struct write_args {
	bool compressed, fua, no_fallback, unmap, pattern;
	const char *source;
};

static int write_options(const struct io_command *self, int nwords, char **words,
			 struct io_request *r, struct write_args *args)
{
	int c, rc = 0;

	io_getopt_begin();
	while (rc == 0 && (c = getopt(nwords, words, "bcCfnpP:qs:uz")) != -1) {
		if (c == 'b')
			r->vm_state = true;
		else if (c == 'c')
			args->compressed = true;
		else if (c == 'f')
			args->fua = true;
		else if (c == 'n')
			args->no_fallback = true;
		else if (c == 's')
			args->source = optarg;
		else if (c == 'u')
			args->unmap = true;
		else if (c == 'z')
			r->zero = true;
		else if (!io_common_option(r, c, &rc))
			rc = io_misused(self);
		args->pattern |= c == 'P';
	}
	if (rc == 0 && optind != nwords - 2)
		rc = io_misused(self);
	return rc;
}

/* Whether the options go together. */
static int write_options_fit(struct io_request *r, const struct write_args *args)
{
	const char *wrong = NULL;

	if (r->vm_state && r->zero)
		wrong = "-b and -z cannot be specified at the same time";
	else if (args->fua && (r->vm_state || args->compressed))
		wrong = "-f and -b or -c cannot be specified at the same time";
	else if (args->no_fallback && !r->zero)
		wrong = "-n requires -z to be specified";
	else if (args->unmap && !r->zero)
		wrong = "-u requires -z to be specified";
	else if (r->zero + args->pattern + (args->source != NULL) > 1)
		wrong = "Only one of -z, -P, and -s can be specified at the same time";
	if (wrong) {
		puts(wrong);
		return -EINVAL;
	}
	r->flags = (args->fua ? QCOW2_WRITE_FUA : 0) |
		   (args->compressed && !r->zero ? QCOW2_WRITE_COMPRESSED : 0) |
		   (args->unmap ? QCOW2_WRITE_MAY_UNMAP : 0) |
		   (args->no_fallback ? QCOW2_WRITE_NO_FALLBACK : 0);
	return 0;
}

static int run_write(struct io *io, const struct io_command *self, int nwords, char **words)
{
	struct write_args args = {0};
	struct io_request r;
	int rc;

	io_request_init(&r, io, "write", true);
	rc = write_options(self, nwords, words, &r, &args);
	if (rc == 0)
		rc = write_options_fit(&r, &args);
	if (rc == 0)
		rc = io_parse_range(&r, words + optind,
				    args.no_fallback ? IO_NO_LIMIT : IO_LIMIT_BUT_N);
	if (rc == 0 && (r.vm_state || args.compressed))
		rc = check_sectors(&r);
	if (rc == 0 && !r.zero)
		rc = io_request_buffer(&r);
	if (rc == 0 && args.source)
		rc = io_request_fill_from(&r, args.source);
	if (rc == 0)
		rc = perform(&r);
	io_request_release(&r);
	return rc;
}

static int run_writev(struct io *io, const struct io_command *self, int nwords, char **words)
{
	struct io_request r;
	int c, rc = 0;

	io_request_init(&r, io, "writev", true);
	io_getopt_begin();
	while (rc == 0 && (c = getopt(nwords, words, "CfP:q")) != -1) {
		if (c == 'f')
			r.flags |= QCOW2_WRITE_FUA;
		else if (!io_common_option(&r, c, &rc))
			rc = io_misused(self);
	}
	if (rc == 0)
		rc = io_parse_vector(self, &r, nwords - optind, words + optind);
	if (rc == 0)
		rc = perform(&r);
	io_request_release(&r);
	return rc;
}

const struct io_command io_rw_commands[] = {
	{"read", "r", "[-abCqv] [-P pattern [-s off] [-l len]] off len",
	 "reads a number of bytes at a specified offset",
	 " -P pattern   check that all bytes are this one (0 to 255)\n"
	 " -s off       check from this byte of what was read on\n"
	 " -l len       check so many bytes only\n"
	 " -v           print what was read\n"
	 " -C           figures for machines: bytes,ops,time,bytes/sec,ops/sec\n"
	 " -q           no report\n"
	 " -b           of the VM state instead of the disk\n"
	 " -p           no effect\n",
	 2, IO_MANY, 0, run_read},
	{"readv", NULL, "[-Cqv] [-P pattern] off len [len..]",
	 "reads a number of bytes at a specified offset",
	 " Reads into a buffer for each length.\n"
	 " -C, -P, -q, -v as for read\n",
	 2, IO_MANY, 0, run_readv},
	{"write", "w", "[-bcCfnquz] [-P pattern | -s source_file] off len",
	 "writes a number of bytes at a specified offset",
	 " -P pattern   the byte to write (default: 0xcd)\n"
	 " -s file      write the bytes of a file, again and again if it is shorter\n"
	 " -z           write zeros, without storing them where the format can say so\n"
	 " -u           with -z: clusters may be freed\n"
	 " -n           with -z: fail rather than store zeros\n"
	 " -c           write compressed clusters\n"
	 " -f           durable when it is done\n"
	 " -C, -q, -b, -p as for read\n",
	 2, IO_MANY, IO_CHANGES, run_write},
	{"writev", NULL, "[-Cfq] [-P pattern] off len [len..]",
	 "writes a number of bytes at a specified offset",
	 " Writes from a buffer for each length.\n"
	 " -C, -f, -P, -q as for write\n",
	 2, IO_MANY, IO_CHANGES, run_writev},
	{.name = NULL},
};
