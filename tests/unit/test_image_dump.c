/* SPDX-License-Identifier: MIT */
/* qcow2_dump shows what is stored: each value is the bytes at the place that it gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "base/bytes.h"
#include "format/layout.h"
#include "image_tmp.h"

struct file {
	uint8_t *bytes;
	size_t len;
	unsigned fields;
	char found[8192]; /* the names of all fields */
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

static int expect_stored(void *opaque, const struct qcow2_field *field)
{
	struct file *f = opaque;
	uint64_t value = 0;

	f->fields++;
	assert_non_null(field->table);
	if (!strstr(f->found, field->name))
		strncat(strcat(f->found, " "), field->name, 100);
	if (field->len_bytes == 0 || field->len_bytes > 8)
		return 0;
	assert_true(field->host_off + field->len_bytes <= f->len);
	for (uint32_t i = 0; i < field->len_bytes; i++)
		value = value << 8 | f->bytes[field->host_off + i];
	if (value != field->value)
		fail_msg("%s %s: 0x%llx, stored is 0x%llx", field->table, field->name,
			 (unsigned long long)field->value, (unsigned long long)value);
	return 0;
}

static void expect_all_stored(struct file *f)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *image;
	struct qcow2_error err = {0};

	f->bytes = image_tmp_load("image", &f->len);
	options.flags = QCOW2_OPEN_INFO;
	options.format = "qcow2";
	assert_int_equal(qcow2_open(&image, "image", &options, &err), 0);
	for (unsigned what = 0; what <= QCOW2_DUMP_BITMAPS; what++) {
		f->fields = 0;
		if (qcow2_dump(image, what, 0, expect_stored, f, &err) < 0)
			fail_msg("structure %u: %s", what, err.message);
	}
	qcow2_close(image);
	free(f->bytes);
}

static void patch(uint64_t off, uint64_t value, unsigned len)
{
	int fd = open("image", O_WRONLY);
	uint8_t bytes[8];

	assert_true(fd >= 0);
	store_be64(bytes, value);
	assert_int_equal(pwrite(fd, bytes + 8 - len, len, (off_t)off), len);
	close(fd);
}

static void make(const char *options)
{
	image_tmp_make_raw("disk", 1024 * 1024, 17);
	assert_int_equal(
		QEMU_IMG("convert", "-f", "raw", "-O", "qcow2", "-o", options, "disk", "image"), 0);
}

static void every_value_is_what_its_place_holds(void **state)
{
	static const char *const made[] = {
		"compat=0.10", "cluster_size=512", "extended_l2=on,refcount_bits=1",
		"refcount_bits=64,compression_type=zstd", "refcount_bits=32,lazy_refcounts=on"};

	(void)state;
	for (size_t i = 0; i < sizeof(made) / sizeof(made[0]); i++) {
		struct file f = {0};

		make(made[i]);
		if (i > 0)
			assert_int_equal(QEMU_IMG("bitmap", "--add", "image", "bits"), 0);
		if (i != 2) /* refcounts of one bit */
			assert_int_equal(QEMU_IMG("snapshot", "-c", "one", "image"), 0);
		expect_all_stored(&f);
		assert_non_null(strstr(f.found, "cluster_bits"));
		assert_non_null(strstr(f.found, "l2 entry"));
		assert_non_null(strstr(f.found, "refcount"));
	}
}

static void a_snapshot_has_two_sizes_of_vm_state(void **state)
{
	struct file f = {0};
	uint64_t record;
	uint8_t *bytes;
	size_t len;

	(void)state;
	make("cluster_size=512");
	assert_int_equal(QEMU_IMG("snapshot", "-c", "one", "image"), 0);
	bytes = image_tmp_load("image", &len);
	record = load_be64(bytes + LAYOUT_OFF_SNAPSHOTS_OFFSET);
	free(bytes);
	patch(record + LAYOUT_SNAP_OFF_VM_STATE_SIZE, 4711, 4);
	patch(record + LAYOUT_SNAP_FIXED_LEN + LAYOUT_SNAP_EXTRA_VM_STATE, 1ull << 33, 8);
	expect_all_stored(&f);
	assert_non_null(strstr(f.found, "vm_state_size_large"));
	assert_non_null(strstr(f.found, "disk_size"));
	assert_non_null(strstr(f.found, "icount"));
}

static int stop_at_third(void *opaque, const struct qcow2_field *field)
{
	(void)field;
	return ++*(unsigned *)opaque == 3 ? 42 : 0;
}

static void a_walk_stops_where_it_is_told(void **state)
{
	struct qcow2_error err = {.code = 7};
	struct qcow2_image *image;

	(void)state;
	make("cluster_size=512");
	assert_int_equal(QEMU_IMG("snapshot", "-c", "one", "image"), 0);
	image = image_tmp_open("image", "qcow2");
	for (unsigned what = 0; what < QCOW2_DUMP_BITMAPS; what++) {
		unsigned fields = 0;
		int ret = qcow2_dump(image, what, 0, stop_at_third, &fields, &err);

		assert_int_equal(ret, fields == 3 ? 42 : 0);
		assert_true(fields <= 3);
	}
	assert_int_equal(err.code, 7);
	assert_int_equal(qcow2_dump(image, 8, 0, stop_at_third, NULL, &err), -EINVAL);
	assert_int_equal(err.code, -EINVAL);
	qcow2_close(image);
}

#define DUMP_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		DUMP_TEST(every_value_is_what_its_place_holds),
		DUMP_TEST(a_snapshot_has_two_sizes_of_vm_state),
		DUMP_TEST(a_walk_stops_where_it_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
