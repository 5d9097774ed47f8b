/* SPDX-License-Identifier: MIT */
/* Load and store fixed-width integers at any alignment. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint16_t load_be16(const uint8_t *p)
{
	return (uint16_t)((uint16_t)p[0] << 8 | p[1]);
}

static inline uint32_t load_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The bytes of v, in order of memory, are those of a big-endian number; or the other way round. */
static inline uint64_t swap_be64(uint64_t v)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return __builtin_bswap64(v);
#else
	return v;
#endif
}

/* Words of 64 bits come by the million: one access each, even where compilers don't see to it. */
static inline uint64_t load_be64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return swap_be64(v);
}

static inline uint32_t load_le32(const uint8_t *p)
{
	return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

static inline uint64_t load_le64(const uint8_t *p)
{
	return (uint64_t)load_le32(p + 4) << 32 | load_le32(p);
}

static inline void store_be16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline void store_be32(uint8_t *p, uint32_t v)
{
	store_be16(p, (uint16_t)(v >> 16));
	store_be16(p + 2, (uint16_t)v);
}

static inline void store_be64(uint8_t *p, uint64_t v)
{
	v = swap_be64(v);
	memcpy(p, &v, sizeof(v));
}

/* The same as single atomic accesses, for words that change while they are read; p is aligned. */
static inline uint64_t load_be64_acquire(const uint8_t *p)
{
	uint64_t v = __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_ACQUIRE);

	return load_be64((const uint8_t *)&v);
}

static inline void store_be64_release(uint8_t *p, uint64_t v)
{
	uint64_t be;

	store_be64((uint8_t *)&be, v);
	__atomic_store_n((uint64_t *)(void *)p, be, __ATOMIC_RELEASE);
}

#endif
