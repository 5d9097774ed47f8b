/* SPDX-License-Identifier: MIT */
/*
 * L1, L2 and refcount table entries: what a word means and what is wrong with it. Any word
 * decodes to something; nothing here decides whether a fault matters.
 */
#include "format/entry.h"

#include <assert.h>

#include "base/bytes.h"
#include "base/num.h"

_Static_assert((LAYOUT_REFTABLE_OFFSET_MASK | LAYOUT_REFTABLE_RESERVED_MASK) == UINT64_MAX, "9");

const char *format_fault_text(unsigned faults)
{
	/* Fatal ones first: they are why a read fails. */
	static const struct {
		unsigned fault;
		const char *text;
	} texts[] = {
		{FORMAT_FAULT_UNALIGNED, "an unaligned cluster offset"},
		{FORMAT_FAULT_ZERO_IN_V2, "a zero flag in a version 2 image"},
		{FORMAT_FAULT_SUBCLUSTERS, "a subcluster bitmap that contradicts itself"},
		{FORMAT_FAULT_COMPRESSED_DATA_FILE,
		 "a compressed cluster although there is an external data file"},
		{FORMAT_FAULT_COMPRESSED_OFFSET, "a compressed cluster beyond offset 2^56"},
		{FORMAT_FAULT_DATA_FILE_OFFSET,
		 "an offset in the external data file that isn't the guest offset"},
		{FORMAT_FAULT_RESERVED, "reserved bits that are set"},
		{FORMAT_FAULT_COMPRESSED_BITMAP, "a compressed cluster with a subcluster bitmap"},
		{FORMAT_FAULT_COMPRESSED_COPIED, "a compressed cluster with the COPIED flag"},
	};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (faults & texts[i].fault)
			return texts[i].text;
	return "no fault";
}

static unsigned unaligned(const struct format_geometry *g, uint64_t host_off)
{
	return is_aligned(host_off, g->cluster_size) ? 0 : FORMAT_FAULT_UNALIGNED;
}

struct format_l1_entry format_l1_decode(const struct format_geometry *g, uint64_t raw)
{
	struct format_l1_entry e = {
		.l2_off = raw & LAYOUT_ENTRY_OFFSET_MASK,
		.copied = raw & LAYOUT_ENTRY_COPIED,
		.faults = raw & LAYOUT_L1_RESERVED_MASK ? FORMAT_FAULT_RESERVED : 0,
	};

	e.faults |= unaligned(g, e.l2_off);
	/* A flag of no table; qemu-img's check looks for one at offset 0 then. */
	if (e.copied && e.l2_off == 0)
		e.faults |= FORMAT_FAULT_RESERVED;
	return e;
}

uint64_t format_l1_encode(uint64_t l2_off, bool copied)
{
	assert((l2_off & ~LAYOUT_ENTRY_OFFSET_MASK) == 0);
	return l2_off | (copied ? LAYOUT_ENTRY_COPIED : 0);
}

/* Section 8.1: the width of the offset field of a compressed descriptor. */
static uint32_t compressed_offset_bits(const struct format_geometry *g)
{
	return 70 - g->cluster_bits;
}

static struct format_l2_entry decode_compressed(const struct format_geometry *g, uint64_t raw,
						uint64_t bitmap)
{
	uint32_t x = compressed_offset_bits(g);
	uint64_t host_off = raw & ((1ull << x) - 1);
	uint64_t nsectors = (raw >> x & ((1ull << (g->cluster_bits - 8)) - 1)) + 1;
	struct format_l2_entry e = {
		.kind = FORMAT_CLUSTER_COMPRESSED,
		.has_host_off = true,
		.copied = raw & LAYOUT_ENTRY_COPIED,
		.host_off = host_off,
		.compressed_len = nsectors * LAYOUT_SECTOR - (host_off & (LAYOUT_SECTOR - 1)),
	};

	if (e.copied)
		e.faults |= FORMAT_FAULT_COMPRESSED_COPIED;
	if (host_off >= LAYOUT_COMPRESSED_OFFSET_LIMIT)
		e.faults |= FORMAT_FAULT_COMPRESSED_OFFSET;
	if (g->extended_l2 && bitmap)
		e.faults |= FORMAT_FAULT_COMPRESSED_BITMAP;
	if (g->data_file)
		e.faults |= FORMAT_FAULT_COMPRESSED_DATA_FILE;
	return e;
}

static void decode_standard(const struct format_geometry *g, struct format_l2_entry *e,
			    uint64_t raw)
{
	if (raw & LAYOUT_ENTRY_ZERO) {
		/* COPIED at offset 0 of a data file doesn't make a zero cluster allocated. */
		e->has_host_off = e->host_off != 0;
		e->kind =
			e->has_host_off ? FORMAT_CLUSTER_ZERO_ALLOCATED : FORMAT_CLUSTER_ZERO_PLAIN;
		if (g->version < 3)
			e->faults |= FORMAT_FAULT_ZERO_IN_V2;
	} else {
		e->kind = e->has_host_off ? FORMAT_CLUSTER_NORMAL : FORMAT_CLUSTER_UNALLOCATED;
	}
}

static void decode_extended(struct format_l2_entry *e, uint64_t raw, uint64_t bitmap)
{
	e->alloc_bitmap = (uint32_t)bitmap;
	e->zero_bitmap = (uint32_t)(bitmap >> 32);
	if (e->has_host_off)
		e->kind = e->zero_bitmap == UINT32_MAX ? FORMAT_CLUSTER_ZERO_ALLOCATED
						       : FORMAT_CLUSTER_NORMAL;
	else
		e->kind = e->zero_bitmap == UINT32_MAX ? FORMAT_CLUSTER_ZERO_PLAIN
						       : FORMAT_CLUSTER_UNALLOCATED;
	if (e->alloc_bitmap & (e->has_host_off ? e->zero_bitmap : UINT32_MAX))
		e->faults |= FORMAT_FAULT_SUBCLUSTERS;
	if (raw & LAYOUT_ENTRY_ZERO) /* has no meaning here, and should be 0 */
		e->faults |= FORMAT_FAULT_RESERVED;
}

struct format_l2_entry format_l2_decode(const struct format_geometry *g, uint64_t raw,
					uint64_t bitmap)
{
	struct format_l2_entry e = {0};

	if (raw & LAYOUT_ENTRY_COMPRESSED)
		return decode_compressed(g, raw, bitmap);

	e.host_off = raw & LAYOUT_ENTRY_OFFSET_MASK;
	e.copied = raw & LAYOUT_ENTRY_COPIED;
	e.has_host_off = e.host_off != 0 || (g->data_file && e.copied);
	e.faults = unaligned(g, e.host_off);
	if (raw & LAYOUT_L2_RESERVED_MASK)
		e.faults |= FORMAT_FAULT_RESERVED;
	if (g->extended_l2)
		decode_extended(&e, raw, bitmap);
	else
		decode_standard(g, &e, raw);
	return e;
}

#define AT_ONCE 8 /* entries that are compared together: a loop that needn't be left in between */

/* How many standard entries go on from the first, which is raw. */
static uint32_t straight_words(const uint8_t *table, uint64_t raw, uint64_t max, uint64_t cs)
{
	uint64_t n = 1;

	if (max < 2 || load_be64(table + LAYOUT_L2_ENTRY_LEN) != raw + cs)
		return 1; /* as in a fragmented image: nothing is compared in vain */
	for (; max - n >= AT_ONCE; n += AT_ONCE) {
		uint64_t other = 0;

		for (uint64_t i = n; i < n + AT_ONCE; i++)
			other |= load_be64(table + i * LAYOUT_L2_ENTRY_LEN) ^ (raw + i * cs);
		if (other)
			break;
	}
	while (n < max && load_be64(table + n * LAYOUT_L2_ENTRY_LEN) == raw + n * cs)
		n++;
	return (uint32_t)n;
}

uint32_t format_l2_straight(const struct format_geometry *g, const uint8_t *table,
			    uint32_t nentries, struct format_straight *run)
{
	const uint64_t full = format_subcluster_bitmap(UINT32_MAX, 0), cs = g->cluster_size;
	uint64_t raw = load_be64(table), max;
	uint32_t n = 1;

	run->host_off = raw & ~LAYOUT_ENTRY_COPIED;
	run->copied = raw & LAYOUT_ENTRY_COPIED;
	if (run->host_off == 0 || run->host_off > LAYOUT_HOST_OFF_MAX ||
	    !is_aligned(run->host_off, cs) ||
	    (g->extended_l2 && load_be64(table + LAYOUT_L2_ENTRY_LEN) != full))
		return 0;
	max = min_u64(nentries, (LAYOUT_HOST_OFF_MAX + 1 - run->host_off) >> g->cluster_bits);
	if (!g->extended_l2)
		return straight_words(table, raw, max, cs);
	while (n < max && load_be64(table += g->l2_entry_len) == (raw += cs) &&
	       load_be64(table + LAYOUT_L2_ENTRY_LEN) == full)
		n++;
	return n;
}

void format_l2_check_data_file(const struct format_geometry *g, struct format_l2_entry *e,
			       uint64_t guest_off)
{
	if (g->data_file && e->has_host_off && e->kind != FORMAT_CLUSTER_COMPRESSED &&
	    e->host_off != align_down(guest_off, g->cluster_size))
		e->faults |= FORMAT_FAULT_DATA_FILE_OFFSET;
}

enum format_cluster format_l2_subcluster(const struct format_geometry *g,
					 const struct format_l2_entry *e, uint32_t idx)
{
	if (!g->extended_l2 || e->kind == FORMAT_CLUSTER_COMPRESSED)
		return e->kind;
	assert(idx < LAYOUT_SUBCLUSTERS);
	if (e->zero_bitmap >> idx & 1)
		return e->has_host_off ? FORMAT_CLUSTER_ZERO_ALLOCATED : FORMAT_CLUSTER_ZERO_PLAIN;
	if (e->has_host_off && (e->alloc_bitmap >> idx & 1))
		return FORMAT_CLUSTER_NORMAL;
	return FORMAT_CLUSTER_UNALLOCATED;
}

uint64_t format_l2_encode_normal(uint64_t host_off, bool copied)
{
	assert((host_off & ~LAYOUT_ENTRY_OFFSET_MASK) == 0);
	return host_off | (copied ? LAYOUT_ENTRY_COPIED : 0);
}

void format_l2_fill(const struct format_geometry *g, uint8_t *table, uint64_t host_off, uint32_t n,
		    uint64_t bitmap)
{
	uint64_t entry = format_l2_encode_normal(host_off, true);

	assert(n <= g->l2_entries);
	for (uint32_t i = 0; i < n; i++, entry += g->cluster_size) {
		uint8_t *p = table + (size_t)i * g->l2_entry_len;

		store_be64(p, entry);
		if (g->extended_l2)
			store_be64(p + LAYOUT_L2_ENTRY_LEN, bitmap);
	}
	memset(table + (size_t)n * g->l2_entry_len, 0,
	       (size_t)(g->l2_entries - n) * g->l2_entry_len);
}

uint64_t format_l2_encode_zero(uint64_t host_off, bool copied)
{
	return format_l2_encode_normal(host_off, copied) | LAYOUT_ENTRY_ZERO;
}

uint64_t format_l2_encode_compressed(const struct format_geometry *g, uint64_t host_off,
				     uint64_t len)
{
	uint64_t limit = format_compressed_limit(g);
	uint64_t additional;

	assert(len > 0 && len <= g->cluster_size && host_off < limit && len <= limit - host_off);
	additional = (host_off + len - 1) / LAYOUT_SECTOR - host_off / LAYOUT_SECTOR;
	return LAYOUT_ENTRY_COMPRESSED | additional << compressed_offset_bits(g) | host_off;
}

uint64_t format_compressed_limit(const struct format_geometry *g)
{
	return min_u64(1ull << compressed_offset_bits(g), LAYOUT_COMPRESSED_OFFSET_LIMIT);
}

struct format_reftable_entry format_reftable_decode(const struct format_geometry *g, uint64_t raw)
{
	struct format_reftable_entry e = {
		.refblock_off = raw & LAYOUT_REFTABLE_OFFSET_MASK,
		.faults = raw & LAYOUT_REFTABLE_RESERVED_MASK ? FORMAT_FAULT_RESERVED : 0,
	};

	e.faults |= unaligned(g, e.refblock_off);
	return e;
}
