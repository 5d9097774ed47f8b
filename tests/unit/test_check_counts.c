/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <time.h>

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
	counts_seal(&c);
	assert_int_equal(counts_get(&c, 4), 0);
	assert_int_equal(counts_get(&c, 5), 1000);
	assert_int_equal(counts_get(&c, 6), 254);
	assert_true(counts_get(&c, 7) == UINT64_MAX);
	assert_int_equal(counts_sub(&c, 5, 900), 0);
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
	counts_seal(&c);
	assert_int_equal(counts_get(&c, 9), 0);
	assert_int_equal(counts_get(&c, 10), 1);
	assert_int_equal(counts_get(&c, 100), 3);
	assert_int_equal(counts_get(&c, 105), 4);
	assert_int_equal(counts_get(&c, 110), 1);
	assert_true(counts_get(&c, 1ull << 49) == 1);
	assert_true(counts_next(&c, 512, UINT64_MAX, &span));
	assert_true(span.first == 512 && span.nclusters == (1ull << 50) + 10 - 512);
	assert_false(counts_next(&c, (1ull << 50) + 10, UINT64_MAX, &span));
	/* What was counted can be taken back. */
	assert_int_equal(counts_run(&c, 10, 1ull << 50, -1), 0);
	counts_seal(&c);
	assert_int_equal(counts_get(&c, 10), 0);
	assert_int_equal(counts_get(&c, 109), 2);
	counts_release(&c);
}

static bool same(const struct counts *c, uint64_t first, uint64_t n, uint64_t count)
{
	struct counts_state s;

	return counts_same(c, first, n, &s) && s.count == count;
}

static void rows_are_known_to_be_the_same(void **state)
{
	struct counts c = {0};

	(void)state;
	assert_int_equal(counts_add_row(&c, 130, 200, 3, 0), 0);
	assert_int_equal(counts_add_row(&c, 1000, 2000, 1, COUNTS_ALONE), 0);
	counts_seal(&c);
	assert_true(same(&c, 0, 64, 0));
	assert_false(same(&c, 128, 64, 3));
	assert_true(same(&c, 192, 64, 3));
	assert_true(same(&c, 1024, 512, 1));
	assert_int_equal(counts_add(&c, 200, 1), 0);
	assert_false(same(&c, 192, 64, 3));
	assert_int_equal(counts_run(&c, 256, 60, 1), 0);
	counts_seal(&c);
	assert_false(same(&c, 256, 64, 4));
	assert_true(same(&c, 256, 32, 4));
	counts_release(&c);
}

/* A chunk grows through all its forms, and what was in it stays. */
static void a_chunk_of_every_form_keeps_what_it_has(void **state)
{
	static const uint64_t steps[] = {1, 1, 11, 40, 20, 1000, 100000};
	struct counts c = {0};
	uint64_t model[CHUNK_CLUSTERS] = {0};

	(void)state;
	for (unsigned step = 0; step < sizeof(steps) / sizeof(steps[0]); step++) {
		for (unsigned i = step; i < CHUNK_CLUSTERS; i += 1 + step * 3) {
			assert_int_equal(counts_add(&c, 1024 + i, steps[step]), 0);
			model[i] += steps[step];
			if (i % 50 == 0)
				for (unsigned k = 0; k < CHUNK_CLUSTERS; k++)
					assert_int_equal(counts_get(&c, 1024 + k), model[k]);
		}
	}
	for (unsigned k = 0; k < CHUNK_CLUSTERS; k++) {
		assert_int_equal(counts_get(&c, 1024 + k), model[k]);
		assert_int_equal(counts_sub(&c, 1024 + k, model[k]), 0);
		assert_int_equal(counts_get(&c, 1024 + k), 0);
	}
	counts_release(&c);
}

static void claims_are_kept_beside_counts(void **state)
{
	struct counts c = {0};
	struct counts_state group[COUNTS_CHUNK], s;

	(void)state;
	assert_int_equal(counts_add_row(&c, 0, 1024, 1, COUNTS_ALONE), 0);
	assert_true(counts_same(&c, 512, 512, &s) && s.count == 1 && s.claims == COUNTS_ALONE);
	assert_int_equal(counts_add_row(&c, 3, 1, 1, COUNTS_SHARED), 0);
	assert_int_equal(counts_add(&c, 4, 1), 0);
	assert_int_equal(counts_add_row(&c, 64, 1, 100, 0), 0);
	assert_true(counts_states(&c, 0, group));
	assert_int_equal(group[2].claims, COUNTS_ALONE);
	assert_int_equal(group[3].claims, COUNTS_ALONE | COUNTS_SHARED);
	assert_true(group[4].claims & COUNTS_ALONE);
	assert_true(counts_states(&c, 64, group));
	assert_int_equal(group[0].claims, COUNTS_ALONE);
	assert_int_equal(counts_get(&c, 64), 101);
	/* among a few */
	assert_int_equal(counts_add_row(&c, 5000, 2, 1, COUNTS_SHARED), 0);
	assert_int_equal(counts_add_row(&c, 5002, 2, 1, 0), 0);
	assert_true(counts_states(&c, 4992, group));
	assert_int_equal(group[7].claims, 0);
	assert_int_equal(group[8].claims, COUNTS_SHARED);
	assert_int_equal(group[10].claims, 0);
	counts_release(&c);
}

static void expect_alike(const struct counts *a, const struct counts *b, uint64_t end)
{
	for (uint64_t i = 0; i < end; i += COUNTS_CHUNK) {
		struct counts_state x[COUNTS_CHUNK] = {0}, y[COUNTS_CHUNK] = {0};

		assert_int_equal(counts_states(a, i, x), counts_states(b, i, y));
		for (unsigned k = 0; k < COUNTS_CHUNK; k++) {
			assert_int_equal(x[k].count, y[k].count);
			assert_int_equal(x[k].claims, y[k].claims);
		}
	}
}

/* As long as claims are heeded, and until counts are too many for it. */
static void an_adder_adds_what_adding_adds(void **state)
{
	enum { N = 4000 };
	static const uint64_t numbers[] = {1, 1, 1, 2, 1, 5, 1, 20, 1};
	struct counts quick = {0}, plain = {0};
	uint64_t nquick = 0;
	uint32_t seed = 4711;

	(void)state;
	for (unsigned round = 0; round < sizeof(numbers) / sizeof(numbers[0]); round++) {
		uint64_t n = numbers[round];
		struct chunks_adder adder = chunks_adder(&quick.chunks, n);

		for (unsigned i = 0; i < N / 2; i++) {
			uint64_t idx = (seed = seed * 1103515245 + 12345) / 65536 % N;
			unsigned claim = i % (1 + idx / CHUNK_CLUSTERS % 3); /* up to SHARED */

			assert_int_equal(counts_add_row(&plain, idx, 1, n, claim), 0);
			if (chunks_adder_add(&adder, idx, claim)) {
				nquick++;
				continue;
			}
			assert_int_equal(counts_add_row(&quick, idx, 1, n, claim), 0);
			adder = chunks_adder(&quick.chunks, n);
		}
		expect_alike(&quick, &plain, N);
	}
	assert_true(nquick > N);
	counts_release(&quick);
	counts_release(&plain);
}

/* The bytes asked for and not given back, by what the forms say of themselves. */
static uint64_t bytes_of(const struct counts *c)
{
	static const uint64_t unit[] = {16, 128, 256, 512};
	uint64_t sum = c->chunks.cap * sizeof(struct chunk) +
		       (c->chunks.index.nnear + c->chunks.index.nslots) * 4;

	for (unsigned i = 0; i < CHUNK_EVEN; i++)
		sum += c->chunks.pools[i].nunits * unit[i];
	return sum + c->chunks.overflow.nslots * sizeof(struct longs_slot);
}

static void memory_is_bits_a_cluster_and_bytes_a_wild_reference(void **state)
{
	struct counts c = {0};

	(void)state;
	for (uint64_t i = 0; i < 100; i++) /* as tables with their data lie in a file */
		assert_int_equal(counts_add_row(&c, 100 + i * 8193, 8192, 1, COUNTS_ALONE), 0);
	assert_true(bytes_of(&c) * 8 < 100 * 8192);
	counts_release(&c);
	for (uint64_t i = 0; i < 100000; i++)
		assert_int_equal(counts_add_row(&c, i * 77777 % 100000, 1, 1, COUNTS_ALONE), 0);
	assert_true(bytes_of(&c) * 8 < 100000 * 3);
	counts_release(&c);
	for (uint64_t i = 0; i < 10000; i++)
		assert_int_equal(counts_add(&c, i << 34, 1 + i % 300), 0);
	assert_true(bytes_of(&c) < 10000 * 100);
	for (uint64_t i = 0; i < 10000; i++)
		assert_int_equal(counts_get(&c, i << 34), 1 + i % 300);
	counts_release(&c);
}

/* Against an array, from cluster base on: single references, runs, and every way to ask. */
static void ask_everything(uint64_t base)
{
	enum { N = 5000 };
	uint64_t model[N] = {0}, group[COUNTS_CHUNK], at;
	struct counts c = {0};
	struct counts_span span;
	struct counts_state all;
	uint32_t seed = 12345;

	for (int i = 0; i < 2000; i++) {
		seed = seed * 1103515245 + 12345;
		at = seed / 65536 % N;
		if (i % 20 == 0) {
			uint64_t len = (seed >> 8) % (N - at);

			assert_int_equal(counts_run(&c, base + at, len, 1), 0);
			for (uint64_t k = at; k < at + len; k++)
				model[k]++;
		} else if (i % 20 == 10) {
			uint64_t len = (seed >> 8) % (N - at), n = i % 3 ? 2 : 300;

			assert_int_equal(counts_add_row(&c, base + at, len, n, 0), 0);
			for (uint64_t k = at; k < at + len; k++)
				model[k] += n;
		} else if (at / 100 % 2) { /* leaves gaps */
			assert_int_equal(counts_add(&c, base + at, i % 7 ? 1 : 255), 0);
			model[at] += i % 7 ? 1 : 255;
		}
	}
	counts_seal(&c);
	for (uint64_t i = 0; i < N; i++)
		assert_int_equal(counts_get(&c, base + i), model[i]);
	for (uint64_t i = 0; i + COUNTS_CHUNK <= N; i += COUNTS_CHUNK) {
		bool any = counts_group(&c, base + i, group);

		for (uint64_t k = 0; k < COUNTS_CHUNK; k++)
			assert_int_equal(any ? group[k] : 0, model[i + k]);
		if (counts_same(&c, base + i, COUNTS_CHUNK, &all))
			for (uint64_t k = 0; k < COUNTS_CHUNK; k++)
				assert_int_equal(all.count, model[i + k]);
	}
	for (at = 0; counts_next(&c, base + at, base + N, &span);) {
		for (; base + at < span.first; at++)
			assert_int_equal(model[at], 0);
		for (; base + at < span.first + span.nclusters; at++)
			assert_int_equal(model[at], span.count);
	}
	for (; at < N; at++)
		assert_int_equal(model[at], 0);
	for (uint64_t n = 1; n <= 3; n++) {
		uint64_t run = 0;

		for (at = 0; run < n; at++)
			run = at < N && model[at] ? 0 : run + 1;
		assert_int_equal(counts_find_free(&c, base, n), base + at - n);
		assert_int_equal(counts_find_free(&c, base + at - n, n), base + at - n);
	}
	counts_release(&c);
}

/* Chunks are found in two ways, by how far behind they are: none, some and all of them each way. */
static void every_question_gets_the_same_answer(void **state)
{
	(void)state;
	ask_everything(0);
	ask_everything((CHUNK_NEAR - 5ull) * CHUNK_CLUSTERS);
	ask_everything(1ull << 45);
}

/* ---- keys that are made to collide --------------------------------------------------------- */

#define HOSTILE 20000

/* The next number whose product with the golden ratio, as hashes are often made, ends alike. */
static uint64_t next_hostile(uint64_t n, uint64_t nslots)
{
	uint64_t h;

	do {
		n++;
		h = n * 0x9e3779b97f4a7c15ull;
		h ^= h >> 29;
	} while (h % nslots >= nslots / 512);
	return n;
}

static double seconds_for(const uint64_t *chunks, const uint64_t *longs)
{
	struct timespec before, after;
	struct counts c = {0};
	struct longs m = {0};

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
	for (int i = 0; i < HOSTILE; i++) {
		assert_int_equal(counts_add(&c, chunks[i] * CHUNK_CLUSTERS, 1), 0);
		assert_int_equal(longs_set(&m, longs[i], 1), 0);
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
	counts_release(&c);
	longs_release(&m);
	return (double)(after.tv_sec - before.tv_sec) +
	       (double)(after.tv_nsec - before.tv_nsec) / 1e9;
}

static void numbers_that_are_made_to_collide_take_no_longer(void **state)
{
	static uint64_t plain[HOSTILE], lines[HOSTILE], hostile[HOSTILE];
	uint64_t line = CHUNK_NEAR;
	double usual;

	(void)state;
	for (int i = 0; i < HOSTILE; i++) {
		plain[i] = CHUNK_NEAR + (uint64_t)i * 7; /* nearer ones aren't hashed */
		hostile[i] = next_hostile(i > 0 ? hostile[i - 1] : 0, 32768);
		if (i % 16 == 0) /* chunks are hashed in lines of so many */
			line = next_hostile(line, 2048);
		lines[i] = line * 16 + (uint64_t)i % 16;
	}
	usual = seconds_for(plain, plain);
	assert_true(seconds_for(lines, plain) < 8 * usual + 0.01);
	assert_true(seconds_for(plain, hostile) < 8 * usual + 0.01);
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
		counts_seal(&c);
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
		cmocka_unit_test(a_chunk_of_every_form_keeps_what_it_has),
		cmocka_unit_test(claims_are_kept_beside_counts),
		cmocka_unit_test(an_adder_adds_what_adding_adds),
		cmocka_unit_test(memory_is_bits_a_cluster_and_bytes_a_wild_reference),
		cmocka_unit_test(every_question_gets_the_same_answer),
		cmocka_unit_test(numbers_that_are_made_to_collide_take_no_longer),
		cmocka_unit_test(lack_of_memory_is_said_and_loses_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
