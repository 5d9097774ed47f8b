/* SPDX-License-Identifier: MIT */
/*
 * A qcow2 target: a draft that the append-only writer fills. Compression is done before a chunk
 * has its turn; the turn only hands out places; writing comes after it.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "codec/codec.h"
#include "job/target.h"

struct qcow2_target {
	struct job_target target;
	struct job_mover mover;
	struct image_draft draft;
	bool drafting;
	bool finished;
	struct image_writer *writer;
	unsigned prealloc;
	struct job_existing existing; /* with QCOW2_CONVERT_EXISTING: what is being made anew */
	bool existed;
	bool raw_data; /* the draft maps everything into a raw data file: only data are left to do
			*/
	struct progress_work work; /* of preallocation, which the copy's progress doesn't know */
};

static struct qcow2_target *qcow2_of(struct job_target *t)
{
	return (struct qcow2_target *)t;
}

static int put_block(struct qcow2_target *t, struct job_chunk *c, size_t i, struct qcow2_error *err)
{
	size_t at = i * t->target.block_size;
	uint64_t off = c->guest_off + at;

	switch ((enum job_block)c->states[i]) {
	case JOB_BLOCK_ABSENT:
		return 0;
	case JOB_BLOCK_ZERO:
		return image_writer_put(t->writer, off, IMAGE_PUT_ZERO, NULL, 0, &c->writes, err);
	case JOB_BLOCK_PACKED:
		return image_writer_put_packed(t->writer, off, c->packed + at, c->packed_len[i],
					       &c->origins[i], &c->writes, err);
	case JOB_BLOCK_DATA:
		break;
	}
	if (t->target.moves)
		return image_writer_put(t->writer, off, IMAGE_PUT_MOVED, NULL, 0, &c->writes, err);
	if (c->packed && c->packed_len[i])
		return image_writer_put(t->writer, off, IMAGE_PUT_COMPRESSED, c->packed + at,
					c->packed_len[i], &c->writes, err);
	return image_writer_put(t->writer, off, IMAGE_PUT_DATA, c->buf + at, t->target.block_size,
				&c->writes, err);
}

/* In a raw data file everything has its place already, and it reads as zeros so far. */
static int put_raw_data(struct qcow2_target *t, struct job_chunk *c, size_t i,
			struct qcow2_error *err)
{
	size_t at = i * t->target.block_size;
	struct image_write write = {
		.store = t->draft.data.st,
		.host_off = c->guest_off + at,
		.bytes = t->target.moves ? NULL : c->buf + at,
		.len = (size_t)min_u64(t->target.block_size, c->len - at),
		.moved = t->target.moves,
		.guest_off = c->guest_off + at,
	};

	if (c->states[i] != JOB_BLOCK_DATA)
		return 0;
	return image_writes_add(&c->writes, &write, err);
}

static int qcow2_place(struct job_target *target, struct job_chunk *c, struct qcow2_error *err)
{
	struct qcow2_target *t = qcow2_of(target);
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < c->nblocks; i++)
		ret = t->raw_data ? put_raw_data(t, c, i, err) : put_block(t, c, i, err);
	return ret;
}

/* The last cluster may reach behind the end of the disk. */
static int move_data(const struct job_mover *mover, const struct job_chunk *c,
		     struct qcow2_error *err)
{
	const uint64_t end = c->guest_off + c->len;
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < c->writes.count; i++) {
		const struct image_write *w = &c->writes.list[i];

		if (w->moved)
			ret = job_mover_move(mover, w->guest_off,
					     min_u64(w->len, end - w->guest_off), w->host_off,
					     c->buf, err);
	}
	return ret;
}

static int qcow2_write(struct job_target *target, struct job_chunk *c, struct qcow2_error *err)
{
	int ret = target->moves ? move_data(target->moves, c, err) : 0;

	return ret == 0 ? image_writes_run(&c->writes, err) : ret;
}

/* The file that holds the data, and that preallocation is about. */
static struct image_place *reserved_file(struct qcow2_target *t)
{
	return storage_is_open(t->draft.data.st) ? &t->draft.data : &t->draft.file;
}

static int finish_qcow2(struct job_target *target, uint64_t *host_bytes, struct qcow2_error *err)
{
	struct qcow2_target *t = qcow2_of(target);
	struct image_place *file = reserved_file(t);
	uint64_t end = file == &t->draft.data ? t->draft.o.size : t->draft.data_end;
	int ret = 0;

	t->work.done_bytes = t->work.total_bytes;
	if (t->prealloc == QCOW2_PREALLOC_FALLOC && end > 0)
		ret = image_allocate(file->st, 0, end, &t->work, err);
	if (ret == 0)
		ret = t->writer ? image_writer_finish(t->writer, err)
				: image_draft_finish(&t->draft, NULL, err);
	t->finished = ret == 0;
	return ret < 0 ? ret : storage_size(t->draft.file.st, host_bytes, err);
}

static void qcow2_target_close(struct job_target *target)
{
	struct qcow2_target *t = qcow2_of(target);
	const char *lost = NULL; /* the path of an existing image whose contents are gone */

	image_writer_free(t->writer);
	if (t->existed && !t->finished) {
		if (t->draft.file.touched)
			lost = t->draft.file.path;
		t->draft.file.replace = false; /* its file stays, with owner and mode */
	}
	if (t->finished)
		image_draft_close(&t->draft);
	else if (t->drafting)
		image_draft_abandon(&t->draft);
	if (lost) /* empty again, as it was */
		qcow2_create(lost, &t->existing.create, NULL);
	job_existing_release(&t->existing);
	mem_free(t);
}

static const struct job_target_ops qcow2_ops = {
	.place = qcow2_place,
	.write = qcow2_write,
	.finish = finish_qcow2,
	.close = qcow2_target_close,
};

int job_target_check_qcow2(const struct qcow2_convert_options *options,
			   const struct qcow2_create_options *create, struct qcow2_error *err)
{
	if (!(options->flags & QCOW2_CONVERT_COMPRESS))
		return 0;
	if (create->data_file)
		return error_set(err, -ENOTSUP,
				 "an image with an external data file can't have "
				 "compressed clusters");
	if (create->prealloc != QCOW2_PREALLOC_OFF)
		return error_set(err, -EINVAL,
				 "compressed clusters and preallocation exclude each "
				 "other");
	return codec_check_level((enum codec_type)create->compression, options->compression_level,
				 err);
}

static int settle_moves(struct qcow2_target *t, const struct job_source *source,
			const struct qcow2_convert_options *options, struct qcow2_error *err)
{
	const struct job_moving moving = {
		.to = reserved_file(t)->st,
		.block_size = (size_t)t->draft.g.cluster_size,
		.reads_zero = !reserved_file(t)->is_device,
		.prealloc = t->prealloc,
	};
	bool moves;
	int ret = job_mover_init(&t->mover, &moves, source, options, &moving, err);

	t->target.moves = ret == 0 && moves ? &t->mover : NULL;
	return ret;
}

static int begin_draft(struct qcow2_target *t, const char *path, const struct job_source *source,
		       const struct qcow2_convert_options *options,
		       const struct qcow2_create_options *create, struct qcow2_error *err)
{
	struct qcow2_create_options o = *create;
	int ret;

	t->prealloc = image_create_prealloc(&o);
	t->raw_data = o.data_file_raw;
	if (!t->raw_data)
		o.prealloc =
			QCOW2_PREALLOC_OFF; /* the writer maps what it puts, in the same pass */
	ret = image_draft_open(&t->draft, path, &o, image_storage_flags(options->target_open_flags),
			       err);
	t->drafting = ret == 0;
	t->draft.all_data = t->raw_data;
	t->work = job_target_work(options, o.size);
	t->draft.progress = &t->work;
	if (ret == 0)
		ret = job_target_differs(&t->draft.file, source, err);
	if (ret == 0 && storage_is_open(t->draft.data.st))
		ret = job_target_differs(&t->draft.data, source, err);
	if (source->spares_cache) {
		storage_spare_cache(t->draft.file.st, true);
		storage_spare_cache(t->draft.data.st, true);
	}
	if (ret == 0)
		ret = settle_moves(t, source, options, err);
	if (ret == 0)
		ret = image_draft_begin(&t->draft, err);
	if (ret == 0)
		t->prealloc = image_place_settle_prealloc(reserved_file(t), t->prealloc, o.size);
	return ret;
}

static int begin_writer(struct qcow2_target *t, const struct qcow2_create_options *create,
			uint64_t sparse_bytes, struct qcow2_error *err)
{
	struct image_writer_options w = {
		.map_all = t->prealloc != QCOW2_PREALLOC_OFF,
		.explicit_zeros = create->backing_file,
		.reads_zero = !t->draft.file.is_device,
		.write_zeros = t->prealloc == QCOW2_PREALLOC_FULL,
	};

	t->target.write_all = sparse_bytes == 0 || t->prealloc == QCOW2_PREALLOC_FULL;
	w.sparse = !t->target.write_all;
	if (t->target.write_all) /* where space couldn't be had otherwise */
		t->target.moves = NULL;
	if (t->raw_data) {
		t->target.skip_zero = !t->target.write_all;
		return 0;
	}
	t->target.skip_absent = !w.map_all;
	t->target.skip_zero = !t->target.write_all && !w.map_all && !w.explicit_zeros;
	return image_writer_new(&t->writer, &t->draft, &w, err);
}

/* create: also that of an existing image, which is made anew then; owned by whoever made it. */
static int open_draft(struct qcow2_target *t, const char *path, const struct job_source *source,
		      const struct qcow2_convert_options *options,
		      const struct qcow2_create_options *create, struct qcow2_error *err)
{
	int ret = begin_draft(t, path, source, options, create, err);

	if (ret == 0)
		ret = begin_writer(t, create, options->sparse_bytes, err);
	if (ret < 0)
		return ret;
	t->target.block_size = (size_t)t->draft.g.cluster_size;
	t->target.compressed = options->flags & QCOW2_CONVERT_COMPRESS;
	t->target.compression = (int)create->compression;
	t->target.passes = t->target.compressed && !source->salvage && !options->compression_level;
	return 0;
}

static int target_draft(struct job_target **target, const char *path,
			const struct job_source *source,
			const struct qcow2_convert_options *options,
			const struct qcow2_create_options *create, struct job_existing *existing,
			struct qcow2_error *err)
{
	struct qcow2_target *t = mem_zalloc(1, sizeof(*t));
	int ret;

	if (!t)
		return error_errno(err, -ENOMEM, "can't write \"%s\"", path);
	t->target.ops = &qcow2_ops;
	t->existed = options->flags & QCOW2_CONVERT_EXISTING;
	t->existing = *existing;
	*existing = (struct job_existing){0};
	ret = open_draft(t, path, source, options, t->existed ? &t->existing.create : create, err);
	if (ret < 0) {
		qcow2_target_close(&t->target);
		return ret;
	}
	*target = &t->target;
	return 0;
}

int job_target_qcow2(struct job_target **target, const char *path, const struct job_source *source,
		     const struct qcow2_convert_options *options,
		     const struct qcow2_create_options *create, struct qcow2_error *err)
{
	bool existed = options->flags & QCOW2_CONVERT_EXISTING;
	/* the caller's word on what may be followed, also for a target that has a backing file */
	const struct qcow2_policy *policy = create->policy ? create->policy : &image_policy_local;
	struct job_existing existing = {0};
	int ret = 0;

	if (existed)
		ret = job_existing_open(&existing, path, source->size_bytes, policy, err);
	if (ret < 0)
		return ret;
	if (existed)
		create = &existing.create;
	ret = job_target_check_qcow2(options, create, err);
	if (ret == 0)
		ret = job_target_goes_on_top(create, source, err);
	if (ret == 0 && existed && !existing.is_empty)
		ret = job_target_inplace(target, path, source, options, &existing, policy, err);
	else if (ret == 0)
		ret = target_draft(target, path, source, options, create, &existing, err);
	job_existing_release(&existing);
	return ret;
}
