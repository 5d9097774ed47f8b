/* SPDX-License-Identifier: MIT */
/* Images that contradict themselves, opened for writing: no harm, no endless loop, little memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "base/alloc.h"
#include "engine_hook.h"
#include "format/layout.h"
#include "image/image.h"

#define FAR (1ull << 55)

/* An image with one guest cluster written; where its tables are. */
struct places {
	char *path;
	uint64_t l1, l2, reftable, refblock;
};

static struct places make_written(void **state, const char *options, const char *size)
{
	struct places p = {.path = engine_make(state, "image", options, size)};
	struct engine_hook h = {0};
	struct qcow2_image *image;
	const struct meta *m;

	assert_int_equal(engine_hook_open(&h, p.path, NULL, &image, NULL), 0);
	m = &image->qcow2->meta;
	engine_write(image, 0, 512, 1);
	p.l1 = m->header.l1_off;
	p.l2 = meta_l1_get(m, 0) & LAYOUT_ENTRY_OFFSET_MASK;
	p.reftable = m->header.reftable_off;
	assert_int_equal(meta_refblock_off(image->qcow2->writer->m, 0, &p.refblock, NULL), 0);
	qcow2_close(image);
	return p;
}

/* ---- far offsets ---- */

static bool no_large_allocation(size_t size)
{
	assert_true(size < 64u << 20);
	return true;
}

static int swallow_far(struct engine_hook *h, enum storage_op op, uint64_t off, uint64_t len)
{
	(void)h;
	(void)len;
	return op == STORAGE_OP_WRITE && off >= FAR;
}

static void test_a_cluster_far_away_costs_no_memory(void **state)
{
	struct places p = make_written(state, "cluster_size=512", "1M");
	struct engine_hook h = {.before = swallow_far};
	struct qcow2_image *image;

	engine_patch(p.path, p.l2, FAR | LAYOUT_ENTRY_COPIED | LAYOUT_ENTRY_ZERO);
	mem_fault_hook = no_large_allocation;
	assert_int_equal(engine_hook_open(&h, p.path, NULL, &image, NULL), 0);
	engine_write(image, 0, 1024, 3);
	assert_int_equal(engine_read(image, 512, 512), 3);
	qcow2_close(image);
	mem_fault_hook = NULL;
	free(p.path);
}

static void test_an_endless_file_is_closed_at_once(void **state)
{
	struct places p = make_written(state, "cluster_size=512", "1M");
	struct engine_hook h = {.size = FAR};
	struct qcow2_image *image;

	mem_fault_hook = no_large_allocation;
	assert_int_equal(engine_hook_open(&h, p.path, NULL, &image, NULL), 0);
	assert_int_equal(qcow2_discard(image, 0, 512, NULL), 0);
	alarm(60);
	assert_int_equal(qcow2_finish(image, NULL), 0);
	alarm(0);
	qcow2_close(image);
	mem_fault_hook = NULL;
	free(p.path);
}

/* ---- tables that are something else as well ---- */

static void refuses(const char *path, const char *words)
{
	struct engine_hook h = {0};
	struct qcow2_error err = {0};
	struct qcow2_image *image;

	assert_int_equal(engine_hook_open(&h, path, NULL, &image, &err), -EUCLEAN);
	if (!strstr(err.message, words))
		fail_msg("%s", err.message);
	/* it can be read all the same */
	image = image_tmp_open(path, "qcow2");
	qcow2_close(image);
}

static void test_an_l2_table_that_is_a_refcount_block_is_refused(void **state)
{
	struct places p = make_written(state, "cluster_size=64k", "1G");

	engine_patch(p.path, p.l1 + 8, p.refblock | LAYOUT_ENTRY_COPIED);
	refuses(p.path, "is a part of the");
	engine_patch(p.path, p.l1 + 8, p.l1);
	refuses(p.path, "is a part of the");
	free(p.path);
}

static void test_an_l2_table_that_two_entries_call_their_own_is_refused(void **state)
{
	struct places p = make_written(state, "cluster_size=64k", "1G");

	engine_patch(p.path, p.l1 + 8, p.l2 | LAYOUT_ENTRY_COPIED);
	refuses(p.path, "is a part of the L2 table as well");
	free(p.path);
}

static void test_a_refcount_block_for_two_ranges_is_refused(void **state)
{
	struct places p = make_written(state, "cluster_size=64k", "1G");

	engine_patch(p.path, p.reftable + 8, p.refblock);
	refuses(p.path, "is a part of the refcount block as well");
	engine_patch(p.path, p.reftable + 8, 1ull << 40);
	refuses(p.path, "lies behind the end of the file");
	free(p.path);
}

/* ---- counts that are too low ---- */

static void test_a_table_that_is_not_counted_is_not_cut_off(void **state)
{
	struct places p = make_written(state, "cluster_size=64k", "1G");
	struct engine_hook h = {0};
	struct qcow2_image *image;

	/* the last cluster of the file becomes the table, and the count of that is 0 */
	assert_int_equal(engine_hook_open(&h, p.path, NULL, &image, NULL), 0);
	engine_write(image, 65536, 65536, 2);
	engine_write(image, 512u << 20, 512, 3);
	p.l2 = meta_l1_get(&image->qcow2->meta, 1) & LAYOUT_ENTRY_OFFSET_MASK;
	assert_int_equal(qcow2_discard(image, 512u << 20, 65536, NULL), 0);
	qcow2_close(image);
	engine_patch(p.path, p.refblock + (p.l2 / 65536 & ~3ull) * 2, 0);
	assert_int_equal(engine_hook_open(&h, p.path, NULL, &image, NULL), 0);
	assert_int_equal(qcow2_discard(image, 0, 65536, NULL), 0);
	qcow2_close(image);
	image = image_tmp_open(p.path, "qcow2");
	assert_true(image->qcow2->meta.file_size > p.l2);
	qcow2_close(image);
	free(p.path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_a_cluster_far_away_costs_no_memory),
		IMAGE_TEST(test_an_endless_file_is_closed_at_once),
		IMAGE_TEST(test_an_l2_table_that_is_a_refcount_block_is_refused),
		IMAGE_TEST(test_an_l2_table_that_two_entries_call_their_own_is_refused),
		IMAGE_TEST(test_a_refcount_block_for_two_ranges_is_refused),
		IMAGE_TEST(test_a_table_that_is_not_counted_is_not_cut_off),
	};

	return cmocka_run_group_tests_name("engine hostile", tests, NULL, NULL);
}
