/* SPDX-License-Identifier: MIT */
/* Opening the metadata: the header and the L1 table, checked before they are used. */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "meta/bitmap.h"
#include "meta/meta.h"

/* What is missing of a table reads as zeros, but a header of zeros would be a disk of size 0. */
static int check_header_is_there(const struct meta *m, uint32_t version, struct qcow2_error *err)
{
	unsigned len = version == 2 ? LAYOUT_HEADER_LEN_V2 : LAYOUT_HEADER_LEN_V3_MIN;

	if (m->file_size >= len)
		return 0;
	return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, m->file_size,
			    "the file ends after %" PRIu64
			    " bytes, inside its header, which has at least %u",
			    m->file_size, len);
}

static int read_header(struct meta *m, unsigned allow, struct qcow2_error *err)
{
	cleanup_free uint8_t *cluster = NULL;
	uint8_t peek[FORMAT_HEADER_PEEK];
	uint32_t cluster_bits;
	uint64_t cluster_size;
	int ret;

	ret = storage_read(m->file, peek, sizeof(peek), 0, err);
	if (ret == 0)
		ret = format_header_peek(peek, &cluster_bits, err);
	if (ret == 0)
		ret = check_header_is_there(m, load_be32(peek + LAYOUT_OFF_VERSION), err);
	if (ret < 0)
		return ret;
	cluster_size = 1ull << cluster_bits;
	cluster = mem_alloc(cluster_size, 1);
	if (!cluster)
		return error_errno(err, -ENOMEM, "can't read the header");
	ret = storage_read(m->file, cluster, (size_t)cluster_size, 0, err);
	if (ret < 0)
		return ret;
	return format_header_decode(&m->header, cluster, cluster_size, allow, &m->tolerated, err);
}

int meta_open(struct meta *m, struct qcow2_storage file, unsigned allow, struct qcow2_error *err)
{
	int ret;

	*m = (struct meta){.file = file, .data = file};
	ret = storage_size(file, &m->file_size, err);
	if (ret == 0)
		ret = read_header(m, allow, err);
	if (ret < 0)
		return ret;
	format_header_geometry(&m->header, &m->geometry);
	m->size_bytes = align_down(m->header.size_bytes, LAYOUT_SECTOR);
	return 0;
}

void meta_release(struct meta *m)
{
	meta_bitmaps_close(m);
	meta_cache_free(m->l2);
	mem_free(m->l1);
	format_header_release(&m->header);
	*m = (struct meta){0};
}

int meta_read_table(const struct meta *m, uint64_t host_off, uint64_t len_bytes, uint8_t **bytes,
		    size_t *got, struct qcow2_error *err)
{
	uint64_t in_file = host_off < m->file_size ? m->file_size - host_off : 0;
	uint64_t len = min_u64(len_bytes, in_file);
	uint8_t *buf;
	int ret;

	*bytes = NULL;
	*got = 0;
	buf = mem_alloc(len, 1);
	if (!buf)
		return error_errno(err, -ENOMEM, "can't read a table of %" PRIu64 " bytes", len);
	ret = storage_read(m->file, buf, (size_t)len, host_off, err);
	if (ret < 0) {
		mem_free(buf);
		return ret;
	}
	*bytes = buf;
	*got = (size_t)len;
	return 0;
}

int meta_check_snapshot_l1(const struct meta *m, const struct format_snapshot *snap,
			   struct qcow2_error *err)
{
	if (snap->l1_entries > LAYOUT_L1_ENTRIES_MAX)
		return error_set(err, -EFBIG,
				 "snapshot \"%s\": its L1 table has %" PRIu32
				 " entries, more than the %u allowed",
				 snap->name, snap->l1_entries, LAYOUT_L1_ENTRIES_MAX);
	if (!is_aligned(snap->l1_off, m->geometry.cluster_size) ||
	    snap->l1_off > INT64_MAX - (uint64_t)snap->l1_entries * LAYOUT_L1_ENTRY_LEN)
		return error_set_at(
			err, -EINVAL, QCOW2_NO_OFFSET, snap->l1_off,
			"snapshot \"%s\": its L1 table is at the impossible offset 0x%" PRIx64,
			snap->name, snap->l1_off);
	return 0;
}

/*
 * Where the L1 table is that maps the wanted view, and how many entries it has.
 *
 * A snapshot is read at the image's present size, as by others, or at its own if that is larger,
 * so that nothing of it is lost. What it has behind its own size is VM state, never disk.
 */
static int choose_view(struct meta *m, const struct format_snapshot *snap, uint64_t *l1_off,
		       uint32_t *entries, struct qcow2_error *err)
{
	uint64_t size;
	int ret;

	*l1_off = m->header.l1_off;
	*entries = m->header.l1_entries;
	m->state_off = format_vm_state_off(&m->geometry, m->size_bytes);
	if (!snap)
		return 0;
	ret = meta_check_snapshot_l1(m, snap, err);
	if (ret < 0)
		return ret;
	size = snap->has_disk_size ? align_down(snap->disk_size, LAYOUT_SECTOR) : m->size_bytes;
	if (size > format_max_size(&m->geometry))
		return error_set(err, -EFBIG,
				 "snapshot \"%s\": its disk of %" PRIu64
				 " bytes is larger than the format allows",
				 snap->name, size);
	*l1_off = snap->l1_off;
	*entries = snap->l1_entries;
	m->state_off = format_vm_state_off(&m->geometry, size);
	m->size_bytes = max_u64(m->size_bytes, size);
	return 0;
}

/*
 * What the L2 tables behind the L1 take, which have to lie in the file: more is never cached. If
 * it is to be written they may all come into being.
 */
static uint64_t l2_bytes(const struct meta *m, bool whole)
{
	uint64_t ntables = 0;

	if (whole)
		return m->l1_entries * m->geometry.cluster_size;
	for (uint32_t i = 0; i < m->l1_entries; i++)
		ntables += m->l1[i] != 0;
	return min_u64(ntables * m->geometry.cluster_size, m->file_size);
}

int meta_l2_cache_new(const struct meta *m, uint64_t tables_bytes, struct meta_cache **cache,
		      struct qcow2_error *err)
{
	int ret = meta_cache_new(cache, m->file, QCOW2_EVENT_L2_LOAD, meta_slice_len(m),
				 min_u64(m->l2_limit, META_CACHE_SLACK * tables_bytes), err);

	if (ret == 0)
		meta_cache_keep_straight(*cache, m->geometry.cluster_size, m->direct);
	return ret;
}

int meta_load_l1(struct meta *m, const struct format_snapshot *snap, bool whole,
		 uint64_t cache_bytes, struct qcow2_error *err)
{
	cleanup_free uint8_t *bytes = NULL;
	uint32_t entries, of_disk, there;
	uint64_t l1_off;
	size_t got;
	int ret;

	ret = choose_view(m, snap, &l1_off, &entries, err);
	if (ret < 0)
		return ret;
	ret = meta_read_table(m, l1_off, (uint64_t)entries * LAYOUT_L1_ENTRY_LEN, &bytes, &got,
			      err);
	if (ret < 0) {
		error_prefix(err, "can't read the L1 table");
		return ret;
	}
	there = (uint32_t)(got / LAYOUT_L1_ENTRY_LEN);
	of_disk = (uint32_t)min_u64(entries, format_l1_index(&m->geometry, m->state_off));
	m->l1_missing = of_disk > there ? of_disk - there : 0;
	m->l1_entries = whole ? entries : there;
	m->l1 = mem_zalloc(m->l1_entries, sizeof(*m->l1));
	if (!m->l1)
		return error_errno(err, -ENOMEM, "can't read the L1 table");
	for (uint32_t i = 0; i < there; i++)
		m->l1[i] = load_be64(bytes + (size_t)i * LAYOUT_L1_ENTRY_LEN);
	m->slice_entries = meta_slice_len(m) / m->geometry.l2_entry_len;
	m->l2_limit = cache_bytes;
	return meta_l2_cache_new(m, l2_bytes(m, whole), &m->l2, err);
}
