/* SPDX-License-Identifier: MIT */
/* Requests that take snapshots, go back to them and delete them: see run.h. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bulk.h"
#include "engine/run_parts.h"

static size_t tape_now(const struct run *r)
{
	return r->history->tape ? tape_count(r->history->tape) : 0;
}

/* Refcounts too narrow for one more (compressed clusters share), and what has no snapshots. */
static bool may_refuse_shot(const struct world *w, int ret)
{
	return (ret == -ERANGE && w->c.refcount_bits <= 8) ||
	       (ret == -ENOTSUP && (w->c.raw || w->c.data != DATA_INSIDE));
}

int run_take(struct run *r)
{
	struct qcow2_snapshot_options o = QCOW2_SNAPSHOT_OPTIONS_INIT;
	struct history *h = r->history;
	struct event *e, *state = NULL;
	struct shot *s;
	int ret;

	if (!h || part_skip(r))
		return 0;
	o.vm_state_bytes = h->nshots % 2 ? 0 : r->w->state_size;
	h->shots = realloc(h->shots, (h->nshots + 1) * sizeof(*h->shots));
	assert(h->shots);
	s = &h->shots[h->nshots++];
	*s = (struct shot){.size = r->w->size, .born_start = tape_now(r)};
	s->gone_start = s->gone_end = SIZE_MAX;
	s->bytes = bulk_copy(r->w->bytes, r->w->total);
	s->loose = r->loose ? bulk_copy(r->loose, r->w->total) : NULL;
	snprintf(s->name, sizeof(s->name), "s%zu", h->nshots);
	snprintf(r->last, sizeof(r->last), "take snapshot %s", s->name);
	r->w->flags_may_miss |= r->w->c.version == 2;
	e = part_begin(r, EVENT_FLUSH, 0, 0);
	if (o.vm_state_bytes > 0)
		state = part_begin_dropping(r);
	ret = qcow2_snapshot_create(r->image, s->name, &o, &r->err);
	part_end(r, e, ret);
	s->born_end = tape_now(r);
	s->born_failed = ret < 0;
	/* where something failed inside of it the disk may have its state still */
	if (o.vm_state_bytes > 0 && !may_refuse_shot(r->w, ret))
		part_end_dropping(r, state, r->loose ? -EIO : ret);
	part_also_flush(r, e, ret);
	if (may_refuse_shot(r->w, ret)) {
		s->gone_start = s->gone_end = 0; /* it mustn't be there */
		if (ret == -ENOTSUP) {
			bulk_free(s->bytes);
			bulk_free(s->loose);
			h->nshots--;
		}
		return 0;
	}
	return part_outcome(r, ret);
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

	/* beside bitmaps it is refused */
	if (!is_shot(h, idx) || r->w->touched || part_skip(r))
		return 0;
	s = &h->shots[idx];
	if (run_flush(r) < 0) /* so that only one of two disks may be found */
		return -1;
	snprintf(r->last, sizeof(r->last), "go back to snapshot %s", s->name);
	r->w->flags_may_miss |= r->w->c.version == 2;
	e = part_begin(r, EVENT_WHOLE, 0, r->w->total);
	part_keep_bytes(e, s->bytes);
	if (e) {
		e->size = s->size;
		e->loose = s->loose;
	}
	ret = qcow2_snapshot_apply(r->image, s->name, 0, &r->err);
	part_end(r, e, ret);
	part_also_flush(r, e, ret);
	/* -ERANGE: what both disks share is counted once more on the way */
	if (may_miss(s, ret) || (ret == -ERANGE && may_refuse_shot(r->w, ret)) ||
	    (ret == -ENOTSUP && part_may_refuse_resize(r->w, s->size)))
		return 0;
	if (ret == 0 || r->loose) {
		r->w->size = qcow2_size(r->image);
		part_loosen(r, 0, r->w->total, ret < 0);
	}
	if (ret == 0) {
		memcpy(r->w->bytes, s->bytes, r->w->total);
		if (s->loose)
			memcpy(r->loose, s->loose, r->w->total);
		if (r->w->size != s->size)
			return complain("%s: the size is 0x%" PRIx64, r->last, r->w->size);
	}
	return part_outcome(r, ret);
}

int run_forget(struct run *r, size_t idx)
{
	struct history *h = r->history;
	struct event *e;
	struct shot *s;
	int ret;

	if (!is_shot(h, idx) || part_skip(r))
		return 0;
	s = &h->shots[idx];
	snprintf(r->last, sizeof(r->last), "delete snapshot %s", s->name);
	r->w->flags_may_miss |= r->w->c.version == 2;
	s->gone_start = tape_now(r);
	e = part_begin(r, EVENT_FLUSH, 0, 0);
	ret = qcow2_snapshot_delete(r->image, s->name, QCOW2_SNAPSHOT_BY_NAME, &r->err);
	part_end(r, e, ret);
	s->gone_end = tape_now(r);
	s->gone_failed = ret < 0;
	return may_miss(s, ret) ? 0 : part_outcome(r, ret);
}

static int compare_shot(const struct shot *s, const uint8_t *buf, uint64_t from, uint64_t to,
			const char *when)
{
	if (memcmp(buf + from, s->bytes + from, to - from) == 0)
		return 0;
	for (uint64_t i = from; i < to; i++) {
		if (buf[i] != s->bytes[i] && !(s->loose && s->loose[i]))
			return complain("%s: snapshot %s: 0x%02x instead of 0x%02x at 0x%" PRIx64,
					when, s->name, buf[i], s->bytes[i], i);
	}
	return 0;
}

static int read_shot(const struct shot *s, struct world *w, struct qcow2_image *image,
		     const char *when)
{
	uint8_t *buf = bulk_alloc(w->total);
	int ret = expected_read(w, image, buf);

	if (qcow2_size(image) < s->size)
		ret = complain("%s: snapshot %s is too short", when, s->name);
	if (ret == 0)
		ret = compare_shot(s, buf, 0, s->size, when);
	if (ret == 0)
		ret = compare_shot(s, buf, w->max_size, w->total, when);
	bulk_free(buf);
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
				   : read_shot(s, w, image, when);
			qcow2_close(image);
		} else if (must || opened != -ENOENT) {
			ret = complain("%s: snapshot %s: %s", when, s->name, err.message);
		}
	}
	return ret;
}
