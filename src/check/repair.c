/* SPDX-License-Identifier: MIT */
/*
 * Repairs in place: refcounts in the blocks that there are, flags and stray bits in entries.
 *
 * What the references are follows from the tables alone, and nothing here changes what they refer
 * to. So whatever part of a repair has reached the disk, the same repair can begin again. Counts
 * are raised before anything relies on them; nothing is lowered, and no COPIED flag set, while
 * damage may hide references. A table that something else uses as well isn't written to: it may
 * be no table at all.
 */
#include <string.h>

#include "base/bytes.h"
#include "base/num.h"
#include "check/run.h"
#include "format/refbits.h"

/* ---- refcounts ----------------------------------------------------------------------------- */

static uint64_t mended_count(const struct check_run *run, bool raise, uint64_t stored,
			     uint64_t computed)
{
	if (computed > stored)
		return raise ? min_u64(computed, run->g.refcount_max) : stored;
	return run->result->hides_references ? stored : computed;
}

static int tell_pending(struct check_run *run)
{
	struct check_report *r = &run->mended;
	uint64_t any = r->nclusters;
	int ret = any > 0 ? check_told(run, r) : 0;

	r->nclusters = 0;
	return ret;
}

/* Neighbours with the same counts are told of together. */
static int tell_count(struct check_run *run, uint64_t cluster_idx, uint64_t stored, uint64_t count,
		      uint64_t computed)
{
	struct check_report *r = &run->mended;
	uint64_t off = check_cluster_off(run, cluster_idx);
	int ret;

	if (r->nclusters > 0 && r->stored == stored && r->computed == computed &&
	    r->kept == (count == stored) && off != QCOW2_NO_OFFSET &&
	    r->host_off + r->nclusters * run->g.cluster_size == off) {
		r->nclusters++;
		return 0;
	}
	ret = tell_pending(run);
	*r = check_blank(stored > computed ? CHECK_LEAK
			 : stored == 0	   ? CHECK_REFCOUNT_ZERO
					   : CHECK_REFCOUNT_LOW);
	r->host_off = off;
	r->stored = stored;
	r->computed = computed;
	r->repaired = count != stored;
	r->kept = count == stored;
	return ret;
}

static int mend_group(struct check_run *run, bool raise, uint64_t first, uint64_t idx,
		      bool *changed)
{
	uint32_t order = run->g.refcount_order;
	uint64_t group[COUNTS_CHUNK], stored, count, computed;
	bool any = counts_group(&run->counts, first, group);
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < COUNTS_CHUNK; i++) {
		computed = any ? group[i] : 0;
		stored = format_refcount_get(run->block, order, idx + i);
		if (stored == computed)
			continue;
		count = mended_count(run, raise, stored, computed);
		ret = tell_count(run, first + i, stored, count, computed);
		if (count == stored)
			continue;
		format_refcount_set(run->block, order, idx + i, count);
		*changed = true;
	}
	return ret;
}

static int mend_block(struct check_run *run, bool raise, uint64_t block_idx,
		      struct qcow2_error *err)
{
	const struct format_geometry *g = &run->g;
	uint64_t first = block_idx << g->refblock_bits, off = run->refblocks[block_idx];
	struct counts_span span;
	bool zeros, changed = false;
	int ret;

	if (!check_has_block(run, first))
		return 0;
	ret = check_read_cluster(run, off, run->block, &zeros, err);
	if (ret < 0)
		return ret;
	if (zeros) {
		if (!counts_next(&run->counts, first, first + g->refblock_entries, &span))
			return 0;
		memset(run->block, 0, (size_t)g->cluster_size);
	}
	for (uint64_t i = 0; ret == 0 && i < g->refblock_entries; i += COUNTS_CHUNK)
		ret = mend_group(run, raise, first + i, i, &changed);
	if (ret == 0)
		ret = tell_pending(run);
	if (ret != 0 || !changed)
		return ret;
	run->changed = true;
	return storage_write(run->file, run->block, (size_t)g->cluster_size, off, err);
}

int check_repair_counts(struct check_run *run, bool raise, struct qcow2_error *err)
{
	int ret = 0;

	for (uint64_t i = 0; ret == 0 && i < run->nrefblocks; i++)
		ret = mend_block(run, raise, i, err);
	check_stored_forget(run);
	return ret == 0 ? storage_flush(run->file, err) : ret;
}

/* ---- entries ------------------------------------------------------------------------------- */

struct mend {
	bool faults;
	bool active;	/* L1 entries of the active table */
	uint64_t times; /* how many L1 tables have the piece */
};

/* Is each cluster of the range used so many times, and for nothing else? */
static bool is_own(const struct check_run *run, uint64_t host_off, uint64_t len, uint64_t times)
{
	uint64_t last = (host_off + len - 1) >> run->g.cluster_bits;

	for (uint64_t i = host_off >> run->g.cluster_bits; i <= last; i++)
		if (counts_get(&run->counts, i) != times)
			return false;
	return true;
}

/* An entry on its way: what to say of it when it is changed. */
struct mended {
	uint64_t entry_off, index, guest_off;
};

static int tell_entry(struct check_run *run, enum check_finding finding, const struct mended *at,
		      uint64_t host_off, uint64_t raw, uint64_t count)
{
	struct check_report r = check_blank(finding);

	r.host_off = host_off;
	r.guest_off = at->guest_off;
	r.entry_off = at->entry_off;
	r.index = at->index;
	r.stored = raw;
	r.computed = count;
	r.repaired = true;
	return check_told(run, &r);
}

/* The flag by the count, where it may be changed. count: what is stored for the cluster. */
static int mend_copied(struct check_run *run, enum check_finding finding, const struct mended *at,
		       uint64_t host_off, uint64_t count, uint64_t *raw)
{
	bool copied = *raw & LAYOUT_ENTRY_COPIED;
	uint64_t old = *raw;

	if (copied == (count == 1) || (!copied && run->result->hides_references))
		return 0;
	*raw ^= LAYOUT_ENTRY_COPIED;
	run->copied_mended++;
	run->copied_wrong -= run->copied_wrong > 0;
	return tell_entry(run, finding, at, host_off, old, count);
}

static int mend_l1_entry(struct check_run *run, const struct mend *m, uint64_t entry_off,
			 uint64_t *raw, struct qcow2_error *err)
{
	struct format_l1_entry e = format_l1_decode(&run->g, *raw);
	struct mended at = {entry_off, QCOW2_NO_OFFSET, QCOW2_NO_OFFSET};
	uint64_t count;
	int ret = 0;

	if (m->active) {
		at.index = (entry_off - run->header.l1_off) / LAYOUT_L1_ENTRY_LEN;
		at.guest_off = at.index << (run->g.cluster_bits + run->g.l2_bits);
	}
	if (m->faults && (*raw & LAYOUT_L1_RESERVED_MASK)) {
		ret = tell_entry(run, CHECK_L1_RESERVED, &at, e.l2_off, *raw, 0);
		*raw &= ~LAYOUT_L1_RESERVED_MASK;
	}
	if (ret != 0 || !m->active || e.l2_off == 0 || (e.faults & FORMAT_FAULT_UNALIGNED))
		return ret;
	ret = check_stored_get(run, e.l2_off >> run->g.cluster_bits, &count, err);
	return ret == 0 ? mend_copied(run, CHECK_L1_COPIED, &at, e.l2_off, count, raw) : ret;
}

static int mend_l1_piece(struct check_run *run, void *opaque, uint64_t host_off, uint8_t *bytes,
			 size_t len, struct qcow2_error *err)
{
	const struct mend *m = opaque;
	size_t first = len, end = 0;
	uint64_t raw, old;
	int ret;

	if (!is_own(run, host_off, len, m->times))
		return 0;
	for (size_t i = 0; i + LAYOUT_L1_ENTRY_LEN <= len; i += LAYOUT_L1_ENTRY_LEN) {
		old = raw = load_be64(bytes + i);
		ret = mend_l1_entry(run, m, host_off + i, &raw, err);
		if (ret != 0)
			return ret;
		if (raw == old)
			continue;
		store_be64(bytes + i, raw);
		first = first < i ? first : i;
		end = i + LAYOUT_L1_ENTRY_LEN;
	}
	if (first >= end)
		return 0;
	run->changed = true;
	return storage_write(run->file, bytes + first, end - first, host_off + first, err);
}

static int mend_inactive_l1(struct check_run *run, uint64_t start, uint64_t end, uint64_t times,
			    struct qcow2_error *err)
{
	struct mend m = {.faults = true, .times = times};

	return check_read_range(run, start, end, mend_l1_piece, &m, err);
}

static int mend_compressed(struct check_run *run, const struct mended *at,
			   const struct format_l2_entry *e, uint64_t *raw, uint64_t *bitmap)
{
	uint64_t old = *raw;
	int ret = 0;

	if (*raw & LAYOUT_ENTRY_COPIED) {
		*raw &= ~LAYOUT_ENTRY_COPIED;
		ret = tell_entry(run, CHECK_COMPRESSED_COPIED, at, e->host_off, old, 0);
	}
	if (*bitmap == 0)
		return ret;
	*bitmap = 0;
	return ret == 0 ? tell_entry(run, CHECK_COMPRESSED_BITMAP, at, e->host_off, old, 0) : ret;
}

/* What is wrong with an entry and means nothing to a reader. */
static int mend_faults(struct check_run *run, const struct mended *at, uint64_t *raw,
		       uint64_t *bitmap)
{
	struct format_l2_entry e = format_l2_decode(&run->g, *raw, *bitmap);
	bool extended = run->g.extended_l2;
	uint64_t old = *raw;
	int ret = 0;

	if (e.kind == FORMAT_CLUSTER_COMPRESSED)
		return mend_compressed(run, at, &e, raw, bitmap);
	*raw &= ~(LAYOUT_L2_RESERVED_MASK | (extended ? LAYOUT_ENTRY_ZERO : 0));
	if (*raw != old)
		ret = tell_entry(run, CHECK_L2_RESERVED, at, e.host_off, old, 0);
	if (ret != 0 || !(e.faults & FORMAT_FAULT_UNALIGNED) || (extended && e.alloc_bitmap != 0) ||
	    (!extended && e.kind == FORMAT_CLUSTER_NORMAL))
		return ret;
	/* Without data: it reads the same without its cluster. */
	*raw = extended ? 0 : LAYOUT_ENTRY_ZERO;
	return tell_entry(run, CHECK_ZERO_UNALIGNED, at, e.host_off, old, 0);
}

static int mend_l2_entry(struct check_run *run, bool faults, const struct run_l2 *l2, uint64_t i,
			 uint64_t *raw, uint64_t *bitmap, struct qcow2_error *err)
{
	const struct format_geometry *g = &run->g;
	struct mended at = {l2->host_off + i * g->l2_entry_len, i, QCOW2_NO_OFFSET};
	struct format_l2_entry e;
	uint64_t count = 1; /* in a data file every cluster is its owner's alone */
	int ret = 0;

	if (l2->active_refs > 0)
		at.guest_off = (((uint64_t)l2->l1_index << g->l2_bits) + i) << g->cluster_bits;
	if (faults)
		ret = mend_faults(run, &at, raw, bitmap);
	if (ret != 0)
		return ret;
	e = format_l2_decode(g, *raw, *bitmap);
	if (l2->active_refs == 0 || !e.has_host_off || e.kind == FORMAT_CLUSTER_COMPRESSED ||
	    (e.faults & FORMAT_FAULT_UNALIGNED))
		return 0;
	if (!g->data_file)
		ret = check_stored_get(run, e.host_off >> g->cluster_bits, &count, err);
	return ret == 0 ? mend_copied(run, CHECK_L2_COPIED, &at, e.host_off, count, raw) : ret;
}

/* While something is damaged, a table with faults in it may be anything. */
static bool is_doubtful(const struct check_run *run)
{
	const struct format_geometry *g = &run->g;
	struct format_l2_entry e;

	if (!run->result->hides_references)
		return false;
	for (size_t i = 0; i < g->cluster_size; i += g->l2_entry_len) {
		const uint8_t *p = run->cluster + i;

		e = format_l2_decode(g, load_be64(p),
				     g->extended_l2 ? load_be64(p + LAYOUT_L2_ENTRY_LEN) : 0);
		if (e.faults)
			return true;
	}
	return false;
}

static int mend_l2_table(struct check_run *run, bool faults, const struct run_l2 *l2,
			 struct qcow2_error *err)
{
	const struct format_geometry *g = &run->g;
	size_t first = SIZE_MAX, end = 0;
	bool zeros;
	int ret = check_read_cluster(run, l2->host_off, run->cluster, &zeros, err);

	if (ret < 0 || zeros || !is_own(run, l2->host_off, g->cluster_size, l2->refs) ||
	    is_doubtful(run))
		return ret;
	for (size_t i = 0; i < g->cluster_size; i += g->l2_entry_len) {
		uint8_t *p = run->cluster + i;
		uint64_t raw = load_be64(p), old = raw;
		uint64_t bitmap = g->extended_l2 ? load_be64(p + LAYOUT_L2_ENTRY_LEN) : 0;
		uint64_t old_bitmap = bitmap;

		ret = mend_l2_entry(run, faults, l2, i / g->l2_entry_len, &raw, &bitmap, err);
		if (ret != 0)
			return ret;
		if (raw == old && bitmap == old_bitmap)
			continue;
		store_be64(p, raw);
		if (g->extended_l2)
			store_be64(p + LAYOUT_L2_ENTRY_LEN, bitmap);
		first = first < i ? first : i;
		end = i + g->l2_entry_len;
	}
	if (first >= end)
		return 0;
	run->changed = true;
	return storage_write(run->file, run->cluster + first, end - first, l2->host_off + first,
			     err);
}

int check_repair_entries(struct check_run *run, bool faults, struct qcow2_error *err)
{
	struct mend m = {.faults = faults, .active = true, .times = 1};
	uint64_t len = (uint64_t)run->header.l1_entries * LAYOUT_L1_ENTRY_LEN;
	int ret;

	ret = check_read_range(run, run->header.l1_off, run->header.l1_off + len, mend_l1_piece, &m,
			       err);
	if (ret == 0 && faults)
		ret = check_ranges_sweep(run, &run->inactive_l1, mend_inactive_l1, err);
	for (uint64_t i = 0; ret == 0 && i < run->nl2; i++)
		ret = mend_l2_table(run, faults, &run->l2[i], err);
	return ret == 0 ? storage_flush(run->file, err) : ret;
}
