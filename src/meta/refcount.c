/* SPDX-License-Identifier: MIT */
/*
 * Refcounts, in slices of refcount blocks in a cache of their own. They are read and changed under
 * the cache's lock, slice by slice; a change of many is checked slice by slice before it is made,
 * and what was made of one that fails is taken back.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/num.h"
#include "format/entry.h"
#include "format/refbits.h"
#include "meta/engine.h"

/* Neighbouring counts that lie in one slice. */
struct piece {
	struct meta_slice slice;
	uint64_t slice_off; /* host offset */
	uint64_t idx;	    /* of the first, in the slice */
	uint64_t n;
};

uint64_t meta_refs_end(const struct meta *m)
{
	const struct meta_reftable *t = atomic_load(&m->engine->reftable);

	return (uint64_t)t->entries << m->geometry.refblock_bits;
}

int meta_refblock_off(struct meta *m, uint64_t idx, uint64_t *off, struct qcow2_error *err)
{
	const struct meta_reftable *t = atomic_load(&m->engine->reftable);
	struct format_reftable_entry e;
	uint64_t raw = 0;

	if (idx < t->entries)
		raw = __atomic_load_n(&t->refblock_off[idx], __ATOMIC_ACQUIRE);
	e = format_reftable_decode(&m->geometry, raw);
	*off = e.refblock_off;
	if (!(e.faults & FORMAT_FAULT_UNALIGNED))
		return 0;
	error_set_at(err, -EUCLEAN, QCOW2_NO_OFFSET, e.refblock_off,
		     "refcount table entry %" PRIu64 " points to 0x%" PRIx64
		     ", which isn't a cluster's start",
		     idx, e.refblock_off);
	return meta_mark_corrupt(m, err);
}

static uint64_t entries_per_slice(const struct meta *m)
{
	return (uint64_t)meta_slice_len(m) * 8 >> m->geometry.refcount_order;
}

/* A change that goes on for n clusters behind those of the slice: what it needs of the block. */
static void read_ahead(struct meta *m, uint64_t slice_off, uint64_t block_end, uint64_t n)
{
	uint64_t more = div_ceil(n, entries_per_slice(m));
	uint64_t left = (block_end - slice_off) / meta_slice_len(m);

	meta_cache_read_ahead(m->engine->refs, slice_off, (unsigned)min_u64(more + 1, left));
}

/* Pins the slice with the count of the cluster first; p->n is at most n. */
static int get_piece(struct meta *m, uint64_t first, uint64_t n, bool to_change, struct piece *p,
		     struct qcow2_error *err)
{
	const uint64_t per_slice = entries_per_slice(m);
	uint64_t in_block = first & (m->geometry.refblock_entries - 1);
	uint64_t block_off;
	int ret = meta_refblock_off(m, first >> m->geometry.refblock_bits, &block_off, err);

	if (ret < 0)
		return ret;
	if (block_off == 0) {
		error_set_at(err, -EUCLEAN, QCOW2_NO_OFFSET, meta_off_of(m, first),
			     "the cluster at 0x%" PRIx64
			     " is in use, but no refcount block counts it",
			     meta_off_of(m, first));
		return meta_mark_corrupt(m, err);
	}
	p->idx = in_block & (per_slice - 1);
	p->n = min_u64(n, per_slice - p->idx);
	p->slice_off = block_off + ((in_block - p->idx) << m->geometry.refcount_order >> 3);
	if (n > p->n)
		read_ahead(m, p->slice_off, block_off + m->geometry.cluster_size, n - p->n);
	ret = to_change ? meta_cache_get_way(m->engine->refs, p->slice_off, &p->slice, err)
			: meta_cache_get(m->engine->refs, p->slice_off, &p->slice, err);
	if (ret < 0)
		error_prefix(err, "can't read the refcount block at 0x%" PRIx64, block_off);
	return ret;
}

int meta_refs_get(struct meta *m, uint64_t cluster, uint64_t *count, struct qcow2_error *err)
{
	struct meta_cache *c = m->engine->refs;
	struct piece p;
	uint64_t off;
	int ret = meta_refblock_off(m, cluster >> m->geometry.refblock_bits, &off, err);

	*count = 0;
	if (ret < 0 || off == 0)
		return ret;
	ret = get_piece(m, cluster, 1, false, &p, err);
	if (ret < 0)
		return ret;
	meta_cache_lock(c);
	*count = format_refcount_get(p.slice.bytes, m->geometry.refcount_order, p.idx);
	meta_cache_unlock(c);
	meta_cache_put(c, &p.slice);
	return 0;
}

/* The clusters from first on, at most n, whose counts are in one block; *off 0: there is none. */
static int block_of(struct meta *m, uint64_t first, uint64_t n, uint64_t *in_block, uint64_t *off,
		    struct qcow2_error *err)
{
	const uint32_t bits = m->geometry.refblock_bits;
	uint64_t idx = first >> bits;

	*in_block = min_u64(n, ((idx + 1) << bits) - first);
	return meta_refblock_off(m, idx, off, err);
}

int meta_refs_stretch(struct meta *m, uint64_t first, uint64_t n, uint64_t *count, uint64_t *len,
		      struct qcow2_error *err)
{
	const uint32_t order = m->geometry.refcount_order;
	struct meta_cache *c = m->engine->refs;
	struct piece p;
	uint64_t off;
	int ret = block_of(m, first, n, len, &off, err);

	*count = 0;
	if (ret < 0 || off == 0)
		return ret;
	ret = get_piece(m, first, n, false, &p, err);
	if (ret < 0)
		return ret;
	meta_cache_lock(c);
	*count = format_refcount_get(p.slice.bytes, order, p.idx);
	*len = format_refcount_stretch(p.slice.bytes, order, p.idx, p.n);
	meta_cache_unlock(c);
	meta_cache_put(c, &p.slice);
	return 0;
}

static void set_bits(uint64_t *bits, uint64_t first, uint64_t n)
{
	for (uint64_t end = first + n, len; first < end; first += len) {
		len = min_u64(end - first, 64 - first % 64);
		bits[first / 64] |= UINT64_MAX >> (64 - len) << (first % 64);
	}
}

static void look_at_piece(const struct meta *m, const struct piece *p, bool once, uint64_t at,
			  uint64_t *bits)
{
	const uint32_t order = m->geometry.refcount_order;

	for (uint64_t i = 0, n; i < p->n; i += n) {
		uint64_t count = format_refcount_get(p->slice.bytes, order, p->idx + i);

		n = format_refcount_stretch(p->slice.bytes, order, p->idx + i, p->n - i);
		if (once ? count != 1 : count == 0)
			continue;
		set_bits(bits, at + i, n);
	}
}

int meta_refs_look(struct meta *m, uint64_t first, uint64_t n, bool once, uint64_t *bits,
		   struct qcow2_error *err)
{
	struct meta_cache *c = m->engine->refs;
	struct piece p;
	uint64_t off;
	int ret = 0;

	for (uint64_t at = 0; at < n; at += p.n) {
		ret = block_of(m, first + at, n - at, &p.n, &off, err);
		if (ret == 0 && off == 0)
			continue;
		if (ret == 0)
			ret = get_piece(m, first + at, p.n, false, &p, err);
		if (ret < 0)
			return ret;
		meta_cache_lock(c);
		look_at_piece(m, &p, once, at, bits);
		meta_cache_unlock(c);
		meta_cache_put(c, &p.slice);
	}
	return 0;
}

int meta_refs_write(struct meta *m, uint64_t cluster, struct qcow2_error *err)
{
	const uint32_t slice_len = meta_slice_len(m);
	struct meta_cache *c = m->engine->refs;
	uint8_t copy[META_SLICE_LEN_MAX];
	struct piece p;
	int ret = get_piece(m, cluster, 1, false, &p, err);

	if (ret < 0)
		return ret;
	/* no commit may write an older copy of the slice after ours */
	meta_slot_take(&m->engine->order.commit);
	meta_cache_lock(c);
	memcpy(copy, p.slice.bytes, slice_len);
	meta_cache_unlock(c);
	ret = storage_write(m->file, copy, slice_len, p.slice_off, err);
	meta_slot_leave(&m->engine->order.commit);
	meta_cache_put(c, &p.slice);
	return ret;
}

/*
 * Adds 1 or -1 to the counts in a pinned piece; *stuck is the first that can't, or p->n. *zeros:
 * some of them may be 0 now.
 */
static void change_piece(struct meta *m, const struct piece *p, bool raise, uint64_t *stuck,
			 bool *zeros)
{
	const uint32_t order = m->geometry.refcount_order;
	const uint64_t bound = raise ? m->geometry.refcount_max : 0, add = raise ? 1 : UINT64_MAX;
	struct meta_cache *c = m->engine->refs;
	uint64_t first;
	bool even;

	meta_cache_lock(c);
	/* long runs mostly have one count */
	first = format_refcount_get(p->slice.bytes, order, p->idx);
	even = format_refcount_stretch(p->slice.bytes, order, p->idx, p->n) == p->n;
	*stuck = first == bound ? 0
		 : even		? p->n
				: format_refcount_find(p->slice.bytes, order, p->idx, p->n, bound);
	*zeros = !raise && (!even || first == 1);
	if (*stuck == p->n) {
		uint8_t *bytes = meta_cache_change_locked(c, &p->slice);

		if (even)
			format_refcount_fill(bytes, order, p->idx, p->n, first + add);
		else
			format_refcount_add(bytes, order, p->idx, p->n, add);
		meta_cache_changed_locked(c, &p->slice);
	}
	meta_cache_unlock(c);
}

static int no_more(const struct meta *m, uint64_t cluster, struct qcow2_error *err)
{
	return error_set_at(err, -ERANGE, QCOW2_NO_OFFSET, meta_off_of(m, cluster),
			    "the cluster at 0x%" PRIx64 " has as many references (%" PRIu64
			    ") as refcounts of this image can hold",
			    meta_off_of(m, cluster), m->geometry.refcount_max);
}

static int none_left(struct meta *m, uint64_t cluster, struct qcow2_error *err)
{
	error_set_at(err, -EUCLEAN, QCOW2_NO_OFFSET, meta_off_of(m, cluster),
		     "the cluster at 0x%" PRIx64
		     " loses a reference, but its refcount is 0 already",
		     meta_off_of(m, cluster));
	return meta_mark_corrupt(m, err);
}

/* Sees to it that there is a block for the cluster's count. */
static int need_block(struct meta *m, uint64_t cluster, struct qcow2_error *err)
{
	uint64_t idx = cluster >> m->geometry.refblock_bits;
	uint64_t off;
	int ret = meta_refblock_off(m, idx, &off, err);

	return ret == 0 && off == 0 ? meta_refs_grow(m, idx, err) : ret;
}

int meta_refs_raise(struct meta *m, uint64_t first, uint64_t n, struct qcow2_error *err)
{
	struct qcow2_error why;
	uint64_t done = 0;
	struct piece p;
	uint64_t stuck;
	bool zeros;
	int ret = 0;

	for (; done < n; done += p.n) {
		ret = need_block(m, first + done, err);
		if (ret == 0)
			ret = get_piece(m, first + done, n - done, true, &p, err);
		if (ret < 0)
			break;
		change_piece(m, &p, true, &stuck, &zeros);
		meta_cache_put(m->engine->refs, &p.slice);
		if (stuck < p.n) {
			ret = no_more(m, first + done + stuck, err);
			break;
		}
	}
	/* they would be handed out as free, with counts that say otherwise */
	if (ret < 0 && done > 0 && meta_refs_lower(m, first, done, NULL, NULL, &why) < 0) {
		error_prefix(&why, "refcounts that were raised couldn't be lowered again");
		meta_fail(m, &why);
	}
	return ret;
}

/* Reports runs of counts that are 0 in a piece that was just lowered. */
static void tell_zeros(struct meta *m, const struct piece *p, uint64_t first,
		       void (*zero)(struct meta *m, uint64_t first, uint64_t n, void *opaque),
		       void *opaque)
{
	const uint32_t order = m->geometry.refcount_order;
	struct meta_cache *c = m->engine->refs;

	for (uint64_t i = 0, n; i < p->n; i += n) {
		const uint8_t *bytes = p->slice.bytes;

		meta_cache_lock(c);
		i += format_refcount_find(bytes, order, p->idx + i, p->n - i, 0);
		n = i < p->n ? format_refcount_stretch(bytes, order, p->idx + i, p->n - i) : 0;
		meta_cache_unlock(c);
		if (n > 0)
			zero(m, first + i, n, opaque);
	}
}

int meta_refs_lower(struct meta *m, uint64_t first, uint64_t n,
		    void (*zero)(struct meta *m, uint64_t first, uint64_t n, void *opaque),
		    void *opaque, struct qcow2_error *err)
{
	struct piece p;
	uint64_t stuck;
	bool zeros;
	int ret;

	for (uint64_t done = 0; done < n; done += p.n) {
		ret = get_piece(m, first + done, n - done, true, &p, err);
		if (ret < 0)
			return ret;
		change_piece(m, &p, false, &stuck, &zeros);
		if (stuck == p.n && zeros && zero)
			tell_zeros(m, &p, first + done, zero, opaque);
		meta_cache_put(m->engine->refs, &p.slice);
		if (stuck < p.n)
			return none_left(m, first + done + stuck, err);
	}
	return 0;
}
