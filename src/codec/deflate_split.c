/* SPDX-License-Identifier: MIT */
/*
 * Where one code ends and the next begins. The parser delivers pieces of equal numbers of tokens;
 * neighbours are joined, the most profitable pair first, as long as one code for both is estimated
 * to be cheaper than two. Costs are entropies in 1/256 bit plus the likely size of a header.
 */
#include "codec/deflate_parts.h"

#define BIT 256u
#define HEADER_COST (60 * BIT)
#define HEADER_COST_PER_SYM (3 * BIT + BIT / 2)

/* log2(1 + i/64) in 1/256. */
static const uint8_t log2_table[64] = {
	0,   6,	  11,  17,  22,	 28,  33,  38,	44,  49,  54,  59,  63,	 68,  73,  78,
	82,  87,  92,  96,  100, 105, 109, 113, 118, 122, 126, 130, 134, 138, 142, 146,
	150, 154, 157, 161, 165, 169, 172, 176, 179, 183, 186, 190, 193, 197, 200, 203,
	207, 210, 213, 216, 220, 223, 226, 229, 232, 235, 238, 241, 244, 247, 250, 253,
};

/* n * log2(n), below 2^18. */
static inline uint32_t n_log2_n(uint32_t n)
{
	unsigned bits = 31u - (unsigned)__builtin_clz(n | 1);
	uint32_t fraction = (n << (31 - bits) >> 25) & 63;

	return n * (bits * BIT + log2_table[fraction]);
}

static uint32_t table_cost(const uint32_t *a, const uint32_t *b, unsigned nsyms)
{
	uint32_t total = 0, spent = 0, used = 0;

	for (unsigned i = 0; i < nsyms; i++) {
		uint32_t n = a[i] + b[i];

		total += n;
		spent += n_log2_n(n);
		used += n != 0;
	}
	return n_log2_n(total) - spent + used * HEADER_COST_PER_SYM;
}

/* Cost of a block of both; extra bits are left out, they are the same however it is cut. */
static uint32_t joint_cost(const struct deflate_chunk *a, const struct deflate_chunk *b)
{
	return HEADER_COST + table_cost(a->freq.lit, b->freq.lit, NUM_LIT_SYMS) +
	       table_cost(a->freq.dist, b->freq.dist, NUM_DIST_SYMS);
}

static void join(struct deflate_chunk *a, const struct deflate_chunk *b, uint32_t cost)
{
	a->seq_end = b->seq_end;
	a->in_len += b->in_len;
	a->cost = cost;
	for (unsigned i = 0; i < NUM_LIT_SYMS; i++)
		a->freq.lit[i] += b->freq.lit[i];
	for (unsigned i = 0; i < NUM_DIST_SYMS; i++)
		a->freq.dist[i] += b->freq.dist[i];
}

void deflate_split(struct deflate_span *span)
{
	static const struct deflate_freq none;
	/* together[i]: cost of the chunks left[i] and its right neighbour as one block */
	uint32_t together[MAX_CHUNKS] = {0};
	uint8_t left[MAX_CHUNKS];
	uint32_t n = span->nchunks;
	struct deflate_chunk *chunks = span->chunks;

	for (uint32_t i = 0; i < n; i++) {
		left[i] = (uint8_t)i;
		chunks[i].cost = HEADER_COST +
				 table_cost(chunks[i].freq.lit, none.lit, NUM_LIT_SYMS) +
				 table_cost(chunks[i].freq.dist, none.dist, NUM_DIST_SYMS);
	}
	for (uint32_t i = 0; i + 1 < n; i++)
		together[i] = joint_cost(&chunks[i], &chunks[i + 1]);
	for (;;) {
		uint32_t best = 0, gain = 0;

		for (uint32_t i = 0; i + 1 < n; i++) {
			uint32_t apart = chunks[left[i]].cost + chunks[left[i + 1]].cost;

			if (apart > together[i] && apart - together[i] > gain) {
				gain = apart - together[i];
				best = i;
			}
		}
		if (!gain)
			break;
		join(&chunks[left[best]], &chunks[left[best + 1]], together[best]);
		n--;
		for (uint32_t i = best + 1; i < n; i++) {
			left[i] = left[i + 1];
			together[i] = together[i + 1];
		}
		if (best > 0)
			together[best - 1] =
				joint_cost(&chunks[left[best - 1]], &chunks[left[best]]);
		if (best + 1 < n)
			together[best] = joint_cost(&chunks[left[best]], &chunks[left[best + 1]]);
	}
	for (uint32_t i = 0; i < n; i++)
		if (left[i] != i)
			chunks[i] = chunks[left[i]];
	span->nchunks = n;
}
