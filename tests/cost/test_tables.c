/* SPDX-License-Identifier: MIT */
/*
 * What the tables of very large disks cost: reads and memory follow what of the disk is touched,
 * not its size. The disks are sparse, with one cluster written in each of many L2 tables.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "qcow2.h"
#include "storage/storage.h"

#define TIB (1ull << 40)
#define TABLES 1000u
#define WAYS 8u		       /* a set of the cache takes memory for so many slices at once */
#define OTHER (64u << 10)      /* what a first request takes */
#define EMPTY_CACHE (3u << 20) /* of 32 MiB: its sets, and places for slices kept straight */

static char dir[] = "/tmp/qcow2-tables-XXXXXX", path[64];

/* A table in each part, and the place in it moves on. */
static uint64_t place(uint64_t size, unsigned i)
{
	return (size / TABLES * i & ~0xffffull) + 4096;
}

static void make_disk(uint64_t size)
{
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_error err = {0};
	struct qcow2_image *image;

	options.flags = QCOW2_OPEN_WRITE;
	create.size = size;
	create.flags = QCOW2_CREATE_OVERWRITE;
	if (qcow2_create(path, &create, &err) < 0 || qcow2_open(&image, path, &options, &err) < 0)
		fail_msg("%s", err.message);
	for (unsigned i = 0; i < TABLES; i++)
		assert_int_equal(qcow2_pwrite(image, "a word", 6, place(size, i), 0, &err), 0);
	assert_int_equal(qcow2_finish(image, &err), 0);
	qcow2_close(image);
}

static uint64_t asked_for;

static _Bool add_up(size_t size)
{
	asked_for += size;
	return 1;
}

struct cost {
	uint64_t reads, memory;
};

/* Reads the first n places. */
static struct cost touch(struct qcow2_image *image, struct qcow2_storage record, unsigned n)
{
	uint64_t size = qcow2_size(image), before = storage_record_count(record, STORAGE_OP_READ);
	char word[6];

	asked_for = 0;
	mem_fault_hook = add_up;
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(qcow2_pread(image, word, sizeof(word), place(size, i), NULL), 0);
		assert_memory_equal(word, "a word", sizeof(word));
	}
	mem_fault_hook = NULL;
	return (struct cost){storage_record_count(record, STORAGE_OP_READ) - before, asked_for};
}

static struct qcow2_image *open_recorded(struct qcow2_storage *record, uint64_t *memory)
{
	struct qcow2_storage file;
	struct qcow2_image *image;
	struct qcow2_error err = {0};

	assert_int_equal(storage_file_open(&file, path, 0, NULL), 0);
	assert_int_equal(storage_record_new(record, file, false, NULL), 0);
	asked_for = 0;
	mem_fault_hook = add_up;
	if (qcow2_open_storage(&image, *record, path, NULL, &err) < 0)
		fail_msg("%s", err.message);
	mem_fault_hook = NULL;
	*memory = asked_for;
	return image;
}

/* Each table that is touched costs one read of a slice, once, and the room for it. */
static void expect_cost_of_touching(uint64_t size, uint64_t opening_max)
{
	struct qcow2_storage record;
	struct qcow2_image *image;
	struct cost some, all, again;
	uint64_t opening;

	make_disk(size);
	image = open_recorded(&record, &opening);
	some = touch(image, record, TABLES / 10);
	all = touch(image, record, TABLES);
	again = touch(image, record, TABLES);
	qcow2_close(image);
	assert_true(opening <= opening_max);
	assert_int_equal(some.reads, 2 * TABLES / 10);
	assert_int_equal(all.reads, TABLES + TABLES - TABLES / 10);
	assert_int_equal(again.reads, TABLES);
	assert_true(some.memory <= OTHER + (uint64_t)TABLES / 10 * WAYS * 4096);
	assert_true(some.memory + all.memory <= OTHER + (uint64_t)TABLES * WAYS * 4096);
	assert_int_equal(again.memory, 0);
}

static void a_disk_of_1_tib_costs_what_is_touched(void **state)
{
	(void)state;
	expect_cost_of_touching(TIB, EMPTY_CACHE);
}

static void one_of_64_tib_costs_the_same_but_for_its_l1_table(void **state)
{
	(void)state;
	expect_cost_of_touching(64 * TIB, EMPTY_CACHE + 2 * (64 * TIB >> 29) * 8);
}

static int make_folder(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/disk.qcow2", dir);
	return 0;
}

static int remove_folder(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_disk_of_1_tib_costs_what_is_touched),
		cmocka_unit_test(one_of_64_tib_costs_the_same_but_for_its_l1_table),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
