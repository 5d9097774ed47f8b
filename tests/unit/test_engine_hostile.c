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

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_a_cluster_far_away_costs_no_memory),
		IMAGE_TEST(test_an_endless_file_is_closed_at_once),
	};

	return cmocka_run_group_tests_name("engine hostile", tests, NULL, NULL);
}
