/* SPDX-License-Identifier: MIT */
/*
 * Bytes in a vector of buffers, addressed by their position in the whole. skip + len is at most
 * the total of the vector. The vector itself is never changed.
 */
#ifndef STORAGE_VEC_H
#define STORAGE_VEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* false: the sum doesn't fit 64 bits, or iovcnt is negative. */
bool vec_total(const struct iovec *iov, int iovcnt, uint64_t *total);
/* Copies len bytes out of the vector, from position skip, to buf. */
void vec_to_buf(const struct iovec *iov, int iovcnt, uint64_t skip, void *buf, uint64_t len);
/* Copies len bytes of buf into the vector, to position skip. */
void vec_from_buf(const struct iovec *iov, int iovcnt, uint64_t skip, const void *buf,
		  uint64_t len);
/* Clears len bytes of the vector from position skip on. */
void vec_clear(const struct iovec *iov, int iovcnt, uint64_t skip, uint64_t len);
/*
 * Describes len bytes from position skip in at most max entries of out, empty ones left out.
 * Returns how many; *described is what they hold, less than len only if max was too small.
 */
int vec_slice(const struct iovec *iov, int iovcnt, uint64_t skip, uint64_t len, struct iovec *out,
	      int max, uint64_t *described);

#endif
