/* SPDX-License-Identifier: MIT */
/* Objects. There is one kind, and its definition is checked so that a mistake is told early. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/keyval.h"
#include "names/object.h"

struct secret {
	bool has_type, has_id, has_data, has_file;
	struct qcow2_error *err;
};

static int take(void *opaque, const char *name, const char *value)
{
	static const char *const others[] = {"format", "keyid", "iv", NULL};
	struct secret *s = opaque;
	const char *const *other;

	if (!s->has_type && (!value || strcmp(name, "qom-type") == 0)) {
		const char *type = value ? value : name;

		s->has_type = true;
		return strcmp(type, "secret") == 0
			       ? 0
			       : names_reason(s->err, -EINVAL,
					      "Parameter 'qom-type' does not accept value '%s'",
					      type);
	}
	if (strcmp(name, "id") == 0)
		s->has_id = true;
	else if (strcmp(name, "data") == 0)
		s->has_data = true;
	else if (strcmp(name, "file") == 0)
		s->has_file = true;
	else
		for (other = others; !*other || strcmp(*other, name) != 0; other++)
			if (!*other)
				return names_reason(s->err, -EINVAL, "Parameter '%s' is unexpected",
						    name);
	return 0;
}

static int check_one(const char *definition, struct qcow2_error *err)
{
	struct secret s = {.err = err};
	int rc = cli_keyval_each(definition, take, &s);

	if (rc < 0)
		return err->message[0]
			       ? rc
			       : names_reason(err, rc, "'%s' defines no object", definition);
	if (!s.has_id)
		return names_reason(err, -EINVAL, "Parameter 'id' is missing");
	if (s.has_data && s.has_file)
		return names_reason(err, -EINVAL, "'file' and 'data' are mutually exclusive");
	if (!s.has_data && !s.has_file)
		return names_reason(err, -EINVAL, "Must provide 'file' or 'data'");
	return 0;
}

int names_check_objects(const struct cli_list *objects, struct qcow2_error *err)
{
	size_t i;
	int rc = 0;

	err->message[0] = 0;
	for (i = 0; rc == 0 && i < objects->n; i++)
		rc = check_one(objects->items[i], err);
	return rc;
}

int names_take_objects(char **words, int *n, int failure)
{
	static const char name[] = "--object";
	struct qcow2_error err = {0};
	int from, to = 0;

	for (from = 0; from < *n; from++) {
		const char *word = words[from], *definition = NULL;

		if (strcmp(word, "--") == 0)
			break;
		if (strcmp(word, name) == 0) {
			if (from + 1 == *n)
				return cli_usage(NULL, "missing argument for option '%s'", name);
			definition = words[++from];
		} else if (strncmp(word, "--object=", strlen("--object=")) == 0) {
			definition = word + strlen("--object=");
		}
		if (!definition) {
			words[to++] = words[from];
		} else if (check_one(definition, &err) < 0) {
			cli_error("%s", err.message);
			return failure;
		}
	}
	while (from < *n)
		words[to++] = words[from++];
	words[to] = NULL;
	*n = to;
	return 0;
}
