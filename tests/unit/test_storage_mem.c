/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>

#include "base/alloc.h"
#include "storage_model.h"

static struct qcow2_storage make(uint64_t size)
{
	struct qcow2_storage st;

	assert_int_equal(storage_mem_new(&st, size, NULL), 0);
	return st;
}

static void check_extent(struct qcow2_storage st, uint64_t off, uint64_t len, bool is_data,
			 uint64_t expected)
{
	struct qcow2_storage_extent e = {0};

	assert_int_equal(storage_extent(st, off, len, &e, NULL), 0);
	assert_int_equal(e.is_data, is_data);
	assert_true(e.len_bytes == expected);
}

static uint64_t size_of(struct qcow2_storage st)
{
	uint64_t size = 0;

	assert_int_equal(storage_size(st, &size, NULL), 0);
	return size;
}

static size_t asked;

static bool count_bytes(size_t size)
{
	asked += size;
	return true;
}

static void a_huge_store_costs_what_is_written(void **state)
{
	struct qcow2_storage st;
	char buf[4];

	(void)state;
	asked = 0;
	mem_fault_hook = count_bytes;
	st = make(1ull << 46);
	for (uint64_t i = 0; i < 64; i++)
		assert_int_equal(storage_write(st, "data", 4, i << 40, NULL), 0);
	assert_int_equal(storage_zero(st, 4096, (1ull << 46) - 4096, QCOW2_STORAGE_MAY_UNMAP, NULL),
			 0);
	check_extent(st, 4096, UINT64_MAX - 4096, false, UINT64_MAX - 4096);
	mem_fault_hook = NULL;
	assert_true(asked < 1 << 20);
	assert_int_equal(storage_read(st, buf, 4, 0, NULL), 0);
	assert_memory_equal(buf, "data", 4);
	storage_close(&st);
}

static void offsets_up_to_the_last_byte(void **state)
{
	const uint64_t offs[] = {1ull << 62, (1ull << 63) - 2, UINT64_MAX - 4};
	struct qcow2_storage st = make(0);
	struct qcow2_error err;
	char buf[8];

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(storage_write(st, "data", 4, offs[i], NULL), 0);
		assert_true(size_of(st) == offs[i] + 4);
		assert_int_equal(storage_read(st, buf, 4, offs[i], NULL), 0);
		assert_memory_equal(buf, "data", 4);
	}
	check_extent(st, 0, UINT64_MAX, false, 1ull << 62);
	check_extent(st, UINT64_MAX - 4096, 4096, false, 1);
	check_extent(st, UINT64_MAX - 4095, 4095, true, 4095);
	assert_int_equal(storage_write(st, "12345678", 8, UINT64_MAX - 8, &err), 0);
	assert_int_equal(storage_write(st, "12345678", 8, UINT64_MAX - 7, &err), -EFBIG);
	assert_non_null(strstr(err.message, "0xfffffffffffffff8"));
	assert_int_equal(storage_zero(st, 1, UINT64_MAX - 1, 0, NULL), 0);
	assert_int_equal(storage_read(st, buf, 4, 1ull << 62, NULL), 0);
	assert_memory_equal(buf, "\0\0\0\0", 4);
	assert_int_equal(storage_truncate(st, 0, NULL), 0);
	check_extent(st, 0, UINT64_MAX, false, UINT64_MAX);
	storage_close(&st);
}

static void what_memory_can_not_do(void **state)
{
	struct qcow2_storage st = make(4096);
	struct storage_file_stat sb;
	struct qcow2_error err;

	(void)state;
	assert_int_equal(storage_allocate(st, 0, 4096, &err), -ENOTSUP);
	assert_string_equal(err.message, "a memory store can't reserve space");
	assert_int_equal(storage_file_stat(st, &sb, &err), -ENOTSUP);
	assert_int_equal(storage_lock(st, QCOW2_LOCK_READ, QCOW2_LOCK_WRITE, &err), 0);
	assert_int_equal(storage_flush(st, &err), 0);
	storage_close(&st);
	assert_false(storage_is_open(st));
	storage_close(&st);
}

static unsigned allowed;

static bool allow_some(size_t size)
{
	(void)size;
	return allowed != 0 && allowed--;
}

static void a_write_without_memory_fails_and_does_no_harm(void **state)
{
	static uint8_t big[20000], back[20000];
	struct qcow2_error err;

	(void)state;
	memset(big, 7, sizeof(big));
	for (unsigned n = 0; n < 13; n++) {
		struct qcow2_storage st = make(0);
		uint64_t size;

		allowed = n;
		mem_fault_hook = allow_some;
		assert_int_equal(storage_write(st, big, sizeof(big), 100, &err), -ENOMEM);
		mem_fault_hook = NULL;
		assert_int_equal(err.host_off, 100);
		size = size_of(st);
		assert_true(size < 20100);
		assert_int_equal(storage_read(st, back, sizeof(back), size, NULL), 0);
		for (size_t i = 0; i < sizeof(back); i++)
			assert_int_equal(back[i], 0);
		assert_int_equal(storage_write(st, big, sizeof(big), 100, &err), 0);
		assert_int_equal(storage_read(st, back, sizeof(back), 100, NULL), 0);
		assert_memory_equal(big, back, sizeof(big));
		storage_close(&st);
	}
	allowed = 0;
	mem_fault_hook = allow_some;
	assert_int_equal(storage_mem_new(&(struct qcow2_storage){0}, 0, &err), -ENOMEM);
	mem_fault_hook = NULL;
}

static void random_operations_match_a_flat_array(void **state)
{
	struct qcow2_storage st = make(0);

	(void)state;
	model_run(st, false, 5000);
	storage_close(&st);
}

struct worker {
	struct qcow2_storage st;
	unsigned idx;
	bool ok;
};

static void *write_own_bytes(void *arg)
{
	struct worker *w = arg;
	uint8_t out[300], in[300];
	struct qcow2_storage_extent e;

	for (unsigned i = 0; i < 500; i++) {
		uint64_t off = ((uint64_t)i * 3 + w->idx) * sizeof(out);

		memset(out, (int)(i + w->idx * 7), sizeof(out));
		if (storage_write(w->st, out, sizeof(out), off, NULL) != 0 ||
		    storage_zero(w->st, off + 100, 100, QCOW2_STORAGE_MAY_UNMAP, NULL) != 0 ||
		    storage_extent(w->st, off, 1000, &e, NULL) != 0 || !e.is_data ||
		    storage_read(w->st, in, sizeof(in), off, NULL) != 0)
			return NULL;
		memset(out + 100, 0, 100);
		if (memcmp(in, out, sizeof(in)) != 0)
			return NULL;
	}
	w->ok = true;
	return NULL;
}

static void three_threads_share_a_store(void **state)
{
	struct qcow2_storage st = make(0);
	struct worker w[3];
	pthread_t t[3];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		w[i] = (struct worker){.st = st, .idx = i};
		assert_int_equal(pthread_create(&t[i], NULL, write_own_bytes, &w[i]), 0);
	}
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(t[i], NULL);
		assert_true(w[i].ok);
	}
	assert_int_equal(size_of(st), 450000);
	storage_close(&st);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_huge_store_costs_what_is_written),
		cmocka_unit_test(offsets_up_to_the_last_byte),
		cmocka_unit_test(what_memory_can_not_do),
		cmocka_unit_test(a_write_without_memory_fails_and_does_no_harm),
		cmocka_unit_test(random_operations_match_a_flat_array),
		cmocka_unit_test(three_threads_share_a_store),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
