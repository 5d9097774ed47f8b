/* SPDX-License-Identifier: MIT */
/* A walk over a caller's I/O vector: the cursor never passes the end of what it was given. */
#include "base/iov.h"

#include <string.h>

#include "base/num.h"

bool iov_sum(const struct iovec *iov, int iovcnt, uint64_t *len_bytes)
{
	uint64_t sum = 0;

	if (iovcnt < 0 || (iovcnt > 0 && !iov))
		return false;
	for (int i = 0; i < iovcnt; i++) {
		if (!add_fits(sum, iov[i].iov_len, &sum) || sum > PTRDIFF_MAX)
			return false;
	}
	*len_bytes = sum;
	return true;
}

/* The piece under the cursor, at most len bytes of it; steps over it. */
static struct iovec next_piece(struct iov_cursor *c, size_t len)
{
	struct iovec piece = {NULL, 0};

	while (c->iovcnt > 0 && c->iov->iov_len == c->skip) {
		c->iov++;
		c->iovcnt--;
		c->skip = 0;
	}
	if (c->iovcnt == 0 || len == 0)
		return piece;
	piece.iov_base = (uint8_t *)c->iov->iov_base + c->skip;
	piece.iov_len = min_u64(len, c->iov->iov_len - c->skip);
	c->skip += piece.iov_len;
	return piece;
}

void iov_fill(struct iov_cursor *c, int value, size_t len)
{
	while (len > 0) {
		struct iovec piece = next_piece(c, len);

		if (piece.iov_len == 0)
			return;
		memset(piece.iov_base, value, piece.iov_len);
		len -= piece.iov_len;
	}
}

void iov_put(struct iov_cursor *c, const void *src, size_t len)
{
	const uint8_t *from = src;

	while (len > 0) {
		struct iovec piece = next_piece(c, len);

		if (piece.iov_len == 0)
			return;
		memcpy(piece.iov_base, from, piece.iov_len);
		from += piece.iov_len;
		len -= piece.iov_len;
	}
}

void iov_get(struct iov_cursor *c, void *dst, size_t len)
{
	uint8_t *to = dst;

	while (len > 0) {
		struct iovec piece = next_piece(c, len);

		if (piece.iov_len == 0)
			return;
		memcpy(to, piece.iov_base, piece.iov_len);
		to += piece.iov_len;
		len -= piece.iov_len;
	}
}

void iov_skip(struct iov_cursor *c, size_t len)
{
	while (len > 0) {
		struct iovec piece = next_piece(c, len);

		if (piece.iov_len == 0)
			return;
		len -= piece.iov_len;
	}
}

int iov_cut(struct iov_cursor *c, size_t len, struct iovec *pieces, int max, size_t *taken)
{
	int n = 0;

	*taken = 0;
	while (n < max && *taken < len) {
		struct iovec piece = next_piece(c, len - *taken);

		if (piece.iov_len == 0)
			break;
		pieces[n++] = piece;
		*taken += piece.iov_len;
	}
	return n;
}

void *iov_contiguous(const struct iov_cursor *c, size_t len)
{
	struct iov_cursor probe = *c;
	struct iovec piece = next_piece(&probe, len);

	return piece.iov_len == len ? piece.iov_base : NULL;
}
