/* SPDX-License-Identifier: MIT */
/*
 * How often each host cluster is referenced, for images of any size and any malice: memory
 * follows the number of references, not the offsets in them. Single references are bytes in
 * chunks of 64 clusters that are found by hashing; counts of 255 and more stand in a map of their
 * own; long runs (tables) are kept as runs.
 */
#ifndef CHECK_COUNTS_H
#define CHECK_COUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COUNTS_CHUNK 64

struct counts_slot {
	uint64_t key;
	uint64_t value; /* 0: the slot is free */
};

/* From key to value, open addressing. */
struct counts_map {
	struct counts_slot *slots;
	uint64_t nslots, nused;
};

struct counts_edge { /* where a run begins (+n) or ends (-n) */
	uint64_t cluster_idx;
	int64_t delta;
	uint64_t level; /* sealed: how many runs cover what follows */
};

struct counts {
	struct counts_map chunks;   /* cluster_idx / 64 to the number of the chunk, from 1 */
	struct counts_map overflow; /* cluster_idx to counts from 255 on */
	uint8_t **pools;	    /* chunks, many in a piece */
	uint64_t nchunks;
	uint64_t last_key; /* the chunk that was found last */
	uint8_t *last_chunk;
	struct counts_edge *edges;
	uint64_t nedges, edges_cap;
	uint64_t *keys; /* of all chunks, as they came; the first nkeys are sealed: in order */
	uint64_t nkeys, keys_cap;
	bool keys_disordered;
};

void counts_release(struct counts *c);
/* n more references. Negative only for lack of memory. */
int counts_add(struct counts *c, uint64_t cluster_idx, uint64_t n);
/* The same for each of nclusters in a row. */
int counts_add_row(struct counts *c, uint64_t first, uint64_t nclusters, uint64_t n);
/* n of the references that were added before are gone. */
void counts_sub(struct counts *c, uint64_t cluster_idx, uint64_t n);
/* delta more references to each cluster of the run. */
int counts_run(struct counts *c, uint64_t first, uint64_t nclusters, int64_t delta);

/*
 * To be called when runs or first references were added, before what follows is asked; singles may
 * be added without for counts_get.
 */
int counts_seal(struct counts *c);
uint64_t counts_get(const struct counts *c, uint64_t cluster_idx);
/* The counts of 64 clusters from first (a multiple of 64) on; false if all of them are 0. */
bool counts_group(const struct counts *c, uint64_t first, uint64_t group[COUNTS_CHUNK]);

/* Have these 64 clusters the same count? false also where that would take long to find out. */
bool counts_group_same(const struct counts *c, uint64_t first, uint64_t *count);

/* The first clusters in [from, end) that are referenced, and equally often. false: none are. */
struct counts_span {
	uint64_t first, nclusters, count;
};
bool counts_next(const struct counts *c, uint64_t from, uint64_t end, struct counts_span *span);
/* The first of n clusters in a row, from `from` on, that nothing references. */
uint64_t counts_find_free(const struct counts *c, uint64_t from, uint64_t n);

#endif
