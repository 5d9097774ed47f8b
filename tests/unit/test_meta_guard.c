/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/work.h"
#include "meta/guard.h"

#define BITS 16
#define CS (1ull << BITS)

static void guard_is_up(struct meta_guard *g)
{
	assert_int_equal(meta_guard_init(g, BITS, NULL), 0);
}

static void add(struct meta_guard *g, enum meta_region region, uint64_t off, uint64_t len)
{
	assert_int_equal(meta_guard_add(g, region, off, len, NULL), 0);
}

static void expect(const struct meta_guard *g, uint64_t off, uint64_t len, enum meta_region own,
		   enum meta_region region, uint64_t hit_off)
{
	uint64_t hit = 12345;

	assert_int_equal(meta_guard_find(g, off, len, own, &hit), region);
	assert_int_equal(hit, region == META_REGION_NONE ? 12345 : hit_off);
	assert_int_equal(meta_guard_find(g, off, len, own, NULL), region);
}

static void an_empty_guard_lets_everything_pass(void **state)
{
	struct meta_guard g;

	(void)state;
	guard_is_up(&g);
	expect(&g, 0, UINT64_MAX, 0, META_REGION_NONE, 0);
	meta_guard_remove(&g, META_REGION_L2, 0, CS);
	meta_guard_remove(&g, META_REGION_L1, 0, 100 * CS);
	meta_guard_release(&g);
	meta_guard_release(&g);
}

static void metadata_counts_in_whole_clusters(void **state)
{
	struct meta_guard g;

	(void)state;
	guard_is_up(&g);
	add(&g, META_REGION_HEADER, 0, CS);
	add(&g, META_REGION_L1, 3 * CS, 8);
	expect(&g, 0, 1, 0, META_REGION_HEADER, 0);
	expect(&g, CS - 1, 1, 0, META_REGION_HEADER, 0);
	expect(&g, CS, 2 * CS, 0, META_REGION_NONE, 0);
	expect(&g, CS, 2 * CS + 1, 0, META_REGION_L1, 3 * CS);
	expect(&g, 4 * CS - 1, 1, 0, META_REGION_L1, 3 * CS);
	expect(&g, 4 * CS, CS, 0, META_REGION_NONE, 0);
	expect(&g, 3 * CS, 0, 0, META_REGION_NONE, 0);
	meta_guard_remove(&g, META_REGION_L1, 3 * CS, 8);
	expect(&g, 3 * CS, CS, 0, META_REGION_NONE, 0);
	meta_guard_release(&g);
}

static void the_first_touched_is_named_and_its_own_kind_excepted(void **state)
{
	struct meta_guard g;

	(void)state;
	guard_is_up(&g);
	add(&g, META_REGION_L2, 10 * CS, CS);
	add(&g, META_REGION_REFBLOCK, 12 * CS, CS);
	add(&g, META_REGION_INACTIVE_L1, 14 * CS, 40 * CS);
	add(&g, META_REGION_BITMAPS, 15 * CS, CS);
	expect(&g, 0, 100 * CS, META_REGION_NONE, META_REGION_L2, 10 * CS);
	expect(&g, 0, 100 * CS, META_REGION_L2, META_REGION_REFBLOCK, 12 * CS);
	expect(&g, 11 * CS, 100 * CS, META_REGION_REFBLOCK, META_REGION_INACTIVE_L1, 14 * CS);
	expect(&g, 14 * CS, 100 * CS, META_REGION_INACTIVE_L1, META_REGION_BITMAPS, 15 * CS);
	expect(&g, 20 * CS, CS, META_REGION_NONE, META_REGION_INACTIVE_L1, 20 * CS);
	expect(&g, 10 * CS, CS, META_REGION_L2, META_REGION_NONE, 0);
	expect(&g, 20 * CS, CS, META_REGION_INACTIVE_L1, META_REGION_NONE, 0);
	expect(&g, 54 * CS, CS, META_REGION_NONE, META_REGION_NONE, 0);
	/* in a range so large that the sets are walked instead */
	expect(&g, 0, 1ull << 62, META_REGION_NONE, META_REGION_L2, 10 * CS);
	expect(&g, 13 * CS, 1ull << 62, META_REGION_INACTIVE_L1, META_REGION_BITMAPS, 15 * CS);
	expect(&g, 12 * CS, 1ull << 62, META_REGION_REFBLOCK, META_REGION_INACTIVE_L1, 14 * CS);
	meta_guard_release(&g);
}

static void a_cluster_may_be_of_several_kinds(void **state)
{
	struct meta_guard g;

	(void)state;
	guard_is_up(&g);
	add(&g, META_REGION_REFBLOCK, 5 * CS, CS);
	add(&g, META_REGION_SNAPSHOTS, 5 * CS, 1);
	add(&g, META_REGION_L2, 5 * CS, CS);
	expect(&g, 5 * CS, 1, META_REGION_L2, META_REGION_REFBLOCK, 5 * CS);
	meta_guard_remove(&g, META_REGION_REFBLOCK, 5 * CS, CS);
	expect(&g, 5 * CS, 1, META_REGION_L2, META_REGION_SNAPSHOTS, 5 * CS);
	meta_guard_remove(&g, META_REGION_SNAPSHOTS, 5 * CS, 1);
	expect(&g, 5 * CS, 1, META_REGION_L2, META_REGION_NONE, 0);
	expect(&g, 5 * CS, 1, META_REGION_REFBLOCK, META_REGION_L2, 5 * CS);
	meta_guard_release(&g);
}

static void ranges_at_the_end_of_the_numbers(void **state)
{
	struct qcow2_error err = {0};
	struct meta_guard g;

	(void)state;
	guard_is_up(&g);
	add(&g, META_REGION_L2, UINT64_MAX - CS + 1, CS);
	expect(&g, UINT64_MAX, 1, 0, META_REGION_L2, UINT64_MAX - CS + 1);
	expect(&g, UINT64_MAX - 5, UINT64_MAX, 0, META_REGION_L2, UINT64_MAX - CS + 1);
	expect(&g, 0, UINT64_MAX - CS, 0, META_REGION_NONE, 0);
	assert_int_equal(meta_guard_add(&g, META_REGION_L1, UINT64_MAX - CS + 1, CS + 1, &err),
			 -EINVAL);
	assert_string_equal(err.message,
			    "active L1 table of 65537 bytes at 0xffffffffffff0000 would pass 2^64");
	expect(&g, UINT64_MAX, 1, META_REGION_L2, META_REGION_NONE, 0);
	meta_guard_release(&g);
}

/* ---- against an array of flags ---- */

#define CLUSTERS 300
#define KINDS 9

static uint64_t next(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15ull;
	return (*state ^ *state >> 29) * 0xbf58476d1ce4e5b9ull >> 17;
}

struct model {
	struct meta_guard guard;
	uint8_t kinds[CLUSTERS][KINDS];
	uint64_t seed;
};

static void compare(struct model *m, enum meta_region own)
{
	uint64_t first = next(&m->seed) % CLUSTERS, n = 1 + next(&m->seed) % (CLUSTERS - first);
	uint64_t hit = UINT64_MAX;
	enum meta_region found = meta_guard_find(&m->guard, first * CS, n * CS, own, &hit);

	for (uint64_t c = first; c < first + n; c++) {
		bool any = false;

		for (unsigned k = 1; k < KINDS; k++)
			any |= m->kinds[c][k] && k != own;
		if (!any)
			continue;
		assert_int_equal(hit, c * CS);
		assert_true(found != own && m->kinds[c][found]);
		return;
	}
	assert_int_equal(found, META_REGION_NONE);
}

static void change(struct model *m)
{
	unsigned kind = 1 + next(&m->seed) % (KINDS - 1);
	uint64_t n = next(&m->seed) % 4 ? 1 : 1 + next(&m->seed) % 40;
	/* aligned to its length, so that two of one kind are the same or disjoint */
	uint64_t first = next(&m->seed) % (CLUSTERS / 40) * 40;
	bool is_add = next(&m->seed) % 2;

	if (n == 1)
		first += next(&m->seed) % 40;
	for (uint64_t c = first; c < first + n; c++) {
		if (n > 1 && m->kinds[c][kind] != (is_add ? 0 : n))
			return;
		if (n == 1 && m->kinds[c][kind] > 1)
			return;
	}
	for (uint64_t c = first; c < first + n; c++)
		m->kinds[c][kind] = is_add ? (uint8_t)n : 0;
	if (is_add)
		add(&m->guard, kind, first * CS, n * CS);
	else
		meta_guard_remove(&m->guard, kind, first * CS, n * CS);
}

static void it_agrees_with_an_array_of_flags(void **state)
{
	const char *given = getenv("QCOW2_TEST_SEED");
	struct model *m = mem_zalloc(1, sizeof(*m));

	(void)state;
	assert_non_null(m);
	m->seed = given ? strtoull(given, NULL, 0) : (uint64_t)(uintptr_t)&given;
	printf("# QCOW2_TEST_SEED=0x%llx\n", (unsigned long long)m->seed);
	guard_is_up(&m->guard);
	for (int step = 0; step < 100000; step++) {
		change(m);
		compare(m, next(&m->seed) % KINDS);
	}
	meta_guard_release(&m->guard);
	mem_free(m);
}

/* ---- memory ---- */

static int allowed;

static bool allow_some(size_t size)
{
	(void)size;
	return allowed-- > 0;
}

static void fill_up(struct meta_guard *g, uint64_t n)
{
	uint64_t off = CS;
	int ret = 0;

	for (int i = 0; ret == 0; i++, off += n * CS)
		ret = meta_guard_add(g, META_REGION_BITMAPS, off, n * CS, NULL);
	assert_int_equal(ret, -ENOMEM);
	off -= n * CS;
	assert_int_equal(meta_guard_find(g, off, n * CS, 0, NULL), META_REGION_NONE);
	assert_int_equal(meta_guard_find(g, CS, n * CS, 0, NULL), META_REGION_BITMAPS);
	assert_int_equal(meta_guard_find(g, off - CS, CS, 0, NULL), META_REGION_BITMAPS);
}

static void without_memory_nothing_is_added(void **state)
{
	const uint64_t lengths[] = {1, 2, 3, 5, 16, 17};
	struct qcow2_error err = {0};
	struct meta_guard g;

	(void)state;
	mem_fault_hook = allow_some;
	for (allowed = 0; allowed < 2;) {
		int was = allowed;

		assert_int_equal(meta_guard_init(&g, BITS, &err), -ENOMEM);
		meta_guard_release(&g);
		allowed = was + 1;
	}
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		allowed = 4;
		guard_is_up(&g);
		fill_up(&g, lengths[i]);
		meta_guard_release(&g);
	}
	mem_fault_hook = NULL;
	assert_non_null(strstr(err.message, "can't set up the overlap guard"));
}

/* ---- beside changes ---- */

struct beside {
	struct meta_guard guard;
	atomic_bool done;
	atomic_uint wrong;
};

/* Long ranges in even places and single clusters in odd ones come and go; between, all stays. */
static void come_and_go(struct beside *b)
{
	uint64_t seed = 1;

	for (int round = 0; round < 100000; round++) {
		uint64_t r = next(&seed), place = (1000 + r % 16 * 200) * CS;
		uint64_t n = r >> 32 & 1 ? 20 + (r >> 33 & 63) : 1;

		b->wrong += meta_guard_add(&b->guard, META_REGION_L1, place, n * CS, NULL) != 0;
		b->wrong += meta_guard_find(&b->guard, place, 1, 0, NULL) != META_REGION_L1;
		meta_guard_remove(&b->guard, META_REGION_L1, place, n * CS);
		b->wrong += meta_guard_find(&b->guard, place, CS, 0, NULL) != META_REGION_NONE;
	}
	b->done = true;
}

static void ask_or_change(void *opaque, unsigned i)
{
	struct beside *b = opaque;
	uint64_t seed = i;

	if (i == 0) {
		come_and_go(b);
		return;
	}
	while (!b->done) {
		uint64_t at = 1 + next(&seed) % 64, gap = (1000 + next(&seed) % 16 * 200 + 90) * CS;

		b->wrong += meta_guard_find(&b->guard, at * CS, 1, 0, NULL) != META_REGION_L2;
		b->wrong += meta_guard_find(&b->guard, (100 + at) * CS, CS, 0, NULL) !=
			    META_REGION_REFBLOCK;
		b->wrong += meta_guard_find(&b->guard, (200 + at) * CS, CS, 0, NULL) !=
			    META_REGION_REFTABLE;
		/* no range ever reached there, whatever ends are mixed */
		b->wrong += meta_guard_find(&b->guard, gap, 100 * CS, 0, NULL) != META_REGION_NONE;
	}
}

static void what_stays_is_found_beside_changes(void **state)
{
	struct beside b = {0};

	(void)state;
	guard_is_up(&b.guard);
	for (uint64_t i = 1; i <= 64; i++) {
		add(&b.guard, META_REGION_L2, i * CS, CS);
		add(&b.guard, META_REGION_REFBLOCK, (100 + i) * CS, CS);
	}
	add(&b.guard, META_REGION_REFTABLE, 201 * CS, 64 * CS);
	work_team(4, ask_or_change, &b);
	assert_int_equal(b.wrong, 0);
	meta_guard_release(&b.guard);
}

static void every_kind_has_a_name(void **state)
{
	(void)state;
	assert_string_equal(meta_guard_name(META_REGION_L2), "L2 table");
	assert_string_equal(meta_guard_name(META_REGION_REFBLOCK), "refcount block");
	for (unsigned k = 0; k < KINDS; k++)
		assert_non_null(meta_guard_name(k));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_guard_lets_everything_pass),
		cmocka_unit_test(metadata_counts_in_whole_clusters),
		cmocka_unit_test(the_first_touched_is_named_and_its_own_kind_excepted),
		cmocka_unit_test(a_cluster_may_be_of_several_kinds),
		cmocka_unit_test(ranges_at_the_end_of_the_numbers),
		cmocka_unit_test(it_agrees_with_an_array_of_flags),
		cmocka_unit_test(without_memory_nothing_is_added),
		cmocka_unit_test(what_stays_is_found_beside_changes),
		cmocka_unit_test(every_kind_has_a_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
