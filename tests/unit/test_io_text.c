/* SPDX-License-Identifier: MIT */
/*
 * The figures of the shell's reports. What is expected here is what qemu-io printed for requests
 * whose time was made up.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/text.h"

static char *report(uint64_t len, uint64_t ns)
{
	char *text = calloc(1, 256);
	FILE *f = text ? fmemopen(text, 256, "w") : NULL;

	assert_non_null(f);
	io_print_report(f, "read", 5, len, ns);
	fclose(f);
	return text;
}

static void figures_line_is(uint64_t len, uint64_t ns, const char *expected)
{
	char *text = report(len, ns), *line = strchr(text, '\n') + 1;

	line[strcspn(line, "\n")] = 0;
	assert_string_equal(line, expected);
	free(text);
}

static void the_first_line_says_what_was_done(void **state)
{
	char *text = report(1025, 1000);

	(void)state;
	assert_memory_equal(text, "read 1025/1025 bytes at offset 5\n", 33);
	free(text);
}

static void rates_have_units_and_lose_zeros(void **state)
{
	(void)state;
	figures_line_is(1, 0, "1 bytes, 1 ops; 00.00 sec (inf EiB/sec and inf ops/sec)");
	figures_line_is(1, 1,
			"1 bytes, 1 ops; 00.00 sec (953.674 MiB/sec and 1000000000.0000 "
			"ops/sec)");
	figures_line_is(10 << 20, 1,
			"10 MiB, 1 ops; 00.00 sec (9.313 PiB/sec and "
			"1000000000.0000 ops/sec)");
	figures_line_is(1025, 999,
			"1.001 KiB, 1 ops; 00.00 sec (978.495 MiB/sec and "
			"1001001.0010 ops/sec)");
	figures_line_is(1, 4999999,
			"1 bytes, 1 ops; 00.00 sec (200 bytes/sec and 200.0000 "
			"ops/sec)");
	figures_line_is(1000, 4999999,
			"1000 bytes, 1 ops; 00.00 sec (195.313 KiB/sec and "
			"200.0000 ops/sec)");
	figures_line_is(1000, 5000000,
			"1000 bytes, 1 ops; 00.01 sec (195.312 KiB/sec and "
			"200.0000 ops/sec)");
	figures_line_is(10 << 20, 9999999,
			"10 MiB, 1 ops; 00.01 sec (1000 MiB/sec and 100.0000 "
			"ops/sec)");
	figures_line_is(1, 14999999,
			"1 bytes, 1 ops; 00.01 sec (66.666671 bytes/sec and 66.6667 "
			"ops/sec)");
	figures_line_is(1048575, 994999999,
			"1023.999 KiB, 1 ops; 00.99 sec (1.005 MiB/sec and "
			"1.0050 ops/sec)");
}

static void times_from_a_second_on_have_hours(void **state)
{
	(void)state;
	figures_line_is(1, 999999999, "1 bytes, 1 ops; 01.00 sec (1 bytes/sec and 1.0000 ops/sec)");
	figures_line_is(1, 1000000000,
			"1 bytes, 1 ops; 0:00:01.00 (1 bytes/sec and 1.0000 "
			"ops/sec)");
	figures_line_is(1, 61234567890,
			"1 bytes, 1 ops; 0:01:01.23 (0.016331 bytes/sec and 0.0163 "
			"ops/sec)");
	figures_line_is(1, 3599999999999,
			"1 bytes, 1 ops; 0:59:60.00 (0 bytes/sec and 0.0003 "
			"ops/sec)");
	figures_line_is(1, 3661500000000,
			"1 bytes, 1 ops; 1:01:01.50 (0 bytes/sec and 0.0003 "
			"ops/sec)");
	figures_line_is(1, 360000000000000,
			"1 bytes, 1 ops; 100:00:00.00 (0 bytes/sec and 0.0000 "
			"ops/sec)");
}

static void machines_get_one_line_with_all_of_the_time(void **state)
{
	static const struct {
		uint64_t len, ns;
		const char *expected;
	} cases[] = {
		{512, 0, "512,1,0:00:00.00,inf,inf\n"},
		{512, 999, "512,1,0:00:00.00,512512512.513,1001001.001\n"},
		{10 << 20, 5000000, "10485760,1,0:00:00.01,2097152000.000,200.000\n"},
		{512, 3661500000000, "512,1,1:01:01.50,0.140,0.000\n"},
	};
	size_t i, size;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *text = NULL;
		FILE *f = open_memstream(&text, &size);

		assert_non_null(f);
		io_print_figures(f, cases[i].len, cases[i].ns);
		fclose(f);
		assert_string_equal(text, cases[i].expected);
		free(text);
	}
}

static void dumps_keep_offsets_beyond_32_bits(void **state)
{
	static const uint8_t bytes[17] = "Hello, world! \x7f\xff";
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	(void)state;
	assert_non_null(f);
	io_print_dump(f, bytes, sizeof(bytes), 0x123456789f);
	fclose(f);
	assert_string_equal(text, "123456789f:  48 65 6c 6c 6f 2c 20 77 6f 72 6c 64 21 20 7f ff "
				  " Hello..world....\n12345678af:  00  .\n");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_line_says_what_was_done),
		cmocka_unit_test(rates_have_units_and_lose_zeros),
		cmocka_unit_test(times_from_a_second_on_have_hours),
		cmocka_unit_test(machines_get_one_line_with_all_of_the_time),
		cmocka_unit_test(dumps_keep_offsets_beyond_32_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
