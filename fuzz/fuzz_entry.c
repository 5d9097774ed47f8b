/* SPDX-License-Identifier: MIT */
/*
 * Table and refcount entries. Input: 2 bytes of geometry, two words, a guest offset, then a block
 * of refcounts. Every word decodes; a word without faults encodes back to itself.
 */
#include "fuzz.h"

#include "base/num.h"
#include "format/entry.h"
#include "format/refbits.h"

static struct format_geometry take_geometry(struct fuzz_input *in)
{
	unsigned a = (unsigned)fuzz_take(in, 1), b = (unsigned)fuzz_take(in, 1);
	uint32_t cluster_bits = 9 + a % 13;
	struct format_geometry g;

	format_geometry_init(&g, b & 1 ? 2 : 3, cluster_bits, (b >> 1 & 7) % 7,
			     !(b & 1) && (b & 16) && cluster_bits >= 14, !(b & 1) && (b & 32));
	return g;
}

static uint64_t encode(const struct format_geometry *g, const struct format_l2_entry *e)
{
	switch (e->kind) {
	case FORMAT_CLUSTER_COMPRESSED:
		return format_l2_encode_compressed(g, e->host_off, e->compressed_len);
	case FORMAT_CLUSTER_ZERO_PLAIN:
	case FORMAT_CLUSTER_ZERO_ALLOCATED:
		if (!g->extended_l2)
			return format_l2_encode_zero(e->host_off, e->copied);
		return format_l2_encode_normal(e->host_off, e->copied);
	default:
		return format_l2_encode_normal(e->host_off, e->copied);
	}
}

static void check_l2(const struct format_geometry *g, uint64_t raw, uint64_t bitmap,
		     uint64_t guest_off)
{
	struct format_l2_entry e = format_l2_decode(g, raw, g->extended_l2 ? bitmap : 0);
	unsigned faults = e.faults;
	bool fits;

	CHECK(e.has_host_off ==
	      (e.kind != FORMAT_CLUSTER_UNALLOCATED && e.kind != FORMAT_CLUSTER_ZERO_PLAIN));
	CHECK(e.has_host_off || e.host_off == 0);
	if (e.kind == FORMAT_CLUSTER_COMPRESSED)
		CHECK(e.compressed_len > 0 && e.compressed_len <= 2 * g->cluster_size &&
		      (e.host_off + e.compressed_len) % 512 == 0);
	for (uint32_t i = 0; i < g->subclusters; i++) {
		enum format_cluster sub = format_l2_subcluster(g, &e, i);

		CHECK(e.has_host_off || sub == FORMAT_CLUSTER_UNALLOCATED ||
		      sub == FORMAT_CLUSTER_ZERO_PLAIN);
		CHECK((sub == FORMAT_CLUSTER_COMPRESSED) == (e.kind == FORMAT_CLUSTER_COMPRESSED));
	}
	fits = e.compressed_len <= g->cluster_size &&
	       e.host_off + e.compressed_len <= format_compressed_limit(g);
	if (!faults && (e.kind != FORMAT_CLUSTER_COMPRESSED || fits))
		CHECK(encode(g, &e) == raw);
	CHECK((format_fault_text(faults) == format_fault_text(0)) == (faults == 0));
	format_l2_check_data_file(g, &e, guest_off);
	CHECK((e.faults & ~FORMAT_FAULT_DATA_FILE_OFFSET) == faults);
}

static void check_tables(const struct format_geometry *g, uint64_t raw)
{
	struct format_l1_entry l1 = format_l1_decode(g, raw);
	struct format_reftable_entry ref = format_reftable_decode(g, raw);

	if (!l1.faults)
		CHECK(format_l1_encode(l1.l2_off, l1.copied) == raw);
	if (!ref.faults)
		CHECK(ref.refblock_off == raw);
	CHECK(l1.l2_off % 512 == 0 && ref.refblock_off % 512 == 0);
}

static void check_refcounts(const struct format_geometry *g, struct fuzz_input *in)
{
	uint32_t order = g->refcount_order;
	uint64_t value = fuzz_take(in, 8) & g->refcount_max;
	uint64_t idx = fuzz_take(in, 2), count = fuzz_take(in, 2), n;
	uint8_t *a, *b;

	in->len &= ~(size_t)7;
	n = (uint64_t)in->len * 8 >> order;
	if (n == 0)
		return;
	idx %= n;
	count %= n - idx + 1;
	a = fuzz_copy(in, in->len);
	b = fuzz_copy(in, in->len);
	format_refcount_fill(a, order, idx, count, value);
	for (uint64_t i = idx; i < idx + count; i++)
		format_refcount_set(b, order, i, value);
	CHECK(memcmp(a, b, in->len) == 0);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t got = format_refcount_get(a, order, i);

		CHECK(got <= g->refcount_max);
		if (i >= idx && i < idx + count)
			CHECK(got == value);
		format_refcount_set(b, order, i, got);
	}
	CHECK(memcmp(a, b, in->len) == 0);
	free(a);
	free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	struct format_geometry g = take_geometry(&in);
	uint64_t raw = fuzz_take(&in, 8), bitmap = fuzz_take(&in, 8), guest_off = fuzz_take(&in, 8);

	check_l2(&g, raw, bitmap, guest_off);
	check_tables(&g, raw);
	check_refcounts(&g, &in);
	CHECK(format_size_to_l1(&g, format_max_size(&g)) == LAYOUT_L1_ENTRIES_MAX);
	CHECK(format_vm_state_off(&g, guest_off) >= guest_off);
	return 0;
}
