/* SPDX-License-Identifier: MIT */
/*
 * Headers and tables that ask for more than there is: a clean error or an answer, and never more
 * memory than the file justifies.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "format/layout.h"
#include "image_tmp.h"

#define MIB (1024 * 1024ull)
#define TIB (MIB * MIB)

static _Atomic size_t largest;

static bool note_size(size_t size)
{
	size_t old = atomic_load(&largest);

	while (size > old && !atomic_compare_exchange_weak(&largest, &old, size))
		;
	return size < (1u << 30); /* more isn't worth the try */
}

static int setup(void **state)
{
	struct image_tmp *t;
	int rc = image_tmp_setup(state);

	t = *state;
	atomic_store(&largest, 0);
	mem_fault_hook = note_size;
	return rc ? rc : chdir(t->dir);
}

static int teardown(void **state)
{
	mem_fault_hook = NULL;
	return chdir("/") || image_tmp_teardown(state);
}

static void patch(const char *path, uint64_t off, uint64_t value, unsigned len)
{
	int fd = open(path, O_WRONLY);
	uint8_t bytes[8];

	assert_true(fd >= 0);
	store_be64(bytes, value);
	assert_int_equal(pwrite(fd, bytes + 8 - len, len, (off_t)off), len);
	close(fd);
}

static void make(const char *options, const char *size)
{
	assert_int_equal(QEMU_IMG("create", "-f", "qcow2", "-o", options, "image", size), 0);
}

static struct qcow2_image *open_image(const char *snapshot, uint64_t cache, int want)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *image;
	struct qcow2_error err = {0};
	int ret;

	options.snapshot = snapshot;
	options.l2_cache_bytes = (size_t)cache;
	ret = qcow2_open(&image, "image", &options, &err);
	if (ret != want || err.code != want || (want && !err.message[0]))
		fail_msg("returned %d, the record has %d: \"%s\"", ret, err.code, err.message);
	return image;
}

static int count(void *opaque, const struct qcow2_field *field)
{
	(void)field;
	++*(unsigned *)opaque;
	return 0;
}

/* Dumps every table and every entry that there could be; only the code matters. */
static void dump(struct qcow2_image *image, unsigned what, uint64_t index)
{
	struct qcow2_error err = {0};
	unsigned fields = 0;
	int ret = qcow2_dump(image, what, index, count, &fields, &err);

	assert_int_equal(ret, err.code);
	assert_true(ret == 0 || err.message[0]);
}

static void a_huge_refcount_table_takes_no_huge_memory(void **state)
{
	struct qcow2_image *image;

	(void)state;
	make("cluster_size=512", "1M");
	assert_int_equal(truncate("image", TIB), 0);
	patch("image", LAYOUT_OFF_REFTABLE_CLUSTERS, UINT32_MAX, 4);
	image = open_image(NULL, 0, 0);
	dump(image, QCOW2_DUMP_REFTABLE, 0);
	dump(image, QCOW2_DUMP_REFBLOCK, 1u << 20);
	assert_true(atomic_load(&largest) <= LAYOUT_REFTABLE_BYTES_MAX);
	qcow2_close(image);
}

static void tables_at_the_end_of_the_world_are_errors_or_empty(void **state)
{
	static const uint64_t offs[] = {UINT64_MAX,	     UINT64_MAX << 9, UINT64_MAX << 16,
					INT64_MAX,	     1ull << 63,      (1ull << 63) - 65536,
					LAYOUT_HOST_OFF_MAX, 1ull << 56,      1ull << 55};

	(void)state;
	for (size_t i = 0; i < sizeof(offs) / sizeof(offs[0]); i++) {
		struct qcow2_image *image;

		make("cluster_size=65536", "1M");
		patch("image", LAYOUT_OFF_REFTABLE_OFFSET, offs[i], 8);
		patch("image", LAYOUT_OFF_SNAPSHOTS_OFFSET, offs[i], 8);
		patch("image", LAYOUT_OFF_NB_SNAPSHOTS, 65536, 4);
		patch("image", 65536, offs[i], 8);  /* refcount table */
		patch("image", 196608, offs[i], 8); /* L1 */
		image = open_image(NULL, 0, 0);
		for (unsigned what = 0; what <= QCOW2_DUMP_BITMAPS; what++) {
			dump(image, what, 0);
			dump(image, what, 1);
			dump(image, what, UINT64_MAX);
		}
		qcow2_close(image);
	}
	assert_true(atomic_load(&largest) <= MIB);
}

static void a_cache_limit_beyond_reason_costs_nothing(void **state)
{
	struct qcow2_image *image;
	uint8_t buf[512];

	(void)state;
	make("cluster_size=2M", "1P");
	image = open_image(NULL, SIZE_MAX, 0);
	assert_int_equal(qcow2_pread(image, buf, sizeof(buf), 1ull << 49, NULL), 0);
	qcow2_close(image);
	assert_true(atomic_load(&largest) <= 16 * MIB);
}

static void an_unknown_number_of_snapshots_needs_a_table(void **state)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct qcow2_image *image;

	(void)state;
	make("cluster_size=512", "1M");
	patch("image", LAYOUT_OFF_NB_SNAPSHOTS, LAYOUT_SNAPSHOTS_MAX, 4);
	patch("image", LAYOUT_OFF_SNAPSHOTS_OFFSET, MIB, 8);
	assert_int_equal(truncate("image", TIB), 0);
	image = open_image(NULL, 0, 0);
	assert_int_equal(qcow2_info(image, &info, NULL), 0);
	qcow2_close(image);
	open_image("nosuch", 0, -ENOENT);
	/* 64 MiB of table are read if the file has them, and 65536 records of it */
	assert_true(atomic_load(&largest) <= LAYOUT_SNAPSHOT_TABLE_BYTES_MAX);
}

/* The record of the only snapshot is at the place that the header tells. */
static void a_snapshot_view_checks_its_own_tables(void **state)
{
	struct stat sb;
	uint64_t table;
	uint8_t *bytes;
	size_t len;

	(void)state;
	make("cluster_size=65536", "1M");
	assert_int_equal(QEMU_IMG("snapshot", "-c", "one", "image"), 0);
	bytes = image_tmp_load("image", &len);
	table = load_be64(bytes + LAYOUT_OFF_SNAPSHOTS_OFFSET);
	free(bytes);
	assert_int_equal(stat("image", &sb), 0);
	qcow2_close(open_image("one", 0, 0));
	qcow2_close(open_image("1", 0, 0));
	open_image("two", 0, -ENOENT);
	patch("image", table + LAYOUT_SNAP_OFF_L1_SIZE, LAYOUT_L1_ENTRIES_MAX + 1, 4);
	open_image("one", 0, -EFBIG);
	patch("image", table + LAYOUT_SNAP_OFF_L1_SIZE, 1, 4);
	patch("image", table + LAYOUT_SNAP_OFF_L1_OFFSET, 512, 8);
	open_image("one", 0, -EINVAL);
	patch("image", table + LAYOUT_SNAP_OFF_L1_OFFSET, INT64_MAX & ~65535ull, 8);
	qcow2_close(open_image("one", 0, 0)); /* a table of zeros */
	patch("image", table + LAYOUT_SNAP_FIXED_LEN + LAYOUT_SNAP_EXTRA_DISK_SIZE, UINT64_MAX, 8);
	open_image("one", 0, -EFBIG);
	qcow2_close(open_image(NULL, 0, 0));
	assert_true(atomic_load(&largest) <= 2 * MIB);
}

#define HOSTILE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		HOSTILE_TEST(a_huge_refcount_table_takes_no_huge_memory),
		HOSTILE_TEST(tables_at_the_end_of_the_world_are_errors_or_empty),
		HOSTILE_TEST(a_cache_limit_beyond_reason_costs_nothing),
		HOSTILE_TEST(an_unknown_number_of_snapshots_needs_a_table),
		HOSTILE_TEST(a_snapshot_view_checks_its_own_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
