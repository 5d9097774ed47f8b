/* SPDX-License-Identifier: MIT */
/*
 * A copy into an image that holds something, when memory, a write or a flush fails, or when it is
 * cancelled: an error with a sentence, and an image that is sound. Each of its sectors has what it
 * had or what it was to get; what the source doesn't cover, and the snapshot, are as they were.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#include "base/alloc.h"
#include "check/check.h"
#include "image_tmp.h"

#define SOURCE_SIZE (3 * 1024 * 1024 + 512u)
#define TARGET_SIZE (4 * 1024 * 1024u)
#define SECTOR 512u

/* ---- system calls that fail ---- */

enum fault { NONE, WRITE_FAILS, SYNC_FAILS };

static struct {
	_Atomic enum fault fault;
	_Atomic long left; /* calls before the one that fails */
} sys;

static bool strikes(enum fault fault)
{
	return sys.fault == fault && atomic_fetch_sub(&sys.left, 1) == 0;
}

ssize_t pwritev(int fd, const struct iovec *iov, int iovcnt, off_t off)
{
	if (!strikes(WRITE_FAILS))
		return syscall(SYS_pwritev, fd, iov, iovcnt, off, 0);
	errno = ENOSPC;
	return -1;
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	if (!strikes(WRITE_FAILS))
		return syscall(SYS_pwrite64, fd, buf, len, off);
	errno = ENOSPC;
	return -1;
}

int fdatasync(int fd)
{
	(void)fd; /* nobody pulls the plug of the test */
	if (!strikes(SYNC_FAILS))
		return 0;
	errno = EIO;
	return -1;
}

/* Whether it is granted. */
static bool grant(size_t size)
{
	(void)size;
	return atomic_fetch_sub(&sys.left, 1) != 0;
}

/* ---- a source, and a target with a snapshot ---- */

struct world {
	struct qcow2_image *source;
	char *target, *saved;
	uint8_t *wanted;   /* what the source has */
	uint8_t *before;   /* what the target has */
	uint8_t *snapshot; /* what its snapshot has */
};

static uint8_t *read_disk(const char *path, const char *snapshot)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *image;
	struct qcow2_error err = {0};
	uint8_t *bytes;

	options.snapshot = snapshot;
	if (qcow2_open(&image, path, &options, &err) < 0)
		fail_msg("%s", err.message);
	bytes = malloc(qcow2_size(image));
	assert_non_null(bytes);
	if (qcow2_pread(image, bytes, qcow2_size(image), 0, &err) < 0)
		fail_msg("%s", err.message);
	qcow2_close(image);
	return bytes;
}

static void copy_file(const char *from, const char *to)
{
	size_t len;
	uint8_t *bytes = image_tmp_load(from, &len);
	int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, len), len);
	assert_int_equal(close(fd), 0);
	free(bytes);
}

/* The snapshot shares a part of what the disk has: some clusters are copied, some overwritten. */
static void make_target(void **state, struct world *w)
{
	char *first = image_tmp_path(state, "first"), *second = image_tmp_path(state, "second");
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_image *image;

	image_tmp_make_raw(first, TARGET_SIZE, 1);
	image_tmp_make_raw(second, TARGET_SIZE / 2, 2);
	w->saved = image_tmp_path(state, "saved");
	w->target = image_tmp_path(state, "target");
	assert_int_equal(QEMU_IMG("convert", "-f", "raw", "-O", "qcow2", first, w->saved), 0);
	assert_int_equal(QEMU_IMG("snapshot", "-c", "s", w->saved), 0);
	image = image_tmp_open(second, "raw");
	options.flags = QCOW2_CONVERT_EXISTING;
	assert_int_equal(qcow2_convert(&image, 1, w->saved, &options, NULL, NULL), 0);
	qcow2_close(image);
	w->before = read_disk(w->saved, NULL);
	w->snapshot = read_disk(w->saved, "s");
	free(first);
	free(second);
}

static void world_make(void **state, struct world *w)
{
	char *disk = image_tmp_path(state, "disk");

	image_tmp_make_raw(disk, SOURCE_SIZE, 4711);
	w->source = image_tmp_open(disk, "raw");
	w->wanted = malloc(SOURCE_SIZE);
	assert_non_null(w->wanted);
	assert_int_equal(qcow2_pread(w->source, w->wanted, SOURCE_SIZE, 0, NULL), 0);
	make_target(state, w);
	free(disk);
}

static void world_release(struct world *w)
{
	qcow2_close(w->source);
	free(w->target);
	free(w->saved);
	free(w->wanted);
	free(w->before);
	free(w->snapshot);
}

static int convert(const struct world *w, struct qcow2_convert_options *options,
		   struct qcow2_error *err)
{
	*err = (struct qcow2_error){0};
	options->flags |= QCOW2_CONVERT_EXISTING;
	return qcow2_convert(&w->source, 1, w->target, options, NULL, err);
}

/* ---- what must be true afterwards ---- */

static void check_structure(const struct world *w, bool leaks_too)
{
	const struct check_options options = {0};
	struct check_result result;
	struct qcow2_storage file;

	assert_int_equal(storage_file_open(&file, w->target, 0, NULL), 0);
	assert_int_equal(check_image(file, &options, &result, NULL), 0);
	storage_close(&file);
	assert_int_equal(result.corruptions + result.check_errors, 0);
	assert_true(!leaks_too || result.leaks == 0);
}

static unsigned count_old(const struct world *w, const uint8_t *now)
{
	unsigned old = 0;

	for (size_t at = 0; at < SOURCE_SIZE; at += SECTOR) {
		if (memcmp(now + at, w->wanted + at, SECTOR) == 0)
			continue;
		if (memcmp(now + at, w->before + at, SECTOR) != 0)
			fail_msg("sector at 0x%zx is neither old nor new", at);
		old++;
	}
	return old;
}

/* done: the copy said that it is; then nothing is old, and nothing leaks. */
static void check_target(const struct world *w, bool done, bool leaks_too)
{
	uint8_t *now = read_disk(w->target, NULL);
	uint8_t *snapshot = read_disk(w->target, "s");

	check_structure(w, done || leaks_too);
	assert_true(count_old(w, now) == 0 || !done);
	assert_int_equal(
		memcmp(now + SOURCE_SIZE, w->before + SOURCE_SIZE, TARGET_SIZE - SOURCE_SIZE), 0);
	assert_int_equal(memcmp(snapshot, w->snapshot, TARGET_SIZE), 0);
	free(now);
	free(snapshot);
}

static void expect(int ret, int code, const struct qcow2_error *err)
{
	if (ret != code || err->code != code || !err->message[0] || strchr(err->message, '\n'))
		fail_msg("returned %d, the record has %d: \"%s\"", ret, err->code, err->message);
}

static struct qcow2_convert_options options_of(unsigned flags, unsigned threads)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;

	options.flags = flags;
	options.threads = threads;
	options.compression_level = 1; /* how small it gets isn't what is tested */
	return options;
}

/* ---- sweeps: the n-th fails, for all n ---- */

static bool sweep_one(const struct world *w, unsigned flags, unsigned threads, enum fault fault,
		      int code, long n)
{
	struct qcow2_convert_options options = options_of(flags, threads);
	struct qcow2_error err;
	bool struck;
	int ret;

	copy_file(w->saved, w->target);
	atomic_store(&sys.left, n);
	sys.fault = fault;
	mem_fault_hook = fault == NONE ? grant : NULL;
	ret = convert(w, &options, &err);
	mem_fault_hook = NULL;
	sys.fault = NONE;
	struck = atomic_load(&sys.left) < 0;
	if (ret < 0)
		expect(ret, code, &err);
	if (!struck && ret < 0)
		fail_msg("%ld: nothing was made to fail, but: %s", n, err.message);
	check_target(w, ret == 0 && fault != NONE, false);
	return struck;
}

static void sweep(void **state, enum fault fault, int code, long step)
{
	const unsigned flags[] = {0, QCOW2_CONVERT_COMPRESS};
	struct world w;
	long n;

	world_make(state, &w);
	for (unsigned i = 0; i < 4; i++) {
		for (n = 0; sweep_one(&w, flags[i % 2], i < 2 ? 1 : 3, fault, code, n); n += step)
			;
		assert_true(n > 1);
	}
	world_release(&w);
}

static void each_allocation_may_fail(void **state)
{
	sweep(state, NONE, -ENOMEM, 1);
}

static void each_write_may_fail(void **state)
{
	sweep(state, WRITE_FAILS, -ENOSPC, 1);
}

static void each_flush_may_fail(void **state)
{
	sweep(state, SYNC_FAILS, -EIO, 1);
}

/* ---- cancelled ---- */

struct stopper {
	uint64_t at; /* done bytes */
	bool asked;
};

static int stop_at(void *opaque, uint64_t done_bytes, uint64_t total_bytes)
{
	struct stopper *s = opaque;

	assert_int_equal(total_bytes, SOURCE_SIZE);
	s->asked |= done_bytes >= s->at;
	return done_bytes >= s->at;
}

static void a_cancelled_copy_leaves_a_sound_image(void **state)
{
	struct qcow2_convert_options options = options_of(0, 1);
	struct stopper s = {.at = 1024 * 1024};
	struct qcow2_error err;
	uint8_t *now;
	struct world w;

	world_make(state, &w);
	copy_file(w.saved, w.target);
	options.progress = (struct qcow2_progress){stop_at, &s};
	options.rate_limit = 1024 * 1024; /* so slow that somebody is asked in between */
	expect(convert(&w, &options, &err), -ECANCELED, &err);
	assert_true(s.asked);
	check_target(&w, false, true);
	now = read_disk(w.target, NULL);
	assert_in_range(count_old(&w, now), 1, SOURCE_SIZE / SECTOR - 1);
	free(now);
	world_release(&w);
}

/* ---- what it says, and for whom ---- */

static void the_policy_holds_for_the_target(void **state)
{
	struct qcow2_create_options create = {.struct_size = sizeof(create), .format = "qcow2"};
	struct qcow2_policy nothing = QCOW2_POLICY_INIT;
	struct qcow2_convert_options options = options_of(0, 1);
	char *above = image_tmp_path(state, "above");
	struct qcow2_error err;
	struct world w;

	world_make(state, &w);
	assert_int_equal(
		QEMU_IMG("create", "-f", "qcow2", "-b", w.saved, "-F", "qcow2", above, "4M"), 0);
	free(w.target);
	w.target = above;
	create.policy = &nothing;
	options.create = &create;
	expect(convert(&w, &options, &err), -EPERM, &err);
	assert_non_null(strstr(err.message, "policy"));
	create.policy = NULL;
	assert_int_equal(convert(&w, &options, &err), 0);
	world_release(&w);
}

static void the_result_counts_what_was_moved(void **state)
{
	struct qcow2_convert_options options = options_of(QCOW2_CONVERT_EXISTING, 2);
	struct qcow2_convert_result result;
	struct stat sb;
	struct world w;

	world_make(state, &w);
	copy_file(w.saved, w.target);
	assert_int_equal(qcow2_convert(&w.source, 1, w.target, &options, &result, NULL), 0);
	assert_int_equal(result.data_bytes + result.zero_bytes, SOURCE_SIZE);
	assert_true(result.data_bytes > 0 && result.zero_bytes > 0);
	assert_int_equal(stat(w.target, &sb), 0);
	assert_int_equal(result.host_bytes, sb.st_size);
	check_target(&w, true, true);
	world_release(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(each_allocation_may_fail),
		IMAGE_TEST(each_write_may_fail),
		IMAGE_TEST(each_flush_may_fail),
		IMAGE_TEST(a_cancelled_copy_leaves_a_sound_image),
		IMAGE_TEST(the_policy_holds_for_the_target),
		IMAGE_TEST(the_result_counts_what_was_moved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
