/* SPDX-License-Identifier: MIT */
/*
 * What a copy reads: one or several disks, one after the other, as a single one, looked at through
 * blocks of a fixed size: each is absent, zero or data.
 */
#ifndef JOB_SOURCE_H
#define JOB_SOURCE_H

#include "image/image.h"
#include "image/writer.h"

/* A range that couldn't be read, with salvage. */
typedef void (*job_unreadable_fn)(void *opaque, uint64_t guest_off, uint64_t len_bytes,
				  const char *why);

/* Something that is read in blocks. On any thread. */
struct job_reader {
	/*
	 * Looks at [guest_off, guest_off + len) in blocks of block_size (a power of two that
	 * divides guest_off): fills states[] (enum job_block), and buf wherever a block is DATA
	 * (with zeros past the end). Neither holes nor zeros are read. *quiet is how far from
	 * guest_off on all is alike and not data, 0 if there is data: it may reach far behind the
	 * range.
	 */
	int (*read)(const struct job_reader *r, uint64_t guest_off, size_t len, size_t block_size,
		    uint8_t *buf, uint8_t *states, uint64_t *quiet, job_unreadable_fn unreadable,
		    void *opaque, struct qcow2_error *err);
	/*
	 * What a block has that read found to be PACKED: *len compressed bytes, to packed, which
	 * has room for a block. *len is 0 if it has become another meanwhile: then its data, to
	 * buf. NULL: there are none.
	 */
	int (*fetch)(const struct job_reader *r, uint64_t guest_off, uint8_t *packed, size_t *len,
		     struct image_origin *origin, uint8_t *buf, struct qcow2_error *err);
	/*
	 * buf is followed, from a multiple of JOB_ROOM_ALIGN on, by room for what read likes: as
	 * much as it may be asked for, and 1 MiB at least.
	 */
	bool wants_room;
};

#define JOB_ROOM_ALIGN 4096u

enum job_block {
	JOB_BLOCK_ABSENT, /* nothing is to be written */
	JOB_BLOCK_ZERO,
	JOB_BLOCK_DATA,
	JOB_BLOCK_PACKED, /* a compressed cluster that can be taken as it is; it isn't read */
};

struct job_source {
	struct job_reader reader;
	/* immutable */
	struct qcow2_image *const *images;
	uint64_t *starts; /* of each image in the whole, and the end: nimages + 1 */
	size_t nimages;
	uint64_t first_off;  /* where the first image is begun with */
	uint64_t size_bytes; /* a multiple of 512; behind the end of the last image are zeros */
	/* of each image so many are looked at, what they leave to those below is ABSENT; 0: all */
	unsigned nlayers;
	bool salvage;
	bool spares_cache; /* what is read isn't kept in the page cache: it is too much */
	bool unread;	   /* buf isn't filled, nor needed: the data are moved (move.h) */
	/* compressed clusters of that size and type are PACKED (pass.c); 0: they are DATA */
	size_t pass_cluster_size;
	int pass_compression;
};

/* -EINVAL if one of them is open for information only. */
int job_source_init(struct job_source *s, struct qcow2_image *const *images, size_t nimages,
		    struct qcow2_error *err);
void job_source_release(struct job_source *s);
/* Only a part of the one image: len_bytes (0: up to the end) from first_off on. */
int job_source_cut(struct job_source *s, uint64_t first_off, uint64_t len_bytes,
		   struct qcow2_error *err);

/* The image that holds guest_off, and *len_bytes cut to its end; NULL: all are before it. */
const struct qcow2_image *job_source_image(const struct job_source *s, uint64_t guest_off,
					   uint64_t *len_bytes);

/*
 * What is at guest_off, through all layers, for at most len_bytes. cached: holes of a raw file may
 * be given as data, if that saves asking for them.
 */
int job_source_run(const struct job_source *s, uint64_t guest_off, uint64_t len_bytes, bool cached,
		   struct disk_run *run, struct qcow2_error *err);

/* What is at guest_off through all layers of the image that holds it: image_off is where in that.
 */
int job_source_run_of(const struct job_source *s, uint64_t guest_off, size_t *image_idx,
		      uint64_t *image_off, struct data_run *r, struct qcow2_error *err);

/* Is that run, at guest_off, a whole compressed cluster that can be taken as it is? */
bool job_pass_fits(const struct job_source *s, uint64_t guest_off, size_t image_idx,
		   uint64_t image_off, const struct data_run *r);
/* The reader's fetch. */
int job_pass_fetch(const struct job_reader *r, uint64_t guest_off, uint8_t *packed, size_t *len,
		   struct image_origin *origin, uint8_t *buf, struct qcow2_error *err);

/* Reads a range that lies inside the source. */
int job_source_read(const struct job_source *s, uint64_t guest_off, uint8_t *buf, size_t len,
		    struct qcow2_error *err);

/* -EINVAL if the file at path, which was opened as store, is one that the source is read from. */
int job_source_differs(struct qcow2_storage store, const char *path,
		       const struct job_source *source, struct qcow2_error *err);

/* What is at guest_off. */
struct job_piece {
	enum job_block kind;
	uint64_t len_bytes;
};

/*
 * What a source (of) has at guest_off, which is inside it: as long a piece as there is, through all
 * layers. Data aren't looked at.
 */
int job_source_map(const void *of, uint64_t guest_off, struct job_piece *piece,
		   struct qcow2_error *err);

/*
 * First pass of a reader: what is in each block, without reading, as map tells it of one piece
 * after the other. A block that is partly of one kind and partly of another is DATA. *quiet as
 * above.
 */
int job_map_blocks(int (*map)(const void *of, uint64_t guest_off, struct job_piece *piece,
			      struct qcow2_error *err),
		   const void *of, uint64_t guest_off, uint64_t end, size_t block_size,
		   uint8_t *states, uint64_t *quiet, struct qcow2_error *err);

/* The end of the blocks that have the state of the first. */
size_t job_run_of_blocks(const uint8_t *states, size_t first, size_t nblocks);

#endif
