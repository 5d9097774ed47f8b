/* SPDX-License-Identifier: MIT */
/*
 * Requests on files that the kernel carries out while the caller goes on (io_uring). Only what the
 * kernel can be asked directly: the file store, and requests that are aligned as it wants them.
 * Everything else is for the blocking calls of storage.h.
 *
 * A ring is used by one thread at a time.
 */
#ifndef STORAGE_RING_H
#define STORAGE_RING_H

#include "base/iov.h"
#include "storage/storage.h"

/* Blocks of a file that are being changed. Belongs to the one who changes them. */
struct storage_range {
	uint64_t start, end;
	bool exclusive;
	struct storage_range *next;
};

#define STORAGE_RING_PIECES 8

struct storage_ring_op {
	/* the caller's; not to be changed until done is called */
	bool write;
	const struct iovec *iov;
	int iovcnt;
	uint64_t len_bytes; /* of the vector, at least 1 */
	uint64_t host_off;
	/* With a negative errno, or 0: all of it was moved. May put the op, or free it. */
	void (*done)(struct storage_ring_op *op, int code);
	/* the ring's */
	struct qcow2_storage store;
	int fd;
	uint64_t align; /* of direct I/O, else 1 */
	struct iov_cursor left;
	uint64_t moved;
	struct iovec pieces[STORAGE_RING_PIECES];
	struct storage_range range;
	struct storage_ring_op *next;
};

struct storage_ring;

/* For depth ops at a time. -ENOTSUP where the kernel, or this build, has none to give. */
int storage_ring_new(struct storage_ring **ring, unsigned depth, struct qcow2_error *err);
/* Nothing is in flight. NULL is allowed. */
void storage_ring_free(struct storage_ring *ring);

/*
 * Takes an op; it is begun by the next storage_ring_submit. false: it is none for a ring, or there
 * is no room, and nothing happened.
 */
bool storage_ring_put(struct storage_ring *ring, struct qcow2_storage store,
		      struct storage_ring_op *op);
/* Begins what was put. */
void storage_ring_submit(struct storage_ring *ring);
/* Calls done for everything that has ended; wait: sleeps until at least one has. */
void storage_ring_reap(struct storage_ring *ring, bool wait);
/* Asks for an op in flight to be ended; done is called as ever, perhaps with -ECANCELED. */
void storage_ring_cancel(struct storage_ring *ring, struct storage_ring_op *op);
/* event_fd, an eventfd, is written to whenever something has ended. Negative errno. */
int storage_ring_watch(struct storage_ring *ring, int event_fd);
/* Readable while something has ended that wasn't reaped. */
int storage_ring_fd(const struct storage_ring *ring);

/* ---- what the file store has to say of it (fileasync.c) ---- */

/*
 * May the kernel be asked? *fd is the file's then, and for writes past the page cache the blocks
 * are entered (op->range), which storage_file_async_end leaves.
 */
bool storage_file_async_begin(struct storage_ring_op *op);
void storage_file_async_end(struct storage_ring_op *op);

#endif
