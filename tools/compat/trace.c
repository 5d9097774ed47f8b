/* SPDX-License-Identifier: MIT */
/*
 * We have none of QEMU's trace events. So what names one of them is taken and never happens, the
 * file for what is traced stays empty, and what can't be one is told not to exist, which is a
 * warning.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/keyval.h"
#include "compat/trace.h"

#define LINE_SIZE 1024

struct trace {
	char *enable, *events, *file;
	bool begun; /* the first element was seen: it may be a value alone */
};

static void release(struct trace *t)
{
	free(t->enable);
	free(t->events);
	free(t->file);
}

/* Nonzero: it was told why. */
static int take(void *opaque, const char *name, const char *value)
{
	struct trace *t = opaque;
	char **at;

	if (!value && !t->begun) {
		value = name;
		name = "enable";
	}
	t->begun = true;
	at = strcmp(name, "enable") == 0   ? &t->enable
	     : strcmp(name, "events") == 0 ? &t->events
	     : strcmp(name, "file") == 0   ? &t->file
					   : NULL;
	if (!at)
		return cli_error("Invalid parameter '%s'", name);
	if (!value)
		value = "on";
	free(*at);
	*at = strdup(value);
	return *at ? 0 : cli_error("out of memory");
}

static int parse(struct trace *t, const char *spec)
{
	int rc = *spec ? cli_keyval_each(spec, take, t) : 0;

	return rc < 0 ? cli_error("'%s' is not a list of NAME=VALUE", spec) : rc;
}

/* What the names of its events begin with tells them well enough from what is mistyped. */
static bool has_family(const char *event)
{
	static const char *const families[] = {
		"aio",	  "backup",  "bdrv",   "blk",	 "block",  "buffer",  "commit",
		"curl",	  "dma",     "file",   "find",	 "guest",  "hbitmap", "iscsi",
		"job",	  "lockcnt", "luring", "memory", "mirror", "module",  "nbd",
		"nvme",	  "object",  "poll",   "pr",	 "qauthz", "qcow2",   "qcrypto",
		"qed",	  "qemu",    "qio",    "qmp",	 "ram",	   "run",     "sftp",
		"socket", "ssh",     "stream", "thread", "uffd",   "visit",
	};
	size_t len = strcspn(event, "_");

	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
		if (event[len] && strlen(families[i]) == len &&
		    strncmp(families[i], event, len) == 0)
			return true;
	return false;
}

/* One may be switched off again, by a minus in front. */
static void warn_of_event(const char *pattern, const char *place)
{
	if (*pattern == '-')
		pattern++;
	if (!strpbrk(pattern, "*?") && !has_family(pattern))
		cli_warn("%strace event '%s' does not exist", place, pattern);
}

static int read_events(const char *path)
{
	char line[LINE_SIZE], place[LINE_SIZE];
	FILE *f = fopen(path, "r");

	if (!f)
		return cli_error("%s: %s", path, strerror(errno));
	for (unsigned n = 1; fgets(line, sizeof(line), f); n++) {
		line[strcspn(line, "\r\n")] = 0;
		snprintf(place, sizeof(place), "%.900s:%u: ", path, n);
		if (line[0] && line[0] != '#')
			warn_of_event(line, place);
	}
	fclose(f);
	return 0;
}

int compat_trace_take(const char *spec)
{
	struct trace t = {0};
	int status = parse(&t, spec) != 0 ? EXIT_FAILURE : COMPAT_TRACE_GO_ON;

	if (status == COMPAT_TRACE_GO_ON && t.enable &&
	    (strcmp(t.enable, "help") == 0 || strcmp(t.enable, "?") == 0))
		status = EXIT_SUCCESS; /* the list is empty */
	else if (status == COMPAT_TRACE_GO_ON && t.enable)
		warn_of_event(t.enable, "");
	if (status == COMPAT_TRACE_GO_ON && t.events && read_events(t.events) != 0)
		status = EXIT_FAILURE;
	release(&t);
	return status;
}

int compat_trace_begin(const char *spec)
{
	struct trace t = {0};
	int status = 0;
	FILE *f;

	if (spec && parse(&t, spec) == 0 && t.file) {
		f = fopen(t.file, "w");
		if (f)
			fclose(f);
		else
			status = cli_error("Error opening logfile %s: %s", t.file, strerror(errno));
	}
	release(&t);
	return status;
}
