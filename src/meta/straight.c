/* SPDX-License-Identifier: MIT */
/* Sets of eight places, in which the next one that is pushed out goes round. */
#include "meta/straight.h"

#include <assert.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"

#define PLACES 8u
#define AT_ONCE 8u /* words, for the compiler to use wide registers */
#define GROWS 1u   /* in a key: the words grow */

struct set {
	_Atomic uint64_t key[PLACES]; /* host offset of the slice, with GROWS; 0: empty */
	_Atomic uint64_t first[PLACES];
};

struct place {
	_Atomic uint64_t *key, *first; /* NULL: none */
};

struct meta_straight {
	uint64_t step;
	uint32_t slice_len;
	unsigned hand;
	uint64_t nsets; /* a power of two */
	struct set *sets;
	_Atomic uint32_t seq; /* odd while a place is being changed */
};

struct meta_straight *meta_straight_new(uint64_t step, uint32_t slice_len, uint64_t limit_bytes)
{
	struct meta_straight *s = mem_zalloc(1, sizeof(*s));

	assert(slice_len % (AT_ONCE * sizeof(uint64_t)) == 0);
	if (!s)
		return NULL;
	*s = (struct meta_straight){.step = step, .slice_len = slice_len, .nsets = 1};
	while (s->nsets * 2 * sizeof(*s->sets) <= limit_bytes)
		s->nsets *= 2;
	s->sets = mem_zalloc(s->nsets, sizeof(*s->sets));
	if (!s->sets) {
		mem_free(s);
		return NULL;
	}
	return s;
}

void meta_straight_free(struct meta_straight *s)
{
	if (!s)
		return;
	mem_free(s->sets);
	mem_free(s);
}

static struct set *set_of(const struct meta_straight *s, uint64_t host_off)
{
	uint64_t n = host_off / s->slice_len * 0x9e3779b97f4a7c15ull;

	return &s->sets[n >> 32 & (s->nsets - 1)];
}

static struct place place_at(struct set *set, unsigned i)
{
	return (struct place){&set->key[i], &set->first[i]};
}

static struct place find(const struct meta_straight *s, uint64_t host_off)
{
	struct set *set = set_of(s, host_off);

	for (unsigned i = 0; i < PLACES; i++) {
		uint64_t key = atomic_load_explicit(&set->key[i], memory_order_acquire);

		if ((key & ~(uint64_t)GROWS) == host_off)
			return place_at(set, i);
	}
	return (struct place){0};
}

/* An empty one, or the next that has been there for a while. */
static struct place place_for(struct meta_straight *s, uint64_t host_off)
{
	struct set *set = set_of(s, host_off);

	for (unsigned i = 0; i < PLACES; i++) {
		if (atomic_load_explicit(&set->key[i], memory_order_relaxed) == 0)
			return place_at(set, i);
	}
	return place_at(set, s->hand++ % PLACES);
}

/* Both words are stored with release, so that who sees one of them sees that seq is odd. */
static void change(struct meta_straight *s, struct place p, uint64_t key, uint64_t first)
{
	atomic_fetch_add_explicit(&s->seq, 1, memory_order_relaxed);
	atomic_store_explicit(p.key, key, memory_order_release);
	atomic_store_explicit(p.first, first, memory_order_release);
	atomic_fetch_add_explicit(&s->seq, 1, memory_order_release);
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
	return find(s, host_off).key;
}

static uint64_t step_of(const struct meta_straight *s, uint64_t key)
{
	return key & GROWS ? s->step : 0;
}

bool meta_straight_keep(struct meta_straight *s, uint64_t host_off, const uint8_t *bytes)
{
	uint64_t first = load_be64(bytes), step = load_be64(bytes + sizeof(first)) - first;
	uint64_t key = host_off | (step != 0 ? GROWS : 0);

	assert(host_off != 0 && is_aligned(host_off, s->slice_len));
	meta_straight_drop(s, host_off);
	if ((step != 0 && step != s->step) || !is_straight(bytes, s->slice_len, first, step))
		return false;
	change(s, place_for(s, host_off), key, first);
	return true;
}

bool meta_straight_take(struct meta_straight *s, uint64_t host_off, struct meta_straight_row *row)
{
	struct place p = find(s, host_off);

	if (!p.key)
		return false;
	*row = (struct meta_straight_row){atomic_load(p.first), step_of(s, atomic_load(p.key))};
	change(s, p, 0, 0);
	return true;
}

void meta_straight_drop(struct meta_straight *s, uint64_t host_off)
{
	struct place p = find(s, host_off);

	if (p.key)
		change(s, p, 0, 0);
}

bool meta_straight_word(const struct meta_straight *s, uint64_t host_off, uint32_t idx,
			uint64_t *word)
{
	uint32_t seq = atomic_load_explicit(&s->seq, memory_order_acquire);
	struct place p = find(s, host_off);
	uint64_t key, first;

	if (!p.key)
		return false;
	key = atomic_load_explicit(p.key, memory_order_acquire);
	first = atomic_load_explicit(p.first, memory_order_acquire);
	*word = first + idx * step_of(s, key);
	/* the words were loaded with acquire, so this load comes after them */
	return !(seq & 1) && atomic_load_explicit(&s->seq, memory_order_relaxed) == seq;
}

void meta_straight_fill(const struct meta_straight_row *row, uint8_t *bytes, uint32_t slice_len)
{
	for (uint32_t i = 0; i < slice_len / sizeof(row->first); i++)
		store_be64(bytes + i * sizeof(row->first), row->first + i * row->step);
}
