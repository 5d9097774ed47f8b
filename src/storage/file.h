/* SPDX-License-Identifier: MIT */
/*
 * What the sources of the file store share; nothing outside of storage/file*.c includes it.
 *
 * O_DIRECT and ranges: the page cache merges writes to parts of a block, O_DIRECT leaves that to
 * us (read, change, write). A read-change-write of a block must not run beside any other change
 * of that block, or it would put old bytes back. So with O_DIRECT every change of the file
 * enters the range of blocks that it touches, and one that merges enters it exclusively.
 * Without O_DIRECT entering costs nothing.
 */
#ifndef STORAGE_FILE_H
#define STORAGE_FILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "storage/ring.h"
#include "storage/storage.h"

/* What the file system turned out not to do. */
#define FILE_NO_PUNCH 1u
#define FILE_NO_ZERO_RANGE 2u
#define FILE_NO_RESERVE 4u
#define FILE_NO_DISCARD 8u
#define FILE_NO_SEEK_DATA 16u
#define FILE_NO_BLKZEROOUT 32u
#define FILE_NO_DONTCACHE 64u

#define FILE_SPARING_MIN (256u * 1024) /* of a request that spares the page cache */

/*
 * A part of the file that is data, or a hole; start == end: none. Data become a hole only through
 * us, and that is noticed. Holes are remembered only while nobody may write.
 */
struct file_extent {
	uint64_t start, end;
	bool is_data;
};
#define FILE_KNOWN 64

struct file {
	/* immutable after open */
	int fd;
	char *path;
	unsigned flags; /* STORAGE_FILE_* */
	bool is_block;
	uint64_t dev, ino;
	uint64_t align; /* of O_DIRECT, else the sector of a block device, else 1 */

	/* atomic: bits are only ever added */
	atomic_uint missing; /* FILE_NO_* */
	atomic_bool settled; /* our locks keep all writers away */
	atomic_uint sparing; /* how many want the page cache spared */

	/* guarded by lock, which is never held during I/O */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a range was left, or a flush ended */
	struct storage_range *ranges;
	struct file_extent known[FILE_KNOWN]; /* extents that were found last */
	unsigned next_known;
	uint64_t data_epoch; /* counts what may have made holes */
	uint64_t flush_started, flush_done;
	bool flush_running;
	int flush_code; /* the first that failed; never forgotten, as the kernel does */

	/* guarded by lock_lock (filelock.c), which no I/O waits for */
	pthread_mutex_t lock_lock;
	unsigned lock_use, lock_forbid;
};

/* "can't <what> ... of <file>: <text of code>"; returns code. */
int file_error(const struct file *f, struct qcow2_error *err, int code, const char *what,
	       uint64_t off, uint64_t len);
/* -EACCES unless the file is open for writing, -EFBIG if the range passes what files can hold. */
int file_check_change(const struct file *f, const char *what, uint64_t off, uint64_t len,
		      struct qcow2_error *err);
int file_size(const struct file *f, uint64_t *size);
/*
 * Reads or writes the whole vector, of total bytes; zeros where a file has ended. No error
 * record, nothing checked; aligned as the file wants it.
 */
int file_read(struct file *f, const struct iovec *iov, int iovcnt, uint64_t total, uint64_t off);
int file_write(struct file *f, const struct iovec *iov, int iovcnt, uint64_t total, uint64_t off);
/* The store's operations, for use by other operations. */
int file_pwritev(void *self, const struct iovec *iov, int iovcnt, uint64_t off,
		 struct qcow2_error *err);
int file_flush(void *self, struct qcow2_error *err);
/* Makes a change that isn't a write durable if every write is. */
int file_write_through(struct file *f, struct qcow2_error *err);

/* Can the kernel take the request past the page cache as it is? */
bool file_is_aligned(const struct file *f, const struct iovec *iov, int iovcnt, uint64_t off);
/* Does the range lie within what a file can hold? */
bool file_range_fits(uint64_t off, uint64_t len);
/* The file behind a store; NULL: it is of another kind. */
struct file *file_of(struct qcow2_storage st);

/* filedirect.c */
int file_direct_init(struct file *f, struct qcow2_error *err);
void file_enter(struct file *f, struct storage_range *r, uint64_t start, uint64_t end,
		bool exclusive);
/* The same, not exclusive, unless that would mean to wait: false. */
bool file_try_enter(struct file *f, struct storage_range *r, uint64_t start, uint64_t end);
void file_leave(struct file *f, struct storage_range *r);
int file_direct_preadv(struct file *f, const struct iovec *iov, int iovcnt, uint64_t total,
		       uint64_t off);
int file_direct_pwritev(struct file *f, const struct iovec *iov, int iovcnt, uint64_t total,
			uint64_t off);

/* filehole.c */
int file_zero(void *self, uint64_t off, uint64_t len, unsigned flags, struct qcow2_error *err);
int file_discard(void *self, uint64_t off, uint64_t len, struct qcow2_error *err);
int file_allocate(void *self, uint64_t off, uint64_t len, struct qcow2_error *err);
int file_extent(void *self, uint64_t off, uint64_t len, struct qcow2_storage_extent *out,
		struct qcow2_error *err);
/* To be called after whatever may have made a hole. */
void file_forget_data(struct file *f);

/* filelock.c */
int file_lock(void *self, unsigned use, unsigned forbid, struct qcow2_error *err);
/*
 * Lets go of all locks, before the descriptor is closed: what else knows the open file (a child
 * process, a ring that the kernel hasn't cleared away yet) would hold them a little longer.
 */
void file_unlock(struct file *f);

/* fileholder.c */
struct file_holder {
	pid_t pid;
	char name[32]; /* of the program, printable */
};

/* Who else holds a lock on that byte; pid is known already if positive. false: can't tell. */
bool file_find_holder(const struct file *f, uint64_t byte, pid_t pid, struct file_holder *who);

#endif
