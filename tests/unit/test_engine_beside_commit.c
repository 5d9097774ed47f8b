/* SPDX-License-Identifier: MIT */
/* What is done to an image while a commit is under way: the rules of docs/ordering.md hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine_hook.h"

#define CS 65536u

static char *make_image(void **state, const char *name, const char *options, const char *size)
{
	char *path = image_tmp_path(state, name);

	assert_int_equal(QEMU_IMG("create", "-q", "-f", "qcow2", "-o", options, path, size), 0);
	return path;
}

/* The file as it is now, as after a crash. */
static struct qcow2_image *open_copy(void **state, const char *path)
{
	char *copy = image_tmp_path(state, "copy");
	struct qcow2_image *image;

	assert_int_equal(QEMU_IMG("convert", "-U", "-f", "raw", "-O", "raw", path, copy), 0);
	image = image_tmp_open(copy, "qcow2");
	free(copy);
	return image;
}

/* ---- rule 3 ---- */

static int discard_second(struct engine_hook *h, enum storage_op op, uint64_t off, uint64_t len)
{
	(void)off;
	(void)len;
	if (op != STORAGE_OP_FLUSH)
		return 0;
	h->before = NULL;
	assert_int_equal(qcow2_discard(*(struct qcow2_image **)h->opaque, CS, CS, NULL), 0);
	return 0;
}

static void test_dropped_beside_commit_waits_for_the_next(void **state)
{
	char *path = make_image(state, "image", "cluster_size=64k", "4M");
	struct engine_hook h = {0};
	struct qcow2_image *image, *copy;

	assert_int_equal(engine_hook_open(&h, path, NULL, &image, NULL), 0);
	engine_write(image, 0, 2 * CS, 1);
	assert_int_equal(qcow2_flush(image, NULL), 0);
	/* the second cluster goes while the table without the first is on its way */
	assert_int_equal(qcow2_discard(image, 0, CS, NULL), 0);
	h.opaque = &image;
	h.before = discard_second;
	assert_int_equal(qcow2_flush(image, NULL), 0);
	/* the table on disk has the second, so its place isn't free yet */
	for (unsigned i = 10; i < 14; i++)
		engine_write(image, i * CS, CS, 2);
	copy = open_copy(state, path);
	assert_int_equal(engine_read(copy, CS, CS), 1);
	qcow2_close(copy);
	qcow2_close(image);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_dropped_beside_commit_waits_for_the_next),
	};

	return cmocka_run_group_tests_name("engine beside commit", tests, NULL, NULL);
}
