/* SPDX-License-Identifier: MIT */
/*
 * A part of another store, as a store of its own: position 0 is first in the one below. A part of
 * a given size ends there: what is behind reads as zeros and can't be written. One without a size
 * goes on to the end of the store, wherever that moves.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/iov.h"
#include "base/num.h"
#include "storage/storage.h"

#define PIECES 64

/* All of it is immutable. */
struct slice {
	struct qcow2_storage lower;
	uint64_t first;
	uint64_t size_bytes; /* UINT64_MAX: to the end */
};

static bool is_open_ended(const struct slice *s)
{
	return s->size_bytes == UINT64_MAX;
}

static void slice_close(void *self)
{
	struct slice *s = self;

	storage_close(&s->lower);
	mem_free(s);
}

static int slice_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	const struct slice *s = self;
	int ret;

	*size_bytes = s->size_bytes;
	if (!is_open_ended(s))
		return 0;
	ret = storage_size(s->lower, size_bytes, err);
	if (ret == 0)
		*size_bytes -= min_u64(*size_bytes, s->first);
	return ret;
}

/* Where in the store below a change goes; -ENOSPC if that is behind our end. */
static int place(const struct slice *s, uint64_t host_off, uint64_t len_bytes, uint64_t *below,
		 struct qcow2_error *err)
{
	uint64_t end;

	if (!add_fits(host_off, s->first, below) || !add_fits(*below, len_bytes, &end))
		return error_set(err, -EFBIG, "the range passes 2^64");
	if (!is_open_ended(s) && (host_off > s->size_bytes || len_bytes > s->size_bytes - host_off))
		return error_set_at(err, -ENOSPC, QCOW2_NO_OFFSET, host_off,
				    "0x%" PRIx64 " bytes at 0x%" PRIx64
				    " pass the end of the part of the file that is used, which has "
				    "0x%" PRIx64,
				    len_bytes, host_off, s->size_bytes);
	return 0;
}

static int slice_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
			struct qcow2_error *err)
{
	const struct slice *s = self;
	struct iovec pieces[PIECES];
	struct iov_cursor c;
	uint64_t total, left, below;
	size_t taken;
	int ret = 0;

	if (!iov_total(iov, iovcnt, &total))
		return error_set(err, -EINVAL, "malformed I/O vector");
	if (host_off > UINT64_MAX - s->first)
		return error_set(err, -EFBIG, "the range passes 2^64");
	below = host_off + s->first;
	left = is_open_ended(s) ? total
				: min_u64(total, s->size_bytes - min_u64(s->size_bytes, host_off));
	if (left == total)
		return storage_readv(s->lower, iov, iovcnt, below, err);
	iov_cursor_init(&c, iov, iovcnt);
	total -= left;
	for (; ret == 0 && left != 0; left -= taken, below += taken) {
		int n = iov_cut(&c, (size_t)left, pieces, PIECES, &taken);

		ret = storage_readv(s->lower, pieces, n, below, err);
	}
	if (ret == 0)
		iov_fill(&c, 0, (size_t)total);
	return ret;
}

static int slice_pwritev(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
			 struct qcow2_error *err)
{
	const struct slice *s = self;
	uint64_t total, below;
	int ret;

	if (!iov_total(iov, iovcnt, &total))
		return error_set(err, -EINVAL, "malformed I/O vector");
	ret = place(s, host_off, total, &below, err);
	return ret < 0 ? ret : storage_writev(s->lower, iov, iovcnt, below, err);
}

static int slice_zero(void *self, uint64_t host_off, uint64_t len_bytes, unsigned flags,
		      struct qcow2_error *err)
{
	const struct slice *s = self;
	uint64_t below;
	int ret = place(s, host_off, len_bytes, &below, err);

	return ret < 0 ? ret : storage_zero(s->lower, below, len_bytes, flags, err);
}

static int slice_discard(void *self, uint64_t host_off, uint64_t len_bytes, struct qcow2_error *err)
{
	const struct slice *s = self;
	uint64_t below;
	int ret = place(s, host_off, len_bytes, &below, err);

	return ret < 0 ? ret : storage_discard(s->lower, below, len_bytes, err);
}

static int slice_flush(void *self, struct qcow2_error *err)
{
	const struct slice *s = self;

	return storage_flush(s->lower, err);
}

static int slice_truncate(void *self, uint64_t size_bytes, struct qcow2_error *err)
{
	const struct slice *s = self;
	uint64_t below;

	if (!is_open_ended(s))
		return size_bytes == s->size_bytes
			       ? 0
			       : error_set(err, -ENOTSUP,
					   "a part of a file of a given size can't be resized");
	if (!add_fits(size_bytes, s->first, &below))
		return error_set(err, -EFBIG, "the size passes 2^64");
	return storage_truncate(s->lower, below, err);
}

static int slice_allocate(void *self, uint64_t host_off, uint64_t len_bytes,
			  struct qcow2_error *err)
{
	const struct slice *s = self;
	uint64_t below;
	int ret = place(s, host_off, len_bytes, &below, err);

	return ret < 0 ? ret : storage_allocate(s->lower, below, len_bytes, err);
}

static int slice_extent(void *self, uint64_t host_off, uint64_t len_bytes,
			struct qcow2_storage_extent *out, struct qcow2_error *err)
{
	const struct slice *s = self;

	if (!is_open_ended(s) && host_off >= s->size_bytes) {
		*out = (struct qcow2_storage_extent){.len_bytes = len_bytes};
		return 0;
	}
	if (!is_open_ended(s))
		len_bytes = min_u64(len_bytes, s->size_bytes - host_off);
	if (host_off > UINT64_MAX - s->first)
		return error_set(err, -EFBIG, "the range passes 2^64");
	return storage_extent(s->lower, host_off + s->first, len_bytes, out, err);
}

static int slice_lock(void *self, unsigned use, unsigned forbid, struct qcow2_error *err)
{
	const struct slice *s = self;

	return storage_lock(s->lower, use, forbid, err);
}

static void slice_event(void *self, unsigned event)
{
	const struct slice *s = self;

	storage_event(s->lower, event);
}

static const struct qcow2_storage_ops slice_ops = {
	.kind = "slice",
	.close = slice_close,
	.size = slice_size,
	.preadv = slice_preadv,
	.pwritev = slice_pwritev,
	.zero = slice_zero,
	.discard = slice_discard,
	.flush = slice_flush,
	.truncate = slice_truncate,
	.allocate = slice_allocate,
	.extent = slice_extent,
	.lock = slice_lock,
	.event = slice_event,
};

int qcow2_storage_slice(struct qcow2_storage *storage, struct qcow2_storage lower,
			uint64_t first_off, uint64_t size_bytes, struct qcow2_error *err)
{
	uint64_t have, end;
	struct slice *s;
	int ret = storage_size(lower, &have, err);

	*storage = (struct qcow2_storage){0};
	if (ret == 0 && size_bytes != UINT64_MAX &&
	    (!add_fits(first_off, size_bytes, &end) || end > have))
		ret = error_set(err, -EINVAL,
				"The sum of offset (%" PRIu64 ") and size (%" PRIu64
				") has to be smaller or equal to the  actual size of the "
				"containing file (%" PRIu64 ")",
				first_off, size_bytes, have);
	if (ret == 0 && first_off > have)
		ret = error_set(err, -EINVAL,
				"Offset (%" PRIu64 ") cannot be greater than size of the "
				"containing file (%" PRIu64 ")",
				first_off, have);
	s = ret == 0 ? mem_zalloc(1, sizeof(*s)) : NULL;
	if (ret == 0 && !s)
		ret = error_errno(err, -ENOMEM, "can't make a part of a store");
	if (!s) {
		storage_close(&lower);
		return ret;
	}
	*s = (struct slice){.lower = lower, .first = first_off, .size_bytes = size_bytes};
	*storage = (struct qcow2_storage){.ops = &slice_ops, .self = s};
	return 0;
}
