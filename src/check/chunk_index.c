/* SPDX-License-Identifier: MIT */
/* Open addressing in lines of slots for what is far; nothing is ever taken out. */
#include "check/chunk_index.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/seed.h"

#define ROOM_MIN 64u
#define LINE_BITS 4 /* log2 of the slots in a line */

void chunk_index_release(struct chunk_index *x)
{
	mem_free(x->near);
	mem_free(x->slots);
	*x = (struct chunk_index){0};
}

/* Neighbours stay neighbours, in one line of the processor's cache: mostly they are asked for in
 * a row. */
static uint64_t hash(const struct chunk_index *x, uint64_t key)
{
	uint64_t line = seed_hash(x->seed, key >> LINE_BITS);

	return line << LINE_BITS | ((key ^ line >> 60) & ((1u << LINE_BITS) - 1));
}

/* The slot of the chunk, or the free one where it belongs. */
static uint64_t slot_of(const struct chunk_index *x, const struct chunk *v, uint64_t key)
{
	uint64_t i = hash(x, key) & (x->nslots - 1), home = i;

	/* in another line at the same place: whole lines are full, and next to each other */
	while (x->slots[i] != 0 && v[x->slots[i] - 1].key != key) {
		i = (i + (1u << LINE_BITS)) & (x->nslots - 1);
		if (i == home)
			home = i = (i + 1) & (x->nslots - 1);
	}
	return i;
}

uint32_t chunk_index_find_far(const struct chunk_index *x, const struct chunk *v, uint64_t key)
{
	return x->nslots > 0 ? x->slots[slot_of(x, v, key)] : 0;
}

static int make_near_room(struct chunk_index *x, uint64_t key)
{
	uint64_t nnear = max_u64(ROOM_MIN, x->nnear);
	uint32_t *near;

	while (nnear <= key)
		nnear *= 2;
	if (nnear == x->nnear)
		return 0;
	near = mem_realloc(x->near, nnear, sizeof(*near));
	if (!near)
		return -ENOMEM;
	memset(near + x->nnear, 0, (size_t)(nnear - x->nnear) * sizeof(*near));
	x->near = near;
	x->nnear = nnear;
	return 0;
}

static int make_far_room(struct chunk_index *x, const struct chunk *v)
{
	struct chunk_index more = *x;

	if (x->nfar < x->nslots / 4 * 3)
		return 0;
	more.nslots = max_u64(ROOM_MIN, x->nslots * 2);
	more.slots = mem_zalloc(more.nslots, sizeof(*more.slots));
	if (!more.slots)
		return -ENOMEM;
	if (x->nslots == 0)
		more.seed = seed_random();
	for (uint64_t i = 0; i < x->nslots; i++)
		if (x->slots[i] != 0)
			more.slots[slot_of(&more, v, v[x->slots[i] - 1].key)] = x->slots[i];
	mem_free(x->slots);
	*x = more;
	return 0;
}

int chunk_index_make_room(struct chunk_index *x, const struct chunk *v, uint64_t key)
{
	return key < CHUNK_NEAR ? make_near_room(x, key) : make_far_room(x, v);
}

static void put(struct chunk_index *x, const struct chunk *v, uint32_t n)
{
	uint64_t key = v[n - 1].key;

	if (key < CHUNK_NEAR)
		x->near[key] = n;
	else
		x->slots[slot_of(x, v, key)] = n;
}

void chunk_index_add(struct chunk_index *x, const struct chunk *v, uint32_t n)
{
	x->nfar += v[n - 1].key >= CHUNK_NEAR;
	put(x, v, n);
}

void chunk_index_again(struct chunk_index *x, const struct chunk *v, uint32_t n)
{
	if (x->nslots > 0)
		memset(x->slots, 0, (size_t)x->nslots * sizeof(*x->slots));
	for (uint32_t i = 1; i <= n; i++)
		put(x, v, i);
}
