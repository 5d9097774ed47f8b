/* SPDX-License-Identifier: MIT */
/*
 * Which chunk has a key. Keys of the first CHUNK_NEAR are looked up in an array as long as the
 * largest of them asks for, which is all that most images have; the others are hashed, with a
 * secret seed, so that an image can't make them collide.
 */
#ifndef CHECK_CHUNK_INDEX_H
#define CHECK_CHUNK_INDEX_H

#include <stdint.h>

#define CHUNK_NEAR (1u << 16) /* 256 KiB at most */

struct chunk {
	uint64_t key : 56; /* cluster_idx / CHUNK_CLUSTERS */
	uint64_t form : 8; /* enum chunk_form */
	union {
		uint8_t *unit; /* the chunk's own in its pool */
		uint8_t code;  /* of all, if it is even */
	};
};

/* Numbers of chunks, from 1; 0: none. The chunks themselves, v, are the caller's. */
struct chunk_index {
	uint32_t *near; /* by key */
	uint64_t nnear;
	uint32_t *slots; /* by hash; their number is 0 or a power of two */
	uint64_t nslots;
	uint64_t nfar; /* used slots */
	uint64_t seed; /* once there are slots */
};

void chunk_index_release(struct chunk_index *x);

/* Private: of a key that isn't near. */
uint32_t chunk_index_find_far(const struct chunk_index *x, const struct chunk *v, uint64_t key);

/* The number of the chunk with that key. */
static inline uint32_t chunk_index_find(const struct chunk_index *x, const struct chunk *v,
					uint64_t key)
{
	if (key < x->nnear)
		return x->near[key];
	return key < CHUNK_NEAR ? 0 : chunk_index_find_far(x, v, key);
}

/* Room for one more key. Negative: no memory, nothing happened. */
int chunk_index_make_room(struct chunk_index *x, const struct chunk *v, uint64_t key);
/* Chunk n is there, in v. There is room for its key, which is a new one. */
void chunk_index_add(struct chunk_index *x, const struct chunk *v, uint32_t n);
/* The chunks 1 to n have other places in v than they had. */
void chunk_index_again(struct chunk_index *x, const struct chunk *v, uint32_t n);

#endif
