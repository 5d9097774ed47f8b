/* SPDX-License-Identifier: MIT */
/* Changing the size of a disk. */
#include <errno.h>
#include <inttypes.h>

#include "base/num.h"
#include "image/create.h"
#include "image/image.h"
#include "meta/bitmap.h"

int image_check_resize(const struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc,
		       unsigned flags, struct qcow2_error *err)
{
	int ret = image_check_writable(image, err);

	if (ret < 0)
		return ret;
	if (flags & ~QCOW2_RESIZE_SHRINK || prealloc > QCOW2_PREALLOC_FULL)
		return error_set(err, -EINVAL, "unknown resize options");
	if (image->qcow2 && !is_aligned(size_bytes, 512))
		return error_set(err, -EINVAL,
				 "the size of a disk is a multiple of 512 bytes, %" PRIu64 " isn't",
				 size_bytes);
	if (size_bytes >= image->disk->size_bytes)
		return 0;
	if (!(flags & QCOW2_RESIZE_SHRINK))
		return error_set(err, -EINVAL,
				 "%" PRIu64 " bytes are less than the disk has (%" PRIu64
				 "), and making it smaller wasn't asked for",
				 size_bytes, image->disk->size_bytes);
	if (prealloc != QCOW2_PREALLOC_OFF)
		return error_set(err, -EINVAL, "a disk that becomes smaller can't be preallocated");
	return 0;
}

/* ---- raw ---- */

static int raw_resize(struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc,
		      struct progress_work *progress, struct qcow2_error *err)
{
	struct qcow2_storage store = disk_raw_store(image->disk);
	uint64_t old = image->disk->size_bytes;
	int ret;

	if (prealloc == QCOW2_PREALLOC_METADATA)
		return error_set(err, -ENOTSUP, "a raw image has no metadata to preallocate");
	ret = disk_raw_resize(image->disk, size_bytes, err);
	if (ret < 0 || size_bytes <= old || prealloc == QCOW2_PREALLOC_OFF)
		return ret;
	ret = image_reserve(store, old, size_bytes - old, prealloc, progress, err);
	if (ret < 0)
		(void)disk_raw_resize(image->disk, old, NULL);
	return ret;
}

/* ---- qcow2 ---- */

/* log2 of what an L2 table maps. */
static unsigned table_bits(const struct format_geometry *g)
{
	return g->cluster_bits + g->l2_bits;
}

/* Where the data below the top layer end; 0 without a backing file. */
static uint64_t backing_end(const struct qcow2_image *image)
{
	return image->layers.count > 1 ? image->layers.disks[1]->size_bytes : 0;
}

int image_check_size(const struct qcow2_image *image, uint64_t size_bytes, struct qcow2_error *err)
{
	const struct meta *m = &image->qcow2->meta;
	uint64_t max = format_max_size(&m->geometry);

	if (size_bytes > max)
		return error_set(err, -EFBIG,
				 "%" PRIu64
				 " bytes are more than an image with clusters of this size can "
				 "have (%" PRIu64 ")",
				 size_bytes, max);
	if (m->header.version < 3 && m->header.nb_snapshots > 0)
		return error_set(err, -ENOTSUP,
				 "a version 2 image with snapshots doesn't record the size that "
				 "they had");
	if (m->header.version < 3 && backing_end(image) > m->size_bytes &&
	    size_bytes > m->size_bytes)
		return error_set(err, -ENOTSUP,
				 "the backing file is longer than the disk, and a version 2 image "
				 "can't hide what it has there");
	return 0;
}

/* What is in memory of the size. */
void image_set_size(struct image_qcow2 *q, uint64_t size_bytes)
{
	q->meta.size_bytes = size_bytes;
	q->meta.state_off = format_vm_state_off(&q->meta.geometry, size_bytes);
	__atomic_store_n(&q->disk.size_bytes, size_bytes, __ATOMIC_RELAXED);
}

/* What has to be durable below the size. */
static int commit(struct image_qcow2 *q, struct qcow2_error *err)
{
	return META_BROKEN(10) ? 0 : meta_commit(&q->meta, true, err);
}

/* It is: now the size. */
static int write_size(struct image_qcow2 *q, uint64_t size_bytes, struct qcow2_error *err)
{
	int ret = meta_super_write_size(&q->meta, size_bytes, err);

	if (ret == 0)
		ret = meta_barrier(&q->meta, err);
	if (ret == 0 && META_BROKEN(10))
		ret = meta_commit(&q->meta, true, err);
	return ret;
}

/* Nothing that was behind the old end, or is in the backing file there, may come to light. */
static int hide_old(struct qcow2_image *image, uint64_t old, uint64_t size_bytes,
		    struct qcow2_error *err)
{
	struct data_writer *w = image->qcow2->writer;
	uint64_t end = align_up(old, w->m->geometry.cluster_size);

	end = max_u64(end, align_up(backing_end(image), w->m->geometry.cluster_size));
	end = min_u64(end, size_bytes);
	return end > old ? data_zero(w, old, end - old, 0, err) : 0;
}

static int preallocate(struct qcow2_image *image, uint64_t old, unsigned prealloc,
		       struct qcow2_error *err)
{
	struct image_qcow2 *q = image->qcow2;
	struct meta *m = &q->meta;
	uint64_t size_bytes = m->size_bytes;
	uint64_t from = align_down(old, m->geometry.cluster_size);
	uint64_t end = align_up(size_bytes, m->geometry.cluster_size);
	uint64_t file_size;
	int ret;

	/* what the backing file has in the last cluster of before isn't ours to hide */
	if (backing_end(image) > from)
		from = align_up(old, m->geometry.cluster_size);
	ret = data_preallocate(q->writer, from, end, prealloc, err);
	if (ret < 0)
		return ret;
	if (m->geometry.data_file && prealloc != QCOW2_PREALLOC_METADATA)
		return image_reserve(m->data, old, size_bytes - old, prealloc, m->engine->progress,
				     err);
	/* the file is as long as what is mapped in it */
	ret = m->engine->device ? 0 : storage_size(m->file, &file_size, err);
	end = meta_off_of(m, meta_alloc_end(m));
	if (ret == 0 && !m->engine->device && file_size < end)
		ret = storage_truncate(m->file, end, err);
	return ret;
}

/* Growing failed before the new size was written: nothing is mapped behind the old end again. */
static void shrink_back(struct qcow2_image *image, uint64_t old)
{
	struct image_qcow2 *q = image->qcow2;
	struct meta *m = &q->meta;
	const uint64_t cs = m->geometry.cluster_size;
	uint64_t from = align_up(old, cs), end = align_up(m->size_bytes, cs);
	uint64_t whole = format_size_to_l1(&m->geometry, old);
	struct meta_l1_part lost = {0};

	m->engine->progress = NULL; /* it has been told */
	if (!m->geometry.data_file)
		end = min_u64(end, whole << table_bits(&m->geometry));
	if (from < end && data_forget(q->writer, from, end - from, true, NULL) < 0)
		return;
	if (m->geometry.data_file)
		meta_l1_drop_tables(m, whole, format_size_to_l1(&m->geometry, m->size_bytes));
	else if (meta_l1_take_out(m, whole, format_size_to_l1(&m->geometry, m->size_bytes), &lost,
				  NULL) < 0)
		return;
	/* the file has all of what the tables say; and what was taken and not used goes, too */
	if (meta_commit(m, true, NULL) < 0) {
		meta_l1_put_back(m, &lost);
		return;
	}
	atomic_store(&m->engine->ever_freed, true);
	meta_reap(m, true);
	(void)meta_l1_let_go(m, &lost, NULL, NULL);
}

static int grow(struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc,
		struct qcow2_error *err)
{
	struct image_qcow2 *q = image->qcow2;
	struct meta *m = &q->meta;
	uint64_t old = m->size_bytes;
	int ret = meta_l1_grow(m, format_size_to_l1(&m->geometry, size_bytes), err);

	if (m->header.autoclear & LAYOUT_AUTOCLEAR_DATA_FILE_RAW && prealloc == QCOW2_PREALLOC_OFF)
		prealloc = QCOW2_PREALLOC_METADATA;
	if (ret == 0 && m->geometry.data_file)
		ret = storage_truncate(m->data, size_bytes, err);
	if (ret < 0)
		return ret;
	image_set_size(q, size_bytes); /* seen by nobody else yet */
	ret = hide_old(image, old, size_bytes, err);
	if (ret == 0 && prealloc != QCOW2_PREALLOC_OFF)
		ret = preallocate(image, old, prealloc, err);
	if (ret == 0)
		ret = commit(q, err);
	if (ret < 0)
		shrink_back(image, old);
	else
		ret = write_size(q, size_bytes, err);
	if (ret < 0) {
		if (m->geometry.data_file)
			(void)storage_truncate(m->data, old, NULL);
		image_set_size(q, old);
	}
	return ret;
}

/*
 * The map of what is lost, up to L1 entry `whole`, becomes empty. What is left of the last cluster
 * behind the end isn't kept for another day, and until the size is durable what is below may not
 * come to light.
 */
static int empty_parts(struct qcow2_image *image, uint64_t size_bytes, uint64_t hidden,
		       uint64_t whole, struct qcow2_error *err)
{
	struct image_qcow2 *q = image->qcow2;
	const struct format_geometry *g = &q->meta.geometry;
	uint64_t old = q->meta.size_bytes;
	uint64_t from = align_up(size_bytes, g->cluster_size);
	uint64_t end = min_u64(align_up(old, g->cluster_size), whole << table_bits(g));
	int ret = 0;

	if (size_bytes < min_u64(from, old))
		ret = data_zero(q->writer, size_bytes, min_u64(from, old) - size_bytes, 0, err);
	if (ret == 0 && from < hidden) {
		ret = data_hide(q->writer, from, hidden - from, err);
		from = align_up(hidden, g->cluster_size);
	}
	if (ret == 0 && from < end)
		ret = data_forget(q->writer, from, end - from, true, err);
	return ret;
}

/* The size is durable. What was needed until now goes too, and the file is cut. */
static int end_shrink(struct image_qcow2 *q, uint64_t old, struct qcow2_error *err)
{
	struct meta *m = &q->meta;
	int ret = 0;

	/* tables of nothing but zeros that hide what is below, and empty ones of a data file */
	meta_l1_drop_tables(m, format_size_to_l1(&m->geometry, m->size_bytes),
			    format_size_to_l1(&m->geometry, old));
	if (atomic_load(&m->engine->order.ndropped) > 0)
		ret = meta_commit(m, true, err);
	if (ret == 0)
		meta_reap(m, true);
	if (ret == 0 && m->geometry.data_file)
		ret = storage_truncate(m->data, m->size_bytes, err);
	/* a file that is too long is no reason to fail */
	if (ret == 0)
		(void)meta_engine_trim(m, NULL);
	return ret == 0 ? meta_commit_counts(m, err) : ret;
}

static int shrink(struct qcow2_image *image, uint64_t size_bytes, struct qcow2_error *err)
{
	struct image_qcow2 *q = image->qcow2;
	struct meta *m = &q->meta;
	const uint64_t cs = m->geometry.cluster_size;
	uint64_t old = m->size_bytes;
	struct meta_l1_part lost = {0};
	struct meta_freed_list later = {0};
	uint64_t end = format_size_to_l1(&m->geometry, old);
	uint64_t hidden = 0, whole = end;
	/* where it fails half way a part of the disk has changed */
	int ret = meta_bitmaps_mark(m, size_bytes, old - size_bytes, err);

	if (m->header.version >= 3)
		hidden = min_u64(align_up(backing_end(image), cs), old);
	/* a data file has to be told of each cluster */
	if (!m->geometry.data_file)
		whole = format_size_to_l1(&m->geometry, align_up(max_u64(size_bytes, hidden), cs));
	if (ret == 0)
		ret = meta_l1_look(m, whole, end, err);
	if (ret == 0)
		ret = empty_parts(image, size_bytes, hidden, whole, err);
	if (ret == 0)
		ret = meta_l1_take_out(m, whole, end, &lost, err);
	if (ret == 0)
		ret = commit(q, err);
	if (ret < 0) {
		meta_l1_put_back(m, &lost);
		return ret;
	}
	ret = write_size(q, size_bytes, err);
	if (ret == 0)
		image_set_size(q, size_bytes);
	/* whatever size it is, nothing points there; what can't be let go of leaks */
	(void)meta_l1_let_go(m, &lost, &later, NULL);
	if (ret == 0)
		ret = end_shrink(q, old, err);
	/* most of it has gone with the end of the file */
	meta_gather_give_back(m, &later);
	return ret;
}

/*
 * VM state isn't moved: where it begins somewhere else from now on it goes. In the way of a disk
 * that grows it would come to light in it.
 */
static int make_way(struct meta *m, uint64_t size_bytes, struct qcow2_error *err)
{
	if (format_vm_state_off(&m->geometry, size_bytes) == m->state_off)
		return 0;
	return meta_l1_cut(m, format_l1_index(&m->geometry, m->state_off), err);
}

static int resize_qcow2(struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc,
			struct qcow2_error *err)
{
	struct meta *m = &image->qcow2->meta;
	int ret = meta_check_sound(m, err);

	if (ret == 0)
		ret = image_check_size(image, size_bytes, err);
	if (ret < 0 || size_bytes == m->size_bytes)
		return ret;
	ret = meta_bitmaps_prepare_resize(m, size_bytes, err);
	if (ret == 0)
		ret = make_way(m, size_bytes, err);
	if (ret < 0)
		return ret;
	return size_bytes > m->size_bytes ? grow(image, size_bytes, prealloc, err)
					  : shrink(image, size_bytes, err);
}

/* Bitmaps follow whatever size came of it. */
static int resize_recorded(struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc,
			   struct qcow2_error *err)
{
	struct meta *m = &image->qcow2->meta;
	uint64_t old = m->size_bytes;
	int ret = resize_qcow2(image, size_bytes, prealloc, err);
	int followed = 0;

	if (m->size_bytes != old)
		followed = meta_bitmaps_resized(m, old, ret < 0 ? NULL : err);
	return ret < 0 ? ret : followed;
}

/* ---- ---- */

int image_resize(struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc, unsigned flags,
		 struct progress_work *progress, struct qcow2_error *err)
{
	int ret = image_check_resize(image, size_bytes, prealloc, flags, err);

	if (ret < 0)
		return ret;
	if (!image->qcow2)
		return raw_resize(image, size_bytes, prealloc, progress, err);
	image->qcow2->meta.engine->progress = progress;
	ret = resize_recorded(image, size_bytes, prealloc, err);
	image->qcow2->meta.engine->progress = NULL;
	return ret;
}

/* How much of the disk comes or goes; in a data file of its own it comes twice. */
static uint64_t work_bytes(const struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc)
{
	uint64_t old = image->disk->size_bytes;
	bool twice = image->qcow2 && image->qcow2->meta.geometry.data_file &&
		     prealloc >= QCOW2_PREALLOC_FALLOC;

	if (size_bytes < old)
		return old - size_bytes;
	return max_u64((size_bytes - old) * (twice ? 2 : 1), 1);
}

void qcow2_watch(struct qcow2_image *image, const struct qcow2_progress *progress)
{
	image->watch = progress ? *progress : (struct qcow2_progress){0};
}

int qcow2_resize(struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc, unsigned flags,
		 struct qcow2_error *err)
{
	struct progress_work work = {.to = &image->watch};
	struct meta_gate *gate = image->gate;
	int ret;

	if (gate)
		meta_gate_close(gate);
	work.total_bytes = work_bytes(image, size_bytes, prealloc);
	ret = image_resize(image, size_bytes, prealloc, flags, &work, err);
	if (ret == 0)
		progress_end(&work);
	if (gate)
		meta_gate_open(gate);
	if (ret < 0)
		error_prefix(err, "resizing \"%s\"", image->path);
	return ret;
}
