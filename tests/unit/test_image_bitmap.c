/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps by the public calls: what is refused, what is kept, what a full disk does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "engine_hook.h"

#define TYPE_OFF 16u /* in a directory entry */

static char *with_bitmap(void **state, const char *options)
{
	char *path = engine_make(state, "image", options, "8M");

	assert_int_equal(QEMU_IMG("bitmap", "--add", path, "b"), 0);
	return path;
}

static struct qcow2_image *open_rw(struct engine_hook *h, const char *path)
{
	struct qcow2_image *image;
	struct qcow2_error err = {0};

	if (engine_hook_open(h, path, NULL, &image, &err) < 0)
		fail_msg("%s", err.message);
	return image;
}

static unsigned flags_of(struct qcow2_image *image, const char *name)
{
	struct qcow2_info info = QCOW2_INFO_INIT;

	assert_int_equal(qcow2_info(image, &info, NULL), 0);
	for (size_t i = 0; i < info.nbitmaps; i++) {
		if (strcmp(info.bitmaps[i].name, name) == 0)
			return info.bitmaps[i].flags;
	}
	return UINT32_MAX;
}

static uint64_t dirty_bytes(struct qcow2_image *image, const char *name)
{
	struct qcow2_bitmap_extent e = {0};
	struct qcow2_error err = {0};
	uint64_t total = 0;

	for (uint64_t off = 0; off < qcow2_size(image); off += e.len_bytes) {
		if (qcow2_bitmap_map(image, name, off, UINT64_MAX, &e, &err) < 0)
			fail_msg("%s", err.message);
		total += e.dirty ? e.len_bytes : 0;
	}
	return total;
}

static void test_what_is_refused(void **state)
{
	char *path = with_bitmap(state, "cluster_size=64k");
	struct qcow2_image *image = image_tmp_open(path, "qcow2");
	struct engine_hook h = {0};
	struct qcow2_bitmap_extent e;
	struct qcow2_error err;

	assert_int_equal(qcow2_bitmap_add(image, "c", 0, 0, &err), -EACCES);
	assert_int_equal(qcow2_bitmap_remove(image, "b", &err), -EACCES);
	assert_int_equal(qcow2_bitmap_map(image, "c", 0, 1, &e, &err), -ENOENT);
	assert_int_equal(qcow2_bitmap_map(image, "b", 8 << 20, 1, &e, &err), -EINVAL);
	assert_int_equal(qcow2_bitmap_map(image, "b", 0, 0, &e, &err), -EINVAL);
	qcow2_close(image);
	image = open_rw(&h, path);
	assert_int_equal(qcow2_bitmap_add(image, "b", 0, 0, &err), -EEXIST);
	assert_int_equal(qcow2_bitmap_add(image, "", 0, 0, &err), -EINVAL);
	assert_int_equal(qcow2_bitmap_add(image, "c", 256, 0, &err), -EINVAL);
	assert_int_equal(qcow2_bitmap_add(image, "c", 0, QCOW2_BITMAP_IN_USE, &err), -EINVAL);
	assert_int_equal(qcow2_bitmap_clear(image, "c", &err), -ENOENT);
	assert_int_equal(qcow2_bitmap_merge(image, "b", image, "c", &err), -ENOENT);
	assert_int_equal(flags_of(image, "b"), QCOW2_BITMAP_AUTO);
	assert_int_equal(qcow2_bitmap_disable(image, "b", &err), 0);
	assert_int_equal(flags_of(image, "b"), 0);
	qcow2_close(image);
	free(path);
}

static uint64_t find_directory(const char *path)
{
	size_t len;
	uint8_t *bytes = image_tmp_load(path, &len);
	uint64_t at = 0, off = 0;

	while (at + 4 < 4096 && memcmp(bytes + at, "\x23\x85\x28\x75", 4) != 0)
		at++;
	for (unsigned i = 0; i < 8; i++)
		off = off << 8 | bytes[at + 24 + i];
	free(bytes);
	return off;
}

static void patch_byte(const char *path, uint64_t off, uint8_t value)
{
	int fd = open(path, O_RDWR);

	assert_int_equal(pwrite(fd, &value, 1, (off_t)off), 1);
	close(fd);
}

/* It recorded, and can't any more: that is told, and all else of it stays. */
static void test_an_unknown_kind_is_kept_and_marked(void **state)
{
	char *path = with_bitmap(state, "cluster_size=64k");
	struct engine_hook h = {0};
	struct qcow2_image *image;
	struct qcow2_error err;

	patch_byte(path, find_directory(path) + TYPE_OFF, 7);
	image = open_rw(&h, path);
	assert_int_equal(qcow2_bitmap_clear(image, "b", &err), -ENOTSUP);
	assert_int_equal(qcow2_resize(image, 16 << 20, 0, 0, &err), -ENOTSUP);
	assert_int_equal(qcow2_bitmap_add(image, "c", 0, QCOW2_BITMAP_AUTO, &err), 0);
	engine_write(image, 0, 65536, 1);
	assert_int_equal(qcow2_finish(image, &err), 0);
	qcow2_close(image);
	image = image_tmp_open(path, "qcow2");
	assert_int_equal(flags_of(image, "b"), QCOW2_BITMAP_AUTO | QCOW2_BITMAP_IN_USE);
	assert_int_equal(flags_of(image, "c"), QCOW2_BITMAP_AUTO);
	assert_int_equal(dirty_bytes(image, "c"), 65536);
	qcow2_close(image);
	patch_byte(path, find_directory(path) + TYPE_OFF, 1);
	assert_int_equal(QEMU_IMG("check", path), 0);
	free(path);
}

static bool is_full;

static int no_room_at_the_end(struct engine_hook *h, enum storage_op op, uint64_t off, uint64_t len)
{
	uint64_t size;

	if (!is_full || op != STORAGE_OP_WRITE)
		return 0;
	assert_int_equal(storage_size(h->lower, &size, NULL), 0);
	return off + len > size ? -ENOSPC : 0;
}

static void test_without_room_the_disk_is_finished_all_the_same(void **state)
{
	char *path = with_bitmap(state, "cluster_size=64k,lazy_refcounts=on");
	struct engine_hook h = {.before = no_room_at_the_end};
	struct qcow2_image *image = open_rw(&h, path);
	struct qcow2_error err = {0};

	is_full = false;
	engine_write(image, 1 << 20, 65536, 1);
	assert_int_equal(qcow2_flush(image, &err), 0);
	is_full = true;
	assert_int_equal(qcow2_finish(image, &err), -ENOSPC);
	assert_non_null(strstr(err.message, "bitmaps can't be stored"));
	assert_int_equal(QEMU_IMG("check", "-U", path), 0);
	is_full = false;
	assert_int_equal(qcow2_finish(image, &err), 0);
	assert_int_equal(dirty_bytes(image, "b"), 65536);
	qcow2_close(image);
	assert_int_equal(QEMU_IMG("check", path), 0);
	free(path);
}

static unsigned nwarnings;

static void count_warning(void *opaque, const char *sentence)
{
	(void)opaque;
	nwarnings += strstr(sentence, "bitmaps are lost") != NULL;
}

static void test_a_directory_that_makes_no_sense_is_given_up(void **state)
{
	char *path = with_bitmap(state, "cluster_size=64k");
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct engine_hook h = {0};
	struct qcow2_image *image;
	struct qcow2_error err;

	patch_byte(path, find_directory(path) + 7, 1); /* the table isn't at a cluster */
	o.warn = count_warning;
	nwarnings = 0;
	assert_int_equal(engine_hook_open(&h, path, &o, &image, &err), 0);
	assert_int_equal(nwarnings, 1);
	engine_write(image, 0, 65536, 1);
	assert_int_equal(qcow2_bitmap_add(image, "c", 0, 0, &err), 0);
	assert_int_equal(qcow2_finish(image, &err), 0);
	assert_int_equal(flags_of(image, "b"), UINT32_MAX);
	qcow2_close(image);
	assert_int_equal(QEMU_IMG("check", "-r", "leaks", path), 0);
	assert_int_equal(QEMU_IMG("check", path), 0);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_what_is_refused),
		IMAGE_TEST(test_an_unknown_kind_is_kept_and_marked),
		IMAGE_TEST(test_without_room_the_disk_is_finished_all_the_same),
		IMAGE_TEST(test_a_directory_that_makes_no_sense_is_given_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
