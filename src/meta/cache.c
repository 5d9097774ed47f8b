/* SPDX-License-Identifier: MIT */
/* Looking slices up: see cache.h for why hits need no lock. */
#include "meta/cache_parts.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"

#define STRAIGHT_SHARE 16u /* of the limit, that slices kept straight may take besides */

int meta_cache_new(struct meta_cache **cache, struct qcow2_storage store, unsigned load_event,
		   uint32_t slice_len, uint64_t limit_bytes, struct qcow2_error *err)
{
	struct meta_cache *c = mem_zalloc(1, sizeof(*c));
	uint64_t total = max_u64(limit_bytes / slice_len, 2);

	if (!c)
		return error_errno(err, -ENOMEM, "can't set up the table cache");
	c->store = store;
	c->slice_len = slice_len;
	c->load_event = load_event;
	c->ways = (unsigned)min_u64(total, WAYS);
	c->nsets = 1;
	while (c->nsets * 2 * WAYS <= total)
		c->nsets *= 2;
	c->sets = mem_zalloc(c->nsets, sizeof(*c->sets));
	c->dirty = mem_alloc(c->nsets * WAYS, sizeof(*c->dirty));
	if (!c->sets || !c->dirty) {
		mem_free(c->dirty);
		mem_free(c->sets);
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
			assert((atomic_load(&cache->sets[s].state[w]) & ~DIRTY) == 0);
		mem_free(cache->sets[s].slices);
	}
	pthread_cond_destroy(&cache->filled);
	pthread_mutex_destroy(&cache->lock);
	meta_straight_free(cache->straight);
	mem_free(cache->dirty);
	mem_free(cache->sets);
	mem_free(cache);
}

void meta_cache_keep_straight(struct meta_cache *cache, uint64_t step, bool reads_around)
{
	uint64_t limit = cache->nsets * cache->ways * cache->slice_len / STRAIGHT_SHARE;

	cache->straight = meta_straight_new(step, cache->slice_len, limit);
	cache->reads_around = reads_around && cache->straight;
}

static void hand_out(const struct meta_cache *c, struct cache_set *set, unsigned w,
		     struct meta_slice *slice)
{
	slice->bytes = meta_cache_slice_of(c, set, w);
	slice->way = &set->state[w];
	slice->seq = &set->seq[w];
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
			hand_out(c, set, w, slice);
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

static bool has_memory_locked(struct meta_cache *c, struct cache_set *set)
{
	if (!set->slices)
		set->slices = mem_aligned(c->slice_len, (uint64_t)c->ways * c->slice_len);
	return set->slices;
}

/*
 * Takes a way that nobody pins, with FILLING and one pin: a second chance clock. keep: what was
 * there may stay known. Not for who goes through the disk in order: most of that isn't seen again.
 */
static bool claim_way_locked(struct meta_cache *c, struct cache_set *set, bool keep, unsigned *way)
{
	for (unsigned tries = 0; has_memory_locked(c, set) && tries < 2 * c->ways; tries++) {
		unsigned w = set->hand;
		uint32_t idle = 0;

		set->hand = (set->hand + 1) % c->ways;
		if (atomic_load(&set->key[w]) != 0 && atomic_exchange(&set->used[w], 0))
			continue;
		if (atomic_compare_exchange_strong(&set->state[w], &idle, FILLING | 1)) {
			if (keep && c->straight && atomic_load(&set->key[w]) != 0)
				(void)meta_straight_keep(c->straight, atomic_load(&set->key[w]),
							 meta_cache_slice_of(c, set, w));
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
	slice->seq = NULL;
	return 0;
}

/* The slice that a claimed way is for, from what is kept; false: that isn't there. */
static bool fill_from_straight(struct meta_cache *c, uint8_t *bytes, uint64_t host_off)
{
	struct meta_straight_row row;
	bool found;

	if (!c->straight)
		return false;
	pthread_mutex_lock(&c->lock);
	found = meta_straight_take(c->straight, host_off, &row);
	pthread_mutex_unlock(&c->lock);
	if (found)
		meta_straight_fill(&row, bytes, c->slice_len);
	return found;
}

/* A slice that was read though nobody asked for it: kept where that costs no other its place. */
static void offer_locked(struct meta_cache *c, uint64_t host_off, const uint8_t *bytes)
{
	struct cache_set *set = meta_cache_set_of(c, host_off);
	unsigned empty = c->ways;
	uint32_t idle = 0;

	for (unsigned w = 0; w < c->ways; w++) {
		uint64_t key = atomic_load(&set->key[w]);

		if (key == host_off)
			return;
		if (key == 0 && atomic_load(&set->state[w]) == 0)
			empty = w;
	}
	if (meta_straight_keep(c->straight, host_off, bytes) || empty == c->ways ||
	    !has_memory_locked(c, set) ||
	    !atomic_compare_exchange_strong(&set->state[empty], &idle, FILLING))
		return;
	memcpy(meta_cache_slice_of(c, set, empty), bytes, c->slice_len);
	atomic_store(&set->used[empty], 0);
	atomic_store(&set->key[empty], host_off);
	atomic_fetch_and(&set->state[empty], ~FILLING);
}

/* The slices around in the table, in one read: it takes the disk hardly longer than one of them. */
static int read_around(struct meta_cache *c, uint8_t *bytes, uint64_t host_off,
		       const struct meta_ahead *ahead)
{
	const uint32_t len = c->slice_len;
	unsigned at = (unsigned)min_u64(host_off / len % NEIGHBOURS, ahead->before);
	unsigned n = at + (unsigned)min_u64(NEIGHBOURS - at, ahead->left);
	uint64_t start = host_off - (uint64_t)at * len, changes;
	cleanup_free uint8_t *buf = mem_aligned(len, (uint64_t)n * len);
	int ret;

	if (!buf)
		return -ENOMEM;
	pthread_mutex_lock(&c->lock);
	changes = c->changes;
	pthread_mutex_unlock(&c->lock);
	storage_event(c->store, c->load_event);
	ret = storage_read(c->store, buf, (size_t)n * len, start, NULL);
	if (ret < 0)
		return ret;
	memcpy(bytes, buf + (size_t)at * len, len);
	pthread_mutex_lock(&c->lock);
	/* a slice that was changed meanwhile may have been written, and have lost its way */
	for (unsigned i = 0; changes == c->changes && i < n; i++) {
		if (i != at)
			offer_locked(c, start + (uint64_t)i * len, buf + (size_t)i * len);
	}
	pthread_mutex_unlock(&c->lock);
	return 0;
}

/* Fills a claimed way. ahead: NULL, or what else is in the table. */
static int fill_bytes(struct meta_cache *c, uint8_t *bytes, uint64_t host_off,
		      const struct meta_ahead *ahead, struct qcow2_error *err)
{
	if (fill_from_straight(c, bytes, host_off))
		return 0;
	atomic_fetch_add_explicit(&c->misses, 1, memory_order_relaxed);
	/* what fails is tried again alone: the other slices needn't be readable */
	if (c->reads_around && ahead && ahead->before + ahead->left > 1 &&
	    read_around(c, bytes, host_off, ahead) == 0)
		return 0;
	storage_event(c->store, c->load_event);
	return storage_read(c->store, bytes, c->slice_len, host_off, err);
}

static int fill_way(struct meta_cache *c, struct cache_set *set, unsigned w, uint64_t host_off,
		    const struct meta_ahead *ahead, struct meta_slice *slice,
		    struct qcow2_error *err)
{
	int ret = fill_bytes(c, meta_cache_slice_of(c, set, w), host_off, ahead, err);

	pthread_mutex_lock(&c->lock);
	if (ret < 0) {
		atomic_store(&set->key[w], 0);
		atomic_fetch_sub(&set->state[w], FILLING | 1);
	} else {
		atomic_store(&set->used[w], 1);
		atomic_fetch_and(&set->state[w], ~FILLING);
		hand_out(c, set, w, slice);
	}
	pthread_cond_broadcast(&c->filled);
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static bool has_dirty(const struct meta_cache *c, struct cache_set *set)
{
	for (unsigned w = 0; w < c->ways; w++) {
		if (atomic_load(&set->state[w]) & (DIRTY | WRITING))
			return true;
	}
	return false;
}

/* No way could be had where none may be gone without: has dirty ones written, or waits for pins. */
static int wait_for_way(struct meta_cache *c, struct cache_set *set, struct qcow2_error *err)
{
	if (!set->slices)
		return error_errno(err, -ENOMEM, "can't load a table");
	if (has_dirty(c, set))
		return c->make_room(c->opaque, err);
	sched_yield();
	return 0;
}

/* Pins the slice if it is there; else *way is one to be filled, or -EBUSY: none can be had. */
static int pin_or_claim(struct meta_cache *c, struct cache_set *set, uint64_t host_off,
			struct meta_slice *slice, bool *pinned, unsigned *way)
{
	int ret = 0;

	pthread_mutex_lock(&c->lock);
	while (being_filled(c, set, host_off))
		pthread_cond_wait(&c->filled, &c->lock);
	*pinned = pin_ready(c, set, host_off, slice);
	if (!*pinned && claim_way_locked(c, set, true, way))
		atomic_store(&set->key[*way], host_off);
	else if (!*pinned)
		ret = -EBUSY;
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static int get(struct meta_cache *cache, uint64_t host_off, bool to_change,
	       const struct meta_ahead *ahead, struct meta_slice *slice, struct qcow2_error *err)
{
	struct cache_set *set = meta_cache_set_of(cache, host_off);
	bool pinned;
	unsigned w;
	int ret;

	assert(host_off != 0 && is_aligned(host_off, cache->slice_len));
	if (pin_ready(cache, set, host_off, slice))
		return 0;
	while ((ret = pin_or_claim(cache, set, host_off, slice, &pinned, &w)) < 0 &&
	       cache->make_room) {
		ret = wait_for_way(cache, set, to_change ? err : NULL);
		if (ret < 0 && to_change)
			return ret;
		if (ret < 0) /* it isn't dirty, or it would be here: the store has it as it is */
			return read_private(cache, host_off, slice, err);
	}
	if (pinned)
		return 0;
	if (ret == 0)
		return fill_way(cache, set, w, host_off, ahead, slice, err);
	atomic_fetch_add_explicit(&cache->misses, 1, memory_order_relaxed);
	return read_private(cache, host_off, slice, err);
}

int meta_cache_get(struct meta_cache *cache, uint64_t host_off, struct meta_slice *slice,
		   struct qcow2_error *err)
{
	return get(cache, host_off, false, NULL, slice, err);
}

int meta_cache_get_way(struct meta_cache *cache, uint64_t host_off, struct meta_slice *slice,
		       struct qcow2_error *err)
{
	return get(cache, host_off, true, NULL, slice, err);
}

int meta_cache_peek(struct meta_cache *cache, uint64_t host_off, struct meta_slice *slice)
{
	return pin_ready(cache, meta_cache_set_of(cache, host_off), host_off, slice) ? 0 : -EAGAIN;
}

bool meta_cache_peek_word(const struct meta_cache *cache, uint64_t host_off, uint32_t idx,
			  uint64_t *word)
{
	return cache->straight && meta_straight_word(cache->straight, host_off, idx, word);
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
	slice->seq = NULL;
}

/* Claims ways for slices that aren't there, from host_off on: how many, all of different sets. */
static unsigned claim_ahead(struct meta_cache *c, uint64_t host_off, unsigned n,
			    struct meta_slice *slices)
{
	unsigned count = 0, w;

	pthread_mutex_lock(&c->lock);
	for (; count < n; count++) {
		uint64_t off = host_off + (uint64_t)count * c->slice_len;
		struct cache_set *set = meta_cache_set_of(c, off);

		if (being_filled(c, set, off) || pin_ready(c, set, off, &slices[count])) {
			if (slices[count].way)
				meta_cache_put(c, &slices[count]);
			break;
		}
		if ((c->straight && meta_straight_has(c->straight, off)) ||
		    !claim_way_locked(c, set, false, &w))
			break;
		atomic_store(&set->key[w], off);
		hand_out(c, set, w, &slices[count]);
	}
	pthread_mutex_unlock(&c->lock);
	return count;
}

static void end_ahead(struct meta_cache *c, struct meta_slice *slices, unsigned n, bool filled)
{
	pthread_mutex_lock(&c->lock);
	for (unsigned i = 0; i < n; i++) {
		struct cache_set *set = &c->sets[meta_cache_way_index(c, &slices[i]) / WAYS];
		unsigned w = meta_cache_way_index(c, &slices[i]) % WAYS;

		if (!filled)
			atomic_store(&set->key[w], 0);
		atomic_store(&set->used[w], filled);
		atomic_fetch_sub(&set->state[w], FILLING | 1);
	}
	pthread_cond_broadcast(&c->filled);
	pthread_mutex_unlock(&c->lock);
}

void meta_cache_read_ahead(struct meta_cache *cache, uint64_t host_off, unsigned n)
{
	struct meta_slice slices[NEIGHBOURS] = {0};
	struct iovec iov[NEIGHBOURS];
	int ret;

	n = claim_ahead(cache, host_off, (unsigned)min_u64(n, NEIGHBOURS), slices);
	if (n == 0)
		return;
	for (unsigned i = 0; i < n; i++)
		iov[i] = (struct iovec){.iov_base = (void *)(uintptr_t)slices[i].bytes,
					.iov_len = cache->slice_len};
	atomic_fetch_add_explicit(&cache->misses, n, memory_order_relaxed);
	storage_event(cache->store, cache->load_event);
	ret = storage_readv(cache->store, iov, (int)n, host_off, NULL);
	end_ahead(cache, slices, n, ret == 0);
}

void meta_cache_put_new(struct meta_cache *cache, uint64_t host_off, const uint8_t *bytes,
			unsigned n)
{
	const uint32_t len = cache->slice_len;

	if (cache->nsets * cache->ways < AHEAD_CACHE_MIN)
		return;
	for (unsigned done = 0, claimed; done < n; done += claimed) {
		struct meta_slice slices[NEIGHBOURS] = {0};

		claimed = claim_ahead(cache, host_off + (uint64_t)done * len,
				      (unsigned)min_u64(n - done, NEIGHBOURS), slices);
		if (claimed == 0)
			return;
		for (unsigned i = 0; i < claimed; i++)
			memcpy((void *)(uintptr_t)slices[i].bytes, bytes + (size_t)(done + i) * len,
			       len);
		end_ahead(cache, slices, claimed, true);
	}
}

static bool is_here(const struct meta_cache *c, uint64_t host_off)
{
	const struct cache_set *set = meta_cache_set_of(c, host_off);

	for (unsigned w = 0; w < c->ways; w++) {
		if (atomic_load_explicit(&set->key[w], memory_order_relaxed) == host_off)
			return true;
	}
	return false;
}

int meta_cache_get_ahead(struct meta_cache *cache, uint64_t host_off,
			 const struct meta_ahead *ahead, struct meta_slice *slice,
			 struct qcow2_error *err)
{
	unsigned n = ahead->wanted;

	if (pin_ready(cache, meta_cache_set_of(cache, host_off), host_off, slice))
		return 0;
	if (!cache->reads_around && !ahead->is_first && is_here(cache, host_off - cache->slice_len))
		n = ahead->left;
	if (n > 1 && cache->nsets * cache->ways >= AHEAD_CACHE_MIN)
		meta_cache_read_ahead(cache, host_off, n);
	return get(cache, host_off, false, ahead, slice, err);
}

uint64_t meta_cache_misses(const struct meta_cache *cache)
{
	return atomic_load_explicit(&cache->misses, memory_order_relaxed);
}
