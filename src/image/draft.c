/* SPDX-License-Identifier: MIT */
/*
 * A qcow2 image in the making. It is planned first, with nothing open: whatever can't be placed or
 * doesn't fit the header is found before a file is touched. Then tables and data are written, and
 * when they are durable, the header cluster, which makes the file an image.
 */
#include "image/create.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "image/image.h"

static int dup_string(char **to, const char *s, struct qcow2_error *err)
{
	if (!s)
		return 0;
	*to = mem_strdup(s);
	return *to ? 0 : error_set(err, -ENOMEM, "no memory for a name");
}

static int init_header(struct image_draft *d, struct qcow2_error *err)
{
	const struct qcow2_create_options *o = &d->o;
	struct format_header *h = &d->header;
	int rc;

	h->version = o->version;
	h->cluster_bits = d->g.cluster_bits;
	h->size_bytes = o->size;
	h->refcount_order = d->g.refcount_order;
	h->compression_type = o->compression == QCOW2_COMPRESSION_ZSTD ? LAYOUT_COMPRESSION_ZSTD
								       : LAYOUT_COMPRESSION_ZLIB;
	if (h->compression_type != LAYOUT_COMPRESSION_ZLIB)
		h->incompatible |= LAYOUT_INCOMPAT_COMPRESSION;
	if (o->extended_l2)
		h->incompatible |= LAYOUT_INCOMPAT_EXTENDED_L2;
	if (o->data_file)
		h->incompatible |= LAYOUT_INCOMPAT_DATA_FILE;
	if (o->lazy_refcounts)
		h->compatible |= LAYOUT_COMPAT_LAZY_REFCOUNTS;
	if (o->data_file_raw)
		h->autoclear |= LAYOUT_AUTOCLEAR_DATA_FILE_RAW;
	rc = dup_string(&h->backing_name, o->backing_file, err);
	if (rc == 0)
		rc = dup_string(&h->ext.backing_format, o->backing_format, err);
	if (rc == 0)
		rc = dup_string(&h->ext.data_file, o->data_file, err);
	return rc;
}

/* Host clusters, the L1 table and preallocation; dry: nothing is written. */
static int lay_out(struct image_draft *d, bool dry, struct qcow2_error *err)
{
	uint64_t l1_bytes = (uint64_t)d->l1_entries * LAYOUT_L1_ENTRY_LEN;
	int rc;

	image_fresh_release(&d->fresh);
	rc = image_fresh_init(&d->fresh, &d->g, err);
	if (rc < 0)
		return rc;
	d->l1_first = 0;
	d->data_end = 0;
	if (l1_bytes > 0) {
		rc = image_fresh_alloc(&d->fresh, div_ceil(l1_bytes, d->g.cluster_size),
				       &d->l1_first, err);
		if (rc < 0)
			return rc;
	}
	if (image_create_prealloc(&d->o) == QCOW2_PREALLOC_OFF)
		return 0;
	return image_prealloc(d, dry, err);
}

static int encode_header(struct image_draft *d, uint8_t **cluster, struct qcow2_error *err)
{
	struct format_header *h = &d->header;

	h->l1_entries = d->l1_entries;
	h->l1_off = d->l1_first << d->g.cluster_bits;
	h->reftable_off = d->fresh.table_first << d->g.cluster_bits;
	h->reftable_clusters = (uint32_t)d->fresh.table_nclusters;
	*cluster = mem_alloc(d->g.cluster_size, 1);
	if (!*cluster)
		return error_set(err, -ENOMEM, "no memory for a header cluster");
	return format_header_encode(h, *cluster, d->g.cluster_size, err);
}

static int plan(struct image_draft *d, struct qcow2_error *err)
{
	cleanup_free uint8_t *cluster = NULL;
	int rc;

	image_create_geometry(&d->o, &d->g);
	d->l1_entries = (uint32_t)format_size_to_l1(&d->g, d->o.size);
	rc = init_header(d, err);
	if (rc == 0)
		rc = lay_out(d, true, err);
	if (rc == 0)
		rc = encode_header(d, &cluster, err);
	return rc;
}

/* Bytes that the image file takes, if no more is allocated. */
static uint64_t host_bytes(const struct image_draft *d)
{
	return max_u64(d->data_end, image_fresh_end(&d->fresh) << d->g.cluster_bits);
}

static int check_devices(const struct image_draft *d, struct qcow2_error *err)
{
	if (d->file.is_device && host_bytes(d) > d->file.device_bytes)
		return error_set(
			err, -ENOSPC,
			"can't create \"%s\": the image needs %llu bytes and the device has "
			"%llu",
			d->file.path, (unsigned long long)host_bytes(d),
			(unsigned long long)d->file.device_bytes);
	if (d->data.is_device && d->o.size > d->data.device_bytes)
		return error_set(err, -ENOSPC,
				 "can't create \"%s\": the disk has %llu bytes and the data file's "
				 "device \"%s\" %llu",
				 d->file.path, (unsigned long long)d->o.size, d->data.path,
				 (unsigned long long)d->data.device_bytes);
	return 0;
}

static int open_files(struct image_draft *d, const char *path, unsigned open_flags,
		      struct qcow2_error *err)
{
	const struct qcow2_create_options *o = &d->o;
	bool replace = (o->flags & QCOW2_CREATE_OVERWRITE) != 0;
	int rc;

	rc = image_place_open(&d->file, path, replace, open_flags, err);
	if (rc == 0 && o->backing_file && d->backing_path)
		rc = image_place_differs(&d->file, d->backing_path, "backing file", err);
	if (rc < 0 || !o->data_file)
		return rc;
	rc = image_place_differs(&d->file, o->data_file, "data file", err);
	if (rc == 0)
		rc = image_place_open(&d->data, o->data_file, replace, open_flags, err);
	if (rc == 0 && d->backing_path)
		rc = image_place_differs(&d->data, d->backing_path, "backing file", err);
	return rc;
}

static int empty_files(struct image_draft *d, struct qcow2_error *err)
{
	int rc;

	rc = image_place_clear(&d->file, d->g.cluster_size, err);
	if (rc == 0)
		rc = storage_lock(d->file.st,
				  QCOW2_LOCK_READ | QCOW2_LOCK_WRITE | QCOW2_LOCK_RESIZE,
				  QCOW2_LOCK_WRITE | QCOW2_LOCK_RESIZE, err);
	if (rc < 0 || !d->o.data_file)
		return rc;
	rc = image_place_clear(&d->data, 0, err);
	if (rc == 0)
		rc = storage_lock(d->data.st,
				  QCOW2_LOCK_READ | QCOW2_LOCK_WRITE | QCOW2_LOCK_RESIZE,
				  QCOW2_LOCK_RESIZE, err);
	return rc;
}

static void release(struct image_draft *d)
{
	image_fresh_release(&d->fresh);
	format_header_release(&d->header);
	mem_free(d->l1);
	mem_free(d->backing_path);
	d->l1 = NULL;
	d->backing_path = NULL;
}

int image_draft_plan(struct image_draft *d, const struct qcow2_create_options *o,
		     struct qcow2_error *err)
{
	int rc;

	*d = (struct image_draft){.o = *o};
	rc = plan(d, err);
	if (rc < 0)
		release(d);
	return rc;
}

/* Everything is written to the end of its cluster but the L1 table, and data at the disk's end. */
uint64_t image_draft_length(const struct image_draft *d)
{
	uint64_t end = image_fresh_end(&d->fresh), bits = d->g.cluster_bits;
	uint64_t l1_bytes = (uint64_t)d->l1_entries * LAYOUT_L1_ENTRY_LEN;

	if (l1_bytes > 0 && d->l1_first + div_ceil(l1_bytes, d->g.cluster_size) == end)
		return (d->l1_first << bits) + l1_bytes;
	if (div_ceil(d->data_end, d->g.cluster_size) == end)
		return d->data_end;
	return max_u64(d->data_end, end << bits);
}

uint64_t image_draft_work(const struct image_draft *d)
{
	const struct format_geometry *g = &d->g;
	unsigned prealloc = image_create_prealloc(&d->o);
	uint64_t nclusters = div_ceil(d->o.size, g->cluster_size);
	uint64_t tables = 1 + image_fresh_count_refcounts(&d->fresh); /* and the header */
	uint64_t other_bytes = (uint64_t)d->l1_entries * LAYOUT_L1_ENTRY_LEN;

	if (prealloc != QCOW2_PREALLOC_OFF)
		tables += div_ceil(nclusters, g->l2_entries);
	if (prealloc == QCOW2_PREALLOC_FALLOC || prealloc == QCOW2_PREALLOC_FULL)
		other_bytes += g->data_file ? d->o.size : nclusters << g->cluster_bits;
	return other_bytes + (tables << g->cluster_bits);
}

int image_draft_open(struct image_draft *d, const char *path, const struct qcow2_create_options *o,
		     unsigned open_flags, struct qcow2_error *err)
{
	int rc;

	*d = (struct image_draft){.o = *o};
	rc = plan(d, err);
	if (rc < 0) {
		error_prefix(err, "can't create \"%s\"", path);
		goto fail;
	}
	/* a name that isn't a local file's can't be one of ours */
	if (o->backing_file)
		(void)image_resolve_name(path, o->backing_file, &d->backing_path, NULL);
	rc = open_files(d, path, open_flags, err);
	if (rc == 0)
		rc = check_devices(d, err);
	if (rc == 0)
		return 0;
fail:
	image_draft_abandon(d);
	return rc;
}

int image_draft_begin(struct image_draft *d, struct qcow2_error *err)
{
	int rc;

	rc = empty_files(d, err);
	if (rc == 0)
		rc = lay_out(d, false, err);
	if (rc == 0 && d->o.data_file)
		rc = image_place_fill(&d->data, d->o.size, image_create_prealloc(&d->o),
				      d->progress, err);
	return rc;
}

static int write_l1(struct image_draft *d, struct qcow2_error *err)
{
	uint64_t per_piece = d->g.cluster_size / LAYOUT_L1_ENTRY_LEN;
	struct image_batch batch;
	uint64_t done = 0;
	int rc;

	rc = image_batch_init(&batch, d->file.st, d->g.cluster_size, err);
	batch.progress = d->progress;
	while (rc == 0 && done < d->l1_entries) {
		uint64_t n = min_u64(per_piece, d->l1_entries - done);
		uint8_t *piece;

		rc = image_batch_place(
			&batch, (d->l1_first << d->g.cluster_bits) + done * LAYOUT_L1_ENTRY_LEN,
			n * LAYOUT_L1_ENTRY_LEN, &piece, err);
		if (rc < 0)
			break;
		for (uint64_t i = 0; i < n; i++)
			store_be64(piece + i * LAYOUT_L1_ENTRY_LEN, d->l1 ? d->l1[done + i] : 0);
		done += n;
	}
	if (rc == 0)
		rc = image_batch_flush(&batch, err);
	image_batch_release(&batch);
	return rc;
}

/* The header is written over zeros and after all else, so that half an image is none. */
static int write_header(struct image_draft *d, struct qcow2_error *err)
{
	cleanup_free uint8_t *cluster = NULL;
	int rc;

	rc = encode_header(d, &cluster, err);
	if (rc == 0)
		rc = storage_write(d->file.st, cluster, d->g.cluster_size, 0, err);
	return rc < 0 ? rc : storage_flush(d->file.st, err);
}

int image_draft_finish(struct image_draft *d, const struct image_fresh_patch *patch,
		       struct qcow2_error *err)
{
	uint64_t size = 0;
	int rc;

	rc = write_l1(d, err);
	if (rc == 0)
		rc = image_fresh_write(&d->fresh, d->file.st, patch, d->progress, err);
	if (rc == 0)
		rc = storage_size(d->file.st, &size, err);
	if (rc == 0 && size < d->data_end)
		rc = storage_truncate(d->file.st, d->data_end, err);
	if (rc == 0 && storage_is_open(d->data.st))
		rc = storage_flush(d->data.st, err);
	if (rc == 0)
		rc = storage_flush(d->file.st, err);
	if (rc == 0)
		rc = write_header(d, err);
	if (rc < 0)
		error_prefix(err, "creating \"%s\"", d->file.path);
	return rc;
}

void image_draft_close(struct image_draft *d)
{
	image_place_close(&d->file);
	image_place_close(&d->data);
	release(d);
}

void image_draft_abandon(struct image_draft *d)
{
	image_place_abandon(&d->file);
	image_place_abandon(&d->data);
	release(d);
}
