/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "base/alloc.h"
#include "storage_model.h"

static struct qcow2_storage memory(void)
{
	struct qcow2_storage st;

	assert_int_equal(storage_mem_new(&st, 0, NULL), 0);
	return st;
}

static struct qcow2_storage recorder(struct qcow2_storage lower, bool keep_bytes)
{
	struct qcow2_storage st;

	assert_int_equal(storage_record_new(&st, lower, keep_bytes, NULL), 0);
	return st;
}

static void check_entry(struct qcow2_storage st, size_t idx, enum storage_op op, uint64_t off,
			uint64_t len)
{
	struct storage_record_entry e = storage_record_entry(st, idx);

	assert_int_equal(e.op, op);
	assert_true(e.host_off == off && e.len_bytes == len);
}

static void every_operation_is_logged_in_order(void **state)
{
	struct qcow2_storage st = recorder(memory(), true);
	struct qcow2_storage_extent e;
	struct iovec iov[2] = {{(char[]){'a', 'b'}, 2}, {(char[]){'c'}, 1}};
	uint64_t size;
	char buf[10];

	(void)state;
	assert_int_equal(storage_writev(st, iov, 2, 100, NULL), 0);
	assert_int_equal(storage_read(st, buf, 10, 98, NULL), 0);
	assert_memory_equal(buf, "\0\0abc\0\0\0\0\0", 10);
	assert_int_equal(storage_zero(st, 50, 60, 0, NULL), 0);
	assert_int_equal(storage_discard(st, 0, 8, NULL), 0);
	assert_int_equal(storage_flush(st, NULL), 0);
	assert_int_equal(storage_truncate(st, 1000, NULL), 0);
	assert_int_equal(storage_extent(st, 5, 6, &e, NULL), 0);
	assert_int_equal(storage_size(st, &size, NULL), 0);
	assert_int_equal(size, 1000);
	assert_int_equal(storage_record_entries(st), 7);
	check_entry(st, 0, STORAGE_OP_WRITE, 100, 3);
	assert_memory_equal(storage_record_entry(st, 0).bytes, "abc", 3);
	check_entry(st, 1, STORAGE_OP_READ, 98, 10);
	assert_null(storage_record_entry(st, 1).bytes);
	check_entry(st, 2, STORAGE_OP_ZERO, 50, 60);
	check_entry(st, 3, STORAGE_OP_DISCARD, 0, 8);
	check_entry(st, 4, STORAGE_OP_FLUSH, 0, 0);
	check_entry(st, 5, STORAGE_OP_TRUNCATE, 1000, 0);
	check_entry(st, 6, STORAGE_OP_EXTENT, 5, 6);
	assert_int_equal(storage_record_count(st, STORAGE_OP_WRITE), 1);
	assert_int_equal(storage_record_bytes(st, STORAGE_OP_READ), 10);
	assert_int_equal(storage_record_count(st, STORAGE_OP_ALLOCATE), 0);
	storage_record_reset(st);
	assert_int_equal(storage_record_entries(st), 0);
	assert_int_equal(storage_record_count(st, STORAGE_OP_WRITE), 0);
	assert_int_equal(storage_record_bytes(st, STORAGE_OP_WRITE), 0);
	storage_close(&st);
}

static void bytes_are_kept_only_if_asked_for(void **state)
{
	struct qcow2_storage st = recorder(memory(), false);

	(void)state;
	assert_int_equal(storage_write(st, "abc", 3, 0, NULL), 0);
	assert_null(storage_record_entry(st, 0).bytes);
	storage_close(&st);
}

static void failures_are_not_logged(void **state)
{
	struct storage_fault_rule rule = {.op = STORAGE_OP_WRITE, .times = 1, .code = -EIO};
	struct qcow2_storage faulty, st;

	(void)state;
	assert_int_equal(storage_fault_new(&faulty, memory(), NULL), 0);
	st = recorder(faulty, true);
	assert_int_equal(storage_fault_add(faulty, &rule), 0);
	assert_int_equal(storage_write(st, "abc", 3, 0, NULL), -EIO);
	assert_int_equal(storage_allocate(st, 0, 3, NULL), -ENOTSUP);
	assert_int_equal(storage_record_entries(st), 0);
	assert_int_equal(storage_write(st, "abc", 3, 0, NULL), 0);
	assert_int_equal(storage_record_entries(st), 1);
	storage_close(&st);
}

static unsigned allowed;

static bool allow_some(size_t size)
{
	(void)size;
	return allowed != 0 && allowed--;
}

static void without_memory_for_the_log_nothing_is_done(void **state)
{
	struct qcow2_storage st = recorder(memory(), true);
	uint64_t size = 1;

	(void)state;
	for (unsigned n = 0; n < 2; n++) {
		allowed = n;
		mem_fault_hook = allow_some;
		assert_int_equal(storage_write(st, "abc", 3, 0, NULL), -ENOMEM);
		mem_fault_hook = NULL;
		assert_int_equal(storage_size(st, &size, NULL), 0);
		assert_int_equal(size, 0);
	}
	storage_close(&st);
}

/* Playing the log onto an empty store gives the store. */
static void a_replay_gives_the_same_bytes(void **state)
{
	static uint8_t a[MODEL_BYTES], b[MODEL_BYTES];
	struct qcow2_storage st = recorder(memory(), true), copy = memory();
	int code = 0;

	(void)state;
	model_run(st, false, 1000);
	for (size_t i = 0; i < storage_record_entries(st) && code == 0; i++) {
		struct storage_record_entry e = storage_record_entry(st, i);

		if (e.op == STORAGE_OP_WRITE)
			code = storage_write(copy, e.bytes, e.len_bytes, e.host_off, NULL);
		else if (e.op == STORAGE_OP_ZERO)
			code = storage_zero(copy, e.host_off, e.len_bytes, 0, NULL);
		else if (e.op == STORAGE_OP_TRUNCATE)
			code = storage_truncate(copy, e.host_off, NULL);
	}
	assert_int_equal(code, 0);
	assert_int_equal(storage_read(st, a, sizeof(a), 0, NULL), 0);
	assert_int_equal(storage_read(copy, b, sizeof(b), 0, NULL), 0);
	assert_memory_equal(a, b, sizeof(a));
	storage_close(&st);
	storage_close(&copy);
}

static void *flush_slowly(void *arg)
{
	struct qcow2_storage *st = arg;

	return storage_flush(*st, NULL) == 0 ? st : NULL;
}

static void a_flush_stands_where_it_began(void **state)
{
	struct storage_fault_rule rule = {.op = STORAGE_OP_FLUSH, .times = 1, .delay_us = 200000};
	struct qcow2_storage slow, st;
	pthread_t t;
	void *done;

	(void)state;
	assert_int_equal(storage_fault_new(&slow, memory(), NULL), 0);
	assert_int_equal(storage_fault_add(slow, &rule), 0);
	st = recorder(slow, true);
	assert_int_equal(storage_write(st, "a", 1, 0, NULL), 0);
	assert_int_equal(pthread_create(&t, NULL, flush_slowly, &st), 0);
	while (storage_fault_seen(slow, STORAGE_OP_FLUSH) == 0)
		usleep(1000);
	/* done while the flush is under way: the flush says nothing of it */
	assert_int_equal(storage_write(st, "b", 1, 1, NULL), 0);
	pthread_join(t, &done);
	assert_non_null(done);
	assert_int_equal(storage_record_entries(st), 3);
	check_entry(st, 1, STORAGE_OP_FLUSH, 0, 0);
	check_entry(st, 2, STORAGE_OP_WRITE, 1, 1);
	assert_memory_equal(storage_record_entry(st, 2).bytes, "b", 1);
	storage_close(&st);
}

static void *write_much(void *arg)
{
	struct qcow2_storage *st = arg;
	bool ok = true;

	for (uint64_t i = 0; i < 300 && ok; i++)
		ok = storage_write(*st, "abc", 3, i * 3, NULL) == 0 &&
		     storage_flush(*st, NULL) == 0;
	return ok ? st : NULL;
}

static void three_threads_lose_no_entry(void **state)
{
	struct qcow2_storage st = recorder(memory(), true);
	pthread_t t[3];
	void *ok;

	(void)state;
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&t[i], NULL, write_much, &st), 0);
	for (int i = 0; i < 3; i++) {
		pthread_join(t[i], &ok);
		assert_non_null(ok);
	}
	assert_int_equal(storage_record_entries(st), 1800);
	assert_int_equal(storage_record_count(st, STORAGE_OP_WRITE), 900);
	assert_int_equal(storage_record_bytes(st, STORAGE_OP_WRITE), 2700);
	storage_close(&st);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_operation_is_logged_in_order),
		cmocka_unit_test(bytes_are_kept_only_if_asked_for),
		cmocka_unit_test(failures_are_not_logged),
		cmocka_unit_test(without_memory_for_the_log_nothing_is_done),
		cmocka_unit_test(a_replay_gives_the_same_bytes),
		cmocka_unit_test(a_flush_stands_where_it_began),
		cmocka_unit_test(three_threads_lose_no_entry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
