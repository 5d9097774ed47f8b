/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/guess.h"
#include "cli/keyval.h"
#include "cli/out.h"
#include "cli/utf8.h"

/* A stream into memory, and what came out of it. */
static char *written;
static size_t written_size;

static FILE *stream(void)
{
	return open_memstream(&written, &written_size);
}

static void assert_written(FILE *f, const char *expected)
{
	fclose(f);
	assert_string_equal(written, expected);
	free(written);
	written = NULL;
}

static void json_strings_are_escaped(void **state)
{
	/* what qemu-img printed for the same bytes */
	static const struct {
		const char *text, *json;
	} cases[] = {
		{"", "\"\""},
		{"a'b<>&/", "\"a'b<>&/\""},
		{"\"\\", "\"\\\"\\\\\""},
		{"\b\f\n\r\t\v\x01\x1b\x7f", "\"\\b\\f\\n\\r\\t\\u000B\\u0001\\u001B\\u007F\""},
		{"\xc3\xa9\xc2\x85", "\"\\u00E9\\u0085\""},
		{"\xf0\x9f\x98\x80", "\"\\uD83D\\uDE00\""},
		{"\xf4\x8f\xbf\xbd", "\"\\uDBFF\\uDFFD\""},
		{"\xff\xfe", "\"\\uFFFD\\uFFFD\""},
		{"a\xe2\x82"
		 "b",
		 "\"a\\uFFFDb\""},
		{"\xf0\x9f\x98", "\"\\uFFFD\""},
		{"\xed\xa0\x80", "\"\\uFFFD\""},
		{"\xf4\x90\x80\x80", "\"\\uFFFD\""},
		{"\xf8\x88\x80\x80\x80", "\"\\uFFFD\""},
		{"\xef\xbf\xbe\xef\xbf\xbf\xef\xb7\x90", "\"\\uFFFD\\uFFFD\\uFFFD\""},
		{"\xc0\x80", "\"\\u0000\""},
		{"\xc1\x81\xe0\x80\x80", "\"\\uFFFD\\uFFFD\""},
		{"\x80", "\"\\uFFFD\""},
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		FILE *f = stream();

		cli_json_put(f, cases[i].text);
		assert_written(f, cases[i].json);
	}
}

static void terminals_get_no_control_characters(void **state)
{
	FILE *f = stream();

	(void)state;
	cli_text_put(f, "plain \xc3\xa9 \xf0\x9f\x98\x80 \\");
	cli_text_put(f, "\x1b[2J\r\n\x7f\xc2\x9b|\xe2\x80\xae|\xe2\x81\xa6|\xff\xe2\x82|\xc0\x80");
	assert_written(f,
		       "plain \xc3\xa9 \xf0\x9f\x98\x80 \\"
		       "\\x1b[2J\\x0d\\x0a\\x7f\\u009b|\\u202e|\\u2066|\\xff\\xe2\\x82|\\xc0\\x80");
}

static void long_text_is_cut_at_a_whole_character(void **state)
{
	char buf[12];

	(void)state;
	assert_string_equal(cli_text_safe(buf, sizeof(buf), "abcdefghijk"), "abcdefghijk");
	assert_string_equal(cli_text_safe(buf, sizeof(buf), "abcdefghijkl"), "abcdefgh...");
	assert_string_equal(cli_text_safe(buf, sizeof(buf), "abcdefg\xc3\xa9jkl"), "abcdefg...");
	assert_string_equal(cli_text_safe(buf, sizeof(buf), "\x1b\x1b\x1b"), "\\x1b\\x1b...");
	assert_string_equal(cli_text_safe(buf, 1, "abc"), "");
	assert_string_equal(cli_text_safe(buf, 2, "abc"), "a");
	assert_string_equal(cli_text_safe(buf, sizeof(buf), ""), "");
}

static void put_tree(struct cli_out *out)
{
	cli_out_open(out, NULL, '{');
	cli_out_string(out, "a-name", "x");
	cli_out_open(out, "none", '[');
	cli_out_close(out);
	cli_out_open(out, "list", '[');
	cli_out_u64(out, NULL, UINT64_MAX);
	cli_out_open(out, NULL, '{');
	cli_out_i64(out, "i", -1);
	cli_out_bool(out, "b", true);
	cli_out_close(out);
	cli_out_close(out);
	cli_out_close(out);
}

static void text_and_json_come_from_the_same_calls(void **state)
{
	struct cli_out out;
	FILE *f = stream();

	(void)state;
	cli_out_init(&out, f, true);
	put_tree(&out);
	assert_written(f, "{\n"
			  "    \"a-name\": \"x\",\n"
			  "    \"none\": [\n"
			  "    ],\n"
			  "    \"list\": [\n"
			  "        18446744073709551615,\n"
			  "        {\n"
			  "            \"i\": -1,\n"
			  "            \"b\": true\n"
			  "        }\n"
			  "    ]\n"
			  "}\n");
	f = stream();
	cli_out_init(&out, f, false);
	put_tree(&out);
	assert_written(f, "a name: x\n"
			  "none:\n"
			  "list:\n"
			  "    [0]: 18446744073709551615\n"
			  "    [1]:\n"
			  "        i: -1\n"
			  "        b: true\n");
}

static int note(void *opaque, const char *name, const char *value)
{
	fprintf(opaque, "(%s|%s)", name, value ? value : "none");
	return strcmp(name, "stop") == 0 ? 7 : 0;
}

static int split(const char *list, const char *expected)
{
	FILE *f = stream();
	int rc = cli_keyval_each(list, note, f);

	assert_written(f, expected);
	return rc;
}

static void a_doubled_comma_is_a_comma(void **state)
{
	FILE *f = stream();

	(void)state;
	assert_int_equal(split("a=1,b,c=x,,y,d=", "(a|1)(b|none)(c|x,y)(d|)"), 0);
	assert_int_equal(split("a=b=c", "(a|b=c)"), 0);
	assert_int_equal(split("a=,,", "(a|,)"), 0);
	assert_int_equal(split("a=,,,b=2", "(a|,)(b|2)"), 0);
	assert_int_equal(split("", ""), -EINVAL);
	assert_int_equal(split(",a=1", ""), -EINVAL);
	assert_int_equal(split("a=1,", "(a|1)"), -EINVAL);
	assert_int_equal(split("a,stop,b", "(a|none)(stop|none)"), 7);
	cli_keyval_put(f, "a,b,,\x1b");
	assert_written(f, "a,,b,,,,\\x1b");
}

static const char *guess(const char *typed)
{
	static const char *const names[] = {"create",	    "convert",	     "compare",
					    "info",	    "map",	     "dump",
					    "cluster_size", "refcount_bits", "force-share"};
	struct cli_guess g = {.typed = typed};
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		cli_guess_try(&g, names[i]);
	return g.best ? g.best : "";
}

static void typing_errors_are_guessed(void **state)
{
	(void)state;
	assert_string_equal(guess("covnert"), "convert");
	assert_string_equal(guess("creat"), "create");
	assert_string_equal(guess("nifo"), "info");
	assert_string_equal(guess("clustersize"), "cluster_size");
	assert_string_equal(guess("refcount-bits"), "refcount_bits");
	assert_string_equal(guess("force"), "force-share");
	assert_string_equal(guess("frobnicate"), "");
	assert_string_equal(guess("x"), "");
	assert_string_equal(guess(""), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json_strings_are_escaped),
		cmocka_unit_test(terminals_get_no_control_characters),
		cmocka_unit_test(long_text_is_cut_at_a_whole_character),
		cmocka_unit_test(text_and_json_come_from_the_same_calls),
		cmocka_unit_test(a_doubled_comma_is_a_comma),
		cmocka_unit_test(typing_errors_are_guessed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
