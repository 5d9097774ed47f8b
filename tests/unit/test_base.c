/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/num.h"

static void bytes_round_trip_at_odd_addresses(void **state)
{
	uint8_t buf[16] = {0};

	(void)state;
	store_be64(buf + 1, 0x0123456789abcdefull);
	assert_int_equal(buf[1], 0x01);
	assert_int_equal(buf[8], 0xef);
	assert_true(load_be64(buf + 1) == 0x0123456789abcdefull);
	assert_true(load_le64(buf + 1) == 0xefcdab8967452301ull);
	assert_int_equal(load_be16(buf + 3), 0x4567);
	store_be32(buf + 3, 0xfffefdfc);
	assert_true(load_be32(buf + 3) == 0xfffefdfc);
}

static void overlap_is_right_at_the_end_of_the_range(void **state)
{
	(void)state;
	assert_true(ranges_overlap(0, 10, 9, 1));
	assert_false(ranges_overlap(0, 10, 10, 1));
	assert_false(ranges_overlap(5, 0, 0, 10));
	assert_true(ranges_overlap(UINT64_MAX - 1, 100, UINT64_MAX, 1));
	assert_false(ranges_overlap(UINT64_MAX - 1, 1, UINT64_MAX, 1));
}

static void checked_sums_say_when_they_overflow(void **state)
{
	uint64_t r;

	(void)state;
	assert_true(add_fits(UINT64_MAX - 1, 1, &r) && r == UINT64_MAX);
	assert_false(add_fits(UINT64_MAX, 1, &r));
	assert_false(mul_fits(1ull << 32, 1ull << 32, &r));
	assert_int_equal(div_ceil(UINT64_MAX, 2) == 1ull << 63, 1);
	assert_true(align_up(513, 512) == 1024 && align_down(513, 512) == 512);
}

static void impossible_sizes_get_no_memory(void **state)
{
	(void)state;
	assert_null(mem_zalloc(UINT64_MAX, 8));
	assert_null(mem_alloc(1ull << 62, 8));
	assert_null(mem_aligned(4096, UINT64_MAX));
}

static void long_error_sentences_are_cut_not_overrun(void **state)
{
	struct qcow2_error err;
	char big[3000];

	(void)state;
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	assert_int_equal(error_set(&err, -EIO, "%s", big), -EIO);
	assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
	error_prefix(&err, "where");
	assert_int_equal(strncmp(err.message, "where: xxx", 10), 0);
	assert_int_equal(error_errno(&err, -ENOENT, "open %s", "f"), -ENOENT);
	assert_string_equal(err.message, "open f: No such file or directory");
	error_at_guest(&err, 7);
	error_at_guest(&err, 8);
	assert_true(err.guest_off == 7 && err.host_off == QCOW2_NO_OFFSET);
	assert_int_equal(error_set(NULL, -EIO, "nobody listens"), -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_round_trip_at_odd_addresses),
		cmocka_unit_test(overlap_is_right_at_the_end_of_the_range),
		cmocka_unit_test(checked_sums_say_when_they_overflow),
		cmocka_unit_test(impossible_sizes_get_no_memory),
		cmocka_unit_test(long_error_sentences_are_cut_not_overrun),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
