/* SPDX-License-Identifier: MIT */
/*
 * New refcount blocks, and a refcount table that moves because it became too small: sections 10.2
 * and 10.3 of the reference, placed as there; rules 6 and 7 of docs/ordering.md.
 *
 * One thread at a time grows (slot `growing`); it may need a block for the block that it makes, so
 * the work below the slot calls itself. Clusters that were found are marked in the allocator, so
 * that growing takes none of them, unlike in QEMU, which starts its search again.
 *
 * A disk that grows with all its clusters mapped takes thousands of blocks: they become durable
 * together, ahead of the next barrier of whoever it may be.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/refbits.h"
#include "meta/engine.h"

#define ENTRIES_TOGETHER 256
#define REFTABLE_ENTRIES_MAX (LAYOUT_REFTABLE_BYTES_MAX / LAYOUT_REFTABLE_ENTRY_LEN)

static int make_block(struct meta *m, uint64_t idx, struct qcow2_error *err);

static int table_full(struct qcow2_error *err)
{
	return error_set(err, -EFBIG,
			 "the file can't grow further: its refcount table would pass the %u bytes "
			 "that the format allows",
			 LAYOUT_REFTABLE_BYTES_MAX);
}

static struct meta_reftable *reftable(struct meta *m)
{
	return atomic_load(&m->engine->reftable);
}

/* ---- one block ---- */

/* A cluster that is to be a block; whoever found it gives it back unless a table points to it. */
struct new_block {
	struct meta_run at;
	bool counts_itself;
	bool counted; /* by another block */
	bool entered; /* a table on disk may point to it, even if that failed */
};

/* Counts the new block's own cluster where another block does it. */
static int count_elsewhere(struct meta *m, struct new_block *b, struct qcow2_error *err)
{
	uint64_t idx = b->at.first >> m->geometry.refblock_bits;
	uint64_t off;
	int ret = meta_refblock_off(m, idx, &off, err);

	if (ret == 0 && off == 0)
		ret = make_block(m, idx, err);
	if (ret == 0)
		ret = meta_refs_raise(m, b->at.first, 1, err);
	b->counted = ret == 0;
	return ret == 0 ? meta_refs_write(m, b->at.first, err) : ret;
}

/* Writes the block with nothing in it but its own count, if it has it. */
static int write_block(struct meta *m, const struct new_block *b, struct qcow2_error *err)
{
	const struct format_geometry *g = &m->geometry;
	const struct meta_run *at = &b->at;
	cleanup_free uint8_t *block = mem_zalloc(1, g->cluster_size);
	uint64_t in_block = at->first & (g->refblock_entries - 1);
	uint64_t off = 0;
	uint64_t len = g->cluster_size;
	uint32_t slice_len = meta_slice_len(m);
	int ret = 0;

	if (!block)
		return error_errno(err, -ENOMEM, "can't make a refcount block");
	if (b->counts_itself)
		format_refcount_set(block, g->refcount_order, in_block, 1);
	if (at->fresh) { /* the rest reads as zeros as it is */
		len = min_u64(512, len);
		off = align_down(in_block << g->refcount_order >> 3, len);
		ret = meta_reserve(m, at, err);
	}
	if (ret == 0)
		ret = storage_write(m->file, block + off, len, meta_off_of(m, at->first) + off,
				    err);
	if (ret == 0)
		meta_cache_put_new(m->engine->refs, meta_off_of(m, at->first), block,
				   (unsigned)(g->cluster_size / slice_len));
	return ret;
}

/* ---- entries that wait for a barrier ---- */

/*
 * Rule 6: the block is written but not durable, so its entry waits. It is on the list before
 * anybody finds the block: who counts in it, and has a barrier then, finds it there.
 */
static int put_off_entry(struct meta *m, uint64_t idx, uint64_t block_off, struct qcow2_error *err)
{
	struct meta_new_blocks *nb = &m->engine->new_blocks;
	struct meta_new_block *list;
	size_t n;
	int ret = 0;

	pthread_mutex_lock(&nb->lock);
	n = atomic_load(&nb->count);
	if (n == nb->cap) {
		list = mem_realloc(nb->list, 2 * nb->cap + 16, sizeof(*list));
		if (list) {
			nb->list = list;
			nb->cap = 2 * nb->cap + 16;
		} else {
			ret = error_errno(err, -ENOMEM, "can't make a refcount block");
		}
	}
	if (ret == 0) {
		nb->list[n] = (struct meta_new_block){idx, block_off};
		atomic_store(&nb->count, n + 1);
		__atomic_store_n(&reftable(m)->refblock_off[idx], block_off, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&nb->lock);
	return ret;
}

/* Entries that follow each other in the table, from i on, before end: *n of them in one write. */
static int write_entries(struct meta *m, size_t i, size_t end, size_t *n, struct qcow2_error *err)
{
	struct meta_new_blocks *nb = &m->engine->new_blocks;
	uint8_t entries[ENTRIES_TOGETHER * LAYOUT_REFTABLE_ENTRY_LEN];
	size_t len = 0;
	uint64_t idx;

	pthread_mutex_lock(&nb->lock); /* the list may move */
	idx = nb->list[i].idx;
	for (*n = 0; i + *n < end && *n < ENTRIES_TOGETHER;
	     ++*n, len += LAYOUT_REFTABLE_ENTRY_LEN) {
		if (nb->list[i + *n].idx != idx + *n)
			break;
		store_be64(entries + len, nb->list[i + *n].block_off);
	}
	pthread_mutex_unlock(&nb->lock);
	storage_event(m->file, QCOW2_EVENT_REFBLOCK_ALLOC_HOOKUP);
	return storage_write(m->file, entries, len,
			     m->header.reftable_off + idx * LAYOUT_REFTABLE_ENTRY_LEN, err);
}

static void cut_list(struct meta_new_blocks *nb, size_t done)
{
	size_t left;

	pthread_mutex_lock(&nb->lock);
	left = atomic_load(&nb->count) - done;
	memmove(nb->list, nb->list + done, left * sizeof(*nb->list));
	atomic_store(&nb->count, left);
	pthread_mutex_unlock(&nb->lock);
}

int meta_refs_enter_new(struct meta *m, struct qcow2_error *err)
{
	struct meta_new_blocks *nb = &m->engine->new_blocks;
	size_t n, some, done = 0;
	int ret = 0;

	if (atomic_load(&nb->count) == 0)
		return 0;
	/* who comes second waits: the entries may be what its own barrier is for */
	meta_slot_take(&nb->entering);
	n = atomic_load(&nb->count);
	if (n > 0 && !META_BROKEN(6))
		ret = meta_flush_files(m, err);
	while (done < n && ret == 0) {
		ret = write_entries(m, done, n, &some, err);
		done += ret == 0 ? some : 0;
	}
	if (done > 0)
		cut_list(nb, done);
	meta_slot_leave(&nb->entering);
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
	if (mv->nentries > REFTABLE_ENTRIES_MAX) {
		/* as large as it may be, if that is enough */
		mv->nentries = REFTABLE_ENTRIES_MAX;
		mv->ntable = mv->nentries / per_cluster;
	}
	/* blocks for the area alone: what is below it has its own, or none yet */
	mv->nblocks = 0;
	do
		n = ++mv->nblocks;
	while (n << g->refblock_bits < n + mv->ntable);
	if ((mv->first >> g->refblock_bits) + mv->nblocks <= mv->nentries)
		return 0;
	return table_full(err);
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

static uint64_t table_off(const struct meta *m, const struct move *mv)
{
	return meta_off_of(m, mv->first + mv->nblocks);
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
		ret = meta_write_words(m, t->refblock_off, mv->nentries, table_off(m, mv), err);
	if (ret == 0 && !META_BROKEN(7))
		ret = meta_barrier(m, err);
	if (ret < 0)
		return ret;
	storage_event(m->file, QCOW2_EVENT_REFBLOCK_ALLOC_SWITCH_TABLE);
	ret = meta_super_write_reftable(m, table_off(m, mv), (uint32_t)mv->ntable, err);
	return ret == 0 ? meta_barrier(m, err) : meta_header_unknown(m, ret, "refcount table");
}

static int guard_move(struct meta *m, const struct move *mv, struct qcow2_error *err)
{
	struct meta_guard *g = &m->engine->guard;
	int ret = meta_guard_add(g, META_REGION_REFTABLE, table_off(m, mv),
				 mv->ntable << m->geometry.cluster_bits, err);

	for (uint64_t i = 0; i < mv->nblocks && ret == 0; i++)
		ret = meta_guard_add(g, META_REGION_REFBLOCK, meta_off_of(m, mv->first + i),
				     m->geometry.cluster_size, err);
	return ret;
}

/* Nothing points to the area: it is free again, as nothing on disk counts it. */
static void give_up_move(struct meta *m, const struct move *mv)
{
	struct meta_guard *g = &m->engine->guard;

	meta_guard_remove(g, META_REGION_REFTABLE, table_off(m, mv),
			  mv->ntable << m->geometry.cluster_bits);
	for (uint64_t i = 0; i < mv->nblocks; i++)
		meta_guard_remove(g, META_REGION_REFBLOCK, meta_off_of(m, mv->first + i),
				  m->geometry.cluster_size);
	meta_alloc_give_back(m, mv->first, mv->nblocks + mv->ntable);
}

static int move_table(struct meta *m, uint64_t idx, uint64_t block_off, struct qcow2_error *err)
{
	struct move mv = {.block_idx = idx, .block_off = block_off};
	uint64_t old_off = m->header.reftable_off;
	uint64_t old_len = m->header.reftable_clusters * m->geometry.cluster_size;
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
		if (meta_check_sound(m, NULL) == 0)
			give_up_move(m, &mv);
		mem_free(t);
		return ret;
	}
	t->older = reftable(m);
	atomic_store(&m->engine->reftable, t);
	meta_table_free(m, META_REGION_REFTABLE, old_off, old_len);
	return 0;
}

/* ---- */

static int enter_block(struct meta *m, uint64_t idx, struct new_block *b, struct qcow2_error *err)
{
	uint64_t block_off = meta_off_of(m, b->at.first);
	int ret;

	if (idx < reftable(m)->entries) {
		ret = put_off_entry(m, idx, block_off, err);
		b->entered = ret == 0;
		return ret;
	}
	ret = move_table(m, idx, block_off, err);
	/* a table that didn't become the one points to nothing */
	b->entered = ret == 0 || meta_check_sound(m, NULL) < 0;
	return ret;
}

/* Writes the block and lets the table point to it; the one on the file from the next barrier on. */
static int enter_new(struct meta *m, uint64_t idx, struct new_block *b, struct qcow2_error *err)
{
	struct meta_guard *g = &m->engine->guard;
	uint64_t off = meta_off_of(m, b->at.first);
	int ret;

	storage_event(m->file, QCOW2_EVENT_REFBLOCK_ALLOC_WRITE);
	ret = write_block(m, b, err);
	/* what counts it may be new itself, and has to be pointed to before */
	if (ret == 0 && !b->counts_itself && !META_BROKEN(6))
		ret = meta_barrier(m, err);
	if (ret == 0)
		ret = meta_guard_add(g, META_REGION_REFBLOCK, off, m->geometry.cluster_size, err);
	if (ret < 0)
		return ret;
	ret = enter_block(m, idx, b, err);
	if (ret < 0)
		meta_guard_remove(g, META_REGION_REFBLOCK, off, m->geometry.cluster_size);
	return ret;
}

static int place_block(struct meta *m, uint64_t idx, struct new_block *b, struct qcow2_error *err)
{
	uint64_t off = 0;
	int ret = meta_guard_check(m, meta_off_of(m, b->at.first), m->geometry.cluster_size,
				   META_REGION_NONE, err);

	if (ret == 0 && !b->counts_itself) {
		ret = count_elsewhere(m, b, err);
		/* making the block that counts it may have made this one */
		if (ret == 0)
			ret = meta_refblock_off(m, idx, &off, err);
	}
	return ret == 0 && off == 0 ? enter_new(m, idx, b, err) : ret;
}

static int make_block(struct meta *m, uint64_t idx, struct qcow2_error *err)
{
	struct new_block b = {0};
	int ret;

	if (idx >= REFTABLE_ENTRIES_MAX)
		return table_full(err);
	storage_event(m->file, QCOW2_EVENT_REFBLOCK_ALLOC);
	ret = meta_alloc_find(m, 1, LAYOUT_HOST_OFF_MAX, &b.at, err);
	if (ret < 0)
		return ret;
	b.counts_itself = b.at.first >> m->geometry.refblock_bits == idx;
	/* what was cached of that place when it was something else */
	meta_cache_forget(m->engine->refs, meta_off_of(m, b.at.first), m->geometry.cluster_size);
	ret = place_block(m, idx, &b, err);
	if (!b.entered && b.counted)
		meta_untake(m, &b.at);
	else if (!b.entered)
		meta_alloc_give_back(m, b.at.first, 1);
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
