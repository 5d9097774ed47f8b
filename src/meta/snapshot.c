/* SPDX-License-Identifier: MIT */
/*
 * Taking, applying and deleting internal snapshots: section 12 of the reference; and emptying the
 * disk, which is the same as applying one that is empty. The gate is closed.
 *
 * Each is one write to the header, of 24 bytes at most (rule 7): before it nothing of the snapshot
 * counts, after it all does. What refcounts and COPIED flags say in between is excused by the dirty
 * bit in version 3, so that a crash leaves an image that is repaired when it is opened. Version 2
 * has no such bit: there the order leaves counts that are too high and flags that are missing,
 * neither of which does harm.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"
#include "meta/engine.h"

/* ---- the snapshot table ---- */

static uint64_t table_len(const struct meta_snapshots *s)
{
	uint64_t len = 0;

	for (size_t i = 0; i < s->count; i++)
		len = align_up(len, 8) + format_snapshot_encoded_len(&s->list[i]);
	return len;
}

static int write_records(struct meta *m, const struct meta_snapshots *s, uint64_t host_off,
			 uint64_t len, struct qcow2_error *err)
{
	cleanup_free uint8_t *bytes = mem_zalloc(1, len);
	uint64_t pos = 0;

	if (!bytes)
		return error_errno(err, -ENOMEM, "can't write the snapshot table");
	for (size_t i = 0; i < s->count; i++) {
		pos = align_up(pos, 8);
		format_snapshot_encode(&s->list[i], bytes + pos);
		s->host_off[i] = host_off + pos;
		pos += format_snapshot_encoded_len(&s->list[i]);
	}
	return storage_write(m->file, bytes, (size_t)len, host_off, err);
}

/* Writes the list as the new table and makes it the one. old_len: of the present table. */
int meta_snapshots_rewrite(struct meta *m, const struct meta_snapshots *s, uint64_t old_len,
			   struct qcow2_error *err)
{
	const uint64_t len = table_len(s);
	uint64_t old_off = m->header.snapshots_off;
	struct meta_run run = {0};
	uint64_t off = 0;
	int ret = 0;

	if (len > LAYOUT_SNAPSHOT_TABLE_BYTES_MAX)
		return error_set(err, -EFBIG,
				 "the snapshot table would have %" PRIu64
				 " bytes, more than the %u allowed",
				 len, LAYOUT_SNAPSHOT_TABLE_BYTES_MAX);
	if (len > 0)
		ret = meta_take(m, div_ceil(len, m->geometry.cluster_size), LAYOUT_HOST_OFF_MAX,
				&run, err);
	if (ret < 0)
		return ret;
	if (len > 0) {
		off = meta_off_of(m, run.first);
		ret = write_records(m, s, off, len, err);
	}
	if (ret == 0 && len > 0)
		ret = meta_guard_add(&m->engine->guard, META_REGION_SNAPSHOTS, off, len, err);
	if (ret == 0) /* counts, flags and the table itself: the barrier before the switch */
		ret = meta_commit_counts(m, err);
	if (ret < 0) {
		meta_untake(m, &run);
		meta_guard_remove(&m->engine->guard, META_REGION_SNAPSHOTS, off, len);
		return ret;
	}
	ret = meta_super_write_snapshots(m, (uint32_t)s->count, off, err);
	if (ret < 0)
		return meta_header_unknown(m, ret, "snapshot table");
	ret = meta_barrier(m, err);
	if (ret == 0)
		meta_table_free(m, META_REGION_SNAPSHOTS, old_off, old_len);
	return ret;
}

/* ---- around each ---- */

static int begin(struct meta *m, struct qcow2_error *err)
{
	int ret = meta_check_sound(m, err);

	if (ret == 0 && m->geometry.data_file)
		ret = error_set(err, -ENOTSUP,
				"an image with an external data file can't have snapshots");
	if (ret == 0) /* the file has all of the tables, the cache nothing that it hasn't */
		ret = meta_commit_counts(m, err);
	if (ret == 0) {
		meta_reap(m, true);
		ret = meta_dirty_set(m, err);
	}
	return ret;
}

/* Counts and flags fit each other again: durable, then without the dirty bit. */
static int end(struct meta *m, int ret, struct qcow2_error *err)
{
	int last;

	if (ret < 0)
		err = NULL; /* it has the reason already */
	last = meta_check_sound(m, err);
	if (last == 0)
		last = meta_commit_counts(m, err);
	if (last == 0 && !m->engine->lazy)
		last = meta_dirty_clear(m, err);
	return ret < 0 ? ret : last;
}

int meta_snapshot_read_l1(struct meta *m, const struct format_snapshot *s, uint64_t **l1,
			  struct qcow2_error *err)
{
	cleanup_free uint8_t *bytes = NULL;
	size_t got;
	int ret = meta_check_snapshot_l1(m, s, err);

	if (ret == 0)
		ret = meta_read_table(m, s->l1_off, (uint64_t)s->l1_entries * LAYOUT_L1_ENTRY_LEN,
				      &bytes, &got, err);
	if (ret < 0)
		return ret;
	*l1 = mem_zalloc(max_u64(s->l1_entries, 1), sizeof(**l1));
	if (!*l1)
		return error_errno(err, -ENOMEM, "can't read the L1 table of a snapshot");
	for (size_t i = 0; i < got / LAYOUT_L1_ENTRY_LEN; i++)
		(*l1)[i] = load_be64(bytes + i * LAYOUT_L1_ENTRY_LEN);
	return 0;
}

/* ---- create ---- */

static int copy_l1(struct meta *m, struct meta_run *run, struct qcow2_error *err)
{
	uint64_t len = (uint64_t)m->l1_entries * LAYOUT_L1_ENTRY_LEN;
	int ret;

	*run = (struct meta_run){0};
	if (len == 0)
		return 0;
	ret = meta_take(m, div_ceil(len, m->geometry.cluster_size), LAYOUT_HOST_OFF_MAX, run, err);
	if (ret < 0)
		return ret;
	ret = meta_write_words(m, m->l1, m->l1_entries, meta_off_of(m, run->first), err);
	if (ret < 0)
		meta_untake(m, run);
	return ret;
}

static void clear_l1_copied(struct meta *m)
{
	for (uint32_t i = 0; i < m->l1_entries; i++) {
		uint64_t raw = meta_l1_get(m, i);

		if (raw & LAYOUT_ENTRY_COPIED)
			meta_l1_set(m, i, raw & ~LAYOUT_ENTRY_COPIED, true);
	}
}

static int create(struct meta *m, struct meta_snapshots *s, struct qcow2_error *err)
{
	struct format_snapshot *snap = &s->list[s->count - 1];
	uint64_t len = (uint64_t)m->l1_entries * LAYOUT_L1_ENTRY_LEN;
	struct meta_run run;
	int ret = copy_l1(m, &run, err);

	if (ret < 0)
		return ret;
	meta_walk_expect(m, m->l1, m->l1_entries);
	snap->l1_off = meta_off_of(m, run.first);
	snap->l1_entries = m->l1_entries;
	ret = meta_guard_add(&m->engine->guard, META_REGION_INACTIVE_L1, snap->l1_off, len, err);
	if (ret == 0)
		ret = meta_walk_raise(m, m->l1, m->l1_entries, true, err);
	if (ret < 0) {
		(void)meta_refresh_copied(m, NULL);
		meta_guard_remove(&m->engine->guard, META_REGION_INACTIVE_L1, snap->l1_off, len);
		meta_untake(m, &run);
		return ret;
	}
	clear_l1_copied(m);
	ret = meta_snapshots_rewrite(m, s, meta_snapshots_len(s, s->count - 1), err);
	/* the VM state is the snapshot's now; if that fails the disk has it too: no harm */
	if (ret == 0 && snap->vm_state_bytes > 0)
		(void)meta_l1_cut(m, format_l1_index(&m->geometry, m->state_off), NULL);
	if (ret < 0 && meta_check_sound(m, NULL) == 0) {
		(void)meta_walk_lower(m, m->l1, m->l1_entries, NULL);
		(void)meta_refresh_copied(m, NULL);
		meta_guard_remove(&m->engine->guard, META_REGION_INACTIVE_L1, snap->l1_off, len);
		meta_untake(m, &run);
	}
	return ret;
}

int meta_snapshot_create(struct meta *m, struct meta_snapshots *s, struct qcow2_error *err)
{
	int ret = begin(m, err);

	if (ret == 0)
		ret = create(m, s, err);
	return end(m, ret, err);
}

/* ---- delete ---- */

int meta_snapshot_delete(struct meta *m, struct meta_snapshots *s, size_t idx,
			 struct qcow2_error *err)
{
	uint64_t old_len = meta_snapshots_len(s, s->count);
	struct format_snapshot gone = s->list[idx];
	uint64_t *l1 = NULL;
	int ret = begin(m, err);

	if (ret < 0)
		return ret;
	ret = meta_snapshot_read_l1(m, &gone, &l1, err);
	if (ret < 0) /* nothing is known of what it holds */
		return end(m, ret, err);
	meta_walk_expect(m, l1, gone.l1_entries);
	meta_walk_expect(m, m->l1, m->l1_entries);
	memmove(&s->list[idx], &s->list[idx + 1], (s->count - idx - 1) * sizeof(s->list[0]));
	s->count--;
	ret = meta_snapshots_rewrite(m, s, old_len, err);
	if (ret == 0) {
		/* an error from here on only leaks; the repair at the next opening finds it */
		if (meta_walk_lower(m, l1, gone.l1_entries, NULL) == 0)
			meta_table_free(m, META_REGION_INACTIVE_L1, gone.l1_off,
					(uint64_t)gone.l1_entries * LAYOUT_L1_ENTRY_LEN);
		(void)meta_refresh_copied(m, NULL);
		format_snapshot_release(&gone);
	} else {
		memmove(&s->list[idx + 1], &s->list[idx], (s->count - idx) * sizeof(s->list[0]));
		s->list[idx] = gone;
		s->count++;
	}
	mem_free(l1);
	return end(m, ret, err);
}

/* ---- apply ---- */

/* The tables that are active now instead of those before. */
static int guard_tables(struct meta *m, const uint64_t *l1, uint32_t entries, bool add,
			struct qcow2_error *err)
{
	int ret = 0;

	for (uint32_t i = 0; i < entries && ret == 0; i++) {
		struct format_l1_entry e = format_l1_decode(&m->geometry, l1[i]);

		if (e.l2_off == 0 || e.faults & FORMAT_FAULT_FATAL)
			continue;
		if (add)
			ret = meta_guard_add(&m->engine->guard, META_REGION_L2, e.l2_off,
					     m->geometry.cluster_size, err);
		else
			meta_guard_remove(&m->engine->guard, META_REGION_L2, e.l2_off,
					  m->geometry.cluster_size);
	}
	return ret;
}

/* A new active L1 table with the snapshot's entries, at least as large as the present one. */
static int switch_disk(struct meta *m, uint64_t *l1, uint32_t entries, uint64_t size_bytes,
		       struct qcow2_error *err)
{
	uint64_t len = (uint64_t)entries * LAYOUT_L1_ENTRY_LEN;
	uint64_t old_off = m->header.l1_off;
	uint64_t old_len = (uint64_t)m->header.l1_entries * LAYOUT_L1_ENTRY_LEN;
	struct meta_run run;
	uint64_t off;
	int ret = meta_take(m, div_ceil(len, m->geometry.cluster_size), LAYOUT_HOST_OFF_MAX, &run,
			    err);

	if (ret < 0)
		return ret;
	off = meta_off_of(m, run.first);
	ret = meta_write_words(m, l1, entries, off, err);
	if (ret == 0)
		ret = meta_guard_add(&m->engine->guard, META_REGION_L1, off, len, err);
	if (ret == 0)
		ret = meta_commit_counts(m, err);
	if (ret < 0) {
		meta_guard_remove(&m->engine->guard, META_REGION_L1, off, len);
		meta_untake(m, &run);
		return ret;
	}
	ret = meta_super_write_disk(m, size_bytes, off, entries, err);
	if (ret < 0)
		return meta_header_unknown(m, ret, "L1 table");
	ret = meta_barrier(m, err);
	if (ret == 0)
		meta_table_free(m, META_REGION_L1, old_off, old_len);
	return ret;
}

/* The entries that one of two L1 tables has and the other hasn't, at their places; else 0. */
struct differ {
	uint64_t *gone, *come;
};

static int find_differ(const uint64_t *old, const uint64_t *new, uint32_t entries, struct differ *d,
		       struct qcow2_error *err)
{
	d->gone = mem_zalloc(entries, sizeof(*d->gone));
	d->come = mem_zalloc(entries, sizeof(*d->come));
	if (!d->gone || !d->come)
		return error_errno(err, -ENOMEM, "can't apply a snapshot");
	for (uint32_t i = 0; i < entries; i++) {
		if (((old[i] ^ new[i]) & ~LAYOUT_ENTRY_COPIED) == 0)
			continue;
		d->gone[i] = old[i];
		d->come[i] = new[i];
	}
	return 0;
}

static int become(struct meta *m, uint64_t **l1, uint64_t size_bytes, const struct differ *d,
		  struct qcow2_error *err)
{
	const uint32_t entries = m->l1_entries;
	uint64_t *old = m->l1;
	int ret;

	meta_walk_expect(m, d->come, entries);
	meta_walk_expect(m, d->gone, entries);
	ret = meta_walk_raise(m, d->come, entries, true, err);
	if (ret < 0) {
		(void)meta_refresh_copied(m, NULL);
		return ret;
	}
	for (uint32_t i = 0; i < entries; i++)
		(*l1)[i] &= ~LAYOUT_ENTRY_COPIED;
	ret = switch_disk(m, *l1, entries, size_bytes, err);
	if (ret < 0) {
		if (meta_check_sound(m, NULL) == 0) {
			(void)meta_walk_lower(m, d->come, entries, NULL);
			(void)meta_refresh_copied(m, NULL);
		}
		return ret;
	}
	/* who gives clusters away is outside the gate, and may have to commit for room in a cache
	 */
	meta_slot_take(&m->engine->order.commit);
	m->l1 = *l1;
	meta_slot_leave(&m->engine->order.commit);
	*l1 = old;
	(void)guard_tables(m, d->gone, entries, false, NULL);
	ret = guard_tables(m, d->come, entries, true, err);
	(void)meta_walk_lower(m, d->gone, entries, NULL);
	return ret;
}

/*
 * l1 is of m->l1_entries, and m's from now on; the old one is the caller's.
 *
 * Tables that both have lose one reference and get one: they and what they point to stay as they
 * are. What is active afterwards is the snapshot's too, all of it, so that no COPIED flag is set.
 */
static int apply(struct meta *m, uint64_t **l1, uint64_t size_bytes, struct qcow2_error *err)
{
	struct differ d = {0};
	int ret = find_differ(m->l1, *l1, m->l1_entries, &d, err);

	if (ret == 0)
		ret = become(m, l1, size_bytes, &d, err);
	mem_free(d.gone);
	mem_free(d.come);
	return ret;
}

int meta_snapshot_apply(struct meta *m, const struct format_snapshot *snap, uint64_t size_bytes,
			struct qcow2_error *err)
{
	uint64_t *l1 = NULL;
	uint64_t *wide;
	int ret = begin(m, err);

	if (ret < 0)
		return ret;
	ret = meta_l1_grow(
		m, max_u64(snap->l1_entries, format_size_to_l1(&m->geometry, size_bytes)), err);
	if (ret == 0)
		ret = meta_snapshot_read_l1(m, snap, &l1, err);
	if (ret == 0 && m->l1_entries > 0) {
		wide = mem_realloc(l1, m->l1_entries, sizeof(*l1));
		if (wide) {
			l1 = wide;
			for (uint32_t i = snap->l1_entries; i < m->l1_entries; i++)
				l1[i] = 0;
			ret = apply(m, &l1, size_bytes, err);
		} else {
			ret = error_errno(err, -ENOMEM, "can't apply a snapshot");
		}
	}
	mem_free(l1);
	return end(m, ret, err);
}

/* ---- nothing at all ---- */

/* Like a snapshot with nothing in it. */
int meta_make_empty(struct meta *m, struct qcow2_error *err)
{
	uint64_t *l1 = NULL;
	int ret = begin(m, err);

	if (ret < 0)
		return ret;
	if (m->l1_entries > 0) {
		l1 = mem_zalloc(m->l1_entries, sizeof(*l1));
		ret = l1 ? apply(m, &l1, m->size_bytes, err)
			 : error_errno(err, -ENOMEM, "can't empty the image");
	}
	mem_free(l1);
	return end(m, ret, err);
}
