/* SPDX-License-Identifier: MIT */
/*
 * Prefix codes with a limit on the length of a word. Lengths come from Moffat's and Katajainen's
 * in-place construction over sorted counts; words over the limit are then shortened to it and the
 * sum of 2^-length brought back to one by making other words longer. That isn't always the
 * optimum (package-merge would be), but the limit is hardly ever met.
 */
#include "codec/deflate_parts.h"

#define SYM_BITS 9
#define SYM_MASK ((1u << SYM_BITS) - 1)

/* One pass of a radix sort, by 8 bits from shift on. */
static void sort_pass(const uint32_t *from, uint32_t *to, unsigned n, unsigned shift)
{
	uint16_t start[256] = {0};
	uint16_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		start[from[i] >> shift & 255]++;
	for (unsigned i = 0; i < 256; i++) {
		uint16_t count = start[i];

		start[i] = sum;
		sum = (uint16_t)(sum + count);
	}
	for (unsigned i = 0; i < n; i++)
		to[start[from[i] >> shift & 255]++] = from[i];
}

/* Used symbols by rising count, ties by symbol; each is count << SYM_BITS | symbol. */
static unsigned sort_used(const uint32_t *freq, unsigned nsyms, uint32_t *sorted)
{
	uint32_t other[NUM_LIT_SYMS];
	uint32_t all = 0;
	unsigned n = 0;

	for (unsigned i = 0; i < nsyms; i++) {
		sorted[n] = freq[i] << SYM_BITS | i;
		all |= freq[i];
		n += freq[i] != 0;
	}
	sort_pass(sorted, other, n, SYM_BITS);
	sort_pass(other, sorted, n, SYM_BITS + 8);
	if (all >> 16) {
		sort_pass(sorted, other, n, SYM_BITS + 16);
		memcpy(sorted, other, n * sizeof(*sorted));
	}
	return n;
}

/* Replaces n >= 2 rising weights by the lengths of their words, falling. */
static void weights_to_lengths(uint32_t *a, unsigned n)
{
	unsigned leaf = 2, root = 0, next, avail = 1, depth = 0, used;

	a[0] += a[1];
	for (next = 1; next < n - 1; next++) {
		if (leaf >= n || a[root] < a[leaf]) {
			a[next] = a[root];
			a[root++] = next;
		} else {
			a[next] = a[leaf++];
		}
		if (leaf >= n || (root < next && a[root] < a[leaf])) {
			a[next] += a[root];
			a[root++] = next;
		} else {
			a[next] += a[leaf++];
		}
	}
	/* Weights of inner nodes are now indices of their parents; make them depths. */
	a[n - 2] = 0;
	for (unsigned i = n - 2; i-- > 0;)
		a[i] = a[a[i]] + 1;
	/* And inner nodes' depths into leaves' depths, from the top of the tree down. */
	root = n - 1;
	next = n;
	while (avail) {
		for (used = 0; root > 0 && a[root - 1] == depth; root--)
			used++;
		for (; avail > used; avail--)
			a[--next] = depth;
		avail = 2 * used;
		depth++;
	}
}

/* Makes the counts of lengths those of a complete code of at most max_bits. */
static void limit_lengths(uint16_t *count, unsigned max_bits)
{
	uint32_t sum = 0;

	for (unsigned bits = 1; bits <= max_bits; bits++)
		sum += (uint32_t)count[bits] << (max_bits - bits);
	while (sum > 1u << max_bits) {
		unsigned bits = max_bits - 1;

		/* One word of max_bits goes, next to one that is made a bit longer. */
		while (count[bits] == 0)
			bits--;
		count[max_bits]--;
		count[bits]--;
		count[bits + 1] = (uint16_t)(count[bits + 1] + 2);
		sum--;
	}
}

void deflate_huff_lengths(const uint32_t *freq, unsigned nsyms, unsigned max_bits, uint8_t *lens)
{
	uint32_t sorted[NUM_LIT_SYMS] = {0}, depth[NUM_LIT_SYMS];
	uint16_t count[LIT_MAX_BITS + 2] = {0};
	unsigned n = sort_used(freq, nsyms, sorted), next = 0;

	memset(lens, 0, nsyms);
	if (n < 2) {
		unsigned sym = n ? sorted[0] & SYM_MASK : 0;

		lens[sym] = 1;
		lens[sym ? 0 : 1] = 1;
		return;
	}
	for (unsigned i = 0; i < n; i++)
		depth[i] = sorted[i] >> SYM_BITS;
	weights_to_lengths(depth, n);
	for (unsigned i = 0; i < n; i++)
		count[depth[i] < max_bits ? depth[i] : max_bits]++;
	if (depth[0] > max_bits)
		limit_lengths(count, max_bits);
	for (unsigned bits = max_bits; bits > 0; bits--)
		for (unsigned i = 0; i < count[bits]; i++)
			lens[sorted[next++] & SYM_MASK] = (uint8_t)bits;
}

static uint16_t reversed(uint32_t word, unsigned bits)
{
	word = (word & 0x5555) << 1 | (word >> 1 & 0x5555);
	word = (word & 0x3333) << 2 | (word >> 2 & 0x3333);
	word = (word & 0x0f0f) << 4 | (word >> 4 & 0x0f0f);
	word = (word & 0x00ff) << 8 | (word >> 8 & 0x00ff);
	return (uint16_t)(word >> (16 - bits));
}

void deflate_huff_codes(const uint8_t *lens, unsigned nsyms, uint16_t *codes)
{
	uint16_t count[16] = {0}, next[16];
	unsigned word = 0;

	for (unsigned i = 0; i < nsyms; i++)
		count[lens[i]]++;
	count[0] = 0;
	for (unsigned bits = 1; bits < 16; bits++) {
		word = (word + count[bits - 1]) << 1;
		next[bits] = (uint16_t)word;
	}
	next[0] = 0;
	for (unsigned i = 0; i < nsyms; i++)
		codes[i] = lens[i] ? reversed(next[lens[i]]++, lens[i]) : 0;
}
