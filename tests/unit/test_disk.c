/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "disk/disk.h"
#include "storage/storage.h"

/* A store in memory of size bytes with data in the pages that are written. */
static struct qcow2_storage mem(uint64_t size)
{
	struct qcow2_storage st;

	assert_int_equal(storage_mem_new(&st, size, NULL), 0);
	return st;
}

static void check_run(struct disk *disk, uint64_t off, uint64_t len, enum disk_run_kind kind,
		      uint64_t expected)
{
	struct disk_run run = {0};

	assert_int_equal(disk->ops->map(disk, off, len, &run, NULL), 0);
	assert_int_equal(run.kind, kind);
	assert_int_equal(run.len_bytes, expected);
	assert_true(run.has_host_off);
	assert_int_equal(run.host_off, off);
	assert_string_equal(run.filename, "some/disk.raw");
	assert_ptr_equal(run.store.self, disk_raw_store(disk).self);
}

static void size_is_rounded_up_to_sectors(void **state)
{
	const uint64_t sizes[][2] = {
		{0, 0}, {1, 512}, {512, 512}, {513, 1024}, {UINT64_MAX - 511, UINT64_MAX - 511}};
	struct disk *disk;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_int_equal(disk_raw_open(&disk, mem(sizes[i][0]), "x", NULL), 0);
		assert_true(disk->size_bytes == sizes[i][1]);
		assert_string_equal(disk->ops->format, "raw");
		disk_close(disk);
	}
	disk_close(NULL);
}

static void a_size_that_can_not_be_rounded_is_refused(void **state)
{
	struct qcow2_error err;
	struct disk *disk;

	(void)state;
	assert_int_equal(disk_raw_open(&disk, mem(UINT64_MAX - 510), "big", &err), -EFBIG);
	assert_null(disk);
	assert_non_null(strstr(err.message, "can't open \"big\""));
}

static void holes_and_the_tail_map_to_zeros_with_a_place(void **state)
{
	struct qcow2_storage st = mem((1ull << 40) + 100);
	struct disk *disk;

	(void)state;
	assert_int_equal(storage_write(st, "data", 4, 1 << 20, NULL), 0);
	assert_int_equal(storage_write(st, "data", 4, 1ull << 40, NULL), 0);
	assert_int_equal(disk_raw_open(&disk, st, "some/disk.raw", NULL), 0);
	check_run(disk, 0, UINT64_MAX, DISK_RUN_ZERO, 1 << 20);
	check_run(disk, 1000, 50, DISK_RUN_ZERO, 50);
	check_run(disk, 1 << 20, 1 << 30, DISK_RUN_DATA, 4096);
	check_run(disk, (1 << 20) + 10, 20, DISK_RUN_DATA, 20);
	check_run(disk, 1ull << 40, 1 << 20, DISK_RUN_DATA, 100);
	check_run(disk, (1ull << 40) + 100, 1 << 20, DISK_RUN_ZERO, 412);
	disk_close(disk);
}

static bool refuse_all(size_t size)
{
	(void)size;
	return false;
}

static void failing_to_open_closes_the_store(void **state)
{
	struct qcow2_error err;
	struct disk *disk;

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct qcow2_storage st = mem(1000);

		/* a leak is found by the sanitizer */
		mem_fault_hook = refuse_all;
		assert_int_equal(disk_raw_open(&disk, st, "x", &err), -ENOMEM);
		mem_fault_hook = NULL;
		assert_string_equal(err.message, "can't open \"x\": Cannot allocate memory");
	}
}

static void map_says_where_it_failed(void **state)
{
	struct storage_fault_rule rule = {.op = STORAGE_OP_EXTENT, .times = 1, .code = -EIO};
	struct qcow2_storage st;
	struct qcow2_error err;
	struct disk *disk;
	struct disk_run run;

	(void)state;
	assert_int_equal(storage_fault_new(&st, mem(4096), NULL), 0);
	assert_int_equal(storage_fault_add(st, &rule), 0);
	assert_int_equal(disk_raw_open(&disk, st, "x", NULL), 0);
	assert_int_equal(disk->ops->map(disk, 512, 512, &run, &err), -EIO);
	assert_int_equal(err.guest_off, 512);
	assert_int_equal(disk->ops->map(disk, 512, 512, &run, &err), 0);
	disk_close(disk);
}

static void probing_looks_at_magic_and_version(void **state)
{
	const struct {
		size_t len;
		uint32_t magic, version;
		const char *format;
	} cases[] = {
		{0, 0, 0, "raw"},
		{512, 0x514649fb, 2, "qcow2"},
		{512, 0x514649fb, 3, "qcow2"},
		{512, 0x514649fb, 4, "qcow2"},
		{512, 0x514649fb, UINT32_MAX, "qcow2"},
		{512, 0x514649fb, 1, "raw"},
		{512, 0x514649fb, 0, "raw"},
		{512, 0x514649fa, 3, "raw"},
		{512, 0xfb494651, 3, "raw"},
		/* the last byte of the version is the last of the file, then one too short */
		{8, 0x514649fb, 3, "qcow2"},
		{7, 0x514649fb, 3, "raw"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct qcow2_storage st = mem(0);
		const char *format = NULL;
		uint8_t head[512] = {0};

		store_be32(head, cases[i].magic);
		store_be32(head + 4, cases[i].version);
		assert_int_equal(storage_write(st, head, cases[i].len, 0, NULL), 0);
		assert_int_equal(disk_probe(st, &format, NULL), 0);
		assert_string_equal(format, cases[i].format);
		storage_close(&st);
	}
}

static void probing_fails_where_reading_fails(void **state)
{
	struct storage_fault_rule rule = {.op = STORAGE_OP_READ, .times = 1, .code = -EIO};
	const char *format = "untouched";
	struct qcow2_storage st;
	struct qcow2_error err;

	(void)state;
	assert_int_equal(storage_fault_new(&st, mem(4096), NULL), 0);
	assert_int_equal(storage_fault_add(st, &rule), 0);
	assert_int_equal(disk_probe(st, &format, &err), -EIO);
	assert_string_equal(format, "untouched");
	assert_ptr_equal(strstr(err.message, "can't find out the format: "), err.message);
	storage_close(&st);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(size_is_rounded_up_to_sectors),
		cmocka_unit_test(a_size_that_can_not_be_rounded_is_refused),
		cmocka_unit_test(holes_and_the_tail_map_to_zeros_with_a_place),
		cmocka_unit_test(failing_to_open_closes_the_store),
		cmocka_unit_test(map_says_where_it_failed),
		cmocka_unit_test(probing_looks_at_magic_and_version),
		cmocka_unit_test(probing_fails_where_reading_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
