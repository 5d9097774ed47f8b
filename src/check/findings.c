/* SPDX-License-Identifier: MIT */
/*
 * The catalogue of what can be wrong with an image: section 18.2, with what section 28 adds. A
 * finding that isn't here isn't found.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/num.h"
#include "check/check.h"

struct entry {
	const char *name;
	enum check_kind kind;
	bool hides;	  /* clusters that it pointed to may look unused */
	const char *text; /* what is wrong, after the place */
};

#define LEAK CHECK_KIND_LEAK
#define CORRUPT CHECK_KIND_CORRUPTION
#define FAILED CHECK_KIND_ERROR
#define HIDES true

static const struct entry catalogue[CHECK_FINDINGS] = {
	[CHECK_LEAK] = {"leak", LEAK, false, "leaked cluster"},
	[CHECK_REFCOUNT_LOW] = {"refcount-low", CORRUPT, false, "refcount too low"},
	[CHECK_REFCOUNT_ZERO] = {"refcount-zero", CORRUPT, false,
				 "cluster in use without a refcount"},
	[CHECK_REFCOUNT_OVERFLOW] = {"refcount-overflow", CORRUPT, false,
				     "more references than a refcount of this width can tell"},
	[CHECK_L1_RESERVED] = {"l1-reserved", CORRUPT, false, "L1 entry with reserved bits set"},
	[CHECK_L1_UNALIGNED] = {"l1-unaligned", CORRUPT, HIDES,
				"L1 entry with an unaligned offset"},
	[CHECK_L1_COPIED] = {"l1-copied", CORRUPT, false, "L1 entry with a wrong COPIED flag"},
	[CHECK_L2_RESERVED] = {"l2-reserved", CORRUPT, false, "L2 entry with reserved bits set"},
	[CHECK_L2_COPIED] = {"l2-copied", CORRUPT, false, "L2 entry with a wrong COPIED flag"},
	[CHECK_COMPRESSED_COPIED] = {"compressed-copied", CORRUPT, false,
				     "compressed cluster with the COPIED flag"},
	[CHECK_COMPRESSED_DATA_FILE] = {"compressed-data-file", CORRUPT, HIDES,
					"compressed cluster although there is an external data"
					" file"},
	[CHECK_COMPRESSED_BITMAP] = {"compressed-bitmap", CORRUPT, false,
				     "compressed cluster with a subcluster bitmap"},
	[CHECK_COMPRESSED_OFFSET] = {"compressed-offset", CORRUPT, HIDES,
				     "compressed cluster beyond offset 2^56"},
	[CHECK_SUBCLUSTER_BOTH] = {"subcluster-both", CORRUPT, false,
				   "subcluster that is both allocated and zero"},
	[CHECK_SUBCLUSTER_UNALLOCATED] = {"subcluster-unallocated", CORRUPT, HIDES,
					  "allocated subclusters in an unallocated cluster"},
	[CHECK_ZERO_UNALIGNED] = {"zero-unaligned", CORRUPT, false,
				  "preallocated zero cluster with an unaligned offset"},
	[CHECK_DATA_UNALIGNED] = {"data-unaligned", CORRUPT, HIDES,
				  "data cluster with an unaligned offset"},
	[CHECK_ZERO_IN_V2] = {"zero-in-v2", CORRUPT, false, "zero cluster in a version 2 image"},
	[CHECK_DATA_FILE_OFFSET] = {"data-file-offset", CORRUPT, false,
				    "offset in the external data file that isn't the guest"
				    " offset"},
	[CHECK_DATA_PAST_END] = {"data-past-end", CORRUPT, HIDES, "data past the end of the file"},
	[CHECK_L2_PAST_END] = {"l2-past-end", CORRUPT, HIDES, "L2 table past the end of the file"},
	[CHECK_TABLE_PAST_END] = {"table-past-end", CORRUPT, HIDES,
				  "table past the end of the file"},
	[CHECK_L2_SHARED] = {"l2-shared", CORRUPT, false,
			     "L2 table that is used as something else too"},
	[CHECK_TABLE_SHARED] = {"table-shared", CORRUPT, false,
				"header or table that is used as something else too"},
	[CHECK_REFTABLE_PLACE] = {"reftable-place", CORRUPT, false,
				  "refcount table with an impossible place or size"},
	[CHECK_REFTABLE_PAST_END] = {"reftable-past-end", CORRUPT, false,
				     "refcount table past the end of the file"},
	[CHECK_REFTABLE_SHARED] = {"reftable-shared", CORRUPT, false,
				   "refcount table that is used as something else too"},
	[CHECK_REFTABLE_RESERVED] = {"reftable-reserved", CORRUPT, false,
				     "refcount table entry with reserved bits set"},
	[CHECK_REFTABLE_UNALIGNED] = {"reftable-unaligned", CORRUPT, false,
				      "refcount table entry with an unaligned offset"},
	[CHECK_REFBLOCK_PAST_END] = {"refblock-past-end", CORRUPT, false,
				     "refcount block past the end of the file"},
	[CHECK_REFBLOCK_SHARED] = {"refblock-shared", CORRUPT, false,
				   "refcount block that is used as something else too"},
	[CHECK_NEEDS_REBUILD] = {"needs-rebuild", FAILED, false,
				 "the refcounts have to be rebuilt first"},
	[CHECK_SNAPSHOTS_DATA_FILE] = {"snapshots-data-file", CORRUPT, false,
				       "internal snapshots although there is an external data"
				       " file"},
	[CHECK_SNAPSHOT_L1] = {"snapshot-l1", CORRUPT, HIDES,
			       "snapshot whose L1 table has an impossible place or size"},
	[CHECK_SNAPSHOT_INCOMPLETE] = {"snapshot-incomplete", CORRUPT, false,
				       "snapshot without the extra data of version 3"},
	[CHECK_SNAPSHOT_EXTRA] = {"snapshot-extra", FAILED, HIDES,
				  "snapshot table that can't be read: too much extra data"},
	[CHECK_SNAPSHOT_TABLE] = {"snapshot-table", FAILED, HIDES,
				  "snapshot table with an impossible place or size"},
	[CHECK_BITMAPS_BAD] = {"bitmaps-bad", CORRUPT, HIDES, "malformed bitmap directory"},
	[CHECK_BITMAP_ENTRY] = {"bitmap-entry", CORRUPT, HIDES, "malformed bitmap table entry"},
	[CHECK_CRYPTO_MISSING] = {"crypto-missing", CORRUPT, HIDES,
				  "encrypted image that doesn't say where its LUKS header is"},
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

static bool is_refcount(enum check_finding finding)
{
	return finding <= CHECK_REFCOUNT_OVERFLOW;
}

static bool is_shared(enum check_finding finding)
{
	return finding == CHECK_L2_SHARED || finding == CHECK_TABLE_SHARED ||
	       finding == CHECK_REFTABLE_SHARED || finding == CHECK_REFBLOCK_SHARED;
}

/* Adds to a text what fits of it. */
struct text {
	char *buf;
	size_t len, used;
};

static void append(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void append(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->used, t->len - t->used, fmt, ap);
	va_end(ap);
	if (n > 0)
		t->used += min_u64((uint64_t)n, t->len - t->used - 1);
}

const char *check_finding_text(const struct check_report *r, char *buf, size_t buf_len)
{
	struct text t = {buf, buf_len, 0};

	append(&t, "%s", catalogue[r->finding].text);
	if (r->host_off != QCOW2_NO_OFFSET)
		append(&t, " at 0x%" PRIx64, r->host_off);
	if (r->guest_off != QCOW2_NO_OFFSET)
		append(&t, ", guest offset 0x%" PRIx64, r->guest_off);
	if (r->nclusters > 1)
		append(&t, ", %" PRIu64 " clusters", r->nclusters);
	if (is_refcount(r->finding))
		append(&t, ": refcount %" PRIu64 ", expected %" PRIu64, r->stored, r->computed);
	else if (is_shared(r->finding))
		append(&t, ": %" PRIu64 " references, expected %" PRIu64, r->computed, r->stored);
	else if (r->entry_off != QCOW2_NO_OFFSET)
		append(&t, ": 0x%" PRIx64 " in the entry at 0x%" PRIx64, r->stored, r->entry_off);
	return buf;
}
