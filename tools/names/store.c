/* SPDX-License-Identifier: MIT */
/*
 * Stores from options. A node is opened when all below it are; what it doesn't know is refused
 * then, in QEMU's words. A name with a protocol in front stands for options of its own.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/diag.h"
#include "cli/size.h"
#include "names/store.h"

#define DEPTH_MAX 16
#define PREFIX_MAX 256
#define NULL_SIZE ((uint64_t)1 << 30)
#define SECTOR 512

static const char *const protocols[] = {"file", "host_device", "null-co", "blkdebug", NULL};

static bool is_nbd(const char *word, size_t len)
{
	return (len == 3 && strncmp(word, "nbd", 3) == 0) ||
	       (len > 4 && strncmp(word, "nbd+", 4) == 0);
}

bool names_is_protocol(const char *driver)
{
	const char *const *p;

	for (p = protocols; *p; p++)
		if (strcmp(*p, driver) == 0)
			return true;
	return is_nbd(driver, strlen(driver));
}

int names_size_option(struct names_options *o, const char *prefix, const char *name, uint64_t *size,
		      struct qcow2_error *err)
{
	const char *value = names_options_get(o, prefix, name);

	*size = 0;
	if (!value || cli_size_parse(value, size) == 0)
		return 0;
	return names_reason(err, -EINVAL,
			    "Parameter '%s' expects a non-negative number below 2^64\n"
			    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, "
			    "peta-\nand exabytes, respectively.",
			    name);
}

/* Options that every node has and that change nothing here. */
static void take_common(struct names_stores *s, const char *prefix)
{
	static const char *const names[] = {
		"aio",	   "node-name",	    "read-only",    "auto-read-only", "force-share",
		"discard", "detect-zeroes", "cache.direct", "cache.no-flush", NULL};
	const char *const *name;

	for (name = names; *name; name++)
		names_options_get(s->options, prefix, *name);
}

static int refuse_unused(const struct names_stores *s, const char *prefix, const char *driver,
			 struct qcow2_error *err)
{
	const char *name = names_options_unused(s->options, prefix);

	if (!name)
		return 0;
	return names_reason(err, -EINVAL,
			    strcmp(driver, "raw") == 0
				    ? "Block format '%s' does not support the option '%s'"
				    : "Block protocol '%s' doesn't support the option '%s'",
			    driver, name + strlen(prefix));
}

static int note_path(struct names_stores *s, const char *path, struct qcow2_error *err)
{
	free(s->path);
	s->path = strdup(path);
	return s->path ? 0 : names_reason(err, -ENOMEM, "out of memory");
}

static int open_file(struct names_stores *s, const char *prefix, const char *driver,
		     const char *filename, struct qcow2_storage *storage, struct qcow2_error *err)
{
	const char *locking = names_options_get(s->options, prefix, "locking");
	int rc;

	/* of an empty name the library has a sentence */
	if (!filename)
		return names_reason(err, -EINVAL, "The '%s' block driver requires a file name",
				    driver);
	if (locking && strcmp(locking, "off") == 0)
		s->no_lock = true;
	else if (locking && strcmp(locking, "on") != 0 && strcmp(locking, "auto") != 0)
		return names_reason(err, -EINVAL, "invalid parameter value: %s", locking);
	rc = note_path(s, filename, err);
	return rc < 0 ? rc : qcow2_storage_file(storage, filename, s->flags, err);
}

/* Who says which of the two it is has to be right; a name alone may be either's. */
static int check_kind(const char *driver, const char *filename, struct qcow2_error *err)
{
	bool device = strcmp(driver, "host_device") == 0;
	struct stat st;

	if (!filename || stat(filename, &st) != 0)
		return 0; /* of that there is a sentence */
	if (device && !S_ISBLK(st.st_mode) && !S_ISCHR(st.st_mode))
		return names_reason(
			err, -EINVAL,
			"'%s' driver requires '%s' to be either a character or block device",
			driver, filename);
	if (!device && !S_ISREG(st.st_mode))
		return names_reason(err, -EINVAL, "'%s' driver requires '%s' to be a regular file",
				    driver, filename);
	return 0;
}

static int open_null(struct names_stores *s, const char *prefix, struct qcow2_storage *storage,
		     struct qcow2_error *err)
{
	const char *zeroes = names_options_get(s->options, prefix, "read-zeroes");
	uint64_t size = 0, latency;
	int rc = names_size_option(s->options, prefix, "size", &size, err);

	if (rc == 0)
		rc = names_size_option(s->options, prefix, "latency-ns", &latency, err);
	if (rc == 0)
		rc = note_path(s, "null-co://", err);
	if (rc < 0)
		return rc;
	return qcow2_storage_null(storage, size ? size : NULL_SIZE,
				  zeroes && strcmp(zeroes, "on") == 0, err);
}

static int open_node(struct names_stores *s, const char *prefix, const char *filename,
		     unsigned depth, struct qcow2_storage *storage, struct qcow2_error *err);

static int open_debug(struct names_stores *s, const char *prefix, const char *config,
		      const char *image, unsigned depth, struct qcow2_storage *storage,
		      struct qcow2_error *err)
{
	struct qcow2_storage lower;
	char below[PREFIX_MAX];
	int rc;

	if (snprintf(below, sizeof(below), "%simage.", prefix) >= (int)sizeof(below))
		return names_reason(err, -EINVAL, "nodes are nested too deeply");
	if (!config)
		config = names_options_get(s->options, prefix, "config");
	rc = open_node(s, below, image, depth + 1, &lower, err);
	return rc < 0 ? rc : names_debug_open(s, prefix, config, lower, storage, err);
}

/* "blkdebug:CONF:IMAGE" */
static int open_debug_name(struct names_stores *s, const char *prefix, const char *name,
			   unsigned depth, struct qcow2_storage *storage, struct qcow2_error *err)
{
	const char *colon = strchr(name, ':');
	char *config;
	int rc;

	if (!colon)
		return names_reason(err, -EINVAL,
				    "blkdebug requires both config file and image path");
	config = strndup(name, (size_t)(colon - name));
	if (!config)
		return names_reason(err, -ENOMEM, "out of memory");
	rc = open_debug(s, prefix, config, colon + 1, depth, storage, err);
	free(config);
	return rc;
}

/* By the protocol in front of the name; *driver is what it turned out to be. */
static int open_name(struct names_stores *s, const char *prefix, const char *name, unsigned depth,
		     const char **driver, struct qcow2_storage *storage, struct qcow2_error *err)
{
	size_t len = strcspn(name, ":/");

	*driver = "file";
	if (name[len] != ':' || len == 0)
		return open_file(s, prefix, *driver, name, storage, err);
	if (strncmp(name, "file:", 5) == 0)
		return open_file(s, prefix, *driver, name + 5, storage, err);
	if (strncmp(name, "blkdebug:", 9) == 0) {
		*driver = "blkdebug";
		return open_debug_name(s, prefix, name + 9, depth, storage, err);
	}
	if (strncmp(name, "null-co:", 8) == 0) {
		*driver = "null-co";
		return open_null(s, prefix, storage, err);
	}
	if (is_nbd(name, len))
		return names_reason(err, -ENOTSUP,
				    "\"%s\": images that an NBD server has aren't supported yet",
				    name);
	/* of our own names any other is a file's */
	if (strcmp(cli_program(), "qcow2") != 0)
		return names_reason(err, -EINVAL, "Unknown protocol '%.*s'", (int)len, name);
	return open_file(s, prefix, *driver, name, storage, err);
}

/* A raw image as the store of another: a part of what is below, or all of it. */
static int open_raw(struct names_stores *s, const char *prefix, const char *filename,
		    unsigned depth, struct qcow2_storage *storage, struct qcow2_error *err)
{
	bool has_size = names_options_get(s->options, prefix, "size");
	uint64_t offset = 0, size = 0;
	struct qcow2_storage lower;
	char below[PREFIX_MAX];
	int rc;

	if (snprintf(below, sizeof(below), "%sfile.", prefix) >= (int)sizeof(below))
		return names_reason(err, -EINVAL, "nodes are nested too deeply");
	rc = names_size_option(s->options, prefix, "offset", &offset, err);
	if (rc == 0)
		rc = names_size_option(s->options, prefix, "size", &size, err);
	if (rc == 0 && size % SECTOR)
		rc = names_reason(err, -EINVAL, "Specified size is not multiple of %d", SECTOR);
	if (rc == 0)
		rc = open_node(s, below, filename, depth + 1, &lower, err);
	if (rc < 0)
		return rc;
	if (offset == 0 && !has_size) {
		*storage = lower;
		return 0;
	}
	return qcow2_storage_slice(storage, lower, offset, has_size ? size : UINT64_MAX, err);
}

static int open_driver(struct names_stores *s, const char *prefix, const char *driver,
		       const char *filename, unsigned depth, struct qcow2_storage *storage,
		       struct qcow2_error *err)
{
	if (strcmp(driver, "file") == 0 || strcmp(driver, "host_device") == 0)
		return check_kind(driver, filename, err) < 0
			       ? err->code
			       : open_file(s, prefix, driver, filename, storage, err);
	if (strcmp(driver, "null-co") == 0)
		return open_null(s, prefix, storage, err);
	if (strcmp(driver, "blkdebug") == 0)
		return open_debug(s, prefix, NULL, NULL, depth, storage, err);
	if (is_nbd(driver, strlen(driver)))
		return names_reason(err, -ENOTSUP,
				    "images that an NBD server has aren't supported yet");
	if (strcmp(driver, "raw") == 0)
		return open_raw(s, prefix, filename, depth, storage, err);
	if (strcmp(driver, "qcow2") == 0)
		return names_reason(err, -ENOTSUP, "a '%s' image in another image isn't supported",
				    driver);
	return names_reason(err, -EINVAL, "Unknown driver '%s'", driver);
}

/* "A block device must be specified", or a reference to a node by its name. */
static int no_node(struct names_stores *s, const char *prefix, struct qcow2_error *err)
{
	char role[PREFIX_MAX];
	const char *node;

	snprintf(role, sizeof(role), "%.*s", (int)strlen(prefix) - 1, prefix);
	node = names_options_get(s->options, "", role);
	if (node)
		return names_reason(err, -ENODEV, "Cannot find device='%s' nor node-name='%s'",
				    node, node);
	if (names_options_any(s->options, prefix))
		return names_reason(err, -EINVAL, "Must specify either driver or file");
	return names_reason(err, -EINVAL, "A block device must be specified for \"%s\"",
			    strrchr(role, '.') ? strrchr(role, '.') + 1 : role);
}

static int open_node(struct names_stores *s, const char *prefix, const char *filename,
		     unsigned depth, struct qcow2_storage *storage, struct qcow2_error *err)
{
	const char *driver = names_options_get(s->options, prefix, "driver");
	int rc;

	*storage = (struct qcow2_storage){0};
	if (depth > DEPTH_MAX)
		return names_reason(err, -EINVAL, "nodes are nested too deeply");
	if (!filename)
		filename = names_options_get(s->options, prefix, "filename");
	take_common(s, prefix);
	if (driver)
		rc = open_driver(s, prefix, driver, filename, depth, storage, err);
	else if (filename)
		rc = open_name(s, prefix, filename, depth, &driver, storage, err);
	else
		rc = no_node(s, prefix, err);
	/* without a prefix it is the top, whose other options are looked at later */
	if (rc == 0 && *prefix)
		rc = refuse_unused(s, prefix, driver, err);
	if (rc < 0)
		qcow2_storage_close(storage);
	return rc;
}

int names_store_open(struct names_stores *s, const char *prefix, const char *filename,
		     struct qcow2_storage *storage, struct qcow2_error *err)
{
	return open_node(s, prefix, filename, 0, storage, err);
}
