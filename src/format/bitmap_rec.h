/* SPDX-License-Identifier: MIT */
/* Bitmap directory entries and bitmap table entries: section 13. */
#ifndef FORMAT_BITMAP_REC_H
#define FORMAT_BITMAP_REC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "format/geometry.h"

struct format_bitmap {
	uint64_t table_off;
	uint32_t table_entries;
	uint32_t flags;
	uint8_t type;
	uint8_t granularity_bits;
	uint8_t *extra; /* owned */
	uint32_t extra_len;
	char *name; /* owned, NUL-terminated */
	uint16_t name_len;
	bool usable; /* false: a type, granularity, flag or extra data that we must leave alone */
};

/*
 * Decodes the entry at the start of buf; *used is its length with padding to 8. -EINVAL if that
 * passes len, or if the bitmap table can't be where and as long as the entry says. On failure *b
 * holds nothing. Not looked at: whether the table is as long as the disk needs.
 */
int format_bitmap_decode(struct format_bitmap *b, const struct format_geometry *g,
			 const uint8_t *buf, size_t len, size_t *used, struct qcow2_error *err);
void format_bitmap_release(struct format_bitmap *b);
size_t format_bitmap_encoded_len(const struct format_bitmap *b);
void format_bitmap_encode(const struct format_bitmap *b, uint8_t *buf);

struct format_bitmap_entry {
	uint64_t host_off; /* 0: the whole cluster's bits are all_ones or all zeros */
	bool all_ones;
	unsigned faults; /* FORMAT_FAULT_RESERVED, FORMAT_FAULT_UNALIGNED of entry.h */
};

struct format_bitmap_entry format_bitmap_entry_decode(const struct format_geometry *g,
						      uint64_t raw);
/* Bitmap table entries that a disk of that size needs. */
uint64_t format_bitmap_table_entries(const struct format_geometry *g, uint64_t size_bytes,
				     uint32_t granularity_bits);

#endif
