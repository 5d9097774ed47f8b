/* SPDX-License-Identifier: MIT */
/*
 * A new refcount structure in place of a damaged one. Blocks and table go where nothing is: free
 * clusters, or behind the end of the file if damage may hide references. They are durable before
 * twelve bytes of the header switch to them, so that at any moment either the old structure is
 * there as it was, or the new one as a whole.
 *
 * The old structure isn't in the new counts: it is free once the header has switched. If damage may
 * hide references no count becomes less than it was, and what had no readable count keeps one.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "check/run.h"
#include "format/refbits.h"

#define ENTRIES_MAX (LAYOUT_REFTABLE_BYTES_MAX / LAYOUT_REFTABLE_ENTRY_LEN)
#define NEEDED 1u /* a block that has no place yet */

struct rebuild {
	struct check_run *run;
	bool keep;	 /* no count may become less */
	uint64_t *place; /* of each block; 0: none is needed */
	uint64_t nplaces, cap;
	uint64_t table_idx, table_clusters;
	uint64_t free_from;  /* a table may be there */
	uint64_t block_from; /* all before are taken */
};

static int need_block(struct rebuild *rb, uint64_t block_idx, struct qcow2_error *err)
{
	int ret;

	if (block_idx >= ENTRIES_MAX)
		return error_set_at(
			err, -EFBIG, QCOW2_NO_OFFSET,
			check_cluster_off(rb->run, block_idx << rb->run->g.refblock_bits),
			"can't rebuild the refcounts: a table of more than %u bytes"
			" would be needed",
			LAYOUT_REFTABLE_BYTES_MAX);
	ret = check_want_word(&rb->place, &rb->nplaces, &rb->cap, block_idx, err);
	if (ret == 0 && rb->place[block_idx] == 0)
		rb->place[block_idx] = NEEDED;
	return ret;
}

static int need_blocks(struct rebuild *rb, struct qcow2_error *err)
{
	struct check_run *run = rb->run;
	uint32_t bits = run->g.refblock_bits;
	struct counts_span span;
	uint64_t from = 0;
	int ret = 0;

	while (ret == 0 && counts_next(&run->counts, from, UINT64_MAX, &span)) {
		ret = need_block(rb, span.first >> bits, err);
		from = ((span.first >> bits) + 1) << bits;
	}
	for (uint64_t i = 0; ret == 0 && rb->keep && i < run->nrefblocks; i++)
		if (run->refblocks[i] != 0)
			ret = need_block(rb, i, err);
	if (rb->keep && !run->reftable_usable)
		for (uint64_t i = 0; ret == 0 && i << bits < run->file_clusters; i++)
			ret = need_block(rb, i, err);
	return ret;
}

static int take(struct rebuild *rb, uint64_t from, uint64_t n, uint64_t *first,
		struct qcow2_error *err)
{
	struct check_run *run = rb->run;
	int ret = 0;

	*first = counts_find_free(&run->counts, from, n);
	for (uint64_t i = *first; ret == 0 && i < *first + n; i++) {
		ret = check_count_cluster(run, i << run->g.cluster_bits, 1, err);
		if (ret == 0)
			ret = need_block(rb, i >> run->g.refblock_bits, err);
	}
	return ret;
}

static int place_table(struct rebuild *rb, struct qcow2_error *err)
{
	uint64_t n = div_ceil(rb->nplaces * LAYOUT_REFTABLE_ENTRY_LEN, rb->run->g.cluster_size);

	if (n <= rb->table_clusters)
		return 0;
	for (uint64_t i = 0; i < rb->table_clusters; i++)
		if (counts_sub(&rb->run->counts, rb->table_idx + i, 1) < 0)
			return check_no_memory(err);
	rb->table_clusters = n;
	return take(rb, rb->free_from, n, &rb->table_idx, err);
}

/* Each block and the table need places, whose own counts need blocks, which need places. */
static int place_all(struct rebuild *rb, struct qcow2_error *err)
{
	uint64_t idx, before;
	bool more = true;
	int ret = 0;

	while (ret == 0 && more) {
		more = false;
		for (uint64_t i = 0; ret == 0 && i < rb->nplaces; i++) {
			if (rb->place[i] != NEEDED)
				continue;
			ret = take(rb, rb->block_from, 1, &idx, err);
			if (ret != 0)
				break;
			rb->block_from = idx + 1;
			rb->place[i] = idx << rb->run->g.cluster_bits;
			more = true;
		}
		before = rb->table_clusters;
		if (ret == 0)
			ret = place_table(rb, err);
		more |= rb->table_clusters != before;
	}
	return ret;
}

/* The old structure is free in the new one. */
static int drop_old(struct check_run *run, struct qcow2_error *err)
{
	uint64_t first = run->header.reftable_off >> run->g.cluster_bits;

	if (counts_run(&run->counts, first, check_reftable_clusters(run), -1) < 0)
		return check_no_memory(err);
	for (uint64_t i = 0; i < run->nrefblocks; i++)
		if (run->refblocks[i] > RUN_REFBLOCK_BAD &&
		    counts_sub(&run->counts, run->refblocks[i] >> run->g.cluster_bits, 1) < 0)
			return check_no_memory(err);
	counts_seal(&run->counts);
	return 0;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* Takes over the stored counts that are higher; where they are lost, what is in the file has one.
 */
static int keep_counts(struct rebuild *rb, uint64_t block_idx, struct qcow2_error *err)
{
	struct check_run *run = rb->run;
	const struct format_geometry *g = &run->g;
	uint64_t first = block_idx << g->refblock_bits, stored = 0, count;
	bool lost = !run->reftable_usable ||
		    (block_idx < run->nrefblocks && run->refblocks[block_idx] == RUN_REFBLOCK_BAD);
	int ret = 0;

	for (uint64_t i = 0; ret == 0 && i < g->refblock_entries; i++) {
		count = format_refcount_get(run->block, g->refcount_order, i);
		if (lost)
			stored = first + i < run->file_clusters;
		else
			ret = check_stored_get(run, first + i, &stored, err);
		if (stored > count)
			format_refcount_set(run->block, g->refcount_order, i, stored);
	}
	return ret;
}

static int write_block(struct rebuild *rb, uint64_t block_idx, struct qcow2_error *err)
{
	struct check_run *run = rb->run;
	const struct format_geometry *g = &run->g;
	uint64_t first = block_idx << g->refblock_bits, end = first + g->refblock_entries;
	struct counts_span span;
	int ret = 0;

	memset(run->block, 0, (size_t)g->cluster_size);
	for (uint64_t from = first; counts_next(&run->counts, from, end, &span);
	     from = span.first + span.nclusters)
		format_refcount_fill(run->block, g->refcount_order, span.first - first,
				     span.nclusters, min_u64(span.count, g->refcount_max));
	if (rb->keep)
		ret = keep_counts(rb, block_idx, err);
	if (ret == 0)
		ret = storage_write(run->file, run->block, (size_t)g->cluster_size,
				    rb->place[block_idx], err);
	return ret;
}

static int write_table(struct rebuild *rb, struct qcow2_error *err)
{
	struct check_run *run = rb->run;
	uint64_t cs = run->g.cluster_size, per_cluster = cs / LAYOUT_REFTABLE_ENTRY_LEN;
	int ret = 0;

	for (uint64_t i = 0; ret == 0 && i < rb->table_clusters; i++) {
		memset(run->block, 0, (size_t)cs);
		for (uint64_t k = 0; k < per_cluster && i * per_cluster + k < rb->nplaces; k++)
			store_be64(run->block + k * LAYOUT_REFTABLE_ENTRY_LEN,
				   rb->place[i * per_cluster + k]);
		ret = storage_write(run->file, run->block, (size_t)cs,
				    (rb->table_idx + i) << run->g.cluster_bits, err);
	}
	return ret;
}

static int switch_header(struct rebuild *rb, struct qcow2_error *err)
{
	uint64_t off = rb->table_idx << rb->run->g.cluster_bits;
	uint8_t bytes[LAYOUT_OFF_NB_SNAPSHOTS - LAYOUT_OFF_REFTABLE_OFFSET];
	int ret;

	store_be64(bytes, off);
	store_be32(bytes + (LAYOUT_OFF_REFTABLE_CLUSTERS - LAYOUT_OFF_REFTABLE_OFFSET),
		   (uint32_t)rb->table_clusters);
	ret = storage_flush(rb->run->file, err);
	if (ret == 0)
		ret = storage_write(rb->run->file, bytes, sizeof(bytes), LAYOUT_OFF_REFTABLE_OFFSET,
				    err);
	if (ret == 0)
		ret = storage_flush(rb->run->file, err);
	return ret;
}

/* The run goes on with the new structure. */
static void adopt(struct rebuild *rb)
{
	struct check_run *run = rb->run;

	mem_free(run->refblocks);
	run->refblocks = mem_steal(&rb->place);
	run->nrefblocks = rb->nplaces;
	run->refblocks_cap = rb->cap;
	run->header.reftable_off = rb->table_idx << run->g.cluster_bits;
	run->header.reftable_clusters = (uint32_t)rb->table_clusters;
	run->reftable_usable = true;
	run->needs_rebuild = false;
	check_stored_forget(run);
}

int check_rebuild(struct check_run *run, struct qcow2_error *err)
{
	struct rebuild rb = {.run = run, .keep = run->result->hides_references};
	int ret;

	if (rb.keep)
		rb.free_from = max_u64(run->file_clusters,
				       div_ceil(run->result->image_end_off, run->g.cluster_size));
	rb.block_from = rb.free_from;
	ret = need_blocks(&rb, err);
	if (ret == 0)
		ret = place_all(&rb, err);
	if (ret == 0)
		ret = drop_old(run, err);
	for (uint64_t i = 0; ret == 0 && i < rb.nplaces; i++)
		if (rb.place[i] != 0)
			ret = write_block(&rb, i, err);
	if (ret == 0)
		ret = write_table(&rb, err);
	if (ret == 0)
		ret = switch_header(&rb, err);
	if (ret == 0)
		adopt(&rb);
	mem_free(rb.place);
	return ret;
}
