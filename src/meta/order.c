/* SPDX-License-Identifier: MIT */
/*
 * What reaches the file when: the only place that writes L2 slices, L1 sectors and refcount slices
 * of an image in use, by the rules of docs/ordering.md.
 *
 * A commit works on copies, which it takes in the order L2 and L1 first, refcounts after; requests
 * go on meanwhile, and what they change is dirty again. One commit runs at a time.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "meta/engine.h"

#define L1_SECTOR_ENTRIES (LAYOUT_SECTOR / LAYOUT_L1_ENTRY_LEN)
#define DROPPED_MANY 4096 /* runs that wait to be given away before a commit is made for them */

/* ---- what is wrong for good ---- */

int meta_check_sound(struct meta *m, struct qcow2_error *err)
{
	struct meta_order *o = &m->engine->order;
	int code = atomic_load(&o->failed);

	if (code == 0)
		return 0;
	pthread_mutex_lock(&o->lock);
	error_set(err, code, "the image can't be changed any more: %s", o->why.message);
	pthread_mutex_unlock(&o->lock);
	return code;
}

void meta_fail(struct meta *m, const struct qcow2_error *why)
{
	struct meta_order *o = &m->engine->order;

	pthread_mutex_lock(&o->lock);
	if (atomic_load(&o->failed) == 0) {
		o->why = *why;
		atomic_store(&o->failed, why->code);
	}
	pthread_mutex_unlock(&o->lock);
}

/* ---- copies of L1 sectors ---- */

struct l1_copy {
	uint32_t *sectors;
	size_t count;
	uint8_t *bytes; /* of all, LAYOUT_SECTOR each */
};

static size_t l1_sectors(uint32_t entries)
{
	return div_ceil(entries, L1_SECTOR_ENTRIES);
}

size_t meta_l1_dirty_words(uint32_t entries)
{
	return div_ceil(l1_sectors(entries), 64);
}

static void copy_sector(const struct meta *m, uint32_t sector, uint8_t *bytes)
{
	uint64_t first = (uint64_t)sector * L1_SECTOR_ENTRIES;

	for (unsigned i = 0; i < L1_SECTOR_ENTRIES; i++)
		store_be64(bytes + (size_t)i * LAYOUT_L1_ENTRY_LEN, meta_l1_get(m, first + i));
}

static void list_dirty_sectors(struct meta *m, struct l1_copy *l1)
{
	struct meta_order *o = &m->engine->order;
	const size_t nwords = meta_l1_dirty_words(m->l1_entries);

	pthread_mutex_lock(&o->lock);
	for (size_t w = 0; w < nwords; w++) {
		for (; o->l1_dirty[w]; o->l1_dirty[w] &= o->l1_dirty[w] - 1)
			l1->sectors[l1->count++] =
				(uint32_t)(w * 64) + (uint32_t)__builtin_ctzll(o->l1_dirty[w]);
	}
	pthread_mutex_unlock(&o->lock);
}

static size_t count_dirty_sectors(struct meta *m)
{
	struct meta_order *o = &m->engine->order;
	size_t count = 0;

	pthread_mutex_lock(&o->lock);
	for (size_t w = 0; w < meta_l1_dirty_words(m->l1_entries); w++)
		count += (size_t)__builtin_popcountll(o->l1_dirty[w]);
	pthread_mutex_unlock(&o->lock);
	return count;
}

static int take_l1(struct meta *m, struct l1_copy *l1, struct qcow2_error *err)
{
	*l1 = (struct l1_copy){0};
	if (count_dirty_sectors(m) == 0)
		return 0;
	l1->sectors = mem_alloc(l1_sectors(m->l1_entries), sizeof(*l1->sectors));
	if (!l1->sectors)
		return error_errno(err, -ENOMEM, "can't write the L1 table");
	list_dirty_sectors(m, l1);
	l1->bytes = mem_alloc(l1->count, LAYOUT_SECTOR);
	if (!l1->bytes)
		return error_errno(err, -ENOMEM, "can't write the L1 table");
	for (size_t i = 0; i < l1->count; i++)
		copy_sector(m, l1->sectors[i], l1->bytes + i * LAYOUT_SECTOR);
	return 0;
}

static void put_l1(struct meta *m, struct l1_copy *l1, bool written)
{
	struct meta_order *o = &m->engine->order;

	pthread_mutex_lock(&o->lock);
	for (size_t i = 0; !written && i < l1->count; i++)
		o->l1_dirty[l1->sectors[i] / 64] |= 1ull << (l1->sectors[i] % 64);
	pthread_mutex_unlock(&o->lock);
	mem_free(l1->sectors);
	mem_free(l1->bytes);
	*l1 = (struct l1_copy){0};
}

static int write_l1(struct meta *m, const struct l1_copy *l1, struct qcow2_error *err)
{
	int ret = 0;

	for (size_t i = 0; i < l1->count && ret == 0; i++) {
		uint64_t pos = (uint64_t)l1->sectors[i] * LAYOUT_SECTOR;
		uint64_t table = (uint64_t)m->l1_entries * LAYOUT_L1_ENTRY_LEN;

		/* the table's last cluster may hold nothing behind it, not even zeros */
		ret = storage_write(m->file, l1->bytes + i * LAYOUT_SECTOR,
				    (size_t)min_u64(LAYOUT_SECTOR, table - pos),
				    m->header.l1_off + pos, err);
	}
	return ret;
}

void meta_l1_set(struct meta *m, uint64_t idx, uint64_t raw, bool depends)
{
	struct meta_order *o = &m->engine->order;
	uint64_t sector = idx / L1_SECTOR_ENTRIES;

	if (depends)
		atomic_fetch_add(&o->depends, 1);
	__atomic_store_n(&m->l1[idx], raw, __ATOMIC_RELEASE);
	pthread_mutex_lock(&o->lock);
	o->l1_dirty[sector / 64] |= 1ull << (sector % 64);
	pthread_mutex_unlock(&o->lock);
}

/* ---- a commit ---- */

struct commit {
	struct meta_dirty_list l2, refs;
	struct l1_copy l1;
	bool depends;	/* something in the tables has to wait for barrier one */
	uint64_t seen;	/* changes that were counted before it began; a barrier covers them */
	size_t ngraves; /* of what was dropped before it began */
};

int meta_flush_files(struct meta *m, struct qcow2_error *err)
{
	int ret = 0;

	if (m->data.self != m->file.self)
		ret = storage_flush(m->data, err);
	if (ret == 0)
		ret = storage_flush(m->file, err);
	if (ret < 0 && !META_BROKEN(12)) {
		struct qcow2_error why = {.code = ret};

		if (err)
			why = *err;
		else
			error_set(&why, ret, "a flush failed");
		meta_fail(m, &why);
	}
	return ret;
}

int meta_barrier(struct meta *m, struct qcow2_error *err)
{
	int ret = meta_refs_enter_new(m, err);

	return ret == 0 ? meta_flush_files(m, err) : ret;
}

/* *written: the bit counts when a barrier has followed. */
static int write_dirty_bit(struct meta *m, bool *written, struct qcow2_error *err)
{
	uint64_t bits = m->header.incompatible | LAYOUT_INCOMPAT_DIRTY;
	int ret;

	*written = false;
	if (m->header.version < 3 || atomic_load(&m->engine->dirty_bit))
		return 0;
	ret = meta_super_write_incompatible(m, bits, err);
	*written = ret == 0;
	return ret;
}

/* A barrier that covers the dirty bit too, if that was written. */
static int barrier_with_bit(struct meta *m, bool written, struct qcow2_error *err)
{
	int ret = meta_barrier(m, err);

	if (ret == 0 && written)
		atomic_store(&m->engine->dirty_bit, true);
	return ret;
}

int meta_dirty_set(struct meta *m, struct qcow2_error *err)
{
	bool written;
	int ret = write_dirty_bit(m, &written, err);

	return ret == 0 && written ? barrier_with_bit(m, true, err) : ret;
}

/*
 * Copies what is dirty. What was dropped before is in the copies of the tables, so that its list is
 * cut first. all_counts: refcounts too where they could be left out.
 */
static int take_copies(struct meta *m, struct commit *c, bool all_counts, struct qcow2_error *err)
{
	struct meta_order *o = &m->engine->order;
	int ret;

	c->seen = atomic_load(&o->depends);
	pthread_mutex_lock(&o->lock);
	c->ngraves = o->cut = o->dropped.count;
	pthread_mutex_unlock(&o->lock);
	ret = meta_cache_take_dirty(m->l2, &c->l2, err);
	if (ret == 0)
		ret = take_l1(m, &c->l1, err);
	c->depends = atomic_load(&o->depends) != o->depends_done;
	if (ret == 0 && (all_counts || !m->engine->lazy))
		ret = meta_cache_take_dirty(m->engine->refs, &c->refs, err);
	return ret;
}

void meta_need_end(struct meta *m, uint64_t host_off)
{
	_Atomic uint64_t *end = &m->engine->order.needed_end;
	uint64_t old = atomic_load(end);

	while (old < host_off && !atomic_compare_exchange_weak(end, &old, host_off))
		;
}

/*
 * Rule 14. Not by setting the file's size, which might cut off what somebody is just writing
 * behind it; the last sector of what isn't in the file yet holds nothing.
 */
static int reach_end(struct meta *m, struct qcow2_error *err)
{
	static const uint8_t zeros[LAYOUT_SECTOR];
	struct meta_order *o = &m->engine->order;
	uint64_t needed = atomic_load(&o->needed_end);
	uint64_t size;
	int ret;

	if (needed <= o->known_end || m->engine->device || META_BROKEN(14))
		return 0;
	ret = storage_size(m->file, &size, err);
	if (ret == 0 && size < needed)
		ret = storage_write(m->file, zeros, sizeof(zeros), needed - sizeof(zeros), err);
	if (ret == 0)
		o->known_end = needed;
	return ret;
}

static int write_copies(struct meta *m, const struct commit *c, bool durable,
			struct qcow2_error *err)
{
	struct meta_order *o = &m->engine->order;
	bool tables = c->l2.count > 0 || c->l1.count > 0;
	bool bit = false; /* rule 8: the tables' clusters may not be counted on disk */
	int ret = 0;

	if (c->refs.count > 0)
		storage_event(m->file, QCOW2_EVENT_REFBLOCK_UPDATE_PART);
	if (META_BROKEN(2))
		durable = true;
	else
		ret = meta_cache_write_dirty(m->engine->refs, &c->refs, err);
	if (ret == 0 && tables && m->engine->lazy && !META_BROKEN(8))
		ret = write_dirty_bit(m, &bit, err);
	if (ret == 0 && tables)
		ret = reach_end(m, err);
	if (ret == 0 && (bit || (tables && c->depends && !META_BROKEN(1))))
		ret = barrier_with_bit(m, bit, err);
	if (ret == 0 && c->l2.count > 0) {
		storage_event(m->file, QCOW2_EVENT_L2_UPDATE);
		ret = meta_cache_write_dirty(m->l2, &c->l2, err);
	}
	if (ret == 0 && c->l1.count > 0)
		storage_event(m->file, QCOW2_EVENT_L1_UPDATE);
	if (ret == 0)
		ret = write_l1(m, &c->l1, err);
	if (ret == 0 && META_BROKEN(2))
		ret = meta_cache_write_dirty(m->engine->refs, &c->refs, err);
	if (ret == 0 && tables && m->engine->lazy && META_BROKEN(8))
		ret = meta_dirty_set(m, err);
	if (ret == 0 && durable)
		ret = meta_barrier(m, err);
	/* without a barrier a change that isn't in the copies yet still needs one */
	if (ret == 0 && (durable || (tables && c->depends)))
		o->depends_done = c->seen;
	return ret;
}

/* The first n of what was dropped can be given away when nobody looks at it any more. */
static void bury(struct meta *m, size_t n)
{
	struct meta_order *o = &m->engine->order;
	uint64_t mark = meta_gate_mark(&m->engine->gate);
	struct meta_freed_list *from = &o->dropped;
	struct meta_freed_list *to = &o->graves;

	pthread_mutex_lock(&o->lock);
	/* the list may never be empty, so what is done is shifted out */
	if (to->head > 0)
		memmove(to->list, to->list + to->head, (to->count - to->head) * sizeof(*to->list));
	to->count -= to->head;
	to->head = 0;
	/* without memory for them they stay counted: leaks */
	for (size_t i = 0; i < n && meta_freed_reserve(to, 1) == 0; i++) {
		from->list[i].mark = mark;
		to->list[to->count++] = from->list[i];
	}
	memmove(from->list, from->list + n, (from->count - n) * sizeof(*from->list));
	from->count -= n;
	atomic_store_explicit(&o->ndropped, from->count, memory_order_relaxed);
	o->cut = 0;
	pthread_mutex_unlock(&o->lock);
}

static int run_commit(struct meta *m, bool durable, bool all_counts, struct qcow2_error *err)
{
	struct commit c = {0};
	int ret = meta_check_sound(m, err);

	if (ret == 0)
		ret = take_copies(m, &c, all_counts, err);
	if (ret == 0)
		ret = write_copies(m, &c, durable, err);
	meta_cache_put_dirty(m->l2, &c.l2, ret == 0);
	meta_cache_put_dirty(m->engine->refs, &c.refs, ret == 0);
	put_l1(m, &c.l1, ret == 0);
	if (ret == 0 && durable && c.ngraves > 0)
		bury(m, c.ngraves);
	return ret;
}

/* One durable commit for all who came while another ran. */
static int commit_shared(struct meta *m, struct qcow2_error *err)
{
	struct meta_order *o = &m->engine->order;
	uint64_t wanted;
	int ret = 0;

	pthread_mutex_lock(&o->lock);
	wanted = o->started + 1;
	pthread_mutex_unlock(&o->lock);
	meta_slot_take(&o->commit);
	pthread_mutex_lock(&o->lock);
	if (o->done < wanted)
		o->started++;
	else
		wanted = 0;
	pthread_mutex_unlock(&o->lock);
	if (wanted > 0) {
		ret = run_commit(m, true, false, err);
		pthread_mutex_lock(&o->lock);
		if (ret == 0)
			o->done = o->started;
		pthread_mutex_unlock(&o->lock);
	}
	meta_slot_leave(&o->commit);
	return ret;
}

/* A commit that nobody shares, of everything. */
static int commit_all(struct meta *m, bool durable, struct qcow2_error *err)
{
	int ret;

	meta_slot_take(&m->engine->order.commit);
	ret = run_commit(m, durable, true, err);
	meta_slot_leave(&m->engine->order.commit);
	return ret;
}

int meta_commit(struct meta *m, bool durable, struct qcow2_error *err)
{
	return durable ? commit_shared(m, err) : commit_all(m, false, err);
}

int meta_commit_counts(struct meta *m, struct qcow2_error *err)
{
	return commit_all(m, true, err);
}

int meta_write_counts(struct meta *m, struct qcow2_error *err)
{
	struct meta_cache *refs = m->engine->refs;
	struct meta_dirty_list dirty;
	int ret;

	/* no commit may write an older copy of a slice after ours */
	meta_slot_take(&m->engine->order.commit);
	ret = meta_check_sound(m, err);
	if (ret == 0) {
		ret = meta_cache_take_dirty(refs, &dirty, err);
		if (ret == 0) {
			storage_event(m->file, QCOW2_EVENT_REFBLOCK_UPDATE_PART);
			ret = meta_cache_write_dirty(refs, &dirty, err);
			meta_cache_put_dirty(refs, &dirty, ret == 0);
		}
	}
	meta_slot_leave(&m->engine->order.commit);
	return ret;
}

int meta_relieve(struct meta *m, struct qcow2_error *err)
{
	unsigned ticket;
	int ret;

	/* asked after every request, so without the lock */
	if (atomic_load_explicit(&m->engine->order.ndropped, memory_order_relaxed) < DROPPED_MANY)
		return 0;
	/* a commit walks over the L1 table, which a resize replaces while the gate is closed */
	ticket = meta_gate_enter(&m->engine->gate);
	ret = meta_commit(m, true, err);
	meta_gate_leave(&m->engine->gate, ticket);
	if (ret == 0)
		meta_reap(m, false);
	return ret;
}

/* ---- the guard ---- */

int meta_mark_corrupt(struct meta *m, struct qcow2_error *err)
{
	struct meta_order *o = &m->engine->order;
	struct qcow2_error why = {.code = -EUCLEAN};

	error_set(&why, -EUCLEAN, "the image is corrupt: %s",
		  err && err->message[0] ? err->message : "its metadata contradict themselves");
	if (atomic_load(&o->failed) != 0)
		return -EUCLEAN;
	meta_fail(m, &why);
	if (m->header.version < 3)
		return -EUCLEAN;
	meta_slot_take(&o->commit); /* it may be about to set the dirty bit */
	if (!(m->header.incompatible & LAYOUT_INCOMPAT_CORRUPT))
		(void)meta_super_write_incompatible(
			m, m->header.incompatible | LAYOUT_INCOMPAT_CORRUPT, NULL);
	meta_slot_leave(&o->commit);
	return -EUCLEAN;
}

int meta_guard_check(struct meta *m, uint64_t host_off, uint64_t len_bytes, enum meta_region own,
		     struct qcow2_error *err)
{
	const struct meta_engine *e = m->engine;
	enum meta_region hit;
	uint64_t hit_off;
	int ret;

	hit = meta_guard_find_but(&e->guard, host_off, len_bytes, e->unguarded | 1u << own,
				  &hit_off);
	if (hit == META_REGION_NONE && e->guard_inactive_l2 && own == META_REGION_NONE) {
		ret = meta_guard_check_inactive(m, host_off, len_bytes, err);
		if (ret == -EUCLEAN)
			return meta_mark_corrupt(m, err);
		if (ret < 0)
			return ret;
	}
	if (hit == META_REGION_NONE || META_BROKEN(13))
		return 0;
	error_set_at(err, -EUCLEAN, QCOW2_NO_OFFSET, hit_off,
		     "writing %" PRIu64 " bytes at host offset 0x%" PRIx64
		     " would overwrite the %s at 0x%" PRIx64,
		     len_bytes, host_off, meta_guard_name(hit), hit_off);
	return meta_mark_corrupt(m, err);
}
