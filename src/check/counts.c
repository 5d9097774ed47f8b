/* SPDX-License-Identifier: MIT */
/* Single references and runs together. What is not done here: deciding which clusters exist. */
#include "check/counts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"

#define PROBES 64 /* chunks that are looked for one by one, rather than sorting all */

void counts_release(struct counts *c)
{
	chunks_release(&c->chunks);
	mem_free(c->edges);
	*c = (struct counts){0};
}

int counts_add(struct counts *c, uint64_t cluster_idx, uint64_t n)
{
	return chunks_add(&c->chunks, cluster_idx, 1, n, 0);
}

int counts_add_row(struct counts *c, uint64_t first, uint64_t nclusters, uint64_t n, unsigned claim)
{
	return chunks_add(&c->chunks, first, nclusters, n, claim);
}

int counts_sub(struct counts *c, uint64_t cluster_idx, uint64_t n)
{
	return chunks_sub(&c->chunks, cluster_idx, n);
}

/* ---- runs ---------------------------------------------------------------------------------- */

int counts_run(struct counts *c, uint64_t first, uint64_t nclusters, int64_t delta)
{
	if (nclusters == 0)
		return 0;
	if (c->edges_cap - c->nedges < 2) {
		uint64_t cap = max_u64(16, c->edges_cap * 2);
		struct counts_edge *edges = mem_realloc(c->edges, cap, sizeof(*edges));

		if (!edges)
			return -ENOMEM;
		c->edges = edges;
		c->edges_cap = cap;
	}
	c->edges[c->nedges++] = (struct counts_edge){first, delta, 0};
	c->edges[c->nedges++] = (struct counts_edge){first + nclusters, -delta, 0};
	return 0;
}

static int by_cluster(const void *a, const void *b)
{
	const struct counts_edge *x = a, *y = b;

	return (x->cluster_idx > y->cluster_idx) - (x->cluster_idx < y->cluster_idx);
}

static void seal_edges(struct counts *c)
{
	uint64_t n = 0, level = 0;

	if (c->nedges == 0)
		return;
	qsort(c->edges, (size_t)c->nedges, sizeof(*c->edges), by_cluster);
	for (uint64_t i = 0; i < c->nedges; i++) {
		level += (uint64_t)c->edges[i].delta;
		if (n > 0 && c->edges[n - 1].cluster_idx == c->edges[i].cluster_idx)
			c->edges[n - 1].delta += c->edges[i].delta;
		else
			c->edges[n++] = c->edges[i];
		c->edges[n - 1].level = level;
	}
	c->nedges = n;
}

void counts_seal(struct counts *c)
{
	seal_edges(c);
}

void counts_sort(struct counts *c)
{
	chunks_sort(&c->chunks);
}

uint64_t counts_edges_before(const struct counts *c, uint64_t cluster_idx)
{
	uint64_t low = 0, high = c->nedges;

	while (low < high) {
		uint64_t mid = low + (high - low) / 2;

		if (c->edges[mid].cluster_idx <= cluster_idx)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

uint64_t counts_level(const struct counts *c, uint64_t cluster_idx, uint64_t *until)
{
	uint64_t n = counts_edges_before(c, cluster_idx);

	*until = n < c->nedges ? c->edges[n].cluster_idx : UINT64_MAX;
	return n > 0 ? c->edges[n - 1].level : 0;
}

/* ---- asking -------------------------------------------------------------------------------- */

static uint64_t saturated(uint64_t a, uint64_t b)
{
	uint64_t sum;

	return add_fits(a, b, &sum) ? sum : UINT64_MAX;
}

static const struct chunk *find(const struct counts *c, uint64_t cluster_idx)
{
	return chunks_find(&c->chunks, cluster_idx / CHUNK_CLUSTERS);
}

static uint64_t count_in(const struct counts *c, const struct chunk *chunk, uint64_t cluster_idx)
{
	return chunks_state(&c->chunks, chunk, cluster_idx % CHUNK_CLUSTERS).count;
}

uint64_t counts_get(const struct counts *c, uint64_t cluster_idx)
{
	uint64_t until, level = counts_level(c, cluster_idx, &until);

	return saturated(level, count_in(c, find(c, cluster_idx), cluster_idx));
}

bool counts_states(const struct counts *c, uint64_t first, struct counts_state s[COUNTS_CHUNK])
{
	const struct chunk *chunk = find(c, first);
	uint64_t until, level = counts_level(c, first, &until);

	if (!chunk && level == 0 && until - first >= COUNTS_CHUNK)
		return false;
	chunks_states(&c->chunks, chunk, first % CHUNK_CLUSTERS, COUNTS_CHUNK, s);
	if (level == 0 && until - first >= COUNTS_CHUNK)
		return true;
	for (unsigned i = 0; i < COUNTS_CHUNK; i++) {
		if (first + i == until)
			level = counts_level(c, first + i, &until);
		s[i].count = saturated(level, s[i].count);
	}
	return true;
}

bool counts_group(const struct counts *c, uint64_t first, uint64_t group[COUNTS_CHUNK])
{
	struct counts_state s[COUNTS_CHUNK];

	if (!counts_states(c, first, s))
		return false;
	for (unsigned i = 0; i < COUNTS_CHUNK; i++)
		group[i] = s[i].count;
	return true;
}

bool counts_same(const struct counts *c, uint64_t first, uint64_t n, struct counts_state *same)
{
	uint64_t until, level = counts_level(c, first, &until);

	if (until - first < n ||
	    !chunks_same(&c->chunks, find(c, first), first % CHUNK_CLUSTERS, (unsigned)n, same))
		return false;
	same->count = saturated(level, same->count);
	return true;
}

/* As counts_next, but the span may be of clusters that aren't referenced. Never empty. */
static void span_at(const struct counts *c, uint64_t from, uint64_t end, struct counts_span *span)
{
	uint64_t until, level = counts_level(c, from, &until), stop = min_u64(end, until);
	uint64_t key = from / CHUNK_CLUSTERS;
	const struct chunk *chunk = find(c, from);

	*span = (struct counts_span){from, 0, level};
	if (!chunk) {
		key = chunks_next_key(&c->chunks, key, div_ceil(stop, CHUNK_CLUSTERS));
		if (key < div_ceil(stop, CHUNK_CLUSTERS))
			stop = min_u64(stop, key * CHUNK_CLUSTERS);
		span->nclusters = stop - from;
		return;
	}
	stop = min_u64(stop, (key + 1) * CHUNK_CLUSTERS);
	span->nclusters = chunks_stretch(&c->chunks, chunk, from % CHUNK_CLUSTERS,
					 (unsigned)(stop - key * CHUNK_CLUSTERS), &span->count);
	span->count = saturated(level, span->count);
}

bool counts_next(struct counts *c, uint64_t from, uint64_t end, struct counts_span *span)
{
	if (from < end && (end - from) / CHUNK_CLUSTERS > PROBES &&
	    from / CHUNK_CLUSTERS + PROBES <= c->chunks.key_max)
		counts_sort(c);
	while (from < end) {
		span_at(c, from, end, span);
		if (span->count != 0)
			return true;
		from += span->nclusters;
	}
	return false;
}

uint64_t counts_find_free(const struct counts *c, uint64_t from, uint64_t n)
{
	uint64_t run = 0, until, group[COUNTS_CHUNK];

	while (run < n) {
		unsigned i = from % COUNTS_CHUNK;
		bool any;

		if (counts_level(c, from, &until) > 0) {
			from = until;
			run = 0;
			continue;
		}
		/* Single references that came after sealing are seen here too. */
		any = counts_group(c, from - i, group);
		for (; i < COUNTS_CHUNK && run < n; i++, from++)
			run = any && group[i] != 0 ? 0 : run + 1;
	}
	return from - n;
}
