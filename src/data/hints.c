/* SPDX-License-Identifier: MIT */
/*
 * Where to look in a long chain: for each granule of the disk, the first layer below the top that
 * may have something there. The layers between are known to have nothing in all of the granule, so
 * a chain of three hundred layers is read like one of two.
 *
 * The top layer isn't remembered, since it may change; those below are open for reading only, and
 * what is true of them stays true. A hint that is too low is right too, it only costs more: so
 * depths that don't fit are cut off, and threads that fill in the same granule needn't agree.
 *
 * Memory grows with the part of the disk that is read, not with the depth.
 */
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/num.h"
#include "data/data.h"

#define GRANULE_BITS 16
#define GRANULE (1ull << GRANULE_BITS)
#define PAGE_GRANULES 4096
#define PAGES_MAX (1u << 20) /* 256 TiB; what lies behind isn't remembered */
/* Longer ranges are asked layer by layer: each answers for much at once. */
#define RANGE_MAX (1u << 20)

struct page {
	_Atomic uint16_t depth[PAGE_GRANULES]; /* 0: not known */
};

struct data_hints {
	uint64_t npages;		/* immutable */
	_Atomic(struct page *) pages[]; /* NULL until one is needed */
};

struct data_hints *data_hints_new(uint64_t size_bytes)
{
	uint64_t npages = min_u64(div_ceil(size_bytes, GRANULE * PAGE_GRANULES), PAGES_MAX);
	struct data_hints *h = mem_zalloc(1, sizeof(*h) + (size_t)npages * sizeof(h->pages[0]));

	if (h)
		h->npages = npages;
	return h;
}

void data_hints_free(struct data_hints *hints)
{
	if (!hints)
		return;
	for (uint64_t i = 0; i < hints->npages; i++)
		mem_free(atomic_load(&hints->pages[i]));
	mem_free(hints);
}

/* The place for a granule's hint; NULL: there is none. */
static _Atomic uint16_t *place_of(struct data_hints *h, uint64_t granule)
{
	uint64_t n = granule / PAGE_GRANULES;
	struct page *page, *none = NULL;

	if (n >= h->npages)
		return NULL;
	page = atomic_load_explicit(&h->pages[n], memory_order_acquire);
	if (!page) {
		page = mem_zalloc(1, sizeof(*page));
		if (page && !atomic_compare_exchange_strong(&h->pages[n], &none, page)) {
			mem_free(page);
			page = none;
		}
	}
	return page ? &page->depth[granule % PAGE_GRANULES] : NULL;
}

/* Has the layer nothing in all of [start, end)? */
static bool has_nothing(struct disk *disk, uint64_t start, uint64_t end)
{
	struct disk_run run;

	return end <= disk->size_bytes &&
	       disk->ops->map(disk, start, end - start, &run, NULL) == 0 &&
	       run.kind == DISK_RUN_ABSENT && run.len_bytes == end - start;
}

/* The first layer below the top that may have something in the granule. */
static unsigned look(const struct data_layers *layers, uint64_t granule)
{
	uint64_t start = granule << GRANULE_BITS;
	uint64_t end = min_u64(start + GRANULE, layers->disks[0]->size_bytes);
	unsigned depth = 1;

	while (depth + 1 < layers->count && has_nothing(layers->disks[depth], start, end))
		depth++;
	/* what reads as zeros because a layer ends is said by the layer above it */
	if (depth > 1 && end > layers->disks[depth]->size_bytes)
		depth--;
	return depth;
}

static unsigned depth_of(const struct data_layers *layers, uint64_t granule, bool cached)
{
	_Atomic uint16_t *place = place_of(layers->hints, granule);
	unsigned depth = place ? atomic_load_explicit(place, memory_order_relaxed) : 1;

	if (depth == 0 && cached)
		return 1;
	if (depth == 0) {
		depth = (unsigned)min_u64(look(layers, granule), UINT16_MAX);
		atomic_store_explicit(place, (uint16_t)depth, memory_order_relaxed);
	}
	return depth;
}

unsigned data_hints_depth(const struct data_layers *layers, uint64_t guest_off, uint64_t *len_bytes,
			  bool cached)
{
	uint64_t granule = guest_off >> GRANULE_BITS;
	uint64_t end = guest_off + *len_bytes;
	unsigned depth;

	if (!layers->hints || *len_bytes > RANGE_MAX)
		return 1;
	depth = depth_of(layers, granule, cached);
	while (++granule << GRANULE_BITS < end && depth_of(layers, granule, cached) == depth)
		;
	*len_bytes = min_u64(*len_bytes, (granule << GRANULE_BITS) - guest_off);
	return depth;
}
