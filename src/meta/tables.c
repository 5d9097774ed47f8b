/* SPDX-License-Identifier: MIT */
/*
 * The snapshot table and the bitmap directory, read whole. What is wrong with them is an error
 * here; whether it matters is the caller's to say.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "meta/meta.h"

void meta_snapshots_release(struct meta_snapshots *s)
{
	for (size_t i = 0; i < s->count; i++)
		format_snapshot_release(&s->list[i]);
	mem_free(s->list);
	mem_free(s->host_off);
	*s = (struct meta_snapshots){0};
}

static int decode_snapshots(struct meta_snapshots *s, uint32_t want, uint64_t host_off,
			    const uint8_t *bytes, size_t len, struct qcow2_error *err)
{
	size_t pos = 0;
	size_t used;
	int ret;

	s->list = mem_zalloc(want, sizeof(*s->list));
	s->host_off = mem_zalloc(want, sizeof(*s->host_off));
	if (!s->list || !s->host_off)
		return error_errno(err, -ENOMEM, "can't read the snapshot table");
	for (uint32_t i = 0; i < want; i++) {
		if (pos > len)
			pos = len;
		ret = format_snapshot_decode(&s->list[i], bytes + pos, len - pos, &used, err);
		if (ret < 0) {
			error_prefix(err, "snapshot table at 0x%" PRIx64 ", entry %" PRIu32,
				     host_off, i);
			return ret;
		}
		s->host_off[i] = host_off + pos;
		s->count++;
		pos += used;
	}
	return 0;
}

/*
 * Reads len bytes of the table, or what there is of it, and decodes. *whole tells that there is no
 * more to read.
 */
static int try_snapshots(const struct meta *m, struct meta_snapshots *s, uint64_t len, bool *whole,
			 struct qcow2_error *err)
{
	const struct format_header *h = &m->header;
	cleanup_free uint8_t *bytes = NULL;
	size_t got;
	int ret;

	*whole = true;
	ret = meta_read_table(m, h->snapshots_off, len, &bytes, &got, err);
	if (ret < 0)
		return ret;
	*whole = got < len || len == LAYOUT_SNAPSHOT_TABLE_BYTES_MAX;
	/* each takes at least its fixed part, so the count is bounded by the file before it is
	 * used for memory */
	if (h->nb_snapshots > got / LAYOUT_SNAP_FIXED_LEN)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, h->snapshots_off,
				    "the snapshot table at 0x%" PRIx64 " has no room for %" PRIu32
				    " entries before the end of the file",
				    h->snapshots_off, h->nb_snapshots);
	ret = decode_snapshots(s, h->nb_snapshots, h->snapshots_off, bytes, got, err);
	if (ret < 0)
		meta_snapshots_release(s);
	return ret;
}

int meta_load_snapshots(const struct meta *m, struct meta_snapshots *s, struct qcow2_error *err)
{
	const struct format_header *h = &m->header;
	uint64_t len = 64 * 1024; /* nearly all tables; its true length isn't recorded anywhere */
	struct qcow2_error why;
	bool whole;
	int ret;

	*s = (struct meta_snapshots){0};
	if (h->nb_snapshots == 0)
		return 0;
	if (h->nb_snapshots > LAYOUT_SNAPSHOTS_MAX)
		return error_set(err, -EFBIG,
				 "the header tells of %" PRIu32
				 " snapshots, more than the %u allowed",
				 h->nb_snapshots, LAYOUT_SNAPSHOTS_MAX);
	if (!is_aligned(h->snapshots_off, m->geometry.cluster_size) || h->snapshots_off > INT64_MAX)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, h->snapshots_off,
				    "the snapshot table is at the impossible offset 0x%" PRIx64,
				    h->snapshots_off);
	for (;;) {
		error_clear(&why);
		ret = try_snapshots(m, s, len, &whole, &why);
		if (ret < 0 && err && (ret != -EINVAL || whole))
			*err = why;
		if (ret != -EINVAL || whole)
			return ret;
		len *= 4;
	}
}

uint64_t meta_snapshots_len(const struct meta_snapshots *s, size_t count)
{
	const struct format_snapshot *last;

	if (count == 0)
		return 0;
	last = &s->list[count - 1];
	return s->host_off[count - 1] - s->host_off[0] + LAYOUT_SNAP_FIXED_LEN + last->extra_len +
	       last->id_len + last->name_len;
}

const struct format_snapshot *meta_find_snapshot(const struct meta_snapshots *s, const char *id)
{
	for (size_t i = 0; i < s->count; i++) {
		if (strcmp(s->list[i].id, id) == 0)
			return &s->list[i];
	}
	for (size_t i = 0; i < s->count; i++) {
		if (strcmp(s->list[i].name, id) == 0)
			return &s->list[i];
	}
	return NULL;
}

void meta_bitmaps_release(struct meta_bitmaps *b)
{
	for (size_t i = 0; i < b->count; i++)
		format_bitmap_release(&b->list[i]);
	mem_free(b->list);
	mem_free(b->host_off);
	*b = (struct meta_bitmaps){0};
}

static int decode_bitmaps(const struct meta *m, struct meta_bitmaps *b, const uint8_t *bytes,
			  size_t len, struct qcow2_error *err)
{
	const struct format_ext_bitmaps *ext = &m->header.ext.bitmaps;
	size_t pos = 0;
	size_t used;
	int ret;

	b->list = mem_zalloc(ext->nb_bitmaps, sizeof(*b->list));
	b->host_off = mem_zalloc(ext->nb_bitmaps, sizeof(*b->host_off));
	if (!b->list || !b->host_off)
		return error_errno(err, -ENOMEM, "can't read the bitmap directory");
	while (pos < len) {
		if (b->count == ext->nb_bitmaps)
			return error_set(err, -EINVAL,
					 "the bitmap directory has more than the %" PRIu32
					 " entries that the header tells of",
					 ext->nb_bitmaps);
		ret = format_bitmap_decode(&b->list[b->count], &m->geometry, bytes + pos, len - pos,
					   &used, err);
		if (ret < 0) {
			error_prefix(err, "bitmap directory at 0x%" PRIx64 ", entry %zu",
				     ext->directory_off, b->count);
			return ret;
		}
		b->host_off[b->count++] = ext->directory_off + pos;
		if (used > len - pos)
			return error_set(err, -EINVAL,
					 "the last bitmap directory entry passes "
					 "the end of the directory");
		pos += used;
	}
	if (b->count < ext->nb_bitmaps)
		return error_set(err, -EINVAL,
				 "the bitmap directory has %zu entries, the header "
				 "tells of %" PRIu32,
				 b->count, ext->nb_bitmaps);
	return 0;
}

int meta_load_bitmaps(const struct meta *m, struct meta_bitmaps *b, struct qcow2_error *err)
{
	const struct format_ext_bitmaps *ext = &m->header.ext.bitmaps;
	cleanup_free uint8_t *bytes = NULL;
	size_t got;
	int ret;

	*b = (struct meta_bitmaps){0};
	if (!m->header.ext.has_bitmaps || !(m->header.autoclear & LAYOUT_AUTOCLEAR_BITMAPS))
		return 0;
	ret = meta_read_table(m, ext->directory_off, ext->directory_size, &bytes, &got, err);
	if (ret < 0)
		return ret;
	if (got < ext->directory_size || ext->nb_bitmaps > got / LAYOUT_BITMAP_FIXED_LEN)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, ext->directory_off,
				    "the bitmap directory at 0x%" PRIx64 " has no room for %" PRIu32
				    " entries",
				    ext->directory_off, ext->nb_bitmaps);
	ret = decode_bitmaps(m, b, bytes, got, err);
	if (ret < 0)
		meta_bitmaps_release(b);
	return ret;
}
