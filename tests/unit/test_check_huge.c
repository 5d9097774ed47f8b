/* SPDX-License-Identifier: MIT */
/* Checks of images that are larger than any disk here: memory, and threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "check/check.h"
#include "check/pipe.h"
#include "check_huge.h"

#define TIB (1ull << 40)

static _Atomic uint64_t asked_for;

static bool count(size_t size)
{
	asked_for += size;
	return true;
}

/* Checks it, and gives the sum of all memory that was asked for, given back or not. */
static uint64_t memory_for(struct huge *h)
{
	struct check_options options = {0};
	struct check_result result;
	struct qcow2_storage st = huge_store(h);

	asked_for = 0;
	mem_fault_hook = count;
	assert_int_equal(check_image(st, &options, &result, NULL), 0);
	mem_fault_hook = NULL;
	assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
	assert_true(result.allocated_clusters == h->size >> h->cluster_bits);
	assert_true(result.image_end_off == h->end << h->cluster_bits);
	return asked_for;
}

/*
 * What memory grows by with the image, in bits for each cluster. That is all that was ever asked
 * for, arrays that grew into larger ones too: what is held at any moment is at most two thirds.
 */
static void expect_bits(uint64_t size, uint32_t cluster_bits, bool in_pairs)
{
	uint64_t small = size / 8, clusters = (size - small) >> cluster_bits;
	uint64_t tables = clusters >> (cluster_bits - 3), bits = in_pairs ? 4 : 2;
	struct huge h = {.size = small, .cluster_bits = cluster_bits, .in_pairs = in_pairs};
	uint64_t before = memory_for(&h);

	h.size = size;
	assert_in_range(memory_for(&h) - before, 0, tables * 128 + clusters * bits / 8);
}

static void sixty_four_tib_take_bits_a_cluster(void **state)
{
	(void)state;
	expect_bits(64 * TIB, 21, false);
	expect_bits(TIB / 8, 16, true);
	/* a minute of a processor and 330 MB; with sanitizers a minute and a half, and 700 MB */
	if (!getenv("QCOW2_TEST_LONG"))
		return;
	expect_bits(64 * TIB, 21, true);
	expect_bits(64 * TIB, 16, false);
	expect_bits(64 * TIB, 16, true);
}

/* ---- findings ------------------------------------------------------------------------------ */

struct log {
	uint64_t sum, n;
};

static int note(void *opaque, const struct check_report *r)
{
	struct log *l = opaque;
	const uint64_t words[] = {r->finding, r->host_off, r->guest_off, r->entry_off,
				  r->stored,  r->computed, r->nclusters, r->index};

	for (unsigned i = 0; i < ARRAY_LEN(words); i++)
		l->sum = (l->sum ^ words[i]) * 0x100000001b3ull;
	l->n++;
	return 0;
}

static struct log findings_of(uint32_t cluster_bits, bool in_pairs)
{
	struct huge h = {.size = cluster_bits > 16 ? TIB : TIB / 64,
			 .cluster_bits = cluster_bits,
			 .in_pairs = in_pairs,
			 .damaged = true};
	struct log log = {0};
	struct check_options options = {.report = note, .opaque = &log};
	struct check_result result;

	assert_int_equal(check_image(huge_store(&h), &options, &result, NULL), 0);
	assert_true(result.corruptions > 0 && result.leaks > 0);
	return log;
}

static void findings_do_not_depend_on_the_number_of_threads(void **state)
{
	cpu_set_t all, one;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&one);
	for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
		if (CPU_ISSET(i, &all))
			CPU_SET(i, &one);
	for (unsigned i = 0; i < 2; i++) {
		struct log by_many = findings_of(i ? 16 : 21, i), by_one;

		assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
		by_one = findings_of(i ? 16 : 21, i);
		assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
		assert_true(by_many.n == by_one.n && by_many.n > 1);
		assert_true(by_many.sum == by_one.sum);
	}
}

/* ---- the pipe ------------------------------------------------------------------------------ */

struct row {
	uint64_t taken, fail_make, fail_take;
	_Atomic uint64_t made;
};

static int make(void *opaque, uint64_t unit, void *slot, struct qcow2_error *err)
{
	struct row *r = opaque;

	r->made++;
	if (unit % 7 == 0)
		sched_yield();
	memcpy(slot, &unit, sizeof(unit));
	return unit == r->fail_make ? error_set(err, -EIO, "unit %d", (int)unit) : 0;
}

static int take(void *opaque, uint64_t unit, void *slot, struct qcow2_error *err)
{
	struct row *r = opaque;
	uint64_t made;

	memcpy(&made, slot, sizeof(made));
	assert_true(made == unit && unit == r->taken);
	r->taken++;
	return unit == r->fail_take ? error_set(err, -ECANCELED, "enough") : 0;
}

static void units_are_taken_in_order_and_an_error_in_its_turn(void **state)
{
	(void)state;
	for (unsigned nthreads = 1; nthreads <= 8; nthreads++) {
		struct row r = {.fail_make = UINT64_MAX, .fail_take = UINT64_MAX};
		struct check_pipe_job job = {
			.nunits = 1000, .slot_len = 8, .make = make, .take = take, .opaque = &r};
		struct qcow2_error err = {0};

		assert_int_equal(check_pipe_run(&job, nthreads, &err), 0);
		assert_true(r.taken == 1000 && r.made == 1000);
		r = (struct row){.fail_make = 500, .fail_take = UINT64_MAX};
		assert_int_equal(check_pipe_run(&job, nthreads, &err), -EIO);
		assert_string_equal(err.message, "unit 500");
		assert_int_equal(r.taken, 500);
		r = (struct row){.fail_make = 501, .fail_take = 499};
		assert_int_equal(check_pipe_run(&job, nthreads, &err), -ECANCELED);
		assert_int_equal(r.taken, 500);
		job.nunits = 0;
		assert_int_equal(check_pipe_run(&job, nthreads, &err), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(units_are_taken_in_order_and_an_error_in_its_turn),
		cmocka_unit_test(findings_do_not_depend_on_the_number_of_threads),
		cmocka_unit_test(sixty_four_tib_take_bits_a_cluster),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
