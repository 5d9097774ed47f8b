/* SPDX-License-Identifier: MIT */
/*
 * Examination and repair of an image, on format/ and storage/ only: nothing here asks the room
 * that keeps live metadata, so that a fault there can't hide itself. Section 18 of docs/format.md.
 *
 * Every reference in the image is counted (scan), the counts are compared with the stored ones
 * (compare), and what is wrong is put right on demand (repair, rebuild). No lock is taken: the
 * caller has it, and nobody else changes the file meanwhile.
 */
#ifndef CHECK_CHECK_H
#define CHECK_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "storage/storage.h"

enum check_finding {
	/* refcounts */
	CHECK_LEAK,
	CHECK_REFCOUNT_LOW,
	CHECK_REFCOUNT_ZERO,
	CHECK_REFCOUNT_OVERFLOW,
	/* L1 entries */
	CHECK_L1_RESERVED,
	CHECK_L1_UNALIGNED,
	CHECK_L1_COPIED,
	/* L2 entries */
	CHECK_L2_RESERVED,
	CHECK_L2_COPIED,
	CHECK_COMPRESSED_COPIED,
	CHECK_COMPRESSED_DATA_FILE,
	CHECK_COMPRESSED_BITMAP,
	CHECK_COMPRESSED_OFFSET,
	CHECK_SUBCLUSTER_BOTH,
	CHECK_SUBCLUSTER_UNALLOCATED,
	CHECK_ZERO_UNALIGNED,
	CHECK_DATA_UNALIGNED,
	CHECK_ZERO_IN_V2,
	CHECK_DATA_FILE_OFFSET,
	/* where things are */
	CHECK_DATA_PAST_END,
	CHECK_L2_PAST_END,
	CHECK_TABLE_PAST_END,
	CHECK_L2_SHARED,
	CHECK_TABLE_SHARED,
	/* the refcount structure itself */
	CHECK_REFTABLE_PLACE,
	CHECK_REFTABLE_PAST_END,
	CHECK_REFTABLE_SHARED,
	CHECK_REFTABLE_RESERVED,
	CHECK_REFTABLE_UNALIGNED,
	CHECK_REFBLOCK_PAST_END,
	CHECK_REFBLOCK_SHARED,
	CHECK_NEEDS_REBUILD,
	/* snapshots */
	CHECK_SNAPSHOTS_DATA_FILE,
	CHECK_SNAPSHOT_L1,
	CHECK_SNAPSHOT_INCOMPLETE,
	CHECK_SNAPSHOT_EXTRA,
	CHECK_SNAPSHOT_TABLE,
	/* bitmaps, encryption */
	CHECK_BITMAPS_BAD,
	CHECK_BITMAPS_MISSING,
	CHECK_BITMAP_ENTRY,
	CHECK_CRYPTO_MISSING,
	/* what contradicts the rest of the header; marks */
	CHECK_RAW_WITHOUT_DATA_FILE,
	CHECK_RAW_WITH_BACKING,
	CHECK_L2_REPEATED,
	CHECK_DIRTY,
	CHECK_CORRUPT,
	CHECK_FINDINGS
};

enum check_kind {
	CHECK_KIND_LEAK,
	CHECK_KIND_CORRUPTION,
	CHECK_KIND_ERROR, /* a part of the image couldn't be examined */
	CHECK_KIND_NOTE,  /* nothing wrong by itself; counts nothing */
};

struct check_report {
	enum check_finding finding;
	uint64_t host_off;  /* the cluster or table that it is about, or QCOW2_NO_OFFSET */
	uint64_t guest_off; /* or QCOW2_NO_OFFSET */
	uint64_t entry_off; /* host offset of the entry that is wrong, or QCOW2_NO_OFFSET */
	uint64_t stored;    /* the refcount that is stored; for an entry its word */
	uint64_t computed;  /* the number of references that there are */
	uint64_t nclusters; /* so many in a row, from host_off on, have this finding; at least 1 */
	uint64_t index;	    /* of the entry in its table, of a block in its table; or no offset */
	uint64_t len_bytes; /* of what passes the end of the file */
	uint64_t cluster_size;
	bool after_repair; /* what is left after the repair, not what was found before */
	bool repaired;	   /* this has just been put right; such a report counts nothing */
	bool kept;	   /* the same finding again: the repair passes it by */
};

#define CHECK_REPAIR_LEAKS 1u
#define CHECK_REPAIR_ALL 2u
/* with ALL: entries that lead nowhere become zero, and what overlaps is moved apart */
#define CHECK_REPAIR_CLEAR 4u

struct check_options {
	unsigned repair; /* 0, CHECK_REPAIR_LEAKS, CHECK_REPAIR_ALL with or without _CLEAR */
	/*
	 * Called for every finding, and for what a repair did about it; nonzero ends the check with
	 * that code. Wrong COPIED flags come last, by the counts as a repair left them: those that
	 * it puts right are told as repaired only. May be NULL.
	 */
	int (*report)(void *opaque, const struct check_report *r);
	/* Called now and then while tables are read; nonzero as above. May be NULL. */
	int (*tick)(void *opaque, uint64_t done_bytes, uint64_t total_bytes);
	void *opaque;
};

struct check_result {
	/* What there is; after a repair, what is left. Each cluster counts. */
	uint64_t corruptions, leaks, check_errors;
	uint64_t corruptions_fixed, leaks_fixed;
	uint64_t image_end_off; /* behind the last cluster that is in use */
	uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
	/* Where the space of the file goes. */
	uint64_t data_bytes, compressed_bytes, metadata_bytes, snapshot_bytes, leaked_bytes,
		free_bytes;
	/*
	 * What is damaged may have pointed to clusters that look unused: nothing was freed, and
	 * nothing should be.
	 */
	bool hides_references;
	bool was_dirty, was_corrupt; /* marked so in the header, before a repair */
};

/*
 * file is borrowed, and not changed unless options->repair. 0: the check was completed, see
 * *result. Else it couldn't be: an I/O error, no memory, or no header that one could work with;
 * *result then holds what was found so far, and counts at least one check error.
 *
 * A repair that is interrupted at any point leaves an image that the same repair can finish.
 */
int check_image(struct qcow2_storage file, const struct check_options *options,
		struct check_result *result, struct qcow2_error *err);

/*
 * For an image that is being opened for writing (section 3.2): if its dirty bit is set everything
 * is repaired and the bit cleared. 0 also if corruptions are left that can't be repaired; then the
 * bit stays. Else the image must not be written.
 */
int check_repair_dirty(struct qcow2_storage file, struct qcow2_error *err);

enum check_kind check_finding_kind(enum check_finding finding);
/* May clusters that are in use look unused because of it? */
bool check_finding_hides(enum check_finding finding);
/* One word for programs: "leak", "l2-reserved", ... */
const char *check_finding_name(enum check_finding finding);
/* What is wrong, without the place; what a repair of everything does about it. A few words each. */
const char *check_finding_words(enum check_finding finding);
const char *check_finding_repair(enum check_finding finding);
/* A sentence about the finding, in buf, which is returned. */
const char *check_finding_text(const struct check_report *r, char *buf, size_t buf_len);

#endif
