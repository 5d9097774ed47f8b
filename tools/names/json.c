/* SPDX-License-Identifier: MIT */
/*
 * JSON objects as options, read by json-c. What it allows beyond the standard is off, but for
 * single quotes, which QEMU has too. Nesting is limited: names grow with it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "names/options.h"

#ifdef QCOW2_HAVE_JSON

#include <json.h>

#define DEPTH_MAX 32
#define NAME_MAX_LEN 1024

struct walk {
	int (*take)(void *opaque, const char *name, const char *value);
	void *opaque;
	struct qcow2_error *err;
};

static int walk_value(const struct walk *w, const char *name, struct json_object *value);

static int walk_member(const struct walk *w, const char *above, const char *key,
		       struct json_object *value)
{
	char name[NAME_MAX_LEN];
	int len = snprintf(name, sizeof(name), "%s%s%s", above, *above ? "." : "", key);

	if (len < 0 || (size_t)len >= sizeof(name))
		return names_reason(w->err, -EINVAL,
				    "Could not parse the JSON options: the name of a member is "
				    "too long");
	return walk_value(w, name, value);
}

static int walk_array(const struct walk *w, const char *name, struct json_object *array)
{
	size_t i, n = json_object_array_length(array);
	char index[32];
	int rc = 0;

	for (i = 0; rc == 0 && i < n; i++) {
		snprintf(index, sizeof(index), "%zu", i);
		rc = walk_member(w, name, index, json_object_array_get_idx(array, i));
	}
	return rc;
}

/* Depth is bounded by the parser. */
static int walk_value(const struct walk *w, const char *name, struct json_object *value)
{
	struct json_object_iterator it, end;
	int rc = 0;

	switch (json_object_get_type(value)) {
	case json_type_object:
		it = json_object_iter_begin(value);
		end = json_object_iter_end(value);
		for (; rc == 0 && !json_object_iter_equal(&it, &end); json_object_iter_next(&it))
			rc = walk_member(w, name, json_object_iter_peek_name(&it),
					 json_object_iter_peek_value(&it));
		return rc;
	case json_type_array:
		return walk_array(w, name, value);
	case json_type_null:
		return w->take(w->opaque, name, NULL);
	case json_type_boolean:
		return w->take(w->opaque, name, json_object_get_boolean(value) ? "on" : "off");
	case json_type_double:
	case json_type_int:
	case json_type_string:
		return w->take(w->opaque, name, json_object_get_string(value));
	}
	return 0;
}

int names_json_each(const char *text,
		    int (*take)(void *opaque, const char *name, const char *value), void *opaque,
		    struct qcow2_error *err)
{
	struct walk w = {.take = take, .opaque = opaque, .err = err};
	struct json_tokener *tok = json_tokener_new_ex(DEPTH_MAX);
	struct json_object *object;
	enum json_tokener_error why;
	int rc;

	if (!tok)
		return names_reason(err, -ENOMEM, "out of memory");
	json_tokener_set_flags(tok, JSON_TOKENER_STRICT);
	object = json_tokener_parse_ex(tok, text, (int)strlen(text) + 1);
	why = json_tokener_get_error(tok);
	if (!text[strspn(text, " \t\r\n")])
		rc = names_reason(err, -EINVAL,
				  "Could not parse the JSON options: Expecting a JSON value");
	else if (why == json_tokener_continue || why == json_tokener_error_parse_eof)
		rc = names_reason(err, -EINVAL,
				  "Could not parse the JSON options: JSON parse error, premature "
				  "EOI");
	else if (why != json_tokener_success)
		rc = names_reason(err, -EINVAL, "Could not parse the JSON options: %s",
				  json_tokener_error_desc(why));
	else if (!json_object_is_type(object, json_type_object))
		rc = names_reason(err, -EINVAL, "Invalid JSON object given");
	else
		rc = walk_value(&w, "", object);
	json_object_put(object);
	json_tokener_free(tok);
	return rc;
}

#else

int names_json_each(const char *text,
		    int (*take)(void *opaque, const char *name, const char *value), void *opaque,
		    struct qcow2_error *err)
{
	(void)text;
	(void)take;
	(void)opaque;
	return names_reason(err, -ENOTSUP,
			    "json: names aren't supported: this program was built without json-c");
}

#endif
