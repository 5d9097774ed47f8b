/* SPDX-License-Identifier: MIT */
/*
 * The cache of table slices: pieces of L2 tables or refcount blocks of at most 4 KiB, found without
 * a lock on a hit.
 *
 * Sets of eight ways. A way's key is the host offset of its slice, 0 when empty; its state counts
 * pins and has a flag while it is being filled. Why a hit needs no lock: a key is only ever
 * changed by a thread that moved the state from exactly 0 to "filling"; so who has added a pin,
 * saw no flag and then still reads his key there holds a slice that can't go away until he drops
 * the pin. A miss takes the mutex to choose a way, but drops it while it reads.
 *
 * When every way of a set is pinned the slice is read into memory of its own: a limit, however
 * small, never makes a lookup fail or wait for ever. Where slices may change that would be a copy
 * that misses changes; there a lookup waits for a way, and has dirty ones written (make_room).
 *
 * A dirty slice stays in its way (a flag in the state, so that the state isn't 0) until what was
 * taken of it (meta_cache_take_dirty) is written. Slices change under the cache's lock. Readers
 * take no lock: they look at the slice's sequence number before and after, and read again if it
 * moved; the words are stored (release) and loaded (acquire) as atomics.
 */
#ifndef META_CACHE_H
#define META_CACHE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "storage/storage.h"

struct meta_cache;

/* A pinned slice. bytes stay valid until meta_cache_put. */
struct meta_slice {
	const uint8_t *bytes;
	void *way;	       /* private */
	_Atomic uint32_t *seq; /* private */
};

/*
 * A slice may lie in one small set of places only, and a set may be full while others are empty. So
 * a cache that is to hold all of its tables gets a limit of so many times what they take. Places
 * that aren't used take no memory.
 */
#define META_CACHE_SLACK 4ull

/*
 * store is borrowed. load_event: QCOW2_EVENT_*, told before a slice is read. slice_len is a power
 * of two. limit_bytes is rounded up to a few slices.
 */
int meta_cache_new(struct meta_cache **cache, struct qcow2_storage store, unsigned load_event,
		   uint32_t slice_len, uint64_t limit_bytes, struct qcow2_error *err);
void meta_cache_free(struct meta_cache *cache);
/*
 * From now on, before the first lookup: slices that lose their way and whose words grow by step, or
 * are all the same, stay known (meta/straight.h) in memory beside the limit, a sixteenth of it.
 * reads_around: a read costs a visit to the disk, so a miss reads the table around the slice too,
 * and what comes with it is kept where no other has to go for it. Without memory nothing changes.
 */
void meta_cache_keep_straight(struct meta_cache *cache, uint64_t step, bool reads_around);

/*
 * host_off is a nonzero multiple of the slice length. What is read here may be memory of its own:
 * only a slice of meta_cache_get_way can be changed. Where dirty slices are in the way and can't be
 * written the former goes on, the latter fails.
 */
int meta_cache_get(struct meta_cache *cache, uint64_t host_off, struct meta_slice *slice,
		   struct qcow2_error *err);
/*
 * As meta_cache_get; if it has to be read, slices behind it may be read with it: the first
 * `wanted`, itself among them, because they will be asked for next; or all that are left of the
 * table, where the slice before it is there too, as when somebody goes through the disk in order.
 */
struct meta_ahead {
	unsigned wanted; /* at least 1 */
	unsigned left;	 /* of the table, this one among them; at least wanted */
	unsigned before; /* slices of the table in front of this one */
	bool is_first;	 /* of the table */
};
int meta_cache_get_ahead(struct meta_cache *cache, uint64_t host_off,
			 const struct meta_ahead *ahead, struct meta_slice *slice,
			 struct qcow2_error *err);
int meta_cache_get_way(struct meta_cache *cache, uint64_t host_off, struct meta_slice *slice,
		       struct qcow2_error *err);
/* The same if it is there, and no I/O goes on for it: else -EAGAIN. */
int meta_cache_peek(struct meta_cache *cache, uint64_t host_off, struct meta_slice *slice);
void meta_cache_put(struct meta_cache *cache, struct meta_slice *slice);
/*
 * Word idx of a slice that has no place, but is kept straight (meta_cache_keep_straight): as it was
 * at some moment of the call, with nothing pinned. false: it isn't, or that can't be told without
 * waiting.
 */
bool meta_cache_peek_word(const struct meta_cache *cache, uint64_t host_off, uint32_t idx,
			  uint64_t *word);

/*
 * Slices from host_off on, at most n, are read in one go as far as they aren't there and there is
 * room: for whoever is about to ask for each. What fails is tried again, and told, by that.
 */
void meta_cache_read_ahead(struct meta_cache *cache, uint64_t host_off, unsigned n);

/*
 * The n slices from host_off on have just been written, with these bytes, where nobody looks for
 * them yet: kept as far as there is room.
 */
void meta_cache_put_new(struct meta_cache *cache, uint64_t host_off, const uint8_t *bytes,
			unsigned n);

/* ---- reading beside changes ---- */

/* The number to be compared after reading; waits out a change that goes on. */
static inline uint32_t meta_slice_begin(const struct meta_slice *slice)
{
	uint32_t seq;

	if (!slice->seq)
		return 0;
	while ((seq = atomic_load_explicit(slice->seq, memory_order_acquire)) & 1)
		;
	return seq;
}

/* Whether something changed since. */
static inline bool meta_slice_changed(const struct meta_slice *slice, uint32_t seq)
{
	if (!slice->seq)
		return false;
	/* the words were loaded with acquire, so this load comes after them */
	return atomic_load_explicit(slice->seq, memory_order_relaxed) != seq;
}

/* ---- changes ---- */

/*
 * From now on slices may change, and lookups that find no way call make_room(opaque), which has
 * to get dirty slices written, while they hold nothing. Before the first lookup.
 */
void meta_cache_allow_changes(struct meta_cache *cache,
			      int (*make_room)(void *opaque, struct qcow2_error *err),
			      void *opaque);

/* For changes, or for reading what can't be read word by word. Nothing slow while it is held. */
void meta_cache_lock(struct meta_cache *cache);
void meta_cache_unlock(struct meta_cache *cache);
/* Marks a pinned slice as dirty and lets its bytes be changed until meta_cache_changed_locked. */
uint8_t *meta_cache_change_locked(struct meta_cache *cache, const struct meta_slice *slice);
void meta_cache_changed_locked(struct meta_cache *cache, const struct meta_slice *slice);

/* What is dirty, copied, in order of host offset. */
struct meta_dirty {
	uint64_t host_off;
	uint32_t way;	/* private */
	uint8_t *bytes; /* slice_len of them */
};

struct meta_dirty_list {
	struct meta_dirty *list;
	size_t count;
	uint32_t slice_len;
	uint8_t *bytes; /* of all, owned */
};

/* Only one at a time. The slices stay in place until the list is put back. */
int meta_cache_take_dirty(struct meta_cache *cache, struct meta_dirty_list *dirty,
			  struct qcow2_error *err);
/* written: they are clean now, unless they changed meanwhile. Frees what the list has. */
void meta_cache_put_dirty(struct meta_cache *cache, struct meta_dirty_list *dirty, bool written);
size_t meta_cache_ndirty(struct meta_cache *cache);
/* Writes a list to the cache's store, neighbours joined. */
int meta_cache_write_dirty(struct meta_cache *cache, const struct meta_dirty_list *dirty,
			   struct qcow2_error *err);

/* Drops what is known of a range that belongs to another structure now. Nothing in it is dirty. */
void meta_cache_forget(struct meta_cache *cache, uint64_t host_off, uint64_t len_bytes);

/* Slices that were read from the store so far. */
uint64_t meta_cache_misses(const struct meta_cache *cache);

#endif
