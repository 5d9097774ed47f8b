/* SPDX-License-Identifier: MIT */
/* What the sources of the slice cache share: see cache.h for why hits need no lock. */
#ifndef META_CACHE_PARTS_H
#define META_CACHE_PARTS_H

#include <pthread.h>

#include "meta/cache.h"
#include "meta/straight.h"

#define WAYS 8
/* In a state, beside the count of pins. */
#define FILLING 0x80000000u
#define DIRTY 0x40000000u   /* listed in the cache's list of dirty ways */
#define WRITING 0x20000000u /* taken from that list, not written yet */

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
	bool reads_around; /* meta_cache_keep_straight */
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t filled;
	struct meta_straight *straight; /* NULL: none. No slice is in there and in a way */
	uint64_t changes;		/* of slices or of what the store has of them, so far */
	uint32_t *dirty; /* ways with DIRTY: set * WAYS + way; room for all there are */
	size_t ndirty;
	_Atomic uint64_t misses;
};

static inline struct cache_set *meta_cache_set_of(const struct meta_cache *c, uint64_t host_off)
{
	uint64_t n = host_off / c->slice_len;

	/* neighbours go to different sets; the multiplication spreads tables of one stride */
	return &c->sets[(n + (n / NEIGHBOURS * 0x9e3779b97f4a7c15ull >> 40)) & (c->nsets - 1)];
}

static inline uint8_t *meta_cache_slice_of(const struct meta_cache *c, const struct cache_set *set,
					   unsigned w)
{
	return set->slices + (size_t)w * c->slice_len;
}

/* Where a pinned way is. */
static inline uint32_t meta_cache_way_index(const struct meta_cache *c,
					    const struct meta_slice *slice)
{
	const char *base = (const char *)c->sets;
	size_t set = (size_t)((const char *)slice->way - base) / sizeof(*c->sets);
	size_t w = (size_t)((_Atomic uint32_t *)slice->way - c->sets[set].state);

	return (uint32_t)(set * WAYS + w);
}

#endif
