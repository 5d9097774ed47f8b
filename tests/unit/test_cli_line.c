/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <stdlib.h>

#include "cli/line.h"

static void assert_as_printf(uint64_t value)
{
	char ours[CLI_U64_DIGITS + 1], theirs[CLI_U64_DIGITS + 1];

	memset(ours, 'x', sizeof(ours));
	ours[cli_u64_text(ours, value)] = '\0';
	snprintf(theirs, sizeof(theirs), "%" PRIu64, value);
	assert_string_equal(ours, theirs);
}

static void numbers_are_those_of_printf(void **state)
{
	uint64_t power = 1;

	(void)state;
	for (uint64_t value = 0; value <= 10100; value++)
		assert_as_printf(value);
	for (int i = 0; i < 20; i++, power *= 10) {
		assert_as_printf(power - 1);
		assert_as_printf(power);
		assert_as_printf(power + 1);
	}
	for (int bit = 0; bit < 64; bit++) {
		assert_as_printf(UINT64_C(1) << bit);
		assert_as_printf(UINT64_MAX >> bit);
	}
}

static void a_line_is_written_once_and_empty_again(void **state)
{
	struct cli_line line = {.len = 0};
	size_t size;
	char *out;
	FILE *f = open_memstream(&out, &size);

	(void)state;
	cli_line_text(&line, "a=");
	cli_line_u64(&line, UINT64_MAX);
	cli_line_text(&line, "");
	cli_line_text(&line, "\n");
	cli_line_write(&line, f);
	assert_int_equal(line.len, 0);
	cli_line_u64(&line, 0);
	cli_line_write(&line, f);
	cli_line_write(&line, f);
	fclose(f);
	assert_string_equal(out, "a=18446744073709551615\n0");
	free(out);
}

static void a_line_may_be_full_to_the_last_byte(void **state)
{
	struct cli_line line = {.len = CLI_LINE_SIZE - CLI_U64_DIGITS};

	(void)state;
	cli_line_u64(&line, UINT64_MAX);
	assert_int_equal(line.len, CLI_LINE_SIZE);
	assert_memory_equal(line.text + CLI_LINE_SIZE - 3, "615", 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_those_of_printf),
		cmocka_unit_test(a_line_is_written_once_and_empty_again),
		cmocka_unit_test(a_line_may_be_full_to_the_last_byte),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
