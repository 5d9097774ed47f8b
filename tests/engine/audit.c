/* SPDX-License-Identifier: MIT */
/* See audit.h. Numbers in comments are sections of the format reference. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "engine/audit.h"
#include "engine/bulk.h"

#define OFFSET_MASK 0x00fffffffffffe00ull
#define COPIED (1ull << 63)
#define PACKED (1ull << 62)
#define RESERVED_STANDARD 0x3f000000000001feull /* of an L2 entry: 7.3 */
#define RESERVED_L1 0x7f000000000001ffull

struct looked {
	const uint8_t *bytes;
	uint64_t len;
	struct audit *a;
	uint64_t cs, nclusters; /* clusters that can be counted */
	unsigned bits, order;
	uint32_t version;
	uint64_t incompat, autoclear;
	bool extended, data_file;
	uint64_t table_off, table_entries;
	uint32_t *refs;	   /* of each cluster */
	uint32_t *flagged; /* COPIED flags that say that a cluster with a larger count has one */
	uint8_t *meta;	   /* a table or header is there */
};

static uint64_t be(const struct looked *l, uint64_t off, unsigned n)
{
	uint64_t v = 0;

	if (n == 8 && off < l->len && l->len - off >= 8)
		return load_be64(l->bytes + off);
	for (unsigned i = 0; i < n; i++)
		v = v << 8 | (off + i < l->len ? l->bytes[off + i] : 0);
	return v;
}

__attribute__((format(printf, 2, 3))) static void corrupt(struct looked *l, const char *fmt, ...)
{
	va_list ap;

	if (l->a->corruptions++ > 0)
		return;
	va_start(ap, fmt);
	vsnprintf(l->a->first, sizeof(l->a->first), fmt, ap);
	va_end(ap);
}

/* Somebody refers to [off, off + len). */
static void refer(struct looked *l, uint64_t off, uint64_t len, bool meta, const char *who,
		  uint64_t idx)
{
	/* the last cluster of the file may be there in part, no more */
	if (len > 0 && off + len >= l->len + l->cs)
		corrupt(l, "%s %" PRIu64 " refers to 0x%" PRIx64 ", behind the end of the file",
			who, idx, off);
	for (uint64_t c = off / l->cs; len > 0 && c <= (off + len - 1) / l->cs; c++) {
		if (c >= l->nclusters) {
			corrupt(l, "%s %" PRIu64 " refers to 0x%" PRIx64 ", far behind the end",
				who, idx, off);
			return;
		}
		if (l->refs[c] > 0 && (meta || l->meta[c]) && !(meta && l->meta[c] == 2))
			corrupt(l, "%s %" PRIu64 " shares cluster 0x%" PRIx64 " with metadata", who,
				idx, c * l->cs);
		l->refs[c]++;
		l->meta[c] |= meta;
	}
}

static uint64_t stored_count(const struct looked *l, uint64_t cluster)
{
	uint64_t per_block = l->cs * 8 >> l->order;
	uint64_t block, bit, v;

	if (cluster / per_block >= l->table_entries)
		return 0;
	block = be(l, l->table_off + cluster / per_block * 8, 8) & ~(l->cs - 1);
	if (block == 0)
		return 0;
	bit = cluster % per_block << l->order;
	if (l->order >= 3)
		return be(l, block + bit / 8, 1u << (l->order - 3));
	v = be(l, block + bit / 8, 1);
	return v >> bit % 8 & ((1u << (1u << l->order)) - 1);
}

/* ---- the guest's tables ---- */

static void check_copied(struct looked *l, uint64_t entry, uint64_t off, const char *who,
			 uint64_t idx)
{
	uint64_t n = stored_count(l, off / l->cs);

	if (!l->a->dirty && entry & COPIED && n > 1 && off / l->cs < l->nclusters)
		l->flagged[off / l->cs]++;
	l->a->harmless_flags += !l->a->dirty && !(entry & COPIED) && n == 1;
	if (!l->a->dirty && ((entry & COPIED) != 0) != (n == 1))
		corrupt(l, "%s %" PRIu64 " (0x%016" PRIx64 "): the refcount is %" PRIu64, who, idx,
			entry, n);
}

static void see_packed(struct looked *l, uint64_t entry, uint64_t bitmap, uint64_t idx)
{
	unsigned x = 62 - (l->bits - 8);
	uint64_t off = entry & ((1ull << x) - 1);
	uint64_t sectors = (entry & ~(COPIED | PACKED)) >> x;
	uint64_t len = (sectors + 1) * 512 - off % 512;

	l->a->packed_clusters++;
	if (entry & COPIED || bitmap || l->data_file || off == 0)
		corrupt(l, "compressed entry %" PRIu64 " (0x%016" PRIx64 ") makes no sense", idx,
			entry);
	refer(l, off, len, false, "compressed entry", idx);
}

static void see_standard(struct looked *l, uint64_t entry, uint64_t bitmap, uint64_t idx,
			 bool active)
{
	uint64_t off = entry & OFFSET_MASK;
	uint32_t alloc = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32);

	if (entry & RESERVED_STANDARD || off % l->cs != 0)
		corrupt(l, "L2 entry %" PRIu64 " is 0x%016" PRIx64, idx, entry);
	if (entry & 1 && (l->version < 3 || l->extended))
		corrupt(l, "L2 entry %" PRIu64 " has a zero flag (0x%016" PRIx64 ")", idx, entry);
	if (l->extended && (alloc & zero || (alloc && off == 0 && !l->data_file)))
		corrupt(l, "L2 entry %" PRIu64 " has the bitmap 0x%016" PRIx64, idx, bitmap);
	if (l->data_file) {
		if (off && off != idx * l->cs && l->autoclear & 2)
			corrupt(l,
				"L2 entry %" PRIu64 " (0x%016" PRIx64 ") isn't where raw data are",
				idx, entry);
		return;
	}
	if (off == 0) {
		if (entry & COPIED)
			corrupt(l, "L2 entry %" PRIu64 " is 0x%016" PRIx64, idx, entry);
		return;
	}
	l->a->data_clusters += active;
	refer(l, off, l->cs, false, "L2 entry", idx);
	if (active)
		check_copied(l, entry, off, "L2 entry", idx);
}

static void see_l2(struct looked *l, uint64_t l2_off, uint64_t first, bool active)
{
	unsigned width = l->extended ? 16 : 8;
	uint64_t n = l->cs / width;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t entry = be(l, l2_off + i * width, 8);
		uint64_t bitmap = l->extended ? be(l, l2_off + i * width + 8, 8) : 0;

		if (entry & PACKED)
			see_packed(l, entry, bitmap, first + i);
		else
			see_standard(l, entry, bitmap, first + i, active);
	}
}

static void see_l1(struct looked *l, uint64_t l1_off, uint64_t entries, bool active)
{
	uint64_t per_l2 = l->cs / (l->extended ? 16 : 8);

	if (l1_off % l->cs != 0 || entries > 4194304) {
		corrupt(l, "an L1 table of %" PRIu64 " entries at 0x%" PRIx64, entries, l1_off);
		return;
	}
	refer(l, l1_off, entries * 8, true, "L1 table", 0);
	for (uint64_t i = 0; i < entries; i++) {
		uint64_t entry = be(l, l1_off + i * 8, 8), off = entry & OFFSET_MASK;

		if (entry & RESERVED_L1 || off % l->cs != 0 || (off == 0 && entry != 0)) {
			corrupt(l, "L1 entry %" PRIu64 " is 0x%016" PRIx64, i, entry);
			continue;
		}
		if (off == 0)
			continue;
		refer(l, off, l->cs, true, "L1 entry", i);
		if (off / l->cs < l->nclusters)
			l->meta[off / l->cs] = 2; /* tables may be shared by snapshots */
		if (active)
			check_copied(l, entry, off, "L1 entry", i);
		see_l2(l, off, i * per_l2, active);
	}
}

static void see_snapshots(struct looked *l)
{
	uint64_t n = be(l, 60, 4), off = be(l, 64, 8), start = off;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t extra = be(l, off + 36, 4);
		uint64_t names = be(l, off + 12, 2) + be(l, off + 14, 2);

		see_l1(l, be(l, off, 8), be(l, off + 8, 4), false);
		off += (40 + extra + names + 7) & ~7ull;
	}
	if (n > 0)
		refer(l, start, off - start, true, "snapshot table", 0);
}

/* ---- bitmaps ---- */

/* Where the data of the bitmaps extension are; 0: there is none. */
static uint64_t find_bitmaps(const struct looked *l)
{
	uint64_t at = be(l, 100, 4);

	while (at + 8 <= l->cs && be(l, at, 4) != 0) {
		if (be(l, at, 4) == 0x23852875)
			return at + 8;
		at += 8 + ((be(l, at + 4, 4) + 7) & ~7ull);
	}
	return 0;
}

static void see_bitmap(struct looked *l, uint64_t off, uint64_t idx)
{
	uint64_t table = be(l, off, 8), n = be(l, off + 8, 4);

	refer(l, table, n * 8, true, "bitmap", idx);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t entry = be(l, table + i * 8, 8);

		if (entry > 1 && (entry & ~OFFSET_MASK || entry % l->cs != 0))
			corrupt(l, "entry %" PRIu64 " of bitmap %" PRIu64 " is 0x%016" PRIx64, i,
				idx, entry);
		else if (entry > 1)
			refer(l, entry, l->cs, true, "bitmap table entry", i);
	}
}

static void see_bitmaps(struct looked *l)
{
	uint64_t at = l->autoclear & 1 ? find_bitmaps(l) : 0, off, end;

	if (at == 0)
		return;
	off = be(l, at + 16, 8);
	end = off + be(l, at + 8, 8);
	refer(l, off, end - off, true, "bitmap directory", 0);
	for (uint64_t i = 0; i < be(l, at, 4) && off < end; i++) {
		see_bitmap(l, off, i);
		off += (24 + be(l, off + 18, 2) + be(l, off + 20, 4) + 7) & ~7ull;
	}
	if (off != end)
		corrupt(l, "the bitmap directory ends at 0x%" PRIx64 ", not at 0x%" PRIx64, off,
			end);
}

/* ---- refcounts ---- */

static void see_refcounts(struct looked *l)
{
	refer(l, l->table_off, l->table_entries * 8, true, "refcount table", 0);
	for (uint64_t i = 0; i < l->table_entries; i++) {
		uint64_t off = be(l, l->table_off + i * 8, 8);

		if (off % l->cs != 0)
			corrupt(l, "refcount table entry %" PRIu64 " is 0x%" PRIx64, i, off);
		else if (off != 0)
			refer(l, off, l->cs, true, "refcount block", i);
	}
}

static void compare_counts(struct looked *l)
{
	uint64_t per_block = l->cs * 8 >> l->order;
	uint64_t n = l->table_entries * per_block;

	for (uint64_t c = 0; c < (n > l->nclusters ? n : l->nclusters); c++) {
		uint64_t refs = c < l->nclusters ? l->refs[c] : 0, count;

		if (c % per_block == 0 && c >= l->nclusters &&
		    be(l, l->table_off + c / per_block * 8, 8) == 0) {
			c += per_block - 1;
			continue;
		}
		count = stored_count(l, c);
		if (refs == 1)
			l->a->harmless_flags += l->flagged[c];
		if (count < refs)
			corrupt(l,
				"cluster 0x%" PRIx64 " has %" PRIu64
				" references, refcount %" PRIu64,
				c * l->cs, refs, count);
		if (count > refs && l->a->leaks++ == 0 && l->a->corruptions == 0)
			snprintf(l->a->first, sizeof(l->a->first),
				 "leak: cluster 0x%" PRIx64 " has %" PRIu64
				 " references, refcount %" PRIu64,
				 c * l->cs, refs, count);
	}
}

/* ---- the whole ---- */

static bool see_header(struct looked *l)
{
	l->version = (uint32_t)be(l, 4, 4);
	l->bits = (unsigned)be(l, 20, 4);
	if (be(l, 0, 4) != 0x514649fb || l->version < 2 || l->version > 3 || l->bits < 9 ||
	    l->bits > 21) {
		corrupt(l, "the header isn't one");
		return false;
	}
	l->cs = 1ull << l->bits;
	l->order = 4;
	if (l->version == 3) {
		l->incompat = be(l, 72, 8);
		l->autoclear = be(l, 88, 8);
		l->order = (unsigned)be(l, 96, 4);
	}
	l->a->size_bytes = be(l, 24, 8);
	l->a->dirty = l->incompat & 1;
	l->data_file = l->incompat & 4;
	l->extended = l->incompat & 16;
	l->table_off = be(l, 48, 8);
	l->table_entries = be(l, 56, 4) * (l->cs / 8);
	if (l->incompat & 2 || l->incompat >> 5 || l->order > 6 || l->table_off % l->cs != 0 ||
	    l->table_entries > 1048576 || be(l, 36, 4) > 4194304) {
		corrupt(l, "the header has features 0x%" PRIx64 " or fields that make no sense",
			l->incompat);
		return false;
	}
	return true;
}

void audit_image(const uint8_t *bytes, uint64_t len, struct audit *a)
{
	struct looked l = {.bytes = bytes, .len = len, .a = a};
	uint64_t per_l2;

	*a = (struct audit){0};
	if (!see_header(&l))
		return;
	/* a cluster may be taken before the file is that long, but not long before */
	l.nclusters = len / l.cs + 4096;
	l.refs = bulk_zeroed(l.nclusters * sizeof(*l.refs));
	l.meta = bulk_zeroed(l.nclusters);
	l.flagged = bulk_zeroed(l.nclusters * sizeof(*l.flagged));
	refer(&l, 0, l.cs, true, "header", 0);
	see_refcounts(&l);
	per_l2 = l.cs / (l.extended ? 16 : 8);
	if (be(&l, 36, 4) < (a->size_bytes + l.cs * per_l2 - 1) / (l.cs * per_l2))
		corrupt(&l, "the L1 table is too short for the disk");
	see_l1(&l, be(&l, 40, 8), be(&l, 36, 4), true);
	see_snapshots(&l);
	see_bitmaps(&l);
	if (!a->dirty)
		compare_counts(&l);
	bulk_free(l.refs);
	bulk_free(l.flagged);
	bulk_free(l.meta);
}
