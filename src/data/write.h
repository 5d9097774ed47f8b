/* SPDX-License-Identifier: MIT */
/*
 * Changing a qcow2 disk. A write that finds its clusters mapped to places of their own goes there
 * at once (write.c); whatever changes the map owns the guest range meanwhile (serialize.c) and
 * goes cluster by cluster.
 *
 * The caller has entered the image's gate, and has checked that the range lies inside the disk.
 * Rules that are cited by number are those of docs/ordering.md.
 */
#ifndef DATA_WRITE_H
#define DATA_WRITE_H

#include <pthread.h>

#include "base/iov.h"
#include "data/data.h"
#include "format/entry.h"
#include "meta/engine.h"

/* ---- guest ranges that somebody changes the map of (serialize.c) ---- */

struct data_range {
	uint64_t start, end;
	struct data_range *next;
};

struct data_ranges {
	pthread_mutex_t lock;
	pthread_cond_t left;
	struct data_range *list; /* guarded by lock; entries belong to those who wait for nothing */
};

void data_ranges_init(struct data_ranges *rs);
void data_ranges_release(struct data_ranges *rs);
/* Waits until nobody owns a part of [start, end), and owns it. */
void data_range_take(struct data_ranges *rs, struct data_range *r, uint64_t start, uint64_t end);
void data_range_leave(struct data_ranges *rs, struct data_range *r);

/* ---- buffers for copy-on-write (bounce.c) ---- */

struct data_bounce {
	pthread_mutex_t lock;
	uint64_t len; /* immutable: of those that are kept */
	/* guarded by lock */
	struct data_bounce_idle *idle;
	unsigned nidle;
};

void data_bounce_init(struct data_bounce *b, uint64_t cluster_size);
void data_bounce_release(struct data_bounce *b);
/* len bytes of anything, aligned for direct I/O; NULL: no memory. */
uint8_t *data_bounce_get(struct data_bounce *b, uint64_t len);
/* len as it was asked for; bytes may be NULL. */
void data_bounce_put(struct data_bounce *b, uint8_t *bytes, uint64_t len);

/* ---- ---- */

struct data_writer {
	/* immutable */
	struct meta *m;
	const struct data_layers *layers; /* what is written first: what copy-on-write reads */
	struct data_packed *packed;
	bool has_backing; /* what isn't allocated may read as something else than zeros */
	unsigned discard; /* QCOW2_DISCARD_* */
	bool give_back;	  /* what a guest frees goes back to the host */
	struct data_ranges ranges;
	struct data_bounce bounce;
};

/* Where what is written ends: behind it nothing is read, and nothing has to be kept. */
static inline uint64_t data_size(const struct data_writer *w)
{
	return w->layers->disks[0]->size_bytes;
}

/* Clusters whose entries are looked at together: no more than a slice has. */
#define DATA_CHUNK 256

/* A piece of a request that lies in one slice, while its range is owned. */
struct data_chunk {
	struct data_writer *w;
	uint64_t guest_off, end;	   /* of the piece */
	uint64_t first_off;		   /* guest offset of the first cluster it touches */
	unsigned n;			   /* clusters */
	struct meta_entry raw[DATA_CHUNK]; /* as they are in the map */
	struct format_l2_entry e[DATA_CHUNK];
	struct data_range range;
};

/*
 * Owns the clusters from guest_off on up to end, or the end of a slice, and looks at their entries.
 * c->end tells how far it came. A bad entry is -EUCLEAN, and marks the image corrupt.
 */
int data_chunk_take(struct data_chunk *c, struct data_writer *w, uint64_t guest_off, uint64_t end,
		    struct qcow2_error *err);
void data_chunk_leave(struct data_chunk *c);

/* Lets go of what entry e pointed to; the map doesn't any more. give_back: see meta_drop. */
void data_drop_old(struct data_writer *w, const struct format_l2_entry *e, bool give_back);

/* Where cluster idx begins on the disk, and which part of it the piece covers. */
uint64_t data_cluster_off(const struct data_chunk *c, unsigned idx);
void data_covered_part(const struct data_chunk *c, unsigned idx, uint64_t *from, uint64_t *to);

/* Whether [off, end) reads as zeros by the map alone; what is behind the disk does. */
int data_is_zero(struct data_writer *w, uint64_t off, uint64_t end, bool *is_zero,
		 struct qcow2_error *err);

/* ---- copy-on-write (cow.c) ---- */

#define DATA_ZEROS_LEN (64u * 1024)
extern const uint8_t data_zeros[DATA_ZEROS_LEN];

/* Clusters [first, first + n) of a chunk that get their data at host_off, in one piece. */
struct data_place {
	unsigned first, n;
	uint64_t host_off;
	bool fresh; /* reads as zeros */
	bool ours;  /* was theirs before: entries change, clusters don't */
};

/*
 * Finds a place for up to p->n clusters from p->first on: at host offset behind if that is free,
 * else (or if that is 0) the first that is large enough for all.
 */
int data_find_place(struct data_chunk *c, struct data_place *p, uint64_t behind,
		    struct qcow2_error *err);
/* Nothing was mapped to it. */
void data_give_up_place(struct data_chunk *c, const struct data_place *p);
/*
 * Writes the piece's data that belong there, with what has to be filled in around them, and maps
 * them. cur stands at the first of these bytes and moves past them.
 */
int data_write_place(struct data_chunk *c, const struct data_place *p, struct iov_cursor *cur,
		     struct qcow2_error *err);

/* ---- the requests ---- */

/* flags: QCOW2_WRITE_*, of which FUA is the caller's business. */
int data_write(struct data_writer *w, struct iov_cursor *cur, uint64_t guest_off,
	       uint64_t len_bytes, struct qcow2_error *err);
/*
 * Where a write to the range may go, at once and in one piece, without a change of the map: an
 * offset in the store with the data. -EAGAIN, without a sentence: it is for data_write.
 */
int data_find_in_place(struct data_writer *w, uint64_t guest_off, uint64_t len_bytes,
		       uint64_t *host_off);
/* The range begins at a cluster and ends at one or at the end of the disk. */
int data_write_compressed(struct data_writer *w, struct iov_cursor *cur, uint64_t guest_off,
			  uint64_t len_bytes, struct qcow2_error *err);
/* One cluster, compressed already: len bytes, fewer than a cluster. */
int data_write_packed(struct data_writer *w, uint64_t guest_off, const uint8_t *bytes, size_t len,
		      struct qcow2_error *err);
int data_zero(struct data_writer *w, uint64_t guest_off, uint64_t len_bytes, unsigned flags,
	      struct qcow2_error *err);
int data_discard(struct data_writer *w, uint64_t guest_off, uint64_t len_bytes,
		 struct qcow2_error *err);
/* Gives clusters that have none a place, with zeros in it; prealloc: QCOW2_PREALLOC_*. */
int data_preallocate(struct data_writer *w, uint64_t guest_off, uint64_t end, unsigned prealloc,
		     struct qcow2_error *err);
/*
 * Whole clusters: the map is as if they had never been written. For a disk that becomes smaller or
 * empty. give_back: the bytes aren't needed even if the change gets lost: an external data file
 * loses them at once.
 */
int data_forget(struct data_writer *w, uint64_t guest_off, uint64_t len_bytes, bool give_back,
		struct qcow2_error *err);
/* The same, but they hide what is below: zeros that have no place, whatever QCOW2_DISCARD_* says.
 */
int data_hide(struct data_writer *w, uint64_t guest_off, uint64_t len_bytes,
	      struct qcow2_error *err);

#endif
