/* SPDX-License-Identifier: MIT */
/*
 * L1 tables, active and of snapshots, all of them: that gives the L2 tables and how often each is
 * there. What the COPIED flags of active tables say is noted beside the counts: the comparison
 * with the stored refcounts sees whether they are right.
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
	run->table_clusters++;
	if (counts_add(&run->counts, host_off >> run->g.cluster_bits, refs) < 0)
		return check_no_memory(err);
	return 0;
}

int check_count_row(struct check_run *run, uint64_t host_off, uint64_t nclusters, uint64_t refs,
		    unsigned claim, struct qcow2_error *err)
{
	uint64_t first = host_off >> run->g.cluster_bits;

	if (counts_add_row(&run->counts, first, nclusters, refs, claim) < 0)
		return check_no_memory(err);
	return 0;
}

unsigned check_claim(bool active, bool copied)
{
	return !active ? 0 : copied ? COUNTS_ALONE : COUNTS_SHARED;
}

int check_hold_claim(struct check_run *run, uint64_t host_off, unsigned claim,
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
	run->table_clusters += div_ceil(end, cs) - host_off / cs;
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
	claim = check_claim(view->active, e.copied);
	if (check_past_end(run, e.l2_off, run->g.cluster_size)) {
		ret = check_hold_claim(run, e.l2_off, claim, err);
		return ret != 0 ? ret
				: report_l1(run, CHECK_L2_PAST_END, e.l2_off, guest_off, entry_off,
					    raw);
	}
	ret = check_count_row(run, e.l2_off, 1, view->refs, claim, err);
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
