/* SPDX-License-Identifier: MIT */
/*
 * Earlier places with the same bytes, by hash chains. Positions are kept modulo 64 Ki in tables
 * that stay in the nearest caches: for each hash of four bytes the last position (head), from there
 * back through prev; for each hash of three bytes the last position only. An entry may be stale
 * after the position wrapped around, so entries are hints: a distance is used when it is at most
 * 4 KiB and the bytes there are equal; a stale one costs time at worst.
 *
 * What is found depends on the cluster alone: either the tables are cleared for it, or all
 * positions that they hold are out of its reach.
 *
 * All of it is inline: this is where the encoder spends its time, and half of it waiting for
 * wrongly predicted jumps.
 */
#ifndef CODEC_DEFLATE_MATCH_H
#define CODEC_DEFLATE_MATCH_H

#include "base/bytes.h"
#include "codec/deflate_parts.h"

#define HEAD_BITS 14
#define HEAD3_BITS 12
#define WINDOW_MASK (DEFLATE_WINDOW - 1)
#define GOLDEN 0x9e3779b1u
/* Bytes that are read at a position that is looked up. */
#define LOOK_LEN 4
#define THOROUGH_DEPTH 32

#define always_inline inline __attribute__((always_inline))

struct match_tables {
	uint32_t base; /* number of the current cluster's first position */
	uint32_t free; /* first number that isn't used yet */
	uint16_t head[1 << HEAD_BITS];
	uint16_t head3[1 << HEAD3_BITS];
	uint16_t prev[DEFLATE_WINDOW];
};

struct match {
	uint32_t len, dist;
};

/*
 * What the tables say about a position: distances less one, so that 0 is out of range like all
 * that are too far.
 */
struct probe {
	uint32_t pos;
	uint32_t back;	/* first of its chain */
	uint32_t back3; /* last place with the same hash of three bytes */
};

static inline void match_tables_init(struct match_tables *m)
{
	m->free = UINT32_MAX;
}

/* Numbers from a window behind those in use on, if there are enough before they wrap around. */
static inline void match_tables_begin(struct match_tables *m, size_t len)
{
	if (m->free > 65536 || len > 65536 - m->free) {
		memset(m->head, 0, sizeof(m->head));
		memset(m->head3, 0, sizeof(m->head3));
		memset(m->prev, 0, sizeof(m->prev));
		m->free = DEFLATE_WINDOW + 1;
	}
	m->base = m->free;
	m->free = len < 65536 ? m->base + (uint32_t)len + DEFLATE_WINDOW : UINT32_MAX;
}

/* Looks up p, which has number pos, and enters it. */
static always_inline struct probe match_probe(struct match_tables *m, const uint8_t *p,
					      uint32_t pos)
{
	uint32_t seq = load_le32(p);
	uint16_t *head = &m->head[seq * GOLDEN >> (32 - HEAD_BITS)];
	uint16_t *head3 = &m->head3[seq * (GOLDEN << 8) >> (32 - HEAD3_BITS)];
	struct probe probe = {pos, (uint16_t)(pos - 1 - *head), (uint16_t)(pos - 1 - *head3)};

	m->prev[pos & WINDOW_MASK] = *head;
	*head = (uint16_t)pos;
	*head3 = (uint16_t)pos;
	return probe;
}

/* Number of equal bytes from a and b on, at most max; the first len are known to be equal. */
static always_inline uint32_t match_extend(const uint8_t *a, const uint8_t *b, uint32_t len,
					   uint32_t max)
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

/* A place in a chain. */
struct chain {
	const struct match_tables *tables;
	const uint8_t *p; /* what is looked for */
	uint32_t pos;	  /* number of p */
	uint32_t back;	  /* distance of the candidate less one */
	uint32_t depth;	  /* candidates that may still be looked at */
};

static always_inline bool chain_next(struct chain *c)
{
	if (--c->depth == 0)
		return false;
	c->back = (uint16_t)(c->pos - 1 - c->tables->prev[(c->pos - 1 - c->back) & WINDOW_MASK]);
	return true;
}

/*
 * Moves on to a candidate that begins with the same four bytes and has the same four at offset
 * tail_off, which is where a match that is longer than the best so far has to be the same.
 */
static always_inline bool chain_find(struct chain *c, uint32_t tail_off)
{
	uint32_t seq = load_le32(c->p), tail = load_le32(c->p + tail_off);

	do {
		const uint8_t *q = c->p - 1 - c->back;

		if (c->back >= DEFLATE_WINDOW)
			return false;
		if (load_le32(q + tail_off) == tail && (tail_off == 0 || load_le32(q) == seq))
			return true;
	} while (chain_next(c));
	return false;
}

static always_inline uint32_t match_max_len(const uint8_t *p, const uint8_t *end)
{
	return end - p < DEFLATE_MAX_MATCH ? (uint32_t)(end - p) : DEFLATE_MAX_MATCH;
}

/*
 * The longest match along a chain, or best. The chain stands at a candidate that chain_find found;
 * best is at least 3 bytes long and has a byte behind it before end.
 */
static always_inline struct match chain_search(struct chain *c, const uint8_t *end,
					       uint32_t nice_len, struct match best)
{
	do {
		uint32_t max_len = match_max_len(c->p, end);
		uint32_t len = match_extend(c->p, c->p - 1 - c->back, 4, max_len);

		if (len > best.len) {
			best.len = len;
			best.dist = c->back + 1;
			if (len >= nice_len || len >= max_len)
				break;
		}
	} while (chain_next(c) && chain_find(c, best.len - 3));
	return best;
}

/*
 * Zero if the bytes at a candidate are those of seq and it isn't too far away. Without a jump:
 * whether a candidate is too far can't be predicted, and mostly doesn't matter.
 */
static always_inline uint32_t match_differs(const uint8_t *p, uint32_t back, uint32_t seq)
{
	uint32_t near = 0u - (uint32_t)(back < DEFLATE_WINDOW);

	return (load_le32(p - ((back + 1) & near)) ^ seq) | ~near;
}

/*
 * The longest match at p; its dist is 0 if there is none. Little effort is content when the first
 * candidate isn't one: those behind it in the chain are rarely better.
 */
static always_inline struct match match_find(const struct match_tables *m, const uint8_t *p,
					     const uint8_t *end, struct probe probe,
					     const struct deflate_effort *effort)
{
	uint32_t seq = load_le32(p);
	uint32_t differs = match_differs(p, probe.back, seq);
	uint32_t differs3 = match_differs(p, probe.back3, seq) << 8;
	struct chain chain = {m, p, probe.pos, probe.back, effort->depth};
	struct match found = {.len = DEFLATE_MIN_MATCH};

	if (!differs3)
		found.dist = probe.back3 + 1;
	if (differs && (effort->depth < THOROUGH_DEPTH || !chain_find(&chain, 0)))
		return found;
	return chain_search(&chain, end, effort->nice_len, found);
}

/* A match at p that is longer than best, or best. */
static always_inline struct match match_find_longer(const struct match_tables *m, const uint8_t *p,
						    const uint8_t *end, struct probe probe,
						    const struct deflate_effort *effort,
						    struct match best)
{
	struct chain chain = {m, p, probe.pos, probe.back, effort->lazy_depth};

	if (best.len >= match_max_len(p, end) || !chain_find(&chain, best.len - 3))
		return best;
	return chain_search(&chain, end, effort->nice_len, best);
}

#endif
