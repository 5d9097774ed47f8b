/* SPDX-License-Identifier: MIT */
/*
 * Every allocation and every read that opening, asking, mapping, reading and dumping make fails
 * once: each time there is a clean error, with the code in the record and a sentence, or the right
 * answer; and nothing leaks (run under a sanitizer).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "image_tmp.h"
#include "storage/storage.h"

#define DISK_SIZE (300 * 1024 + 512u)

/* ---- the n-th allocation fails ---- */

static _Atomic long allocations_left;

static bool fail_once(size_t size)
{
	(void)size;
	return atomic_fetch_sub(&allocations_left, 1) != 0;
}

static void fail_allocation(long n)
{
	atomic_store(&allocations_left, n);
	mem_fault_hook = fail_once;
}

/* true when the hook has struck. */
static bool stop_failing(void)
{
	mem_fault_hook = NULL;
	return atomic_load(&allocations_left) < 0;
}

/* ---- an image with all that there is ---- */

/* A chain of two, the top with compressed clusters, a snapshot and a bitmap. */
static char *make_chain(void **state)
{
	char *disk = image_tmp_path(state, "disk");
	char *base = image_tmp_path(state, "base");
	char *top = image_tmp_path(state, "top");

	image_tmp_make_raw(disk, DISK_SIZE, 77);
	assert_int_equal(QEMU_IMG("convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4096",
				  disk, base),
			 0);
	assert_int_equal(QEMU_IMG("convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
				  "cluster_size=512", "-B", base, "-F", "qcow2", disk, top),
			 0);
	assert_int_equal(QEMU_IMG("snapshot", "-c", "first", top), 0);
	assert_int_equal(QEMU_IMG("bitmap", "--add", top, "bits"), 0);
	free(disk);
	free(base);
	return top;
}

static void note_warning(void *opaque, const char *sentence)
{
	assert_true(sentence[0] != '\0');
	++*(unsigned *)opaque;
}

static int count_field(void *opaque, const struct qcow2_field *field)
{
	assert_non_null(field->name);
	++*(unsigned *)opaque;
	return 0;
}

static int dump_all(struct qcow2_image *image, struct qcow2_error *err)
{
	unsigned fields = 0;
	int ret = 0;

	for (unsigned what = 0; ret == 0 && what <= QCOW2_DUMP_BITMAPS; what++)
		ret = qcow2_dump(image, what, 0, count_field, &fields, err);
	return ret;
}

static int map_all(struct qcow2_image *image, struct qcow2_error *err)
{
	struct qcow2_extent e;
	int ret = 0;

	for (uint64_t off = 0; ret == 0 && off < qcow2_size(image); off += e.len_bytes)
		ret = qcow2_map(image, off, UINT64_MAX, &e, err);
	return ret;
}

static int read_all(struct qcow2_image *image, const uint8_t *expected, struct qcow2_error *err)
{
	static uint8_t buf[DISK_SIZE];
	struct iovec iov[3] = {
		{buf, 1000}, {buf + 1000, 100001}, {buf + 101001, DISK_SIZE - 101001}};
	int ret = qcow2_preadv(image, iov, 3, 0, err);

	if (ret == 0)
		assert_memory_equal(buf, expected, DISK_SIZE);
	return ret;
}

/* Everything that can be asked of an image; the first failure. */
static int use(struct qcow2_image *image, const uint8_t *expected, struct qcow2_error *err)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	int ret = qcow2_info(image, &info, err);

	if (ret == 0)
		ret = map_all(image, err);
	if (ret == 0)
		ret = read_all(image, expected, err);
	return ret == 0 && strcmp(info.format, "qcow2") == 0 ? dump_all(image, err) : ret;
}

static int open_and_use(const char *path, const struct qcow2_storage *store, const char *snapshot,
			const uint8_t *expected, unsigned *warnings, struct qcow2_error *err)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_image *image;
	int ret;

	policy.follow = QCOW2_FOLLOW_LOCAL;
	options.policy = &policy;
	options.warn = note_warning;
	options.opaque = warnings;
	options.snapshot = snapshot;
	ret = store ? qcow2_open_storage(&image, *store, path, &options, err)
		    : qcow2_open(&image, path, &options, err);
	if (ret < 0) {
		assert_null(image);
		return ret;
	}
	ret = use(image, expected, err);
	qcow2_close(image);
	return ret;
}

static void expect_clean(int ret, int code, const struct qcow2_error *err)
{
	assert_int_equal(ret, code);
	assert_int_equal(err->code, code);
	assert_true(err->message[0] != '\0');
	assert_null(strchr(err->message, '\n'));
}

static void sweep_allocations(const char *path, const char *snapshot, const uint8_t *expected)
{
	bool struck = true;

	for (long n = 0; struck; n++) {
		struct qcow2_error err = {0};
		unsigned warnings = 0;
		int ret;

		fail_allocation(n);
		ret = open_and_use(path, NULL, snapshot, expected, &warnings, &err);
		struck = stop_failing();
		if (ret < 0)
			expect_clean(ret, -ENOMEM, &err);
		else
			assert_int_equal(err.code, 0);
		assert_true(struck || ret == 0);
	}
}

static void each_allocation_may_fail(void **state)
{
	char *top = make_chain(state);
	char *disk = image_tmp_path(state, "disk");
	size_t len;
	uint8_t *expected = image_tmp_load(disk, &len);

	sweep_allocations(top, NULL, expected);
	sweep_allocations(top, "first", expected);
	sweep_allocations(disk, NULL, expected);
	free(expected);
	free(disk);
	free(top);
}

/* ---- the n-th read fails ---- */

static int use_with_fault(const char *path, enum storage_op op, uint64_t n, bool *struck,
			  const uint8_t *expected, struct qcow2_error *err)
{
	struct storage_fault_rule rule = {.op = op, .nth = n, .times = 1, .code = -EIO};
	struct qcow2_storage file, fault;
	unsigned warnings = 0;
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_image *image;
	int ret;

	policy.follow = QCOW2_FOLLOW_LOCAL;
	options.policy = &policy;
	options.warn = note_warning;
	options.opaque = &warnings;
	assert_int_equal(storage_file_open(&file, path, 0, NULL), 0);
	assert_int_equal(storage_fault_new(&fault, file, NULL), 0);
	assert_int_equal(storage_fault_add(fault, &rule), 0);
	*struck = true;
	ret = qcow2_open_storage(&image, fault, path, &options, err);
	if (ret < 0)
		return ret;
	ret = use(image, expected, err);
	*struck = storage_fault_seen(fault, op) > n;
	/* a table that info doesn't need is a warning, whatever else is said of it is an error */
	if (*struck && ret == 0)
		assert_true(warnings > 0 || op == STORAGE_OP_READ);
	/* the fault is gone: so is its trace */
	if (*struck) {
		struct qcow2_error again = {0};

		if (use(image, expected, &again) < 0)
			fail_msg("after read %d: %s", (int)n, again.message);
	}
	qcow2_close(image);
	return ret;
}

static void sweep_reads(const char *path, enum storage_op op, const uint8_t *expected)
{
	bool struck = true;

	for (uint64_t n = 0; struck; n++) {
		struct qcow2_error err = {0};
		int ret = use_with_fault(path, op, n, &struck, expected, &err);

		if (ret < 0)
			expect_clean(ret, -EIO, &err);
		else
			assert_int_equal(err.code, 0);
	}
}

static void each_read_may_fail(void **state)
{
	char *top = make_chain(state);
	char *disk = image_tmp_path(state, "disk");
	size_t len;
	uint8_t *expected = image_tmp_load(disk, &len);

	sweep_reads(top, STORAGE_OP_READ, expected);
	sweep_reads(disk, STORAGE_OP_READ, expected);
	sweep_reads(disk, STORAGE_OP_EXTENT, expected);
	free(expected);
	free(disk);
	free(top);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(each_allocation_may_fail),
		IMAGE_TEST(each_read_may_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
