/* SPDX-License-Identifier: MIT */
/*
 * Bitmap directory entries and bitmap table entries. What can't be parsed or points nowhere is an
 * error; what we merely don't know how to use (a type, a flag, extra data) is marked as such, so
 * that it is left alone and kept.
 */
#include "format/bitmap_rec.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"

#define KNOWN_FLAGS                                                                                \
	(LAYOUT_BITMAP_FLAG_IN_USE | LAYOUT_BITMAP_FLAG_AUTO | LAYOUT_BITMAP_FLAG_EXTRA_COMPATIBLE)

static bool usable(const struct format_bitmap *b)
{
	bool extra_ok = b->extra_len == 0 || (b->flags & LAYOUT_BITMAP_FLAG_EXTRA_COMPATIBLE);

	return extra_ok && (b->flags & ~KNOWN_FLAGS) == 0 && b->type == LAYOUT_BITMAP_TYPE_DIRTY &&
	       b->granularity_bits >= LAYOUT_BITMAP_GRANULARITY_BITS_MIN &&
	       b->granularity_bits <= LAYOUT_BITMAP_GRANULARITY_BITS_MAX && b->name_len > 0 &&
	       b->name_len <= LAYOUT_BITMAP_NAME_MAX;
}

static int check_table(const struct format_bitmap *b, const struct format_geometry *g,
		       struct qcow2_error *err)
{
	if (b->table_off == 0 || !is_aligned(b->table_off, g->cluster_size) ||
	    b->table_off > INT64_MAX - LAYOUT_BITMAP_BYTES_MAX)
		return error_set(err, -EINVAL,
				 "bitmap table offset 0x%" PRIx64
				 ", expected a nonzero multiple of the cluster size 0x%" PRIx64,
				 b->table_off, g->cluster_size);
	if (b->table_entries == 0 || b->table_entries > LAYOUT_BITMAP_TABLE_ENTRIES_MAX ||
	    b->table_entries > LAYOUT_BITMAP_BYTES_MAX / g->cluster_size)
		return error_set(err, -EINVAL,
				 "bitmap table of %" PRIu32 " entries, expected 1 to %" PRIu64,
				 b->table_entries,
				 min_u64(LAYOUT_BITMAP_TABLE_ENTRIES_MAX,
					 LAYOUT_BITMAP_BYTES_MAX / g->cluster_size));
	return 0;
}

static int copy_parts(struct format_bitmap *b, const uint8_t *extra)
{
	if (b->extra_len > 0) {
		b->extra = mem_alloc(b->extra_len, 1);
		if (!b->extra)
			return -ENOMEM;
		memcpy(b->extra, extra, b->extra_len);
	}
	b->name = mem_strndup(extra + b->extra_len, b->name_len);
	return b->name ? 0 : -ENOMEM;
}

int format_bitmap_decode(struct format_bitmap *b, const struct format_geometry *g,
			 const uint8_t *buf, size_t len, size_t *used, struct qcow2_error *err)
{
	uint64_t total;
	int ret;

	*b = (struct format_bitmap){0};
	*used = 0;
	if (len < LAYOUT_BITMAP_FIXED_LEN)
		return error_set(err, -EINVAL,
				 "bitmap directory entry cut short: %zu bytes left, expected at"
				 " least %d",
				 len, LAYOUT_BITMAP_FIXED_LEN);
	*b = (struct format_bitmap){
		.table_off = load_be64(buf + LAYOUT_BITMAP_OFF_TABLE_OFFSET),
		.table_entries = load_be32(buf + LAYOUT_BITMAP_OFF_TABLE_SIZE),
		.flags = load_be32(buf + LAYOUT_BITMAP_OFF_FLAGS),
		.type = buf[LAYOUT_BITMAP_OFF_TYPE],
		.granularity_bits = buf[LAYOUT_BITMAP_OFF_GRANULARITY],
		.name_len = load_be16(buf + LAYOUT_BITMAP_OFF_NAME_SIZE),
		.extra_len = load_be32(buf + LAYOUT_BITMAP_OFF_EXTRA_SIZE),
	};
	total = align_up((uint64_t)LAYOUT_BITMAP_FIXED_LEN + b->extra_len + b->name_len, 8);
	if (total > len) {
		ret = error_set(err, -EINVAL,
				"bitmap directory entry of %" PRIu64 " bytes, only %zu are left",
				total, len);
		goto fail;
	}
	ret = check_table(b, g, err);
	if (ret < 0)
		goto fail;
	ret = copy_parts(b, buf + LAYOUT_BITMAP_FIXED_LEN);
	if (ret < 0) {
		error_set(err, ret, "no memory for a bitmap directory entry of %" PRIu64 " bytes",
			  total);
		goto fail;
	}
	b->usable = usable(b);
	*used = (size_t)total;
	return 0;
fail:
	format_bitmap_release(b);
	return ret;
}

void format_bitmap_release(struct format_bitmap *b)
{
	mem_free(b->extra);
	mem_free(b->name);
	*b = (struct format_bitmap){0};
}

size_t format_bitmap_encoded_len(const struct format_bitmap *b)
{
	return (size_t)align_up((uint64_t)LAYOUT_BITMAP_FIXED_LEN + b->extra_len + b->name_len, 8);
}

void format_bitmap_encode(const struct format_bitmap *b, uint8_t *buf)
{
	memset(buf, 0, format_bitmap_encoded_len(b));
	store_be64(buf + LAYOUT_BITMAP_OFF_TABLE_OFFSET, b->table_off);
	store_be32(buf + LAYOUT_BITMAP_OFF_TABLE_SIZE, b->table_entries);
	store_be32(buf + LAYOUT_BITMAP_OFF_FLAGS, b->flags);
	buf[LAYOUT_BITMAP_OFF_TYPE] = b->type;
	buf[LAYOUT_BITMAP_OFF_GRANULARITY] = b->granularity_bits;
	store_be16(buf + LAYOUT_BITMAP_OFF_NAME_SIZE, b->name_len);
	store_be32(buf + LAYOUT_BITMAP_OFF_EXTRA_SIZE, b->extra_len);
	if (b->extra_len > 0)
		memcpy(buf + LAYOUT_BITMAP_FIXED_LEN, b->extra, b->extra_len);
	if (b->name_len > 0)
		memcpy(buf + LAYOUT_BITMAP_FIXED_LEN + b->extra_len, b->name, b->name_len);
}

struct format_bitmap_entry format_bitmap_entry_decode(const struct format_geometry *g, uint64_t raw)
{
	struct format_bitmap_entry e = {.host_off = raw & LAYOUT_ENTRY_OFFSET_MASK};

	if (raw & LAYOUT_BITMAP_ENTRY_RESERVED_MASK)
		e.faults |= FORMAT_FAULT_RESERVED;
	if (!is_aligned(e.host_off, g->cluster_size))
		e.faults |= FORMAT_FAULT_UNALIGNED;
	if (raw & LAYOUT_BITMAP_ENTRY_ALL_ONES) {
		e.all_ones = e.host_off == 0;
		if (!e.all_ones) /* with an offset the bit is reserved */
			e.faults |= FORMAT_FAULT_RESERVED;
	}
	return e;
}

uint64_t format_bitmap_table_entries(const struct format_geometry *g, uint64_t size_bytes,
				     uint32_t granularity_bits)
{
	uint64_t bits = div_ceil(size_bytes, 1ull << granularity_bits);

	return div_ceil(div_ceil(bits, 8), g->cluster_size);
}
