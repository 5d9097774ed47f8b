/* SPDX-License-Identifier: MIT */
/*
 * What a disk may read as after a crash. Of all that was flushed every byte is there; of what began
 * since then any part may be, byte by byte: a request writes its range in pieces that reach the
 * disk or don't. Nothing else may be there.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "engine/bulk.h"
#include "engine/run.h"

#define SECTOR 512u

void expected_init(struct expected *x, const struct history *h, const struct world *w,
		   const uint8_t *bytes, uint64_t size)
{
	*x = (struct expected){
		.h = h, .max_size = w->max_size, .total = w->total, .durable_size = size};
	x->latest = bulk_copy(bytes, x->total);
	x->durable = bulk_copy(bytes, x->total);
	x->vague = bulk_zeroed(x->total);
}

void expected_release(struct expected *x)
{
	bulk_free(x->latest);
	bulk_free(x->durable);
	bulk_free(x->vague);
	free(x->settled);
	*x = (struct expected){0};
}

/* The range of the disk that an event changes; zeros unless it has bytes. */
static void extent_of(const struct expected *x, const struct event *e, uint64_t *off, uint64_t *len)
{
	*off = e->kind == EVENT_SIZE ? e->size : e->guest_off;
	*len = e->kind == EVENT_SIZE ? x->max_size - e->size : e->len;
	if (e->kind == EVENT_FLUSH)
		*len = 0;
	if (e->kind == EVENT_WHOLE)
		*len = x->total;
}

static bool changes_size(const struct event *e)
{
	return e->kind == EVENT_SIZE || e->kind == EVENT_WHOLE;
}

static void apply(const struct expected *x, const struct event *e, uint8_t *disk)
{
	uint64_t off, len;

	extent_of(x, e, &off, &len);
	if (len == 0)
		return;
	if (e->bytes)
		memcpy(disk + off, e->bytes, len);
	else
		memset(disk + off, 0, len);
}

/*
 * What had returned when the flush began is durable; but what a request that failed has left is as
 * vague as it was.
 */
static void make_durable(struct expected *x, size_t flush)
{
	for (size_t i = x->first_open; i < flush; i++) {
		const struct event *e = &x->h->events[i];
		uint64_t off, len;

		if (x->settled[i] || e->ended > x->h->events[flush].began)
			continue;
		x->settled[i] = true;
		extent_of(x, e, &off, &len);
		if (len > 0)
			memset(x->vague + off, e->failed, len);
		if (e->loose && !e->failed)
			memcpy(x->vague, e->loose, x->total);
		if (changes_size(e))
			x->vague_size = e->failed;
		if (e->failed)
			continue;
		apply(x, e, x->durable);
		if (changes_size(e))
			x->durable_size = e->size;
	}
	while (x->first_open < flush && x->settled[x->first_open])
		x->first_open++;
}

void expected_advance(struct expected *x, size_t cut)
{
	size_t limit = x->next;

	if (!x->settled)
		x->settled = calloc(x->h->count + 1, 1);
	assert(x->settled);
	while (limit < x->h->count && x->h->events[limit].start < cut) {
		apply(x, &x->h->events[limit++], x->latest);
		x->version++;
	}
	x->next = limit;
	for (size_t i = x->first_open; i < limit; i++) {
		const struct event *e = &x->h->events[i];

		if (e->kind != EVENT_FLUSH || e->failed || e->end > cut || x->settled[i])
			continue;
		make_durable(x, i);
		x->settled[i] = true;
		x->version++;
	}
}

static bool may_be(const struct expected *x, uint64_t at, uint8_t byte)
{
	if (x->durable[at] == byte)
		return true;
	for (size_t i = x->vague[at] ? 0 : x->first_open; i < x->next; i++) {
		const struct event *e = &x->h->events[i];
		uint64_t off, len;

		if (x->settled[i] && !x->vague[at])
			continue;
		extent_of(x, e, &off, &len);
		if (at >= off && at - off < len && (e->bytes ? e->bytes[at - off] : 0) == byte)
			return true;
	}
	return false;
}

/* Who may have had to do with a byte, and the flushes. */
static void tell_events(const struct expected *x, uint64_t at)
{
	for (size_t i = 0; i < x->next; i++) {
		const struct event *e = &x->h->events[i];
		uint64_t off, len;

		extent_of(x, e, &off, &len);
		if (e->kind == EVENT_FLUSH)
			complain("    event %zu, tape %zu to %zu: flush%s", i, e->start, e->end,
				 e->failed ? ", failed" : "");
		else if (at >= off && at - off < len)
			complain("    event %zu, tape %zu to %zu: 0x%02x in 0x%" PRIx64
				 " bytes at 0x%" PRIx64 "%s%s",
				 i, e->start, e->end, e->bytes ? e->bytes[at - off] : 0, len, off,
				 x->settled[i] ? ", durable" : "", e->failed ? ", failed" : "");
	}
}

static int check_size(const struct expected *x, uint64_t size, const char *when)
{
	if (size == x->durable_size)
		return 0;
	for (size_t i = x->vague_size ? 0 : x->first_open; i < x->next; i++) {
		if ((!x->settled[i] || x->vague_size) && changes_size(&x->h->events[i]) &&
		    x->h->events[i].size == size)
			return 0;
	}
	return complain("%s: the disk has 0x%" PRIx64 " bytes; 0x%" PRIx64 " were durable", when,
			size, x->durable_size);
}

/* The one event that isn't durable, if it makes the disk another as a whole. */
static const struct event *only_whole(const struct expected *x)
{
	const struct event *whole = NULL;

	for (size_t i = x->first_open; i < x->next; i++) {
		const struct event *e = &x->h->events[i];

		if (e->kind == EVENT_FLUSH || x->settled[i])
			continue;
		if (e->kind != EVENT_WHOLE || e->failed || whole)
			return NULL;
		whole = e;
	}
	return whole;
}

static bool is_same(const struct expected *x, const uint8_t *a, const uint8_t *b, uint64_t size)
{
	return memcmp(a, b, size) == 0 &&
	       memcmp(a + x->max_size, b + x->max_size, x->total - x->max_size) == 0;
}

/* All of the one disk and its VM state, or all of the other. */
static int check_whole(const struct expected *x, const struct event *e, const uint8_t *found,
		       uint64_t size, const char *when)
{
	if (size == x->durable_size && is_same(x, found, x->durable, size))
		return 0;
	if (size == e->size && is_same(x, found, e->bytes, size))
		return 0;
	return complain("%s: a disk of 0x%" PRIx64 " bytes that is neither that before nor that "
			"after going back to a snapshot",
			when, size);
}

/* Bytes [at, end) of the reference. */
static int check_range(const struct expected *x, const uint8_t *found, uint64_t at, uint64_t end,
		       const char *when)
{
	for (; at < end; at += SECTOR) {
		uint64_t len = min_u64(SECTOR, end - at);

		if (memcmp(found + at, x->latest + at, len) == 0 ||
		    memcmp(found + at, x->durable + at, len) == 0)
			continue;
		for (uint64_t i = at; i < at + len; i++) {
			if (may_be(x, i, found[i]))
				continue;
			tell_events(x, i);
			return complain("%s: 0x%02x at guest offset 0x%" PRIx64
					" was never written there (0x%02x is durable, "
					"0x%02x was written last)",
					when, found[i], i, x->durable[i], x->latest[i]);
		}
	}
	return 0;
}

int expected_check(const struct expected *x, const uint8_t *found, uint64_t size, const char *when)
{
	const struct event *whole = only_whole(x);

	if (whole)
		return check_whole(x, whole, found, size, when);
	if (check_size(x, size, when) < 0 || check_range(x, found, 0, size, when) < 0)
		return -1;
	return check_range(x, found, x->max_size, x->total, when);
}

int expected_read(struct world *w, struct qcow2_image *image, uint8_t *found)
{
	struct qcow2_error err = {0};
	uint64_t size = min_u64(qcow2_size(image), w->max_size);
	int ret = qcow2_pread(image, found, size, 0, &err);

	if (ret == 0)
		ret = world_state_read(w, image, found + w->max_size, 0, w->state_size, &err);
	return ret == 0 ? 0 : complain("reading: %s", err.message);
}
