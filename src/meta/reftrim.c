/* SPDX-License-Identifier: MIT */
/*
 * Refcount blocks at the end of the table that count nothing any more, or only themselves, are let
 * go of, so that they don't keep the file long. The gate is closed: nobody counts meanwhile.
 *
 * The entries of many are cleared before one barrier: whichever of them a crash leaves, a block
 * that is pointed to counts itself, and one that isn't is counted by nobody.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"
#include "meta/engine.h"

#define BATCH_MAX 256 /* blocks that go with one barrier */

/* How many clusters of the block are counted; *only is the last one found. */
static int count_used(struct meta *m, uint64_t idx, uint64_t *used, uint64_t *only,
		      struct qcow2_error *err)
{
	const uint64_t n = m->geometry.refblock_entries;
	uint64_t first = idx << m->geometry.refblock_bits;
	uint64_t nwords = div_ceil(n, 64);
	cleanup_free uint64_t *bits = mem_zalloc(nwords, sizeof(*bits));
	int ret;

	*used = 0;
	if (!bits)
		return error_errno(err, -ENOMEM, "can't look at a refcount block");
	ret = meta_refs_look(m, first, n, false, bits, err);
	for (uint64_t w = 0; ret == 0 && w < nwords; w++) {
		*used += (uint64_t)__builtin_popcountll(bits[w]);
		if (bits[w])
			*only = first + w * 64 + 63 - (uint64_t)__builtin_clzll(bits[w]);
	}
	return ret;
}

/* Blocks whose entries are cleared on the file, but not in memory: the barrier is still to come. */
struct batch {
	uint64_t idx[BATCH_MAX];
	size_t n;
};

/* Takes the entry out of the table on the file. */
static int clear_entry(struct meta *m, uint64_t idx, struct batch *b, struct qcow2_error *err)
{
	const uint8_t zero[LAYOUT_REFTABLE_ENTRY_LEN] = {0};
	int ret;

	storage_event(m->file, QCOW2_EVENT_REFTABLE_UPDATE);
	ret = storage_write(m->file, zero, sizeof(zero),
			    m->header.reftable_off + idx * LAYOUT_REFTABLE_ENTRY_LEN, err);
	if (ret == 0)
		b->idx[b->n++] = idx;
	return ret;
}

/* Nothing points to the block any more, durably. */
static void let_go(struct meta *m, uint64_t idx)
{
	struct meta_reftable *t = atomic_load(&m->engine->reftable);
	uint64_t off = format_reftable_decode(&m->geometry, t->refblock_off[idx]).refblock_off;
	uint64_t cluster = meta_cluster_of(m, off);
	bool counts_itself = cluster >> m->geometry.refblock_bits == idx;

	__atomic_store_n(&t->refblock_off[idx], 0, __ATOMIC_RELEASE);
	meta_cache_forget(m->engine->refs, off, m->geometry.cluster_size);
	meta_guard_remove(&m->engine->guard, META_REGION_REFBLOCK, off, m->geometry.cluster_size);
	if (counts_itself || meta_refs_lower(m, cluster, 1, NULL, NULL, NULL) == 0)
		meta_alloc_give_back(m, cluster, 1);
}

/* The barrier, and what waited for it. */
static int end_batch(struct meta *m, struct batch *b, struct qcow2_error *err)
{
	int ret = b->n > 0 ? meta_barrier(m, err) : 0;

	for (size_t i = 0; ret == 0 && i < b->n; i++)
		let_go(m, b->idx[i]);
	b->n = 0;
	/* a count that was lowered may be the last of the next block */
	if (ret == 0 && meta_cache_ndirty(m->engine->refs) > 0)
		ret = meta_commit_counts(m, err);
	return ret;
}

/* Lets go of the block of table entry idx if it counts nothing but itself. */
static int trim_block(struct meta *m, uint64_t idx, uint64_t block_off, struct batch *b,
		      bool *trimmed, struct qcow2_error *err)
{
	uint64_t cluster = meta_cluster_of(m, block_off);
	uint64_t used, only = 0;
	int ret = count_used(m, idx, &used, &only, err);

	*trimmed = ret == 0 && (used == 0 || (used == 1 && only == cluster));
	if (!*trimmed)
		return ret;
	ret = clear_entry(m, idx, b, err);
	/* one that is counted elsewhere changes what is there */
	if (ret == 0 && (used == 0 || b->n == BATCH_MAX))
		ret = end_batch(m, b, err);
	return ret;
}

int meta_refs_trim(struct meta *m, struct qcow2_error *err)
{
	const struct meta_reftable *t = atomic_load(&m->engine->reftable);
	struct batch b = {.n = 0};
	bool trimmed = true;
	uint64_t off;
	int ret = meta_refs_enter_new(m, err);
	int ended;

	/*
	 * Nothing of a block may be dirty when it goes. Counts that were lowered, and entries that
	 * are cleared, may reach the disk in any order: a block that counts too much is a leak.
	 */
	if (ret == 0 && meta_cache_ndirty(m->engine->refs) > 0)
		ret = meta_commit(m, false, err);
	/* never the first: it counts the header */
	for (uint64_t idx = t->entries; ret == 0 && trimmed && idx-- > 1;) {
		ret = meta_refblock_off(m, idx, &off, err);
		if (ret == 0 && off != 0)
			ret = trim_block(m, idx, off, &b, &trimmed, err);
	}
	/* also after a failure: what is cleared on the file may not stay in memory */
	ended = end_batch(m, &b, ret == 0 ? err : NULL);
	return ret < 0 ? ret : ended;
}
