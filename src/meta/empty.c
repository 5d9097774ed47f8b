/* SPDX-License-Identifier: MIT */
/*
 * Emptying an image: nothing is allocated in it any more, and what its backing file has shows
 * through (section 22). The gate is closed; what the image held has to be durable elsewhere.
 *
 * The quick way is for an image that has nothing but its disk: the L1 table becomes zeros, which
 * durably is the end of the old contents, and then the file is laid out like a new one: header,
 * refcount table, one refcount block, L1 table. The dirty bit excuses the refcounts from the
 * first write to the last. Whatever has more than that (snapshots, bitmaps) gets an empty L1 table,
 * and what the old one reaches loses a reference.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/refbits.h"
#include "meta/engine.h"
#include "meta/super.h"

/* The clusters of a new image: the header is cluster 0. */
#define REFTABLE 1u
#define REFBLOCK 2u
#define L1 3u

static uint64_t l1_bytes(const struct meta *m)
{
	return (uint64_t)m->header.l1_entries * LAYOUT_L1_ENTRY_LEN;
}

static uint64_t all_clusters(const struct meta *m)
{
	return L1 + div_ceil(l1_bytes(m), m->geometry.cluster_size);
}

bool meta_can_lay_out_anew(const struct meta *m)
{
	const struct format_header *h = &m->header;

	return h->version >= 3 && h->nb_snapshots == 0 && !h->ext.has_bitmaps &&
	       !h->ext.has_crypto && h->crypt_method == LAYOUT_CRYPT_NONE &&
	       !m->geometry.data_file && h->l1_entries > 0 &&
	       all_clusters(m) <= m->geometry.refblock_entries;
}

static int clear_l1(struct meta *m, struct qcow2_error *err)
{
	int ret = storage_zero(m->file, m->header.l1_off, l1_bytes(m), 0, err);

	if (ret == 0)
		ret = meta_barrier(m, err);
	for (uint32_t i = 0; ret == 0 && i < m->l1_entries; i++)
		__atomic_store_n(&m->l1[i], 0, __ATOMIC_RELEASE);
	return ret;
}

/* The header points to tables of zeros: so far nothing is counted, which the dirty bit excuses. */
static int move_tables(struct meta *m, struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	int ret = storage_zero(m->file, REFTABLE * cs, (all_clusters(m) - REFTABLE) * cs, 0, err);

	if (ret == 0)
		ret = meta_barrier(m, err);
	if (ret == 0)
		ret = meta_super_write_tables(m, L1 * cs, REFTABLE * cs, err);
	return ret == 0 ? meta_barrier(m, err) : ret;
}

static int write_counts(struct meta *m, struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	cleanup_free uint8_t *block = mem_zalloc(cs, 1);
	uint8_t entry[LAYOUT_REFTABLE_ENTRY_LEN];
	int ret;

	if (!block)
		return error_errno(err, -ENOMEM, "can't write a refcount block");
	format_refcount_fill(block, m->header.refcount_order, 0, all_clusters(m), 1);
	store_be64(entry, REFBLOCK * cs);
	ret = storage_write(m->file, block, (size_t)cs, REFBLOCK * cs, err);
	if (ret == 0)
		ret = storage_write(m->file, entry, sizeof(entry), REFTABLE * cs, err);
	return ret == 0 ? meta_barrier(m, err) : ret;
}

static int cut_file(struct meta *m, struct qcow2_error *err)
{
	uint64_t end = meta_off_of(m, all_clusters(m)), size;
	int ret;

	if (m->engine->device)
		return 0;
	ret = storage_size(m->file, &size, err);
	return ret == 0 && size != end ? storage_truncate(m->file, end, err) : ret;
}

static int lay_out(struct meta *m, struct qcow2_error *err)
{
	int ret = clear_l1(m, err);

	if (ret == 0)
		ret = move_tables(m, err);
	if (ret == 0)
		ret = write_counts(m, err);
	return ret == 0 ? cut_file(m, err) : ret;
}

int meta_lay_out_anew(struct meta *m, struct qcow2_error *err)
{
	struct qcow2_error why;
	int ret = meta_check_sound(m, err);

	if (ret == 0)
		ret = meta_commit_counts(m, err);
	if (ret == 0)
		ret = meta_dirty_set(m, err);
	if (ret < 0)
		return ret;
	storage_event(m->file, QCOW2_EVENT_EMPTY_IMAGE_PREPARE);
	ret = lay_out(m, &why);
	if (ret == 0) {
		atomic_store(&m->engine->needs_repair, false);
		ret = meta_dirty_clear(m, &why);
	}
	/* whatever came of it, the counts in memory are those of another file */
	if (ret == 0) {
		error_set(&why, -EINVAL, "it has been emptied");
	} else {
		if (err)
			*err = why;
		error_prefix(&why, "emptying it failed");
	}
	meta_fail(m, &why);
	return ret;
}
