/* SPDX-License-Identifier: MIT */
/* Data that get from one file to another without being looked at: see move.c. */
#ifndef JOB_MOVE_H
#define JOB_MOVE_H

#include "job/source.h"

#define JOB_MOVE_BUFFER (1024u * 1024) /* what a caller of job_mover_move has to have */

/* Immutable once it is made. */
struct job_mover {
	const struct job_source *source;
	struct qcow2_storage to;
	uint64_t clone_block; /* ranges are made of such blocks; 0: nothing is cloned */
	bool offload;	      /* what can't be cloned is copied inside the kernel where it can */
	bool reads_zero;      /* the target, before anything is moved there */
};

/* What the mover is to know of the target, before anything of that is changed. */
struct job_moving {
	struct qcow2_storage to; /* the file that gets the disk's data */
	size_t block_size;	 /* places are at multiples of it; 0: of whatever the files need */
	bool reads_zero;
	unsigned prealloc; /* QCOW2_PREALLOC_*: space of its own isn't shared */
};

/*
 * Settles what is moved and how, by the flags of options and by what the files can: *moves says
 * whether anything is. -ENOTSUP: it was asked for, and can't be.
 */
int job_mover_init(struct job_mover *m, bool *moves, const struct job_source *source,
		   const struct qcow2_convert_options *options, const struct job_moving *target,
		   struct qcow2_error *err);

/*
 * Puts what the source has at guest_off, which lies inside of it, to host_off of the target. buf:
 * JOB_MOVE_BUFFER bytes of the caller's, used where there is no other way. On any thread.
 */
int job_mover_move(const struct job_mover *m, uint64_t guest_off, uint64_t len_bytes,
		   uint64_t host_off, uint8_t *buf, struct qcow2_error *err);

#endif
