/* SPDX-License-Identifier: MIT */
/*
 * Zero clusters of all L2 tables become what version 2 can say: without a backing file nothing at
 * all, else clusters that are filled with zeros. The gate is closed and everything committed; the
 * dirty bit excuses counts.
 *
 * A table that several L1 entries point to is changed once, in place, for all of them: what it
 * reads as stays. A cluster that it points to has as many references from it as the table itself
 * has. One that has more is somebody else's data as well, and isn't filled but replaced.
 *
 * Zeros, and counts, are durable before the tables are written that point to them.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/hashset.h"
#include "base/num.h"
#include "format/entry.h"
#include "meta/amend.h"

#define PENDING_BYTES (4u << 20) /* tables that wait for the barrier together */
#define PENDING_MAX 64

struct pending {
	uint64_t table_off;
	uint8_t *bytes;
};

struct expand {
	struct meta *m;
	const struct meta_watch *watch;
	struct meta_zeros *zeros; /* to count, or NULL: to change */
	struct hashset seen;	  /* offsets of tables */
	bool has_backing;
	struct pending pending[PENDING_MAX];
	size_t npending, most;
	struct meta_freed_list replaced; /* what pending tables stop pointing to */
	bool let_go;			 /* something was replaced */
	/* of the present table */
	uint8_t *bytes;
	uint64_t refs;
	bool changed;
};

static struct format_l2_entry entry_at(const struct expand *x, uint32_t idx)
{
	const struct format_geometry *g = &x->m->geometry;
	const uint8_t *p = x->bytes + (size_t)idx * g->l2_entry_len;

	return format_l2_decode(g, load_be64(p), g->extended_l2 ? load_be64(p + 8) : 0);
}

/* ---- counting ---- */

static int count_entry(struct expand *x, const struct format_l2_entry *e, uint64_t table_off,
		       uint32_t idx, struct qcow2_error *err)
{
	if (e->faults & FORMAT_FAULT_FATAL)
		return error_set_at(err, -EUCLEAN, QCOW2_NO_OFFSET, table_off,
				    "entry %" PRIu32 " of the L2 table at 0x%" PRIx64 " has %s",
				    idx, table_off,
				    format_fault_text(e->faults & FORMAT_FAULT_FATAL));
	x->zeros->compressed += e->kind == FORMAT_CLUSTER_COMPRESSED;
	if (e->kind == FORMAT_CLUSTER_ZERO_PLAIN && !x->has_backing)
		x->zeros->emptied++;
	else if (e->kind == FORMAT_CLUSTER_ZERO_PLAIN || e->kind == FORMAT_CLUSTER_ZERO_ALLOCATED)
		x->zeros->filled++;
	return 0;
}

static int count_table(struct expand *x, uint64_t table_off, struct qcow2_error *err)
{
	uint64_t before = x->zeros->emptied + x->zeros->filled;
	int ret = 0;

	x->zeros->tables++;
	for (uint32_t i = 0; i < x->m->geometry.l2_entries && ret == 0; i++) {
		struct format_l2_entry e = entry_at(x, i);

		ret = count_entry(x, &e, table_off, i, err);
	}
	x->zeros->changed_tables += x->zeros->emptied + x->zeros->filled != before;
	return ret;
}

/* ---- changing ---- */

static void set_entry(struct expand *x, uint32_t idx, uint64_t raw)
{
	store_be64(x->bytes + (size_t)idx * x->m->geometry.l2_entry_len, raw);
	x->changed = true;
}

static int write_zeros(struct expand *x, uint64_t host_off, uint64_t len_bytes,
		       struct qcow2_error *err)
{
	int ret = meta_guard_check(x->m, host_off, len_bytes, META_REGION_NONE, err);

	return ret == 0 ? storage_zero(x->m->file, host_off, len_bytes, 0, err) : ret;
}

/* New clusters with zeros for n entries. */
static int fill_new(struct expand *x, uint32_t idx, uint32_t n, struct qcow2_error *err)
{
	struct meta *m = x->m;
	struct meta_run run;
	uint64_t raised;
	int ret = meta_take(m, n, LAYOUT_HOST_OFF_MAX, &run, err);

	if (ret < 0)
		return ret;
	for (raised = 1; raised < x->refs && ret == 0; raised += ret == 0)
		ret = meta_refs_raise(m, run.first, n, err);
	if (ret == 0)
		ret = write_zeros(x, meta_off_of(m, run.first),
				  (uint64_t)n << m->geometry.cluster_bits, err);
	if (ret < 0) {
		while (--raised > 0)
			(void)meta_refs_lower(m, run.first, n, NULL, NULL, NULL);
		meta_untake(m, &run);
		return ret;
	}
	for (uint32_t i = 0; i < n; i++)
		set_entry(x, idx + i,
			  format_l2_encode_normal(meta_off_of(m, run.first + i), x->refs == 1));
	return 0;
}

/* A cluster that has its place already. */
static int fill_own(struct expand *x, uint32_t idx, uint64_t host_off, struct qcow2_error *err)
{
	struct meta *m = x->m;
	uint64_t cluster = meta_cluster_of(m, host_off), count;
	int ret = meta_refs_get(m, cluster, &count, err);

	if (ret < 0)
		return ret;
	if (count <= x->refs) {
		ret = write_zeros(x, host_off, m->geometry.cluster_size, err);
		if (ret == 0)
			set_entry(x, idx, format_l2_encode_normal(host_off, x->refs == 1));
		return ret;
	}
	if (meta_freed_reserve(&x->replaced, 1) < 0)
		return error_errno(err, -ENOMEM, "can't go through the L2 tables");
	ret = fill_new(x, idx, 1, err);
	if (ret == 0)
		x->replaced.list[x->replaced.count++] =
			(struct meta_freed){.first = cluster, .nclusters = x->refs};
	return ret;
}

/* How many plain zeros follow each other from idx on. */
static uint32_t count_plain(const struct expand *x, uint32_t idx)
{
	uint32_t n = 0;

	while (idx + n < x->m->geometry.l2_entries &&
	       entry_at(x, idx + n).kind == FORMAT_CLUSTER_ZERO_PLAIN)
		n++;
	return n;
}

static int change_table(struct expand *x, uint64_t table_off, struct qcow2_error *err)
{
	int ret = meta_refs_get(x->m, meta_cluster_of(x->m, table_off), &x->refs, err);
	uint32_t n;

	for (uint32_t i = 0; i < x->m->geometry.l2_entries && ret == 0; i += n) {
		struct format_l2_entry e = entry_at(x, i);

		n = 1;
		if (e.kind == FORMAT_CLUSTER_ZERO_ALLOCATED) {
			ret = fill_own(x, i, e.host_off, err);
		} else if (e.kind == FORMAT_CLUSTER_ZERO_PLAIN && x->has_backing) {
			n = count_plain(x, i);
			ret = fill_new(x, i, n, err);
		} else if (e.kind == FORMAT_CLUSTER_ZERO_PLAIN) {
			set_entry(x, i, 0);
		}
	}
	return ret;
}

/* What tables point to is durable; then they are. */
static int write_pending(struct expand *x, struct qcow2_error *err)
{
	const uint64_t cs = x->m->geometry.cluster_size;
	int ret = x->npending > 0 && !META_BROKEN(1) ? meta_commit_counts(x->m, err) : 0;

	for (size_t i = 0; i < x->npending; i++) {
		if (ret == 0)
			ret = storage_write(x->m->file, x->pending[i].bytes, (size_t)cs,
					    x->pending[i].table_off, err);
		meta_cache_forget(x->m->l2, x->pending[i].table_off, cs);
		mem_free(x->pending[i].bytes);
	}
	/* rule 3: not before; after a failure they stay counted */
	for (size_t i = 0; ret == 0 && i < x->replaced.count; i++) {
		for (uint64_t n = 0; n < x->replaced.list[i].nclusters; n++)
			meta_drop(x->m, x->replaced.list[i].first, 1, false);
	}
	x->let_go = x->let_go || x->replaced.count > 0;
	x->replaced.count = 0;
	x->npending = 0;
	return ret;
}

static int expand_table(struct expand *x, uint64_t table_off, struct qcow2_error *err)
{
	int ret;

	x->changed = false;
	ret = change_table(x, table_off, err);
	if (x->changed) /* also a part: what it points to has been counted */
		x->pending[x->npending++] = (struct pending){table_off, mem_steal(&x->bytes)};
	return ret == 0 && x->npending == x->most ? write_pending(x, err) : ret;
}

/* ---- all tables ---- */

static int visit_table(struct expand *x, uint64_t table_off, struct qcow2_error *err)
{
	const uint64_t cs = x->m->geometry.cluster_size;
	int ret;

	if (hashset_has(&x->seen, table_off))
		return 0;
	if (!x->bytes)
		x->bytes = mem_aligned(4096, cs);
	if (!x->bytes || hashset_add(&x->seen, table_off) < 0)
		return error_errno(err, -ENOMEM, "can't go through the L2 tables");
	ret = storage_read(x->m->file, x->bytes, (size_t)cs, table_off, err);
	if (ret == 0)
		ret = x->zeros ? count_table(x, table_off, err) : expand_table(x, table_off, err);
	return ret == 0 ? meta_watch_step(x->watch, cs, err) : ret;
}

static int visit_l1(struct expand *x, const uint64_t *l1, uint32_t entries, struct qcow2_error *err)
{
	int ret = 0;

	for (uint32_t i = 0; i < entries && ret == 0; i++) {
		struct format_l1_entry e = format_l1_decode(&x->m->geometry, l1[i]);

		if (e.faults & FORMAT_FAULT_FATAL)
			ret = error_set_at(err, -EUCLEAN, QCOW2_NO_OFFSET, e.l2_off,
					   "L1 entry %" PRIu32 " points to 0x%" PRIx64
					   ", which isn't a cluster's start",
					   i, e.l2_off);
		else if (e.l2_off != 0)
			ret = visit_table(x, e.l2_off, err);
	}
	return ret;
}

static int visit_all(struct expand *x, const struct meta_snapshots *s, struct qcow2_error *err)
{
	struct meta *m = x->m;
	int ret = hashset_init(&x->seen), last;

	if (ret < 0)
		return error_errno(err, ret, "can't go through the L2 tables");
	x->has_backing = m->header.backing_name != NULL;
	x->most =
		(size_t)min_u64(PENDING_MAX, max_u64(1, PENDING_BYTES / m->geometry.cluster_size));
	ret = visit_l1(x, m->l1, m->l1_entries, err);
	for (size_t i = 0; i < s->count && ret == 0; i++) {
		cleanup_free uint64_t *l1 = NULL;

		ret = meta_snapshot_read_l1(m, &s->list[i], &l1, err);
		if (ret == 0)
			ret = visit_l1(x, l1, s->list[i].l1_entries, err);
	}
	/* what was done before a failure stays */
	last = write_pending(x, ret == 0 ? err : NULL);
	mem_free(x->bytes);
	mem_free(x->replaced.list);
	hashset_release(&x->seen);
	return ret == 0 ? last : ret;
}

int meta_zeros_survey(struct meta *m, const struct meta_snapshots *s, struct meta_zeros *zeros,
		      struct qcow2_error *err)
{
	struct expand x = {.m = m, .zeros = zeros};
	int ret;

	*zeros = (struct meta_zeros){0};
	ret = meta_commit_counts(m, err); /* what is read is the file */
	return ret == 0 ? visit_all(&x, s, err) : ret;
}

int meta_zeros_expand(struct meta *m, const struct meta_snapshots *s,
		      const struct meta_watch *watch, struct qcow2_error *err)
{
	struct expand x = {.m = m, .watch = watch};
	int ret = meta_commit_counts(m, err);

	if (ret < 0)
		return ret;
	meta_reap(m, true);
	ret = meta_dirty_set(m, err);
	if (ret < 0)
		return ret;
	ret = visit_all(&x, s, err);
	if (meta_check_sound(m, NULL) == 0 && x.let_go) {
		if (meta_commit_counts(m, NULL) == 0)
			meta_reap(m, true);
		/* a cluster that lost a reference may be somebody's alone now */
		(void)meta_refresh_copied(m, NULL);
	}
	return ret == 0 ? meta_commit_counts(m, err) : ret;
}
