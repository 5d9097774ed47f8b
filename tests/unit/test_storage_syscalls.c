/* SPDX-License-Identifier: MIT */
/*
 * The file store on a system that does less than usual: system calls that are interrupted, do
 * a part, or aren't supported. The functions here stand in for libc's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "storage_model.h"
#include "storage_tmp.h"

/* What the calls do; all zeros: what they always do. */
static struct {
	size_t most;	    /* bytes that a read or write moves */
	unsigned interrupt; /* every so many calls fail with EINTR */
	unsigned calls;
	int write_errno; /* of all writes */
	bool write_nothing;
	unsigned no_fallocate;	/* bits 1 << kind that aren't supported */
	int fallocate_errno;	/* what says so */
	unsigned nfallocate[3]; /* calls of each kind */
	unsigned npwrites;
	bool no_seek_data;
	struct qcow2_storage *punched; /* by somebody else, while it is asked for a hole */
	unsigned grid;		       /* reads off it aren't supported */
	int sync_errno;		       /* of the next fdatasync */
	unsigned nsyncs;
	unsigned sync_us;
	unsigned nbegun; /* calls of sync_file_range, and what the last one was for */
	uint64_t begun_off, begun_len;
	unsigned begun_flags;
	int begin_errno;
	int copy_errno;
	bool no_flags;	   /* of preadv2 and pwritev2 */
	unsigned nflagged; /* calls of these */
	int last_flags;
} sys;

enum kind { PUNCH, ZERO_RANGE, RESERVE };

static bool interrupted(void)
{
	return sys.interrupt && ++sys.calls % sys.interrupt == 0;
}

/* The first entry with something in it, at most sys.most bytes of it. */
static struct iovec first_piece(const struct iovec *iov, int iovcnt)
{
	struct iovec piece = {NULL, 0};

	for (int i = 0; i < iovcnt && piece.iov_len == 0; i++)
		piece = iov[i];
	if (piece.iov_len > sys.most)
		piece.iov_len = sys.most;
	return piece;
}

ssize_t preadv(int fd, const struct iovec *iov, int iovcnt, off_t off)
{
	struct iovec piece;

	if (interrupted() || (sys.grid && off % sys.grid != 0)) {
		errno = sys.grid ? EINVAL : EINTR;
		return -1;
	}
	if (sys.most == 0)
		return syscall(SYS_preadv, fd, iov, iovcnt, off, 0);
	piece = first_piece(iov, iovcnt);
	return syscall(SYS_pread64, fd, piece.iov_base, piece.iov_len, off);
}

ssize_t pread(int fd, void *buf, size_t len, off_t off)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};

	return preadv(fd, &iov, 1, off);
}

ssize_t pwritev(int fd, const struct iovec *iov, int iovcnt, off_t off)
{
	struct iovec piece;

	sys.npwrites++;
	if (interrupted() || sys.write_errno) {
		errno = sys.write_errno ? sys.write_errno : EINTR;
		return -1;
	}
	if (sys.write_nothing)
		return 0;
	if (sys.most == 0)
		return syscall(SYS_pwritev, fd, iov, iovcnt, off, 0);
	piece = first_piece(iov, iovcnt);
	return syscall(SYS_pwrite64, fd, piece.iov_base, piece.iov_len, off);
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};

	return pwritev(fd, &iov, 1, off);
}

static bool flags_fail(int flags)
{
	sys.nflagged++;
	sys.last_flags = flags;
	if (sys.no_flags)
		errno = EOPNOTSUPP;
	return sys.no_flags;
}

ssize_t preadv2(int fd, const struct iovec *iov, int iovcnt, off_t off, int flags)
{
	return flags_fail(flags) ? -1 : preadv(fd, iov, iovcnt, off);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int iovcnt, off_t off, int flags)
{
	return flags_fail(flags) ? -1 : pwritev(fd, iov, iovcnt, off);
}

int fallocate(int fd, int mode, off_t off, off_t len)
{
	enum kind kind = mode & FALLOC_FL_PUNCH_HOLE   ? PUNCH
			 : mode & FALLOC_FL_ZERO_RANGE ? ZERO_RANGE
						       : RESERVE;

	sys.nfallocate[kind]++;
	if (interrupted()) {
		errno = EINTR;
		return -1;
	}
	if (sys.no_fallocate & 1u << kind) {
		errno = sys.fallocate_errno;
		return -1;
	}
	return (int)syscall(SYS_fallocate, fd, mode, off, len);
}

int ftruncate(int fd, off_t size)
{
	if (interrupted()) {
		errno = EINTR;
		return -1;
	}
	return (int)syscall(SYS_ftruncate, fd, size);
}

off_t lseek(int fd, off_t off, int whence)
{
	if (sys.no_seek_data) {
		errno = EINVAL;
		return -1;
	}
	off = syscall(SYS_lseek, fd, off, whence);
	if (whence == SEEK_HOLE && sys.punched)
		storage_zero(*sys.punched, 0, 1 << 20, QCOW2_STORAGE_MAY_UNMAP, NULL);
	return off;
}

int fdatasync(int fd)
{
	int fails = sys.sync_errno;

	__atomic_fetch_add(&sys.nsyncs, 1, __ATOMIC_SEQ_CST);
	if (sys.sync_us)
		usleep(sys.sync_us);
	sys.sync_errno = 0;
	if (fails) {
		errno = fails;
		return -1;
	}
	return (int)syscall(SYS_fdatasync, fd);
}

int sync_file_range(int fd, off_t off, off_t len, unsigned flags)
{
	(void)fd;
	sys.nbegun++;
	sys.begun_off = (uint64_t)off;
	sys.begun_len = (uint64_t)len;
	sys.begun_flags = flags;
	errno = sys.begin_errno;
	return sys.begin_errno ? -1 : 0;
}

ssize_t copy_file_range(int in, off_t *in_off, int out, off_t *out_off, size_t len, unsigned flags)
{
	if (interrupted() || sys.copy_errno) {
		errno = sys.copy_errno ? sys.copy_errno : EINTR;
		return -1;
	}
	if (sys.most && len > sys.most)
		len = sys.most;
	return syscall(SYS_copy_file_range, in, in_off, out, out_off, len, flags);
}

static void reset(void)
{
	memset(&sys, 0, sizeof(sys));
}

static void short_and_interrupted_calls_are_continued(void **state)
{
	struct tmp *t = *state;

	tmp_make(t, 0);
	reset();
	sys.most = 700;
	sys.interrupt = 3;
	model_run(t->st, false, 1000);
	assert_true(sys.calls > 2000);
	reset();
}

static void a_write_that_fails_is_told(void **state)
{
	struct tmp *t = *state;

	tmp_make(t, 0);
	reset();
	sys.write_errno = ENOSPC;
	assert_int_equal(storage_write(t->st, "abc", 3, 0x123, &t->err), -ENOSPC);
	assert_int_equal(t->err.host_off, 0x123);
	assert_ptr_equal(strstr(t->err.message, "can't write 3 bytes at 0x123 of \""),
			 t->err.message);
	reset();
	sys.write_nothing = true;
	assert_int_equal(storage_write(t->st, "abc", 3, 0, &t->err), -EIO);
	reset();
	assert_int_equal(storage_flush(t->st, &t->err), 0);
}

static void whatever_is_not_supported_the_bytes_are_right(void **state)
{
	const int codes[] = {EOPNOTSUPP, EINVAL, ENOSYS};
	struct tmp *t = *state;

	for (unsigned missing = 0; missing < 8; missing++) {
		tmp_make(t, 0);
		reset();
		sys.no_fallocate = missing;
		sys.fallocate_errno = codes[missing % 3];
		sys.no_seek_data = missing & 1;
		model_run(t->st, false, 1000);
		/* what isn't supported was asked for once, or never if there was no need */
		for (unsigned kind = 0; kind < 3; kind++)
			assert_true(!(missing & 1u << kind) || sys.nfallocate[kind] == 1 ||
				    (kind == RESERVE && sys.nfallocate[kind] == 0));
		reset();
		storage_close(&t->st);
		unlink(t->path);
	}
}

static void making_a_file_longer_with_zeros_writes_next_to_nothing(void **state)
{
	const unsigned flags[] = {0, QCOW2_STORAGE_MAY_UNMAP, QCOW2_STORAGE_NO_FALLBACK};
	struct tmp *t = *state;
	uint64_t size;

	for (size_t i = 0; i < 3; i++) {
		tmp_make(t, 0);
		reset();
		sys.no_fallocate = 7;
		sys.fallocate_errno = EOPNOTSUPP;
		assert_int_equal(storage_write(t->st, "abc", 3, 0, &t->err), 0);
		assert_int_equal(storage_zero(t->st, 10, 1ull << 40, flags[i], &t->err), 0);
		assert_int_equal(sys.npwrites, 2);
		assert_int_equal(storage_size(t->st, &size, &t->err), 0);
		assert_int_equal(size, (1ull << 40) + 10);
		/* where there are bytes they have to be written, or not */
		assert_int_equal(storage_zero(t->st, 0, 10, QCOW2_STORAGE_NO_FALLBACK, &t->err),
				 -ENOTSUP);
		assert_int_equal(storage_zero(t->st, 0, 10, 0, &t->err), 0);
		assert_int_equal(sys.npwrites, 3);
		assert_int_equal(storage_allocate(t->st, 0, 10, &t->err), -ENOTSUP);
		assert_int_equal(storage_discard(t->st, 0, 10, &t->err), 0);
		reset();
		storage_close(&t->st);
		unlink(t->path);
	}
}

static void without_seek_data_all_up_to_the_end_is_data(void **state)
{
	struct tmp *t = *state;
	struct qcow2_storage_extent e;

	tmp_make(t, 0);
	assert_int_equal(storage_truncate(t->st, 1 << 20, &t->err), 0);
	reset();
	sys.no_seek_data = true;
	assert_int_equal(storage_extent(t->st, 4096, 1 << 30, &e, &t->err), 0);
	assert_true(e.is_data && e.len_bytes == (1 << 20) - 4096);
	assert_int_equal(storage_extent(t->st, 1 << 20, 100, &e, &t->err), 0);
	assert_true(!e.is_data && e.len_bytes == 100);
	reset();
}

static void data_that_was_punched_meanwhile_is_not_remembered(void **state)
{
	struct qcow2_storage_extent e;
	struct tmp *t = *state;

	tmp_make(t, 0);
	assert_int_equal(storage_write(t->st, "abc", 3, 1 << 19, &t->err), 0);
	reset();
	sys.punched = &t->st;
	assert_int_equal(storage_extent(t->st, 1 << 19, 3, &e, &t->err), 0);
	reset();
	assert_int_equal(storage_extent(t->st, 1 << 19, 3, &e, &t->err), 0);
	assert_false(e.is_data);
}

static void the_end_of_a_file_is_not_read_twice_past_the_page_cache(void **state)
{
	struct tmp *t = *state;
	char buf[10];

	if (tmp_open(t, STORAGE_FILE_WRITE | STORAGE_FILE_CREATE | STORAGE_FILE_DIRECT) != 0)
		skip();
	assert_int_equal(storage_write(t->st, "abc", 3, 0, &t->err), 0);
	reset();
	sys.grid = 512;
	assert_int_equal(storage_read(t->st, buf, 10, 0, &t->err), 0);
	assert_memory_equal(buf, "abc\0\0\0\0\0\0\0", 10);
	reset();
}

static void a_failed_flush_is_never_forgotten(void **state)
{
	struct tmp *t = *state;
	char expected[200];

	tmp_make(t, 0);
	reset();
	sys.sync_errno = EINTR;
	assert_int_equal(storage_flush(t->st, &t->err), 0);
	assert_int_equal(sys.nsyncs, 2);
	sys.sync_errno = EIO;
	snprintf(expected, sizeof(expected),
		 "can't flush \"%s\": writes may be lost: Input/output error", t->path);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(storage_flush(t->st, &t->err), -EIO);
		assert_string_equal(t->err.message, expected);
		assert_int_equal(sys.nsyncs, 3);
	}
	assert_int_equal(storage_write(t->st, "abc", 3, 0, &t->err), 0);
	assert_int_equal(storage_flush(t->st, &t->err), -EIO);
	reset();
}

static void a_write_through_that_fails_is_a_failed_flush(void **state)
{
	struct tmp *t = *state;

	tmp_make(t, STORAGE_FILE_WRITETHROUGH);
	reset();
	assert_int_equal(storage_truncate(t->st, 4096, &t->err), 0);
	assert_int_equal(storage_zero(t->st, 0, 100, 0, &t->err), 0);
	assert_int_equal(sys.nsyncs, 2);
	sys.write_errno = ENOSPC;
	assert_int_equal(storage_write(t->st, "abc", 3, 0, &t->err), -ENOSPC);
	assert_int_equal(storage_flush(t->st, &t->err), 0);
	sys.write_errno = EIO;
	assert_int_equal(storage_write(t->st, "abc", 3, 0, &t->err), -EIO);
	sys.write_errno = 0;
	assert_int_equal(storage_flush(t->st, &t->err), -EIO);
	reset();
}

static void without_flush_nothing_is_synced(void **state)
{
	struct tmp *t = *state;

	tmp_make(t, STORAGE_FILE_NO_FLUSH | STORAGE_FILE_WRITETHROUGH);
	reset();
	assert_int_equal(storage_truncate(t->st, 4096, &t->err), 0);
	assert_int_equal(storage_flush(t->st, &t->err), 0);
	assert_int_equal(sys.nsyncs, 0);
}

static void *flush_once(void *arg)
{
	struct tmp *t = arg;

	return (void *)(intptr_t)storage_flush(t->st, NULL);
}

/* Those that come while a sync is under way can't be content with it, but share the next. */
static void flushes_of_many_threads_share_a_sync(void **state)
{
	struct tmp *t = *state;
	pthread_t threads[9];
	void *code;

	tmp_make(t, 0);
	reset();
	sys.sync_us = 300000;
	assert_int_equal(pthread_create(&threads[0], NULL, flush_once, t), 0);
	while (__atomic_load_n(&sys.nsyncs, __ATOMIC_SEQ_CST) == 0)
		usleep(1000);
	for (int i = 1; i < 9; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, flush_once, t), 0);
	for (int i = 0; i < 9; i++) {
		pthread_join(threads[i], &code);
		assert_null(code);
	}
	/* a third for threads that took longer to start than the first sync took */
	assert_in_range(sys.nsyncs, 2, 3);
	reset();
}

static void what_is_written_goes_to_the_disk_when_there_is_enough(void **state)
{
	struct storage_trail trail = {0};
	struct tmp *t = *state;

	tmp_make(t, 0);
	reset();
	/* in any order, with gaps */
	for (uint64_t i = 16; i-- > 0;) {
		assert_int_equal(sys.nbegun, 0);
		storage_trail_add(&trail, t->st, (i + 5) << 20, 1 << 16);
	}
	assert_int_equal(sys.nbegun, 1);
	assert_int_equal(sys.begun_off, 5 << 20);
	assert_int_equal(sys.begun_len, (15 << 20) + (1 << 16));
	assert_int_equal(sys.begun_flags, SYNC_FILE_RANGE_WRITE); /* and no waiting */
	/* that it can't be done is told to nobody, and the next goes from where it begins */
	sys.begin_errno = EIO;
	storage_trail_add(&trail, t->st, 100ull << 20, 1 << 20);
	assert_int_equal(sys.nbegun, 2);
	assert_int_equal(sys.begun_off, 100 << 20);
	assert_int_equal(sys.begun_len, 1 << 20);
	assert_int_equal(storage_flush(t->st, &t->err), 0);
	assert_int_equal(sys.nsyncs, 1);
	reset();
}

static void nothing_goes_to_the_disk_early_where_no_flush_would_wait_for_it(void **state)
{
	const unsigned flags[] = {STORAGE_FILE_NO_FLUSH, STORAGE_FILE_WRITETHROUGH};
	struct storage_trail trail = {0};
	struct tmp *t = *state;

	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(tmp_open(t, STORAGE_FILE_WRITE | STORAGE_FILE_CREATE | flags[i]),
				 0);
		reset();
		storage_trail_add(&trail, t->st, 0, 1 << 20);
		assert_int_equal(sys.nbegun, 0);
		storage_close(&t->st);
	}
	assert_int_equal(storage_mem_new(&t->st, 0, &t->err), 0);
	storage_trail_add(&trail, t->st, 0, 1 << 20);
	assert_int_equal(sys.nbegun, 0);
}

static void copies_go_on_or_say_that_they_can_not(void **state)
{
	struct tmp *t = *state;
	uint64_t copied;
	char buf[6];

	tmp_make(t, 0);
	assert_int_equal(storage_write(t->st, "0123456789", 10, 0, &t->err), 0);
	reset();
	sys.most = 3;
	sys.interrupt = 2;
	assert_int_equal(storage_file_copy(t->st, 2, t->st, 100, 8, &copied, &t->err), 0);
	assert_int_equal(copied, 8);
	sys.copy_errno = EXDEV;
	assert_int_equal(storage_file_copy(t->st, 2, t->st, 200, 8, &copied, &t->err), -ENOTSUP);
	sys.copy_errno = ENOSPC;
	assert_int_equal(storage_file_copy(t->st, 2, t->st, 200, 8, &copied, &t->err), -ENOSPC);
	reset();
	assert_int_equal(storage_read(t->st, buf, 6, 102, &t->err), 0);
	assert_memory_equal(buf, "456789", 6);
}

static void write_and_read(struct tmp *t, char letter, size_t len)
{
	char *out = malloc(len), *in = malloc(len);

	assert_true(out && in);
	memset(out, letter, len);
	assert_int_equal(storage_write(t->st, out, len, 5, &t->err), 0);
	assert_int_equal(storage_read(t->st, in, len, 5, &t->err), 0);
	assert_memory_equal(in, out, len);
	free(out);
	free(in);
}

static void the_page_cache_is_spared_while_anybody_wants_it(void **state)
{
	struct tmp *t = *state;

	reset();
	tmp_make(t, 0);
	write_and_read(t, 'a', 256 * 1024);
	assert_int_equal(sys.nflagged, 0);
	storage_spare_cache(t->st, true);
	storage_spare_cache(t->st, true);
	storage_spare_cache(t->st, false);
	write_and_read(t, 's', 256 * 1024 - 1);
	assert_int_equal(sys.nflagged, 0);
	write_and_read(t, 'b', 256 * 1024);
	assert_int_equal(sys.nflagged, 2);
	assert_int_equal(sys.last_flags, 0x80);
	storage_spare_cache(t->st, false);
	write_and_read(t, 'c', 256 * 1024);
	assert_int_equal(sys.nflagged, 2);
}

static void a_kernel_that_can_not_spare_the_page_cache_is_asked_once(void **state)
{
	struct tmp *t = *state;

	reset();
	tmp_make(t, 0);
	storage_spare_cache(t->st, true);
	sys.no_flags = true;
	write_and_read(t, 'a', 256 * 1024);
	write_and_read(t, 'b', 256 * 1024);
	assert_int_equal(sys.nflagged, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TMP_TEST(short_and_interrupted_calls_are_continued),
		TMP_TEST(a_write_that_fails_is_told),
		TMP_TEST(whatever_is_not_supported_the_bytes_are_right),
		TMP_TEST(making_a_file_longer_with_zeros_writes_next_to_nothing),
		TMP_TEST(without_seek_data_all_up_to_the_end_is_data),
		TMP_TEST(data_that_was_punched_meanwhile_is_not_remembered),
		TMP_TEST(the_end_of_a_file_is_not_read_twice_past_the_page_cache),
		TMP_TEST(a_failed_flush_is_never_forgotten),
		TMP_TEST(a_write_through_that_fails_is_a_failed_flush),
		TMP_TEST(without_flush_nothing_is_synced),
		TMP_TEST(flushes_of_many_threads_share_a_sync),
		TMP_TEST(what_is_written_goes_to_the_disk_when_there_is_enough),
		TMP_TEST(nothing_goes_to_the_disk_early_where_no_flush_would_wait_for_it),
		TMP_TEST(copies_go_on_or_say_that_they_can_not),
		TMP_TEST(the_page_cache_is_spared_while_anybody_wants_it),
		TMP_TEST(a_kernel_that_can_not_spare_the_page_cache_is_asked_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
