/* SPDX-License-Identifier: MIT */
/*
 * L1 and L2 tables, active and of snapshots: every reference in them is counted, every entry
 * looked at. L1 tables come first, all of them; that gives the L2 tables and how often each is
 * there; then every L2 table is read once. What the COPIED flags of active tables say is noted
 * beside the counts: the comparison with the stored refcounts sees whether they are right.
 *
 * An entry that several tables share is reported once.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "check/run.h"

/* ---- counting ------------------------------------------------------------------------------ */

int check_no_memory(struct qcow2_error *err)
{
	return error_set(err, -ENOMEM, "no memory to check the image");
}

bool check_past_end(const struct check_run *run, uint64_t host_off, uint64_t len_bytes)
{
	uint64_t end;

	if (!add_fits(host_off, len_bytes, &end))
		return true;
	/* Up to one cluster less a byte is tolerated: the last cluster needn't be there whole. */
	return end > run->file_size && end - run->file_size >= run->g.cluster_size;
}

int check_count_cluster(struct check_run *run, uint64_t host_off, uint64_t refs,
			struct qcow2_error *err)
{
	if (counts_add(&run->counts, host_off >> run->g.cluster_bits, refs) < 0)
		return check_no_memory(err);
	return 0;
}

static int count_row(struct check_run *run, uint64_t host_off, uint64_t nclusters, uint64_t refs,
		     unsigned claim, struct qcow2_error *err)
{
	uint64_t first = host_off >> run->g.cluster_bits;

	if (counts_add_row(&run->counts, first, nclusters, refs, claim) < 0)
		return check_no_memory(err);
	return 0;
}

/* What the COPIED flag of an entry says. Those in snapshots say nothing. */
static unsigned claim_of(bool active, bool copied)
{
	return !active ? 0 : copied ? COUNTS_ALONE : COUNTS_SHARED;
}

/* A claim about a cluster that isn't counted. */
static int hold_claim(struct check_run *run, uint64_t host_off, unsigned claim,
		      struct qcow2_error *err)
{
	uint64_t count;
	int ret = 0;

	if (claim == 0)
		return 0;
	ret = check_stored_get(run, host_off >> run->g.cluster_bits, &count, err);
	if (ret == 0 && claim == (count == 1 ? COUNTS_SHARED : COUNTS_ALONE))
		run->copied_wrong++;
	return ret;
}

int check_count_table(struct check_run *run, uint64_t host_off, uint64_t len_bytes,
		      enum check_finding past_end, struct qcow2_error *err)
{
	uint64_t cs = run->g.cluster_size, end = host_off + len_bytes;
	int ret;

	if (len_bytes == 0)
		return 0;
	if (check_past_end(run, host_off, len_bytes)) {
		struct check_report r = check_blank(past_end);

		r.host_off = host_off;
		r.len_bytes = len_bytes;
		ret = check_found(run, &r);
		if (ret != 0 || host_off >= run->file_size)
			return ret;
		end = run->file_size;
	}
	if (counts_run(&run->counts, host_off / cs, div_ceil(end, cs) - host_off / cs, 1) < 0)
		return check_no_memory(err);
	return 0;
}

/* ---- L1 ------------------------------------------------------------------------------------ */

/* The L1 entries that are looked at, and whose they are. */
struct l1_view {
	bool active;
	uint64_t l1_off; /* of the active table */
	uint64_t refs;
};

static int add_l2(struct check_run *run, const struct run_l2 *l2, struct qcow2_error *err)
{
	struct run_l2 *last = run->nl2 ? &run->l2[run->nl2 - 1] : NULL;

	/* However long a table that says one thing: one entry. */
	if (last && last->host_off == l2->host_off &&
	    (last->active_refs > 0) == (l2->active_refs > 0)) {
		last->refs += l2->refs;
		last->active_refs += l2->active_refs;
		return 0;
	}
	if (run->nl2 == run->l2_cap) {
		uint64_t cap = max_u64(64, run->l2_cap * 2);
		struct run_l2 *v = mem_realloc(run->l2, cap, sizeof(*v));

		if (!v)
			return check_no_memory(err);
		run->l2 = v;
		run->l2_cap = cap;
	}
	run->l2[run->nl2++] = *l2;
	return 0;
}

static int report_l1(struct check_run *run, enum check_finding finding, uint64_t host_off,
		     uint64_t guest_off, uint64_t entry_off, uint64_t raw)
{
	struct check_report r = check_blank(finding);

	r.host_off = host_off;
	r.guest_off = guest_off;
	r.entry_off = entry_off;
	r.stored = raw;
	r.len_bytes = run->g.cluster_size;
	return check_found(run, &r);
}

static int scan_l1_entry(struct check_run *run, const struct l1_view *view, uint64_t raw,
			 uint64_t entry_off, struct qcow2_error *err)
{
	struct format_l1_entry e = format_l1_decode(&run->g, raw);
	struct run_l2 l2 = {.host_off = e.l2_off, .refs = view->refs};
	uint64_t guest_off = QCOW2_NO_OFFSET;
	unsigned claim;
	int ret = 0;

	if (view->active) {
		l2.l1_index = (uint32_t)((entry_off - view->l1_off) / LAYOUT_L1_ENTRY_LEN);
		l2.active_refs = 1;
		guest_off = (uint64_t)l2.l1_index << (run->g.cluster_bits + run->g.l2_bits);
	}
	if (e.faults & FORMAT_FAULT_RESERVED)
		ret = report_l1(run, CHECK_L1_RESERVED, e.l2_off, guest_off, entry_off, raw);
	if (ret != 0 || e.l2_off == 0)
		return ret;
	if (e.faults & FORMAT_FAULT_UNALIGNED)
		return report_l1(run, CHECK_L1_UNALIGNED, e.l2_off, guest_off, entry_off, raw);
	claim = claim_of(view->active, e.copied);
	if (check_past_end(run, e.l2_off, run->g.cluster_size)) {
		ret = hold_claim(run, e.l2_off, claim, err);
		return ret != 0 ? ret
				: report_l1(run, CHECK_L2_PAST_END, e.l2_off, guest_off, entry_off,
					    raw);
	}
	ret = count_row(run, e.l2_off, 1, view->refs, claim, err);
	return ret != 0 ? ret : add_l2(run, &l2, err);
}

static int scan_l1_piece(struct check_run *run, void *opaque, uint64_t host_off, uint8_t *bytes,
			 size_t len, struct qcow2_error *err)
{
	int ret = 0;

	for (size_t i = 0; ret == 0 && i + LAYOUT_L1_ENTRY_LEN <= len; i += LAYOUT_L1_ENTRY_LEN) {
		uint64_t raw = load_be64(bytes + i);

		if (raw != 0)
			ret = scan_l1_entry(run, opaque, raw, host_off + i, err);
	}
	return ret;
}

static int scan_inactive_l1(struct check_run *run, uint64_t start, uint64_t end, uint64_t times,
			    struct qcow2_error *err)
{
	struct l1_view view = {.refs = times};

	return check_read_range(run, start, end, scan_l1_piece, &view, err);
}

static int by_place(const void *a, const void *b)
{
	const struct run_l2 *x = a, *y = b;

	if (x->host_off != y->host_off)
		return x->host_off > y->host_off ? 1 : -1;
	/* Active ones first, in the order of the disk. */
	if ((x->active_refs > 0) != (y->active_refs > 0))
		return x->active_refs > 0 ? -1 : 1;
	return (x->l1_index > y->l1_index) - (x->l1_index < y->l1_index);
}

/* Each table once, in the order of the file. */
static void merge_l2(struct check_run *run)
{
	uint64_t n = 0;

	if (run->nl2 == 0)
		return;
	qsort(run->l2, (size_t)run->nl2, sizeof(*run->l2), by_place);
	for (uint64_t i = 0; i < run->nl2; i++) {
		if (n > 0 && run->l2[n - 1].host_off == run->l2[i].host_off) {
			run->l2[n - 1].refs += run->l2[i].refs;
			run->l2[n - 1].active_refs += run->l2[i].active_refs;
		} else {
			run->l2[n++] = run->l2[i];
		}
	}
	run->nl2 = n;
}

int check_scan_l1(struct check_run *run, struct qcow2_error *err)
{
	struct l1_view view = {.active = true, .l1_off = run->header.l1_off, .refs = 1};
	uint64_t len = (uint64_t)run->header.l1_entries * LAYOUT_L1_ENTRY_LEN;
	int ret;

	ret = check_count_table(run, view.l1_off, len, CHECK_TABLE_PAST_END, err);
	if (ret == 0)
		ret = check_read_range(run, view.l1_off, view.l1_off + len, scan_l1_piece, &view,
				       err);
	if (ret == 0)
		ret = check_ranges_sweep(run, &run->inactive_l1, scan_inactive_l1, err);
	if (ret == 0)
		merge_l2(run);
	return ret;
}

#define CLOSELY 64 /* entries that are looked at one by one before a run is tried again */

/* ---- L2 ------------------------------------------------------------------------------------ */

/* An L2 table on the way through its entries. */
struct l2_view {
	const struct run_l2 *table;
	uint64_t raw, entry_off, guest_off;
	uint64_t next_host_off; /* where the next cluster wouldn't be a fragment; 0: anywhere */
};

static int report_l2(struct check_run *run, enum check_finding finding, const struct l2_view *v,
		     const struct format_l2_entry *e)
{
	struct check_report r = check_blank(finding);

	r.host_off = e->host_off;
	r.guest_off = v->guest_off;
	r.entry_off = v->entry_off;
	r.index = (v->entry_off - v->table->host_off) / run->g.l2_entry_len;
	r.stored = v->raw;
	r.len_bytes =
		e->kind == FORMAT_CLUSTER_COMPRESSED ? e->compressed_len : run->g.cluster_size;
	return check_found(run, &r);
}

static int scan_compressed(struct check_run *run, const struct l2_view *v,
			   const struct format_l2_entry *e, struct qcow2_error *err)
{
	uint64_t cs = run->g.cluster_size, off;
	int ret = 0;

	if (e->faults & FORMAT_FAULT_COMPRESSED_COPIED)
		ret = report_l2(run, CHECK_COMPRESSED_COPIED, v, e);
	if (ret == 0 && (e->faults & FORMAT_FAULT_COMPRESSED_BITMAP))
		ret = report_l2(run, CHECK_COMPRESSED_BITMAP, v, e);
	if (ret != 0)
		return ret;
	if (e->faults & FORMAT_FAULT_COMPRESSED_DATA_FILE)
		return report_l2(run, CHECK_COMPRESSED_DATA_FILE, v, e);
	if (e->faults & FORMAT_FAULT_COMPRESSED_OFFSET)
		return report_l2(run, CHECK_COMPRESSED_OFFSET, v, e);
	if (check_past_end(run, e->host_off, e->compressed_len))
		return report_l2(run, CHECK_DATA_PAST_END, v, e);
	for (off = align_down(e->host_off, cs); ret == 0 && off < e->host_off + e->compressed_len;
	     off += cs)
		ret = check_count_cluster(run, off, v->table->refs, err);
	return ret;
}

static int scan_host_cluster(struct check_run *run, const struct l2_view *v,
			     const struct format_l2_entry *e, struct qcow2_error *err)
{
	unsigned claim = claim_of(v->table->active_refs > 0, e->copied);
	int ret;

	if (run->g.data_file) { /* every cluster is its owner's alone */
		run->copied_wrong += claim == COUNTS_SHARED;
		return 0;
	}
	if (check_past_end(run, e->host_off, run->g.cluster_size)) {
		ret = hold_claim(run, e->host_off, claim, err);
		return ret != 0 ? ret : report_l2(run, CHECK_DATA_PAST_END, v, e);
	}
	return count_row(run, e->host_off, 1, v->table->refs, claim, err);
}

static bool has_data(const struct check_run *run, const struct format_l2_entry *e)
{
	return run->g.extended_l2 ? e->alloc_bitmap != 0 : e->kind == FORMAT_CLUSTER_NORMAL;
}

static int scan_uncompressed(struct check_run *run, const struct l2_view *v,
			     struct format_l2_entry *e, struct qcow2_error *err)
{
	int ret = 0;

	if (e->faults & FORMAT_FAULT_RESERVED)
		ret = report_l2(run, CHECK_L2_RESERVED, v, e);
	if (ret == 0 && (e->faults & FORMAT_FAULT_ZERO_IN_V2))
		ret = report_l2(run, CHECK_ZERO_IN_V2, v, e);
	if (ret == 0 && (e->faults & FORMAT_FAULT_SUBCLUSTERS))
		ret = report_l2(
			run, e->has_host_off ? CHECK_SUBCLUSTER_BOTH : CHECK_SUBCLUSTER_UNALLOCATED,
			v, e);
	if (ret != 0 || !e->has_host_off)
		return ret;
	if (e->faults & FORMAT_FAULT_UNALIGNED)
		return report_l2(
			run, has_data(run, e) ? CHECK_DATA_UNALIGNED : CHECK_ZERO_UNALIGNED, v, e);
	if (v->guest_off != QCOW2_NO_OFFSET)
		format_l2_check_data_file(&run->g, e, v->guest_off);
	/* A table that is in two places of the disk is right in one at most. */
	if ((e->faults & FORMAT_FAULT_DATA_FILE_OFFSET) ||
	    (run->g.data_file && v->table->active_refs > 1)) {
		ret = report_l2(run, CHECK_DATA_FILE_OFFSET, v, e);
		if (ret != 0)
			return ret;
	}
	return scan_host_cluster(run, v, e, err);
}

static void count_statistics(struct check_run *run, struct l2_view *v,
			     const struct format_l2_entry *e)
{
	struct check_result *res = run->result;
	uint64_t times = v->table->active_refs;

	if (!e->has_host_off || times == 0)
		return;
	res->allocated_clusters += times;
	if (e->kind == FORMAT_CLUSTER_COMPRESSED) {
		res->compressed_clusters += times;
		res->fragmented_clusters += times;
		return;
	}
	if (v->next_host_off != 0 && e->host_off != v->next_host_off)
		res->fragmented_clusters += times;
	v->next_host_off = e->host_off + run->g.cluster_size;
}

static int scan_l2_entry(struct check_run *run, struct l2_view *v, uint64_t bitmap,
			 struct qcow2_error *err)
{
	struct format_l2_entry e = format_l2_decode(&run->g, v->raw, bitmap);

	count_statistics(run, v, &e);
	if (e.kind == FORMAT_CLUSTER_COMPRESSED)
		return scan_compressed(run, v, &e, err);
	return scan_uncompressed(run, v, &e, err);
}

/*
 * Entries from the i-th on that are as an image has them when it was written in order: data
 * clusters with nothing but the COPIED flag, side by side in the file. How many: 0 if it isn't so.
 */
static uint32_t straight_run(const struct check_run *run, uint32_t i)
{
	const struct format_geometry *g = &run->g;
	const uint8_t *p = run->cluster + (size_t)i * LAYOUT_L2_ENTRY_LEN;
	uint64_t raw = load_be64(p), off = raw & ~LAYOUT_ENTRY_COPIED, max;
	uint32_t n = 1;

	if (g->extended_l2 || g->data_file || off == raw || off == 0 ||
	    !is_aligned(off, g->cluster_size) || off >= run->file_size || off >> 56)
		return 0;
	/* Whole clusters inside the file; what passes its end is looked at one by one. */
	max = min_u64((min_u64(run->file_size, 1ull << 56) - off) >> g->cluster_bits,
		      g->l2_entries - i);
	if (max == 0)
		return 0;
	while (n < max) {
		raw += g->cluster_size;
		p += LAYOUT_L2_ENTRY_LEN;
		if (load_be64(p) != raw)
			break;
		n++;
	}
	return n;
}

/*
 * Counts such a run in one go. *n: how many entries that was; 0: the next *closely of them need a
 * closer look each, before it is worth while to try again.
 */
static int scan_straight(struct check_run *run, struct l2_view *v, uint32_t i, uint32_t *n,
			 uint32_t *closely, struct qcow2_error *err)
{
	const struct format_geometry *g = &run->g;
	const uint8_t *p = run->cluster + (size_t)i * LAYOUT_L2_ENTRY_LEN;
	uint64_t off = load_be64(p) & ~LAYOUT_ENTRY_COPIED, times = v->table->active_refs;

	*n = straight_run(run, i);
	*closely = *n > CLOSELY ? *n : CLOSELY;
	if (*n < 2) {
		*n = 0;
		return 0;
	}
	run->result->allocated_clusters += *n * times;
	if (v->next_host_off != 0 && off != v->next_host_off)
		run->result->fragmented_clusters += times;
	if (times > 0)
		v->next_host_off = off + *n * g->cluster_size;
	return count_row(run, off, *n, v->table->refs, claim_of(times > 0, true), err);
}

static int scan_l2_table(struct check_run *run, const struct run_l2 *l2, struct qcow2_error *err)
{
	const struct format_geometry *g = &run->g;
	struct l2_view v = {.table = l2, .guest_off = QCOW2_NO_OFFSET};
	uint32_t straight, closely = 0;
	bool zeros;
	int ret = check_read_cluster(run, l2->host_off, run->cluster, &zeros, err);

	if (ret < 0 || zeros)
		return ret;
	for (uint32_t i = 0; ret == 0 && i < g->l2_entries; i++) {
		const uint8_t *p = run->cluster + (size_t)i * g->l2_entry_len;
		uint64_t bitmap = g->extended_l2 ? load_be64(p + LAYOUT_L2_ENTRY_LEN) : 0;

		if (i >= closely) {
			ret = scan_straight(run, &v, i, &straight, &closely, err);
			if (ret == 0 && straight > 0) {
				i += straight - 1;
				continue;
			}
			closely += i;
		}
		v.raw = load_be64(p);
		v.entry_off = l2->host_off + (uint64_t)i * g->l2_entry_len;
		if (v.raw == 0 && (uint32_t)bitmap == 0)
			continue;
		if (l2->active_refs > 0)
			v.guest_off = (((uint64_t)l2->l1_index << g->l2_bits) + i)
				      << g->cluster_bits;
		ret = scan_l2_entry(run, &v, bitmap, err);
	}
	return ret;
}

int check_scan_l2(struct check_run *run, struct qcow2_error *err)
{
	int ret = 0;

	for (uint64_t i = 0; ret == 0 && i < run->nl2; i++) {
		ret = scan_l2_table(run, &run->l2[i], err);
		if (ret == 0)
			ret = check_tick(run, i + 1);
	}
	return ret;
}
