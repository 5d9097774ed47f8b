/* SPDX-License-Identifier: MIT */
/*
 * Deflate (RFC 1951) decoded bit by bit. What counts here is that it stops exactly where zlib's
 * inflate does: it goes on after the output is full as long as it meets no byte that would have to
 * be written, so that damage right behind the cluster's last byte is seen as it is seen there.
 */
#include "codec/inflate.h"

#include <stdbool.h>
#include <string.h>

#define MAX_BITS 15
#define MAX_LIT_SYMS 288
#define MAX_DIST_SYMS 32
#define LAST_LIT_SYM 285
#define LAST_DIST_SYM 29
#define END_OF_BLOCK 256

/* What a step says. */
enum step {
	GO_ON,
	ENDED, /* the stream is at its end, the input is used up, or a byte has no room */
	DAMAGED,
};

struct inflate {
	const uint8_t *in, *in_end;
	uint8_t *out, *pos, *out_end;
	uint32_t buf; /* the low nbits are the next ones of the input */
	unsigned nbits;
};

struct code {
	uint16_t count[MAX_BITS + 1]; /* words of each length */
	uint16_t sym[MAX_LIT_SYMS];   /* by rising word */
	unsigned max_bits;
};

static const uint16_t len_base[] = {3,	4,  5,	6,  7,	8,  9,	10, 11,	 13,  15,  17,	19,  23, 27,
				    31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t len_extra[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
				    2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t dist_base[] = {1,	   2,	 3,    4,    5,	   7,	 9,    13,    17,    25,
				     33,   49,	 65,   97,   129,  193,	 257,  385,   513,   769,
				     1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};

/* At most 16 bits. */
static enum step take_bits(struct inflate *s, unsigned n, unsigned *value)
{
	while (s->nbits < n) {
		if (s->in == s->in_end)
			return ENDED;
		s->buf |= (uint32_t)*s->in++ << s->nbits;
		s->nbits += 8;
	}
	*value = s->buf & ((1u << n) - 1);
	s->buf >>= n;
	s->nbits -= n;
	return GO_ON;
}

/*
 * False: too many words, or too few. The latter is allowed, where may_lack says so, for a code of
 * no word or of a single one of one bit.
 */
static bool code_init(struct code *code, const uint8_t *lens, unsigned nsyms, bool may_lack)
{
	uint16_t next[MAX_BITS + 1] = {0};
	int left = 1;

	memset(code->count, 0, sizeof(code->count));
	for (unsigned i = 0; i < nsyms; i++)
		code->count[lens[i]]++;
	code->count[0] = 0;
	code->max_bits = 1;
	for (unsigned bits = 1; bits <= MAX_BITS; bits++) {
		left = 2 * left - code->count[bits];
		if (left < 0)
			return false;
		if (code->count[bits])
			code->max_bits = bits;
		if (bits < MAX_BITS)
			next[bits + 1] = (uint16_t)(next[bits] + code->count[bits]);
	}
	for (unsigned i = 0; i < nsyms; i++)
		if (lens[i])
			code->sym[next[lens[i]]++] = (uint16_t)i;
	return left == 0 || (may_lack && code->max_bits == 1);
}

static enum step take_symbol(struct inflate *s, const struct code *code, unsigned *sym)
{
	unsigned word = 0, first = 0, index = 0, bit = 0;

	for (unsigned bits = 1; bits <= code->max_bits; bits++) {
		if (take_bits(s, 1, &bit) != GO_ON)
			return ENDED;
		word |= bit;
		if (word - first < code->count[bits]) {
			*sym = code->sym[index + word - first];
			return GO_ON;
		}
		index += code->count[bits];
		first = (first + code->count[bits]) << 1;
		word <<= 1;
	}
	return DAMAGED;
}

static enum step copy_match(struct inflate *s, unsigned len, unsigned dist)
{
	if (s->pos == s->out_end)
		return ENDED;
	if (dist > (size_t)(s->pos - s->out))
		return DAMAGED;
	for (; len; len--, s->pos++) {
		if (s->pos == s->out_end)
			return ENDED;
		*s->pos = s->pos[-(ptrdiff_t)dist];
	}
	return GO_ON;
}

static enum step take_match(struct inflate *s, unsigned lit_sym, const struct code *dist_code)
{
	unsigned extra = 0, sym = 0, len, dist;
	enum step step;

	if (lit_sym > LAST_LIT_SYM)
		return DAMAGED;
	len = len_base[lit_sym - 257];
	if (take_bits(s, len_extra[lit_sym - 257], &extra) != GO_ON)
		return ENDED;
	len += extra;
	step = take_symbol(s, dist_code, &sym);
	if (step != GO_ON)
		return step;
	if (sym > LAST_DIST_SYM)
		return DAMAGED;
	dist = dist_base[sym];
	if (take_bits(s, sym < 2 ? 0 : sym / 2 - 1, &extra) != GO_ON)
		return ENDED;
	return copy_match(s, len, dist + extra);
}

static enum step coded_block(struct inflate *s, const struct code *lit, const struct code *dist)
{
	enum step step = GO_ON;
	unsigned sym = 0;

	while (step == GO_ON) {
		step = take_symbol(s, lit, &sym);
		if (step != GO_ON || sym == END_OF_BLOCK)
			break;
		if (sym > END_OF_BLOCK)
			step = take_match(s, sym, dist);
		else if (s->pos == s->out_end)
			step = ENDED;
		else
			*s->pos++ = (uint8_t)sym;
	}
	return step;
}

static enum step stored_block(struct inflate *s)
{
	unsigned len = 0, check = 0, bits;
	size_t n;

	if (take_bits(s, s->nbits & 7, &bits) != GO_ON || take_bits(s, 16, &len) != GO_ON ||
	    take_bits(s, 16, &check) != GO_ON)
		return ENDED;
	if (check != (len ^ 0xffff))
		return DAMAGED;
	n = len;
	if (n > (size_t)(s->in_end - s->in))
		n = (size_t)(s->in_end - s->in);
	if (n > (size_t)(s->out_end - s->pos))
		n = (size_t)(s->out_end - s->pos);
	memcpy(s->pos, s->in, n);
	s->pos += n;
	s->in += n;
	return n == len ? GO_ON : ENDED;
}

/* The lengths of both codes' words, which are coded themselves. */
static enum step take_lengths(struct inflate *s, const struct code *pre, uint8_t *lens, unsigned n)
{
	for (unsigned have = 0; have < n;) {
		unsigned sym = 0, run = 0;
		enum step step = take_symbol(s, pre, &sym);

		if (step != GO_ON)
			return step;
		if (sym < 16) {
			lens[have++] = (uint8_t)sym;
			continue;
		}
		if (take_bits(s, sym == 16 ? 2 : sym == 17 ? 3 : 7, &run) != GO_ON)
			return ENDED;
		run += sym == 18 ? 11 : 3;
		if ((sym == 16 && have == 0) || run > n - have)
			return DAMAGED;
		memset(lens + have, sym == 16 ? lens[have - 1] : 0, run);
		have += run;
	}
	return GO_ON;
}

static enum step dynamic_block(struct inflate *s)
{
	static const uint8_t order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
					  11, 4,  12, 3, 13, 2, 14, 1, 15};
	uint8_t lens[MAX_LIT_SYMS + MAX_DIST_SYMS] = {0};
	unsigned nlit = 0, ndist = 0, npre = 0, len = 0;
	struct code lit, dist;
	enum step step;

	if (take_bits(s, 5, &nlit) != GO_ON || take_bits(s, 5, &ndist) != GO_ON ||
	    take_bits(s, 4, &npre) != GO_ON)
		return ENDED;
	nlit += 257;
	ndist += 1;
	if (nlit > LAST_LIT_SYM + 1 || ndist > LAST_DIST_SYM + 1)
		return DAMAGED;
	for (unsigned i = 0; i < npre + 4; i++) {
		if (take_bits(s, 3, &len) != GO_ON)
			return ENDED;
		lens[order[i]] = (uint8_t)len;
	}
	if (!code_init(&lit, lens, 19, false))
		return DAMAGED;
	memset(lens, 0, sizeof(lens));
	step = take_lengths(s, &lit, lens, nlit + ndist);
	if (step != GO_ON)
		return step;
	if (lens[END_OF_BLOCK] == 0 || !code_init(&lit, lens, nlit, true) ||
	    !code_init(&dist, lens + nlit, ndist, true))
		return DAMAGED;
	return coded_block(s, &lit, &dist);
}

static enum step fixed_block(struct inflate *s)
{
	uint8_t lens[MAX_LIT_SYMS];
	struct code lit, dist;

	memset(lens, 8, 144);
	memset(lens + 144, 9, 112);
	memset(lens + 256, 7, 24);
	memset(lens + 280, 8, 8);
	(void)code_init(&lit, lens, MAX_LIT_SYMS, false);
	memset(lens, 5, MAX_DIST_SYMS);
	(void)code_init(&dist, lens, MAX_DIST_SYMS, false);
	return coded_block(s, &lit, &dist);
}

static enum step take_block(struct inflate *s, bool *last)
{
	unsigned header = 0;

	if (take_bits(s, 3, &header) != GO_ON)
		return ENDED;
	*last = header & 1;
	switch (header >> 1) {
	case 0:
		return stored_block(s);
	case 1:
		return fixed_block(s);
	case 2:
		return dynamic_block(s);
	default:
		return DAMAGED;
	}
}

enum inflate_result inflate_cluster(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
				    size_t *done)
{
	struct inflate s = {
		.in = in, .in_end = in + in_len, .out = out, .pos = out, .out_end = out + out_len};
	enum step step = GO_ON;
	bool last = false;

	while (step == GO_ON && !last)
		step = take_block(&s, &last);
	*done = (size_t)(s.pos - out);
	if (step == DAMAGED)
		return INFLATE_DAMAGED;
	return s.pos == s.out_end ? INFLATE_FULL : INFLATE_SHORT;
}
