/* SPDX-License-Identifier: MIT */
/*
 * The calls on any store. They check ranges once, for every store, and fill in what a store
 * doesn't have: a vector for a plain buffer, written zeros for a zero operation, "all is data"
 * for extents. They keep no state and take no lock.
 *
 * What a store says of a failure is looked at before it goes on: an embedder's may leave the record
 * alone, and the caller's record is left alone when all went well in the end.
 */
#include "storage/storage.h"

#include <errno.h>
#include <string.h>

#include "base/iov.h"
#include "base/num.h"

#define ZEROS_BYTES 4096
#define ZEROS_IOVCNT 256

/* Aligned so that it can be written past the page cache as it is. */
static const uint8_t zeros[ZEROS_BYTES] __attribute__((aligned(ZEROS_BYTES)));

static int unsupported(struct qcow2_storage st, const char *what, struct qcow2_error *err)
{
	return error_set(err, -ENOTSUP, "a %s store can't %s", st.ops->kind, what);
}

/* For a store to write what it has to say into; only as much of it as counts is set. */
static struct qcow2_error *blank(struct qcow2_error *theirs, const struct qcow2_error *err)
{
	if (!err)
		return NULL;
	theirs->code = 0;
	theirs->guest_off = theirs->host_off = QCOW2_NO_OFFSET;
	theirs->message[0] = '\0';
	return theirs;
}

/* Passes a store's answer on: a failure is a negative errno with a sentence. */
static int answer(struct qcow2_storage st, const char *what, int code,
		  const struct qcow2_error *theirs, struct qcow2_error *err)
{
	if (code == 0)
		return 0;
	if (code > 0)
		code = -EIO;
	if (!err)
		return code;
	if (theirs->message[0] == '\0')
		return error_errno(err, code, "a %s store can't %s", st.ops->kind, what);
	*err = *theirs;
	err->code = code;
	err->message[sizeof(err->message) - 1] = '\0';
	return code;
}

static int check_range(struct qcow2_storage st, const char *what, uint64_t host_off,
		       uint64_t len_bytes, struct qcow2_error *err)
{
	uint64_t end;

	if (add_fits(host_off, len_bytes, &end))
		return 0;
	return error_set_at(err, -EFBIG, QCOW2_NO_OFFSET, host_off,
			    "can't %s 0x%llx bytes at 0x%llx of a %s store: the range passes 2^64",
			    what, (unsigned long long)len_bytes, (unsigned long long)host_off,
			    st.ops->kind);
}

void storage_close(struct qcow2_storage *st)
{
	if (st->ops && st->ops->close)
		st->ops->close(st->self);
	*st = (struct qcow2_storage){0};
}

int storage_size(struct qcow2_storage st, uint64_t *size_bytes, struct qcow2_error *err)
{
	struct qcow2_error theirs;
	int code;

	if (!st.ops->size)
		return unsupported(st, "say its size", err);
	code = st.ops->size(st.self, size_bytes, blank(&theirs, err));
	return answer(st, "say its size", code, &theirs, err);
}

int storage_readv(struct qcow2_storage st, const struct iovec *iov, int iovcnt, uint64_t host_off,
		  struct qcow2_error *err)
{
	struct qcow2_error theirs;
	uint64_t total;
	int code;

	if (!st.ops->preadv)
		return unsupported(st, "be read", err);
	if (!iov_total(iov, iovcnt, &total))
		return error_set(err, -EINVAL, "can't read: bad or oversized vector");
	code = check_range(st, "read", host_off, total, err);
	if (code != 0 || total == 0)
		return code;
	code = st.ops->preadv(st.self, iov, iovcnt, host_off, blank(&theirs, err));
	return answer(st, "be read", code, &theirs, err);
}

int storage_writev(struct qcow2_storage st, const struct iovec *iov, int iovcnt, uint64_t host_off,
		   struct qcow2_error *err)
{
	struct qcow2_error theirs;
	uint64_t total;
	int code;

	if (!st.ops->pwritev)
		return unsupported(st, "be written", err);
	if (!iov_total(iov, iovcnt, &total))
		return error_set(err, -EINVAL, "can't write: bad or oversized vector");
	code = check_range(st, "write", host_off, total, err);
	if (code != 0 || total == 0)
		return code;
	code = st.ops->pwritev(st.self, iov, iovcnt, host_off, blank(&theirs, err));
	return answer(st, "be written", code, &theirs, err);
}

int storage_read(struct qcow2_storage st, void *buf, size_t len, uint64_t host_off,
		 struct qcow2_error *err)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};

	return storage_readv(st, &iov, 1, host_off, err);
}

int storage_write(struct qcow2_storage st, const void *buf, size_t len, uint64_t host_off,
		  struct qcow2_error *err)
{
	struct iovec iov = {.iov_len = len};

	/* struct iovec has no const; writing only reads the buffer */
	iov.iov_base = (void *)(uintptr_t)buf;
	return storage_writev(st, &iov, 1, host_off, err);
}

static int write_zeros(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes,
		       struct qcow2_error *err)
{
	struct iovec iov[ZEROS_IOVCNT];
	int code = 0;

	while (len_bytes != 0 && code == 0) {
		uint64_t chunk = 0;
		int n = 0;

		/* end the first round at a multiple, so that the rest is aligned */
		while (n < ZEROS_IOVCNT && chunk < len_bytes) {
			uint64_t piece = ZEROS_BYTES - (host_off + chunk) % ZEROS_BYTES;

			piece = min_u64(piece, len_bytes - chunk);
			iov[n].iov_base = (void *)(uintptr_t)zeros;
			iov[n++].iov_len = (size_t)piece;
			chunk += piece;
		}
		code = storage_writev(st, iov, n, host_off, err);
		host_off += chunk;
		len_bytes -= chunk;
	}
	return code;
}

int storage_zero(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes, unsigned flags,
		 struct qcow2_error *err)
{
	int code = check_range(st, "zero", host_off, len_bytes, err);
	struct qcow2_error theirs, *to = blank(&theirs, err);

	if (code != 0 || len_bytes == 0)
		return code;
	code = -ENOTSUP;
	if (st.ops->zero)
		code = st.ops->zero(st.self, host_off, len_bytes, flags, to);
	if (code == -ENOTSUP && !(flags & QCOW2_STORAGE_NO_FALLBACK))
		return write_zeros(st, host_off, len_bytes, err);
	return answer(st, "zero a range", code, &theirs, err);
}

int storage_discard(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes,
		    struct qcow2_error *err)
{
	int code = check_range(st, "discard", host_off, len_bytes, err);
	struct qcow2_error theirs;

	if (code != 0 || len_bytes == 0 || !st.ops->discard)
		return code;
	code = st.ops->discard(st.self, host_off, len_bytes, blank(&theirs, err));
	return code == -ENOTSUP ? 0 : answer(st, "discard a range", code, &theirs, err);
}

int storage_flush(struct qcow2_storage st, struct qcow2_error *err)
{
	struct qcow2_error theirs;
	int code;

	/* silence would be a promise that nobody keeps */
	if (!st.ops->flush)
		return unsupported(st, "be flushed", err);
	code = st.ops->flush(st.self, blank(&theirs, err));
	return answer(st, "be flushed", code, &theirs, err);
}

int storage_truncate(struct qcow2_storage st, uint64_t size_bytes, struct qcow2_error *err)
{
	struct qcow2_error theirs;
	int code;

	if (!st.ops->truncate)
		return unsupported(st, "change its size", err);
	code = st.ops->truncate(st.self, size_bytes, blank(&theirs, err));
	return answer(st, "change its size", code, &theirs, err);
}

int storage_allocate(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes,
		     struct qcow2_error *err)
{
	struct qcow2_error theirs;
	int code;

	if (!st.ops->allocate)
		return unsupported(st, "reserve space", err);
	code = check_range(st, "allocate", host_off, len_bytes, err);
	if (code != 0 || len_bytes == 0)
		return code;
	code = st.ops->allocate(st.self, host_off, len_bytes, blank(&theirs, err));
	return answer(st, "reserve space", code, &theirs, err);
}

int storage_extent(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes,
		   struct qcow2_storage_extent *out, struct qcow2_error *err)
{
	struct qcow2_error theirs;
	int code;

	if (len_bytes == 0)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, host_off,
				    "can't look at an empty range of a %s store", st.ops->kind);
	code = check_range(st, "look at", host_off, len_bytes, err);
	if (code != 0)
		return code;
	*out = (struct qcow2_storage_extent){.len_bytes = len_bytes, .is_data = true};
	if (!st.ops->extent)
		return 0;
	code = answer(st, "look for holes",
		      st.ops->extent(st.self, host_off, len_bytes, out, blank(&theirs, err)),
		      &theirs, err);
	if (code == 0 && out->len_bytes == 0)
		return error_set_at(err, -EIO, QCOW2_NO_OFFSET, host_off,
				    "a %s store gave an empty answer about 0x%llx", st.ops->kind,
				    (unsigned long long)host_off);
	out->len_bytes = min_u64(out->len_bytes, len_bytes);
	return code;
}

int storage_lock(struct qcow2_storage st, unsigned use, unsigned forbid, struct qcow2_error *err)
{
	struct qcow2_error theirs;

	if (!st.ops->lock)
		return 0;
	return answer(st, "be locked", st.ops->lock(st.self, use, forbid, blank(&theirs, err)),
		      &theirs, err);
}
