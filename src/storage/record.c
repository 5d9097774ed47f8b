/* SPDX-License-Identifier: MIT */
/*
 * A layer that logs what is done to the store below, for tests that count I/O and for those that
 * replay it up to a crash.
 *
 * The log holds what succeeded, in an order that promises no more than the store did: a write
 * stands where it was done, a flush where it began. So whatever stands before a flush was
 * complete when the flush was asked for, also with many threads. Fallbacks of the store below
 * aren't seen: a zero operation is one entry, whatever it became.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/iov.h"
#include "base/num.h"
#include "storage/storage.h"

struct record {
	struct qcow2_storage lower; /* immutable */
	bool keep_bytes;	    /* immutable */

	/* guarded by lock, which isn't held while lower works */
	pthread_mutex_t lock;
	struct storage_record_entry *entries;
	size_t nentries, nreserved; /* nreserved: those, and one for each operation under way */
	size_t room;
	uint64_t count[STORAGE_OP_COUNT], bytes[STORAGE_OP_COUNT];
	uint64_t epoch; /* counts resets */
};

/* An operation under way. */
struct pending {
	struct storage_record_entry entry;
	uint8_t *bytes; /* becomes the entry's */
	size_t at;	/* the number of entries when it began */
	uint64_t epoch;
};

static const struct qcow2_storage_ops record_ops;

static struct record *record_of(struct qcow2_storage st)
{
	assert(st.ops == &record_ops);
	return st.self;
}

/* Makes sure of a place in the log before anything is done. */
static int begin(struct record *r, struct pending *p, struct qcow2_error *err)
{
	int code = 0;

	pthread_mutex_lock(&r->lock);
	if (r->nreserved == r->room) {
		size_t room = r->room ? r->room * 2 : 64;
		void *bigger = mem_realloc(r->entries, room, sizeof(*r->entries));

		if (bigger) {
			r->entries = bigger;
			r->room = room;
		} else {
			code = -ENOMEM;
		}
	}
	if (code == 0)
		r->nreserved++;
	p->at = r->nentries;
	p->epoch = r->epoch;
	pthread_mutex_unlock(&r->lock);
	if (code == 0)
		return 0;
	mem_free(p->bytes);
	return error_errno(err, code, "can't log an operation");
}

/* Logs the operation if it succeeded; code is handed on. */
static int end(struct record *r, struct pending *p, int code)
{
	enum storage_op op = p->entry.op;
	size_t at;

	pthread_mutex_lock(&r->lock);
	/* what began before a reset is part of what was forgotten */
	if (code == 0 && p->epoch == r->epoch) {
		at = op == STORAGE_OP_FLUSH ? p->at : r->nentries;
		memmove(r->entries + at + 1, r->entries + at,
			(r->nentries - at) * sizeof(*r->entries));
		p->entry.bytes = mem_steal(&p->bytes);
		r->entries[at] = p->entry;
		r->nentries++;
		r->count[op]++;
		r->bytes[op] += p->entry.len_bytes;
	} else {
		r->nreserved--;
	}
	pthread_mutex_unlock(&r->lock);
	mem_free(p->bytes);
	return code;
}

static int begin_op(struct record *r, struct pending *p, enum storage_op op, uint64_t host_off,
		    uint64_t len_bytes, struct qcow2_error *err)
{
	*p = (struct pending){.entry = {.op = op, .host_off = host_off, .len_bytes = len_bytes}};
	return begin(r, p, err);
}

static void forget(struct record *r)
{
	for (size_t i = 0; i < r->nentries; i++) {
		uint8_t *bytes = (uint8_t *)(uintptr_t)r->entries[i].bytes;

		mem_free(bytes);
	}
	r->nreserved -= r->nentries;
	r->nentries = 0;
	r->epoch++;
	memset(r->count, 0, sizeof(r->count));
	memset(r->bytes, 0, sizeof(r->bytes));
}

static void record_close(void *self)
{
	struct record *r = self;

	forget(r);
	storage_close(&r->lower);
	pthread_mutex_destroy(&r->lock);
	mem_free(r->entries);
	mem_free(r);
}

static int record_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	const struct record *r = self;

	return storage_size(r->lower, size_bytes, err);
}

static int record_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
			 struct qcow2_error *err)
{
	struct record *r = self;
	struct pending p;
	uint64_t total;
	int code;

	if (!iov_total(iov, iovcnt, &total))
		return error_set(err, -EINVAL, "can't log a read: bad vector");
	code = begin_op(r, &p, STORAGE_OP_READ, host_off, total, err);
	if (code != 0)
		return code;
	return end(r, &p, storage_readv(r->lower, iov, iovcnt, host_off, err));
}

static int record_pwritev(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
			  struct qcow2_error *err)
{
	struct record *r = self;
	struct iov_cursor c;
	struct pending p;
	uint64_t total;
	int code;

	if (!iov_total(iov, iovcnt, &total))
		return error_set(err, -EINVAL, "can't log a write: bad vector");
	p = (struct pending){
		.entry = {.op = STORAGE_OP_WRITE, .host_off = host_off, .len_bytes = total}};
	if (r->keep_bytes) {
		p.bytes = mem_alloc(total, 1);
		if (!p.bytes)
			return error_errno(err, -ENOMEM, "can't log a write");
		iov_cursor_init(&c, iov, iovcnt);
		iov_get(&c, p.bytes, (size_t)total);
	}
	code = begin(r, &p, err);
	if (code != 0)
		return code;
	return end(r, &p, storage_writev(r->lower, iov, iovcnt, host_off, err));
}

static int record_zero(void *self, uint64_t host_off, uint64_t len_bytes, unsigned flags,
		       struct qcow2_error *err)
{
	struct record *r = self;
	struct pending p;
	int code = begin_op(r, &p, STORAGE_OP_ZERO, host_off, len_bytes, err);

	if (code != 0)
		return code;
	return end(r, &p, storage_zero(r->lower, host_off, len_bytes, flags, err));
}

static int record_discard(void *self, uint64_t host_off, uint64_t len_bytes,
			  struct qcow2_error *err)
{
	struct record *r = self;
	struct pending p;
	int code = begin_op(r, &p, STORAGE_OP_DISCARD, host_off, len_bytes, err);

	if (code != 0)
		return code;
	return end(r, &p, storage_discard(r->lower, host_off, len_bytes, err));
}

static int record_flush(void *self, struct qcow2_error *err)
{
	struct record *r = self;
	struct pending p;
	int code = begin_op(r, &p, STORAGE_OP_FLUSH, 0, 0, err);

	if (code != 0)
		return code;
	return end(r, &p, storage_flush(r->lower, err));
}

static int record_truncate(void *self, uint64_t size_bytes, struct qcow2_error *err)
{
	struct record *r = self;
	struct pending p;
	int code = begin_op(r, &p, STORAGE_OP_TRUNCATE, size_bytes, 0, err);

	if (code != 0)
		return code;
	return end(r, &p, storage_truncate(r->lower, size_bytes, err));
}

static int record_allocate(void *self, uint64_t host_off, uint64_t len_bytes,
			   struct qcow2_error *err)
{
	struct record *r = self;
	struct pending p;
	int code = begin_op(r, &p, STORAGE_OP_ALLOCATE, host_off, len_bytes, err);

	if (code != 0)
		return code;
	return end(r, &p, storage_allocate(r->lower, host_off, len_bytes, err));
}

static int record_extent(void *self, uint64_t host_off, uint64_t len_bytes,
			 struct qcow2_storage_extent *out, struct qcow2_error *err)
{
	struct record *r = self;
	struct pending p;
	int code = begin_op(r, &p, STORAGE_OP_EXTENT, host_off, len_bytes, err);

	if (code != 0)
		return code;
	return end(r, &p, storage_extent(r->lower, host_off, len_bytes, out, err));
}

static int record_lock(void *self, unsigned use, unsigned forbid, struct qcow2_error *err)
{
	const struct record *r = self;

	return storage_lock(r->lower, use, forbid, err);
}

static void record_event(void *self, unsigned event)
{
	const struct record *r = self;

	storage_event(r->lower, event);
}

static const struct qcow2_storage_ops record_ops = {
	.kind = "record",
	.close = record_close,
	.size = record_size,
	.preadv = record_preadv,
	.pwritev = record_pwritev,
	.zero = record_zero,
	.discard = record_discard,
	.flush = record_flush,
	.truncate = record_truncate,
	.allocate = record_allocate,
	.extent = record_extent,
	.lock = record_lock,
	.event = record_event,
};

int storage_record_new(struct qcow2_storage *st, struct qcow2_storage lower, bool keep_bytes,
		       struct qcow2_error *err)
{
	struct record *r = mem_zalloc(1, sizeof(*r));

	*st = (struct qcow2_storage){0};
	if (!r) {
		storage_close(&lower);
		return error_errno(err, -ENOMEM, "can't make a record store");
	}
	r->lower = lower;
	r->keep_bytes = keep_bytes;
	pthread_mutex_init(&r->lock, NULL);
	*st = (struct qcow2_storage){.ops = &record_ops, .self = r};
	return 0;
}

uint64_t storage_record_count(struct qcow2_storage st, enum storage_op op)
{
	struct record *r = record_of(st);
	uint64_t count;

	pthread_mutex_lock(&r->lock);
	count = r->count[op];
	pthread_mutex_unlock(&r->lock);
	return count;
}

uint64_t storage_record_bytes(struct qcow2_storage st, enum storage_op op)
{
	struct record *r = record_of(st);
	uint64_t bytes;

	pthread_mutex_lock(&r->lock);
	bytes = r->bytes[op];
	pthread_mutex_unlock(&r->lock);
	return bytes;
}

size_t storage_record_entries(struct qcow2_storage st)
{
	struct record *r = record_of(st);
	size_t n;

	pthread_mutex_lock(&r->lock);
	n = r->nentries;
	pthread_mutex_unlock(&r->lock);
	return n;
}

struct storage_record_entry storage_record_entry(struct qcow2_storage st, size_t idx)
{
	struct record *r = record_of(st);
	struct storage_record_entry entry;

	pthread_mutex_lock(&r->lock);
	assert(idx < r->nentries);
	entry = r->entries[idx];
	pthread_mutex_unlock(&r->lock);
	return entry;
}

void storage_record_reset(struct qcow2_storage st)
{
	struct record *r = record_of(st);

	pthread_mutex_lock(&r->lock);
	forget(r);
	pthread_mutex_unlock(&r->lock);
}
