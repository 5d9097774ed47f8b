/* SPDX-License-Identifier: MIT */
/* The header of an image in use: no write to it can be torn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "engine_hook.h"
#include "format/layout.h"
#include "image/image.h"

static unsigned header_writes;

static int small_in_the_header(struct engine_hook *h, enum storage_op op, uint64_t off,
			       uint64_t len)
{
	(void)h;
	if (op != STORAGE_OP_WRITE || off >= 65536)
		return 0;
	assert_true(off / 512 == (off + len - 1) / 512);
	header_writes++;
	return 0;
}

static void test_autoclear_bits_go_alone(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=64k", "1M");
	struct engine_hook h = {.before = small_in_the_header};
	struct qcow2_image *image;

	engine_patch(path, LAYOUT_OFF_AUTOCLEAR, 1u << 5 | LAYOUT_AUTOCLEAR_BITMAPS);
	header_writes = 0;
	assert_int_equal(engine_hook_open(&h, path, NULL, &image, NULL), 0);
	assert_int_equal(header_writes, 1);
	qcow2_close(image);
	image = image_tmp_open(path, "qcow2");
	assert_int_equal(image->qcow2->meta.header.autoclear, 0);
	qcow2_close(image);
	free(path);
}

static void test_the_dirty_bit_comes_and_goes_alone(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=64k,lazy_refcounts=on", "1M");
	struct engine_hook h = {.before = small_in_the_header};
	struct qcow2_image *image;

	header_writes = 0;
	assert_int_equal(engine_hook_open(&h, path, NULL, &image, NULL), 0);
	engine_write(image, 0, 65536, 1);
	assert_int_equal(qcow2_flush(image, NULL), 0);
	assert_int_equal(image->qcow2->meta.header.incompatible, LAYOUT_INCOMPAT_DIRTY);
	qcow2_close(image);
	assert_int_equal(header_writes, 2);
	image = image_tmp_open(path, "qcow2");
	assert_int_equal(image->qcow2->meta.header.incompatible, 0);
	qcow2_close(image);
	free(path);
}

/* Whatever has been set up until then is let go of: the sanitizer looks. */
static void test_a_file_that_cant_say_its_size_isnt_opened(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=64k", "1M");
	struct qcow2_image *image;
	unsigned n = 0;
	int ret = -1;

	while (ret < 0) {
		struct engine_hook h = {.no_size = ++n};

		ret = engine_hook_open(&h, path, NULL, &image, NULL);
		assert_true(ret == 0 || ret == -EIO);
		if (ret == 0)
			qcow2_close(image);
	}
	assert_true(n > 2);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_autoclear_bits_go_alone),
		IMAGE_TEST(test_the_dirty_bit_comes_and_goes_alone),
		IMAGE_TEST(test_a_file_that_cant_say_its_size_isnt_opened),
	};

	return cmocka_run_group_tests_name("engine header", tests, NULL, NULL);
}
