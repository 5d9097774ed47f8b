/* SPDX-License-Identifier: MIT */
/*
 * The slice cache: see cache.h for why hits need no lock. Slices are clean here: nothing is
 * written back.
 */
#include "meta/cache.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <errno.h>

#include "base/alloc.h"
#include "base/num.h"

#define WAYS 8
#define FILLING 0x80000000u /* in a state, beside the count of pins */

struct cache_set {
	/* atomic */
	_Atomic uint64_t key[WAYS];
	_Atomic uint32_t state[WAYS];
	_Atomic uint8_t used[WAYS]; /* touched since the hand last passed */
	/*
	 * The ways' slices, one behind the other, since a page each would cost two. Set once, by
	 * whoever first claims a way, under the cache's lock; a slice is written while FILLING and
	 * read while pinned.
	 */
	uint8_t *slices;
	/* guarded by the cache's lock */
	unsigned hand;
};

struct meta_cache {
	/* immutable */
	struct qcow2_storage store;
	uint32_t slice_len;
	unsigned ways;	/* in each set, at most WAYS */
	uint64_t nsets; /* a power of two */
	struct cache_set *sets;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t filled;
	_Atomic uint64_t misses;
};

int meta_cache_new(struct meta_cache **cache, struct qcow2_storage store, uint32_t slice_len,
		   uint64_t limit_bytes, struct qcow2_error *err)
{
	struct meta_cache *c = mem_zalloc(1, sizeof(*c));
	uint64_t total = max_u64(limit_bytes / slice_len, 2);

	if (!c)
		return error_errno(err, -ENOMEM, "can't set up the table cache");
	c->store = store;
	c->slice_len = slice_len;
	c->ways = (unsigned)min_u64(total, WAYS);
	c->nsets = 1;
	while (c->nsets * 2 * WAYS <= total)
		c->nsets *= 2;
	c->sets = mem_zalloc(c->nsets, sizeof(*c->sets));
	if (!c->sets) {
		mem_free(c);
		return error_errno(err, -ENOMEM, "can't set up the table cache");
	}
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->filled, NULL);
	*cache = c;
	return 0;
}

void meta_cache_free(struct meta_cache *cache)
{
	if (!cache)
		return;
	for (uint64_t s = 0; s < cache->nsets; s++) {
		for (unsigned w = 0; w < cache->ways; w++)
			assert(atomic_load(&cache->sets[s].state[w]) == 0);
		mem_free(cache->sets[s].slices);
	}
	pthread_cond_destroy(&cache->filled);
	pthread_mutex_destroy(&cache->lock);
	mem_free(cache->sets);
	mem_free(cache);
}

static struct cache_set *set_of(const struct meta_cache *c, uint64_t host_off)
{
	uint64_t n = host_off / c->slice_len;

	/* neighbours go to different sets; the multiplication spreads tables of one stride */
	return &c->sets[(n + (n * 0x9e3779b97f4a7c15ull >> 40)) & (c->nsets - 1)];
}

static uint8_t *slice_of(const struct meta_cache *c, const struct cache_set *set, unsigned w)
{
	return set->slices + (size_t)w * c->slice_len;
}

/* Pins the way that holds host_off, if one does and is ready. */
static bool pin_ready(const struct meta_cache *c, struct cache_set *set, uint64_t host_off,
		      struct meta_slice *slice)
{
	for (unsigned w = 0; w < c->ways; w++) {
		if (atomic_load_explicit(&set->key[w], memory_order_acquire) != host_off)
			continue;
		if (!(atomic_fetch_add(&set->state[w], 1) & FILLING) &&
		    atomic_load(&set->key[w]) == host_off) {
			if (!atomic_load_explicit(&set->used[w], memory_order_relaxed))
				atomic_store_explicit(&set->used[w], 1, memory_order_relaxed);
			slice->bytes = slice_of(c, set, w);
			slice->way = &set->state[w];
			return true;
		}
		atomic_fetch_sub(&set->state[w], 1);
	}
	return false;
}

static bool being_filled(const struct meta_cache *c, struct cache_set *set, uint64_t host_off)
{
	for (unsigned w = 0; w < c->ways; w++) {
		if (atomic_load(&set->key[w]) == host_off &&
		    (atomic_load(&set->state[w]) & FILLING))
			return true;
	}
	return false;
}

/* Takes a way that nobody pins, with FILLING and one pin: a second chance clock. */
static bool claim_way_locked(struct meta_cache *c, struct cache_set *set, unsigned *way)
{
	if (!set->slices)
		set->slices = mem_aligned(c->slice_len, (uint64_t)c->ways * c->slice_len);
	for (unsigned tries = 0; set->slices && tries < 2 * c->ways; tries++) {
		unsigned w = set->hand;
		uint32_t idle = 0;

		set->hand = (set->hand + 1) % c->ways;
		if (atomic_load(&set->key[w]) != 0 && atomic_exchange(&set->used[w], 0))
			continue;
		if (atomic_compare_exchange_strong(&set->state[w], &idle, FILLING | 1)) {
			*way = w;
			return true;
		}
	}
	return false;
}

/* Memory for a slice that no way has room for. */
static int read_private(struct meta_cache *c, uint64_t host_off, struct meta_slice *slice,
			struct qcow2_error *err)
{
	uint8_t *bytes = mem_alloc(c->slice_len, 1);
	int ret;

	if (!bytes)
		return error_errno(err, -ENOMEM, "can't load an L2 table");
	ret = storage_read(c->store, bytes, c->slice_len, host_off, err);
	if (ret < 0) {
		mem_free(bytes);
		return ret;
	}
	slice->bytes = bytes;
	slice->way = NULL;
	return 0;
}

static int fill_way(struct meta_cache *c, struct cache_set *set, unsigned w, uint64_t host_off,
		    struct meta_slice *slice, struct qcow2_error *err)
{
	int ret = storage_read(c->store, slice_of(c, set, w), c->slice_len, host_off, err);

	pthread_mutex_lock(&c->lock);
	if (ret < 0) {
		atomic_store(&set->key[w], 0);
		atomic_fetch_sub(&set->state[w], FILLING | 1);
	} else {
		atomic_store(&set->used[w], 1);
		atomic_fetch_and(&set->state[w], ~FILLING);
		slice->bytes = slice_of(c, set, w);
		slice->way = &set->state[w];
	}
	pthread_cond_broadcast(&c->filled);
	pthread_mutex_unlock(&c->lock);
	return ret;
}

int meta_cache_get(struct meta_cache *cache, uint64_t host_off, struct meta_slice *slice,
		   struct qcow2_error *err)
{
	struct cache_set *set = set_of(cache, host_off);
	bool claimed;
	unsigned w;

	assert(host_off != 0 && is_aligned(host_off, cache->slice_len));
	if (pin_ready(cache, set, host_off, slice))
		return 0;

	pthread_mutex_lock(&cache->lock);
	while (being_filled(cache, set, host_off))
		pthread_cond_wait(&cache->filled, &cache->lock);
	if (pin_ready(cache, set, host_off, slice)) {
		pthread_mutex_unlock(&cache->lock);
		return 0;
	}
	claimed = claim_way_locked(cache, set, &w);
	if (claimed)
		atomic_store(&set->key[w], host_off);
	pthread_mutex_unlock(&cache->lock);

	atomic_fetch_add_explicit(&cache->misses, 1, memory_order_relaxed);
	return claimed ? fill_way(cache, set, w, host_off, slice, err)
		       : read_private(cache, host_off, slice, err);
}

void meta_cache_put(struct meta_cache *cache, struct meta_slice *slice)
{
	(void)cache;
	if (slice->way)
		atomic_fetch_sub((_Atomic uint32_t *)slice->way, 1);
	else
		mem_free((void *)(uintptr_t)slice->bytes);
	slice->bytes = NULL;
	slice->way = NULL;
}

uint64_t meta_cache_misses(const struct meta_cache *cache)
{
	return atomic_load_explicit(&cache->misses, memory_order_relaxed);
}
