/* SPDX-License-Identifier: MIT */
/* The tables of sections 7.1 and 9, line by line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "format/geometry.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define TIB (1ull << 40)
#define PIB (1ull << 50)

static struct format_geometry geometry(uint32_t cluster_bits, bool extended_l2)
{
	struct format_geometry g;

	format_geometry_init(&g, 3, cluster_bits, 4, extended_l2, false);
	return g;
}

struct row {
	uint32_t cluster_bits;
	uint32_t l2_entries;
	uint64_t mapped, max_size;
};

static void standard_entries_reach_as_far_as_the_format_says(void **state)
{
	static const struct row rows[] = {
		{9, 64, 32 * KIB, 128 * GIB},	     {10, 128, 128 * KIB, 512 * GIB},
		{11, 256, 512 * KIB, 2 * TIB},	     {12, 512, 2 * MIB, 8 * TIB},
		{13, 1024, 8 * MIB, 32 * TIB},	     {14, 2048, 32 * MIB, 128 * TIB},
		{15, 4096, 128 * MIB, 512 * TIB},    {16, 8192, 512 * MIB, 2 * PIB},
		{17, 16384, 2 * GIB, 8 * PIB},	     {18, 32768, 8 * GIB, 32 * PIB},
		{19, 65536, 32 * GIB, 128 * PIB},    {20, 131072, 128 * GIB, 512 * PIB},
		{21, 262144, 512 * GIB, 2048 * PIB},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct format_geometry g = geometry(rows[i].cluster_bits, false);

		assert_true(g.cluster_size == 1ull << rows[i].cluster_bits);
		assert_int_equal(g.l2_entry_len, 8);
		assert_int_equal(g.l2_entries, rows[i].l2_entries);
		assert_int_equal(1u << g.l2_bits, g.l2_entries);
		assert_int_equal(g.subclusters, 1);
		assert_int_equal(g.subcluster_bits, g.cluster_bits);
		assert_true(format_max_size(&g) == rows[i].max_size);
		assert_true(format_size_to_l1(&g, rows[i].mapped) == 1);
		assert_true(format_size_to_l1(&g, rows[i].mapped + 1) == 2);
		assert_true(format_size_to_l1(&g, rows[i].max_size) == 4194304);
	}
}

static void extended_entries_reach_half_as_far(void **state)
{
	static const struct row rows[] = {
		{14, 1024, 16 * MIB, 64 * TIB},	  {15, 2048, 64 * MIB, 256 * TIB},
		{16, 4096, 256 * MIB, 1 * PIB},	  {17, 8192, 1 * GIB, 4 * PIB},
		{18, 16384, 4 * GIB, 16 * PIB},	  {19, 32768, 16 * GIB, 64 * PIB},
		{20, 65536, 64 * GIB, 256 * PIB}, {21, 131072, 256 * GIB, 1024 * PIB},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct format_geometry g = geometry(rows[i].cluster_bits, true);

		assert_int_equal(g.l2_entry_len, 16);
		assert_int_equal(g.l2_entries, rows[i].l2_entries);
		assert_int_equal(g.subclusters, 32);
		assert_int_equal(1u << g.subcluster_bits, (1u << g.cluster_bits) / 32);
		assert_true(format_max_size(&g) == rows[i].max_size);
		assert_true(format_size_to_l1(&g, rows[i].mapped) == 1);
		assert_true(format_size_to_l1(&g, rows[i].mapped + 1) == 2);
	}
}

static void an_offset_falls_into_one_entry(void **state)
{
	struct format_geometry g = geometry(16, false), x = geometry(16, true);

	(void)state;
	assert_true(format_l1_index(&g, 512 * MIB - 1) == 0);
	assert_true(format_l1_index(&g, 512 * MIB) == 1);
	assert_int_equal(format_l2_index(&g, 512 * MIB - 1), 8191);
	assert_int_equal(format_l2_index(&g, 512 * MIB), 0);
	assert_int_equal(format_l2_index(&g, 65535), 0);
	assert_int_equal(format_l2_index(&g, 65536), 1);
	assert_true(format_l1_index(&x, 256 * MIB) == 1);
	assert_int_equal(format_l2_index(&x, 256 * MIB - 1), 4095);
	assert_true(format_l1_index(&g, UINT64_MAX) == UINT64_MAX >> 29);
}

static void refcount_blocks_hold_what_the_format_says(void **state)
{
	(void)state;
	for (uint32_t c = 9; c <= 21; c++) {
		for (uint32_t order = 0; order <= 6; order++) {
			struct format_geometry g;

			format_geometry_init(&g, 3, c, order, false, false);
			assert_true(g.refblock_entries == (1ull << c) * 8 / (1u << order));
			assert_true(1ull << g.refblock_bits == g.refblock_entries);
			assert_true(g.refcount_max ==
				    (order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1));
		}
	}
}

static void vm_state_begins_behind_the_disk(void **state)
{
	struct format_geometry g = geometry(16, false);

	(void)state;
	assert_true(format_vm_state_off(&g, 600 * MIB) == GIB); /* example of section 12.4 */
	assert_true(format_vm_state_off(&g, 0) == 0);
	assert_true(format_vm_state_off(&g, GIB) == GIB);
	assert_true(format_vm_state_off(&g, GIB + 1) == GIB + 512 * MIB);
	/* A snapshot's disk size is a stranger's number. */
	assert_true(format_vm_state_off(&g, UINT64_MAX) == UINT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(standard_entries_reach_as_far_as_the_format_says),
		cmocka_unit_test(extended_entries_reach_half_as_far),
		cmocka_unit_test(an_offset_falls_into_one_entry),
		cmocka_unit_test(refcount_blocks_hold_what_the_format_says),
		cmocka_unit_test(vm_state_begins_behind_the_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
