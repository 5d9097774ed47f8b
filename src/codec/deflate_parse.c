/* SPDX-License-Identifier: MIT */
/*
 * From bytes to literals and matches: at each position the longest match, unless the next position
 * has a better one (lazy evaluation).
 */
#include "base/alloc.h"
#include "codec/deflate_match.h"
#include "codec/deflate_parts.h"

/* After so many (a power of two) literals in a row only every other position is looked up, after
 * twice as many every third, and so on: what can't be compressed is passed over quickly. */
#define DULL_BITS 7

struct deflate_parser {
	struct deflate_effort effort;
	struct match_tables tables;
};

/* The state of a call. */
struct cursor {
	const uint8_t *end;
	uintptr_t origin;    /* address of the position with number 0 */
	const uint8_t *stop; /* no position is looked up from here on */
	const uint8_t *pos;
	const uint8_t *lit; /* first literal that isn't in a sequence yet */
	struct match_tables *tables;
	struct deflate_seq *seq;
	struct deflate_span *span;
	struct deflate_chunk *chunk;
	const uint8_t *chunk_in; /* where the chunk begins */
	uint32_t ntokens;	 /* in the chunk */
};

static void chunk_open(struct cursor *c)
{
	c->chunk = &c->span->chunks[c->span->nchunks++];
	c->chunk->seq_begin = (uint32_t)(c->seq - c->span->seqs);
	memset(&c->chunk->freq, 0, sizeof(c->chunk->freq));
	c->chunk_in = c->pos;
	c->ntokens = 0;
}

static void chunk_close(struct cursor *c)
{
	if (c->lit < c->pos)
		*c->seq++ = (struct deflate_seq){.nlit = (uint16_t)(c->pos - c->lit)};
	c->lit = c->pos;
	c->chunk->seq_end = (uint32_t)(c->seq - c->span->seqs);
	c->chunk->in_len = (uint32_t)(c->pos - c->chunk_in);
}

static always_inline void put_literal(struct cursor *c)
{
	c->chunk->freq.lit[*c->pos++]++;
	c->ntokens++;
}

static always_inline void put_match(struct cursor *c, struct match match)
{
	unsigned dist_slot = deflate_dist_slot(match.dist);

	*c->seq++ = (struct deflate_seq){
		.nlit = (uint16_t)(c->pos - c->lit),
		.len = (uint16_t)match.len,
		.dist = (uint16_t)match.dist,
		.dist_slot = (uint16_t)dist_slot,
	};
	c->chunk->freq.lit[SYM_LEN + deflate_len_slot[match.len - DEFLATE_MIN_MATCH]]++;
	c->chunk->freq.dist[dist_slot]++;
	c->ntokens++;
	c->pos += match.len;
	c->lit = c->pos;
}

/* Positions that aren't looked up have no candidates and aren't entered. */
static always_inline struct probe probe_at(const struct cursor *c, const uint8_t *p)
{
	uint32_t pos = (uint32_t)((uintptr_t)p - c->origin);

	if (p >= c->stop)
		return (struct probe){pos, DEFLATE_WINDOW, DEFLATE_WINDOW};
	return match_probe(c->tables, p, pos);
}

/* Enters the positions from p to end. */
static always_inline void enter(const struct cursor *c, const uint8_t *p, const uint8_t *end)
{
	uint32_t pos = (uint32_t)((uintptr_t)p - c->origin);

	if (end > c->stop)
		end = c->stop;
	for (; p < end; p++, pos++)
		(void)match_probe(c->tables, p, pos);
}

/* Is the match that begins a byte later worth a literal? */
static always_inline bool better(struct match next, struct match now)
{
	return next.len > now.len &&
	       4 * (int)(next.len - now.len) + __builtin_clz(next.dist) - __builtin_clz(now.dist) >
		       2;
}

/*
 * One chunk, or less if stop comes first. A position is looked up one step before the result is
 * needed. Otherwise each wrongly predicted jump would wait for hash, table and candidate in turn.
 */
static always_inline struct probe parse_chunk(struct cursor *cursor, struct probe now,
					      const struct deflate_effort *effort, bool lazy)
{
	struct cursor c = *cursor;

	while (c.pos < c.stop && c.ntokens < CHUNK_TOKENS) {
		const uint8_t *probed = c.pos + 1;
		struct probe next = probe_at(&c, probed);
		struct match match = match_find(c.tables, c.pos, c.end, now, effort), later;
		size_t skip = (size_t)(c.pos - c.lit) >> DULL_BITS;

		if (match.dist == 0) {
			put_literal(&c);
			now = next;
			if (skip == 0)
				continue;
			while (skip-- && c.pos < c.stop)
				put_literal(&c);
			now = probe_at(&c, c.pos);
			continue;
		}
		while (lazy && match.len < effort->lazy_len && probed < c.stop) {
			now = next;
			next = probe_at(&c, probed + 1);
			later = match_find_longer(c.tables, probed, c.end, now, effort, match);
			probed++;
			if (!better(later, match))
				break;
			put_literal(&c);
			match = later;
		}
		enter(&c, probed + 1, c.pos + match.len);
		put_match(&c, match);
		now = probe_at(&c, c.pos);
	}
	*cursor = c;
	return now;
}

static always_inline void parse_span(struct cursor *c, const uint8_t *span_end,
				     const struct deflate_effort *effort, bool lazy)
{
	struct probe now = probe_at(c, c->pos);

	for (;;) {
		chunk_open(c);
		now = parse_chunk(c, now, effort, lazy);
		/* Only at the end of the cluster: there aren't enough bytes to look up. */
		while (c->pos >= c->stop && c->pos < span_end && c->ntokens < CHUNK_TOKENS)
			put_literal(c);
		chunk_close(c);
		if (c->pos >= span_end || c->span->nchunks == MAX_CHUNKS)
			break;
	}
}

void deflate_parse(struct deflate_parser *parser, const uint8_t *in, size_t len, size_t *pos,
		   struct deflate_span *span)
{
	struct deflate_effort effort = parser->effort;
	size_t span_end = len - *pos > SPAN_LEN ? *pos + SPAN_LEN : len;
	size_t look_end = len > LOOK_LEN ? len - LOOK_LEN : 0;
	struct cursor c = {
		.origin = (uintptr_t)in - parser->tables.base,
		.end = in + len,
		.stop = in + (span_end < look_end ? span_end : look_end),
		.pos = in + *pos,
		.lit = in + *pos,
		.tables = &parser->tables,
		.seq = span->seqs,
		.span = span,
	};

	span->nchunks = 0;
	if (effort.lazy_depth)
		parse_span(&c, in + span_end, &effort, true);
	else
		parse_span(&c, in + span_end, &effort, false);
	*pos = (size_t)(c.pos - in);
}

struct deflate_parser *deflate_parser_new(const struct deflate_effort *effort)
{
	struct deflate_parser *parser = mem_aligned(64, sizeof(*parser));

	if (parser) {
		parser->effort = *effort;
		match_tables_init(&parser->tables);
	}
	return parser;
}

void deflate_parser_free(struct deflate_parser *parser)
{
	mem_free(parser);
}

void deflate_parser_reset(struct deflate_parser *parser, size_t len)
{
	match_tables_begin(&parser->tables, len);
}
