/* SPDX-License-Identifier: MIT */
/* qcow2_measure says how long the file is that qcow2_convert or qcow2_create makes, to the byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "image_tmp.h"

#define MIB (1024 * 1024u)
#define DISK (9 * MIB + 3 * 512u)

/* Every option that has a say in where things go, and some that go together badly. */
static const struct qcow2_create_options kinds[] = {
	{.cluster_size = 512},
	{.cluster_size = 512, .refcount_bits = 64},
	{.cluster_size = 1024, .refcount_bits = 1, .lazy_refcounts = true},
	{.cluster_size = 4096, .version = 2},
	{.cluster_size = 65536},
	{.cluster_size = 65536, .extended_l2 = true},
	{.cluster_size = 2 * MIB, .refcount_bits = 8},
	{.cluster_size = 512, .prealloc = QCOW2_PREALLOC_METADATA},
	{.cluster_size = 65536, .prealloc = QCOW2_PREALLOC_METADATA, .extended_l2 = true},
	{.cluster_size = 4096, .prealloc = QCOW2_PREALLOC_FALLOC},
	{.cluster_size = 65536, .prealloc = QCOW2_PREALLOC_FULL},
	{.cluster_size = 512, .data_file = "data"},
	{.cluster_size = 4096, .data_file = "data", .data_file_raw = true},
	{.cluster_size = 65536, .data_file = "data", .prealloc = QCOW2_PREALLOC_METADATA},
	{.format = "raw"},
	{.format = "raw", .prealloc = QCOW2_PREALLOC_FALLOC},
};
#define NKINDS (sizeof(kinds) / sizeof(kinds[0]))

static struct qcow2_create_options kind_at(void **state, size_t i, char **data_file)
{
	struct qcow2_create_options o = kinds[i];

	o.struct_size = sizeof(o);
	o.flags = QCOW2_CREATE_OVERWRITE;
	*data_file = image_tmp_path(state, "data");
	if (o.data_file)
		o.data_file = *data_file;
	return o;
}

static uint64_t length_of(const char *path)
{
	struct stat sb;

	assert_int_equal(stat(path, &sb), 0);
	return (uint64_t)sb.st_size;
}

static struct qcow2_measure_result measure(struct qcow2_image *const *sources, size_t n,
					   const struct qcow2_convert_options *options)
{
	struct qcow2_measure_result r = QCOW2_MEASURE_RESULT_INIT;
	struct qcow2_error err = {0};

	if (qcow2_measure(sources, n, options, &r, &err) < 0)
		fail_msg("%s", err.message);
	assert_true(r.bound_required_bytes >= r.required_bytes);
	assert_true(r.bound_fully_allocated_bytes >= r.fully_allocated_bytes);
	assert_true(r.fully_allocated_bytes >= r.required_bytes);
	return r;
}

static uint64_t convert(struct qcow2_image *const *sources, size_t n, const char *path,
			const struct qcow2_convert_options *options)
{
	struct qcow2_error err = {0};

	if (qcow2_convert(sources, n, path, options, NULL, &err) < 0)
		fail_msg("%s", err.message);
	return length_of(path);
}

static void check_data_file(const struct qcow2_create_options *o,
			    const struct qcow2_measure_result *r)
{
	assert_int_equal(r->data_file_bytes, o->data_file ? length_of(o->data_file) : 0);
}

/* As the tables say: data that are zeros are taken along. */
static void check_convert(void **state, struct qcow2_image *const *sources, size_t n,
			  struct qcow2_convert_options *options)
{
	char *path = image_tmp_path(state, "copy");
	struct qcow2_measure_result r;

	options->flags |= QCOW2_CONVERT_OFFLOAD;
	options->target_open_flags = QCOW2_OPEN_NO_FLUSH;
	r = measure(sources, n, options);
	assert_int_equal(convert(sources, n, path, options), r.required_bytes);
	check_data_file(options->create, &r);
	options->flags &= ~QCOW2_CONVERT_OFFLOAD;
	assert_true(convert(sources, n, path, options) <= r.required_bytes);
	options->sparse_bytes = 0;
	assert_int_equal(convert(sources, n, path, options),
			 measure(sources, n, options).required_bytes);
	if (!(options->flags & QCOW2_CONVERT_ON_TOP))
		assert_int_equal(length_of(path), r.fully_allocated_bytes);
	options->sparse_bytes = QCOW2_SPARSE_DEFAULT;
	free(path);
}

static void a_converted_image_is_as_long_as_was_said(void **state)
{
	char *disk = image_tmp_path(state, "disk"), *data_file;
	struct qcow2_image *source[2];

	image_tmp_make_raw(disk, DISK, 7);
	source[0] = source[1] = image_tmp_open(disk, "raw");
	for (size_t i = 0; i < NKINDS; i++) {
		struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
		struct qcow2_create_options o = kind_at(state, i, &data_file);

		options.create = &o;
		check_convert(state, source, 1, &options);
		free(data_file);
	}
	{
		struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
		struct qcow2_create_options o = kind_at(state, 0, &data_file);

		options.create = &o;
		check_convert(state, source, 2, &options);
		options.source_off = MIB + 512;
		options.source_bytes = 3 * MIB + 512;
		check_convert(state, source, 1, &options);
		free(data_file);
	}
	qcow2_close(source[0]);
	free(disk);
}

/* The top layer alone: what it leaves to the layers below isn't counted, its zeros are said. */
static void so_is_one_on_a_backing_file(void **state)
{
	static const struct qcow2_create_options tops[] = {
		{.cluster_size = 4096},
		{.cluster_size = 65536, .version = 2},
		{.cluster_size = 65536, .extended_l2 = true},
		{.cluster_size = 16384, .extended_l2 = true, .prealloc = QCOW2_PREALLOC_METADATA},
		{.cluster_size = 65536, .extended_l2 = true, .prealloc = QCOW2_PREALLOC_FULL},
		{.cluster_size = 2 * MIB},
	};
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	char *disk = image_tmp_path(state, "disk"), *top = image_tmp_path(state, "top");
	struct qcow2_open_options open = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_error err = {0};
	struct qcow2_image *image;
	uint8_t bytes[5000];

	image_tmp_make_raw(disk, DISK, 9);
	create.backing_file = disk;
	create.backing_format = "raw";
	create.cluster_size = 16384;
	assert_int_equal(qcow2_create(top, &create, &err), 0);
	open.flags = QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_BACKING;
	assert_int_equal(qcow2_open(&image, top, &open, &err), 0);
	memset(bytes, 3, sizeof(bytes));
	for (uint64_t off = 0; off < DISK - MIB; off += MIB + 13 * 512u) {
		assert_int_equal(qcow2_pwrite(image, bytes, sizeof(bytes), off, 0, &err), 0);
		assert_int_equal(qcow2_write_zeroes(image, off + 100000, 300000, 0, &err), 0);
	}
	assert_int_equal(qcow2_finish(image, &err), 0);
	qcow2_close(image);
	image = image_tmp_open(top, "qcow2");
	for (size_t i = 0; i < sizeof(tops) / sizeof(tops[0]); i++) {
		struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
		struct qcow2_create_options o = tops[i];

		o.struct_size = sizeof(o);
		o.flags = QCOW2_CREATE_OVERWRITE;
		o.backing_file = disk;
		o.backing_format = "raw";
		options.create = &o;
		options.flags = QCOW2_CONVERT_ON_TOP;
		check_convert(state, &image, 1, &options);
	}
	qcow2_close(image);
	free(top);
	free(disk);
}

static void a_created_image_is_as_long_as_was_said(void **state)
{
	static const uint64_t sizes[] = {0, DISK};
	char *path = image_tmp_path(state, "new"), *data_file;
	struct qcow2_measure_result r;
	struct qcow2_error err = {0};

	for (size_t i = 0; i < NKINDS; i++) {
		for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
			struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
			struct qcow2_create_options o = kind_at(state, i, &data_file);

			o.size = sizes[k];
			options.create = &o;
			r = measure(NULL, 0, &options);
			assert_int_equal(qcow2_create(path, &o, &err), 0);
			assert_int_equal(r.required_bytes, length_of(path));
			assert_int_equal(r.disk_bytes, o.size);
			check_data_file(&o, &r);
			free(data_file);
		}
	}
	free(path);
}

static void bitmaps_take_no_more_than_was_said(void **state)
{
	static const uint64_t cluster_sizes[] = {512, 4096, 65536};
	char *path = image_tmp_path(state, "source"), *copy = image_tmp_path(state, "copy");
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_open_options open = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_error err = {0};
	struct qcow2_image *image;
	uint64_t made;

	o.size = 200 * MIB;
	o.flags = QCOW2_CREATE_OVERWRITE;
	assert_int_equal(qcow2_create(path, &o, &err), 0);
	open.flags = QCOW2_OPEN_WRITE;
	assert_int_equal(qcow2_open(&image, path, &open, &err), 0);
	assert_int_equal(qcow2_bitmap_add(image, "fine", 512, QCOW2_BITMAP_AUTO, &err), 0);
	assert_int_equal(qcow2_bitmap_add(image, "coarse", 0, QCOW2_BITMAP_AUTO, &err), 0);
	for (uint64_t off = 0; off < o.size; off += MIB)
		assert_int_equal(qcow2_pwrite(image, "x", 1, off, 0, &err), 0);
	assert_int_equal(qcow2_finish(image, &err), 0);
	qcow2_close(image);
	image = image_tmp_open(path, "qcow2");
	for (size_t i = 0; i < sizeof(cluster_sizes) / sizeof(cluster_sizes[0]); i++) {
		struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
		struct qcow2_measure_result r;

		o.cluster_size = cluster_sizes[i];
		options.create = &o;
		options.flags = QCOW2_CONVERT_BITMAPS | QCOW2_CONVERT_OFFLOAD;
		r = measure(&image, 1, &options);
		made = convert(&image, 1, copy, &options);
		assert_true(r.has_bitmaps && made > r.required_bytes);
		assert_true(made <= r.required_bytes + r.bitmaps_bytes);
		assert_true(made <= r.bound_required_bytes + r.bound_bitmaps_bytes);
		o.version = 2;
		assert_false(measure(&image, 1, &options).has_bitmaps);
		o.version = 0;
	}
	qcow2_close(image);
	free(copy);
	free(path);
}

static void refuse(const struct qcow2_convert_options *options, int code, const char *words)
{
	struct qcow2_measure_result r = QCOW2_MEASURE_RESULT_INIT;
	struct qcow2_error err = {0};
	int ret = qcow2_measure(NULL, 0, options, &r, &err);

	if (ret != code || err.code != code || !strstr(err.message, words))
		fail_msg("returned %d, the record has %d: \"%s\"", ret, err.code, err.message);
	assert_int_equal(r.required_bytes, 0);
}

static void what_could_not_be_made_is_not_measured(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;

	(void)state;
	refuse(NULL, -EINVAL, "a size is needed");
	options.create = &o;
	o.size = MIB;
	options.flags = 1u << 31;
	refuse(&options, -EINVAL, "unknown convert flags");
	options.flags = QCOW2_CONVERT_EXISTING;
	refuse(&options, -EINVAL, "existing");
	options.flags = QCOW2_CONVERT_COMPRESS;
	o.format = "raw";
	refuse(&options, -ENOTSUP, "compressed");
	o.format = "qcow2";
	o.data_file = "data";
	refuse(&options, -ENOTSUP, "compressed");
	options.flags = 0;
	o.version = 2;
	refuse(&options, -EINVAL, "version 3");
	o.version = 3;
	o.cluster_size = 512;
	o.size = 1ull << 50;
	refuse(&options, -EFBIG, "larger clusters");
}

/* The disk fits into L1 and L2 tables, but all of it doesn't into the table of refcounts. */
static void what_can_never_be_full_has_a_length_for_it_all_the_same(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_measure_result r;

	(void)state;
	options.create = &o;
	o.refcount_bits = 64;
	o.size = 1ull << 51;
	r = measure(NULL, 0, &options);
	assert_true(r.required_bytes < 64 * MIB && r.fully_allocated_bytes > o.size);
}

static int count_and_stop(void *opaque, uint64_t done_bytes, uint64_t total_bytes)
{
	(void)done_bytes;
	(void)total_bytes;
	++*(int *)opaque;
	return 1;
}

static void the_end_is_told(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	char *disk = image_tmp_path(state, "disk");
	struct qcow2_image *source;
	int ticks = 0;

	image_tmp_make_raw(disk, MIB, 7);
	source = image_tmp_open(disk, "raw");
	options.progress.tick = count_and_stop;
	options.progress.opaque = &ticks;
	measure(&source, 1, &options);
	assert_true(ticks >= 1);
	qcow2_close(source);
	free(disk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(a_converted_image_is_as_long_as_was_said),
		IMAGE_TEST(so_is_one_on_a_backing_file),
		IMAGE_TEST(a_created_image_is_as_long_as_was_said),
		IMAGE_TEST(bitmaps_take_no_more_than_was_said),
		IMAGE_TEST(what_could_not_be_made_is_not_measured),
		IMAGE_TEST(what_can_never_be_full_has_a_length_for_it_all_the_same),
		IMAGE_TEST(the_end_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
