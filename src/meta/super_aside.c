/* SPDX-License-Identifier: MIT */
/*
 * The header cluster becomes another, so that a crash leaves the one or the other. Only its first
 * sector is written at once; what it says about itself may go on behind that. So the rest of the
 * new header is written first, to where the present one has nothing; when that is durable the first
 * sector is, which is the switch. The extensions that are to be passed over on the way there lie in
 * an extension of our own without a meaning, the filler: to any reader an unknown one. After the
 * switch everything goes to its proper place in the same way, and the filler is gone.
 *
 * That isn't possible where clusters are so small that both headers don't fit: there the whole
 * cluster is written, and a power cut in the middle of it may tear it.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/extension.h"
#include "meta/engine.h"
#include "meta/super.h"

struct image {			   /* of a header cluster */
	uint64_t ext_off, ext_end; /* extensions with their end marker */
	uint64_t name_off, name_len;
	uint64_t end; /* of all that a reader looks at */
};

/* What there is in a header cluster; all of it if that isn't clear. */
static struct image look(const uint8_t *cluster, uint64_t cluster_size)
{
	struct image s = {
		.ext_off = LAYOUT_HEADER_LEN_V2,
		.name_off = load_be64(cluster + LAYOUT_OFF_BACKING_OFFSET),
		.name_len = load_be32(cluster + LAYOUT_OFF_BACKING_SIZE),
	};
	uint64_t limit = s.name_off ? min_u64(s.name_off, cluster_size) : cluster_size;
	struct format_ext_raw raw;
	bool done = false;
	uint64_t pos;

	if (load_be32(cluster + LAYOUT_OFF_VERSION) >= 3)
		s.ext_off = load_be32(cluster + LAYOUT_OFF_HEADER_LENGTH);
	s.ext_end = s.ext_off;
	for (pos = s.ext_off; !done;) {
		s.ext_end = pos + LAYOUT_EXT_FRAME_LEN;
		if (format_extension_next(cluster, limit, &pos, &raw, &done, NULL) < 0) {
			s.ext_end = cluster_size;
			break;
		}
	}
	s.ext_end = min_u64(s.ext_end, cluster_size);
	s.end = s.ext_end;
	if (s.name_off)
		s.end = max_u64(s.end, s.name_off + s.name_len);
	return s;
}

static int write_part(struct meta *m, const uint8_t *cluster, uint64_t from, uint64_t end,
		      struct qcow2_error *err)
{
	int ret = 0;

	if (end > from)
		ret = storage_write(m->file, cluster + from, (size_t)(end - from), from, err);
	return ret == 0 ? meta_barrier(m, err) : ret;
}

/* From its first byte on it isn't known what a failure leaves. */
static int write_switch(struct meta *m, const uint8_t *cluster, uint64_t len,
			struct qcow2_error *err)
{
	int ret = storage_write(m->file, cluster, (size_t)len, 0, err);

	if (ret < 0)
		return meta_header_unknown(m, ret, "contents");
	return meta_barrier(m, err);
}

/* Where there is room behind all that either header uses, for what s has behind its fields; or 0.
 */
static uint64_t place_aside(const struct image *s, uint64_t behind, uint64_t cluster_size)
{
	uint64_t at = align_up(max_u64(behind, s->end), LAYOUT_SECTOR);

	if (s->ext_off + LAYOUT_EXT_FRAME_LEN > LAYOUT_SECTOR ||
	    at + (s->end - s->ext_off) > cluster_size)
		return 0;
	return at;
}

/*
 * The same header as in cluster, with its extensions and its name moved to a sector behind all
 * that either header uses. *at 0: there is no room.
 */
static void detour(uint8_t *aside, const uint8_t *cluster, uint64_t cluster_size,
		   const struct image *s, uint64_t behind, uint64_t *at, uint64_t *end)
{
	uint64_t len = s->end - s->ext_off;

	*at = place_aside(s, behind, cluster_size);
	*end = *at + len;
	if (*at == 0)
		return;
	memset(aside, 0, (size_t)cluster_size);
	memcpy(aside, cluster, (size_t)s->ext_off);
	memcpy(aside + *at, cluster + s->ext_off, (size_t)len);
	store_be32(aside + s->ext_off, LAYOUT_EXT_FILLER);
	store_be32(aside + s->ext_off + 4, (uint32_t)(*at - s->ext_off - LAYOUT_EXT_FRAME_LEN));
	if (s->name_off)
		store_be64(aside + LAYOUT_OFF_BACKING_OFFSET, s->name_off + *at - s->ext_off);
}

/* The switch was made; what follows is order, and may fail without harm. */
static void settle(struct meta *m, const uint8_t *cluster, uint64_t at, uint64_t end)
{
	if (write_part(m, cluster, LAYOUT_SECTOR, at, NULL) == 0 &&
	    write_part(m, cluster, 0, LAYOUT_SECTOR, NULL) == 0)
		(void)storage_write(m->file, cluster + at, (size_t)(end - at), at, NULL);
}

/* Both headers go on behind the first sector. */
static int switch_aside(struct meta *m, const uint8_t *cluster, uint64_t behind,
			struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	struct image s = look(cluster, cs);
	cleanup_free uint8_t *aside = mem_alloc(cs, 1);
	uint64_t at, end;
	int ret;

	if (!aside)
		return error_errno(err, -ENOMEM, "can't rewrite the header");
	detour(aside, cluster, cs, &s, behind, &at, &end);
	if (at == 0)
		return write_switch(m, cluster, cs, err);
	ret = write_part(m, aside, at, end, err);
	if (ret == 0)
		ret = write_switch(m, aside, LAYOUT_SECTOR, err);
	if (ret == 0)
		settle(m, cluster, at, end);
	return ret;
}

bool meta_super_can_switch(const struct meta *m, const uint8_t *old, const uint8_t *cluster)
{
	const uint64_t cs = m->geometry.cluster_size;
	struct image was = look(old, cs), is = look(cluster, cs);

	if (cs <= LAYOUT_SECTOR || was.end <= LAYOUT_SECTOR || is.end <= LAYOUT_SECTOR)
		return true;
	return place_aside(&is, was.end, cs) != 0;
}

int meta_super_switch(struct meta *m, const uint8_t *cluster, struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	cleanup_free uint8_t *old = mem_alloc(cs, 1);
	uint64_t old_end;
	int ret;

	if (!old)
		return error_errno(err, -ENOMEM, "can't rewrite the header");
	ret = storage_read(m->file, old, (size_t)cs, 0, err);
	if (ret < 0 || memcmp(old, cluster, (size_t)cs) == 0)
		return ret;
	if (cs <= LAYOUT_SECTOR)
		return write_switch(m, cluster, cs, err);
	if (memcmp(old + LAYOUT_SECTOR, cluster + LAYOUT_SECTOR, (size_t)(cs - LAYOUT_SECTOR)) == 0)
		return write_switch(m, cluster, LAYOUT_SECTOR, err);
	old_end = look(old, cs).end;
	if (old_end > LAYOUT_SECTOR && look(cluster, cs).end > LAYOUT_SECTOR)
		return switch_aside(m, cluster, old_end, err);
	if (old_end <= LAYOUT_SECTOR)
		ret = write_part(m, cluster, LAYOUT_SECTOR, cs, err);
	if (ret == 0)
		ret = write_switch(m, cluster, LAYOUT_SECTOR, err);
	/* what only the old header used; that it stays is no harm */
	if (ret == 0 && old_end > LAYOUT_SECTOR)
		(void)storage_write(m->file, cluster + LAYOUT_SECTOR, (size_t)(cs - LAYOUT_SECTOR),
				    LAYOUT_SECTOR, NULL);
	return ret;
}
