/* SPDX-License-Identifier: MIT */
/*
 * What a copy writes: a raw file, a new qcow2 image, or one that is changed in place. Chunks of the
 * disk come in any order but for one step, place, which is called in guest order, one chunk at a
 * time.
 */
#ifndef JOB_TARGET_H
#define JOB_TARGET_H

#include "image/create.h"
#include "image/writer.h"
#include "job/move.h"
#include "job/source.h"

/* One chunk on its way; belongs to one thread. */
struct job_chunk {
	uint64_t guest_off;
	size_t len;	 /* of the disk; the last chunk may end inside a block */
	uint8_t *buf;	 /* a whole number of blocks; or JOB_MOVE_BUFFER, if they are moved */
	uint8_t *states; /* enum job_block of each block */
	size_t nblocks;
	uint8_t *packed;	      /* room for compressed blocks, or NULL */
	size_t *packed_len;	      /* of each block: 0: not compressed */
	struct image_origin *origins; /* of PACKED blocks */
	struct codec *codec;
	struct image_writes writes;
};

struct job_target;

struct job_target_ops {
	/*
	 * In guest order, one at a time; queues writes where it can, since all others wait for it.
	 * NULL: nothing has to be placed.
	 */
	int (*place)(struct job_target *t, struct job_chunk *c, struct qcow2_error *err);
	/* On any thread. NULL: place has done it all. */
	int (*write)(struct job_target *t, struct job_chunk *c, struct qcow2_error *err);
	/*
	 * guest_off .. guest_off + len is alike and not data, and no chunk of it will come. With
	 * place: in its turn, and never for more than a chunk has. NULL: nothing is to be done.
	 */
	int (*skip)(struct job_target *t, uint64_t guest_off, uint64_t len_bytes,
		    enum job_block kind, struct qcow2_error *err);
	/* All is written: makes it an image. */
	int (*finish)(struct job_target *t, uint64_t *host_bytes, struct qcow2_error *err);
	/* Closes; unless it was finished, what was made is removed or made unusable. */
	void (*close)(struct job_target *t);
};

struct job_target {
	const struct job_target_ops *ops;
	size_t block_size;
	bool write_all;		       /* zeros too, as if they were data */
	const struct job_mover *moves; /* its write moves the data by that; or NULL */
	bool skip_zero;		       /* long runs of that kind may be passed over */
	bool skip_absent;
	bool ignores_absent; /* place and skip do nothing for blocks of that kind */
	bool compressed;
	int compression; /* enum codec_type */
	bool passes;	 /* with compressed: blocks may come PACKED */
};

/*
 * Opens path as a target for what source holds. create: how to make it, checked and with its size.
 * A file that the source is read from is refused.
 */
int job_target_raw(struct job_target **target, const char *path, const struct job_source *source,
		   const struct qcow2_convert_options *options,
		   const struct qcow2_create_options *create, struct qcow2_error *err);
int job_target_qcow2(struct job_target **target, const char *path, const struct job_source *source,
		     const struct qcow2_convert_options *options,
		     const struct qcow2_create_options *create, struct qcow2_error *err);

/* What an existing qcow2 image is like (existing.c). */
struct job_existing {
	struct qcow2_create_options create; /* how it was made; its strings are below */
	char *backing_file, *backing_format, *data_file;
	/* it holds nothing, and so many bytes from its start on can be copied by making it anew */
	bool is_empty;
};

/*
 * Looks at the image at path, without changing it. -ENOSPC if its disk is smaller than the
 * size_bytes of the source.
 */
int job_existing_open(struct job_existing *e, const char *path, uint64_t size_bytes,
		      const struct qcow2_policy *policy, struct qcow2_error *err);
void job_existing_release(struct job_existing *e);
int job_existing_check_size(const struct qcow2_image *image, uint64_t size_bytes,
			    struct qcow2_error *err);

/* An existing image, changed in place. */
int job_target_inplace(struct job_target **target, const char *path,
		       const struct job_source *source, const struct qcow2_convert_options *options,
		       const struct job_existing *existing, const struct qcow2_policy *policy,
		       struct qcow2_error *err);

struct job_target_how {
	size_t block_size; /* any that divides a cluster; with compressed that of a cluster */
	bool compressed;
	bool asks_zero; /* what reads as zeros isn't made zero */
	/* what is read, if all data of it are to be written as they are; NULL: they are changed */
	const struct job_source *source;
};

/* An image that is open for writing, qcow2 or raw; it stays the caller's, who finishes it. */
int job_target_open_image(struct job_target **target, struct qcow2_image *image,
			  const struct job_target_how *how, struct qcow2_error *err);

/*
 * For what is done before and after the copy: may be cancelled, and counts for nothing. A target
 * sets done_bytes to total_bytes when all is copied.
 */
struct progress_work job_target_work(const struct qcow2_convert_options *options,
				     uint64_t size_bytes);

/* -EINVAL if the file that was opened at place is one that the source is read from. */
int job_target_differs(const struct image_place *place, const struct job_source *source,
		       struct qcow2_error *err);

/* Whether a target of that kind can be what the options want. */
int job_target_check_raw(const struct qcow2_convert_options *options,
			 const struct qcow2_create_options *create, struct qcow2_error *err);
int job_target_check_qcow2(const struct qcow2_convert_options *options,
			   const struct qcow2_create_options *create, struct qcow2_error *err);

/* -EINVAL if only the top layer is to be copied, but would miss what is below it. */
int job_target_goes_on_top(const struct qcow2_create_options *create,
			   const struct job_source *source, struct qcow2_error *err);

#endif
