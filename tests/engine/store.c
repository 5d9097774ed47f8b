/* SPDX-License-Identifier: MIT */
/* See store.h. Memory comes from libc: what the library asks for is counted and refused alone. */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/num.h"
#include "engine/store.h"

#define SECTOR 512u
#define RUBBISH 0xdd

/* ---- the tape ---- */

void tape_init(struct tape *t)
{
	*t = (struct tape){0};
	pthread_mutex_init(&t->lock, NULL);
}

void tape_release(struct tape *t)
{
	for (size_t i = 0; i < t->count; i++)
		free(t->entries[i].bytes);
	free(t->entries);
	pthread_mutex_destroy(&t->lock);
	*t = (struct tape){0};
}

size_t tape_count(struct tape *t)
{
	size_t n;

	pthread_mutex_lock(&t->lock);
	n = t->count;
	pthread_mutex_unlock(&t->lock);
	return n;
}

/* Gives the index of the entry. */
static size_t tape_put(struct tape *t, struct tape_entry e)
{
	size_t at;

	pthread_mutex_lock(&t->lock);
	if (t->count == t->room) {
		t->room = t->room ? t->room * 2 : 256;
		t->entries = realloc(t->entries, t->room * sizeof(*t->entries));
		assert(t->entries);
	}
	at = t->count++;
	t->entries[at] = e;
	pthread_mutex_unlock(&t->lock);
	sched_yield(); /* so that threads do meet */
	return at;
}

/* ---- hashing ---- */

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

/* A sector of zeros counts nothing, so that length alone changes only what size says. */
static uint64_t sector_hash(const struct flat *f, uint64_t idx)
{
	uint64_t h = idx + 1, any = 0, word;
	const uint8_t *p = f->bytes + idx * SECTOR;

	for (unsigned i = 0; i < SECTOR; i += 8) {
		memcpy(&word, p + i, 8);
		any |= word;
		h = mix(h, word);
	}
	return any ? mix(h, idx) : 0;
}

static uint64_t range_hash(const struct flat *f, uint64_t off, uint64_t len)
{
	uint64_t h = 0;

	for (uint64_t s = off / SECTOR; len > 0 && s <= (off + len - 1) / SECTOR; s++)
		h ^= sector_hash(f, s);
	return h;
}

/* ---- changing bytes ---- */

/* Room in whole sectors; what isn't in use is zeros. */
static void reserve(struct flat *f, uint64_t end)
{
	uint64_t room = f->room ? f->room : 65536;

	while (room < end)
		room *= 2;
	if (room == f->room)
		return;
	f->bytes = realloc(f->bytes, room);
	assert(f->bytes);
	memset(f->bytes + f->room, 0, room - f->room);
	f->room = room;
}

/* Around every change of [off, off + len), which may also change the size. */
static void before(struct flat *f, uint64_t off, uint64_t len)
{
	struct flat_undo *u;

	reserve(f, off + len);
	if (f->hashed)
		f->hash ^= range_hash(f, off, len) ^ mix(77, f->size);
	if (!f->marked)
		return;
	if (f->nundo == f->undo_room) {
		f->undo_room = f->undo_room ? f->undo_room * 2 : 16;
		f->undo = realloc(f->undo, f->undo_room * sizeof(*f->undo));
		assert(f->undo);
	}
	u = &f->undo[f->nundo++];
	*u = (struct flat_undo){off, len, f->size, malloc(len + 1)};
	assert(u->old);
	memcpy(u->old, f->bytes + off, len);
}

static void after(struct flat *f, uint64_t off, uint64_t len)
{
	if (f->hashed)
		f->hash ^= range_hash(f, off, len) ^ mix(77, f->size);
}

static void put_bytes(struct flat *f, uint64_t off, const uint8_t *bytes, uint64_t len)
{
	before(f, off, len);
	memcpy(f->bytes + off, bytes, len);
	f->size = max_u64(f->size, off + len);
	after(f, off, len);
}

static void put_zeros(struct flat *f, uint64_t off, uint64_t len)
{
	before(f, off, len);
	memset(f->bytes + off, 0, len);
	f->size = max_u64(f->size, off + len);
	after(f, off, len);
}

static void put_rubbish(struct flat *f, uint64_t off, uint64_t len)
{
	if (off >= f->size)
		return;
	len = min_u64(len, f->size - off);
	before(f, off, len);
	memset(f->bytes + off, f->garbage ? RUBBISH : 0, len);
	after(f, off, len);
}

static void cut(struct flat *f, uint64_t size)
{
	uint64_t from = min_u64(size, f->size);
	uint64_t len = max_u64(size, f->size) - from;

	before(f, from, len);
	if (size < f->size)
		memset(f->bytes + size, 0, f->size - size);
	f->size = size;
	after(f, from, len);
}

void flat_mark(struct flat *f)
{
	assert(!f->marked);
	f->marked = true;
	f->nundo = 0;
}

void flat_undo(struct flat *f)
{
	assert(f->marked);
	f->marked = false;
	while (f->nundo > 0) {
		struct flat_undo *u = &f->undo[--f->nundo];

		before(f, u->off, u->len);
		memcpy(f->bytes + u->off, u->old, u->len);
		f->size = u->old_size;
		after(f, u->off, u->len);
		free(u->old);
	}
}

void flat_apply(struct flat *f, const struct tape_entry *e, uint64_t from, uint64_t to)
{
	uint64_t len = to - from;

	if (e->op == STORAGE_OP_TRUNCATE)
		cut(f, e->host_off);
	else if (len == 0)
		return;
	else if (e->op == STORAGE_OP_WRITE)
		put_bytes(f, e->host_off + from, e->bytes + from, len);
	else if (e->op == STORAGE_OP_ZERO)
		put_zeros(f, e->host_off + from, len);
	else if (e->op == STORAGE_OP_DISCARD)
		put_rubbish(f, e->host_off + from, len);
}

/* ---- the store ---- */

int (*flat_fault)(enum storage_op op, uint64_t host_off, uint64_t len_bytes, uint64_t *short_bytes);

/* Counts the operation; what it is to fail with. */
static int strike(struct flat *f, enum storage_op op, uint64_t off, uint64_t len,
		  uint64_t *short_bytes)
{
	atomic_fetch_add(&f->count[op], 1);
	atomic_fetch_add(&f->len[op], len);
	*short_bytes = 0;
	return flat_fault ? flat_fault(op, off, len, short_bytes) : 0;
}

static void flat_close(void *self)
{
	(void)self;
}

static int flat_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	struct flat *f = self;

	(void)err;
	pthread_rwlock_rdlock(&f->lock);
	*size_bytes = f->size;
	pthread_rwlock_unlock(&f->lock);
	return 0;
}

static int flat_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
		       struct qcow2_error *err)
{
	struct flat *f = self;
	uint64_t unused;
	int ret = strike(f, STORAGE_OP_READ, host_off, 0, &unused);

	(void)err;
	if (ret < 0)
		return ret;
	pthread_rwlock_rdlock(&f->lock);
	for (int i = 0; i < iovcnt; i++) {
		size_t len = iov[i].iov_len;
		size_t have = host_off < f->size ? (size_t)min_u64(len, f->size - host_off) : 0;

		if (have > 0)
			memcpy(iov[i].iov_base, f->bytes + host_off, have);
		if (len > have)
			memset((uint8_t *)iov[i].iov_base + have, 0, len - have);
		host_off += len;
	}
	pthread_rwlock_unlock(&f->lock);
	return 0;
}

static int flat_pwritev(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
			struct qcow2_error *err)
{
	struct tape_entry e = {.op = STORAGE_OP_WRITE, .host_off = host_off};
	struct flat *f = self;
	struct iov_cursor c;
	uint64_t part;
	int ret;

	(void)err;
	if (!iov_total(iov, iovcnt, &e.len_bytes))
		return -EINVAL;
	ret = strike(f, STORAGE_OP_WRITE, host_off, e.len_bytes, &part);
	if (ret < 0 && part == 0)
		return ret;
	e.bytes = malloc(e.len_bytes + 1);
	assert(e.bytes);
	iov_cursor_init(&c, iov, iovcnt);
	iov_get(&c, e.bytes, (size_t)e.len_bytes);
	if (ret < 0)
		e.len_bytes = part;
	e.file = f->id;
	pthread_rwlock_wrlock(&f->lock);
	put_bytes(f, host_off, e.bytes, e.len_bytes);
	pthread_rwlock_unlock(&f->lock);
	if (f->tape)
		tape_put(f->tape, e);
	else
		free(e.bytes);
	return ret;
}

static int change(struct flat *f, enum storage_op op, uint64_t host_off, uint64_t len)
{
	struct tape_entry e = {.op = op, .file = f->id, .host_off = host_off, .len_bytes = len};
	uint64_t unused;
	int ret = strike(f, op, host_off, len, &unused);

	if (ret < 0)
		return ret;
	pthread_rwlock_wrlock(&f->lock);
	flat_apply(f, &e, 0, len);
	pthread_rwlock_unlock(&f->lock);
	if (f->tape)
		tape_put(f->tape, e);
	return 0;
}

static int flat_zero(void *self, uint64_t host_off, uint64_t len_bytes, unsigned flags,
		     struct qcow2_error *err)
{
	(void)err;
	(void)flags;
	return change(self, STORAGE_OP_ZERO, host_off, len_bytes);
}

static int flat_discard(void *self, uint64_t host_off, uint64_t len_bytes, struct qcow2_error *err)
{
	(void)err;
	return change(self, STORAGE_OP_DISCARD, host_off, len_bytes);
}

static int flat_flush(void *self, struct qcow2_error *err)
{
	struct flat *f = self;
	struct tape_entry e = {.op = STORAGE_OP_FLUSH, .file = f->id};
	uint64_t unused;
	int ret = strike(f, STORAGE_OP_FLUSH, 0, 0, &unused);

	(void)err;
	if (ret < 0)
		return ret;
	if (f->tape) {
		/* others may go on in between */
		e.began = tape_put(f->tape, e);
		e.done = true;
		tape_put(f->tape, e);
	}
	return 0;
}

static int flat_truncate(void *self, uint64_t size_bytes, struct qcow2_error *err)
{
	(void)err;
	return change(self, STORAGE_OP_TRUNCATE, size_bytes, 0);
}

static const struct qcow2_storage_ops flat_ops = {
	.kind = "flat",
	.close = flat_close,
	.size = flat_size,
	.preadv = flat_preadv,
	.pwritev = flat_pwritev,
	.zero = flat_zero,
	.discard = flat_discard,
	.flush = flat_flush,
	.truncate = flat_truncate,
};

struct qcow2_storage flat_store(struct flat *f)
{
	return (struct qcow2_storage){.ops = &flat_ops, .self = f};
}

void flat_init(struct flat *f, unsigned id)
{
	*f = (struct flat){.id = id};
	pthread_rwlock_init(&f->lock, NULL);
}

void flat_release(struct flat *f)
{
	pthread_rwlock_destroy(&f->lock);
	free(f->bytes);
	free(f->undo);
	*f = (struct flat){0};
}

int flat_load(struct flat *f, const char *path)
{
	FILE *file = fopen(path, "rb");
	long size;

	if (!file)
		return -errno;
	fseek(file, 0, SEEK_END);
	size = ftell(file);
	rewind(file);
	cut(f, 0);
	cut(f, (uint64_t)size);
	if (size > 0 && fread(f->bytes, 1, (size_t)size, file) != (size_t)size)
		size = -1;
	fclose(file);
	return size < 0 ? -EIO : 0;
}

void flat_copy(struct flat *f, const struct flat *from)
{
	cut(f, 0);
	if (from->size > 0)
		put_bytes(f, 0, from->bytes, from->size);
	cut(f, from->size);
}

/* Over what is there: qemu-img asks for the same name again. */
int flat_save(const struct flat *f, const char *path)
{
	FILE *file = fopen(path, "wb");
	bool good;

	if (!file)
		return -errno;
	good = f->size == 0 || fwrite(f->bytes, 1, f->size, file) == f->size;
	return fclose(file) == 0 && good ? 0 : -EIO;
}

void flat_hash(struct flat *f)
{
	reserve(f, f->size);
	f->hashed = true;
	f->hash = range_hash(f, 0, f->size) ^ mix(77, f->size);
}

/* ---- names ---- */

#define NAMES 10

static struct {
	char *path;
	struct flat *flat;
} names[NAMES];

static unsigned find_name(const char *path)
{
	unsigned i = 0;

	while (i < NAMES && (!names[i].path || strcmp(names[i].path, path) != 0))
		i++;
	return i;
}

static void forget_name(unsigned i)
{
	free(names[i].path);
	names[i].path = NULL;
	names[i].flat = NULL;
}

void flat_forget_names(const struct flat *f)
{
	for (unsigned i = 0; i < NAMES; i++)
		if (names[i].flat == f)
			forget_name(i);
}

void flat_name(const char *path, struct flat *f)
{
	unsigned i = find_name(path);

	if (i < NAMES)
		forget_name(i);
	for (i = 0; names[i].path; i++)
		assert(i + 1 < NAMES);
	names[i].path = strdup(path);
	names[i].flat = f;
}

int __real_storage_file_open(struct qcow2_storage *st, const char *path, unsigned flags,
			     struct qcow2_error *err);
int __wrap_storage_file_open(struct qcow2_storage *st, const char *path, unsigned flags,
			     struct qcow2_error *err);

int __wrap_storage_file_open(struct qcow2_storage *st, const char *path, unsigned flags,
			     struct qcow2_error *err)
{
	unsigned i = find_name(path);

	if (i == NAMES)
		return __real_storage_file_open(st, path, flags, err);
	*st = flat_store(names[i].flat);
	return 0;
}

int __real_storage_file_stat(struct qcow2_storage st, struct storage_file_stat *out,
			     struct qcow2_error *err);
int __wrap_storage_file_stat(struct qcow2_storage st, struct storage_file_stat *out,
			     struct qcow2_error *err);

int __wrap_storage_file_stat(struct qcow2_storage st, struct storage_file_stat *out,
			     struct qcow2_error *err)
{
	const struct flat *f = st.self;

	if (st.ops != &flat_ops)
		return __real_storage_file_stat(st, out, err);
	*out = (struct storage_file_stat){.dev = 1, .ino = f->id, .size_bytes = f->size};
	out->disk_bytes = f->size;
	return 0;
}
