/* SPDX-License-Identifier: MIT */
/*
 * The catalogue of what can be wrong with an image: section 18.2, with what section 28 adds. A
 * finding that isn't here isn't found.
 */
#include "check/check.h"

#include <string.h>

struct entry {
	const char *name;
	enum check_kind kind;
	bool hides;	  /* clusters that it pointed to may look unused */
	const char *text; /* what is wrong; the place comes after it */
	const char *repair;
};

#define LEAK CHECK_KIND_LEAK
#define CORRUPT CHECK_KIND_CORRUPTION
#define FAILED CHECK_KIND_ERROR
#define NOTE CHECK_KIND_NOTE
#define HIDES true
#define NOTHING "nothing"
#define ZEROS "the cluster becomes zeros, unless version 2 can't say that above a backing file"
#define REBUILD "all refcounts are written anew elsewhere, unless a table is past the file's end"
#define MARK "the mark goes when nothing is wrong any more"

static const struct entry catalogue[CHECK_FINDINGS] = {
	[CHECK_LEAK] = {"leak", LEAK, false, "leaked cluster",
			"the count is lowered, unless damage may hide references"},
	[CHECK_REFCOUNT_LOW] = {"refcount-low", CORRUPT, false, "refcount too low",
				"the count is raised"},
	[CHECK_REFCOUNT_ZERO] =
		{"refcount-zero", CORRUPT, false, "cluster in use without a refcount",
		 "the count is raised; if it has no place all refcounts are written anew"},
	[CHECK_REFCOUNT_OVERFLOW] = {"refcount-overflow", CORRUPT, false,
				     "more references than a refcount of this width can tell",
				     NOTHING},
	[CHECK_L1_RESERVED] = {"l1-reserved", CORRUPT, false, "L1 entry with reserved bits set",
			       "the bits are cleared"},
	[CHECK_L1_UNALIGNED] = {"l1-unaligned", CORRUPT, HIDES, "L1 entry with an unaligned offset",
				"the entry becomes zero, unless a backing file would show"},
	[CHECK_L1_COPIED] = {"l1-copied", CORRUPT, false, "L1 entry with a wrong COPIED flag",
			     "the flag follows the refcount"},
	[CHECK_L2_RESERVED] = {"l2-reserved", CORRUPT, false, "L2 entry with reserved bits set",
			       "the bits are cleared"},
	[CHECK_L2_COPIED] = {"l2-copied", CORRUPT, false, "L2 entry with a wrong COPIED flag",
			     "the flag follows the refcount"},
	[CHECK_COMPRESSED_COPIED] = {"compressed-copied", CORRUPT, false,
				     "compressed cluster with the COPIED flag",
				     "the flag is cleared"},
	[CHECK_COMPRESSED_DATA_FILE] = {"compressed-data-file", CORRUPT, HIDES,
					"compressed cluster although there is an external data"
					" file",
					"the cluster becomes zeros"},
	[CHECK_COMPRESSED_BITMAP] = {"compressed-bitmap", CORRUPT, false,
				     "compressed cluster with a subcluster bitmap",
				     "the bitmap is cleared"},
	[CHECK_COMPRESSED_OFFSET] = {"compressed-offset", CORRUPT, HIDES,
				     "compressed cluster beyond offset 2^56", ZEROS},
	[CHECK_SUBCLUSTER_BOTH] = {"subcluster-both", CORRUPT, false,
				   "subcluster that is both allocated and zero",
				   "the subcluster becomes zeros"},
	[CHECK_SUBCLUSTER_UNALLOCATED] = {"subcluster-unallocated", CORRUPT, HIDES,
					  "allocated subclusters in an unallocated cluster",
					  "the subclusters become zeros"},
	[CHECK_ZERO_UNALIGNED] = {"zero-unaligned", CORRUPT, false,
				  "preallocated zero cluster with an unaligned offset",
				  "the cluster stays zeros, without a place in the file"},
	[CHECK_DATA_UNALIGNED] = {"data-unaligned", CORRUPT, HIDES,
				  "data cluster with an unaligned offset", ZEROS},
	[CHECK_ZERO_IN_V2] = {"zero-in-v2", CORRUPT, false, "zero cluster in a version 2 image",
			      "the entry becomes zero, unless a backing file would show"},
	[CHECK_DATA_FILE_OFFSET] =
		{"data-file-offset", CORRUPT, false,
		 "offset in the external data file that isn't the guest"
		 " offset",
		 "the offset becomes the guest's, unless the L2 table is in two places"},
	[CHECK_DATA_PAST_END] = {"data-past-end", CORRUPT, HIDES, "data past the end of the file",
				 ZEROS},
	[CHECK_L2_PAST_END] = {"l2-past-end", CORRUPT, HIDES, "L2 table past the end of the file",
			       "the entry becomes zero"},
	[CHECK_TABLE_PAST_END] = {"table-past-end", CORRUPT, HIDES,
				  "table past the end of the file", NOTHING},
	[CHECK_L2_SHARED] = {"l2-shared", CORRUPT, false,
			     "L2 table that is used as something else too",
			     "what else uses the cluster gets a copy of it"},
	[CHECK_TABLE_SHARED] =
		{"table-shared", CORRUPT, false,
		 "header or table that is used as something else too",
		 "L1 and L2 tables and data that are there get a copy elsewhere; others stay"},
	[CHECK_REFTABLE_PLACE] = {"reftable-place", CORRUPT, false,
				  "refcount table with an impossible place or size", REBUILD},
	[CHECK_REFTABLE_PAST_END] = {"reftable-past-end", CORRUPT, false,
				     "refcount table past the end of the file", REBUILD},
	[CHECK_REFTABLE_SHARED] = {"reftable-shared", CORRUPT, false,
				   "refcount table that is used as something else too", REBUILD},
	[CHECK_REFTABLE_RESERVED] = {"reftable-reserved", CORRUPT, false,
				     "refcount table entry with reserved bits set", REBUILD},
	[CHECK_REFTABLE_UNALIGNED] = {"reftable-unaligned", CORRUPT, false,
				      "refcount table entry with an unaligned offset", REBUILD},
	[CHECK_REFBLOCK_PAST_END] = {"refblock-past-end", CORRUPT, false,
				     "refcount block past the end of the file", REBUILD},
	[CHECK_REFBLOCK_SHARED] = {"refblock-shared", CORRUPT, false,
				   "refcount block that is used as something else too", REBUILD},
	[CHECK_NEEDS_REBUILD] = {"needs-rebuild", FAILED, false,
				 "the refcounts have to be rebuilt first", REBUILD},
	[CHECK_SNAPSHOTS_DATA_FILE] = {"snapshots-data-file", CORRUPT, false,
				       "internal snapshots although there is an external data"
				       " file",
				       NOTHING},
	[CHECK_SNAPSHOT_L1] = {"snapshot-l1", CORRUPT, HIDES,
			       "snapshot whose L1 table has an impossible place or size", NOTHING},
	[CHECK_SNAPSHOT_INCOMPLETE] =
		{"snapshot-incomplete", CORRUPT, false,
		 "snapshot without the extra data of version 3",
		 "the snapshot table is written anew, with the size of the disk"},
	[CHECK_SNAPSHOT_EXTRA] = {"snapshot-extra", FAILED, HIDES,
				  "snapshot table that can't be read: too much extra data",
				  NOTHING},
	[CHECK_SNAPSHOT_TABLE] = {"snapshot-table", FAILED, HIDES,
				  "snapshot table with an impossible place or size", NOTHING},
	[CHECK_BITMAPS_BAD] =
		{"bitmaps-bad", CORRUPT, HIDES, "malformed bitmap directory",
		 "all bitmaps are given up: the bit that calls them valid is cleared"},
	[CHECK_BITMAPS_MISSING] = {"bitmaps-missing", CORRUPT, false,
				   "header that calls bitmaps valid and has none",
				   "the bit that says so is cleared"},
	[CHECK_BITMAP_ENTRY] = {"bitmap-entry", CORRUPT, HIDES, "malformed bitmap table entry",
				"this part of the bitmap says that all was changed"},
	[CHECK_CRYPTO_MISSING] = {"crypto-missing", CORRUPT, HIDES,
				  "encrypted image that doesn't say where its LUKS header is",
				  NOTHING},
	[CHECK_RAW_WITHOUT_DATA_FILE] =
		{"raw-without-data-file", CORRUPT, false,
		 "header that calls the external data file raw and has none",
		 "the bit that says so is cleared"},
	[CHECK_RAW_WITH_BACKING] = {"raw-with-backing", NOTE, false,
				    "raw external data file beside a backing file", NOTHING},
	[CHECK_L2_REPEATED] = {"l2-repeated", NOTE, false,
			       "L2 table in more than one place of the disk", NOTHING},
	[CHECK_DIRTY] = {"dirty", NOTE, false, "the image wasn't closed and is marked dirty", MARK},
	[CHECK_CORRUPT] = {"corrupt", NOTE, false, "the image is marked corrupt", MARK},
};

enum check_kind check_finding_kind(enum check_finding finding)
{
	return catalogue[finding].kind;
}

bool check_finding_hides(enum check_finding finding)
{
	return catalogue[finding].hides;
}

const char *check_finding_name(enum check_finding finding)
{
	return catalogue[finding].name;
}

const char *check_finding_words(enum check_finding finding)
{
	return catalogue[finding].text;
}

const char *check_finding_repair(enum check_finding finding)
{
	return catalogue[finding].repair;
}

static bool is_refcount(enum check_finding finding)
{
	return finding <= CHECK_REFCOUNT_OVERFLOW;
}

static bool is_shared(enum check_finding finding)
{
	return finding == CHECK_L2_SHARED || finding == CHECK_TABLE_SHARED ||
	       finding == CHECK_REFTABLE_SHARED || finding == CHECK_REFBLOCK_SHARED;
}

/*
 * Adds to a text what fits of it. An image may have a finding for each of its clusters, so this is
 * where a check spends its time: not with printf.
 */
struct text {
	char *buf;
	size_t len, used;
};

static void append(struct text *t, const char *words, size_t n)
{
	n = n < t->len - t->used ? n : t->len - t->used - 1;
	memcpy(t->buf + t->used, words, n);
	t->used += n;
	t->buf[t->used] = 0;
}

/* Inline, so that the base, and the length of a literal, are known to the compiler. */
static inline void append_number(struct text *t, const char *words, uint64_t value, unsigned base)
{
	char digits[24], *end = digits + sizeof(digits), *p = end;

	do {
		*--p = "0123456789abcdef"[value % base];
		value /= base;
	} while (value > 0);
	append(t, words, strlen(words));
	append(t, p, (size_t)(end - p));
}

const char *check_finding_text(const struct check_report *r, char *buf, size_t buf_len)
{
	struct text t = {buf, buf_len, 0};

	append(&t, catalogue[r->finding].text, strlen(catalogue[r->finding].text));
	if (r->host_off != QCOW2_NO_OFFSET)
		append_number(&t, " at 0x", r->host_off, 16);
	if (r->guest_off != QCOW2_NO_OFFSET)
		append_number(&t, ", guest offset 0x", r->guest_off, 16);
	if (r->nclusters > 1) {
		append_number(&t, ", ", r->nclusters, 10);
		append(&t, " clusters", strlen(" clusters"));
	}
	if (is_refcount(r->finding)) {
		append_number(&t, ": refcount ", r->stored, 10);
		append_number(&t, ", expected ", r->computed, 10);
	} else if (is_shared(r->finding) && !r->repaired) {
		append_number(&t, ": ", r->computed, 10);
		append_number(&t, " references, expected ", r->stored, 10);
	} else if (r->entry_off != QCOW2_NO_OFFSET) {
		append_number(&t, ": 0x", r->stored, 16);
		append_number(&t, " in the entry at 0x", r->entry_off, 16);
	}
	return buf;
}
