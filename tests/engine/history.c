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
#include "engine/run.h"

#define SECTOR 512u

void expected_init(struct expected *x, const struct history *h, const uint8_t *bytes, uint64_t size,
		   uint64_t max_size)
{
	*x = (struct expected){.h = h, .max_size = max_size, .durable_size = size};
	x->latest = malloc(max_size + 1);
	x->durable = malloc(max_size + 1);
	x->vague = calloc(1, max_size + 1);
	assert(x->latest && x->durable && x->vague);
	memcpy(x->latest, bytes, max_size);
	memcpy(x->durable, bytes, max_size);
}

void expected_release(struct expected *x)
{
	free(x->latest);
	free(x->durable);
	free(x->vague);
	free(x->settled);
	*x = (struct expected){0};
}

/* The range of the disk that an event changes; zeros unless it has bytes. */
static void extent_of(const struct event *e, uint64_t max_size, uint64_t *off, uint64_t *len)
{
	*off = e->kind == EVENT_SIZE ? e->size : e->guest_off;
	*len = e->kind == EVENT_SIZE ? max_size - e->size : e->len;
	if (e->kind == EVENT_FLUSH)
		*len = 0;
	if (e->kind == EVENT_WHOLE)
		*len = max_size;
}

static bool changes_size(const struct event *e)
{
	return e->kind == EVENT_SIZE || e->kind == EVENT_WHOLE;
}

static void apply(const struct event *e, uint8_t *disk, uint64_t max_size)
{
	uint64_t off, len;

	extent_of(e, max_size, &off, &len);
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
		extent_of(e, x->max_size, &off, &len);
		if (len > 0)
			memset(x->vague + off, e->failed, len);
		if (e->loose && !e->failed)
			memcpy(x->vague, e->loose, x->max_size);
		if (changes_size(e))
			x->vague_size = e->failed;
		if (e->failed)
			continue;
		apply(e, x->durable, x->max_size);
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
		apply(&x->h->events[limit++], x->latest, x->max_size);
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
		extent_of(e, x->max_size, &off, &len);
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

		extent_of(e, x->max_size, &off, &len);
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

/* All of the one disk, or all of the other. */
static int check_whole(const struct expected *x, const struct event *e, const uint8_t *found,
		       uint64_t size, const char *when)
{
	if (size == x->durable_size && memcmp(found, x->durable, size) == 0)
		return 0;
	if (size == e->size && memcmp(found, e->bytes, size) == 0)
		return 0;
	return complain("%s: a disk of 0x%" PRIx64 " bytes that is neither that before nor that "
			"after going back to a snapshot",
			when, size);
}

int expected_check(const struct expected *x, const uint8_t *found, uint64_t size, const char *when)
{
	const struct event *whole = only_whole(x);

	if (whole)
		return check_whole(x, whole, found, size, when);
	if (check_size(x, size, when) < 0)
		return -1;
	for (uint64_t at = 0; at < size; at += SECTOR) {
		uint64_t len = min_u64(SECTOR, size - at);

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
