/* SPDX-License-Identifier: MIT */
/* Vectors of buffers as one run of bytes. */
#include "storage/vec.h"

#include <string.h>

#include "base/num.h"

/* A place in a vector. */
struct cursor {
	const struct iovec *iov;
	int left; /* entries from iov on */
	size_t skip;
};

static struct cursor seek(const struct iovec *iov, int iovcnt, uint64_t skip)
{
	struct cursor at = {.iov = iov, .left = iovcnt};

	while (at.left > 0 && skip >= at.iov->iov_len) {
		skip -= at.iov->iov_len;
		at.iov++;
		at.left--;
	}
	at.skip = (size_t)skip;
	return at;
}

/* The next piece, of at most len bytes; false at the end of the vector. Skips empty entries. */
static bool next(struct cursor *at, uint64_t len, struct iovec *piece)
{
	while (at->left > 0) {
		size_t rest = at->iov->iov_len - at->skip;

		if (rest != 0) {
			piece->iov_base = (uint8_t *)at->iov->iov_base + at->skip;
			piece->iov_len = (size_t)min_u64(rest, len);
			at->skip += piece->iov_len;
			return true;
		}
		at->iov++;
		at->left--;
		at->skip = 0;
	}
	return false;
}

bool vec_total(const struct iovec *iov, int iovcnt, uint64_t *total)
{
	*total = 0;
	for (int i = 0; i < iovcnt; i++) {
		if (!add_fits(*total, iov[i].iov_len, total))
			return false;
	}
	return iovcnt >= 0;
}

void vec_to_buf(const struct iovec *iov, int iovcnt, uint64_t skip, void *buf, uint64_t len)
{
	struct cursor at = seek(iov, iovcnt, skip);
	uint8_t *to = buf;
	struct iovec piece;

	for (; len != 0 && next(&at, len, &piece); len -= piece.iov_len) {
		memcpy(to, piece.iov_base, piece.iov_len);
		to += piece.iov_len;
	}
}

void vec_from_buf(const struct iovec *iov, int iovcnt, uint64_t skip, const void *buf, uint64_t len)
{
	struct cursor at = seek(iov, iovcnt, skip);
	const uint8_t *from = buf;
	struct iovec piece;

	for (; len != 0 && next(&at, len, &piece); len -= piece.iov_len) {
		memcpy(piece.iov_base, from, piece.iov_len);
		from += piece.iov_len;
	}
}

void vec_clear(const struct iovec *iov, int iovcnt, uint64_t skip, uint64_t len)
{
	struct cursor at = seek(iov, iovcnt, skip);
	struct iovec piece;

	for (; len != 0 && next(&at, len, &piece); len -= piece.iov_len)
		memset(piece.iov_base, 0, piece.iov_len);
}

int vec_slice(const struct iovec *iov, int iovcnt, uint64_t skip, uint64_t len, struct iovec *out,
	      int max, uint64_t *described)
{
	struct cursor at = seek(iov, iovcnt, skip);
	int n = 0;

	*described = 0;
	while (n < max && *described < len && next(&at, len - *described, &out[n]))
		*described += out[n++].iov_len;
	return n;
}
