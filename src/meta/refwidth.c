/* SPDX-License-Identifier: MIT */
/*
 * Refcounts of another width: all refcount blocks and the table are written anew, behind everything
 * that is in use, and one write to the header switches to them (rule 7). The gate is closed and
 * everything has been committed.
 *
 * Nothing counts the new structures before the switch, since they lie where all is free; the new
 * counts count them, and the old structures too, until these are let go of. So a crash before the
 * switch leaves no trace but a file that is longer than it need be, and one after it leaks.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/num.h"
#include "format/refbits.h"
#include "meta/amend.h"

#define ENTRIES_MAX (LAYOUT_REFTABLE_BYTES_MAX / LAYOUT_REFTABLE_ENTRY_LEN)

struct width {
	struct meta *m;
	struct format_geometry g; /* the new one */
	const struct meta_watch *watch;
	uint8_t *needed; /* of each new block: something is counted there */
	uint64_t nneeded;
	uint64_t first;	  /* cluster where the area begins: blocks, then the table */
	uint64_t nblocks; /* of them */
	uint64_t nentries, ntable;
	uint8_t *block;
};

/* ---- what there is ---- */

static int too_high(const struct width *w, uint64_t cluster, uint64_t count,
		    struct qcow2_error *err)
{
	return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, meta_off_of(w->m, cluster),
			    "the cluster at 0x%" PRIx64 " has %" PRIu64
			    " references, more than refcounts of %u bits can hold",
			    meta_off_of(w->m, cluster), count, 1u << w->g.refcount_order);
}

static int no_room(struct qcow2_error *err)
{
	return error_set(err, -EFBIG,
			 "refcounts of that width need a table of more than the %u bytes that the "
			 "format allows",
			 LAYOUT_REFTABLE_BYTES_MAX);
}

static int need(struct width *w, uint64_t first, uint64_t n, struct qcow2_error *err)
{
	uint64_t last = (first + n - 1) >> w->g.refblock_bits;

	if (last >= ENTRIES_MAX)
		return no_room(err);
	for (uint64_t idx = first >> w->g.refblock_bits; idx <= last; idx++) {
		w->nneeded += !w->needed[idx];
		w->needed[idx] = 1;
	}
	return 0;
}

/* Which blocks are needed, and whether all counts fit: nothing is changed if they don't. */
static int survey(struct width *w, struct qcow2_error *err)
{
	uint64_t end = meta_refs_end(w->m), count, len;
	int ret = 0;

	w->needed = mem_zalloc(ENTRIES_MAX, 1);
	if (!w->needed)
		return error_errno(err, -ENOMEM, "can't change the width of refcounts");
	for (uint64_t at = 0; at < end && ret == 0; at += len) {
		ret = meta_refs_stretch(w->m, at, end - at, &count, &len, err);
		if (ret == 0 && count > w->g.refcount_max)
			ret = too_high(w, at, count, err);
		if (ret == 0 && count > 0)
			ret = need(w, at, len, err);
	}
	return ret;
}

/* Places the area; it counts itself, so that its size depends on its size. */
static int place(struct width *w, struct qcow2_error *err)
{
	const uint64_t per_cluster = w->g.cluster_size / LAYOUT_REFTABLE_ENTRY_LEN;
	uint64_t total = 1, last = 0;
	int ret = 0;

	w->first = meta_alloc_end(w->m);
	while (ret == 0 && total != last) {
		last = total;
		ret = need(w, w->first, total, err);
		w->nblocks = w->nneeded;
		w->nentries = ((w->first + total - 1) >> w->g.refblock_bits) + 1;
		for (uint64_t idx = w->nentries; idx < ENTRIES_MAX; idx++)
			if (w->needed[idx])
				w->nentries = idx + 1;
		w->nentries = align_up(w->nentries, per_cluster);
		w->ntable = w->nentries / per_cluster;
		total = w->nblocks + w->ntable;
	}
	if (ret == 0 && w->nentries > ENTRIES_MAX)
		ret = no_room(err);
	return ret;
}

/* ---- writing ---- */

static uint64_t table_off(const struct width *w)
{
	return meta_off_of(w->m, w->first + w->nblocks);
}

static int fill_block(struct width *w, uint64_t idx, struct qcow2_error *err)
{
	const uint32_t order = w->g.refcount_order;
	uint64_t first = idx << w->g.refblock_bits, end = first + w->g.refblock_entries;
	uint64_t old_end = min_u64(end, meta_refs_end(w->m));
	uint64_t from = max_u64(first, w->first), count, len;
	uint64_t to = min_u64(end, w->first + w->nblocks + w->ntable);
	int ret = 0;

	format_refcount_fill(w->block, order, 0, w->g.refblock_entries, 0);
	for (uint64_t at = first; at < old_end && ret == 0; at += len) {
		ret = meta_refs_stretch(w->m, at, old_end - at, &count, &len, err);
		if (ret == 0 && count > 0)
			format_refcount_fill(w->block, order, at - first, len, count);
	}
	if (from < to)
		format_refcount_fill(w->block, order, from - first, to - from, 1);
	return ret;
}

static int write_blocks(struct width *w, struct meta_reftable *t, struct qcow2_error *err)
{
	uint64_t cluster = w->first;
	int ret = 0;

	w->block = mem_aligned(4096, w->g.cluster_size);
	if (!w->block)
		return error_errno(err, -ENOMEM, "can't change the width of refcounts");
	for (uint64_t idx = 0; idx < w->nentries && ret == 0; idx++) {
		if (!w->needed[idx])
			continue;
		ret = fill_block(w, idx, err);
		if (ret == 0)
			ret = storage_write(w->m->file, w->block, (size_t)w->g.cluster_size,
					    meta_off_of(w->m, cluster), err);
		if (ret == 0)
			ret = meta_watch_step(w->watch, w->g.cluster_size, err);
		t->refblock_off[idx] = meta_off_of(w->m, cluster++);
	}
	return ret;
}

/* Blocks and table, barrier, header, barrier. */
static int write_all(struct width *w, struct meta_reftable *t, struct qcow2_error *err)
{
	struct meta *m = w->m;
	int ret = write_blocks(w, t, err);

	if (ret == 0)
		ret = meta_write_words(m, t->refblock_off, w->nentries, table_off(w), err);
	if (ret == 0 && !META_BROKEN(7))
		ret = meta_barrier(m, err);
	if (ret < 0)
		return ret;
	ret = meta_super_write_width(m, table_off(w), (uint32_t)w->ntable, w->g.refcount_order,
				     err);
	return ret == 0 ? meta_barrier(m, err) : meta_header_unknown(m, ret, "refcount table");
}

/* ---- the switch in memory ---- */

static int guard_area(struct width *w, bool add, struct qcow2_error *err)
{
	struct meta_guard *g = &w->m->engine->guard;
	uint64_t cs = w->g.cluster_size;
	int ret;

	if (!add) {
		meta_guard_remove(g, META_REGION_REFBLOCK, meta_off_of(w->m, w->first),
				  w->nblocks * cs);
		meta_guard_remove(g, META_REGION_REFTABLE, table_off(w), w->ntable * cs);
		return 0;
	}
	ret = meta_guard_add(g, META_REGION_REFTABLE, table_off(w), w->ntable * cs, err);
	/* one by one: so they are taken out again when they go */
	for (uint64_t i = 0; i < w->nblocks && ret == 0; i++)
		ret = meta_guard_add(g, META_REGION_REFBLOCK, meta_off_of(w->m, w->first + i), cs,
				     err);
	return ret;
}

/* Nobody else looks at refcounts: the gate is closed, and whoever gives clusters away waits. */
static void use(struct width *w, struct meta_reftable *t)
{
	struct meta_engine *e = w->m->engine;
	const struct meta_reftable *old = atomic_load(&e->reftable);
	const uint64_t cs = w->g.cluster_size;

	meta_slot_take(&e->order.reaping);
	meta_slot_take(&e->order.commit);
	for (uint32_t i = 0; i < old->entries; i++) {
		if (old->refblock_off[i] != 0)
			meta_cache_forget(e->refs, old->refblock_off[i], cs);
	}
	meta_cache_forget(e->refs, meta_off_of(w->m, w->first), w->nblocks * cs);
	t->older = atomic_load(&e->reftable);
	atomic_store(&e->reftable, t);
	w->m->geometry = w->g;
	meta_slot_leave(&e->order.commit);
	meta_slot_leave(&e->order.reaping);
}

/* What can't be let go of leaks. */
static void free_old(struct width *w, uint64_t off, uint64_t len_bytes)
{
	const struct meta_reftable *t = atomic_load(&w->m->engine->reftable)->older;

	for (uint32_t i = 0; i < t->entries; i++) {
		if (t->refblock_off[i] != 0)
			meta_table_free(w->m, META_REGION_REFBLOCK, t->refblock_off[i],
					w->g.cluster_size);
	}
	meta_table_free(w->m, META_REGION_REFTABLE, off, len_bytes);
	atomic_store(&w->m->engine->ever_freed, true);
}

static int write_and_use(struct width *w, struct qcow2_error *err)
{
	struct meta *m = w->m;
	struct meta_reftable *t =
		mem_zalloc(1, sizeof(*t) + (size_t)w->nentries * sizeof(t->refblock_off[0]));
	uint64_t old_off = m->header.reftable_off;
	uint64_t old_len = m->header.reftable_clusters * w->g.cluster_size;
	int ret;

	if (!t)
		return error_errno(err, -ENOMEM, "can't change the width of refcounts");
	t->entries = (uint32_t)w->nentries;
	ret = guard_area(w, true, err);
	if (ret == 0)
		ret = write_all(w, t, err);
	if (ret < 0) {
		mem_free(t);
		return ret;
	}
	use(w, t);
	free_old(w, old_off, old_len);
	return meta_commit_counts(m, err);
}

static int change(struct width *w, struct qcow2_error *err)
{
	struct meta *m = w->m;
	int ret = survey(w, err);

	if (ret == 0)
		ret = place(w, err);
	if (ret == 0)
		ret = meta_guard_check(m, meta_off_of(m, w->first),
				       (w->nblocks + w->ntable) << w->g.cluster_bits,
				       META_REGION_NONE, err);
	if (ret == 0)
		ret = meta_alloc_mark(m, w->first, w->nblocks + w->ntable, err);
	if (ret < 0)
		return ret;
	ret = write_and_use(w, err);
	if (ret < 0 && m->geometry.refcount_order != w->g.refcount_order &&
	    meta_check_sound(m, NULL) == 0) {
		(void)guard_area(w, false, NULL);
		meta_alloc_give_back(m, w->first, w->nblocks + w->ntable);
		atomic_store(&m->engine->ever_freed, true);
	}
	return ret;
}

static void init(struct width *w, struct meta *m, uint32_t order, const struct meta_watch *watch)
{
	*w = (struct width){.m = m, .watch = watch};
	format_geometry_init(&w->g, m->geometry.version, m->geometry.cluster_bits, order,
			     m->geometry.extended_l2, m->geometry.data_file);
}

int meta_check_width(struct meta *m, uint32_t order, uint64_t *blocks_bytes,
		     struct qcow2_error *err)
{
	struct width w;
	int ret;

	init(&w, m, order, NULL);
	ret = survey(&w, err);
	*blocks_bytes = w.nneeded << w.g.cluster_bits;
	mem_free(w.needed);
	return ret;
}

int meta_change_width(struct meta *m, uint32_t order, const struct meta_watch *watch,
		      struct qcow2_error *err)
{
	struct width w;
	int ret;

	init(&w, m, order, watch);
	ret = meta_commit_counts(m, err);
	if (ret < 0)
		return ret;
	meta_reap(m, true);
	ret = meta_commit_counts(m, err);
	if (ret == 0)
		ret = change(&w, err);
	mem_free(w.needed);
	mem_free(w.block);
	return ret;
}
