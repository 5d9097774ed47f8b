/* SPDX-License-Identifier: MIT */
/*
 * Persistent dirty bitmaps while their image is open: section 13 of the format reference, and
 * "Bitmaps" in docs/ordering.md.
 *
 * What a bitmap says is what its table in the file says, and on top of that pages in memory with
 * the bits that were set since. So setting bits never reads, and a bitmap that nobody looks at
 * costs no memory. Storing puts both together, in clusters of their own where that makes a
 * difference, and the rest stays where it is.
 *
 * Setting bits goes beside everything else, without a lock. The list, and what a bitmap is, change
 * while the gate is closed only; in an image that is only read they don't change.
 */
#ifndef META_BITMAP_H
#define META_BITMAP_H

#include "meta/engine.h"

#define META_BITMAP_PAGE_BYTES 4096u
#define META_BITMAP_PAGE_BITS (META_BITMAP_PAGE_BYTES * 8)
#define META_BITMAP_PAGE_WORDS (META_BITMAP_PAGE_BYTES / 8)

enum meta_bitmap_state {
	META_BITMAP_GOOD,
	META_BITMAP_STALE,   /* it was in use when a program ended: it says nothing any more */
	META_BITMAP_UNKNOWN, /* of a kind that we can't use, or its size isn't the disk's */
};

struct meta_bitmap {
	/* changed while the gate is closed */
	struct format_bitmap rec; /* flags: the one for extra data only; table: if it is stored */
	enum meta_bitmap_state state;
	bool enabled; /* records what is written */
	bool stored;  /* it is in the directory */
	bool changed; /* more than what was recorded */
	uint64_t nbits;
	uint64_t table_bits;  /* so many of them the table tells of, too; the rest is in pages */
	uint64_t stored_bits; /* how many it was stored with */
	/* changed by who has the slot `marking`, or while the gate is closed */
	uint32_t stored_flags; /* as they are in the directory */
	uint64_t flags_off;    /* of that field */
	/* atomic */
	uint64_t **pages; /* of npages; NULL until a bit is set. Of them, NULL: nothing is set */
	uint64_t *table;  /* entries as stored; NULL until they are needed */
};

struct meta_bitmap_set {
	/* changed while the gate is closed */
	struct meta_bitmap **list;
	size_t count;
	struct meta_bitmap **gone; /* removed, but still in the directory */
	size_t ngone;
	bool changed; /* it isn't what the directory says */
	struct meta_slot marking;
	atomic_bool settled; /* what writes make untrue is marked as in use, durably */
};

static inline uint64_t meta_bitmap_granularity(const struct meta_bitmap *b)
{
	return 1ull << b->rec.granularity_bits;
}

/* As they are to be stored. */
uint32_t meta_bitmap_flags(const struct meta_bitmap *b);

/* ---- bits (bitmap_bits.c) ---- */

/* A bitmap of no image, with that granularity for a disk of that size. */
struct meta_bitmap *meta_bitmap_new(uint64_t size_bytes, uint32_t granularity_bits);
void meta_bitmap_free(struct meta_bitmap *b);
/* Sets the bits of a range of the disk. Any thread, inside the gate. -ENOMEM */
int meta_bitmap_set(struct meta_bitmap *b, uint64_t guest_off, uint64_t len_bytes);
/* All that is set in one of the same size and granularity, in its pages. -ENOMEM */
int meta_bitmap_add(struct meta_bitmap *b, const struct meta_bitmap *other);
/* Nothing is set any more. The gate is closed. */
void meta_bitmap_clear(struct meta_bitmap *b);
/* The disk has another size: bits of what is lost go, new ones aren't set. The gate is closed. */
int meta_bitmap_resize(struct meta_bitmap *b, uint64_t size_bytes);
void meta_bitmap_drop_pages(struct meta_bitmap *b);
/* Whether any of the bits [first, first + n) may be set in a page. */
bool meta_bitmap_has_pages(const struct meta_bitmap *b, uint64_t first, uint64_t n);
/* The entries of its table, loaded if they aren't yet; NULL if it has none. */
int meta_bitmap_table(const struct meta *m, struct meta_bitmap *b, const uint64_t **table,
		      struct qcow2_error *err);
/* Bytes [pos, pos + len) of what it would be stored as: within a page, multiples of 8. */
int meta_bitmap_bytes(const struct meta *m, struct meta_bitmap *b, uint64_t pos, size_t len,
		      uint8_t *bytes, struct qcow2_error *err);
/*
 * How much of the disk from guest_off on, which is inside it, is all dirty or all clean; at most
 * len_bytes, at least 1. Any thread.
 */
int meta_bitmap_run(const struct meta *m, struct meta_bitmap *b, uint64_t guest_off,
		    uint64_t len_bytes, uint64_t *run_bytes, bool *dirty, struct qcow2_error *err);

/* ---- those of an image (bitmap.c) ---- */

/*
 * Reads the directory into m->bitmaps. -EINVAL: it can't be made sense of. Two threads may do so at
 * once.
 */
int meta_bitmaps_open(struct meta *m, struct qcow2_error *err);
void meta_bitmaps_close(struct meta *m);
/* NULL: there is none of that name. */
struct meta_bitmap *meta_bitmaps_find(const struct meta *m, const char *name);
/* -ESTALE, -ENOTSUP: its bits mean nothing to us. */
int meta_bitmap_check(const struct meta_bitmap *b, struct qcow2_error *err);

/* As the directory would be if it were stored now, without places. Inside the gate. */
int meta_bitmaps_tell(const struct meta *m, struct meta_bitmaps *b, struct qcow2_error *err);

/*
 * The range is about to be written to: records it in what is enabled. Inside the gate. On failure
 * nothing may be written.
 */
int meta_bitmaps_mark(struct meta *m, uint64_t guest_off, uint64_t len_bytes,
		      struct qcow2_error *err);
/* The same without waiting for anything: false if that would have to be. */
bool meta_bitmaps_try_mark(struct meta *m, uint64_t guest_off, uint64_t len_bytes);

/* The rest while the gate is closed. What they change is in the file when it has been stored. */

/* -EFBIG, -EINVAL: it would pass a limit. The name is good, and not there yet. */
int meta_bitmaps_add(struct meta *m, const char *name, uint32_t granularity_bits, bool enabled,
		     struct qcow2_error *err);
int meta_bitmaps_remove(struct meta *m, struct meta_bitmap *b, struct qcow2_error *err);
/* All of them: for a version of the format that has none. */
int meta_bitmaps_remove_all(struct meta *m, struct qcow2_error *err);
void meta_bitmaps_enable(struct meta *m, struct meta_bitmap *b, bool enabled);
void meta_bitmaps_clear(struct meta *m, struct meta_bitmap *b);
int meta_bitmaps_merge(struct meta *m, struct meta_bitmap *b, const struct meta_bitmap *bits,
		       struct qcow2_error *err);
/*
 * Before the disk gets another size: whether it may, and marks all as in use. After it, with the
 * size in m->size_bytes: meta_bitmaps_resized, which records new space as written.
 */
int meta_bitmaps_prepare_resize(struct meta *m, uint64_t size_bytes, struct qcow2_error *err);
int meta_bitmaps_resized(struct meta *m, uint64_t old_size, struct qcow2_error *err);

/* ---- storing (bitmap_store.c) ---- */

/*
 * Makes the file say what memory does, durably: all of it or, if it fails, nothing. The gate is
 * closed. Nothing is written if nothing changed.
 */
int meta_bitmaps_store(struct meta *m, struct qcow2_error *err);

/* Bytes that the bitmaps of a disk take in a new image: section 21. */
uint64_t meta_bitmaps_space(const struct meta *m, uint64_t cluster_size);

#endif
