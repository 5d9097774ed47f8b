/* SPDX-License-Identifier: MIT */
/*
 * What a copy reads: one or several disks, one after the other, as a single one, looked at through
 * blocks of a fixed size: each is absent, zero or data.
 */
#ifndef JOB_SOURCE_H
#define JOB_SOURCE_H

#include "image/image.h"

struct job_source {
	/* immutable */
	struct qcow2_image *const *images;
	uint64_t *starts; /* of each image in the whole, and the end: nimages + 1 */
	size_t nimages;
	uint64_t size_bytes;
	bool top_only; /* what the first layer leaves to a backing file is ABSENT */
	bool salvage;
};

enum job_block {
	JOB_BLOCK_ABSENT, /* only with top_only */
	JOB_BLOCK_ZERO,
	JOB_BLOCK_DATA,
};

/* -EINVAL if one of them is open for information only. */
int job_source_init(struct job_source *s, struct qcow2_image *const *images, size_t nimages,
		    struct qcow2_error *err);
void job_source_release(struct job_source *s);

/* -EINVAL if the file at path, which was opened as store, is one that the source is read from. */
int job_source_differs(struct qcow2_storage store, const char *path,
		       const struct job_source *source, struct qcow2_error *err);

/* A range that couldn't be read, with salvage. */
typedef void (*job_unreadable_fn)(void *opaque, uint64_t guest_off, uint64_t len_bytes,
				  const char *why);

/*
 * Looks at [guest_off, guest_off + len) in blocks of block_size (a power of two that divides
 * guest_off): fills states[], and buf wherever a block is DATA (with zeros past the end of the
 * source). Neither holes nor zeros are read. *quiet is how far from guest_off on all is alike and
 * not data, 0 if there is data: it may reach far behind the range.
 */
int job_source_read(const struct job_source *s, uint64_t guest_off, size_t len, size_t block_size,
		    uint8_t *buf, uint8_t *states, uint64_t *quiet, job_unreadable_fn unreadable,
		    void *opaque, struct qcow2_error *err);

#endif
