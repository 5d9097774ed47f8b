/* SPDX-License-Identifier: MIT */
/*
 * What comes first on the disk decides a comparison, a difference or a fault, whichever thread is
 * first to meet its own; and the other promises of qcow2_compare.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "image_tmp.h"
#include "job/twin.h"
#include "storage/storage.h"

#define MIB (1024 * 1024ull)

/* A store of zeros that is slow in its first MiB, with a byte that isn't zero and one that can't be
 * read. */
struct odd_store {
	uint64_t size, odd_off, bad_off;
};

static int odd_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	(void)err;
	*size_bytes = ((struct odd_store *)self)->size;
	return 0;
}

static int odd_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t off,
		      struct qcow2_error *err)
{
	const struct odd_store *s = self;
	struct timespec slow = {.tv_nsec = 200000000};

	if (off < MIB && iov[0].iov_len > 512)
		nanosleep(&slow, NULL);
	for (int i = 0; i < iovcnt; off += iov[i++].iov_len) {
		uint8_t *bytes = iov[i].iov_base;

		memset(bytes, 0, iov[i].iov_len);
		if (s->bad_off - off < iov[i].iov_len)
			return error_set_at(err, -EIO, QCOW2_NO_OFFSET, s->bad_off, "a bad byte");
		if (s->odd_off - off < iov[i].iov_len)
			bytes[s->odd_off - off] = 1;
	}
	return 0;
}

static const struct qcow2_storage_ops odd_ops = {
	.kind = "odd",
	.size = odd_size,
	.preadv = odd_preadv,
};

static struct qcow2_image *open_odd(struct odd_store *s)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *image;

	options.format = "raw";
	assert_int_equal(qcow2_open_storage(&image, (struct qcow2_storage){&odd_ops, s}, "odd",
					    &options, NULL),
			 0);
	return image;
}

/* Compares a disk of zeros with an odd one. */
static int compare_odd(uint64_t odd_off, uint64_t bad_off, struct qcow2_compare_result *result,
		       struct qcow2_error *err)
{
	struct odd_store odd = {.size = 8 * MIB, .odd_off = odd_off, .bad_off = bad_off};
	struct odd_store even = {.size = 8 * MIB, .odd_off = UINT64_MAX, .bad_off = UINT64_MAX};
	struct qcow2_image *a = open_odd(&even);
	struct qcow2_image *b = open_odd(&odd);
	int ret;

	*err = (struct qcow2_error){0};
	ret = qcow2_compare(a, b, 0, NULL, result, err);
	qcow2_close(a);
	qcow2_close(b);
	return ret;
}

static void a_difference_before_a_fault_is_the_answer(void **state)
{
	struct qcow2_compare_result result;
	struct qcow2_error err;

	(void)state;
	if (compare_odd(4711, MIB, &result, &err) < 0)
		fail_msg("%s", err.message);
	assert_int_equal(err.code, 0);
	assert_int_equal(result.verdict, QCOW2_COMPARE_CONTENT);
	assert_int_equal(result.guest_off, 4711);
}

static void a_fault_before_a_difference_is_the_answer(void **state)
{
	struct qcow2_compare_result result;
	struct qcow2_error err;

	(void)state;
	assert_int_equal(compare_odd(MIB, 4711, &result, &err), -EIO);
	assert_int_equal(err.code, -EIO);
	assert_int_equal(result.failed_image, 1);
	assert_non_null(strstr(err.message, "a bad byte"));
}

static void the_first_difference_is_found(void **state)
{
	struct qcow2_compare_result result;
	struct qcow2_error err;

	(void)state;
	for (uint64_t off = 0; off < 8 * MIB; off += MIB + 4095) {
		assert_int_equal(compare_odd(off, UINT64_MAX, &result, &err), 0);
		assert_int_equal(result.verdict, QCOW2_COMPARE_CONTENT);
		assert_int_equal(result.guest_off, off);
	}
	assert_int_equal(compare_odd(UINT64_MAX, UINT64_MAX, &result, &err), 0);
	assert_int_equal(result.verdict, QCOW2_COMPARE_SAME);
}

/* ---- files, of which less is read at a time ---- */

static void change(const char *path, uint64_t off)
{
	int fd = open(path, O_RDWR);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)off), 1);
	byte ^= 0x40;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)off), 1);
	assert_int_equal(close(fd), 0);
}

static void compare_files(char *const paths[2], struct qcow2_compare_result *result)
{
	struct qcow2_image *a = image_tmp_open(paths[0], "raw");
	struct qcow2_image *b = image_tmp_open(paths[1], "raw");

	assert_int_equal(qcow2_compare(a, b, 0, NULL, result, NULL), 0);
	qcow2_close(a);
	qcow2_close(b);
}

/* At and round the ends of a step and of a window; another byte behind it differs, too. */
static void the_first_difference_of_files_is_found(void **state)
{
	const uint64_t step = JOB_COMPARE_STEP, size = 3 * MIB + 3 * 512;
	const uint64_t places[] = {0,	     1,		  step - 1, step,	step + 1,
				   2 * step, MIB - step,  MIB - 1,  MIB,	MIB + step - 1,
				   2 * MIB,  3 * MIB - 1, 3 * MIB,  size - 512, size - 2};
	char *paths[2] = {image_tmp_path(state, "a"), image_tmp_path(state, "b")};
	struct qcow2_compare_result result;

	for (int i = 0; i < 2; i++)
		image_tmp_make_raw(paths[i], size, 4711);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		uint64_t later = places[i] + (size - places[i]) / 2;

		for (unsigned changed = 1; changed < 4; changed++) {
			change(paths[0], places[i]);
			change(paths[changed % 2], later);
			compare_files(paths, &result);
			assert_int_equal(result.verdict, QCOW2_COMPARE_CONTENT);
			assert_int_equal(result.guest_off, places[i]);
			change(paths[0], places[i]);
			change(paths[changed % 2], later);
		}
	}
	compare_files(paths, &result);
	assert_int_equal(result.verdict, QCOW2_COMPARE_SAME);
	free(paths[0]);
	free(paths[1]);
}

static size_t step_of(struct qcow2_image *a, struct qcow2_image *b)
{
	struct job_files x, y;
	size_t step;

	assert_int_equal(job_files_init(&x, a, NULL), 0);
	assert_int_equal(job_files_init(&y, b, NULL), 0);
	step = job_compare_step(&x, &y);
	job_files_release(&x);
	job_files_release(&y);
	return step;
}

/* A store of the caller's may be far away, and a device likes long requests. */
static void only_what_the_kernel_copies_is_read_in_small_steps(void **state)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct odd_store odd = {.size = MIB, .odd_off = UINT64_MAX, .bad_off = UINT64_MAX};
	struct qcow2_image *file, *direct, *store = open_odd(&odd);
	char *path = image_tmp_path(state, "a");

	image_tmp_make_raw(path, MIB, 4711);
	file = image_tmp_open(path, "raw");
	assert_int_equal(step_of(file, file), JOB_COMPARE_STEP);
	assert_true(step_of(file, store) == SIZE_MAX && step_of(store, file) == SIZE_MAX);
	options.format = "raw";
	options.flags = QCOW2_OPEN_DIRECT;
	if (qcow2_open(&direct, path, &options, NULL) == 0) { /* not every file system can */
		assert_true(step_of(file, direct) == SIZE_MAX);
		assert_true(step_of(direct, file) == SIZE_MAX);
		qcow2_close(direct);
	}
	qcow2_close(file);
	qcow2_close(store);
	free(path);
}

/* ---- progress ---- */

static int stop_at_once(void *opaque, uint64_t done_bytes, uint64_t total_bytes)
{
	assert_true(done_bytes <= total_bytes);
	++*(unsigned *)opaque;
	return 1;
}

static void a_comparison_can_be_cancelled(void **state)
{
	struct odd_store even = {.size = 64 * MIB, .odd_off = UINT64_MAX, .bad_off = UINT64_MAX};
	struct odd_store other = even;
	struct qcow2_image *a = open_odd(&even), *b = open_odd(&other);
	unsigned ticks = 0;
	struct qcow2_progress progress = {stop_at_once, &ticks};
	struct qcow2_compare_result result;
	struct qcow2_error err = {0};

	(void)state;
	assert_int_equal(qcow2_compare(a, b, 0, &progress, &result, &err), -ECANCELED);
	assert_int_equal(err.code, -ECANCELED);
	assert_int_equal(ticks, 1);
	qcow2_close(a);
	qcow2_close(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_difference_before_a_fault_is_the_answer),
		cmocka_unit_test(a_fault_before_a_difference_is_the_answer),
		cmocka_unit_test(the_first_difference_is_found),
		IMAGE_TEST(the_first_difference_of_files_is_found),
		IMAGE_TEST(only_what_the_kernel_copies_is_read_in_small_steps),
		cmocka_unit_test(a_comparison_can_be_cancelled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
