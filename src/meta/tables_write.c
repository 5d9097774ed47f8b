/* SPDX-License-Identifier: MIT */
/*
 * L2 tables of an image in use: reading and setting entries, making tables and making shared ones
 * our own. Setting an entry changes memory only; order.c brings it to the file.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"
#include "meta/engine.h"

static int bad_l1(struct meta *m, uint64_t guest_off, uint64_t l2_off, struct qcow2_error *err)
{
	error_set_at(err, -EUCLEAN, guest_off, l2_off,
		     "the L1 entry for guest offset 0x%" PRIx64 " points to 0x%" PRIx64
		     ", which isn't a cluster's start",
		     guest_off, l2_off);
	return meta_mark_corrupt(m, err);
}

/* The L1 entry of guest_off, if it can be used. */
static int find_table(struct meta *m, uint64_t guest_off, struct format_l1_entry *l1,
		      struct qcow2_error *err)
{
	uint64_t idx = format_l1_index(&m->geometry, guest_off);

	*l1 = format_l1_decode(&m->geometry, meta_l1_get(m, idx));
	return l1->faults & FORMAT_FAULT_FATAL ? bad_l1(m, guest_off, l1->l2_off, err) : 0;
}

/* The slice of table l2_off with the entry of guest_off, and where in it that is. */
static int get_slice(struct meta *m, uint64_t guest_off, uint64_t l2_off, bool to_change,
		     struct meta_slice *slice, unsigned *idx, struct qcow2_error *err)
{
	uint32_t in_table = format_l2_index(&m->geometry, guest_off);
	uint32_t first = (uint32_t)align_down(in_table, m->slice_entries);
	uint64_t off = l2_off + (uint64_t)first * m->geometry.l2_entry_len;
	int ret = to_change ? meta_cache_get_way(m->l2, off, slice, err)
			    : meta_cache_get(m->l2, off, slice, err);

	*idx = in_table - first;
	if (ret < 0)
		error_prefix(err, "can't read the L2 table at 0x%" PRIx64, l2_off);
	return ret;
}

static void load_entries(const struct meta *m, const struct meta_slice *slice, unsigned idx,
			 struct meta_entry *e, unsigned n)
{
	const uint32_t len = m->geometry.l2_entry_len;
	uint32_t seq;

	do {
		seq = meta_slice_begin(slice);
		for (unsigned i = 0; i < n; i++) {
			const uint8_t *p = slice->bytes + (size_t)(idx + i) * len;

			e[i].raw = load_be64_acquire(p);
			e[i].bitmap = m->geometry.extended_l2 ? load_be64_acquire(p + 8) : 0;
		}
	} while (meta_slice_changed(slice, seq));
}

int meta_entries_get(struct meta *m, uint64_t guest_off, struct meta_entry *e, unsigned max,
		     unsigned *n, struct qcow2_error *err)
{
	unsigned idx = format_l2_index(&m->geometry, guest_off) & (m->slice_entries - 1);
	struct format_l1_entry l1;
	struct meta_slice slice;
	int ret = find_table(m, guest_off, &l1, err);

	*n = (unsigned)min_u64(max, m->slice_entries - idx);
	if (ret == 0 && l1.l2_off == 0) {
		for (unsigned i = 0; i < *n; i++)
			e[i] = (struct meta_entry){0};
		return 0;
	}
	if (ret == 0)
		ret = get_slice(m, guest_off, l1.l2_off, false, &slice, &idx, err);
	if (ret < 0)
		return ret;
	load_entries(m, &slice, idx, e, *n);
	meta_cache_put(m->l2, &slice);
	return 0;
}

int meta_entries_set(struct meta *m, uint64_t guest_off, const struct meta_entry *e, unsigned n,
		     bool depends, struct qcow2_error *err)
{
	const uint32_t len = m->geometry.l2_entry_len;
	struct format_l1_entry l1;
	struct meta_slice slice;
	uint8_t *bytes;
	unsigned idx = 0;
	int ret = find_table(m, guest_off, &l1, err);

	if (ret == 0)
		ret = get_slice(m, guest_off, l1.l2_off, true, &slice, &idx, err);
	if (ret < 0)
		return ret;
	if (depends)
		atomic_fetch_add(&m->engine->order.depends, 1);
	meta_cache_lock(m->l2);
	bytes = meta_cache_change_locked(m->l2, &slice);
	for (unsigned i = 0; i < n; i++) {
		uint8_t *p = bytes + (size_t)(idx + i) * len;

		store_be64_release(p, e[i].raw);
		if (m->geometry.extended_l2)
			store_be64_release(p + 8, e[i].bitmap);
	}
	meta_cache_changed_locked(m->l2, &slice);
	meta_cache_unlock(m->l2);
	meta_cache_put(m->l2, &slice);
	return 0;
}

/* ---- making tables ---- */

/* Rule 5: what the table says before any of its entries is set. */
static int write_first_state(struct meta *m, const struct meta_run *run, uint64_t old_off,
			     struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	cleanup_free uint8_t *table = NULL;
	int ret;

	if (META_BROKEN(5))
		return 0;
	storage_event(m->file, QCOW2_EVENT_L2_ALLOC_WRITE);
	if (old_off == 0) {
		ret = run->fresh ? meta_reserve(m, run, err)
				 : storage_zero(m->file, meta_off_of(m, run->first), cs, 0, err);
		/* not of a copy: a commit beside us might write over its last sector */
		if (ret == 0)
			meta_need_end(m, meta_off_of(m, run->first) + cs);
		return ret;
	}
	table = mem_alloc(cs, 1);
	if (!table)
		return error_errno(err, -ENOMEM, "can't copy an L2 table");
	/* a table that isn't ours alone has never been changed by us: the file has all of it */
	ret = storage_read(m->file, table, (size_t)cs, old_off, err);
	if (ret == 0)
		ret = storage_write(m->file, table, (size_t)cs, meta_off_of(m, run->first), err);
	return ret;
}

static int make_table(struct meta *m, uint64_t guest_off, uint64_t old_off, struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	struct meta_run run;
	uint64_t off;
	int ret = meta_take(m, 1, LAYOUT_HOST_OFF_MAX, &run, err);

	if (ret < 0)
		return ret;
	off = meta_off_of(m, run.first);
	meta_cache_forget(m->l2, off, cs);
	ret = write_first_state(m, &run, old_off, err);
	if (ret == 0)
		ret = meta_guard_add(&m->engine->guard, META_REGION_L2, off, cs, err);
	if (ret < 0) {
		meta_untake(m, &run);
		return ret;
	}
	meta_l1_set(m, format_l1_index(&m->geometry, guest_off), format_l1_encode(off, true), true);
	if (old_off != 0) {
		meta_guard_remove(&m->engine->guard, META_REGION_L2, old_off, cs);
		meta_drop(m, meta_cluster_of(m, old_off), 1,
			  m->engine->pass_discard & QCOW2_PASS_OTHER);
	}
	return 0;
}

int meta_table_ensure(struct meta *m, uint64_t guest_off, struct qcow2_error *err)
{
	struct format_l1_entry l1;
	int ret = find_table(m, guest_off, &l1, err);

	if (ret < 0 || (l1.l2_off != 0 && l1.copied))
		return ret;
	meta_slot_take(&m->engine->l1_slot);
	ret = find_table(m, guest_off, &l1, err); /* somebody may have been quicker */
	if (ret == 0 && !(l1.l2_off != 0 && l1.copied))
		ret = make_table(m, guest_off, l1.l2_off, err);
	meta_slot_leave(&m->engine->l1_slot);
	if (ret < 0)
		error_at_guest(err, guest_off);
	return ret;
}

/* One by one, as they go. */
static int guard_each(struct meta *m, uint64_t off, uint64_t n, struct qcow2_error *err)
{
	struct meta_guard *guard = &m->engine->guard;
	const uint64_t cs = m->geometry.cluster_size;
	uint64_t i = 0;
	int ret = 0;

	for (; i < n && ret == 0; i += ret == 0)
		ret = meta_guard_add(guard, META_REGION_L2, off + i * cs, cs, err);
	while (ret < 0 && i-- > 0)
		meta_guard_remove(guard, META_REGION_L2, off + i * cs, cs);
	return ret;
}

int meta_tables_enter(struct meta *m, uint64_t guest_off, const struct meta_run *tables,
		      const uint8_t *bytes, struct storage_trail *trail, struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size, len = tables->nclusters * cs;
	uint64_t off = meta_off_of(m, tables->first);
	uint64_t idx = format_l1_index(&m->geometry, guest_off);
	int ret;

	meta_cache_forget(m->l2, off, len);
	storage_event(m->file, QCOW2_EVENT_L2_ALLOC_WRITE);
	ret = storage_write(m->file, bytes, (size_t)len, off, err);
	if (ret == 0)
		ret = guard_each(m, off, tables->nclusters, err);
	if (ret < 0)
		return ret;
	storage_trail_add(trail, m->file, off, len);
	/* rule 5: entries and all, it is durable by barrier one */
	for (uint64_t i = 0; i < tables->nclusters; i++)
		meta_l1_set(m, idx + i, format_l1_encode(off + i * cs, true), !META_BROKEN(5));
	return 0;
}
