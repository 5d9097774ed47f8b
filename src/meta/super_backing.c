/* SPDX-License-Identifier: MIT */
/*
 * The header names another backing file. Name and format belong together and don't fit into the
 * small writes of super_write.c; but who reads the header goes by its first sector, which is
 * written at once: it says where the name is. So the new name is written first, to where the
 * present header has nothing; then, when that is durable, the first sector.
 *
 * That isn't possible where extensions reach beyond the first sector, or where clusters are so
 * small that both names don't fit: there the whole cluster is written, and a power cut in the
 * middle of it may tear it.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "meta/engine.h"
#include "meta/super.h"

/* Where the extensions end that are in the file; the whole cluster's end if that isn't clear. */
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

/*
 * A place for a name of len bytes behind the first sector that the present header, in old, doesn't
 * use; 0 if there is none.
 */
static uint64_t free_place(const struct format_header *h, const uint8_t *old, uint64_t cluster_size,
			   uint64_t len)
{
	uint64_t from = max_u64(LAYOUT_SECTOR, extensions_end(h, old, cluster_size));
	uint64_t name_end = h->backing_off ? h->backing_off + h->backing_len : 0;

	if (h->backing_off >= from && h->backing_off - from >= len)
		return from;
	from = align_up(max_u64(from, name_end), 8);
	return from < cluster_size && cluster_size - from >= len ? from : 0;
}

/* The new header's name goes to off. */
static void move_name(struct format_header *h, uint8_t *cluster, uint64_t off)
{
	memmove(cluster + off, cluster + h->backing_off, h->backing_len);
	if (off > h->backing_off)
		memset(cluster + h->backing_off, 0,
		       (size_t)min_u64(off - h->backing_off, h->backing_len));
	h->backing_off = off;
	store_be64(cluster + LAYOUT_OFF_BACKING_OFFSET, off);
}

/* Plans the switch: whether writing the first sector alone does it, and moves the name for that. */
static bool plan(const struct meta *m, struct format_header *h, uint8_t *cluster,
		 const uint8_t *old)
{
	const uint64_t cs = m->geometry.cluster_size;
	uint64_t ext_end = extensions_end(h, cluster, cs);
	uint64_t off;

	if (cs == LAYOUT_SECTOR)
		return true;
	if (ext_end > LAYOUT_SECTOR)
		return false;
	if (h->backing_off + h->backing_len <= LAYOUT_SECTOR)
		return true;
	off = free_place(&m->header, old, cs, h->backing_len);
	if (off != 0)
		move_name(h, cluster, off);
	return off != 0;
}

static int write_bytes(struct meta *m, const uint8_t *cluster, uint64_t off, uint64_t len,
		       struct qcow2_error *err)
{
	int ret = 0;

	if (len > 0)
		ret = storage_write(m->file, cluster + off, (size_t)len, off, err);
	return ret == 0 ? meta_barrier(m, err) : ret;
}

/* From the first write to the first sector on it isn't known what a failure leaves. */
static int write_switch(struct meta *m, const uint8_t *cluster, uint64_t len,
			struct qcow2_error *err)
{
	int ret = storage_write(m->file, cluster, (size_t)len, 0, err);

	if (ret < 0)
		return meta_header_unknown(m, ret, "backing file");
	return meta_barrier(m, err);
}

static int write_header(struct meta *m, struct format_header *h, uint8_t *cluster,
			struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	cleanup_free uint8_t *old = mem_alloc(cs, 1);
	int ret;

	if (!old)
		return error_errno(err, -ENOMEM, "can't rewrite the header");
	ret = storage_read(m->file, old, (size_t)cs, 0, err);
	if (ret < 0)
		return ret;
	if (!plan(m, h, cluster, old))
		return write_switch(m, cluster, cs, err);
	if (h->backing_off >= LAYOUT_SECTOR)
		ret = write_bytes(m, cluster, h->backing_off, h->backing_len, err);
	if (ret == 0)
		ret = write_switch(m, cluster, min_u64(cs, LAYOUT_SECTOR), err);
	/* what only the old header used; that it stays is no harm */
	if (ret == 0 && cs > LAYOUT_SECTOR &&
	    memcmp(old + LAYOUT_SECTOR, cluster + LAYOUT_SECTOR, (size_t)(cs - LAYOUT_SECTOR)) != 0)
		(void)storage_write(m->file, cluster + LAYOUT_SECTOR, (size_t)(cs - LAYOUT_SECTOR),
				    LAYOUT_SECTOR, NULL);
	return ret;
}

int meta_super_write_backing(struct meta *m, char **name, char **format, struct qcow2_error *err)
{
	struct format_header h = m->header; /* shares what that owns */
	cleanup_free uint8_t *cluster = mem_alloc(m->geometry.cluster_size, 1);
	char *old_name = m->header.backing_name, *old_format = m->header.ext.backing_format;
	int ret;

	if (!cluster)
		return error_errno(err, -ENOMEM, "can't rewrite the header");
	if (m->tolerated & FORMAT_HEADER_ALLOW_BITMAPS)
		return error_set(err, -EINVAL,
				 "can't rewrite the header: its bitmaps extension is bad and would"
				 " be lost");
	h.backing_name = *name;
	h.ext.backing_format = *name ? *format : NULL;
	ret = format_header_encode(&h, cluster, m->geometry.cluster_size, err);
	if (ret == 0)
		ret = write_header(m, &h, cluster, err);
	if (ret < 0) {
		error_prefix(err, "can't rewrite the header");
		return ret;
	}
	m->header.header_length = h.header_length;
	m->header.backing_off = h.backing_off;
	m->header.backing_len = h.backing_len;
	m->header.backing_name = *name;
	m->header.ext.backing_format = *format;
	*name = old_name;
	*format = old_format;
	return 0;
}
