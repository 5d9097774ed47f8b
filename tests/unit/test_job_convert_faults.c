/* SPDX-License-Identifier: MIT */
/*
 * A conversion that fails, in whatever way: an error with a sentence, nothing that leaks, and no
 * target that looks finished. What was there before is as documented.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "base/alloc.h"
#include "image_tmp.h"

#define DISK_SIZE (3 * 1024 * 1024 + 512u)

struct kind {
	const char *name;
	unsigned flags;
	struct qcow2_create_options create;
};

#define KIND(n, f, ...)                                                                            \
	{                                                                                          \
		.name = n, .flags = f, .create = {                                                 \
			.struct_size = sizeof(struct qcow2_create_options),                        \
			__VA_ARGS__                                                                \
		}                                                                                  \
	}

static const struct kind kinds[] = {
	KIND("raw", 0, .format = "raw"),
	KIND("qcow2", 0, .cluster_size = 4096),
	KIND("packed", QCOW2_CONVERT_COMPRESS, .cluster_size = 4096),
	KIND("preallocated", 0, .cluster_size = 65536, .prealloc = QCOW2_PREALLOC_METADATA),
	KIND("data file", 0, .cluster_size = 65536, .data_file = "data", .data_file_raw = true),
};

#define NKINDS (sizeof(kinds) / sizeof(kinds[0]))

static int convert(struct qcow2_image *source, const char *path, const struct kind *k,
		   unsigned threads, struct qcow2_error *err)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;

	*err = (struct qcow2_error){0};
	options.flags = k->flags;
	options.create = &k->create;
	options.threads = threads;
	return qcow2_convert(&source, 1, path, &options, NULL, err);
}

static void expect_clean(const struct kind *k, int ret, int code, const struct qcow2_error *err)
{
	if (ret != code || err->code != code || !err->message[0] || strchr(err->message, '\n'))
		fail_msg("%s: returned %d, the record has %d: \"%s\"", k->name, ret, err->code,
			 err->message);
}

static bool exists(const char *path)
{
	return access(path, F_OK) == 0;
}

/* ---- the n-th allocation fails ---- */

static _Atomic long allocations_left;

static bool fail_once(size_t size)
{
	(void)size;
	return atomic_fetch_sub(&allocations_left, 1) != 0;
}

static void sweep_allocations(struct qcow2_image *source, const char *path, const struct kind *k,
			      unsigned threads)
{
	bool struck = true;

	for (long n = 0; struck; n++) {
		struct qcow2_error err;
		int ret;

		atomic_store(&allocations_left, n);
		mem_fault_hook = fail_once;
		ret = convert(source, path, k, threads, &err);
		mem_fault_hook = NULL;
		struck = atomic_load(&allocations_left) < 0;
		if (ret < 0)
			expect_clean(k, ret, -ENOMEM, &err);
		assert_true(exists(path) == (ret == 0));
		unlink(path);
		if (k->create.data_file) {
			assert_true(exists(k->create.data_file) == (ret == 0));
			unlink(k->create.data_file);
		}
	}
}

static struct qcow2_image *make_source(void **state)
{
	char *disk = image_tmp_path(state, "disk");
	struct qcow2_image *source;

	image_tmp_make_raw(disk, DISK_SIZE, 4711);
	source = image_tmp_open(disk, "raw");
	free(disk);
	return source;
}

static void each_allocation_may_fail(void **state)
{
	struct qcow2_image *source = make_source(state);
	char *target = image_tmp_path(state, "target");
	struct image_tmp *t = *state;

	assert_int_equal(chdir(t->dir), 0);
	for (size_t i = 0; i < NKINDS; i++) {
		sweep_allocations(source, target, &kinds[i], 1);
		sweep_allocations(source, target, &kinds[i], 3);
	}
	assert_int_equal(chdir("/"), 0);
	qcow2_close(source);
	free(target);
}

/* ---- files can't grow beyond a limit ---- */

static void set_file_limit(rlim_t bytes)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = bytes;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void sweep_limits(struct qcow2_image *source, const char *path, const struct kind *k)
{
	for (rlim_t limit = 512; limit < DISK_SIZE; limit += 200000) {
		struct qcow2_error err;
		struct stat sb;
		int ret;

		set_file_limit(limit);
		ret = convert(source, path, k, 2, &err);
		set_file_limit(RLIM_INFINITY);
		if (ret < 0)
			expect_clean(k, ret, -EFBIG, &err);
		else if (stat(path, &sb) != 0 || (rlim_t)sb.st_size > limit)
			fail_msg("%s: success beyond a limit of %lu bytes", k->name,
				 (unsigned long)limit);
		assert_true(exists(path) == (ret == 0));
		unlink(path);
		if (k->create.data_file)
			assert_false(exists(k->create.data_file));
	}
}

static void a_file_that_cannot_grow_is_removed(void **state)
{
	struct qcow2_image *source = make_source(state);
	char *target = image_tmp_path(state, "target");
	struct image_tmp *t = *state;

	assert_int_equal(chdir(t->dir), 0);
	signal(SIGXFSZ, SIG_IGN);
	for (size_t i = 0; i < NKINDS; i++)
		sweep_limits(source, target, &kinds[i]);
	assert_int_equal(chdir("/"), 0);
	qcow2_close(source);
	free(target);
}

/* ---- an existing image that is written into ---- */

static void an_existing_empty_image_is_empty_again_and_the_same_file(void **state)
{
	struct qcow2_image *source = make_source(state);
	struct kind k = KIND("existing", QCOW2_CONVERT_EXISTING, .format = "qcow2");
	char *target = image_tmp_path(state, "target");
	char *fresh = image_tmp_path(state, "fresh");
	struct stat before, after;
	struct qcow2_error err;

	assert_int_equal(QEMU_IMG("create", "-f", "qcow2", "-o", "lazy_refcounts=on", target, "4M"),
			 0);
	assert_int_equal(chmod(target, 0600), 0);
	assert_int_equal(QEMU_IMG("create", "-f", "qcow2", "-o", "lazy_refcounts=on", fresh, "4M"),
			 0);
	assert_int_equal(stat(target, &before), 0);
	signal(SIGXFSZ, SIG_IGN);
	set_file_limit(1024 * 1024);
	expect_clean(&k, convert(source, target, &k, 2, &err), -EFBIG, &err);
	set_file_limit(RLIM_INFINITY);
	assert_int_equal(stat(target, &after), 0);
	assert_int_equal(after.st_ino, before.st_ino);
	assert_int_equal(after.st_mode, before.st_mode);
	assert_true(image_tmp_same_file(target, fresh));
	qcow2_close(source);
	free(target);
	free(fresh);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(each_allocation_may_fail),
		IMAGE_TEST(a_file_that_cannot_grow_is_removed),
		IMAGE_TEST(an_existing_empty_image_is_empty_again_and_the_same_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
