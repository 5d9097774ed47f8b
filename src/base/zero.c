/* SPDX-License-Identifier: MIT */
/*
 * Zero detection. Data usually shows itself within the first bytes, at the end or in the middle;
 * what passes these looks is read from front to back, 128 bytes a step, which compilers turn into
 * vector code.
 */
#include "base/zero.h"

#include <stdint.h>
#include <string.h>

#define STEP 128

static inline uint64_t word(const uint8_t *p)
{
	uint64_t w;

	memcpy(&w, p, sizeof(w));
	return w;
}

static bool step_is_zero(const uint8_t *p)
{
	uint64_t any = 0;

	for (size_t i = 0; i < STEP; i += sizeof(any))
		any |= word(p + i);
	return any == 0;
}

bool bytes_are_zero(const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	if (len >= STEP && (word(p) | word(p + len / 2 - 4) | word(p + len - 8)))
		return false;
	for (; len >= STEP; p += STEP, len -= STEP) {
		if (!step_is_zero(p))
			return false;
	}
	for (; len > 0; p++, len--) {
		if (*p)
			return false;
	}
	return true;
}
