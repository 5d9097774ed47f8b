/* SPDX-License-Identifier: MIT */
/* What the parts of the deflate encoder share: sequences, counts, the format's numbers. */
#ifndef CODEC_DEFLATE_PARTS_H
#define CODEC_DEFLATE_PARTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "codec/deflate_bits.h"

#define DEFLATE_WINDOW 4096u
#define DEFLATE_MIN_MATCH 3u
#define DEFLATE_MAX_MATCH 258u

#define NUM_LIT_SYMS 286u
#define NUM_DIST_SYMS 24u /* slot 23 ends at distance 4096 */
#define NUM_PRE_SYMS 19u
#define SYM_END 256u
#define SYM_LEN 257u

/* Shorter than the format's 15, so that four literals go into one flush. */
#define LIT_MAX_BITS 14u
#define DIST_MAX_BITS 14u
#define PRE_MAX_BITS 7u

/* nlit literals, then a match; len 0: no match. */
struct deflate_seq {
	uint16_t nlit; /* a chunk hasn't more tokens */
	uint16_t len;
	uint16_t dist;
	uint16_t dist_slot;
};

/* How often each symbol occurs. */
struct deflate_freq {
	uint32_t lit[NUM_LIT_SYMS];
	uint32_t dist[NUM_DIST_SYMS];
};

/* A run of sequences with its counts: first a piece of fixed size, then a block. */
struct deflate_chunk {
	uint32_t seq_begin, seq_end;
	uint32_t in_len; /* bytes of input that the sequences stand for */
	uint32_t cost;	 /* estimate, in 1/256 bit */
	struct deflate_freq freq;
};

#define CHUNK_TOKENS 2048u
#define MAX_CHUNKS 64u
#define SPAN_LEN (128u << 10) /* input that is parsed before blocks are written */
#define MAX_SEQS (SPAN_LEN / DEFLATE_MIN_MATCH + MAX_CHUNKS + 2)

/* Sequences of one span of input. */
struct deflate_span {
	uint32_t nchunks;
	struct deflate_seq seqs[MAX_SEQS];
	struct deflate_chunk chunks[MAX_CHUNKS];
};

extern const uint8_t deflate_len_slot[256]; /* by length - 3 */
extern const uint8_t deflate_len_extra[29];
extern const uint16_t deflate_len_base[29];

/* dist is 1 to 32768. */
static inline unsigned deflate_dist_slot(uint32_t dist)
{
	unsigned n;

	dist--;
	if (dist < 2)
		return dist;
	n = 31u - (unsigned)__builtin_clz(dist);
	return 2 * n + (dist >> (n - 1) & 1);
}

static inline unsigned deflate_dist_extra(unsigned slot)
{
	return slot < 2 ? 0 : slot / 2 - 1;
}

/* ---- deflate_parse.c ---- */

struct deflate_effort {
	uint16_t depth;	     /* candidates looked at for a match */
	uint16_t lazy_depth; /* and for a better one at the next byte; 0: the first one is taken */
	uint16_t lazy_len;   /* a match this long is taken at once */
	uint16_t nice_len;   /* a match this long ends a search */
};

struct deflate_parser;
struct deflate_parser *deflate_parser_new(const struct deflate_effort *effort);
void deflate_parser_free(struct deflate_parser *parser);
/* Begins a cluster of len bytes. */
void deflate_parser_reset(struct deflate_parser *parser, size_t len);
/* Parses from *pos on, at least to the end of the span; sets *pos to the end of the last match. */
void deflate_parse(struct deflate_parser *parser, const uint8_t *in, size_t len, size_t *pos,
		   struct deflate_span *span);

/* ---- deflate_split.c ---- */

/* Joins neighbouring chunks where one code for both is cheaper; they become blocks. */
void deflate_split(struct deflate_span *span);

/* ---- deflate_huff.c ---- */

/*
 * Lengths of a complete prefix code in which no word is longer than max_bits. At least two
 * symbols get a word, whatever the counts.
 */
void deflate_huff_lengths(const uint32_t *freq, unsigned nsyms, unsigned max_bits, uint8_t *lens);
/* Canonical codewords, first bit lowest. */
void deflate_huff_codes(const uint8_t *lens, unsigned nsyms, uint16_t *codes);

/* ---- deflate_block.c ---- */

struct deflate_block_writer;
/* False: the block doesn't fit. in is the first byte of the block. */
bool deflate_block_write(struct bit_writer *w, const struct deflate_chunk *block,
			 const struct deflate_seq *seqs, const uint8_t *in, bool last);

#endif
