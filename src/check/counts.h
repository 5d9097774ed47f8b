/* SPDX-License-Identifier: MIT */
/*
 * How often each host cluster is referenced, for images of any size and any malice: memory
 * follows the number of references, not the offsets in them. Single references are in chunks
 * (chunks.h says how, and what that costs); long runs (tables) are kept as runs.
 *
 * A reference may claim something of the count that will be found stored: COPIED flags do. So
 * they are held against the stored counts without reading the tables a second time.
 */
#ifndef CHECK_COUNTS_H
#define CHECK_COUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check/chunks.h"

#define COUNTS_CHUNK 64 /* clusters that are asked about together */

struct counts_edge { /* where a run begins (+n) or ends (-n) */
	uint64_t cluster_idx;
	int64_t delta;
	uint64_t level; /* sealed: how many runs cover what follows */
};

struct counts {
	struct chunks chunks;
	struct counts_edge *edges;
	uint64_t nedges, edges_cap;
};

void counts_release(struct counts *c);
/* n more references. Negative only for lack of memory. */
int counts_add(struct counts *c, uint64_t cluster_idx, uint64_t n);
/* The same for each of nclusters in a row, with a claim: COUNTS_* or 0. */
int counts_add_row(struct counts *c, uint64_t first, uint64_t nclusters, uint64_t n,
		   unsigned claim);
/* n of the references that were added before are gone. Negative: no memory, nothing happened. */
int counts_sub(struct counts *c, uint64_t cluster_idx, uint64_t n);
/* delta more references to each cluster of the run. */
int counts_run(struct counts *c, uint64_t first, uint64_t nclusters, int64_t delta);

/*
 * To be called when runs were added, before what follows is asked; singles may be added without.
 * What asks may be called by several threads at once, counts_next only after counts_sort.
 */
void counts_seal(struct counts *c);
uint64_t counts_get(const struct counts *c, uint64_t cluster_idx);
/* The number of edges at or before the cluster. */
uint64_t counts_edges_before(const struct counts *c, uint64_t cluster_idx);
/* How many runs cover the cluster, and where that changes next. */
uint64_t counts_level(const struct counts *c, uint64_t cluster_idx, uint64_t *until);
/* The counts of 64 clusters from first (a multiple of 64) on; false if all of them are 0. */
bool counts_group(const struct counts *c, uint64_t first, uint64_t group[COUNTS_CHUNK]);
/* The same, and what is claimed of each. */
bool counts_states(const struct counts *c, uint64_t first, struct counts_state s[COUNTS_CHUNK]);

/*
 * Have these n clusters the same state? n is a power of two up to CHUNK_CLUSTERS, first a multiple
 * of it. false also where that would take long to find out.
 */
bool counts_same(const struct counts *c, uint64_t first, uint64_t n, struct counts_state *same);

/* What counts_next does when it has to. */
void counts_sort(struct counts *c);
/* The first clusters in [from, end) that are referenced, and equally often. false: none are. */
struct counts_span {
	uint64_t first, nclusters, count;
};
bool counts_next(struct counts *c, uint64_t from, uint64_t end, struct counts_span *span);
/* The first of n clusters in a row, from `from` on, that nothing references. */
uint64_t counts_find_free(const struct counts *c, uint64_t from, uint64_t n);

#endif
