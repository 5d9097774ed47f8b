/* SPDX-License-Identifier: MIT */
/*
 * Stores for tests of the engine: flat bytes in memory that outlive the images opened on them, that
 * can be taken back to how they were, and whose operations are written to a tape that several of
 * them share: so that the order of what is done to an image and to its data file is known.
 *
 * A name can be given to a store: whoever opens that file through storage_file_open gets the store
 * (the programs are linked with --wrap=storage_file_open). So the data file and the backing file of
 * an image in memory are in memory too.
 */
#ifndef TESTS_ENGINE_STORE_H
#define TESTS_ENGINE_STORE_H

#include <pthread.h>
#include <stdatomic.h>

#include "storage/storage.h"

/* ---- the tape ---- */

struct tape_entry {
	enum storage_op op;
	unsigned file;	    /* flat.id */
	uint64_t host_off;  /* of TRUNCATE: the new size */
	uint64_t len_bytes; /* 0 for FLUSH and TRUNCATE */
	uint8_t *bytes;	    /* of a write */
	/*
	 * A flush stands here twice, when it began and when it was done: it vouches, from the
	 * second place on, for what stands before the first.
	 */
	bool done;
	size_t began; /* of the second: the index of the first */
};

struct tape {
	pthread_mutex_t lock; /* guards all below */
	struct tape_entry *entries;
	size_t count, room;
};

void tape_init(struct tape *t);
void tape_release(struct tape *t);
size_t tape_count(struct tape *t);

/* ---- stores ---- */

struct flat_undo {
	uint64_t off, len, old_size;
	uint8_t *old;
};

struct flat {
	pthread_rwlock_t lock; /* guards bytes, size, room */
	uint8_t *bytes;
	uint64_t size, room;
	uint64_t hash; /* of all sectors and the size, if hashed */
	bool hashed;
	bool garbage; /* a discard leaves rubbish behind */
	unsigned id;
	struct tape *tape; /* NULL: nothing is written down */
	_Atomic uint64_t count[STORAGE_OP_COUNT], len[STORAGE_OP_COUNT]; /* len: not of reads */

	/* between flat_mark and flat_undo; one thread only */
	bool marked;
	struct flat_undo *undo;
	size_t nundo, undo_room;
};

void flat_init(struct flat *f, unsigned id);
void flat_release(struct flat *f);
/* A handle that may be closed as often as one likes: the bytes stay. */
struct qcow2_storage flat_store(struct flat *f);
/* Replaces what is in it by a file's bytes, or by another's. */
int flat_load(struct flat *f, const char *path);
void flat_copy(struct flat *f, const struct flat *from);
int flat_save(const struct flat *f, const char *path);
/* From here on hash follows what is written. */
void flat_hash(struct flat *f);

/* Remembers how it is; flat_undo makes it so again. */
void flat_mark(struct flat *f);
void flat_undo(struct flat *f);

/* Does what an entry of a tape says, all of it or the sectors of it that keep names. */
void flat_apply(struct flat *f, const struct tape_entry *e, uint64_t from, uint64_t to);

/* ---- names ---- */

/* Whoever opens path gets f, which may have several names. */
void flat_name(const char *path, struct flat *f);
void flat_forget_names(const struct flat *f);

/* ---- faults ---- */

/*
 * Asked before every operation on any store here, across all opens of all files of an image: 0, or
 * a negative errno for it to fail with. *short_bytes of a write that fails are done all the same.
 */
extern int (*flat_fault)(enum storage_op op, uint64_t host_off, uint64_t len_bytes,
			 uint64_t *short_bytes);

#endif
