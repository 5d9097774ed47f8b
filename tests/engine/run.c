/* SPDX-License-Identifier: MIT */
/* See run.h. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "engine/bulk.h"
#include "engine/run.h"
#include "engine/run_parts.h"

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
		bulk_free(h->events[i].bytes);
	for (size_t i = 0; i < h->nshots; i++) {
		bulk_free(h->shots[i].bytes);
		bulk_free(h->shots[i].loose);
	}
	free(h->shots);
	free(h->events);
	pthread_mutex_destroy(&h->lock);
	*h = (struct history){0};
}

struct event *part_begin(struct run *r, enum event_kind kind, uint64_t off, uint64_t len)
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

void part_end(struct run *r, struct event *e, int ret)
{
	if (!e)
		return;
	pthread_mutex_lock(&r->history->lock);
	e->end = r->history->tape ? tape_count(r->history->tape) : 0;
	e->ended = ++r->history->clock;
	e->failed = ret < 0;
	pthread_mutex_unlock(&r->history->lock);
}

void part_keep_bytes(struct event *e, const uint8_t *bytes)
{
	if (!e)
		return;
	e->bytes = bulk_copy(bytes, e->len);
}

/* A flush of everything, done by the request that e is of. */
void part_also_flush(struct run *r, struct event *e, int ret)
{
	struct event *flush;
	size_t start;

	if (!e || ret < 0)
		return;
	start = e->end;
	flush = part_begin(r, EVENT_FLUSH, 0, 0);
	assert(flush); /* as e is: what is recorded doesn't change in a run */
	flush->start = start;
	part_end(r, flush, 0);
}

/* ---- results ---- */

/* A failure has a negative errno, in the record too, and a sentence. */
int part_outcome(struct run *r, int ret)
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

void part_loosen(struct run *r, uint64_t off, uint64_t len, bool loose)
{
	if (r->loose)
		memset(r->loose + off, loose, len);
}

static void settle(struct run *r, uint64_t off, const uint8_t *bytes, uint64_t len, int ret)
{
	if (ret < 0) {
		part_loosen(r, off, len, true);
		return;
	}
	part_loosen(r, off, len, false);
	if (bytes)
		memcpy(r->w->bytes + off, bytes, len);
	else
		memset(r->w->bytes + off, 0, len);
}

/* ---- requests ---- */

bool part_skip(struct run *r)
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
	if (ret < 0 && r->loose && part_outcome(r, ret) == 0 && r->opens++)
		ret = world_open(r->w, &r->image, &r->how, NULL, &r->err);
	/* where a barrier failed under a resize the file may have either size */
	if (ret == 0 && r->loose)
		r->w->size = qcow2_size(r->image);
	return part_outcome(r, ret);
}

int run_write(struct run *r, uint64_t off, uint64_t len, enum fill how, unsigned flags)
{
	uint8_t *buf;
	struct event *e;
	int ret;

	if (part_skip(r))
		return 0;
	buf = bulk_alloc(len);
	snprintf(r->last, sizeof(r->last), "write 0x%" PRIx64 " at 0x%" PRIx64 ", flags %u", len,
		 off, flags);
	fill_bytes(buf, off, len, ++r->tag, how);
	e = part_begin(r, EVENT_CHANGE, off, len);
	part_keep_bytes(e, buf);
	world_touch(r->w, off, len);
	ret = qcow2_pwrite(r->image, buf, len, off, flags, &r->err);
	part_end(r, e, ret);
	if (flags & QCOW2_WRITE_FUA)
		part_also_flush(r, e, ret);
	settle(r, off, buf, len, ret);
	bulk_free(buf);
	return part_outcome(r, ret);
}

/* NO_FALLBACK may end in the middle: what is zeros by then stays so. */
static int adopt_zeros(struct run *r, uint64_t off, uint64_t len)
{
	uint8_t *buf = bulk_alloc(len);
	int ret = qcow2_pread(r->image, buf, len, off, &r->err);

	for (uint64_t i = 0; ret == 0 && i < len; i++) {
		if (buf[i] != 0 && buf[i] != r->w->bytes[off + i])
			ret = complain("%s: 0x%02x at 0x%" PRIx64
				       " is neither 0 nor what was there",
				       r->last, buf[i], off + i);
	}
	if (ret == 0)
		memcpy(r->w->bytes + off, buf, len);
	bulk_free(buf);
	return ret;
}

int run_zero(struct run *r, uint64_t off, uint64_t len, unsigned flags)
{
	struct event *e;
	int ret;

	if (part_skip(r))
		return 0;
	e = part_begin(r, EVENT_CHANGE, off, len);
	snprintf(r->last, sizeof(r->last), "zero 0x%" PRIx64 " at 0x%" PRIx64 ", flags %u", len,
		 off, flags);
	world_touch(r->w, off, len);
	ret = qcow2_write_zeroes(r->image, off, len, flags, &r->err);
	part_end(r, e, ret);
	if (ret == -ENOTSUP && flags & QCOW2_WRITE_NO_FALLBACK) {
		part_loosen(r, off, len, true);
		return r->loose ? 0 : adopt_zeros(r, off, len);
	}
	if (flags & QCOW2_WRITE_FUA)
		part_also_flush(r, e, ret);
	settle(r, off, NULL, len, ret);
	return part_outcome(r, ret);
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

	if (part_skip(r))
		return 0;
	snprintf(r->last, sizeof(r->last), "discard 0x%" PRIx64 " at 0x%" PRIx64, len, off);
	run_discard_range(r, &at, &n);
	e = part_begin(r, EVENT_CHANGE, at, n);
	if (r->how.discard != QCOW2_DISCARD_IGNORE)
		world_touch(r->w, off, len);
	ret = qcow2_discard(r->image, off, len, &r->err);
	part_end(r, e, ret);
	if (n > 0)
		settle(r, at, NULL, n, ret);
	return part_outcome(r, ret);
}

int run_flush(struct run *r)
{
	struct event *e;
	int ret;

	if (part_skip(r))
		return 0;
	e = part_begin(r, EVENT_FLUSH, 0, 0);
	snprintf(r->last, sizeof(r->last), "flush");
	ret = qcow2_flush(r->image, &r->err);
	part_end(r, e, ret);
	return part_outcome(r, ret);
}

/* What version 2 can't is refused, with nothing changed. */
bool part_may_refuse_resize(const struct world *w, uint64_t size)
{
	return !w->c.raw && w->c.version == 2 &&
	       (w->snapshot_bytes || w->flags_may_miss ||
		(size > w->size && w->c.backing != BACKING_NONE && w->c.backing_size > w->size));
}

/* Zeros in all of the VM state, as a part of what is done otherwise; or NULL. */
struct event *part_begin_dropping(struct run *r)
{
	return part_begin(r, EVENT_CHANGE, r->w->max_size, r->w->state_size);
}

void part_end_dropping(struct run *r, struct event *e, int ret)
{
	part_end(r, e, ret);
	settle(r, r->w->max_size, NULL, r->w->state_size, ret);
}

/* Does VM state begin somewhere else when the disk has that size? */
static bool moves_state(const struct world *w, uint64_t size)
{
	return w->state_size > 0 &&
	       div_ceil(size, world_span(w)) != div_ceil(w->size, world_span(w));
}

int run_resize(struct run *r, uint64_t size)
{
	struct world *w = r->w;
	struct event *e, *state = NULL;
	bool moves = moves_state(w, size);
	unsigned prealloc = size > w->size ? r->prealloc : QCOW2_PREALLOC_OFF;
	int ret;

	/* the stores can't reserve space, which is an error for a data file alone */
	if (prealloc == QCOW2_PREALLOC_FALLOC && w->c.data != DATA_INSIDE)
		prealloc = QCOW2_PREALLOC_FULL;
	if (part_skip(r))
		return 0;
	if (moves)
		state = part_begin_dropping(r);
	e = part_begin(r, EVENT_SIZE, 0, 0);
	snprintf(r->last, sizeof(r->last),
		 "resize from 0x%" PRIx64 " to 0x%" PRIx64 ", preallocation %u", w->size, size,
		 prealloc);
	if (e)
		e->size = size;
	world_touch(w, min_u64(size, w->size), max_u64(size, w->size) - min_u64(size, w->size));
	ret = qcow2_resize(r->image, size, prealloc, QCOW2_RESIZE_SHRINK, &r->err);
	part_end(r, e, ret);
	if (ret == -ENOTSUP && part_may_refuse_resize(w, size)) {
		if (e)
			r->history->count -= moves ? 2 : 1;
		return 0;
	}
	if (moves)
		part_end_dropping(r, state, ret);
	if (ret < 0) {
		uint64_t from = min_u64(size, w->size);

		/* a shrink that failed may have lost its part of the disk */
		part_loosen(r, from, w->max_size - from, true);
		if (r->loose)
			w->size = qcow2_size(r->image);
		return part_outcome(r, ret);
	}
	if (size < w->size) {
		memset(w->bytes + size, 0, w->size - size);
		part_loosen(r, size, w->max_size - size, false);
	}
	w->size = size;
	if (qcow2_size(r->image) != size)
		return complain("%s: the size is 0x%" PRIx64, r->last, qcow2_size(r->image));
	return part_outcome(r, ret);
}

/* ---- reading ---- */

/* What was read, of the reference from off on. */
static int compare_read(const struct run *r, const uint8_t *buf, uint64_t off, uint64_t len)
{
	const uint8_t *want = r->w->bytes + off;
	uint64_t i = 0;

	if (memcmp(buf, want, len) == 0)
		return 0;
	while (i < len && (buf[i] == want[i] || (r->loose && r->loose[off + i])))
		i++;
	if (i == len)
		return 0;
	return complain("%s: 0x%02x instead of 0x%02x at guest offset 0x%" PRIx64, r->last, buf[i],
			want[i], off + i);
}

int run_read(struct run *r, uint64_t off, uint64_t len)
{
	uint8_t *buf;
	int ret, same = 0;

	if (part_skip(r))
		return 0;
	buf = bulk_alloc(len);
	snprintf(r->last, sizeof(r->last), "read 0x%" PRIx64 " at 0x%" PRIx64, len, off);
	ret = qcow2_pread(r->image, buf, len, off, &r->err);
	if (ret == 0)
		same = compare_read(r, buf, off, len);
	bulk_free(buf);
	return same < 0 ? same : part_outcome(r, ret);
}

/* ---- VM state ---- */

int run_read_state(struct run *r, uint64_t off, uint64_t len)
{
	uint8_t *buf;
	int ret, same = 0;

	if (part_skip(r))
		return 0;
	buf = bulk_alloc(len);
	snprintf(r->last, sizeof(r->last), "read VM state, 0x%" PRIx64 " at 0x%" PRIx64, len, off);
	ret = world_state_read(r->w, r->image, buf, off, len, &r->err);
	if (ret == 0)
		same = compare_read(r, buf, r->w->max_size + off, len);
	bulk_free(buf);
	return same < 0 ? same : part_outcome(r, ret);
}

int run_write_state(struct run *r, uint64_t off, uint64_t len)
{
	uint64_t at = r->w->max_size + off;
	struct event *e;
	uint8_t *buf;
	int ret;

	if (part_skip(r))
		return 0;
	buf = bulk_alloc(len);
	snprintf(r->last, sizeof(r->last), "write VM state, 0x%" PRIx64 " at 0x%" PRIx64, len, off);
	fill_bytes(buf, at, len, ++r->tag, FILL_NOISE);
	e = part_begin(r, EVENT_CHANGE, at, len);
	part_keep_bytes(e, buf);
	ret = world_state_write(r->w, r->image, buf, off, len, &r->err);
	part_end(r, e, ret);
	settle(r, at, buf, len, ret);
	bulk_free(buf);
	return part_outcome(r, ret);
}

/* What wasn't durable when closing failed may be lost, or be there. */
static void give_up_the_rest(struct run *r)
{
	struct history *h = r->history;

	part_loosen(r, 0, r->w->total, true);
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
	e = part_begin(r, EVENT_FLUSH, 0, 0);
	snprintf(r->last, sizeof(r->last), "finish");
	ret = qcow2_finish(r->image, &r->err);
	if (ret < 0 && r->loose && part_outcome(r, ret) == 0) {
		/* once more: the fault may be gone; one failure all the same */
		ret = qcow2_finish(r->image, &r->err);
		r->failures -= ret < 0;
	}
	r->unfinished = ret < 0;
	qcow2_close(r->image);
	r->image = NULL;
	part_end(r, e, ret);
	if (ret < 0)
		give_up_the_rest(r);
	return part_outcome(r, ret);
}

int run_commit(struct run *r)
{
	struct qcow2_commit_options o = QCOW2_COMMIT_OPTIONS_INIT;
	int ret;

	if (part_skip(r))
		return 0;
	o.threads = 1;
	r->w->base_changes = true;
	snprintf(r->last, sizeof(r->last), "commit");
	ret = qcow2_commit(r->image, &o, NULL, &r->err);
	r->given_up = ret < 0 && strstr(r->err.message, "emptying ");
	ret = part_outcome(r, ret);
	return ret == 0 ? run_close(r) : ret;
}

int run_rebase(struct run *r, const char *backing_file, unsigned flags)
{
	struct qcow2_rebase_options o = QCOW2_REBASE_OPTIONS_INIT;
	int ret;

	if (part_skip(r))
		return 0;
	o.threads = 1;
	o.flags = flags;
	o.backing_format = r->w->c.backing == BACKING_RAW ? "raw" : "qcow2";
	snprintf(r->last, sizeof(r->last), "rebase");
	ret = part_outcome(r, qcow2_rebase(r->image, backing_file, &o, NULL, &r->err));
	return ret == 0 ? run_close(r) : ret;
}

int run_amend(struct run *r, const struct qcow2_amend_options *o)
{
	if (part_skip(r))
		return 0;
	snprintf(r->last, sizeof(r->last), "amend");
	return part_outcome(r, qcow2_amend(r->image, o, NULL, &r->err));
}
