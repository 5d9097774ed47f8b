/* SPDX-License-Identifier: MIT */
/*
 * Refcount blocks at the end of the table that count nothing any more, or only themselves, are let
 * go of, so that they don't keep the file long. The gate is closed: nobody counts meanwhile.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "meta/engine.h"

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

/* Takes the entry out of the table, durably: then nothing points to the block. */
static int clear_entry(struct meta *m, uint64_t idx, struct qcow2_error *err)
{
	struct meta_reftable *t = atomic_load(&m->engine->reftable);
	const uint8_t zero[LAYOUT_REFTABLE_ENTRY_LEN] = {0};
	int ret;

	storage_event(m->file, QCOW2_EVENT_REFTABLE_UPDATE);
	ret = storage_write(m->file, zero, sizeof(zero),
			    m->header.reftable_off + idx * LAYOUT_REFTABLE_ENTRY_LEN, err);
	if (ret == 0)
		ret = meta_barrier(m, err);
	if (ret == 0)
		__atomic_store_n(&t->refblock_off[idx], 0, __ATOMIC_RELEASE);
	return ret;
}

/* Lets go of the block of table entry idx if it counts nothing but itself. */
static int trim_block(struct meta *m, uint64_t idx, uint64_t block_off, bool *trimmed,
		      struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	uint64_t cluster = meta_cluster_of(m, block_off);
	uint64_t used, only = 0;
	bool counts_itself;
	int ret = count_used(m, idx, &used, &only, err);

	*trimmed = false;
	counts_itself = used == 1 && only == cluster;
	if (ret < 0 || (used > 0 && !counts_itself))
		return ret;
	ret = clear_entry(m, idx, err);
	if (ret < 0)
		return ret;
	meta_cache_forget(m->engine->refs, block_off, cs);
	meta_guard_remove(&m->engine->guard, META_REGION_REFBLOCK, block_off, cs);
	if (counts_itself || meta_refs_lower(m, cluster, 1, NULL, NULL, NULL) == 0)
		meta_alloc_give_back(m, cluster, 1);
	*trimmed = true;
	return 0;
}

int meta_refs_trim(struct meta *m, struct qcow2_error *err)
{
	const struct meta_reftable *t = atomic_load(&m->engine->reftable);
	bool trimmed = true;
	uint64_t off;
	int ret = 0;

	/* nothing of a block may be dirty when it goes */
	if (meta_cache_ndirty(m->engine->refs) > 0)
		ret = meta_commit_counts(m, err);
	/* never the first: it counts the header */
	for (uint64_t idx = t->entries; ret == 0 && trimmed && idx-- > 1;) {
		ret = meta_refblock_off(m, idx, &off, err);
		if (ret == 0 && off != 0)
			ret = trim_block(m, idx, off, &trimmed, err);
		if (ret == 0 && trimmed && meta_cache_ndirty(m->engine->refs) > 0)
			ret = meta_commit_counts(m, err);
	}
	return ret;
}
