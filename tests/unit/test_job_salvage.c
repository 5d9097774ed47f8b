/* SPDX-License-Identifier: MIT */
/* With salvage, what can't be read becomes zeros, is counted and told; all else is copied. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "base/error.h"
#include "image_tmp.h"

#define MIB (1024 * 1024u)
#define SIZE (5 * MIB + 512)

/* A disk in memory, some sectors of which can't be read. */
struct scratched {
	uint8_t *bytes;
};

/* Lone sectors, a row of them, one at each border of a window and of the disk. */
static bool is_bad(uint64_t sector)
{
	return sector == 0 || sector == 7 || (sector >= 1000 && sector < 1100) || sector == 2047 ||
	       sector == 4096 || sector == SIZE / 512 - 1;
}

#define BAD_SECTORS 105

static int scratched_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	(void)self;
	(void)err;
	*size_bytes = SIZE;
	return 0;
}

static int scratched_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t off,
			    struct qcow2_error *err)
{
	const struct scratched *s = self;

	for (int i = 0; i < iovcnt; off += iov[i++].iov_len) {
		for (uint64_t at = off; at < off + iov[i].iov_len; at++) {
			if (is_bad(at / 512))
				return error_set_at(err, -EIO, QCOW2_NO_OFFSET, at, "scratched");
		}
		memcpy(iov[i].iov_base, s->bytes + off, iov[i].iov_len);
	}
	return 0;
}

static const struct qcow2_storage_ops scratched_ops = {
	.kind = "scratched",
	.size = scratched_size,
	.preadv = scratched_preadv,
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

static struct qcow2_image *open_scratched(struct scratched *s)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *image;
	size_t len;

	image_tmp_make_raw("disk", SIZE, 31);
	s->bytes = image_tmp_load("disk", &len);
	options.format = "raw";
	assert_int_equal(qcow2_open_storage(&image, (struct qcow2_storage){&scratched_ops, s}, NULL,
					    &options, NULL),
			 0);
	return image;
}

/* "disk" with zeros where it is scratched. */
static void make_expected(void)
{
	static const uint8_t zeros[512];
	int fd = open("disk", O_WRONLY);

	assert_true(fd >= 0);
	for (uint64_t i = 0; i < SIZE / 512; i++) {
		if (is_bad(i))
			assert_int_equal(pwrite(fd, zeros, 512, (off_t)i * 512), 512);
	}
	close(fd);
}

static void count_warning(void *opaque, const char *sentence)
{
	assert_non_null(strstr(sentence, "can't be read"));
	++*(unsigned *)opaque;
}

static int convert(struct qcow2_image *source, const char *path, unsigned flags, unsigned threads,
		   struct qcow2_convert_result *result, unsigned *warnings, struct qcow2_error *err)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;

	create.flags = QCOW2_CREATE_OVERWRITE;
	options.create = &create;
	options.flags = flags;
	options.threads = threads;
	options.warn = count_warning;
	options.opaque = warnings;
	*err = (struct qcow2_error){0};
	return qcow2_convert(&source, 1, path, &options, result, err);
}

static void what_cannot_be_read_becomes_zeros_and_is_told(void **state)
{
	struct scratched s;
	struct qcow2_image *source = open_scratched(&s);

	(void)state;
	make_expected();
	for (unsigned threads = 1; threads <= 4; threads++) {
		struct qcow2_convert_result result;
		struct qcow2_error err;
		unsigned warnings = 0;

		if (convert(source, "image", QCOW2_CONVERT_SALVAGE, threads, &result, &warnings,
			    &err) < 0)
			fail_msg("%s", err.message);
		assert_int_equal(result.unreadable_bytes, BAD_SECTORS * 512);
		assert_true(warnings > 0);
		assert_int_equal(QEMU_IMG("compare", "-f", "raw", "-F", "qcow2", "disk", "image"),
				 0);
		assert_int_equal(QEMU_IMG("check", "image"), 0);
	}
	qcow2_close(source);
	free(s.bytes);
}

static void without_salvage_the_fault_is_told_with_its_place(void **state)
{
	struct scratched s;
	struct qcow2_image *source = open_scratched(&s);
	struct qcow2_error err;
	unsigned warnings = 0;

	(void)state;
	assert_int_equal(convert(source, "image", 0, 2, NULL, &warnings, &err), -EIO);
	assert_int_equal(err.code, -EIO);
	assert_non_null(strstr(err.message, "scratched"));
	assert_true(err.host_off != QCOW2_NO_OFFSET && is_bad(err.host_off / 512));
	assert_true(err.guest_off != QCOW2_NO_OFFSET);
	assert_int_equal(warnings, 0);
	assert_int_equal(access("image", F_OK), -1);
	qcow2_close(source);
	free(s.bytes);
}

/* A table that can't be used hides all that it maps. */
static void damaged_tables_are_salvaged_too(void **state)
{
	static const uint8_t unaligned[8] = {0x80, 0, 0, 0, 0, 0, 2, 0};
	struct qcow2_convert_result result;
	struct qcow2_image *source;
	struct qcow2_error err;
	unsigned warnings = 0;
	int fd;

	(void)state;
	image_tmp_make_raw("disk", SIZE, 31);
	assert_int_equal(QEMU_IMG("convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k",
				  "disk", "damaged"),
			 0);
	fd = open("damaged", O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, unaligned, 8, 3 * 4096 + 8), 8); /* the second L1 entry */
	close(fd);
	source = image_tmp_open("damaged", "qcow2");
	assert_int_equal(convert(source, "image", 0, 2, NULL, &warnings, &err), -EIO);
	assert_int_equal(
		convert(source, "image", QCOW2_CONVERT_SALVAGE, 2, &result, &warnings, &err), 0);
	assert_int_equal(result.unreadable_bytes, 2 * MIB);
	fd = open("disk", O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * MIB, 2 * MIB), 0);
	close(fd);
	assert_int_equal(QEMU_IMG("compare", "-f", "raw", "-F", "qcow2", "disk", "image"), 0);
	qcow2_close(source);
}

#define SALVAGE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SALVAGE_TEST(what_cannot_be_read_becomes_zeros_and_is_told),
		SALVAGE_TEST(without_salvage_the_fault_is_told_with_its_place),
		SALVAGE_TEST(damaged_tables_are_salvaged_too),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
