/* SPDX-License-Identifier: MIT */
/*
 * Counts saturate at UINT64_MAX; with what an image can hold they don't get there. What is not
 * done here: deciding which clusters exist, and tables, which are runs (counts.c).
 */
#include "check/chunks.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "base/zero.h"
#include "format/refbits.h"

#define PIECE_UNITS 64u
#define FEW 8u /* entries of two bytes: place 9 bits, claims 2, count 5 */
#define FEW_OVERFLOW 31u
#define FOUR_COUNT_MAX 13u
#define EIGHT_OVERFLOW 63u

static const uint32_t unit_len[] = {
	[CHUNK_FEW] = FEW * 2,
	[CHUNK_TWO] = CHUNK_CLUSTERS / 4,
	[CHUNK_FOUR] = CHUNK_CLUSTERS / 2,
	[CHUNK_EIGHT] = CHUNK_CLUSTERS,
};

/* log2 of the bits a cluster */
static const uint32_t form_order[] = {[CHUNK_TWO] = 1, [CHUNK_FOUR] = 2, [CHUNK_EIGHT] = 3};

/* ---- units --------------------------------------------------------------------------------- */

static int add_piece(struct chunks_pool *p, enum chunk_form form)
{
	uint64_t npieces = p->nunits / PIECE_UNITS;
	uint8_t **pieces = p->pieces;

	if ((npieces & (npieces - 1)) == 0) { /* as long as the next power of two */
		pieces = mem_realloc(p->pieces, npieces ? npieces * 2 : 1, sizeof(*pieces));
		if (!pieces)
			return -ENOMEM;
		p->pieces = pieces;
	}
	pieces[npieces] = mem_alloc(PIECE_UNITS, unit_len[form]);
	return pieces[npieces] ? 0 : -ENOMEM;
}

/* Of zeros; NULL: no memory. */
static uint8_t *new_unit(struct chunks *c, enum chunk_form form)
{
	struct chunks_pool *p = &c->pools[form];
	uint8_t *unit = p->unused;

	if (unit) {
		memcpy(&p->unused, unit, sizeof(p->unused));
	} else {
		if (p->nunits % PIECE_UNITS == 0 && add_piece(p, form) < 0)
			return NULL;
		unit = p->pieces[p->nunits / PIECE_UNITS] +
		       p->nunits % PIECE_UNITS * unit_len[form];
		p->nunits++;
	}
	memset(unit, 0, unit_len[form]);
	return unit;
}

static void drop_unit(struct chunks *c, enum chunk_form form, uint8_t *unit)
{
	struct chunks_pool *p = &c->pools[form];

	memcpy(unit, &p->unused, sizeof(p->unused));
	p->unused = unit;
}

void chunks_release(struct chunks *c)
{
	for (unsigned form = 0; form < CHUNK_EVEN; form++) {
		struct chunks_pool *p = &c->pools[form];

		for (uint64_t i = 0; i < div_ceil(p->nunits, PIECE_UNITS); i++)
			mem_free(p->pieces[i]);
		mem_free(p->pieces);
	}
	mem_free(c->v);
	chunk_index_release(&c->index);
	longs_release(&c->overflow);
	*c = (struct chunks){0};
}

/* ---- states and their codes ---------------------------------------------------------------- */

/* false: the form has no code for it. Of even chunks the codes are those of four. */
static bool encode(enum chunk_form form, struct counts_state s, uint8_t *code)
{
	switch (form) {
	case CHUNK_TWO:
		*code = (uint8_t)(s.count + s.claims);
		return s.count < 2 && s.claims < COUNTS_SHARED;
	case CHUNK_FOUR:
	case CHUNK_EVEN:
		*code = (uint8_t)(s.count < 2 ? s.count + s.claims : s.count + 2);
		return s.count < 2 ? s.claims <= COUNTS_SHARED
				   : s.count <= FOUR_COUNT_MAX && !(s.claims & COUNTS_ALONE);
	default:
		*code = (uint8_t)(min_u64(s.count, EIGHT_OVERFLOW) | s.claims << 6);
		return s.count < EIGHT_OVERFLOW;
	}
}

/* Of codes of two and four bits, and of even chunks. */
static const struct counts_state narrow_states[16] = {
	{0, 0}, /* nothing */
	{1, 0},
	{1, COUNTS_ALONE},
	{1, COUNTS_SHARED},
	{2, COUNTS_SHARED},
	{3, COUNTS_SHARED},
	{4, COUNTS_SHARED},
	{5, COUNTS_SHARED},
	{6, COUNTS_SHARED},
	{7, COUNTS_SHARED},
	{8, COUNTS_SHARED},
	{9, COUNTS_SHARED},
	{10, COUNTS_SHARED},
	{11, COUNTS_SHARED},
	{12, COUNTS_SHARED},
	{FOUR_COUNT_MAX, COUNTS_SHARED},
};

static struct counts_state decode(enum chunk_form form, uint8_t code)
{
	if (form == CHUNK_EIGHT)
		return (struct counts_state){code & EIGHT_OVERFLOW, code >> 6};
	return narrow_states[code];
}

/* Of a chunk of two, four or eight bits. */
static uint8_t get_code(const struct chunk *chunk, unsigned pos)
{
	return (uint8_t)format_refcount_get(chunk->unit, form_order[chunk->form], pos);
}

static void set_code(const struct chunk *chunk, unsigned pos, uint8_t code)
{
	format_refcount_set(chunk->unit, form_order[chunk->form], pos, code);
}

/* The entry of that place, or NULL. */
static uint8_t *find_few(uint8_t *bytes, unsigned pos)
{
	for (unsigned i = 0; i < FEW; i++, bytes += 2) {
		uint16_t e = load_be16(bytes);

		if (e != 0 && e >> 7 == pos)
			return bytes;
	}
	return NULL;
}

struct counts_state chunks_state(const struct chunks *c, const struct chunk *chunk, unsigned pos)
{
	struct counts_state s = {0};
	bool over;

	if (!chunk)
		return s;
	if (chunk->form == CHUNK_EVEN)
		return decode(CHUNK_EVEN, chunk->code);
	if (chunk->form == CHUNK_FEW) {
		const uint8_t *p = find_few(chunk->unit, pos);
		uint16_t e = p ? load_be16(p) : 0;

		s = (struct counts_state){e & FEW_OVERFLOW, e >> 5 & 3};
		over = s.count == FEW_OVERFLOW;
	} else {
		s = decode(chunk->form, get_code(chunk, pos));
		over = chunk->form == CHUNK_EIGHT && s.count == EIGHT_OVERFLOW;
	}
	if (over)
		s.count = longs_get(&c->overflow, chunk->key * CHUNK_CLUSTERS + pos);
	return s;
}

/* Of a few; false: there are too many. */
static bool put_few(uint8_t *bytes, unsigned pos, struct counts_state s)
{
	uint8_t *p = find_few(bytes, pos);

	for (unsigned i = 0; !p && i < FEW; i++)
		if (load_be16(bytes + (size_t)i * 2) == 0)
			p = bytes + (size_t)i * 2;
	if (p)
		store_be16(p, s.count == 0 ? 0
					   : (uint16_t)(pos << 7 | s.claims << 5 |
							min_u64(s.count, FEW_OVERFLOW)));
	return p;
}

/* 1: done; 0: the form can't hold it; negative: no memory. */
static int put(struct chunks *c, struct chunk *chunk, unsigned pos, struct counts_state s)
{
	enum chunk_form form = chunk->form;
	uint64_t over = form == CHUNK_FEW ? FEW_OVERFLOW : EIGHT_OVERFLOW;
	uint8_t code;

	if ((form == CHUNK_FEW || form == CHUNK_EIGHT) && s.count >= over &&
	    longs_set(&c->overflow, chunk->key * CHUNK_CLUSTERS + pos, s.count) < 0)
		return -ENOMEM;
	if (form == CHUNK_FEW)
		return put_few(chunk->unit, pos, s);
	if (!encode(form, s, &code) && form != CHUNK_EIGHT)
		return 0;
	if (form == CHUNK_EVEN)
		return code == chunk->code;
	set_code(chunk, pos, code);
	return 1;
}

/* ---- forms --------------------------------------------------------------------------------- */

/* Two bits become four. */
static void spread(const uint8_t *two, uint8_t *four)
{
	for (unsigned i = 0; i < CHUNK_CLUSTERS / 4; i++) {
		unsigned x = two[i];

		x = (x | x << 4) & 0x0f0f;
		x = (x | x << 2) & 0x3333;
		four[2 * i] = (uint8_t)x;
		four[2 * i + 1] = (uint8_t)(x >> 8);
	}
}

/* Counts that were in the map because a few's are narrow are looked up there no more. */
static bool copy_few(const struct chunks *c, const struct chunk *from, enum chunk_form form,
		     uint8_t *to)
{
	const uint8_t *few = from->unit;
	uint8_t code;

	for (unsigned i = 0; i < FEW; i++, few += 2) {
		unsigned pos = load_be16(few) >> 7;

		if (load_be16(few) == 0)
			continue;
		if (!encode(form, chunks_state(c, from, pos), &code) && form != CHUNK_EIGHT)
			return false;
		format_refcount_set(to, form_order[form], pos, code);
	}
	return true;
}

/* Copies what the chunk has to one of another form. false: that hasn't codes for all. */
static bool copy_states(struct chunks *c, const struct chunk *from, enum chunk_form form,
			uint8_t *to)
{
	uint8_t code;

	if (from->form == CHUNK_TWO && form == CHUNK_FOUR) {
		spread(from->unit, to);
		return true;
	}
	if (from->form == CHUNK_EVEN) {
		if (!encode(form, chunks_state(c, from, 0), &code))
			return false;
		format_refcount_fill(to, form_order[form], 0, CHUNK_CLUSTERS, code);
		return true;
	}
	if (from->form == CHUNK_FEW)
		return copy_few(c, from, form, to);
	for (unsigned pos = 0; pos < CHUNK_CLUSTERS; pos++) {
		struct counts_state s = chunks_state(c, from, pos);

		if (s.count == 0)
			continue;
		if (!encode(form, s, &code) && form != CHUNK_EIGHT)
			return false;
		format_refcount_set(to, form_order[form], pos, code);
	}
	return true;
}

/* The next form that what is in it fits in. */
static int widen(struct chunks *c, struct chunk *chunk)
{
	enum chunk_form old = chunk->form, form = old == CHUNK_EVEN ? CHUNK_TWO : old + 1;
	uint8_t *unit;

	for (; form <= CHUNK_EIGHT; form++) {
		unit = new_unit(c, form);
		if (!unit)
			return -ENOMEM;
		if (copy_states(c, chunk, form, unit))
			break;
		drop_unit(c, form, unit);
	}
	assert(form <= CHUNK_EIGHT);
	if (old != CHUNK_EVEN)
		drop_unit(c, old, chunk->unit);
	chunk->form = form;
	chunk->unit = unit;
	return 0;
}

/* ---- finding ------------------------------------------------------------------------------- */

static struct chunk *find_chunk(const struct chunks *c, uint64_t key)
{
	uint32_t n = chunk_index_find(&c->index, c->v, key);

	return n > 0 ? &c->v[n - 1] : NULL;
}

const struct chunk *chunks_find(const struct chunks *c, uint64_t key)
{
	return find_chunk(c, key);
}

static int make_room(struct chunks *c, uint64_t key)
{
	if (c->n == c->cap) {
		uint64_t cap = max_u64(64, c->cap + c->cap / 2);
		struct chunk *v = cap < UINT32_MAX ? mem_realloc(c->v, cap, sizeof(*v)) : NULL;

		if (!v)
			return -ENOMEM;
		c->v = v;
		c->cap = (uint32_t)cap;
		c->last = NULL;
	}
	return chunk_index_make_room(&c->index, c->v, key);
}

/* Makes the chunk with that key the last one. form: of a new one, that is yet empty. */
static int want_chunk(struct chunks *c, uint64_t key, enum chunk_form form)
{
	uint8_t *unit = NULL;
	struct chunk *v;

	if (c->last && c->last->key == key)
		return 0;
	v = find_chunk(c, key);
	if (!v) {
		if (make_room(c, key) < 0)
			return -ENOMEM;
		if (form != CHUNK_EVEN) {
			unit = new_unit(c, form);
			if (!unit)
				return -ENOMEM;
		}
		c->disordered |= c->n > 0 && c->v[c->n - 1].key > key;
		c->key_max = max_u64(c->key_max, key);
		v = &c->v[c->n++];
		/* as a whole: bits set one by one are read, and new memory is zeros first */
		memcpy(v, &(struct chunk){.key = key, .form = form, .unit = unit}, sizeof(*v));
		chunk_index_add(&c->index, c->v, c->n);
	}
	c->last = v;
	return 0;
}

/* ---- changing ------------------------------------------------------------------------------ */

static int set_state(struct chunks *c, struct chunk *chunk, unsigned pos, struct counts_state s)
{
	int ret;

	while ((ret = put(c, chunk, pos, s)) == 0) {
		ret = widen(c, chunk);
		if (ret < 0)
			break;
	}
	return ret < 0 ? ret : 0;
}

static void add_to(struct counts_state *s, uint64_t n, unsigned claim)
{
	if (!add_fits(s->count, n, &s->count))
		s->count = UINT64_MAX;
	s->claims |= claim;
}

/* A part of a chunk in which all have the same state gets another in one go. false: not possible.
 */
static bool add_evenly(struct chunks *c, struct chunk *chunk, unsigned pos, unsigned len,
		       uint64_t n, unsigned claim)
{
	enum chunk_form form = chunk->form;
	struct counts_state s;
	uint8_t code;

	if (form == CHUNK_FEW || (form == CHUNK_EVEN && len < CHUNK_CLUSTERS))
		return false;
	s = chunks_state(c, chunk, pos);
	if (form != CHUNK_EVEN) {
		code = get_code(chunk, pos);
		if (!format_refcount_all(chunk->unit, form_order[form], pos, len, code))
			return false;
	}
	add_to(&s, n, claim);
	if (!encode(form, s, &code))
		return false;
	if (form == CHUNK_EVEN)
		chunk->code = code;
	else
		format_refcount_fill(chunk->unit, form_order[form], pos, len, code);
	return true;
}

static int add_in_chunk(struct chunks *c, uint64_t key, unsigned pos, unsigned len, uint64_t n,
			unsigned claim)
{
	enum chunk_form form = len == CHUNK_CLUSTERS ? CHUNK_EVEN
			       : len > FEW	     ? CHUNK_TWO
						     : CHUNK_FEW;
	int ret = want_chunk(c, key, form);

	if (ret == 0 && len > FEW && c->last->form == CHUNK_FEW)
		ret = widen(c, c->last);
	if (ret < 0 || (len > 1 && add_evenly(c, c->last, pos, len, n, claim)))
		return ret;
	for (unsigned i = pos; ret == 0 && i < pos + len; i++) {
		struct counts_state s = chunks_state(c, c->last, i);

		add_to(&s, n, claim);
		ret = set_state(c, c->last, i, s);
	}
	return ret;
}

int chunks_add(struct chunks *c, uint64_t first, uint64_t nclusters, uint64_t n, unsigned claim)
{
	int ret = 0;

	while (ret == 0 && nclusters > 0) {
		unsigned pos = first % CHUNK_CLUSTERS;
		unsigned len = (unsigned)min_u64(nclusters, CHUNK_CLUSTERS - pos);

		ret = add_in_chunk(c, first / CHUNK_CLUSTERS, pos, len, n, claim);
		first += len;
		nclusters -= len;
	}
	return ret;
}

static uint8_t step(enum chunk_form form, uint8_t code, uint64_t n, unsigned claim)
{
	struct counts_state s = decode(form, code);
	uint8_t next;

	add_to(&s, n, claim);
	return encode(form, s, &next) ? next : CHUNKS_NO_STEP;
}

struct chunks_adder chunks_adder(struct chunks *c, uint64_t n)
{
	struct chunks_steps *steps = &c->steps;

	assert(n > 0);
	for (unsigned claim = 0; n != steps->n && claim < ARRAY_LEN(steps->two); claim++) {
		for (uint8_t code = 0; code < ARRAY_LEN(steps->two[claim]); code++)
			steps->two[claim][code] = step(CHUNK_TWO, code, n, claim);
		for (uint8_t code = 0; code < ARRAY_LEN(steps->four[claim]); code++)
			steps->four[claim][code] = step(CHUNK_FOUR, code, n, claim);
	}
	steps->n = n;
	return (struct chunks_adder){c->v, c->index.near, c->index.nnear, steps};
}

int chunks_sub(struct chunks *c, uint64_t cluster_idx, uint64_t n)
{
	unsigned pos = cluster_idx % CHUNK_CLUSTERS;
	struct chunk *chunk = find_chunk(c, cluster_idx / CHUNK_CLUSTERS);
	struct counts_state s = chunks_state(c, chunk, pos);

	assert(chunk && s.count >= n);
	s.count -= n;
	if (s.count == 0)
		s.claims = 0;
	return set_state(c, chunk, pos, s);
}

/* ---- asking -------------------------------------------------------------------------------- */

bool chunks_same(const struct chunks *c, const struct chunk *chunk, unsigned pos, unsigned n,
		 struct counts_state *same)
{
	*same = (struct counts_state){0};
	if (!chunk)
		return true;
	*same = chunks_state(c, chunk, pos);
	if (chunk->form == CHUNK_EVEN)
		return true;
	if (chunk->form == CHUNK_FEW || same->count >= EIGHT_OVERFLOW)
		return false;
	return format_refcount_all(chunk->unit, form_order[chunk->form], pos, n,
				   get_code(chunk, pos));
}

void chunks_states(const struct chunks *c, const struct chunk *chunk, unsigned pos, unsigned n,
		   struct counts_state *states)
{
	const uint8_t *few;

	if (!chunk || chunk->form == CHUNK_FEW)
		memset(states, 0, n * sizeof(*states));
	if (chunk && chunk->form == CHUNK_FEW) {
		few = chunk->unit;
		for (unsigned i = 0; i < FEW; i++) {
			unsigned at = load_be16(few + (size_t)i * 2) >> 7;

			if (load_be16(few + (size_t)i * 2) != 0 && at >= pos && at - pos < n)
				states[at - pos] = chunks_state(c, chunk, at);
		}
	} else if (chunk && (chunk->form == CHUNK_TWO || chunk->form == CHUNK_FOUR)) {
		unsigned order = form_order[chunk->form], mask = (1u << (1u << order)) - 1;

		for (unsigned i = 0; i < n; i++, pos++)
			states[i] =
				narrow_states[chunk->unit[pos << order >> 3] >> (pos << order & 7) &
					      mask];
	} else if (chunk) {
		for (unsigned i = 0; i < n; i++)
			states[i] = chunks_state(c, chunk, pos + i);
	}
}

/* Among a few: how far nothing is referenced from pos on, below end. */
static unsigned gap_among_few(const uint8_t *few, unsigned pos, unsigned end)
{
	for (unsigned i = 0; i < FEW; i++, few += 2) {
		uint16_t e = load_be16(few);

		if (e != 0 && e >> 7 >= pos && e >> 7 < end)
			end = e >> 7;
	}
	return end - pos;
}

unsigned chunks_stretch(const struct chunks *c, const struct chunk *chunk, unsigned pos,
			unsigned end, uint64_t *count)
{
	enum chunk_form form = chunk->form;
	unsigned n = 1;

	*count = chunks_state(c, chunk, pos).count;
	if (form == CHUNK_EVEN)
		return end - pos;
	if (form == CHUNK_FEW)
		return *count > 0 ? 1 : gap_among_few(chunk->unit, pos, end);
	while (pos + n < end && chunks_state(c, chunk, pos + n).count == *count)
		n++;
	return n;
}

static int by_key(const void *a, const void *b)
{
	const struct chunk *x = a, *y = b;

	return (x->key > y->key) - (x->key < y->key);
}

void chunks_sort(struct chunks *c)
{
	if (!c->disordered)
		return;
	qsort(c->v, c->n, sizeof(*c->v), by_key);
	chunk_index_again(&c->index, c->v, c->n);
	c->last = NULL;
	c->disordered = false;
}

uint64_t chunks_next_key(const struct chunks *c, uint64_t key, uint64_t end)
{
	uint32_t low = 0, high = c->n;

	if (c->n == 0 || key > c->key_max)
		return end;
	if (c->disordered) {
		for (uint64_t stop = min_u64(end, c->key_max + 1); key < stop; key++)
			if (chunks_find(c, key))
				return key;
		return end;
	}
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (c->v[mid].key < key)
			low = mid + 1;
		else
			high = mid;
	}
	return low < c->n ? min_u64(c->v[low].key, end) : end;
}
