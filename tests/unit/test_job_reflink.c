/* SPDX-License-Identifier: MIT */
/*
 * convert with blocks that are shared, on a kernel of our own that copies where a real one would
 * share, and refuses what a real one refuses. tests/interop has real file systems.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "image_tmp.h"

#define MIB (1024 * 1024ull)
#define DISK_SIZE (9 * MIB + 1536)
#define BLOCK 4096

/* ---- the system call ---- */

static struct {
	_Atomic uint64_t calls, bytes;
	int probe;	/* what asking gets: 0 or an errno */
	int refused;	/* an errno that calls fail with; 0: they work */
	unsigned every; /* each call of that number only; 0: all */
	unsigned naps_us;
} kernel;

static int share(int to, const struct file_clone_range *r)
{
	struct stat sb;
	uint64_t n;

	if (fstat((int)r->src_fd, &sb) != 0)
		return EIO;
	if (r->src_length == 0 && r->src_offset == (uint64_t)sb.st_size)
		return kernel.probe;
	n = atomic_fetch_add(&kernel.calls, 1);
	usleep(kernel.naps_us);
	if (kernel.refused && (kernel.every == 0 || n % kernel.every == 0))
		return kernel.refused;
	if ((r->src_offset | r->dest_offset | r->src_length) % BLOCK || r->src_length == 0 ||
	    r->src_offset + r->src_length > (uint64_t)sb.st_size)
		return EINVAL;
	for (uint64_t done = 0; done < r->src_length; done += BLOCK) {
		char buf[BLOCK];

		if (pread((int)r->src_fd, buf, BLOCK, (off_t)(r->src_offset + done)) != BLOCK ||
		    pwrite(to, buf, BLOCK, (off_t)(r->dest_offset + done)) != BLOCK)
			return EIO;
	}
	atomic_fetch_add(&kernel.bytes, r->src_length);
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	void *arg;
	va_list args;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (request != FICLONERANGE)
		return (int)syscall(SYS_ioctl, fd, request, arg);
	errno = share(fd, arg);
	return errno ? -1 : 0;
}

static int a_new_kernel(void **state)
{
	memset(&kernel, 0, sizeof(kernel));
	return image_tmp_setup(state);
}

/* ---- copies ---- */

struct way {
	const char *format;
	unsigned flags, threads;
	uint64_t sparse_bytes;
	int (*tick)(void *opaque, uint64_t done, uint64_t total);
};

static int convert(const char *from, const char *to, const struct way *way, struct qcow2_error *err)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_image *image = image_tmp_open(from, NULL);
	int ret;

	create.format = way->format;
	create.flags = QCOW2_CREATE_OVERWRITE;
	options.create = &create;
	options.flags = way->flags;
	options.threads = way->threads;
	options.target_open_flags = QCOW2_OPEN_NO_FLUSH;
	if (way->sparse_bytes)
		options.sparse_bytes = way->sparse_bytes;
	options.progress.tick = way->tick;
	atomic_store(&kernel.calls, 0);
	atomic_store(&kernel.bytes, 0);
	ret = qcow2_convert(&image, 1, to, &options, NULL, err);
	qcow2_close(image);
	return ret;
}

static void same_disks(const char *a, const char *b)
{
	struct qcow2_image *x = image_tmp_open(a, NULL), *y = image_tmp_open(b, NULL);
	struct qcow2_compare_result result;

	assert_int_equal(qcow2_compare(x, y, 0, NULL, &result, NULL), 0);
	assert_int_equal(result.verdict, QCOW2_COMPARE_SAME);
	assert_false(result.sizes_differ);
	qcow2_close(x);
	qcow2_close(y);
}

/* Both formats from both, with what the kernel does being as it is set. */
static void every_way(void **state, uint64_t least, uint64_t most)
{
	static const char *const formats[] = {"raw", "qcow2"};
	char *disk = image_tmp_path(state, "disk"), *start = image_tmp_path(state, "start");
	char *copy = image_tmp_path(state, "copy");
	struct qcow2_error err = {0};

	image_tmp_make_raw(disk, DISK_SIZE, 11);
	for (int i = 0; i < 4; i++) {
		struct way first = {.format = formats[i / 2], .flags = QCOW2_CONVERT_REFLINK_NEVER};
		struct way second = {.format = formats[i % 2]};

		assert_int_equal(convert(disk, start, &first, &err), 0);
		assert_int_equal(kernel.calls, 0);
		if (convert(start, copy, &second, &err) < 0)
			fail_msg("%s", err.message);
		assert_in_range(kernel.bytes, least, most);
		same_disks(disk, copy);
	}
	free(disk);
	free(start);
	free(copy);
}

static void data_are_shared(void **state)
{
	every_way(state, 4 * MIB, DISK_SIZE);
}

static void what_is_refused_is_copied(void **state)
{
	const int codes[] = {EINVAL, EOPNOTSUPP, EXDEV, ENOTTY, EPERM};

	for (size_t i = 0; i < sizeof(codes) / sizeof(*codes); i++) {
		kernel.refused = codes[i];
		every_way(state, 0, 0);
		kernel.every = 3;
		every_way(state, MIB, DISK_SIZE);
		kernel.every = 0;
	}
}

/* One run in both files is one call for each window: 1 MiB of a disk of this size. */
static void long_runs_take_few_calls(void **state)
{
	char *disk = image_tmp_path(state, "disk"), *copy = image_tmp_path(state, "copy");
	struct way way = {.format = "qcow2"};
	char *buf = malloc(8 * MIB);
	int fd = open(disk, O_RDWR | O_CREAT, 0644);

	assert_non_null(buf);
	memset(buf, 7, 8 * MIB);
	assert_int_equal(write(fd, buf, 8 * MIB), 8 * MIB);
	close(fd);
	free(buf);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(convert(disk, copy, &way, NULL), 0);
		assert_int_equal(kernel.bytes, 8 * MIB);
		assert_in_range(kernel.calls, 1, 8);
		way.format = "raw";
	}
	free(disk);
	free(copy);
}

static void same_bytes(const char *a, const char *b)
{
	FILE *x = fopen(a, "rb"), *y = fopen(b, "rb");
	int c;

	do {
		c = getc(x);
		assert_int_equal(c, getc(y));
	} while (c != EOF);
	fclose(x);
	fclose(y);
}

/* Nor on what is refused half way. */
static void the_file_doesnt_depend_on_threads(void **state)
{
	char *disk = image_tmp_path(state, "disk"), *one = image_tmp_path(state, "one");
	char *many = image_tmp_path(state, "many");
	struct way way = {.format = "qcow2", .threads = 1};

	image_tmp_make_raw(disk, DISK_SIZE, 12);
	assert_int_equal(convert(disk, one, &way, NULL), 0);
	for (way.threads = 2; way.threads < 7; way.threads += 2) {
		kernel.refused = EINVAL;
		kernel.every = way.threads;
		assert_int_equal(convert(disk, many, &way, NULL), 0);
		same_bytes(one, many);
	}
	free(disk);
	free(one);
	free(many);
}

static void an_error_leaves_nothing_behind(void **state)
{
	const int codes[] = {EIO, ENOSPC, EDQUOT};
	char *disk = image_tmp_path(state, "disk"), *copy = image_tmp_path(state, "copy");

	image_tmp_make_raw(disk, DISK_SIZE, 13);
	kernel.every = 4;
	for (size_t i = 0; i < 2 * sizeof(codes) / sizeof(*codes); i++) {
		struct way way = {.format = i % 2 ? "raw" : "qcow2"};
		struct qcow2_error err = {0};

		kernel.refused = codes[i / 2];
		assert_int_equal(convert(disk, copy, &way, &err), -codes[i / 2]);
		assert_non_null(strstr(err.message, "clone"));
		assert_non_null(strstr(err.message, strerror(codes[i / 2])));
		assert_int_not_equal(access(copy, F_OK), 0);
	}
	free(disk);
	free(copy);
}

static int refuse(void *opaque, uint64_t done, uint64_t total)
{
	(void)opaque;
	(void)done;
	(void)total;
	return 1;
}

static void it_can_be_cancelled_between_ranges(void **state)
{
	char *disk = image_tmp_path(state, "disk"), *copy = image_tmp_path(state, "copy");
	struct way way = {.format = "qcow2", .threads = 1, .tick = refuse};
	int fd = open(disk, O_RDWR | O_CREAT, 0644);
	const int ranges = 2048;

	/* longer than until the first tick */
	kernel.naps_us = 2000;
	for (int i = 0; i < ranges; i++)
		assert_int_equal(pwrite(fd, "data", 4, (off_t)(i * 16 * MIB)), 4);
	close(fd);
	assert_int_equal(convert(disk, copy, &way, NULL), -ECANCELED);
	assert_in_range(kernel.calls, 0, (uint64_t)ranges - 1);
	assert_int_not_equal(access(copy, F_OK), 0);
	free(disk);
	free(copy);
}

static void files_that_cant_are_copied_unless_they_must(void **state)
{
	char *disk = image_tmp_path(state, "disk"), *copy = image_tmp_path(state, "copy");
	struct way always = {.format = "raw", .flags = QCOW2_CONVERT_REFLINK_ALWAYS};
	struct qcow2_error err = {0};

	image_tmp_make_raw(disk, DISK_SIZE, 14);
	kernel.probe = EXDEV;
	every_way(state, 0, 0);
	assert_int_equal(kernel.calls, 0);
	assert_int_equal(convert(disk, copy, &always, &err), -ENOTSUP);
	assert_non_null(strstr(err.message, "can't share blocks"));
	kernel.probe = 0;
	assert_int_equal(convert(disk, copy, &always, &err), 0);
	assert_true(kernel.bytes > 4 * MIB);
	free(disk);
	free(copy);
}

static void what_is_asked_for_beside_it(void **state)
{
	const unsigned never = QCOW2_CONVERT_REFLINK_NEVER, always = QCOW2_CONVERT_REFLINK_ALWAYS;
	const struct way copies[] = {
		{"raw", never, 0, 0, NULL},
		{"qcow2", QCOW2_CONVERT_COMPRESS, 0, 0, NULL},
		{"raw", QCOW2_CONVERT_SALVAGE, 0, 0, NULL},
		{"raw", 0, 0, 65536, NULL},
	};
	const struct way nonsense[] = {
		{"qcow2", always | QCOW2_CONVERT_COMPRESS, 0, 0, NULL},
		{"raw", always | QCOW2_CONVERT_SALVAGE, 0, 0, NULL},
		{"raw", always | never, 0, 0, NULL},
		{"raw", always, 0, 4096, NULL},
		{"raw", never | QCOW2_CONVERT_OFFLOAD, 0, 0, NULL},
	};
	char *disk = image_tmp_path(state, "disk"), *copy = image_tmp_path(state, "copy");
	struct qcow2_error err = {0};

	image_tmp_make_raw(disk, DISK_SIZE, 15);
	for (size_t i = 0; i < sizeof(copies) / sizeof(*copies); i++) {
		assert_int_equal(convert(disk, copy, &copies[i], NULL), 0);
		assert_int_equal(kernel.calls, 0);
		same_disks(disk, copy);
	}
	for (size_t i = 0; i < sizeof(nonsense) / sizeof(*nonsense); i++) {
		assert_int_equal(convert(disk, copy, &nonsense[i], &err), -EINVAL);
		assert_non_null(strstr(err.message, "shared"));
	}
	free(disk);
	free(copy);
}

#define REFLINK_TEST(name) cmocka_unit_test_setup_teardown(name, a_new_kernel, image_tmp_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		REFLINK_TEST(data_are_shared),
		REFLINK_TEST(what_is_refused_is_copied),
		REFLINK_TEST(long_runs_take_few_calls),
		REFLINK_TEST(the_file_doesnt_depend_on_threads),
		REFLINK_TEST(an_error_leaves_nothing_behind),
		REFLINK_TEST(it_can_be_cancelled_between_ranges),
		REFLINK_TEST(files_that_cant_are_copied_unless_they_must),
		REFLINK_TEST(what_is_asked_for_beside_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
