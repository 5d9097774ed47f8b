/* SPDX-License-Identifier: MIT */
/*
 * Joins writes that follow each other. Keeps no order between batches and never waits for the
 * disk: that is for the caller. A failed write leaves the batch as it was, so that a flush can be
 * tried again.
 */
#include "image/batch.h"

#include <assert.h>
#include <errno.h>

#include "base/alloc.h"

#define BATCH_BYTES (1u << 20)
#define BATCH_ALIGN 4096

int image_batch_init(struct image_batch *b, struct qcow2_storage st, size_t max_piece,
		     struct qcow2_error *err)
{
	*b = (struct image_batch){
		.st = st,
		.cap = max_piece > BATCH_BYTES ? max_piece : BATCH_BYTES,
	};
	b->buf = mem_aligned(BATCH_ALIGN, b->cap);
	if (!b->buf)
		return error_set(err, -ENOMEM, "no memory for a write buffer of %zu bytes", b->cap);
	return 0;
}

void image_batch_release(struct image_batch *b)
{
	mem_free(b->buf);
	b->buf = NULL;
}

int image_batch_flush(struct image_batch *b, struct qcow2_error *err)
{
	size_t used;
	int rc;

	if (b->used == 0)
		return 0;
	rc = storage_write(b->st, b->buf, b->used, b->host_off, err);
	if (rc < 0)
		return rc;
	used = b->used;
	b->used = 0;
	storage_trail_add(&b->trail, b->st, b->host_off, used);
	return progress_step(b->progress, used, err);
}

int image_batch_place(struct image_batch *b, uint64_t host_off, size_t len, uint8_t **piece,
		      struct qcow2_error *err)
{
	int rc;

	assert(len <= b->cap);
	if (b->used != 0 && (host_off != b->host_off + b->used || len > b->cap - b->used)) {
		rc = image_batch_flush(b, err);
		if (rc < 0)
			return rc;
	}
	if (b->used == 0)
		b->host_off = host_off;
	*piece = b->buf + b->used;
	b->used += len;
	return 0;
}
