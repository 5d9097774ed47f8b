/* SPDX-License-Identifier: MIT */
/*
 * Single references to clusters, counted in chunks of 512 clusters: memory follows the number of
 * references, not the offsets in them. A chunk takes the smallest form that its counts fit in:
 *
 *	even	all clusters have the same count, up to 13	no bytes
 *	few	up to 8 clusters are referenced			16 bytes
 *	two	counts of 0 and 1				2 bits a cluster
 *	four	counts up to 13					4 bits a cluster
 *	eight	counts up to 62					8 bits a cluster
 *
 * Larger counts stand in a map of their own. What it takes to find a chunk is 21 to 35 bytes more,
 * and 256 KiB at most for all (check/chunk_index.h).
 * So an image whose clusters are used once costs less than a bit for each cluster that lies in a
 * row of its like, less than three for any other; and nine wild references that make a chunk as
 * large as it gets are 72 bytes of the image themselves.
 */
#ifndef CHECK_CHUNKS_H
#define CHECK_CHUNKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check/chunk_index.h"
#include "check/longs.h"

#define CHUNK_CLUSTERS 512u

/* What a reference says of the count that should be stored for its cluster. */
#define COUNTS_ALONE 1u	 /* nobody else has one */
#define COUNTS_SHARED 2u /* others have, too */

struct counts_state {
	uint64_t count;
	/* of all references together; of a count above 1 SHARED may be said though nobody did */
	unsigned claims;
};

enum chunk_form { CHUNK_FEW, CHUNK_TWO, CHUNK_FOUR, CHUNK_EIGHT, CHUNK_EVEN };

/* Units of one form, many in a piece of memory. */
struct chunks_pool {
	uint8_t **pieces;
	uint64_t nunits;
	uint8_t *unused; /* the first of those that were given back; the next is in it */
};

/* What each code of a form becomes by n more references, with each set of claims. */
#define CHUNKS_NO_STEP UINT8_MAX /* the form has no code for that */
struct chunks_steps {
	uint64_t n;
	uint8_t two[4][4], four[4][16];
};

struct chunks {
	struct chunk *v;
	uint32_t n, cap;
	struct chunk_index index;
	struct chunk *last; /* the one that was changed last */
	uint64_t key_max;
	bool disordered; /* v isn't in the order of the keys */
	struct chunks_pool pools[CHUNK_EVEN];
	struct longs overflow; /* cluster_idx to counts that the form can't hold */
	struct chunks_steps steps;
};

void chunks_release(struct chunks *c);
/* n more references to each cluster of the row, with a claim or 0. Negative: no memory. */
int chunks_add(struct chunks *c, uint64_t first, uint64_t nclusters, uint64_t n, unsigned claim);
/* n of the references that were added before are gone. Negative: no memory, nothing happened. */
int chunks_sub(struct chunks *c, uint64_t cluster_idx, uint64_t n);

/*
 * For adding n references to one cluster after the other in any order, as a fragmented image has
 * them. Holds until references are added in another way.
 */
struct chunks_adder {
	const struct chunk *v;
	const uint32_t *near;
	uint64_t nnear;
	const struct chunks_steps *steps;
};

/* n isn't 0. */
struct chunks_adder chunks_adder(struct chunks *c, uint64_t n);

/* Private: in a unit of entries of (1 << order) bits. */
static inline bool chunks_step(uint8_t *unit, unsigned pos, unsigned order, const uint8_t *next)
{
	uint8_t *p = unit + (pos << order >> 3);
	unsigned shift = pos << order & 7, mask = (1u << (1u << order)) - 1;
	unsigned code = *p >> shift & mask;

	if (next[code] == CHUNKS_NO_STEP)
		return false;
	*p ^= (uint8_t)((code ^ next[code]) << shift);
	return true;
}

/* false: nothing happened, chunks_add has to do it. */
static inline bool chunks_adder_add(const struct chunks_adder *a, uint64_t cluster_idx,
				    unsigned claim)
{
	uint64_t key = cluster_idx / CHUNK_CLUSTERS;
	unsigned pos = cluster_idx % CHUNK_CLUSTERS;
	size_t at = key < a->nnear ? a->near[key] : 0;

	if (at == 0)
		return false;
	switch (a->v[at - 1].form) {
	case CHUNK_TWO:
		return chunks_step(a->v[at - 1].unit, pos, 1, a->steps->two[claim]);
	case CHUNK_FOUR:
		return chunks_step(a->v[at - 1].unit, pos, 2, a->steps->four[claim]);
	default:
		return false;
	}
}

/* What follows may be called by several threads at once, chunks_sort excepted. */

/* The chunk of that key; NULL: nothing in it is referenced. */
const struct chunk *chunks_find(const struct chunks *c, uint64_t key);
/* Of the pos-th cluster in the chunk; chunk may be NULL. */
struct counts_state chunks_state(const struct chunks *c, const struct chunk *chunk, unsigned pos);
/*
 * Have the n clusters from pos on the same state? n is a power of two, pos a multiple of it. false
 * also where that would take long to find out.
 */
bool chunks_same(const struct chunks *c, const struct chunk *chunk, unsigned pos, unsigned n,
		 struct counts_state *same);
/* Of n clusters from pos on. */
void chunks_states(const struct chunks *c, const struct chunk *chunk, unsigned pos, unsigned n,
		   struct counts_state *states);
/* How many clusters from pos on, below end, have that count: at least 1, there may be more. */
unsigned chunks_stretch(const struct chunks *c, const struct chunk *chunk, unsigned pos,
			unsigned end, uint64_t *count);
/* Brings the chunks in order. */
void chunks_sort(struct chunks *c);
/* The key of the first chunk at or behind that one, below end; end: there is none. Quick if the
 * chunks are in order, or end is close. */
uint64_t chunks_next_key(const struct chunks *c, uint64_t key, uint64_t end);

#endif
