/* SPDX-License-Identifier: MIT */
/*
 * Whole L1 tables at once: one reference more or less to everything that a table reaches, and the
 * COPIED flags of the active tables. For snapshots. The gate is closed, nothing is dirty in the
 * cache of L2 slices, and the dirty bit excuses counts and flags that don't fit each other yet.
 *
 * Tables are read and written whole, and counts changed in runs: clusters that follow each other
 * on the host are one call.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"
#include "meta/engine.h"

#define STRETCH 65536 /* clusters whose counts are looked at together, at most */

enum act { LOOK, RAISE, LOWER };

/* A run of clusters that is still growing. */
struct walk {
	struct meta *m;
	enum act act;
	bool clear;	     /* COPIED flags go */
	bool give_back;	     /* what has no reference left, to the host */
	uint64_t told_bytes; /* of progress, for a table */
	uint64_t first, n;
	uint64_t done;	/* runs that were counted */
	uint64_t limit; /* stops there: to take back what was done */
	uint8_t *table;
	struct storage_trail trail;    /* of the tables that are written */
	struct meta_freed_list *later; /* gets what the caller gives back to the host, or NULL */
	struct meta_freed_list freed;  /* what has no reference left */
};

/* What pointed to them is gone, durably, and nobody is in flight. */
static void free_zeros(struct meta *m, uint64_t first, uint64_t n, void *opaque)
{
	struct walk *w = opaque;
	struct meta_freed f = {.first = first, .nclusters = n, .give_back = w->give_back};

	if (w->later)
		meta_gather(m, w->later, &f);
	f.give_back &= !w->later;
	meta_gather(m, &w->freed, &f);
}

static int count_run(struct walk *w, struct qcow2_error *err)
{
	int ret = 0;

	if (w->n == 0 || w->done == w->limit)
		return 0;
	if (w->act == RAISE)
		ret = meta_refs_raise(w->m, w->first, w->n, err);
	else if (w->act == LOWER)
		ret = meta_refs_lower(w->m, w->first, w->n, free_zeros, w, err);
	w->done += ret == 0;
	w->n = 0;
	return ret;
}

static int add_clusters(struct walk *w, uint64_t first, uint64_t n, struct qcow2_error *err)
{
	int ret = 0;

	if (w->n > 0 && w->first + w->n == first) {
		w->n += n;
		return 0;
	}
	ret = count_run(w, err);
	w->first = first;
	w->n = n;
	return ret;
}

static int bad_entry(const struct meta *m, uint64_t raw, uint64_t table_off, uint32_t idx,
		     unsigned faults, struct qcow2_error *err)
{
	(void)m;
	return error_set_at(err, -EUCLEAN, QCOW2_NO_OFFSET, table_off,
			    "entry %" PRIu32 " (0x%016" PRIx64 ") of the L2 table at 0x%" PRIx64
			    " has %s",
			    idx, raw, table_off, format_fault_text(faults & FORMAT_FAULT_FATAL));
}

static int walk_entry(struct walk *w, uint64_t table_off, uint32_t idx, struct qcow2_error *err)
{
	const struct format_geometry *g = &w->m->geometry;
	const uint8_t *p = w->table + (size_t)idx * g->l2_entry_len;
	uint64_t raw = load_be64(p);
	struct format_l2_entry e;
	uint64_t first, last;

	if (raw == 0)
		return 0;
	e = format_l2_decode(g, raw, g->extended_l2 ? load_be64(p + 8) : 0);
	if (e.faults & FORMAT_FAULT_FATAL)
		return bad_entry(w->m, raw, table_off, idx, e.faults, err);
	if (!e.has_host_off)
		return 0;
	first = meta_cluster_of(w->m, e.host_off);
	last = first;
	if (e.kind == FORMAT_CLUSTER_COMPRESSED)
		last = meta_cluster_of(w->m, e.host_off + e.compressed_len - 1);
	return add_clusters(w, first, last - first + 1, err);
}

/* Clears the COPIED flags of the table in memory; *changed if there were any. */
static void clear_copied(struct walk *w, bool *changed)
{
	const struct format_geometry *g = &w->m->geometry;
	uint64_t any = 0;

	for (uint8_t *p = w->table, *end = p + g->cluster_size; p < end; p += g->l2_entry_len) {
		uint64_t raw = load_be64(p);
		uint64_t flag = raw & ~(raw << 1) & LAYOUT_ENTRY_COPIED; /* not of compressed */

		store_be64(p, raw ^ flag);
		any |= flag;
	}
	*changed = any != 0;
}

_Static_assert(LAYOUT_ENTRY_COMPRESSED << 1 == LAYOUT_ENTRY_COPIED, "flags side by side");

static int walk_entries(struct walk *w, uint64_t table_off, struct qcow2_error *err)
{
	const struct format_geometry *g = &w->m->geometry;
	int ret = 0;

	if (g->data_file) /* what they point to isn't counted */
		return 0;
	for (uint32_t i = 0, n; i < g->l2_entries && ret == 0; i += n) {
		const uint8_t *p = w->table + (size_t)i * g->l2_entry_len;
		struct format_straight run;

		n = format_l2_straight(g, p, g->l2_entries - i, &run);
		if (n > 0) {
			ret = add_clusters(w, meta_cluster_of(w->m, run.host_off), n, err);
		} else {
			ret = walk_entry(w, table_off, i, err);
			n = 1;
		}
	}
	return ret;
}

static int tell(struct walk *w, struct qcow2_error *err)
{
	if (w->act != LOWER)
		return progress_step(w->m->engine->progress, w->told_bytes, err);
	/* going back is all that is left, or it is past the point of that */
	(void)progress_step(w->m->engine->progress, w->told_bytes, NULL);
	return 0;
}

static int walk_table(struct walk *w, uint64_t table_off, struct qcow2_error *err)
{
	const uint64_t cs = w->m->geometry.cluster_size;
	bool changed = false;
	int ret = storage_read(w->m->file, w->table, (size_t)cs, table_off, err);

	if (ret == 0)
		ret = add_clusters(w, meta_cluster_of(w->m, table_off), 1, err);
	if (ret == 0)
		ret = walk_entries(w, table_off, err);
	if (ret == 0 && w->clear)
		clear_copied(w, &changed);
	if (changed) {
		ret = storage_write(w->m->file, w->table, (size_t)cs, table_off, err);
		storage_trail_add(&w->trail, w->m->file, table_off, cs);
		meta_cache_forget(w->m->l2, table_off, cs);
	}
	return ret;
}

static int walk_l1(struct walk *w, const uint64_t *l1, uint32_t entries, struct qcow2_error *err)
{
	int ret = 0;

	w->table = mem_aligned(4096, w->m->geometry.cluster_size);
	if (!w->table)
		return error_errno(err, -ENOMEM, "can't go through the L2 tables");
	for (uint32_t i = 0; i < entries && ret == 0 && w->done < w->limit; i++) {
		struct format_l1_entry e = format_l1_decode(&w->m->geometry, l1[i]);

		if (e.faults & FORMAT_FAULT_FATAL)
			ret = error_set_at(err, -EUCLEAN, QCOW2_NO_OFFSET, e.l2_off,
					   "L1 entry %" PRIu32 " points to 0x%" PRIx64
					   ", which isn't a cluster's start",
					   i, e.l2_off);
		else if (e.l2_off != 0)
			ret = walk_table(w, e.l2_off, err);
		if (ret == 0 && (e.l2_off != 0 || w->act == LOOK))
			ret = tell(w, err);
	}
	if (ret == 0)
		ret = count_run(w, err);
	meta_gather_end(w->m, &w->freed);
	mem_free(w->table);
	w->table = NULL;
	return ret;
}

void meta_walk_expect(struct meta *m, const uint64_t *l1, uint32_t entries)
{
	struct progress_work *progress = m->engine->progress;

	for (uint32_t i = 0; progress && i < entries; i++) {
		if (format_l1_decode(&m->geometry, l1[i]).l2_off != 0)
			progress->total_bytes += m->geometry.cluster_size;
	}
}

static struct walk walk_of(struct meta *m, enum act act)
{
	return (struct walk){
		.m = m,
		.act = act,
		.limit = UINT64_MAX,
		.give_back = m->engine->pass_discard & QCOW2_PASS_SNAPSHOT,
		.told_bytes = m->geometry.cluster_size,
	};
}

int meta_walk_raise(struct meta *m, const uint64_t *l1, uint32_t entries, bool clear,
		    struct qcow2_error *err)
{
	struct walk up = walk_of(m, RAISE), down = walk_of(m, LOWER);
	int ret;

	up.clear = clear;
	ret = walk_l1(&up, l1, entries, err);
	if (ret == 0)
		return 0;
	/* the same runs in the same order, and no more of them */
	down.limit = up.done;
	if (meta_check_sound(m, NULL) < 0 || walk_l1(&down, l1, entries, NULL) < 0)
		atomic_store(&m->engine->needs_repair, true);
	return ret;
}

/* What is still counted too high after a failure is for a repair. */
static int lower(struct walk *w, const uint64_t *l1, uint32_t entries, struct qcow2_error *err)
{
	int ret = walk_l1(w, l1, entries, err);

	if (ret < 0)
		atomic_store(&w->m->engine->needs_repair, true);
	return ret;
}

int meta_walk_lower(struct meta *m, const uint64_t *l1, uint32_t entries, struct qcow2_error *err)
{
	struct walk w = walk_of(m, LOWER);

	return lower(&w, l1, entries, err);
}

int meta_walk_look(struct meta *m, const uint64_t *l1, uint32_t entries, struct qcow2_error *err)
{
	struct walk w = walk_of(m, LOOK);

	w.told_bytes = (uint64_t)m->geometry.l2_entries << m->geometry.cluster_bits;
	return walk_l1(&w, l1, entries, err);
}

int meta_walk_drop(struct meta *m, const uint64_t *l1, uint32_t entries,
		   struct meta_freed_list *later, struct qcow2_error *err)
{
	struct walk w = walk_of(m, LOWER);

	w.give_back = true;
	w.later = later;
	w.told_bytes = 0;
	return lower(&w, l1, entries, err);
}

/* ---- COPIED flags ---- */

/* A stretch of clusters that have the same count. */
struct ones {
	uint64_t first, n;
	bool single;
};

/* *n: how many clusters from there on, at most as many as it was, have one reference or haven't. */
static int is_single(struct meta *m, struct ones *o, uint64_t cluster, uint64_t *n, bool *single,
		     struct qcow2_error *err)
{
	uint64_t count;
	int ret;

	if (cluster < o->first || cluster - o->first >= o->n) {
		o->n = 0;
		ret = meta_refs_stretch(m, cluster, STRETCH, &count, &o->n, err);
		if (ret < 0)
			return ret;
		o->first = cluster;
		o->single = count == 1;
	}
	*n = min_u64(*n, o->first + o->n - cluster);
	*single = o->single;
	return 0;
}

/* The flags of n entries that are straight behind each other. */
static int refresh_straight(struct meta *m, struct ones *o, uint8_t *p, uint32_t n,
			    const struct format_straight *run, bool *changed,
			    struct qcow2_error *err)
{
	uint64_t cluster = meta_cluster_of(m, run->host_off);
	int ret = 0;

	for (uint64_t done = 0, len; done < n && ret == 0; done += len) {
		bool single;

		len = n - done;
		ret = is_single(m, o, cluster + done, &len, &single, err);
		if (ret < 0 || single == run->copied)
			continue;
		*changed = true;
		for (uint64_t i = done; i < done + len; i++) {
			uint8_t *entry = p + (size_t)i * m->geometry.l2_entry_len;

			store_be64(entry, load_be64(entry) ^ LAYOUT_ENTRY_COPIED);
		}
	}
	return ret;
}

static int refresh_entry(struct meta *m, struct ones *o, uint8_t *p, bool *changed,
			 struct qcow2_error *err)
{
	const struct format_geometry *g = &m->geometry;
	uint64_t raw = load_be64(p), one = 1;
	struct format_l2_entry e;
	bool single = false;
	int ret = 0;

	if (raw == 0)
		return 0;
	e = format_l2_decode(g, raw, g->extended_l2 ? load_be64(p + 8) : 0);
	if (e.kind == FORMAT_CLUSTER_COMPRESSED || e.faults & FORMAT_FAULT_FATAL)
		return 0;
	if (e.has_host_off)
		ret = is_single(m, o, meta_cluster_of(m, e.host_off), &one, &single, err);
	if (ret == 0 && single != e.copied) {
		store_be64(p, raw ^ LAYOUT_ENTRY_COPIED);
		*changed = true;
	}
	return ret;
}

static int refresh_table(struct meta *m, struct ones *o, uint8_t *table, uint64_t table_off,
			 struct storage_trail *trail, struct qcow2_error *err)
{
	const struct format_geometry *g = &m->geometry;
	bool changed = false;
	int ret = storage_read(m->file, table, (size_t)g->cluster_size, table_off, err);

	for (uint32_t i = 0, n; i < g->l2_entries && ret == 0; i += n) {
		uint8_t *p = table + (size_t)i * g->l2_entry_len;
		struct format_straight run;

		n = format_l2_straight(g, p, g->l2_entries - i, &run);
		if (n > 0) {
			ret = refresh_straight(m, o, p, n, &run, &changed, err);
		} else {
			ret = refresh_entry(m, o, p, &changed, err);
			n = 1;
		}
	}
	if (ret == 0 && changed) {
		ret = storage_write(m->file, table, (size_t)g->cluster_size, table_off, err);
		storage_trail_add(trail, m->file, table_off, g->cluster_size);
		meta_cache_forget(m->l2, table_off, g->cluster_size);
	}
	(void)progress_step(m->engine->progress, g->cluster_size, NULL);
	return ret;
}

int meta_refresh_copied(struct meta *m, struct qcow2_error *err)
{
	cleanup_free uint8_t *table = mem_aligned(4096, m->geometry.cluster_size);
	struct storage_trail trail = {0};
	struct ones o = {0};
	int ret = table ? 0 : error_errno(err, -ENOMEM, "can't go through the L2 tables");

	for (uint32_t i = 0; i < m->l1_entries && ret == 0; i++) {
		uint64_t raw = meta_l1_get(m, i);
		struct format_l1_entry e = format_l1_decode(&m->geometry, raw);
		uint64_t one = 1;
		bool single;

		if (e.l2_off == 0 || e.faults & FORMAT_FAULT_FATAL)
			continue;
		ret = refresh_table(m, &o, table, e.l2_off, &trail, err);
		if (ret == 0)
			ret = is_single(m, &o, meta_cluster_of(m, e.l2_off), &one, &single, err);
		if (ret == 0 && single != e.copied)
			meta_l1_set(m, i, raw ^ LAYOUT_ENTRY_COPIED, true);
	}
	if (ret < 0)
		atomic_store(&m->engine->needs_repair, true);
	return ret;
}
