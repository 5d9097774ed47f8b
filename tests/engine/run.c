/* SPDX-License-Identifier: MIT */
/* See run.h. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "engine/run.h"

/* ---- the history ---- */

void history_init(struct history *h, struct tape *tape, size_t most)
{
	*h = (struct history){.tape = tape, .most = most};
	pthread_mutex_init(&h->lock, NULL);
	h->events = calloc(most, sizeof(*h->events));
	assert(h->events);
}

void history_release(struct history *h)
{
	for (size_t i = 0; i < h->count; i++)
		free(h->events[i].bytes);
	for (size_t i = 0; i < h->nshots; i++) {
		free(h->shots[i].bytes);
		free(h->shots[i].loose);
	}
	free(h->shots);
	free(h->events);
	pthread_mutex_destroy(&h->lock);
	*h = (struct history){0};
}

static struct event *begin(struct run *r, enum event_kind kind, uint64_t off, uint64_t len)
{
	struct history *h = r->history;
	struct event *e;

	if (!h || h->only_shots)
		return NULL;
	pthread_mutex_lock(&h->lock);
	assert(h->count < h->most);
	e = &h->events[h->count++];
	*e = (struct event){.kind = kind, .guest_off = off, .len = len, .end = SIZE_MAX};
	e->began = ++h->clock;
	e->ended = UINT64_MAX;
	e->start = h->tape ? tape_count(h->tape) : 0;
	pthread_mutex_unlock(&h->lock);
	return e;
}

static void end(struct run *r, struct event *e, int ret)
{
	if (!e)
		return;
	pthread_mutex_lock(&r->history->lock);
	e->end = r->history->tape ? tape_count(r->history->tape) : 0;
	e->ended = ++r->history->clock;
	e->failed = ret < 0;
	pthread_mutex_unlock(&r->history->lock);
}

static void keep_bytes(struct event *e, const uint8_t *bytes)
{
	if (!e)
		return;
	e->bytes = malloc(e->len + 1);
	assert(e->bytes);
	memcpy(e->bytes, bytes, e->len);
}

/* A flush of everything, done by the request that e is of. */
static void also_flush(struct run *r, struct event *e, int ret)
{
	struct event *flush;
	size_t start;

	if (!e || ret < 0)
		return;
	start = e->end;
	flush = begin(r, EVENT_FLUSH, 0, 0);
	flush->start = start;
	end(r, flush, 0);
}

/* ---- results ---- */

/* A failure has a negative errno, in the record too, and a sentence. */
static int outcome(struct run *r, int ret)
{
	static _Atomic int traced = -1;

	if (traced < 0)
		traced = getenv("QCOW2_TEST_TRACE") != NULL;
	if (traced)
		printf("# %s: %d\n", r->last, ret);
	if (ret == 0)
		return 0;
	r->failures++;
	if (ret > 0 || r->err.code != ret || r->err.message[0] == '\0')
		return complain("%s: returned %d with the code %d and the sentence \"%s\"", r->last,
				ret, r->err.code, r->err.message);
	return r->loose ? 0 : complain("%s: %s", r->last, r->err.message);
}

static void loosen(struct run *r, uint64_t off, uint64_t len, bool loose)
{
	if (r->loose)
		memset(r->loose + off, loose, len);
}

static void settle(struct run *r, uint64_t off, const uint8_t *bytes, uint64_t len, int ret)
{
	if (ret < 0) {
		loosen(r, off, len, true);
		return;
	}
	loosen(r, off, len, false);
	if (bytes)
		memcpy(r->w->bytes + off, bytes, len);
	else
		memset(r->w->bytes + off, 0, len);
}

/* ---- requests ---- */

static bool skip(struct run *r)
{
	r->err = (struct qcow2_error){0};
	return !r->image || (r->most > 0 && r->nrequests++ >= r->most);
}

/* Where faults are expected one more try is made: they may be gone. */
int run_open(struct run *r)
{
	int ret;

	r->opens++;
	snprintf(r->last, sizeof(r->last),
		 "open: flags 0x%x, discard %u, pass %u, lazy %u, caches of %zu and %zu",
		 r->how.flags, r->how.discard, r->how.pass_discard, r->how.lazy,
		 r->how.l2_cache_bytes, r->how.refcount_cache_bytes);
	r->err.code = 0;
	ret = world_open(r->w, &r->image, &r->how, NULL, &r->err);
	if (ret < 0 && r->loose && outcome(r, ret) == 0 && r->opens++)
		ret = world_open(r->w, &r->image, &r->how, NULL, &r->err);
	return outcome(r, ret);
}

int run_write(struct run *r, uint64_t off, uint64_t len, enum fill how, unsigned flags)
{
	uint8_t *buf;
	struct event *e;
	int ret;

	if (skip(r))
		return 0;
	buf = malloc(len + 1);
	snprintf(r->last, sizeof(r->last), "write 0x%" PRIx64 " at 0x%" PRIx64 ", flags %u", len,
		 off, flags);
	fill_bytes(buf, off, len, ++r->tag, how);
	e = begin(r, EVENT_CHANGE, off, len);
	keep_bytes(e, buf);
	ret = qcow2_pwrite(r->image, buf, len, off, flags, &r->err);
	end(r, e, ret);
	if (flags & QCOW2_WRITE_FUA)
		also_flush(r, e, ret);
	settle(r, off, buf, len, ret);
	free(buf);
	return outcome(r, ret);
}

/* NO_FALLBACK may end in the middle: what is zeros by then stays so. */
static int adopt_zeros(struct run *r, uint64_t off, uint64_t len)
{
	uint8_t *buf = malloc(len + 1);
	int ret = qcow2_pread(r->image, buf, len, off, &r->err);

	for (uint64_t i = 0; ret == 0 && i < len; i++) {
		if (buf[i] != 0 && buf[i] != r->w->bytes[off + i])
			ret = complain("%s: 0x%02x at 0x%" PRIx64
				       " is neither 0 nor what was there",
				       r->last, buf[i], off + i);
	}
	if (ret == 0)
		memcpy(r->w->bytes + off, buf, len);
	free(buf);
	return ret;
}

int run_zero(struct run *r, uint64_t off, uint64_t len, unsigned flags)
{
	struct event *e;
	int ret;

	if (skip(r))
		return 0;
	e = begin(r, EVENT_CHANGE, off, len);
	snprintf(r->last, sizeof(r->last), "zero 0x%" PRIx64 " at 0x%" PRIx64 ", flags %u", len,
		 off, flags);
	ret = qcow2_write_zeroes(r->image, off, len, flags, &r->err);
	end(r, e, ret);
	if (ret == -ENOTSUP && flags & QCOW2_WRITE_NO_FALLBACK) {
		loosen(r, off, len, true);
		return r->loose ? 0 : adopt_zeros(r, off, len);
	}
	if (flags & QCOW2_WRITE_FUA)
		also_flush(r, e, ret);
	settle(r, off, NULL, len, ret);
	return outcome(r, ret);
}

void run_discard_range(const struct run *r, uint64_t *off, uint64_t *len)
{
	const struct world *w = r->w;
	uint64_t cs = world_cluster(w), from = align_up(*off, cs), to = *off + *len;

	if (to < w->size)
		to = align_down(to, cs);
	if (from >= to || r->how.discard == QCOW2_DISCARD_IGNORE ||
	    (!w->c.raw && w->c.version == 2 && w->c.backing != BACKING_NONE))
		to = from;
	*off = from;
	*len = to - from;
}

int run_discard(struct run *r, uint64_t off, uint64_t len)
{
	uint64_t at = off, n = len;
	struct event *e;
	int ret;

	if (skip(r))
		return 0;
	snprintf(r->last, sizeof(r->last), "discard 0x%" PRIx64 " at 0x%" PRIx64, len, off);
	run_discard_range(r, &at, &n);
	e = begin(r, EVENT_CHANGE, at, n);
	ret = qcow2_discard(r->image, off, len, &r->err);
	end(r, e, ret);
	if (n > 0)
		settle(r, at, NULL, n, ret);
	return outcome(r, ret);
}

int run_flush(struct run *r)
{
	struct event *e;
	int ret;

	if (skip(r))
		return 0;
	e = begin(r, EVENT_FLUSH, 0, 0);
	snprintf(r->last, sizeof(r->last), "flush");
	ret = qcow2_flush(r->image, &r->err);
	end(r, e, ret);
	return outcome(r, ret);
}

/* What version 2 can't is refused, with nothing changed. */
static bool may_refuse_resize(const struct world *w, uint64_t size)
{
	if (getenv("NORESIZE"))
		return true;
	return !w->c.raw && w->c.version == 2 &&
	       (w->snapshot_bytes || w->flags_may_miss ||
		(size > w->size && w->c.backing != BACKING_NONE && w->c.backing_size > w->size));
}

int run_resize(struct run *r, uint64_t size)
{
	struct world *w = r->w;
	struct event *e;
	int ret;

	if (skip(r))
		return 0;
	e = begin(r, EVENT_SIZE, 0, 0);
	snprintf(r->last, sizeof(r->last), "resize from 0x%" PRIx64 " to 0x%" PRIx64, w->size,
		 size);
	if (e)
		e->size = size;
	ret = qcow2_resize(r->image, size, QCOW2_PREALLOC_OFF, QCOW2_RESIZE_SHRINK, &r->err);
	end(r, e, ret);
	if (ret == -ENOTSUP && may_refuse_resize(w, size)) {
		if (e)
			r->history->count--;
		return 0;
	}
	if (ret < 0) {
		uint64_t from = min_u64(size, w->size);

		/* a shrink that failed may have lost its part of the disk */
		loosen(r, from, w->max_size - from, true);
		if (r->loose)
			w->size = qcow2_size(r->image);
		return outcome(r, ret);
	}
	if (size < w->size) {
		memset(w->bytes + size, 0, w->size - size);
		loosen(r, size, w->max_size - size, false);
	}
	w->size = size;
	if (qcow2_size(r->image) != size)
		return complain("%s: the size is 0x%" PRIx64, r->last, qcow2_size(r->image));
	return outcome(r, ret);
}

/* ---- snapshots ---- */

static size_t tape_now(const struct run *r)
{
	return r->history->tape ? tape_count(r->history->tape) : 0;
}

static void *copy_of(const void *bytes, size_t len)
{
	void *copy = malloc(len);

	assert(copy);
	return memcpy(copy, bytes, len);
}

/* Refcounts too narrow for one more (compressed clusters share), and what has no snapshots. */
static bool may_refuse_shot(const struct world *w, int ret)
{
	return (ret == -ERANGE && w->c.refcount_bits <= 8) ||
	       (ret == -ENOTSUP && (w->c.raw || w->c.data != DATA_INSIDE));
}

int run_take(struct run *r)
{
	struct history *h = r->history;
	struct shot *s;
	struct event *e;
	int ret;

	if (!h || skip(r))
		return 0;
	h->shots = realloc(h->shots, (h->nshots + 1) * sizeof(*h->shots));
	assert(h->shots);
	s = &h->shots[h->nshots++];
	*s = (struct shot){.size = r->w->size, .born_start = tape_now(r)};
	s->gone_start = s->gone_end = SIZE_MAX;
	s->bytes = copy_of(r->w->bytes, r->w->max_size);
	s->loose = r->loose ? copy_of(r->loose, r->w->max_size) : NULL;
	snprintf(s->name, sizeof(s->name), "s%zu", h->nshots);
	snprintf(r->last, sizeof(r->last), "take snapshot %s", s->name);
	r->w->flags_may_miss |= r->w->c.version == 2;
	e = begin(r, EVENT_FLUSH, 0, 0);
	ret = qcow2_snapshot_create(r->image, s->name, NULL, &r->err);
	end(r, e, ret);
	s->born_end = tape_now(r);
	s->born_failed = ret < 0;
	if (may_refuse_shot(r->w, ret)) {
		s->gone_start = s->gone_end = 0; /* it mustn't be there */
		if (ret == -ENOTSUP) {
			free(s->bytes);
			free(s->loose);
			h->nshots--;
		}
		return 0;
	}
	return outcome(r, ret);
}

static bool is_shot(const struct history *h, size_t idx)
{
	return h && idx < h->nshots && h->shots[idx].gone_start == SIZE_MAX;
}

/* A snapshot that perhaps wasn't taken, or perhaps is gone, need not be found. */
static bool may_miss(const struct shot *s, int ret)
{
	return ret == -ENOENT && (s->born_failed || s->gone_failed);
}

int run_go_back(struct run *r, size_t idx)
{
	struct history *h = r->history;
	struct event *e;
	struct shot *s;
	int ret;

	if (!is_shot(h, idx) || skip(r))
		return 0;
	s = &h->shots[idx];
	if (run_flush(r) < 0) /* so that only one of two disks may be found */
		return -1;
	snprintf(r->last, sizeof(r->last), "go back to snapshot %s", s->name);
	r->w->flags_may_miss |= r->w->c.version == 2;
	e = begin(r, EVENT_WHOLE, 0, r->w->max_size);
	keep_bytes(e, s->bytes);
	if (e) {
		e->size = s->size;
		e->loose = s->loose;
	}
	ret = qcow2_snapshot_apply(r->image, s->name, 0, &r->err);
	end(r, e, ret);
	also_flush(r, e, ret);
	/* -ERANGE: what both disks share is counted once more on the way */
	if (may_miss(s, ret) || (ret == -ERANGE && may_refuse_shot(r->w, ret)) ||
	    (ret == -ENOTSUP && may_refuse_resize(r->w, s->size)))
		return 0;
	if (ret == 0 || r->loose) {
		r->w->size = qcow2_size(r->image);
		loosen(r, 0, r->w->max_size, ret < 0);
	}
	if (ret == 0) {
		memcpy(r->w->bytes, s->bytes, r->w->max_size);
		if (s->loose)
			memcpy(r->loose, s->loose, r->w->max_size);
		if (r->w->size != s->size)
			return complain("%s: the size is 0x%" PRIx64, r->last, r->w->size);
	}
	return outcome(r, ret);
}

int run_forget(struct run *r, size_t idx)
{
	struct history *h = r->history;
	struct event *e;
	struct shot *s;
	int ret;

	if (!is_shot(h, idx) || skip(r))
		return 0;
	s = &h->shots[idx];
	snprintf(r->last, sizeof(r->last), "delete snapshot %s", s->name);
	r->w->flags_may_miss |= r->w->c.version == 2;
	s->gone_start = tape_now(r);
	e = begin(r, EVENT_FLUSH, 0, 0);
	ret = qcow2_snapshot_delete(r->image, s->name, QCOW2_SNAPSHOT_BY_NAME, &r->err);
	end(r, e, ret);
	s->gone_end = tape_now(r);
	s->gone_failed = ret < 0;
	return may_miss(s, ret) ? 0 : outcome(r, ret);
}

static int read_shot(const struct shot *s, struct qcow2_image *image, const char *when)
{
	struct qcow2_error err = {0};
	uint8_t *buf = malloc(s->size + 1);
	int ret = 0;

	if (qcow2_size(image) < s->size || qcow2_pread(image, buf, s->size, 0, &err) < 0)
		ret = complain("%s: snapshot %s: %s", when, s->name, err.message);
	for (uint64_t i = 0; ret == 0 && i < s->size; i++) {
		if (buf[i] != s->bytes[i] && !(s->loose && s->loose[i]))
			ret = complain("%s: snapshot %s: 0x%02x instead of 0x%02x at 0x%" PRIx64,
				       when, s->name, buf[i], s->bytes[i], i);
	}
	free(buf);
	return ret;
}

int run_check_shots(const struct history *h, struct world *w, size_t cut, const char *when)
{
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < h->nshots; i++) {
		const struct shot *s = &h->shots[i];
		bool gone = s->gone_end != SIZE_MAX && s->gone_end <= cut && !s->gone_failed;
		bool must = s->born_end <= cut && s->gone_start >= cut && !s->born_failed;
		struct qcow2_error err = {0};
		struct qcow2_image *image;
		int opened;

		opened = world_open(w, &image, NULL, s->name, &err);
		if (opened == 0) {
			ret = gone ? complain("%s: snapshot %s is still there", when, s->name)
				   : read_shot(s, image, when);
			qcow2_close(image);
		} else if (must || opened != -ENOENT) {
			ret = complain("%s: snapshot %s: %s", when, s->name, err.message);
		}
	}
	return ret;
}

int run_read(struct run *r, uint64_t off, uint64_t len)
{
	uint64_t i = 0;
	uint8_t *buf;
	int ret;

	if (skip(r))
		return 0;
	buf = malloc(len + 1);
	snprintf(r->last, sizeof(r->last), "read 0x%" PRIx64 " at 0x%" PRIx64, len, off);
	ret = qcow2_pread(r->image, buf, len, off, &r->err);
	if (ret == 0 && memcmp(buf, r->w->bytes + off, len) == 0)
		i = len;
	while (ret == 0 && i < len &&
	       (buf[i] == r->w->bytes[off + i] || (r->loose && r->loose[off + i])))
		i++;
	if (ret == 0 && i < len) {
		complain("%s: 0x%02x instead of 0x%02x at guest offset 0x%" PRIx64, r->last, buf[i],
			 r->w->bytes[off + i], off + i);
		free(buf);
		return -1;
	}
	free(buf);
	return outcome(r, ret);
}

/* What wasn't durable when closing failed may be lost, or be there. */
static void give_up_the_rest(struct run *r)
{
	struct history *h = r->history;

	loosen(r, 0, r->w->max_size, true);
	for (size_t i = h ? h->count : 0; i-- > 0;) {
		if (h->events[i].kind == EVENT_FLUSH && !h->events[i].failed)
			break;
		h->events[i].failed = true;
	}
}

int run_close(struct run *r)
{
	struct event *e;
	int ret;

	if (!r->image)
		return 0;
	e = begin(r, EVENT_FLUSH, 0, 0);
	snprintf(r->last, sizeof(r->last), "finish");
	ret = qcow2_finish(r->image, &r->err);
	if (ret < 0 && r->loose && outcome(r, ret) == 0) {
		/* once more: the fault may be gone; one failure all the same */
		ret = qcow2_finish(r->image, &r->err);
		r->failures -= ret < 0;
	}
	r->unfinished = ret < 0;
	qcow2_close(r->image);
	r->image = NULL;
	end(r, e, ret);
	if (ret < 0)
		give_up_the_rest(r);
	return outcome(r, ret);
}
