/* SPDX-License-Identifier: MIT */
/* Opening for writing: what has to be true of an image before it is changed, and what is set up. */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "check/check.h"
#include "image/image.h"
#include "meta/bitmap.h"

int image_prepare_writing(struct meta *m, const char *path, struct qcow2_error *err)
{
	struct qcow2_storage file = m->file;
	uint64_t bits = m->header.version >= 3 ? m->header.incompatible : 0;
	int ret;

	if (bits & LAYOUT_INCOMPAT_CORRUPT)
		return error_set(err, -EACCES,
				 "\"%s\" is marked as corrupt: it can be read or repaired, but not "
				 "written to",
				 path);
	if (!(bits & LAYOUT_INCOMPAT_DIRTY))
		return 0;
	meta_release(m);
	ret = check_repair_dirty(file, err);
	if (ret < 0) {
		error_prefix(err, "\"%s\" wasn't closed and couldn't be repaired", path);
		return ret;
	}
	return meta_open(m, file, 0, err);
}

/* QCOW2_PASS_REQUEST, _SNAPSHOT, _OTHER. */
static unsigned pass_bits(unsigned option)
{
	switch (option) {
	case QCOW2_PASS_DEFAULT:
		return QCOW2_PASS_REQUEST | QCOW2_PASS_SNAPSHOT;
	case QCOW2_PASS_ALL:
		return QCOW2_PASS_REQUEST | QCOW2_PASS_SNAPSHOT | QCOW2_PASS_OTHER;
	case QCOW2_PASS_NONE:
		return 0;
	default:
		return option & ~QCOW2_PASS_EACH;
	}
}

/*
 * Bitmaps are kept true by us if they can be read. What makes no sense is given up: the engine then
 * clears the bit that makes it count.
 */
static int load_bitmaps(struct qcow2_image *image, struct qcow2_error *err)
{
	struct qcow2_error why = {0};
	int ret = meta_bitmaps_open(&image->qcow2->meta, &why);

	if (ret == -EINVAL) {
		image_warn(image, "\"%s\": its bitmaps are lost: %s", image->path, why.message);
		return 0;
	}
	if (ret < 0 && err)
		*err = why;
	return ret;
}

static int start_engine(struct qcow2_image *image, const struct qcow2_open_options *options,
			struct qcow2_error *err)
{
	struct meta *m = &image->qcow2->meta;
	struct meta_engine_options o = {
		.refcount_cache_bytes = options->refcount_cache_bytes,
		.lazy_refcounts = options->lazy_refcounts,
		.pass_discard = pass_bits(options->pass_discard),
		.overlap_check = options->overlap_check,
	};
	struct meta_snapshots snapshots;
	struct storage_file_stat st;
	int ret;

	o.device = storage_file_stat(m->file, &st, NULL) == 0 && st.is_block_device;
	ret = load_bitmaps(image, err);
	if (ret == 0)
		ret = meta_load_snapshots(m, &snapshots, err);
	if (ret < 0)
		return ret;
	ret = meta_engine_new(m, &o, &snapshots, err);
	meta_snapshots_release(&snapshots);
	if (ret == 0) /* those that made no sense don't count any more: an empty list */
		ret = meta_bitmaps_open(m, err);
	return ret;
}

static void init_writer(struct data_writer *w, struct image_qcow2 *q,
			const struct data_layers *layers, const struct qcow2_open_options *options)
{
	w->m = &q->meta;
	w->layers = layers;
	w->packed = q->packed;
	w->discard = options->discard;
	w->give_back = pass_bits(options->pass_discard) & QCOW2_PASS_REQUEST;
	data_ranges_init(&w->ranges);
	data_bounce_init(&w->bounce, q->meta.geometry.cluster_size);
}

static void release_writer(struct data_writer *w)
{
	data_bounce_release(&w->bounce);
	data_ranges_release(&w->ranges);
}

static int start_qcow2(struct qcow2_image *image, const struct qcow2_open_options *options,
		       struct qcow2_error *err)
{
	struct image_qcow2 *q = image->qcow2;
	/* two, in one piece of memory: of the disk, and of the VM state behind it */
	struct data_writer *w = mem_zalloc(2, sizeof(*w));
	int ret;

	if (!w)
		return error_errno(err, -ENOMEM, "can't open \"%s\" for writing", image->path);
	ret = start_engine(image, options, err);
	if (ret < 0) {
		mem_free(w);
		error_prefix(err, "can't open \"%s\" for writing", image->path);
		return ret;
	}
	init_writer(&w[0], q, &image->layers, options);
	w[0].has_backing = image->backing || q->meta.header.backing_name;
	init_writer(&w[1], q, &q->state.layers, options);
	q->writer = &w[0];
	q->state.writer = &w[1];
	image->gate = &q->meta.engine->gate;
	return 0;
}

/* A raw image has no metadata; its size changes all the same. */
static int start_raw(struct qcow2_image *image, struct qcow2_error *err)
{
	int ret = meta_gate_init(&image->raw_gate, err);

	if (ret == 0)
		image->gate = &image->raw_gate;
	return ret;
}

int image_start_writing(struct qcow2_image *image, const struct qcow2_open_options *options,
			struct qcow2_error *err)
{
	if (!image->qcow2)
		return start_raw(image, err);
	return start_qcow2(image, options, err);
}

void image_stop_writing(struct image_qcow2 *q)
{
	if (!q->writer)
		return;
	release_writer(q->state.writer);
	release_writer(q->writer);
	mem_free(q->writer); /* and that of the VM state with it */
	meta_engine_free(&q->meta);
}

unsigned image_enter(const struct qcow2_image *image)
{
	return image->gate ? meta_gate_enter(image->gate) : 0;
}

bool image_try_enter(const struct qcow2_image *image, unsigned *ticket)
{
	*ticket = 0;
	return !image->gate || meta_gate_try_enter(image->gate, ticket);
}

void image_leave(const struct qcow2_image *image, unsigned ticket)
{
	if (image->gate)
		meta_gate_leave(image->gate, ticket);
}
