/* SPDX-License-Identifier: MIT */
/*
 * One open image as a whole: what struct qcow2_image of the public header is.
 *
 * Each layer of a chain is a struct qcow2_image of its own; the top owns all below it. The layers
 * of one open share an array of disks; a layer sees it from its own place on.
 */
#ifndef IMAGE_IMAGE_H
#define IMAGE_IMAGE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/progress.h"
#include "data/data.h"
#include "data/write.h"
#include "disk/disk.h"
#include "format/crypto_rec.h"
#include "meta/meta.h"
#include "qcow2.h"

/*
 * The VM state as a disk of its own, at the guest offsets that the image's tables have for it: so
 * that it is read and written by the same code, and nothing below it shines through.
 */
struct image_state {
	struct disk disk;
	struct disk *disks[1];
	struct data_layers layers;
	struct image_qcow2 *image;
	struct data_writer *writer; /* beside that of the disk; NULL: open for reading */
};

struct image_qcow2 { /* a qcow2 disk; begins with the interface that it implements */
	struct disk disk;
	struct image_state state;
	struct meta meta;
	struct qcow2_storage file; /* owned */
	struct qcow2_storage
		data_file; /* owned; not open unless the image has one and it is needed */
	struct data_packed *packed;
	const char *data_filename;  /* of meta.data; points into the image */
	atomic_int preallocated;    /* what meta_looks_preallocated said; -1: not asked yet */
	struct data_writer *writer; /* NULL: open for reading */
	bool finished;		    /* nothing is changed any more */
};

/* A LUKS header, and how it is shown: the latter points into the former. */
struct image_luks {
	struct format_luks header;
	struct format_luks_spec spec;
	struct qcow2_luks_slot_info slots[FORMAT_LUKS_SLOTS];
	struct qcow2_luks_info info;
};

/* What reading doesn't need: loaded by the first qcow2_info, owned by the image. */
struct image_tables {
	struct meta_snapshots snapshots;
	struct meta_bitmaps bitmaps;
	struct qcow2_snapshot_info *snapshot_info;
	struct qcow2_bitmap_info *bitmap_info;
	struct image_luks *luks;    /* NULL: there is none, or it is damaged */
	struct image_tables *older; /* told before the snapshots changed */
};

void image_free_tables(struct image_tables *tables);
/* What was told of them is kept for who still has it, and told anew to who asks again. */
void image_forget_tables(struct qcow2_image *image);

/* What the header said of the backing file, or the data file, before it was changed. */
struct image_former {
	char *name, *format;
	struct image_former *next;
};

void image_free_former(struct image_former *former);

struct qcow2_image {
	/* immutable after open */
	char *path;
	bool placeless;		   /* path is only for messages: relative names can't be resolved */
	const char *format;	   /* "raw", "qcow2" */
	unsigned flags;		   /* QCOW2_OPEN_* */
	unsigned discard;	   /* QCOW2_DISCARD_*, of a raw image */
	struct meta_gate *gate;	   /* what requests enter; NULL: open for reading */
	struct meta_gate raw_gate; /* of a raw image */
	atomic_int flush_failed;   /* negative errno: a raw image isn't changed any more */
	struct disk *disk;	   /* owned */
	struct image_qcow2 *qcow2; /* the same disk, if it is qcow2 */
	struct qcow2_storage store;  /* borrowed from the disk: the image file */
	struct qcow2_image *backing; /* owned */
	struct disk **disks;	     /* of the whole chain; owned by the top */
	struct data_layers layers;   /* from this layer down */
	char *backing_path;	     /* NULL where it has none, or it can't be told */
	void (*warn)(void *opaque, const char *sentence);
	void *opaque;
	pthread_mutex_t lock;
	struct image_tables *older_tables; /* guarded by lock */
	struct image_tables *tables;	   /* guarded by lock; never changes once it is there */
	struct image_former *former;	   /* owned; the gate is closed while it changes */
	struct qcow2_progress watch;	   /* nothing that it is told of runs while it changes */
};

void image_warn(const struct qcow2_image *image, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* -EINVAL if it is open for information only. */
int image_check_readable(const struct qcow2_image *image, struct qcow2_error *err);

/* -EACCES if it is open for reading, -EINVAL if it has been finished. */
int image_check_writable(const struct qcow2_image *image, struct qcow2_error *err);

/* -EINVAL if the range passes the end of the disk. */
int image_check_range(const struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		      struct qcow2_error *err);

/*
 * Around everything that uses an image's map: no resize goes on meanwhile, and what it finds in the
 * map stays in place. Free of cost if the image is open for reading.
 */
unsigned image_enter(const struct qcow2_image *image);
/* The same without waiting: false if a resize, or the like, is in the way. */
bool image_try_enter(const struct qcow2_image *image, unsigned *ticket);
void image_leave(const struct qcow2_image *image, unsigned ticket);

/* ---- open for writing (start.c) ---- */

/*
 * The header has been read, nothing else: refuses what must not be written to, and repairs an image
 * that wasn't closed, after which the header is read anew. Its lock is held. On failure m may hold
 * nothing.
 */
int image_prepare_writing(struct meta *m, const char *path, struct qcow2_error *err);
/* The chain is complete: makes the top image changeable. */
int image_start_writing(struct qcow2_image *image, const struct qcow2_open_options *options,
			struct qcow2_error *err);
void image_stop_writing(struct image_qcow2 *q);
/* May the disk have that size? */
int image_check_size(const struct qcow2_image *image, uint64_t size_bytes, struct qcow2_error *err);
/* -EINVAL, -EACCES: it isn't to be asked for, whatever the format could do. */
int image_check_resize(const struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc,
		       unsigned flags, struct qcow2_error *err);
/* qcow2_resize while the gate is closed. */
int image_resize(struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc, unsigned flags,
		 struct progress_work *progress, struct qcow2_error *err);
/* What is in memory of the size; the gate is closed. */
void image_set_size(struct image_qcow2 *q, uint64_t size_bytes);

/*
 * As qcow2_pwrite with QCOW2_WRITE_COMPRESSED, for one cluster that the caller has compressed to
 * len bytes, in the way of the image's header. It may be the disk's last, filled up with zeros.
 */
int image_write_packed(struct qcow2_image *image, uint64_t guest_off, const uint8_t *bytes,
		       size_t len, struct qcow2_error *err);

/* The end of a request that was carried out, or wasn't; outside the gate. flags: QCOW2_WRITE_*. */
int image_finish_request(struct qcow2_image *image, int ret, unsigned flags, const char *what,
			 struct qcow2_error *err);

/* ---- VM state (vmstate.c) ---- */

/* The tables have been loaded. */
void image_state_init(struct image_qcow2 *q);

/* ---- changes of a chain (backing.c) ---- */

/*
 * The one place where an image gets another backing file: name and format as they are recorded,
 * both NULL for none. Everything before is made durable first; a crash leaves the one or the other
 * (but see meta_super_write_backing). The open chain stays what it was: what the image reads as
 * follows the header only when it is opened again.
 */
int image_set_backing(struct qcow2_image *image, const char *name, const char *format,
		      struct qcow2_error *err);

/*
 * Nothing is allocated in the image any more: it reads as its backing file does, which must hold
 * all of it, durably. The image is finished then. After a failure it is as it was, or empty, and
 * can't be changed any more.
 */
int image_make_empty(struct qcow2_image *image, struct qcow2_error *err);

/*
 * Opens the layer at that depth (at least 1) of top's chain anew, for writing, with top's flags;
 * top is the image that was opened, and nobody else uses the chain. The layer's former handle is
 * gone, unless this fails early: then all is as it was. Late: its handle is a new one that isn't
 * changeable.
 */
int image_reopen_for_writing(struct qcow2_image *top, unsigned depth, struct qcow2_error *err);

/* ---- references (chain.c) ---- */

/* The external data file that the image names, as the policy allows; and its lock (open.c). */
int image_open_data_file(struct qcow2_image *image, const struct qcow2_policy *policy,
			 struct qcow2_error *err);
int image_lock_data_file(struct qcow2_storage store, unsigned flags, struct qcow2_error *err);

/*
 * The path of the file that a name stored in the image at overlay_path means, if plain local files
 * are all that may be named: *path is the caller's. overlay_path NULL: relative names are refused.
 */
int image_resolve_name(const char *overlay_path, const char *name, char **path,
		       struct qcow2_error *err);

/* -EPERM unless path lies where the policy wants it. */
int image_check_dirs(const struct qcow2_policy *policy, const char *path, struct qcow2_error *err);

/* ---- layers (layer.c) ---- */

/* Opens one file as an image, without what is below it. store is owned from now on. */
int image_open_layer(struct qcow2_image **image, struct qcow2_storage store, const char *path,
		     const char *format, bool is_backing, const struct qcow2_open_options *options,
		     struct qcow2_error *err);
void image_free_layer(struct qcow2_image *image);

/* What the image's tables say, as a run of a disk; guest_off may lie in the VM state. */
int image_map_tables(struct image_qcow2 *q, uint64_t guest_off, uint64_t len_bytes,
		     struct disk_run *run, struct qcow2_error *err);
int image_read_packed(struct image_qcow2 *q, const struct disk_run *run, void *buf, size_t len,
		      uint64_t guest_off, struct qcow2_error *err);

/*
 * Looks whether a DATA run of this disk, if that is a preallocated qcow2 image, is a hole of its
 * host file. Cuts the run to what the answer holds for.
 */
int image_find_hole(struct disk *disk, struct disk_run *run, bool *is_hole,
		    struct qcow2_error *err);
/* data_map, but such holes are ZERO: for who would read them to find out. */
int image_map_zeros(const struct data_layers *layers, uint64_t guest_off, uint64_t len_bytes,
		    struct data_run *r, struct qcow2_error *err);
/* Is it worth while to ask: does its own file, and not those below, look as if it had such holes?
 */
bool image_looks_preallocated(const struct qcow2_image *image);

/* STORAGE_FILE_* for QCOW2_OPEN_*. */
unsigned image_storage_flags(unsigned open_flags);
/* Takes the locks for QCOW2_OPEN_* flags on a file of that format. */
int image_take_lock(struct qcow2_storage store, const char *format, unsigned flags,
		    struct qcow2_error *err);
/* Finds the format: a given one is believed, an unknown one is looked up in the first bytes. */
int image_settle_format(struct qcow2_storage store, const char *given, const char **format,
			unsigned flags, struct qcow2_error *err);

/* The policy that follows any local file: what a tool uses. */
extern const struct qcow2_policy image_policy_local;

#endif
