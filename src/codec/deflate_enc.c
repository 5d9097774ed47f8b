/* SPDX-License-Identifier: MIT */
/* The deflate encoder from the outside: levels, memory, and the walk over a cluster. */
#include "codec/deflate_enc.h"

#include "base/alloc.h"
#include "codec/deflate_parts.h"

struct deflate_enc {
	struct deflate_parser *parser;
	struct deflate_span *span;
};

static const struct deflate_effort efforts[DEFLATE_LEVEL_MAX + 1] = {
	/* depth, lazy_depth, lazy_len, nice_len */
	[1] = {1, 0, 0, 16},	     [2] = {2, 0, 0, 32},	  [3] = {4, 1, 6, 16},
	[4] = {4, 2, 12, 32},	     [5] = {6, 3, 16, 32},	  [6] = {10, 5, 16, 32},
	[7] = {16, 8, 32, 32},	     [8] = {32, 16, 32, 64},	  [9] = {64, 32, 64, 128},
	[10] = {128, 128, 128, 258}, [11] = {512, 512, 258, 258}, [12] = {4096, 4096, 258, 258},
};

struct deflate_enc *deflate_enc_new(int level)
{
	struct deflate_enc *enc = mem_zalloc(1, sizeof(*enc));

	if (!enc)
		return NULL;
	if (level < DEFLATE_LEVEL_MIN)
		level = DEFLATE_LEVEL_MIN;
	if (level > DEFLATE_LEVEL_MAX)
		level = DEFLATE_LEVEL_MAX;
	enc->parser = deflate_parser_new(&efforts[level]);
	enc->span = mem_alloc(1, sizeof(*enc->span));
	if (!enc->parser || !enc->span) {
		deflate_enc_free(enc);
		return NULL;
	}
	return enc;
}

void deflate_enc_free(struct deflate_enc *enc)
{
	if (!enc)
		return;
	deflate_parser_free(enc->parser);
	mem_free(enc->span);
	mem_free(enc);
}

size_t deflate_enc_run(struct deflate_enc *enc, const uint8_t *in, size_t len, uint8_t *out,
		       size_t cap)
{
	struct deflate_span *span = enc->span;
	struct bit_writer w;
	size_t pos = 0;

	bits_init(&w, out, cap);
	deflate_parser_reset(enc->parser, len);
	while (pos < len) {
		size_t block_pos = pos;

		deflate_parse(enc->parser, in, len, &pos, span);
		deflate_split(span);
		for (uint32_t i = 0; i < span->nchunks; i++) {
			const struct deflate_chunk *block = &span->chunks[i];
			bool last = pos == len && i == span->nchunks - 1;

			if (!deflate_block_write(&w, block, span->seqs, in + block_pos, last))
				return 0;
			block_pos += block->in_len;
		}
	}
	bits_align(&w);
	return (size_t)(w.pos - out);
}
