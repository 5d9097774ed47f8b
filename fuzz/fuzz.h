/* SPDX-License-Identifier: MIT */
/* What the fuzz targets share: a reader of the input, exact copies of it, a check that traps. */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* What must hold whatever the input is. The stack trace shows which one didn't. */
#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond))                                                                       \
			__builtin_trap();                                                          \
	} while (0)

/* The input, taken from the front. Past its end there are zeros. */
struct fuzz_input {
	const uint8_t *data;
	size_t len;
};

static inline uint64_t fuzz_take(struct fuzz_input *in, size_t nbytes)
{
	uint64_t v = 0;

	for (size_t i = 0; i < nbytes; i++) {
		v <<= 8;
		if (in->len > 0) {
			v |= *in->data++;
			in->len--;
		}
	}
	return v;
}

/* len bytes of their own, so that a sanitizer sees the first byte that is read beyond them. */
static inline uint8_t *fuzz_copy(const struct fuzz_input *in, size_t len)
{
	uint8_t *copy = calloc(1, len ? len : 1);

	CHECK(copy);
	if (in->len > 0)
		memcpy(copy, in->data, in->len < len ? in->len : len);
	return copy;
}

static inline int fuzz_same_string(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
