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
		run->recounted |= computed > 0;
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
		if (!check_counts_fit(run, first + i, run->block, i, COUNTS_CHUNK))
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

static int mend_copied(struct check_run *run, enum check_finding finding,
		       const struct run_place *at, uint64_t host_off, uint64_t count, uint64_t *raw)
{
	bool copied = *raw & LAYOUT_ENTRY_COPIED;
	uint64_t old = *raw;

	if (copied == (count == 1) || (!copied && run->result->hides_references))
		return 0;
	*raw ^= LAYOUT_ENTRY_COPIED;
	run->copied_mended++;
	run->copied_wrong -= run->copied_wrong > 0;
	return check_told_entry(run, finding, at, host_off, old, count);
}

static int mend_l1_entry(struct check_run *run, void *opaque, uint64_t entry_off, uint64_t *raw,
			 struct qcow2_error *err)
{
	const struct mend *m = opaque;
	struct format_l1_entry e = format_l1_decode(&run->g, *raw);
	struct run_place at = {entry_off, QCOW2_NO_OFFSET, QCOW2_NO_OFFSET};
	uint64_t count;
	int ret = 0;

	if (!check_is_own(run, entry_off, LAYOUT_L1_ENTRY_LEN, m->times))
		return 0;
	if (m->active) {
		at.index = (entry_off - run->header.l1_off) / LAYOUT_L1_ENTRY_LEN;
		at.guest_off = at.index << (run->g.cluster_bits + run->g.l2_bits);
	}
	if (m->faults && (e.faults & FORMAT_FAULT_RESERVED)) {
		ret = check_told_entry(run, CHECK_L1_RESERVED, &at, e.l2_off, *raw, 0);
		*raw &= e.l2_off == 0 ? 0 : ~LAYOUT_L1_RESERVED_MASK;
	}
	if (ret != 0 || !m->active || e.l2_off == 0 || (e.faults & FORMAT_FAULT_UNALIGNED))
		return ret;
	ret = check_stored_get(run, e.l2_off >> run->g.cluster_bits, &count, err);
	return ret == 0 ? mend_copied(run, CHECK_L1_COPIED, &at, e.l2_off, count, raw) : ret;
}

static int mend_inactive_l1(struct check_run *run, uint64_t start, uint64_t end, uint64_t times,
			    struct qcow2_error *err)
{
	struct mend m = {.faults = true, .times = times};

	return check_change_words(run, start, end, mend_l1_entry, &m, err);
}

static int mend_compressed(struct check_run *run, const struct run_place *at,
			   const struct format_l2_entry *e, uint64_t *raw, uint64_t *bitmap)
{
	uint64_t old = *raw;
	int ret = 0;

	if (*raw & LAYOUT_ENTRY_COPIED) {
		*raw &= ~LAYOUT_ENTRY_COPIED;
		ret = check_told_entry(run, CHECK_COMPRESSED_COPIED, at, e->host_off, old, 0);
	}
	if (*bitmap == 0)
		return ret;
	*bitmap = 0;
	return ret == 0 ? check_told_entry(run, CHECK_COMPRESSED_BITMAP, at, e->host_off, old, 0)
			: ret;
}

/* What is wrong with an entry and means nothing to a reader. */
static int mend_faults(struct check_run *run, const struct run_place *at, uint64_t *raw,
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
		ret = check_told_entry(run, CHECK_L2_RESERVED, at, e.host_off, old, 0);
	if (ret != 0 || !(e.faults & FORMAT_FAULT_UNALIGNED) || (extended && e.alloc_bitmap != 0) ||
	    (!extended && e.kind == FORMAT_CLUSTER_NORMAL))
		return ret;
	/* Without data: it reads the same without its cluster. */
	*raw = extended ? 0 : LAYOUT_ENTRY_ZERO;
	return check_told_entry(run, CHECK_ZERO_UNALIGNED, at, e.host_off, old, 0);
}

static int mend_l2_entry(struct check_run *run, void *opaque, const struct run_l2 *l2,
			 const struct run_place *at, uint64_t *raw, uint64_t *bitmap,
			 struct qcow2_error *err)
{
	const struct mend *m = opaque;
	const struct format_geometry *g = &run->g;
	struct format_l2_entry e;
	uint64_t count = 1; /* in a data file every cluster is its owner's alone */
	int ret = 0;

	if (m->faults)
		ret = mend_faults(run, at, raw, bitmap);
	if (ret != 0)
		return ret;
	e = format_l2_decode(g, *raw, *bitmap);
	if (l2->active_refs == 0 || !e.has_host_off || e.kind == FORMAT_CLUSTER_COMPRESSED ||
	    (e.faults & FORMAT_FAULT_UNALIGNED))
		return 0;
	if (!g->data_file)
		ret = check_stored_get(run, e.host_off >> run->g.cluster_bits, &count, err);
	return ret == 0 ? mend_copied(run, CHECK_L2_COPIED, at, e.host_off, count, raw) : ret;
}

/* While something is damaged, a table with faults in it may be anything. */
static int is_doubtful(struct check_run *run, const struct run_l2 *l2, bool *doubtful,
		       struct qcow2_error *err)
{
	const struct format_geometry *g = &run->g;
	struct format_l2_entry e;

	bool zeros;
	int ret;

	*doubtful = false;
	if (!run->result->hides_references)
		return 0;
	ret = check_read_cluster(run, l2->host_off, run->cluster, &zeros, err);
	if (ret < 0 || zeros)
		return ret;
	for (size_t i = 0; i < g->cluster_size; i += g->l2_entry_len) {
		const uint8_t *p = run->cluster + i;

		e = format_l2_decode(g, load_be64(p),
				     g->extended_l2 ? load_be64(p + LAYOUT_L2_ENTRY_LEN) : 0);
		*doubtful |= e.faults != 0;
	}
	return 0;
}

static int mend_l2_table(struct check_run *run, struct mend *m, const struct run_l2 *l2,
			 struct qcow2_error *err)
{
	bool doubtful;
	int ret;

	if (!check_is_own(run, l2->host_off, run->g.cluster_size, l2->refs))
		return 0;
	ret = is_doubtful(run, l2, &doubtful, err);
	if (ret != 0 || doubtful)
		return ret;
	return check_change_l2(run, l2, mend_l2_entry, m, err);
}

/* What is lost is in no entry: nothing but its count was wrong. */
static bool only_lost(const struct check_run *run)
{
	for (size_t i = 0; i < CHECK_FINDINGS; i++)
		if (run->found[i] > 0 && i != CHECK_LEAK)
			return false;
	return run->copied_wrong == 0 && !run->recounted;
}

int check_repair_entries(struct check_run *run, bool faults, struct qcow2_error *err)
{
	struct mend m = {.faults = faults, .active = true, .times = 1};
	uint64_t len = (uint64_t)run->header.l1_entries * LAYOUT_L1_ENTRY_LEN;
	int ret;

	if (only_lost(run))
		return 0;
	ret = check_change_words(run, run->header.l1_off, run->header.l1_off + len, mend_l1_entry,
				 &m, err);
	if (ret == 0 && faults)
		ret = check_ranges_sweep(run, &run->inactive_l1, mend_inactive_l1, err);
	for (uint64_t i = 0; ret == 0 && i < run->nl2; i++)
		ret = mend_l2_table(run, &m, &run->l2[i], err);
	return ret == 0 ? storage_flush(run->file, err) : ret;
}
