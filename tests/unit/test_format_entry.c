/* SPDX-License-Identifier: MIT */
/* L1, L2, compressed and refcount table entries, bit by bit: sections 7, 8.1 and 9. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/bytes.h"
#include "format/entry.h"

#define COPIED (1ull << 63)
#define COMPRESSED (1ull << 62)

static struct format_geometry geometry(uint32_t version, uint32_t cluster_bits, bool extended_l2,
				       bool data_file)
{
	struct format_geometry g;

	format_geometry_init(&g, version, cluster_bits, 4, extended_l2, data_file);
	return g;
}

static void each_bit_of_an_l1_entry_has_its_meaning(void **state)
{
	(void)state;
	for (uint32_t c = 9; c <= 21; c++) {
		struct format_geometry g = geometry(3, c, false, false);

		for (uint32_t bit = 0; bit < 64; bit++) {
			struct format_l1_entry e = format_l1_decode(&g, 1ull << bit);
			bool offset = bit >= 9 && bit <= 55;
			unsigned faults = offset && bit < c ? FORMAT_FAULT_UNALIGNED : 0;

			/* COPIED, bit 63, needs something to be the flag of. */
			if (bit < 9 || bit >= 56)
				faults = FORMAT_FAULT_RESERVED;
			assert_true(e.l2_off == (offset ? 1ull << bit : 0));
			assert_int_equal(e.copied, bit == 63);
			assert_int_equal(e.faults, faults);
		}
	}
}

static void each_bit_of_an_l2_entry_has_its_meaning(void **state)
{
	(void)state;
	for (uint32_t c = 9; c <= 21; c++) {
		struct format_geometry g = geometry(3, c, false, false);

		for (uint32_t bit = 0; bit < 62; bit++) {
			struct format_l2_entry e = format_l2_decode(&g, 1ull << bit, 0);
			bool offset = bit >= 9 && bit <= 55;
			enum format_cluster kind =
				offset ? FORMAT_CLUSTER_NORMAL : FORMAT_CLUSTER_UNALLOCATED;
			unsigned faults = offset && bit < c ? FORMAT_FAULT_UNALIGNED : 0;

			if (bit == 0)
				kind = FORMAT_CLUSTER_ZERO_PLAIN;
			else if (!offset)
				faults = FORMAT_FAULT_RESERVED;
			assert_int_equal(e.kind, kind);
			assert_int_equal(e.has_host_off, offset);
			assert_true(e.host_off == (offset ? 1ull << bit : 0));
			assert_int_equal(e.faults, faults);
			assert_false(e.copied);
		}
	}
}

static void copied_alone_allocates_only_in_a_data_file(void **state)
{
	struct format_geometry g = geometry(3, 16, false, false);
	struct format_geometry d = geometry(3, 16, false, true);
	struct format_l2_entry e = format_l2_decode(&g, COPIED, 0);

	(void)state;
	assert_int_equal(e.kind, FORMAT_CLUSTER_UNALLOCATED);
	assert_false(e.has_host_off);
	assert_int_equal(e.faults, 0);

	e = format_l2_decode(&d, COPIED, 0);
	assert_int_equal(e.kind, FORMAT_CLUSTER_NORMAL);
	assert_true(e.has_host_off && e.host_off == 0 && e.copied);
	e = format_l2_decode(&d, 0, 0);
	assert_int_equal(e.kind, FORMAT_CLUSTER_UNALLOCATED);
	e = format_l2_decode(&d, COPIED | 1, 0);
	assert_int_equal(e.kind, FORMAT_CLUSTER_ZERO_PLAIN);
	assert_false(e.has_host_off);
}

static void zero_flag_needs_version_3(void **state)
{
	struct format_geometry v2 = geometry(2, 16, false, false);
	struct format_geometry v3 = geometry(3, 16, false, false);
	struct format_l2_entry e = format_l2_decode(&v3, COPIED | 0x50001, 0);

	(void)state;
	assert_int_equal(e.kind, FORMAT_CLUSTER_ZERO_ALLOCATED);
	assert_true(e.has_host_off && e.host_off == 0x50000 && e.copied && e.faults == 0);
	e = format_l2_decode(&v2, 0x50001, 0);
	assert_int_equal(e.faults, FORMAT_FAULT_ZERO_IN_V2);
	e = format_l2_decode(&v2, 1, 0);
	assert_int_equal(e.kind, FORMAT_CLUSTER_ZERO_PLAIN);
	assert_true(e.faults & FORMAT_FAULT_FATAL);
	assert_int_equal(format_l2_decode(&v3, 0x50201, 0).faults, FORMAT_FAULT_UNALIGNED);
}

static void data_file_offsets_must_equal_guest_offsets(void **state)
{
	struct format_geometry g = geometry(3, 16, false, true);
	struct format_geometry plain = geometry(3, 16, false, false);
	static const struct {
		uint64_t raw, guest_off;
		bool bad;
	} cases[] = {
		{COPIED | 0x30000, 0x30000, false},
		{COPIED | 0x30000, 0x3ffff, false},
		{COPIED | 0x30000, 0x40000, true},
		{COPIED | 0x30001, 0x20000, true},
		{COPIED | 0x30001, 0x30000, false},
		{COPIED, 0, false},
		{COPIED, 0x10000, true},
		{0, 0x10000, false},
		{1, 0x10000, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct format_l2_entry e = format_l2_decode(&g, cases[i].raw, 0);

		format_l2_check_data_file(&g, &e, cases[i].guest_off);
		assert_int_equal(e.faults, cases[i].bad ? FORMAT_FAULT_DATA_FILE_OFFSET : 0);
		e = format_l2_decode(&plain, cases[i].raw, 0);
		format_l2_check_data_file(&plain, &e, cases[i].guest_off);
		assert_int_equal(e.faults, 0);
	}
}

/* Section 7.4's table, for one subcluster in each place. */
static void each_subcluster_has_its_two_bits(void **state)
{
	struct format_geometry g = geometry(3, 14, true, false);

	(void)state;
	for (uint32_t i = 0; i < 32; i++) {
		uint64_t alloc = 1ull << i, zero = 1ull << (32 + i);
		struct format_l2_entry e = format_l2_decode(&g, 0x4000, alloc);

		assert_int_equal(e.kind, FORMAT_CLUSTER_NORMAL);
		assert_int_equal(e.faults, 0);
		for (uint32_t k = 0; k < 32; k++)
			assert_int_equal(format_l2_subcluster(&g, &e, k),
					 k == i ? FORMAT_CLUSTER_NORMAL
						: FORMAT_CLUSTER_UNALLOCATED);
		e = format_l2_decode(&g, 0x4000, zero);
		assert_int_equal(e.faults, 0);
		for (uint32_t k = 0; k < 32; k++)
			assert_int_equal(format_l2_subcluster(&g, &e, k),
					 k == i ? FORMAT_CLUSTER_ZERO_ALLOCATED
						: FORMAT_CLUSTER_UNALLOCATED);
		e = format_l2_decode(&g, 0, zero);
		assert_int_equal(e.kind, FORMAT_CLUSTER_UNALLOCATED);
		assert_int_equal(e.faults, 0);
		assert_int_equal(format_l2_subcluster(&g, &e, i), FORMAT_CLUSTER_ZERO_PLAIN);
		assert_int_equal(format_l2_subcluster(&g, &e, (i + 1) % 32),
				 FORMAT_CLUSTER_UNALLOCATED);

		assert_int_equal(format_l2_decode(&g, 0x4000, alloc | zero).faults,
				 FORMAT_FAULT_SUBCLUSTERS);
		assert_int_equal(format_l2_decode(&g, 0, alloc).faults, FORMAT_FAULT_SUBCLUSTERS);
		assert_int_equal(format_l2_decode(&g, 0, alloc | zero).faults,
				 FORMAT_FAULT_SUBCLUSTERS);
		assert_true(format_subcluster_bitmap((uint32_t)alloc, 1u << i) == (alloc | zero));
	}
}

static void extended_entries_ignore_the_zero_flag(void **state)
{
	struct format_geometry g = geometry(3, 16, true, false);
	struct format_geometry d = geometry(3, 16, true, true);
	struct format_l2_entry e = format_l2_decode(&g, COPIED | 0x50001, 0xffffffff);

	(void)state;
	assert_int_equal(e.kind, FORMAT_CLUSTER_NORMAL);
	assert_int_equal(e.faults, FORMAT_FAULT_RESERVED);
	assert_int_equal(format_l2_subcluster(&g, &e, 31), FORMAT_CLUSTER_NORMAL);
	e = format_l2_decode(&g, 1, 0);
	assert_int_equal(e.kind, FORMAT_CLUSTER_UNALLOCATED);
	e = format_l2_decode(&g, 0, 0xffffffff00000000);
	assert_int_equal(e.kind, FORMAT_CLUSTER_ZERO_PLAIN);
	e = format_l2_decode(&g, 0x50000, 0xffffffff00000000);
	assert_int_equal(e.kind, FORMAT_CLUSTER_ZERO_ALLOCATED);
	e = format_l2_decode(&d, COPIED, 1);
	assert_int_equal(e.kind, FORMAT_CLUSTER_NORMAL);
	assert_int_equal(e.faults, 0);
	assert_int_equal(format_l2_decode(&d, 0, 1).faults, FORMAT_FAULT_SUBCLUSTERS);
}

static void several_faults_are_all_told(void **state)
{
	struct format_geometry v2 = geometry(2, 16, false, false);
	struct format_geometry x = geometry(3, 16, true, true);

	(void)state;
	assert_int_equal(format_l1_decode(&v2, 0x201).faults,
			 FORMAT_FAULT_RESERVED | FORMAT_FAULT_UNALIGNED);
	assert_int_equal(format_reftable_decode(&v2, 0x201).faults,
			 FORMAT_FAULT_RESERVED | FORMAT_FAULT_UNALIGNED);
	assert_int_equal(format_l2_decode(&v2, 0x203, 0).faults,
			 FORMAT_FAULT_RESERVED | FORMAT_FAULT_UNALIGNED | FORMAT_FAULT_ZERO_IN_V2);
	assert_int_equal(format_l2_decode(&x, 0x202, 0x100000001).faults,
			 FORMAT_FAULT_RESERVED | FORMAT_FAULT_UNALIGNED | FORMAT_FAULT_SUBCLUSTERS);
	assert_int_equal(format_l2_decode(&x, COPIED | COMPRESSED | 5, 1).faults,
			 FORMAT_FAULT_COMPRESSED_COPIED | FORMAT_FAULT_COMPRESSED_BITMAP |
				 FORMAT_FAULT_COMPRESSED_DATA_FILE);
}

static void standard_entries_have_no_subclusters(void **state)
{
	struct format_geometry g = geometry(3, 16, false, false);
	struct format_l2_entry e = format_l2_decode(&g, 0x50000, 0);

	(void)state;
	assert_int_equal(format_l2_subcluster(&g, &e, 0), FORMAT_CLUSTER_NORMAL);
	e = format_l2_decode(&g, COMPRESSED | 5, 0);
	assert_int_equal(format_l2_subcluster(&g, &e, 0), FORMAT_CLUSTER_COMPRESSED);
}

static void the_descriptor_of_the_reference_decodes(void **state)
{
	struct format_geometry g = geometry(3, 16, false, false);
	struct format_l2_entry e = format_l2_decode(&g, 0x4A00000000054F23, 0);

	(void)state;
	assert_int_equal(e.kind, FORMAT_CLUSTER_COMPRESSED);
	assert_true(e.host_off == 0x54f23 && e.compressed_len == 20701 && e.faults == 0);
	assert_true(format_l2_encode_compressed(&g, 0x54f23, 20261) == 0x4A00000000054F23);
}

static void check_descriptor(const struct format_geometry *g, uint64_t host_off, uint64_t len)
{
	uint64_t raw = format_l2_encode_compressed(g, host_off, len);
	uint64_t end = host_off + len;
	struct format_l2_entry e = format_l2_decode(g, raw, 0);

	assert_int_equal(e.kind, FORMAT_CLUSTER_COMPRESSED);
	assert_int_equal(e.faults, 0);
	assert_true(e.has_host_off && !e.copied);
	assert_true(e.host_off == host_off);
	assert_true(e.compressed_len >= len && e.compressed_len < len + 512);
	assert_true((e.host_off + e.compressed_len) % 512 == 0);
	assert_true(e.host_off + e.compressed_len - end < 512);
}

static void descriptors_hold_any_place_and_length(void **state)
{
	(void)state;
	for (uint32_t c = 9; c <= 21; c++) {
		struct format_geometry g = geometry(3, c, false, false);
		uint64_t cs = g.cluster_size, limit = format_compressed_limit(&g);
		const uint64_t lens[] = {1, 2, 511, 512, cs / 2 + 1, cs - 1, cs};
		const uint64_t offs[] = {
			0, 1, 511, 512, 513, cs - 1, cs, 3 * cs + 257, limit / 2 + 511};

		assert_true(limit == (c <= 14 ? 1ull << 56 : 1ull << (70 - c)));
		for (size_t l = 0; l < sizeof(lens) / sizeof(lens[0]); l++) {
			for (size_t o = 0; o < sizeof(offs) / sizeof(offs[0]); o++)
				check_descriptor(&g, offs[o], lens[l]);
			check_descriptor(&g, limit - lens[l], lens[l]);
		}
	}
}

static void size_fields_reach_twice_a_cluster(void **state)
{
	(void)state;
	for (uint32_t c = 9; c <= 21; c++) {
		struct format_geometry g = geometry(3, c, false, false);
		uint32_t x = 70 - c;
		uint64_t all = ((1ull << 62) - 1) & ~((1ull << x) - 1);
		struct format_l2_entry e = format_l2_decode(&g, COMPRESSED | all, 0);

		assert_true(e.host_off == 0 && e.faults == 0);
		assert_true(e.compressed_len == 2 * g.cluster_size);
		e = format_l2_decode(&g, COMPRESSED | all | 511, 0);
		assert_true(e.host_off == 511 && e.compressed_len == 2 * g.cluster_size - 511);
		/* The lowest bit of the size field, the highest of the offset. */
		e = format_l2_decode(&g, COMPRESSED | 1ull << x, 0);
		assert_true(e.host_off == 0 && e.compressed_len == 1024);
		e = format_l2_decode(&g, COMPRESSED | 1ull << (x - 1), 0);
		assert_true(e.host_off == 1ull << (x - 1) && e.compressed_len == 512);
		assert_int_equal(e.faults, x - 1 >= 56 ? FORMAT_FAULT_COMPRESSED_OFFSET : 0);
	}
}

static void faults_of_compressed_entries(void **state)
{
	struct format_geometry g = geometry(3, 16, false, false);
	struct format_geometry x = geometry(3, 16, true, false);
	struct format_geometry d = geometry(3, 16, false, true);
	struct format_l2_entry e = format_l2_decode(&x, COMPRESSED | 0x50000, 1);

	(void)state;
	assert_int_equal(e.faults, FORMAT_FAULT_COMPRESSED_BITMAP);
	assert_int_equal(format_l2_subcluster(&x, &e, 0), FORMAT_CLUSTER_COMPRESSED);
	assert_int_equal(format_l2_subcluster(&x, &e, 31), FORMAT_CLUSTER_COMPRESSED);
	assert_int_equal(format_l2_decode(&x, COMPRESSED | 0x50000, 0).faults, 0);
	e = format_l2_decode(&g, COPIED | COMPRESSED | 0x50000, 0);
	assert_int_equal(e.faults, FORMAT_FAULT_COMPRESSED_COPIED);
	assert_true(e.copied && e.host_off == 0x50000);
	e = format_l2_decode(&d, COMPRESSED | 0x50000, 0);
	assert_int_equal(e.faults, FORMAT_FAULT_COMPRESSED_DATA_FILE);
	format_l2_check_data_file(&d, &e, 0);
	assert_int_equal(e.faults, FORMAT_FAULT_COMPRESSED_DATA_FILE);
}

static void encoding_is_the_inverse_of_decoding(void **state)
{
	struct format_geometry g = geometry(3, 16, false, false);
	struct format_l2_entry e;

	(void)state;
	assert_true(format_l1_encode(0x40000, true) == 0x8000000000040000);
	assert_true(format_l1_encode(0x40000, false) == 0x40000);
	assert_true(format_l2_encode_normal(0x00ffffffffff0000, true) == 0x80ffffffffff0000);
	assert_true(format_l2_encode_zero(0, false) == 1);
	assert_true(format_l2_encode_zero(0x50000, true) == 0x8000000000050001);
	e = format_l2_decode(&g, format_l2_encode_normal(0x00ffffffffff0000, true), 0);
	assert_true(e.host_off == 0x00ffffffffff0000 && e.copied && e.faults == 0);
}

static void each_bit_of_a_refcount_table_entry_has_its_meaning(void **state)
{
	struct format_geometry g = geometry(3, 16, false, false);

	(void)state;
	for (uint32_t bit = 0; bit < 64; bit++) {
		struct format_reftable_entry e = format_reftable_decode(&g, 1ull << bit);

		assert_true(e.refblock_off == (bit >= 9 ? 1ull << bit : 0));
		assert_int_equal(e.faults, bit < 9    ? FORMAT_FAULT_RESERVED
					   : bit < 16 ? FORMAT_FAULT_UNALIGNED
						      : 0);
	}
}

/* What is straight is what decoding one entry after the other says. */
static void a_straight_row_ends_where_an_entry_differs(void **state)
{
	enum { N = 40 };
	uint8_t table[N * 16];
	struct format_straight run;

	(void)state;
	for (unsigned kind = 0; kind < 4; kind++) {
		struct format_geometry g = geometry(3, 16, kind & 1, false);
		uint64_t flag = kind & 2 ? COPIED : 0;
		static const uint64_t odd[] = {0, 1, 2, 1ull << 62, 1ull << 56, COPIED, 512, 65536};

		for (unsigned at = 0; at < N; at++) {
			for (unsigned i = 0; i < N; i++) {
				store_be64(table + i * g.l2_entry_len, (i + 5) << 16 | flag);
				if (g.extended_l2)
					store_be64(table + i * g.l2_entry_len + 8, UINT32_MAX);
			}
			uint8_t *p = table + at * g.l2_entry_len;
			uint64_t raw = load_be64(p) ^ odd[at % 8];

			store_be64(p, raw);
			if (at % 8 == 0 && g.extended_l2)
				store_be64(p + 8, 1ull << 40 | UINT32_MAX);
			else if (at % 8 == 0)
				continue;
			if (at % 8 == 5 || at == 7) /* a cluster like others, elsewhere */
				continue;
			assert_int_equal(format_l2_straight(&g, table, N, &run), at);
			if (at == 0)
				continue;
			assert_int_equal(run.host_off, 5 << 16);
			assert_int_equal(run.copied, flag != 0);
			assert_int_equal(format_l2_straight(&g, table, at, &run), at);
		}
	}
}

static void a_straight_row_ends_at_the_last_offset_there_is(void **state)
{
	struct format_geometry g = geometry(3, 16, false, false);
	struct format_straight run;
	uint8_t table[24];

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		store_be64(table + i * 8, (1ull << 56) - 0x20000 + i * 0x10000);
	assert_int_equal(format_l2_straight(&g, table, 3, &run), 2);
	assert_int_equal(format_l2_straight(&g, table + 16, 1, &run), 0);
}

static void a_fatal_fault_is_named_before_a_harmless_one(void **state)
{
	(void)state;
	assert_string_equal(format_fault_text(FORMAT_FAULT_RESERVED | FORMAT_FAULT_UNALIGNED),
			    "an unaligned cluster offset");
	for (unsigned bit = 0; bit < 9; bit++)
		assert_string_not_equal(format_fault_text(1u << bit), format_fault_text(0));
	assert_string_equal(format_fault_text(0), "no fault");
}

static void a_table_is_filled_to_its_last_byte(void **state)
{
	const uint64_t bitmap = format_subcluster_bitmap(0xff, 0xff00);
	uint8_t table[1 << 14];

	(void)state;
	for (unsigned kind = 0; kind < 2; kind++) {
		struct format_geometry g = geometry(3, 14, kind, false);
		const uint32_t counts[] = {0, 1, g.l2_entries - 1, g.l2_entries};

		for (unsigned k = 0; k < 4; k++) {
			memset(table, 0xa5, sizeof(table));
			format_l2_fill(&g, table, 5ull << 40, counts[k], bitmap);
			for (uint64_t i = 0; i < g.l2_entries; i++) {
				const uint8_t *p = table + i * g.l2_entry_len;
				bool there = i < counts[k];

				assert_int_equal(load_be64(p),
						 there ? COPIED | ((5ull << 40) + (i << 14)) : 0);
				if (kind == 1)
					assert_int_equal(load_be64(p + 8), there ? bitmap : 0);
			}
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_bit_of_an_l1_entry_has_its_meaning),
		cmocka_unit_test(each_bit_of_an_l2_entry_has_its_meaning),
		cmocka_unit_test(copied_alone_allocates_only_in_a_data_file),
		cmocka_unit_test(zero_flag_needs_version_3),
		cmocka_unit_test(data_file_offsets_must_equal_guest_offsets),
		cmocka_unit_test(each_subcluster_has_its_two_bits),
		cmocka_unit_test(extended_entries_ignore_the_zero_flag),
		cmocka_unit_test(several_faults_are_all_told),
		cmocka_unit_test(standard_entries_have_no_subclusters),
		cmocka_unit_test(the_descriptor_of_the_reference_decodes),
		cmocka_unit_test(descriptors_hold_any_place_and_length),
		cmocka_unit_test(size_fields_reach_twice_a_cluster),
		cmocka_unit_test(faults_of_compressed_entries),
		cmocka_unit_test(encoding_is_the_inverse_of_decoding),
		cmocka_unit_test(each_bit_of_a_refcount_table_entry_has_its_meaning),
		cmocka_unit_test(a_straight_row_ends_where_an_entry_differs),
		cmocka_unit_test(a_straight_row_ends_at_the_last_offset_there_is),
		cmocka_unit_test(a_fatal_fault_is_named_before_a_harmless_one),
		cmocka_unit_test(a_table_is_filled_to_its_last_byte),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
