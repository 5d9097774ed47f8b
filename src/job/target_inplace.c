/* SPDX-License-Identifier: MIT */
/*
 * A target that exists and holds something: an image that is open for writing, changed in place.
 * What the source doesn't cover, snapshots, the backing file, stay as they are.
 *
 * Everything that changes the image is done in guest order, by whoever has the turn: which
 * clusters are handed out, when a commit comes, and which freed clusters it lets be used again
 * follow from the order of the requests alone. So the threads read and compress side by side, and
 * the file has the same bytes for any number of them. Runs of zeros are written window by window
 * too, however long they are: where one is cut would show in when commits come.
 *
 * The image is sound at any moment; who stops early leaves one that is partly overwritten.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/num.h"
#include "job/job.h"
#include "job/target.h"

struct inplace_target {
	struct job_target target;
	struct job_mover mover; /* into a raw disk */
	struct qcow2_image *image;
	bool is_borrowed;
	bool is_zero;	/* zeros don't have to be written */
	bool asks_zero; /* nor where the image reads as zeros already */
};

static struct inplace_target *inplace_of(struct job_target *t)
{
	return (struct inplace_target *)t;
}

/* Only what doesn't read as zeros. */
static int write_missing_zeros(struct inplace_target *t, uint64_t guest_off, uint64_t len_bytes,
			       struct qcow2_error *err)
{
	struct qcow2_extent e;
	int ret = 0;

	for (; ret == 0 && len_bytes > 0; guest_off += e.len_bytes, len_bytes -= e.len_bytes) {
		ret = qcow2_map(t->image, guest_off, len_bytes, &e, err);
		if (ret == 0 && !(e.flags & QCOW2_EXTENT_ZERO))
			ret = qcow2_write_zeroes(t->image, guest_off, e.len_bytes,
						 QCOW2_WRITE_MAY_UNMAP, err);
	}
	return ret;
}

static int write_zeros(struct inplace_target *t, uint64_t guest_off, uint64_t len_bytes,
		       struct qcow2_error *err)
{
	if (t->is_zero)
		return 0;
	if (t->asks_zero)
		return write_missing_zeros(t, guest_off, len_bytes, err);
	return qcow2_write_zeroes(t->image, guest_off, len_bytes, QCOW2_WRITE_MAY_UNMAP, err);
}

/* What was compressed, and is a cluster of the target from its start to its end. */
static bool is_packed(const struct inplace_target *t, const struct job_chunk *c, size_t i)
{
	const size_t bs = t->target.block_size;

	return c->states[i] == JOB_BLOCK_DATA && c->packed && c->packed_len[i] &&
	       (c->len - i * bs >= bs || c->guest_off + c->len == qcow2_size(t->image));
}

/* The end of the run that begins with block first: blocks that go to the image by one request. */
static size_t run_end(const struct inplace_target *t, const struct job_chunk *c, size_t first)
{
	size_t end = first + 1;

	if (is_packed(t, c, first))
		return end;
	while (end < c->nblocks && c->states[end] == c->states[first] && !is_packed(t, c, end))
		end++;
	return end;
}

static int put_run(struct inplace_target *t, const struct job_chunk *c, size_t first, size_t end,
		   struct qcow2_error *err)
{
	const size_t bs = t->target.block_size;
	size_t at = first * bs;
	size_t len = (size_t)min_u64(end * bs, c->len) - at;

	switch ((enum job_block)c->states[first]) {
	case JOB_BLOCK_ABSENT:
		return 0;
	case JOB_BLOCK_ZERO:
		return write_zeros(t, c->guest_off + at, len, err);
	case JOB_BLOCK_PACKED: /* nobody asks for them */
	case JOB_BLOCK_DATA:
		break;
	}
	if (t->target.moves)
		return job_mover_move(t->target.moves, c->guest_off + at, len, c->guest_off + at,
				      c->buf, err);
	if (is_packed(t, c, first))
		return image_write_packed(t->image, c->guest_off + at, c->packed + at,
					  c->packed_len[first], err);
	return qcow2_pwrite(t->image, c->buf + at, len, c->guest_off + at, 0, err);
}

static int inplace_place(struct job_target *target, struct job_chunk *c, struct qcow2_error *err)
{
	struct inplace_target *t = inplace_of(target);
	size_t first = 0, end;
	int ret = 0;

	for (; ret == 0 && first < c->nblocks; first = end) {
		end = run_end(t, c, first);
		ret = put_run(t, c, first, end, err);
	}
	return ret;
}

static int inplace_skip(struct job_target *target, uint64_t guest_off, uint64_t len_bytes,
			enum job_block kind, struct qcow2_error *err)
{
	if (kind == JOB_BLOCK_ABSENT)
		return 0;
	return write_zeros(inplace_of(target), guest_off, len_bytes, err);
}

static int inplace_finish(struct job_target *target, uint64_t *host_bytes, struct qcow2_error *err)
{
	struct inplace_target *t = inplace_of(target);
	int ret = qcow2_finish(t->image, err);

	return ret < 0 ? ret : storage_size(t->image->store, host_bytes, err);
}

static void inplace_close(struct job_target *target)
{
	struct inplace_target *t = inplace_of(target);

	if (!t->is_borrowed)
		qcow2_close(t->image); /* finishes it first */
	mem_free(t);
}

static const struct job_target_ops inplace_ops = {
	.place = inplace_place,
	.skip = inplace_skip,
	.finish = inplace_finish,
	.close = inplace_close,
};

/* A raw disk has no map that would change: any order will do. */
static const struct job_target_ops raw_disk_ops = {
	.write = inplace_place,
	.skip = inplace_skip,
	.finish = inplace_finish,
	.close = inplace_close,
};

static int open_image(struct inplace_target *t, const char *path, const struct job_source *source,
		      const struct qcow2_convert_options *options,
		      const struct qcow2_policy *policy, struct qcow2_error *err)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	int ret;

	o.flags = options->target_open_flags | QCOW2_OPEN_WRITE;
	o.format = "qcow2";
	o.policy = policy;
	o.warn = options->warn;
	o.opaque = options->opaque;
	ret = qcow2_open(&t->image, path, &o, err);
	if (ret == 0)
		ret = job_source_differs(t->image->store, path, source, err);
	if (ret == 0 && storage_is_open(t->image->qcow2->data_file))
		ret = job_source_differs(t->image->qcow2->data_file, t->image->qcow2->data_filename,
					 source, err);
	if (ret == 0 && source->spares_cache)
		job_spare_cache_of(t->image);
	/* somebody may have changed it since it was looked at */
	return ret == 0 ? job_existing_check_size(t->image, source->size_bytes, err) : ret;
}

int job_target_inplace(struct job_target **target, const char *path,
		       const struct job_source *source, const struct qcow2_convert_options *options,
		       const struct job_existing *existing, const struct qcow2_policy *policy,
		       struct qcow2_error *err)
{
	struct inplace_target *t;
	int ret;

	if (options->flags & QCOW2_CONVERT_REFLINK_ALWAYS)
		return error_set(err, -ENOTSUP,
				 "\"%s\" isn't empty: what is written into it can't share blocks",
				 path);
	t = mem_zalloc(1, sizeof(*t));
	if (!t)
		return error_errno(err, -ENOMEM, "can't write \"%s\"", path);
	t->target.ops = &inplace_ops;
	ret = open_image(t, path, source, options, policy, err);
	if (ret < 0) {
		inplace_close(&t->target);
		return ret;
	}
	t->is_zero = options->flags & QCOW2_CONVERT_TARGET_IS_ZERO;
	t->target.block_size = (size_t)t->image->qcow2->meta.geometry.cluster_size;
	t->target.write_all = options->sparse_bytes == 0;
	t->target.skip_zero = !t->target.write_all;
	t->target.skip_absent = true;
	t->target.ignores_absent = true;
	t->target.compressed = options->flags & QCOW2_CONVERT_COMPRESS;
	t->target.compression = (int)existing->create.compression;
	*target = &t->target;
	return 0;
}

/* Data may be shared with a raw disk: each byte has its place there. */
static void settle_moves(struct inplace_target *t, const struct job_target_how *how)
{
	const struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	const struct job_moving moving = {.to = t->image->store, .block_size = how->block_size};
	bool moves = false;

	if (!t->image->qcow2 && how->source)
		(void)job_mover_init(&t->mover, &moves, how->source, &options, &moving, NULL);
	t->target.moves = moves ? &t->mover : NULL;
}

int job_target_open_image(struct job_target **target, struct qcow2_image *image,
			  const struct job_target_how *how, struct qcow2_error *err)
{
	struct inplace_target *t = mem_zalloc(1, sizeof(*t));

	if (!t)
		return error_errno(err, -ENOMEM, "can't write \"%s\"", image->path);
	t->target.ops = image->qcow2 ? &inplace_ops : &raw_disk_ops;
	t->target.block_size = how->block_size;
	t->target.skip_zero = true;
	t->target.skip_absent = true;
	t->target.ignores_absent = true;
	t->target.compressed = how->compressed;
	if (how->compressed)
		t->target.compression = (int)image->qcow2->meta.header.compression_type;
	t->image = image;
	t->is_borrowed = true;
	t->asks_zero = how->asks_zero;
	settle_moves(t, how);
	*target = &t->target;
	return 0;
}
