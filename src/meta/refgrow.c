/* SPDX-License-Identifier: MIT */
/*
 * New refcount blocks, and a refcount table that moves because it became too small: sections 10.2
 * and 10.3 of the reference, placed as there; rules 6 and 7 of docs/ordering.md.
 *
 * One thread at a time grows (slot `growing`); it may need a block for the block that it makes, so
 * the work below the slot calls itself. Clusters that were found are marked in the allocator, so
 * that growing takes none of them, unlike in QEMU, which starts its search again.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/refbits.h"
#include "meta/engine.h"

static int make_block(struct meta *m, uint64_t idx, struct qcow2_error *err);

static struct meta_reftable *reftable(struct meta *m)
{
	return atomic_load(&m->engine->reftable);
}

/* ---- one block ---- */

/* Writes a count that is in the cache to its place, so that the next barrier covers it. */
static int write_count_of(struct meta *m, uint64_t cluster, struct qcow2_error *err)
{
	const uint64_t slice_len = min_u64(4096, m->geometry.cluster_size);
	uint64_t in_block = cluster & (m->geometry.refblock_entries - 1);
	uint64_t slice_off = align_down(in_block << m->geometry.refcount_order >> 3, slice_len);
	struct meta_cache *c = m->engine->refs;
	struct meta_slice slice;
	uint64_t block_off;
	uint8_t copy[4096];
	int ret = meta_refblock_off(m, cluster >> m->geometry.refblock_bits, &block_off, err);

	if (ret == 0)
		ret = meta_cache_get(c, block_off + slice_off, &slice, err);
	if (ret < 0)
		return ret;
	/* no commit may write an older copy of the slice after ours */
	meta_slot_take(&m->engine->order.commit);
	meta_cache_lock(c);
	memcpy(copy, slice.bytes, slice_len);
	meta_cache_unlock(c);
	ret = storage_write(m->file, copy, slice_len, block_off + slice_off, err);
	meta_slot_leave(&m->engine->order.commit);
	meta_cache_put(c, &slice);
	return ret;
}

/* Counts the new block's own cluster where another block does it. */
static int count_elsewhere(struct meta *m, uint64_t cluster, struct qcow2_error *err)
{
	uint64_t idx = cluster >> m->geometry.refblock_bits;
	uint64_t off;
	int ret = meta_refblock_off(m, idx, &off, err);

	if (ret == 0 && off == 0)
		ret = make_block(m, idx, err);
	if (ret == 0)
		ret = meta_refs_raise(m, cluster, 1, err);
	if (ret < 0)
		return ret;
	ret = write_count_of(m, cluster, err);
	if (ret < 0) /* it is given back, so it may have no count */
		(void)meta_refs_lower(m, cluster, 1, NULL, NULL, NULL);
	return ret;
}

/* Writes the block with nothing in it but its own count, if it has it. */
static int write_block(struct meta *m, const struct meta_run *at, bool counts_itself,
		       struct qcow2_error *err)
{
	const struct format_geometry *g = &m->geometry;
	cleanup_free uint8_t *block = mem_zalloc(1, g->cluster_size);
	uint64_t in_block = at->first & (g->refblock_entries - 1);
	uint64_t off = 0;
	uint64_t len = g->cluster_size;

	if (!block)
		return error_errno(err, -ENOMEM, "can't make a refcount block");
	if (counts_itself)
		format_refcount_set(block, g->refcount_order, in_block, 1);
	if (at->fresh) { /* the rest reads as zeros as it is */
		len = min_u64(512, len);
		off = align_down(in_block << g->refcount_order >> 3, len);
	}
	return storage_write(m->file, block + off, len, meta_off_of(m, at->first) + off, err);
}

static int write_entry(struct meta *m, uint64_t idx, uint64_t block_off, struct qcow2_error *err)
{
	uint64_t host_off = m->header.reftable_off + idx * LAYOUT_REFTABLE_ENTRY_LEN;
	uint8_t entry[LAYOUT_REFTABLE_ENTRY_LEN];
	int ret;

	storage_event(m->file, QCOW2_EVENT_REFBLOCK_ALLOC_HOOKUP);
	store_be64(entry, block_off);
	ret = storage_write(m->file, entry, sizeof(entry), host_off, err);
	if (ret == 0)
		__atomic_store_n(&reftable(m)->refblock_off[idx], block_off, __ATOMIC_RELEASE);
	return ret;
}

/* ---- a table that moves ---- */

struct move {
	uint64_t block_idx; /* the entry that didn't fit */
	uint64_t block_off; /* and what it points to */
	uint64_t first;	    /* cluster where the area begins: blocks, then the table */
	uint64_t nblocks;   /* new blocks in the area */
	uint64_t ntable;    /* clusters of the table */
	uint64_t nentries;  /* that can be used */
};

/* Section 10.3: how much has to be there so that it counts itself, and some more to grow. */
static int plan_move(struct meta *m, struct move *mv, struct qcow2_error *err)
{
	const struct format_geometry *g = &m->geometry;
	const uint64_t per_cluster = g->cluster_size / LAYOUT_REFTABLE_ENTRY_LEN;
	uint64_t behind = max_u64(meta_alloc_end(m), meta_cluster_of(m, mv->block_off) + 1);
	uint64_t clusters, blocks = 0, table = 0, n, last = 0;
	bool generous = false;

	behind = max_u64(behind, (mv->block_idx << g->refblock_bits) + 1);
	mv->first = div_ceil(behind, g->refblock_entries) << g->refblock_bits;
	clusters = mv->first;
	for (;;) {
		blocks = div_ceil(clusters + table + blocks, g->refblock_entries);
		table = div_ceil(blocks, per_cluster);
		n = clusters + blocks + table;
		if (n == last && generous)
			break;
		if (n == last) {
			clusters += div_ceil(table, 2);
			last = 0;
			generous = true;
		} else {
			last = n;
		}
	}
	mv->nentries = align_up(blocks + div_ceil(blocks, 2), per_cluster);
	mv->ntable = mv->nentries / per_cluster;
	if (mv->nentries * LAYOUT_REFTABLE_ENTRY_LEN > LAYOUT_REFTABLE_BYTES_MAX) {
		/* as large as it may be, if that is enough */
		mv->nentries = LAYOUT_REFTABLE_BYTES_MAX / LAYOUT_REFTABLE_ENTRY_LEN;
		mv->ntable = mv->nentries / per_cluster;
	}
	/* blocks for the area alone: what is below it has its own, or none yet */
	mv->nblocks = 0;
	do
		n = ++mv->nblocks;
	while (n << g->refblock_bits < n + mv->ntable);
	if ((mv->first >> g->refblock_bits) + mv->nblocks <= mv->nentries)
		return 0;
	return error_set(err, -EFBIG,
			 "the file can't grow further: its refcount table would pass the %u bytes "
			 "that the format allows",
			 LAYOUT_REFTABLE_BYTES_MAX);
}

static int write_area_blocks(struct meta *m, const struct move *mv, struct qcow2_error *err)
{
	const struct format_geometry *g = &m->geometry;
	uint64_t counted = mv->nblocks + mv->ntable;
	cleanup_free uint8_t *block = mem_alloc(1, g->cluster_size);
	int ret = 0;

	if (!block)
		return error_errno(err, -ENOMEM, "can't make a refcount block");
	for (uint64_t i = 0; i < mv->nblocks && ret == 0; i++) {
		uint64_t below = i << g->refblock_bits;
		uint64_t here = counted > below ? min_u64(counted - below, g->refblock_entries) : 0;

		memset(block, 0, g->cluster_size);
		format_refcount_fill(block, g->refcount_order, 0, here, 1);
		ret = storage_write(m->file, block, g->cluster_size, meta_off_of(m, mv->first + i),
				    err);
	}
	return ret;
}

static struct meta_reftable *build_table(struct meta *m, const struct move *mv)
{
	const struct meta_reftable *old = reftable(m);
	struct meta_reftable *t =
		mem_zalloc(1, sizeof(*t) + mv->nentries * sizeof(t->refblock_off[0]));
	uint64_t idx = mv->first >> m->geometry.refblock_bits;

	if (!t)
		return NULL;
	t->entries = (uint32_t)mv->nentries;
	for (uint32_t i = 0; i < old->entries; i++)
		t->refblock_off[i] = __atomic_load_n(&old->refblock_off[i], __ATOMIC_ACQUIRE);
	t->refblock_off[mv->block_idx] = mv->block_off;
	for (uint64_t i = 0; i < mv->nblocks; i++)
		t->refblock_off[idx + i] = meta_off_of(m, mv->first + i);
	return t;
}

static int write_table(struct meta *m, const struct move *mv, const struct meta_reftable *t,
		       struct qcow2_error *err)
{
	uint64_t len = mv->ntable << m->geometry.cluster_bits;
	cleanup_free uint8_t *bytes = mem_zalloc(1, len);

	if (!bytes)
		return error_errno(err, -ENOMEM, "can't make a refcount table");
	for (uint64_t i = 0; i < mv->nentries; i++)
		store_be64(bytes + i * LAYOUT_REFTABLE_ENTRY_LEN, t->refblock_off[i]);
	return storage_write(m->file, bytes, len, meta_off_of(m, mv->first + mv->nblocks), err);
}

/* Blocks, barrier, table, barrier, header, barrier. */
static int write_move(struct meta *m, const struct move *mv, const struct meta_reftable *t,
		      struct qcow2_error *err)
{
	int ret;

	storage_event(m->file, QCOW2_EVENT_REFBLOCK_ALLOC_WRITE_BLOCKS);
	ret = write_area_blocks(m, mv, err);

	if (ret == 0 && !META_BROKEN(6))
		ret = meta_barrier(m, err);
	storage_event(m->file, QCOW2_EVENT_REFBLOCK_ALLOC_WRITE_TABLE);
	if (ret == 0)
		ret = write_table(m, mv, t, err);
	if (ret == 0 && !META_BROKEN(7))
		ret = meta_barrier(m, err);
	if (ret < 0)
		return ret;
	storage_event(m->file, QCOW2_EVENT_REFBLOCK_ALLOC_SWITCH_TABLE);
	ret = meta_super_write_reftable(m, meta_off_of(m, mv->first + mv->nblocks),
					(uint32_t)mv->ntable, err);
	if (ret == 0)
		ret = meta_barrier(m, err);
	if (ret < 0) {
		struct qcow2_error why = {.code = ret};

		/* the header may or may not have changed: nothing may be counted any more */
		error_set(&why, ret, "it isn't known which refcount table the header points to");
		meta_fail(m, &why);
	}
	return ret;
}

static int guard_move(struct meta *m, const struct move *mv, struct qcow2_error *err)
{
	struct meta_guard *g = &m->engine->guard;
	int ret = meta_guard_add(g, META_REGION_REFTABLE, meta_off_of(m, mv->first + mv->nblocks),
				 mv->ntable << m->geometry.cluster_bits, err);

	for (uint64_t i = 0; i < mv->nblocks && ret == 0; i++)
		ret = meta_guard_add(g, META_REGION_REFBLOCK, meta_off_of(m, mv->first + i),
				     m->geometry.cluster_size, err);
	return ret;
}

static int move_table(struct meta *m, uint64_t idx, uint64_t block_off, struct qcow2_error *err)
{
	struct move mv = {.block_idx = idx, .block_off = block_off};
	uint64_t old_first = meta_cluster_of(m, m->header.reftable_off);
	uint64_t old_n = m->header.reftable_clusters;
	struct meta_reftable *t;
	int ret = plan_move(m, &mv, err);

	if (ret == 0)
		ret = meta_alloc_mark(m, mv.first, mv.nblocks + mv.ntable, err);
	if (ret < 0)
		return ret;
	t = build_table(m, &mv);
	ret = t ? guard_move(m, &mv, err)
		: error_errno(err, -ENOMEM, "can't make a refcount table");
	if (ret == 0)
		ret = write_move(m, &mv, t, err);
	if (ret < 0) {
		mem_free(t);
		return ret;
	}
	t->older = reftable(m);
	atomic_store(&m->engine->reftable, t);
	meta_guard_remove(&m->engine->guard, META_REGION_REFTABLE,
			  old_first << m->geometry.cluster_bits, old_n << m->geometry.cluster_bits);
	/* the header that pointed to it is durable, and nobody reads it: no need to wait */
	if (meta_refs_lower(m, old_first, old_n, NULL, NULL, NULL) == 0)
		meta_alloc_give_back(m, old_first, old_n);
	return 0;
}

/* ---- */

static int enter_block(struct meta *m, uint64_t idx, uint64_t block_off, struct qcow2_error *err)
{
	if (idx < reftable(m)->entries)
		return write_entry(m, idx, block_off, err);
	return move_table(m, idx, block_off, err);
}

/*
 * Sees to it that the cluster of the block for idx is counted, and that there is still no such
 * block: making the one that counts the cluster may have made it.
 */
static int count_block(struct meta *m, uint64_t idx, const struct meta_run *at, bool *made,
		       struct qcow2_error *err)
{
	uint64_t off = 0;
	int ret;

	*made = false;
	if (at->first >> m->geometry.refblock_bits == idx)
		return 0;
	ret = count_elsewhere(m, at->first, err);
	if (ret == 0)
		ret = meta_refblock_off(m, idx, &off, err);
	*made = ret == 0 && off != 0;
	return ret;
}

/* *entered: a table on disk may point to it, even if this failed. */
static int place_block(struct meta *m, uint64_t idx, const struct meta_run *at, bool *entered,
		       struct qcow2_error *err)
{
	bool counts_itself = at->first >> m->geometry.refblock_bits == idx;
	uint64_t block_off = meta_off_of(m, at->first);
	int ret = meta_guard_check(m, block_off, m->geometry.cluster_size, META_REGION_NONE, err);
	bool made = false;

	if (ret == 0)
		ret = count_block(m, idx, at, &made, err);
	if (ret == 0 && made)
		meta_untake(m, at);
	if (ret < 0 || made)
		return ret;
	storage_event(m->file, QCOW2_EVENT_REFBLOCK_ALLOC_WRITE);
	ret = write_block(m, at, counts_itself, err);
	if (ret == 0 && !META_BROKEN(6))
		ret = meta_barrier(m, err);
	if (ret == 0)
		ret = meta_guard_add(&m->engine->guard, META_REGION_REFBLOCK, block_off,
				     m->geometry.cluster_size, err);
	*entered = ret == 0;
	if (ret == 0)
		ret = enter_block(m, idx, block_off, err);
	if (ret < 0) {
		meta_guard_remove(&m->engine->guard, META_REGION_REFBLOCK, block_off,
				  m->geometry.cluster_size);
		if (!counts_itself && !*entered)
			(void)meta_refs_lower(m, at->first, 1, NULL, NULL, NULL);
	}
	return ret;
}

static int make_block(struct meta *m, uint64_t idx, struct qcow2_error *err)
{
	bool entered = false;
	struct meta_run at;
	int ret;

	if (idx >= LAYOUT_REFTABLE_BYTES_MAX / LAYOUT_REFTABLE_ENTRY_LEN)
		return error_set(err, -EFBIG,
				 "the file can't grow further: its refcount table would pass the "
				 "%u bytes that the format allows",
				 LAYOUT_REFTABLE_BYTES_MAX);
	storage_event(m->file, QCOW2_EVENT_REFBLOCK_ALLOC);
	ret = meta_alloc_find(m, 1, LAYOUT_HOST_OFF_MAX, &at, err);
	if (ret < 0)
		return ret;
	/* what was cached of that place when it was something else */
	meta_cache_forget(m->engine->refs, meta_off_of(m, at.first), m->geometry.cluster_size);
	ret = place_block(m, idx, &at, &entered, err);
	if (ret < 0 && !entered)
		meta_alloc_give_back(m, at.first, 1);
	return ret;
}

int meta_refs_grow(struct meta *m, uint64_t idx, struct qcow2_error *err)
{
	uint64_t off;
	int ret;

	meta_slot_take(&m->engine->growing);
	ret = meta_refblock_off(m, idx, &off, err); /* somebody may have been quicker */
	if (ret == 0 && off == 0)
		ret = make_block(m, idx, err);
	meta_slot_leave(&m->engine->growing);
	return ret;
}
