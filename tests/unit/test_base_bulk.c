/* SPDX-License-Identifier: MIT */
/* The helpers for bulk bytes: I/O vectors, zero detection, threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <string.h>

#include "base/iov.h"
#include "base/work.h"
#include "base/zero.h"

static void one_set_byte_is_found_anywhere(void **state)
{
	static uint8_t buf[1500];

	(void)state;
	for (size_t len = 0; len <= 700; len++) {
		for (size_t shift = 0; shift < 8; shift += 3)
			assert_true(bytes_are_zero(buf + shift, len));
	}
	for (size_t i = 0; i < 1000; i++) {
		buf[i + 3] = 1;
		assert_false(bytes_are_zero(buf + 3, 1000));
		assert_true(bytes_are_zero(buf + 3, i));
		buf[i + 3] = 0;
	}
}

static void a_cursor_walks_over_empty_and_odd_pieces(void **state)
{
	char a[3], b[1], c[10];
	struct iovec iov[] = {{a, 3}, {NULL, 0}, {b, 1}, {c, 10}};
	struct iovec pieces[8];
	struct iov_cursor cur;
	uint64_t total;
	size_t taken;

	(void)state;
	assert_true(iov_total(iov, 4, &total) && total == 14);
	iov_cursor_init(&cur, iov, 4);
	iov_put(&cur, "12", 2);
	assert_int_equal(iov_cut(&cur, 4, pieces, 8, &taken), 3);
	assert_int_equal(taken, 4);
	assert_ptr_equal(pieces[0].iov_base, a + 2);
	assert_ptr_equal(pieces[2].iov_base, c);
	assert_ptr_equal(iov_contiguous(&cur, 8), c + 2);
	assert_null(iov_contiguous(&cur, 9));
	iov_fill(&cur, 'x', 8);
	assert_memory_equal(c + 2, "xxxxxxxx", 8);
	assert_memory_equal(a, "12", 2);
}

static void sums_of_vectors_dont_overflow(void **state)
{
	struct iovec iov[] = {{NULL, SIZE_MAX / 2}, {NULL, SIZE_MAX / 2}, {NULL, 5}};
	uint64_t total;

	(void)state;
	assert_false(iov_total(iov, 3, &total));
	assert_false(iov_total(iov, -1, &total));
	assert_false(iov_total(NULL, 1, &total));
	assert_true(iov_total(NULL, 0, &total) && total == 0);
}

static void count_me(void *opaque, unsigned i)
{
	atomic_fetch_or((_Atomic unsigned *)opaque, 1u << i);
}

static void a_team_calls_each_member_once(void **state)
{
	_Atomic unsigned seen = 0;

	(void)state;
	work_team(5, count_me, &seen);
	assert_int_equal(seen, 31);
	work_team(1, count_me, &seen);
	assert_true(work_cpus() >= 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_set_byte_is_found_anywhere),
		cmocka_unit_test(a_cursor_walks_over_empty_and_odd_pieces),
		cmocka_unit_test(sums_of_vectors_dont_overflow),
		cmocka_unit_test(a_team_calls_each_member_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
