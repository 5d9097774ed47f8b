/* SPDX-License-Identifier: MIT */
/* long: the whole public interface is one header, each call documented in place */
/*
 * libqcow2: disk images in the qcow2 format, read and written.
 *
 * Conventions that hold for every call here:
 *
 * - Offsets and lengths are in bytes, unsigned, 64 bits. "Guest" offsets are positions in the
 *   virtual disk, "host" offsets are positions in a file.
 * - A call that can fail returns 0 or a negative errno value. If the caller passed a
 *   struct qcow2_error it then holds a sentence that says what was being done and what was wrong.
 *   It may be NULL. It is left alone on success.
 * - The library never prints, exits, aborts on bad input, or keeps state outside its handles.
 * - A handle may be used by any number of threads at once, except for the call that closes it.
 * - Structures that may grow in later versions begin with struct_size: set it with the
 *   QCOW2_*_INIT macro; members that the caller's version doesn't know get their defaults.
 * - Strings that are passed in are only read during the call, strings handed out belong to the
 *   structure or handle that they came with.
 */
#ifndef QCOW2_H
#define QCOW2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* For the QCOW2_*_INIT macros: C++ takes initializers by position only, C by name too. */
#ifdef __cplusplus
#define QCOW2_MEMBER(name)
#else
#define QCOW2_MEMBER(name) .name =
#endif

#define QCOW2_VERSION_MAJOR 0
#define QCOW2_VERSION_MINOR 1
#define QCOW2_VERSION_PATCH 0

/* "0.1.0": the version of the library that is linked, which may differ from the header's. */
const char *qcow2_version(void);

/* ---- errors ------------------------------------------------------------------------------- */

#define QCOW2_NO_OFFSET UINT64_MAX
#define QCOW2_ERROR_MESSAGE_SIZE 1024

/* What went wrong. Belongs to the caller; filled by the call that failed. */
struct qcow2_error {
	int code;	    /* the negative errno that the call returned; 0: nothing went wrong */
	uint64_t guest_off; /* where in the virtual disk, or QCOW2_NO_OFFSET */
	uint64_t host_off;  /* where in the image file, or QCOW2_NO_OFFSET */
	char message[QCOW2_ERROR_MESSAGE_SIZE]; /* one sentence, no newline, NUL-terminated */
};

/* ---- storage ------------------------------------------------------------------------------- */

/*
 * A flat store of bytes, the thing that an image lives in. The library has its own for files and
 * block devices; an embedder can pass another. Every operation may be called from several
 * threads at once, except close. Operations that are NULL are answered as "not supported". A
 * failure is a negative errno; err is NULL or a blank record, to be filled or left as it is.
 */
struct qcow2_storage_extent {
	uint64_t len_bytes; /* how far the answer reaches from the offset asked, at least 1 */
	bool is_data;	    /* false: the range is a hole and reads as zeros */
};

#define QCOW2_STORAGE_MAY_UNMAP 1u   /* zero: the range may become a hole */
#define QCOW2_STORAGE_NO_FALLBACK 2u /* zero: fail with -ENOTSUP rather than write zeros */

struct qcow2_storage_ops {
	const char *kind; /* "file", "mem", ...; for messages */

	/* Gives everything back, never fails. Not called while another operation runs. */
	void (*close)(void *self);
	int (*size)(void *self, uint64_t *size_bytes, struct qcow2_error *err);
	/*
	 * Reads or writes the whole vector at host_off or fails. Bytes past the end of the store
	 * read as zeros; writing there makes the store longer. The vector isn't changed.
	 */
	int (*preadv)(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
		      struct qcow2_error *err);
	int (*pwritev)(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
		       struct qcow2_error *err);
	/* Makes a range read as zeros; flags are QCOW2_STORAGE_*. May make the store longer. */
	int (*zero)(void *self, uint64_t host_off, uint64_t len_bytes, unsigned flags,
		    struct qcow2_error *err);
	/* Gives a range's space back; what it reads as afterwards is undefined. Advisory. */
	int (*discard)(void *self, uint64_t host_off, uint64_t len_bytes, struct qcow2_error *err);
	/* Makes all completed writes durable. */
	int (*flush)(void *self, struct qcow2_error *err);
	/* Sets the size; new space reads as zeros. */
	int (*truncate)(void *self, uint64_t size_bytes, struct qcow2_error *err);
	/* Reserves space so that later writes there can't run out of it; contents stay. */
	int (*allocate)(void *self, uint64_t host_off, uint64_t len_bytes, struct qcow2_error *err);
	/* What is at host_off, for at most len_bytes. Without it everything is data. */
	int (*extent)(void *self, uint64_t host_off, uint64_t len_bytes,
		      struct qcow2_storage_extent *out, struct qcow2_error *err);
	/*
	 * Takes part in QEMU's image locks: bits of QCOW2_LOCK_* that we use, and that we forbid to
	 * others. Replaces what was held before. -EAGAIN when somebody else is in the way.
	 */
	int (*lock)(void *self, unsigned use, unsigned forbid, struct qcow2_error *err);
	/* Told which step (QCOW2_EVENT_*) comes next, for layers that test. May be NULL. */
	void (*event)(void *self, unsigned event);
};

/* Steps of reading and of changing an image, by the names that are known for them. */
enum qcow2_event {
	QCOW2_EVENT_NONE,
	QCOW2_EVENT_L1_UPDATE,
	QCOW2_EVENT_L1_GROW_ALLOC_TABLE,
	QCOW2_EVENT_L1_GROW_WRITE_TABLE,
	QCOW2_EVENT_L1_GROW_ACTIVATE_TABLE,
	QCOW2_EVENT_L2_LOAD,
	QCOW2_EVENT_L2_UPDATE,
	QCOW2_EVENT_L2_ALLOC_WRITE,
	QCOW2_EVENT_READ_AIO,
	QCOW2_EVENT_COW_READ,
	QCOW2_EVENT_WRITE_AIO,
	QCOW2_EVENT_COW_WRITE,
	QCOW2_EVENT_WRITE_COMPRESSED,
	QCOW2_EVENT_REFTABLE_LOAD,
	QCOW2_EVENT_REFTABLE_UPDATE,
	QCOW2_EVENT_REFBLOCK_LOAD,
	QCOW2_EVENT_REFBLOCK_UPDATE_PART,
	QCOW2_EVENT_REFBLOCK_ALLOC,
	QCOW2_EVENT_REFBLOCK_ALLOC_HOOKUP,
	QCOW2_EVENT_REFBLOCK_ALLOC_WRITE,
	QCOW2_EVENT_REFBLOCK_ALLOC_WRITE_BLOCKS,
	QCOW2_EVENT_REFBLOCK_ALLOC_WRITE_TABLE,
	QCOW2_EVENT_REFBLOCK_ALLOC_SWITCH_TABLE,
	QCOW2_EVENT_CLUSTER_ALLOC,
	QCOW2_EVENT_CLUSTER_ALLOC_BYTES,
	QCOW2_EVENT_CLUSTER_FREE,
	QCOW2_EVENT_EMPTY_IMAGE_PREPARE,
	QCOW2_EVENT_COUNT
};

/* "l2_update"; NULL for a number that isn't one. */
const char *qcow2_event_name(unsigned event);
/* The event of that name, or QCOW2_EVENT_NONE. */
unsigned qcow2_event_find(const char *name);

#define QCOW2_LOCK_READ 1u
#define QCOW2_LOCK_WRITE 2u
#define QCOW2_LOCK_WRITE_UNCHANGED 4u
#define QCOW2_LOCK_RESIZE 8u

struct qcow2_storage {
	const struct qcow2_storage_ops *ops;
	void *self;
};

/*
 * The library's own stores, to be put together and handed to qcow2_open_storage. Whoever takes a
 * store owns it: a layer the one below, an image its own, also when the call that takes it fails.
 * qcow2_storage_close is for one that nobody took; a store that isn't open (zeros) is left alone.
 */
void qcow2_storage_close(struct qcow2_storage *storage);

/*
 * The file or block device at path. flags: QCOW2_OPEN_WRITE, _DIRECT, _NO_FLUSH, _WRITETHROUGH;
 * others are ignored. No lock is taken: opening an image on it does.
 */
int qcow2_storage_file(struct qcow2_storage *storage, const char *path, unsigned flags,
		       struct qcow2_error *err);

/*
 * A part of another store: size_bytes from first_off on, which must be there (-EINVAL), or all that
 * comes behind first_off (UINT64_MAX). A part with a size can't grow or shrink.
 */
int qcow2_storage_slice(struct qcow2_storage *storage, struct qcow2_storage lower,
			uint64_t first_off, uint64_t size_bytes, struct qcow2_error *err);

/*
 * A store that forgets what is written to it. Without zeroes a read leaves the buffer as it was:
 * nothing is moved at all.
 */
int qcow2_storage_null(struct qcow2_storage *storage, uint64_t size_bytes, bool zeroes,
		       struct qcow2_error *err);

/* Operations, for the rules of a store for tests. */
#define QCOW2_DEBUG_READ 1u
#define QCOW2_DEBUG_WRITE 2u
#define QCOW2_DEBUG_ZERO 4u
#define QCOW2_DEBUG_DISCARD 8u
#define QCOW2_DEBUG_FLUSH 16u
#define QCOW2_DEBUG_EXTENT 32u
#define QCOW2_DEBUG_ALL 63u

/*
 * When the step is told, and the store is in that state: a rule with a new_state changes the state
 * (which is 1 at first); any other becomes active, in place of those that were. While it is active
 * operations that it names fail.
 */
struct qcow2_debug_rule {
	unsigned event;	    /* QCOW2_EVENT_*; _NONE: active from the beginning */
	unsigned state;	    /* 0: in any */
	unsigned new_state; /* 0: the rule is about errors */
	unsigned ops;	    /* QCOW2_DEBUG_*; 0: all but _EXTENT */
	int code;	    /* the negative errno to fail with */
	bool once;	    /* only the first that it hits */
	uint64_t host_off;  /* only what touches this byte; QCOW2_NO_OFFSET: anything */
};

/* Limits are in bytes, 0 for none: longer requests reach the store below in pieces. */
struct qcow2_debug_options {
	size_t struct_size;
	const struct qcow2_debug_rule *rules; /* copied */
	size_t nrules;
	uint64_t max_transfer;
	uint64_t max_zero, opt_zero; /* pieces end at multiples of opt where they can */
	uint64_t max_discard, opt_discard;
	/* Called when a request stops at a breakpoint, in its thread, and when it is resumed, in
	 * the thread that does that. */
	void (*told)(void *opaque, const char *tag, bool resumed);
	void *opaque;
};
#define QCOW2_DEBUG_OPTIONS_INIT                                                                   \
	{                                                                                          \
		QCOW2_MEMBER(struct_size) sizeof(struct qcow2_debug_options)                       \
	}

struct qcow2_debug; /* the store's controls; lives as long as the store, by any thread */

/* A store for tests on another. options and debug may be NULL. */
int qcow2_storage_debug(struct qcow2_storage *storage, struct qcow2_storage lower,
			const struct qcow2_debug_options *options, struct qcow2_debug **debug,
			struct qcow2_error *err);

/* The next request that comes to that step stops there: its thread waits. -ENOENT: no such step. */
int qcow2_debug_break(struct qcow2_debug *debug, unsigned event, const char *tag,
		      struct qcow2_error *err);
/* Whether a request has stopped with that tag (NULL: any); waits for it so long at most. */
bool qcow2_debug_wait(struct qcow2_debug *debug, const char *tag, unsigned timeout_ms);
/* Lets one that has stopped go on. -ENOENT: there is none. */
int qcow2_debug_resume(struct qcow2_debug *debug, const char *tag, struct qcow2_error *err);
/*
 * Takes back the breakpoints with that tag (NULL: all; never an error then) and lets go what has
 * stopped there. -ENOENT: there are none. To be called before the image is closed: a request that
 * has stopped is one that is running.
 */
int qcow2_debug_unbreak(struct qcow2_debug *debug, const char *tag, struct qcow2_error *err);

/* ---- progress ------------------------------------------------------------------------------ */

/*
 * How far a call is that may take long. Called in the calling thread, a few times a second at most,
 * and once at the end. A nonzero return cancels it: it then fails with -ECANCELED. Not so the call
 * at the end, when all is done and stays. Without a tick nothing is told.
 */
struct qcow2_progress {
	int (*tick)(void *opaque, uint64_t done_bytes, uint64_t total_bytes);
	void *opaque;
};

/* ---- opening ------------------------------------------------------------------------------- */

struct qcow2_image; /* an open disk image: raw, or qcow2 with its backing chain */

/*
 * Whether a name that is written inside an image may be followed. An image is a stranger's word:
 * without a policy (NULL) nothing is followed, and an image that needs another file (a backing
 * file, an external data file) doesn't open for reading.
 */
#define QCOW2_FOLLOW_BACKING 1u	  /* backing files */
#define QCOW2_FOLLOW_DATA_FILE 2u /* external data files */
/* a backing file without a recorded format is probed; otherwise it is refused: -EINVAL */
#define QCOW2_FOLLOW_PROBE 4u
#define QCOW2_FOLLOW_LOCAL (QCOW2_FOLLOW_BACKING | QCOW2_FOLLOW_DATA_FILE | QCOW2_FOLLOW_PROBE)

#define QCOW2_DEPTH_DEFAULT 1024

struct qcow2_policy {
	size_t struct_size;
	unsigned follow;    /* QCOW2_FOLLOW_*; only local files, whatever is set */
	unsigned max_depth; /* backing files below the top; 0: QCOW2_DEPTH_DEFAULT */
	/* NULL-terminated list of directories in (or below) which references must lie, after
	 * symbolic links are resolved; NULL: anywhere. */
	const char *const *dirs;
};
#define QCOW2_POLICY_INIT                                                                          \
	{                                                                                          \
		QCOW2_MEMBER(struct_size) sizeof(struct qcow2_policy)                              \
	}

#define QCOW2_OPEN_WRITE 1u	  /* the top image may be changed; those below it never are */
#define QCOW2_OPEN_FORCE_SHARE 2u /* don't mind other programs that write to it (qemu-img -U) */
#define QCOW2_OPEN_INFO                                                                            \
	4u /* only info, dump: neither backing nor data file is opened, no reading */
#define QCOW2_OPEN_NO_BACKING 8u /* leave the backing file out: unallocated areas read as zeros */
#define QCOW2_OPEN_NO_LOCK 16u	 /* take no locks at all */
#define QCOW2_OPEN_DIRECT 32u	 /* bypass the page cache (O_DIRECT) */
#define QCOW2_OPEN_NO_FLUSH 64u	 /* never wait for the disk; a crash of the host loses the image */
#define QCOW2_OPEN_WRITETHROUGH 128u /* a flush after every write */

/* How an image that is open for writing treats qcow2_discard. */
#define QCOW2_DISCARD_UNMAP 0u	/* clusters are freed */
#define QCOW2_DISCARD_IGNORE 1u /* nothing happens */
#define QCOW2_DISCARD_NO_UNREF                                                                     \
	2u /* clusters become zeros and keep their place in the file, but not the host's space */

/* What is done with the bytes of clusters that are free again. */
#define QCOW2_PASS_DEFAULT 0u /* those of guest requests are given back to the host */
#define QCOW2_PASS_ALL 1u
#define QCOW2_PASS_NONE 2u
/* Or QCOW2_PASS_EACH with those that are given back: of guest requests, of deleted snapshots, and
 * what is left by changes of tables. */
#define QCOW2_PASS_EACH 8u
#define QCOW2_PASS_REQUEST 16u
#define QCOW2_PASS_SNAPSHOT 32u
#define QCOW2_PASS_OTHER 64u

/*
 * What a write is held against before it is made; a hit means that the image is damaged. 0 for all
 * that costs nothing, which is everything but QCOW2_OVERLAP_INACTIVE_L2; else QCOW2_OVERLAP_CHOSEN
 * with the ones that are wanted. Where tables lie on each other when the image is opened is found
 * all the same.
 */
#define QCOW2_OVERLAP_CHOSEN (1u << 0)
#define QCOW2_OVERLAP_MAIN_HEADER (1u << 1)
#define QCOW2_OVERLAP_ACTIVE_L1 (1u << 2)
#define QCOW2_OVERLAP_ACTIVE_L2 (1u << 3)
#define QCOW2_OVERLAP_REFCOUNT_TABLE (1u << 4)
#define QCOW2_OVERLAP_REFCOUNT_BLOCK (1u << 5)
#define QCOW2_OVERLAP_SNAPSHOT_TABLE (1u << 6)
#define QCOW2_OVERLAP_INACTIVE_L1 (1u << 7)
#define QCOW2_OVERLAP_BITMAP_DIRECTORY (1u << 8)
/* The L2 tables of snapshots: read for every write of data. For who looks for damage only. */
#define QCOW2_OVERLAP_INACTIVE_L2 (1u << 9)

/* Three states of an option that the image has an opinion about. */
#define QCOW2_AS_RECORDED 0u
#define QCOW2_ON 1u
#define QCOW2_OFF 2u

struct qcow2_open_options {
	size_t struct_size;
	unsigned flags;	      /* QCOW2_OPEN_* */
	const char *format;   /* "qcow2", "raw"; NULL: look at the first bytes */
	const char *snapshot; /* read this internal snapshot (id, else name) rather than the disk */
	const struct qcow2_policy *policy; /* NULL: follow nothing */
	size_t l2_cache_bytes;		   /* limit of the table cache; 0: 32 MiB */
	/*
	 * Told of damage that didn't stop the call. Called in the calling thread, during qcow2_open
	 * and qcow2_info only.
	 */
	void (*warn)(void *opaque, const char *sentence);
	void *opaque;
	/* The rest is for QCOW2_OPEN_WRITE. */
	size_t refcount_cache_bytes; /* limit of the cache of refcounts; 0: 4 MiB */
	unsigned discard;	     /* QCOW2_DISCARD_* */
	unsigned pass_discard;	     /* QCOW2_PASS_* */
	unsigned lazy_refcounts;     /* QCOW2_AS_RECORDED, _ON (version 3 only), _OFF */
	unsigned overlap_check;	     /* QCOW2_OVERLAP_* */
	/* These are for any. */
	/*
	 * What is below, in place of what the image names: open for reading, and the new image's
	 * from now on, also when the call fails. NULL: what it names.
	 */
	struct qcow2_image *backing;
	/*
	 * In place of the external data file that the image names; the new image's from now on,
	 * also when the call fails. -EINVAL if the image has none. Zeros: the one that it names.
	 */
	struct qcow2_storage data_file;
};
#define QCOW2_OPEN_OPTIONS_INIT                                                                    \
	{                                                                                          \
		QCOW2_MEMBER(struct_size) sizeof(struct qcow2_open_options)                        \
	}

/*
 * Opens the image at path; *image is the caller's, to be closed with qcow2_close. The lock is
 * taken before the first byte is read. Errors beside those of the operating system:
 * -EINVAL (not the format, or a field out of range), -ENOTSUP (an unknown version or feature, an
 * encrypted image), -EFBIG (a table beyond the limits), -EAGAIN (locked by another program),
 * -ELOOP (a chain too deep or in a circle), -EPERM (a reference that the policy doesn't allow),
 * -ENOENT (no such file or snapshot).
 */
int qcow2_open(struct qcow2_image **image, const char *path,
	       const struct qcow2_open_options *options, struct qcow2_error *err);

/*
 * The same on a store of the caller's. The image owns it from now on and closes it, also when
 * this call fails. name stands for it in messages, and relative references are resolved against
 * its directory part; NULL: relative references are refused.
 */
int qcow2_open_storage(struct qcow2_image **image, struct qcow2_storage storage, const char *name,
		       const struct qcow2_open_options *options, struct qcow2_error *err);

/*
 * Closes the image and all below it. NULL is allowed. No other call on it may be running. An image
 * that is open for writing is finished first, if qcow2_finish wasn't called; whether that worked
 * isn't told.
 */
void qcow2_close(struct qcow2_image *image);

/* ---- reading ------------------------------------------------------------------------------- */

/* Size of the virtual disk in bytes, a multiple of 512. */
uint64_t qcow2_size(const struct qcow2_image *image);

/*
 * Reads len bytes at guest_off, all or nothing. -EINVAL if the range passes the end of the disk,
 * -EIO if the image is damaged there or can't be read.
 */
int qcow2_pread(struct qcow2_image *image, void *buf, size_t len, uint64_t guest_off,
		struct qcow2_error *err);
int qcow2_preadv(struct qcow2_image *image, const struct iovec *iov, int iovcnt, uint64_t guest_off,
		 struct qcow2_error *err);

#define QCOW2_EXTENT_PRESENT 1u /* some layer of the chain says what is here */
#define QCOW2_EXTENT_ZERO 2u	/* reads as zeros */
#define QCOW2_EXTENT_DATA 4u	/* backed by bytes in a file */
#define QCOW2_EXTENT_COMPRESSED 8u
#define QCOW2_EXTENT_HOST_OFF 16u /* host_off is valid */

struct qcow2_extent {
	uint64_t guest_off;
	uint64_t len_bytes;
	uint64_t host_off; /* in the file named filename, if QCOW2_EXTENT_HOST_OFF */
	unsigned flags;	   /* QCOW2_EXTENT_* */
	unsigned depth;	   /* the layer that answers: 0 the image itself, 1 its backing file, ... */
	const char *filename; /* the file with the bytes; NULL if there are none. Lives as long as
				 the image */
};

/*
 * What backs the disk from guest_off on: the longest run of one kind, at most len_bytes (which
 * must be at least 1), no longer than the disk. Adjacent compressed clusters are separate runs.
 */
int qcow2_map(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
	      struct qcow2_extent *extent, struct qcow2_error *err);

/* ---- writing ------------------------------------------------------------------------------- */

/*
 * These need QCOW2_OPEN_WRITE (else -EACCES) and may run beside each other and beside reads in any
 * number of threads. Requests that overlap take effect in some order; a request that failed may
 * have been carried out in part, as on any disk. What was written is durable after the next
 * qcow2_flush that began when it had returned. -ENOSPC and I/O errors hit the one request and leave
 * the image sound. When a flush of the file itself fails the state on disk is unknown: from then on
 * every change is refused with that error, and reads go on. -EUCLEAN: the image is damaged in a way
 * that makes writing dangerous; nothing was written, the image is marked corrupt (version 3) and
 * refuses further changes.
 */

#define QCOW2_WRITE_FUA 1u /* durable when the call returns */
/*
 * As compressed clusters. Starts at a cluster and ends at one or at the end of the disk; -EINVAL
 * otherwise. What doesn't become smaller is stored plain. Over anything: what was there is freed.
 * -ENOTSUP for raw images and with an external data file.
 */
#define QCOW2_WRITE_COMPRESSED 2u
#define QCOW2_WRITE_MAY_UNMAP 4u /* qcow2_write_zeroes: clusters may be freed */
#define QCOW2_WRITE_NO_FALLBACK                                                                    \
	8u /* qcow2_write_zeroes: -ENOTSUP rather than write zeros as data */

/* Writes len bytes at guest_off. -EINVAL if the range passes the end of the disk. */
int qcow2_pwrite(struct qcow2_image *image, const void *buf, size_t len, uint64_t guest_off,
		 unsigned flags, struct qcow2_error *err);
int qcow2_pwritev(struct qcow2_image *image, const struct iovec *iov, int iovcnt,
		  uint64_t guest_off, unsigned flags, struct qcow2_error *err);

/*
 * Makes a range read as zeros, without writing them where the format can say so (whole clusters or
 * subclusters in version 3). Without QCOW2_WRITE_MAY_UNMAP clusters keep their place in the file.
 */
int qcow2_write_zeroes(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		       unsigned flags, struct qcow2_error *err);

/*
 * Tells that a range isn't needed. Advisory: whole clusters in it read as zeros afterwards, the
 * rest is as it was; or nothing happens, by QCOW2_DISCARD_IGNORE or because the image can't
 * (version 2 with a backing file). Data of a backing file never come back.
 */
int qcow2_discard(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		  struct qcow2_error *err);

/* Makes everything durable that was written by calls which have returned. */
int qcow2_flush(struct qcow2_image *image, struct qcow2_error *err);

#define QCOW2_RESIZE_SHRINK 1u /* the disk may become smaller: what is behind its end is lost */

/*
 * Sets the size of the disk, of a qcow2 image a multiple of 512 (else -EINVAL). prealloc:
 * QCOW2_PREALLOC_*, for what is added. New space reads as zeros. Waits for all other requests and
 * holds up new ones. -EINVAL for a smaller size without the flag; -ENOTSUP where the format can't
 * (version 2 with snapshots, or with a backing file that is longer than the old size); -EFBIG
 * beyond the format's limit.
 *
 * A call that failed or was cancelled (qcow2_watch) leaves the disk with its size; what was
 * preallocated is given back. Of a disk that was to become smaller, what lies behind the new end
 * may be gone by then, in part or all of it: that reads as zeros.
 */
int qcow2_resize(struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc, unsigned flags,
		 struct qcow2_error *err);

/*
 * From now on progress is told of what takes long and has no options of its own: qcow2_resize,
 * qcow2_snapshot_create, _apply, _delete. NULL, or one without a tick: no more. It is copied. Not
 * while one of those runs. What can't be cancelled any more goes on whatever the tick returns. The
 * tick makes no call on the image: all of them wait.
 */
void qcow2_watch(struct qcow2_image *image, const struct qcow2_progress *progress);

/* ---- queues of requests -------------------------------------------------------------------- */

/*
 * Many requests at a time from one thread. What the kernel can carry out by itself (data that lie
 * plain in a file, found by tables that are in memory) goes from the submitting thread into an
 * io_uring of the queue's own; whatever needs more (a table to load, a cluster to allocate or to
 * decompress) goes to threads of the queue. Where io_uring isn't there, or isn't permitted, all
 * does. Either way requests have the effects and the errors of the blocking calls.
 *
 * A queue is used by one thread at a time. An image may have any number of them, beside blocking
 * calls. While requests of a queue are in flight its thread makes no call that waits for all others
 * (qcow2_resize, qcow2_finish, snapshots), and no blocking request while another thread may make
 * one: it would wait for itself.
 */
struct qcow2_queue;

enum qcow2_op {
	QCOW2_OP_READ,
	QCOW2_OP_WRITE,
	QCOW2_OP_WRITE_ZEROES,
	QCOW2_OP_DISCARD,
	QCOW2_OP_FLUSH, /* of what had completed when it was submitted */
};

/* The caller's, with buffers and vector, until it completes. */
struct qcow2_request {
	enum qcow2_op op;
	unsigned flags;		 /* QCOW2_WRITE_*, as the blocking calls take them */
	uint64_t guest_off;	 /* the first byte; not of FLUSH */
	uint64_t len_bytes;	 /* of WRITE_ZEROES and DISCARD */
	const struct iovec *iov; /* of READ and WRITE */
	int iovcnt;
	/*
	 * Called when it has completed, in the thread that is in qcow2_queue_poll; the request is
	 * the caller's again, and may be submitted from there. NULL: qcow2_queue_poll hands it out.
	 */
	void (*done)(struct qcow2_request *request);
	void *opaque;		 /* for the caller */
	struct qcow2_error *err; /* filled if it fails; may be NULL */
	int result;		 /* when it has completed: 0, or a negative errno */
	/* the queue's */
	struct qcow2_request *next;
	void *slot;
};

#define QCOW2_QUEUE_THREADS 1u /* no io_uring, even where it is there */

struct qcow2_queue_options {
	size_t struct_size;
	unsigned flags;	  /* QCOW2_QUEUE_* */
	unsigned depth;	  /* requests in flight at most, 1 to 4096; 0: 128 */
	unsigned threads; /* at most, made when they are needed; 0: one a core, at most 16 */
};
#define QCOW2_QUEUE_OPTIONS_INIT                                                                   \
	{                                                                                          \
		QCOW2_MEMBER(struct_size) sizeof(struct qcow2_queue_options)                       \
	}

/* The image has to stay open until the queue is freed. options may be NULL. */
int qcow2_queue_new(struct qcow2_queue **queue, struct qcow2_image *image,
		    const struct qcow2_queue_options *options, struct qcow2_error *err);
/* Waits for what is in flight, whose done is called; what has none is forgotten. NULL is allowed.
 */
void qcow2_queue_free(struct qcow2_queue *queue);

/* "io_uring" or "threads": what moves the bytes where that can be chosen. */
const char *qcow2_queue_engine(const struct qcow2_queue *queue);

/*
 * Begins n requests. -EAGAIN if more than the queue's depth would be in flight, or completed and
 * not handed out: then none of them is begun. What is wrong with a request is told by its result.
 */
int qcow2_queue_submit(struct qcow2_queue *queue, struct qcow2_request *const *requests, size_t n,
		       struct qcow2_error *err);

/*
 * Sleeps until min_done requests have completed since it was called (or as many as are in flight,
 * if those are fewer), calls done of those that have one, and puts up to max of the others into
 * requests. Gives how many it put there. min_done 0: doesn't sleep. Slow requests may be carried
 * out in here, by the calling thread.
 */
size_t qcow2_queue_poll(struct qcow2_queue *queue, struct qcow2_request **requests, size_t max,
			size_t min_done);

/*
 * A descriptor that is readable while there is something for qcow2_queue_poll to do, and now and
 * then when there isn't any more; for an event loop, not to be read from. It is the queue's.
 * Negative errno if there can be none. To be asked for before the first request is submitted.
 */
int qcow2_queue_fd(struct qcow2_queue *queue, struct qcow2_error *err);

/*
 * Gives up a request in flight where that is still possible; it completes with -ECANCELED then,
 * otherwise as it would have.
 */
void qcow2_queue_cancel(struct qcow2_queue *queue, struct qcow2_request *request);

/* ---- internal snapshots -------------------------------------------------------------------- */

/*
 * These need QCOW2_OPEN_WRITE and qcow2 (-ENOTSUP for raw images and with an external data file).
 * They wait for all other requests and hold up new ones, and are durable when they return. After a
 * crash in the middle the image is as before or as after; version 3 may have to be repaired, which
 * opening it for writing does. qcow2_info lists snapshots; what it gave before stays valid.
 *
 * They read every L2 table of the disk, or the snapshot, and write most: qcow2_watch is told how
 * far they are, in bytes of tables. Taking one and going back to one can be cancelled until it is
 * in effect; then, and when deleting, the rest is work that is only told of.
 */
struct qcow2_snapshot_options {
	size_t struct_size;
	uint32_t date_sec, date_nsec; /* when it was taken; date_sec 0: now */
	uint64_t vm_state_bytes; /* of the state that qcow2_vmstate_write has written; 0: none */
	uint64_t vm_clock_nsec;
	uint64_t icount; /* all ones: not counted */
};
#define QCOW2_SNAPSHOT_OPTIONS_INIT                                                                \
	{                                                                                          \
		QCOW2_MEMBER(struct_size) sizeof(struct qcow2_snapshot_options)                    \
	}

/*
 * Takes a snapshot of the disk as it is. name may be one that is there already, and empty. Its id
 * is one more than the highest there is. -ERANGE where the refcounts are too narrow for one more,
 * -EFBIG with too many snapshots.
 */
int qcow2_snapshot_create(struct qcow2_image *image, const char *name,
			  const struct qcow2_snapshot_options *options, struct qcow2_error *err);

#define QCOW2_SNAPSHOT_BY_NAME 1u /* the name only, not the id */

/*
 * The disk becomes what it was, with the size that it had (in version 2: -ENOTSUP if that differs).
 * The snapshot stays. -ENOENT if there is none with that id, nor that name.
 */
int qcow2_snapshot_apply(struct qcow2_image *image, const char *id_or_name, unsigned flags,
			 struct qcow2_error *err);
int qcow2_snapshot_delete(struct qcow2_image *image, const char *id_or_name, unsigned flags,
			  struct qcow2_error *err);

/* ---- the state of a VM -------------------------------------------------------------------- */

/*
 * Beside its disk a qcow2 image keeps what a machine had in its memory and its devices, so that a
 * snapshot holds all of a machine: bytes at positions from 0 on, which mean nothing to the library.
 * They have no size of their own. What was never written reads as zeros, and takes no space; that
 * of a backing file can't be seen.
 *
 * Every snapshot has the state that was there when it was taken; how much of it counts is recorded
 * with it (vm_state_bytes). Taken with vm_state_bytes above 0, it has the state for itself, and
 * that of the disk is empty again, for the next to be written from its beginning. Going back to a
 * snapshot brings its state back too; opening one (struct qcow2_open_options) reads it without
 * that. Resizing drops the state of the disk where its place is needed or moves, but never that of
 * a snapshot.
 *
 * Any number of threads may do so beside each other and beside requests to the disk. What is said
 * of writing above holds for these as well. -ENOTSUP for raw images and with an external data file.
 */

/* Reads len bytes at position pos. -EINVAL if 64 bits don't reach to their end; -EIO. */
int qcow2_vmstate_read(struct qcow2_image *image, void *buf, size_t len, uint64_t pos,
		       struct qcow2_error *err);
/*
 * Writes len bytes at position pos. -EFBIG beyond what the format can map: with clusters of 64 KiB
 * 2 PiB, less the disk.
 */
int qcow2_vmstate_write(struct qcow2_image *image, const void *buf, size_t len, uint64_t pos,
			struct qcow2_error *err);

/* ---- dirty bitmaps ------------------------------------------------------------------------- */

/*
 * A bitmap of an image records which parts of its disk were written to, in pieces of a granularity,
 * so that a backup knows what changed since the last one. An enabled one records every write, zero
 * request and discard, and new space when the disk grows, whoever writes, as long as programs that
 * write to the image know bitmaps; QEMU does. A disabled one stays as it is. qcow2_info lists them.
 *
 * Calls that change bitmaps need QCOW2_OPEN_WRITE; they wait for all other requests and hold up new
 * ones, and count for what is written from then on. The file has all of it after qcow2_finish.
 * While the disk is written to, it says of those that record that they are in use: after a crash
 * they are inconsistent (QCOW2_BITMAP_IN_USE), which is for good; they can be removed, and no more.
 * Calls for the bits of such a one fail with -ESTALE; of one that is of an unknown kind with
 * -ENOTSUP; both are kept as they are. -ENOENT: there is none of that name.
 *
 * Raw images and version 2 of the format have no bitmaps. While an image has one its disk can't go
 * back to a snapshot (-EBUSY), and can't change its size while one is inconsistent (-ESTALE) or
 * unknown.
 */

#define QCOW2_BITMAP_IN_USE 1u /* not closed cleanly: its contents can't be trusted */
#define QCOW2_BITMAP_AUTO 2u   /* enabled: records every write */

/*
 * Adds a bitmap in which nothing is set. name: 1 to 1023 bytes. granularity: a power of two, 512 to
 * 2 GiB; 0: the cluster size, but at least 4 and at most 64 KiB. flags: QCOW2_BITMAP_AUTO or 0.
 * -EEXIST: there is one of that name; -EFBIG: it would take more than 512 MiB, or there are 65535.
 */
int qcow2_bitmap_add(struct qcow2_image *image, const char *name, uint64_t granularity,
		     unsigned flags, struct qcow2_error *err);
/* Any, also one that is inconsistent or unknown. */
int qcow2_bitmap_remove(struct qcow2_image *image, const char *name, struct qcow2_error *err);
/* Nothing is set in it any more. */
int qcow2_bitmap_clear(struct qcow2_image *image, const char *name, struct qcow2_error *err);
int qcow2_bitmap_enable(struct qcow2_image *image, const char *name, struct qcow2_error *err);
int qcow2_bitmap_disable(struct qcow2_image *image, const char *name, struct qcow2_error *err);
/*
 * Sets in one bitmap what is set in another, of the same image or of one with a disk of the same
 * size (else -EINVAL), whatever their granularities: a larger one has at least what the smaller
 * has.
 */
int qcow2_bitmap_merge(struct qcow2_image *image, const char *name, struct qcow2_image *source,
		       const char *source_name, struct qcow2_error *err);

struct qcow2_bitmap_extent {
	uint64_t guest_off;
	uint64_t len_bytes;
	bool dirty;
};

/*
 * What a bitmap says of the disk from guest_off on: the longest run that is all dirty or all clean,
 * at most len_bytes (at least 1), no longer than the disk. Needs no more than an image that is open
 * for reading; goes beside all other requests, and what is being written may be in it or not.
 */
int qcow2_bitmap_map(struct qcow2_image *image, const char *name, uint64_t guest_off,
		     uint64_t len_bytes, struct qcow2_bitmap_extent *extent,
		     struct qcow2_error *err);

/* ---- done ---------------------------------------------------------------------------------- */

/*
 * Writes everything back, makes it durable, and leaves the image as clean as it can be: no dirty
 * bit, no free space at the end of its file. For who wants to know that closing works; what comes
 * after it is qcow2_close, every other change gets -EINVAL. Nothing happens if the image isn't open
 * for writing. One that failed may be tried again.
 */
int qcow2_finish(struct qcow2_image *image, struct qcow2_error *err);

/* ---- information --------------------------------------------------------------------------- */

struct qcow2_snapshot_info {
	const char *id;
	const char *name;
	uint64_t vm_state_bytes;
	uint64_t disk_bytes;
	uint32_t date_sec, date_nsec;
	uint64_t vm_clock_nsec;
	uint64_t icount; /* all ones: not recorded */
	bool has_icount;
};

struct qcow2_bitmap_info {
	const char *name;
	uint64_t granularity;	/* bytes of the disk that one bit stands for */
	unsigned flags;		/* QCOW2_BITMAP_* */
	unsigned unknown_flags; /* others that were found, as stored */
};

struct qcow2_luks_slot_info {
	bool active; /* a passphrase is set */
	uint32_t iterations;
	uint32_t stripes;
	uint64_t key_off; /* of the key material, from the start of the LUKS header */
};

/* The LUKS header of an encrypted image. Names are what it says, whether or not they are known. */
struct qcow2_luks_info {
	uint64_t host_off;	 /* of the header, in the image file */
	const char *cipher;	 /* with the bits of its key: "aes-256" */
	const char *cipher_mode; /* "xts", "cbc", ... */
	const char *ivgen;	 /* "plain64", "essiv", ... */
	const char *ivgen_hash;	 /* "sha256", ...; NULL if ivgen isn't "essiv" and needs none */
	const char *hash;	 /* of key derivation: "sha256", ... */
	const char *uuid;
	uint64_t payload_off; /* from the start of the header; what a LUKS volume would have, the
				 image doesn't use it */
	uint32_t digest_iterations; /* of the master key's digest */
	size_t nslots;
	const struct qcow2_luks_slot_info *slots;
};

struct qcow2_info {
	size_t struct_size;
	const char *filename; /* as given to qcow2_open */
	const char *format;   /* "qcow2", "raw" */
	uint64_t virtual_size;
	uint64_t disk_bytes; /* space that the file takes on its host; with has_disk_bytes */
	bool has_disk_bytes;

	/* The rest is zero for raw images. */
	uint32_t version; /* 2 or 3 */
	uint64_t cluster_size;
	unsigned refcount_bits;
	bool lazy_refcounts, dirty, corrupt, extended_l2;
	const char *compression_type; /* "zlib", "zstd" */
	const char *encryption;	      /* NULL, "aes", "luks" */
	const char *backing_file;     /* as stored, or NULL */
	const char *backing_path;     /* what it resolves to, or NULL where it can't be */
	const char *backing_format;   /* as stored, or NULL */
	const char *data_file;	      /* as stored, or NULL */
	bool has_data_file, data_file_raw;
	size_t nsnapshots;
	const struct qcow2_snapshot_info *snapshots;
	size_t nbitmaps;
	const struct qcow2_bitmap_info *bitmaps;
	bool bitmaps_lost; /* they are there, but a writer didn't keep them up to date */
	const struct qcow2_luks_info *luks; /* NULL: not LUKS, or its header can't be read */
};
#define QCOW2_INFO_INIT                                                                            \
	{                                                                                          \
		QCOW2_MEMBER(struct_size) sizeof(struct qcow2_info)                                \
	}

/*
 * Fills info. Its strings and lists live until qcow2_close. Damage in the snapshot table, the
 * bitmap directory or the LUKS header leaves those out and goes to the warn callback of the open
 * options.
 */
int qcow2_info(struct qcow2_image *image, struct qcow2_info *info, struct qcow2_error *err);

/* The image below this one, NULL at the end of the chain; belongs to the image above it. */
struct qcow2_image *qcow2_backing(struct qcow2_image *image);

/* One field of an on-disk structure, as qcow2_dump hands it out. */
struct qcow2_field {
	const char *table; /* "header", "extension", "l1", "l2", "reftable", "refblock", "snapshot",
			      "bitmap" */
	uint64_t index;	   /* of the entry in its table */
	uint64_t host_off; /* where its bytes are */
	uint32_t len_bytes; /* how many; 0: less than a byte */
	const char *name;   /* of the field in the format reference */
	uint64_t value;
	const char *text; /* what it means, or NULL */
};

#define QCOW2_DUMP_HEADER 0
#define QCOW2_DUMP_EXTENSIONS 1
#define QCOW2_DUMP_L1 2
#define QCOW2_DUMP_L2 3 /* the table of L1 entry `index` */
#define QCOW2_DUMP_REFTABLE 4
#define QCOW2_DUMP_REFBLOCK 5 /* the block of refcount table entry `index` */
#define QCOW2_DUMP_SNAPSHOTS 6
#define QCOW2_DUMP_BITMAPS 7

/*
 * Hands every field of a structure to emit, in file order; zero entries of tables are left out.
 * A nonzero return of emit stops the walk and is returned. The field is valid during the call.
 */
int qcow2_dump(struct qcow2_image *image, unsigned what, uint64_t index,
	       int (*emit)(void *opaque, const struct qcow2_field *field), void *opaque,
	       struct qcow2_error *err);

/* ---- creating ------------------------------------------------------------------------------ */

#define QCOW2_PREALLOC_OFF 0
#define QCOW2_PREALLOC_METADATA 1
#define QCOW2_PREALLOC_FALLOC 2
#define QCOW2_PREALLOC_FULL 3

#define QCOW2_COMPRESSION_ZLIB 0
#define QCOW2_COMPRESSION_ZSTD 1

#define QCOW2_SIZE_FROM_BACKING UINT64_MAX

#define QCOW2_CREATE_OVERWRITE 1u      /* replace a file that isn't empty; without it -EEXIST */
#define QCOW2_CREATE_UNSAFE_BACKING 2u /* don't look at the backing file (qemu-img create -u) */

struct qcow2_create_options {
	size_t struct_size;
	unsigned flags;		/* QCOW2_CREATE_* */
	const char *format;	/* NULL: "qcow2"; or "raw" */
	uint64_t size;		/* bytes, rounded up to 512; QCOW2_SIZE_FROM_BACKING */
	unsigned version;	/* 2 or 3; 0: 3 */
	uint64_t cluster_size;	/* a power of two, 512 to 2 MiB; 0: 65536 */
	unsigned refcount_bits; /* 1, 2, 4, ... 64; 0: 16 */
	unsigned prealloc;	/* QCOW2_PREALLOC_* */
	unsigned compression;	/* QCOW2_COMPRESSION_* */
	bool lazy_refcounts, extended_l2, data_file_raw;
	const char *backing_file, *backing_format;
	const char *data_file;		   /* created beside it; the name is stored as given */
	const struct qcow2_policy *policy; /* for opening the backing file; NULL: any local file */
	/* of qcow2_create alone, which takes long if it preallocates: bytes written and reserved */
	struct qcow2_progress progress;
};
#define QCOW2_CREATE_OPTIONS_INIT                                                                  \
	{                                                                                          \
		QCOW2_MEMBER(struct_size)                                                          \
		sizeof(struct qcow2_create_options), QCOW2_MEMBER(flags) 0,                        \
			QCOW2_MEMBER(format) NULL, QCOW2_MEMBER(size) QCOW2_SIZE_FROM_BACKING      \
	}

/*
 * Writes a new, empty image to path. Every option is checked before anything is touched. When it
 * fails later what it made is removed again. -EEXIST, -EINVAL, -ENOTSUP, -EFBIG as the options
 * deserve; -EAGAIN when a program has the file open; -ECANCELED.
 */
int qcow2_create(const char *path, const struct qcow2_create_options *options,
		 struct qcow2_error *err);

/*
 * Checks the options alone and says what they come to: fills in defaults and the size. Opens the
 * backing file if the size has to come from it.
 */
int qcow2_create_resolve(const char *path, struct qcow2_create_options *options,
			 struct qcow2_error *err);

/* ---- long operations ----------------------------------------------------------------------- */

/*
 * Compressed clusters (qcow2 targets). Clusters that are compressed already, in the same way and
 * size, are taken over as they are, which is as quick as copying: they aren't decompressed, so
 * damage inside of one is neither met nor mended. With a compression_level, or SALVAGE, all is
 * compressed anew.
 */
#define QCOW2_CONVERT_COMPRESS 1u
/*
 * Write into an image that exists (qemu-img -n), whose disk is no smaller than the sources. What
 * they cover reads as they do afterwards; the rest of a larger disk, its backing file, options,
 * snapshots and bitmaps stay. A qcow2 image's own references are followed by create->policy; NULL:
 * any local file.
 */
#define QCOW2_CONVERT_EXISTING 2u
#define QCOW2_CONVERT_TARGET_IS_ZERO 4u /* with EXISTING: it reads as zeros already */
#define QCOW2_CONVERT_SALVAGE 8u	/* unreadable areas become zeros, and are told to warn */
#define QCOW2_CONVERT_DISORDERED 16u	/* the order of writes is free (the result never is) */
#define QCOW2_CONVERT_ON_TOP                                                                       \
	32u /* the target has the source's backing file: copy the top layer only */
/*
 * The source's dirty bitmaps are added to the target when all else is done, with their names,
 * granularities, and whether they record. One source, and a target of version 3. Inconsistent ones
 * (and unknown ones) are a reason to refuse: -ESTALE (-ENOTSUP); or with SKIP_BROKEN they are left
 * out, and warn is told. What fails after that leaves the disk copied, without bitmaps.
 */
#define QCOW2_CONVERT_BITMAPS 64u
#define QCOW2_CONVERT_SKIP_BROKEN_BITMAPS 128u
/*
 * Let the kernel move plain data from file to file where it can, and share them where the file
 * system can (qemu-img -C). They aren't looked at: only what the sources call zeros is left out.
 * Not with COMPRESS or SALVAGE.
 */
#define QCOW2_CONVERT_OFFLOAD 256u
/*
 * Without either, plain data are shared with the sources (reflinks), and not looked at, where all
 * their files and the target lie on one file system that can do that, unless something else is
 * asked for that doesn't go with it: COMPRESS, SALVAGE, a sparse_bytes of the caller's, or space
 * that is preallocated with FALLOC or FULL. What is compressed, and ends that don't fill a block of
 * the file system, are copied.
 *
 * ALWAYS: where they can't be shared, that is an error (-ENOTSUP). NEVER: every byte has a place of
 * its own; not with OFFLOAD, which may share.
 */
#define QCOW2_CONVERT_REFLINK_ALWAYS 512u
#define QCOW2_CONVERT_REFLINK_NEVER 1024u

struct qcow2_convert_options {
	size_t struct_size;
	unsigned flags;				   /* QCOW2_CONVERT_* */
	const struct qcow2_create_options *create; /* how to make the target; its size is ignored */
	unsigned target_open_flags;		   /* QCOW2_OPEN_DIRECT, _NO_FLUSH, _WRITETHROUGH */
	unsigned threads;			   /* 0: one a core; never changes the result */
	uint64_t sparse_bytes; /* runs of zeros of at least this become sparse, as far as they lie
				  in one MiB that is read at once; 0 allocates all;
				  QCOW2_SPARSE_DEFAULT: 4096, of what isn't shared */
	int compression_level; /* 1 to 12, zstd 1 to 22; 0: the default. Else -EINVAL */
	uint64_t rate_limit;   /* bytes a second; 0: none */
	struct qcow2_progress progress;
	void (*warn)(void *opaque, const char *sentence);
	void *opaque;
	/* a part of the one source: so many bytes (0: up to its end) from an offset on */
	uint64_t source_off, source_bytes;
};
#define QCOW2_SPARSE_DEFAULT UINT64_MAX
#define QCOW2_CONVERT_OPTIONS_INIT                                                                 \
	{                                                                                          \
		QCOW2_MEMBER(struct_size)                                                          \
		sizeof(struct qcow2_convert_options), QCOW2_MEMBER(flags) 0,                       \
			QCOW2_MEMBER(create) NULL, QCOW2_MEMBER(target_open_flags) 0,              \
			QCOW2_MEMBER(threads) 0, QCOW2_MEMBER(sparse_bytes) QCOW2_SPARSE_DEFAULT   \
	}

struct qcow2_convert_result {
	uint64_t data_bytes;	   /* moved, or shared */
	uint64_t zero_bytes;	   /* left out or made zero */
	uint64_t unreadable_bytes; /* with SALVAGE */
	uint64_t host_bytes;	   /* length of the target file */
};

/*
 * Copies the sources, one after the other, into a new image at path (or an existing one, with
 * QCOW2_CONVERT_EXISTING). The target appears complete or not at all: a qcow2 header is the last
 * thing that is written, and a file that this call made is removed when it fails. The result is
 * the same, byte for byte, whatever the number of threads. result may be NULL.
 *
 * With QCOW2_CONVERT_EXISTING a call that failed or was cancelled leaves the target partly
 * overwritten. A qcow2 image stays sound: each part of its disk reads as before, as the sources, or
 * (where a write itself failed) as some of both; snapshots aren't touched. One that was empty is
 * empty again. -ENOSPC: the target's disk is too small; -EINVAL: the target, or its data file, is
 * read from.
 *
 * A part that begins behind the end of the source is empty, one that passes it is shorter. The disk
 * of the target has its size, rounded up to 512 bytes; what that adds are zeros.
 */
int qcow2_convert(struct qcow2_image *const *sources, size_t nsources, const char *path,
		  const struct qcow2_convert_options *options, struct qcow2_convert_result *result,
		  struct qcow2_error *err);

struct qcow2_measure_result {
	size_t struct_size;
	uint64_t disk_bytes;	 /* size of the virtual disk */
	uint64_t required_bytes; /* length of the image file */
	/* the same when every cluster of the disk has been written, from its start to its end */
	uint64_t fully_allocated_bytes;
	uint64_t data_file_bytes; /* length of the external data file; 0: there is none */
	/*
	 * What qemu-img measure says: by rules that count the tables of the whole disk, used or
	 * not, and the data of a data file; or the exact length where that is larger.
	 */
	uint64_t bound_required_bytes, bound_fully_allocated_bytes, bound_bitmaps_bytes;
	/*
	 * By how much QCOW2_CONVERT_BITMAPS makes the image file longer, at most: it isn't counted
	 * in the other figures. has_bitmaps: source and target are such as can have some.
	 */
	bool has_bitmaps;
	uint64_t bitmaps_bytes;
};
#define QCOW2_MEASURE_RESULT_INIT                                                                  \
	{                                                                                          \
		QCOW2_MEMBER(struct_size) sizeof(struct qcow2_measure_result)                      \
	}

/*
 * How large the file will be that qcow2_convert makes of the sources with these options, or without
 * sources (nsources 0) what qcow2_create makes with options->create, which has to have a size then.
 * Nothing is written, and no backing file is opened. The sources' tables are read, not their data:
 * lengths are exact for data that are as the tables say (and with QCOW2_CONVERT_OFFLOAD always),
 * and the most that it can be where clusters hold nothing but zeros, or are compressed. Lengths are
 * what stat tells, in bytes; holes take no space of the host.
 *
 * options may be NULL. Of its members progress is told how much of the disk has been looked at, and
 * threads is how many look (0: one a core); the rest says what would be made. The result is the
 * caller's, set up by its macro; it is left alone on failure. Refused is what qcow2_convert refuses
 * of the same options: -EINVAL, -ENOTSUP, -EFBIG; and -EINVAL for QCOW2_CONVERT_EXISTING. -EIO: a
 * table can't be read or is damaged.
 */
int qcow2_measure(struct qcow2_image *const *sources, size_t nsources,
		  const struct qcow2_convert_options *options, struct qcow2_measure_result *result,
		  struct qcow2_error *err);

#define QCOW2_COMMIT_KEEP 1u  /* the image isn't emptied */
#define QCOW2_COMMIT_CHECK 2u /* look for the base only: the image may be open for reading */

struct qcow2_commit_options {
	size_t struct_size;
	unsigned flags; /* QCOW2_COMMIT_* */
	/* which file of the chain to write into: as an image names it, or any path to it; NULL: the
	   backing file itself */
	const char *base;
	unsigned threads;    /* 0: one a core; never changes the result */
	uint64_t rate_limit; /* bytes a second; 0: none */
	struct qcow2_progress progress;
};
#define QCOW2_COMMIT_OPTIONS_INIT                                                                  \
	{                                                                                          \
		QCOW2_MEMBER(struct_size) sizeof(struct qcow2_commit_options)                      \
	}

struct qcow2_commit_result {
	uint64_t data_bytes; /* moved */
	bool emptied;	     /* nothing is allocated in the image any more */
};

/*
 * Writes what the image, which is open for writing with its chain, and the layers below it hold
 * into their base, which is opened for writing for that. A smaller base grows to the size of the
 * disk; of a larger one the rest stays. When all that is durable the image is emptied, if its own
 * backing file is the base. Layers between the image and the base stay as they are, but read as
 * something else, now that what is below them has changed: they are of no use any more. A raw base
 * shares the blocks of what is written to it, where the file system can do that.
 *
 * While it runs, and after a crash at any point, the image reads as before. A call that failed or
 * was cancelled has done a part of the work and no harm. After success the image is finished as by
 * qcow2_finish. No other call on the image or its layers may be running, and handles that
 * qcow2_backing gave are invalid afterwards. result may be NULL.
 *
 * -EINVAL: it has no backing file; -ENOENT: base isn't in its chain; -EAGAIN: the base is in use,
 * also by another overlay that is open.
 */
int qcow2_commit(struct qcow2_image *image, const struct qcow2_commit_options *options,
		 struct qcow2_commit_result *result, struct qcow2_error *err);

#define QCOW2_REBASE_UNSAFE                                                                        \
	1u /* the header alone: what isn't allocated reads as the new backing file has it */
#define QCOW2_REBASE_COMPRESS 2u /* what is copied becomes compressed clusters */

struct qcow2_rebase_options {
	size_t struct_size;
	unsigned flags;		    /* QCOW2_REBASE_* */
	const char *backing_format; /* "qcow2", "raw"; needed with a backing file */
	const struct qcow2_policy
		*policy;	     /* for opening the new backing file; NULL: any local file */
	unsigned backing_open_flags; /* QCOW2_OPEN_DIRECT, _FORCE_SHARE: of the new chain */
	unsigned threads;	     /* 0: one a core; never changes the result */
	int compression_level;	     /* 1 to 12, zstd 1 to 22; 0: the default */
	struct qcow2_progress progress;
};
#define QCOW2_REBASE_OPTIONS_INIT                                                                  \
	{                                                                                          \
		QCOW2_MEMBER(struct_size) sizeof(struct qcow2_rebase_options)                      \
	}

struct qcow2_rebase_result {
	uint64_t data_bytes; /* copied into the image */
};

/*
 * Gives the image, which is open for writing, another backing file, or none (NULL). The name is
 * stored as it is; a relative one is meant from where the image is. The disk reads as before: what
 * the new chain has otherwise is copied into the image first, so it must be open with its present
 * chain; or it is not the same disk any more, with QCOW2_REBASE_UNSAFE, which opens neither chain.
 *
 * Cut off at any point the image has one of both backing files and reads as before; a call that
 * failed or was cancelled leaves the old one. After success it is finished as by qcow2_finish: open
 * it again to use it. result may be NULL.
 *
 * -EINVAL: no format, a name that is too long, the image itself is in the new chain, or its
 * external data file is raw; -ENOSPC: the name doesn't fit into the header.
 */
int qcow2_rebase(struct qcow2_image *image, const char *backing_file,
		 const struct qcow2_rebase_options *options, struct qcow2_rebase_result *result,
		 struct qcow2_error *err);

#define QCOW2_COMPARE_STRICT 1u /* sizes and allocation must be the same too */

enum qcow2_compare_verdict {
	QCOW2_COMPARE_SAME,
	QCOW2_COMPARE_CONTENT,	  /* a byte differs, at guest_off */
	QCOW2_COMPARE_SIZE,	  /* strict: sizes differ */
	QCOW2_COMPARE_ALLOCATION, /* strict: one is allocated at guest_off, the other isn't */
};

struct qcow2_compare_result {
	enum qcow2_compare_verdict verdict;
	uint64_t guest_off; /* the first difference */
	bool sizes_differ;  /* not a difference by itself if the rest of the longer is zeros */
	int failed_image;   /* on failure of the call: 0 or 1, whichever couldn't be read */
};

/* Compares what two disks read as. */
int qcow2_compare(struct qcow2_image *a, struct qcow2_image *b, unsigned flags,
		  const struct qcow2_progress *progress, struct qcow2_compare_result *result,
		  struct qcow2_error *err);

/* ---- amending --------------------------------------------------------------------------- */

/* Which members of the options count; the rest stays as it is. */
#define QCOW2_AMEND_VERSION 1u
#define QCOW2_AMEND_REFCOUNT_BITS 2u
#define QCOW2_AMEND_LAZY_REFCOUNTS 4u
#define QCOW2_AMEND_DATA_FILE 8u
#define QCOW2_AMEND_DATA_FILE_RAW 16u
#define QCOW2_AMEND_SIZE 32u

#define QCOW2_AMEND_DRY_RUN 1u	    /* check everything, change nothing */
#define QCOW2_AMEND_SHRINK 2u	    /* the size may be smaller: what is behind it is lost */
#define QCOW2_AMEND_DROP_BITMAPS 4u /* version 2 has none: those that are there may go */

struct qcow2_amend_options {
	size_t struct_size;
	unsigned what;		/* QCOW2_AMEND_VERSION to _SIZE */
	unsigned flags;		/* QCOW2_AMEND_DRY_RUN, _SHRINK, _DROP_BITMAPS */
	unsigned version;	/* 2 or 3 */
	unsigned refcount_bits; /* 1, 2, 4, ... 64; version 3, or 16 */
	bool lazy_refcounts;	/* version 3 */
	bool data_file_raw;	/* can be switched off only */
	const char *data_file;	/* another name for the file that it is, which isn't looked for */
	uint64_t size;		/* as for qcow2_resize */
	struct qcow2_progress progress;
};
#define QCOW2_AMEND_OPTIONS_INIT                                                                   \
	{                                                                                          \
		QCOW2_MEMBER(struct_size) sizeof(struct qcow2_amend_options)                       \
	}

struct qcow2_amend_result {
	uint64_t refcount_bytes; /* of refcount blocks that are written anew */
	uint64_t filled_bytes;	 /* of zero clusters that are written as zeros, for version 2 */
	uint64_t emptied_bytes;	 /* of those that become unallocated */
	uint64_t dropped_bitmaps;
};

/*
 * Changes what an image says about itself. Needs QCOW2_OPEN_WRITE; waits for all other requests and
 * holds up new ones; is durable when it returns. result, which may be NULL, tells what had to be
 * done, or with QCOW2_AMEND_DRY_RUN would have to.
 *
 * Everything is checked before anything is changed: -EINVAL for what doesn't go together or a count
 * that doesn't fit, -ENOTSUP for what version 2 can't have (another width than 16 bits, a data
 * file, extended L2 entries, zstd clusters, snapshots of another size; bitmaps, unless they may be
 * dropped), -ENOSPC where the header would become too large, -EFBIG beyond the format's limits; the
 * image is unchanged then. The disk and its snapshots always read as before, but for the size.
 *
 * Changes are made one after the other: upgrade, refcount width, data file, lazy refcounts, size,
 * bitmaps dropped, downgrade. Each is made or not made also after a crash; a later one may be
 * missing. The same is true of a call that failed or was cancelled. Unknown header extensions stay.
 * For another backing file see qcow2_rebase.
 */
int qcow2_amend(struct qcow2_image *image, const struct qcow2_amend_options *options,
		struct qcow2_amend_result *result, struct qcow2_error *err);

/* ---- check and repair ---------------------------------------------------------------------- */

enum qcow2_check_severity {
	QCOW2_CHECK_ERROR,  /* the image is corrupt: data are lost, or the next write may lose some
			     */
	QCOW2_CHECK_LEAK,   /* space that is taken and not used */
	QCOW2_CHECK_FAILED, /* a part of the image couldn't be examined */
	QCOW2_CHECK_NOTE,   /* nothing wrong by itself */
};

enum qcow2_check_phase {
	QCOW2_CHECK_FOUND,
	QCOW2_CHECK_REPAIRED, /* has just been put right */
	QCOW2_CHECK_KEPT,     /* was found before; the repair passes it by */
	QCOW2_CHECK_LEFT,     /* found when the image was examined again after a repair */
};

/* One finding. Members that don't fit it hold QCOW2_NO_OFFSET, counts 0. */
struct qcow2_check_finding {
	const char *code; /* one word for programs: "leak", "refcount-low", "l2-shared", ... */
	enum qcow2_check_severity severity;
	enum qcow2_check_phase phase;
	const char *sentence; /* says all of what follows; no full stop */
	uint64_t guest_off;
	uint64_t host_off;	/* of the cluster or table that it is about */
	uint64_t entry_off;	/* in the image file: of the entry that is wrong */
	uint64_t entry_index;	/* in its table; of a refcount block, in the refcount table */
	uint64_t stored;	/* the refcount, or the entry as it is stored */
	uint64_t computed;	/* the references that there are; of a COPIED flag: the refcount */
	uint64_t nclusters;	/* so many from host_off on have the same, at least 1 */
	uint64_t len_bytes;	/* of what passes the end of the file */
	uint64_t cluster_bytes; /* of the image */
	const char *repair;	/* what QCOW2_REPAIR_ALL does about such, in a few words */
};

/* A row of the catalogue of what can be found. The strings are constants. */
struct qcow2_check_rule {
	const char *code;
	enum qcow2_check_severity severity;
	const char *meaning;
	const char *repair; /* what QCOW2_REPAIR_ALL does about it */
};

/* The idx-th row, from 0; false behind the last. */
bool qcow2_check_rule(size_t idx, struct qcow2_check_rule *rule);

#define QCOW2_REPAIR_NONE 0u
#define QCOW2_REPAIR_LEAKS                                                                         \
	1u /* refcounts that are too high, and flags if nothing else is wrong                      \
	    */
#define QCOW2_REPAIR_ALL 2u

#define QCOW2_UNDO_KEEP 1u /* the undo file stays, also where all went well */

struct qcow2_check_options {
	size_t struct_size;
	unsigned flags;	    /* QCOW2_OPEN_FORCE_SHARE (without repair), _NO_LOCK, _DIRECT */
	unsigned repair;    /* QCOW2_REPAIR_* */
	const char *format; /* as in qcow2_open_options */
	/*
	 * Told of every finding, in the calling thread; there may be billions. A nonzero return
	 * ends the check, and the repair where it is: -ECANCELED. The finding belongs to the call.
	 */
	int (*finding)(void *opaque, const struct qcow2_check_finding *finding);
	void *opaque;
	struct qcow2_progress progress; /* of reading metadata; a repair reads them a second time */
	/*
	 * With a repair: a new file into which everything is saved before it is overwritten, made
	 * with the first change. -EEXIST if it is there already, and then nothing is changed. NULL:
	 * the repair can't be taken back.
	 */
	const char *undo_path;
	unsigned undo_flags; /* QCOW2_UNDO_* */
};
#define QCOW2_CHECK_OPTIONS_INIT                                                                   \
	{                                                                                          \
		QCOW2_MEMBER(struct_size) sizeof(struct qcow2_check_options)                       \
	}

/* After a repair that changed something: what the second examination found. */
struct qcow2_check_result {
	const char *format; /* "qcow2", "raw"; NULL if it isn't known */
	uint64_t corruptions, leaks, check_errors;
	uint64_t corruptions_fixed, leaks_fixed;
	uint64_t image_end_off; /* behind the last cluster that is in use */
	/* of the active disk; fragmented: doesn't follow the one before it in the file */
	uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
	/*
	 * Where the space of the file goes: the active disk's data, plain (nothing where an
	 * external data file has them) and compressed; tables; what only snapshots need; what is
	 * lost; what lies free between them. Exact for images that are sound, but that with
	 * snapshots and compressed data the two share what is left over in the clusters of the
	 * latter.
	 */
	uint64_t data_bytes, compressed_bytes, metadata_bytes, snapshot_bytes, leaked_bytes,
		free_bytes;
	bool undo_left; /* the undo file is there, for qcow2_check_undo */
};

/*
 * Examines the metadata of the image at path, and repairs on demand. The image alone: neither
 * backing nor data file is opened, no data cluster is read. 0 when the examination was completed,
 * whatever it found: see *result. Tables are read by as many threads as there are processors, up to
 * 8; what is told, and its order, doesn't depend on them.
 *
 * Memory grows with the clusters in use, not with the size of the disk: less than a bit for each
 * that lies in a row of its like, about three for others, four to eight where snapshots share
 * them; and some megabytes for what is being read.
 *
 * QCOW2_REPAIR_ALL leaves what can be read as it reads. Entries that lead nowhere are made to say
 * zeros, and what shares clusters with a table gets a copy elsewhere (qcow2_check_rule tells what
 * is done about what); while damage that can't be mended may hide references nothing is given up or
 * freed. Cut off at any point it leaves an image that the same repair can finish. Where refcounts
 * are so damaged that all must be written anew QCOW2_REPAIR_LEAKS changes nothing, and counts a
 * check error.
 *
 * The undo file is durable before anything that it tells of is changed; a disk that is too full for
 * it ends the repair (-ENOSPC) before damage. It is removed when the repair was completed and left
 * nothing that it was asked to repair; else it stays (result->undo_left), also without _KEEP.
 *
 * The lock is that of a reader, with repair that of a writer. -ENOTSUP for raw images, which have
 * no metadata (result->format tells), and for unknown features; -EINVAL for a header that can't be
 * worked with; -EAGAIN when the image is in use; -EIO. *result then holds what was found so far.
 */
int qcow2_check(const char *path, const struct qcow2_check_options *options,
		struct qcow2_check_result *result, struct qcow2_error *err);
/* The same on a store of the caller's, which stays the caller's. No lock is taken. */
int qcow2_check_storage(struct qcow2_storage storage, const struct qcow2_check_options *options,
			struct qcow2_check_result *result, struct qcow2_error *err);

/*
 * Takes a repair back, also one that was cut off: the image at path is what it was, byte for byte
 * and with its size, and the undo file is removed unless undo_flags has QCOW2_UNDO_KEEP. Cut off at
 * any point it can be called again. flags: QCOW2_OPEN_NO_LOCK, _DIRECT; the lock is that of a
 * writer. -EINVAL, and nothing is changed: undo_path is no undo file, or one of another image, or
 * the image was changed since it was completed. -EIO: the undo file is damaged, or the image can't
 * be written. -EAGAIN: the image is in use.
 */
int qcow2_check_undo(const char *path, const char *undo_path, unsigned flags, unsigned undo_flags,
		     struct qcow2_error *err);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif
