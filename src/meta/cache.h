/* SPDX-License-Identifier: MIT */
/*
 * The cache of table slices: pieces of L2 tables of at most 4 KiB, found without a lock on a hit.
 *
 * Sets of eight ways. A way's key is the host offset of its slice, 0 when empty; its state counts
 * pins and has a flag while it is being filled. Why a hit needs no lock: a key is only ever
 * changed by a thread that moved the state from exactly 0 to "filling"; so who has added a pin,
 * saw no flag and then still reads his key there holds a slice that can't go away until he drops
 * the pin. A miss takes the mutex to choose a way, but drops it while it reads.
 *
 * When every way of a set is pinned the slice is read into memory of its own: a limit, however
 * small, never makes a lookup fail or wait for ever.
 */
#ifndef META_CACHE_H
#define META_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "storage/storage.h"

struct meta_cache;

/* A pinned slice. bytes stay valid until meta_cache_put. */
struct meta_slice {
	const uint8_t *bytes;
	void *way; /* private */
};

/* store is borrowed. slice_len is a power of two. limit_bytes is rounded up to a few slices. */
int meta_cache_new(struct meta_cache **cache, struct qcow2_storage store, uint32_t slice_len,
		   uint64_t limit_bytes, struct qcow2_error *err);
void meta_cache_free(struct meta_cache *cache);

/* host_off is a nonzero multiple of the slice length. */
int meta_cache_get(struct meta_cache *cache, uint64_t host_off, struct meta_slice *slice,
		   struct qcow2_error *err);
void meta_cache_put(struct meta_cache *cache, struct meta_slice *slice);

/* Slices that were read from the store so far. */
uint64_t meta_cache_misses(const struct meta_cache *cache);

#endif
