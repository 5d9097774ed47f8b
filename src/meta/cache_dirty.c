/* SPDX-License-Identifier: MIT */
/*
 * Changes of slices. The cache never writes by itself: what is dirty is taken and put back by
 * whoever keeps the order (order.c).
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "meta/cache_parts.h"

#define WRITE_PIECES 256 /* slices in one write */

void meta_cache_allow_changes(struct meta_cache *cache,
			      int (*make_room)(void *opaque, struct qcow2_error *err), void *opaque)
{
	cache->make_room = make_room;
	cache->opaque = opaque;
}

void meta_cache_lock(struct meta_cache *cache)
{
	pthread_mutex_lock(&cache->lock);
}

void meta_cache_unlock(struct meta_cache *cache)
{
	pthread_mutex_unlock(&cache->lock);
}

uint8_t *meta_cache_change_locked(struct meta_cache *cache, const struct meta_slice *slice)
{
	_Atomic uint32_t *state = slice->way;

	assert(state && cache->make_room);
	if (!(atomic_fetch_or(state, DIRTY) & DIRTY))
		cache->dirty[cache->ndirty++] = meta_cache_way_index(cache, slice);
	cache->changes++;
	/* the words that are changed now are stored with release, so this is seen before them */
	atomic_fetch_add_explicit(slice->seq, 1, memory_order_acq_rel);
	return (uint8_t *)(uintptr_t)slice->bytes;
}

void meta_cache_changed_locked(struct meta_cache *cache, const struct meta_slice *slice)
{
	(void)cache;
	atomic_fetch_add_explicit(slice->seq, 1, memory_order_release);
}

size_t meta_cache_ndirty(struct meta_cache *cache)
{
	size_t n;

	pthread_mutex_lock(&cache->lock);
	n = cache->ndirty;
	pthread_mutex_unlock(&cache->lock);
	return n;
}

static int by_host_off(const void *a, const void *b)
{
	const struct meta_dirty *x = a;
	const struct meta_dirty *y = b;

	return (x->host_off > y->host_off) - (x->host_off < y->host_off);
}

/* Moves the list of dirty ways into dirty, which has room for cap; false if that isn't enough. */
static bool move_list_locked(struct meta_cache *c, struct meta_dirty_list *dirty, size_t cap)
{
	if (c->ndirty > cap)
		return false;
	for (size_t i = 0; i < c->ndirty; i++) {
		struct cache_set *set = &c->sets[c->dirty[i] / WAYS];
		unsigned w = c->dirty[i] % WAYS;

		atomic_fetch_or(&set->state[w], WRITING);
		atomic_fetch_and(&set->state[w], ~DIRTY);
		dirty->list[i] = (struct meta_dirty){.host_off = atomic_load(&set->key[w]),
						     .way = c->dirty[i]};
	}
	dirty->count = c->ndirty;
	c->ndirty = 0;
	return true;
}

int meta_cache_take_dirty(struct meta_cache *cache, struct meta_dirty_list *dirty,
			  struct qcow2_error *err)
{
	bool moved = false;
	size_t cap;

	*dirty = (struct meta_dirty_list){.slice_len = cache->slice_len};
	while (!moved) {
		cap = meta_cache_ndirty(cache);
		mem_free(dirty->list);
		mem_free(dirty->bytes);
		dirty->list = mem_alloc(cap, sizeof(*dirty->list));
		dirty->bytes = mem_aligned(cache->slice_len, (uint64_t)cap * cache->slice_len);
		if (!dirty->list || !dirty->bytes) {
			meta_cache_put_dirty(cache, dirty, false);
			return error_errno(err, -ENOMEM, "can't write tables");
		}
		pthread_mutex_lock(&cache->lock);
		moved = move_list_locked(cache, dirty, cap);
		pthread_mutex_unlock(&cache->lock);
	}
	qsort(dirty->list, dirty->count, sizeof(*dirty->list), by_host_off);
	/* one by one, so that nobody waits for long; what changes in between is in the copy and is
	 * dirty again */
	for (size_t i = 0; i < dirty->count; i++) {
		const struct meta_dirty *d = &dirty->list[i];

		dirty->list[i].bytes = dirty->bytes + i * cache->slice_len;
		pthread_mutex_lock(&cache->lock);
		memcpy(d->bytes,
		       meta_cache_slice_of(cache, &cache->sets[d->way / WAYS], d->way % WAYS),
		       cache->slice_len);
		pthread_mutex_unlock(&cache->lock);
	}
	return 0;
}

void meta_cache_put_dirty(struct meta_cache *cache, struct meta_dirty_list *dirty, bool written)
{
	pthread_mutex_lock(&cache->lock);
	cache->changes++;
	for (size_t i = 0; i < dirty->count; i++) {
		uint32_t way = dirty->list[i].way;
		_Atomic uint32_t *state = &cache->sets[way / WAYS].state[way % WAYS];

		if (!written && !(atomic_fetch_or(state, DIRTY) & DIRTY))
			cache->dirty[cache->ndirty++] = way;
		atomic_fetch_and(state, ~WRITING);
	}
	pthread_mutex_unlock(&cache->lock);
	mem_free(dirty->list);
	mem_free(dirty->bytes);
	*dirty = (struct meta_dirty_list){0};
}

int meta_cache_write_dirty(struct meta_cache *cache, const struct meta_dirty_list *dirty,
			   struct qcow2_error *err)
{
	struct iovec iov[WRITE_PIECES];
	struct storage_trail trail = {0};
	int ret = 0;

	for (size_t i = 0, n; i < dirty->count && ret == 0; i += n) {
		for (n = 0; i + n < dirty->count && n < WRITE_PIECES; n++) {
			const struct meta_dirty *d = &dirty->list[i + n];

			if (d->host_off != dirty->list[i].host_off + n * cache->slice_len)
				break;
			iov[n] = (struct iovec){.iov_base = d->bytes, .iov_len = cache->slice_len};
		}
		ret = storage_writev(cache->store, iov, (int)n, dirty->list[i].host_off, err);
		storage_trail_add(&trail, cache->store, dirty->list[i].host_off,
				  n * cache->slice_len);
	}
	return ret;
}

/* true when no way holds the slice (any more). */
static bool forget_slice_locked(struct meta_cache *c, struct cache_set *set, uint64_t host_off)
{
	for (unsigned w = 0; w < c->ways; w++) {
		uint32_t idle = 0;

		if (atomic_load(&set->key[w]) != host_off)
			continue;
		if (!atomic_compare_exchange_strong(&set->state[w], &idle, FILLING))
			return false;
		atomic_store(&set->key[w], 0);
		atomic_fetch_and(&set->state[w], ~FILLING);
	}
	return true;
}

void meta_cache_forget(struct meta_cache *cache, uint64_t host_off, uint64_t len_bytes)
{
	for (uint64_t pos = 0; pos < len_bytes; pos += cache->slice_len) {
		struct cache_set *set = meta_cache_set_of(cache, host_off + pos);
		bool gone = false;

		while (!gone) {
			pthread_mutex_lock(&cache->lock);
			cache->changes++;
			if (cache->straight)
				meta_straight_drop(cache->straight, host_off + pos);
			gone = forget_slice_locked(cache, set, host_off + pos);
			pthread_mutex_unlock(&cache->lock);
			if (!gone) /* somebody who came too late looks at it for a moment */
				sched_yield();
		}
	}
}
