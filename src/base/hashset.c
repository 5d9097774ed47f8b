/* SPDX-License-Identifier: MIT */
/*
 * Open addressing without tombstones; hashset.h says why readers need no lock.
 *
 * Invariants: at most half of the slots are taken, so every probe ends at an empty one; between a
 * key's home and its slot none is empty; a key that stays in the set is in a slot at each moment.
 */
#include "base/hashset.h"

#include <assert.h>
#include <errno.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/seed.h"

#define BITS_MIN 4u
#define BITS_MAX 58u /* the slots' bytes fit in 64 bits */

struct hashset_array {
	struct hashset_array *older; /* kept for readers that are still there */
	uint64_t mask;		     /* slots - 1 */
	_Atomic uint64_t slots[];    /* 0: empty */
};

static struct hashset_array *array_new(unsigned bits, struct hashset_array *older)
{
	const uint64_t head = div_ceil(sizeof(struct hashset_array), sizeof(uint64_t));
	struct hashset_array *a;

	if (bits > BITS_MAX)
		return NULL;
	a = mem_zalloc(head + (1ull << bits), sizeof(uint64_t));
	if (!a)
		return NULL;
	a->older = older;
	a->mask = (1ull << bits) - 1;
	return a;
}

static uint64_t home_of(const struct hashset *set, const struct hashset_array *a, uint64_t key)
{
	return seed_hash(set->seed, key) & a->mask;
}

static uint64_t slot_get(const struct hashset_array *a, uint64_t i)
{
	return atomic_load_explicit(&a->slots[i], memory_order_acquire);
}

static void slot_set(struct hashset_array *a, uint64_t i, uint64_t key)
{
	atomic_store_explicit(&a->slots[i], key, memory_order_release);
}

/* The slot of key, or the empty one where the search for it ends. */
static uint64_t probe(const struct hashset *set, const struct hashset_array *a, uint64_t key)
{
	uint64_t i = home_of(set, a, key), found;

	while ((found = slot_get(a, i)) != key && found != 0)
		i = (i + 1) & a->mask;
	return i;
}

int hashset_init(struct hashset *set)
{
	struct hashset_array *a = array_new(BITS_MIN, NULL);

	*set = (struct hashset){0};
	if (!a)
		return -ENOMEM;
	set->seed = seed_random();
	atomic_init(&set->now, a);
	return 0;
}

void hashset_release(struct hashset *set)
{
	struct hashset_array *a = atomic_load(&set->now), *older;

	for (; a; a = older) {
		older = a->older;
		mem_free(a);
	}
	*set = (struct hashset){0};
}

/* An array with twice the slots; nobody sees it before it is complete. */
static int grow(struct hashset *set, struct hashset_array *old)
{
	unsigned bits = (unsigned)__builtin_popcountll(old->mask) + 1;
	struct hashset_array *a = array_new(bits, old);

	if (!a)
		return -ENOMEM;
	for (uint64_t i = 0; i <= old->mask; i++) {
		uint64_t key = slot_get(old, i);

		if (key != 0)
			slot_set(a, probe(set, a, key), key);
	}
	atomic_store_explicit(&set->now, a, memory_order_release);
	return 0;
}

int hashset_add(struct hashset *set, uint64_t key)
{
	struct hashset_array *a = atomic_load(&set->now);
	size_t count = atomic_load(&set->count);
	uint64_t i;
	int ret;

	assert(key != 0);
	i = probe(set, a, key);
	if (slot_get(a, i) == key)
		return 0;
	if (count >= (a->mask + 1) / 2) {
		ret = grow(set, a);
		if (ret < 0)
			return ret;
		a = atomic_load(&set->now);
		i = probe(set, a, key);
	}
	slot_set(a, i, key);
	atomic_store(&set->count, count + 1);
	return 0;
}

/* May the key in slot i, whose home is given, lie in the gap before it? */
static bool may_move(const struct hashset_array *a, uint64_t home, uint64_t gap, uint64_t i)
{
	return ((i - home) & a->mask) >= ((i - gap) & a->mask);
}

void hashset_remove(struct hashset *set, uint64_t key)
{
	struct hashset_array *a = atomic_load(&set->now);
	uint64_t gap = probe(set, a, key), later;

	if (key == 0 || slot_get(a, gap) != key)
		return;
	for (uint64_t i = (gap + 1) & a->mask; (later = slot_get(a, i)) != 0;
	     i = (i + 1) & a->mask) {
		if (!may_move(a, home_of(set, a, later), gap, i))
			continue;
		slot_set(a, gap, later);
		/* before slot i is written over: who finds it so finds this counted, too */
		atomic_fetch_add_explicit(&set->moves, 1, memory_order_release);
		gap = i;
	}
	slot_set(a, gap, 0);
	atomic_store(&set->count, atomic_load(&set->count) - 1);
}

bool hashset_has(const struct hashset *set, uint64_t key)
{
	size_t moves, after = atomic_load_explicit(&set->moves, memory_order_acquire);

	if (key == 0)
		return false;
	do {
		const struct hashset_array *a =
			atomic_load_explicit(&set->now, memory_order_acquire);
		uint64_t i, found;

		moves = after;
		/* not probe(): the slot that it stopped at may have changed since */
		for (i = home_of(set, a, key); (found = slot_get(a, i)) != 0; i = (i + 1) & a->mask)
			if (found == key)
				return true;
		after = atomic_load_explicit(&set->moves, memory_order_acquire);
	} while (after != moves);
	return false;
}

size_t hashset_count(const struct hashset *set)
{
	return atomic_load_explicit(&set->count, memory_order_acquire);
}

bool hashset_find_between(const struct hashset *set, uint64_t first, uint64_t last, uint64_t *key)
{
	size_t moves, after = atomic_load_explicit(&set->moves, memory_order_acquire);
	uint64_t lowest = 0;

	do {
		const struct hashset_array *a =
			atomic_load_explicit(&set->now, memory_order_acquire);

		moves = after;
		for (uint64_t i = 0; i <= a->mask; i++) {
			uint64_t found = slot_get(a, i);

			if (found != 0 && found >= first && found <= last &&
			    (lowest == 0 || found < lowest))
				lowest = found;
		}
		after = atomic_load_explicit(&set->moves, memory_order_acquire);
	} while (after != moves);
	*key = lowest;
	return lowest != 0;
}
