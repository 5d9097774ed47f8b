/* SPDX-License-Identifier: MIT */
/* The steps of changing an image are told to the store by the names that are known for them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine_hook.h"

#define KIB ((uint64_t)1 << 10)

static _Atomic unsigned seen[QCOW2_EVENT_COUNT]; /* jobs tell them from several threads */
static _Atomic unsigned steps[64], nsteps;	 /* the first ones, in their order */

static void note(void *self, unsigned event)
{
	unsigned at;

	(void)self;
	assert_true(event < QCOW2_EVENT_COUNT);
	seen[event]++;
	at = nsteps++;
	if (at < sizeof(steps) / sizeof(steps[0]))
		steps[at] = event;
}

static struct qcow2_image *open_noting(struct engine_hook *h, const char *path)
{
	static struct qcow2_storage_ops ops;
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_error err = {0};
	struct qcow2_image *image;

	ops = engine_hook_ops;
	ops.event = note;
	policy.follow = QCOW2_FOLLOW_LOCAL;
	o.policy = &policy;
	o.flags = QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_LOCK;
	assert_int_equal(storage_file_open(&h->lower, path, STORAGE_FILE_WRITE, &err), 0);
	if (qcow2_open_storage(&image, (struct qcow2_storage){&ops, h}, path, &o, &err) < 0)
		fail_msg("%s", err.message);
	return image;
}

/* Whatever a disk can be asked for, so that all its tables grow. */
static void do_everything(void **state)
{
	char *base = image_tmp_path(state, "base"), *path = image_tmp_path(state, "image");
	static uint8_t text[512];
	struct engine_hook h = {0};
	struct qcow2_image *image;

	image_tmp_make_raw(base, 1024 * KIB, 3);
	assert_int_equal(QEMU_IMG("create", "-q", "-f", "qcow2", "-o",
				  "cluster_size=512,refcount_bits=64", "-b", base, "-F", "raw",
				  path, "8M"),
			 0);
	image = open_noting(&h, path);
	for (uint64_t off = 0; off < 1024 * KIB; off += 64 * KIB)
		engine_write(image, off + 100, 1000, 1);
	memset(text, 'x', sizeof(text));
	assert_int_equal(qcow2_pwrite(image, text, 512, 2048 * KIB, QCOW2_WRITE_COMPRESSED, NULL),
			 0);
	assert_int_equal(qcow2_flush(image, NULL), 0);
	engine_write(image, 3072 * KIB, 5120 * KIB, 2);
	assert_int_equal(qcow2_resize(image, 9000 * KIB, QCOW2_PREALLOC_OFF, 0, NULL), 0);
	qcow2_close(image);
	image = open_noting(&h, path);
	assert_int_equal(engine_read(image, 3072 * KIB, 5120 * KIB), 2);
	assert_int_equal(qcow2_commit(image, NULL, NULL, NULL), 0);
	qcow2_close(image);
	free(base);
	free(path);
	/* refcount blocks go when what they count has gone */
	path = engine_make(state, "plain", "cluster_size=4k,refcount_bits=64", "8M");
	image = open_noting(&h, path);
	engine_write(image, 2048 * KIB, 4096, 1);
	engine_write(image, 0, 2048 * KIB, 1);
	engine_write(image, 4096 * KIB, 4096, 1);
	engine_write(image, 2048 * KIB, 2048 * KIB, 1);
	assert_int_equal(qcow2_discard(image, 0, 8192 * KIB, NULL), 0);
	qcow2_close(image);
	free(path);
}

static void test_every_step_is_told(void **state)
{
	for (unsigned i = 0; i < QCOW2_EVENT_COUNT; i++)
		seen[i] = 0;
	do_everything(state);
	for (unsigned event = QCOW2_EVENT_NONE + 1; event < QCOW2_EVENT_COUNT; event++) {
		assert_int_equal(qcow2_event_find(qcow2_event_name(event)), event);
		if (seen[event] == 0)
			fail_msg("never told: %s", qcow2_event_name(event));
	}
}

static void test_they_come_in_their_order(void **state)
{
	static const unsigned order[] = {
		QCOW2_EVENT_CLUSTER_ALLOC,			       /* the table */
		QCOW2_EVENT_L2_ALLOC_WRITE, QCOW2_EVENT_CLUSTER_ALLOC, /* the data */
		QCOW2_EVENT_WRITE_AIO,	    QCOW2_EVENT_REFBLOCK_UPDATE_PART,
		QCOW2_EVENT_L2_UPDATE,	    QCOW2_EVENT_L1_UPDATE};
	char *path = engine_make(state, "image", "cluster_size=64k", "8M");
	struct engine_hook h = {0};
	struct qcow2_image *image = open_noting(&h, path);
	unsigned at = 0;

	nsteps = 0;
	engine_write(image, 0, 64 * KIB, 1);
	assert_int_equal(qcow2_flush(image, NULL), 0);
	for (unsigned i = 0; i < nsteps && i < 64 && at < sizeof(order) / sizeof(order[0]); i++)
		at += steps[i] == order[at];
	assert_int_equal(at, sizeof(order) / sizeof(order[0]));
	qcow2_close(image);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_every_step_is_told),
		IMAGE_TEST(test_they_come_in_their_order),
	};

	return cmocka_run_group_tests_name("engine events", tests, NULL, NULL);
}
