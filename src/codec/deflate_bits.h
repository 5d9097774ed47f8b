/* SPDX-License-Identifier: MIT */
/*
 * Bits of a deflate stream, least significant first, through a 64-bit buffer. The caller knows
 * beforehand that what it writes fits (deflate_block.c counts every block to the bit); the writer
 * only takes care that its wide stores stay within the room.
 */
#ifndef CODEC_DEFLATE_BITS_H
#define CODEC_DEFLATE_BITS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bits that may be put between two flushes. */
#define BITS_PER_FLUSH 56

struct bit_writer {
	uint64_t buf; /* the low n bits wait to be stored */
	unsigned n;   /* at most 7 after a flush */
	uint8_t *pos, *end;
};

static inline void store_le64(uint8_t *p, uint64_t v)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	v = __builtin_bswap64(v);
#endif
	memcpy(p, &v, sizeof(v));
}

static inline void bits_init(struct bit_writer *w, uint8_t *out, size_t cap)
{
	*w = (struct bit_writer){.pos = out, .end = out + cap};
}

/* value has no bits above n. */
static inline void bits_put(struct bit_writer *w, uint64_t value, unsigned n)
{
	w->buf |= value << w->n;
	w->n += n;
}

static inline void bits_flush(struct bit_writer *w)
{
	unsigned nbytes = w->n >> 3;

	if (w->end - w->pos >= 8) {
		store_le64(w->pos, w->buf);
	} else {
		for (unsigned i = 0; i < nbytes; i++)
			w->pos[i] = (uint8_t)(w->buf >> 8 * i);
	}
	w->pos += nbytes;
	w->buf >>= 8 * nbytes;
	w->n &= 7;
}

/* Fills the last byte with zero bits. */
static inline void bits_align(struct bit_writer *w)
{
	w->n = (w->n + 7) & ~7u;
	bits_flush(w);
}

#endif
