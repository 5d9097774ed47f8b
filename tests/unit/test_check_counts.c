/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/alloc.h"
#include "check/counts.h"

static void counts_pass_a_byte(void **state)
{
	struct counts c = {0};

	(void)state;
	for (int i = 0; i < 1000; i++)
		assert_int_equal(counts_add(&c, 5, 1), 0);
	assert_int_equal(counts_add(&c, 6, 254), 0);
	assert_int_equal(counts_add(&c, 7, UINT64_MAX), 0);
	assert_int_equal(counts_add(&c, 7, 2), 0);
	assert_int_equal(counts_seal(&c), 0);
	assert_int_equal(counts_get(&c, 4), 0);
	assert_int_equal(counts_get(&c, 5), 1000);
	assert_int_equal(counts_get(&c, 6), 254);
	assert_true(counts_get(&c, 7) == UINT64_MAX);
	counts_sub(&c, 5, 900);
	assert_int_equal(counts_get(&c, 5), 100);
	counts_add(&c, 5, 200);
	assert_int_equal(counts_get(&c, 5), 300);
	counts_release(&c);
}

static void runs_cost_nothing_however_long(void **state)
{
	struct counts c = {0};
	struct counts_span span;

	(void)state;
	assert_int_equal(counts_run(&c, 10, 1ull << 50, 1), 0);
	assert_int_equal(counts_run(&c, 100, 10, 2), 0);
	assert_int_equal(counts_add(&c, 105, 1), 0);
	assert_int_equal(counts_seal(&c), 0);
	assert_int_equal(counts_get(&c, 9), 0);
	assert_int_equal(counts_get(&c, 10), 1);
	assert_int_equal(counts_get(&c, 100), 3);
	assert_int_equal(counts_get(&c, 105), 4);
	assert_int_equal(counts_get(&c, 110), 1);
	assert_true(counts_get(&c, 1ull << 49) == 1);
	assert_true(counts_next(&c, 200, UINT64_MAX, &span));
	assert_true(span.first == 200 && span.nclusters == (1ull << 50) + 10 - 200);
	assert_false(counts_next(&c, (1ull << 50) + 10, UINT64_MAX, &span));
	/* What was counted can be taken back. */
	assert_int_equal(counts_run(&c, 10, 1ull << 50, -1), 0);
	assert_int_equal(counts_seal(&c), 0);
	assert_int_equal(counts_get(&c, 10), 0);
	assert_int_equal(counts_get(&c, 109), 2);
	counts_release(&c);
}

static void rows_are_known_to_be_the_same(void **state)
{
	struct counts c = {0};
	uint64_t count;

	(void)state;
	assert_int_equal(counts_add_row(&c, 130, 200, 3), 0);
	assert_int_equal(counts_seal(&c), 0);
	assert_true(counts_group_same(&c, 0, &count) && count == 0);
	assert_false(counts_group_same(&c, 128, &count));
	assert_true(counts_group_same(&c, 192, &count) && count == 3);
	assert_int_equal(counts_add(&c, 200, 1), 0);
	assert_false(counts_group_same(&c, 192, &count));
	assert_int_equal(counts_run(&c, 256, 60, 1), 0);
	assert_int_equal(counts_seal(&c), 0);
	assert_false(counts_group_same(&c, 256, &count));
	counts_release(&c);
}

/* Against an array: single references, runs, and every way to ask. */
static void every_question_gets_the_same_answer(void **state)
{
	enum { N = 1500 };
	uint64_t model[N] = {0}, group[COUNTS_CHUNK], at;
	struct counts c = {0};
	struct counts_span span;
	uint32_t seed = 12345;

	(void)state;
	for (int i = 0; i < 600; i++) {
		seed = seed * 1103515245 + 12345;
		at = seed / 65536 % N;
		if (i % 20 == 0) {
			uint64_t len = (seed >> 8) % (N - at);

			assert_int_equal(counts_run(&c, at, len, 1), 0);
			for (uint64_t k = at; k < at + len; k++)
				model[k]++;
		} else if (i % 20 == 10) {
			uint64_t len = (seed >> 8) % (N - at), n = i % 3 ? 2 : 300;

			assert_int_equal(counts_add_row(&c, at, len, n), 0);
			for (uint64_t k = at; k < at + len; k++)
				model[k] += n;
		} else if (at / 100 % 2) { /* leaves gaps */
			assert_int_equal(counts_add(&c, at, i % 7 ? 1 : 255), 0);
			model[at] += i % 7 ? 1 : 255;
		}
	}
	assert_int_equal(counts_seal(&c), 0);
	for (uint64_t i = 0; i < N; i++)
		assert_int_equal(counts_get(&c, i), model[i]);
	for (uint64_t i = 0; i + COUNTS_CHUNK <= N; i += COUNTS_CHUNK) {
		bool any = counts_group(&c, i, group);

		for (uint64_t k = 0; k < COUNTS_CHUNK; k++)
			assert_int_equal(any ? group[k] : 0, model[i + k]);
		if (counts_group_same(&c, i, &at))
			for (uint64_t k = 0; k < COUNTS_CHUNK; k++)
				assert_int_equal(at, model[i + k]);
	}
	for (at = 0; counts_next(&c, at, N, &span); at = span.first + span.nclusters) {
		for (; at < span.first; at++)
			assert_int_equal(model[at], 0);
		for (; at < span.first + span.nclusters; at++)
			assert_int_equal(model[at], span.count);
	}
	for (; at < N; at++)
		assert_int_equal(model[at], 0);
	for (uint64_t n = 1; n <= 3; n++) {
		uint64_t run = 0;

		for (at = 0; run < n; at++)
			run = at < N && model[at] ? 0 : run + 1;
		assert_int_equal(counts_find_free(&c, 0, n), at - n);
		assert_int_equal(counts_find_free(&c, at - n, n), at - n);
	}
	counts_release(&c);
}

static int allocations_left;

static bool grant(size_t size)
{
	(void)size;
	return allocations_left-- > 0;
}

static void lack_of_memory_is_said_and_loses_nothing(void **state)
{
	(void)state;
	for (int n = 0; n < 12; n++) {
		struct counts c = {0};
		bool failed = false;

		allocations_left = n;
		mem_fault_hook = grant;
		for (uint64_t i = 0; i < 200 && !failed; i++)
			failed = counts_add(&c, i * 1000, i % 2 ? 1 : 300) < 0;
		mem_fault_hook = NULL;
		if (n < 3)
			assert_true(failed);
		assert_int_equal(counts_add(&c, 7777777, 1), 0);
		assert_int_equal(counts_seal(&c), 0);
		assert_int_equal(counts_get(&c, 7777777), 1);
		counts_release(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_pass_a_byte),
		cmocka_unit_test(runs_cost_nothing_however_long),
		cmocka_unit_test(rows_are_known_to_be_the_same),
		cmocka_unit_test(every_question_gets_the_same_answer),
		cmocka_unit_test(lack_of_memory_is_said_and_loses_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
