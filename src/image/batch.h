/* SPDX-License-Identifier: MIT */
/*
 * Writes that mostly follow each other, joined into large ones. The caller asks for the bytes at a
 * place, fills them in, and goes on; what follows directly shares a write.
 */
#ifndef IMAGE_BATCH_H
#define IMAGE_BATCH_H

#include "base/progress.h"
#include "storage/storage.h"

struct image_batch {
	struct qcow2_storage st; /* borrowed */
	uint8_t *buf;
	size_t cap;
	size_t used;
	uint64_t host_off;		/* of buf[0] */
	struct storage_trail trail;	/* of what was written */
	struct progress_work *progress; /* the caller's: told of what was written; may be NULL */
};

/* max_piece: the most that image_batch_place is asked for at once. */
int image_batch_init(struct image_batch *b, struct qcow2_storage st, size_t max_piece,
		     struct qcow2_error *err);
/* Frees it; what wasn't flushed is lost. */
void image_batch_release(struct image_batch *b);

/*
 * *piece: len bytes, not cleared, that will be written at host_off. Valid until the next call;
 * all of it must be filled by then.
 */
int image_batch_place(struct image_batch *b, uint64_t host_off, size_t len, uint8_t **piece,
		      struct qcow2_error *err);
/* -ECANCELED, when all is written, if progress wants it to stop. */
int image_batch_flush(struct image_batch *b, struct qcow2_error *err);

#endif
