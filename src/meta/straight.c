/* SPDX-License-Identifier: MIT */
/* Sets of eight places, in which the next one that is pushed out goes round. */
#include "meta/straight.h"

#include <assert.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"

#define PLACES 8u
#define AT_ONCE 8u /* words, for the compiler to use wide registers */
#define GROWS 1u   /* in a key: the words grow */

struct place {
	uint64_t key; /* host offset of the slice, with GROWS; 0: empty */
	uint64_t first;
};

struct meta_straight {
	uint64_t step;
	uint32_t slice_len;
	unsigned hand;
	uint64_t nsets; /* a power of two */
	struct place *places;
};

struct meta_straight *meta_straight_new(uint64_t step, uint32_t slice_len, uint64_t limit_bytes)
{
	struct meta_straight *s = mem_zalloc(1, sizeof(*s));

	assert(slice_len % (AT_ONCE * sizeof(uint64_t)) == 0);
	if (!s)
		return NULL;
	*s = (struct meta_straight){.step = step, .slice_len = slice_len, .nsets = 1};
	while (s->nsets * 2 * PLACES * sizeof(*s->places) <= limit_bytes)
		s->nsets *= 2;
	s->places = mem_zalloc(s->nsets * PLACES, sizeof(*s->places));
	if (!s->places) {
		mem_free(s);
		return NULL;
	}
	return s;
}

void meta_straight_free(struct meta_straight *s)
{
	if (!s)
		return;
	mem_free(s->places);
	mem_free(s);
}

static struct place *set_of(const struct meta_straight *s, uint64_t host_off)
{
	uint64_t n = host_off / s->slice_len * 0x9e3779b97f4a7c15ull;

	return s->places + (n >> 32 & (s->nsets - 1)) * PLACES;
}

static struct place *find(const struct meta_straight *s, uint64_t host_off)
{
	struct place *set = set_of(s, host_off);

	for (unsigned i = 0; i < PLACES; i++) {
		if ((set[i].key & ~(uint64_t)GROWS) == host_off)
			return &set[i];
	}
	return NULL;
}

/* An empty one, or the next that has been there for a while. */
static struct place *place_for(struct meta_straight *s, uint64_t host_off)
{
	struct place *set = set_of(s, host_off);

	for (unsigned i = 0; i < PLACES; i++) {
		if (set[i].key == 0)
			return &set[i];
	}
	return &set[s->hand++ % PLACES];
}

static bool is_straight(const uint8_t *bytes, uint32_t slice_len, uint64_t first, uint64_t step)
{
	uint64_t other = 0;

	for (uint32_t i = 0; other == 0 && i < slice_len / sizeof(first); i += AT_ONCE) {
		for (uint32_t k = i; k < i + AT_ONCE; k++)
			other |= load_be64(bytes + k * sizeof(first)) ^ (first + k * step);
	}
	return other == 0;
}

bool meta_straight_has(const struct meta_straight *s, uint64_t host_off)
{
	return find(s, host_off);
}

bool meta_straight_keep(struct meta_straight *s, uint64_t host_off, const uint8_t *bytes)
{
	uint64_t first = load_be64(bytes), step = load_be64(bytes + sizeof(first)) - first;
	struct place *p;

	assert(host_off != 0 && is_aligned(host_off, s->slice_len));
	meta_straight_drop(s, host_off);
	if ((step != 0 && step != s->step) || !is_straight(bytes, s->slice_len, first, step))
		return false;
	p = place_for(s, host_off);
	*p = (struct place){host_off | (step != 0 ? GROWS : 0), first};
	return true;
}

bool meta_straight_take(struct meta_straight *s, uint64_t host_off, struct meta_straight_row *row)
{
	struct place *p = find(s, host_off);

	if (!p)
		return false;
	*row = (struct meta_straight_row){p->first, p->key & GROWS ? s->step : 0};
	p->key = 0;
	return true;
}

void meta_straight_drop(struct meta_straight *s, uint64_t host_off)
{
	struct place *p = find(s, host_off);

	if (p)
		p->key = 0;
}

void meta_straight_fill(const struct meta_straight_row *row, uint8_t *bytes, uint32_t slice_len)
{
	for (uint32_t i = 0; i < slice_len / sizeof(row->first); i++)
		store_be64(bytes + i * sizeof(row->first), row->first + i * row->step);
}
