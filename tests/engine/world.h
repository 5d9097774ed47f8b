/* SPDX-License-Identifier: MIT */
/*
 * One image under test with all that belongs to it: made in a folder of its own, then kept in
 * memory (store.h), with a flat reference of what its disk has to read as; and the judges that look
 * at it afterwards: the reader, the audit of audit.h, the library's own check, the real qemu-img.
 *
 * Faults are told on standard output as "# ..." and as a result of -1; nothing here ends the
 * program.
 */
#ifndef TESTS_ENGINE_WORLD_H
#define TESTS_ENGINE_WORLD_H

#include "engine/audit.h"
#include "engine/store.h"
#include "qcow2.h"

enum world_data { DATA_INSIDE, DATA_FILE, DATA_FILE_RAW };
enum world_backing { BACKING_NONE, BACKING_RAW, BACKING_QCOW2 };

struct world_config {
	const char *name;
	bool raw; /* a raw image: the rest but size says nothing */
	unsigned version, cluster_bits, refcount_bits;
	bool extended, lazy, zstd;
	enum world_data data;
	enum world_backing backing;
	uint64_t backing_size;
	uint64_t size;
	unsigned prealloc;    /* QCOW2_PREALLOC_* */
	bool filled;	      /* something was written before, and finished */
	bool snapshots;	      /* and a snapshot of that was taken */
	uint64_t max_size;    /* that the disk may grow to; 0: 2 * size */
	unsigned bitmap_bits; /* a dirty bitmap of that granularity records; 0: there is none */
};

/* How it is opened for writing. */
struct world_how {
	unsigned flags, discard, pass_discard, lazy, overlap_check;
	size_t l2_cache_bytes, refcount_cache_bytes;
};

struct world {
	struct world_config c;
	char dir[96], image_path[112], data_path[112], base_path[112], ref_path[112];
	struct flat file, data, base;
	/*
	 * The reference: max_size bytes of the disk, zeros past size; then state_size bytes of VM
	 * state; total together. state_size is 0 where there can be none.
	 */
	uint8_t *bytes;
	uint64_t size, max_size, state_size, total;
	uint8_t *snapshot_bytes; /* what the snapshot reads as; NULL: there is none */
	uint64_t snapshot_size;
	/*
	 * Of the bitmap: the disk when it was added, and what a request may have recorded since
	 * (a byte a granule, of max_size). NULL: there is none.
	 */
	uint8_t *recorded_from, *touched;
	bool base_changes; /* a commit writes to it; it is judged like the image */
	/*
	 * A snapshot operation may have been cut off in version 2, where no dirty bit excuses the
	 * COPIED flags that it leaves unset.
	 */
	bool flags_may_miss;
};

/* ---- numbers ---- */

uint64_t rnd(uint64_t *state);
/* 0 to n - 1; n isn't 0 */
uint64_t rnd_below(uint64_t *state, uint64_t n);

enum fill { FILL_NOISE, FILL_TEXT, FILL_ZERO, FILLS };

/* Bytes of the disk from guest_off on: no two tags, and no two places of one, look the same. */
void fill_bytes(uint8_t *buf, uint64_t guest_off, uint64_t len, uint64_t tag, enum fill how);

/* "# ..." on standard output; gives -1. */
int complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- the life of a world ---- */

/* 0, or -1 with a complaint; release it in any case. */
int world_make(struct world *w, const struct world_config *c, uint64_t seed);
void world_release(struct world *w);

uint64_t world_cluster(const struct world *w);
/* Bytes of the disk that one entry of the L1 table maps. */
uint64_t world_span(const struct world *w);

/* Opens the image in memory. rw NULL: for reading only. The sentence of a failure is in err. */
int world_open(struct world *w, struct qcow2_image **image, const struct world_how *rw,
	       const char *snapshot, struct qcow2_error *err);

/*
 * Reads or writes bytes [off, off + len) of those that are kept of the VM state. They lie in two
 * pieces, far from each other.
 */
int world_state_read(const struct world *w, struct qcow2_image *image, uint8_t *buf, uint64_t off,
		     uint64_t len, struct qcow2_error *err);
int world_state_write(const struct world *w, struct qcow2_image *image, const uint8_t *buf,
		      uint64_t off, uint64_t len, struct qcow2_error *err);

#define WORLD_BITMAP "changes"

/* A request may record this range in the bitmap. Any thread. */
void world_touch(struct world *w, uint64_t off, uint64_t len);

/* ---- judges ---- */

/*
 * The bitmap, unless it is marked as in use, has all that differs between the disk and that when it
 * was added, and nothing that no request touched; exact: all that one touched.
 */
int world_check_bitmap(struct world *w, struct qcow2_image *image, const uint8_t *disk, bool exact,
		       const char *when);

/* Do disk and VM state of the open image read as the reference? In pieces of odd sizes. */
int world_compare(struct world *w, struct qcow2_image *image, const char *when);
/* Audits the structure, by two hands: -1 for corruptions, and if they don't agree. */
int world_audit(struct world *w, const char *when, struct audit *a);
/* Everything, of an image that was finished and closed: no leaks either. */
int world_judge(struct world *w, const char *when);
/* Writes the image to the files that other programs open. */
int world_save(struct world *w);
/* Runs a program; its output goes to dir/out. Gives its exit code. */
int world_run(const struct world *w, const char *const *argv);

/* Complains, and repeats what the program said; -1. */
int world_complain_of_output(const struct world *w, const char *when, const char *what, int code);

#define QEMU_IMG(w, ...) world_run(w, (const char *const[]){"qemu-img", __VA_ARGS__, NULL})

#endif
