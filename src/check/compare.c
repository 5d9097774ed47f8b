/* SPDX-License-Identifier: MIT */
/*
 * The stored refcounts against the references that there are, for every cluster: those in the file,
 * those behind its end that are counted, and those behind the end of the refcount table. What has
 * no block is compared by the spans in which there are references at all, so that neither a huge
 * file nor a huge table costs more than what is in them.
 */
#include <string.h>

#include "base/num.h"
#include "check/run.h"
#include "format/refbits.h"

/* Neighbours that have the same fault become one report. */
struct compare {
	struct check_run *run;
	struct counts_span same; /* nclusters 0: none; count is the computed one */
	uint64_t stored;
	bool has_block;
	uint64_t end_idx; /* behind the last cluster with any count */
};

static enum check_finding judge(const struct check_run *run, uint64_t stored, uint64_t computed)
{
	if (computed > run->g.refcount_max)
		return CHECK_REFCOUNT_OVERFLOW;
	if (stored > computed)
		return CHECK_LEAK;
	return stored == 0 ? CHECK_REFCOUNT_ZERO : CHECK_REFCOUNT_LOW;
}

static int flush_report(struct compare *c)
{
	struct check_run *run = c->run;
	struct check_report r;
	enum check_finding finding;

	if (c->same.nclusters == 0)
		return 0;
	finding = judge(run, c->stored, c->same.count);
	r = check_blank(finding);
	r.host_off = check_cluster_off(run, c->same.first);
	r.nclusters = c->same.nclusters;
	r.stored = c->stored;
	r.computed = c->same.count;
	/* There is nothing to put the count into. */
	if (finding != CHECK_LEAK && !c->has_block)
		run->needs_rebuild = true;
	c->same.nclusters = 0;
	return check_found(run, &r);
}

static int add(struct compare *c, uint64_t first, uint64_t n, uint64_t stored, uint64_t computed)
{
	int ret;

	c->end_idx = max_u64(c->end_idx, first + n);
	if (stored == computed)
		return 0;
	if (c->same.nclusters > 0 && c->same.first + c->same.nclusters == first &&
	    c->stored == stored && c->same.count == computed) {
		c->same.nclusters += n;
		return 0;
	}
	ret = flush_report(c);
	c->same = (struct counts_span){first, n, computed};
	c->stored = stored;
	return ret;
}

/* Clusters [from, end), all of them stored as 0: their block is empty, or there is none. */
static int compare_zeros(struct compare *c, uint64_t from, uint64_t end, bool has_block)
{
	struct counts_span span;
	int ret = 0;

	c->has_block = has_block;
	while (ret == 0 && counts_next(&c->run->counts, from, end, &span)) {
		/* some of those may have been called somebody's own */
		c->run->copied_wrong++;
		ret = add(c, span.first, span.nclusters, 0, span.count);
		from = span.first + span.nclusters;
	}
	return ret != 0 ? ret : flush_report(c);
}

/* Does anybody say of the cluster what isn't so? */
static bool is_belied(unsigned claims, uint64_t stored)
{
	return (claims & COUNTS_ALONE && stored != 1) || (claims & COUNTS_SHARED && stored == 1);
}

/* Most of an image is as it should be, and the same over long stretches. */
static bool stride_is_right(struct compare *c, uint64_t first, const uint8_t *block, uint64_t idx,
			    uint64_t n)
{
	const struct check_run *run = c->run;
	struct counts_state same;

	if (!counts_same(&run->counts, first, n, &same) || same.count > run->g.refcount_max ||
	    is_belied(same.claims, same.count) ||
	    !format_refcount_all(block, run->g.refcount_order, idx, n, same.count))
		return false;
	if (same.count > 0)
		c->end_idx = max_u64(c->end_idx, first + n);
	return true;
}

static int compare_group(struct compare *c, uint64_t first, const uint8_t *block, uint64_t idx)
{
	struct check_run *run = c->run;
	uint32_t order = run->g.refcount_order;
	struct counts_state group[COUNTS_CHUNK];
	int ret = 0;

	if (!counts_states(&run->counts, first, group))
		memset(group, 0, sizeof(group));
	for (unsigned i = 0; ret == 0 && i < COUNTS_CHUNK; i++) {
		uint64_t stored = format_refcount_get(block, order, idx + i);

		run->copied_wrong += is_belied(group[i].claims, stored);
		if (stored != 0 || group[i].count != 0)
			ret = add(c, first + i, 1, stored, group[i].count);
	}
	return ret;
}

static int compare_stride(struct compare *c, uint64_t first, const uint8_t *block, uint64_t idx,
			  uint64_t n)
{
	int ret = 0;

	if (stride_is_right(c, first, block, idx, n))
		return 0;
	for (uint64_t i = 0; ret == 0 && i < n; i += COUNTS_CHUNK)
		if (!stride_is_right(c, first + i, block, idx + i, COUNTS_CHUNK))
			ret = compare_group(c, first + i, block, idx + i);
	return ret;
}

static int compare_block(struct compare *c, uint64_t block_idx, struct qcow2_error *err)
{
	struct check_run *run = c->run;
	const struct format_geometry *g = &run->g;
	uint64_t first = block_idx << g->refblock_bits, off = run->refblocks[block_idx], stride;
	bool zeros = true;
	int ret = 0;

	if (off <= RUN_REFBLOCK_BAD || counts_get(&run->counts, off >> g->cluster_bits) != 1)
		return compare_zeros(c, first, first + g->refblock_entries, false);
	ret = check_read_cluster(run, off, run->block, &zeros, err);
	if (ret < 0)
		return ret;
	if (zeros)
		return compare_zeros(c, first, first + g->refblock_entries, true);
	c->has_block = true;
	stride = min_u64(CHUNK_CLUSTERS, g->refblock_entries);
	for (uint64_t i = 0; ret == 0 && i < g->refblock_entries; i += stride)
		ret = compare_stride(c, first + i, run->block, i, stride);
	return ret != 0 ? ret : flush_report(c);
}

int check_compare(struct check_run *run, struct qcow2_error *err)
{
	struct compare c = {.run = run};
	int ret = 0;

	for (uint64_t i = 0; ret == 0 && i < run->nrefblocks; i++) {
		ret = compare_block(&c, i, err);
		if (ret == 0)
			ret = check_tick(run, run->nl2 + i + 1);
	}
	if (ret == 0)
		ret = compare_zeros(&c, run->nrefblocks << run->g.refblock_bits, UINT64_MAX, false);
	run->result->image_end_off = check_cluster_off(run, c.end_idx);
	return ret;
}
