/* SPDX-License-Identifier: MIT */
/*
 * One examination of one image: what the sources of check/ share. Used by one thread, while others
 * may read what is said so.
 *
 * The image is a stranger's, and what its tables say is bounded by nothing but their own size. So
 * each byte of it is read once however often it is pointed at: references are collected first,
 * with how often they are there, then followed in the order of the file. Holes are skipped.
 */
#ifndef CHECK_RUN_H
#define CHECK_RUN_H

#include <stdatomic.h>

#include "check/check.h"
#include "check/counts.h"
#include "check/longs.h"
#include "format/entry.h"
#include "format/header.h"

#define RUN_PIECE 65536u    /* tables are read in pieces of this size, a multiple of 512 */
#define RUN_REFBLOCK_BAD 1u /* no place of a block: the entry of the refcount table is damaged */
#define RUN_PASSES_MAX 8u   /* in which a repair may change what there is to count */
#define RUN_STORED_SLICES 16u
#define RUN_STORED_SLICE_LEN 4096u

/* A range of the file that a number of tables have in common. */
struct run_range {
	uint64_t start, end;
};

struct run_ranges {
	struct run_range *v;
	uint64_t n, cap;
};

/* An L2 table, and how often L1 entries point to it. */
struct run_l2 {
	uint64_t host_off;
	uint64_t refs;	      /* from all L1 tables */
	uint32_t active_refs; /* from the active one */
	uint32_t l1_index;    /* of the first in the active one */
};

struct run_stored_slice {
	uint64_t host_off; /* 0: empty; refcount blocks aren't at 0 */
	uint8_t bytes[RUN_STORED_SLICE_LEN];
};

struct check_run {
	struct qcow2_storage file;
	struct check_options options;
	struct check_result *result;
	bool after_repair;
	unsigned passes; /* examinations before this one in the same repair; their findings were
			    told */
	bool again;	 /* what was counted doesn't hold any more: look anew, and go on */

	uint64_t file_size, file_clusters; /* clusters: those that begin in the file */
	struct format_header header;	   /* holds from check_run_open on */
	struct format_geometry g;
	unsigned tolerated;

	struct counts counts;
	uint64_t table_clusters;  /* counted for anything but L2 tables and what they point to */
	uint64_t used_clusters;	  /* of the file, that something refers to */
	uint64_t packed_clusters; /* with compressed data of the active disk */
	uint64_t packed_end;	  /* behind the last of them */
	struct run_l2 *l2;	  /* once collected: sorted, each table once */
	uint64_t nl2, l2_cap;
	struct run_ranges inactive_l1; /* L1 tables of snapshots */
	struct run_ranges bitmap_tables;

	/* the refcount structure as stored */
	uint64_t *refblocks; /* host offsets; 0: none; RUN_REFBLOCK_BAD */
	uint64_t nrefblocks, refblocks_cap;
	bool reftable_usable;
	struct run_stored_slice *slices;

	/* Of the clusters that counts are stored for, behind the last that is pointed to though the
	   file ends before it: 0 if there is none. */
	uint64_t lost_idx;
	uint64_t copied_wrong;	    /* not 0: there may be COPIED flags that are wrong and that
				       nobody was told of yet */
	uint64_t copied_mended;	    /* put right */
	bool recounted;		    /* the count of something that is used was changed */
	bool changed;		    /* the image was written to */
	struct check_report mended; /* counts that the caller is to be told of; or no clusters */

	bool needs_rebuild;
	uint64_t snapshots_len;	    /* of the snapshot table, without padding at its end */
	uint64_t new_snapshots_off; /* 0: the table stays */
	uint64_t new_snapshots_len;
	uint64_t found[CHECK_FINDINGS];
	const struct longs *moving; /* L2 tables whose L1 entries are being switched */

	uint8_t *piece;	  /* RUN_PIECE bytes */
	uint8_t *cluster; /* one cluster */
	uint8_t *block;	  /* one cluster */
};

/* ---- check.c: the run ---- */

/* A report with the places unknown, to be filled in. */
struct check_report check_blank(enum check_finding finding);
/* Where the cluster begins. A refcount table may count clusters that lie past 2^64. */
uint64_t check_cluster_off(const struct check_run *run, uint64_t cluster_idx);
/* Counts a finding and tells the caller of it. Nonzero ends the check. */
int check_found(struct check_run *run, const struct check_report *r);
/* Tells the caller what a repair did, or leaves. */
int check_told(struct check_run *run, const struct check_report *r);
/* After so many of the tables. */
int check_tick(struct check_run *run, uint64_t ntables);

/* ---- read.c: reading a stranger's tables ---- */

/*
 * Calls fn for each piece (at most RUN_PIECE bytes) of [start, end) that isn't a hole or zeros,
 * clamped to the file; pieces begin where 8-byte words of the range begin.
 */
typedef int (*run_piece_fn)(struct check_run *run, void *opaque, uint64_t host_off, uint8_t *bytes,
			    size_t len, struct qcow2_error *err);
int check_read_range(struct check_run *run, uint64_t start, uint64_t end, run_piece_fn fn,
		     void *opaque, struct qcow2_error *err);
/* Reads one cluster; *zeros: it is a hole or zeros, and buf wasn't necessarily filled. */
int check_read_cluster(struct check_run *run, uint64_t host_off, uint8_t *buf, bool *zeros,
		       struct qcow2_error *err);

/*
 * Any thread: a part of the tables, at most to the end of the file; holes, and what is behind the
 * end, are zeros in buf. *sparse: the store is asked for holes; set when there was an empty part.
 */
int check_read_part(const struct check_run *run, uint64_t host_off, uint8_t *buf, size_t len,
		    _Atomic bool *sparse, struct qcow2_error *err);

/* Does a hole begin there? *len: how far it goes, at most max. */
bool check_is_hole(const struct check_run *run, uint64_t host_off, uint64_t max, uint64_t *len);

/* Makes v[idx] be there: zeros from the first of *n that wasn't on. */
int check_want_word(uint64_t **v, uint64_t *n, uint64_t *cap, uint64_t idx,
		    struct qcow2_error *err);

int check_ranges_add(struct run_ranges *r, uint64_t start, uint64_t len);
/* Calls fn for each maximal range that the same number of ranges cover, in order. */
typedef int (*run_cover_fn)(struct check_run *run, uint64_t start, uint64_t end, uint64_t times,
			    struct qcow2_error *err);
int check_ranges_sweep(struct check_run *run, const struct run_ranges *r, run_cover_fn fn,
		       struct qcow2_error *err);

/* Bytes of a table with records of variable length; behind the file's end there are zeros. */
struct run_window {
	struct check_run *run;
	uint64_t pos, end; /* in the file: of the next record, and where the table ends */
	uint8_t *buf;
	uint64_t buf_off;
	size_t have, cap;
};
/* Makes at least min(len, rest of the table) bytes from pos on visible. */
int check_window_need(struct run_window *w, uint64_t len, const uint8_t **bytes, size_t *got,
		      struct qcow2_error *err);
void check_window_release(struct run_window *w);

/* ---- count.c: counting references ---- */

/* Does the range end one cluster or more behind the end of the file? */
bool check_past_end(const struct check_run *run, uint64_t host_off, uint64_t len_bytes);
/*
 * Counts a table of so many bytes. One past the end of the file is that finding, and what of it is
 * in the file is counted. Negative on lack of memory, or what the report says.
 */
int check_count_table(struct check_run *run, uint64_t host_off, uint64_t len_bytes,
		      enum check_finding past_end, struct qcow2_error *err);
int check_count_cluster(struct check_run *run, uint64_t host_off, uint64_t refs,
			struct qcow2_error *err);
int check_no_memory(struct qcow2_error *err);
/* References to each of nclusters, with a claim: COUNTS_* or 0. */
int check_count_row(struct check_run *run, uint64_t host_off, uint64_t nclusters, uint64_t refs,
		    unsigned claim, struct qcow2_error *err);
/* What the COPIED flag of an entry says. Those in snapshots say nothing. */
unsigned check_claim(bool active, bool copied);
/* A claim about a cluster that isn't counted is looked at alone. */
int check_hold_claim(struct check_run *run, uint64_t host_off, unsigned claim,
		     struct qcow2_error *err);

/* ---- scan.c: L1 tables; scan_l2.c; extras.c: snapshots, bitmaps, encryption ---- */

int check_scan_l1(struct check_run *run, struct qcow2_error *err);
int check_scan_l2(struct check_run *run, struct qcow2_error *err);
/* Snapshots: fills inactive_l1. */
int check_scan_snapshots(struct check_run *run, struct qcow2_error *err);
int check_scan_bitmaps(struct check_run *run, struct qcow2_error *err);
int check_scan_crypto(struct check_run *run, struct qcow2_error *err);

/* ---- stored.c: the refcounts as they are stored ---- */

int check_stored_load(struct check_run *run, struct qcow2_error *err);
/* Counts the table and its blocks. */
int check_stored_count(struct check_run *run, struct qcow2_error *err);
/* Blocks and tables that something else uses too. After counting all and sealing. */
int check_stored_overlaps(struct check_run *run);
int check_stored_get(struct check_run *run, uint64_t cluster_idx, uint64_t *count,
		     struct qcow2_error *err);
void check_stored_forget(struct check_run *run);

/* What of the refcount table lies in the file. */
uint64_t check_reftable_clusters(const struct check_run *run);
/* Is there a block that has the cluster's count and can be written to? */
bool check_has_block(const struct check_run *run, uint64_t cluster_idx);

/* ---- overlap.c ---- */

int check_overlaps(struct check_run *run);
/* How many tables other than L2 tables and refcount blocks, the header too, are in the cluster. */
uint64_t check_tables_at(const struct check_run *run, uint64_t cluster_idx);
/* The same, and where that may be another number. */
uint64_t check_tables_until(const struct check_run *run, uint64_t cluster_idx, uint64_t *until);
/* Is there more than one such table anywhere in the range, in which there is one? */
bool check_tables_meet(const struct check_run *run, uint64_t first, uint64_t nclusters);

/* ---- copied.c ---- */

/* Reports the COPIED flags that are wrong by the counts as they are stored now. */
int check_copied(struct check_run *run, struct qcow2_error *err);

/* ---- compare.c ---- */

/* Are the counts in a block, of n clusters from its entry idx on, and all that is said of them as
 * they should be? n is a power of two up to CHUNK_CLUSTERS, first a multiple of it. */
bool check_counts_fit(const struct check_run *run, uint64_t first, const uint8_t *block,
		      uint64_t idx, uint64_t n);
int check_compare(struct check_run *run, struct qcow2_error *err);

/* ---- usage.c ---- */

/* Compressed data of the active disk touch n clusters. */
void check_usage_packed(struct check_run *run, uint64_t first, uint64_t n);
/* Where the space of the file goes. After counting all and sealing. */
void check_usage(struct check_run *run);

/* ---- change.c: changing tables in place ---- */

/* An entry on its way: what to say of it when it is changed. */
struct run_place {
	uint64_t entry_off, index, guest_off;
};

/* Is each cluster of the range used so many times, and for nothing else? */
bool check_is_own(const struct check_run *run, uint64_t host_off, uint64_t len_bytes,
		  uint64_t times);
/* Tells that the entry there, which was raw, has been put right. */
int check_told_entry(struct check_run *run, enum check_finding finding, const struct run_place *at,
		     uint64_t host_off, uint64_t raw, uint64_t count);
/* Calls fn for each word of the pieces that aren't zeros, and writes what it changes. */
typedef int (*run_word_fn)(struct check_run *run, void *opaque, uint64_t entry_off, uint64_t *raw,
			   struct qcow2_error *err);
int check_change_words(struct check_run *run, uint64_t start, uint64_t end, run_word_fn fn,
		       void *opaque, struct qcow2_error *err);
/* The same for the entries of an L2 table; bitmap is 0 without extended L2. */
typedef int (*run_entry_fn)(struct check_run *run, void *opaque, const struct run_l2 *l2,
			    const struct run_place *at, uint64_t *raw, uint64_t *bitmap,
			    struct qcow2_error *err);
int check_change_l2(struct check_run *run, const struct run_l2 *l2, run_entry_fn fn, void *opaque,
		    struct qcow2_error *err);

/* ---- marks.c: what the header says of the rest ---- */

int check_scan_marks(struct check_run *run);
/* Clears bits that claim what isn't there. *done: one was cleared. */
int check_repair_marks(struct check_run *run, bool *done, struct qcow2_error *err);

/* ---- clear.c: entries that lead nowhere; move.c: what overlaps ---- */

/* Is there damage that may hide references and stays, whatever check_clear does? */
bool check_hides_for_good(const struct check_run *run);
/* Both say *done if something was changed, durably: the counts don't hold any more then. */
int check_clear(struct check_run *run, bool *done, struct qcow2_error *err);
int check_move(struct check_run *run, bool *done, struct qcow2_error *err);
/* Does something lie past the end of the file? Then no refcount structure is made anew. */
bool check_is_cut_off(const struct check_run *run);
/* Writes counts that are too low, or all of them (in check.c). */
int check_repair_refcounts(struct check_run *run, struct qcow2_error *err);

/* ---- repair.c: refcounts in place, entries; rebuild.c: a new refcount structure ---- */

/*
 * Sets the stored counts to what they should be: lowers those that are too high, unless references
 * may be hidden, and with raise raises those that are too low. They are durable afterwards.
 */
int check_repair_counts(struct check_run *run, bool raise, struct qcow2_error *err);
/* Puts COPIED flags right by the counts as they are stored now; with faults also what else is
 * wrong with an entry, where that changes nothing that a reader would see. Durable afterwards. */
int check_repair_entries(struct check_run *run, bool faults, struct qcow2_error *err);
/* Writes all refcounts anew to another place and switches to them. */
int check_rebuild(struct check_run *run, struct qcow2_error *err);
/* snapshots.c: calls fn for each record of a table that has been found sound. */
struct format_snapshot;
typedef int (*run_snapshot_fn)(struct check_run *run, void *opaque, uint64_t record_off,
			       struct format_snapshot *s, struct qcow2_error *err);
int check_each_snapshot(struct check_run *run, run_snapshot_fn fn, void *opaque,
			struct qcow2_error *err);
/* Writes a complete snapshot table beside the old one, and counts it; then, once the
 * counts are stored, switches to it. Nothing happens if the table is complete. */
int check_snapshots_write(struct check_run *run, struct qcow2_error *err);
int check_snapshots_switch(struct check_run *run, struct qcow2_error *err);

#endif
