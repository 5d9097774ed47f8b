/* SPDX-License-Identifier: MIT */
/*
 * Taking clusters and letting go of them: the bitmap of alloc.c and the counts of refcount.c
 * together. Compressed data, which share host clusters, are placed here too.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/num.h"
#include "format/entry.h"
#include "meta/engine.h"

/* Counts what was found. */
static int count_run(struct meta *m, const struct meta_run *run, struct qcow2_error *err)
{
	uint64_t len = run->nclusters << m->geometry.cluster_bits;
	int ret = meta_guard_check(m, meta_off_of(m, run->first), len, META_REGION_NONE, err);

	if (ret == 0 && run->nclusters > 0)
		ret = meta_refs_raise(m, run->first, run->nclusters, err);
	if (ret < 0)
		meta_alloc_give_back(m, run->first, run->nclusters);
	return ret;
}

int meta_take(struct meta *m, uint64_t n, uint64_t limit_off, struct meta_run *run,
	      struct qcow2_error *err)
{
	int ret;

	storage_event(m->file, QCOW2_EVENT_CLUSTER_ALLOC);
	ret = meta_alloc_find(m, n, limit_off, run, err);
	return ret == 0 ? count_run(m, run, err) : ret;
}

int meta_take_at(struct meta *m, uint64_t first, uint64_t n, struct meta_run *run,
		 struct qcow2_error *err)
{
	int ret = meta_alloc_find_at(m, first, n, run, err);

	return ret == 0 ? count_run(m, run, err) : ret;
}

void meta_untake(struct meta *m, const struct meta_run *run)
{
	/* what can't be lowered stays counted: a leak */
	if (meta_refs_lower(m, run->first, run->nclusters, NULL, NULL, NULL) == 0)
		meta_alloc_give_back(m, run->first, run->nclusters);
}

int meta_reserve(struct meta *m, const struct meta_run *run, struct qcow2_error *err)
{
	uint64_t len = run->nclusters << m->geometry.cluster_bits;
	struct qcow2_error why = {0};
	int ret = storage_allocate(m->file, meta_off_of(m, run->first), len, &why);

	if (ret == 0 || ret == -ENOTSUP)
		return 0;
	if (err)
		*err = why;
	return ret;
}

void meta_clusters_free(struct meta *m, uint64_t first, uint64_t n, bool give_back)
{
	struct meta_engine *e = m->engine;
	uint64_t packed = meta_cluster_of(m, e->packed_off);

	/* advisory; and before somebody else gets it */
	if (give_back)
		(void)storage_discard(m->file, meta_off_of(m, first), n << m->geometry.cluster_bits,
				      NULL);
	if (e->packed_off && packed >= first && packed < first + n)
		e->packed_off = 0;
	meta_alloc_give_back(m, first, n);
}

static void free_zeros(struct meta *m, uint64_t first, uint64_t n, void *opaque)
{
	const struct meta_freed *f = opaque;

	meta_clusters_free(m, first, n, f && f->give_back);
}

/* The same at the end of many. */
struct gathering {
	struct meta_freed_list list;
	bool give_back;
};

static void gather_zeros(struct meta *m, uint64_t first, uint64_t n, void *opaque)
{
	struct gathering *g = opaque;
	const struct meta_freed f = {.first = first, .nclusters = n, .give_back = g->give_back};

	meta_gather(m, &g->list, &f);
}

int meta_freed_reserve(struct meta_freed_list *f, size_t n)
{
	struct meta_freed *list;
	size_t cap;

	if (f->cap - f->count >= n)
		return 0;
	cap = f->count + n + f->count / 2 + 64;
	list = mem_realloc(f->list, cap, sizeof(*list));
	if (!list)
		return -ENOMEM;
	f->list = list;
	f->cap = cap;
	return 0;
}

void meta_drop(struct meta *m, uint64_t first, uint64_t n, bool give_back)
{
	struct meta_order *o = &m->engine->order;
	struct meta_freed_list *d = &o->dropped;
	struct meta_freed *last;

	if (n == 0)
		return;
	if (META_BROKEN(3)) {
		(void)meta_refs_lower(m, first, n, free_zeros, NULL, NULL);
		return;
	}
	pthread_mutex_lock(&o->lock);
	/* what the commit that runs has counted stays as it is: it doesn't cover more */
	last = d->count > o->cut ? &d->list[d->count - 1] : NULL;
	if (last && last->first + last->nclusters == first && last->give_back == give_back) {
		last->nclusters += n;
		pthread_mutex_unlock(&o->lock);
		return;
	}
	/* without memory it stays counted: a leak */
	if (meta_freed_reserve(d, 1) == 0)
		d->list[d->count++] =
			(struct meta_freed){.first = first, .nclusters = n, .give_back = give_back};
	atomic_store_explicit(&o->ndropped, d->count, memory_order_relaxed);
	pthread_mutex_unlock(&o->lock);
}

/* ---- compressed data ---- */

/* Whether the cluster can bear one reference more. */
static bool can_share(struct meta *m, uint64_t host_off)
{
	uint64_t count;

	return meta_refs_get(m, meta_cluster_of(m, host_off), &count, NULL) == 0 && count > 0 &&
	       count < m->geometry.refcount_max;
}

/* The clusters that [host_off, +len) touches get one reference each; new ones have it already. */
static int count_packed(struct meta *m, uint64_t host_off, uint64_t len, uint64_t new_first,
			struct qcow2_error *err)
{
	uint64_t first = meta_cluster_of(m, host_off);
	uint64_t last = meta_cluster_of(m, host_off + len - 1);

	/* at most one is shared, the first; the one behind it, if any, is new */
	if (new_first <= first || first > last)
		return 0;
	return meta_refs_raise(m, first, 1, err);
}

/*
 * Finds the place. Where it begins in a cluster that is in use the next cluster has to follow it
 * directly; else it begins in a new one. *new_first: the new cluster, or UINT64_MAX.
 */
static int place_packed(struct meta *m, uint64_t len, uint64_t *host_off, uint64_t *new_first,
			struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	uint64_t off = m->engine->packed_off;
	struct meta_run run;
	int ret;

	*new_first = UINT64_MAX;
	if (off && !can_share(m, off))
		off = 0;
	*host_off = off;
	if (off && cs - (off & (cs - 1)) >= len)
		return 0;
	ret = meta_take(m, 1, format_compressed_limit(&m->geometry), &run, err);
	if (ret < 0)
		return ret;
	*new_first = run.first;
	if (!off || align_up(off, cs) != meta_off_of(m, run.first))
		*host_off = meta_off_of(m, run.first);
	return 0;
}

int meta_take_packed(struct meta *m, uint64_t len, uint64_t *host_off, struct qcow2_error *err)
{
	struct meta_engine *e = m->engine;
	struct meta_run run = {.nclusters = 1};
	uint64_t end;
	int ret;

	storage_event(m->file, QCOW2_EVENT_CLUSTER_ALLOC_BYTES);
	meta_slot_take(&e->packing);
	ret = place_packed(m, len, host_off, &run.first, err);
	if (ret == 0)
		ret = count_packed(m, *host_off, len, run.first, err);
	if (ret < 0 && run.first != UINT64_MAX)
		meta_untake(m, &run);
	end = *host_off + len;
	if (ret == 0)
		e->packed_off = is_aligned(end, m->geometry.cluster_size) ? 0 : end;
	meta_slot_leave(&e->packing);
	return ret;
}

void meta_untake_packed(struct meta *m, uint64_t host_off, uint64_t len)
{
	uint64_t first = meta_cluster_of(m, host_off);
	uint64_t last = meta_cluster_of(m, host_off + len - 1);

	meta_slot_take(&m->engine->packing);
	(void)meta_refs_lower(m, first, last - first + 1, free_zeros, NULL, NULL);
	meta_slot_leave(&m->engine->packing);
}

/* ---- giving away ---- */

/* The oldest grave, if its time has come, taken off the list; false: none. */
static bool next_grave(struct meta *m, bool all, struct meta_freed *f)
{
	struct meta_order *o = &m->engine->order;
	bool found;

	pthread_mutex_lock(&o->lock);
	found = o->graves.head < o->graves.count;
	if (found)
		*f = o->graves.list[o->graves.head];
	found = found && (all || META_BROKEN(4) || meta_gate_passed(&m->engine->gate, f->mark));
	if (found && ++o->graves.head == o->graves.count)
		o->graves.head = o->graves.count = 0;
	pthread_mutex_unlock(&o->lock);
	return found;
}

void meta_reap(struct meta *m, bool all)
{
	struct meta_engine *e = m->engine;
	struct gathering g = {0};
	struct meta_freed f;

	meta_slot_take(&e->order.reaping);
	while (atomic_load(&e->order.failed) == 0 && next_grave(m, all, &f)) {
		storage_event(m->file, QCOW2_EVENT_CLUSTER_FREE);
		g.give_back = f.give_back;
		meta_slot_take(&e->packing);
		if (all)
			(void)meta_refs_lower(m, f.first, f.nclusters, gather_zeros, &g, NULL);
		else if (meta_alloc_hold(m, f.first, f.nclusters, NULL) == 0) /* or they leak */
			(void)meta_refs_lower(m, f.first, f.nclusters, free_zeros, &f, NULL);
		meta_slot_leave(&e->packing);
		atomic_store(&e->ever_freed, true);
	}
	meta_slot_take(&e->packing);
	meta_gather_end(m, &g.list);
	meta_slot_leave(&e->packing);
	meta_slot_leave(&e->order.reaping);
}
