/* SPDX-License-Identifier: MIT */
/*
 * For tests of images that are changed in place: a store on a file that calls somebody at chosen
 * operations, so that something can be done in the middle of a commit; and images from qemu-img.
 */
#ifndef TESTS_UNIT_ENGINE_HOOK_H
#define TESTS_UNIT_ENGINE_HOOK_H

#include <errno.h>

#include "image_tmp.h"
#include "storage/storage.h"

struct engine_hook {
	struct qcow2_storage lower;
	unsigned flushes; /* seen */
	uint64_t size;	  /* what the file claims to have, unless 0 */
	unsigned sizes;	  /* times that was asked */
	unsigned no_size; /* the one that fails, from 1; 0: none */
	/* NULL, or called before the operation; -errno makes it fail, 1 succeed undone */
	int (*before)(struct engine_hook *h, enum storage_op op, uint64_t host_off, uint64_t len);
	void *opaque;
};

static int engine_hook_ask(struct engine_hook *h, enum storage_op op, uint64_t off, uint64_t len,
			   struct qcow2_error *err)
{
	int ret = h->before ? h->before(h, op, off, len) : 0;

	if (ret < 0 && err) {
		err->code = ret;
		snprintf(err->message, sizeof(err->message), "the hook said no");
	}
	return ret;
}

static uint64_t engine_hook_len(const struct iovec *iov, int iovcnt)
{
	uint64_t len = 0;

	for (int i = 0; i < iovcnt; i++)
		len += iov[i].iov_len;
	return len;
}

static void engine_hook_close(void *self)
{
	struct engine_hook *h = self;

	storage_close(&h->lower);
}

static int engine_hook_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	struct engine_hook *h = self;

	if (++h->sizes == h->no_size)
		return -EIO;
	*size_bytes = h->size;
	return h->size ? 0 : storage_size(h->lower, size_bytes, err);
}

static int engine_hook_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t off,
			      struct qcow2_error *err)
{
	struct engine_hook *h = self;
	int ret = engine_hook_ask(h, STORAGE_OP_READ, off, engine_hook_len(iov, iovcnt), err);

	return ret < 0 ? ret : storage_readv(h->lower, iov, iovcnt, off, err);
}

static int engine_hook_pwritev(void *self, const struct iovec *iov, int iovcnt, uint64_t off,
			       struct qcow2_error *err)
{
	struct engine_hook *h = self;
	int ret = engine_hook_ask(h, STORAGE_OP_WRITE, off, engine_hook_len(iov, iovcnt), err);

	return ret != 0 ? (ret < 0 ? ret : 0) : storage_writev(h->lower, iov, iovcnt, off, err);
}

static int engine_hook_flush(void *self, struct qcow2_error *err)
{
	struct engine_hook *h = self;
	int ret;

	h->flushes++;
	ret = engine_hook_ask(h, STORAGE_OP_FLUSH, 0, 0, err);
	return ret < 0 ? ret : storage_flush(h->lower, err);
}

static int engine_hook_truncate(void *self, uint64_t size_bytes, struct qcow2_error *err)
{
	struct engine_hook *h = self;
	int ret = engine_hook_ask(h, STORAGE_OP_TRUNCATE, size_bytes, 0, err);

	return ret != 0 ? (ret < 0 ? ret : 0) : storage_truncate(h->lower, size_bytes, err);
}

static int engine_hook_discard(void *self, uint64_t off, uint64_t len, struct qcow2_error *err)
{
	struct engine_hook *h = self;
	int ret = engine_hook_ask(h, STORAGE_OP_DISCARD, off, len, err);

	return ret != 0 ? (ret < 0 ? ret : 0) : storage_discard(h->lower, off, len, err);
}

static const struct qcow2_storage_ops engine_hook_ops = {
	.kind = "hook",
	.close = engine_hook_close,
	.size = engine_hook_size,
	.preadv = engine_hook_preadv,
	.pwritev = engine_hook_pwritev,
	.discard = engine_hook_discard,
	.flush = engine_hook_flush,
	.truncate = engine_hook_truncate,
};

/* Opens the file for writing, through h, with no lock. options may be NULL. */
static inline int engine_hook_open(struct engine_hook *h, const char *path,
				   const struct qcow2_open_options *options,
				   struct qcow2_image **image, struct qcow2_error *err)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_storage st = {&engine_hook_ops, h};

	if (options)
		o = *options;
	o.flags |= QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_LOCK;
	assert_int_equal(storage_file_open(&h->lower, path, STORAGE_FILE_WRITE, err), 0);
	return qcow2_open_storage(image, st, path, &o, err);
}

/* ---- short forms ---- */

static inline char *engine_make(void **state, const char *name, const char *options,
				const char *size)
{
	char *path = image_tmp_path(state, name);

	assert_int_equal(QEMU_IMG("create", "-q", "-f", "qcow2", "-o", options, path, size), 0);
	return path;
}

/* Overwrites a big-endian word of a file. */
static inline void engine_patch(const char *path, uint64_t off, uint64_t value)
{
	int fd = open(path, O_RDWR);
	uint8_t bytes[8];

	for (unsigned i = 0; i < 8; i++)
		bytes[i] = (uint8_t)(value >> (56 - 8 * i));
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, 8, (off_t)off), 8);
	close(fd);
}

static inline void engine_write(struct qcow2_image *image, uint64_t off, size_t len, int pattern)
{
	struct qcow2_error err = {0};
	uint8_t *buf = malloc(len);

	assert_non_null(buf);
	memset(buf, pattern, len);
	if (qcow2_pwrite(image, buf, len, off, 0, &err) < 0)
		fail_msg("%s", err.message);
	free(buf);
}

/* The byte that the range is full of. */
static inline int engine_read(struct qcow2_image *image, uint64_t off, size_t len)
{
	struct qcow2_error err = {0};
	uint8_t *buf = malloc(len);
	int pattern;

	assert_non_null(buf);
	if (qcow2_pread(image, buf, len, off, &err) < 0)
		fail_msg("%s", err.message);
	pattern = buf[0];
	for (size_t i = 0; i < len; i++) {
		if (buf[i] != pattern)
			fail_msg("0x%x behind 0x%x", buf[i], pattern);
	}
	free(buf);
	return pattern;
}

#endif
