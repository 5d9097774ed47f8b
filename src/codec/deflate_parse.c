/* SPDX-License-Identifier: MIT */
/*
 * From bytes to literals and matches, by hash chains with lazy evaluation. Positions are kept
 * modulo 64 Ki in tables that stay in the nearest caches: for each hash of four bytes the last
 * position (head), from there back through prev; for each hash of three bytes the last position
 * only. An entry may be stale after the position wrapped around, so entries are hints: a distance
 * is used when it is at most 4 KiB and the bytes there are equal; a stale one costs time at worst.
 *
 * The output depends on the cluster alone: either the tables are cleared for it, or all positions
 * that they hold are out of its reach.
 */
#include "base/alloc.h"
#include "base/bytes.h"
#include "codec/deflate_parts.h"

#define HEAD_BITS 14
#define HEAD3_BITS 12
#define WINDOW_MASK (DEFLATE_WINDOW - 1)
#define GOLDEN 0x9e3779b1u
/* What a search reads at its position. Fewer bytes at the end of a cluster are literals. */
#define LOOK_LEN 4

#define always_inline inline __attribute__((always_inline))

struct deflate_parser {
	struct deflate_effort effort;
	uint32_t base; /* number of the current cluster's first position */
	uint32_t free; /* first number that isn't used yet */
	uint16_t head[1 << HEAD_BITS];
	uint16_t head3[1 << HEAD3_BITS];
	uint16_t prev[DEFLATE_WINDOW];
};

struct match {
	uint32_t len, dist;
};

/* What a call works on. */
struct cursor {
	struct deflate_parser *parser;
	const uint8_t *in, *end;
	const uint8_t *pos;
	const uint8_t *lit; /* first literal that isn't in a sequence yet */
	struct deflate_span *span;
	struct deflate_chunk *chunk;
	const uint8_t *chunk_in; /* where the chunk begins */
	uint32_t ntokens;	 /* in the chunk */
};

static always_inline uint32_t hash4(uint32_t seq)
{
	return seq * GOLDEN >> (32 - HEAD_BITS);
}

static always_inline uint32_t hash3(uint32_t seq)
{
	return seq * (GOLDEN << 8) >> (32 - HEAD3_BITS);
}

/* Enters p, which has number pos, into the tables. */
static always_inline void enter(struct deflate_parser *m, const uint8_t *p, uint32_t pos)
{
	uint32_t seq = load_le32(p);
	uint16_t *head = &m->head[hash4(seq)];

	m->prev[pos & WINDOW_MASK] = *head;
	*head = (uint16_t)pos;
	m->head3[hash3(seq)] = (uint16_t)pos;
}

/* Number of equal bytes from a and b on, at most max; the first len are known to be equal. */
static always_inline uint32_t extend(const uint8_t *a, const uint8_t *b, uint32_t len, uint32_t max)
{
	while (len + 8 <= max) {
		uint64_t diff = load_le64(a + len) ^ load_le64(b + len);

		if (diff)
			return len + (uint32_t)(__builtin_ctzll(diff) >> 3);
		len += 8;
	}
	while (len < max && a[len] == b[len])
		len++;
	return len;
}

/*
 * Looks along a chain for a match that is longer than best (at least 3 bytes long). back is the
 * distance of the first candidate less one, so that a distance of 0 is out of range like all that
 * are too far.
 */
static always_inline struct match walk(const struct deflate_parser *m, const uint8_t *p,
				       uint32_t pos, uint32_t back, uint32_t max_len,
				       uint32_t depth, struct match best)
{
	uint32_t seq = load_le32(p), tail = load_le32(p + best.len - 3);

	while (back < DEFLATE_WINDOW) {
		const uint8_t *q = p - 1 - back;

		if (load_le32(q + best.len - 3) == tail && load_le32(q) == seq) {
			uint32_t len = extend(p, q, 4, max_len);

			if (len > best.len) {
				best.len = len;
				best.dist = back + 1;
				if (len >= m->effort.nice_len || len >= max_len)
					break;
				tail = load_le32(p + len - 3);
			}
		}
		if (--depth == 0)
			break;
		back = (uint16_t)(pos - 1 - m->prev[(pos - 1 - back) & WINDOW_MASK]);
	}
	return best;
}

/* Looks for a match at p that is longer than best (or any, if best.len is 0), and enters p. */
static always_inline struct match search(const struct cursor *c, const uint8_t *p, uint32_t depth,
					 struct match best)
{
	struct deflate_parser *m = c->parser;
	uint32_t pos = m->base + (uint32_t)(p - c->in), seq = load_le32(p);
	uint16_t *head = &m->head[hash4(seq)], *head3 = &m->head3[hash3(seq)];
	uint32_t back = (uint16_t)(pos - 1 - *head), back3 = (uint16_t)(pos - 1 - *head3);
	uint32_t max_len =
		c->end - p < DEFLATE_MAX_MATCH ? (uint32_t)(c->end - p) : DEFLATE_MAX_MATCH;

	m->prev[pos & WINDOW_MASK] = *head;
	*head = (uint16_t)pos;
	*head3 = (uint16_t)pos;
	if (best.len == 0) {
		struct match found = {.len = 3};

		if (back3 < DEFLATE_WINDOW && ((load_le32(p - 1 - back3) ^ seq) << 8) == 0)
			found.dist = back3 + 1;
		found = walk(m, p, pos, back, max_len, depth, found);
		return found.dist ? found : best;
	}
	return best.len < max_len ? walk(m, p, pos, back, max_len, depth, best) : best;
}

/* Is the match that begins a byte later worth a literal? */
static always_inline bool better(struct match next, struct match now)
{
	return next.len > now.len &&
	       4 * (int)(next.len - now.len) + __builtin_clz(next.dist) - __builtin_clz(now.dist) >
		       2;
}

/* Up to stop or the end of the chunk. There are LOOK_LEN bytes behind stop. */
static always_inline void parse_chunk(struct cursor *cursor, const uint8_t *stop, bool lazy)
{
	struct cursor c = *cursor;
	struct deflate_parser *m = c.parser;
	const struct deflate_effort effort = m->effort;
	struct deflate_freq *freq = &c.chunk->freq;
	struct deflate_seq *seq = c.span->seqs + c.span->nseqs;

	while (c.pos < stop && c.ntokens < CHUNK_TOKENS) {
		struct match now = search(&c, c.pos, effort.depth, (struct match){0});
		const uint8_t *entered = c.pos + 1, *match_end;

		if (now.len == 0) {
			freq->lit[*c.pos++]++;
			c.ntokens++;
			continue;
		}
		while (lazy && now.len < effort.lazy_len && entered < stop) {
			struct match next = search(&c, entered++, effort.lazy_depth, now);

			if (!better(next, now))
				break;
			freq->lit[*c.pos++]++;
			c.ntokens++;
			now = next;
		}
		match_end = c.pos + now.len;
		for (; entered < match_end && entered < stop; entered++)
			enter(m, entered, m->base + (uint32_t)(entered - c.in));
		*seq++ = deflate_seq_make((uint32_t)(c.pos - c.lit), now.len, now.dist);
		freq->lit[SYM_LEN + deflate_len_slot[now.len - 3]]++;
		freq->dist[deflate_dist_slot(now.dist)]++;
		c.ntokens++;
		c.pos = c.lit = match_end;
	}
	cursor->span->nseqs = (uint32_t)(seq - c.span->seqs);
	cursor->pos = c.pos;
	cursor->lit = c.lit;
	cursor->ntokens = c.ntokens;
}

static void chunk_open(struct cursor *c)
{
	c->chunk = &c->span->chunks[c->span->nchunks++];
	c->chunk->seq_begin = c->span->nseqs;
	memset(&c->chunk->freq, 0, sizeof(c->chunk->freq));
	c->chunk_in = c->pos;
	c->ntokens = 0;
}

static void chunk_close(struct cursor *c)
{
	if (c->lit < c->pos)
		c->span->seqs[c->span->nseqs++] =
			deflate_seq_make((uint32_t)(c->pos - c->lit), 0, 0);
	c->lit = c->pos;
	c->chunk->seq_end = c->span->nseqs;
	c->chunk->in_len = (uint32_t)(c->pos - c->chunk_in);
}

static void parse_span(struct cursor *c, const uint8_t *span_end)
{
	const uint8_t *search_end = c->end - c->in > LOOK_LEN ? c->end - LOOK_LEN : c->in;
	const uint8_t *stop = span_end < search_end ? span_end : search_end;

	for (;;) {
		chunk_open(c);
		if (c->parser->effort.lazy_depth)
			parse_chunk(c, stop, true);
		else
			parse_chunk(c, stop, false);
		while (c->pos >= search_end && c->pos < span_end && c->ntokens < CHUNK_TOKENS) {
			c->chunk->freq.lit[*c->pos++]++;
			c->ntokens++;
		}
		chunk_close(c);
		if (c->pos >= span_end || c->span->nchunks == MAX_CHUNKS)
			break;
	}
}

void deflate_parse(struct deflate_parser *parser, const uint8_t *in, size_t len, size_t *pos,
		   struct deflate_span *span)
{
	struct cursor c = {.parser = parser,
			   .in = in,
			   .end = in + len,
			   .pos = in + *pos,
			   .lit = in + *pos,
			   .span = span};

	span->nseqs = 0;
	span->nchunks = 0;
	parse_span(&c, len - *pos > SPAN_LEN ? c.pos + SPAN_LEN : c.end);
	*pos = (size_t)(c.pos - in);
}

struct deflate_parser *deflate_parser_new(const struct deflate_effort *effort)
{
	struct deflate_parser *parser = mem_aligned(64, sizeof(*parser));

	if (parser) {
		parser->effort = *effort;
		parser->free = UINT32_MAX;
	}
	return parser;
}

void deflate_parser_free(struct deflate_parser *parser)
{
	mem_free(parser);
}

/* Numbers from a window behind those in use on, if there are enough before they wrap around. */
void deflate_parser_reset(struct deflate_parser *parser, size_t len)
{
	if (parser->free > 65536 || len > 65536 - parser->free) {
		memset(parser->head, 0, sizeof(parser->head));
		memset(parser->head3, 0, sizeof(parser->head3));
		memset(parser->prev, 0, sizeof(parser->prev));
		parser->free = DEFLATE_WINDOW + 1;
	}
	parser->base = parser->free;
	parser->free = len < 65536 ? parser->base + (uint32_t)len + DEFLATE_WINDOW : UINT32_MAX;
}
