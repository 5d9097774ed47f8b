/* SPDX-License-Identifier: MIT */
/*
 * The library's own stores as an embedder puts them together: parts of files, nothing, and the
 * store for tests with its rules and breakpoints; and images opened on what the caller brings.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "image_tmp.h"
#include "qcow2.h"

#define MIB (1024u * 1024)

static char *make_image(void **state, const char *name)
{
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;
	char *path = image_tmp_path(state, name);

	o.size = MIB;
	assert_int_equal(qcow2_create(path, &o, NULL), 0);
	return path;
}

static struct qcow2_storage open_file(const char *path)
{
	struct qcow2_storage st;

	assert_int_equal(qcow2_storage_file(&st, path, QCOW2_OPEN_WRITE, NULL), 0);
	return st;
}

static struct qcow2_image *open_on(struct qcow2_storage st, const char *format)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *image;

	o.flags = QCOW2_OPEN_WRITE;
	o.format = format;
	assert_int_equal(qcow2_open_storage(&image, st, "x", &o, NULL), 0);
	return image;
}

static void test_a_slice_ends_where_it_says(void **state)
{
	char *path = image_tmp_path(state, "raw");
	struct qcow2_error err = {0};
	struct qcow2_storage part;
	struct qcow2_image *image;
	uint8_t byte = 7;

	image_tmp_make_raw(path, 4096, 1);
	assert_int_equal(qcow2_storage_slice(&part, open_file(path), 4096, 512, &err), -EINVAL);
	assert_non_null(strstr(err.message, "has to be smaller or equal"));
	assert_int_equal(qcow2_storage_slice(&part, open_file(path), 1024, 512, NULL), 0);
	image = open_on(part, "raw");
	assert_int_equal(qcow2_size(image), 512);
	assert_int_equal(qcow2_pwrite(image, &byte, 1, 511, 0, NULL), 0);
	assert_int_equal(qcow2_resize(image, 1024, 0, 0, &err), -ENOTSUP);
	qcow2_close(image);
	image = open_on(open_file(path), "raw");
	byte = 0;
	assert_int_equal(qcow2_pread(image, &byte, 1, 1024 + 511, NULL), 0);
	assert_int_equal(byte, 7);
	qcow2_close(image);
	free(path);
}

static void test_an_open_slice_grows_with_its_file(void **state)
{
	char *path = image_tmp_path(state, "raw");
	struct qcow2_storage part;
	struct qcow2_image *image;

	image_tmp_make_raw(path, 4096, 1);
	assert_int_equal(qcow2_storage_slice(&part, open_file(path), 1024, UINT64_MAX, NULL), 0);
	image = open_on(part, "raw");
	assert_int_equal(qcow2_size(image), 3072);
	assert_int_equal(qcow2_resize(image, 8192, 0, 0, NULL), 0);
	qcow2_close(image);
	image = open_on(open_file(path), "raw");
	assert_int_equal(qcow2_size(image), 8192 + 1024);
	qcow2_close(image);
	free(path);
}

static struct qcow2_image *open_ruled(const char *path, const struct qcow2_debug_rule *rules,
				      size_t nrules, struct qcow2_debug **debug)
{
	struct qcow2_debug_options o = QCOW2_DEBUG_OPTIONS_INIT;
	struct qcow2_storage st;

	o.rules = rules;
	o.nrules = nrules;
	o.max_transfer = 4096; /* both layers at once */
	assert_int_equal(qcow2_storage_debug(&st, open_file(path), &o, debug, NULL), 0);
	return open_on(st, NULL);
}

static void test_rules_follow_states(void **state)
{
	const struct qcow2_debug_rule rules[] = {
		{.event = QCOW2_EVENT_WRITE_AIO,
		 .state = 2,
		 .code = -ENOSPC,
		 .once = true,
		 .ops = QCOW2_DEBUG_WRITE,
		 .host_off = QCOW2_NO_OFFSET},
		{.event = QCOW2_EVENT_READ_AIO, .state = 1, .new_state = 2},
	};
	char *path = make_image(state, "a");
	struct qcow2_image *image = open_ruled(path, rules, 2, NULL);
	uint8_t buf[512] = {1};

	assert_int_equal(qcow2_pwrite(image, buf, 512, 0, 0, NULL), 0);
	assert_int_equal(qcow2_pread(image, buf, 512, 0, NULL), 0);
	assert_int_equal(qcow2_pwrite(image, buf, 512, 0, 0, NULL), -ENOSPC);
	assert_int_equal(qcow2_pwrite(image, buf, 512, 0, 0, NULL), 0);
	assert_int_equal(qcow2_finish(image, NULL), 0);
	qcow2_close(image);
	free(path);
}

static void test_a_rule_without_a_step_holds_until_another(void **state)
{
	const struct qcow2_debug_rule rules[] = {
		{.event = QCOW2_EVENT_NONE,
		 .code = -EIO,
		 .ops = QCOW2_DEBUG_WRITE,
		 .host_off = QCOW2_NO_OFFSET},
		{.event = QCOW2_EVENT_READ_AIO, .code = -EIO, .host_off = 7 * 512},
	};
	char *path = image_tmp_path(state, "raw");
	struct qcow2_image *image;
	uint8_t buf[512] = {1};

	image_tmp_make_raw(path, 8192, 1);
	image = open_ruled(path, rules, 2, NULL);
	assert_int_equal(qcow2_pwrite(image, buf, 512, 0, 0, NULL), -EIO);
	assert_int_equal(qcow2_pread(image, buf, 512, 0, NULL), 0);
	assert_int_equal(qcow2_pwrite(image, buf, 512, 0, 0, NULL), 0);
	assert_int_equal(qcow2_pread(image, buf, 512, 7 * 512, NULL), -EIO);
	qcow2_close(image);
	free(path);
}

static void *write_one(void *opaque)
{
	uint8_t buf[512] = {1};

	assert_int_equal(qcow2_pwrite(opaque, buf, sizeof(buf), 0, 0, NULL), 0);
	return NULL;
}

static void test_a_request_stops_and_goes_on(void **state)
{
	char *path = make_image(state, "a");
	struct qcow2_debug *debug;
	struct qcow2_image *image = open_ruled(path, NULL, 0, &debug);
	uint8_t buf[512] = {2};
	pthread_t thread;

	assert_int_equal(qcow2_debug_break(debug, QCOW2_EVENT_NONE, "A", NULL), -ENOENT);
	assert_int_equal(qcow2_debug_resume(debug, "A", NULL), -ENOENT);
	assert_int_equal(qcow2_debug_unbreak(debug, "A", NULL), -ENOENT);
	assert_false(qcow2_debug_wait(debug, "A", 0));
	assert_int_equal(qcow2_debug_break(debug, QCOW2_EVENT_WRITE_AIO, "A", NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, write_one, image), 0);
	assert_true(qcow2_debug_wait(debug, "A", 60000));
	/* others aren't held up */
	assert_int_equal(qcow2_pwrite(image, buf, sizeof(buf), MIB / 2, 0, NULL), 0);
	assert_int_equal(qcow2_debug_resume(debug, "A", NULL), 0);
	pthread_join(thread, NULL);
	assert_int_equal(qcow2_debug_break(debug, QCOW2_EVENT_WRITE_AIO, "B", NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, write_one, image), 0);
	assert_true(qcow2_debug_wait(debug, NULL, 60000));
	assert_int_equal(qcow2_debug_unbreak(debug, NULL, NULL), 0);
	pthread_join(thread, NULL);
	assert_int_equal(qcow2_finish(image, NULL), 0);
	qcow2_close(image);
	free(path);
}

static void test_a_caller_brings_the_backing_image(void **state)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	char *path = make_image(state, "top");
	struct qcow2_image *image;
	uint8_t buf[512];

	o.format = "raw";
	assert_int_equal(qcow2_storage_null(&o.data_file, MIB, true, NULL), 0);
	assert_int_equal(qcow2_open(&image, path, &o, NULL), -EINVAL); /* it has no data file */
	o = (struct qcow2_open_options)QCOW2_OPEN_OPTIONS_INIT;
	o.format = "raw";
	assert_int_equal(qcow2_open(&o.backing, path, &o, NULL), 0);
	o.format = NULL;
	o.flags = QCOW2_OPEN_NO_LOCK;
	assert_int_equal(qcow2_open(&image, path, &o, NULL), 0);
	assert_non_null(qcow2_backing(image));
	assert_int_equal(qcow2_pread(image, buf, sizeof(buf), 0, NULL), 0);
	assert_memory_equal(buf, "QFI\xfb", 4);
	qcow2_close(image);

	/* one that is open for writing isn't taken, but closed */
	o.flags = QCOW2_OPEN_WRITE;
	o.backing = NULL;
	assert_int_equal(qcow2_open(&o.backing, path, &o, NULL), 0);
	o.flags = QCOW2_OPEN_NO_LOCK;
	assert_int_equal(qcow2_open(&image, path, &o, NULL), -EINVAL);
	free(path);
}

/* Points L2 entry 0 at the refcount table. */
static void damage(const char *path)
{
	struct qcow2_image *raw = open_on(open_file(path), "raw");
	const uint8_t entry[8] = {0x80, 0, 0, 0, 0, 1, 0, 0};
	uint8_t l1[8];
	uint64_t l2_off = 0;

	assert_int_equal(qcow2_pread(raw, l1, 8, 3 * 65536, NULL), 0);
	for (unsigned i = 1; i < 8; i++)
		l2_off = l2_off << 8 | l1[i];
	assert_int_equal(qcow2_pwrite(raw, entry, 8, l2_off, 0, NULL), 0);
	qcow2_close(raw);
}

static int write_guarded(const char *path, unsigned overlap_check)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *image;
	uint8_t buf[512] = {0};
	int ret;

	o.flags = QCOW2_OPEN_WRITE;
	o.overlap_check = overlap_check;
	assert_int_equal(qcow2_open(&image, path, &o, NULL), 0);
	ret = qcow2_pwrite(image, buf, sizeof(buf), 1024, 0, NULL);
	qcow2_close(image);
	return ret;
}

static void test_only_what_is_chosen_is_guarded(void **state)
{
	char *path = make_image(state, "a");

	assert_int_equal(write_guarded(path, 0), 0);
	damage(path);
	assert_int_equal(write_guarded(path, QCOW2_OVERLAP_CHOSEN), 0);
	assert_int_equal(write_guarded(path, QCOW2_OVERLAP_CHOSEN | QCOW2_OVERLAP_REFCOUNT_BLOCK),
			 0);
	assert_int_equal(write_guarded(path, QCOW2_OVERLAP_CHOSEN | QCOW2_OVERLAP_REFCOUNT_TABLE),
			 -EUCLEAN);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_a_slice_ends_where_it_says),
		IMAGE_TEST(test_an_open_slice_grows_with_its_file),
		IMAGE_TEST(test_rules_follow_states),
		IMAGE_TEST(test_a_rule_without_a_step_holds_until_another),
		IMAGE_TEST(test_a_request_stops_and_goes_on),
		IMAGE_TEST(test_a_caller_brings_the_backing_image),
		IMAGE_TEST(test_only_what_is_chosen_is_guarded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
