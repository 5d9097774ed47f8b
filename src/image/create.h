/* SPDX-License-Identifier: MIT */
/*
 * Making images: the options (create_options.c), the files that an image is made in (place.c), a
 * qcow2 image in the making (draft.c, prealloc.c). qcow2_create puts them together; whoever fills
 * a fresh image with data uses the same pieces.
 *
 * An image becomes one only at its end: until image_draft_finish writes the header cluster, the
 * file begins with zeros (or a hole).
 */
#ifndef IMAGE_CREATE_H
#define IMAGE_CREATE_H

#include "format/header.h"
#include "image/batch.h"
#include "image/fresh.h"
#include "qcow2.h"

/* ---- options (create_options.c) ---- */

/*
 * Fills in defaults and checks every option and how they go together; nothing is opened. The size
 * may stay QCOW2_SIZE_FROM_BACKING if there is a backing file.
 */
int image_create_check(struct qcow2_create_options *o, struct qcow2_error *err);

/* Checks a size against the format and rounds it up to 512. */
int image_create_set_size(struct qcow2_create_options *o, uint64_t size_bytes,
			  struct qcow2_error *err);

/* Geometry of the image that checked options make. */
void image_create_geometry(const struct qcow2_create_options *o, struct format_geometry *g);

/* Is that what preallocation comes to, with data_file_raw, which needs at least metadata? */
unsigned image_create_prealloc(const struct qcow2_create_options *o);

/*
 * image_create_check, and looks at the backing file of an image at path: that it opens, and how
 * large it is if the size is to come from it. always: open it although the size is known.
 */
int image_create_resolve(const char *path, struct qcow2_create_options *o, bool always,
			 struct qcow2_error *err);

/* ---- the files (place.c) ---- */

/*
 * A file or block device that something is being made in. Calls that may take long are lent a
 * progress_work, or NULL, and end with -ECANCELED when it says so.
 */
struct image_place {
	struct qcow2_storage st;
	const char *path; /* borrowed */
	bool is_device;
	bool made;    /* the file wasn't there before */
	bool touched; /* what was in it is gone */
	bool replace; /* QCOW2_CREATE_OVERWRITE */
	uint64_t device_bytes;
};

/*
 * Opens or creates it and takes the locks for creating (section 25.4); its contents are left alone.
 * -EEXIST if there are any, unless replace; a block device is never empty. open_flags:
 * STORAGE_FILE_* beside WRITE and CREATE. On failure nothing is left behind.
 */
int image_place_open(struct image_place *p, const char *path, bool replace, unsigned open_flags,
		     struct qcow2_error *err);

/* -EINVAL if the file at path, when there is one, is the one that p is. */
int image_place_differs(const struct image_place *p, const char *path, const char *what,
			struct qcow2_error *err);

/* Empties it; of a device the first header_bytes become zeros. */
int image_place_clear(struct image_place *p, uint64_t header_bytes, struct qcow2_error *err);

/*
 * Makes it at least that long; all that wasn't written since it was cleared reads as zeros.
 * prealloc: QCOW2_PREALLOC_OFF (or _METADATA, which is the same for it), _FALLOC or _FULL. The disk
 * of a raw image or an external data file.
 */
int image_place_fill(struct image_place *p, uint64_t size_bytes, unsigned prealloc,
		     struct progress_work *progress, struct qcow2_error *err);

/* ---- space for a range, in pieces, so that it can be told how far it is, and stopped ---- */

/* Writes zeros, as data. */
int image_write_zeros(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes,
		      struct progress_work *progress, struct qcow2_error *err);
/* As storage_allocate. */
int image_allocate(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes,
		   struct progress_work *progress, struct qcow2_error *err);
/*
 * As _FALLOC and _FULL do; the range is beyond all that was written or reads as zeros. Where space
 * can't be reserved, zeros are written.
 */
int image_reserve(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes, unsigned prealloc,
		  struct progress_work *progress, struct qcow2_error *err);
/* The same of a place: on a device there is nothing to reserve. */
int image_place_reserve(struct image_place *p, uint64_t host_off, uint64_t len_bytes,
			unsigned prealloc, struct progress_work *progress, struct qcow2_error *err);

/*
 * For who fills the file himself: _FALLOC becomes _FULL where space can't be reserved, and writing
 * is what is left. len_bytes: what will be reserved; its first bytes are, to find out.
 */
unsigned image_place_settle_prealloc(struct image_place *p, unsigned prealloc, uint64_t len_bytes);

/* Done: closes it and keeps the file. */
void image_place_close(struct image_place *p);

/* Failed: removes the file, or what came into it, and closes it. */
void image_place_abandon(struct image_place *p);

/* ---- a qcow2 image in the making (draft.c) ---- */

struct image_draft {
	struct qcow2_create_options o; /* checked, with a size; strings are the caller's */
	struct format_geometry g;
	struct format_header header;
	struct image_fresh fresh;
	uint64_t l1_first; /* cluster of the L1 table; 0 if there is none */
	uint32_t l1_entries;
	uint64_t *l1;	   /* its entries as numbers, or NULL while all are 0 */
	uint64_t data_end; /* the file is at least that long in the end */
	bool all_data;	   /* set before begin: what is preallocated holds the disk's data, so its
			      subclusters are allocated too */
	struct progress_work *progress; /* set before begin by who wants to know; may be NULL */
	char *backing_path; /* what the backing file's name means here; NULL: no local file */
	struct image_place file;
	struct image_place data; /* the external data file; not open if there is none */
};

/*
 * Plans the image and checks that it can be made: after it d->fresh is what the new image has, and
 * no file is open. o has been checked and has a size. For who wants to know how large it would be;
 * to be abandoned. On failure nothing is left to do.
 */
int image_draft_plan(struct image_draft *d, const struct qcow2_create_options *o,
		     struct qcow2_error *err);

/* Bytes that begin and finish write or reserve; set by plan and open. */
uint64_t image_draft_work(const struct image_draft *d);

/* How long its file is if no more is placed than there is now: to the byte. */
uint64_t image_draft_length(const struct image_draft *d);

/*
 * Plans the image and checks that it can be made, opens and locks its files. What is in them is
 * still there: the time to look whether they are files that must not be lost. o has been resolved.
 * path must live as long as the draft. On failure nothing is left to do.
 */
int image_draft_open(struct image_draft *d, const char *path, const struct qcow2_create_options *o,
		     unsigned open_flags, struct qcow2_error *err);

/*
 * Empties the files, places the L1 table, and preallocates. On failure the draft has to be
 * abandoned.
 */
int image_draft_begin(struct image_draft *d, struct qcow2_error *err);

/*
 * Writes L1 table, refcounts and, when all that is durable, the header; after it the image is
 * complete and durable. patch: see image_fresh_write.
 */
int image_draft_finish(struct image_draft *d, const struct image_fresh_patch *patch,
		       struct qcow2_error *err);

/* After finish: lets go of the files. */
void image_draft_close(struct image_draft *d);
/* At any time before: removes what was made. */
void image_draft_abandon(struct image_draft *d);

/* ---- preallocation (prealloc.c) ---- */

/*
 * Maps the whole disk as o.prealloc says: places tables and data clusters, fills d->l1, and
 * unless dry writes L2 tables and reserves data. Dry, only the allocator moves.
 */
int image_prealloc(struct image_draft *d, bool dry, struct qcow2_error *err);

#endif
