/* SPDX-License-Identifier: MIT */
/*
 * qcow2_create from a command line, for tests: create_helper [KEY=VALUE...] FILE. Sizes are plain
 * numbers of bytes. Not a tool for people.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2.h"

static unsigned choice(const char *value, const char *const *names)
{
	for (unsigned i = 0; names[i]; i++) {
		if (strcmp(value, names[i]) == 0)
			return i;
	}
	return 99;
}

static int set(struct qcow2_create_options *o, const char *key, const char *value)
{
	static const char *const modes[] = {"off", "metadata", "falloc", "full", NULL};
	static const char *const types[] = {"zlib", "zstd", NULL};
	bool on = strcmp(value, "on") == 0;

	if (strcmp(key, "size") == 0)
		o->size = strtoull(value, NULL, 0);
	else if (strcmp(key, "format") == 0)
		o->format = value;
	else if (strcmp(key, "version") == 0)
		o->version = (unsigned)atoi(value);
	else if (strcmp(key, "cluster_size") == 0)
		o->cluster_size = strtoull(value, NULL, 0);
	else if (strcmp(key, "refcount_bits") == 0)
		o->refcount_bits = (unsigned)atoi(value);
	else if (strcmp(key, "preallocation") == 0)
		o->prealloc = choice(value, modes);
	else if (strcmp(key, "compression_type") == 0)
		o->compression = choice(value, types);
	else if (strcmp(key, "lazy_refcounts") == 0)
		o->lazy_refcounts = on;
	else if (strcmp(key, "extended_l2") == 0)
		o->extended_l2 = on;
	else if (strcmp(key, "data_file_raw") == 0)
		o->data_file_raw = on;
	else if (strcmp(key, "data_file") == 0)
		o->data_file = value;
	else if (strcmp(key, "backing_file") == 0)
		o->backing_file = value;
	else if (strcmp(key, "backing_fmt") == 0)
		o->backing_format = value;
	else if (strcmp(key, "overwrite") == 0)
		o->flags |= on ? QCOW2_CREATE_OVERWRITE : 0;
	else if (strcmp(key, "unsafe") == 0)
		o->flags |= on ? QCOW2_CREATE_UNSAFE_BACKING : 0;
	else
		return -1;
	return 0;
}

int main(int argc, char **argv)
{
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_error err;
	int rc;

	if (argc < 2)
		return 2;
	for (int i = 1; i < argc - 1; i++) {
		char *value = strchr(argv[i], '=');

		if (!value)
			return 2;
		*value++ = '\0';
		if (set(&o, argv[i], value) < 0) {
			fprintf(stderr, "no such key: %s\n", argv[i]);
			return 2;
		}
	}
	rc = qcow2_create(argv[argc - 1], &o, &err);
	if (rc < 0) {
		fprintf(stderr, "%s: %s\n", strerror(-rc), err.message);
		return 1;
	}
	return 0;
}
