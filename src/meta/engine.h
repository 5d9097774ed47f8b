/* SPDX-License-Identifier: MIT */
/*
 * The metadata of an image that is open for writing. The rules that are cited by number are those
 * of docs/ordering.md; who waits for whom is in docs/threads.md.
 *
 * Clusters are counted by index (host offset >> cluster_bits). A cluster is free, or in use: its
 * count isn't 0, or somebody has just taken it, or it waits to be given away (rules 3 and 4).
 */
#ifndef META_ENGINE_H
#define META_ENGINE_H

#include <pthread.h>

#include "base/progress.h"
#include "meta/gate.h"
#include "meta/guard.h"
#include "meta/meta.h"
#include "meta/super.h"

/* Something that one thread does at a time while others wait; no lock, I/O goes on meanwhile. */
struct meta_slot {
	pthread_mutex_t lock;
	pthread_cond_t freed;
	bool taken;
};

void meta_slot_init(struct meta_slot *s);
void meta_slot_release(struct meta_slot *s);
void meta_slot_take(struct meta_slot *s);
void meta_slot_leave(struct meta_slot *s);

/* ---- which clusters are free (alloc.c) ---- */

#define META_PAGE_CLUSTERS 4096

struct meta_alloc_page {
	uint64_t used[META_PAGE_CLUSTERS / 64]; /* bit: the cluster is in use */
};

struct meta_alloc {
	pthread_mutex_t lock;
	/* guarded by lock */
	uint64_t in_file;		/* clusters that the file had when it was opened */
	struct meta_alloc_page **pages; /* NULL: not looked at yet */
	size_t npages;
	uint64_t hint;	     /* where the next search begins, as QEMU's (section 10.1) */
	uint64_t given_back; /* how often something was */
	uint64_t fresh_from; /* clusters from here on read as zeros; never handed out before */
	uint64_t end;	     /* no cluster from here on was ever handed out, or is in the file */
};

/* Clusters that lie together. */
struct meta_run {
	uint64_t first;
	uint64_t nclusters;
	bool fresh; /* reads as zeros: beyond the end of all that was ever in the file */
};

/* Its lock is there already. */
int meta_alloc_init(struct meta *m, struct qcow2_error *err);
void meta_alloc_release(struct meta_alloc *a);
/* Marks n free clusters in one piece as in use, ending at or below host offset limit: -EFBIG. */
int meta_alloc_find(struct meta *m, uint64_t n, uint64_t limit_off, struct meta_run *run,
		    struct qcow2_error *err);
/* As many of the n clusters from first on as are free; run->nclusters may be 0. */
int meta_alloc_find_at(struct meta *m, uint64_t first, uint64_t n, struct meta_run *run,
		       struct qcow2_error *err);
/* They are free: the next search begins no later than there. */
void meta_alloc_give_back(struct meta *m, uint64_t first, uint64_t n);
/*
 * From now on no search finds the n clusters from first on, which are in use, before they are given
 * back: not even one that looks at their refcounts for the first time when these are 0 already.
 */
int meta_alloc_hold(struct meta *m, uint64_t first, uint64_t n, struct qcow2_error *err);
/* Marks clusters behind all that is in use; none of them is known to be used. */
int meta_alloc_mark(struct meta *m, uint64_t first, uint64_t n, struct qcow2_error *err);
/* The cluster behind all that was ever handed out or is in the file. */
uint64_t meta_alloc_end(struct meta *m);
/* Behind the last cluster in use below end; end, if finding that would take too long. */
int meta_alloc_last_used(struct meta *m, uint64_t end, uint64_t *behind, struct qcow2_error *err);

/* ---- refcounts (refcount.c, refgrow.c) ---- */

/* The refcount table in memory; replaced as a whole when it moves. */
struct meta_reftable {
	uint32_t entries;
	struct meta_reftable *older; /* kept for those who still look at it */
	uint64_t refblock_off[];     /* atomic; as stored */
};

int meta_refs_get(struct meta *m, uint64_t cluster, uint64_t *count, struct qcow2_error *err);
/*
 * The count of a cluster, and how many from it on, at least 1 and at most n, have the same; there
 * may be more.
 */
int meta_refs_stretch(struct meta *m, uint64_t first, uint64_t n, uint64_t *count, uint64_t *len,
		      struct qcow2_error *err);
/*
 * Sets bit i of bits if cluster first + i is counted at all, or with once exactly once. Where there
 * is no refcount block nothing is counted.
 */
int meta_refs_look(struct meta *m, uint64_t first, uint64_t n, bool once, uint64_t *bits,
		   struct qcow2_error *err);
/* Writes a count that is in memory to its place, so that the next barrier covers it. */
int meta_refs_write(struct meta *m, uint64_t cluster, struct qcow2_error *err);
/*
 * One more reference to each of n clusters, with refcount blocks made where there are none; all or
 * nothing. -ERANGE: a count is at the maximum of its width.
 */
int meta_refs_raise(struct meta *m, uint64_t first, uint64_t n, struct qcow2_error *err);
/* One less. Calls zero (if not NULL) for runs of clusters whose count became 0. */
int meta_refs_lower(struct meta *m, uint64_t first, uint64_t n,
		    void (*zero)(struct meta *m, uint64_t first, uint64_t n, void *opaque),
		    void *opaque, struct qcow2_error *err);
/*
 * The gate is closed, and everything has been reaped. Drops refcount blocks at the end of the table
 * that count nothing but themselves.
 */
int meta_refs_trim(struct meta *m, struct qcow2_error *err);
/* Refcount blocks that memory counts in already; on the file no table points to them yet. */
struct meta_new_block {
	uint64_t idx, block_off;
};

struct meta_new_blocks {
	struct meta_slot entering; /* guards writing of the entries; nothing else is taken in it */
	_Atomic size_t count;	   /* of the list; one is on it until its entry has been written */
	pthread_mutex_t lock;
	/* guarded by lock */
	struct meta_new_block *list;
	size_t cap;
};

/* Makes them durable and writes their entries, which the caller's barrier is to follow. */
int meta_refs_enter_new(struct meta *m, struct qcow2_error *err);
/* Makes the refcount block of table index idx, while the slot `growing` isn't held by the caller.
 */
int meta_refs_grow(struct meta *m, uint64_t idx, struct qcow2_error *err);
/* Behind the last cluster that the refcount table has an entry for. */
uint64_t meta_refs_end(const struct meta *m);
/* The block's offset; 0: there is none. -EUCLEAN: the entry can't be used. */
int meta_refblock_off(struct meta *m, uint64_t idx, uint64_t *off, struct qcow2_error *err);

/* ---- taking and giving clusters (clusters.c) ---- */

/* Finds clusters and counts them once: they are the caller's, and nothing points to them. */
int meta_take(struct meta *m, uint64_t n, uint64_t limit_off, struct meta_run *run,
	      struct qcow2_error *err);
int meta_take_at(struct meta *m, uint64_t first, uint64_t n, struct meta_run *run,
		 struct qcow2_error *err);
/* Takes that back; nothing ever pointed to them. */
void meta_untake(struct meta *m, const struct meta_run *run);
/*
 * Their counts are 0 and nobody looks at them: they can be taken. give_back: their space goes back
 * to the host before.
 */
void meta_clusters_free(struct meta *m, uint64_t first, uint64_t n, bool give_back);
/*
 * The map in memory has stopped pointing to n clusters: rules 3 and 4. give_back: their space is
 * given back to the host.
 */
void meta_drop(struct meta *m, uint64_t first, uint64_t n, bool give_back);
/* Space for len compressed bytes (at most a cluster), beside others: section 8.3. */
int meta_take_packed(struct meta *m, uint64_t len, uint64_t *host_off, struct qcow2_error *err);
/* Takes that back. */
void meta_untake_packed(struct meta *m, uint64_t host_off, uint64_t len);

/*
 * Takes space on the host for a table that reads as zeros and isn't written yet: a lack of it is
 * told to who makes the table, not to all who have written since when a flush needs it. No error
 * where the store can't take space.
 */
int meta_reserve(struct meta *m, const struct meta_run *run, struct qcow2_error *err);

/* ---- tables that move (move.c) ---- */

/* Writes n words as a table's entries. */
int meta_write_words(struct meta *m, const uint64_t *words, uint64_t n, uint64_t host_off,
		     struct qcow2_error *err);
/*
 * A write to the header failed: it may or may not point to the new table, so the image has failed.
 * Returns ret.
 */
int meta_header_unknown(struct meta *m, int ret, const char *what);
/* Lets go of a table that the header, durably, doesn't point to any more. */
void meta_table_free(struct meta *m, enum meta_region region, uint64_t off, uint64_t len_bytes);

/* ---- tables (tables_write.c) ---- */

struct meta_entry {
	uint64_t raw;
	uint64_t bitmap; /* extended L2 */
};

/*
 * The L2 entries from guest_off on, up to the end of a slice or max: *n. Where there is no table
 * they are 0.
 */
int meta_entries_get(struct meta *m, uint64_t guest_off, struct meta_entry *e, unsigned max,
		     unsigned *n, struct qcow2_error *err);
/* Sees to it that the L2 table of guest_off is there and ours alone. */
int meta_table_ensure(struct meta *m, uint64_t guest_off, struct qcow2_error *err);
/*
 * Sets n entries, which lie in one slice of a table that was ensured. depends: they point to what
 * has to be durable before them (rules 1, 2).
 */
int meta_entries_set(struct meta *m, uint64_t guest_off, const struct meta_entry *e, unsigned n,
		     bool depends, struct qcow2_error *err);
void meta_l1_set(struct meta *m, uint64_t idx, uint64_t raw, bool depends);
/*
 * Tables for that many L1 entries that are empty, from that of guest_off on, with all that is to be
 * in them: in one write, here, so that only the L1 entries are left for the commit. On failure no
 * entry was set.
 */
int meta_tables_enter(struct meta *m, uint64_t guest_off, const struct meta_run *tables,
		      const uint8_t *bytes, struct storage_trail *trail, struct qcow2_error *err);
/* Words of a bit map with a bit for each sector of an L1 table. */
size_t meta_l1_dirty_words(uint32_t entries);
/* The gate is closed. Makes the L1 table that large, if it is smaller. */
int meta_l1_grow(struct meta *m, uint64_t entries, struct qcow2_error *err);
/* The gate is closed. L1 entries [from, to) lose their tables, in which no entry is set. */
void meta_l1_drop_tables(struct meta *m, uint64_t from, uint64_t to);
/* L1 entries that were taken out of the table in memory, and what they were. */
struct meta_l1_part {
	uint32_t first, n;
	uint64_t *raw; /* owned until it is put back or let go of; NULL: none */
};

/*
 * The gate is closed. Whether the tables of L1 entries [from, to) can be let go of; a bad entry
 * marks the image corrupt. The file has all of these tables then.
 */
int meta_l1_look(struct meta *m, uint64_t from, uint64_t to, struct qcow2_error *err);
/*
 * The gate is closed. L1 entries [from, to) become empty in memory; then, in the file, by a commit
 * of the caller's.
 */
int meta_l1_take_out(struct meta *m, uint64_t from, uint64_t to, struct meta_l1_part *part,
		     struct qcow2_error *err);
/* That commit failed: they are as they were. */
void meta_l1_put_back(struct meta *m, struct meta_l1_part *part);
/*
 * The gate is closed. L1 entries from there on become empty, durably, and then everything that they
 * reached loses a reference: VM state whose place is needed, or that a snapshot has now.
 */
int meta_l1_cut(struct meta *m, uint64_t from, struct qcow2_error *err);
struct meta_freed_list;
/*
 * They are empty durably: what a part of the disk had, data and tables, is free; or leaks. later:
 * as of meta_walk_drop.
 */
int meta_l1_let_go(struct meta *m, struct meta_l1_part *part, struct meta_freed_list *later,
		   struct qcow2_error *err);

/* ---- the order in which it reaches the file (order.c) ---- */

struct meta_freed {
	uint64_t first, nclusters;
	uint64_t mark; /* of the gate; valid in the graveyard */
	bool give_back;
};

struct meta_freed_list {
	struct meta_freed *list;
	size_t head; /* what is before it is done */
	size_t count, cap;
};

/* Makes room for n more behind count. */
int meta_freed_reserve(struct meta_freed_list *f, size_t n);
/*
 * The gate is closed. As meta_clusters_free, at the end of many at the latest. The list begins as
 * {0}; nobody takes clusters before the end, whose counts say already that they are free.
 */
void meta_gather(struct meta *m, struct meta_freed_list *list, const struct meta_freed *f);
void meta_gather_end(struct meta *m, struct meta_freed_list *list);
/*
 * What is gathered is free already, and nobody has taken any of it: its space goes back to the
 * host, as far as the file still reaches there.
 */
void meta_gather_give_back(struct meta *m, struct meta_freed_list *list);

struct meta_order {
	struct meta_slot commit;
	struct meta_slot reaping;
	_Atomic uint64_t depends;    /* counts changes that have to wait for data or counts */
	uint64_t depends_done;	     /* owned by the commit: what an earlier one has covered */
	_Atomic int failed;	     /* negative errno: rule 12, or the image is corrupt */
	_Atomic uint64_t needed_end; /* the file has to reach there before tables are written */
	uint64_t known_end;	     /* it does to there; owned by the commit */
	pthread_mutex_t lock;
	/* guarded by lock */
	uint64_t *l1_dirty;		/* a bit a sector of the L1 table */
	struct meta_freed_list dropped; /* since the last commit began */
	size_t cut;			/* of those, what the commit that runs gives away */
	_Atomic size_t ndropped;	/* its length, to be looked at without the lock */
	struct meta_freed_list graves;	/* their tables are durable */
	uint64_t started, done;		/* commits with barrier two; for who shares one */
	struct qcow2_error why;		/* with failed */
};

/*
 * Writes what is dirty in the order of the rules. durable: with a barrier at the end, which makes
 * everything durable that was done before the call. Not from inside a change: see docs/threads.md.
 */
int meta_commit(struct meta *m, bool durable, struct qcow2_error *err);
/* The same, durable, with the refcounts even where they could wait. */
int meta_commit_counts(struct meta *m, struct qcow2_error *err);
/* Writes the refcounts that are dirty, and nothing else; no barrier is needed for that. */
int meta_write_counts(struct meta *m, struct qcow2_error *err);
/* Gives away what has waited long enough. all: the gate is closed, so that everything has. */
void meta_reap(struct meta *m, bool all);
/* Commits if a lot is waiting to be given away. The caller isn't in the gate. */
int meta_relieve(struct meta *m, struct qcow2_error *err);
/* 0, or why nothing may be changed any more. */
int meta_check_sound(struct meta *m, struct qcow2_error *err);
/* Nothing is changed from now on, for the reason in why. */
void meta_fail(struct meta *m, const struct qcow2_error *why);
/*
 * The map will point to what ends at host_off, of which nothing may have been written because it
 * reads as zeros. Rule 14.
 */
void meta_need_end(struct meta *m, uint64_t host_off);
/* A flush of the data file and the image file; the image has failed if it fails (rule 12). */
int meta_flush_files(struct meta *m, struct qcow2_error *err);
/* The same, and before it refcount blocks that are new, then their entries in the table (rule 6).
 */
int meta_barrier(struct meta *m, struct qcow2_error *err);
/*
 * Nobody may write [host_off, +len) but as a region of kind own: rule 13. A hit marks the image
 * corrupt: -EUCLEAN.
 */
int meta_guard_check(struct meta *m, uint64_t host_off, uint64_t len_bytes, enum meta_region own,
		     struct qcow2_error *err);
/* The same for the L2 tables of snapshots, which are read for it; marks nothing. */
int meta_guard_check_inactive(struct meta *m, uint64_t host_off, uint64_t len_bytes,
			      struct qcow2_error *err);
/*
 * Refuses further changes for what err says, and sets the bit (version 3). Returns -EUCLEAN. Not
 * while the caller commits.
 */
int meta_mark_corrupt(struct meta *m, struct qcow2_error *err);

/* ---- whole L1 tables (walk.c); the gate is closed and everything committed ---- */

/* The tables that it reaches are work to be done, for who asks how far it is. */
void meta_walk_expect(struct meta *m, const uint64_t *l1, uint32_t entries);
/*
 * One more reference to every table and cluster that the L1 table reaches; on failure those that
 * were raised are lowered again. clear: COPIED flags in its L2 tables go. It alone of these can be
 * cancelled.
 */
int meta_walk_raise(struct meta *m, const uint64_t *l1, uint32_t entries, bool clear,
		    struct qcow2_error *err);
/* One less, and what has none left is free. */
int meta_walk_lower(struct meta *m, const uint64_t *l1, uint32_t entries, struct qcow2_error *err);
/*
 * The same for a part of the disk, whose space goes back to the host; progress knows of it. later:
 * gets what to give back, after the file has been cut; NULL: it is given back at once.
 */
int meta_walk_drop(struct meta *m, const uint64_t *l1, uint32_t entries,
		   struct meta_freed_list *later, struct qcow2_error *err);
/*
 * Goes through all tables and changes nothing: whether lowering would meet an entry that can't be
 * used. Tells progress of the disk that they map, and can be cancelled.
 */
int meta_walk_look(struct meta *m, const uint64_t *l1, uint32_t entries, struct qcow2_error *err);
/* Makes the COPIED flags of the active tables say what the refcounts do. */
int meta_refresh_copied(struct meta *m, struct qcow2_error *err);

/* ---- snapshots (snapshot.c); the gate is closed ---- */

/* s: all there are, with the new one at its end, whose L1 table is set here. */
int meta_snapshot_create(struct meta *m, struct meta_snapshots *s, struct qcow2_error *err);
/* Takes it out of the list too. */
int meta_snapshot_delete(struct meta *m, struct meta_snapshots *s, size_t idx,
			 struct qcow2_error *err);
/*
 * size_bytes: what the disk has from then on. The header in memory says what came of it, also after
 * a failure; m->size_bytes is the caller's to follow it.
 */
int meta_snapshot_apply(struct meta *m, const struct format_snapshot *snap, uint64_t size_bytes,
			struct qcow2_error *err);

/* *l1 is the caller's, of s->l1_entries; never NULL when this succeeds. */
int meta_snapshot_read_l1(struct meta *m, const struct format_snapshot *s, uint64_t **l1,
			  struct qcow2_error *err);
/* A new table with these records, which take old_len bytes in the file now. */
int meta_snapshots_rewrite(struct meta *m, const struct meta_snapshots *s, uint64_t old_len,
			   struct qcow2_error *err);

/* ---- emptying (empty.c, snapshot.c); the gate is closed ---- */

/*
 * Nothing is allocated any more. m->size_bytes and the snapshots stay. -ENOTSUP with an external
 * data file.
 */
int meta_make_empty(struct meta *m, struct qcow2_error *err);
/* Whether the quick way is one for this image. */
bool meta_can_lay_out_anew(const struct meta *m);
/*
 * Empties it the quick way: the file becomes like a new one. After that, and after a failure half
 * way, the image can't be changed any more until it is opened again.
 */
int meta_lay_out_anew(struct meta *m, struct qcow2_error *err);

/* ---- as a whole (engine.c) ---- */

/* Sets or clears the dirty bit, durably (version 3; else nothing happens). */
int meta_dirty_set(struct meta *m, struct qcow2_error *err);
int meta_dirty_clear(struct meta *m, struct qcow2_error *err);

struct meta_engine_options {
	uint64_t refcount_cache_bytes;
	unsigned lazy_refcounts; /* QCOW2_AS_RECORDED, _ON, _OFF */
	unsigned pass_discard;	 /* QCOW2_PASS_REQUEST, _SNAPSHOT, _OTHER */
	unsigned overlap_check;	 /* QCOW2_OVERLAP_* */
	bool device; /* the file is a block device: nothing of it reads as zeros by itself */
};

struct meta_engine {
	/* immutable */
	bool lazy;
	bool device;
	unsigned pass_discard;
	unsigned unguarded; /* bits of regions that writes aren't held against */
	bool guard_inactive_l2;
	struct meta_gate gate;
	struct meta_guard guard;
	struct meta_cache *refs;
	struct meta_alloc alloc;
	struct meta_order order;
	struct meta_slot growing;
	struct meta_new_blocks new_blocks;
	struct meta_slot l1_slot; /* guards the list of L1 entries whose table is being made */
	_Atomic(struct meta_reftable *) reftable;
	struct meta_slot packing;
	uint64_t packed_off;	/* where the next compressed bytes may go; 0: nowhere yet. Owned by
				   who has packing */
	_Atomic bool dirty_bit; /* set on disk */
	_Atomic bool needs_repair; /* counts or flags may be wrong: the dirty bit stays */
	_Atomic bool ever_freed;
	/* The caller's, for as long as it keeps the gate closed: what goes through many tables
	   tells how far it is, and may be cancelled where it says so. NULL: nobody asks */
	struct progress_work *progress;
};

/*
 * Makes the image changeable: loads the refcount table, looks where its metadata are, clears
 * autoclear bits (rule 9). The header, the L1 table and the snapshots have been loaded. On failure
 * nothing is left to do.
 */
int meta_engine_new(struct meta *m, const struct meta_engine_options *o,
		    const struct meta_snapshots *snapshots, struct qcow2_error *err);
/* The cache is one of this image's: its dirty slices are committed when it needs room. */
void meta_engine_use_cache(struct meta *m, struct meta_cache *cache);
/* Cuts off what is free at the end of the file, if something became free. */
int meta_engine_trim(struct meta *m, struct qcow2_error *err);
/* The last commit; cuts free space off the file; clears the dirty bit. The gate is closed. */
int meta_engine_finish(struct meta *m, struct qcow2_error *err);
void meta_engine_free(struct meta *m);

static inline uint64_t meta_cluster_of(const struct meta *m, uint64_t host_off)
{
	return host_off >> m->geometry.cluster_bits;
}

static inline uint64_t meta_off_of(const struct meta *m, uint64_t cluster)
{
	return cluster << m->geometry.cluster_bits;
}

/* For mutation tests: whether rule n is broken on purpose in this build. */
#ifdef QCOW2_BREAK_RULE
#define META_BROKEN(n) ((n) == QCOW2_BREAK_RULE)
#else
#define META_BROKEN(n) false
#endif

#endif
