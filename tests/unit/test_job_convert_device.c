/* SPDX-License-Identifier: MIT */
/*
 * Converting to a block device: what was on it shows nowhere, and what can't fit is refused while
 * it still is there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

#include "image_tmp.h"

#define MIB (1024 * 1024u)
#define DISK_SIZE (3 * MIB + 512)

struct device {
	char path[32];
	int fd; /* frees it when it is closed */
};

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

static void fill_with_noise(int fd, size_t len)
{
	uint8_t *bytes = malloc(len);
	uint64_t seed = 9;

	assert_non_null(bytes);
	for (size_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)image_tmp_random(&seed);
	assert_int_equal(pwrite(fd, bytes, len, 0), len);
	assert_int_equal(fsync(fd), 0);
	free(bytes);
}

/* A loop device full of noise; only root may have one, and not in every container. */
static struct device make_device(size_t size)
{
	struct loop_config config = {.info = {.lo_flags = LO_FLAGS_AUTOCLEAR}};
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int file = open("under", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct device d = {.fd = -1};

	assert_true(file >= 0);
	assert_int_equal(ftruncate(file, (off_t)size), 0);
	config.fd = (uint32_t)file;
	/* somebody else may take the free one first */
	for (int i = 0; i < 20 && control >= 0 && d.fd < 0; i++) {
		snprintf(d.path, sizeof(d.path), "/dev/loop%d", ioctl(control, LOOP_CTL_GET_FREE));
		d.fd = open(d.path, O_RDWR | O_CLOEXEC);
		if (d.fd >= 0 && ioctl(d.fd, LOOP_CONFIGURE, &config) != 0) {
			close(d.fd);
			d.fd = -1;
		}
	}
	close(file);
	if (control >= 0)
		close(control);
	if (d.fd < 0)
		skip();
	fill_with_noise(d.fd, size);
	return d;
}

static int convert(const char *path, const struct qcow2_create_options *create, unsigned flags,
		   struct qcow2_error *err)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_create_options force = *create;
	struct qcow2_image *source;
	int ret;

	*err = (struct qcow2_error){0};
	image_tmp_make_raw("disk", DISK_SIZE, 123);
	source = image_tmp_open("disk", "raw");
	force.flags = QCOW2_CREATE_OVERWRITE;
	options.create = &force;
	options.flags = flags;
	ret = qcow2_convert(&source, 1, path, &options, NULL, err);
	qcow2_close(source);
	return ret;
}

/* The device is longer than the disk: what it has behind it doesn't count. */
static void expect_raw(const struct device *d)
{
	uint8_t *found = malloc(DISK_SIZE), *expected;
	size_t len;

	assert_non_null(found);
	expected = image_tmp_load("disk", &len);
	assert_int_equal(pread(d->fd, found, DISK_SIZE, 0), DISK_SIZE);
	assert_memory_equal(found, expected, DISK_SIZE);
	free(found);
	free(expected);
}

#define CREATE(...)                                                                                \
	{                                                                                          \
		.struct_size = sizeof(struct qcow2_create_options), __VA_ARGS__                    \
	}

static void what_was_there_shows_in_no_raw_disk(void **state)
{
	static const struct qcow2_create_options creates[] = {
		CREATE(.format = "raw"),
		CREATE(.format = "raw", .prealloc = QCOW2_PREALLOC_FALLOC),
		CREATE(.format = "raw", .prealloc = QCOW2_PREALLOC_FULL),
	};
	struct device d = make_device(5 * MIB);
	struct qcow2_error err;

	(void)state;
	for (size_t i = 0; i < sizeof(creates) / sizeof(creates[0]); i++) {
		for (unsigned flags = 0; flags <= QCOW2_CONVERT_EXISTING;
		     flags += QCOW2_CONVERT_EXISTING) {
			fill_with_noise(d.fd, 5 * MIB);
			if (convert(d.path, &creates[i], flags, &err) < 0)
				fail_msg("%s", err.message);
			expect_raw(&d);
		}
	}
	close(d.fd);
}

static void what_was_there_shows_in_no_image(void **state)
{
	static const struct {
		unsigned flags;
		struct qcow2_create_options create;
	} targets[] = {
		{0, CREATE(.version = 3)},
		{QCOW2_CONVERT_COMPRESS, CREATE(.version = 2)},
		{QCOW2_CONVERT_COMPRESS, CREATE(.cluster_size = 512, .refcount_bits = 64)},
		{0, CREATE(.prealloc = QCOW2_PREALLOC_METADATA)},
		{0, CREATE(.prealloc = QCOW2_PREALLOC_FALLOC, .cluster_size = 512)},
		{0, CREATE(.prealloc = QCOW2_PREALLOC_FULL)},
		{0, CREATE(.extended_l2 = true, .prealloc = QCOW2_PREALLOC_METADATA)},
	};
	struct device d = make_device(8 * MIB);
	struct qcow2_error err;

	(void)state;
	for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
		fill_with_noise(d.fd, 8 * MIB);
		if (convert(d.path, &targets[i].create, targets[i].flags, &err) < 0)
			fail_msg("%s", err.message);
		assert_int_equal(QEMU_IMG("check", "-f", "qcow2", d.path), 0);
		assert_int_equal(QEMU_IMG("compare", "-f", "raw", "-F", "qcow2", "disk", d.path),
				 0);
	}
	close(d.fd);
}

static void a_disk_that_is_too_large_leaves_the_device_alone(void **state)
{
	static const struct qcow2_create_options raw = CREATE(.format = "raw");
	struct device d = make_device(DISK_SIZE - 512);
	uint8_t before[4096], after[4096];
	struct qcow2_error err;

	(void)state;
	assert_int_equal(pread(d.fd, before, sizeof(before), 0), sizeof(before));
	assert_int_equal(convert(d.path, &raw, 0, &err), -ENOSPC);
	assert_non_null(strstr(err.message, "too few"));
	assert_int_equal(convert(d.path, &raw, QCOW2_CONVERT_EXISTING, &err), -ENOSPC);
	assert_int_equal(pread(d.fd, after, sizeof(after), 0), sizeof(after));
	assert_memory_equal(before, after, sizeof(before));
	close(d.fd);
}

static void a_device_that_gets_full_holds_no_image(void **state)
{
	static const struct qcow2_create_options qcow2 = CREATE(.version = 3);
	struct device d = make_device(MIB);
	struct qcow2_error err;
	uint8_t head[8];

	(void)state;
	assert_int_equal(QEMU_IMG("create", "-f", "qcow2", d.path, "512k"), 0);
	assert_int_equal(convert(d.path, &qcow2, 0, &err), -ENOSPC);
	assert_int_equal(err.code, -ENOSPC);
	assert_int_equal(pread(d.fd, head, sizeof(head), 0), sizeof(head));
	assert_memory_equal(head, "\0\0\0\0\0\0\0\0", sizeof(head));
	close(d.fd);
}

#define DEVICE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		DEVICE_TEST(what_was_there_shows_in_no_raw_disk),
		DEVICE_TEST(what_was_there_shows_in_no_image),
		DEVICE_TEST(a_disk_that_is_too_large_leaves_the_device_alone),
		DEVICE_TEST(a_device_that_gets_full_holds_no_image),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
