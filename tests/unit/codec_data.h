/* SPDX-License-Identifier: MIT */
/* Clusters to compress: the same bytes on every host. */
#ifndef TESTS_UNIT_CODEC_DATA_H
#define TESTS_UNIT_CODEC_DATA_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MAX_CLUSTER ((size_t)2 << 20)

enum data_kind {
	DATA_ZEROS,
	DATA_ONE_BYTE,
	DATA_RANDOM,
	DATA_TEXT,
	DATA_PERIOD,  /* a pattern of 1000 bytes again and again */
	DATA_FAR,     /* random, but each 5000 bytes as before: only matches that are too far */
	DATA_RECORDS, /* binary records with counters and pointers */
	DATA_SPARSE,  /* single bytes in zeros */
	DATA_MIXTURE, /* pieces of all of these */
	DATA_SKEWED,  /* bytes of very different frequency: long code words */
	DATA_KINDS,
};

static inline uint32_t data_random(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*seed >> 33);
}

static inline uint8_t data_byte(enum data_kind kind, size_t i, uint64_t *seed, const uint8_t *buf)
{
	static const char *const words[] = {"cluster ", "of ", "the ",	 "table, ",
					    "and ",	"a ",  "image ", "refcount.\n"};
	uint32_t r;

	switch (kind) {
	case DATA_ONE_BYTE:
		return 0xa7;
	case DATA_RANDOM:
		return (uint8_t)data_random(seed);
	case DATA_PERIOD:
		return (uint8_t)(i % 1000 * 7 + (i % 1000 >> 3));
	case DATA_FAR:
		return i < 5000 ? (uint8_t)data_random(seed) : buf[i - 5000];
	case DATA_RECORDS:
		return i % 24 < 4    ? (uint8_t)(i / 24 >> 8 * (i % 4))
		       : i % 24 < 8  ? 0
		       : i % 24 < 10 ? (uint8_t)data_random(seed)
				     : (uint8_t)(i % 24 * 11);
	case DATA_SPARSE:
		return data_random(seed) % 97 ? 0 : (uint8_t)data_random(seed);
	case DATA_SKEWED:
		r = data_random(seed) | 1u << 30;
		return (uint8_t)(__builtin_ctz(r) * 5 + (data_random(seed) % 64 == 0));
	case DATA_TEXT: {
		const char *word = words[*seed >> 40 & 7];
		size_t at = *seed & 15;

		if (!word[at]) {
			r = data_random(seed);
			word = words[r & 7];
			*seed &= ~(uint64_t)(15 | (uint64_t)7 << 40);
			*seed |= (uint64_t)(r & 7) << 40;
			at = 0;
		}
		*seed = (*seed & ~(uint64_t)15) | (at + 1);
		return (uint8_t)word[at];
	}
	default:
		return 0;
	}
}

static inline void data_fill(uint8_t *buf, size_t len, enum data_kind kind, uint64_t seed)
{
	enum data_kind now = kind;
	size_t left = 0;

	seed &= ~(uint64_t)15;
	for (size_t i = 0; i < len; i++) {
		if (kind == DATA_MIXTURE && left-- == 0) {
			left = data_random(&seed) % 6000;
			now = (enum data_kind)(data_random(&seed) % DATA_MIXTURE);
			if (now == DATA_FAR)
				now = DATA_TEXT;
			seed &= ~(uint64_t)15;
		}
		buf[i] = data_byte(now, i, &seed, buf);
	}
}

#endif
