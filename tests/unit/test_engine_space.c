/* SPDX-License-Identifier: MIT */
/* What becomes of space that is free again: who gets it, what the host gets, how long files stay.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine_hook.h"

#define MIB (1u << 20)

/*
 * Bytes given back by a disk that is written, snapshotted, written again and loses the snapshot:
 * first by the guest's discard, then by the snapshot's end.
 */
static void given_back(const char *path, unsigned pass, uint64_t *by_guest, uint64_t *by_snapshot)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_storage file, tape;
	struct qcow2_image *image;

	o.flags = QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_LOCK;
	o.format = "qcow2";
	o.pass_discard = pass;
	assert_int_equal(storage_file_open(&file, path, STORAGE_FILE_WRITE, NULL), 0);
	assert_int_equal(storage_record_new(&tape, file, false, NULL), 0);
	assert_int_equal(qcow2_open_storage(&image, tape, path, &o, NULL), 0);
	engine_write(image, 0, 2 * MIB, 1);
	assert_int_equal(qcow2_discard(image, MIB, MIB, NULL), 0);
	assert_int_equal(qcow2_flush(image, NULL), 0);
	*by_guest = storage_record_bytes(tape, STORAGE_OP_DISCARD);
	assert_int_equal(qcow2_snapshot_create(image, "s", NULL, NULL), 0);
	engine_write(image, 0, MIB, 2);
	assert_int_equal(qcow2_snapshot_delete(image, "s", 0, NULL), 0);
	assert_int_equal(qcow2_finish(image, NULL), 0);
	*by_snapshot = storage_record_bytes(tape, STORAGE_OP_DISCARD) - *by_guest;
	qcow2_close(image);
	assert_int_equal(QEMU_IMG("check", "-q", path), 0);
}

static void test_what_goes_back_to_the_host_is_the_callers_choice(void **state)
{
	const unsigned passes[] = {QCOW2_PASS_NONE, QCOW2_PASS_DEFAULT, QCOW2_PASS_ALL};
	uint64_t guest[3], snapshot[3];

	for (unsigned i = 0; i < 3; i++) {
		char name[8], *path;

		snprintf(name, sizeof(name), "i%u", i);
		path = engine_make(state, name, "cluster_size=64k", "4M");
		given_back(path, passes[i], &guest[i], &snapshot[i]);
		free(path);
	}
	assert_int_equal(guest[0], 0);
	assert_int_equal(guest[1], MIB);
	assert_int_equal(guest[2], MIB);
	/* the data and the L2 table that only the snapshot had; with ALL its own tables too */
	assert_int_equal(snapshot[0], 0);
	assert_int_equal(snapshot[1], MIB + 65536);
	assert_true(snapshot[2] > snapshot[1]);
}

/* ---- what a discard does ---- */

static struct qcow2_image *open_with(const char *path, unsigned discard)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_error err = {0};
	struct qcow2_image *image;

	policy.follow = QCOW2_FOLLOW_LOCAL;
	o.policy = &policy;
	o.flags = QCOW2_OPEN_WRITE;
	o.format = "qcow2";
	o.discard = discard;
	if (qcow2_open(&image, path, &o, &err) < 0)
		fail_msg("%s", err.message);
	return image;
}

static void close_soundly(struct qcow2_image *image, const char *path)
{
	struct qcow2_error err = {0};

	if (qcow2_finish(image, &err) < 0)
		fail_msg("%s", err.message);
	qcow2_close(image);
	assert_int_equal(QEMU_IMG("check", "-q", path), 0);
}

/* An image over a backing file full of 0xbb. */
static char *make_over(void **state, const char *options)
{
	char *base = image_tmp_path(state, "base"), *path = image_tmp_path(state, "top");
	struct qcow2_image *image;

	assert_int_equal(QEMU_IMG("create", "-q", "-f", "qcow2", base, "1M"), 0);
	image = open_with(base, QCOW2_DISCARD_UNMAP);
	engine_write(image, 0, MIB, 0xbb);
	close_soundly(image, base);
	assert_int_equal(QEMU_IMG("create", "-q", "-f", "qcow2", "-o", options, "-b", base, "-F",
				  "qcow2", path),
			 0);
	free(base);
	return path;
}

/* What the first cluster is after it was written and discarded, and that nothing else changed. */
static struct qcow2_extent discard_first(const char *path, unsigned how, uint64_t *host_off)
{
	struct qcow2_image *image = open_with(path, how);
	struct qcow2_extent before, after;

	engine_write(image, 0, 2 * 65536, 1);
	assert_int_equal(qcow2_map(image, 0, 65536, &before, NULL), 0);
	*host_off = before.host_off;
	assert_int_equal(qcow2_discard(image, 0, 65536 + 1000, NULL), 0);
	assert_int_equal(qcow2_map(image, 0, 65536, &after, NULL), 0);
	if (after.flags & QCOW2_EXTENT_ZERO)
		assert_int_equal(engine_read(image, 0, 65536), 0);
	assert_int_equal(engine_read(image, 65536, 65536), 1);
	close_soundly(image, path);
	return after;
}

static void test_a_discard_does_as_the_option_says(void **state)
{
	static const char *const options[] = {"compat=1.1", "extended_l2=on"};
	struct qcow2_extent x;
	uint64_t host_off;

	for (unsigned i = 0; i < 2; i++) {
		char *path = make_over(state, options[i]);

		x = discard_first(path, QCOW2_DISCARD_UNMAP, &host_off);
		assert_int_equal(x.flags, QCOW2_EXTENT_ZERO | QCOW2_EXTENT_PRESENT);
		x = discard_first(path, QCOW2_DISCARD_NO_UNREF, &host_off);
		assert_int_equal(x.flags,
				 QCOW2_EXTENT_ZERO | QCOW2_EXTENT_PRESENT | QCOW2_EXTENT_HOST_OFF);
		assert_int_equal(x.host_off, host_off);
		x = discard_first(path, QCOW2_DISCARD_IGNORE, &host_off);
		assert_int_equal(x.flags,
				 QCOW2_EXTENT_DATA | QCOW2_EXTENT_PRESENT | QCOW2_EXTENT_HOST_OFF);
		assert_int_equal(x.host_off, host_off);
		free(path);
	}
}

static void test_version_2_never_lets_old_data_come_back(void **state)
{
	char *path = make_over(state, "compat=0.10"), *alone;
	struct qcow2_extent x;
	uint64_t host_off;

	/* it has no zeros over a backing file: nothing happens */
	x = discard_first(path, QCOW2_DISCARD_UNMAP, &host_off);
	assert_true(x.flags & QCOW2_EXTENT_DATA);
	alone = engine_make(state, "alone", "compat=0.10", "1M");
	x = discard_first(alone, QCOW2_DISCARD_UNMAP, &host_off);
	assert_int_equal(x.flags, QCOW2_EXTENT_ZERO);
	free(path);
	free(alone);
}

static void assert_extent(struct qcow2_image *image, unsigned flags, uint64_t host_off)
{
	struct qcow2_extent x;

	assert_int_equal(qcow2_map(image, 0, 65536, &x, NULL), 0);
	assert_int_equal(x.flags, flags | QCOW2_EXTENT_PRESENT);
	if (flags & QCOW2_EXTENT_HOST_OFF)
		assert_int_equal(x.host_off, host_off);
}

/* What was preallocated is written where it is, after zeros too. */
static void test_zeros_keep_their_place_unless_they_may_go(void **state)
{
	static const char *const options[] = {"cluster_size=64k", "extended_l2=on"};

	for (unsigned i = 0; i < 2; i++) {
		char *path = make_over(state, options[i]);
		struct qcow2_image *image = open_with(path, QCOW2_DISCARD_UNMAP);
		struct qcow2_extent x;

		engine_write(image, 0, 65536, 1);
		assert_int_equal(qcow2_map(image, 0, 65536, &x, NULL), 0);
		assert_int_equal(qcow2_write_zeroes(image, 0, 65536, 0, NULL), 0);
		assert_extent(image, QCOW2_EXTENT_ZERO | QCOW2_EXTENT_HOST_OFF, x.host_off);
		assert_int_equal(engine_read(image, 0, 65536), 0);
		engine_write(image, 0, 65536, 2);
		assert_extent(image, QCOW2_EXTENT_DATA | QCOW2_EXTENT_HOST_OFF, x.host_off);
		assert_int_equal(qcow2_write_zeroes(image, 0, 65536, QCOW2_WRITE_MAY_UNMAP, NULL),
				 0);
		assert_extent(image, QCOW2_EXTENT_ZERO, 0);
		assert_int_equal(engine_read(image, 0, 65536), 0);
		close_soundly(image, path);
		free(path);
	}
}

/* ---- space that was freed ---- */

static uint64_t size_of(const char *path)
{
	struct stat sb;

	assert_int_equal(stat(path, &sb), 0);
	return (uint64_t)sb.st_size;
}

/* By this process and by the next, whether it was flushed or not. */
static void test_space_that_was_freed_is_found_again(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=4096", "8M");
	struct qcow2_image *image = open_with(path, QCOW2_DISCARD_UNMAP);
	uint64_t full;

	engine_write(image, 0, 8 * MIB, 1);
	close_soundly(image, path);
	full = size_of(path);
	for (unsigned i = 0; i < 4; i++) {
		image = open_with(path, QCOW2_DISCARD_UNMAP);
		for (uint64_t off = 0; off < 8 * MIB; off += MIB) {
			assert_int_equal(qcow2_discard(image, off, MIB, NULL), 0);
			if (i % 2)
				assert_int_equal(qcow2_flush(image, NULL), 0);
		}
		assert_int_equal(qcow2_flush(image, NULL), 0);
		engine_write(image, 0, 8 * MIB, 2);
		close_soundly(image, path);
		assert_int_equal(size_of(path), full);
	}
	free(path);
}

/* The data are gone, and so are the refcount blocks that counted them. */
static void test_the_file_ends_with_what_is_in_use(void **state)
{
	static const char *const options[] = {
		"cluster_size=4096,refcount_bits=64", "cluster_size=512,compat=0.10",
		"cluster_size=4096,lazy_refcounts=on", "cluster_size=64k", "extended_l2=on"};

	for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		char *path = engine_make(state, "image", options[i], "4M");
		struct qcow2_image *image = open_with(path, QCOW2_DISCARD_UNMAP);
		uint64_t small, large;

		/* all L2 tables are there, at the front: they stay */
		for (uint64_t off = 0; off < 4 * MIB; off += 32768)
			engine_write(image, off, 512, 1);
		close_soundly(image, path);
		small = size_of(path);
		image = open_with(path, QCOW2_DISCARD_UNMAP);
		engine_write(image, 0, 4 * MIB, 2);
		assert_int_equal(qcow2_flush(image, NULL), 0);
		large = size_of(path);
		assert_int_equal(qcow2_discard(image, 0, 4 * MIB, NULL), 0);
		close_soundly(image, path);
		assert_in_range(size_of(path), 1, small);
		assert_true(large > 4 * MIB);
		free(path);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_what_goes_back_to_the_host_is_the_callers_choice),
		IMAGE_TEST(test_a_discard_does_as_the_option_says),
		IMAGE_TEST(test_version_2_never_lets_old_data_come_back),
		IMAGE_TEST(test_zeros_keep_their_place_unless_they_may_go),
		IMAGE_TEST(test_space_that_was_freed_is_found_again),
		IMAGE_TEST(test_the_file_ends_with_what_is_in_use),
	};

	return cmocka_run_group_tests_name("engine space", tests, NULL, NULL);
}
