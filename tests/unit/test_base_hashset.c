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

#include "base/alloc.h"
#include "base/hashset.h"
#include "base/work.h"

#define KEYS 512

static uint64_t random_seed(void)
{
	const char *given = getenv("QCOW2_TEST_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)(uintptr_t)&given;

	printf("# QCOW2_TEST_SEED=0x%llx\n", (unsigned long long)seed);
	return seed;
}

static uint64_t next(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15ull;
	return (*state ^ *state >> 29) * 0xbf58476d1ce4e5b9ull >> 17;
}

static void an_empty_set_has_nothing(void **state)
{
	struct hashset set;
	uint64_t key = 7;

	(void)state;
	assert_int_equal(hashset_init(&set), 0);
	assert_false(hashset_has(&set, 0));
	assert_false(hashset_has(&set, 1));
	assert_false(hashset_has(&set, UINT64_MAX));
	assert_false(hashset_find_between(&set, 0, UINT64_MAX, &key));
	hashset_remove(&set, 1);
	hashset_remove(&set, 0);
	assert_int_equal(hashset_count(&set), 0);
	hashset_release(&set);
}

static void every_key_but_zero_may_be_in_it(void **state)
{
	const uint64_t keys[] = {1, UINT64_MAX, UINT64_MAX - 1, 1ull << 63, 0x10000};
	struct hashset set;

	(void)state;
	assert_int_equal(hashset_init(&set), 0);
	for (size_t i = 0; i < 5; i++) {
		assert_int_equal(hashset_add(&set, keys[i]), 0);
		assert_int_equal(hashset_add(&set, keys[i]), 0);
		assert_int_equal(hashset_count(&set), i + 1);
	}
	for (size_t i = 0; i < 5; i++) {
		assert_true(hashset_has(&set, keys[i]));
		hashset_remove(&set, keys[i]);
		assert_false(hashset_has(&set, keys[i]));
	}
	assert_int_equal(hashset_count(&set), 0);
	hashset_release(&set);
}

static void it_agrees_with_a_list_of_flags(void **state)
{
	uint64_t seed = random_seed();
	bool in[KEYS + 1] = {false};
	size_t count = 0;
	struct hashset set;

	(void)state;
	assert_int_equal(hashset_init(&set), 0);
	for (int step = 0; step < 100000; step++) {
		uint64_t r = next(&seed), key = 1 + r % KEYS;
		/* phases of mostly adding and mostly removing: nearly empty and nearly full */
		bool add = next(&seed) % 8 < (step / 5000 % 2 ? 2u : 6u);

		if (add)
			assert_int_equal(hashset_add(&set, key << 16), 0);
		else
			hashset_remove(&set, key << 16);
		count = count + (add && !in[key]) - (!add && in[key]);
		in[key] = add;
		assert_int_equal(hashset_count(&set), count);
		if (step % 64 != 0)
			continue;
		for (uint64_t k = 1; k <= KEYS; k++)
			assert_int_equal(hashset_has(&set, k << 16), in[k]);
	}
	hashset_release(&set);
}

static void the_lowest_key_of_a_range_is_found(void **state)
{
	struct hashset set;
	uint64_t key;

	(void)state;
	assert_int_equal(hashset_init(&set), 0);
	for (uint64_t k = 100; k <= 10000; k += 100)
		assert_int_equal(hashset_add(&set, k), 0);
	assert_true(hashset_find_between(&set, 0, UINT64_MAX, &key));
	assert_int_equal(key, 100);
	assert_true(hashset_find_between(&set, 301, 950, &key));
	assert_int_equal(key, 400);
	assert_true(hashset_find_between(&set, 10000, 10000, &key));
	assert_int_equal(key, 10000);
	assert_false(hashset_find_between(&set, 301, 399, &key));
	assert_false(hashset_find_between(&set, 10001, UINT64_MAX, &key));
	hashset_release(&set);
}

static bool refuse(size_t size)
{
	(void)size;
	return false;
}

static void without_memory_it_stays_as_it_was(void **state)
{
	struct hashset set;
	uint64_t n = 0;
	int ret;

	(void)state;
	mem_fault_hook = refuse;
	assert_int_equal(hashset_init(&set), -ENOMEM);
	hashset_release(&set);
	mem_fault_hook = NULL;
	assert_int_equal(hashset_init(&set), 0);
	mem_fault_hook = refuse;
	while ((ret = hashset_add(&set, n + 1)) == 0)
		n++;
	assert_int_equal(ret, -ENOMEM);
	assert_int_equal(hashset_count(&set), n);
	assert_false(hashset_has(&set, n + 1));
	mem_fault_hook = NULL;
	assert_int_equal(hashset_add(&set, n + 1), 0);
	for (uint64_t k = 1; k <= n + 1; k++)
		assert_true(hashset_has(&set, k));
	hashset_release(&set);
}

static size_t allocations;

static bool count_allocation(size_t size)
{
	(void)size;
	allocations++;
	return true;
}

static void coming_and_going_takes_no_more_memory(void **state)
{
	struct hashset set;

	(void)state;
	assert_int_equal(hashset_init(&set), 0);
	for (uint64_t k = 1; k <= 100; k++)
		assert_int_equal(hashset_add(&set, k), 0);
	allocations = 0;
	mem_fault_hook = count_allocation;
	for (uint64_t k = 101; k <= 200000; k++) {
		hashset_remove(&set, k - 100);
		assert_int_equal(hashset_add(&set, k), 0);
	}
	mem_fault_hook = NULL;
	assert_int_equal(allocations, 0);
	hashset_release(&set);
}

/*
 * Thread 0 adds and removes passing keys, and now and then a staying one, too: while the version of
 * that is odd it may be missing. A key only ever moves towards its home, so one that stayed for
 * ever would soon not be moved any more.
 */
#define STAYING 48
#define PASSING 16 /* at once: with the others as many as 128 slots take */

struct beside {
	struct hashset set;
	atomic_uint version[STAYING + 1]; /* of key 1 to STAYING */
	atomic_uint asked;		  /* rounds of questions */
	atomic_bool done;
	atomic_uint wrong;
};

static void change(struct beside *b)
{
	uint64_t seed = random_seed(), passing[PASSING] = {0};

	for (uint64_t round = 0; round < 20000000 && (round < 500000 || b->asked < 1000); round++) {
		uint64_t *key = &passing[round % PASSING], staying = 1 + round % STAYING;

		hashset_remove(&b->set, *key);
		b->version[staying]++;
		hashset_remove(&b->set, staying);
		*key = next(&seed) + STAYING + 1;
		b->wrong += hashset_add(&b->set, *key) != 0;
		b->wrong += hashset_add(&b->set, staying) != 0;
		b->version[staying]++;
	}
	/* and the array grows */
	for (uint64_t key = STAYING + 1; key < 50000; key++)
		b->wrong += hashset_add(&b->set, key) != 0;
	b->done = true;
}

static void ask(struct beside *b, uint64_t key, bool walk)
{
	unsigned version = b->version[key];
	uint64_t found;
	bool has =
		walk ? hashset_find_between(&b->set, key, key, &found) : hashset_has(&b->set, key);

	b->wrong += !has && version % 2 == 0 && b->version[key] == version;
	b->wrong += hashset_has(&b->set, key + (1ull << 62));
}

static void ask_or_change(void *opaque, unsigned i)
{
	struct beside *b = opaque;

	if (i == 0)
		change(b);
	for (; !b->done; b->asked++) {
		for (uint64_t key = 1; key <= STAYING; key++) {
			ask(b, key, false);
			ask(b, key, hashset_count(&b->set) <= STAYING + PASSING);
		}
	}
}

static void a_key_that_stays_is_seen_beside_changes(void **state)
{
	struct beside b = {0};

	(void)state;
	assert_int_equal(hashset_init(&b.set), 0);
	for (uint64_t key = 1; key <= STAYING; key++)
		assert_int_equal(hashset_add(&b.set, key), 0);
	work_team(2, ask_or_change, &b);
	assert_int_equal(b.wrong, 0);
	hashset_release(&b.set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_set_has_nothing),
		cmocka_unit_test(every_key_but_zero_may_be_in_it),
		cmocka_unit_test(it_agrees_with_a_list_of_flags),
		cmocka_unit_test(the_lowest_key_of_a_range_is_found),
		cmocka_unit_test(without_memory_it_stays_as_it_was),
		cmocka_unit_test(coming_and_going_takes_no_more_memory),
		cmocka_unit_test(a_key_that_stays_is_seen_beside_changes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
