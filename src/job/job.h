/* SPDX-License-Identifier: MIT */
/* What long operations share. */
#ifndef JOB_JOB_H
#define JOB_JOB_H

#include "qcow2.h"

/* Flags of a conversion that aren't known, or don't go together. */
int job_convert_check(const struct qcow2_convert_options *o, struct qcow2_error *err);

/* ---- the page cache (cache.c) ---- */

/* Would the page cache hold hardly anything else after all of these images was read once? */
bool job_fills_cache(struct qcow2_image *const *images, size_t nimages);
/* For all layers of the images; true is to be followed by false, when the job is done. */
void job_spare_cache(struct qcow2_image *const *images, size_t nimages, bool spare);

/* ---- bitmaps of a conversion (bitmaps.c) ---- */

/* Before anything is written: whether they can be copied, and warnings for those that won't be. */
int job_bitmaps_check(struct qcow2_image *const *sources, size_t nsources, const char *path,
		      const struct qcow2_convert_options *o, struct qcow2_error *err);
/* Afterwards, into the target, which is complete and closed. */
int job_bitmaps_copy(struct qcow2_image *source, const char *path,
		     const struct qcow2_convert_options *o, struct qcow2_error *err);

#endif
