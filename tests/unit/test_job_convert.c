/* SPDX-License-Identifier: MIT */
/* What qcow2_convert promises beside the copy itself, and what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <time.h>

#include "image_tmp.h"
#include "base/progress.h"

#define MIB (1024 * 1024u)

static struct qcow2_image *make_source(void **state, uint64_t size)
{
	char *disk = image_tmp_path(state, "disk");
	struct qcow2_image *source;

	image_tmp_make_raw(disk, size, 99);
	source = image_tmp_open(disk, "raw");
	free(disk);
	return source;
}

/* -EINVAL or whatever, with that in the sentence, and no file. */
static void expect_refused(struct qcow2_image *const *sources, size_t n, const char *path,
			   const struct qcow2_convert_options *options, int code, const char *words)
{
	struct qcow2_error err = {0};
	int ret = qcow2_convert(sources, n, path, options, NULL, &err);

	if (ret != code || err.code != code || !strstr(err.message, words))
		fail_msg("returned %d, the record has %d: \"%s\"", ret, err.code, err.message);
	assert_int_equal(access(path, F_OK), -1);
}

/* ---- sources ---- */

static void an_image_open_for_information_is_no_source(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_open_options open = QCOW2_OPEN_OPTIONS_INIT;
	char *target = image_tmp_path(state, "target");
	char *source_path = image_tmp_path(state, "source");
	struct qcow2_image *source = make_source(state, MIB);
	struct qcow2_compare_result verdict;
	struct qcow2_image *image;
	struct qcow2_error err = {0};

	assert_int_equal(qcow2_convert(&source, 1, source_path, &options, NULL, &err), 0);
	open.flags = QCOW2_OPEN_INFO;
	assert_int_equal(qcow2_open(&image, source_path, &open, &err), 0);
	expect_refused(&image, 1, target, &options, -EINVAL, "for information only");
	assert_int_equal(qcow2_compare(source, image, 0, NULL, &verdict, &err), -EINVAL);
	assert_int_equal(err.code, -EINVAL);
	assert_int_equal(verdict.failed_image, 1);
	assert_non_null(strstr(err.message, "for information only"));
	qcow2_close(image);
	qcow2_close(source);
	free(source_path);
	free(target);
}

/* Little data in each cluster take little space: the rest of a new cluster reads as zeros anyway.
 */
static void zeros_inside_of_clusters_take_no_space(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	char *disk = image_tmp_path(state, "disk");
	char *copy = image_tmp_path(state, "copy");
	struct qcow2_image *source;
	uint8_t page[4096];
	struct stat sb;
	int fd = open(disk, O_RDWR | O_CREAT, 0644);

	memset(page, 7, sizeof(page));
	assert_int_equal(ftruncate(fd, 16 * MIB), 0);
	for (unsigned i = 0; i < 256; i++)
		assert_int_equal(pwrite(fd, page, sizeof(page), i * 65536 + i % 16 * 4096), 4096);
	/* and one with two pieces, and a hole in it that isn't worth it */
	assert_int_equal(pwrite(fd, page, sizeof(page), 60 * 1024), 4096);
	assert_int_equal(pwrite(fd, page, sizeof(page), 48 * 1024), 4096);
	close(fd);
	source = image_tmp_open(disk, "raw");
	assert_int_equal(qcow2_convert(&source, 1, copy, &options, NULL, NULL), 0);
	assert_int_equal(QEMU_IMG("compare", "-f", "raw", "-F", "qcow2", disk, copy), 0);
	assert_int_equal(QEMU_IMG("check", copy), 0);
	assert_int_equal(stat(copy, &sb), 0);
	assert_in_range(sb.st_blocks * 512, MIB, 3 * MIB);
	/* all of it where that is asked for */
	options.sparse_bytes = 0;
	unlink(copy);
	assert_int_equal(qcow2_convert(&source, 1, copy, &options, NULL, NULL), 0);
	assert_int_equal(stat(copy, &sb), 0);
	assert_in_range(sb.st_blocks * 512, 16 * MIB, 17 * MIB);
	qcow2_close(source);
	free(disk);
	free(copy);
}

static void only_a_target_with_a_backing_file_can_go_on_top(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_image *source = make_source(state, MIB);
	char *target = image_tmp_path(state, "target");
	char *disk = image_tmp_path(state, "disk");
	char *top_path = image_tmp_path(state, "top");
	struct qcow2_image *top, *both[2];

	assert_int_equal(QEMU_IMG("create", "-f", "qcow2", "-b", disk, "-F", "raw", top_path), 0);
	top = image_tmp_open(top_path, NULL);
	options.flags = QCOW2_CONVERT_ON_TOP;
	options.create = &create;
	expect_refused(&top, 1, target, &options, -EINVAL, "backing file");
	create.format = "raw";
	expect_refused(&top, 1, target, &options, -EINVAL, "backing file");
	create.format = "qcow2";
	create.backing_file = disk;
	create.backing_format = "raw";
	both[0] = both[1] = top;
	expect_refused(both, 2, target, &options, -EINVAL, "one source");
	assert_int_equal(qcow2_convert(&top, 1, target, &options, NULL, NULL), 0);
	assert_int_equal(QEMU_IMG("compare", disk, target), 0);
	qcow2_close(top);
	qcow2_close(source);
	free(top_path);
	free(disk);
	free(target);
}

static void what_is_read_is_not_written_to(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_image *source = make_source(state, MIB);
	char *disk = image_tmp_path(state, "disk");
	char *copy = image_tmp_path(state, "copy");
	char *top_path = image_tmp_path(state, "top");
	struct qcow2_error err = {0};
	struct qcow2_image *top;

	create.flags = QCOW2_CREATE_OVERWRITE;
	options.create = &create;
	assert_int_equal(symlink(disk, copy), 0);
	assert_int_equal(qcow2_convert(&source, 1, copy, &options, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.message, "is read from"));
	unlink(copy);
	/* a layer below the source, which we hold a lock on */
	assert_int_equal(qcow2_convert(&source, 1, copy, &options, NULL, &err), 0);
	assert_int_equal(QEMU_IMG("create", "-f", "qcow2", "-b", copy, "-F", "qcow2", top_path), 0);
	top = image_tmp_open(top_path, "qcow2");
	assert_int_equal(qcow2_convert(&top, 1, copy, &options, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.message, "is read from"));
	assert_int_equal(qcow2_convert(&top, 1, top_path, &options, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.message, "is read from"));
	qcow2_close(top);
	qcow2_close(source);
	unlink(copy);
	image_tmp_make_raw(copy, MIB, 99);
	assert_true(image_tmp_same_file(copy, disk));
	free(top_path);
	free(copy);
	free(disk);
}

/* ---- targets that exist ---- */

/* The backing file has the rest of the cluster in which the source ends: zeros would hide it. */
static void where_the_source_ends_the_backing_file_goes_on(void **state)
{
	const char *const sizes[] = {"cluster_size=64k", "cluster_size=512"};
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	char *base = image_tmp_path(state, "base");
	char *disk = image_tmp_path(state, "disk");
	char *target = image_tmp_path(state, "target");
	char *wanted = image_tmp_path(state, "wanted");
	struct qcow2_image *source = make_source(state, MIB + 512);
	struct qcow2_error err = {0};

	image_tmp_make_raw(base, 2 * MIB, 5);
	image_tmp_make_raw(wanted, 2 * MIB, 5);
	assert_int_equal(QEMU_IMG("convert", "-n", "-f", "raw", "-O", "raw", disk, wanted), 0);
	options.flags = QCOW2_CONVERT_EXISTING;
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(QEMU_IMG("create", "-f", "qcow2", "-o", sizes[i], "-b", base, "-F",
					  "raw", target),
				 0);
		if (qcow2_convert(&source, 1, target, &options, NULL, &err) < 0)
			fail_msg("%s", err.message);
		assert_int_equal(QEMU_IMG("compare", "-f", "raw", "-F", "qcow2", wanted, target),
				 0);
		assert_int_equal(QEMU_IMG("check", target), 0);
	}
	qcow2_close(source);
	free(base);
	free(disk);
	free(target);
	free(wanted);
}

static void an_existing_raw_file_keeps_its_length(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	char *target = image_tmp_path(state, "target");
	struct qcow2_image *source = make_source(state, MIB + 512);
	struct qcow2_convert_result result;
	struct stat sb;

	image_tmp_make_raw(target, 3 * MIB, 5);
	create.format = "raw";
	options.create = &create;
	options.flags = QCOW2_CONVERT_EXISTING;
	assert_int_equal(qcow2_convert(&source, 1, target, &options, &result, NULL), 0);
	assert_int_equal(stat(target, &sb), 0);
	assert_int_equal(sb.st_size, 3 * MIB);
	assert_int_equal(result.host_bytes, 3 * MIB);
	qcow2_close(source);
	free(target);
}

/* ---- options of other versions ---- */

/* What a caller passes who was built with a header that has more. */
struct grown_create {
	struct qcow2_create_options known;
	uint64_t more;
};

static void longer_create_options_are_taken_unless_they_ask_for_more(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_image *source = make_source(state, MIB);
	struct grown_create create = {.known = QCOW2_CREATE_OPTIONS_INIT};
	char *target = image_tmp_path(state, "target");
	struct qcow2_error err = {0};

	create.known.struct_size = sizeof(create);
	create.known.cluster_size = 4096;
	options.create = &create.known;
	create.more = 1;
	expect_refused(&source, 1, target, &options, -ENOTSUP, "doesn't know");
	create.more = 0;
	if (qcow2_convert(&source, 1, target, &options, NULL, &err) < 0)
		fail_msg("%s", err.message);
	qcow2_close(source);
	free(target);
}

static void shorter_options_leave_the_rest_at_its_defaults(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_image *source = make_source(state, MIB);
	char *target = image_tmp_path(state, "target");
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct qcow2_image *image;
	struct qcow2_error err = {0};

	create.struct_size = offsetof(struct qcow2_create_options, version);
	create.version = 2;
	create.cluster_size = 12345;
	options.create = &create;
	options.struct_size = offsetof(struct qcow2_convert_options, sparse_bytes);
	options.compression_level = -77;
	if (qcow2_convert(&source, 1, target, &options, NULL, &err) < 0)
		fail_msg("%s", err.message);
	image = image_tmp_open(target, "qcow2");
	assert_int_equal(qcow2_info(image, &info, &err), 0);
	assert_int_equal(info.version, 3);
	assert_int_equal(info.cluster_size, 65536);
	qcow2_close(image);
	qcow2_close(source);
	free(target);
}

static void unknown_flags_are_refused(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_image *source = make_source(state, MIB);
	char *target = image_tmp_path(state, "target");
	struct qcow2_compare_result verdict;
	struct qcow2_error err = {0};

	options.flags = 1u << 31;
	expect_refused(&source, 1, target, &options, -EINVAL, "0x80000000");
	options.flags = 0;
	options.target_open_flags = QCOW2_OPEN_INFO;
	expect_refused(&source, 1, target, &options, -EINVAL, "0x4");
	assert_int_equal(qcow2_compare(source, source, 16, NULL, &verdict, &err), -EINVAL);
	assert_non_null(strstr(err.message, "0x10"));
	qcow2_close(source);
	free(target);
}

/* ---- rate, progress, cancel ---- */

struct ticks {
	unsigned n;
	unsigned cancel_at; /* the n-th tells to stop; 0: none */
	uint64_t last, total;
};

static int note_tick(void *opaque, uint64_t done_bytes, uint64_t total_bytes)
{
	struct ticks *t = opaque;

	assert_true(done_bytes >= t->last && done_bytes <= total_bytes);
	t->last = done_bytes;
	t->total = total_bytes;
	return ++t->n == t->cancel_at;
}

static void the_rate_is_kept_by_any_number_of_threads(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	char *disk = image_tmp_path(state, "disk");
	char *target = image_tmp_path(state, "target");
	struct ticks ticks = {0};
	struct qcow2_image *source;
	uint64_t began = progress_now_nsec();
	struct qcow2_error err = {0};

	assert_int_equal(QEMU_IMG("create", "-f", "raw", disk, "4M"), 0);
	source = image_tmp_open(disk, "raw");
	options.sparse_bytes = 0; /* zeros are data, and all of them are */
	options.rate_limit = 2 * MIB;
	options.threads = 4;
	options.progress = (struct qcow2_progress){note_tick, &ticks};
	if (qcow2_convert(&source, 1, target, &options, NULL, &err) < 0)
		fail_msg("%s", err.message);
	assert_true(progress_now_nsec() - began >= 1500000000ull);
	assert_true(ticks.n >= 3);
	assert_int_equal(ticks.last, 4 * MIB);
	qcow2_close(source);
	free(target);
	free(disk);
}

static void a_cancelled_job_ends_soon_and_leaves_nothing(void **state)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_image *source = make_source(state, 8 * MIB);
	char *target = image_tmp_path(state, "target");
	struct ticks ticks = {.cancel_at = 1};
	uint64_t began = progress_now_nsec();

	options.rate_limit = 1; /* a year and more */
	options.threads = 3;
	options.progress = (struct qcow2_progress){note_tick, &ticks};
	expect_refused(&source, 1, target, &options, -ECANCELED, "canceled");
	assert_int_equal(ticks.n, 1);
	assert_true(progress_now_nsec() - began < 20000000000ull);
	qcow2_close(source);
	free(target);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(an_image_open_for_information_is_no_source),
		IMAGE_TEST(zeros_inside_of_clusters_take_no_space),
		IMAGE_TEST(only_a_target_with_a_backing_file_can_go_on_top),
		IMAGE_TEST(what_is_read_is_not_written_to),
		IMAGE_TEST(where_the_source_ends_the_backing_file_goes_on),
		IMAGE_TEST(an_existing_raw_file_keeps_its_length),
		IMAGE_TEST(longer_create_options_are_taken_unless_they_ask_for_more),
		IMAGE_TEST(shorter_options_leave_the_rest_at_its_defaults),
		IMAGE_TEST(unknown_flags_are_refused),
		IMAGE_TEST(the_rate_is_kept_by_any_number_of_threads),
		IMAGE_TEST(a_cancelled_job_ends_soon_and_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
