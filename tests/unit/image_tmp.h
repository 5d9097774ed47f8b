/* SPDX-License-Identifier: MIT */
/*
 * For tests of images as a whole: a folder of its own for each test, disks with random contents
 * (holes, zeros, text, noise), and the real qemu-img as a judge.
 */
#ifndef TESTS_UNIT_IMAGE_TMP_H
#define TESTS_UNIT_IMAGE_TMP_H

#include <dirent.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qcow2.h"

extern char **environ;

struct image_tmp {
	char dir[64];
};

static inline int image_tmp_setup(void **state)
{
	struct image_tmp *t = calloc(1, sizeof(*t));
	const char *tmp = getenv("TMPDIR");

	if (!t)
		return -1;
	snprintf(t->dir, sizeof(t->dir), "%s/image-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	*state = t;
	return mkdtemp(t->dir) ? 0 : -1;
}

static inline int image_tmp_teardown(void **state)
{
	struct image_tmp *t = *state;
	char path[400];
	struct dirent *e;
	DIR *d = opendir(t->dir);

	while (d && (e = readdir(d))) {
		snprintf(path, sizeof(path), "%s/%s", t->dir, e->d_name);
		unlink(path);
	}
	if (d)
		closedir(d);
	rmdir(t->dir);
	free(t);
	return 0;
}

#define IMAGE_TEST(name) cmocka_unit_test_setup_teardown(name, image_tmp_setup, image_tmp_teardown)

/* The path of a file in the folder; freed by the caller. */
static inline char *image_tmp_path(void **state, const char *name)
{
	struct image_tmp *t = *state;
	char *path;

	assert_true(asprintf(&path, "%s/%s", t->dir, name) > 0);
	return path;
}

/* ---- random disks ---- */

static inline uint64_t image_tmp_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Runs from 512 bytes to half a megabyte: nothing (which stays 0), zeros, text, noise. */
static inline void image_tmp_write_random(int fd, uint64_t size, uint64_t *seed)
{
	static uint8_t buf[512 * 1024];
	uint64_t len;

	for (uint64_t off = 0; off < size; off += len) {
		unsigned kind = image_tmp_random(seed) % 5;

		len = ((image_tmp_random(seed) % sizeof(buf)) >> image_tmp_random(seed) % 10) + 1;
		len = (len + 511) / 512 * 512;
		if (len > size - off)
			len = size - off;
		if (kind == 0)
			continue;
		memset(buf, 0, len);
		for (uint64_t i = 0; kind > 1 && i + 8 <= len; i += 8) {
			uint64_t word = image_tmp_random(seed);

			if (kind < 4)
				word = word % 16 * 0x0101010101010101ull;
			memcpy(buf + i, &word, 8);
		}
		assert_int_equal(pwrite(fd, buf, len, (off_t)off), len);
	}
}

/* A sparse raw file. */
static inline void image_tmp_make_raw(const char *path, uint64_t size, uint64_t seed)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	image_tmp_write_random(fd, size, &seed);
	assert_int_equal(close(fd), 0);
}

/* ---- the library ---- */

static inline struct qcow2_image *image_tmp_open(const char *path, const char *format)
{
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *image;
	struct qcow2_error err = {0};

	policy.follow = QCOW2_FOLLOW_LOCAL;
	options.policy = &policy;
	options.format = format;
	if (qcow2_open(&image, path, &options, &err) < 0)
		fail_msg("%s", err.message);
	return image;
}

/* ---- files ---- */

static inline uint8_t *image_tmp_load(const char *path, size_t *len)
{
	int fd = open(path, O_RDONLY);
	struct stat sb;
	uint8_t *bytes;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &sb), 0);
	*len = (size_t)sb.st_size;
	bytes = malloc(*len + 1);
	assert_non_null(bytes);
	for (size_t done = 0; done < *len;) {
		ssize_t n = read(fd, bytes + done, *len - done);

		assert_true(n > 0);
		done += (size_t)n;
	}
	close(fd);
	return bytes;
}

static inline bool image_tmp_same_file(const char *a, const char *b)
{
	size_t alen, blen;
	uint8_t *abytes = image_tmp_load(a, &alen);
	uint8_t *bbytes = image_tmp_load(b, &blen);
	bool same = alen == blen && memcmp(abytes, bbytes, alen) == 0;

	free(abytes);
	free(bbytes);
	return same;
}

/* Runs a program, its output thrown away; gives its exit code. */
static inline int image_tmp_run(const char *const *argv)
{
	posix_spawn_file_actions_t actions;
	int status;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	assert_int_equal(posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv,
				      environ),
			 0);
	posix_spawn_file_actions_destroy(&actions);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define QEMU_IMG(...) image_tmp_run((const char *const[]){"qemu-img", __VA_ARGS__, NULL})

#endif
