/* SPDX-License-Identifier: MIT */
/*
 * Amending an image that is there: everything is checked first, so that what can't be done is
 * refused with nothing changed; then one change after the other is made, each of which is whole by
 * itself (meta/amend.h): upgrade, refcount width, raw flag and name of the data file, lazy
 * refcounts, size, bitmaps dropped, downgrade.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "image/image.h"
#include "image/options.h"
#include "meta/amend.h"
#include "meta/bitmap.h"

#define WHAT_KNOWN                                                                                 \
	(QCOW2_AMEND_VERSION | QCOW2_AMEND_REFCOUNT_BITS | QCOW2_AMEND_LAZY_REFCOUNTS |            \
	 QCOW2_AMEND_DATA_FILE | QCOW2_AMEND_DATA_FILE_RAW | QCOW2_AMEND_SIZE)
#define FLAGS_KNOWN (QCOW2_AMEND_DRY_RUN | QCOW2_AMEND_SHRINK | QCOW2_AMEND_DROP_BITMAPS)

struct amend {
	struct qcow2_image *image;
	struct meta *m;
	struct qcow2_amend_options o; /* every member says what is to be in the end */
	bool upgrade, downgrade, width, lazy, drop_raw, rename, resize;
	struct meta_snapshots snapshots;
	struct meta_zeros zeros; /* downgrade */
	uint64_t done, total;	 /* bytes of work */
	struct qcow2_amend_result result;
};

/* ---- what is asked for ---- */

static int check_words(const struct qcow2_amend_options *o, struct qcow2_error *err)
{
	if (o->what & ~WHAT_KNOWN || o->flags & ~FLAGS_KNOWN)
		return error_set(err, -EINVAL, "unknown amend options");
	if (o->what & QCOW2_AMEND_VERSION && (o->version < 2 || o->version > 3))
		return error_set(err, -EINVAL, "there is no version %u of the format", o->version);
	if (o->what & QCOW2_AMEND_REFCOUNT_BITS &&
	    (!is_pow2(o->refcount_bits) || o->refcount_bits > 64))
		return error_set(err, -EINVAL,
				 "refcounts of %u bits: it must be a power of two up to 64",
				 o->refcount_bits);
	return 0;
}

/* What isn't asked for is as it is; then what differs. */
static void settle(struct amend *a)
{
	const struct format_header *h = &a->m->header;
	struct qcow2_amend_options *o = &a->o;
	bool is_lazy = h->compatible & LAYOUT_COMPAT_LAZY_REFCOUNTS;
	bool is_raw = h->autoclear & LAYOUT_AUTOCLEAR_DATA_FILE_RAW;

	if (!(o->what & QCOW2_AMEND_VERSION))
		o->version = h->version;
	if (!(o->what & QCOW2_AMEND_REFCOUNT_BITS))
		o->refcount_bits = 1u << h->refcount_order;
	if (!(o->what & QCOW2_AMEND_LAZY_REFCOUNTS)) /* goes with the version that has it */
		o->lazy_refcounts = is_lazy && o->version >= 3;
	if (!(o->what & QCOW2_AMEND_DATA_FILE_RAW))
		o->data_file_raw = is_raw;
	if (!(o->what & QCOW2_AMEND_SIZE))
		o->size = a->m->size_bytes;
	a->upgrade = o->version > h->version;
	a->downgrade = o->version < h->version;
	a->width = o->refcount_bits != 1u << h->refcount_order;
	a->lazy = o->lazy_refcounts != is_lazy && !a->downgrade;
	a->drop_raw = is_raw && !o->data_file_raw;
	a->rename = o->what & QCOW2_AMEND_DATA_FILE &&
		    (!h->ext.data_file || strcmp(o->data_file, h->ext.data_file) != 0);
	a->resize = o->size != a->m->size_bytes;
}

/* ---- whether it can be ---- */

static int check_features(const struct amend *a, struct qcow2_error *err)
{
	const struct qcow2_amend_options *o = &a->o;
	const struct meta *m = a->m;

	if (o->version < 3 && o->refcount_bits != 16)
		return error_set(err, -EINVAL,
				 o->what & QCOW2_AMEND_REFCOUNT_BITS
					 ? "refcounts of another width than 16 bits: that needs "
					   "version 3"
					 : "version 2 needs refcounts of 16 bits, the image has %u",
				 o->refcount_bits);
	if (o->version < 3 && o->lazy_refcounts)
		return error_set(err, -EINVAL, "lazy refcounts: that needs version 3");
	if (o->what & QCOW2_AMEND_DATA_FILE && !m->geometry.data_file)
		return error_set(err, -EINVAL,
				 "the image has no external data file that could get a name");
	if (o->what & QCOW2_AMEND_DATA_FILE && (!o->data_file || !o->data_file[0]))
		return error_set(err, -EINVAL, "the name of the data file is empty");
	if (o->data_file_raw && !(m->header.autoclear & LAYOUT_AUTOCLEAR_DATA_FILE_RAW))
		return error_set(
			err, -EINVAL,
			"that the data file can be read as a raw image can't be said of an "
			"image that exists");
	return 0;
}

static int check_size(const struct amend *a, struct qcow2_error *err)
{
	int ret;

	if (!a->resize)
		return 0;
	ret = image_check_resize(a->image, a->o.size, QCOW2_PREALLOC_OFF,
				 a->o.flags & QCOW2_AMEND_SHRINK ? QCOW2_RESIZE_SHRINK : 0, err);
	if (ret == 0 && !a->upgrade) /* version 3 can have sizes that version 2 can't */
		ret = image_check_size(a->image, a->o.size, err);
	return ret;
}

static int check_snapshots(const struct amend *a, struct qcow2_error *err)
{
	for (size_t i = 0; i < a->snapshots.count; i++) {
		const struct format_snapshot *s = &a->snapshots.list[i];

		if (s->has_disk_size && s->disk_size != a->o.size)
			return error_set(err, -ENOTSUP,
					 "snapshot \"%s\" has a disk of %" PRIu64
					 " bytes, and version 2 doesn't record sizes of snapshots",
					 s->name, s->disk_size);
		if (s->vm_state_bytes > UINT32_MAX)
			return error_set(err, -ENOTSUP,
					 "snapshot \"%s\" has more VM state than version 2 can "
					 "record",
					 s->name);
	}
	return 0;
}

/* Of a directory that is out of date, or that couldn't be read, nothing is lost. */
static int check_bitmaps(struct amend *a, struct qcow2_error *err)
{
	a->result.dropped_bitmaps = a->m->bitmaps ? a->m->bitmaps->count : 0;
	if (a->result.dropped_bitmaps > 0 && !(a->o.flags & QCOW2_AMEND_DROP_BITMAPS))
		return error_set(err, -ENOTSUP,
				 "version 2 can't have bitmaps, and dropping those of the image "
				 "(%" PRIu64 ") wasn't asked for",
				 a->result.dropped_bitmaps);
	return 0;
}

static int check_downgrade(struct amend *a, struct qcow2_error *err)
{
	const struct format_header *h = &a->m->header;
	uint64_t fine = LAYOUT_INCOMPAT_DIRTY | LAYOUT_INCOMPAT_COMPRESSION;
	int ret;

	if (h->incompatible & LAYOUT_INCOMPAT_DATA_FILE)
		return error_set(err, -ENOTSUP, "version 2 has no external data files");
	if (h->incompatible & ~fine)
		return error_set(err, -ENOTSUP,
				 "version 2 has none of the incompatible features 0x%" PRIx64,
				 h->incompatible & ~fine);
	ret = check_bitmaps(a, err);
	if (ret == 0)
		ret = check_snapshots(a, err);
	if (ret == 0)
		ret = meta_zeros_survey(a->m, &a->snapshots, &a->zeros, err);
	if (ret == 0 && a->zeros.compressed > 0 && h->compression_type != LAYOUT_COMPRESSION_ZLIB)
		ret = error_set(err, -ENOTSUP,
				"version 2 knows no zstd, and the image has %" PRIu64
				" clusters that are compressed so",
				a->zeros.compressed);
	a->total += a->zeros.tables * a->m->geometry.cluster_size;
	a->result.emptied_bytes = a->zeros.emptied * a->m->geometry.cluster_size;
	a->result.filled_bytes = a->zeros.filled * a->m->geometry.cluster_size;
	return ret;
}

static int check_all(struct amend *a, struct qcow2_error *err)
{
	uint64_t blocks_bytes = 0;
	int ret = check_features(a, err);

	if (ret == 0)
		ret = check_size(a, err);
	if (ret == 0 && (a->upgrade || a->downgrade || a->rename))
		ret = meta_check_header(a->m, a->o.version, a->rename ? a->o.data_file : NULL, err);
	if (ret == 0 && a->downgrade)
		ret = check_downgrade(a, err);
	if (ret == 0 && a->width) {
		ret = meta_check_width(a->m, log2_u64(a->o.refcount_bits), &blocks_bytes, err);
		a->total += blocks_bytes;
		a->result.refcount_bytes = blocks_bytes;
	}
	return ret;
}

/* ---- doing it ---- */

static int step(void *opaque, uint64_t bytes)
{
	struct amend *a = opaque;

	a->done = min_u64(a->done + bytes, a->total);
	if (!a->o.progress.tick || a->done == a->total)
		return 0;
	return a->o.progress.tick(a->o.progress.opaque, a->done, a->total);
}

/* Whoever was told the old name may still have it. */
static int rename_data_file(struct amend *a, struct qcow2_error *err)
{
	struct image_former *former = mem_zalloc(1, sizeof(*former));
	cleanup_free char *name = mem_strdup(a->o.data_file);
	int ret;

	if (!former || !name) {
		mem_free(former);
		return error_errno(err, -ENOMEM, "can't rename the data file");
	}
	ret = meta_set_data_file(a->m, &name, err);
	if (ret < 0) {
		mem_free(former);
		return ret;
	}
	former->name = mem_steal(&name);
	former->next = a->image->former;
	a->image->former = former;
	return 0;
}

static int drop_bitmaps(struct meta *m, struct qcow2_error *err)
{
	int ret = meta_bitmaps_remove_all(m, err);

	if (ret == 0)
		ret = meta_bitmaps_store(m, err);
	if (ret == 0 && m->header.ext.has_bitmaps) /* those that couldn't be read */
		ret = meta_super_write_bitmaps(m, NULL, err);
	return ret;
}

static int change(struct amend *a, struct qcow2_error *err)
{
	struct meta_watch watch = {.step = step, .opaque = a};
	int ret = 0;

	if (a->upgrade)
		ret = meta_upgrade(a->m, &a->snapshots, err);
	if (ret == 0 && a->width)
		ret = meta_change_width(a->m, log2_u64(a->o.refcount_bits), &watch, err);
	if (ret == 0 && a->drop_raw)
		ret = meta_drop_raw_data(a->m, err);
	if (ret == 0 && a->rename)
		ret = rename_data_file(a, err);
	if (ret == 0 && a->lazy)
		ret = meta_set_lazy(a->m, a->o.lazy_refcounts, err);
	if (ret == 0 && a->resize)
		ret = image_resize(a->image, a->o.size, QCOW2_PREALLOC_OFF,
				   a->o.flags & QCOW2_AMEND_SHRINK ? QCOW2_RESIZE_SHRINK : 0, NULL,
				   err);
	if (ret == 0 && a->downgrade)
		ret = drop_bitmaps(a->m, err);
	if (ret == 0 && a->downgrade)
		ret = meta_downgrade(a->m, &a->snapshots, &watch, err);
	if (ret == 0)
		ret = storage_size(a->image->store, &a->m->file_size, err);
	if (ret == 0 && a->o.progress.tick)
		(void)a->o.progress.tick(a->o.progress.opaque, max_u64(a->total, 1),
					 max_u64(a->total, 1));
	return ret;
}

static int amend_closed(struct amend *a, struct qcow2_error *err)
{
	struct qcow2_image *image = a->image;
	int ret = image_check_writable(image, err);

	if (ret == 0 && !image->qcow2)
		ret = error_set(err, -ENOTSUP, "it is a raw image: nothing of it can be amended");
	if (ret < 0)
		return ret;
	a->m = &image->qcow2->meta;
	ret = meta_check_sound(a->m, err);
	if (ret == 0)
		ret = storage_size(a->m->file, &a->m->file_size, err);
	if (ret == 0)
		ret = meta_load_snapshots(a->m, &a->snapshots, err);
	if (ret < 0)
		return ret;
	settle(a);
	ret = check_all(a, err);
	if (ret == 0 && !(a->o.flags & QCOW2_AMEND_DRY_RUN))
		ret = change(a, err);
	meta_snapshots_release(&a->snapshots);
	return ret;
}

int qcow2_amend(struct qcow2_image *image, const struct qcow2_amend_options *options,
		struct qcow2_amend_result *result, struct qcow2_error *err)
{
	struct amend a = {.image = image, .o = QCOW2_AMEND_OPTIONS_INIT};
	int ret = OPTIONS_TAKE(&a.o, options, "amend options", err);

	if (ret == 0)
		ret = check_words(&a.o, err);
	if (ret < 0)
		return ret;
	if (image->gate)
		meta_gate_close(image->gate);
	ret = amend_closed(&a, err);
	image_forget_tables(image);
	if (image->gate)
		meta_gate_open(image->gate);
	if (ret < 0)
		error_prefix(err, "amending \"%s\"", image->path);
	else if (result)
		*result = a.result;
	return ret;
}
