/* SPDX-License-Identifier: MIT */
/*
 * Guest I/O: a request is cut into runs, each run is mapped to what backs it, bytes are moved.
 *
 * A chain of images is an array of disks, the top first. It is walked in a loop, so that its
 * depth costs no stack.
 */
#ifndef DATA_DATA_H
#define DATA_DATA_H

#include "codec/codec.h"
#include "disk/disk.h"
#include "meta/meta.h"

struct data_hints;

/* Immutable after open; borrowed. */
struct data_layers {
	struct disk *const *disks; /* [0] is the top; those below don't change */
	unsigned count;
	struct data_hints *hints; /* NULL: the chain is short, or nobody has set them up */
};

/* ---- where to look in a long chain (hints.c) ---- */

/* For a disk of so many bytes. NULL: no memory, which does no harm. */
struct data_hints *data_hints_new(uint64_t size_bytes);
void data_hints_free(struct data_hints *hints);
/*
 * The top has nothing at guest_off, for *len_bytes: the layer to ask next, at least 1. *len_bytes
 * is cut to what that holds for. cached: no layer is asked that may have to do I/O.
 */
unsigned data_hints_depth(const struct data_layers *layers, uint64_t guest_off, uint64_t *len_bytes,
			  bool cached);

/* A run, and the layer that it is from. */
struct data_run {
	struct disk_run run;
	unsigned depth; /* into the layers */
	bool past_end;	/* zeros because the layers below end before this offset */
};

/*
 * What backs guest_off through all layers, for at most len_bytes: never DISK_RUN_ABSENT unless
 * no layer knows the range (it then reads as zeros, and depth is the last layer asked).
 */
int data_map(const struct data_layers *layers, uint64_t guest_off, uint64_t len_bytes,
	     struct data_run *out, struct qcow2_error *err);

/* The same by what is in memory: -EAGAIN, without a sentence, where that isn't enough. */
int data_map_cached(const struct data_layers *layers, uint64_t guest_off, uint64_t len_bytes,
		    struct data_run *out);

/* Reads a range that lies inside the top disk. */
int data_read(const struct data_layers *layers, const struct iovec *iov, int iovcnt,
	      uint64_t guest_off, uint64_t len_bytes, struct qcow2_error *err);

/* ---- compressed clusters (packed.c) ---- */

/*
 * Reads compressed clusters of one image, and keeps the last few decompressed. Thread-safe.
 */
struct data_packed;

int data_packed_new(struct data_packed **p, const struct meta *m, struct qcow2_error *err);
void data_packed_free(struct data_packed *p);

/* Reads len bytes at in_cluster of the cluster that the L2 entry raw describes. */
int data_packed_read(struct data_packed *p, uint64_t raw, uint64_t in_cluster, void *buf,
		     size_t len, struct qcow2_error *err);

/*
 * The descriptor raw is about to mean another cluster; nobody who found it in the map when it meant
 * the last one is still in flight.
 */
void data_packed_forget(struct data_packed *p, uint64_t raw);

#endif
