/* SPDX-License-Identifier: MIT */
/*
 * Flat byte stores that stack behind one small interface (struct qcow2_storage_ops, public so
 * that an embedder can bring another). Nothing here knows a format.
 *
 * A struct qcow2_storage is a handle of two pointers, copied freely; one holder owns it and calls
 * storage_close. A layer that stacks on another owns the one below.
 */
#ifndef STORAGE_STORAGE_H
#define STORAGE_STORAGE_H

#include <stdbool.h>

#include "base/error.h"
#include "qcow2.h"

/* ---- calls on any store: fill in what a store doesn't have ---- */

static inline bool storage_is_open(struct qcow2_storage st)
{
	return st.ops != NULL;
}

/* Closes and clears the handle. Nothing happens if it isn't open. */
void storage_close(struct qcow2_storage *st);
int storage_size(struct qcow2_storage st, uint64_t *size_bytes, struct qcow2_error *err);
int storage_read(struct qcow2_storage st, void *buf, size_t len, uint64_t host_off,
		 struct qcow2_error *err);
int storage_readv(struct qcow2_storage st, const struct iovec *iov, int iovcnt, uint64_t host_off,
		  struct qcow2_error *err);
int storage_write(struct qcow2_storage st, const void *buf, size_t len, uint64_t host_off,
		  struct qcow2_error *err);
int storage_writev(struct qcow2_storage st, const struct iovec *iov, int iovcnt, uint64_t host_off,
		   struct qcow2_error *err);
/* Falls back to writing zeros unless flags has QCOW2_STORAGE_NO_FALLBACK. */
int storage_zero(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes, unsigned flags,
		 struct qcow2_error *err);
/* 0 also where the store can't discard. */
int storage_discard(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes,
		    struct qcow2_error *err);
int storage_flush(struct qcow2_storage st, struct qcow2_error *err);
int storage_truncate(struct qcow2_storage st, uint64_t size_bytes, struct qcow2_error *err);
/* -ENOTSUP where the store can't reserve space. */
int storage_allocate(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes,
		     struct qcow2_error *err);
int storage_extent(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes,
		   struct qcow2_storage_extent *out, struct qcow2_error *err);
/* Tells the store, and whoever traces, that this step comes next. */
void storage_event(struct qcow2_storage st, unsigned event);
/* use, forbid: QCOW2_LOCK_*. 0 also where the store has no locks. */
int storage_lock(struct qcow2_storage st, unsigned use, unsigned forbid, struct qcow2_error *err);

/* ---- files and block devices (file.c, filelock.c) ---- */

#define STORAGE_FILE_WRITE 1u
#define STORAGE_FILE_CREATE 2u	  /* create if absent; never truncates: lock first, then truncate */
#define STORAGE_FILE_EXCL 4u	  /* with CREATE: -EEXIST if present */
#define STORAGE_FILE_DIRECT 8u	  /* O_DIRECT; unaligned requests go through a bounce buffer */
#define STORAGE_FILE_NO_FLUSH 16u /* flush does nothing */
#define STORAGE_FILE_WRITETHROUGH 32u /* each write is flushed */

/*
 * Opens a regular file or block device. No lock is taken: call storage_lock before reading.
 * Anything else (directory, pipe, socket, character device) is refused with -EINVAL.
 */
int storage_file_open(struct qcow2_storage *st, const char *path, unsigned flags,
		      struct qcow2_error *err);

struct storage_file_stat {
	uint64_t dev, ino;   /* identity, to find that two names are one file */
	uint64_t disk_bytes; /* space taken on the host (st_blocks * 512) */
	uint64_t size_bytes;
	bool is_block_device;
};

/* Of an open file store; -ENOTSUP for any other kind. */
int storage_file_stat(struct qcow2_storage st, struct storage_file_stat *out,
		      struct qcow2_error *err);

/*
 * Removes the name of an open file store. -ESTALE, and nothing is removed, if path isn't (or is no
 * longer) a name of that very file, or is a symbolic link to it.
 */
int storage_file_remove(struct qcow2_storage st, const char *path, struct qcow2_error *err);

/* Makes the name of a file that was just created durable. */
int storage_file_settle(const char *path, struct qcow2_error *err);

/*
 * For who writes much, with a flush to come at the end: what was written goes on its way to the
 * disk while he goes on, whenever there is enough of it. Only a hint; what fails is told by the
 * flush. Begins as {0}; writes that end up in one file follow each other in one trail.
 */
struct storage_trail {
	uint64_t start, end; /* private, as bytes: a range with that many that weren't handed on */
	uint64_t bytes;
};

void storage_trail_add(struct storage_trail *trail, struct qcow2_storage st, uint64_t host_off,
		       uint64_t len_bytes);

/* Copies inside the kernel (copy_file_range, reflinks where the file system can) between two file
 * stores; *copied may be less than len_bytes. -ENOTSUP when that can't be done. */
int storage_file_copy(struct qcow2_storage from, uint64_t from_off, struct qcow2_storage to,
		      uint64_t to_off, uint64_t len_bytes, uint64_t *copied,
		      struct qcow2_error *err);

/*
 * Whether ranges of one store can become the same blocks as ranges of another, without their data
 * being moved: two files of one file system that can do that (xfs, btrfs). Asks the kernel and
 * changes nothing. *block_bytes: what ranges are made of, a power of two. -ENOTSUP: they can't.
 */
int storage_can_clone(struct qcow2_storage from, struct qcow2_storage to, uint64_t *block_bytes,
		      struct qcow2_error *err);

/*
 * Replaces what is at to_off by the blocks, and holes, at from_off of another file, which both
 * share until one of them is written to; makes the target longer where it ends before. Offsets and
 * length are multiples of a block, and the range lies inside the source. -ENOTSUP, and nothing is
 * changed, where that can't be: the bytes have to be copied then. Any other failure, such as
 * -ENOSPC, may leave a part done.
 */
int storage_clone(struct qcow2_storage from, uint64_t from_off, struct qcow2_storage to,
		  uint64_t to_off, uint64_t len_bytes, struct qcow2_error *err);

/*
 * spare: from now on, until it is called with false as often, what is read and written in requests
 * of 256 KiB or more doesn't stay in the page cache unless it was there before. A hint: nothing
 * comes of it with stores that are no files, with O_DIRECT, and where the kernel or the file system
 * can't do that (RWF_DONTCACHE).
 */
void storage_spare_cache(struct qcow2_storage st, bool spare);
/* Whether anybody wants that of a file. */
bool storage_spares_cache(struct qcow2_storage st);
/* Who goes through so many bytes once should spare the page cache: half of the machine's memory. */
uint64_t storage_cache_share(void);

/* ---- memory (mem.c) ---- */

/* A growable store of zeros, sparse inside: it costs memory only where something was written. */
int storage_mem_new(struct qcow2_storage *st, uint64_t size_bytes, struct qcow2_error *err);

/* ---- a part of a store (slice.c), requests in pieces (pieces.c) ---- */

/* The limits of requests; 0: none. Those of zero and discard end at multiples of their opt. */
struct storage_limits {
	uint64_t max_transfer;
	uint64_t max_zero, opt_zero;
	uint64_t max_discard, opt_discard;
};

/* A layer that passes requests on in pieces of at most those sizes. It owns the store below. */
int storage_pieces_new(struct qcow2_storage *st, struct qcow2_storage lower,
		       const struct storage_limits *limits, struct qcow2_error *err);

/* ---- undo (undo.c, undolog.c) ---- */

/*
 * A store on lower, which is borrowed, that saves what it overwrites to a new file at path first:
 * made with the first change, -EEXIST then if there is one. Between a write and the next flush one
 * thread may use it; else any number may read.
 */
int storage_undo_new(struct qcow2_storage *st, struct qcow2_storage lower, const char *path,
		     struct qcow2_error *err);
/* The same with an empty store for the undo file, which is owned. */
int storage_undo_new_on(struct qcow2_storage *st, struct qcow2_storage lower,
			struct qcow2_storage file, struct qcow2_error *err);
/* Was there a change, so that there is a file? */
bool storage_undo_is_there(struct qcow2_storage st);
/* All is done and durable: notes in the file what the store is now. */
int storage_undo_finish(struct qcow2_storage st, struct qcow2_error *err);
/* Removes the file, if there is one. */
int storage_undo_remove(struct qcow2_storage st, struct qcow2_error *err);

/*
 * Brings store back to what it was before the undo file was begun: every byte, and its size. Cut
 * off at any point it can be run again. -EINVAL, and nothing is changed, if the file isn't an undo
 * file of that store, or the store was changed since; -EIO if the file is damaged.
 */
int storage_undo_apply(struct qcow2_storage store, struct qcow2_storage file,
		       struct qcow2_error *err);

/* ---- for tests (record.c, fault.c, and debug.c on it); they own the store below ---- */

enum storage_op {
	STORAGE_OP_READ,
	STORAGE_OP_WRITE,
	STORAGE_OP_ZERO,
	STORAGE_OP_DISCARD,
	STORAGE_OP_FLUSH,
	STORAGE_OP_TRUNCATE,
	STORAGE_OP_ALLOCATE,
	STORAGE_OP_EXTENT,
	STORAGE_OP_COUNT
};

struct storage_record_entry {
	enum storage_op op;
	uint64_t host_off;    /* of TRUNCATE: the new size */
	uint64_t len_bytes;   /* 0 for FLUSH and TRUNCATE */
	const uint8_t *bytes; /* of a write, if the recorder keeps them; owned by the recorder */
};

/*
 * Counts and logs every operation on lower that succeeds. keep_bytes also keeps what was written.
 * A flush stands in the log where it began, so that it vouches only for what stands before it.
 */
int storage_record_new(struct qcow2_storage *st, struct qcow2_storage lower, bool keep_bytes,
		       struct qcow2_error *err);
uint64_t storage_record_count(struct qcow2_storage st, enum storage_op op);
/* Bytes moved by all operations of that kind. */
uint64_t storage_record_bytes(struct qcow2_storage st, enum storage_op op);
size_t storage_record_entries(struct qcow2_storage st);
struct storage_record_entry storage_record_entry(struct qcow2_storage st, size_t idx);
void storage_record_reset(struct qcow2_storage st);

struct storage_fault_rule {
	enum storage_op op;
	unsigned event;	      /* QCOW2_EVENT_*: counts only what comes while this is the last one
				 that was told; 0: all */
	uint64_t nth;	      /* the first operation of that kind that is hit, from 0 */
	uint64_t times;	      /* how many in a row; UINT64_MAX: for ever */
	int code;	      /* negative errno to fail with; 0: don't fail */
	bool drop;	      /* report success without doing it; reads give zeros */
	uint64_t short_bytes; /* for writes, with code: first do this much of it */
	unsigned delay_us;
};

/* Does to operations on lower what up to 16 rules say; the first that fits an operation counts. */
int storage_fault_new(struct qcow2_storage *st, struct qcow2_storage lower,
		      struct qcow2_error *err);
int storage_fault_add(struct qcow2_storage st, const struct storage_fault_rule *rule);
/*
 * What decides beyond the rules. Called in the thread of the operation, without a lock; the layer
 * owns it from when it is set, before the store is used, and calls release when it is closed.
 */
struct storage_fault_hook {
	/* Before an operation: 0, or the negative errno that it fails with. */
	int (*before)(void *opaque, enum storage_op op, uint64_t host_off, uint64_t len_bytes);
	void (*told)(void *opaque, unsigned event); /* may take its time */
	void (*release)(void *opaque);
	void *opaque;
};
void storage_fault_set_hook(struct qcow2_storage st, const struct storage_fault_hook *hook);

/* What qcow2_storage_debug makes; options are complete. */
int storage_debug_new(struct qcow2_storage *st, struct qcow2_storage lower,
		      const struct qcow2_debug_options *options, struct qcow2_debug **debug,
		      struct qcow2_error *err);

void storage_fault_clear(struct qcow2_storage st);
/* Operations of that kind seen so far. */
uint64_t storage_fault_seen(struct qcow2_storage st, enum storage_op op);

#endif
