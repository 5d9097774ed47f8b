/* SPDX-License-Identifier: MIT */
/*
 * The allocator of an image that is being made and that nobody else sees yet: it hands out host
 * clusters where QEMU would (sections 10.1 to 10.3) and knows in the end which refcount structures
 * describe them. All of it is in memory and works on runs, so that an image of millions of
 * clusters costs no more than its tables do; nothing is written before image_fresh_write.
 *
 * Invariants:
 * - A cluster is either free or in use once. Whoever needs higher counts (compressed clusters that
 *   share a host cluster) puts them into the blocks while they are being written.
 * - A cluster in use is described by a refcount block that is itself in use and in the table.
 * - Free clusters below `end` are listed in holes (sorted, apart from each other, none touching
 *   end); everything from `end` on is free. There are few holes: the table leaves one where it
 *   grows, and a run leaves one that is too small for it.
 *
 * Not for images that exist already: that is meta/alloc.
 */
#ifndef IMAGE_FRESH_H
#define IMAGE_FRESH_H

#include "base/progress.h"
#include "format/geometry.h"
#include "storage/storage.h"

struct image_fresh_run {
	uint64_t first; /* cluster index */
	uint64_t nclusters;
};

struct image_fresh_old_table; /* a refcount table that was given up; its bytes stay in the file */

struct image_fresh {
	struct format_geometry g;
	struct image_fresh_run *holes;
	size_t nholes, holes_cap;
	uint64_t end;
	uint64_t hint;	      /* where the next search begins */
	uint64_t *blocks;     /* the refcount table: cluster index of each block, 0: none */
	uint64_t table_first; /* its place */
	uint64_t table_nclusters;
	struct image_fresh_old_table *old_tables;
};

/*
 * An image of three clusters: header, refcount table, first refcount block. On failure nothing has
 * to be released.
 */
int image_fresh_init(struct image_fresh *f, const struct format_geometry *g,
		     struct qcow2_error *err);
void image_fresh_release(struct image_fresh *f);

/*
 * Takes nclusters in one piece, first fit from the hint: *first. Places the refcount blocks that
 * this needs. 0 clusters take nothing and give the hint. -EFBIG beyond the reach of the tables.
 */
int image_fresh_alloc(struct image_fresh *f, uint64_t nclusters, uint64_t *first,
		      struct qcow2_error *err);

/*
 * Takes nclusters, each by itself, as nclusters calls of the above would, in the time of a few: for
 * who only wants to know where they end.
 */
int image_fresh_alloc_each(struct image_fresh *f, uint64_t nclusters, struct qcow2_error *err);

/*
 * Takes as many free clusters from first on as there are, at most nclusters; *taken may be 0. What
 * QEMU does to put a run right behind another.
 */
int image_fresh_alloc_at(struct image_fresh *f, uint64_t first, uint64_t nclusters, uint64_t *taken,
			 struct qcow2_error *err);

/* Gives clusters in use back. The next search begins no later than there. */
int image_fresh_free(struct image_fresh *f, uint64_t first, uint64_t nclusters,
		     struct qcow2_error *err);

/* The next search begins at cluster 0, as after closing and opening the image. */
void image_fresh_rewind(struct image_fresh *f);

/*
 * Places refcount blocks and a new table for nclusters to come at the end of what is in use, as
 * preallocation does; *first is the cluster behind them, from where on all is free.
 */
int image_fresh_reserve(struct image_fresh *f, uint64_t nclusters, uint64_t *first,
			struct qcow2_error *err);

/* Is the cluster in use? *run, if not NULL, is how many in a row are like it; UINT64_MAX: all. */
bool image_fresh_used(const struct image_fresh *f, uint64_t cluster, uint64_t *run);

/* First cluster that was never in use, or is free with all behind it. */
static inline uint64_t image_fresh_end(const struct image_fresh *f)
{
	return f->end;
}

/*
 * Clusters that refcounts of so many other clusters take at least, and of themselves: the fixed
 * point of section 10.3, without room to grow.
 */
uint64_t image_fresh_refcount_clusters(const struct format_geometry *g, uint64_t clusters);

/* Clusters of the refcount table and its blocks. */
uint64_t image_fresh_count_refcounts(const struct image_fresh *f);

/*
 * Writes refcount blocks and table to the image, and what an abandoned table left in clusters that
 * are still free. patch, if not NULL, sees each block before it is written: a cluster_size buffer
 * whose entry 0 is the count of cluster first_cluster. progress: see image_batch_flush.
 */
struct image_fresh_patch {
	void (*fn)(void *opaque, uint8_t *block, uint64_t first_cluster);
	void *opaque;
};
int image_fresh_write(const struct image_fresh *f, struct qcow2_storage st,
		      const struct image_fresh_patch *patch, struct progress_work *progress,
		      struct qcow2_error *err);

#endif
