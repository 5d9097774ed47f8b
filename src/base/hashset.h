/* SPDX-License-Identifier: MIT */
/*
 * A set of nonzero 64-bit keys: who changes it holds the caller's lock, who asks needs none.
 *
 * Why asking needs no lock. Open addressing with linear probing: a key lies in the first slots
 * from its home on, with no empty slot between. Slots are atomic, and a key that is in the set is
 * in some slot at every moment: adding fills an empty slot with one store; removing closes the gap
 * by copying later keys back, each before its old slot is written over, and counts the copies in
 * between. So a search that finds its key is right, and one that doesn't is right unless keys
 * were moved meanwhile, behind its back; it sees that at the counter, and searches again. There
 * are no tombstones, so nothing has to be cleaned up, however often keys come and go.
 *
 * Growing publishes a new array with twice the slots. Old ones are kept, unchanged, until release,
 * for whoever still searches there: since they double, all the old ones together are smaller than
 * the last.
 *
 * An answer that others' changes overtake is as old as the moment when it was asked for. It isn't
 * a map, and it never shrinks.
 */
#ifndef BASE_HASHSET_H
#define BASE_HASHSET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hashset_array;

struct hashset {
	/* immutable */
	uint64_t seed; /* differs from run to run: nobody can prepare keys that collide */
	/* atomic; changed under the caller's lock */
	_Atomic(struct hashset_array *) now;
	atomic_size_t count;
	atomic_size_t moves; /* keys that were copied to another slot of the same array */
};

/* 0 or -ENOMEM. After a failure nothing needs a release, and a release does no harm. */
int hashset_init(struct hashset *set);
/* Nobody may be using the set any more. */
void hashset_release(struct hashset *set);

/* ---- one at a time: the caller's lock is held ---- */

/* 0, also if key (nonzero) was there already; -ENOMEM: the set is as it was. */
int hashset_add(struct hashset *set, uint64_t key);
/* A key that isn't there is no fault. */
void hashset_remove(struct hashset *set, uint64_t key);

/* ---- any thread, no lock ---- */

bool hashset_has(const struct hashset *set, uint64_t key);
size_t hashset_count(const struct hashset *set);
/*
 * Whether the set has a key from first to last; *key gets the lowest. Walks over all slots. Keys
 * that are added meanwhile may be seen or not.
 */
bool hashset_find_between(const struct hashset *set, uint64_t first, uint64_t last, uint64_t *key);

#endif
