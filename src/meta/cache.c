/* SPDX-License-Identifier: MIT */
/*
 * The slice cache: see cache.h for why hits need no lock. It never writes by itself: what is dirty
 * is taken and put back by whoever keeps the order (order.c).
 */
#include "meta/cache.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"

#define WAYS 8
/* In a state, beside the count of pins. */
#define FILLING 0x80000000u
#define DIRTY 0x40000000u   /* listed in the cache's list of dirty ways */
#define WRITING 0x20000000u /* taken from that list, not written yet */

#define WRITE_PIECES 256     /* slices in one write */
#define AHEAD_CACHE_MIN 256u /* slices: a smaller cache would lose others for them */
#define NEIGHBOURS 16	     /* slices, aligned, of which no two share a set if there are as many */

struct cache_set {
	/* atomic */
	_Atomic uint64_t key[WAYS];
	_Atomic uint32_t state[WAYS];
	_Atomic uint8_t used[WAYS]; /* touched since the hand last passed */
	_Atomic uint32_t seq[WAYS]; /* odd while the slice is being changed */
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
	unsigned load_event; /* QCOW2_EVENT_*, told before a slice is read */
	int (*make_room)(void *opaque, struct qcow2_error *err); /* NULL: slices never change */
	void *opaque;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t filled;
	uint32_t *dirty; /* ways with DIRTY: set * WAYS + way; room for all there are */
	size_t ndirty;
	_Atomic uint64_t misses;
};

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
	mem_free(cache->dirty);
	mem_free(cache->sets);
	mem_free(cache);
}

static struct cache_set *set_of(const struct meta_cache *c, uint64_t host_off)
{
	uint64_t n = host_off / c->slice_len;

	/* neighbours go to different sets; the multiplication spreads tables of one stride */
	return &c->sets[(n + (n / NEIGHBOURS * 0x9e3779b97f4a7c15ull >> 40)) & (c->nsets - 1)];
}

static uint8_t *slice_of(const struct meta_cache *c, const struct cache_set *set, unsigned w)
{
	return set->slices + (size_t)w * c->slice_len;
}

static void hand_out(const struct meta_cache *c, struct cache_set *set, unsigned w,
		     struct meta_slice *slice)
{
	slice->bytes = slice_of(c, set, w);
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
	slice->seq = NULL;
	return 0;
}

static int fill_way(struct meta_cache *c, struct cache_set *set, unsigned w, uint64_t host_off,
		    struct meta_slice *slice, struct qcow2_error *err)
{
	int ret;

	storage_event(c->store, c->load_event);
	ret = storage_read(c->store, slice_of(c, set, w), c->slice_len, host_off, err);
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
	if (!*pinned && claim_way_locked(c, set, way))
		atomic_store(&set->key[*way], host_off);
	else if (!*pinned)
		ret = -EBUSY;
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static int get(struct meta_cache *cache, uint64_t host_off, bool to_change,
	       struct meta_slice *slice, struct qcow2_error *err)
{
	struct cache_set *set = set_of(cache, host_off);
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
	atomic_fetch_add_explicit(&cache->misses, 1, memory_order_relaxed);
	return ret == 0 ? fill_way(cache, set, w, host_off, slice, err)
			: read_private(cache, host_off, slice, err);
}

int meta_cache_get(struct meta_cache *cache, uint64_t host_off, struct meta_slice *slice,
		   struct qcow2_error *err)
{
	return get(cache, host_off, false, slice, err);
}

int meta_cache_get_way(struct meta_cache *cache, uint64_t host_off, struct meta_slice *slice,
		       struct qcow2_error *err)
{
	return get(cache, host_off, true, slice, err);
}

int meta_cache_peek(struct meta_cache *cache, uint64_t host_off, struct meta_slice *slice)
{
	return pin_ready(cache, set_of(cache, host_off), host_off, slice) ? 0 : -EAGAIN;
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

/* Where a pinned way is. */
static uint32_t way_index(const struct meta_cache *c, const struct meta_slice *slice)
{
	const char *base = (const char *)c->sets;
	size_t set = (size_t)((const char *)slice->way - base) / sizeof(*c->sets);
	size_t w = (size_t)((_Atomic uint32_t *)slice->way - c->sets[set].state);

	return (uint32_t)(set * WAYS + w);
}

/* Claims ways for slices that aren't there, from host_off on: how many, all of different sets. */
static unsigned claim_ahead(struct meta_cache *c, uint64_t host_off, unsigned n,
			    struct meta_slice *slices)
{
	unsigned count = 0, w;

	pthread_mutex_lock(&c->lock);
	for (; count < n; count++) {
		uint64_t off = host_off + (uint64_t)count * c->slice_len;
		struct cache_set *set = set_of(c, off);

		if (being_filled(c, set, off) || pin_ready(c, set, off, &slices[count])) {
			if (slices[count].way)
				meta_cache_put(c, &slices[count]);
			break;
		}
		if (!claim_way_locked(c, set, &w))
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
		struct cache_set *set = &c->sets[way_index(c, &slices[i]) / WAYS];
		unsigned w = way_index(c, &slices[i]) % WAYS;

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

static bool is_here(const struct meta_cache *c, uint64_t host_off)
{
	const struct cache_set *set = set_of(c, host_off);

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

	if (pin_ready(cache, set_of(cache, host_off), host_off, slice))
		return 0;
	if (!ahead->is_first && is_here(cache, host_off - cache->slice_len))
		n = ahead->left;
	if (n > 1 && cache->nsets * cache->ways >= AHEAD_CACHE_MIN)
		meta_cache_read_ahead(cache, host_off, n);
	return get(cache, host_off, false, slice, err);
}

/* ---- changes ---- */

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
		cache->dirty[cache->ndirty++] = way_index(cache, slice);
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
		memcpy(d->bytes, slice_of(cache, &cache->sets[d->way / WAYS], d->way % WAYS),
		       cache->slice_len);
		pthread_mutex_unlock(&cache->lock);
	}
	return 0;
}

void meta_cache_put_dirty(struct meta_cache *cache, struct meta_dirty_list *dirty, bool written)
{
	pthread_mutex_lock(&cache->lock);
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
	int ret = 0;

	for (size_t i = 0, n; i < dirty->count && ret == 0; i += n) {
		for (n = 0; i + n < dirty->count && n < WRITE_PIECES; n++) {
			const struct meta_dirty *d = &dirty->list[i + n];

			if (d->host_off != dirty->list[i].host_off + n * cache->slice_len)
				break;
			iov[n] = (struct iovec){.iov_base = d->bytes, .iov_len = cache->slice_len};
		}
		ret = storage_writev(cache->store, iov, (int)n, dirty->list[i].host_off, err);
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
		struct cache_set *set = set_of(cache, host_off + pos);
		bool gone = false;

		while (!gone) {
			pthread_mutex_lock(&cache->lock);
			gone = forget_slice_locked(cache, set, host_off + pos);
			pthread_mutex_unlock(&cache->lock);
			if (!gone) /* somebody who came too late looks at it for a moment */
				sched_yield();
		}
	}
}

uint64_t meta_cache_misses(const struct meta_cache *cache)
{
	return atomic_load_explicit(&cache->misses, memory_order_relaxed);
}
