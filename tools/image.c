/* SPDX-License-Identifier: MIT */
/* What the verbs share in handling images. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cli/diag.h"
#include "image.h"
#include "names/open.h"

const char *const tool_cache_modes[] = {"none",	      "writeback", "writethrough",
					"directsync", "unsafe",	   NULL};
const char *const tool_outputs[] = {"text", "json", "human", NULL};

static const char *const formats[] = {"qcow2", "raw"};

unsigned tool_cache_read_flags(int cache)
{
	return cache == TOOL_CACHE_NONE || cache == TOOL_CACHE_DIRECTSYNC ? QCOW2_OPEN_DIRECT : 0;
}

unsigned tool_cache_write_flags(int cache)
{
	unsigned flags = tool_cache_read_flags(cache);

	if (cache == TOOL_CACHE_WRITETHROUGH || cache == TOOL_CACHE_DIRECTSYNC)
		flags |= QCOW2_OPEN_WRITETHROUGH;
	if (cache == TOOL_CACHE_UNSAFE)
		flags |= QCOW2_OPEN_NO_FLUSH;
	return flags;
}

bool tool_known_format(const char *format)
{
	size_t i;

	if (!format)
		return true;
	for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
		if (strcmp(formats[i], format) == 0)
			return true;
	cli_error("unknown format '%s'; supported are qcow2 and raw", format);
	return false;
}

void tool_warn(void *opaque, const char *sentence)
{
	(void)opaque;
	cli_warn("%s", sentence);
}

void tool_explain(const struct qcow2_error *err, const char *advice)
{
	cli_set_errno(err->code);
	if (advice)
		cli_error("%s (%s)", err->message, advice);
	else
		cli_error("%s", err->message);
}

/* Reading needs neither snapshots nor bitmaps, but who reads should know that they are broken. */
static void tell_damage(struct qcow2_image *image)
{
	struct qcow2_info info = QCOW2_INFO_INIT;

	qcow2_info(image, &info, NULL);
}

int tool_fill_setup(struct names_setup *setup, const char *name, const char *format, unsigned flags,
		    struct qcow2_error *err)
{
	bool image_opts = flags & TOOL_OPEN_IMAGE_OPTS;
	int rc;

	setup->access = flags & QCOW2_OPEN_WRITE ? NAMES_READ_WRITE : NAMES_READ_ONLY;
	rc = names_setup_name(setup, name, image_opts, err);
	if (rc == 0 && format && setup->format && strcmp(format, setup->format) != 0)
		return names_reason(err, -EINVAL, "Driver specified twice");
	if (rc == 0 && format)
		rc = names_setup_option(setup, "driver", format, err);
	return rc;
}

/* Below the nodes, which look through theirs when they are opened. */
static const char *unknown_option(const struct names_setup *setup)
{
	size_t i;

	for (i = 0; setup->format && strcmp(setup->format, "qcow2") == 0 && i < setup->tree.n; i++)
		if (!strchr(setup->tree.list[i].name, '.'))
			return setup->tree.list[i].name;
	return NULL;
}

static void take_format(const char **format, const struct names_setup *setup)
{
	if (!*format && setup->format)
		*format = strcmp(setup->format, "qcow2") == 0 ? "qcow2" : "raw";
}

char *tool_plain_path(const char *name, const char **format, bool image_opts)
{
	struct qcow2_error err = {0};
	struct names_setup setup;
	const char *path, *bad;
	char *copy = NULL;

	names_setup_init(&setup);
	if (tool_fill_setup(&setup, name, NULL, image_opts ? TOOL_OPEN_IMAGE_OPTS : 0, &err) < 0) {
		cli_error("could not open '%s': %s", name, err.message);
		goto out;
	}
	path = names_plain_path(&setup);
	bad = unknown_option(&setup);
	if (bad)
		cli_error("Could not open '%s': Block format 'qcow2' does not support the option "
			  "'%s'",
			  name, bad);
	else if (!path)
		cli_error("could not open '%s': that takes a plain file", name);
	if (bad || !path)
		goto out;
	take_format(format, &setup);
	copy = strdup(path);
	if (!copy)
		cli_error("out of memory");
out:
	names_setup_release(&setup);
	return copy;
}

void tool_explain_opening(const char *name, unsigned flags, const struct qcow2_error *err,
			  const char *advice)
{
	/* what the library says names the file; what is said of names doesn't */
	if (cli_is_face() && (flags & TOOL_OPEN_IMAGE_OPTS || strncmp(name, "json:", 5) == 0 ||
			      strncmp(name, "blkdebug:", 9) == 0))
		cli_set_subject("options", name);
	if (names_said(err) && cli_is_face())
		cli_error("Could not open '%s': %s", name, err->message);
	else
		tool_explain(err, advice);
}

/* As the library does for a path. */
static int lock_store(struct qcow2_storage store, unsigned flags, struct qcow2_error *err)
{
	unsigned change = flags & QCOW2_OPEN_WRITE ? QCOW2_LOCK_WRITE | QCOW2_LOCK_RESIZE : 0;

	if (!store.ops->lock)
		return 0;
	return store.ops->lock(
		store.self, QCOW2_LOCK_READ | change,
		flags & QCOW2_OPEN_FORCE_SHARE ? 0 : QCOW2_LOCK_WRITE | QCOW2_LOCK_RESIZE, err);
}

int tool_path_or_store(const char *name, const char **format, unsigned flags, char **path,
		       struct qcow2_storage *store)
{
	struct qcow2_error err = {0};
	struct names_setup setup;
	const char *bad;
	int rc;

	names_setup_init(&setup);
	rc = tool_fill_setup(&setup, name, NULL, flags, &err);
	bad = rc == 0 ? unknown_option(&setup) : NULL;
	if (bad)
		rc = names_reason(&err, -EINVAL,
				  "Block format 'qcow2' does not support the option '%s'", bad);
	if (rc == 0 && names_plain_path(&setup)) {
		*path = strdup(names_plain_path(&setup));
		rc = *path ? 0 : names_reason(&err, -ENOMEM, "out of memory");
	} else if (rc == 0) {
		rc = names_open_store(&setup, flags, store, &err);
		if (rc == 0)
			rc = lock_store(*store, flags, &err);
	}
	if (rc == 0)
		take_format(format, &setup);
	else
		tool_explain_opening(name, flags, &err, NULL);
	names_setup_release(&setup);
	return rc;
}

int tool_open(struct qcow2_image **image, const char *name, const char *format,
	      const char *snapshot, unsigned flags)
{
	struct names_opening o = {.options = QCOW2_OPEN_OPTIONS_INIT};
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_error err = {0};
	struct names_setup setup;
	int rc;

	*image = NULL;
	if (format && flags & TOOL_OPEN_IMAGE_OPTS) {
		cli_error("--image-opts and -f are mutually exclusive");
		return -EINVAL;
	}
	names_setup_init(&setup);
	rc = tool_fill_setup(&setup, name, format, flags, &err);
	if (rc == 0) {
		policy.follow = QCOW2_FOLLOW_LOCAL;
		names_setup_fill(&o.options, &setup);
		o.options.flags |= flags & ~TOOL_OPEN_IMAGE_OPTS;
		o.options.snapshot = snapshot;
		o.options.policy = &policy;
		o.options.warn = tool_warn;
		rc = names_open(&o, &setup, &err);
	}
	if (rc == 0 && !(flags & QCOW2_OPEN_INFO))
		tell_damage(o.image);
	if (rc < 0)
		tool_explain_opening(
			name, flags, &err,
			rc == -EAGAIN && !(flags & (QCOW2_OPEN_FORCE_SHARE | QCOW2_OPEN_WRITE))
				? "-U reads it all the same"
				: NULL);
	names_setup_release(&setup);
	*image = o.image;
	return rc;
}

void tool_many_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}
