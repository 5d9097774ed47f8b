/* SPDX-License-Identifier: MIT */
/*
 * Two disks that get a part of what they have from the same bytes of the same file: overlays of one
 * base, for example. What their maps tell needn't be read to know that it is equal.
 */
#ifndef JOB_TWIN_H
#define JOB_TWIN_H

#include "image/image.h"

/* Which files the layers of a chain have their data in. Immutable. */
struct job_files {
	struct job_file {
		bool is_known;
		uint64_t dev, ino;
		const void *self; /* of a store that is no file */
	} * layers;
	unsigned count;
	bool is_copied; /* what is read comes from the page cache: from files, none past it */
};

int job_files_init(struct job_files *f, const struct qcow2_image *image, struct qcow2_error *err);
void job_files_release(struct job_files *f);

/*
 * Whether two runs, found at the same place of two disks whose layers are a and b, are the same
 * bytes, as far as both reach. false: it isn't known.
 */
bool job_is_twin(const struct job_files *a, const struct data_run *x, const struct job_files *b,
		 const struct data_run *y);

#define JOB_COMPARE_STEP (256u * 1024)

/*
 * So many bytes of two disks should be read and compared at a time. Where reading is copying, both
 * then are in a core's own cache when they are compared, and what is read next goes there as well:
 * JOB_COMPARE_STEP. Elsewhere SIZE_MAX: the longer a request is, the better.
 */
size_t job_compare_step(const struct job_files *a, const struct job_files *b);

#endif
