/* SPDX-License-Identifier: MIT */
/* A walk over a caller's I/O vector, which is never changed. */
#ifndef BASE_IOV_H
#define BASE_IOV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Position in a vector. Copy it to remember a place. */
struct iov_cursor {
	const struct iovec *iov;
	int iovcnt;
	size_t skip; /* bytes of iov[0] that are behind us */
};

static inline void iov_cursor_init(struct iov_cursor *c, const struct iovec *iov, int iovcnt)
{
	*c = (struct iov_cursor){.iov = iov, .iovcnt = iovcnt};
}

/* iov_total of vectors that aren't a single buffer. */
bool iov_sum(const struct iovec *iov, int iovcnt, uint64_t *len_bytes);

/* Sum of the lengths; false if it overflows or the vector is malformed. */
static inline bool iov_total(const struct iovec *iov, int iovcnt, uint64_t *len_bytes)
{
	if (iovcnt != 1 || !iov)
		return iov_sum(iov, iovcnt, len_bytes);
	*len_bytes = iov->iov_len;
	return iov->iov_len <= PTRDIFF_MAX;
}

/* Sets the next len bytes, which the vector has, to value, and moves past them. */
void iov_fill(struct iov_cursor *c, int value, size_t len);

/* Copies len bytes from src into the vector and moves past them. */
void iov_put(struct iov_cursor *c, const void *src, size_t len);

/* Copies the next len bytes, which the vector has, to dst and moves past them. */
void iov_get(struct iov_cursor *c, void *dst, size_t len);

/* Moves past len bytes, which the vector has. */
void iov_skip(struct iov_cursor *c, size_t len);

/*
 * Cuts at most max pieces with together at most len bytes, moving past them; gives the number of
 * pieces and in *taken their bytes.
 */
int iov_cut(struct iov_cursor *c, size_t len, struct iovec *pieces, int max, size_t *taken);

/* The address of the next len bytes if they lie in one piece, else NULL. Doesn't move. */
void *iov_contiguous(const struct iov_cursor *c, size_t len);

#endif
