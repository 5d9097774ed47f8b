/* SPDX-License-Identifier: MIT */
/*
 * Slices of tables kept in 16 bytes each: those whose words grow by the same step from one to the
 * next, as the L2 entries of a disk that was written in order do, or are all the same. A table
 * cache puts here what it has no place for, so that a large disk in good order costs no reads.
 *
 * Guarded by the lock of the cache that has it, but for meta_straight_word, which takes none: it
 * looks at a number that changes before and after each change, and gives up if that moved.
 */
#ifndef META_STRAIGHT_H
#define META_STRAIGHT_H

#include <stdbool.h>
#include <stdint.h>

struct meta_straight;

/* A slice as it is kept. */
struct meta_straight_row {
	uint64_t first, step;
};

/*
 * step: from word to word; slice_len: bytes, a multiple of 64; limit_bytes: of memory, taken as it
 * is needed. NULL: no memory.
 */
struct meta_straight *meta_straight_new(uint64_t step, uint32_t slice_len, uint64_t limit_bytes);
void meta_straight_free(struct meta_straight *s);

bool meta_straight_has(const struct meta_straight *s, uint64_t host_off);
/*
 * Keeps the slice at host_off, which may push out another; what was known of it before is
 * forgotten. false: it isn't of this kind.
 */
bool meta_straight_keep(struct meta_straight *s, uint64_t host_off, const uint8_t *bytes);
/* Gives out what is kept at host_off, and forgets it. false: nothing is. */
bool meta_straight_take(struct meta_straight *s, uint64_t host_off, struct meta_straight_row *row);
void meta_straight_drop(struct meta_straight *s, uint64_t host_off);

/*
 * Word idx of the slice at host_off, as it was at some moment of the call. Any thread, without a
 * lock. false: it isn't kept, or something is being changed; whoever has the lock can tell.
 */
bool meta_straight_word(const struct meta_straight *s, uint64_t host_off, uint32_t idx,
			uint64_t *word);

/* The bytes of a slice. Any thread. */
void meta_straight_fill(const struct meta_straight_row *row, uint8_t *bytes, uint32_t slice_len);

#endif
