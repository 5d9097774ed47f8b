/* SPDX-License-Identifier: MIT */
/* What long operations share. */
#ifndef JOB_JOB_H
#define JOB_JOB_H

#include "qcow2.h"

/* When progress was last told; belongs to the thread that called the job. */
struct job_ticker {
	uint64_t ticked_nsec;
};

uint64_t job_now_nsec(void);

/*
 * Tells the caller how far the job is, a few times a second at most, and always when last. Nonzero
 * when the caller wants the job to stop.
 */
int job_tick(struct job_ticker *t, const struct qcow2_progress *progress, uint64_t done_bytes,
	     uint64_t total_bytes, bool last);

/* Flags of a conversion that aren't known, or don't go together. */
int job_convert_check(const struct qcow2_convert_options *o, struct qcow2_error *err);

/* ---- bitmaps of a conversion (bitmaps.c) ---- */

/* Before anything is written: whether they can be copied, and warnings for those that won't be. */
int job_bitmaps_check(struct qcow2_image *const *sources, size_t nsources, const char *path,
		      const struct qcow2_convert_options *o, struct qcow2_error *err);
/* Afterwards, into the target, which is complete and closed. */
int job_bitmaps_copy(struct qcow2_image *source, const char *path,
		     const struct qcow2_convert_options *o, struct qcow2_error *err);

/* ---- ---- */

/* true when the next job_tick would tell. */
bool job_tick_due(const struct job_ticker *t);

#endif
