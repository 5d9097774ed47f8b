/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/bytes.h"
#include "base/num.h"
#include "base/work.h"
#include "meta/cache.h"

#define SLICE 4096

/* A store whose every word says its own offset, and that can be told to fail. */
struct pattern {
	_Atomic unsigned reads;
	_Atomic bool fail;
	uint64_t other; /* the slice there has other words */
	/* does something in the middle of a read, once */
	void (*meanwhile)(struct pattern *p);
	struct meta_cache *cache;
};

#define OTHER (1ull << 40)

static int pattern_readv(void *self, const struct iovec *iov, int iovcnt, uint64_t off,
			 struct qcow2_error *err)
{
	struct pattern *p = self;

	p->reads++;
	if (p->fail)
		return error_set(err, -EIO, "told to fail");
	for (int i = 0; i < iovcnt; i++) {
		for (size_t n = 0; n < iov[i].iov_len; n += 8, off += 8)
			store_be64((uint8_t *)iov[i].iov_base + n,
				   off + (p->other && off / SLICE == p->other / SLICE ? OTHER : 0));
	}
	if (p->meanwhile) {
		void (*meanwhile)(struct pattern *) = p->meanwhile;

		p->meanwhile = NULL;
		meanwhile(p);
	}
	return 0;
}

static const struct qcow2_storage_ops pattern_ops = {.kind = "pattern", .preadv = pattern_readv};

static struct meta_cache *cache_on(struct pattern *p, uint64_t limit)
{
	struct qcow2_storage st = {&pattern_ops, p};
	struct meta_cache *c;

	assert_int_equal(meta_cache_new(&c, st, 0, SLICE, limit, NULL), 0);
	return c;
}

static void expect_words(struct meta_cache *c, uint64_t off, uint64_t first)
{
	struct meta_slice s;

	assert_int_equal(meta_cache_get(c, off, &s, NULL), 0);
	assert_true(load_be64(s.bytes) == first);
	assert_true(load_be64(s.bytes + SLICE - 8) == first + SLICE - 8);
	meta_cache_put(c, &s);
}

static void expect_slice(struct meta_cache *c, uint64_t off)
{
	expect_words(c, off, off);
}

static void expect_slices(struct meta_cache *c, uint64_t from, uint64_t end)
{
	for (uint64_t i = from; i < end; i++)
		expect_slice(c, i * SLICE);
}

static void what_fits_is_read_once(void **state)
{
	struct pattern p = {0};
	struct meta_cache *c = cache_on(&p, 1024 * SLICE);

	(void)state;
	for (int round = 0; round < 3; round++) {
		for (uint64_t i = 1; i <= 100; i++)
			expect_slice(c, i * SLICE);
	}
	assert_int_equal(p.reads, 100);
	assert_int_equal(meta_cache_misses(c), 100);
	meta_cache_free(c);
}

/* Tables of 16 slices, at places that have no order, as guests make them. */
static void tables_that_fit_with_some_slack_are_read_once(void **state)
{
	(void)state;
	for (uint64_t ntables = 1; ntables <= 256; ntables *= 2) {
		struct pattern p = {0};
		struct meta_cache *c = cache_on(&p, META_CACHE_SLACK * ntables * 16 * SLICE);
		uint64_t place = 1;

		for (int round = 0; round < 2; round++, place = 1) {
			for (uint64_t i = 0; i < ntables * 16; i++) {
				if (i % 16 == 0)
					place = (place * 214013 + 2531011) % (1u << 24);
				expect_slice(c, (place * 16 + i % 16) * SLICE);
			}
		}
		assert_int_equal(p.reads, ntables * 16);
		meta_cache_free(c);
	}
}

static void a_tiny_limit_costs_reads_but_never_fails(void **state)
{
	struct pattern p = {0};
	struct meta_cache *c = cache_on(&p, 0);
	struct meta_slice held[20];

	(void)state;
	/* more slices held at once than the cache has room for */
	for (uint64_t i = 0; i < 20; i++)
		assert_int_equal(meta_cache_get(c, (i + 1) * SLICE, &held[i], NULL), 0);
	for (uint64_t i = 0; i < 20; i++) {
		assert_true(load_be64(held[i].bytes) == (i + 1) * SLICE);
		meta_cache_put(c, &held[i]);
	}
	meta_cache_free(c);
}

static void a_failed_read_isnt_remembered(void **state)
{
	struct pattern p = {0};
	struct meta_cache *c = cache_on(&p, 8 * SLICE);
	struct qcow2_error err;
	struct meta_slice s;

	(void)state;
	p.fail = true;
	assert_int_equal(meta_cache_get(c, SLICE, &s, &err), -EIO);
	assert_string_equal(err.message, "told to fail");
	p.fail = false;
	expect_slice(c, SLICE);
	assert_int_equal(p.reads, 2);
	meta_cache_free(c);
}

struct hammer {
	struct meta_cache *cache;
	_Atomic unsigned wrong, words;
};

static void hammer_one(void *opaque, unsigned id)
{
	struct hammer *h = opaque;
	uint64_t x = id * 7919 + 1, off, word;
	struct meta_slice s;
	uint32_t idx;

	for (int i = 0; i < 20000; i++) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		off = ((x >> 33) % 64 + 1) * SLICE;
		if (meta_cache_get(h->cache, off, &s, NULL) != 0 || load_be64(s.bytes) != off ||
		    load_be64(s.bytes + SLICE - 8) != off + SLICE - 8)
			h->wrong++;
		meta_cache_put(h->cache, &s);
		off = ((x >> 40) % 64 + 1) * SLICE;
		idx = (uint32_t)(x >> 50) % (SLICE / 8);
		if (meta_cache_peek_word(h->cache, off, idx, &word)) {
			h->words++;
			if (word != off + idx * 8ull)
				h->wrong++;
		}
	}
}

static void threads_see_only_the_slice_they_asked_for(void **state)
{
	struct pattern p = {0};
	struct hammer h = {.cache = cache_on(&p, 16 * SLICE)};

	(void)state;
	work_team(8, hammer_one, &h);
	assert_int_equal(h.wrong, 0);
	meta_cache_free(h.cache);
}

static void threads_that_miss_together_read_once(void **state)
{
	struct pattern p = {0};
	struct hammer h = {.cache = cache_on(&p, 4096 * SLICE)};

	(void)state;
	work_team(8, hammer_one, &h);
	assert_int_equal(h.wrong, 0);
	assert_int_equal(p.reads, 64);
	meta_cache_free(h.cache);
}

static void neighbours_are_read_ahead_in_one_go(void **state)
{
	struct pattern p = {0};
	struct meta_cache *c = cache_on(&p, 256 * SLICE);

	(void)state;
	meta_cache_read_ahead(c, 16 * SLICE, 16);
	assert_int_equal(p.reads, 1);
	meta_cache_read_ahead(c, 16 * SLICE, 16); /* they are there */
	for (uint64_t i = 16; i < 32; i++)
		expect_slice(c, i * SLICE);
	assert_int_equal(p.reads, 1);
	expect_slice(c, 40 * SLICE);
	meta_cache_read_ahead(c, 36 * SLICE, 16); /* as far as to the one that is there */
	for (uint64_t i = 36; i < 41; i++)
		expect_slice(c, i * SLICE);
	assert_int_equal(p.reads, 3);
	meta_cache_free(c);
}

static void what_could_not_be_read_ahead_is_read_when_it_is_asked_for(void **state)
{
	struct pattern p = {.fail = true};
	struct meta_cache *c = cache_on(&p, 256 * SLICE);

	(void)state;
	meta_cache_read_ahead(c, 16 * SLICE, 8);
	p.fail = false;
	for (uint64_t i = 16; i < 24; i++)
		expect_slice(c, i * SLICE);
	meta_cache_free(c);
	/* more than there are places for */
	c = cache_on(&p, 4 * SLICE);
	meta_cache_read_ahead(c, 16 * SLICE, 16);
	for (uint64_t i = 16; i < 32; i++)
		expect_slice(c, i * SLICE);
	meta_cache_free(c);
}

/* ---- slices kept straight ---- */

#define STEP 8 /* from word to word of the pattern */

static void straight_slices_stay_known_though_they_lose_their_place(void **state)
{
	struct pattern p = {0};
	struct meta_cache *c = cache_on(&p, 256 * SLICE);

	(void)state;
	meta_cache_keep_straight(c, STEP, false);
	for (int round = 0; round < 3; round++)
		expect_slices(c, 1, 1001);
	assert_int_equal(p.reads, 1000);
	meta_cache_free(c);

	/* not in more memory than they may have */
	c = cache_on(&p, 16 * SLICE);
	meta_cache_keep_straight(c, STEP, false);
	for (int round = 0; round < 2; round++)
		expect_slices(c, 1, 1001);
	assert_true(p.reads > 2000);
	meta_cache_free(c);
}

static void other_slices_are_read_again(void **state)
{
	struct pattern p = {0};
	struct meta_cache *c = cache_on(&p, 8 * SLICE);

	(void)state;
	meta_cache_keep_straight(c, STEP + 8, false);
	for (int round = 0; round < 2; round++)
		expect_slices(c, 1, 101);
	assert_int_equal(p.reads, 200);
	meta_cache_free(c);
}

static int no_room_is_needed(void *opaque, struct qcow2_error *err)
{
	(void)opaque;
	(void)err;
	return 0;
}

/* The slice has other words from now on, and waits to be written. */
static void change(struct meta_cache *c, uint64_t off)
{
	struct meta_slice s;
	uint8_t *bytes;

	assert_int_equal(meta_cache_get_way(c, off, &s, NULL), 0);
	meta_cache_lock(c);
	bytes = meta_cache_change_locked(c, &s);
	for (unsigned i = 0; i < SLICE; i += 8)
		store_be64_release(bytes + i, off + i + OTHER);
	meta_cache_changed_locked(c, &s);
	meta_cache_unlock(c);
	meta_cache_put(c, &s);
}

/* The only one that was changed. */
static void write_change(struct pattern *p, uint64_t off)
{
	struct meta_dirty_list dirty;

	assert_int_equal(meta_cache_take_dirty(p->cache, &dirty, NULL), 0);
	assert_int_equal(dirty.count, 1);
	p->other = off;
	meta_cache_put_dirty(p->cache, &dirty, true);
}

/* At least a word of each that is kept, and none of a slice that has a place. */
static unsigned count_words(struct meta_cache *c, uint64_t from, uint64_t end)
{
	struct meta_slice s;
	unsigned n = 0;
	uint64_t word;

	for (uint64_t i = from; i < end; i++) {
		bool kept = meta_cache_peek_word(c, i * SLICE, 511, &word);

		n += kept;
		assert_true(!kept || word == i * SLICE + 511ull * STEP);
		if (meta_cache_peek(c, i * SLICE, &s) == 0) {
			assert_false(kept);
			meta_cache_put(c, &s);
		}
	}
	return n;
}

static void a_word_of_a_straight_slice_needs_no_place(void **state)
{
	struct pattern p = {0};
	struct meta_cache *c = cache_on(&p, 64 * SLICE);
	uint64_t word;

	(void)state;
	meta_cache_keep_straight(c, STEP, false);
	meta_cache_allow_changes(c, no_room_is_needed, NULL);
	expect_slices(c, 1, 200);
	for (int round = 0; round < 2; round++) /* nothing moves by looking */
		assert_true(count_words(c, 1, 200) >= 200 - 1 - 64);
	assert_int_equal(p.reads, 199);
	assert_true(meta_cache_peek_word(c, SLICE, 3, &word) && word == SLICE + 3 * STEP);
	change(c, SLICE);
	assert_false(meta_cache_peek_word(c, SLICE, 3, &word));
	assert_true(meta_cache_peek_word(c, 2 * SLICE, 0, &word));
	meta_cache_forget(c, 2 * SLICE, SLICE);
	assert_false(meta_cache_peek_word(c, 2 * SLICE, 0, &word));
	p.cache = c;
	write_change(&p, SLICE);
	meta_cache_free(c);
}

static void what_changed_is_known_as_it_is_now(void **state)
{
	struct pattern p = {0};
	struct meta_cache *c = cache_on(&p, 64 * SLICE);

	(void)state;
	meta_cache_keep_straight(c, STEP, false);
	meta_cache_allow_changes(c, no_room_is_needed, NULL);
	p.cache = c;
	expect_slices(c, 1, 200); /* the first ones are kept straight now */
	change(c, SLICE);
	expect_words(c, SLICE, SLICE + OTHER);
	write_change(&p, SLICE);
	expect_slices(c, 2, 200);
	expect_words(c, SLICE, SLICE + OTHER);
	p.other = 0;
	meta_cache_forget(c, SLICE, SLICE);
	expect_slices(c, 2, 200);
	expect_slice(c, SLICE);
	meta_cache_free(c);
}

/* Also where it has lost its place and is kept straight. */
static void what_is_forgotten_is_read_again(void **state)
{
	struct pattern p = {0};
	struct meta_cache *c = cache_on(&p, 64 * SLICE);

	(void)state;
	meta_cache_keep_straight(c, STEP, false);
	expect_slices(c, 1, 200);
	expect_slices(c, 1, 3);
	assert_int_equal(p.reads, 199);
	expect_slices(c, 100, 200); /* both have lost it again */
	p.other = SLICE;
	meta_cache_forget(c, SLICE, SLICE);
	expect_words(c, SLICE, SLICE + OTHER);
	expect_slice(c, 2 * SLICE);
	assert_int_equal(p.reads, 200);
	meta_cache_free(c);
}

static const struct meta_ahead in_the_middle = {.wanted = 1, .left = 12, .before = 4};

static void expect_ahead(struct meta_cache *c, uint64_t off, const struct meta_ahead *ahead)
{
	struct meta_slice s;

	assert_int_equal(meta_cache_get_ahead(c, off, ahead, &s, NULL), 0);
	assert_true(load_be64(s.bytes) == off);
	meta_cache_put(c, &s);
}

static void where_reads_cost_much_the_table_around_comes_too(void **state)
{
	static const struct meta_ahead alone = {.wanted = 1, .left = 1, .is_first = true};
	struct pattern p = {0};

	(void)state;
	for (uint64_t step = STEP; step < STEP + 2;
	     step++) { /* kept straight, or in empty places */
		struct meta_cache *c = cache_on(&p, 1024 * SLICE);

		p.reads = 0;
		meta_cache_keep_straight(c, step, true);
		expect_ahead(c, 20 * SLICE, &in_the_middle);
		assert_int_equal(p.reads, 1);
		expect_slices(c, 16, 32);
		assert_int_equal(p.reads, 1);
		expect_ahead(c, 33 * SLICE, &alone);
		expect_slice(c, 34 * SLICE);
		assert_int_equal(p.reads, 3);
		meta_cache_free(c);
	}
}

static void nothing_comes_from_beyond_the_table(void **state)
{
	static const struct meta_ahead small = {.wanted = 1, .left = 3, .before = 1};
	struct pattern p = {0};
	struct meta_cache *c = cache_on(&p, 1024 * SLICE);

	(void)state;
	meta_cache_keep_straight(c, STEP, true);
	expect_ahead(c, 21 * SLICE, &small);
	expect_slices(c, 20, 24);
	assert_int_equal(p.reads, 1);
	expect_slice(c, 19 * SLICE);
	expect_slice(c, 24 * SLICE);
	assert_int_equal(p.reads, 3);
	meta_cache_free(c);
}

static void change_a_neighbour(struct pattern *p)
{
	p->other = 17 * SLICE;
	meta_cache_forget(p->cache, 17 * SLICE, SLICE);
}

static void what_changes_while_it_is_read_around_isnt_kept(void **state)
{
	struct pattern p = {.meanwhile = change_a_neighbour};

	(void)state;
	p.cache = cache_on(&p, 1024 * SLICE);
	meta_cache_keep_straight(p.cache, STEP, true);
	expect_ahead(p.cache, 20 * SLICE, &in_the_middle);
	expect_words(p.cache, 17 * SLICE, 17 * SLICE + OTHER);
	meta_cache_free(p.cache);
}

static void write_a_neighbour_and_push_it_out(struct pattern *p)
{
	write_change(p, 17 * SLICE);
	expect_slices(p->cache, 1000, 1200);
}

static void what_is_written_while_it_is_read_around_isnt_kept_as_it_was(void **state)
{
	struct pattern p = {0};

	(void)state;
	p.cache = cache_on(&p, 64 * SLICE);
	meta_cache_keep_straight(p.cache, STEP, true);
	meta_cache_allow_changes(p.cache, no_room_is_needed, NULL);
	change(p.cache, 17 * SLICE);
	p.meanwhile = write_a_neighbour_and_push_it_out;
	expect_ahead(p.cache, 20 * SLICE, &in_the_middle);
	expect_words(p.cache, 17 * SLICE, 17 * SLICE + OTHER);
	meta_cache_free(p.cache);
}

static void threads_see_their_slices_whether_kept_straight_or_read(void **state)
{
	struct pattern p = {0};
	struct hammer h = {.cache = cache_on(&p, 16 * SLICE)};

	(void)state;
	meta_cache_keep_straight(h.cache, STEP, true);
	work_team(8, hammer_one, &h);
	assert_int_equal(h.wrong, 0);
	assert_true(h.words > 0);
	meta_cache_free(h.cache);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_fits_is_read_once),
		cmocka_unit_test(tables_that_fit_with_some_slack_are_read_once),
		cmocka_unit_test(a_tiny_limit_costs_reads_but_never_fails),
		cmocka_unit_test(a_failed_read_isnt_remembered),
		cmocka_unit_test(neighbours_are_read_ahead_in_one_go),
		cmocka_unit_test(what_could_not_be_read_ahead_is_read_when_it_is_asked_for),
		cmocka_unit_test(threads_see_only_the_slice_they_asked_for),
		cmocka_unit_test(threads_that_miss_together_read_once),
		cmocka_unit_test(straight_slices_stay_known_though_they_lose_their_place),
		cmocka_unit_test(other_slices_are_read_again),
		cmocka_unit_test(a_word_of_a_straight_slice_needs_no_place),
		cmocka_unit_test(what_changed_is_known_as_it_is_now),
		cmocka_unit_test(what_is_forgotten_is_read_again),
		cmocka_unit_test(where_reads_cost_much_the_table_around_comes_too),
		cmocka_unit_test(nothing_comes_from_beyond_the_table),
		cmocka_unit_test(what_changes_while_it_is_read_around_isnt_kept),
		cmocka_unit_test(what_is_written_while_it_is_read_around_isnt_kept_as_it_was),
		cmocka_unit_test(threads_see_their_slices_whether_kept_straight_or_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
