/* SPDX-License-Identifier: MIT */
/*
 * The overlap guard: which host clusters hold live metadata (section 17 of the format reference).
 * It is asked before every write to the image file; a hit means that the image is corrupt, and
 * that the write would make it worse.
 *
 * Everything counts in whole clusters, as the metadata does. Most metadata is one cluster here and
 * there (L2 tables, refcount blocks), so clusters are kept in hash sets; long tables are kept as
 * ranges in an array of their own.
 *
 * Why asking needs no lock: the sets are made for that (base/hashset.h). A range is read by its
 * kind, its ends and a version around them; a slot is emptied before it is used anew and gets
 * another version, so nobody puts together a range that never was. Arrays that were outgrown stay
 * until release.
 *
 * A change that runs beside a question may be seen or not: what is about to become metadata has
 * to be added before anybody can take it for free space, and removed before it can be given away.
 *
 * It doesn't set the corrupt bit and knows no refcounts, bitmap data, or L2 tables of snapshots.
 */
#ifndef META_GUARD_H
#define META_GUARD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hashset.h"

enum meta_region {
	META_REGION_NONE,
	META_REGION_HEADER,
	META_REGION_L1,
	META_REGION_L2,
	META_REGION_REFTABLE,
	META_REGION_REFBLOCK,
	META_REGION_SNAPSHOTS,
	META_REGION_INACTIVE_L1,
	META_REGION_BITMAPS,
};

struct meta_guard_ranges;

struct meta_guard {
	/* immutable */
	uint32_t cluster_bits;
	/* changed under lock, read by anybody */
	struct hashset l2;     /* clusters, plus one */
	struct hashset others; /* clusters, plus one; and again with their kind on top */
	_Atomic(struct meta_guard_ranges *) ranges; /* NULL until there is one */
	_Atomic uint64_t lowest, highest;	    /* no cluster outside them was ever added */
	pthread_mutex_t lock;
};

/* On failure nothing needs a release. */
int meta_guard_init(struct meta_guard *g, uint32_t cluster_bits, struct qcow2_error *err);
/* Nobody may be using it any more. Harmless on a guard of zeros. */
void meta_guard_release(struct meta_guard *g);

/*
 * Every cluster that [host_off, +len_bytes) touches holds metadata of this kind from now on. One
 * cluster may be of several kinds, but is of a kind or not: added twice it is removed by one
 * remove. -ENOMEM, or -EINVAL for a range that passes 2^64: nothing is added.
 */
int meta_guard_add(struct meta_guard *g, enum meta_region region, uint64_t host_off,
		   uint64_t len_bytes, struct qcow2_error *err);
/* Takes back an add of the same arguments. */
void meta_guard_remove(struct meta_guard *g, enum meta_region region, uint64_t host_off,
		       uint64_t len_bytes);

/*
 * What [host_off, +len_bytes) touches first, but for regions of kind own (META_REGION_NONE: no
 * exception). *hit_off, which may be NULL, gets the offset of the first cluster that is touched;
 * for META_REGION_NONE it stays as it was. Any thread, no lock.
 */
enum meta_region meta_guard_find(const struct meta_guard *g, uint64_t host_off, uint64_t len_bytes,
				 enum meta_region own, uint64_t *hit_off);

/* The same with exceptions: bit 1 << KIND for each. */
enum meta_region meta_guard_find_but(const struct meta_guard *g, uint64_t host_off,
				     uint64_t len_bytes, unsigned but, uint64_t *hit_off);

/* "L2 table", "refcount block", ... */
const char *meta_guard_name(enum meta_region region);

#endif
