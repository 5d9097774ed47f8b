/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "cli/words.h"

static const struct cli_words table[] = {
	{"info", "can't open \"*\": *", "Could not read '$1': $2", CLI_HINT_KEEP},
	{NULL, "can't open \"*\": *", "Could not open '$1': $2", CLI_HINT_KEEP},
	{NULL, "unknown option '*'; did you mean *", "unrecognized option '$1'", CLI_HINT_YES},
	{NULL, "unknown option '*'", "unrecognized option '$1'", CLI_HINT_YES},
	{NULL, "the size of this is *", "$@: $1$1", CLI_HINT_NO},
	{NULL, "because: *", "because ~1", CLI_HINT_KEEP},
	{CLI_WORDS_PART, "below: *", "beneath ~1", CLI_HINT_KEEP},
	{CLI_WORDS_PART, "it is *", "it's $1", CLI_HINT_KEEP},
	{NULL, "hush*", NULL, CLI_HINT_NO},
	{NULL, "1*2*3*4*5*6*7*8*9*a*", "too many", CLI_HINT_NO},
	{NULL, NULL, NULL, CLI_HINT_KEEP},
};

static const char *said(const char *verb, const char *sentence)
{
	static char buf[40];

	return cli_words_find(table, verb, "F", sentence, buf, sizeof(buf)) ? buf : NULL;
}

static void stars_stand_for_any_text_as_short_as_possible(void **state)
{
	(void)state;
	assert_string_equal(said(NULL, "can't open \"a\": No \"b\": c"),
			    "Could not open 'a': No \"b\": c");
	assert_string_equal(said(NULL, "can't open \"\": "), "Could not open '': ");
	assert_null(said(NULL, "can't open \"a\""));
	assert_null(said(NULL, "we can't open \"a\": b"));
	assert_null(said(NULL, ""));
}

static void the_first_row_of_the_verb_counts(void **state)
{
	(void)state;
	assert_string_equal(said("info", "can't open \"a\": b"), "Could not read 'a': b");
	assert_string_equal(said("map", "can't open \"a\": b"), "Could not open 'a': b");
	assert_string_equal(said("x", "unknown option '-a'; did you mean '-b'?"),
			    "unrecognized option '-a'");
	assert_string_equal(said("x", "unknown option '-a'"), "unrecognized option '-a'");
}

static void the_subject_has_a_letter_and_nothing_may_be_said(void **state)
{
	(void)state;
	assert_string_equal(said(NULL, "the size of this is 1"), "F: 11");
	assert_string_equal(said(NULL, "hush, little"), "");
	assert_null(said(NULL, "1 2 3 4 5 6 7 8 9 a b"));
}

static void parts_are_said_in_their_words_too(void **state)
{
	(void)state;
	assert_string_equal(said(NULL, "because: it is red"), "because it's red");
	assert_string_equal(said(NULL, "because: below: below: it is red"),
			    "because beneath beneath it's red");
	assert_string_equal(said(NULL, "because: hush"), "because hush");
	assert_null(said("info", "it is red"));
}

static void what_is_too_long_is_cut(void **state)
{
	char buf[8];

	(void)state;
	assert_non_null(cli_words_find(table, NULL, NULL, "unknown option 'x'", buf, sizeof(buf)));
	assert_string_equal(buf, "unrecog");
	assert_non_null(
		cli_words_find(table, NULL, NULL, "the size of this is 123456", buf, sizeof(buf)));
	assert_string_equal(buf, "1234561");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stars_stand_for_any_text_as_short_as_possible),
		cmocka_unit_test(the_first_row_of_the_verb_counts),
		cmocka_unit_test(the_subject_has_a_letter_and_nothing_may_be_said),
		cmocka_unit_test(parts_are_said_in_their_words_too),
		cmocka_unit_test(what_is_too_long_is_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
