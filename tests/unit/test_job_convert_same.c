/* SPDX-License-Identifier: MIT */
/*
 * The bytes of a converted image don't depend on the number of threads; and QEMU finds the image
 * clean and the disk in it the same. Random disks; TEST_SEED chooses another.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "image_tmp.h"

#define KIB 1024ull
#define MIB (1024 * KIB)

struct target {
	const char *name;
	unsigned flags;
	uint64_t sparse_bytes;
	struct qcow2_create_options create;
};

#define TARGET(n, f, s, ...)                                                                       \
	{                                                                                          \
		.name = n, .flags = f, .sparse_bytes = s, .create = {                              \
			.struct_size = sizeof(struct qcow2_create_options),                        \
			.flags = QCOW2_CREATE_OVERWRITE,                                           \
			__VA_ARGS__                                                                \
		}                                                                                  \
	}
#define PACK QCOW2_CONVERT_COMPRESS
#define DEFAULT QCOW2_SPARSE_DEFAULT

/* clang-format off */
static const struct target targets[] = {
	TARGET("raw", 0, DEFAULT, .format = "raw"),
	TARGET("raw, all allocated", 0, 0, .format = "raw"),
	TARGET("raw, holes of 1 MiB", 0, MIB, .format = "raw"),
	TARGET("raw, falloc", 0, DEFAULT, .format = "raw", .prealloc = QCOW2_PREALLOC_FALLOC),
	TARGET("raw, full", 0, DEFAULT, .format = "raw", .prealloc = QCOW2_PREALLOC_FULL),
	TARGET("default", 0, DEFAULT, .version = 3),
	TARGET("all allocated", 0, 0, .version = 3),
	TARGET("holes of 1 MiB", 0, MIB, .version = 3),
	TARGET("version 2", 0, DEFAULT, .version = 2),
	TARGET("version 2, packed", PACK, DEFAULT, .version = 2),
	TARGET("512", 0, DEFAULT, .cluster_size = 512),
	TARGET("512, all allocated", 0, 0, .cluster_size = 512),
	TARGET("512, packed", PACK, DEFAULT, .cluster_size = 512),
	TARGET("512, packed, 1 bit", PACK, DEFAULT, .cluster_size = 512, .refcount_bits = 1),
	TARGET("512, packed, 64 bits", PACK, DEFAULT, .cluster_size = 512, .refcount_bits = 64),
	TARGET("512, 64 bits", 0, DEFAULT, .cluster_size = 512, .refcount_bits = 64),
	TARGET("4k, packed, 1 bit", PACK, DEFAULT, .cluster_size = 4096, .refcount_bits = 1),
	TARGET("4k, packed, 2 bits", PACK, DEFAULT, .cluster_size = 4096, .refcount_bits = 2),
	TARGET("4k, packed, 4 bits", PACK, 0, .cluster_size = 4096, .refcount_bits = 4),
	TARGET("4k, packed, 8 bits", PACK, MIB, .cluster_size = 4096, .refcount_bits = 8),
	TARGET("4k, 32 bits, lazy", 0, DEFAULT, .cluster_size = 4096, .refcount_bits = 32,
	       .lazy_refcounts = true),
	TARGET("64k, packed", PACK, DEFAULT, .cluster_size = 64 * KIB),
	TARGET("64k, zstd", PACK, DEFAULT, .compression = QCOW2_COMPRESSION_ZSTD),
	TARGET("64k, zstd, 1 bit", PACK, 0, .compression = QCOW2_COMPRESSION_ZSTD,
	       .refcount_bits = 1),
	TARGET("2M", 0, DEFAULT, .cluster_size = 2 * MIB),
	TARGET("2M, packed", PACK, DEFAULT, .cluster_size = 2 * MIB),
	TARGET("extended", 0, DEFAULT, .extended_l2 = true),
	TARGET("extended, 16k, packed", PACK, DEFAULT, .extended_l2 = true,
	       .cluster_size = 16 * KIB),
	TARGET("extended, 2M", 0, 0, .extended_l2 = true, .cluster_size = 2 * MIB),
	TARGET("extended, metadata", 0, DEFAULT, .extended_l2 = true,
	       .prealloc = QCOW2_PREALLOC_METADATA),
	TARGET("metadata", 0, DEFAULT, .prealloc = QCOW2_PREALLOC_METADATA),
	TARGET("512, metadata", 0, DEFAULT, .cluster_size = 512,
	       .prealloc = QCOW2_PREALLOC_METADATA),
	TARGET("2M, metadata", 0, MIB, .cluster_size = 2 * MIB,
	       .prealloc = QCOW2_PREALLOC_METADATA),
	TARGET("falloc", 0, DEFAULT, .prealloc = QCOW2_PREALLOC_FALLOC),
	TARGET("full", 0, DEFAULT, .prealloc = QCOW2_PREALLOC_FULL),
	TARGET("version 2, full", 0, DEFAULT, .version = 2, .prealloc = QCOW2_PREALLOC_FULL),
	TARGET("data file", 0, DEFAULT, .data_file = "data"),
	TARGET("data file, 512, full", 0, MIB, .data_file = "data", .cluster_size = 512,
	       .prealloc = QCOW2_PREALLOC_FULL),
	TARGET("raw data file", 0, DEFAULT, .data_file = "data", .data_file_raw = true),
	TARGET("raw data file, all allocated", 0, 0, .data_file = "data", .data_file_raw = true),
	TARGET("data file, extended", 0, DEFAULT, .data_file = "data", .extended_l2 = true),
};

/* With a backing file, or for sources that have one. */
static const struct target few_targets[] = {
	TARGET("default", 0, DEFAULT, .version = 3),
	TARGET("version 2", 0, DEFAULT, .version = 2),
	TARGET("512, packed", PACK, DEFAULT, .cluster_size = 512),
	TARGET("4k, all allocated", 0, 0, .cluster_size = 4096),
	TARGET("2M", 0, MIB, .cluster_size = 2 * MIB),
	TARGET("extended, zstd", PACK, DEFAULT, .extended_l2 = true,
	       .compression = QCOW2_COMPRESSION_ZSTD),
	TARGET("extended, metadata", 0, DEFAULT, .extended_l2 = true,
	       .prealloc = QCOW2_PREALLOC_METADATA),
	TARGET("extended, falloc", 0, DEFAULT, .extended_l2 = true,
	       .prealloc = QCOW2_PREALLOC_FALLOC),
	TARGET("extended, full", 0, 0, .extended_l2 = true, .prealloc = QCOW2_PREALLOC_FULL),
};
/* clang-format on */

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* The folder of the test is the working directory too: data files are relative to that. */
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

static uint64_t seed(void **state)
{
	const char *s = getenv("TEST_SEED");
	uint64_t value = s ? strtoull(s, NULL, 0) : 20240229;

	(void)state;
	print_message("TEST_SEED=%llu\n", (unsigned long long)value);
	return value;
}

static void convert(struct qcow2_image *const *sources, size_t n, const struct target *t,
		    unsigned threads)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_convert_result result;
	struct qcow2_error err = {0};
	struct stat sb;

	options.flags = t->flags;
	options.sparse_bytes = t->sparse_bytes;
	options.create = &t->create;
	options.threads = threads;
	if (qcow2_convert(sources, n, "image", &options, &result, &err) < 0)
		fail_msg("%s, %u threads: %s", t->name, threads, err.message);
	assert_int_equal(stat("image", &sb), 0);
	assert_int_equal(result.host_bytes, sb.st_size);
}

/*
 * With each number of threads the same files in the working directory, which QEMU finds clean and
 * with the disk in them.
 */
static void expect_same(struct qcow2_image *const *sources, size_t n, const struct target *t,
			const char *disk)
{
	static const unsigned threads[] = {2, 3, 8};
	const char *format = t->create.format ? t->create.format : "qcow2";

	convert(sources, n, t, 1);
	assert_int_equal(rename("image", "image.1"), 0);
	if (t->create.data_file)
		assert_int_equal(rename("data", "data.1"), 0);
	for (size_t i = 0; i < COUNT(threads); i++) {
		convert(sources, n, t, threads[i]);
		if (!image_tmp_same_file("image", "image.1") ||
		    (t->create.data_file && !image_tmp_same_file("data", "data.1")))
			fail_msg("%s: other bytes with %u threads", t->name, threads[i]);
	}
	if (strcmp(format, "qcow2") == 0 && QEMU_IMG("check", "-f", format, "image") != 0)
		fail_msg("%s: qemu-img check isn't content", t->name);
	if (QEMU_IMG("compare", "-f", "raw", "-F", format, disk, "image") != 0)
		fail_msg("%s: qemu-img sees another disk", t->name);
}

static void any_number_of_threads_makes_the_same_file(void **state)
{
	uint64_t s = seed(state);

	for (size_t i = 0; i < COUNT(targets); i++) {
		uint64_t size = 3 * MIB + image_tmp_random(&s) % (4 * KIB) * 512;
		struct qcow2_image *source;

		image_tmp_make_raw("disk", size, image_tmp_random(&s) | 1);
		source = image_tmp_open("disk", "raw");
		expect_same(&source, 1, &targets[i], "disk");
		qcow2_close(source);
	}
}

static void the_smallest_disks_are_converted_too(void **state)
{
	static const uint64_t sizes[] = {0, 512};

	(void)state;
	for (size_t i = 0; i < COUNT(targets) * COUNT(sizes); i++) {
		struct qcow2_image *source;

		image_tmp_make_raw("disk", sizes[i % COUNT(sizes)], 3);
		source = image_tmp_open("disk", "raw");
		expect_same(&source, 1, &targets[i / COUNT(sizes)], "disk");
		qcow2_close(source);
	}
}

/* Puts the disks of files one after the other into "all". */
static void concatenate(const char *const *names, size_t n)
{
	int fd = open("all", O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	for (size_t i = 0; i < n; i++) {
		size_t len;
		uint8_t *bytes = image_tmp_load(names[i], &len);

		assert_int_equal(write(fd, bytes, len), len);
		free(bytes);
	}
	close(fd);
}

static void several_sources_make_one_disk(void **state)
{
	static const char *const names[] = {"disk.0", "disk.1", "disk.2", "disk.3"};
	static const uint64_t sizes[] = {MIB + 1536, 512, 0, 2 * MIB - 512};
	struct qcow2_image *sources[COUNT(names)];
	uint64_t s = seed(state);

	for (size_t i = 0; i < COUNT(names); i++) {
		image_tmp_make_raw(names[i], sizes[i], image_tmp_random(&s) | 1);
		sources[i] = image_tmp_open(names[i], "raw");
	}
	concatenate(names, COUNT(names));
	for (size_t i = 0; i < COUNT(few_targets); i++)
		expect_same(sources, COUNT(names), &few_targets[i], "all");
	for (size_t i = 0; i < COUNT(names); i++)
		qcow2_close(sources[i]);
}

/* Writes, zeros and discards at odd places on top of a backing file. */
static void make_top(const char *options)
{
	assert_int_equal(
		QEMU_IMG("create", "-f", "qcow2", "-o", options, "-b", "disk", "-F", "raw", "top"),
		0);
	assert_int_equal(image_tmp_run((const char *const[]){
				 "qemu-io", "-f", "qcow2", "-c", "write -P 1 700k 900k", "-c",
				 "write -P 2 3000512 1536", "-c", "write -z 100k 300k", "-c",
				 "write -z 1300000 130k", "-c", "write -P 0 2100k 200k", "-c",
				 "write -P 5 2500k 512", "-c", "discard 1400k 64k", "top", NULL}),
			 0);
}

static void expect_same_on_top(struct qcow2_image *const *source, const struct target *t)
{
	struct target on_top = *t;

	assert_int_equal(QEMU_IMG("convert", "-O", "raw", "top", "flat"), 0);
	expect_same(source, 1, t, "flat");
	on_top.flags |= QCOW2_CONVERT_ON_TOP;
	on_top.create.backing_file = "disk";
	on_top.create.backing_format = "raw";
	expect_same(source, 1, &on_top, "flat");
	/* not only the top layer, but all; whatever is below is hidden */
	on_top.flags &= ~QCOW2_CONVERT_ON_TOP;
	expect_same(source, 1, &on_top, "flat");
}

static void a_layer_is_copied_with_or_without_what_is_below(void **state)
{
	static const char *const tops[] = {"cluster_size=512", "cluster_size=64k",
					   "extended_l2=on,cluster_size=128k", "compat=0.10"};
	uint64_t s = seed(state);

	image_tmp_make_raw("disk", 3 * MIB + 2048, image_tmp_random(&s) | 1);
	for (size_t i = 0; i < COUNT(few_targets); i++) {
		struct target t = few_targets[i];
		struct qcow2_image *source;

		make_top(tops[i % COUNT(tops)]);
		source = image_tmp_open("top", "qcow2");
		if (t.create.prealloc == QCOW2_PREALLOC_OFF || t.create.extended_l2)
			expect_same_on_top(&source, &t);
		qcow2_close(source);
	}
}

#define SAME_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SAME_TEST(any_number_of_threads_makes_the_same_file),
		SAME_TEST(the_smallest_disks_are_converted_too),
		SAME_TEST(several_sources_make_one_disk),
		SAME_TEST(a_layer_is_copied_with_or_without_what_is_below),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
