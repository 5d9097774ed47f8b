/* SPDX-License-Identifier: MIT */
/*
 * Preallocation of a new image (section 21): every guest cluster gets a host cluster, in the order
 * in which QEMU hands them out. "metadata" goes on as a sequential write would: an L2 table, its
 * data, the next table. "falloc" and "full" put the refcount structures for everything first, then
 * one area of data. With an external data file there are only tables.
 *
 * Data clusters of the image file that nobody writes stay holes; on a block device, which has
 * contents already, they are zeroed.
 */
#include "image/create.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"

struct walk {
	struct image_draft *d;
	struct image_batch *batch; /* NULL: dry */
	bool area;		   /* data lie in one area */
	uint64_t area_first;
	uint64_t mapped_end; /* the disk's size, up to the end of the last (sub)cluster */
};

/*
 * QEMU maps the disk as a write up to its end would, which fills the rest of the last cluster, or
 * subcluster, with zeros. The file system allocates them, and an external data file grows by them.
 */
static int write_tail(struct walk *w, uint64_t last_host, struct qcow2_error *err)
{
	struct image_draft *d = w->d;
	uint64_t in_cluster = d->o.size & (d->g.cluster_size - 1);
	struct image_place *place = d->g.data_file ? &d->data : &d->file;

	if (w->area || in_cluster == 0 || place->is_device)
		return 0;
	return image_write_zeros(place->st, (last_host << d->g.cluster_bits) + in_cluster,
				 w->mapped_end - d->o.size, NULL, err);
}

/* Reserves refcount structures and one run of clusters for all data: walk.area_first. */
static int take_area(struct walk *w, uint64_t nclusters, struct qcow2_error *err)
{
	const struct format_geometry *g = &w->d->g;
	struct image_fresh *fresh = &w->d->fresh;
	uint64_t taken = 0;
	int rc;

	/* tables are counted as QEMU does, one more than there are */
	rc = image_fresh_reserve(fresh, nclusters + div_ceil(nclusters, g->l2_entries) + 1,
				 &w->area_first, err);
	if (rc == 0 && nclusters > 0)
		rc = image_fresh_alloc_at(fresh, w->area_first, nclusters, &taken, err);
	assert(rc < 0 || taken == nclusters);
	return rc;
}

/* Host cluster of the data of guest clusters from `guest` on, n of them in a row. */
static int place_data(struct walk *w, uint64_t guest, uint64_t n, uint64_t *host,
		      struct qcow2_error *err)
{
	struct image_draft *d = w->d;
	uint32_t bits = d->g.cluster_bits;
	int rc;

	if (d->g.data_file) {
		*host = guest;
		return 0;
	}
	if (w->area) {
		*host = w->area_first + guest;
		return 0;
	}
	rc = image_fresh_alloc(&d->fresh, n, host, err);
	if (rc < 0)
		return rc;
	d->data_end = max_u64(
		d->data_end, (*host << bits) + min_u64(n << bits, w->mapped_end - (guest << bits)));
	if (w->batch && d->file.is_device)
		rc = storage_zero(d->file.st, *host << bits, n << bits, QCOW2_STORAGE_MAY_UNMAP,
				  err);
	return rc;
}

static int write_l2(struct walk *w, uint64_t l2, uint64_t host, uint64_t n, struct qcow2_error *err)
{
	const struct format_geometry *g = &w->d->g;
	uint8_t *table;
	int rc;

	rc = image_batch_place(w->batch, l2 << g->cluster_bits, g->cluster_size, &table, err);
	if (rc < 0)
		return rc;
	/* bitmaps of 0: no subcluster has data */
	format_l2_fill(g, table, host << g->cluster_bits, (uint32_t)n,
		       w->d->all_data ? format_subcluster_bitmap(UINT32_MAX, 0) : 0);
	return 0;
}

static int map_disk(struct walk *w, uint64_t nclusters, struct qcow2_error *err)
{
	struct image_draft *d = w->d;
	uint64_t guest = 0, last_host = 0;
	int rc;

	for (uint64_t i = 0; guest < nclusters; i++) {
		uint64_t n = min_u64(d->g.l2_entries, nclusters - guest);
		uint64_t l2, host;

		rc = image_fresh_alloc(&d->fresh, 1, &l2, err);
		if (rc == 0)
			rc = place_data(w, guest, n, &host, err);
		if (rc == 0 && w->batch)
			rc = write_l2(w, l2, host, n, err);
		if (rc < 0)
			return rc;
		d->l1[i] = format_l1_encode(l2 << d->g.cluster_bits, true);
		guest += n;
		last_host = host + n - 1;
	}
	if (!w->batch || nclusters == 0)
		return 0;
	rc = image_batch_flush(w->batch, err);
	return rc < 0 ? rc : write_tail(w, last_host, err);
}

int image_prealloc(struct image_draft *d, bool dry, struct qcow2_error *err)
{
	uint64_t nclusters = div_ceil(d->o.size, d->g.cluster_size);
	unsigned prealloc = image_create_prealloc(&d->o);
	struct image_batch batch = {0};
	struct walk w = {
		.d = d,
		.batch = dry ? NULL : &batch,
		.area = prealloc != QCOW2_PREALLOC_METADATA && !d->g.data_file,
		.mapped_end = align_up(d->o.size, 1ull << d->g.subcluster_bits),
	};
	int rc = 0;

	if (!d->l1) {
		d->l1 = mem_zalloc(d->l1_entries, sizeof(*d->l1));
		if (!d->l1)
			return error_set(err, -ENOMEM, "no memory for an L1 table of %u entries",
					 d->l1_entries);
	}
	if (!dry)
		rc = image_batch_init(&batch, d->file.st, d->g.cluster_size, err);
	batch.progress = d->progress;
	if (rc == 0 && w.area)
		rc = take_area(&w, nclusters, err);
	if (rc == 0 && w.area)
		d->data_end = (w.area_first + nclusters) << d->g.cluster_bits;
	if (rc == 0 && w.area && !dry)
		rc = image_place_reserve(&d->file, w.area_first << d->g.cluster_bits,
					 nclusters << d->g.cluster_bits, prealloc, d->progress,
					 err);
	if (rc == 0)
		rc = map_disk(&w, nclusters, err);
	image_batch_release(&batch);
	return rc;
}
