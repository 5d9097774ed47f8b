/* SPDX-License-Identifier: MIT */
/* Image locks between stores of one process; tests/interop/test_locks.py has other programs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "storage_tmp.h"

#define READ QCOW2_LOCK_READ
#define WRITE QCOW2_LOCK_WRITE
#define RESIZE QCOW2_LOCK_RESIZE

/* Opens the file twice. */
static void open_two(struct tmp *t, struct qcow2_storage *other)
{
	tmp_make(t, 0);
	assert_int_equal(storage_file_open(other, t->path, STORAGE_FILE_WRITE, &t->err), 0);
}

/* "RWUS rwus": the bytes of 100 to 103 and 200 to 203 that anybody holds, else dots. */
static void check_held(struct tmp *t, const char *expected)
{
	int fd = open(t->path, O_RDWR | O_CLOEXEC);
	char held[] = "RWUS rwus";

	assert_true(fd >= 0);
	for (int i = 0; i < 9; i++) {
		struct flock lock = {.l_type = F_WRLCK,
				     .l_whence = SEEK_SET,
				     .l_start = i < 4 ? 100 + i : 195 + i,
				     .l_len = 1};

		if (i == 4)
			continue;
		assert_int_equal(fcntl(fd, F_OFD_GETLK, &lock), 0);
		if (lock.l_type == F_UNLCK)
			held[i] = '.';
		else
			assert_int_equal(lock.l_type, F_RDLCK);
	}
	close(fd);
	assert_string_equal(held, expected);
}

static void bytes_are_the_ones_that_qemu_takes(void **state)
{
	struct tmp *t = *state;

	tmp_make(t, 0);
	check_held(t, ".... ....");
	assert_int_equal(storage_lock(t->st, READ | WRITE | RESIZE, WRITE | RESIZE, &t->err), 0);
	check_held(t, "RW.S .w.s");
	assert_int_equal(storage_lock(t->st, READ | QCOW2_LOCK_WRITE_UNCHANGED, READ, &t->err), 0);
	check_held(t, "R.U. r...");
	assert_int_equal(storage_lock(t->st, 0, 0, &t->err), 0);
	check_held(t, ".... ....");
	assert_int_equal(storage_lock(t->st, 15, 15, &t->err), 0);
	check_held(t, "RWUS rwus");
	storage_close(&t->st);
	check_held(t, ".... ....");
}

static void a_refused_change_leaves_what_was_held(void **state)
{
	struct qcow2_storage other;
	struct tmp *t = *state;
	char expected[200];

	open_two(t, &other);
	assert_int_equal(storage_lock(t->st, READ, WRITE, &t->err), 0);
	assert_int_equal(storage_lock(other, READ, 0, &t->err), 0);
	assert_int_equal(storage_lock(other, READ | WRITE, RESIZE, &t->err), -EAGAIN);
	snprintf(expected, sizeof(expected),
		 "\"%s\" is already open in this program, which lets nobody else write to it",
		 t->path);
	assert_string_equal(t->err.message, expected);
	check_held(t, "R... .w..");
	/* what the refused one still holds is still in the way */
	assert_int_equal(storage_lock(t->st, READ, READ | WRITE, &t->err), -EAGAIN);
	check_held(t, "R... .w..");
	storage_close(&other);
	assert_int_equal(storage_lock(t->st, READ, READ | WRITE, &t->err), 0);
	check_held(t, "R... rw..");
}

static void each_role_has_its_words(void **state)
{
	const struct {
		unsigned use, forbid, other_use, other_forbid;
		const char *words;
	} cases[] = {
		{READ, 0, 0, READ, "reads it"},
		{WRITE, 0, 0, WRITE, "writes to it"},
		{QCOW2_LOCK_WRITE_UNCHANGED, 0, 0, QCOW2_LOCK_WRITE_UNCHANGED, "writes to it"},
		{RESIZE, 0, 0, RESIZE, "may resize it"},
		{0, READ, READ, 0, "lets nobody else read it"},
		{0, WRITE, WRITE, 0, "lets nobody else write to it"},
		{0, RESIZE, RESIZE, 0, "lets nobody else resize it"},
		/* that somebody writes says more than that he forbids it */
		{WRITE, WRITE, WRITE, WRITE, "writes to it"},
	};
	struct qcow2_storage other;
	struct tmp *t = *state;
	size_t len;

	open_two(t, &other);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(storage_lock(t->st, cases[i].use, cases[i].forbid, &t->err), 0);
		assert_int_equal(
			storage_lock(other, cases[i].other_use, cases[i].other_forbid, &t->err),
			-EAGAIN);
		len = strlen(t->err.message) - strlen(cases[i].words);
		assert_string_equal(t->err.message + len, cases[i].words);
		assert_int_equal(storage_lock(t->st, 0, 0, &t->err), 0);
		assert_int_equal(
			storage_lock(other, cases[i].other_use, cases[i].other_forbid, &t->err), 0);
		assert_int_equal(storage_lock(other, 0, 0, &t->err), 0);
	}
	storage_close(&other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TMP_TEST(bytes_are_the_ones_that_qemu_takes),
		TMP_TEST(a_refused_change_leaves_what_was_held),
		TMP_TEST(each_role_has_its_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
