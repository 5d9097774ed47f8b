/* SPDX-License-Identifier: MIT */
/*
 * Placement of clusters, refcount blocks and tables in a fresh image: the examples of sections
 * 10.2, 10.3 and 21 of the format reference, and what real images were seen to have.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "image/fresh.h"

static void init(struct image_fresh *f, uint32_t cluster_bits, uint32_t refcount_order)
{
	struct format_geometry g;
	struct qcow2_error err;

	format_geometry_init(&g, 3, cluster_bits, refcount_order, false, false);
	assert_int_equal(image_fresh_init(f, &g, &err), 0);
}

static uint64_t take(struct image_fresh *f, uint64_t nclusters)
{
	struct qcow2_error err;
	uint64_t first;

	assert_int_equal(image_fresh_alloc(f, nclusters, &first, &err), 0);
	for (uint64_t i = 0; i < nclusters; i++)
		assert_true(image_fresh_used(f, first + i, NULL));
	return first;
}

/* Blocks that the table has, all used and described; gives how many. */
static uint64_t audit_blocks(const struct image_fresh *f)
{
	uint64_t entries = f->table_nclusters * (f->g.cluster_size / 8);
	uint64_t found = 0;

	for (uint64_t i = 0; i < entries; i++) {
		if (f->blocks[i] == 0)
			continue;
		found++;
		assert_true(image_fresh_used(f, f->blocks[i], NULL));
		assert_int_not_equal(f->blocks[f->blocks[i] >> f->g.refblock_bits], 0);
	}
	for (uint64_t i = 0; i < f->table_nclusters; i++) {
		assert_true(image_fresh_used(f, f->table_first + i, NULL));
		assert_int_not_equal(f->blocks[(f->table_first + i) >> f->g.refblock_bits], 0);
	}
	return found;
}

static void a_new_image_uses_three_clusters(void **state)
{
	struct image_fresh f;
	uint64_t run;

	(void)state;
	init(&f, 16, 4);
	assert_int_equal(f.table_first, 1);
	assert_int_equal(f.table_nclusters, 1);
	assert_int_equal(f.blocks[0], 2);
	assert_true(image_fresh_used(&f, 0, &run));
	assert_int_equal(run, 3);
	assert_false(image_fresh_used(&f, 3, &run));
	assert_int_equal(run, UINT64_MAX);
	assert_int_equal(take(&f, 1), 3);
	assert_int_equal(take(&f, 10), 4);
	image_fresh_release(&f);
}

/* Section 10.2: 512-byte clusters, the L1 table of a disk of 1 GiB. */
static void blocks_go_right_behind_the_run_that_needs_them(void **state)
{
	struct image_fresh f;

	(void)state;
	init(&f, 9, 4);
	assert_int_equal(take(&f, 512), 3);
	assert_int_equal(f.blocks[0], 2);
	assert_int_equal(f.blocks[1], 0x40600 / 512);
	assert_int_equal(f.blocks[2], 0x40800 / 512);
	assert_int_equal(audit_blocks(&f), 3);
	assert_int_equal(image_fresh_end(&f), 517);
	image_fresh_release(&f);
}

/* Section 10.3: 512-byte clusters; cluster 16384 needs entry 64 of a table of 64. */
static void a_full_table_moves_to_an_area_that_describes_itself(void **state)
{
	struct image_fresh f;
	uint64_t first;

	(void)state;
	init(&f, 9, 4);
	do
		first = take(&f, 13);
	while (first + 13 <= 16384);
	assert_int_equal(f.blocks[64], first + 13);
	assert_int_equal(f.blocks[65], 0x820000 / 512);
	assert_int_equal(f.table_first, 0x820200 / 512);
	assert_int_equal(f.table_nclusters, 2);
	assert_int_equal(audit_blocks(&f), 66);
	assert_false(image_fresh_used(&f, 1, NULL));
	/* the old table's cluster isn't looked at again before the image is opened anew */
	assert_int_equal(take(&f, 1), first + 14);
	image_fresh_rewind(&f);
	assert_int_equal(take(&f, 1), 1);
	image_fresh_release(&f);
}

/* Section 24.3: the L1 table of the largest disk with 512-byte clusters, 128 GiB. */
static void a_table_that_grows_for_one_run_has_room_for_all_of_it(void **state)
{
	struct image_fresh f;

	(void)state;
	init(&f, 9, 4);
	assert_int_equal(take(&f, 65536), 3);
	assert_int_equal(f.table_first, 0x2020400 / 512);
	assert_int_equal(f.table_nclusters, 7);
	audit_blocks(&f);
	image_fresh_release(&f);
}

/* Section 21: preallocation=falloc of 64 MiB. */
static void reserving_moves_the_table_and_frees_the_old_one(void **state)
{
	struct image_fresh f;
	struct qcow2_error err;
	uint64_t first, taken;

	(void)state;
	init(&f, 16, 4);
	take(&f, 1);
	assert_int_equal(image_fresh_reserve(&f, 1024 + 1 + 1, &first, &err), 0);
	assert_int_equal(f.table_first, 4);
	assert_int_equal(first, 5);
	assert_int_equal(image_fresh_alloc_at(&f, first, 1024, &taken, &err), 0);
	assert_int_equal(taken, 1024);
	assert_int_equal(take(&f, 1), 1);
	assert_int_equal(take(&f, 1), 5 + 1024);
	image_fresh_release(&f);
}

static void reserved_blocks_suffice_for_what_they_were_reserved_for(void **state)
{
	(void)state;
	for (uint32_t order = 0; order <= 6; order++) {
		for (uint64_t n = 1; n < 20000; n = n * 3 + 1) {
			struct image_fresh f;
			struct qcow2_error err;
			uint64_t first, taken, blocks;

			init(&f, 9, order);
			assert_int_equal(image_fresh_reserve(&f, n, &first, &err), 0);
			blocks = audit_blocks(&f);
			assert_int_equal(image_fresh_alloc_at(&f, first, n, &taken, &err), 0);
			assert_int_equal(taken, n);
			assert_int_equal(audit_blocks(&f), blocks);
			image_fresh_release(&f);
		}
	}
}

static void a_run_skips_gaps_that_are_too_small(void **state)
{
	struct image_fresh f;
	struct qcow2_error err;

	(void)state;
	init(&f, 16, 4);
	take(&f, 10); /* 3..12 */
	assert_int_equal(image_fresh_free(&f, 5, 2, &err), 0);
	assert_int_equal(take(&f, 3), 13);
	assert_int_equal(take(&f, 1), 16); /* the hint has passed the gap */
	image_fresh_rewind(&f);
	assert_int_equal(take(&f, 2), 5);
	image_fresh_release(&f);
}

static void alloc_at_takes_what_is_free_there(void **state)
{
	struct image_fresh f;
	struct qcow2_error err;
	uint64_t taken;

	(void)state;
	init(&f, 16, 4);
	take(&f, 10); /* 3..12 */
	assert_int_equal(image_fresh_alloc_at(&f, 12, 4, &taken, &err), 0);
	assert_int_equal(taken, 0);
	assert_int_equal(image_fresh_free(&f, 6, 3, &err), 0);
	assert_int_equal(image_fresh_alloc_at(&f, 7, 4, &taken, &err), 0);
	assert_int_equal(taken, 2);
	assert_int_equal(image_fresh_alloc_at(&f, 13, 4, &taken, &err), 0);
	assert_int_equal(taken, 4);
	assert_true(image_fresh_used(&f, 16, NULL));
	assert_false(image_fresh_used(&f, 6, NULL));
	image_fresh_release(&f);
}

static void no_cluster_is_given_out_beyond_the_reach_of_a_table_entry(void **state)
{
	struct image_fresh f;
	struct qcow2_error err;
	uint64_t first;

	(void)state;
	init(&f, 21, 0);
	assert_int_equal(image_fresh_alloc(&f, 1ull << 35, &first, &err), -EFBIG);
	assert_int_equal(image_fresh_alloc(&f, UINT64_MAX, &first, &err), -EFBIG);
	image_fresh_release(&f);
}

static void a_refcount_table_never_passes_what_an_image_may_have(void **state)
{
	struct image_fresh f;
	struct qcow2_error err;
	uint64_t first;

	(void)state;
	/* 8 MiB of table reach 2^20 blocks of 64 counts */
	init(&f, 9, 6);
	assert_int_equal(image_fresh_reserve(&f, 1ull << 26, &first, &err), -EFBIG);
	image_fresh_release(&f);

	/* growing leaves less spare room rather than failing: 3/2 of this need is too much */
	init(&f, 9, 6);
	for (uint64_t n = 0; n < (1ull << 26) / 4 * 3; n += 4096)
		assert_int_equal(image_fresh_alloc(&f, 4096, &first, &err), 0);
	assert_int_equal(f.table_nclusters, 8 * 1024 * 1024 / 512);
	image_fresh_release(&f);
}

/*
 * Holes against a plain array of flags, seeded: random takes and gives.
 */
#define NFLAGS 4096

static void check_flags(const struct image_fresh *f, const unsigned char *flags)
{
	uint64_t at = 0;

	while (at < NFLAGS) {
		uint64_t run;
		bool used = image_fresh_used(f, at, &run);

		for (uint64_t i = at; i < NFLAGS && i - at < run; i++)
			assert_int_equal(flags[i], used);
		at = run > NFLAGS - at ? NFLAGS : at + run;
		assert_true(at == NFLAGS || flags[at] != used);
	}
}

static void holes_are_what_was_given_back(void **state)
{
	static unsigned char flags[NFLAGS];
	struct image_fresh f;
	struct qcow2_error err;
	const char *given = getenv("QCOW2_TEST_SEED");
	unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : 1;
	uint64_t taken;

	(void)state;
	print_message("# seed %u (QCOW2_TEST_SEED)\n", seed);
	srand(seed);
	init(&f, 16, 4);
	for (int i = 0; i < 3; i++)
		flags[i] = 1;
	for (int step = 0; step < 3000; step++) {
		uint64_t at = 3 + (uint64_t)rand() % (NFLAGS - 67);
		uint64_t n = 1 + (uint64_t)rand() % 64;
		uint64_t used;

		if (rand() % 2) {
			assert_int_equal(image_fresh_alloc_at(&f, at, n, &taken, &err), 0);
			for (uint64_t i = 0; i < taken; i++) {
				assert_int_equal(flags[at + i], 0);
				flags[at + i] = 1;
			}
			assert_true(taken == n || flags[at + taken] == 1);
		} else if (image_fresh_used(&f, at, &used)) {
			n = n < used ? n : used;
			assert_int_equal(image_fresh_free(&f, at, n, &err), 0);
			for (uint64_t i = 0; i < n; i++)
				flags[at + i] = 0;
		}
		if (step % 16 == 0)
			check_flags(&f, flags);
	}
	image_fresh_release(&f);
}

static int allocations_left;

static _Bool refuse_later(size_t size)
{
	(void)size;
	return allocations_left-- > 0;
}

static void short_memory_is_an_error_and_nothing_leaks(void **state)
{
	int rc = -1;

	(void)state;
	for (int n = 0; rc != 0; n++) {
		struct image_fresh f;
		struct qcow2_error err;
		struct format_geometry g;
		uint64_t first;

		format_geometry_init(&g, 3, 9, 6, false, false);
		allocations_left = n;
		mem_fault_hook = refuse_later;
		rc = image_fresh_init(&f, &g, &err);
		if (rc == 0) {
			rc = image_fresh_alloc(&f, 20000, &first, &err);
			mem_fault_hook = NULL;
			image_fresh_release(&f);
		}
		mem_fault_hook = NULL;
		assert_true(rc == 0 || rc == -ENOMEM);
		assert_true(n > 0 || rc == -ENOMEM);
		assert_true(n < 1000);
	}
}

/* In one step or each by itself: the same clusters, blocks and table. */
static void many_singles_go_where_singles_go(void **state)
{
	static const struct {
		uint32_t cluster_bits, refcount_order;
		uint64_t before, n;
	} cases[] = {
		{9, 4, 0, 50000}, {9, 6, 7, 20000}, {9, 0, 300, 600000}, {12, 6, 1, 300000},
		{16, 4, 5, 1},	  {16, 4, 0, 0},    {9, 6, 4000, 1000},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct image_fresh one, many;
		struct qcow2_error err;

		init(&one, cases[i].cluster_bits, cases[i].refcount_order);
		init(&many, cases[i].cluster_bits, cases[i].refcount_order);
		image_fresh_alloc(&one, cases[i].before, &(uint64_t){0}, &err);
		image_fresh_alloc(&many, cases[i].before, &(uint64_t){0}, &err);
		for (uint64_t k = 0; k < cases[i].n; k++)
			image_fresh_alloc(&one, 1, &(uint64_t){0}, &err);
		assert_int_equal(image_fresh_alloc_each(&many, cases[i].n, &err), 0);
		assert_int_equal(one.end, many.end);
		assert_int_equal(one.hint, many.hint);
		assert_int_equal(one.nholes, many.nholes);
		assert_int_equal(one.table_first, many.table_first);
		assert_int_equal(one.table_nclusters, many.table_nclusters);
		assert_int_equal(audit_blocks(&one), audit_blocks(&many));
		image_fresh_release(&one);
		image_fresh_release(&many);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_image_uses_three_clusters),
		cmocka_unit_test(blocks_go_right_behind_the_run_that_needs_them),
		cmocka_unit_test(a_full_table_moves_to_an_area_that_describes_itself),
		cmocka_unit_test(a_table_that_grows_for_one_run_has_room_for_all_of_it),
		cmocka_unit_test(reserving_moves_the_table_and_frees_the_old_one),
		cmocka_unit_test(reserved_blocks_suffice_for_what_they_were_reserved_for),
		cmocka_unit_test(a_run_skips_gaps_that_are_too_small),
		cmocka_unit_test(alloc_at_takes_what_is_free_there),
		cmocka_unit_test(no_cluster_is_given_out_beyond_the_reach_of_a_table_entry),
		cmocka_unit_test(a_refcount_table_never_passes_what_an_image_may_have),
		cmocka_unit_test(holes_are_what_was_given_back),
		cmocka_unit_test(short_memory_is_an_error_and_nothing_leaks),
		cmocka_unit_test(many_singles_go_where_singles_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
