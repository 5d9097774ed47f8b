/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "storage_model.h"

static struct qcow2_storage faulty(void)
{
	struct qcow2_storage lower, st;

	assert_int_equal(storage_mem_new(&lower, 0, NULL), 0);
	assert_int_equal(storage_fault_new(&st, lower, NULL), 0);
	return st;
}

static void add(struct qcow2_storage st, struct storage_fault_rule rule)
{
	assert_int_equal(storage_fault_add(st, &rule), 0);
}

/* Does one operation of the kind. */
static int do_op(struct qcow2_storage st, enum storage_op op, struct qcow2_error *err)
{
	struct qcow2_storage_extent e;
	char byte = 'x';

	switch (op) {
	case STORAGE_OP_READ:
		return storage_read(st, &byte, 1, 0, err);
	case STORAGE_OP_WRITE:
		return storage_write(st, &byte, 1, 0, err);
	case STORAGE_OP_ZERO:
		return storage_zero(st, 0, 1, 0, err);
	case STORAGE_OP_DISCARD:
		return storage_discard(st, 0, 1, err);
	case STORAGE_OP_FLUSH:
		return storage_flush(st, err);
	case STORAGE_OP_TRUNCATE:
		return storage_truncate(st, 1, err);
	case STORAGE_OP_ALLOCATE:
		return storage_allocate(st, 0, 1, err);
	default:
		return storage_extent(st, 0, 1, &e, err);
	}
}

static void the_nth_of_each_kind_fails_so_many_times(void **state)
{
	const char *const names[] = {"read",  "write",	  "zero",     "discard",
				     "flush", "truncate", "allocate", "extent"};
	struct qcow2_error err;
	char sentence[100];

	(void)state;
	for (int op = 0; op < STORAGE_OP_COUNT; op++) {
		int normal = op == STORAGE_OP_ALLOCATE ? -ENOTSUP : 0;
		struct qcow2_storage st = faulty();

		add(st, (struct storage_fault_rule){
				.op = (enum storage_op)op, .nth = 2, .times = 3, .code = -EIO});
		for (int n = 0; n < 8; n++) {
			int expected = n >= 2 && n < 5 ? -EIO : normal;

			assert_int_equal(do_op(st, (enum storage_op)op, &err), expected);
			snprintf(sentence, sizeof(sentence),
				 "injected fault in %s %d: Input/output error", names[op], n);
			if (expected == -EIO)
				assert_string_equal(err.message, sentence);
		}
		for (int other = 0; other < STORAGE_OP_COUNT; other++)
			assert_int_equal(storage_fault_seen(st, (enum storage_op)other),
					 other == op ? 8 : 0);
		storage_close(&st);
	}
}

static void for_ever_is_for_ever_until_cleared(void **state)
{
	struct qcow2_storage st = faulty();

	(void)state;
	add(st, (struct storage_fault_rule){
			.op = STORAGE_OP_FLUSH, .nth = 1, .times = UINT64_MAX, .code = -ENOSPC});
	assert_int_equal(storage_flush(st, NULL), 0);
	for (int i = 0; i < 100; i++)
		assert_int_equal(storage_flush(st, NULL), -ENOSPC);
	storage_fault_clear(st);
	assert_int_equal(storage_flush(st, NULL), 0);
	assert_int_equal(storage_fault_seen(st, STORAGE_OP_FLUSH), 102);
	storage_close(&st);
}

static void a_write_may_be_done_in_part(void **state)
{
	struct iovec iov[30];
	char out[30], back[30];

	(void)state;
	for (size_t i = 0; i < 30; i++) {
		out[i] = (char)('A' + i);
		iov[i] = (struct iovec){out + i, 1};
	}
	for (size_t part = 0; part <= 40; part++) {
		struct qcow2_storage st = faulty();

		add(st, (struct storage_fault_rule){.op = STORAGE_OP_WRITE,
						    .times = 1,
						    .code = -ENOSPC,
						    .short_bytes = part});
		assert_int_equal(storage_writev(st, iov, 30, 5000, NULL), -ENOSPC);
		assert_int_equal(storage_read(st, back, 30, 5000, NULL), 0);
		for (size_t i = 0; i < 30; i++)
			assert_int_equal(back[i], i < part ? out[i] : 0);
		storage_close(&st);
	}
}

static void what_is_dropped_only_looks_done(void **state)
{
	struct qcow2_storage st = faulty();
	struct qcow2_storage_extent e;
	uint64_t size = 1;
	char buf[4] = "####";

	(void)state;
	add(st, (struct storage_fault_rule){.op = STORAGE_OP_WRITE, .times = 1, .drop = true});
	add(st, (struct storage_fault_rule){.op = STORAGE_OP_READ, .times = 1, .drop = true});
	add(st, (struct storage_fault_rule){.op = STORAGE_OP_EXTENT, .times = 1, .drop = true});
	assert_int_equal(storage_write(st, "data", 4, 0, NULL), 0);
	assert_int_equal(storage_size(st, &size, NULL), 0);
	assert_int_equal(size, 0);
	assert_int_equal(storage_write(st, "data", 4, 0, NULL), 0);
	assert_int_equal(storage_read(st, buf, 4, 0, NULL), 0);
	assert_memory_equal(buf, "\0\0\0\0", 4);
	assert_int_equal(storage_read(st, buf, 4, 0, NULL), 0);
	assert_memory_equal(buf, "data", 4);
	assert_int_equal(storage_extent(st, 1 << 20, 100, &e, NULL), 0);
	assert_true(e.is_data && e.len_bytes == 100);
	assert_int_equal(storage_extent(st, 1 << 20, 100, &e, NULL), 0);
	assert_false(e.is_data);
	storage_close(&st);
}

static void a_delay_takes_its_time(void **state)
{
	struct qcow2_storage st = faulty();
	struct timespec a, b;

	(void)state;
	add(st, (struct storage_fault_rule){.op = STORAGE_OP_READ, .times = 1, .delay_us = 20000});
	clock_gettime(CLOCK_MONOTONIC, &a);
	assert_int_equal(do_op(st, STORAGE_OP_READ, NULL), 0);
	clock_gettime(CLOCK_MONOTONIC, &b);
	assert_true((b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000 >= 20000);
	storage_close(&st);
}

static void the_first_rule_that_fits_counts_and_there_are_sixteen(void **state)
{
	struct storage_fault_rule rule = {.op = STORAGE_OP_READ, .times = 1, .code = -EIO};
	struct qcow2_storage st = faulty();

	(void)state;
	add(st, rule);
	rule.times = 2;
	rule.code = -EAGAIN;
	for (int i = 1; i < 16; i++)
		add(st, rule);
	assert_int_equal(storage_fault_add(st, &rule), -ENOSPC);
	assert_int_equal(do_op(st, STORAGE_OP_READ, NULL), -EIO);
	assert_int_equal(do_op(st, STORAGE_OP_READ, NULL), -EAGAIN);
	assert_int_equal(do_op(st, STORAGE_OP_READ, NULL), 0);
	rule.op = STORAGE_OP_COUNT;
	assert_int_equal(storage_fault_add(st, &rule), -EINVAL);
	rule.op = STORAGE_OP_READ;
	rule.code = 5;
	assert_int_equal(storage_fault_add(st, &rule), -EINVAL);
	storage_close(&st);
}

static void a_zero_that_is_not_supported_is_written(void **state)
{
	struct storage_fault_rule rule = {
		.op = STORAGE_OP_ZERO, .times = UINT64_MAX, .code = -ENOTSUP};
	struct qcow2_error err = {.code = 0};
	struct qcow2_storage st = faulty();
	static uint8_t buf[3 << 20], back[3 << 20];

	(void)state;
	add(st, rule);
	memset(buf, 7, sizeof(buf));
	assert_int_equal(storage_write(st, buf, sizeof(buf), 0, NULL), 0);
	assert_int_equal(storage_zero(st, 1001, 2500001, QCOW2_STORAGE_NO_FALLBACK, &err),
			 -ENOTSUP);
	assert_int_equal(err.code, -ENOTSUP);
	assert_int_equal(storage_fault_seen(st, STORAGE_OP_WRITE), 1);
	err = (struct qcow2_error){.code = 0};
	assert_int_equal(storage_zero(st, 1001, 2500001, 0, &err), 0);
	assert_int_equal(err.code, 0); /* left alone, although the store refused at first */
	assert_int_equal(storage_fault_seen(st, STORAGE_OP_WRITE), 4);
	memset(buf + 1001, 0, 2500001);
	assert_int_equal(storage_read(st, back, sizeof(back), 0, NULL), 0);
	assert_memory_equal(buf, back, sizeof(buf));
	rule.op = STORAGE_OP_DISCARD;
	add(st, rule);
	assert_int_equal(storage_discard(st, 0, 100, &err), 0);
	assert_int_equal(err.code, 0);
	storage_close(&st);
}

static void without_rules_nothing_changes(void **state)
{
	struct qcow2_storage st = faulty();

	(void)state;
	model_run(st, false, 1000);
	storage_close(&st);
}

/* A store that can do nothing but say what it is. */
static void a_store_without_operations_says_so(void **state)
{
	static const struct qcow2_storage_ops none = {.kind = "bare"};
	struct qcow2_storage st = {.ops = &none};
	struct qcow2_storage_extent e;
	struct qcow2_error err;
	uint64_t size;

	(void)state;
	for (int op = 0; op < STORAGE_OP_COUNT; op++) {
		bool needless = op == STORAGE_OP_DISCARD || op == STORAGE_OP_EXTENT;

		assert_int_equal(do_op(st, (enum storage_op)op, &err), needless ? 0 : -ENOTSUP);
		if (!needless)
			assert_ptr_equal(strstr(err.message, "a bare store can't "), err.message);
	}
	assert_int_equal(storage_size(st, &size, NULL), -ENOTSUP);
	assert_int_equal(storage_lock(st, 1, 2, NULL), 0);
	assert_int_equal(storage_extent(st, 100, 50, &e, NULL), 0);
	assert_true(e.is_data && e.len_bytes == 50);
	assert_int_equal(storage_extent(st, 100, 0, &e, NULL), -EINVAL);
	assert_int_equal(storage_extent(st, UINT64_MAX, 2, &e, NULL), -EFBIG);
	storage_close(&st);
}

static void *flush_much(void *arg)
{
	struct qcow2_storage *st = arg;
	uintptr_t failed = 0;

	for (int i = 0; i < 1000; i++)
		failed += storage_flush(*st, NULL) != 0;
	return (void *)failed;
}

static void three_threads_meet_each_fault_once(void **state)
{
	struct qcow2_storage st = faulty();
	uintptr_t failed = 0;
	pthread_t t[3];

	(void)state;
	add(st, (struct storage_fault_rule){
			.op = STORAGE_OP_FLUSH, .nth = 500, .times = 700, .code = -EIO});
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&t[i], NULL, flush_much, &st), 0);
	for (int i = 0; i < 3; i++) {
		void *n;

		pthread_join(t[i], &n);
		failed += (uintptr_t)n;
	}
	assert_int_equal(failed, 700);
	storage_close(&st);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_nth_of_each_kind_fails_so_many_times),
		cmocka_unit_test(for_ever_is_for_ever_until_cleared),
		cmocka_unit_test(a_write_may_be_done_in_part),
		cmocka_unit_test(what_is_dropped_only_looks_done),
		cmocka_unit_test(a_delay_takes_its_time),
		cmocka_unit_test(the_first_rule_that_fits_counts_and_there_are_sixteen),
		cmocka_unit_test(a_zero_that_is_not_supported_is_written),
		cmocka_unit_test(without_rules_nothing_changes),
		cmocka_unit_test(a_store_without_operations_says_so),
		cmocka_unit_test(three_threads_meet_each_fault_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
