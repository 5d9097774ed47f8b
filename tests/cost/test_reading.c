/* SPDX-License-Identifier: MIT */
/*
 * What reading costs: how often the image file is read for named patterns, counted by a recorder
 * under the open image. Opening is counted apart.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qcow2.h"
#include "storage/storage.h"

#define CLUSTER 65536u
#define DISK (64u * CLUSTER)

static char dir[] = "/tmp/qcow2-cost-XXXXXX";
static char raw_path[64], plain_path[64], packed_path[64];

/* Text-like bytes, so that clusters do compress; every word is different. */
static void fill(uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i += 8)
		snprintf((char *)buf + i, 8, "%07zx", i / 8 * 0x9e3779b1u & 0xfffffff);
}

static void convert(const char *to, unsigned flags)
{
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_open_options raw = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_error err = {0};
	struct qcow2_image *source;

	raw.format = "raw";
	options.create = &create;
	options.flags = flags;
	assert_int_equal(qcow2_open(&source, raw_path, &raw, &err), 0);
	if (qcow2_convert(&source, 1, to, &options, NULL, &err) < 0)
		fail_msg("%s", err.message);
	qcow2_close(source);
}

static int make_images(void **state)
{
	uint8_t *disk = malloc(DISK);
	FILE *f;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(raw_path, sizeof(raw_path), "%s/disk.raw", dir);
	snprintf(plain_path, sizeof(plain_path), "%s/plain.qcow2", dir);
	snprintf(packed_path, sizeof(packed_path), "%s/packed.qcow2", dir);
	assert_non_null(disk);
	fill(disk, DISK);
	f = fopen(raw_path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(disk, 1, DISK, f), DISK);
	assert_int_equal(fclose(f), 0);
	free(disk);
	convert(plain_path, 0);
	convert(packed_path, QCOW2_CONVERT_COMPRESS);
	return 0;
}

static int remove_images(void **state)
{
	(void)state;
	unlink(raw_path);
	unlink(plain_path);
	unlink(packed_path);
	return rmdir(dir);
}

/* Opens an image over a recorder whose counts begin at zero. */
static struct qcow2_image *open_recorded(const char *path, struct qcow2_storage *record)
{
	struct qcow2_storage file;
	struct qcow2_image *image;
	struct qcow2_error err = {0};

	assert_int_equal(storage_file_open(&file, path, 0, NULL), 0);
	assert_int_equal(storage_record_new(record, file, false, NULL), 0);
	if (qcow2_open_storage(&image, *record, path, NULL, &err) < 0)
		fail_msg("%s", err.message);
	storage_record_reset(*record);
	return image;
}

static uint64_t reads(struct qcow2_storage record)
{
	return storage_record_count(record, STORAGE_OP_READ);
}

static void read_steps(struct qcow2_image *image, uint64_t from, uint64_t len, size_t step)
{
	static uint8_t buf[DISK], expected[DISK];
	struct qcow2_error err = {0};

	fill(expected, DISK);
	for (uint64_t off = from; off < from + len; off += step) {
		if (qcow2_pread(image, buf, step, off, &err) < 0)
			fail_msg("%s", err.message);
		assert_memory_equal(buf, expected + off, step);
	}
}

static void a_compressed_cluster_in_16_steps_is_read_once(void **state)
{
	struct qcow2_storage record;
	struct qcow2_image *image = open_recorded(packed_path, &record);

	(void)state;
	read_steps(image, 0, CLUSTER, 4096);
	assert_int_equal(reads(record), 2); /* the L2 slice, the cluster */
	read_steps(image, 0, CLUSTER, 4096);
	assert_int_equal(reads(record), 2);
	read_steps(image, CLUSTER, CLUSTER, 512);
	assert_int_equal(reads(record), 3);
	qcow2_close(image);
}

static void stepping_through_a_compressed_disk_reads_each_cluster_once(void **state)
{
	struct qcow2_storage record;
	struct qcow2_image *image = open_recorded(packed_path, &record);

	(void)state;
	read_steps(image, 0, DISK, 4096);
	assert_int_equal(reads(record), 1 + DISK / CLUSTER);
	qcow2_close(image);
}

static void contiguous_clusters_are_one_read(void **state)
{
	struct qcow2_storage record;
	struct qcow2_image *image = open_recorded(plain_path, &record);

	(void)state;
	read_steps(image, 0, DISK, DISK);
	assert_int_equal(reads(record), 2); /* the L2 slice, all data at once */
	read_steps(image, 3 * CLUSTER + 512, 4096, 4096);
	assert_int_equal(reads(record), 3); /* the slice is there already */
	qcow2_close(image);
}

static void mapping_reads_tables_only(void **state)
{
	struct qcow2_storage record;
	struct qcow2_image *image = open_recorded(plain_path, &record);
	struct qcow2_extent extent;

	(void)state;
	assert_int_equal(qcow2_map(image, 0, UINT64_MAX, &extent, NULL), 0);
	assert_int_equal(extent.len_bytes, DISK);
	assert_int_equal(reads(record), 1);
	assert_int_equal(storage_record_bytes(record, STORAGE_OP_READ), 4096);
	qcow2_close(image);
}

static void opening_for_information_reads_the_header_only(void **state)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct qcow2_storage file, record;
	struct qcow2_image *image;

	(void)state;
	options.flags = QCOW2_OPEN_INFO;
	options.format = "qcow2";
	assert_int_equal(storage_file_open(&file, plain_path, 0, NULL), 0);
	assert_int_equal(storage_record_new(&record, file, false, NULL), 0);
	assert_int_equal(qcow2_open_storage(&image, record, plain_path, &options, NULL), 0);
	assert_int_equal(qcow2_info(image, &info, NULL), 0);
	assert_int_equal(info.virtual_size, DISK);
	assert_true(reads(record) <= 2); /* a look at the cluster size, the cluster */
	qcow2_close(image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_compressed_cluster_in_16_steps_is_read_once),
		cmocka_unit_test(stepping_through_a_compressed_disk_reads_each_cluster_once),
		cmocka_unit_test(contiguous_clusters_are_one_read),
		cmocka_unit_test(mapping_reads_tables_only),
		cmocka_unit_test(opening_for_information_reads_the_header_only),
	};

	return cmocka_run_group_tests(tests, make_images, remove_images);
}
