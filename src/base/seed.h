/* SPDX-License-Identifier: MIT */
/* Hashing with a secret: who makes an image can't make its numbers collide in our tables. */
#ifndef BASE_SEED_H
#define BASE_SEED_H

#include <stdint.h>

/* A number that nobody can foresee; at worst one that is hard to. Never waits. */
uint64_t seed_random(void);

/* The low bits are as good as the high ones. Equal keys and seeds give equal numbers. */
static inline uint64_t seed_hash(uint64_t seed, uint64_t key)
{
	uint64_t h = (key ^ seed) * (seed | 1);

	h = (h ^ h >> 32) * 0xd6e8feb86659fd93ull;
	return h ^ h >> 32;
}

#endif
