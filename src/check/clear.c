/* SPDX-License-Identifier: MIT */
/*
 * Entries that lead nowhere are made to say zeros, for nothing that they say can be read: a reader
 * gets an error there, or, past the end of the file, zeros already. What the entry may have meant
 * is lost with it; so this is done only if it leaves nothing that may hide references, and never
 * where zeros can't be said and a backing file would show instead.
 *
 * A table that something else uses too is left for when it has been moved: it may be no table.
 */
#include "base/num.h"
#include "check/run.h"
#include "format/bitmap_rec.h"

bool check_hides_for_good(const struct check_run *run)
{
	static const enum check_finding stay[] = {
		CHECK_TABLE_PAST_END, CHECK_SNAPSHOT_L1,    CHECK_SNAPSHOT_TABLE,
		CHECK_SNAPSHOT_EXTRA, CHECK_CRYPTO_MISSING,
	};

	for (size_t i = 0; i < ARRAY_LEN(stay); i++)
		if (run->found[stay[i]] > 0)
			return true;
	return run->found[CHECK_L1_UNALIGNED] > 0 && run->header.backing_name;
}

struct clear {
	uint64_t times;
	bool active;
	bool done;
};

/* ---- L1 ------------------------------------------------------------------------------------ */

static int clear_l1_entry(struct check_run *run, void *opaque, uint64_t entry_off, uint64_t *raw,
			  struct qcow2_error *err)
{
	struct clear *c = opaque;
	struct format_l1_entry e = format_l1_decode(&run->g, *raw);
	struct run_place at = {entry_off, QCOW2_NO_OFFSET, QCOW2_NO_OFFSET};
	enum check_finding finding;
	uint64_t old = *raw;

	(void)err;
	if (e.l2_off == 0 || !check_is_own(run, entry_off, LAYOUT_L1_ENTRY_LEN, c->times))
		return 0;
	if (e.faults & FORMAT_FAULT_UNALIGNED)
		finding = CHECK_L1_UNALIGNED;
	else if (check_past_end(run, e.l2_off, run->g.cluster_size))
		finding = CHECK_L2_PAST_END;
	else
		return 0;
	if (c->active) {
		at.index = (entry_off - run->header.l1_off) / LAYOUT_L1_ENTRY_LEN;
		at.guest_off = at.index << (run->g.cluster_bits + run->g.l2_bits);
	}
	*raw = 0;
	c->done = true;
	return check_told_entry(run, finding, &at, e.l2_off, old, 0);
}

static int clear_inactive_l1(struct check_run *run, uint64_t start, uint64_t end, uint64_t times,
			     struct qcow2_error *err)
{
	struct clear c = {.times = times};
	int ret = check_change_words(run, start, end, clear_l1_entry, &c, err);

	run->again |= c.done;
	return ret;
}

static int clear_l1(struct check_run *run, struct clear *c, struct qcow2_error *err)
{
	uint64_t start = run->header.l1_off;
	uint64_t end = start + (uint64_t)run->header.l1_entries * LAYOUT_L1_ENTRY_LEN;
	int ret;

	if (run->found[CHECK_L1_UNALIGNED] == 0 && run->found[CHECK_L2_PAST_END] == 0)
		return 0;
	c->times = 1;
	c->active = true;
	ret = check_change_words(run, start, end, clear_l1_entry, c, err);
	return ret == 0 ? check_ranges_sweep(run, &run->inactive_l1, clear_inactive_l1, err) : ret;
}

/* ---- L2 ------------------------------------------------------------------------------------ */

/* Makes all that the entry has say zeros; what it doesn't have shows through as before. */
static bool say_zeros(const struct check_run *run, const struct format_l2_entry *e, uint64_t *raw,
		      uint64_t *bitmap)
{
	if (run->g.version < 3) {
		if (run->header.backing_name)
			return false;
		*raw = 0;
	} else if (run->g.extended_l2) {
		*raw = 0;
		*bitmap = e->kind == FORMAT_CLUSTER_COMPRESSED
				  ? format_subcluster_bitmap(0, UINT32_MAX)
				  : format_subcluster_bitmap(0, e->zero_bitmap | e->alloc_bitmap);
	} else {
		*raw = LAYOUT_ENTRY_ZERO;
	}
	return true;
}

/* What is wrong with where the entry leads, CHECK_FINDINGS if nothing is. */
static enum check_finding judge_place(const struct check_run *run, const struct format_l2_entry *e)
{
	bool compressed = e->kind == FORMAT_CLUSTER_COMPRESSED;
	bool data = run->g.extended_l2 ? e->alloc_bitmap != 0 : e->kind == FORMAT_CLUSTER_NORMAL;
	uint64_t len = compressed ? e->compressed_len : run->g.cluster_size;

	if (e->faults & FORMAT_FAULT_COMPRESSED_DATA_FILE)
		return CHECK_COMPRESSED_DATA_FILE;
	if (e->faults & FORMAT_FAULT_COMPRESSED_OFFSET)
		return CHECK_COMPRESSED_OFFSET;
	if (!e->has_host_off)
		return CHECK_FINDINGS;
	if (e->faults & FORMAT_FAULT_UNALIGNED)
		return data ? CHECK_DATA_UNALIGNED : CHECK_ZERO_UNALIGNED;
	if (e->faults & FORMAT_FAULT_ZERO_IN_V2)
		return CHECK_ZERO_IN_V2;
	return !run->g.data_file && check_past_end(run, e->host_off, len) ? CHECK_DATA_PAST_END
									  : CHECK_FINDINGS;
}

/* Faults that don't make the whole entry worthless. *finding: what was mended, if anything. */
static void mend_part(const struct run_l2 *l2, const struct run_place *at,
		      struct format_l2_entry *e, uint64_t *raw, uint64_t *bitmap,
		      enum check_finding *finding)
{
	if (e->faults & FORMAT_FAULT_SUBCLUSTERS) {
		*finding = e->has_host_off ? CHECK_SUBCLUSTER_BOTH : CHECK_SUBCLUSTER_UNALLOCATED;
		*bitmap = e->has_host_off
				  ? format_subcluster_bitmap(e->alloc_bitmap & ~e->zero_bitmap,
							     e->zero_bitmap)
				  : format_subcluster_bitmap(0, e->zero_bitmap | e->alloc_bitmap);
	} else if ((e->faults & FORMAT_FAULT_DATA_FILE_OFFSET) && l2->active_refs == 1) {
		*finding = CHECK_DATA_FILE_OFFSET;
		*raw = (*raw & ~LAYOUT_ENTRY_OFFSET_MASK) | at->guest_off | LAYOUT_ENTRY_COPIED;
	} else if ((e->faults & FORMAT_FAULT_ZERO_IN_V2) && !e->has_host_off) {
		*finding = CHECK_ZERO_IN_V2;
		*raw &= ~LAYOUT_ENTRY_ZERO;
	}
}

static int clear_l2_entry(struct check_run *run, void *opaque, const struct run_l2 *l2,
			  const struct run_place *at, uint64_t *raw, uint64_t *bitmap,
			  struct qcow2_error *err)
{
	struct clear *c = opaque;
	struct format_l2_entry e = format_l2_decode(&run->g, *raw, *bitmap);
	enum check_finding finding = judge_place(run, &e);
	uint64_t old = *raw;

	(void)err;
	if (finding == CHECK_FINDINGS) {
		if (at->guest_off != QCOW2_NO_OFFSET)
			format_l2_check_data_file(&run->g, &e, at->guest_off);
		/* In version 2 a plain zero reads the same as nothing only without a backing file.
		 */
		if (!(e.faults & FORMAT_FAULT_ZERO_IN_V2) || !run->header.backing_name)
			mend_part(l2, at, &e, raw, bitmap, &finding);
	} else if (!say_zeros(run, &e, raw, bitmap)) {
		return 0;
	}
	if (finding == CHECK_FINDINGS)
		return 0;
	c->done = true;
	return check_told_entry(run, finding, at, e.host_off, old, 0);
}

static int clear_l2(struct check_run *run, struct clear *c, struct qcow2_error *err)
{
	static const enum check_finding mended[] = {
		CHECK_COMPRESSED_DATA_FILE, CHECK_COMPRESSED_OFFSET,
		CHECK_DATA_UNALIGNED,	    CHECK_ZERO_UNALIGNED,
		CHECK_ZERO_IN_V2,	    CHECK_DATA_PAST_END,
		CHECK_SUBCLUSTER_BOTH,	    CHECK_SUBCLUSTER_UNALLOCATED,
		CHECK_DATA_FILE_OFFSET,
	};
	bool any = false;
	int ret = 0;

	for (size_t i = 0; i < ARRAY_LEN(mended); i++)
		any |= run->found[mended[i]] > 0;
	for (uint64_t i = 0; any && ret == 0 && i < run->nl2; i++)
		if (check_is_own(run, run->l2[i].host_off, run->g.cluster_size, run->l2[i].refs))
			ret = check_change_l2(run, &run->l2[i], clear_l2_entry, c, err);
	return ret;
}

/* ---- bitmaps ------------------------------------------------------------------------------- */

/* A bitmap that says that all was changed is never wrong, only slow. */
static int clear_bitmap_entry(struct check_run *run, void *opaque, uint64_t entry_off,
			      uint64_t *raw, struct qcow2_error *err)
{
	const struct clear *c = opaque;
	struct format_bitmap_entry e = format_bitmap_entry_decode(&run->g, *raw);
	struct run_place at = {entry_off, QCOW2_NO_OFFSET, QCOW2_NO_OFFSET};
	uint64_t old = *raw;
	bool past_end = e.host_off != 0 && check_past_end(run, e.host_off, run->g.cluster_size);

	(void)err;
	if ((!e.faults && !past_end) || !check_is_own(run, entry_off, 8, c->times))
		return 0;
	*raw = LAYOUT_BITMAP_ENTRY_ALL_ONES;
	run->again = true;
	return check_told_entry(run, e.faults ? CHECK_BITMAP_ENTRY : CHECK_DATA_PAST_END, &at,
				e.host_off, old, 0);
}

static int clear_bitmap_table(struct check_run *run, uint64_t start, uint64_t end, uint64_t times,
			      struct qcow2_error *err)
{
	struct clear c = {.times = times};

	return check_change_words(run, start, end, clear_bitmap_entry, &c, err);
}

static int clear_bitmaps(struct check_run *run, struct qcow2_error *err)
{
	if (run->found[CHECK_BITMAP_ENTRY] == 0 && run->found[CHECK_DATA_PAST_END] == 0)
		return 0;
	return check_ranges_sweep(run, &run->bitmap_tables, clear_bitmap_table, err);
}

int check_clear(struct check_run *run, bool *done, struct qcow2_error *err)
{
	struct clear c = {0};
	int ret;

	if (check_hides_for_good(run))
		return 0;
	ret = clear_bitmaps(run, err);
	if (ret == 0)
		ret = clear_l1(run, &c, err);
	if (ret == 0)
		ret = clear_l2(run, &c, err);
	*done |= c.done || run->again;
	return ret == 0 && *done ? storage_flush(run->file, err) : ret;
}
