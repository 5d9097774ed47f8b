/* SPDX-License-Identifier: MIT */
/* What a chain, a snapshot or a data file reads as; qemu-img converts the same as a judge. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "image_tmp.h"

#define MIB (1024 * 1024ull)

static int setup(void **state)
{
	struct image_tmp *t;
	int rc = image_tmp_setup(state);

	t = *state;
	return rc ? rc : chdir(t->dir);
}

static int teardown(void **state)
{
	return chdir("/") || image_tmp_teardown(state);
}

static void qemu_io(const char *path, const char *command)
{
	assert_int_equal(image_tmp_run((const char *const[]){"qemu-io", "-f", "qcow2", "-c",
							     command, path, NULL}),
			 0);
}

static void make(const char *path, const char *size, const char *backing, const char *format)
{
	if (backing)
		assert_int_equal(
			QEMU_IMG("create", "-f", "qcow2", "-b", backing, "-F", format, path, size),
			0);
	else
		assert_int_equal(QEMU_IMG("create", "-f", "qcow2", path, size), 0);
}

static struct qcow2_image *open_view(const char *path, const char *snapshot)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_image *image;
	struct qcow2_error err = {0};

	policy.follow = QCOW2_FOLLOW_LOCAL;
	options.policy = &policy;
	options.snapshot = snapshot;
	if (qcow2_open(&image, path, &options, &err) < 0)
		fail_msg("%s", err.message);
	return image;
}

/* Reads it all, in pieces of an odd length. */
static void expect_disk(struct qcow2_image *image, const char *raw)
{
	static uint8_t buf[99999];
	size_t len;
	uint8_t *expected = image_tmp_load(raw, &len);
	struct qcow2_error err = {0};

	assert_int_equal(qcow2_size(image), len);
	for (size_t off = 0; off < len; off += sizeof(buf)) {
		size_t n = len - off < sizeof(buf) ? len - off : sizeof(buf);

		if (qcow2_pread(image, buf, n, off, &err) < 0)
			fail_msg("%s", err.message);
		if (memcmp(buf, expected + off, n) != 0)
			fail_msg("other bytes in the %zu at 0x%zx", n, off);
	}
	free(expected);
}

static void expect_as_qemu(const char *path)
{
	struct qcow2_image *image = open_view(path, NULL);

	assert_int_equal(QEMU_IMG("convert", "-O", "raw", path, "flat"), 0);
	expect_disk(image, "flat");
	qcow2_close(image);
}

/* ---- chains ---- */

static void zeros_lie_behind_a_shorter_layer_wherever_it_is(void **state)
{
	(void)state;
	image_tmp_make_raw("base", 3 * MIB - 512, 5);
	make("middle", "1000448", "base", "raw");
	make("top", "4M", "middle", "qcow2");
	qemu_io("top", "write -P 1 900k 300k");
	qemu_io("top", "write -P 2 3000k 64k");
	expect_as_qemu("middle");
	expect_as_qemu("top");
	make("short", "500224", "top", "qcow2");
	expect_as_qemu("short");
	make("empty", "0", "top", "qcow2");
	make("over", "2M", "empty", "qcow2");
	expect_as_qemu("over");
}

static void a_map_tells_which_layer_answers(void **state)
{
	struct qcow2_image *image;
	struct qcow2_extent e;

	(void)state;
	make("base", "1M", NULL, NULL);
	qemu_io("base", "write -P 1 0 64k");
	make("top", "2M", "base", "qcow2");
	qemu_io("top", "write -z 64k 64k");
	image = open_view("top", NULL);
	assert_int_equal(qcow2_map(image, 512, UINT64_MAX, &e, NULL), 0);
	assert_int_equal(e.depth, 1);
	assert_int_equal(e.len_bytes, 65536 - 512);
	assert_string_equal(e.filename, "base");
	assert_int_equal(qcow2_map(image, 65536, UINT64_MAX, &e, NULL), 0);
	assert_int_equal(e.flags, QCOW2_EXTENT_PRESENT | QCOW2_EXTENT_ZERO);
	assert_int_equal(e.depth, 0);
	assert_null(e.filename);
	assert_int_equal(qcow2_map(image, 131072, UINT64_MAX, &e, NULL), 0);
	assert_int_equal(e.flags, QCOW2_EXTENT_ZERO); /* nobody says what is here */
	assert_int_equal(e.len_bytes, MIB - 131072);
	assert_int_equal(qcow2_map(image, MIB, 1, &e, NULL), 0);
	assert_int_equal(e.len_bytes, 1);
	assert_int_equal(qcow2_map(image, 2 * MIB, 1, &e, NULL), -EINVAL);
	assert_int_equal(qcow2_map(image, UINT64_MAX, UINT64_MAX, &e, NULL), -EINVAL);
	assert_int_equal(qcow2_map(image, 0, 0, &e, NULL), -EINVAL);
	qcow2_close(image);
}

static void a_layer_of_a_chain_is_an_image_too(void **state)
{
	struct qcow2_image *image, *below;

	(void)state;
	image_tmp_make_raw("base", MIB, 6);
	make("top", "2M", "base", "raw");
	image = open_view("top", NULL);
	below = qcow2_backing(image);
	assert_non_null(below);
	expect_disk(below, "base");
	assert_null(qcow2_backing(below));
	qcow2_close(image);
}

/* ---- snapshots ---- */

static void a_snapshot_has_its_own_contents_at_the_present_size(void **state)
{
	struct qcow2_image *image;

	(void)state;
	make("image", "1M", NULL, NULL);
	qemu_io("image", "write -P 1 100k 500k");
	assert_int_equal(QEMU_IMG("convert", "-O", "raw", "image", "first"), 0);
	assert_int_equal(QEMU_IMG("snapshot", "-c", "2", "image"), 0); /* its id is 1 */
	assert_int_equal(QEMU_IMG("resize", "image", "3M"), 0);
	qemu_io("image", "write -P 2 0 3M");
	assert_int_equal(QEMU_IMG("convert", "-O", "raw", "image", "second"), 0);
	assert_int_equal(QEMU_IMG("snapshot", "-c", "late", "image"), 0); /* its id is 2 */
	qemu_io("image", "write -z 0 3M");
	assert_int_equal(truncate("first", 3 * MIB), 0);
	image = open_view("image", "1");
	expect_disk(image, "first");
	qcow2_close(image);
	image = open_view("image", "2"); /* the id goes before the name */
	expect_disk(image, "second");
	qcow2_close(image);
	image = open_view("image", "late");
	expect_disk(image, "second");
	qcow2_close(image);
	expect_as_qemu("image");
}

static void a_snapshot_reads_its_backing_file_too(void **state)
{
	struct qcow2_image *image;

	(void)state;
	image_tmp_make_raw("base", MIB, 7);
	make("top", "1M", "base", "raw");
	qemu_io("top", "write -P 9 64k 128k");
	assert_int_equal(QEMU_IMG("convert", "-O", "raw", "top", "before"), 0);
	assert_int_equal(QEMU_IMG("snapshot", "-c", "before", "top"), 0);
	qemu_io("top", "write -P 8 0 1M");
	image = open_view("top", "before");
	expect_disk(image, "before");
	qcow2_close(image);
}

/* ---- data files ---- */

static void a_data_file_may_end_before_the_disk(void **state)
{
	(void)state;
	assert_int_equal(
		QEMU_IMG("create", "-f", "qcow2", "-o", "data_file=data", "image", "1000448"), 0);
	qemu_io("image", "write -P 3 0 200k");
	qemu_io("image", "write -z 300k 64k");
	qemu_io("image", "write -P 4 900k 70k");
	expect_as_qemu("image");
	assert_int_equal(truncate("data", 150000), 0);
	expect_as_qemu("image");
}

#define LAYERS_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LAYERS_TEST(zeros_lie_behind_a_shorter_layer_wherever_it_is),
		LAYERS_TEST(a_map_tells_which_layer_answers),
		LAYERS_TEST(a_layer_of_a_chain_is_an_image_too),
		LAYERS_TEST(a_snapshot_has_its_own_contents_at_the_present_size),
		LAYERS_TEST(a_snapshot_reads_its_backing_file_too),
		LAYERS_TEST(a_data_file_may_end_before_the_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
