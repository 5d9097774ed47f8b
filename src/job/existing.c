/* SPDX-License-Identifier: MIT */
/*
 * A look at a qcow2 image that is to be written into: an empty one is made anew with the same
 * options, which is faster. One that holds anything (mapped clusters, snapshots, bitmaps) is
 * changed in place.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/zero.h"
#include "job/target.h"

static bool is_mapped(const struct meta *m)
{
	for (uint32_t i = 0; i < m->l1_entries; i++) {
		if (m->l1[i])
			return true;
	}
	return false;
}

/* Nothing is in it that wouldn't be there if it were made anew. */
static bool is_empty(const struct meta *m)
{
	const struct format_header *h = &m->header;

	return !is_mapped(m) && !h->nb_snapshots && !h->ext.has_bitmaps && !h->ext.nunknown &&
	       bytes_are_zero(h->unknown_fields, h->unknown_fields_len) &&
	       !(h->incompatible & (LAYOUT_INCOMPAT_DATA_FILE | LAYOUT_INCOMPAT_CORRUPT));
}

/* In the rest of the last cluster what the backing file has would have to be copied. */
static bool ends_inside(const struct qcow2_image *image, uint64_t size_bytes)
{
	return image->disk->size_bytes > size_bytes && image->qcow2->meta.header.backing_name &&
	       !is_aligned(size_bytes, image->qcow2->meta.geometry.cluster_size);
}

int job_existing_check_size(const struct qcow2_image *image, uint64_t size_bytes,
			    struct qcow2_error *err)
{
	uint64_t disk = image->disk->size_bytes;

	if (disk >= size_bytes)
		return 0;
	return error_set(err, -ENOSPC,
			 "\"%s\" is a disk of %" PRIu64 " bytes, too small for %" PRIu64,
			 image->path, disk, size_bytes);
}

static int copy_name(char **to, const char *from, struct qcow2_error *err)
{
	*to = from ? mem_strdup(from) : NULL;
	return from && !*to ? error_errno(err, -ENOMEM, "can't take over a name") : 0;
}

static int take_options(const struct qcow2_image *image, struct job_existing *e,
			struct qcow2_error *err)
{
	const struct format_header *h = &image->qcow2->meta.header;
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;
	int ret;

	ret = copy_name(&e->backing_file, h->backing_name, err);
	if (ret == 0)
		ret = copy_name(&e->backing_format, h->ext.backing_format, err);
	if (ret == 0)
		ret = copy_name(&e->data_file, h->ext.data_file, err);
	if (ret < 0)
		return ret;
	o.flags = QCOW2_CREATE_OVERWRITE | QCOW2_CREATE_UNSAFE_BACKING;
	o.format = "qcow2";
	o.size = image->disk->size_bytes;
	o.version = h->version;
	o.cluster_size = image->qcow2->meta.geometry.cluster_size;
	o.refcount_bits = 1u << h->refcount_order;
	o.compression = h->compression_type == LAYOUT_COMPRESSION_ZSTD ? QCOW2_COMPRESSION_ZSTD
								       : QCOW2_COMPRESSION_ZLIB;
	o.lazy_refcounts = h->compatible & LAYOUT_COMPAT_LAZY_REFCOUNTS;
	o.extended_l2 = h->incompatible & LAYOUT_INCOMPAT_EXTENDED_L2;
	o.backing_file = e->backing_file;
	o.backing_format = e->backing_format;
	o.data_file = e->data_file;
	e->create = o;
	return 0;
}

int job_existing_open(struct job_existing *e, const char *path, uint64_t size_bytes,
		      const struct qcow2_policy *policy, struct qcow2_error *err)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *image;
	int ret;

	*e = (struct job_existing){0};
	options.format = "qcow2";
	options.flags = QCOW2_OPEN_NO_BACKING;
	options.policy = policy;
	ret = qcow2_open(&image, path, &options, err);
	if (ret < 0)
		return ret;
	ret = job_existing_check_size(image, size_bytes, err);
	if (ret == 0)
		ret = take_options(image, e, err);
	e->is_empty = is_empty(&image->qcow2->meta) && !ends_inside(image, size_bytes);
	qcow2_close(image);
	if (ret < 0)
		job_existing_release(e);
	return ret;
}

void job_existing_release(struct job_existing *e)
{
	mem_free(e->backing_file);
	mem_free(e->backing_format);
	mem_free(e->data_file);
	*e = (struct job_existing){0};
}
