/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "cli/size.h"

static void sizes_have_units_and_fractions(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} cases[] = {
		{"0", 0},
		{"1", 1},
		{"512", 512},
		{"010", 10},
		{"1b", 1},
		{"1B", 1},
		{"1k", 1024},
		{"1K", 1024},
		{"10M", 10485760},
		{"1.5G", 1610612736},
		{"1.5T", UINT64_C(1649267441664)},
		{"2P", UINT64_C(2251799813685248)},
		{"7E", UINT64_C(8070450532247928832)},
		{"1e", UINT64_C(1152921504606846976)},
		{"7.9E", UINT64_C(9108079886394091136)},
		{"0.1k", 102},
		{"0.0005k", 1},
		{"1.00001k", 1024},
		{"1.", 1},
		{"1.0", 1},
		{"1.0b", 1},
		{"1.G", 1073741824},
		{"+1G", 1073741824},
		{" 1G", 1073741824},
		{"0x1000", 4096},
		{"0X1e3", 483},
		{"0x10k", 16384},
		{"9223372036854775807", INT64_MAX},
		{"18446744073709551615", UINT64_MAX},
		{"15.5E", UINT64_C(17870283321406128128)},
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t bytes = 42;

		if (cli_size_parse(cases[i].text, &bytes) != 0 || bytes != cases[i].bytes)
			fail_msg("'%s' became %llu", cases[i].text, (unsigned long long)bytes);
	}
}

static void what_is_no_size_is_refused(void **state)
{
	static const char *const cases[] = {
		"",	" ",	"G",   "k1",	"1kB",	  "1GiB", "1GG", "1 G",	   "1G ", "1e3",
		"1.5",	"1.5b", ".5G", "1,5G",	"1_0",	  "0x",	  "0xg", "0x1.8k", "inf", "nan",
		"1e3k", "--1",	"+-1", "0.5b0", "1.5.5k", "1k\n", "١",	 "0x 1",   "-",	  "+",
	};
	uint64_t bytes;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (cli_size_parse(cases[i], &bytes) != -EINVAL)
			fail_msg("'%s' was taken", cases[i]);
}

static void sizes_below_zero_and_beyond_64_bits_are_out_of_range(void **state)
{
	static const char *const cases[] = {
		"-1",
		"-1G",
		"-0",
		"16E",
		"15.9999999999999999999E",
		"18446744073709551616",
		"16384P",
		"999999999999999999999",
		"99999999999999999999k",
		"0x10000000000000000",
	};
	uint64_t bytes;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (cli_size_parse(cases[i], &bytes) != -ERANGE)
			fail_msg("'%s' was not out of range", cases[i]);
}

static void numbers_keep_their_bounds(void **state)
{
	uint64_t n;

	(void)state;
	assert_int_equal(cli_number_parse("16", 1, 16, &n), 0);
	assert_int_equal(n, 16);
	assert_int_equal(cli_number_parse("0x10", 1, 16, &n), 0);
	assert_int_equal(n, 16);
	assert_int_equal(cli_number_parse("0", 1, 16, &n), -ERANGE);
	assert_int_equal(cli_number_parse("17", 1, 16, &n), -ERANGE);
	assert_int_equal(cli_number_parse("18446744073709551616", 0, UINT64_MAX, &n), -ERANGE);
	assert_int_equal(cli_number_parse("18446744073709551615", 0, UINT64_MAX, &n), 0);
	assert_int_equal(cli_number_parse("", 0, 16, &n), -EINVAL);
	assert_int_equal(cli_number_parse("4k", 0, 16, &n), -EINVAL);
	assert_int_equal(cli_number_parse("-1", 0, 16, &n), -EINVAL);
	assert_int_equal(cli_number_parse(" 1", 0, 16, &n), -EINVAL);
}

static void people_read_three_digits_in_the_next_unit_from_1000(void **state)
{
	char buf[CLI_SIZE_TEXT];

	(void)state;
	assert_string_equal(cli_size_human(buf, 0), "0 B");
	assert_string_equal(cli_size_human(buf, 999), "999 B");
	assert_string_equal(cli_size_human(buf, 1000), "0.977 KiB");
	assert_string_equal(cli_size_human(buf, 1024), "1 KiB");
	assert_string_equal(cli_size_human(buf, 1000448), "977 KiB");
	assert_string_equal(cli_size_human(buf, 1023488), "1e+03 KiB");
	assert_string_equal(cli_size_human(buf, 1024000), "0.977 MiB");
	assert_string_equal(cli_size_human(buf, 10188800), "9.72 MiB");
	assert_string_equal(cli_size_human(buf, 67108864), "64 MiB");
	assert_string_equal(cli_size_human(buf, UINT64_C(1098437885952)), "0.999 TiB");
	assert_string_equal(cli_size_human(buf, UINT64_MAX), "16 EiB");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_have_units_and_fractions),
		cmocka_unit_test(what_is_no_size_is_refused),
		cmocka_unit_test(sizes_below_zero_and_beyond_64_bits_are_out_of_range),
		cmocka_unit_test(numbers_keep_their_bounds),
		cmocka_unit_test(people_read_three_digits_in_the_next_unit_from_1000),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
