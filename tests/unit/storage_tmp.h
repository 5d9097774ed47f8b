/* SPDX-License-Identifier: MIT */
/* A folder of its own for each test of the file store. */
#ifndef TESTS_UNIT_STORAGE_TMP_H
#define TESTS_UNIT_STORAGE_TMP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "storage/storage.h"

struct tmp {
	char dir[64];
	char path[80]; /* of a file that isn't there yet */
	struct qcow2_storage st;
	struct qcow2_error err;
};

static inline int tmp_setup(void **state)
{
	struct tmp *t = calloc(1, sizeof(*t));
	const char *tmp = getenv("TMPDIR");

	if (!t)
		return -1;
	snprintf(t->dir, sizeof(t->dir), "%s/storage-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(t->dir))
		return -1;
	snprintf(t->path, sizeof(t->path), "%s/disk", t->dir);
	*state = t;
	return 0;
}

static inline int tmp_teardown(void **state)
{
	struct tmp *t = *state;

	storage_close(&t->st);
	unlink(t->path);
	rmdir(t->dir);
	free(t);
	return 0;
}

static inline int tmp_open(struct tmp *t, unsigned flags)
{
	return storage_file_open(&t->st, t->path, flags, &t->err);
}

/* For writing, created if need be. */
static inline void tmp_make(struct tmp *t, unsigned flags)
{
	assert_int_equal(tmp_open(t, STORAGE_FILE_WRITE | STORAGE_FILE_CREATE | flags), 0);
}

#define TMP_TEST(name) cmocka_unit_test_setup_teardown(name, tmp_setup, tmp_teardown)

#endif
