/* SPDX-License-Identifier: MIT */
/*
 * The tables of an image that is only read, each read once and told in pieces: for who wants to
 * know what all of a disk is, and not where. The way through the map has a cache to fill, and goes
 * on until the offsets in the file don't.
 */
#ifndef JOB_TABLES_H
#define JOB_TABLES_H

#include "job/source.h"

struct job_tables {
	const struct meta *m; /* NULL: the source has to be mapped */
	uint64_t size_bytes;
	enum job_block absent; /* what isn't allocated is that */
	uint8_t *buf;	       /* owned */
	size_t buf_len;
};

/* Looks whether the source is one such image. It is mapped if there is no memory for it. */
void job_tables_init(struct job_tables *t, const struct job_source *source);
void job_tables_release(struct job_tables *t);

/*
 * Tells what the L2 table that begins at guest_off says, in order. Gives how many bytes of the disk
 * that was: 0 if the table doesn't begin there or can't be read, and less than all of it before an
 * entry that makes no sense: there the map has to be asked, which has words for it.
 */
uint64_t job_tables_tell(const struct job_tables *t, uint64_t guest_off,
			 void (*tell)(void *opaque, uint64_t guest_off, const struct job_piece *p),
			 void *opaque);

#endif
