/* SPDX-License-Identifier: MIT */
/*
 * qcow2_watch: what takes long and has no options tells how far it is, and can be cancelled where
 * that leaves the image as it was. Each is cancelled at its first ticks, then the image is checked.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image_tmp.h"
#include "qcow2.h"

#define MIB (1024u * 1024)
#define SIZE (8 * MIB)
#define SLOW_TICKS 2

struct listener {
	unsigned ticks, cancel_at; /* the tick that says no; 0: none does */
	uint64_t done, total;
};

/* The first take so long that the next step is told too. */
static int listen(void *opaque, uint64_t done, uint64_t total)
{
	struct listener *l = opaque;

	assert_true(done <= total);
	l->done = done;
	l->total = total;
	if (l->ticks < SLOW_TICKS)
		usleep(210000);
	return ++l->ticks == l->cancel_at;
}

static struct qcow2_image *open_image(const char *path)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_image *image;

	policy.follow = QCOW2_FOLLOW_LOCAL;
	o.policy = &policy;
	o.flags = QCOW2_OPEN_WRITE;
	assert_int_equal(qcow2_open(&image, path, &o, NULL), 0);
	return image;
}

/* Clusters of 4 KiB, so that a table maps 2 MiB; a byte in each MiB. */
static char *make_image(void **state, const char *format, const char *data_file)
{
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;
	char *path = image_tmp_path(state, "disk");
	struct qcow2_image *image;

	unlink(path);
	o.format = format;
	o.size = SIZE;
	o.cluster_size = strcmp(format, "raw") == 0 ? 0 : 4096;
	o.data_file = data_file;
	o.flags = QCOW2_CREATE_OVERWRITE;
	assert_int_equal(qcow2_create(path, &o, NULL), 0);
	image = open_image(path);
	for (uint64_t off = 0; off < SIZE; off += MIB)
		assert_int_equal(qcow2_pwrite(image, "x", 1, off, 0, NULL), 0);
	qcow2_close(image);
	return path;
}

static void check_disk(const char *path, uint64_t size, char byte)
{
	struct qcow2_check_options o = QCOW2_CHECK_OPTIONS_INIT;
	struct qcow2_check_result r = {0};
	struct qcow2_image *image = open_image(path);
	char found;

	assert_int_equal(qcow2_size(image), size);
	for (uint64_t off = 0; off < 2 * MIB; off += MIB) {
		assert_int_equal(qcow2_pread(image, &found, 1, off, NULL), 0);
		assert_int_equal(found, byte);
	}
	qcow2_close(image);
	if (qcow2_check(path, &o, &r, NULL) == -ENOTSUP)
		return; /* raw */
	assert_int_equal(r.corruptions, 0);
	assert_int_equal(r.leaks, 0);
	assert_int_equal(r.check_errors, 0);
}

static uint64_t file_size(const char *path)
{
	struct stat sb;

	assert_int_equal(stat(path, &sb), 0);
	return (uint64_t)sb.st_size;
}

/* ---- resize ---- */

static int resize(const char *path, uint64_t size, unsigned prealloc, struct listener *l)
{
	struct qcow2_image *image = open_image(path);
	struct qcow2_error err = {0};
	int rc;

	qcow2_watch(image, &(struct qcow2_progress){listen, l});
	rc = qcow2_resize(image, size, prealloc, QCOW2_RESIZE_SHRINK, &err);
	if (rc == -ECANCELED)
		assert_non_null(strstr(err.message, "canceled"));
	assert_int_equal(qcow2_size(image), rc == 0 ? size : SIZE);
	qcow2_close(image);
	return rc;
}

static void check_growth(void **state, const char *format, unsigned prealloc, bool data_file)
{
	char *data = data_file ? image_tmp_path(state, "data") : NULL;
	char *path = make_image(state, format, data);
	uint64_t before = file_size(path);
	struct listener all = {0};

	print_message("# %s, %u%s\n", format, prealloc, data ? ", data file" : "");
	for (unsigned n = 1; n <= SLOW_TICKS; n++) {
		struct listener one = {.cancel_at = n};
		int rc = resize(path, 4 * SIZE, prealloc, &one);

		assert_true(one.ticks <= n);
		if (rc == 0) /* the last tick is no question */
			break;
		assert_int_equal(rc, -ECANCELED);
		check_disk(path, SIZE, 'x');
		/* what was taken is given back, but for a larger L1 or refcount table */
		assert_true(file_size(path) <= before + 8 * 4096);
	}
	free(path);
	path = make_image(state, format, data);
	assert_int_equal(resize(path, 4 * SIZE, prealloc, &all), 0);
	assert_true(all.ticks > 1 && all.done == all.total && all.total > 0);
	check_disk(path, 4 * SIZE, 'x');
	free(path);
	free(data);
}

static void test_growth_that_is_cancelled_gives_back_what_it_took(void **state)
{
	check_growth(state, "qcow2", QCOW2_PREALLOC_METADATA, false);
	check_growth(state, "qcow2", QCOW2_PREALLOC_FALLOC, false);
	check_growth(state, "qcow2", QCOW2_PREALLOC_FULL, false);
	check_growth(state, "qcow2", QCOW2_PREALLOC_FALLOC, true);
	check_growth(state, "raw", QCOW2_PREALLOC_FALLOC, false);
	check_growth(state, "raw", QCOW2_PREALLOC_FULL, false);
}

static void test_a_disk_that_was_to_shrink_keeps_its_beginning_and_its_size(void **state)
{
	char *path = make_image(state, "qcow2", NULL);
	struct listener all = {0};

	for (unsigned n = 1; n <= SLOW_TICKS; n++) {
		struct listener one = {.cancel_at = n};

		assert_int_equal(resize(path, 2 * MIB, QCOW2_PREALLOC_OFF, &one), -ECANCELED);
		assert_int_equal(one.ticks, n);
		check_disk(path, SIZE, 'x');
	}
	assert_int_equal(resize(path, 2 * MIB, QCOW2_PREALLOC_OFF, &all), 0);
	assert_true(all.ticks > 1 && all.done == all.total && all.total == SIZE - 2 * MIB);
	check_disk(path, 2 * MIB, 'x');
	free(path);
}

static void test_who_has_stopped_watching_isnt_told(void **state)
{
	char *path = make_image(state, "qcow2", NULL);
	struct qcow2_image *image = open_image(path);
	struct listener l = {.cancel_at = 1};

	qcow2_watch(image, &(struct qcow2_progress){listen, &l});
	qcow2_watch(image, NULL);
	assert_int_equal(qcow2_resize(image, 2 * SIZE, QCOW2_PREALLOC_METADATA, 0, NULL), 0);
	assert_int_equal(l.ticks, 0);
	qcow2_close(image);
	free(path);
}

/* ---- snapshots ---- */

enum act { CREATE, APPLY, DELETE };

static int act(const char *path, enum act what, struct listener *l)
{
	struct qcow2_image *image = open_image(path);
	int rc;

	qcow2_watch(image, &(struct qcow2_progress){listen, l});
	if (what == CREATE)
		rc = qcow2_snapshot_create(image, "one", NULL, NULL);
	else if (what == APPLY)
		rc = qcow2_snapshot_apply(image, "one", 0, NULL);
	else
		rc = qcow2_snapshot_delete(image, "one", 0, NULL);
	qcow2_close(image);
	return rc;
}

static size_t count_snapshots(const char *path)
{
	struct qcow2_image *image = open_image(path);
	struct qcow2_info info = QCOW2_INFO_INIT;
	size_t n;

	assert_int_equal(qcow2_info(image, &info, NULL), 0);
	n = info.nsnapshots;
	qcow2_close(image);
	return n;
}

static void fill_disk(const char *path, char byte)
{
	struct qcow2_image *image = open_image(path);

	for (uint64_t off = 0; off < SIZE; off += MIB)
		assert_int_equal(qcow2_pwrite(image, &byte, 1, off, 0, NULL), 0);
	qcow2_close(image);
}

static void test_snapshots_are_there_or_not(void **state)
{
	char *path = make_image(state, "qcow2", NULL);
	struct listener all = {0};

	for (unsigned n = 1; n <= SLOW_TICKS; n++) {
		struct listener one = {.cancel_at = n};

		assert_int_equal(act(path, CREATE, &one), -ECANCELED);
		assert_int_equal(count_snapshots(path), 0);
		check_disk(path, SIZE, 'x');
	}
	assert_int_equal(act(path, CREATE, &all), 0);
	assert_true(all.done == all.total && all.total == 4 * 4096); /* tables */
	fill_disk(path, 'y');
	for (unsigned n = 1; n <= SLOW_TICKS; n++) {
		struct listener one = {.cancel_at = n};

		assert_int_equal(act(path, APPLY, &one), -ECANCELED);
		check_disk(path, SIZE, 'y');
	}
	assert_int_equal(act(path, APPLY, &all), 0);
	assert_int_equal(all.done, all.total);
	check_disk(path, SIZE, 'x');
	free(path);
}

static void test_a_snapshot_that_is_being_deleted_is_gone(void **state)
{
	char *path = make_image(state, "qcow2", NULL);
	struct listener l = {0};

	assert_int_equal(act(path, CREATE, &l), 0);
	fill_disk(path, 'y');
	l = (struct listener){.cancel_at = 1};
	assert_int_equal(act(path, DELETE, &l), 0);
	assert_true(l.ticks > 1 && l.done == l.total);
	assert_int_equal(count_snapshots(path), 0);
	check_disk(path, SIZE, 'y');
	free(path);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, image_tmp_setup, image_tmp_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_growth_that_is_cancelled_gives_back_what_it_took),
		TEST(test_a_disk_that_was_to_shrink_keeps_its_beginning_and_its_size),
		TEST(test_who_has_stopped_watching_isnt_told),
		TEST(test_snapshots_are_there_or_not),
		TEST(test_a_snapshot_that_is_being_deleted_is_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
