/* SPDX-License-Identifier: MIT */
/*
 * convert with data that the kernel moves: they are moved, the result is the same as without, and
 * where the kernel can't, or stops half way, it is all the same too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#include "image_tmp.h"

#define DISK_SIZE (5 * 1024 * 1024 + 512u)

/* ---- the system call ---- */

static struct {
	_Atomic uint64_t moved;
	int refused; /* an errno that all calls fail with; 0: they work */
	size_t most; /* so many bytes a call; 0: any number */
} kernel;

ssize_t copy_file_range(int in, off_t *in_off, int out, off_t *out_off, size_t len, unsigned flags)
{
	ssize_t n;

	if (kernel.refused) {
		errno = kernel.refused;
		return -1;
	}
	if (kernel.most && len > kernel.most)
		len = kernel.most;
	n = syscall(SYS_copy_file_range, in, in_off, out, out_off, len, flags);
	atomic_fetch_add(&kernel.moved, n > 0 ? (uint64_t)n : 0);
	return n;
}

/* ---- copies ---- */

static int convert(const char *from, const char *to, const char *format, unsigned flags,
		   struct qcow2_error *err)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_image *image = image_tmp_open(from, NULL);
	int ret;

	create.format = format;
	create.flags = QCOW2_CREATE_OVERWRITE;
	options.create = &create;
	options.flags = flags;
	atomic_store(&kernel.moved, 0);
	ret = qcow2_convert(&image, 1, to, &options, NULL, err);
	qcow2_close(image);
	return ret;
}

static void same_disks(const char *a, const char *b)
{
	struct qcow2_image *x = image_tmp_open(a, NULL), *y = image_tmp_open(b, NULL);
	struct qcow2_compare_result result;

	assert_int_equal(qcow2_compare(x, y, 0, NULL, &result, NULL), 0);
	assert_int_equal(result.verdict, QCOW2_COMPARE_SAME);
	assert_false(result.sizes_differ);
	qcow2_close(x);
	qcow2_close(y);
}

/* Both formats from both, with what the kernel does being as it is set. */
static void every_way(void **state, uint64_t least)
{
	static const char *const formats[] = {"raw", "qcow2"};
	char *disk = image_tmp_path(state, "disk"), *start = image_tmp_path(state, "start");
	char *copy = image_tmp_path(state, "copy");
	struct qcow2_error err = {0};

	image_tmp_make_raw(disk, DISK_SIZE, 7);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(convert(disk, start, formats[i / 2], 0, &err), 0);
		if (convert(start, copy, formats[i % 2], QCOW2_CONVERT_OFFLOAD, &err) < 0)
			fail_msg("%s", err.message);
		assert_true(atomic_load(&kernel.moved) >= least);
		same_disks(disk, copy);
	}
	free(disk);
	free(start);
	free(copy);
}

static void data_are_moved_by_the_kernel(void **state)
{
	every_way(state, 128 * 1024);
}

static void short_moves_are_gone_on_with(void **state)
{
	kernel.most = 12345;
	every_way(state, 128 * 1024);
	kernel.most = 0;
}

static void without_the_kernel_data_are_read_and_written(void **state)
{
	kernel.refused = EXDEV;
	every_way(state, 0);
	kernel.refused = 0;
}

static void an_error_in_the_kernel_fails_the_copy(void **state)
{
	char *disk = image_tmp_path(state, "disk"), *copy = image_tmp_path(state, "copy");
	struct qcow2_error err = {0};

	image_tmp_make_raw(disk, DISK_SIZE, 8);
	kernel.refused = EIO;
	assert_int_equal(convert(disk, copy, "qcow2", QCOW2_CONVERT_OFFLOAD, &err), -EIO);
	assert_int_not_equal(access(copy, F_OK), 0);
	assert_int_equal(convert(disk, copy, "raw", QCOW2_CONVERT_OFFLOAD, &err), -EIO);
	assert_int_not_equal(access(copy, F_OK), 0);
	kernel.refused = 0;
	free(disk);
	free(copy);
}

static void what_must_be_looked_at_is_not_moved(void **state)
{
	char *disk = image_tmp_path(state, "disk"), *copy = image_tmp_path(state, "copy");
	struct qcow2_error err = {0};

	image_tmp_make_raw(disk, DISK_SIZE, 9);
	assert_int_equal(
		convert(disk, copy, "qcow2", QCOW2_CONVERT_OFFLOAD | QCOW2_CONVERT_COMPRESS, &err),
		-EINVAL);
	assert_non_null(strstr(err.message, "compressed"));
	free(disk);
	free(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(data_are_moved_by_the_kernel),
		IMAGE_TEST(short_moves_are_gone_on_with),
		IMAGE_TEST(without_the_kernel_data_are_read_and_written),
		IMAGE_TEST(an_error_in_the_kernel_fails_the_copy),
		IMAGE_TEST(what_must_be_looked_at_is_not_moved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
