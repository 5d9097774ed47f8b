/* SPDX-License-Identifier: MIT */
/* What the verbs share in handling images. */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "cli/diag.h"
#include "image.h"

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

int tool_open(struct qcow2_image **image, const char *path, const char *format,
	      const char *snapshot, unsigned flags)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_error err = {0};
	int rc;

	policy.follow = QCOW2_FOLLOW_LOCAL;
	options.flags = flags;
	options.format = format;
	options.snapshot = snapshot;
	options.policy = &policy;
	options.warn = tool_warn;
	rc = qcow2_open(image, path, &options, &err);
	if (rc == 0 && !(flags & QCOW2_OPEN_INFO))
		tell_damage(*image);
	if (rc == -EAGAIN && !(flags & (QCOW2_OPEN_FORCE_SHARE | QCOW2_OPEN_WRITE)))
		tool_explain(&err, "-U reads it all the same");
	else if (rc < 0)
		tool_explain(&err, NULL);
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
