/* SPDX-License-Identifier: MIT */
/*
 * Anything with a guest size: what a chain is made of. Implemented by raw.c here and by
 * image/ for qcow2.
 *
 * Mapping comes first, moving bytes after: disk_map says what a disk itself knows of a range,
 * without looking below; the chain (image/chain.c) goes down the layers.
 */
#ifndef DISK_DISK_H
#define DISK_DISK_H

#include "base/error.h"
#include "storage/storage.h"

enum disk_run_kind {
	DISK_RUN_ABSENT,     /* not allocated in this layer: ask the one below, else zeros */
	DISK_RUN_ZERO,	     /* reads as zeros */
	DISK_RUN_DATA,	     /* plain bytes at host_off in store */
	DISK_RUN_COMPRESSED, /* one compressed cluster, or a part of it */
};

struct disk_run {
	enum disk_run_kind kind;
	bool has_host_off;  /* host_off is a position in store (DATA always; ZERO and ABSENT if
			       preallocated) */
	uint64_t len_bytes; /* from the guest offset asked, at least 1 */
	uint64_t host_off;
	struct qcow2_storage store; /* borrowed; of DATA and whatever has_host_off */
	const char *filename;	    /* of store; borrowed from the disk */
	uint64_t cookie;	    /* COMPRESSED: the L2 entry */
	bool copied; /* DATA, where the map was asked for writing: it is ours alone */
};

struct disk;

struct disk_ops {
	const char *format; /* "raw", "qcow2" */
	void (*close)(struct disk *disk);
	/* The run at guest_off, which is inside the disk, of at most len_bytes (at least 1). */
	int (*map)(struct disk *disk, uint64_t guest_off, uint64_t len_bytes, struct disk_run *run,
		   struct qcow2_error *err);
	/*
	 * The same by what is in memory: -EAGAIN, without a sentence, where that isn't enough. The
	 * run may be shorter than map would give it, and holes of a host file be given as data.
	 */
	int (*map_cached)(struct disk *disk, uint64_t guest_off, uint64_t len_bytes,
			  struct disk_run *run);
	/*
	 * Reads part of a COMPRESSED run that map gave for guest_off. len is within the run. NULL
	 * for disks that never report one.
	 */
	int (*read_compressed)(struct disk *disk, const struct disk_run *run, void *buf, size_t len,
			       uint64_t guest_off, struct qcow2_error *err);
};

struct disk {
	const struct disk_ops *ops;
	uint64_t size_bytes; /* of the guest disk; a multiple of 512 */
};

/* Closes and frees; NULL is allowed. */
void disk_close(struct disk *disk);

/*
 * A raw disk on a store, which it owns from now on (on failure too). Its size is the store's,
 * rounded up to 512. filename is for messages, copied.
 */
int disk_raw_open(struct disk **disk, struct qcow2_storage store, const char *filename,
		  struct qcow2_error *err);
struct qcow2_storage disk_raw_store(struct disk *disk);
/* Sets its size, a multiple of 512. No request may be running. */
int disk_raw_resize(struct disk *disk, uint64_t size_bytes, struct qcow2_error *err);

/* The format of an unknown file by its first bytes, by QEMU's rules: "qcow2" or "raw". */
int disk_probe(struct qcow2_storage store, const char **format, struct qcow2_error *err);

#endif
