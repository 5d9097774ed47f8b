/* SPDX-License-Identifier: MIT */
/*
 * The stored refcounts against the references that there are, for every cluster: those in the file,
 * those behind its end that are counted, and those behind the end of the refcount table. What has
 * no block is compared by the spans in which there are references at all, so that neither a huge
 * file nor a huge table costs more than what is in them.
 *
 * Any thread reads blocks and sees whether they are as they should be; what isn't is looked at in
 * the caller's, block after block.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "check/pipe.h"
#include "check/run.h"
#include "format/refbits.h"

/* What there is in a part of the file that is as it should be. */
struct tally {
	uint64_t end_idx; /* behind the last cluster with any count */
	uint64_t used;	  /* clusters of the file that something refers to */
};

/* Neighbours that have the same fault become one report. */
struct compare {
	/* immutable */
	struct check_run *run;
	uint64_t part_len, part_entries; /* as much of a block as a piece has of it */
	uint64_t stride;		 /* entries of a part that are judged together */
	unsigned blocks;		 /* in a piece */
	unsigned parts;			 /* of a block, each a piece */
	uint32_t *present;		 /* blocks that there are */
	uint64_t npresent;
	_Atomic bool sparse; /* a block was empty: ask for holes */
	/* the caller's */
	uint64_t next_block;	 /* that is to be compared */
	struct counts_span same; /* nclusters 0: none; count is the computed one */
	uint64_t stored;
	bool has_block;
	struct tally tally;
};

static enum check_finding judge(const struct check_run *run, uint64_t stored, uint64_t computed)
{
	if (computed > run->g.refcount_max)
		return CHECK_REFCOUNT_OVERFLOW;
	if (stored > computed)
		return CHECK_LEAK;
	return stored == 0 ? CHECK_REFCOUNT_ZERO : CHECK_REFCOUNT_LOW;
}

static void count_used(const struct check_run *run, struct tally *t, uint64_t first, uint64_t n)
{
	t->end_idx = max_u64(t->end_idx, first + n);
	if (first < run->file_clusters)
		t->used += min_u64(n, run->file_clusters - first);
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

	if (computed > 0)
		count_used(c->run, &c->tally, first, n);
	c->tally.end_idx = max_u64(c->tally.end_idx, first + n);
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

/* Clusters [from, end), that no block counts. */
static int compare_zeros(struct compare *c, uint64_t from, uint64_t end)
{
	struct counts_span span;
	int ret = 0;

	c->has_block = false;
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
	return claims & (stored == 1 ? COUNTS_SHARED : COUNTS_ALONE);
}

/* Most of an image is as it should be, and the same over long stretches. Any thread. */
static bool is_right(const struct check_run *run, uint64_t first, const uint8_t *block,
		     uint64_t idx, uint64_t n, struct tally *tally)
{
	struct counts_state same;

	if (!counts_same(&run->counts, first, n, &same) || same.count > run->g.refcount_max ||
	    is_belied(same.claims, same.count) ||
	    !format_refcount_all(block, run->g.refcount_order, idx, n, same.count))
		return false;
	if (same.count > 0)
		count_used(run, tally, first, n);
	return true;
}

bool check_counts_fit(const struct check_run *run, uint64_t first, const uint8_t *block,
		      uint64_t idx, uint64_t n)
{
	struct tally unused = {0};

	return is_right(run, first, block, idx, n, &unused);
}

/* The same of 64 clusters, each with a state of its own: so it is where there are snapshots. */
static bool is_each_right(const struct check_run *run, uint64_t first, const uint8_t *block,
			  uint64_t idx, struct tally *tally)
{
	struct counts_state group[COUNTS_CHUNK];
	uint64_t stored[COUNTS_CHUNK], wrong = 0, used = 0, end = 0;

	if (first + COUNTS_CHUNK > run->file_clusters || !counts_states(&run->counts, first, group))
		return false;
	format_refcount_load(block, run->g.refcount_order, idx, COUNTS_CHUNK, stored);
	for (unsigned i = 0; i < COUNTS_CHUNK; i++) {
		wrong |= (stored[i] ^ group[i].count) | is_belied(group[i].claims, stored[i]);
		used += stored[i] != 0;
		end = stored[i] != 0 ? i + 1 : end;
	}
	if (wrong != 0)
		return false;
	tally->used += used;
	tally->end_idx = max_u64(tally->end_idx, end > 0 ? first + end : 0);
	return true;
}

/* A stride of a block. */
static bool is_stride_right(const struct check_run *run, uint64_t first, const uint8_t *block,
			    uint64_t idx, uint64_t n, struct tally *tally)
{
	struct tally sum = *tally;

	if (is_right(run, first, block, idx, n, tally))
		return true;
	for (uint64_t i = 0; i < n; i += COUNTS_CHUNK)
		if (!is_right(run, first + i, block, idx + i, COUNTS_CHUNK, &sum) &&
		    !is_each_right(run, first + i, block, idx + i, &sum))
			return false;
	*tally = sum;
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

/* Counts of n clusters from first on, which the entries from idx on are. */
static int compare_counts(struct compare *c, uint64_t first, const uint8_t *bytes, uint64_t idx,
			  uint64_t n)
{
	int ret = 0;

	for (uint64_t i = 0; ret == 0 && i < n; i += COUNTS_CHUNK)
		if (!is_right(c->run, first + i, bytes, idx + i, COUNTS_CHUNK, &c->tally))
			ret = compare_group(c, first + i, bytes, idx + i);
	return ret;
}

/* ---- blocks, read by any thread ------------------------------------------------------------ */

#define PIECE (64u << 10)
#define PIECE_BLOCKS (PIECE >> LAYOUT_CLUSTER_BITS_MIN)
#define PIECE_STRIDES (PIECE * 8 / CHUNK_CLUSTERS) /* of entries of one bit */
_Static_assert(PIECE_STRIDES >= PIECE_BLOCKS, "a small block is one stride");

/* A part of a large block, or several small ones. */
struct stored_piece {
	bool right[PIECE_STRIDES];
	struct tally tally[PIECE_BLOCKS]; /* of the strides of each block that are right */
	uint8_t bytes[PIECE];
};

/* Is there a block that one could trust? */
static bool is_present(const struct check_run *run, uint64_t block_idx)
{
	uint64_t off = run->refblocks[block_idx];

	return off > RUN_REFBLOCK_BAD && counts_get(&run->counts, off >> run->g.cluster_bits) == 1;
}

/* So many of the n blocks from the i-th on lie one behind the other. */
static unsigned neighbours(const struct compare *c, uint64_t i, unsigned n)
{
	const uint64_t *off = c->run->refblocks, cs = c->run->g.cluster_size;
	unsigned count = 1;

	while (count < n && off[c->present[i + count]] == off[c->present[i]] + count * cs)
		count++;
	return count;
}

static uint64_t first_cluster(const struct compare *c, uint64_t block_idx, uint64_t part)
{
	return (block_idx << c->run->g.refblock_bits) + part * c->part_entries;
}

/* The flags of the i-th block's strides. */
static bool *strides_of(const struct compare *c, struct stored_piece *p, unsigned i)
{
	return p->right + i * (c->part_entries / c->stride);
}

static void judge_part(const struct compare *c, uint64_t first, struct stored_piece *p, unsigned i)
{
	const uint8_t *bytes = p->bytes + i * c->part_len;
	bool *right = strides_of(c, p, i);

	p->tally[i] = (struct tally){0};
	for (uint64_t k = 0; k < c->part_entries; k += c->stride)
		*right++ = is_stride_right(c->run, first + k, bytes, k, c->stride, &p->tally[i]);
}

static int make_piece(void *opaque, uint64_t unit, void *slot, struct qcow2_error *err)
{
	struct compare *c = opaque;
	const struct check_run *run = c->run;
	struct stored_piece *p = slot;
	uint64_t at = unit / c->parts * c->blocks, part = unit % c->parts;
	unsigned n = (unsigned)min_u64(c->blocks, c->npresent - at), joined;
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < n; i += joined) {
		joined = neighbours(c, at + i, n - i);
		ret = check_read_part(run, run->refblocks[c->present[at + i]] + part * PIECE,
				      p->bytes + i * c->part_len, (size_t)(joined * c->part_len),
				      &c->sparse, err);
		for (unsigned k = i; ret == 0 && k < i + joined; k++)
			judge_part(c, first_cluster(c, c->present[at + k], part), p, k);
	}
	return ret;
}

/* What has no block, before that one. */
static int take_missing(struct compare *c, uint64_t block_idx)
{
	uint32_t bits = c->run->g.refblock_bits;
	int ret = 0;

	for (; ret == 0 && c->next_block < block_idx; c->next_block++)
		ret = compare_zeros(c, c->next_block << bits, (c->next_block + 1) << bits);
	return ret;
}

static int take_part(struct compare *c, uint64_t block_idx, uint64_t part, struct stored_piece *p,
		     unsigned i)
{
	uint64_t first = first_cluster(c, block_idx, part);
	const bool *right = strides_of(c, p, i);
	int ret = take_missing(c, block_idx);

	c->has_block = true;
	c->tally.end_idx = max_u64(c->tally.end_idx, p->tally[i].end_idx);
	c->tally.used += p->tally[i].used;
	for (uint64_t k = 0; ret == 0 && k < c->part_entries; k += c->stride)
		if (!*right++)
			ret = compare_counts(c, first + k, p->bytes + i * c->part_len, k,
					     c->stride);
	if (ret != 0 || part + 1 < c->parts)
		return ret;
	c->next_block = block_idx + 1;
	return flush_report(c);
}

static int take_piece(void *opaque, uint64_t unit, void *slot, struct qcow2_error *err)
{
	struct compare *c = opaque;
	uint64_t at = unit / c->parts * c->blocks;
	unsigned n = (unsigned)min_u64(c->blocks, c->npresent - at);
	int ret = 0;

	(void)err;
	for (unsigned i = 0; ret == 0 && i < n; i++)
		ret = take_part(c, c->present[at + i], unit % c->parts, slot, i);
	return ret == 0 ? check_tick(c->run, c->run->nl2 + c->next_block) : ret;
}

/* Is anything referenced behind the blocks that there are without a gap? */
static bool missing_below_counts(const struct compare *c)
{
	uint64_t n = c->npresent;
	bool gap = n > 0 && c->present[n - 1] != n - 1;

	return (gap ? 0 : n) << c->run->g.refblock_bits <=
	       c->run->counts.chunks.key_max * CHUNK_CLUSTERS;
}

static int list_present(struct compare *c, struct qcow2_error *err)
{
	struct check_run *run = c->run;

	for (uint64_t i = 0; i < run->nrefblocks; i++)
		c->npresent += is_present(run, i);
	c->present = mem_alloc(c->npresent, sizeof(*c->present));
	if (!c->present)
		return check_no_memory(err);
	c->npresent = 0;
	for (uint64_t i = 0; i < run->nrefblocks; i++)
		if (is_present(run, i))
			c->present[c->npresent++] = (uint32_t)i;
	/* what has no block is looked for in the counts while others read them */
	if (missing_below_counts(c))
		counts_sort(&run->counts);
	return 0;
}

int check_compare(struct check_run *run, struct qcow2_error *err)
{
	uint64_t cs = run->g.cluster_size;
	struct compare c = {
		.run = run,
		.part_len = min_u64(cs, PIECE),
		.part_entries = min_u64(cs, PIECE) * 8 >> run->g.refcount_order,
		.blocks = (unsigned)max_u64(1, PIECE / cs),
		.parts = (unsigned)max_u64(1, cs / PIECE),
	};
	struct check_pipe_job job = {
		.slot_len = sizeof(struct stored_piece),
		.make = make_piece,
		.take = take_piece,
		.opaque = &c,
	};
	int ret = list_present(&c, err);

	c.stride = min_u64(CHUNK_CLUSTERS, c.part_entries);
	job.nunits = div_ceil(c.npresent, c.blocks) * c.parts;
	if (ret == 0)
		ret = check_pipe_run(&job, 0, err);
	if (ret == 0)
		ret = take_missing(&c, run->nrefblocks);
	if (ret == 0)
		ret = compare_zeros(&c, run->nrefblocks << run->g.refblock_bits, UINT64_MAX);
	run->result->image_end_off = check_cluster_off(run, c.tally.end_idx);
	run->used_clusters = c.tally.used;
	mem_free(c.present);
	return ret;
}
