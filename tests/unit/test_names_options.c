/* SPDX-License-Identifier: MIT */
/* Lists of driver options: what is looked up counts as used, JSON becomes the same list. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "names/options.h"

static int take(void *opaque, const char *name, const char *value)
{
	return names_options_set(opaque, name, value);
}

static void test_what_is_looked_up_is_used(void **state)
{
	struct names_options o = {0}, copy;

	(void)state;
	assert_int_equal(names_options_set(&o, "file.a", "1"), 0);
	assert_int_equal(names_options_set(&o, "file.b", "2"), 0);
	assert_int_equal(names_options_set(&o, "file.a", "3"), 0);
	assert_int_equal(o.n, 2);
	assert_string_equal(names_options_get(&o, "file.", "a"), "3");
	assert_null(names_options_get(&o, "file.", "c"));
	assert_null(names_options_get(&o, "", "b"));
	assert_string_equal(names_options_unused(&o, "file."), "file.b");
	assert_null(names_options_unused(&o, "backing."));
	assert_true(names_options_any(&o, "file."));
	assert_false(names_options_any(&o, "files"));
	assert_int_equal(names_options_copy(&copy, &o), 0);
	assert_string_equal(names_options_unused(&copy, ""), "file.a");
	names_options_use(&copy, "file.");
	assert_null(names_options_unused(&copy, ""));
	names_options_release(&copy);
	names_options_release(&o);
}

static void test_json_becomes_a_flat_list(void **state)
{
	struct names_options o = {0};
	struct qcow2_error err = {0};
	int rc =
		names_json_each("{\"a\": {\"b\": [true, {\"c\": 7}]}, \"d\": null, \"e.f\": \"x\"}",
				take, &o, &err);

	(void)state;
	if (rc == -ENOTSUP) /* built without json-c */
		skip();
	assert_int_equal(rc, 0);
	assert_string_equal(names_options_get(&o, "a.b.", "0"), "on");
	assert_string_equal(names_options_get(&o, "a.b.1.", "c"), "7");
	assert_string_equal(names_options_get(&o, "e.", "f"), "x");
	assert_null(names_options_get(&o, "", "d"));
	assert_int_equal(o.n, 4);
	names_options_release(&o);
}

static void test_what_isnt_an_object_is_refused(void **state)
{
	static const char *const bad[] = {"", "[1]", "{", "1", "{\"a\":}", "{}{}", "{\"a\":1", "x"};
	struct names_options o = {0};
	struct qcow2_error err = {0};
	char deep[201];
	size_t i;

	(void)state;
	if (names_json_each("{}", take, &o, &err) == -ENOTSUP)
		skip();
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err.message[0] = 0;
		assert_int_equal(names_json_each(bad[i], take, &o, &err), -EINVAL);
		assert_true(err.message[0] != 0);
	}
	memset(deep, '[', sizeof(deep) - 1);
	deep[sizeof(deep) - 1] = 0;
	assert_int_equal(names_json_each(deep, take, &o, &err), -EINVAL);
	names_options_release(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_looked_up_is_used),
		cmocka_unit_test(test_json_becomes_a_flat_list),
		cmocka_unit_test(test_what_isnt_an_object_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
