/* SPDX-License-Identifier: MIT */
/* Images on stores of an embedder, who may be careless or have more than any file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "image_tmp.h"
#include "storage/storage.h"

#define MIB (1024 * 1024ull)

/* ---- a store that says no more than that it failed ---- */

struct silent {
	int size_code, read_code;
};

static int silent_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	(void)err;
	*size_bytes = MIB;
	return ((struct silent *)self)->size_code;
}

static int silent_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t off,
			 struct qcow2_error *err)
{
	(void)err;
	(void)off;
	for (int i = 0; i < iovcnt; i++)
		memset(iov[i].iov_base, 0, iov[i].iov_len);
	return ((struct silent *)self)->read_code;
}

static const struct qcow2_storage_ops silent_ops = {
	.kind = "silent",
	.size = silent_size,
	.preadv = silent_preadv,
};

/* A record as it is on a stack: nothing that ends, nothing that is true. */
static void soil(struct qcow2_error *err)
{
	memset(err, 0x55, sizeof(*err));
}

static void expect_filled(int ret, int code, const struct qcow2_error *err)
{
	assert_int_equal(ret, code);
	assert_int_equal(err->code, code);
	assert_non_null(memchr(err->message, '\0', sizeof(err->message)));
	assert_non_null(strstr(err->message, "silent"));
}

static void a_record_that_a_store_leaves_alone_is_filled(void **state)
{
	struct silent s = {.read_code = -EIO};
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_storage st = {&silent_ops, &s};
	struct qcow2_image *image;
	struct qcow2_error err;
	uint8_t buf[512];

	(void)state;
	soil(&err);
	expect_filled(qcow2_open_storage(&image, st, "silent", NULL, &err), -EIO, &err);
	options.format = "qcow2";
	soil(&err);
	expect_filled(qcow2_open_storage(&image, st, "silent", &options, &err), -EIO, &err);
	options.format = "raw";
	assert_int_equal(qcow2_open_storage(&image, st, NULL, &options, &err), 0);
	soil(&err);
	expect_filled(qcow2_pread(image, buf, sizeof(buf), 0, &err), -EIO, &err);
	assert_int_equal(err.guest_off, 0);
	s.read_code = 1; /* neither success nor an errno */
	soil(&err);
	expect_filled(qcow2_pread(image, buf, sizeof(buf), 0, &err), -EIO, &err);
	qcow2_close(image);
	s.size_code = -EPERM;
	soil(&err);
	expect_filled(qcow2_open_storage(&image, st, NULL, &options, &err), -EPERM, &err);
}

static void a_record_is_left_alone_on_success(void **state)
{
	struct silent s = {0};
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_storage st = {&silent_ops, &s};
	struct qcow2_error err, before;
	struct qcow2_image *image;
	uint8_t buf[512];

	(void)state;
	soil(&err);
	soil(&before);
	options.format = "raw";
	assert_int_equal(qcow2_open_storage(&image, st, NULL, &options, &err), 0);
	assert_int_equal(qcow2_pread(image, buf, sizeof(buf), 0, &err), 0);
	assert_memory_equal(&err, &before, sizeof(err));
	qcow2_close(image);
}

/* ---- sizes ---- */

static struct qcow2_image *open_mem(uint64_t size)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *image;
	struct qcow2_storage st;

	options.format = "raw";
	assert_int_equal(storage_mem_new(&st, size, NULL), 0);
	assert_int_equal(storage_write(st, "x", 1, 70000, NULL), 0);
	assert_int_equal(qcow2_open_storage(&image, st, "mem", &options, NULL), 0);
	return image;
}

static void the_largest_disks_are_compared_to_their_end(void **state)
{
	const uint64_t sizes[] = {UINT64_MAX - 511, UINT64_MAX - MIB + 1, 1ull << 63,
				  INT64_MAX - 511};
	struct qcow2_compare_result result;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct qcow2_image *a = open_mem(sizes[i]);
		struct qcow2_image *b = open_mem(sizes[i]);

		assert_int_equal(qcow2_compare(a, b, 0, NULL, &result, NULL), 0);
		assert_int_equal(result.verdict, QCOW2_COMPARE_SAME);
		qcow2_close(a);
		qcow2_close(b);
	}
}

static void a_disk_beyond_all_files_is_not_converted(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	char *target = image_tmp_path(state, "target");
	struct qcow2_image *source = open_mem(UINT64_MAX - 511);
	struct qcow2_image *twice[2] = {source, source};
	struct qcow2_error err = {0};

	assert_int_equal(qcow2_convert(&source, 1, target, &options, NULL, &err), -EFBIG);
	assert_int_equal(qcow2_convert(twice, 2, target, &options, NULL, &err), -EFBIG);
	assert_int_equal(access(target, F_OK), -1);
	qcow2_close(source);
	free(target);
}

static void the_largest_sparse_disk_is_converted_at_once(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	char *target = image_tmp_path(state, "target");
	struct qcow2_image *source = open_mem((1ull << 61) - 512), *copy;
	struct qcow2_compare_result verdict;
	struct qcow2_convert_result result;
	struct qcow2_error err = {0};

	create.cluster_size = 2 * MIB;
	options.create = &create;
	if (qcow2_convert(&source, 1, target, &options, &result, &err) < 0)
		fail_msg("%s", err.message);
	assert_int_equal(result.data_bytes, 2 * MIB);
	copy = image_tmp_open(target, "qcow2");
	assert_int_equal(qcow2_compare(source, copy, 0, NULL, &verdict, &err), 0);
	assert_int_equal(verdict.verdict, QCOW2_COMPARE_SAME);
	qcow2_close(copy);
	qcow2_close(source);
	free(target);
}

static void no_sources_make_an_empty_disk(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	char *target = image_tmp_path(state, "target");
	struct qcow2_image *image;
	struct qcow2_error err = {0};

	if (qcow2_convert(NULL, 0, target, &options, NULL, &err) < 0)
		fail_msg("%s", err.message);
	image = image_tmp_open(target, "qcow2");
	assert_int_equal(qcow2_size(image), 0);
	qcow2_close(image);
	free(target);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(a_record_that_a_store_leaves_alone_is_filled),
		IMAGE_TEST(a_record_is_left_alone_on_success),
		IMAGE_TEST(the_largest_disks_are_compared_to_their_end),
		IMAGE_TEST(a_disk_beyond_all_files_is_not_converted),
		IMAGE_TEST(the_largest_sparse_disk_is_converted_at_once),
		IMAGE_TEST(no_sources_make_an_empty_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
