/* SPDX-License-Identifier: MIT */
/*
 * The first cluster is replaced by another, with another backing file or other extensions. What
 * belongs together there doesn't fit into the small writes of super_write.c. But who reads a header
 * goes by its first sector, which is written at once, and that says where the rest is. So what the
 * new one has behind that sector is written first, to where the present one has nothing: the name
 * of the backing file can lie anywhere. Then, when that is durable, the first sector makes it
 * count.
 *
 * Extensions that reach behind the first sector, as in most images over a backing file, go by way
 * of super_aside.c. Where a cluster has no room for both headers the whole of it is written, and a
 * power cut in the middle of that may tear it. Meanwhile the bit that makes bitmaps count is clear.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "meta/engine.h"
#include "meta/super.h"

/* Where the extensions in a first cluster end; its own end if that isn't clear. */
static uint64_t extensions_end(const struct format_header *h, const uint8_t *cluster,
			       uint64_t cluster_size)
{
	uint64_t end = h->backing_off ? h->backing_off : cluster_size;
	uint64_t pos = h->version < 3 ? LAYOUT_HEADER_LEN_V2 : h->header_length;
	struct format_ext_raw raw;
	bool done = false;

	while (!done) {
		uint64_t at = pos;

		if (format_extension_next(cluster, end, &pos, &raw, &done, NULL) < 0)
			return cluster_size;
		if (done)
			return min_u64(at + LAYOUT_EXT_FRAME_LEN, cluster_size);
	}
	return cluster_size;
}

/* A place behind the first sector for a name of len bytes that neither header uses; 0: none. */
static uint64_t place_name(const struct format_header *h, uint64_t from, uint64_t cluster_size,
			   uint64_t len)
{
	uint64_t old_end = h->backing_off + h->backing_len;

	from = max_u64(from, LAYOUT_SECTOR);
	if (h->backing_off < from + len && from < old_end)
		from = align_up(old_end, 8);
	return from + len <= cluster_size ? from : 0;
}

/* The new header's name goes to off. */
static void move_name(struct format_header *h, uint8_t *cluster, uint64_t off)
{
	uint8_t name[LAYOUT_BACKING_NAME_MAX];

	memcpy(name, cluster + h->backing_off, h->backing_len);
	memset(cluster + h->backing_off, 0, h->backing_len);
	memcpy(cluster + off, name, h->backing_len);
	h->backing_off = off;
	store_be64(cluster + LAYOUT_OFF_BACKING_OFFSET, off);
}

/* Whether writing the first sector alone does it; moves the name for that. */
static bool plan(const struct meta *m, const uint8_t *old, struct format_header *h,
		 uint8_t *cluster)
{
	const uint64_t cs = m->geometry.cluster_size;
	uint64_t old_end = extensions_end(&m->header, old, cs);
	uint64_t new_end = extensions_end(h, cluster, cs);
	uint64_t off;

	if (cs == LAYOUT_SECTOR)
		return true;
	if (new_end > LAYOUT_SECTOR)
		return false;
	if (h->backing_off + h->backing_len <= LAYOUT_SECTOR)
		return true;
	off = place_name(&m->header, max_u64(old_end, new_end), cs, h->backing_len);
	if (off == 0)
		return false;
	move_name(h, cluster, off);
	return true;
}

static int write_sector(struct meta *m, const uint8_t *cluster, uint64_t sector, const char *what,
			struct qcow2_error *err)
{
	uint64_t off = sector * LAYOUT_SECTOR;
	int ret = storage_write(m->file, cluster + off, LAYOUT_SECTOR, off, err);

	if (ret < 0)
		return meta_header_unknown(m, ret, what);
	return meta_barrier(m, err);
}

static int write_planned(struct meta *m, const struct format_header *h, const uint8_t *cluster,
			 const uint8_t *old, const char *what, struct qcow2_error *err)
{
	const size_t rest = (size_t)(m->geometry.cluster_size - LAYOUT_SECTOR);
	int ret = 0;

	if (h->backing_off >= LAYOUT_SECTOR) {
		ret = storage_write(m->file, cluster + h->backing_off, h->backing_len,
				    h->backing_off, err);
		if (ret == 0)
			ret = meta_barrier(m, err);
	}
	if (ret == 0)
		ret = write_sector(m, cluster, 0, what, err);
	/* what only the old header used; that it stays is no harm */
	if (ret == 0 && memcmp(old + LAYOUT_SECTOR, cluster + LAYOUT_SECTOR, rest) != 0)
		(void)storage_write(m->file, cluster + LAYOUT_SECTOR, rest, LAYOUT_SECTOR, NULL);
	return ret;
}

static int write_whole(struct meta *m, uint64_t autoclear, uint8_t *cluster, const char *what,
		       struct qcow2_error *err)
{
	uint64_t bitmaps = autoclear & LAYOUT_AUTOCLEAR_BITMAPS;
	int ret = 0;

	if (m->header.autoclear & LAYOUT_AUTOCLEAR_BITMAPS) {
		ret = meta_super_write_autoclear(m, m->header.autoclear & ~LAYOUT_AUTOCLEAR_BITMAPS,
						 err);
		if (ret == 0)
			ret = meta_barrier(m, err);
	}
	if (ret < 0)
		return meta_header_unknown(m, ret, what);
	if (m->header.version >= 3)
		store_be64(cluster + LAYOUT_OFF_AUTOCLEAR, autoclear & ~bitmaps);
	ret = storage_write(m->file, cluster, (size_t)m->geometry.cluster_size, 0, err);
	if (ret == 0)
		ret = meta_barrier(m, err);
	if (ret == 0 && bitmaps) {
		ret = meta_super_write_autoclear(m, autoclear, err);
		if (ret == 0)
			ret = meta_barrier(m, err);
	}
	return ret < 0 ? meta_header_unknown(m, ret, what) : 0;
}

/* The only sector in which they differ, *sector; false if there are several. */
static bool differ_in_one(const uint8_t *old, const uint8_t *cluster, uint64_t cluster_size,
			  uint64_t *sector)
{
	bool found = false;

	*sector = 0;
	for (uint64_t i = 0; i < cluster_size / LAYOUT_SECTOR; i++) {
		if (memcmp(old + i * LAYOUT_SECTOR, cluster + i * LAYOUT_SECTOR, LAYOUT_SECTOR) ==
		    0)
			continue;
		if (found)
			return false;
		found = true;
		*sector = i;
	}
	return true;
}

static int write_switch(struct meta *m, struct format_header *h, uint8_t *cluster, const char *what,
			struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	cleanup_free uint8_t *old = mem_alloc(cs, 1);
	uint64_t sector;
	int ret;

	if (!old)
		return error_errno(err, -ENOMEM, "can't rewrite the header");
	ret = storage_read(m->file, old, (size_t)cs, 0, err);
	if (ret < 0)
		return ret;
	if (differ_in_one(old, cluster, cs, &sector))
		return write_sector(m, cluster, sector, what, err);
	if (plan(m, old, h, cluster))
		return write_planned(m, h, cluster, old, what, err);
	if (meta_super_can_switch(m, old, cluster))
		return meta_super_switch(m, cluster, err);
	return write_whole(m, h->autoclear, cluster, what, err);
}

/* The commit's slot is taken: a commit of who gives clusters away may set the dirty bit. */
static int encode_and_write(struct meta *m, struct format_header *h, const char *what,
			    struct qcow2_error *err)
{
	cleanup_free uint8_t *cluster = mem_alloc(m->geometry.cluster_size, 1);
	int ret;

	if (!cluster)
		return error_errno(err, -ENOMEM, "can't rewrite the header");
	ret = format_header_encode(h, cluster, m->geometry.cluster_size, err);
	if (ret == 0)
		ret = write_switch(m, h, cluster, what, err);
	if (ret < 0) {
		error_prefix(err, "can't rewrite the header");
		return ret;
	}
	m->header.autoclear = h->autoclear;
	m->header.header_length = h->header_length;
	m->header.backing_off = h->backing_off;
	m->header.backing_len = h->backing_len;
	return 0;
}

/* ---- the calls ---- */

int meta_super_write_bitmaps(struct meta *m, const struct format_ext_bitmaps *bitmaps,
			     struct qcow2_error *err)
{
	struct meta_slot *slot = &m->engine->order.commit;
	struct format_header h; /* shares what m's owns */
	int ret;

	meta_slot_take(slot);
	h = m->header;
	h.ext.has_bitmaps = bitmaps != NULL;
	h.ext.bitmaps = bitmaps ? *bitmaps : (struct format_ext_bitmaps){0};
	h.autoclear &= ~LAYOUT_AUTOCLEAR_BITMAPS;
	if (bitmaps)
		h.autoclear |= LAYOUT_AUTOCLEAR_BITMAPS;
	ret = encode_and_write(m, &h, "bitmap directory", err);
	if (ret == 0) {
		m->header.ext.has_bitmaps = h.ext.has_bitmaps;
		m->header.ext.bitmaps = h.ext.bitmaps;
	}
	meta_slot_leave(slot);
	return ret;
}

int meta_super_write_backing(struct meta *m, char **name, char **format, struct qcow2_error *err)
{
	struct meta_slot *slot = &m->engine->order.commit;
	char *old_name = m->header.backing_name, *old_format = m->header.ext.backing_format;
	struct format_header h; /* shares what m's owns */
	int ret;

	if (m->tolerated & FORMAT_HEADER_ALLOW_BITMAPS)
		return error_set(err, -EINVAL,
				 "can't rewrite the header: its bitmaps extension is bad and would"
				 " be lost");
	meta_slot_take(slot);
	h = m->header;
	h.backing_name = *name;
	h.ext.backing_format = *name ? *format : NULL;
	ret = encode_and_write(m, &h, "backing file", err);
	meta_slot_leave(slot);
	if (ret < 0)
		return ret;
	m->header.backing_name = *name;
	m->header.ext.backing_format = *format;
	*name = old_name;
	*format = old_format;
	return 0;
}
