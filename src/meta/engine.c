/* SPDX-License-Identifier: MIT */
/* Making an open image changeable, and the end of that. */
#include "meta/bitmap.h"
#include "meta/engine.h"

#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"

#define REFCOUNT_CACHE_DEFAULT (4u * 1024 * 1024)

/* ---- where the metadata are ---- */

/* Rule 13 for tables, once and for all: what comes later is placed where nothing is. */
static int overlaps(enum meta_region region, uint64_t host_off, enum meta_region other,
		    struct qcow2_error *err)
{
	return error_set_at(err, -EUCLEAN, QCOW2_NO_OFFSET, host_off,
			    "the %s at 0x%" PRIx64
			    " is a part of the %s as well: the image has to be repaired before it "
			    "is written to",
			    meta_guard_name(region), host_off, meta_guard_name(other));
}

static int check_alone(struct meta *m, enum meta_region region, uint64_t host_off, uint64_t len,
		       struct qcow2_error *err)
{
	uint64_t at = host_off;
	enum meta_region other = meta_guard_find(&m->engine->guard, host_off, len, region, &at);

	return other == META_REGION_NONE ? 0 : overlaps(region, at, other, err);
}

/* Adds a table of one cluster that no other entry points to. */
static int guard_own_table(struct meta *m, enum meta_region region, uint64_t host_off,
			   struct qcow2_error *err)
{
	struct meta_guard *g = &m->engine->guard;
	const uint64_t cs = m->geometry.cluster_size;
	enum meta_region other = meta_guard_find(g, host_off, cs, META_REGION_NONE, NULL);

	if (other != META_REGION_NONE)
		return overlaps(region, host_off, other, err);
	return meta_guard_add(g, region, host_off, cs, err);
}

/*
 * Those that aren't ours alone first: they are copied before they are changed, so that two entries
 * may well point to one.
 */
static int guard_l2_tables(struct meta *m, bool copied, struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	int ret = 0;

	for (uint32_t i = 0; i < m->l1_entries && ret == 0; i++) {
		struct format_l1_entry l1 = format_l1_decode(&m->geometry, m->l1[i]);

		/* one that can't be used is found out when it is */
		if (l1.l2_off == 0 || l1.faults & FORMAT_FAULT_FATAL || l1.copied != copied)
			continue;
		if (copied)
			ret = guard_own_table(m, META_REGION_L2, l1.l2_off, err);
		else
			ret = meta_guard_add(&m->engine->guard, META_REGION_L2, l1.l2_off, cs, err);
	}
	return ret;
}

static int guard_refblocks(struct meta *m, struct qcow2_error *err)
{
	const struct meta_reftable *t = atomic_load(&m->engine->reftable);
	int ret = 0;

	for (uint32_t i = 0; i < t->entries && ret == 0; i++) {
		struct format_reftable_entry e =
			format_reftable_decode(&m->geometry, t->refblock_off[i]);

		if (e.refblock_off == 0 || e.faults & FORMAT_FAULT_UNALIGNED)
			continue;
		if (e.refblock_off >= m->file_size)
			ret = error_set_at(err, -EUCLEAN, QCOW2_NO_OFFSET, e.refblock_off,
					   "the refcount block at 0x%" PRIx64
					   " lies behind the end of the file: the image has to be "
					   "repaired before it is written to",
					   e.refblock_off);
		else
			ret = guard_own_table(m, META_REGION_REFBLOCK, e.refblock_off, err);
	}
	return ret;
}

static int guard_snapshots(struct meta *m, const struct meta_snapshots *s, struct qcow2_error *err)
{
	struct meta_guard *g = &m->engine->guard;
	int ret = 0;

	if (s->count == 0)
		return 0;
	ret = meta_guard_add(g, META_REGION_SNAPSHOTS, m->header.snapshots_off,
			     meta_snapshots_len(s, s->count), err);
	for (size_t i = 0; i < s->count && ret == 0; i++) {
		const struct format_snapshot *snap = &s->list[i];

		if (snap->l1_entries != 0)
			ret = meta_guard_add(g, META_REGION_INACTIVE_L1, snap->l1_off,
					     (uint64_t)snap->l1_entries * LAYOUT_L1_ENTRY_LEN, err);
	}
	return ret;
}

/* Bitmaps that couldn't be read are given up, and with them their directory. */
static bool has_directory(const struct meta *m)
{
	return m->bitmaps && m->header.ext.has_bitmaps &&
	       (m->header.autoclear & LAYOUT_AUTOCLEAR_BITMAPS);
}

static int guard_ranges(struct meta *m, struct qcow2_error *err)
{
	const struct format_header *h = &m->header;
	struct meta_guard *g = &m->engine->guard;
	const uint64_t cs = m->geometry.cluster_size;
	int ret = meta_guard_add(g, META_REGION_HEADER, 0, cs, err);

	if (ret == 0 && h->l1_entries != 0)
		ret = meta_guard_add(g, META_REGION_L1, h->l1_off,
				     (uint64_t)h->l1_entries * LAYOUT_L1_ENTRY_LEN, err);
	if (ret == 0)
		ret = meta_guard_add(g, META_REGION_REFTABLE, h->reftable_off,
				     h->reftable_clusters * cs, err);
	if (ret == 0 && has_directory(m))
		ret = meta_guard_add(g, META_REGION_BITMAPS, h->ext.bitmaps.directory_off,
				     h->ext.bitmaps.directory_size, err);
	return ret;
}

static int set_guard(struct meta *m, const struct meta_snapshots *snapshots,
		     struct qcow2_error *err)
{
	const struct format_header *h = &m->header;
	const uint64_t cs = m->geometry.cluster_size;
	int ret = guard_ranges(m, err);

	if (ret == 0)
		ret = guard_snapshots(m, snapshots, err);
	if (ret == 0)
		ret = guard_l2_tables(m, false, err);
	if (ret == 0)
		ret = guard_l2_tables(m, true, err);
	if (ret == 0)
		ret = guard_refblocks(m, err);
	if (ret == 0)
		ret = check_alone(m, META_REGION_L1, h->l1_off,
				  (uint64_t)h->l1_entries * LAYOUT_L1_ENTRY_LEN, err);
	if (ret == 0)
		ret = check_alone(m, META_REGION_REFTABLE, h->reftable_off,
				  h->reftable_clusters * cs, err);
	if (ret == 0 && has_directory(m))
		ret = check_alone(m, META_REGION_BITMAPS, h->ext.bitmaps.directory_off,
				  h->ext.bitmaps.directory_size, err);
	return ret;
}

/* ---- starting ---- */

static int load_reftable(struct meta *m, struct qcow2_error *err)
{
	uint64_t len = m->header.reftable_clusters * m->geometry.cluster_size;
	cleanup_free uint8_t *bytes = NULL;
	struct meta_reftable *t;
	size_t got;
	int ret;

	storage_event(m->file, QCOW2_EVENT_REFTABLE_LOAD);
	ret = meta_read_table(m, m->header.reftable_off, len, &bytes, &got, err);
	if (ret < 0)
		return ret;
	t = mem_zalloc(1, sizeof(*t) + (size_t)len);
	if (!t)
		return error_errno(err, -ENOMEM, "can't read the refcount table");
	t->entries = (uint32_t)(len / LAYOUT_REFTABLE_ENTRY_LEN);
	for (size_t i = 0; i < got / LAYOUT_REFTABLE_ENTRY_LEN; i++)
		t->refblock_off[i] = load_be64(bytes + i * LAYOUT_REFTABLE_ENTRY_LEN);
	atomic_store(&m->engine->reftable, t);
	return 0;
}

/* A table without a block would have the first allocation land on the header. */
static int check_counts_itself(struct meta *m, struct qcow2_error *err)
{
	uint64_t count;
	int ret = meta_refs_get(m, 0, &count, err);

	if (ret < 0 || count > 0)
		return ret;
	return error_set(err, -EUCLEAN,
			 "the header's own cluster isn't counted as used: the refcounts are "
			 "damaged, and the image has to be repaired before it is written to");
}

static int make_room(void *opaque, struct qcow2_error *err)
{
	struct meta *m = opaque;

	return meta_commit(m, false, err);
}

/*
 * Counts alone, and no barrier: whatever was raised may be durable before it is needed, and what
 * was lowered waited for its turn in memory (rule 3).
 */
static int make_room_for_counts(void *opaque, struct qcow2_error *err)
{
	return meta_write_counts(opaque, err);
}

void meta_engine_use_cache(struct meta *m, struct meta_cache *cache)
{
	meta_cache_allow_changes(cache, make_room, m);
}

static int new_caches(struct meta *m, uint64_t limit, struct qcow2_error *err)
{
	uint32_t slice_len = meta_slice_len(m);
	int ret = meta_cache_new(&m->engine->refs, m->file, QCOW2_EVENT_REFBLOCK_LOAD, slice_len,
				 limit ? limit : REFCOUNT_CACHE_DEFAULT, err);

	if (ret < 0)
		return ret;
	meta_engine_use_cache(m, m->l2);
	meta_cache_allow_changes(m->engine->refs, make_room_for_counts, m);
	return 0;
}

/* Rule 9. Bitmaps that were read are kept true. */
static int clear_autoclear(struct meta *m, struct qcow2_error *err)
{
	struct format_header *h = &m->header;
	uint64_t known = LAYOUT_AUTOCLEAR_DATA_FILE_RAW |
			 (m->bitmaps && h->ext.has_bitmaps ? LAYOUT_AUTOCLEAR_BITMAPS : 0);
	uint64_t keep = h->autoclear & known;
	int ret;

	if (h->version < 3 || h->autoclear == keep)
		return 0;
	/* these bytes alone: a header that is written anew could be torn */
	ret = meta_super_write_autoclear(m, keep, err);
	if (ret == 0 && !META_BROKEN(9))
		ret = storage_flush(m->file, err);
	return ret;
}

/* What can't fail: after it meta_engine_free releases whatever there is. */
static void init_locks(struct meta_engine *e)
{
	pthread_mutex_init(&e->order.lock, NULL);
	pthread_mutex_init(&e->alloc.lock, NULL);
	meta_slot_init(&e->order.commit);
	meta_slot_init(&e->order.reaping);
	pthread_mutex_init(&e->new_blocks.lock, NULL);
	meta_slot_init(&e->new_blocks.entering);
	meta_slot_init(&e->growing);
	meta_slot_init(&e->l1_slot);
	meta_slot_init(&e->packing);
}

static int init_l1_dirty(struct meta *m, struct qcow2_error *err)
{
	struct meta_order *o = &m->engine->order;

	o->l1_dirty = mem_zalloc(meta_l1_dirty_words(m->l1_entries), sizeof(*o->l1_dirty));
	return o->l1_dirty ? 0 : error_errno(err, -ENOMEM, "can't open the image for writing");
}

static int start(struct meta *m, const struct meta_engine_options *o,
		 const struct meta_snapshots *snapshots, struct qcow2_error *err)
{
	struct meta_engine *e = m->engine;
	int ret = meta_gate_init(&e->gate, err);

	if (ret == 0)
		ret = meta_alloc_init(m, err);
	if (ret == 0)
		ret = init_l1_dirty(m, err);
	if (ret == 0)
		ret = meta_guard_init(&e->guard, m->geometry.cluster_bits, err);
	if (ret == 0)
		ret = load_reftable(m, err);
	if (ret == 0)
		ret = new_caches(m, o->refcount_cache_bytes, err);
	if (ret == 0)
		ret = set_guard(m, snapshots, err);
	if (ret == 0)
		ret = check_counts_itself(m, err);
	return ret == 0 ? clear_autoclear(m, err) : ret;
}

int meta_engine_new(struct meta *m, const struct meta_engine_options *o,
		    const struct meta_snapshots *snapshots, struct qcow2_error *err)
{
	struct meta_engine *e = mem_zalloc(1, sizeof(*e));
	bool recorded = m->header.compatible & LAYOUT_COMPAT_LAZY_REFCOUNTS;
	int ret;

	if (!e)
		return error_errno(err, -ENOMEM, "can't open the image for writing");
	e->lazy = o->lazy_refcounts == QCOW2_ON ||
		  (o->lazy_refcounts == QCOW2_AS_RECORDED && recorded);
	e->device = o->device;
	e->pass_discard = o->pass_discard;
	e->unguarded = o->overlap_check ? ~o->overlap_check : 0;
	e->guard_inactive_l2 = o->overlap_check & QCOW2_OVERLAP_INACTIVE_L2;
	if (e->lazy && m->header.version < 3) {
		mem_free(e);
		return error_set(err, -EINVAL, "lazy refcounts need version 3 of the format");
	}
	m->engine = e;
	atomic_init(&e->dirty_bit, m->header.incompatible & LAYOUT_INCOMPAT_DIRTY);
	init_locks(e);
	ret = start(m, o, snapshots, err);
	if (ret < 0)
		meta_engine_free(m);
	return ret;
}

/* ---- ending ---- */

int meta_engine_trim(struct meta *m, struct qcow2_error *err)
{
	uint64_t size, behind;
	int ret;

	if (!atomic_load(&m->engine->ever_freed))
		return 0;
	ret = meta_refs_trim(m, err);
	if (ret < 0 || m->engine->device)
		return ret;
	ret = storage_size(m->file, &size, err);
	if (ret == 0)
		ret = meta_alloc_last_used(m, div_ceil(size, m->geometry.cluster_size), &behind,
					   err);
	if (ret < 0 || meta_off_of(m, behind) >= size)
		return ret;
	/* tables that aren't counted: the refcounts are damaged, let it be */
	if (meta_guard_find(&m->engine->guard, meta_off_of(m, behind),
			    size - meta_off_of(m, behind), META_REGION_NONE,
			    NULL) != META_REGION_NONE)
		return 0;
	return storage_truncate(m->file, meta_off_of(m, behind), err);
}

int meta_dirty_clear(struct meta *m, struct qcow2_error *err)
{
	uint64_t bits = m->header.incompatible & ~LAYOUT_INCOMPAT_DIRTY;
	int ret;

	if (!atomic_load(&m->engine->dirty_bit) || atomic_load(&m->engine->needs_repair))
		return 0;
	ret = meta_super_write_incompatible(m, bits, err);
	if (ret == 0)
		ret = meta_barrier(m, err);
	if (ret == 0)
		atomic_store(&m->engine->dirty_bit, false);
	return ret;
}

/* What was written becomes durable, and the file as short as it can be. */
static int finish(struct meta *m, struct qcow2_error *err)
{
	int ret = meta_commit_counts(m, err);

	if (ret < 0)
		return ret;
	meta_reap(m, true);
	if (meta_cache_ndirty(m->engine->refs) > 0)
		ret = meta_commit_counts(m, err);
	if (ret < 0)
		return ret;
	/* a file that is too long is no reason to fail, but a failed barrier is */
	(void)meta_engine_trim(m, NULL);
	ret = meta_check_sound(m, err);
	return ret == 0 ? meta_dirty_clear(m, err) : ret;
}

int meta_engine_finish(struct meta *m, struct qcow2_error *err)
{
	/* bitmaps that find no room are no reason to leave the rest undone */
	int stored = meta_bitmaps_store(m, err);
	int ret = finish(m, stored < 0 ? NULL : err);

	return stored < 0 ? stored : ret;
}

static void free_reftables(struct meta_engine *e)
{
	struct meta_reftable *t = atomic_load(&e->reftable);

	while (t) {
		struct meta_reftable *older = t->older;

		mem_free(t);
		t = older;
	}
}

void meta_engine_free(struct meta *m)
{
	struct meta_engine *e = m->engine;

	if (!e)
		return;
	meta_cache_free(e->refs);
	free_reftables(e);
	meta_alloc_release(&e->alloc);
	meta_guard_release(&e->guard);
	meta_gate_release(&e->gate);
	meta_slot_release(&e->order.commit);
	meta_slot_release(&e->order.reaping);
	pthread_mutex_destroy(&e->new_blocks.lock);
	meta_slot_release(&e->new_blocks.entering);
	mem_free(e->new_blocks.list);
	meta_slot_release(&e->growing);
	meta_slot_release(&e->l1_slot);
	meta_slot_release(&e->packing);
	pthread_mutex_destroy(&e->order.lock);
	mem_free(e->order.l1_dirty);
	mem_free(e->order.dropped.list);
	mem_free(e->order.graves.list);
	mem_free(e);
	m->engine = NULL;
}
