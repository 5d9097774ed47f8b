/* SPDX-License-Identifier: MIT */
/*
 * One qcow2 image's metadata in memory: the header, one L1 table (the active one or a snapshot's)
 * and the L2 tables behind it.
 *
 * Of an image that is only read all of struct meta is immutable between open and close, but for the
 * slice cache, which has rules of its own (cache.h); so any number of threads may map at once. What
 * changes when the image does, and how, is in engine.h. It doesn't look at other images.
 */
#ifndef META_META_H
#define META_META_H

#include "disk/disk.h"
#include "format/bitmap_rec.h"
#include "format/header.h"
#include "format/snapshot_rec.h"
#include "meta/cache.h"

struct meta_bitmap_set;
struct meta_engine;

struct meta {
	struct qcow2_storage file; /* borrowed */
	struct qcow2_storage
		data;	    /* borrowed: where guest data lie, the image file or its data file */
	uint64_t file_size; /* bytes, when it was opened */
	struct format_header header;
	struct format_geometry geometry;
	unsigned tolerated; /* FORMAT_HEADER_ALLOW_*: what was wrong and let pass */

	uint64_t size_bytes;	    /* of the disk that the L1 below maps */
	uint64_t state_off;	    /* what it maps from here on is VM state: section 12.4 */
	uint64_t *l1;		    /* entries as stored, host byte order; atomic if they change */
	uint32_t l1_entries;	    /* in memory; what lies past them is zero */
	uint32_t l1_missing;	    /* of those for the disk: the file ends before them */
	struct meta_cache *l2;	    /* NULL until meta_load_l1 */
	uint64_t l2_limit;	    /* bytes that l2 may have */
	bool direct;		    /* file isn't in the page cache: reads are slow */
	uint32_t slice_entries;	    /* L2 entries in a slice */
	struct meta_engine *engine; /* NULL: the image is only read */
	struct meta_bitmap_set *bitmaps; /* see bitmap.h; NULL: nobody has asked for them */
};

#define META_SLICE_LEN_MAX 4096u

/* Of tables and refcount blocks: what is cached of them in one piece. */
static inline uint32_t meta_slice_len(const struct meta *m)
{
	uint64_t cs = m->geometry.cluster_size;

	return cs < META_SLICE_LEN_MAX ? (uint32_t)cs : META_SLICE_LEN_MAX;
}

/* An L1 entry as stored; 0 where the table has none. */
static inline uint64_t meta_l1_get(const struct meta *m, uint64_t idx)
{
	return idx < m->l1_entries ? __atomic_load_n(&m->l1[idx], __ATOMIC_ACQUIRE) : 0;
}

/*
 * Reads and checks the header. allow: FORMAT_HEADER_ALLOW_*. On failure nothing needs a release.
 * The stores are borrowed; m->data is file until the caller sets another.
 */
int meta_open(struct meta *m, struct qcow2_storage file, unsigned allow, struct qcow2_error *err);
void meta_release(struct meta *m);

/*
 * Loads the active L1 table, or that of snap, and sets up the cache for the tables behind it.
 * whole: with entries that the file ends before, for an image that is to be changed.
 */
int meta_load_l1(struct meta *m, const struct format_snapshot *snap, bool whole,
		 uint64_t cache_bytes, struct qcow2_error *err);

/* A cache for L2 tables of so many bytes, within the limit that the image was opened with. */
int meta_l2_cache_new(const struct meta *m, uint64_t tables_bytes, struct meta_cache **cache,
		      struct qcow2_error *err);

/* Whether the place and size of a snapshot's L1 table can be. */
int meta_check_snapshot_l1(const struct meta *m, const struct format_snapshot *snap,
			   struct qcow2_error *err);

/*
 * What the tables say of guest_off, for at most len_bytes (at least 1): the longest run of one
 * kind. What is disk and what is VM state there, the caller knows. store and filename of the run
 * are his to set.
 */
int meta_map(const struct meta *m, uint64_t guest_off, uint64_t len_bytes, struct disk_run *run,
	     struct qcow2_error *err);

/* The same, but a run of data is all ours alone (run->copied) or not at all. */
int meta_map_for_writing(const struct meta *m, uint64_t guest_off, uint64_t len_bytes,
			 struct disk_run *run, struct qcow2_error *err);

/* Either by the tables that are in memory: -EAGAIN, without a sentence, where that isn't enough. */
int meta_map_cached(const struct meta *m, uint64_t guest_off, uint64_t len_bytes, bool for_writing,
		    struct disk_run *run);

/*
 * Whether far fewer clusters take space on the host than are counted as used; disk_bytes is the
 * space that the image file takes. Reads refcounts, so ask once.
 */
bool meta_looks_preallocated(const struct meta *m, uint64_t disk_bytes);

/* ---- tables that reading doesn't need (tables.c) ---- */

struct meta_snapshots {
	struct format_snapshot *list;
	uint64_t *host_off; /* of each record */
	size_t count;
};

/* Reads the snapshot table. On failure *s is empty. */
int meta_load_snapshots(const struct meta *m, struct meta_snapshots *s, struct qcow2_error *err);
void meta_snapshots_release(struct meta_snapshots *s);
/* Bytes that the first count records take in the file. */
uint64_t meta_snapshots_len(const struct meta_snapshots *s, size_t count);
/* By id, then by name; NULL if there is none. */
const struct format_snapshot *meta_find_snapshot(const struct meta_snapshots *s, const char *id);

struct meta_bitmaps {
	struct format_bitmap *list;
	uint64_t *host_off;
	size_t count;
};

/* Reads the bitmap directory, empty if there is none or it isn't valid by its autoclear bit. */
int meta_load_bitmaps(const struct meta *m, struct meta_bitmaps *b, struct qcow2_error *err);
void meta_bitmaps_release(struct meta_bitmaps *b);

/*
 * Reads len bytes of a table at host_off, but no more than the file has: *got tells. The rest of
 * the table is zero. Memory is bounded by the file's size. *bytes is the caller's.
 */
int meta_read_table(const struct meta *m, uint64_t host_off, uint64_t len_bytes, uint8_t **bytes,
		    size_t *got, struct qcow2_error *err);

#endif
