/* SPDX-License-Identifier: MIT */
/*
 * The overlap guard: see guard.h for why questions need no lock.
 *
 * Invariants: a cluster is in `others` plainly as long as it is there with a kind; plainly only
 * from the time when it has a kind, so that a question costs one look where there is nothing.
 */
#include "meta/guard.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/num.h"

#define KIND_SHIFT 60	  /* above every cluster number plus one */
#define SCATTERED_MAX 16u /* clusters of an add that go to the sets one by one */
#define RANGES_MIN 16u
#define REGIONS (META_REGION_BITMAPS + 1u)
/* A walk over a set looks at up to this many slots for each key in it. */
#define SLOTS_PER_KEY 4u

/* The clusters first to last; free while kind is META_REGION_NONE. */
struct range {
	_Atomic unsigned kind;
	_Atomic unsigned version;
	_Atomic uint64_t first, last;
};

struct meta_guard_ranges {
	struct meta_guard_ranges *older; /* kept for readers that are still there */
	size_t room;
	size_t nfree;	    /* of the slots below used; guarded by the lock */
	atomic_size_t used; /* slots that ever were taken */
	struct range slots[];
};

/* A question: is anything but own in the clusters first to last? */
struct span {
	uint64_t first, last;
};

static const char *const names[REGIONS] = {
	[META_REGION_NONE] = "no metadata",
	[META_REGION_HEADER] = "header",
	[META_REGION_L1] = "active L1 table",
	[META_REGION_L2] = "L2 table",
	[META_REGION_REFTABLE] = "refcount table",
	[META_REGION_REFBLOCK] = "refcount block",
	[META_REGION_SNAPSHOTS] = "snapshot table",
	[META_REGION_INACTIVE_L1] = "L1 table of a snapshot",
	[META_REGION_BITMAPS] = "bitmap directory",
};

const char *meta_guard_name(enum meta_region region)
{
	assert((unsigned)region < REGIONS);
	return names[region];
}

int meta_guard_init(struct meta_guard *g, uint32_t cluster_bits, struct qcow2_error *err)
{
	int ret;

	*g = (struct meta_guard){.cluster_bits = cluster_bits};
	atomic_init(&g->lowest, UINT64_MAX);
	ret = hashset_init(&g->l2);
	if (ret == 0)
		ret = hashset_init(&g->others);
	if (ret == 0)
		ret = -pthread_mutex_init(&g->lock, NULL);
	if (ret == 0)
		return 0;
	hashset_release(&g->l2);
	hashset_release(&g->others);
	*g = (struct meta_guard){0};
	return error_errno(err, ret, "can't set up the overlap guard");
}

void meta_guard_release(struct meta_guard *g)
{
	struct meta_guard_ranges *r = atomic_load(&g->ranges), *older;

	if (g->cluster_bits == 0)
		return;
	for (; r; r = older) {
		older = r->older;
		mem_free(r);
	}
	hashset_release(&g->l2);
	hashset_release(&g->others);
	pthread_mutex_destroy(&g->lock);
	*g = (struct meta_guard){0};
}

/* false: it passes 2^64. len_bytes isn't 0. */
static bool span_of(const struct meta_guard *g, uint64_t host_off, uint64_t len_bytes,
		    struct span *s)
{
	bool fits = len_bytes - 1 <= UINT64_MAX - host_off;

	s->first = host_off >> g->cluster_bits;
	s->last = (fits ? host_off + (len_bytes - 1) : UINT64_MAX) >> g->cluster_bits;
	return fits;
}

/* ---- clusters one by one ------------------------------------------------------------------- */

static uint64_t kind_key(enum meta_region region, uint64_t cluster)
{
	return (uint64_t)region << KIND_SHIFT | (cluster + 1);
}

static bool has_a_kind(const struct meta_guard *g, uint64_t cluster)
{
	for (unsigned k = META_REGION_NONE + 1; k < REGIONS; k++) {
		if (hashset_has(&g->others, kind_key(k, cluster)))
			return true;
	}
	return false;
}

static bool is_of_kind(const struct meta_guard *g, enum meta_region region, uint64_t cluster)
{
	if (region == META_REGION_L2)
		return hashset_has(&g->l2, cluster + 1);
	return hashset_has(&g->others, kind_key(region, cluster));
}

static void remove_cluster(struct meta_guard *g, enum meta_region region, uint64_t cluster)
{
	if (region == META_REGION_L2) {
		hashset_remove(&g->l2, cluster + 1);
		return;
	}
	hashset_remove(&g->others, kind_key(region, cluster));
	if (!has_a_kind(g, cluster))
		hashset_remove(&g->others, cluster + 1);
}

static int add_cluster(struct meta_guard *g, enum meta_region region, uint64_t cluster)
{
	int ret;

	if (region == META_REGION_L2)
		return hashset_add(&g->l2, cluster + 1);
	ret = hashset_add(&g->others, kind_key(region, cluster));
	if (ret == 0) {
		ret = hashset_add(&g->others, cluster + 1);
		if (ret < 0)
			remove_cluster(g, region, cluster);
	}
	return ret;
}

static int add_clusters(struct meta_guard *g, enum meta_region region, const struct span *s)
{
	uint32_t added = 0; /* bit i: s->first + i wasn't there before */
	int ret = 0;

	for (uint64_t i = 0; ret == 0 && i <= s->last - s->first; i++) {
		if (is_of_kind(g, region, s->first + i))
			continue;
		ret = add_cluster(g, region, s->first + i);
		if (ret == 0)
			added |= 1u << i;
	}
	if (ret == 0)
		return 0;
	for (unsigned i = 0; i < SCATTERED_MAX; i++) {
		if (added & 1u << i)
			remove_cluster(g, region, s->first + i);
	}
	return ret;
}

/* ---- ranges -------------------------------------------------------------------------------- */

static void fill_slot(struct range *slot, enum meta_region region, const struct span *s)
{
	/* the version before the ends: who reads one of these ends then reads this version, too */
	atomic_fetch_add(&slot->version, 1);
	atomic_store(&slot->first, s->first);
	atomic_store(&slot->last, s->last);
	atomic_store(&slot->kind, region);
}

/* A consistent copy; META_REGION_NONE: the slot is free, *s unspecified. */
static enum meta_region read_slot(const struct range *slot, struct span *s)
{
	unsigned version, kind;

	do {
		version = atomic_load(&slot->version);
		kind = atomic_load(&slot->kind);
		s->first = atomic_load(&slot->first);
		s->last = atomic_load(&slot->last);
	} while (kind != META_REGION_NONE && atomic_load(&slot->version) != version);
	return kind;
}

static struct meta_guard_ranges *more_ranges(struct meta_guard *g, struct meta_guard_ranges *old)
{
	size_t room = old ? old->room * 2 : RANGES_MIN;
	struct meta_guard_ranges *r;
	uint64_t bytes;

	if (!mul_fits(room, sizeof(r->slots[0]), &bytes) || !add_fits(bytes, sizeof(*r), &bytes))
		return NULL;
	r = mem_zalloc(bytes, 1);
	if (!r)
		return NULL;
	r->older = old;
	r->room = room;
	for (size_t i = 0; old && i < old->used; i++) {
		struct span s;
		enum meta_region kind = read_slot(&old->slots[i], &s);

		fill_slot(&r->slots[i], kind, &s);
	}
	r->used = old ? old->used : 0;
	r->nfree = old ? old->nfree : 0;
	atomic_store(&g->ranges, r);
	return r;
}

static int add_range(struct meta_guard *g, enum meta_region region, const struct span *s)
{
	struct meta_guard_ranges *r = atomic_load(&g->ranges);
	size_t i = 0;

	if (r && r->nfree > 0) {
		while (atomic_load(&r->slots[i].kind) != META_REGION_NONE)
			i++;
		r->nfree--;
		fill_slot(&r->slots[i], region, s);
		return 0;
	}
	if (!r || r->used == r->room)
		r = more_ranges(g, r);
	if (!r)
		return -ENOMEM;
	i = r->used;
	fill_slot(&r->slots[i], region, s);
	atomic_store(&r->used, i + 1);
	return 0;
}

static void remove_range(struct meta_guard *g, enum meta_region region, const struct span *s)
{
	struct meta_guard_ranges *r = atomic_load(&g->ranges);
	size_t used = r ? atomic_load(&r->used) : 0;

	for (size_t i = 0; i < used; i++) {
		struct span found;

		if (read_slot(&r->slots[i], &found) != region || found.first != s->first ||
		    found.last != s->last)
			continue;
		atomic_store(&r->slots[i].kind, META_REGION_NONE);
		r->nfree++;
	}
}

/* ---- questions ----------------------------------------------------------------------------- */

/* The first cluster from s->first to s->last that is plainly in set. */
static bool first_in_set(const struct hashset *set, const struct span *s, uint64_t *cluster)
{
	uint64_t n = s->last - s->first, key;

	if (n / SLOTS_PER_KEY > hashset_count(set)) {
		if (!hashset_find_between(set, s->first + 1, s->last + 1, &key))
			return false;
		*cluster = key - 1;
		return true;
	}
	for (uint64_t i = 0; i <= n; i++) {
		if (hashset_has(set, s->first + i + 1)) {
			*cluster = s->first + i;
			return true;
		}
	}
	return false;
}

static enum meta_region kind_but(const struct meta_guard *g, uint64_t cluster, unsigned but)
{
	for (unsigned k = META_REGION_NONE + 1; k < REGIONS; k++) {
		if (!(but & 1u << k) && hashset_has(&g->others, kind_key(k, cluster)))
			return k;
	}
	return META_REGION_NONE;
}

/* The finders cut s off before what they find, so that the next one has to look no further. */
static enum meta_region find_in_others(const struct meta_guard *g, struct span *s, unsigned but,
				       uint64_t *hit)
{
	struct span rest = *s;

	while (first_in_set(&g->others, &rest, hit)) {
		enum meta_region kind = kind_but(g, *hit, but);

		if (kind != META_REGION_NONE) {
			s->last = *hit;
			return kind;
		}
		if (*hit == rest.last)
			break;
		rest.first = *hit + 1;
	}
	return META_REGION_NONE;
}

static enum meta_region find_in_ranges(const struct meta_guard *g, struct span *s, unsigned but,
				       uint64_t *hit)
{
	const struct meta_guard_ranges *r = atomic_load(&g->ranges);
	size_t used = r ? atomic_load(&r->used) : 0;
	enum meta_region best = META_REGION_NONE;

	for (size_t i = 0; i < used; i++) {
		struct span found;
		enum meta_region kind = read_slot(&r->slots[i], &found);

		if (kind == META_REGION_NONE || but & 1u << kind || found.first > s->last ||
		    found.last < s->first)
			continue;
		best = kind;
		*hit = max_u64(found.first, s->first);
		s->last = *hit;
	}
	return best;
}

enum meta_region meta_guard_find_but(const struct meta_guard *g, uint64_t host_off,
				     uint64_t len_bytes, unsigned but, uint64_t *hit_off)
{
	enum meta_region found, best = META_REGION_NONE;
	uint64_t hit = 0;
	struct span s;

	if (len_bytes == 0)
		return META_REGION_NONE;
	span_of(g, host_off, len_bytes, &s);
	s.first = max_u64(s.first, atomic_load(&g->lowest));
	s.last = min_u64(s.last, atomic_load(&g->highest));
	if (s.first > s.last)
		return META_REGION_NONE;
	best = find_in_others(g, &s, but, &hit);
	if (!(but & 1u << META_REGION_L2) && first_in_set(&g->l2, &s, &hit)) {
		best = META_REGION_L2;
		s.last = hit;
	}
	found = find_in_ranges(g, &s, but, &hit);
	if (found != META_REGION_NONE)
		best = found;
	if (best != META_REGION_NONE && hit_off)
		*hit_off = hit << g->cluster_bits;
	return best;
}

enum meta_region meta_guard_find(const struct meta_guard *g, uint64_t host_off, uint64_t len_bytes,
				 enum meta_region own, uint64_t *hit_off)
{
	return meta_guard_find_but(g, host_off, len_bytes, 1u << own, hit_off);
}

/* ---- changes ------------------------------------------------------------------------------- */

/* Before anything is added, so that no question passes by what is. */
static void widen(struct meta_guard *g, const struct span *s)
{
	if (s->first < atomic_load(&g->lowest))
		atomic_store(&g->lowest, s->first);
	if (s->last > atomic_load(&g->highest))
		atomic_store(&g->highest, s->last);
}

int meta_guard_add(struct meta_guard *g, enum meta_region region, uint64_t host_off,
		   uint64_t len_bytes, struct qcow2_error *err)
{
	struct span s;
	int ret = 0;

	assert(region > META_REGION_NONE && (unsigned)region < REGIONS);
	if (len_bytes == 0)
		return 0;
	if (!span_of(g, host_off, len_bytes, &s))
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, host_off,
				    "%s of %" PRIu64 " bytes at 0x%" PRIx64 " would pass 2^64",
				    meta_guard_name(region), len_bytes, host_off);
	pthread_mutex_lock(&g->lock);
	widen(g, &s);
	if (s.last - s.first < SCATTERED_MAX)
		ret = add_clusters(g, region, &s);
	else
		ret = add_range(g, region, &s);
	pthread_mutex_unlock(&g->lock);
	if (ret < 0)
		return error_errno(err, ret, "can't guard the %s at 0x%" PRIx64,
				   meta_guard_name(region), host_off);
	return 0;
}

void meta_guard_remove(struct meta_guard *g, enum meta_region region, uint64_t host_off,
		       uint64_t len_bytes)
{
	struct span s;

	assert(region > META_REGION_NONE && (unsigned)region < REGIONS);
	if (len_bytes == 0 || !span_of(g, host_off, len_bytes, &s))
		return;
	pthread_mutex_lock(&g->lock);
	if (s.last - s.first < SCATTERED_MAX)
		for (uint64_t i = 0; i <= s.last - s.first; i++)
			remove_cluster(g, region, s.first + i);
	else
		remove_range(g, region, &s);
	pthread_mutex_unlock(&g->lock);
}
