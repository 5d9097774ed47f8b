/* SPDX-License-Identifier: MIT */
/* Telling the caller how far something is, at a bearable rate, and hearing whether to go on. */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include "base/error.h"

uint64_t progress_now_nsec(void);

/* When it was last told; belongs to the thread that called. Zeros: it is due at once. */
struct progress_ticker {
	uint64_t ticked_nsec;
};

/* true when the next progress_tell would tell. */
bool progress_due(const struct progress_ticker *t);

/*
 * Tells how far it is, a few times a second at most, and always when last. Nonzero when the caller
 * wants it to stop. to may be NULL.
 */
int progress_tell(struct progress_ticker *t, const struct qcow2_progress *to, uint64_t done_bytes,
		  uint64_t total_bytes, bool last);

/* Something that is done step by step; whoever does it is lent one, or NULL. */
struct progress_work {
	const struct qcow2_progress *to; /* borrowed */
	struct progress_ticker ticker;
	uint64_t done_bytes, total_bytes;
	bool still; /* a part of something that isn't measured by it: done_bytes stays */
};

/* So many bytes are done. -ECANCELED if the caller wants it to stop. */
int progress_step(struct progress_work *w, uint64_t len_bytes, struct qcow2_error *err);

/* All of it is done. */
void progress_end(struct progress_work *w);

#endif
