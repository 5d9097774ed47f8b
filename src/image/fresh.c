/* SPDX-License-Identifier: MIT */
/*
 * The allocator of an image in the making: see fresh.h. Placement follows what QEMU was seen to do
 * and is compared with it in tests/interop; a comment says so where it is not what one would
 * choose.
 *
 * A failure (no memory, no room) leaves the model usable only for image_fresh_release.
 */
#include "image/fresh.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/refbits.h"
#include "image/batch.h"

#define HEADER_CLUSTER 0
#define FIRST_TABLE_CLUSTER 1
#define FIRST_BLOCK_CLUSTER 2
#define FIRST_FREE_CLUSTER 3

/* A reference failed only because a refcount block had to be placed first: search again. */
#define AGAIN (-EAGAIN)

struct image_fresh_old_table {
	struct image_fresh_old_table *older;
	uint64_t *blocks;
	uint64_t first, nclusters;
};

/* ---- which clusters are in use ---- */

/* Index of the first hole that ends behind cluster. */
static size_t find_hole(const struct image_fresh *f, uint64_t cluster)
{
	size_t lo = 0, hi = f->nholes;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (f->holes[mid].first + f->holes[mid].nclusters <= cluster)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void remove_hole(struct image_fresh *f, size_t at)
{
	f->nholes--;
	memmove(&f->holes[at], &f->holes[at + 1], (f->nholes - at) * sizeof(*f->holes));
}

static int insert_hole(struct image_fresh *f, size_t at, uint64_t first, uint64_t nclusters,
		       struct qcow2_error *err)
{
	if (f->nholes == f->holes_cap) {
		size_t cap = f->holes_cap ? 2 * f->holes_cap : 16;
		struct image_fresh_run *bigger = mem_realloc(f->holes, cap, sizeof(*bigger));

		if (!bigger)
			return error_set(err, -ENOMEM, "no memory for %zu free runs", cap);
		f->holes = bigger;
		f->holes_cap = cap;
	}
	memmove(&f->holes[at + 1], &f->holes[at], (f->nholes - at) * sizeof(*f->holes));
	f->holes[at] = (struct image_fresh_run){first, nclusters};
	f->nholes++;
	return 0;
}

/* All of the range is free. */
static int mark_used(struct image_fresh *f, uint64_t first, uint64_t nclusters,
		     struct qcow2_error *err)
{
	uint64_t behind = first + nclusters;
	struct image_fresh_run *hole;
	uint64_t hole_end;
	size_t at;

	if (first >= f->end) {
		uint64_t gap = first - f->end;
		uint64_t gap_first = f->end;

		f->end = behind;
		return gap ? insert_hole(f, f->nholes, gap_first, gap, err) : 0;
	}
	at = find_hole(f, first);
	assert(at < f->nholes);
	hole = &f->holes[at];
	hole_end = hole->first + hole->nclusters;
	assert(hole->first <= first && behind <= hole_end);
	if (first == hole->first && behind == hole_end) {
		remove_hole(f, at);
	} else if (first == hole->first) {
		hole->first = behind;
		hole->nclusters = hole_end - behind;
	} else {
		hole->nclusters = first - hole->first;
		if (behind != hole_end)
			return insert_hole(f, at + 1, behind, hole_end - behind, err);
	}
	return 0;
}

/* All of the range is in use. */
static int mark_free(struct image_fresh *f, uint64_t first, uint64_t nclusters,
		     struct qcow2_error *err)
{
	size_t at = find_hole(f, first);
	uint64_t behind = first + nclusters;

	assert(behind <= f->end);
	assert(at == f->nholes || f->holes[at].first >= behind);
	if (at < f->nholes && f->holes[at].first == behind) {
		behind += f->holes[at].nclusters;
		remove_hole(f, at);
	}
	if (at > 0 && f->holes[at - 1].first + f->holes[at - 1].nclusters == first) {
		first = f->holes[at - 1].first;
		remove_hole(f, --at);
	}
	if (behind == f->end) {
		f->end = first;
		return 0;
	}
	return insert_hole(f, at, first, behind - first, err);
}

bool image_fresh_used(const struct image_fresh *f, uint64_t cluster, uint64_t *run)
{
	size_t at = find_hole(f, cluster);
	bool in_hole = at < f->nholes && f->holes[at].first <= cluster;
	uint64_t next;

	if (cluster >= f->end)
		next = UINT64_MAX;
	else if (in_hole)
		next = f->holes[at].first + f->holes[at].nclusters;
	else
		next = at < f->nholes ? f->holes[at].first : f->end;
	if (run)
		*run = next == UINT64_MAX ? UINT64_MAX : next - cluster;
	return cluster < f->end && !in_hole;
}

/* ---- the search (section 10.1) ---- */

static int find_free(struct image_fresh *f, uint64_t nclusters, uint64_t *first,
		     struct qcow2_error *err)
{
	uint64_t limit = (LAYOUT_HOST_OFF_MAX >> f->g.cluster_bits) + 1;
	uint64_t at = f->hint;

	while (at < f->end) {
		uint64_t run;
		bool used = image_fresh_used(f, at, &run);

		if (!used && run >= nclusters)
			break;
		at += run;
	}
	if (nclusters > limit || at > limit - nclusters)
		return error_set_at(err, -EFBIG, QCOW2_NO_OFFSET, QCOW2_NO_OFFSET,
				    "placing %llu clusters from cluster 0x%llx on: beyond the 2^56 "
				    "bytes that tables can point to",
				    (unsigned long long)nclusters, (unsigned long long)at);
	*first = at;
	f->hint = at + nclusters;
	return 0;
}

/* ---- refcount blocks and their table (sections 10.2 and 10.3) ---- */

static uint64_t table_entries_a_cluster(const struct image_fresh *f)
{
	return f->g.cluster_size / LAYOUT_REFTABLE_ENTRY_LEN;
}

static uint64_t table_entries(const struct image_fresh *f)
{
	return f->table_nclusters * table_entries_a_cluster(f);
}

struct table_plan {
	uint64_t nblocks;   /* blocks that describe everything, the new ones among them */
	uint64_t nclusters; /* of the table */
};

/* The fixed point of section 10.3 for so many clusters that are no refcount structures. */
static void plan_blocks(const struct image_fresh *f, uint64_t clusters, struct table_plan *plan)
{
	uint64_t total = 0, last;

	do {
		last = total;
		plan->nblocks =
			div_ceil(clusters + plan->nclusters + plan->nblocks, f->g.refblock_entries);
		plan->nclusters = div_ceil(plan->nblocks, table_entries_a_cluster(f));
		total = clusters + plan->nblocks + plan->nclusters;
	} while (total != last);
}

/* exact: no more than needed, for preallocation; else with room to grow. */
static int plan_table(const struct image_fresh *f, uint64_t clusters, bool exact,
		      struct table_plan *plan, struct qcow2_error *err)
{
	uint64_t max_nclusters = LAYOUT_REFTABLE_BYTES_MAX / f->g.cluster_size;
	uint64_t entries;

	*plan = (struct table_plan){0};
	plan_blocks(f, clusters, plan);
	if (!exact)
		plan_blocks(f, clusters + div_ceil(plan->nclusters, 2), plan);
	entries = exact ? plan->nblocks : plan->nblocks + div_ceil(plan->nblocks, 2);
	if (div_ceil(plan->nblocks, table_entries_a_cluster(f)) > max_nclusters)
		return error_set(err, -EFBIG,
				 "an image file of %llu clusters of %llu bytes needs a refcount "
				 "table beyond the limit of 8 MiB; choose larger clusters or "
				 "narrower refcounts",
				 (unsigned long long)clusters,
				 (unsigned long long)f->g.cluster_size);
	/* QEMU makes tables here that it can't open afterwards; the spare room ends at the limit.
	 */
	plan->nclusters = min_u64(div_ceil(entries, table_entries_a_cluster(f)), max_nclusters);
	return 0;
}

static void adopt_table(struct image_fresh *f, struct image_fresh_old_table *old, uint64_t *blocks,
			uint64_t first, uint64_t nclusters)
{
	*old = (struct image_fresh_old_table){
		.older = f->old_tables,
		.blocks = f->blocks,
		.first = f->table_first,
		.nclusters = f->table_nclusters,
	};
	f->old_tables = old;
	f->blocks = blocks;
	f->table_first = first;
	f->table_nclusters = nclusters;
}

/*
 * Moves the table to an area that begins at cluster `area`, behind everything that is in use: first
 * the blocks that are missing to describe the area and `extra` clusters more, then the table.
 * pending is a block that the table in use has no entry for.
 */
static int move_table(struct image_fresh *f, uint64_t area, uint64_t extra, bool exact,
		      const struct image_fresh_run *pending, struct qcow2_error *err)
{
	struct image_fresh_old_table *old;
	struct table_plan plan;
	uint64_t pos = area;
	uint64_t *blocks;
	int rc;

	rc = plan_table(f, area + extra, exact, &plan, err);
	if (rc < 0)
		return rc;
	blocks = mem_zalloc(plan.nclusters * table_entries_a_cluster(f), sizeof(*blocks));
	old = mem_zalloc(1, sizeof(*old));
	if (!blocks || !old) {
		mem_free(blocks);
		mem_free(old);
		return error_set(err, -ENOMEM, "no memory for a refcount table of %llu clusters",
				 (unsigned long long)plan.nclusters);
	}
	memcpy(blocks, f->blocks, table_entries(f) * sizeof(*blocks));
	if (pending)
		blocks[pending->first] = pending->nclusters;
	for (uint64_t idx = area >> f->g.refblock_bits; idx < plan.nblocks; idx++) {
		if (blocks[idx] == 0)
			blocks[idx] = pos++;
	}
	adopt_table(f, old, blocks, pos, plan.nclusters);
	rc = mark_used(f, area, pos + plan.nclusters - area, err);
	if (rc < 0)
		return rc;
	return mark_free(f, old->first, old->nclusters, err);
}

static int place_block(struct image_fresh *f, uint64_t cluster, struct qcow2_error *err);

/* Marks free clusters as used: 0, or AGAIN after a block was placed for one of them. */
static int reference(struct image_fresh *f, uint64_t first, uint64_t nclusters,
		     struct qcow2_error *err)
{
	uint64_t last_idx = (first + nclusters - 1) >> f->g.refblock_bits;
	int rc;

	for (uint64_t idx = first >> f->g.refblock_bits; idx <= last_idx; idx++) {
		if (idx < table_entries(f) && f->blocks[idx] != 0)
			continue;
		rc = place_block(f, max_u64(first, idx << f->g.refblock_bits), err);
		if (rc == AGAIN && f->hint > first)
			f->hint = first;
		return rc;
	}
	return mark_used(f, first, nclusters, err);
}

/* Places the refcount block that describes cluster; AGAIN on success. */
static int place_block(struct image_fresh *f, uint64_t cluster, struct qcow2_error *err)
{
	uint64_t idx = cluster >> f->g.refblock_bits;
	uint64_t block = 0, blocks_used, hint;
	int rc;

	rc = find_free(f, 1, &block, err);
	if (rc < 0)
		return rc;
	if (block >> f->g.refblock_bits == idx)
		rc = mark_used(f, block, 1, err);
	else
		rc = reference(f, block, 1, err);
	if (rc < 0)
		return rc;
	if (idx < table_entries(f)) {
		f->blocks[idx] = block;
		return AGAIN;
	}
	blocks_used = div_ceil(max_u64(cluster, block) + 1, f->g.refblock_entries);
	hint = f->hint; /* the old table's clusters aren't looked at again before a rewind */
	rc = move_table(f, blocks_used << f->g.refblock_bits, 0, false,
			&(struct image_fresh_run){.first = idx, .nclusters = block}, err);
	f->hint = hint;
	return rc < 0 ? rc : AGAIN;
}

/* ---- the calls ---- */

uint64_t image_fresh_refcount_clusters(const struct format_geometry *g, uint64_t clusters)
{
	const struct image_fresh f = {.g = *g};
	struct table_plan plan = {0};

	plan_blocks(&f, clusters, &plan);
	return plan.nblocks + plan.nclusters;
}

int image_fresh_init(struct image_fresh *f, const struct format_geometry *g,
		     struct qcow2_error *err)
{
	*f = (struct image_fresh){
		.g = *g,
		.end = FIRST_FREE_CLUSTER,
		.table_first = FIRST_TABLE_CLUSTER,
		.table_nclusters = 1,
	};
	f->blocks = mem_zalloc(table_entries(f), sizeof(*f->blocks));
	if (!f->blocks)
		return error_set(err, -ENOMEM, "no memory for a refcount table");
	f->blocks[0] = FIRST_BLOCK_CLUSTER;
	return 0;
}

void image_fresh_release(struct image_fresh *f)
{
	struct image_fresh_old_table *old;

	while ((old = f->old_tables) != NULL) {
		f->old_tables = old->older;
		mem_free(old->blocks);
		mem_free(old);
	}
	mem_free(f->blocks);
	mem_free(f->holes);
	*f = (struct image_fresh){0};
}

int image_fresh_alloc(struct image_fresh *f, uint64_t nclusters, uint64_t *first,
		      struct qcow2_error *err)
{
	int rc;

	if (nclusters == 0) {
		*first = f->hint;
		return 0;
	}
	do {
		rc = find_free(f, nclusters, first, err);
		if (rc < 0)
			return rc;
		rc = reference(f, *first, nclusters, err);
	} while (rc == AGAIN);
	return rc;
}

/* As many free clusters at the hint as follow each other in one refcount block, which is there. */
static int take_described(struct image_fresh *f, uint64_t nclusters, uint64_t *taken,
			  struct qcow2_error *err)
{
	uint64_t idx = f->hint >> f->g.refblock_bits;
	uint64_t run;
	int rc;

	*taken = 0;
	if (idx >= table_entries(f) || f->blocks[idx] == 0 || image_fresh_used(f, f->hint, &run))
		return 0;
	run = min_u64(run, ((idx + 1) << f->g.refblock_bits) - f->hint);
	*taken = min_u64(run, nclusters);
	rc = mark_used(f, f->hint, *taken, err);
	f->hint += *taken;
	return rc;
}

int image_fresh_alloc_each(struct image_fresh *f, uint64_t nclusters, struct qcow2_error *err)
{
	uint64_t first = 0, taken;
	int rc = 0;

	while (rc == 0 && nclusters > 0) {
		rc = image_fresh_alloc(f, 1, &first, err); /* places the next block */
		nclusters--;
		if (rc == 0 && nclusters > 0) {
			rc = take_described(f, nclusters, &taken, err);
			nclusters -= taken;
		}
	}
	return rc;
}

int image_fresh_alloc_at(struct image_fresh *f, uint64_t first, uint64_t nclusters, uint64_t *taken,
			 struct qcow2_error *err)
{
	uint64_t run;
	int rc;

	do {
		*taken = 0;
		if (image_fresh_used(f, first, &run))
			return 0;
		*taken = min_u64(run, nclusters);
		if (first + *taken - 1 > LAYOUT_HOST_OFF_MAX >> f->g.cluster_bits)
			return error_set(err, -EFBIG,
					 "placing %llu clusters at cluster 0x%llx: beyond the 2^56 "
					 "bytes that tables can point to",
					 (unsigned long long)*taken, (unsigned long long)first);
		rc = reference(f, first, *taken, err);
	} while (rc == AGAIN);
	return rc;
}

int image_fresh_free(struct image_fresh *f, uint64_t first, uint64_t nclusters,
		     struct qcow2_error *err)
{
	if (first < f->hint)
		f->hint = first;
	return mark_free(f, first, nclusters, err);
}

void image_fresh_rewind(struct image_fresh *f)
{
	f->hint = 0;
}

int image_fresh_reserve(struct image_fresh *f, uint64_t nclusters, uint64_t *first,
			struct qcow2_error *err)
{
	uint64_t old_first = f->table_first;
	int rc;

	rc = move_table(f, f->end, nclusters, true, NULL, err);
	if (rc < 0)
		return rc;
	f->hint = min_u64(f->hint, old_first);
	*first = f->end;
	return 0;
}

uint64_t image_fresh_count_refcounts(const struct image_fresh *f)
{
	uint64_t n = f->table_nclusters;

	for (uint64_t idx = 0; idx < table_entries(f); idx++)
		n += f->blocks[idx] != 0;
	return n;
}

/* ---- writing ---- */

static void encode_table(uint8_t *dst, const uint64_t *blocks, uint64_t nentries, uint32_t bits)
{
	for (uint64_t i = 0; i < nentries; i++)
		store_be64(dst + i * LAYOUT_REFTABLE_ENTRY_LEN, blocks[i] << bits);
}

static int write_table(const struct image_fresh *f, struct image_batch *batch,
		       const uint64_t *blocks, uint64_t first, uint64_t nclusters, bool if_free,
		       struct qcow2_error *err)
{
	uint64_t per_cluster = table_entries_a_cluster(f);
	uint8_t *piece;
	int rc;

	for (uint64_t i = 0; i < nclusters; i++) {
		if (if_free && image_fresh_used(f, first + i, NULL))
			continue;
		rc = image_batch_place(batch, (first + i) << f->g.cluster_bits, f->g.cluster_size,
				       &piece, err);
		if (rc < 0)
			return rc;
		encode_table(piece, blocks + i * per_cluster, per_cluster, f->g.cluster_bits);
	}
	return 0;
}

/* What abandoned tables left behind, where nothing else came to lie. */
static int write_old_tables(const struct image_fresh *f, struct image_batch *batch,
			    const struct image_fresh_old_table *old, struct qcow2_error *err)
{
	int rc = 0;

	if (!old)
		return 0;
	rc = write_old_tables(f, batch, old->older, err);
	if (rc < 0)
		return rc;
	return write_table(f, batch, old->blocks, old->first, old->nclusters, true, err);
}

/* Counts of the clusters from first on, all those that one block describes. */
static void fill_block(const struct image_fresh *f, uint8_t *block, uint64_t first)
{
	uint64_t behind = first + f->g.refblock_entries;
	uint64_t order = f->g.refcount_order;

	memset(block, 0, f->g.cluster_size);
	while (first < behind) {
		uint64_t run;
		bool used = image_fresh_used(f, first, &run);

		run = min_u64(run, behind - first);
		if (used)
			format_refcount_fill(block, (uint32_t)order,
					     first & (f->g.refblock_entries - 1), run, 1);
		first += run;
	}
}

static int write_blocks(const struct image_fresh *f, struct image_batch *batch,
			const struct image_fresh_patch *patch, struct qcow2_error *err)
{
	uint8_t *block;
	int rc;

	for (uint64_t idx = 0; idx < table_entries(f); idx++) {
		uint64_t first = idx << f->g.refblock_bits;

		if (f->blocks[idx] == 0)
			continue;
		rc = image_batch_place(batch, f->blocks[idx] << f->g.cluster_bits,
				       f->g.cluster_size, &block, err);
		if (rc < 0)
			return rc;
		fill_block(f, block, first);
		if (patch)
			patch->fn(patch->opaque, block, first);
	}
	return 0;
}

int image_fresh_write(const struct image_fresh *f, struct qcow2_storage st,
		      const struct image_fresh_patch *patch, struct progress_work *progress,
		      struct qcow2_error *err)
{
	struct image_batch batch;
	int rc;

	rc = image_batch_init(&batch, st, f->g.cluster_size, err);
	if (rc < 0)
		return rc;
	batch.progress = progress;
	rc = write_old_tables(f, &batch, f->old_tables, err);
	if (rc < 0)
		goto out;
	rc = write_table(f, &batch, f->blocks, f->table_first, f->table_nclusters, false, err);
	if (rc < 0)
		goto out;
	rc = write_blocks(f, &batch, patch, err);
	if (rc < 0)
		goto out;
	rc = image_batch_flush(&batch, err);
out:
	image_batch_release(&batch);
	error_prefix(rc < 0 ? err : NULL, "writing the refcounts");
	return rc;
}
