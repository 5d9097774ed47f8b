/* SPDX-License-Identifier: MIT */
/* Refcounts that grow under unusual circumstances. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "engine_hook.h"
#include "image/image.h"

/* An image's metadata alone, of clusters of 512 bytes with 64 to a refcount block. */
static void open_meta(const char *path, struct engine_hook *h, bool device, struct meta *m)
{
	struct meta_engine_options options = {.device = device};
	struct qcow2_storage st = {&engine_hook_ops, h};
	struct meta_snapshots none = {0};

	assert_int_equal(storage_file_open(&h->lower, path, STORAGE_FILE_WRITE, NULL), 0);
	assert_int_equal(meta_open(m, st, 0, NULL), 0);
	assert_int_equal(meta_load_l1(m, NULL, true, 1 << 20, NULL), 0);
	assert_int_equal(meta_engine_new(m, &options, &none, NULL), 0);
}

static void close_meta(struct meta *m)
{
	struct qcow2_storage st = m->file;

	assert_int_equal(meta_engine_finish(m, NULL), 0);
	meta_engine_free(m);
	meta_release(m);
	storage_close(&st);
}

static uint64_t count_of(struct meta *m, uint64_t cluster)
{
	uint64_t count;

	assert_int_equal(meta_refs_get(m, cluster, &count, NULL), 0);
	return count;
}

static uint64_t block_of(struct meta *m, uint64_t idx)
{
	uint64_t off;

	assert_int_equal(meta_refblock_off(m, idx, &off, NULL), 0);
	return meta_cluster_of(m, off);
}

/*
 * What was found and isn't counted yet stays out of the way of the table that moves to count it: on
 * a device too, where the end of the file says nothing.
 */
static void test_on_a_device_the_table_keeps_off_what_was_found(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=512,refcount_bits=64", "1M");
	struct engine_hook h = {0};
	struct meta_run run;
	struct meta m;
	uint64_t last, table;

	assert_int_equal(truncate(path, 64 << 20), 0); /* the device's size */
	open_meta(path, &h, true, &m);
	table = m.header.reftable_off;
	last = (m.header.reftable_clusters * 512 / 8) << m.geometry.refblock_bits;
	assert_int_equal(meta_take_at(&m, last - 10, 200, &run, NULL), 0);
	assert_int_equal(run.nclusters, 200);
	assert_int_not_equal(m.header.reftable_off, table);
	for (uint64_t i = 0; i < run.nclusters; i++) {
		assert_int_equal(meta_guard_check(&m, meta_off_of(&m, run.first + i), 512,
						  META_REGION_NONE, NULL),
				 0);
		assert_int_equal(count_of(&m, run.first + i), 1);
	}
	close_meta(&m);
	free(path);
}

/* A block for one range needs one for another first, and that one makes the block itself. */
static void test_a_block_that_was_made_on_the_way_is_the_one(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=512,refcount_bits=64", "1M");
	struct engine_hook h = {0};
	struct meta_run run;
	struct meta m;

	open_meta(path, &h, false, &m);
	/* found by others, and not counted yet: all but the last cluster of range 10 */
	while (meta_alloc_find(&m, 1, LAYOUT_HOST_OFF_MAX, &run, NULL) == 0 &&
	       run.first < 11 * 64 - 2)
		;
	assert_int_equal(block_of(&m, 10), 0);
	assert_int_equal(block_of(&m, 11), 0);
	assert_int_equal(meta_refs_grow(&m, 11, NULL), 0);
	assert_int_equal(count_of(&m, block_of(&m, 10)), 1);
	assert_int_equal(count_of(&m, block_of(&m, 11)), 1);
	close_meta(&m);
	free(path);
}

static int fail_writes(struct engine_hook *h, enum storage_op op, uint64_t off, uint64_t len)
{
	(void)h;
	(void)off;
	(void)len;
	return op == STORAGE_OP_WRITE ? -EIO : 0;
}

static void test_a_block_that_failed_leaves_no_count(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=512,refcount_bits=64", "1M");
	struct engine_hook h = {0};
	struct meta_run run;
	struct meta m;

	open_meta(path, &h, false, &m);
	h.before = fail_writes;
	assert_int_equal(meta_refs_grow(&m, 11, NULL), -EIO);
	h.before = NULL;
	assert_int_equal(meta_take(&m, 1, LAYOUT_HOST_OFF_MAX, &run, NULL), 0);
	assert_int_equal(count_of(&m, run.first), 1);
	close_meta(&m);
	free(path);
}

/* Lets the new table fail: the only write of its length. */
static int fail_table(struct engine_hook *h, enum storage_op op, uint64_t off, uint64_t len)
{
	if (op != STORAGE_OP_WRITE || len < 1024)
		return 0;
	*(uint64_t *)h->opaque = off;
	return -EIO;
}

static void test_a_table_that_couldnt_move_leaves_its_place_free(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=512,refcount_bits=64", "1M");
	uint64_t table = 0;
	struct engine_hook h = {.opaque = &table};
	struct meta_run run, before;
	struct meta m;

	open_meta(path, &h, false, &m);
	assert_int_equal(meta_take(&m, 1, LAYOUT_HOST_OFF_MAX, &before, NULL), 0);
	meta_untake(&m, &before);
	h.before = fail_table;
	assert_int_equal(meta_refs_grow(&m, m.header.reftable_clusters * 512 / 8, NULL), -EIO);
	h.before = NULL;
	assert_int_not_equal(table, 0);
	assert_int_equal(
		meta_guard_find(&m.engine->guard, table - 512, 1024, META_REGION_NONE, NULL),
		META_REGION_NONE);
	/* free too is the place of the block which made it necessary */
	assert_int_equal(meta_take(&m, 1, LAYOUT_HOST_OFF_MAX, &run, NULL), 0);
	assert_int_equal(run.first, before.first);
	assert_int_equal(count_of(&m, run.first), 1);
	meta_untake(&m, &run);
	assert_int_equal(meta_take_at(&m, meta_cluster_of(&m, table), 1, &run, NULL), 0);
	assert_int_equal(run.nclusters, 1);
	meta_untake(&m, &run);
	close_meta(&m);
	free(path);
	path = image_tmp_path(state, "image");
	assert_int_equal(QEMU_IMG("check", "-q", path), 0);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_on_a_device_the_table_keeps_off_what_was_found),
		IMAGE_TEST(test_a_block_that_was_made_on_the_way_is_the_one),
		IMAGE_TEST(test_a_block_that_failed_leaves_no_count),
		IMAGE_TEST(test_a_table_that_couldnt_move_leaves_its_place_free),
	};

	return cmocka_run_group_tests_name("engine growing", tests, NULL, NULL);
}
