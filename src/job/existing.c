/* SPDX-License-Identifier: MIT */
/*
 * Writing into a qcow2 image that exists, as long as it is empty: it is made anew with the same
 * options. An image that holds anything (mapped clusters, snapshots, bitmaps) needs a writer that
 * works in place, and is refused untouched.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/zero.h"
#include "job/target.h"

static int check_empty(const struct qcow2_image *image, struct qcow2_error *err)
{
	const struct meta *m = &image->qcow2->meta;
	const char *what = NULL;

	for (uint32_t i = 0; !what && i < m->l1_entries; i++) {
		if (m->l1[i])
			what = "mapped clusters";
	}
	if (m->header.nb_snapshots)
		what = "snapshots";
	else if (m->header.ext.has_bitmaps)
		what = "bitmaps";
	else if (m->header.ext.nunknown ||
		 !bytes_are_zero(m->header.unknown_fields, m->header.unknown_fields_len))
		what = "header fields that aren't known here";
	else if (m->header.incompatible & LAYOUT_INCOMPAT_DATA_FILE)
		what = "an external data file";
	else if (m->header.incompatible & LAYOUT_INCOMPAT_CORRUPT)
		what = "the mark of a corrupt image";
	if (!what)
		return 0;
	return error_set(err, -ENOTSUP,
			 "\"%s\" has %s: only into an empty qcow2 image can data be "
			 "written so far",
			 image->path, what);
}

static int check_size(const struct qcow2_image *image, uint64_t size_bytes, struct qcow2_error *err)
{
	uint64_t disk = image->disk->size_bytes;

	if (disk < size_bytes)
		return error_set(err, -ENOSPC,
				 "\"%s\" is a disk of %" PRIu64 " bytes, too small for %" PRIu64,
				 image->path, disk, size_bytes);
	/* what the backing file has in the rest of the cluster would have to be copied */
	if (disk > size_bytes && image->qcow2->meta.header.backing_name &&
	    !is_aligned(size_bytes, image->qcow2->meta.geometry.cluster_size))
		return error_set(err, -ENOTSUP,
				 "the source has %" PRIu64 " bytes and ends inside a cluster of "
				 "\"%s\", which has a backing file and a larger disk: that can't "
				 "be written so far",
				 size_bytes, image->path);
	return 0;
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
	e->create = o;
	return 0;
}

int job_existing_open(struct job_existing *e, const char *path, uint64_t size_bytes,
		      struct qcow2_error *err)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *image;
	int ret;

	*e = (struct job_existing){0};
	options.format = "qcow2";
	options.flags = QCOW2_OPEN_NO_BACKING;
	ret = qcow2_open(&image, path, &options, err);
	if (ret < 0)
		return ret;
	ret = check_empty(image, err);
	if (ret == 0)
		ret = check_size(image, size_bytes, err);
	if (ret == 0)
		ret = take_options(image, e, err);
	qcow2_close(image);
	if (ret < 0)
		job_existing_release(e);
	return ret;
}

void job_existing_release(struct job_existing *e)
{
	mem_free(e->backing_file);
	mem_free(e->backing_format);
	*e = (struct job_existing){0};
}
