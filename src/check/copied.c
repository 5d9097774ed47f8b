/* SPDX-License-Identifier: MIT */
/*
 * COPIED flags of the active tables against the refcounts as they are stored, told one by one. The
 * comparison has seen that some may be wrong; this pass over the tables, in the order of the disk,
 * is only for such images.
 */
#include "base/bytes.h"
#include "base/num.h"
#include "check/run.h"

static int check_flag(struct check_run *run, struct check_report *r, struct qcow2_error *err)
{
	int ret = 0;

	r->computed = 1; /* in a data file every cluster is its owner's alone */
	if (!run->g.data_file || r->finding == CHECK_L1_COPIED)
		ret = check_stored_get(run, r->host_off >> run->g.cluster_bits, &r->computed, err);
	if (ret != 0 || !(r->stored & LAYOUT_ENTRY_COPIED) == (r->computed != 1))
		return ret;
	return check_found(run, r);
}

static int check_l2_entry(struct check_run *run, const struct run_l2 *l2, uint32_t i,
			  struct qcow2_error *err)
{
	const struct format_geometry *g = &run->g;
	const uint8_t *p = run->cluster + (size_t)i * g->l2_entry_len;
	uint64_t bitmap = g->extended_l2 ? load_be64(p + LAYOUT_L2_ENTRY_LEN) : 0;
	struct format_l2_entry e = format_l2_decode(g, load_be64(p), bitmap);
	struct check_report r = check_blank(CHECK_L2_COPIED);

	if (!e.has_host_off || e.kind == FORMAT_CLUSTER_COMPRESSED ||
	    (e.faults & FORMAT_FAULT_UNALIGNED))
		return 0;
	r.host_off = e.host_off;
	r.guest_off = (((uint64_t)l2->l1_index << g->l2_bits) + i) << g->cluster_bits;
	r.entry_off = l2->host_off + (uint64_t)i * g->l2_entry_len;
	r.index = i;
	r.stored = load_be64(p);
	return check_flag(run, &r, err);
}

static int check_l2(struct check_run *run, const struct run_l2 *l2, struct qcow2_error *err)
{
	bool zeros;
	int ret = check_read_cluster(run, l2->host_off, run->cluster, &zeros, err);

	for (uint32_t i = 0; ret == 0 && !zeros && i < run->g.l2_entries; i++)
		ret = check_l2_entry(run, l2, i, err);
	return ret;
}

/* The table at host_off, NULL if it wasn't read. */
static const struct run_l2 *find_l2(const struct check_run *run, uint64_t host_off)
{
	uint64_t low = 0, high = run->nl2;

	while (low < high) {
		uint64_t mid = low + (high - low) / 2;

		if (run->l2[mid].host_off < host_off)
			low = mid + 1;
		else
			high = mid;
	}
	return low < run->nl2 && run->l2[low].host_off == host_off ? &run->l2[low] : NULL;
}

static int check_l1_piece(struct check_run *run, void *opaque, uint64_t host_off, uint8_t *bytes,
			  size_t len, struct qcow2_error *err)
{
	int ret = 0;

	(void)opaque;
	for (size_t i = 0; ret == 0 && i + LAYOUT_L1_ENTRY_LEN <= len; i += LAYOUT_L1_ENTRY_LEN) {
		struct format_l1_entry e = format_l1_decode(&run->g, load_be64(bytes + i));
		struct check_report r = check_blank(CHECK_L1_COPIED);
		const struct run_l2 *l2;

		if (e.l2_off == 0 || (e.faults & FORMAT_FAULT_UNALIGNED))
			continue;
		r.host_off = e.l2_off;
		r.entry_off = host_off + i;
		r.index = (r.entry_off - run->header.l1_off) / LAYOUT_L1_ENTRY_LEN;
		r.guest_off = r.index << (run->g.cluster_bits + run->g.l2_bits);
		r.stored = load_be64(bytes + i);
		ret = check_flag(run, &r, err);
		/* A table that is in several places is read in the first. */
		l2 = find_l2(run, e.l2_off);
		if (ret == 0 && l2 && l2->active_refs > 0 && l2->l1_index == r.index)
			ret = check_l2(run, l2, err);
	}
	return ret;
}

int check_copied(struct check_run *run, struct qcow2_error *err)
{
	uint64_t start = run->header.l1_off;

	return check_read_range(run, start,
				start + (uint64_t)run->header.l1_entries * LAYOUT_L1_ENTRY_LEN,
				check_l1_piece, NULL, err);
}
