/* SPDX-License-Identifier: MIT */
/*
 * The argument of -l. The plain form is an id, or else a name; the long form names which, and with
 * both parts both must fit.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/keyval.h"
#include "image.h"
#include "snapshot_arg.h"

struct wanted {
	char *id, *name;
};

static int take(void *opaque, const char *key, const char *value)
{
	struct wanted *wanted = opaque;
	char **at = NULL;

	if (strcmp(key, "snapshot.id") == 0)
		at = &wanted->id;
	else if (strcmp(key, "snapshot.name") == 0)
		at = &wanted->name;
	if (!at || !value)
		return -EINVAL;
	free(*at);
	*at = strdup(value);
	return *at ? 0 : -ENOMEM;
}

static const struct qcow2_snapshot_info *find(const struct qcow2_info *info, const char *id,
					      const char *name)
{
	size_t i;

	for (i = 0; i < info->nsnapshots; i++) {
		const struct qcow2_snapshot_info *s = &info->snapshots[i];

		if ((!id || strcmp(s->id, id) == 0) && (!name || strcmp(s->name, name) == 0))
			return s;
	}
	return NULL;
}

static int find_in_file(const char *path, const char *format, unsigned flags, const char *text,
			const struct wanted *wanted, char **id)
{
	const struct qcow2_snapshot_info *found;
	struct qcow2_image *image = NULL;
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct qcow2_error err = {0};
	int rc = tool_open(&image, path, format, NULL, flags | QCOW2_OPEN_INFO);

	if (rc < 0)
		return rc;
	rc = qcow2_info(image, &info, &err);
	if (rc < 0) {
		tool_explain(&err, NULL);
		goto out;
	}
	if (wanted->id || wanted->name) {
		found = find(&info, wanted->id, wanted->name);
	} else {
		found = find(&info, text, NULL);
		if (!found)
			found = find(&info, NULL, text);
	}
	rc = -ENOENT;
	if (!found) {
		cli_error("\"%s\" has no snapshot '%s' ('qcow2 info' lists them)", path, text);
		goto out;
	}
	*id = strdup(found->id);
	rc = *id ? 0 : -ENOMEM;
	if (rc < 0)
		cli_error("out of memory");
out:
	qcow2_close(image);
	return rc;
}

int tool_find_snapshot(const char *path, const char *format, unsigned flags, const char *text,
		       char **id)
{
	struct wanted wanted = {NULL, NULL};
	int rc = 0;

	if (strncmp(text, "snapshot.", 9) == 0)
		rc = cli_keyval_each(text, take, &wanted);
	if (rc == -ENOMEM)
		cli_error("out of memory");
	else if (rc < 0)
		cli_error("-l: '%s' is not a snapshot's id or name, nor "
			  "snapshot.id=ID,snapshot.name=NAME",
			  text);
	else
		rc = find_in_file(path, format, flags, text, &wanted, id);
	free(wanted.id);
	free(wanted.name);
	return rc;
}
