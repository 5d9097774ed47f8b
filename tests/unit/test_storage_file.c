/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/num.h"
#include "storage_tmp.h"

#define MIB (1024 * 1024ull)

static uint64_t size_of(struct tmp *f)
{
	uint64_t size = 0;

	assert_int_equal(storage_size(f->st, &size, &f->err), 0);
	return size;
}

static void check_bytes(struct tmp *f, uint64_t off, size_t len, uint8_t value)
{
	uint8_t *buf = malloc(len);

	assert_non_null(buf);
	memset(buf, ~value, len);
	assert_int_equal(storage_read(f->st, buf, len, off, &f->err), 0);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(buf[i], value);
	free(buf);
}

static void put_bytes(struct tmp *f, uint64_t off, size_t len, uint8_t value)
{
	uint8_t *buf = malloc(len);

	assert_non_null(buf);
	memset(buf, value, len);
	assert_int_equal(storage_write(f->st, buf, len, off, &f->err), 0);
	free(buf);
}

static void check_extent(struct tmp *f, uint64_t off, uint64_t len, bool is_data, uint64_t expected)
{
	struct qcow2_storage_extent e = {0};

	assert_int_equal(storage_extent(f->st, off, len, &e, &f->err), 0);
	assert_int_equal(e.is_data, is_data);
	assert_int_equal(e.len_bytes, expected);
}

static uint64_t disk_bytes(struct tmp *f)
{
	struct storage_file_stat sb;

	assert_int_equal(storage_file_stat(f->st, &sb, &f->err), 0);
	return sb.disk_bytes;
}

static void reads_past_the_end_give_zeros(void **state)
{
	struct tmp *f = *state;
	uint8_t buf[100];

	tmp_make(f, 0);
	put_bytes(f, 0, 50, 7);
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(storage_read(f->st, buf, 100, 0, &f->err), 0);
	for (int i = 0; i < 100; i++)
		assert_int_equal(buf[i], i < 50 ? 7 : 0);
	check_bytes(f, 1ull << 60, 1000, 0);
	assert_int_equal(size_of(f), 50);
	check_extent(f, 50, 1000, false, 1000);
	check_extent(f, UINT64_MAX - 10, 10, false, 10);
}

static void vectors_longer_than_the_system_takes(void **state)
{
	struct tmp *f = *state;
	static uint8_t out[5000], in[5000];
	static struct iovec iov[5000];

	tmp_make(f, 0);
	for (int i = 0; i < 5000; i++) {
		out[i] = (uint8_t)(i * 7 + i / 256);
		/* every tenth is empty, the one before it has two bytes */
		iov[i].iov_base = out + (i % 10 == 9 ? i - 1 : i);
		iov[i].iov_len = i % 10 == 9 ? 0 : i % 10 == 8 ? 2 : 1;
	}
	assert_int_equal(storage_writev(f->st, iov, 5000, 3, &f->err), 0);
	assert_int_equal(size_of(f), 5003);
	assert_int_equal(storage_read(f->st, in, 5000, 3, &f->err), 0);
	assert_memory_equal(in, out, 5000);
	memset(out, 0, sizeof(out));
	assert_int_equal(storage_readv(f->st, iov, 5000, 3, &f->err), 0);
	assert_memory_equal(in, out, 5000);
}

static void offsets_beyond_files_are_refused(void **state)
{
	struct tmp *f = *state;
	uint8_t buf[16] = {0};
	uint64_t end = INT64_MAX;

	tmp_make(f, 0);
	assert_int_equal(storage_read(f->st, buf, 16, end - 15, &f->err), -EFBIG);
	assert_int_equal(storage_write(f->st, buf, 16, end - 15, &f->err), -EFBIG);
	assert_int_equal(f->err.host_off, end - 15);
	assert_non_null(strstr(f->err.message, "can't write 16 bytes at 0x7ffffffffffffff0 of \""));
	assert_non_null(strstr(f->err.message, "/disk\": File too large"));
	assert_int_equal(storage_read(f->st, buf, 16, UINT64_MAX - 3, &f->err), -EFBIG);
	assert_int_equal(storage_zero(f->st, end, 1, 0, &f->err), -EFBIG);
	assert_int_equal(storage_discard(f->st, end, 2, &f->err), -EFBIG);
	assert_int_equal(storage_allocate(f->st, end, 2, &f->err), -EFBIG);
	assert_int_equal(storage_truncate(f->st, end + 1, &f->err), -EFBIG);
	assert_int_equal(size_of(f), 0);
}

static void sparse_files_beyond_4_gib(void **state)
{
	struct tmp *f = *state;
	uint64_t far = (5ull << 30) + 4096;

	tmp_make(f, 0);
	put_bytes(f, far, 4096, 0x5a);
	assert_int_equal(size_of(f), far + 4096);
	check_bytes(f, far, 4096, 0x5a);
	check_bytes(f, far & 0xffffffff, 4096, 0);
	check_extent(f, 0, UINT64_MAX / 2, false, far);
	check_extent(f, far, UINT64_MAX / 4, true, 4096);
	assert_true(disk_bytes(f) < MIB);
}

static void holes_come_and_go(void **state)
{
	struct tmp *f = *state;

	tmp_make(f, 0);
	put_bytes(f, 0, MIB, 1);
	check_extent(f, 4096, MIB, true, MIB - 4096);
	/* the second answer comes from memory, the third must not */
	check_extent(f, 8192, 4096, true, 4096);
	assert_int_equal(storage_zero(f->st, 8192, 65536, QCOW2_STORAGE_MAY_UNMAP, &f->err), 0);
	check_extent(f, 8192, MIB, false, 65536);
	check_extent(f, 4096, MIB, true, 4096);
	check_bytes(f, 8192, 65536, 0);
	check_bytes(f, 8191, 1, 1);
	check_bytes(f, 8192 + 65536, 1, 1);
	put_bytes(f, 12288, 4096, 2);
	check_extent(f, 8192, MIB, false, 4096);
	check_extent(f, 12288, MIB, true, 4096);
	assert_int_equal(storage_discard(f->st, 0, MIB, &f->err), 0);
	assert_int_equal(disk_bytes(f), 0);
	assert_int_equal(size_of(f), MIB);
	assert_int_equal(storage_truncate(f->st, 100, &f->err), 0);
	assert_int_equal(storage_truncate(f->st, 4096, &f->err), 0);
	check_bytes(f, 0, 4096, 0);
}

static void zeros_within_blocks_leave_the_neighbours(void **state)
{
	struct tmp *f = *state;
	const unsigned flags[] = {0, QCOW2_STORAGE_MAY_UNMAP};

	tmp_make(f, 0);
	for (size_t i = 0; i < 2; i++) {
		put_bytes(f, 0, 20000, 9);
		assert_int_equal(storage_zero(f->st, 101, 12345, flags[i], &f->err), 0);
		check_bytes(f, 0, 101, 9);
		check_bytes(f, 101, 12345, 0);
		check_bytes(f, 12446, 20000 - 12446, 9);
		assert_int_equal(size_of(f), 20000);
	}
	/* without leave to unmap the space stays taken */
	put_bytes(f, 0, MIB, 9);
	assert_int_equal(storage_zero(f->st, 0, MIB, 0, &f->err), 0);
	assert_int_equal(disk_bytes(f), MIB);
	check_bytes(f, 0, MIB, 0);
}

static void zeros_past_the_end_make_the_file_longer(void **state)
{
	struct tmp *f = *state;

	tmp_make(f, 0);
	put_bytes(f, 0, 5000, 3);
	assert_int_equal(storage_zero(f->st, 4000, 1ull << 40, QCOW2_STORAGE_MAY_UNMAP, &f->err),
			 0);
	assert_int_equal(size_of(f), (1ull << 40) + 4000);
	assert_true(disk_bytes(f) <= 65536);
	check_bytes(f, 0, 4000, 3);
	check_bytes(f, 4000, 100000, 0);
	check_bytes(f, (1ull << 40) - 100, 5000, 0);
	assert_int_equal(storage_truncate(f->st, 1000, &f->err), 0);
	assert_int_equal(storage_zero(f->st, 1000, MIB, 0, &f->err), 0);
	assert_int_equal(size_of(f), MIB + 1000);
	assert_true(disk_bytes(f) >= MIB);
	check_bytes(f, 1000, MIB, 0);
}

static void allocated_space_is_taken_and_reads_as_before(void **state)
{
	struct tmp *f = *state;

	tmp_make(f, 0);
	put_bytes(f, 0, 100, 3);
	assert_int_equal(storage_allocate(f->st, 0, MIB, &f->err), 0);
	assert_int_equal(size_of(f), MIB);
	assert_true(disk_bytes(f) >= MIB);
	check_bytes(f, 0, 100, 3);
	check_bytes(f, 100, 10000, 0);
}

static void refuse(struct tmp *f, const char *path, unsigned flags, int code, const char *reason)
{
	char expected[200];

	assert_int_equal(storage_file_open(&f->st, path, flags, &f->err), code);
	assert_false(storage_is_open(f->st));
	snprintf(expected, sizeof(expected), "can't %s \"%s\": %s",
		 flags & STORAGE_FILE_EXCL ? "create" : "open", path, reason);
	assert_string_equal(f->err.message, expected);
	assert_int_equal(f->err.code, code);
}

static void only_files_and_block_devices_are_opened(void **state)
{
	struct tmp *f = *state;
	const unsigned w = STORAGE_FILE_WRITE;

	refuse(f, f->path, 0, -ENOENT, "No such file or directory");
	refuse(f, "/dev/zero", 0, -EINVAL, "it is a character device, not a file or block device");
	for (unsigned flags = 0; flags <= w; flags += w) {
		refuse(f, f->dir, flags, -EINVAL, "it is a directory, not a file or block device");
		assert_int_equal(mkfifo(f->path, 0600), 0);
		refuse(f, f->path, flags, -EINVAL, "it is a pipe, not a file or block device");
		refuse(f, f->path, flags | STORAGE_FILE_CREATE, -EINVAL,
		       "it is a pipe, not a file or block device");
		unlink(f->path);
	}
	tmp_make(f, 0);
	storage_close(&f->st);
	refuse(f, f->path, w | STORAGE_FILE_CREATE | STORAGE_FILE_EXCL, -EEXIST, "File exists");
}

static void creating_keeps_what_is_there(void **state)
{
	struct tmp *f = *state;

	tmp_make(f, STORAGE_FILE_EXCL);
	put_bytes(f, 0, 100, 3);
	storage_close(&f->st);
	tmp_make(f, 0);
	check_bytes(f, 0, 100, 3);
}

static void a_store_for_reading_refuses_changes(void **state)
{
	struct tmp *f = *state;

	tmp_make(f, 0);
	put_bytes(f, 0, 100, 3);
	storage_close(&f->st);
	assert_int_equal(storage_file_open(&f->st, f->path, 0, &f->err), 0);
	assert_int_equal(storage_write(f->st, "x", 1, 0, &f->err), -EACCES);
	assert_non_null(strstr(f->err.message, "it is open for reading only"));
	assert_int_equal(storage_zero(f->st, 0, 1, 0, &f->err), -EACCES);
	assert_int_equal(storage_discard(f->st, 0, 1, &f->err), -EACCES);
	assert_int_equal(storage_truncate(f->st, 0, &f->err), -EACCES);
	assert_int_equal(storage_allocate(f->st, 0, 1, &f->err), -EACCES);
	assert_int_equal(storage_flush(f->st, &f->err), 0);
	check_bytes(f, 0, 100, 3);
}

/* The store's descriptor. */
static int descriptor_of(struct tmp *f)
{
	struct stat sb, other;

	assert_int_equal(stat(f->path, &sb), 0);
	for (int fd = 3; fd < 256; fd++) {
		if (fstat(fd, &other) == 0 && other.st_ino == sb.st_ino &&
		    other.st_dev == sb.st_dev)
			return fd;
	}
	fail_msg("no descriptor of %s", f->path);
	return -1;
}

static void the_descriptor_is_not_inherited_and_blocks(void **state)
{
	struct tmp *f = *state;
	int fd;

	tmp_make(f, 0);
	fd = descriptor_of(f);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_false(fcntl(fd, F_GETFL) & (O_NONBLOCK | O_DSYNC));
}

static void stat_tells_files_apart(void **state)
{
	struct tmp *f = *state;
	struct qcow2_storage other, mem = {.ops = &(struct qcow2_storage_ops){.kind = "none"}};
	struct storage_file_stat a, b;

	tmp_make(f, 0);
	put_bytes(f, 0, 70000, 1);
	assert_int_equal(storage_file_open(&other, f->path, 0, &f->err), 0);
	assert_int_equal(storage_file_stat(f->st, &a, &f->err), 0);
	assert_int_equal(storage_file_stat(other, &b, &f->err), 0);
	assert_true(a.dev == b.dev && a.ino == b.ino && a.ino != 0);
	assert_int_equal(a.size_bytes, 70000);
	assert_false(a.is_block_device);
	storage_close(&other);
	assert_int_equal(storage_file_stat(mem, &a, &f->err), -ENOTSUP);
}

static void copies_in_the_kernel_are_whole_or_say_how_far(void **state)
{
	struct tmp *f = *state;
	struct qcow2_storage st2;
	char path2[90];
	uint64_t copied;
	uint8_t buf[4096];
	int code;

	tmp_make(f, 0);
	put_bytes(f, 0, 100000, 0x77);
	snprintf(path2, sizeof(path2), "%s2", f->path);
	assert_int_equal(
		storage_file_open(&st2, path2, STORAGE_FILE_WRITE | STORAGE_FILE_CREATE, &f->err),
		0);
	code = storage_file_copy(f->st, 1000, st2, 500, 200000, &copied, &f->err);
	unlink(path2);
	if (code == 0) {
		assert_int_equal(copied, 99000);
		assert_int_equal(storage_read(st2, buf, 4096, 500, &f->err), 0);
		assert_int_equal(buf[0], 0x77);
		assert_int_equal(buf[4095], 0x77);
		/* nothing there to copy: the caller has to do it */
		code = storage_file_copy(f->st, 100000, st2, 500, 100, &copied, &f->err);
	}
	assert_int_equal(code, -ENOTSUP);
	assert_int_equal(copied, 0);
	storage_close(&st2);
}

/* A limit on file sizes shortens a write first and refuses the rest after. */
static void a_write_that_does_not_fit_fails(void **state)
{
	struct tmp *f = *state;
	struct rlimit old, limit;
	static uint8_t buf[8192];

	tmp_make(f, 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = old;
	limit.rlim_cur = 5000;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_int_equal(storage_write(f->st, buf, sizeof(buf), 0, &f->err), -EFBIG);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(size_of(f), 5000);
}

struct worker {
	struct tmp *f;
	unsigned idx;
	bool ok;
};

/* Each thread has every third piece of 3,000 bytes: all of them share pages with the others. */
static void *write_and_read(void *arg)
{
	struct worker *w = arg;
	uint8_t out[3000], in[3000];
	struct qcow2_storage_extent e;

	for (unsigned i = 0; i < 200; i++) {
		uint64_t off = ((uint64_t)i * 3 + w->idx) * sizeof(out);

		memset(out, (int)(i + w->idx * 50), sizeof(out));
		if (storage_write(w->f->st, out, sizeof(out), off, NULL) != 0 ||
		    storage_zero(w->f->st, off + 1000, 1000, QCOW2_STORAGE_MAY_UNMAP, NULL) != 0 ||
		    storage_extent(w->f->st, off, 10000, &e, NULL) != 0 ||
		    (i % 50 == 0 && storage_flush(w->f->st, NULL) != 0) ||
		    storage_read(w->f->st, in, sizeof(in), off, NULL) != 0)
			return NULL;
		memset(out + 1000, 0, 1000);
		if (memcmp(in, out, sizeof(in)) != 0)
			return NULL;
	}
	w->ok = true;
	return NULL;
}

static void run_three(struct tmp *f)
{
	struct worker w[3];
	pthread_t t[3];
	uint8_t buf[3000];

	for (unsigned i = 0; i < 3; i++) {
		w[i] = (struct worker){.f = f, .idx = i};
		assert_int_equal(pthread_create(&t[i], NULL, write_and_read, &w[i]), 0);
	}
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(t[i], NULL);
		assert_true(w[i].ok);
	}
	for (unsigned i = 0; i < 600; i++) {
		uint8_t value = (uint8_t)(i / 3 + i % 3 * 50);

		assert_int_equal(storage_read(f->st, buf, sizeof(buf), i * 3000ull, &f->err), 0);
		for (unsigned k = 0; k < 3000; k++)
			assert_int_equal(buf[k], k / 1000 == 1 ? 0 : value);
	}
	assert_int_equal(size_of(f), 1800000);
}

static void three_threads_share_a_store(void **state)
{
	tmp_make(*state, 0);
	run_three(*state);
}

static void three_threads_share_a_store_past_the_page_cache(void **state)
{
	struct tmp *f = *state;

	if (storage_file_open(&f->st, f->path,
			      STORAGE_FILE_WRITE | STORAGE_FILE_CREATE | STORAGE_FILE_DIRECT,
			      &f->err) != 0)
		skip();
	run_three(f);
}

static void writethrough_and_no_flush_work(void **state)
{
	struct tmp *f = *state;

	tmp_make(f, STORAGE_FILE_WRITETHROUGH);
	assert_true(fcntl(descriptor_of(f), F_GETFL) & O_DSYNC);
	put_bytes(f, 0, 5000, 1);
	assert_int_equal(storage_zero(f->st, 0, 4096, QCOW2_STORAGE_MAY_UNMAP, &f->err), 0);
	assert_int_equal(storage_truncate(f->st, 4000, &f->err), 0);
	assert_int_equal(storage_flush(f->st, &f->err), 0);
	storage_close(&f->st);
	tmp_make(f, STORAGE_FILE_NO_FLUSH);
	put_bytes(f, 0, 5000, 1);
	assert_int_equal(storage_flush(f->st, &f->err), 0);
	check_bytes(f, 0, 5000, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TMP_TEST(reads_past_the_end_give_zeros),
		TMP_TEST(vectors_longer_than_the_system_takes),
		TMP_TEST(offsets_beyond_files_are_refused),
		TMP_TEST(sparse_files_beyond_4_gib),
		TMP_TEST(holes_come_and_go),
		TMP_TEST(zeros_within_blocks_leave_the_neighbours),
		TMP_TEST(zeros_past_the_end_make_the_file_longer),
		TMP_TEST(allocated_space_is_taken_and_reads_as_before),
		TMP_TEST(only_files_and_block_devices_are_opened),
		TMP_TEST(creating_keeps_what_is_there),
		TMP_TEST(a_store_for_reading_refuses_changes),
		TMP_TEST(the_descriptor_is_not_inherited_and_blocks),
		TMP_TEST(stat_tells_files_apart),
		TMP_TEST(copies_in_the_kernel_are_whole_or_say_how_far),
		TMP_TEST(a_write_that_does_not_fit_fails),
		TMP_TEST(three_threads_share_a_store),
		TMP_TEST(three_threads_share_a_store_past_the_page_cache),
		TMP_TEST(writethrough_and_no_flush_work),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
