/* SPDX-License-Identifier: MIT */
/* Refcounts that grow under unusual circumstances. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine_hook.h"
#include "image/image.h"

/* ---- a block device ---- */

/*
 * What was found and isn't counted yet stays out of the way of the table that moves to count it: on
 * a device too, where the end of the file says nothing.
 */
static void test_on_a_device_the_table_keeps_off_what_was_found(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=512,refcount_bits=64", "1M");
	struct meta_engine_options options = {.device = true};
	struct meta_snapshots none = {0};
	struct qcow2_storage st;
	struct meta_run run;
	struct meta m;
	uint64_t last, table;

	assert_int_equal(truncate(path, 64 << 20), 0); /* the device's size */
	assert_int_equal(storage_file_open(&st, path, STORAGE_FILE_WRITE, NULL), 0);
	assert_int_equal(meta_open(&m, st, 0, NULL), 0);
	assert_int_equal(meta_load_l1(&m, NULL, true, 1 << 20, NULL), 0);
	assert_int_equal(meta_engine_new(&m, &options, &none, NULL), 0);
	table = m.header.reftable_off;
	last = (m.header.reftable_clusters * 512 / 8) << m.geometry.refblock_bits;
	assert_int_equal(meta_take_at(&m, last - 10, 200, &run, NULL), 0);
	assert_int_equal(run.nclusters, 200);
	assert_int_not_equal(m.header.reftable_off, table);
	assert_true(meta_cluster_of(&m, m.header.reftable_off) >= run.first + run.nclusters ||
		    meta_cluster_of(&m, m.header.reftable_off) < run.first);
	for (uint64_t i = 0; i < run.nclusters; i++) {
		uint64_t count;

		assert_int_equal(meta_guard_check(&m, meta_off_of(&m, run.first + i), 512,
						  META_REGION_NONE, NULL),
				 0);
		assert_int_equal(meta_refs_get(&m, run.first + i, &count, NULL), 0);
		assert_int_equal(count, 1);
	}
	assert_int_equal(meta_engine_finish(&m, NULL), 0);
	meta_engine_free(&m);
	meta_release(&m);
	storage_close(&st);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_on_a_device_the_table_keeps_off_what_was_found),
	};

	return cmocka_run_group_tests_name("engine growing", tests, NULL, NULL);
}
