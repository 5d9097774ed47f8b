/* SPDX-License-Identifier: MIT */
/*
 * The L1 table when the size of the disk changes, or that of the VM state behind it: it moves to
 * grow (section 10.4, rule 7), and entries are cleared that nothing needs any more. The gate is
 * closed: nobody looks at the table but the caller.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/num.h"
#include "format/entry.h"
#include "meta/engine.h"

/* What has to be had in memory before anything is switched. */
struct wider {
	uint64_t *l1;
	uint64_t *l1_dirty;
	struct meta_cache *l2;
	uint32_t entries;
};

static void release_wider(struct wider *w)
{
	mem_free(w->l1);
	mem_free(w->l1_dirty);
	meta_cache_free(w->l2);
}

static int make_wider(struct meta *m, struct wider *w, struct qcow2_error *err)
{
	int ret;

	w->l1 = mem_zalloc(w->entries, sizeof(*w->l1));
	w->l1_dirty = mem_zalloc(meta_l1_dirty_words(w->entries), sizeof(*w->l1_dirty));
	if (!w->l1 || !w->l1_dirty)
		return error_errno(err, -ENOMEM, "can't make the L1 table larger");
	for (uint32_t i = 0; i < m->l1_entries; i++)
		w->l1[i] = m->l1[i];
	ret = meta_l2_cache_new(m, w->entries * m->geometry.cluster_size, &w->l2, err);
	if (ret == 0)
		meta_engine_use_cache(m, w->l2);
	return ret;
}

/* The new table is in the file: makes it the one. */
static int switch_header(struct meta *m, uint64_t host_off, uint32_t entries,
			 struct qcow2_error *err)
{
	int ret = META_BROKEN(7) ? 0 : meta_barrier(m, err);

	if (ret < 0)
		return ret;
	storage_event(m->file, QCOW2_EVENT_L1_GROW_ACTIVATE_TABLE);
	ret = meta_super_write_l1(m, host_off, entries, err);
	if (ret < 0)
		return meta_header_unknown(m, ret, "L1 table");
	return meta_barrier(m, err);
}

static void adopt(struct meta *m, struct wider *w)
{
	struct meta_order *o = &m->engine->order;
	struct wider old;

	/* the gate is closed; whoever commits from outside of it has this slot */
	meta_slot_take(&o->commit);
	old = (struct wider){.l1 = m->l1, .l1_dirty = o->l1_dirty, .l2 = m->l2};
	m->l1 = w->l1;
	m->l1_entries = w->entries;
	m->l2 = w->l2;
	o->l1_dirty = w->l1_dirty;
	meta_slot_leave(&o->commit);
	*w = (struct wider){0};
	release_wider(&old);
}

static int move_l1(struct meta *m, struct wider *w, const struct meta_run *run,
		   struct qcow2_error *err)
{
	const uint64_t len = (uint64_t)w->entries * LAYOUT_L1_ENTRY_LEN;
	uint64_t host_off = meta_off_of(m, run->first);
	uint64_t old_off = m->header.l1_off;
	uint64_t old_len = (uint64_t)m->header.l1_entries * LAYOUT_L1_ENTRY_LEN;
	int ret;

	storage_event(m->file, QCOW2_EVENT_L1_GROW_WRITE_TABLE);
	ret = meta_write_words(m, w->l1, w->entries, host_off, err);
	if (ret == 0)
		ret = meta_guard_add(&m->engine->guard, META_REGION_L1, host_off, len, err);
	if (ret < 0)
		return ret;
	ret = switch_header(m, host_off, w->entries, err);
	if (ret < 0) {
		meta_guard_remove(&m->engine->guard, META_REGION_L1, host_off, len);
		return ret;
	}
	adopt(m, w);
	meta_table_free(m, META_REGION_L1, old_off, old_len);
	return 0;
}

int meta_l1_grow(struct meta *m, uint64_t entries, struct qcow2_error *err)
{
	uint64_t n = div_ceil(entries * LAYOUT_L1_ENTRY_LEN, m->geometry.cluster_size);
	struct wider w = {.entries = (uint32_t)entries};
	struct meta_run run;
	int ret;

	if (entries <= m->l1_entries)
		return 0;
	if (entries > LAYOUT_L1_ENTRIES_MAX)
		return error_set(err, -EFBIG,
				 "an L1 table of %" PRIu64
				 " entries is more than the %u that the format allows",
				 entries, LAYOUT_L1_ENTRIES_MAX);
	storage_event(m->file, QCOW2_EVENT_L1_GROW_ALLOC_TABLE);
	ret = meta_take(m, n, LAYOUT_HOST_OFF_MAX, &run, err);
	if (ret < 0)
		return ret;
	/* its counts, and everything that would be lost with the old cache and table */
	ret = meta_commit_counts(m, err);
	if (ret == 0)
		ret = make_wider(m, &w, err);
	if (ret == 0)
		ret = move_l1(m, &w, &run, err);
	/* if the header may point to it, it stays taken */
	if (ret < 0 && meta_check_sound(m, NULL) == 0)
		meta_untake(m, &run);
	release_wider(&w);
	return ret;
}

void meta_l1_drop_tables(struct meta *m, uint64_t from, uint64_t to)
{
	to = min_u64(to, m->l1_entries);
	for (uint64_t idx = from; idx < to; idx++) {
		struct format_l1_entry l1 = format_l1_decode(&m->geometry, meta_l1_get(m, idx));

		if (l1.l2_off == 0 || l1.faults & FORMAT_FAULT_FATAL)
			continue;
		meta_l1_set(m, idx, 0, false);
		meta_guard_remove(&m->engine->guard, META_REGION_L2, l1.l2_off,
				  m->geometry.cluster_size);
		meta_drop(m, meta_cluster_of(m, l1.l2_off), 1, true);
	}
}

/* ---- everything from an entry on ---- */

static bool is_empty(const struct meta *m, uint32_t from, uint32_t to)
{
	while (from < to && meta_l1_get(m, from) == 0)
		from++;
	return from >= to;
}

/* What is read of tables is read from the file. */
static int write_tables(struct meta *m, struct qcow2_error *err)
{
	return meta_cache_ndirty(m->l2) > 0 ? meta_commit(m, false, err) : 0;
}

int meta_l1_look(struct meta *m, uint64_t from, uint64_t to, struct qcow2_error *err)
{
	uint32_t end = (uint32_t)min_u64(to, m->l1_entries);
	uint32_t first = (uint32_t)min_u64(from, end);
	int ret = is_empty(m, first, end) ? 0 : write_tables(m, err);

	if (ret == 0)
		ret = meta_walk_look(m, m->l1 + first, end - first, err);
	return ret == -EUCLEAN ? meta_mark_corrupt(m, err) : ret;
}

int meta_l1_take_out(struct meta *m, uint64_t from, uint64_t to, struct meta_l1_part *part,
		     struct qcow2_error *err)
{
	uint32_t end = (uint32_t)min_u64(to, m->l1_entries);
	uint32_t first = (uint32_t)min_u64(from, end);

	*part = (struct meta_l1_part){.first = first, .n = end - first};
	if (is_empty(m, first, end))
		return 0;
	part->raw = mem_alloc(part->n, sizeof(*part->raw));
	if (!part->raw)
		return error_errno(err, -ENOMEM, "can't drop tables");
	for (uint32_t i = 0; i < part->n; i++) {
		part->raw[i] = meta_l1_get(m, first + i);
		if (part->raw[i] != 0)
			meta_l1_set(m, first + i, 0, false);
	}
	return 0;
}

void meta_l1_put_back(struct meta *m, struct meta_l1_part *part)
{
	for (uint32_t i = 0; part->raw && i < part->n; i++) {
		if (part->raw[i] != 0)
			meta_l1_set(m, part->first + i, part->raw[i], false);
	}
	mem_free(mem_steal(&part->raw));
}

static void forget_tables(struct meta *m, const struct meta_l1_part *part)
{
	for (uint32_t i = 0; i < part->n; i++) {
		struct format_l1_entry l1 = format_l1_decode(&m->geometry, part->raw[i]);

		if (l1.l2_off == 0 || l1.faults & FORMAT_FAULT_FATAL)
			continue;
		meta_guard_remove(&m->engine->guard, META_REGION_L2, l1.l2_off,
				  m->geometry.cluster_size);
	}
}

int meta_l1_let_go(struct meta *m, struct meta_l1_part *part, struct meta_freed_list *later,
		   struct qcow2_error *err)
{
	int ret = 0;

	if (part->raw && meta_check_sound(m, NULL) == 0) {
		forget_tables(m, part);
		ret = meta_walk_drop(m, part->raw, part->n, later, err);
		atomic_store(&m->engine->ever_freed, true);
	}
	mem_free(mem_steal(&part->raw));
	return ret;
}

int meta_l1_cut(struct meta *m, uint64_t from, struct qcow2_error *err)
{
	struct meta_l1_part part = {0};
	int ret = write_tables(m, err);

	if (ret == 0)
		ret = meta_l1_take_out(m, from, m->l1_entries, &part, err);
	if (ret < 0 || !part.raw)
		return ret;
	ret = meta_commit(m, true, err);
	if (ret < 0) {
		meta_l1_put_back(m, &part);
		return ret;
	}
	forget_tables(m, &part);
	/* nothing points to them any more: an error from here on only leaks */
	(void)meta_walk_lower(m, part.raw, part.n, NULL);
	atomic_store(&m->engine->ever_freed, true);
	mem_free(part.raw);
	return 0;
}
