/* SPDX-License-Identifier: MIT */
/*
 * Refcount entries of every width. Below a byte, entry 0 is in the least significant bits;
 * from a byte on they are big-endian. No bounds are checked here: idx comes from a geometry.
 */
#include "format/refbits.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "base/num.h"
#include "format/layout.h"

#define BYTE_ORDER 3 /* the order at which an entry is a byte */
#define STRIDE_WORDS 8

static uint64_t max_of(uint32_t order)
{
	return UINT64_MAX >> (64 - (1u << order));
}

static uint64_t get_small(const uint8_t *block, uint32_t order, uint64_t idx)
{
	uint32_t per_byte_bits = BYTE_ORDER - order;
	uint32_t in_byte = (uint32_t)(idx & ((1u << per_byte_bits) - 1));

	return (uint64_t)block[idx >> per_byte_bits] >> (in_byte << order) & max_of(order);
}

static void set_small(uint8_t *block, uint32_t order, uint64_t idx, uint64_t value)
{
	uint32_t per_byte_bits = BYTE_ORDER - order;
	uint32_t shift = (uint32_t)(idx & ((1u << per_byte_bits) - 1)) << order;
	uint8_t *byte = block + (idx >> per_byte_bits);

	*byte = (uint8_t)((*byte & ~(max_of(order) << shift)) | value << shift);
}

uint64_t format_refcount_get(const uint8_t *block, uint32_t order, uint64_t idx)
{
	switch (order) {
	case 3:
		return block[idx];
	case 4:
		return load_be16(block + idx * 2);
	case 5:
		return load_be32(block + idx * 4);
	case 6:
		return load_be64(block + idx * 8);
	default:
		return get_small(block, order, idx);
	}
}

void format_refcount_load(const uint8_t *block, uint32_t order, uint64_t idx, uint64_t count,
			  uint64_t *values)
{
	if (order == 4) { /* what nearly every image has: a loop without a switch in it */
		for (uint64_t i = 0; i < count; i++)
			values[i] = load_be16(block + (idx + i) * 2);
		return;
	}
	for (uint64_t i = 0; i < count; i++)
		values[i] = format_refcount_get(block, order, idx + i);
}

void format_refcount_set(uint8_t *block, uint32_t order, uint64_t idx, uint64_t value)
{
	assert(order <= LAYOUT_REFCOUNT_ORDER_MAX && value <= max_of(order));
	switch (order) {
	case 3:
		block[idx] = (uint8_t)value;
		break;
	case 4:
		store_be16(block + idx * 2, (uint16_t)value);
		break;
	case 5:
		store_be32(block + idx * 4, (uint32_t)value);
		break;
	case 6:
		store_be64(block + idx * 8, value);
		break;
	default:
		set_small(block, order, idx, value);
	}
}

/* Entries of less than a byte: up to a byte border one by one, then whole bytes, then the rest. */
static void fill_small(uint8_t *block, uint32_t order, uint64_t idx, uint64_t count, uint64_t value)
{
	uint64_t end = idx + count;
	uint64_t per_byte = 1ull << (BYTE_ORDER - order);
	uint64_t first_byte = div_ceil(idx, per_byte), end_byte = end / per_byte;
	uint32_t pattern = 0;

	if (first_byte < end_byte) {
		for (uint32_t shift = 0; shift < 8; shift += 1u << order)
			pattern |= (uint32_t)value << shift;
		while (idx < first_byte * per_byte)
			set_small(block, order, idx++, value);
		memset(block + first_byte, (int)pattern, (size_t)(end_byte - first_byte));
		idx = end_byte * per_byte;
	}
	while (idx < end)
		set_small(block, order, idx++, value);
}

void format_refcount_fill(uint8_t *block, uint32_t order, uint64_t idx, uint64_t count,
			  uint64_t value)
{
	size_t total, done;
	uint8_t *start;

	assert(order <= LAYOUT_REFCOUNT_ORDER_MAX && value <= max_of(order));
	if (count == 0)
		return;
	if (order < BYTE_ORDER) {
		fill_small(block, order, idx, count, value);
		return;
	}
	/* One entry, then copies of what is there already: twice as much each time. */
	start = block + (idx << (order - BYTE_ORDER));
	total = (size_t)count << (order - BYTE_ORDER);
	done = (size_t)1 << (order - BYTE_ORDER);
	format_refcount_set(start, order, 0, value);
	while (done < total) {
		size_t piece = done < total - done ? done : total - done;

		memcpy(start + done, start, piece);
		done += piece;
	}
}

/* The entry as often as it fits into eight bytes, which begin with a whole one. */
static uint64_t repeated(uint32_t order, uint64_t value)
{
	uint8_t bytes[8];
	uint64_t word;

	format_refcount_fill(bytes, order, 0, 64u >> order, value);
	memcpy(&word, bytes, sizeof(word));
	return word;
}

/* Are the next words all the same? In one go, for the compiler to use wide registers. */
static bool is_stride_of(const uint8_t *p, uint64_t pattern)
{
	uint64_t words[STRIDE_WORDS], differ = 0;

	memcpy(words, p, sizeof(words));
	for (unsigned i = 0; i < STRIDE_WORDS; i++)
		differ |= words[i] ^ pattern;
	return differ == 0;
}

uint64_t format_refcount_stretch(const uint8_t *block, uint32_t order, uint64_t idx, uint64_t count)
{
	uint64_t value = format_refcount_get(block, order, idx), n = 1, word, pattern;
	uint64_t per_word = 64u >> order;

	while (n < count && (idx + n) % per_word != 0) {
		if (format_refcount_get(block, order, idx + n) != value)
			return n;
		n++;
	}
	pattern = repeated(order, value);
	while (count - n >= STRIDE_WORDS * per_word &&
	       is_stride_of(block + (((idx + n) << order) >> BYTE_ORDER), pattern))
		n += STRIDE_WORDS * per_word;
	for (; count - n >= per_word; n += per_word) {
		memcpy(&word, block + (((idx + n) << order) >> BYTE_ORDER), sizeof(word));
		if (word != pattern)
			break;
	}
	while (n < count && format_refcount_get(block, order, idx + n) == value)
		n++;
	return n;
}

bool format_refcount_all(const uint8_t *block, uint32_t order, uint64_t idx, uint64_t count,
			 uint64_t value)
{
	return count == 0 || (format_refcount_get(block, order, idx) == value &&
			      format_refcount_stretch(block, order, idx, count) == count);
}

uint64_t format_refcount_find(const uint8_t *block, uint32_t order, uint64_t idx, uint64_t count,
			      uint64_t value)
{
	uint64_t i = 0;

	if (order == 4) { /* what nearly every image has: a loop without a switch in it */
		while (i < count && load_be16(block + (idx + i) * 2) != value)
			i++;
		return i;
	}
	while (i < count && format_refcount_get(block, order, idx + i) != value)
		i++;
	return i;
}

void format_refcount_add(uint8_t *block, uint32_t order, uint64_t idx, uint64_t count, uint64_t add)
{
	if (order == 4) {
		for (uint8_t *p = block + idx * 2, *end = p + count * 2; p < end; p += 2)
			store_be16(p, (uint16_t)(load_be16(p) + add));
		return;
	}
	for (uint64_t i = idx; i < idx + count; i++)
		format_refcount_set(block, order, i,
				    (format_refcount_get(block, order, i) + add) & max_of(order));
}
