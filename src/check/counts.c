/* SPDX-License-Identifier: MIT */
/*
 * Computed reference counts. Counts saturate at UINT64_MAX; with what an image can hold they
 * don't get there. What is not done here: deciding which clusters exist.
 */
#include "check/counts.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/zero.h"

#define POOL_CHUNKS 256u
#define IN_OVERFLOW 255u
#define MAP_SLOTS_MIN 64u

/* ---- the map ------------------------------------------------------------------------------- */

static uint64_t hash(uint64_t key)
{
	key *= 0x9e3779b97f4a7c15ull;
	return key ^ key >> 29;
}

/* The slot that has the key, or the free one where it belongs. */
static struct counts_slot *find_slot(const struct counts_map *m, uint64_t key)
{
	uint64_t i = hash(key) & (m->nslots - 1);

	while (m->slots[i].value != 0 && m->slots[i].key != key)
		i = (i + 1) & (m->nslots - 1);
	return &m->slots[i];
}

static int grow_map(struct counts_map *m)
{
	struct counts_map bigger = {.nslots = max_u64(MAP_SLOTS_MIN, m->nslots * 2),
				    .nused = m->nused};

	bigger.slots = mem_zalloc(bigger.nslots, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (uint64_t i = 0; i < m->nslots; i++)
		if (m->slots[i].value != 0)
			*find_slot(&bigger, m->slots[i].key) = m->slots[i];
	mem_free(m->slots);
	*m = bigger;
	return 0;
}

static const uint64_t *map_get(const struct counts_map *m, uint64_t key)
{
	const struct counts_slot *s = m->nslots ? find_slot(m, key) : NULL;

	return s && s->value != 0 ? &s->value : NULL;
}

/* value isn't 0. */
static int map_set(struct counts_map *m, uint64_t key, uint64_t value)
{
	struct counts_slot *s;

	if (m->nused >= m->nslots / 4 * 3) {
		int ret = grow_map(m);

		if (ret < 0)
			return ret;
	}
	s = find_slot(m, key);
	m->nused += s->value == 0;
	*s = (struct counts_slot){key, value};
	return 0;
}

/* ---- chunks -------------------------------------------------------------------------------- */

static uint8_t *chunk_at(const struct counts *c, uint64_t n)
{
	return c->pools[n / POOL_CHUNKS] + n % POOL_CHUNKS * COUNTS_CHUNK;
}

static uint8_t *find_chunk(const struct counts *c, uint64_t key)
{
	const uint64_t *n = map_get(&c->chunks, key);

	return n ? chunk_at(c, *n - 1) : NULL;
}

static int add_pool(struct counts *c)
{
	uint64_t npools = c->nchunks / POOL_CHUNKS;
	uint8_t **pools = c->pools;

	if ((npools & (npools - 1)) == 0) { /* the array is as long as the next power of two */
		pools = mem_realloc(c->pools, npools ? npools * 2 : 1, sizeof(*pools));
		if (!pools)
			return -ENOMEM;
		c->pools = pools;
	}
	pools[npools] = mem_zalloc(POOL_CHUNKS, COUNTS_CHUNK);
	return pools[npools] ? 0 : -ENOMEM;
}

static int grow_keys(struct counts *c)
{
	uint64_t cap = max_u64(64, c->keys_cap * 2);
	uint64_t *keys = mem_realloc(c->keys, cap, sizeof(*keys));

	if (!keys)
		return -ENOMEM;
	c->keys = keys;
	c->keys_cap = cap;
	return 0;
}

static uint8_t *make_chunk(struct counts *c, uint64_t key)
{
	if (c->nchunks == c->keys_cap && grow_keys(c) < 0)
		return NULL;
	if (c->nchunks % POOL_CHUNKS == 0 && add_pool(c) < 0)
		return NULL;
	if (map_set(&c->chunks, key, c->nchunks + 1) < 0) {
		if (c->nchunks % POOL_CHUNKS == 0)
			mem_free(c->pools[c->nchunks / POOL_CHUNKS]);
		return NULL;
	}
	/* Tables are read in the order of the file, so the keys mostly come in order. */
	if (c->nchunks > 0 && c->keys[c->nchunks - 1] > key)
		c->keys_disordered = true;
	c->keys[c->nchunks] = key;
	return chunk_at(c, c->nchunks++);
}

void counts_release(struct counts *c)
{
	for (uint64_t i = 0; i < div_ceil(c->nchunks, POOL_CHUNKS); i++)
		mem_free(c->pools[i]);
	mem_free(c->pools);
	mem_free(c->chunks.slots);
	mem_free(c->overflow.slots);
	mem_free(c->edges);
	mem_free(c->keys);
	*c = (struct counts){0};
}

/* What single references make of a cluster whose byte that is. */
static uint64_t count_of(const struct counts *c, uint64_t cluster_idx, uint8_t byte)
{
	const uint64_t *value = byte == IN_OVERFLOW ? map_get(&c->overflow, cluster_idx) : NULL;

	return value ? *value : byte;
}

static int set_count(struct counts *c, uint64_t cluster_idx, uint8_t *byte, uint64_t count)
{
	if (count < IN_OVERFLOW) {
		*byte = (uint8_t)count;
		return 0;
	}
	if (map_set(&c->overflow, cluster_idx, count) < 0)
		return -ENOMEM;
	*byte = IN_OVERFLOW;
	return 0;
}

/* Makes the chunk with that key the last one. */
static int want_chunk(struct counts *c, uint64_t key)
{
	uint8_t *chunk;

	if (c->last_chunk && c->last_key == key)
		return 0;
	chunk = find_chunk(c, key);
	if (!chunk)
		chunk = make_chunk(c, key);
	if (!chunk)
		return -ENOMEM;
	c->last_chunk = chunk;
	c->last_key = key;
	return 0;
}

int counts_add(struct counts *c, uint64_t cluster_idx, uint64_t n)
{
	uint64_t count;
	uint8_t *byte;

	if (want_chunk(c, cluster_idx / COUNTS_CHUNK) < 0)
		return -ENOMEM;
	byte = c->last_chunk + cluster_idx % COUNTS_CHUNK;
	if (!add_fits(count_of(c, cluster_idx, *byte), n, &count))
		count = UINT64_MAX;
	return set_count(c, cluster_idx, byte, count);
}

int counts_add_row(struct counts *c, uint64_t first, uint64_t nclusters, uint64_t n)
{
	int ret = 0;

	while (ret == 0 && nclusters > 0) {
		uint64_t at = first % COUNTS_CHUNK, len = min_u64(nclusters, COUNTS_CHUNK - at);

		ret = want_chunk(c, first / COUNTS_CHUNK);
		if (ret == 0 && n < IN_OVERFLOW && bytes_are_zero(c->last_chunk + at, len))
			memset(c->last_chunk + at, (int)n, (size_t)len);
		else
			for (uint64_t i = 0; ret == 0 && i < len; i++)
				ret = counts_add(c, first + i, n);
		first += len;
		nclusters -= len;
	}
	return ret;
}

void counts_sub(struct counts *c, uint64_t cluster_idx, uint64_t n)
{
	uint8_t *chunk = find_chunk(c, cluster_idx / COUNTS_CHUNK), *byte;
	uint64_t count;
	int ret;

	assert(chunk);
	byte = chunk + cluster_idx % COUNTS_CHUNK;
	count = count_of(c, cluster_idx, *byte);
	assert(count >= n);
	ret = set_count(c, cluster_idx, byte, count - n);
	assert(ret == 0); /* a count from 255 on has its place already */
	(void)ret;
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

static int by_key(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
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

int counts_seal(struct counts *c)
{
	seal_edges(c);
	if (c->keys_disordered)
		qsort(c->keys, (size_t)c->nchunks, sizeof(*c->keys), by_key);
	c->keys_disordered = false;
	c->nkeys = c->nchunks;
	return 0;
}

/* The number of edges at or before the cluster. */
static uint64_t edges_before(const struct counts *c, uint64_t cluster_idx)
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

/* How many runs cover the cluster, and where that changes next. */
static uint64_t run_level(const struct counts *c, uint64_t cluster_idx, uint64_t *until)
{
	uint64_t n = edges_before(c, cluster_idx);

	*until = n < c->nedges ? c->edges[n].cluster_idx : UINT64_MAX;
	return n > 0 ? c->edges[n - 1].level : 0;
}

/* ---- asking -------------------------------------------------------------------------------- */

static uint64_t saturated(uint64_t a, uint64_t b)
{
	uint64_t sum;

	return add_fits(a, b, &sum) ? sum : UINT64_MAX;
}

uint64_t counts_get(const struct counts *c, uint64_t cluster_idx)
{
	const uint8_t *chunk = find_chunk(c, cluster_idx / COUNTS_CHUNK);
	uint64_t until, level = run_level(c, cluster_idx, &until);

	if (!chunk)
		return level;
	return saturated(level, count_of(c, cluster_idx, chunk[cluster_idx % COUNTS_CHUNK]));
}

bool counts_group(const struct counts *c, uint64_t first, uint64_t group[COUNTS_CHUNK])
{
	const uint8_t *chunk = find_chunk(c, first / COUNTS_CHUNK);
	uint64_t until, level = run_level(c, first, &until);

	if (!chunk && level == 0 && until - first >= COUNTS_CHUNK)
		return false;
	for (unsigned i = 0; i < COUNTS_CHUNK; i++) {
		if (first + i == until)
			level = run_level(c, first + i, &until);
		group[i] = chunk ? saturated(level, count_of(c, first + i, chunk[i])) : level;
	}
	return true;
}

bool counts_group_same(const struct counts *c, uint64_t first, uint64_t *count)
{
	const uint8_t *chunk = find_chunk(c, first / COUNTS_CHUNK);
	uint64_t until, level = run_level(c, first, &until);

	if (until - first < COUNTS_CHUNK)
		return false;
	*count = level;
	if (!chunk)
		return true;
	if (chunk[0] == IN_OVERFLOW || memcmp(chunk, chunk + 1, COUNTS_CHUNK - 1) != 0)
		return false;
	*count = saturated(level, chunk[0]);
	return true;
}

/* The key of the first chunk at or behind that one; UINT64_MAX: there is none. */
static uint64_t next_key(const struct counts *c, uint64_t key)
{
	uint64_t low = 0, high = c->nkeys;

	while (low < high) {
		uint64_t mid = low + (high - low) / 2;

		if (c->keys[mid] < key)
			low = mid + 1;
		else
			high = mid;
	}
	return low < c->nkeys ? c->keys[low] : UINT64_MAX;
}

/* As counts_next, but the span may be of clusters that aren't referenced. Never empty. */
static void span_at(const struct counts *c, uint64_t from, uint64_t end, struct counts_span *span)
{
	uint64_t until, key = next_key(c, from / COUNTS_CHUNK), stop;
	uint64_t level = run_level(c, from, &until);
	const uint8_t *chunk;

	*span = (struct counts_span){from, 0, level};
	stop = min_u64(end, until);
	if (key != from / COUNTS_CHUNK) {
		if (key != UINT64_MAX)
			stop = min_u64(stop, key * COUNTS_CHUNK);
		span->nclusters = stop - from;
		return;
	}
	chunk = find_chunk(c, key);
	assert(chunk);
	span->count = saturated(level, count_of(c, from, chunk[from % COUNTS_CHUNK]));
	stop = min_u64(stop, (key + 1) * COUNTS_CHUNK);
	do
		span->nclusters++;
	while (from + span->nclusters < stop &&
	       saturated(level, count_of(c, from + span->nclusters,
					 chunk[(from + span->nclusters) % COUNTS_CHUNK])) ==
		       span->count);
}

bool counts_next(const struct counts *c, uint64_t from, uint64_t end, struct counts_span *span)
{
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

		if (run_level(c, from, &until) > 0) {
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
