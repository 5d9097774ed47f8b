/* SPDX-License-Identifier: MIT */
/*
 * Opening by a setup. The store comes first, then what the caller's options replace (backing file,
 * data file), then the format on top of it; what nobody asked for among the options is refused in
 * the end.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "names/open.h"
#include "names/store.h"

#define BACKING "backing."
#define DATA_FILE "data-file."
#define DEPTH_MAX 16
#define SECTOR 512

static bool is_format(const char *driver)
{
	return strcmp(driver, "qcow2") == 0 || strcmp(driver, "raw") == 0;
}

/* Is the uppermost node a store, as a raw disk? */
static bool is_store(const struct names_setup *s)
{
	return s->format && !is_format(s->format) && names_is_protocol(s->format);
}

static bool is_raw(const struct names_setup *s)
{
	return is_store(s) || (s->format && strcmp(s->format, "raw") == 0);
}

/* Drivers that stand on an image, and that we haven't got. */
static int check_filter(const struct names_setup *s, unsigned flags, struct qcow2_error *err)
{
	if (!s->format)
		return 0;
	if (strcmp(s->format, "copy-on-read") != 0 && strcmp(s->format, "compress") != 0)
		return 0;
	if (!names_options_any(&s->tree, "file") && !s->path)
		return names_reason(err, -EINVAL, "A block device must be specified for \"file\"");
	if (strcmp(s->format, "compress") == 0)
		return names_reason(err, -ENOTSUP,
				    "the driver 'compress' isn't supported: 'convert -c' and the "
				    "command 'write -c' of 'io' compress what they write");
	if (!(flags & QCOW2_OPEN_WRITE))
		return names_reason(err, -EACCES, "Block node is read-only");
	return names_reason(
		err, -ENOTSUP,
		"the driver 'copy-on-read' isn't supported: 'io -C' reads so, and 'rebase' "
		"copies a backing file into an image");
}

int names_check(const struct names_setup *s, unsigned flags, struct qcow2_error *err)
{
	if (!s->path && !s->format && !names_options_any(&s->tree, "file"))
		return names_reason(err, -EINVAL, "Must specify either driver or file");
	if (check_filter(s, flags, err) < 0)
		return err->code;
	if (s->format && !is_format(s->format) && !names_is_protocol(s->format))
		return names_reason(err, -EINVAL, "Unknown driver '%s'", s->format);
	if (s->force_share && flags & QCOW2_OPEN_WRITE)
		return names_reason(err, -EINVAL,
				    "force-share=on can only be used with read-only images");
	if (s->native_aio && !s->direct)
		return names_reason(err, -EINVAL,
				    "aio=native was specified, but it requires cache.direct=on, "
				    "which was not specified.");
	if (s->detect_zeroes == NAMES_ZEROES_UNMAP && !s->discard)
		return names_reason(err, -EINVAL,
				    "setting detect-zeroes to unmap is not allowed without setting "
				    "discard operation to unmap");
	if (s->cache_bytes && s->l2_cache_bytes && s->refcount_cache_bytes)
		return names_reason(err, -EINVAL,
				    "cache-size, l2-cache-size and refcount-cache-size may not be "
				    "set at the same time");
	if (s->cache_bytes && s->l2_cache_bytes > s->cache_bytes)
		return names_reason(err, -EINVAL, "l2-cache-size may not exceed cache-size");
	if (s->cache_bytes && s->refcount_cache_bytes > s->cache_bytes)
		return names_reason(err, -EINVAL, "refcount-cache-size may not exceed cache-size");
	return 0;
}

/* ---- the store ---- */

/* offset and size of a raw image: a part of the file. */
static int cut(struct names_setup *s, struct qcow2_storage *storage, struct qcow2_error *err)
{
	bool has_size = names_options_any(&s->tree, "size");
	struct qcow2_storage lower = *storage;
	uint64_t offset = 0, size = 0;
	int rc = names_size_option(&s->tree, "", "offset", &offset, err);

	if (rc == 0)
		rc = names_size_option(&s->tree, "", "size", &size, err);
	if (rc == 0 && size % SECTOR)
		rc = names_reason(err, -EINVAL, "Specified size is not multiple of %d", SECTOR);
	if (rc < 0 || (offset == 0 && !has_size))
		return rc;
	return qcow2_storage_slice(storage, lower, offset, has_size ? size : UINT64_MAX, err);
}

static int open_store(struct names_setup *s, struct names_stores *stores,
		      struct qcow2_storage *storage, struct qcow2_error *err)
{
	bool top = is_store(s);
	int rc;

	if (s->path && names_options_get(&s->tree, "", "file"))
		return names_reason(err, -EINVAL,
				    "Cannot reference an existing block device with additional "
				    "options or a new filename");

	if (top && names_options_set(&s->tree, "driver", s->format) < 0)
		return names_reason(err, -ENOMEM, "out of memory");
	rc = names_store_open(stores, top ? "" : "file.", s->path, storage, err);
	if (rc == 0 && s->format && strcmp(s->format, "raw") == 0) {
		rc = cut(s, storage, err);
		if (rc < 0)
			qcow2_storage_close(storage);
	}
	return rc;
}

/* ---- what the caller's options replace ---- */

static void prefix(struct qcow2_error *err, const char *what)
{
	struct qcow2_error inner = *err;

	snprintf(err->message, sizeof(err->message), "%s: %.900s", what, inner.message);
}

static int open_at_depth(struct names_opening *o, struct names_setup *s, unsigned depth,
			 struct qcow2_error *err);

/* Options that don't say which file it is are about the one that the image names. */
static int take_recorded(struct names_setup *sub, struct names_setup *s, unsigned flags,
			 struct qcow2_error *err)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct qcow2_image *image = NULL;
	struct names_stores stores = {.options = &s->tree, .flags = flags & ~QCOW2_OPEN_WRITE};
	struct qcow2_storage storage;
	int rc;

	if (sub->path || names_options_any(&sub->tree, "file"))
		return 0;
	options.flags = QCOW2_OPEN_INFO | QCOW2_OPEN_NO_LOCK;
	options.format = s->format;
	rc = open_store(s, &stores, &storage, err);
	if (rc == 0)
		rc = qcow2_open_storage(&image, storage, stores.path, &options, err);
	if (rc == 0)
		rc = qcow2_info(image, &info, err);
	if (rc == 0 && !info.backing_path)
		rc = names_reason(err, -EINVAL, "there is no backing file to give options to");
	if (rc == 0 &&
	    (names_setup_string(&sub->path, info.backing_path) < 0 ||
	     (!sub->format && names_setup_string(&sub->format, info.backing_format) < 0)))
		rc = names_reason(err, -ENOMEM, "out of memory");
	qcow2_close(image);
	free(stores.path);
	return rc;
}

/* The options that begin with backing., as those of an image of its own. */
static int open_backing(struct names_opening *o, struct names_setup *s, unsigned depth,
			struct qcow2_error *err)
{
	struct names_opening below = {.options = QCOW2_OPEN_OPTIONS_INIT};
	struct names_setup sub;
	int rc = 0;
	size_t i;

	names_setup_init(&sub);
	sub.access = NAMES_READ_ONLY;
	for (i = 0; rc == 0 && i < s->tree.n; i++) {
		struct names_option *option = &s->tree.list[i];

		if (strncmp(option->name, BACKING, strlen(BACKING)) != 0)
			continue;
		option->used = true;
		rc = names_setup_option(&sub, option->name + strlen(BACKING), option->value, err);
	}
	if (rc == 0 && depth == DEPTH_MAX)
		rc = names_reason(err, -EINVAL, "nodes are nested too deeply");
	if (rc == 0)
		rc = take_recorded(&sub, s, o->options.flags, err);
	if (rc == 0) {
		names_setup_fill(&below.options, &sub);
		below.options.flags |= o->options.flags & (QCOW2_OPEN_FORCE_SHARE |
							   QCOW2_OPEN_NO_LOCK | QCOW2_OPEN_DIRECT);
		below.options.policy = o->options.policy;
		below.options.warn = o->options.warn;
		below.options.opaque = o->options.opaque;
		rc = open_at_depth(&below, &sub, depth + 1, err);
	}
	if (rc < 0)
		prefix(err, "Could not open backing file");
	names_setup_release(&sub);
	if (rc == 0)
		o->options.backing = below.image;
	return rc;
}

static int open_replacements(struct names_opening *o, struct names_setup *s, unsigned depth,
			     struct qcow2_error *err)
{
	struct names_stores stores = {.options = &s->tree, .flags = o->options.flags};
	const char *node = names_options_get(&s->tree, "", "backing");
	int rc = 0;

	if (node)
		return names_reason(err, -ENODEV,
				    "Could not open backing file: Cannot find device='%s' nor "
				    "node-name='%s'",
				    node, node);
	if (is_raw(s))
		return 0;
	node = names_options_get(&s->tree, "", "data-file");
	if (node)
		return names_reason(err, -ENODEV, "Cannot find device='%s' nor node-name='%s'",
				    node, node);
	if (o->options.flags & QCOW2_OPEN_INFO) {
		names_options_use(&s->tree, BACKING);
		names_options_use(&s->tree, DATA_FILE);
		return 0;
	}
	if (names_options_any(&s->tree, DATA_FILE))
		rc = names_store_open(&stores, DATA_FILE, NULL, &o->options.data_file, err);
	free(stores.path);
	if (rc == 0 && !s->no_backing && names_options_any(&s->tree, BACKING))
		rc = open_backing(o, s, depth, err);
	return rc;
}

/* ---- the image ---- */

/* What nobody asked for, and what the format that it turned out to be doesn't have. */
static int check_opened(struct names_opening *o, const struct names_setup *s,
			struct qcow2_error *err)
{
	const char *bad = names_options_unused(&s->tree, "");
	struct qcow2_info info = QCOW2_INFO_INIT;
	int rc = qcow2_info(o->image, &info, err);
	uint64_t entry = s->l2_entry_bytes;

	if (rc < 0)
		return rc;
	if (!bad && strcmp(info.format, "raw") == 0)
		bad = s->qcow2_option;
	if (bad && is_store(s))
		return names_reason(err, -EINVAL,
				    "Block protocol '%s' doesn't support the option '%s'",
				    s->format, bad);
	if (bad)
		return names_reason(err, -EINVAL,
				    "Block format '%s' does not support the option '%s'",
				    info.format, bad);
	if (entry && (entry < 512 || entry > info.cluster_size || entry & (entry - 1)))
		return names_reason(err, -EINVAL,
				    "L2 cache entry size must be a power of two between 512 and "
				    "the cluster size (%" PRIu64 ")",
				    info.cluster_size);
	return 0;
}

static int open_at_depth(struct names_opening *o, struct names_setup *s, unsigned depth,
			 struct qcow2_error *err)
{
	struct names_stores stores = {
		.options = &s->tree, .flags = o->options.flags, .told = o->told};
	struct qcow2_storage storage;
	int rc = names_check(s, o->options.flags, err);

	o->image = NULL;
	o->debug = NULL;
	if (rc == 0)
		rc = open_store(s, &stores, &storage, err);
	if (rc == 0) {
		rc = open_replacements(o, s, depth, err);
		if (rc < 0)
			qcow2_storage_close(&storage);
	}
	if (rc == 0) {
		o->options.flags |= stores.no_lock ? QCOW2_OPEN_NO_LOCK : 0;
		o->options.flags |= s->no_backing ? QCOW2_OPEN_NO_BACKING : 0;
		o->options.format = is_store(s) ? "raw" : s->format;
		o->debug = stores.debug;
		rc = qcow2_open_storage(&o->image, storage, stores.path, &o->options, err);
	} else {
		qcow2_close(o->options.backing);
		qcow2_storage_close(&o->options.data_file);
	}
	free(stores.path);
	o->options.backing = NULL; /* the image's now */
	o->options.data_file = (struct qcow2_storage){0};
	if (rc == 0)
		rc = check_opened(o, s, err);
	if (rc < 0) {
		qcow2_close(o->image);
		o->image = NULL;
		o->debug = NULL;
	}
	return rc;
}

int names_open(struct names_opening *o, struct names_setup *setup, struct qcow2_error *err)
{
	return open_at_depth(o, setup, 0, err);
}

int names_open_store(struct names_setup *setup, unsigned flags, struct qcow2_storage *storage,
		     struct qcow2_error *err)
{
	struct names_stores stores = {.options = &setup->tree, .flags = flags};
	int rc = names_check(setup, flags, err);

	if (rc == 0)
		rc = open_store(setup, &stores, storage, err);
	free(stores.path);
	return rc;
}

const char *names_plain_path(const struct names_setup *s)
{
	const char *path = s->path;
	size_t i;

	for (i = 0; i < s->tree.n; i++)
		if (strcmp(s->tree.list[i].name, "file.driver") != 0 || !s->tree.list[i].value ||
		    strcmp(s->tree.list[i].value, "file") != 0)
			return NULL;
	if (!path || is_store(s))
		return NULL;
	if (strncmp(path, "file:", 5) == 0)
		return path + 5;
	if (strncmp(path, "blkdebug:", 9) == 0 || strncmp(path, "null-co:", 8) == 0 ||
	    strncmp(path, "nbd:", 4) == 0 || strncmp(path, "nbd+", 4) == 0)
		return NULL;
	return path;
}
