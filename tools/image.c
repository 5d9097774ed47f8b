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

char *tool_plain_path(const char *name, const char **format, bool image_opts)
{
	struct qcow2_error err = {0};
	struct names_setup setup;
	const char *path;
	char *copy = NULL;

	names_setup_init(&setup);
	if (tool_fill_setup(&setup, name, NULL, image_opts ? TOOL_OPEN_IMAGE_OPTS : 0, &err) < 0) {
		cli_error("could not open '%s': %s", name, err.message);
		goto out;
	}
	path = names_plain_path(&setup);
	if (!path) {
		cli_error("could not open '%s': that takes a plain file", name);
		goto out;
	}
	if (!*format && setup.format)
		*format = strcmp(setup.format, "qcow2") == 0 ? "qcow2" : "raw";
	copy = strdup(path);
	if (!copy)
		cli_error("out of memory");
out:
	names_setup_release(&setup);
	return copy;
}

/* Is the name more than that of a file? qemu-img's messages tell it beside the file's. */
static bool is_description(const char *name, unsigned flags)
{
	return flags & TOOL_OPEN_IMAGE_OPTS || strncmp(name, "json:", 5) == 0;
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
	/* what the library says names the file; what is said of names doesn't */
	if (rc < 0 && cli_is_face() && is_description(name, flags))
		cli_set_subject("options", name);
	if (rc < 0 && names_said(&err) && cli_is_face())
		cli_error("Could not open '%s': %s", name, err.message);
	else if (rc == -EAGAIN && !(flags & (QCOW2_OPEN_FORCE_SHARE | QCOW2_OPEN_WRITE)))
		tool_explain(&err, "-U reads it all the same");
	else if (rc < 0)
		tool_explain(&err, NULL);
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
