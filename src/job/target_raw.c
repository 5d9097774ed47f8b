/* SPDX-License-Identifier: MIT */
/*
 * A raw target: every chunk goes to its own place, in any order. Where the file is known to read
 * as zeros, zeros aren't written.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/num.h"
#include "job/target.h"

#define RAW_BLOCK 4096 /* zeros of this size, and at this alignment, stay out of the file */

struct raw_target {
	struct job_target target;
	struct job_mover mover;
	struct image_place place;
	bool finished;
	bool keep; /* an existing file, written in place: stays as it is on failure */
	uint64_t size_bytes;
	unsigned prealloc;
	bool is_zero;		   /* what isn't written reads as zeros */
	bool resize;		   /* a regular file of our own: gets its size at the end */
	struct progress_work work; /* of preallocation, which the copy's progress doesn't know */
};

static struct raw_target *raw_of(struct job_target *t)
{
	return (struct raw_target *)t;
}

static int write_zeros(struct raw_target *t, uint64_t off, uint64_t len, struct qcow2_error *err)
{
	if (t->is_zero)
		return 0;
	return storage_zero(t->place.st, off, len, QCOW2_STORAGE_MAY_UNMAP, err);
}

static int raw_write(struct job_target *target, struct job_chunk *c, struct qcow2_error *err)
{
	struct raw_target *t = raw_of(target);
	size_t first = 0;
	size_t end;
	int ret = 0;

	for (; ret == 0 && first < c->nblocks; first = end) {
		size_t at = first * target->block_size;
		size_t len;

		for (end = first + 1; end < c->nblocks && c->states[end] == c->states[first];)
			end++;
		len = (size_t)min_u64(end * target->block_size, c->len) - at;
		if (c->states[first] == JOB_BLOCK_DATA && target->moves)
			ret = job_mover_move(target->moves, c->guest_off + at, len,
					     c->guest_off + at, c->buf, err);
		else if (c->states[first] == JOB_BLOCK_DATA)
			ret = storage_write(t->place.st, c->buf + at, len, c->guest_off + at, err);
		else
			ret = write_zeros(t, c->guest_off + at, len, err);
	}
	return ret;
}

static int raw_skip(struct job_target *target, uint64_t guest_off, uint64_t len_bytes,
		    enum job_block kind, struct qcow2_error *err)
{
	(void)kind;
	return write_zeros(raw_of(target), guest_off, len_bytes, err);
}

static int raw_finish(struct job_target *target, uint64_t *host_bytes, struct qcow2_error *err)
{
	struct raw_target *t = raw_of(target);
	int ret = 0;

	t->work.done_bytes = t->work.total_bytes;
	/* the full size comes last: a file that was cut off by a crash shows it */
	if (t->resize)
		ret = storage_truncate(t->place.st, t->size_bytes, err);
	if (ret == 0 && t->prealloc == QCOW2_PREALLOC_FALLOC && t->size_bytes)
		ret = image_allocate(t->place.st, 0, t->size_bytes, &t->work, err);
	if (ret == 0)
		ret = storage_flush(t->place.st, err);
	*host_bytes = t->size_bytes;
	if (ret == 0 && t->keep) /* it may be longer */
		ret = storage_size(t->place.st, host_bytes, err);
	t->finished = ret == 0;
	return ret;
}

static void raw_close(struct job_target *target)
{
	struct raw_target *t = raw_of(target);

	if (t->finished || t->keep)
		image_place_close(&t->place);
	else
		image_place_abandon(&t->place);
	mem_free(t);
}

static const struct job_target_ops raw_ops = {
	.write = raw_write,
	.skip = raw_skip,
	.finish = raw_finish,
	.close = raw_close,
};

static int check_room(const struct raw_target *t, struct qcow2_error *err)
{
	uint64_t size;
	int ret = storage_size(t->place.st, &size, err);

	if (ret == 0 && size < t->size_bytes)
		return error_set(err, -ENOSPC,
				 "\"%s\" has %" PRIu64 " bytes, too few for a disk of "
				 "%" PRIu64,
				 t->place.path, size, t->size_bytes);
	return ret;
}

int job_target_check_raw(const struct qcow2_convert_options *options,
			 const struct qcow2_create_options *create, struct qcow2_error *err)
{
	if (options->flags & QCOW2_CONVERT_COMPRESS)
		return error_set(err, -ENOTSUP, "raw images can't be compressed");
	if (create->backing_file)
		return error_set(err, -ENOTSUP, "raw images can't have a backing file");
	if (create->prealloc == QCOW2_PREALLOC_METADATA)
		return error_set(err, -EINVAL, "raw images have no metadata to preallocate");
	return 0;
}

static int open_existing(struct raw_target *t, const char *path, unsigned flags,
			 struct qcow2_error *err)
{
	int ret;

	t->place.path = path;
	ret = storage_file_open(&t->place.st, path, flags | STORAGE_FILE_WRITE, err);
	if (ret == 0)
		ret = storage_lock(t->place.st, QCOW2_LOCK_READ | QCOW2_LOCK_WRITE, 0, err);
	if (ret < 0)
		storage_close(&t->place.st);
	return ret;
}

/* What is shared with the source is so in blocks of the file system. */
static int settle_moves(struct raw_target *t, const struct job_source *source,
			const struct qcow2_convert_options *options, struct qcow2_error *err)
{
	const struct job_moving moving = {
		.to = t->place.st,
		.reads_zero = t->is_zero,
		.prealloc = t->prealloc,
	};
	bool moves;
	int ret = job_mover_init(&t->mover, &moves, source, options, &moving, err);

	if (ret < 0)
		return ret;
	t->target.moves = moves ? &t->mover : NULL;
	t->target.block_size = (size_t)max_u64(RAW_BLOCK, t->mover.clone_block);
	return 0;
}

static int open_place(struct raw_target *t, const char *path, const struct job_source *source,
		      const struct qcow2_convert_options *options,
		      const struct qcow2_create_options *create, struct qcow2_error *err)
{
	unsigned flags = image_storage_flags(options->target_open_flags);
	int ret;

	if (t->keep)
		ret = open_existing(t, path, flags, err);
	else
		ret = image_place_open(&t->place, path, create->flags & QCOW2_CREATE_OVERWRITE,
				       flags, err);
	if (ret < 0)
		return ret;
	ret = job_target_differs(&t->place, source, err);
	if (source->spares_cache)
		storage_spare_cache(t->place.st, true);
	t->resize = !t->keep && !t->place.is_device;
	t->is_zero = t->resize || (options->flags & QCOW2_CONVERT_TARGET_IS_ZERO);
	if (ret == 0 && !t->resize)
		ret = check_room(t, err);
	if (ret == 0)
		ret = settle_moves(t, source, options, err);
	/* last, when there is nothing left to refuse */
	if (ret == 0 && !t->keep)
		ret = image_place_clear(&t->place, 0, err);
	if (ret == 0 && !t->keep)
		t->prealloc = image_place_settle_prealloc(&t->place, t->prealloc, t->size_bytes);
	return ret;
}

int job_target_raw(struct job_target **target, const char *path, const struct job_source *source,
		   const struct qcow2_convert_options *options,
		   const struct qcow2_create_options *create, struct qcow2_error *err)
{
	struct raw_target *t;
	int ret;

	ret = job_target_check_raw(options, create, err);
	if (ret == 0)
		ret = job_target_goes_on_top(create, source, err);
	if (ret < 0)
		return ret;
	t = mem_zalloc(1, sizeof(*t));
	if (!t)
		return error_errno(err, -ENOMEM, "can't write \"%s\"", path);
	t->target.ops = &raw_ops;
	t->size_bytes = source->size_bytes;
	t->prealloc = create->prealloc;
	t->work = job_target_work(options, t->size_bytes);
	t->keep = options->flags & QCOW2_CONVERT_EXISTING;
	ret = open_place(t, path, source, options, create, err);
	if (ret < 0) {
		raw_close(&t->target);
		return ret;
	}
	t->target.write_all = options->sparse_bytes == 0 || t->prealloc == QCOW2_PREALLOC_FULL;
	t->target.skip_zero = !t->target.write_all;
	if (t->target.write_all) /* where space couldn't be had otherwise */
		t->target.moves = NULL;
	*target = &t->target;
	return 0;
}
