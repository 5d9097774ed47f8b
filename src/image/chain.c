/* SPDX-License-Identifier: MIT */
/*
 * Following references: from a name that is written in an image to a file that may be opened.
 *
 * A name is a stranger's word. Only plain local file names are understood ("file:" in front of one
 * is taken off); pseudo-names with options and other protocols are refused by name.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "image/image.h"

const struct qcow2_policy image_policy_local = {
	.struct_size = sizeof(struct qcow2_policy),
	.follow = QCOW2_FOLLOW_LOCAL,
};

/* Length of the protocol in front of a name ("nbd" of "nbd://x"), 0 if it is a plain one. */
static size_t protocol_len(const char *name)
{
	size_t n = strcspn(name, ":/");

	return name[n] == ':' ? n : 0;
}

int image_resolve_name(const char *overlay_path, const char *name, char **path,
		       struct qcow2_error *err)
{
	size_t proto = protocol_len(name);
	const char *slash;
	size_t dir_len;

	*path = NULL;
	if (strncmp(name, "file:", 5) == 0) {
		name += 5;
	} else if (proto || name[0] == ':') {
		return error_set(err, -EPERM,
				 "the name \"%s\" isn't that of a local file, and "
				 "nothing else is followed (write ./%s if it is one)",
				 name, name);
	}
	if (name[0] == '\0')
		return error_set(err, -EINVAL, "an empty file name");
	if (name[0] == '/') {
		*path = mem_strdup(name);
		return *path ? 0 : error_errno(err, -ENOMEM, "can't resolve \"%s\"", name);
	}
	if (!overlay_path)
		return error_set(err, -EINVAL,
				 "\"%s\" is relative to an image without a place of "
				 "its own",
				 name);
	slash = strrchr(overlay_path, '/');
	dir_len = slash ? (size_t)(slash - overlay_path) + 1 : 0;
	*path = mem_alloc(dir_len + strlen(name) + 1, 1);
	if (!*path)
		return error_errno(err, -ENOMEM, "can't resolve \"%s\"", name);
	memcpy(*path, overlay_path, dir_len);
	memcpy(*path + dir_len, name, strlen(name) + 1);
	return 0;
}

static bool is_below(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	if (strcmp(dir, "/") == 0)
		return true;
	return strncmp(path, dir, len) == 0 && path[len] == '/';
}

int image_check_dirs(const struct qcow2_policy *policy, const char *path, struct qcow2_error *err)
{
	char real[PATH_MAX];
	char dir[PATH_MAX];

	if (!policy->dirs)
		return 0;
	if (!realpath(path, real))
		return error_errno(err, -errno, "can't find \"%s\"", path);
	for (const char *const *d = policy->dirs; *d; d++) {
		if (realpath(*d, dir) && is_below(real, dir))
			return 0;
	}
	return error_set(err, -EPERM, "\"%s\" lies outside the directories that may be used", real);
}
