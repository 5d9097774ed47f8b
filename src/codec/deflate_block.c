/* SPDX-License-Identifier: MIT */
/*
 * One block of a deflate stream: stored, with the format's fixed codes or with codes of its own,
 * whichever is the shortest. Sizes are counted to the bit before anything is written, so that
 * nothing is written that doesn't fit.
 */
#include "codec/deflate_parts.h"

#define MAX_STORED 65535u
/* The fixed code has two words that stand for nothing, but take part in the numbering. */
#define NUM_LIT_WORDS 288u

const uint8_t deflate_len_extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
				       2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
const uint16_t deflate_len_base[29] = {3,  4,  5,  6,	7,   8,	  9,   10,  11, 13,
				       15, 17, 19, 23,	27,  31,  35,  43,  51, 59,
				       67, 83, 99, 115, 131, 163, 195, 227, 258};
const uint8_t deflate_len_slot[256] = {
	0,  1,	2,  3,	4,  5,	6,  7,	8,  8,	9,  9,	10, 10, 11, 11, 12, 12, 12, 12, 13, 13,
	13, 13, 14, 14, 14, 14, 15, 15, 15, 15, 16, 16, 16, 16, 16, 16, 16, 16, 17, 17, 17, 17,
	17, 17, 17, 17, 18, 18, 18, 18, 18, 18, 18, 18, 19, 19, 19, 19, 19, 19, 19, 19, 20, 20,
	20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 21, 21, 21, 21, 21, 21, 21, 21,
	21, 21, 21, 21, 21, 21, 21, 21, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22,
	22, 22, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 24, 24, 24, 24,
	24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24,
	24, 24, 24, 24, 24, 24, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25,
	25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 26, 26, 26, 26, 26, 26,
	26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26,
	26, 26, 26, 26, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27,
	27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 28,
};

/* Lengths of the words of a block's two codes. */
struct code_lens {
	uint8_t lit[NUM_LIT_WORDS];
	uint8_t dist[NUM_DIST_SYMS];
};

/* The lengths as they go into a block's header: symbols 0 to 18 with extra bits. */
struct header {
	unsigned nlit, ndist, npre, nitems;
	uint8_t item[NUM_LIT_SYMS + NUM_DIST_SYMS];
	uint8_t extra[NUM_LIT_SYMS + NUM_DIST_SYMS];
	uint8_t pre_lens[NUM_PRE_SYMS];
	uint32_t nbits;
};

static const uint8_t pre_order[NUM_PRE_SYMS] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
						11, 4,	12, 3, 13, 2, 14, 1, 15};
static const uint8_t pre_extra[NUM_PRE_SYMS] = {[16] = 2, [17] = 3, [18] = 7};

static void add_item(struct header *h, uint32_t *freq, unsigned sym, unsigned extra)
{
	h->item[h->nitems] = (uint8_t)sym;
	h->extra[h->nitems++] = (uint8_t)extra;
	freq[sym]++;
}

/* Adds a run of equal lengths. */
static void add_run(struct header *h, uint32_t *freq, unsigned value, unsigned count)
{
	if (value == 0) {
		for (; count >= 11; count -= count < 138 ? count : 138)
			add_item(h, freq, 18, (count < 138 ? count : 138) - 11);
		if (count >= 3) {
			add_item(h, freq, 17, count - 3);
			count = 0;
		}
	} else if (count >= 4) {
		add_item(h, freq, value, 0);
		for (count--; count >= 3; count -= count < 6 ? count : 6)
			add_item(h, freq, 16, (count < 6 ? count : 6) - 3);
	}
	while (count--)
		add_item(h, freq, value, 0);
}

static void plan_header(struct header *h, const struct code_lens *lens)
{
	uint8_t all[NUM_LIT_SYMS + NUM_DIST_SYMS];
	uint32_t freq[NUM_PRE_SYMS] = {0};
	unsigned n, run;

	for (h->nlit = NUM_LIT_SYMS; h->nlit > SYM_LEN && !lens->lit[h->nlit - 1];)
		h->nlit--;
	for (h->ndist = NUM_DIST_SYMS; h->ndist > 1 && !lens->dist[h->ndist - 1];)
		h->ndist--;
	memcpy(all, lens->lit, h->nlit);
	memcpy(all + h->nlit, lens->dist, h->ndist);
	n = h->nlit + h->ndist;
	h->nitems = 0;
	for (unsigned i = 0; i < n; i += run) {
		for (run = 1; i + run < n && all[i + run] == all[i];)
			run++;
		add_run(h, freq, all[i], run);
	}
	deflate_huff_lengths(freq, NUM_PRE_SYMS, PRE_MAX_BITS, h->pre_lens);
	for (h->npre = NUM_PRE_SYMS; h->npre > 4 && !h->pre_lens[pre_order[h->npre - 1]];)
		h->npre--;
	h->nbits = 5 + 5 + 4 + 3 * h->npre;
	for (unsigned i = 0; i < NUM_PRE_SYMS; i++)
		h->nbits += freq[i] * (h->pre_lens[i] + pre_extra[i]);
}

static void write_header(struct bit_writer *w, const struct header *h)
{
	uint16_t codes[NUM_PRE_SYMS];

	deflate_huff_codes(h->pre_lens, NUM_PRE_SYMS, codes);
	bits_put(w, h->nlit - 257, 5);
	bits_put(w, h->ndist - 1, 5);
	bits_put(w, h->npre - 4, 4);
	bits_flush(w);
	for (unsigned i = 0; i < h->npre; i++) {
		bits_put(w, h->pre_lens[pre_order[i]], 3);
		bits_flush(w);
	}
	for (unsigned i = 0; i < h->nitems; i++) {
		unsigned sym = h->item[i];

		bits_put(w, codes[sym], h->pre_lens[sym]);
		bits_put(w, h->extra[i], pre_extra[sym]);
		bits_flush(w);
	}
}

static void fixed_lens(struct code_lens *lens)
{
	memset(lens->lit, 8, 144);
	memset(lens->lit + 144, 9, 112);
	memset(lens->lit + 256, 7, 24);
	memset(lens->lit + 280, 8, NUM_LIT_WORDS - 280);
	memset(lens->dist, 5, NUM_DIST_SYMS);
}

/* Bits of the block's tokens without their extra bits. */
static uint64_t count_bits(const struct deflate_freq *freq, const struct code_lens *lens)
{
	uint64_t nbits = 0;

	for (unsigned i = 0; i < NUM_LIT_SYMS; i++)
		nbits += freq->lit[i] * lens->lit[i];
	for (unsigned i = 0; i < NUM_DIST_SYMS; i++)
		nbits += freq->dist[i] * lens->dist[i];
	return nbits;
}

static uint64_t count_extra_bits(const struct deflate_freq *freq)
{
	uint64_t nbits = 0;

	for (unsigned i = 0; i < 29; i++)
		nbits += freq->lit[SYM_LEN + i] * deflate_len_extra[i];
	for (unsigned i = 0; i < NUM_DIST_SYMS; i++)
		nbits += freq->dist[i] * deflate_dist_extra(i);
	return nbits;
}

/* What is written for each token: the bits, with their number in the top byte. */
struct tables {
	uint32_t lit[SYM_END + 1];
	uint32_t len[256]; /* by length - 3, with the extra bits; only for symbols that occur */
	uint32_t dist[NUM_DIST_SYMS]; /* without extra bits */
	uint16_t dist_base[NUM_DIST_SYMS];
	uint8_t dist_nbits[NUM_DIST_SYMS]; /* with extra bits */
};

static inline uint32_t entry(uint32_t bits, unsigned n)
{
	return bits | (uint32_t)n << 24;
}

static inline void put_entry(struct bit_writer *w, uint32_t e)
{
	bits_put(w, e & 0xffffff, e >> 24);
}

static void make_tables(struct tables *t, const struct deflate_freq *freq,
			const struct code_lens *lens)
{
	uint16_t codes[NUM_LIT_WORDS];
	uint32_t dist_base = 1;

	deflate_huff_codes(lens->lit, NUM_LIT_WORDS, codes);
	for (unsigned i = 0; i <= SYM_END; i++)
		t->lit[i] = entry(codes[i], lens->lit[i]);
	for (unsigned slot = 0; slot < 29; slot++) {
		unsigned sym = SYM_LEN + slot, extra = deflate_len_extra[slot];

		if (!freq->lit[sym])
			continue;
		for (unsigned i = 0; i < 1u << extra; i++) {
			unsigned len = deflate_len_base[slot] + i;

			/* 258 has a symbol of its own. */
			if (deflate_len_slot[len - 3] == slot)
				t->len[len - 3] = entry(codes[sym] | i << lens->lit[sym],
							lens->lit[sym] + extra);
		}
	}
	deflate_huff_codes(lens->dist, NUM_DIST_SYMS, codes);
	for (unsigned slot = 0; slot < NUM_DIST_SYMS; slot++) {
		unsigned extra = deflate_dist_extra(slot);

		t->dist[slot] = entry(codes[slot], lens->dist[slot]);
		t->dist_base[slot] = (uint16_t)dist_base;
		t->dist_nbits[slot] = (uint8_t)(lens->dist[slot] + extra);
		dist_base += 1u << extra;
	}
}

static inline void put_match(struct bit_writer *w, const struct tables *t,
			     const struct deflate_seq *seq)
{
	uint32_t e = t->dist[seq->dist_slot];
	uint64_t extra = seq->dist - (uint32_t)t->dist_base[seq->dist_slot];

	put_entry(w, t->len[seq->len - 3]);
	bits_put(w, (e & 0xffffff) | extra << (e >> 24), t->dist_nbits[seq->dist_slot]);
	bits_flush(w);
}

static void write_tokens(struct bit_writer *out, const struct tables *t,
			 const struct deflate_seq *seq, const struct deflate_seq *end,
			 const uint8_t *in)
{
	struct bit_writer w = *out;

	for (; seq < end; seq++) {
		uint32_t nlit = seq->nlit;

		for (; nlit >= 4; nlit -= 4, in += 4) {
			put_entry(&w, t->lit[in[0]]);
			put_entry(&w, t->lit[in[1]]);
			put_entry(&w, t->lit[in[2]]);
			put_entry(&w, t->lit[in[3]]);
			bits_flush(&w);
		}
		if (!seq->len) {
			for (; nlit; nlit--)
				put_entry(&w, t->lit[*in++]);
			bits_flush(&w);
			continue;
		}
		/* Up to three literals without a jump: three bytes are there, a match follows. */
		put_entry(&w, t->lit[in[0]] & (0u - (nlit > 0)));
		put_entry(&w, t->lit[in[1]] & (0u - (nlit > 1)));
		put_entry(&w, t->lit[in[2]] & (0u - (nlit > 2)));
		bits_flush(&w);
		put_match(&w, t, seq);
		in += nlit + seq->len;
	}
	put_entry(&w, t->lit[SYM_END]);
	bits_flush(&w);
	*out = w;
}

/* Bits that len bytes take in stored blocks, from where the writer is. */
static uint64_t stored_bits(const struct bit_writer *w, uint32_t len)
{
	uint64_t nblocks = (len + MAX_STORED - 1) / MAX_STORED;
	unsigned fill = (0u - (w->n + 3)) & 7;

	return 3 + fill + 32 + 8 * (uint64_t)len + (nblocks - 1) * (8 + 32);
}

static void write_stored(struct bit_writer *w, const uint8_t *in, uint32_t len, bool last)
{
	while (len) {
		uint32_t n = len < MAX_STORED ? len : MAX_STORED;

		len -= n;
		bits_put(w, last && !len, 3);
		bits_align(w);
		bits_put(w, n, 16);
		bits_put(w, n ^ 0xffff, 16);
		bits_flush(w);
		memcpy(w->pos, in, n);
		w->pos += n;
		in += n;
	}
}

static bool fits(const struct bit_writer *w, uint64_t nbits)
{
	return w->n + nbits <= 8 * (uint64_t)(w->end - w->pos);
}

bool deflate_block_write(struct bit_writer *w, const struct deflate_chunk *block,
			 const struct deflate_seq *seqs, const uint8_t *in, bool last)
{
	struct deflate_freq freq = block->freq;
	struct code_lens own, fixed;
	struct tables tables;
	struct header header;
	uint64_t extra = count_extra_bits(&freq), own_bits, fixed_bits, stored;
	bool dynamic;

	freq.lit[SYM_END] = 1;
	memset(own.lit, 0, sizeof(own.lit));
	deflate_huff_lengths(freq.lit, NUM_LIT_SYMS, LIT_MAX_BITS, own.lit);
	deflate_huff_lengths(freq.dist, NUM_DIST_SYMS, DIST_MAX_BITS, own.dist);
	plan_header(&header, &own);
	fixed_lens(&fixed);
	own_bits = 3 + header.nbits + extra + count_bits(&freq, &own);
	fixed_bits = 3 + extra + count_bits(&freq, &fixed);
	stored = stored_bits(w, block->in_len);
	dynamic = own_bits < fixed_bits;
	if (dynamic)
		fixed_bits = own_bits;
	if (!fits(w, stored < fixed_bits ? stored : fixed_bits))
		return false;
	if (stored < fixed_bits) {
		write_stored(w, in, block->in_len, last);
		return true;
	}
	bits_put(w, last, 1);
	bits_put(w, dynamic ? 2 : 1, 2);
	if (dynamic)
		write_header(w, &header);
	make_tables(&tables, &freq, dynamic ? &own : &fixed);
	write_tokens(w, &tables, seqs + block->seq_begin, seqs + block->seq_end, in);
	return true;
}
