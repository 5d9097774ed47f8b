/* SPDX-License-Identifier: MIT */
/*
 * The append-only writer of a new qcow2 image, under convert.
 *
 * Clusters are put in guest order, each once, by one thread at a time; that alone decides where
 * everything goes, so the file doesn't depend on how many threads prepare the clusters. Putting
 * does no I/O: it says what has to be written where, and the writes may then run in any order and
 * on any thread. Refcounts follow from what was handed out; nothing is counted but the compressed
 * clusters that share a host cluster.
 *
 * The header is written last, after everything else (ordering rule W1 in docs/ordering.md): until
 * then the file isn't a qcow2 image.
 */
#ifndef IMAGE_WRITER_H
#define IMAGE_WRITER_H

#include "image/create.h"

struct image_writer;

struct image_writer_options {
	bool map_all;	     /* every cluster gets a place (preallocation) */
	bool explicit_zeros; /* zero clusters hide a backing file */
	bool reads_zero;     /* what isn't written reads as zeros (a new, empty file) */
	bool write_zeros;    /* with map_all: write them, whatever the space reads as */
	bool sparse;	     /* with reads_zero: zeros inside of clusters aren't written either */
};

/* Fills the draft, which is borrowed and wasn't preallocated. */
int image_writer_new(struct image_writer **writer, struct image_draft *draft,
		     const struct image_writer_options *options, struct qcow2_error *err);
void image_writer_free(struct image_writer *writer);

/* Something to be written. */
struct image_write {
	struct qcow2_storage store;
	uint64_t host_off;
	const uint8_t *bytes; /* NULL: zeros */
	size_t len;
	uint8_t *owned; /* memory to free afterwards, or NULL */
	bool sparse;	/* the place reads as zeros: long runs of them needn't be written */
	bool moved;	/* the caller gets the data there, from guest_off of the disk */
	uint64_t guest_off;
};

/* Writes that belong to the thread that prepares them. */
struct image_writes {
	struct image_write *list;
	size_t count, cap;
};

/* What is moved, and goes on with the last, becomes a part of that. */
int image_writes_add(struct image_writes *writes, const struct image_write *write,
		     struct qcow2_error *err);

/* Carries them out but for those that are moved, neighbours joined, and empties the list, also on
 * failure. */
int image_writes_run(struct image_writes *writes, struct qcow2_error *err);
/* Drops what wasn't written. */
void image_writes_release(struct image_writes *writes);

enum image_put {
	IMAGE_PUT_DATA,	      /* bytes: a whole cluster */
	IMAGE_PUT_MOVED,      /* the same, but the caller moves them: see image_write */
	IMAGE_PUT_COMPRESSED, /* bytes: len of them, less than a cluster */
	IMAGE_PUT_ZERO,	      /* reads as zeros */
};

/*
 * Puts the cluster at guest_off, which is behind all that were put before; clusters that are
 * passed over are absent. bytes must stay until the writes have run.
 */
int image_writer_put(struct image_writer *writer, uint64_t guest_off, enum image_put kind,
		     const uint8_t *bytes, size_t len, struct image_writes *writes,
		     struct qcow2_error *err);

/* Where compressed bytes are taken from. */
struct image_origin {
	const void *file; /* which one; only compared. NULL: like no other */
	uint64_t host_off;
};

/*
 * The same for a compressed cluster that is taken as it is from another image: len bytes, at most a
 * cluster, to the end of the last sector that belongs to it. A stream may end before that, and the
 * next begin: clusters that shared a sector where they come from share it again, whatever is in it.
 */
int image_writer_put_packed(struct image_writer *writer, uint64_t guest_off, const uint8_t *bytes,
			    size_t len, const struct image_origin *origin,
			    struct image_writes *writes, struct qcow2_error *err);

/*
 * All clusters are put and all writes have run: writes the rest of the tables and finishes the
 * draft, so that the image is complete.
 */
int image_writer_finish(struct image_writer *writer, struct qcow2_error *err);

#endif
