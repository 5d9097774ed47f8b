/* SPDX-License-Identifier: MIT */
/*
 * The refcount structure as it is stored. An entry of the refcount table that is damaged has no
 * block: the counts that it covers are unknown, taken for 0, and only a rebuild can mend it.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "check/run.h"
#include "format/refbits.h"

static int report_reftable(struct check_run *run, enum check_finding finding, uint64_t host_off,
			   uint64_t entry_off, uint64_t raw)
{
	struct check_report r = check_blank(finding);

	r.host_off = host_off;
	r.entry_off = entry_off;
	if (entry_off != QCOW2_NO_OFFSET)
		r.index = (entry_off - run->header.reftable_off) / LAYOUT_REFTABLE_ENTRY_LEN;
	r.stored = raw;
	run->needs_rebuild = true;
	return check_found(run, &r);
}

static int set_refblock(struct check_run *run, uint64_t idx, uint64_t off, struct qcow2_error *err)
{
	int ret = check_want_word(&run->refblocks, &run->nrefblocks, &run->refblocks_cap, idx, err);

	if (ret == 0)
		run->refblocks[idx] = off;
	return ret;
}

static int load_entry(struct check_run *run, uint64_t raw, uint64_t entry_off,
		      struct qcow2_error *err)
{
	struct format_reftable_entry e = format_reftable_decode(&run->g, raw);
	uint64_t off = e.faults ? RUN_REFBLOCK_BAD : e.refblock_off;
	int ret = 0;

	if (e.faults & FORMAT_FAULT_RESERVED)
		ret = report_reftable(run, CHECK_REFTABLE_RESERVED, e.refblock_off, entry_off, raw);
	if (ret == 0 && (e.faults & FORMAT_FAULT_UNALIGNED))
		ret = report_reftable(run, CHECK_REFTABLE_UNALIGNED, e.refblock_off, entry_off,
				      raw);
	if (ret == 0 && !e.faults && check_past_end(run, off, run->g.cluster_size)) {
		ret = report_reftable(run, CHECK_REFBLOCK_PAST_END, e.refblock_off, entry_off, raw);
		off = RUN_REFBLOCK_BAD;
	}
	if (ret != 0)
		return ret;
	return set_refblock(run, (entry_off - run->header.reftable_off) / LAYOUT_REFTABLE_ENTRY_LEN,
			    off, err);
}

static int load_piece(struct check_run *run, void *opaque, uint64_t host_off, uint8_t *bytes,
		      size_t len, struct qcow2_error *err)
{
	int ret = 0;

	(void)opaque;
	for (size_t i = 0; ret == 0 && i + 8 <= len; i += 8) {
		uint64_t raw = load_be64(bytes + i);

		if (raw != 0)
			ret = load_entry(run, raw, host_off + i, err);
	}
	return ret;
}

static uint64_t reftable_len(const struct check_run *run)
{
	return (uint64_t)run->header.reftable_clusters << run->g.cluster_bits;
}

int check_stored_load(struct check_run *run, struct qcow2_error *err)
{
	uint64_t off = run->header.reftable_off;
	int ret = 0;

	run->slices = mem_zalloc(RUN_STORED_SLICES, sizeof(*run->slices));
	if (!run->slices)
		return check_no_memory(err);
	if (run->header.reftable_clusters == 0)
		return 0; /* all counts are 0, and the header's is wrong at least */
	if (run->tolerated & FORMAT_HEADER_ALLOW_REFTABLE)
		return report_reftable(run, CHECK_REFTABLE_PLACE, off, QCOW2_NO_OFFSET, 0);
	run->reftable_usable = true;
	if (check_past_end(run, off, reftable_len(run)))
		ret = report_reftable(run, CHECK_REFTABLE_PAST_END, off, QCOW2_NO_OFFSET, 0);
	if (ret == 0)
		ret = check_read_range(run, off, off + reftable_len(run), load_piece, NULL, err);
	return ret;
}

uint64_t check_reftable_clusters(const struct check_run *run)
{
	uint64_t first = run->header.reftable_off >> run->g.cluster_bits;

	if (!run->reftable_usable || first >= run->file_clusters)
		return 0;
	return min_u64(run->header.reftable_clusters, run->file_clusters - first);
}

int check_stored_count(struct check_run *run, struct qcow2_error *err)
{
	uint64_t first = run->header.reftable_off >> run->g.cluster_bits;
	int ret = 0;

	if (counts_run(&run->counts, first, check_reftable_clusters(run), 1) < 0)
		return check_no_memory(err);
	for (uint64_t i = 0; ret == 0 && i < run->nrefblocks; i++)
		if (run->refblocks[i] > RUN_REFBLOCK_BAD)
			ret = check_count_cluster(run, run->refblocks[i], 1, err);
	return ret;
}

static int report_shared(struct check_run *run, enum check_finding finding, uint64_t cluster_idx,
			 uint64_t index, uint64_t count)
{
	struct check_report r = check_blank(finding);

	r.host_off = cluster_idx << run->g.cluster_bits;
	r.index = index;
	r.stored = 1;
	r.computed = count;
	run->needs_rebuild = true;
	return check_found(run, &r);
}

int check_stored_overlaps(struct check_run *run)
{
	uint64_t first = run->header.reftable_off >> run->g.cluster_bits, count;
	int ret = 0;

	for (uint64_t i = 0; ret == 0 && i < check_reftable_clusters(run); i++) {
		count = counts_get(&run->counts, first + i);
		if (count != 1)
			ret = report_shared(run, CHECK_REFTABLE_SHARED, first + i, i, count);
	}
	for (uint64_t i = 0; ret == 0 && i < run->nrefblocks; i++) {
		uint64_t idx = run->refblocks[i] >> run->g.cluster_bits;

		if (run->refblocks[i] <= RUN_REFBLOCK_BAD)
			continue;
		count = counts_get(&run->counts, idx);
		if (count != 1)
			ret = report_shared(run, CHECK_REFBLOCK_SHARED, idx, i, count);
	}
	return ret;
}

bool check_has_block(const struct check_run *run, uint64_t cluster_idx)
{
	uint64_t block_idx = cluster_idx >> run->g.refblock_bits;

	return block_idx < run->nrefblocks && run->refblocks[block_idx] > RUN_REFBLOCK_BAD &&
	       counts_get(&run->counts, run->refblocks[block_idx] >> run->g.cluster_bits) == 1;
}

void check_stored_forget(struct check_run *run)
{
	for (unsigned i = 0; i < RUN_STORED_SLICES; i++)
		run->slices[i].host_off = 0;
}

/* The slice of a refcount block that begins there. */
static int load_slice(struct check_run *run, uint64_t host_off, const uint8_t **bytes,
		      struct qcow2_error *err)
{
	struct run_stored_slice *s =
		&run->slices[host_off / RUN_STORED_SLICE_LEN % RUN_STORED_SLICES];
	int ret;

	if (s->host_off != host_off) {
		s->host_off = 0;
		ret = storage_read(run->file, s->bytes, sizeof(s->bytes), host_off, err);
		if (ret < 0)
			return ret;
		s->host_off = host_off;
	}
	*bytes = s->bytes;
	return 0;
}

/* The slice that has the cluster's count, and where in it. NULL: there is no block. */
static int find_slice(struct check_run *run, uint64_t cluster_idx, const uint8_t **bytes,
		      uint64_t *idx, struct qcow2_error *err)
{
	const struct format_geometry *g = &run->g;
	uint64_t block_idx = cluster_idx >> g->refblock_bits, slice_off, in_block;
	uint64_t per_slice = (uint64_t)RUN_STORED_SLICE_LEN * 8 >> g->refcount_order;

	*bytes = NULL;
	if (block_idx >= run->nrefblocks || run->refblocks[block_idx] <= RUN_REFBLOCK_BAD)
		return 0;
	/* A slice may pass the end of a block of less than its length; that part isn't looked at.
	 */
	in_block = cluster_idx & (g->refblock_entries - 1);
	slice_off = run->refblocks[block_idx] + in_block / per_slice * RUN_STORED_SLICE_LEN;
	*idx = in_block % per_slice;
	return load_slice(run, slice_off, bytes, err);
}

int check_stored_get(struct check_run *run, uint64_t cluster_idx, uint64_t *count,
		     struct qcow2_error *err)
{
	const uint8_t *bytes;
	uint64_t idx;
	int ret = find_slice(run, cluster_idx, &bytes, &idx, err);

	*count = ret == 0 && bytes ? format_refcount_get(bytes, run->g.refcount_order, idx) : 0;
	return ret;
}
