/* SPDX-License-Identifier: MIT */
/*
 * A store that keeps nothing: to see what all the rest costs. What is written is gone; what is read
 * is zeros, or, as reading nothing costs least, whatever the buffer held.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/iov.h"
#include "storage/storage.h"

struct null {
	_Atomic uint64_t size_bytes;
	bool zeroes; /* immutable */
};

static void null_close(void *self)
{
	mem_free(self);
}

static int null_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	const struct null *n = self;

	(void)err;
	*size_bytes = n->size_bytes;
	return 0;
}

static int null_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
		       struct qcow2_error *err)
{
	const struct null *n = self;
	struct iov_cursor c;
	uint64_t total;

	(void)host_off;
	if (!n->zeroes)
		return 0;
	if (!iov_total(iov, iovcnt, &total))
		return error_set(err, -EINVAL, "malformed I/O vector");
	iov_cursor_init(&c, iov, iovcnt);
	iov_fill(&c, 0, (size_t)total);
	return 0;
}

static int null_pwritev(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
			struct qcow2_error *err)
{
	(void)self;
	(void)iov;
	(void)iovcnt;
	(void)host_off;
	(void)err;
	return 0;
}

static int null_zero(void *self, uint64_t host_off, uint64_t len_bytes, unsigned flags,
		     struct qcow2_error *err)
{
	(void)self;
	(void)host_off;
	(void)len_bytes;
	(void)flags;
	(void)err;
	return 0;
}

static int null_flush(void *self, struct qcow2_error *err)
{
	(void)self;
	(void)err;
	return 0;
}

static int null_truncate(void *self, uint64_t size_bytes, struct qcow2_error *err)
{
	struct null *n = self;

	(void)err;
	n->size_bytes = size_bytes;
	return 0;
}

static int null_extent(void *self, uint64_t host_off, uint64_t len_bytes,
		       struct qcow2_storage_extent *out, struct qcow2_error *err)
{
	const struct null *n = self;

	(void)host_off;
	(void)err;
	*out = (struct qcow2_storage_extent){.len_bytes = len_bytes, .is_data = !n->zeroes};
	return 0;
}

static const struct qcow2_storage_ops null_ops = {
	.kind = "null",
	.close = null_close,
	.size = null_size,
	.preadv = null_preadv,
	.pwritev = null_pwritev,
	.zero = null_zero,
	.flush = null_flush,
	.truncate = null_truncate,
	.extent = null_extent,
};

int qcow2_storage_null(struct qcow2_storage *storage, uint64_t size_bytes, bool zeroes,
		       struct qcow2_error *err)
{
	struct null *n = mem_zalloc(1, sizeof(*n));

	*storage = (struct qcow2_storage){0};
	if (!n)
		return error_errno(err, -ENOMEM, "can't make a null store");
	n->size_bytes = size_bytes;
	n->zeroes = zeroes;
	*storage = (struct qcow2_storage){.ops = &null_ops, .self = n};
	return 0;
}
