/* SPDX-License-Identifier: MIT */
/* Changes of the header: super.h says what holds. */
#include "meta/super.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"

/* What a small change writes at most. */
#define FIELDS_MAX 52

static int write_fields(struct meta *m, uint32_t off, uint32_t end, const uint8_t bytes[FIELDS_MAX],
			const char *what, struct qcow2_error *err)
{
	int ret;

	assert(end - off <= FIELDS_MAX);
	ret = storage_write(m->file, bytes, end - off, off, err);
	if (ret < 0)
		error_prefix(err, "can't change %s in the header", what);
	return ret;
}

static bool is_place(const struct meta *m, uint64_t host_off)
{
	return is_aligned(host_off, m->geometry.cluster_size);
}

int meta_super_write_size(struct meta *m, uint64_t size_bytes, struct qcow2_error *err)
{
	uint8_t bytes[FIELDS_MAX];
	int ret;

	store_be64(bytes, size_bytes);
	ret = write_fields(m, LAYOUT_OFF_SIZE, LAYOUT_OFF_SIZE + 8, bytes, "the disk's size", err);
	if (ret < 0)
		return ret;
	m->header.size_bytes = size_bytes;
	return 0;
}

int meta_super_write_l1(struct meta *m, uint64_t l1_off, uint32_t entries, struct qcow2_error *err)
{
	uint8_t bytes[FIELDS_MAX];
	int ret;

	assert(is_place(m, l1_off) && entries <= LAYOUT_L1_ENTRIES_MAX);
	store_be32(bytes, entries);
	store_be64(bytes + (LAYOUT_OFF_L1_OFFSET - LAYOUT_OFF_L1_SIZE), l1_off);
	ret = write_fields(m, LAYOUT_OFF_L1_SIZE, LAYOUT_OFF_L1_OFFSET + 8, bytes,
			   "the place of the L1 table", err);
	if (ret < 0)
		return ret;
	m->header.l1_entries = entries;
	m->header.l1_off = l1_off;
	return 0;
}

int meta_super_write_disk(struct meta *m, uint64_t size_bytes, uint64_t l1_off, uint32_t entries,
			  struct qcow2_error *err)
{
	uint8_t bytes[FIELDS_MAX];
	int ret;

	assert(is_place(m, l1_off) && entries <= LAYOUT_L1_ENTRIES_MAX);
	store_be64(bytes, size_bytes);
	store_be32(bytes + (LAYOUT_OFF_CRYPT_METHOD - LAYOUT_OFF_SIZE), m->header.crypt_method);
	store_be32(bytes + (LAYOUT_OFF_L1_SIZE - LAYOUT_OFF_SIZE), entries);
	store_be64(bytes + (LAYOUT_OFF_L1_OFFSET - LAYOUT_OFF_SIZE), l1_off);
	ret = write_fields(m, LAYOUT_OFF_SIZE, LAYOUT_OFF_L1_OFFSET + 8, bytes,
			   "the size and the place of the L1 table", err);
	if (ret < 0)
		return ret;
	m->header.size_bytes = size_bytes;
	m->header.l1_entries = entries;
	m->header.l1_off = l1_off;
	return 0;
}

int meta_super_write_reftable(struct meta *m, uint64_t off, uint32_t clusters,
			      struct qcow2_error *err)
{
	uint8_t bytes[FIELDS_MAX];
	int ret;

	assert(is_place(m, off) && clusters > 0 &&
	       clusters <= LAYOUT_REFTABLE_BYTES_MAX / m->geometry.cluster_size);
	store_be64(bytes, off);
	store_be32(bytes + (LAYOUT_OFF_REFTABLE_CLUSTERS - LAYOUT_OFF_REFTABLE_OFFSET), clusters);
	ret = write_fields(m, LAYOUT_OFF_REFTABLE_OFFSET, LAYOUT_OFF_REFTABLE_CLUSTERS + 4, bytes,
			   "the place of the refcount table", err);
	if (ret < 0)
		return ret;
	m->header.reftable_off = off;
	m->header.reftable_clusters = clusters;
	return 0;
}

int meta_super_write_tables(struct meta *m, uint64_t l1_off, uint64_t reftable_off,
			    struct qcow2_error *err)
{
	uint8_t bytes[FIELDS_MAX];
	int ret;

	assert(is_place(m, l1_off) && is_place(m, reftable_off));
	store_be32(bytes, m->header.l1_entries);
	store_be64(bytes + (LAYOUT_OFF_L1_OFFSET - LAYOUT_OFF_L1_SIZE), l1_off);
	store_be64(bytes + (LAYOUT_OFF_REFTABLE_OFFSET - LAYOUT_OFF_L1_SIZE), reftable_off);
	store_be32(bytes + (LAYOUT_OFF_REFTABLE_CLUSTERS - LAYOUT_OFF_L1_SIZE), 1);
	ret = write_fields(m, LAYOUT_OFF_L1_SIZE, LAYOUT_OFF_REFTABLE_CLUSTERS + 4, bytes,
			   "the places of the tables", err);
	if (ret < 0)
		return ret;
	m->header.l1_off = l1_off;
	m->header.reftable_off = reftable_off;
	m->header.reftable_clusters = 1;
	return 0;
}

int meta_super_write_width(struct meta *m, uint64_t off, uint32_t clusters, uint32_t order,
			   struct qcow2_error *err)
{
	const uint32_t from = LAYOUT_OFF_REFTABLE_OFFSET;
	const struct format_header *h = &m->header;
	uint8_t bytes[FIELDS_MAX];
	int ret;

	assert(h->version >= 3 && is_place(m, off));
	store_be64(bytes, off);
	store_be32(bytes + (LAYOUT_OFF_REFTABLE_CLUSTERS - from), clusters);
	store_be32(bytes + (LAYOUT_OFF_NB_SNAPSHOTS - from), h->nb_snapshots);
	store_be64(bytes + (LAYOUT_OFF_SNAPSHOTS_OFFSET - from), h->snapshots_off);
	store_be64(bytes + (LAYOUT_OFF_INCOMPATIBLE - from), h->incompatible);
	store_be64(bytes + (LAYOUT_OFF_COMPATIBLE - from), h->compatible);
	store_be64(bytes + (LAYOUT_OFF_AUTOCLEAR - from), h->autoclear);
	store_be32(bytes + (LAYOUT_OFF_REFCOUNT_ORDER - from), order);
	ret = write_fields(m, from, LAYOUT_OFF_REFCOUNT_ORDER + 4, bytes,
			   "the place and width of the refcounts", err);
	if (ret < 0)
		return ret;
	m->header.reftable_off = off;
	m->header.reftable_clusters = clusters;
	m->header.refcount_order = order;
	return 0;
}

int meta_super_write_snapshots(struct meta *m, uint32_t count, uint64_t off,
			       struct qcow2_error *err)
{
	uint8_t bytes[FIELDS_MAX];
	int ret;

	assert(is_place(m, off) && count <= LAYOUT_SNAPSHOTS_MAX);
	store_be32(bytes, count);
	store_be64(bytes + (LAYOUT_OFF_SNAPSHOTS_OFFSET - LAYOUT_OFF_NB_SNAPSHOTS), off);
	ret = write_fields(m, LAYOUT_OFF_NB_SNAPSHOTS, LAYOUT_OFF_SNAPSHOTS_OFFSET + 8, bytes,
			   "the place of the snapshot table", err);
	if (ret < 0)
		return ret;
	m->header.nb_snapshots = count;
	m->header.snapshots_off = off;
	return 0;
}

/* One of the masks of a version 3 header. */
static int write_mask(struct meta *m, uint32_t off, uint64_t bits, const char *what, uint64_t *mask,
		      struct qcow2_error *err)
{
	uint8_t bytes[FIELDS_MAX];
	int ret;

	if (m->header.version < 3 && bits == 0)
		return 0;
	if (m->header.version < 3)
		return error_set_at(err, -ENOTSUP, QCOW2_NO_OFFSET, off,
				    "can't set %s 0x%" PRIx64 ": a header of version 2 has none",
				    what, bits);
	store_be64(bytes, bits);
	ret = write_fields(m, off, off + 8, bytes, what, err);
	if (ret == 0)
		*mask = bits;
	return ret;
}

int meta_super_write_incompatible(struct meta *m, uint64_t bits, struct qcow2_error *err)
{
	return write_mask(m, LAYOUT_OFF_INCOMPATIBLE, bits, "the incompatible feature bits",
			  &m->header.incompatible, err);
}

int meta_super_write_compatible(struct meta *m, uint64_t bits, struct qcow2_error *err)
{
	return write_mask(m, LAYOUT_OFF_COMPATIBLE, bits, "the compatible feature bits",
			  &m->header.compatible, err);
}

int meta_super_write_autoclear(struct meta *m, uint64_t bits, struct qcow2_error *err)
{
	return write_mask(m, LAYOUT_OFF_AUTOCLEAR, bits, "the autoclear feature bits",
			  &m->header.autoclear, err);
}

/* All that an encoded header has and the one in memory may not: nothing else changes. */
static void adopt(struct format_header *h, const struct format_header *written)
{
	h->incompatible = written->incompatible;
	h->compatible = written->compatible;
	h->autoclear = written->autoclear;
	h->header_length = written->header_length;
	h->backing_off = written->backing_off;
	h->backing_len = written->backing_len;
}

int meta_super_rewrite(struct meta *m, uint64_t incompatible, uint64_t compatible,
		       uint64_t autoclear, struct qcow2_error *err)
{
	const uint64_t cluster_size = m->geometry.cluster_size;
	struct format_header h = m->header; /* shares what that owns */
	cleanup_free uint8_t *cluster = NULL;
	int ret;

	if (m->tolerated & FORMAT_HEADER_ALLOW_BITMAPS)
		return error_set(err, -EINVAL,
				 "can't rewrite the header: its bitmaps extension is bad and would"
				 " be lost");
	if (h.version >= 3) {
		h.incompatible = incompatible;
		h.compatible = compatible;
		h.autoclear = autoclear;
	}
	cluster = mem_alloc(cluster_size, 1);
	if (!cluster)
		return error_errno(err, -ENOMEM, "can't rewrite the header");
	ret = format_header_encode(&h, cluster, cluster_size, err);
	if (ret == 0)
		ret = storage_write(m->file, cluster, (size_t)cluster_size, 0, err);
	if (ret < 0) {
		error_prefix(err, "can't rewrite the header");
		return ret;
	}
	adopt(&m->header, &h);
	return 0;
}
