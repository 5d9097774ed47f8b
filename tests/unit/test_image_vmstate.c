/* SPDX-License-Identifier: MIT */
/*
 * VM state: at any position, of any kind of image, with snapshots and without, beside a disk that
 * it must never come to light in.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>

#include "engine_hook.h"

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

static struct qcow2_image *open_it(const char *path, unsigned flags, const char *snapshot)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_error err = {0};
	struct qcow2_image *image;

	policy.follow = QCOW2_FOLLOW_LOCAL;
	o.policy = &policy;
	o.flags = flags;
	o.snapshot = snapshot;
	if (qcow2_open(&image, path, &o, &err) < 0)
		fail_msg("%s", err.message);
	return image;
}

static void close_it(struct qcow2_image *image)
{
	struct qcow2_error err = {0};

	if (qcow2_finish(image, &err) < 0)
		fail_msg("%s", err.message);
	qcow2_close(image);
}

static void put(struct qcow2_image *image, uint64_t pos, size_t len, int pattern)
{
	struct qcow2_error err = {0};
	uint8_t *buf = malloc(len + 1);

	memset(buf, pattern, len);
	if (qcow2_vmstate_write(image, buf, len, pos, &err) < 0)
		fail_msg("%s", err.message);
	free(buf);
}

/* The byte that the state is full of there. */
static int get(struct qcow2_image *image, uint64_t pos, size_t len)
{
	struct qcow2_error err = {0};
	uint8_t *buf = malloc(len + 1);
	int pattern;

	memset(buf, 0x5a, len);
	if (qcow2_vmstate_read(image, buf, len, pos, &err) < 0)
		fail_msg("%s", err.message);
	pattern = buf[0];
	for (size_t i = 0; i < len; i++) {
		if (buf[i] != pattern)
			fail_msg("0x%x behind 0x%x", buf[i], pattern);
	}
	free(buf);
	return pattern;
}

static void take(struct qcow2_image *image, const char *name, uint64_t vm_state_bytes)
{
	struct qcow2_snapshot_options o = QCOW2_SNAPSHOT_OPTIONS_INIT;
	struct qcow2_error err = {0};

	o.vm_state_bytes = vm_state_bytes;
	if (qcow2_snapshot_create(image, name, &o, &err) < 0)
		fail_msg("%s", err.message);
}

static void resize(struct qcow2_image *image, uint64_t size)
{
	struct qcow2_error err = {0};

	if (qcow2_resize(image, size, QCOW2_PREALLOC_OFF, QCOW2_RESIZE_SHRINK, &err) < 0)
		fail_msg("%s", err.message);
}

static void assert_clean(const char *path)
{
	assert_int_equal(QEMU_IMG("check", "-q", "-f", "qcow2", path), 0);
}

/* ---- what can't be ---- */

static void fails(struct qcow2_image *image, bool write, uint64_t pos, int code, const char *part)
{
	struct qcow2_error err = {0};
	uint8_t buf[512] = {0};
	int ret = write ? qcow2_vmstate_write(image, buf, sizeof(buf), pos, &err)
			: qcow2_vmstate_read(image, buf, sizeof(buf), pos, &err);

	if (ret != code || !strstr(err.message, part))
		fail_msg("%d: %s", ret, err.message);
}

static void what_has_no_state_says_so(void **state)
{
	char *raw = image_tmp_path(state, "raw"), *data = image_tmp_path(state, "data");
	char *plain = engine_make(state, "plain", "cluster_size=4096", "1M");
	char *options, *external;
	struct qcow2_image *image;
	struct qcow2_error err = {0};

	assert_int_equal(QEMU_IMG("create", "-q", "-f", "raw", raw, "1M"), 0);
	image = open_it(raw, QCOW2_OPEN_WRITE, NULL);
	fails(image, false, 0, -ENOTSUP, "it has no VM state");
	fails(image, true, 0, -ENOTSUP, "it has no VM state");
	qcow2_close(image);
	assert_true(asprintf(&options, "data_file=%s", data) > 0);
	external = engine_make(state, "external", options, "1M");
	image = open_it(external, QCOW2_OPEN_WRITE, NULL);
	fails(image, false, 0, -ENOTSUP, "external data file");
	fails(image, true, 0, -ENOTSUP, "external data file");
	qcow2_close(image);
	image = open_it(plain, 0, NULL);
	fails(image, true, 0, -EACCES, "for reading only");
	assert_int_equal(get(image, 0, 512), 0);
	qcow2_close(image);
	image = open_it(plain, QCOW2_OPEN_INFO, NULL);
	fails(image, false, 0, -EINVAL, "for information only");
	qcow2_close(image);
	image = open_it(plain, QCOW2_OPEN_WRITE, NULL);
	assert_int_equal(qcow2_finish(image, &err), 0);
	fails(image, true, 0, -EINVAL, "has been finished");
	qcow2_close(image);
	free(raw);
	free(data);
	free(plain);
	free(options);
	free(external);
}

/* The L1 table has 4 Mi entries at most; with clusters of 512 bytes each maps 32 KiB. */
static void positions_reach_as_far_as_the_map(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=512", "1M");
	const uint64_t end = (4 * MIB << 15) - MIB;
	struct qcow2_image *image = open_it(path, QCOW2_OPEN_WRITE, NULL);
	struct qcow2_error err = {0};

	assert_int_equal(get(image, UINT64_MAX - MIB - 512, 512), 0);
	fails(image, false, UINT64_MAX - MIB - 511, -EINVAL, "pass the end of what can be counted");
	fails(image, true, UINT64_MAX - 100, -EINVAL, "pass the end of what can be counted");
	fails(image, true, end - 511, -EFBIG, "lie behind all that an L1 table");
	fails(image, true, UINT64_MAX - MIB - 512, -EFBIG, "lie behind all that an L1 table");
	assert_int_equal(qcow2_vmstate_write(image, NULL, 0, 0, &err), 0);
	assert_int_equal(qcow2_vmstate_read(image, NULL, 0, 7, &err), 0);
	put(image, end - 512, 512, 7);
	assert_int_equal(get(image, end - 512, 512), 7);
	assert_int_equal(get(image, end - 1024, 512), 0);
	assert_int_equal(get(image, end, 512), 0);
	assert_int_equal(engine_read(image, 0, MIB), 0);
	close_it(image);
	assert_clean(path);
	free(path);
}

/* ---- any kind of image ---- */

#define AREA (3 * MIB)

/* Random pieces, near the beginning and far away, beside writes to the disk; then all is compared.
 */
static void fill_at_random(struct qcow2_image *image, uint64_t size, uint8_t *area, uint64_t *seed)
{
	for (unsigned i = 0; i < 60; i++) {
		uint64_t pos = image_tmp_random(seed) % AREA;
		uint64_t len = image_tmp_random(seed) % (100 * KIB) >> image_tmp_random(seed) % 8;

		len = len < AREA - pos ? len : AREA - pos;
		memset(area + pos, (int)(i + 1), len);
		put(image, pos, len, (int)(i + 1));
		engine_write(image, image_tmp_random(seed) % (size - 512), 512, 0xdd);
		if (i == 30)
			take(image, "between", 0);
	}
}

static void compare_area(struct qcow2_image *image, const uint8_t *area)
{
	uint8_t *buf = malloc(AREA);
	struct qcow2_error err = {0};

	if (qcow2_vmstate_read(image, buf, AREA, 0, &err) < 0)
		fail_msg("%s", err.message);
	assert_memory_equal(buf, area, AREA);
	free(buf);
}

static void check_kind(void **state, const char *options, uint64_t seed)
{
	char *base = image_tmp_path(state, "base"), *path = image_tmp_path(state, "image");
	uint64_t size = 2 * MIB + 512;
	uint8_t *area = calloc(1, AREA);
	struct qcow2_image *image;

	image_tmp_make_raw(base, 8 * MIB, seed);
	assert_int_equal(QEMU_IMG("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", "-o",
				  options, path, "2097664"),
			 0);
	image = open_it(path, QCOW2_OPEN_WRITE, NULL);
	fill_at_random(image, size, area, &seed);
	put(image, 70 * MIB + 1, 3000, 0xee);
	compare_area(image, area);
	close_it(image);
	assert_clean(path);
	image = open_it(path, 0, NULL);
	compare_area(image, area);
	assert_int_equal(get(image, 70 * MIB + 1, 3000), 0xee);
	assert_int_equal(get(image, 70 * MIB + 3001, 3000), 0);
	qcow2_close(image);
	free(area);
	free(base);
	free(path);
}

static void every_kind_of_image_has_it(void **state)
{
	static const char *const kinds[] = {
		"cluster_size=512",
		"cluster_size=512,refcount_bits=2",
		"cluster_size=4096,compat=0.10",
		"cluster_size=65536,lazy_refcounts=on",
		"cluster_size=16384,extended_l2=on",
		"cluster_size=2M,refcount_bits=64",
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		check_kind(state, kinds[i], i + 77);
}

/* ---- snapshots ---- */

static uint64_t space_taken(const char *path)
{
	struct stat sb;

	assert_int_equal(stat(path, &sb), 0);
	return (uint64_t)sb.st_blocks * 512;
}

static void check_snapshots(void **state, const char *options)
{
	char *path = engine_make(state, "image", options, "1M");
	struct qcow2_image *image = open_it(path, QCOW2_OPEN_WRITE, NULL);
	struct qcow2_error err = {0};
	uint64_t taken;

	engine_write(image, 0, 4096, 0x10);
	for (int i = 1; i <= 3; i++) {
		char name[8];

		put(image, 0, (size_t)i * MIB, i);
		put(image, 40 * MIB, 4096, i + 16);
		engine_write(image, 4096 * (uint64_t)i, 4096, 0x10 + i);
		snprintf(name, sizeof(name), "s%d", i);
		take(image, name, (uint64_t)i * MIB);
		/* the snapshot has it: the next is written from an empty beginning */
		assert_int_equal(get(image, 0, 4 * MIB), 0);
		assert_int_equal(get(image, 40 * MIB, 4096), 0);
	}
	take(image, "none", 0);
	assert_int_equal(qcow2_snapshot_apply(image, "s2", 0, &err), 0);
	assert_int_equal(get(image, 0, 2 * MIB), 2);
	put(image, 512, 512, 0x99); /* what the snapshot has stays */
	close_it(image);
	assert_clean(path);
	for (int i = 1; i <= 3; i++) {
		char name[8];

		snprintf(name, sizeof(name), "s%d", i);
		image = open_it(path, 0, name);
		assert_int_equal(get(image, 0, (size_t)i * MIB), i);
		assert_int_equal(get(image, 40 * MIB, 4096), i + 16);
		assert_int_equal(get(image, (uint64_t)i * MIB, 4096), 0);
		assert_int_equal(engine_read(image, 4096 * (uint64_t)i, 4096), 0x10 + i);
		qcow2_close(image);
	}
	taken = space_taken(path);
	image = open_it(path, QCOW2_OPEN_WRITE, NULL);
	assert_int_equal(get(image, 1024, MIB), 2);
	for (int i = 1; i <= 3; i++) {
		char name[8];

		snprintf(name, sizeof(name), "s%d", i);
		assert_int_equal(qcow2_snapshot_delete(image, name, 0, &err), 0);
	}
	assert_int_equal(qcow2_snapshot_apply(image, "none", 0, &err), 0);
	assert_int_equal(qcow2_snapshot_delete(image, "none", 0, &err), 0);
	assert_int_equal(get(image, 0, MIB), 0);
	close_it(image);
	assert_clean(path);
	assert_true(space_taken(path) + 5 * MIB < taken);
	free(path);
}

static void a_snapshot_takes_it_along(void **state)
{
	check_snapshots(state, "cluster_size=512");
	check_snapshots(state, "cluster_size=4096,compat=0.10");
	check_snapshots(state, "cluster_size=65536,lazy_refcounts=on");
}

static void a_size_of_64_bits_is_recorded(void **state)
{
	char *path = engine_make(state, "image", "compat=0.10", "1M");
	struct qcow2_image *image = open_it(path, QCOW2_OPEN_WRITE, NULL);
	struct qcow2_info info = QCOW2_INFO_INIT;

	put(image, 5 * GIB, 4096, 9);
	take(image, "large", 5 * GIB + 4096);
	close_it(image);
	image = open_it(path, 0, "large");
	assert_int_equal(qcow2_info(image, &info, NULL), 0);
	assert_int_equal(info.snapshots[0].vm_state_bytes, 5 * GIB + 4096);
	assert_int_equal(get(image, 5 * GIB, 4096), 9);
	qcow2_close(image);
	assert_clean(path);
	free(path);
}

/* Through another snapshot that has the table written anew, and for the real program to read. */
static void what_its_taker_knows_is_recorded(void **state)
{
	static const uint64_t icounts[] = {0x123456789abcdef0, UINT64_MAX};
	char *path = engine_make(state, "image", "cluster_size=4096", "1M");
	struct qcow2_snapshot_options o = QCOW2_SNAPSHOT_OPTIONS_INIT;
	struct qcow2_image *image = open_it(path, QCOW2_OPEN_WRITE, NULL);
	struct qcow2_info info = QCOW2_INFO_INIT;

	o.date_sec = 1234567890;
	o.date_nsec = 987654321;
	o.vm_clock_nsec = 0xfedcba9876543210;
	for (unsigned i = 0; i < 2; i++) {
		o.icount = icounts[i];
		assert_int_equal(qcow2_snapshot_create(image, i ? "two" : "one", &o, NULL), 0);
	}
	close_it(image);
	image = open_it(path, 0, NULL);
	assert_int_equal(qcow2_info(image, &info, NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(info.snapshots[i].date_sec, o.date_sec);
		assert_int_equal(info.snapshots[i].date_nsec, o.date_nsec);
		assert_true(info.snapshots[i].vm_clock_nsec == o.vm_clock_nsec);
		assert_true(info.snapshots[i].icount == icounts[i]);
		assert_int_equal(info.snapshots[i].has_icount, i == 0);
	}
	qcow2_close(image);
	assert_clean(path);
	free(path);
}

/* ---- disks of other sizes ---- */

static void it_never_comes_to_light_in_the_disk(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=512", "100K");
	struct qcow2_image *image = open_it(path, QCOW2_OPEN_WRITE, NULL);

	engine_write(image, 0, 100 * KIB, 1);
	put(image, 0, 300 * KIB, 2);
	resize(image, 120 * KIB); /* the same tables: it stays where it is */
	assert_int_equal(get(image, 0, 300 * KIB), 2);
	resize(image, 110 * KIB);
	assert_int_equal(get(image, 0, 300 * KIB), 2);
	resize(image, 250 * KIB);
	assert_int_equal(engine_read(image, 0, 100 * KIB), 1);
	assert_int_equal(engine_read(image, 100 * KIB, 150 * KIB), 0);
	assert_int_equal(get(image, 0, 300 * KIB), 0);
	put(image, 0, 300 * KIB, 3);
	resize(image, 50 * KIB);
	assert_int_equal(get(image, 0, MIB), 0);
	resize(image, MIB);
	assert_int_equal(engine_read(image, 0, 50 * KIB), 1);
	assert_int_equal(engine_read(image, 50 * KIB, MIB - 50 * KIB), 0);
	close_it(image);
	assert_clean(path);
	free(path);
}

static void each_snapshot_has_it_behind_its_own_disk(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=512", "100K");
	static const uint64_t sizes[] = {100 * KIB, 600 * KIB, 40 * KIB, 512};
	struct qcow2_image *image = open_it(path, QCOW2_OPEN_WRITE, NULL);
	struct qcow2_error err = {0};
	char name[8];

	for (int i = 0; i < 4; i++) {
		resize(image, sizes[i]);
		engine_write(image, 0, sizes[i], 0x20 + i);
		put(image, 0, 200 * KIB, 0x30 + i);
		snprintf(name, sizeof(name), "s%d", i);
		take(image, name, i % 2 ? 200 * KIB : 0);
	}
	for (int i = 3; i >= 0; i--) {
		snprintf(name, sizeof(name), "s%d", i);
		assert_int_equal(qcow2_snapshot_apply(image, name, 0, &err), 0);
		assert_int_equal(qcow2_size(image), sizes[i]);
		assert_int_equal(get(image, 0, 200 * KIB), 0x30 + i);
		assert_int_equal(engine_read(image, 0, sizes[i]), 0x20 + i);
	}
	close_it(image);
	assert_clean(path);
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "s%d", i);
		image = open_it(path, 0, name);
		assert_int_equal(get(image, 0, 200 * KIB), 0x30 + i);
		assert_int_equal(engine_read(image, 0, sizes[i]), 0x20 + i);
		if (qcow2_size(image) > sizes[i]) /* shown as long as the image is now */
			assert_int_equal(engine_read(image, sizes[i], qcow2_size(image) - sizes[i]),
					 0);
		qcow2_close(image);
	}
	free(path);
}

/* ---- what others may have put there ---- */

/* A disk of two tables, of which the second becomes VM state when the header says so. */
static char *make_state_of_disk(void **state, void (*fill)(struct qcow2_image *image))
{
	char *path = engine_make(state, "image", "cluster_size=4096", "4M");
	struct qcow2_image *image = open_it(path, QCOW2_OPEN_WRITE, NULL);

	fill(image);
	close_it(image);
	engine_patch(path, 24, MIB);
	return path;
}

static void fill_with_all_kinds(struct qcow2_image *image)
{
	uint8_t *text = malloc(8192);
	struct qcow2_error err = {0};

	memset(text, 4, 8192);
	assert_int_equal(qcow2_pwrite(image, text, 8192, 2 * MIB, QCOW2_WRITE_COMPRESSED, &err), 0);
	engine_write(image, 2 * MIB + 8192, 8192, 5);
	assert_int_equal(qcow2_write_zeroes(image, 2 * MIB + 16384, 8192, 0, &err), 0);
	free(text);
}

static void it_may_be_compressed_or_zeros(void **state)
{
	char *path = make_state_of_disk(state, fill_with_all_kinds);
	struct qcow2_image *image = open_it(path, QCOW2_OPEN_WRITE, NULL);

	assert_int_equal(qcow2_size(image), MIB);
	assert_int_equal(get(image, 0, 8192), 4);
	assert_int_equal(get(image, 8192, 8192), 5);
	assert_int_equal(get(image, 16384, MIB), 0);
	put(image, 100, 200, 6);
	put(image, 16384, 100, 7);
	assert_int_equal(get(image, 0, 100), 4);
	assert_int_equal(get(image, 100, 200), 6);
	assert_int_equal(get(image, 300, 7892), 4);
	assert_int_equal(get(image, 16384, 100), 7);
	assert_int_equal(get(image, 16484, 8000), 0);
	take(image, "all kinds", 4096);
	assert_int_equal(get(image, 0, MIB), 0);
	close_it(image);
	assert_clean(path);
	image = open_it(path, 0, "all kinds");
	assert_int_equal(get(image, 300, 7892), 4);
	qcow2_close(image);
	free(path);
}

static void fill_plainly(struct qcow2_image *image)
{
	engine_write(image, 0, MIB, 1);
	engine_write(image, 2 * MIB, MIB, 2);
}

/* The second L1 entry points nowhere. */
static char *make_damaged(void **state, const char *copy)
{
	char *path = make_state_of_disk(state, fill_plainly);
	char *here = image_tmp_path(state, copy);
	uint64_t l1_off;
	size_t len;
	uint8_t *bytes = image_tmp_load(path, &len);

	l1_off = (uint64_t)bytes[44] << 24 | (uint64_t)bytes[45] << 16 | (uint64_t)bytes[46] << 8 |
		 bytes[47];
	free(bytes);
	engine_patch(path, l1_off + 8, 0x8000000000001600);
	assert_int_equal(rename(path, here), 0);
	free(path);
	return here;
}

static void damage_in_it_leaves_the_disk_alone(void **state)
{
	char *path = make_damaged(state, "one"), *other = make_damaged(state, "two");
	struct qcow2_image *image = open_it(path, 0, NULL);

	fails(image, false, 0, -EIO, "isn't a cluster's start");
	assert_int_equal(get(image, 3 * MIB, 4096), 0);
	assert_int_equal(engine_read(image, 0, MIB), 1);
	qcow2_close(image);
	image = open_it(path, QCOW2_OPEN_WRITE, NULL);
	fails(image, true, 0, -EUCLEAN, "isn't a cluster's start");
	assert_int_equal(engine_read(image, 0, MIB), 1);
	qcow2_close(image);
	/* a disk that grows there gets rid of it; what it reached is a leak */
	image = open_it(other, QCOW2_OPEN_WRITE, NULL);
	resize(image, 4 * MIB);
	assert_int_equal(engine_read(image, 0, MIB), 1);
	assert_int_equal(engine_read(image, MIB, 3 * MIB), 0);
	close_it(image);
	assert_int_equal(QEMU_IMG("check", "-q", other), 3);
	free(path);
	free(other);
}

/* ---- ---- */

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(what_has_no_state_says_so),
		IMAGE_TEST(positions_reach_as_far_as_the_map),
		IMAGE_TEST(every_kind_of_image_has_it),
		IMAGE_TEST(a_snapshot_takes_it_along),
		IMAGE_TEST(what_its_taker_knows_is_recorded),
		IMAGE_TEST(a_size_of_64_bits_is_recorded),
		IMAGE_TEST(it_never_comes_to_light_in_the_disk),
		IMAGE_TEST(each_snapshot_has_it_behind_its_own_disk),
		IMAGE_TEST(it_may_be_compressed_or_zeros),
		IMAGE_TEST(damage_in_it_leaves_the_disk_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
