/* SPDX-License-Identifier: MIT */
/* What long operations share. */
#ifndef JOB_JOB_H
#define JOB_JOB_H

#include "qcow2.h"

/* Flags of a conversion that aren't known, or don't go together. */
int job_convert_check(const struct qcow2_convert_options *o, struct qcow2_error *err);

/* ---- the page cache (cache.c) ---- */

/*
 * All of these images, with their layers, will be read once. true: that would leave hardly anything
 * else in the page cache, so it is spared from now on, until job_spare_cache_end. An image may be
 * NULL.
 */
bool job_spare_cache(struct qcow2_image *const *images, size_t nimages);
void job_spare_cache_end(struct qcow2_image *const *images, size_t nimages);
/* The same whatever its size, and until it is closed. */
void job_spare_cache_of(struct qcow2_image *image);

/* ---- bitmaps of a conversion (bitmaps.c) ---- */

/* Before anything is written: whether they can be copied, and warnings for those that won't be. */
int job_bitmaps_check(struct qcow2_image *const *sources, size_t nsources, const char *path,
		      const struct qcow2_convert_options *o, struct qcow2_error *err);
/* Afterwards, into the target, which is complete and closed. */
int job_bitmaps_copy(struct qcow2_image *source, const char *path,
		     const struct qcow2_convert_options *o, struct qcow2_error *err);

#endif
