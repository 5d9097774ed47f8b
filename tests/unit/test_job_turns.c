/* SPDX-License-Identifier: MIT */
/*
 * The copier's windows are placed in their order, but one that has nothing to be placed holds up
 * nobody and waits for nobody, within a limit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <time.h>

#include "job/copy.h"

#define MIB (1024 * 1024ull)
#define BLOCK 65536u
#define PLACED_MAX 16

/* A disk of windows of 1 MiB, some of which have data. */
struct disk_of_windows {
	struct job_reader reader;
	struct job_target target;
	uint64_t nwindows;
	const uint64_t *data; /* numbers of those with data, in order; 0 is the first */
	size_t ndata;
	uint64_t awaited; /* reading window 0 takes until that one was read */
	bool came;	  /* in time */
	int code;	  /* and fails then */
	atomic_uint_fast64_t nread;
	atomic_uint_fast64_t last; /* that was read */
	/* only one window is placed at a time */
	uint64_t placed[PLACED_MAX];
	size_t nplaced;
};

static void nap(void)
{
	const struct timespec ms = {.tv_nsec = 1000000};

	nanosleep(&ms, NULL);
}

static bool has_data(const struct disk_of_windows *d, uint64_t window)
{
	for (size_t i = 0; i < d->ndata; i++) {
		if (d->data[i] == window)
			return true;
	}
	return false;
}

static int read_window(const struct job_reader *r, uint64_t guest_off, size_t len,
		       size_t block_size, uint8_t *buf, uint8_t *states, uint64_t *quiet,
		       job_unreadable_fn unreadable, void *opaque, struct qcow2_error *err)
{
	struct disk_of_windows *d = (struct disk_of_windows *)(uintptr_t)r;
	uint64_t window = guest_off / MIB;

	(void)buf;
	(void)unreadable;
	(void)opaque;
	*quiet = 0;
	memset(states, JOB_BLOCK_ABSENT, len / block_size);
	if (has_data(d, window))
		states[0] = JOB_BLOCK_DATA;
	atomic_fetch_add(&d->nread, 1);
	if (window > 0) {
		uint64_t last = atomic_load(&d->last);

		while (last < window && !atomic_compare_exchange_weak(&d->last, &last, window))
			;
		return 0;
	}
	for (int i = 0; i < 5000 && atomic_load(&d->last) < d->awaited; i++)
		nap();
	d->came = atomic_load(&d->last) >= d->awaited;
	for (int i = 0; i < 30; i++) /* who could go on would */
		nap();
	return d->code ? error_set(err, d->code, "window 0") : 0;
}

static int place(struct job_target *t, struct job_chunk *k, struct qcow2_error *err)
{
	struct disk_of_windows *d =
		(void *)((uint8_t *)t - offsetof(struct disk_of_windows, target));

	(void)err;
	if (k->states[0] == JOB_BLOCK_ABSENT)
		return 0;
	assert_true(d->nplaced < PLACED_MAX);
	d->placed[d->nplaced++] = k->guest_off / MIB;
	return 0;
}

static const struct job_target_ops ops = {.place = place};

static int run(struct disk_of_windows *d, struct qcow2_error *err)
{
	struct job_copy c = {
		.reader = &d->reader,
		.target = &d->target,
		.size_bytes = d->nwindows * MIB,
		.threads = 2,
	};

	d->reader.read = read_window;
	d->target.ops = &ops;
	d->target.block_size = BLOCK;
	d->target.ignores_absent = true;
	error_clear(err);
	return job_copy_run(&c, err);
}

static void what_has_nothing_to_be_placed_waits_for_nobody(void **state)
{
	const uint64_t data[] = {0, 50, 51, 63};
	struct disk_of_windows d = {.nwindows = 64, .data = data, .ndata = 4, .awaited = 50};
	struct qcow2_error err;

	(void)state;
	assert_int_equal(run(&d, &err), 0);
	assert_true(d.came);
	assert_int_equal(d.nplaced, 4);
	assert_memory_equal(d.placed, data, sizeof(data));
	assert_int_equal(atomic_load(&d.nread), 64);
}

/* Window 50 was read while the first was being read; it couldn't be placed, so none came after. */
static void what_has_waits_for_its_turn(void **state)
{
	const uint64_t data[] = {50};
	struct disk_of_windows d = {
		.nwindows = 64, .data = data, .ndata = 1, .awaited = 50, .code = -EIO};
	struct qcow2_error err;

	(void)state;
	assert_int_equal(run(&d, &err), -EIO);
	assert_string_equal(err.message, "window 0");
	assert_int_equal(d.nplaced, 0);
	assert_int_equal(atomic_load(&d.last), 50);
}

static void nobody_gets_further_ahead_than_there_is_room_to_note_it(void **state)
{
	const uint64_t data[] = {0, 2 * JOB_WAIVED_MAX + 2};
	struct disk_of_windows d = {.nwindows = 3 * JOB_WAIVED_MAX,
				    .data = data,
				    .ndata = 2,
				    .awaited = JOB_WAIVED_MAX};
	struct disk_of_windows bad = {
		.nwindows = d.nwindows, .awaited = JOB_WAIVED_MAX, .code = -EIO};
	struct qcow2_error err;

	(void)state;
	assert_int_equal(run(&d, &err), 0);
	assert_int_equal(d.nplaced, 2);
	assert_memory_equal(d.placed, data, sizeof(data));
	assert_int_equal(atomic_load(&d.nread), d.nwindows);
	assert_int_equal(run(&bad, &err), -EIO);
	assert_int_equal(atomic_load(&bad.last), JOB_WAIVED_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_has_nothing_to_be_placed_waits_for_nobody),
		cmocka_unit_test(what_has_waits_for_its_turn),
		cmocka_unit_test(nobody_gets_further_ahead_than_there_is_room_to_note_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
