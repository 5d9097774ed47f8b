/* SPDX-License-Identifier: MIT */
/* map, alloc: which parts of the disk the image itself holds, whatever is below it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "cli/diag.h"
#include "io/io.h"
#include "io/pool.h"
#include "io/text.h"

#define SECTOR 512

struct run {
	bool allocated;
	uint64_t guest_off, len_bytes;
};

/* The longest run from guest_off to end that is allocated, or isn't. Says what went wrong. */
static int next_run(struct io *io, uint64_t guest_off, uint64_t end, struct run *run)
{
	struct qcow2_extent extent;
	struct qcow2_error err = {0};
	int rc;

	run->guest_off = guest_off;
	run->len_bytes = 0;
	while (guest_off < end) {
		bool allocated;

		rc = qcow2_map(io->image, guest_off, end - guest_off, &extent, &err);
		if (rc < 0) {
			io_say(err.message);
			return rc;
		}
		allocated = extent.depth == 0 && extent.flags & QCOW2_EXTENT_PRESENT;
		if (run->len_bytes && allocated != run->allocated)
			break;
		run->allocated = allocated;
		run->len_bytes += extent.len_bytes;
		guest_off += extent.len_bytes;
	}
	return 0;
}

static int run_map(struct io *io, const struct io_command *self, int nwords, char **words)
{
	uint64_t end = qcow2_size(io->image), at = 0;
	char len[IO_SIZE_TEXT], off[IO_SIZE_TEXT];
	struct run run = {0};

	(void)self;
	(void)nwords;
	(void)words;
	while (at < end) {
		int rc = next_run(io, at, end, &run);

		if (rc < 0)
			return rc;
		printf("%s (0x%" PRIx64 ") bytes %s allocated at offset %s (0x%" PRIx64 ")\n",
		       io_size_text(len, (double)run.len_bytes), run.len_bytes,
		       run.allocated ? "   " : "not", io_size_text(off, (double)at), at);
		at += run.len_bytes;
	}
	return 0;
}

static int run_alloc(struct io *io, const struct io_command *self, int nwords, char **words)
{
	uint64_t size = qcow2_size(io->image), start, len = SECTOR, at, sum = 0;
	char off[IO_SIZE_TEXT];
	struct run run = {0};

	(void)self;
	if (io_parse_number(words[1], &start) < 0 ||
	    (nwords > 2 && io_parse_number(words[2], &len) < 0))
		return -EINVAL;
	if (start >= size)
		len = 0;
	else if (len > size - start)
		len = size - start;
	for (at = start; at < start + len; at += run.len_bytes) {
		int rc = next_run(io, at, start + len, &run);

		if (rc < 0)
			return rc;
		sum += run.allocated ? run.len_bytes : 0;
	}
	printf("%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", sum, len,
	       io_size_text(off, (double)start));
	return 0;
}

const struct io_command io_map_commands[] = {
	{"alloc", NULL, "offset [count]", "checks if offset is allocated in the file", NULL, 1, 2,
	 0, run_alloc},
	{"map", NULL, "", "prints the allocated areas of a file", NULL, 0, 0, 0, run_map},
	{.name = NULL},
};
