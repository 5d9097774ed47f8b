/* SPDX-License-Identifier: MIT */
/* Refcount entries of 1 to 64 bits in a refcount block: section 9. */
#ifndef FORMAT_REFBITS_H
#define FORMAT_REFBITS_H

#include <stdbool.h>
#include <stdint.h>

/* block holds at least idx + 1 entries of (1 << order) bits. */
uint64_t format_refcount_get(const uint8_t *block, uint32_t order, uint64_t idx);
/* Entries from idx on, count of them. */
void format_refcount_load(const uint8_t *block, uint32_t order, uint64_t idx, uint64_t count,
			  uint64_t *values);
/* value fits the width. */
void format_refcount_set(uint8_t *block, uint32_t order, uint64_t idx, uint64_t value);
/* Sets count entries from idx on; quick for long runs. */
void format_refcount_fill(uint8_t *block, uint32_t order, uint64_t idx, uint64_t count,
			  uint64_t value);

/* How many entries from idx on, at most count (not 0), are equal to the first. */
uint64_t format_refcount_stretch(const uint8_t *block, uint32_t order, uint64_t idx,
				 uint64_t count);
/* How many entries from idx on come before the first that is value; count: none is. */
uint64_t format_refcount_find(const uint8_t *block, uint32_t order, uint64_t idx, uint64_t count,
			      uint64_t value);
/* Adds, modulo the width, to each of count entries. */
void format_refcount_add(uint8_t *block, uint32_t order, uint64_t idx, uint64_t count,
			 uint64_t add);

/* Are count entries from idx on all equal to value? value must fit. */
bool format_refcount_all(const uint8_t *block, uint32_t order, uint64_t idx, uint64_t count,
			 uint64_t value);

#endif
