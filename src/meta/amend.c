/* SPDX-License-Identifier: MIT */
/* Another version of the format, other bits and names in the header: see amend.h. */
#include "meta/amend.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"

int meta_watch_step(const struct meta_watch *watch, uint64_t bytes, struct qcow2_error *err)
{
	if (!watch || !watch->step || watch->step(watch->opaque, bytes) == 0)
		return 0;
	return error_set(err, -ECANCELED, "canceled");
}

/* ---- headers as they are to be ---- */

/* Shares what m->header owns. */
static struct format_header with_version(const struct meta *m, uint32_t version)
{
	struct format_header h = m->header;

	if (version == h.version)
		return h;
	h.version = version;
	h.incompatible = h.compatible = h.autoclear = 0;
	h.refcount_order = LAYOUT_REFCOUNT_ORDER_V2;
	h.compression_type = LAYOUT_COMPRESSION_ZLIB;
	h.unknown_fields = NULL;
	h.unknown_fields_len = 0;
	return h;
}

static int encode(struct meta *m, struct format_header *h, uint8_t **cluster,
		  struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;

	if (m->tolerated & FORMAT_HEADER_ALLOW_BITMAPS)
		return error_set(err, -EINVAL,
				 "can't rewrite the header: its bitmaps extension is bad and would"
				 " be lost");
	*cluster = mem_alloc(cs, 1);
	if (!*cluster)
		return error_errno(err, -ENOMEM, "can't rewrite the header");
	return format_header_encode(h, *cluster, cs, err);
}

int meta_check_header(struct meta *m, uint32_t version, const char *data_file,
		      struct qcow2_error *err)
{
	cleanup_free uint8_t *cluster = NULL;
	cleanup_free char *name = data_file ? mem_strdup(data_file) : NULL;
	struct format_header h = with_version(m, version);
	int ret;

	if (data_file && !name)
		return error_errno(err, -ENOMEM, "can't rewrite the header");
	if (name)
		h.ext.data_file = name;
	ret = encode(m, &h, &cluster, err);
	if (ret < 0)
		error_prefix(err, "the header would become too large");
	return ret;
}

/* Writes it, and m->header follows. */
static int become(struct meta *m, struct format_header *h, struct qcow2_error *err)
{
	struct meta_slot *slot = &m->engine->order.commit;
	cleanup_free uint8_t *cluster = NULL;
	int ret;

	/* a commit of who gives clusters away may set the dirty bit */
	meta_slot_take(slot);
	if (h->version == m->header.version)
		h->incompatible = m->header.incompatible;
	ret = encode(m, h, &cluster, err);
	if (ret == 0)
		ret = meta_super_switch(m, cluster, err);
	meta_slot_leave(slot);
	if (ret < 0) {
		error_prefix(err, "can't rewrite the header");
		return ret;
	}
	if (!h->unknown_fields)
		mem_free(m->header.unknown_fields);
	m->header = *h;
	m->geometry.version = h->version;
	return 0;
}

/* ---- versions ---- */

int meta_upgrade(struct meta *m, struct meta_snapshots *s, struct qcow2_error *err)
{
	uint64_t old_len = meta_snapshots_len(s, s->count);
	struct format_header h;
	bool complete = true;
	int ret = meta_commit_counts(m, err);

	for (size_t i = 0; i < s->count; i++) {
		complete = complete && s->list[i].has_disk_size;
		if (!s->list[i].has_disk_size)
			s->list[i].disk_size = m->size_bytes;
		s->list[i].has_disk_size = true;
	}
	if (ret == 0 && !complete)
		ret = meta_snapshots_rewrite(m, s, old_len, err);
	if (ret < 0)
		return ret;
	h = with_version(m, 3);
	return become(m, &h, err);
}

/* What was expanded before a failure stays, and the bit goes that excused it. */
static void give_up(struct meta *m)
{
	if (meta_check_sound(m, NULL) == 0 && meta_commit_counts(m, NULL) == 0 && !m->engine->lazy)
		(void)meta_dirty_clear(m, NULL);
}

int meta_downgrade(struct meta *m, const struct meta_snapshots *s, const struct meta_watch *watch,
		   struct qcow2_error *err)
{
	struct meta_engine *e = m->engine;
	struct format_header h;
	int ret = meta_zeros_expand(m, s, watch, err);

	if (ret == 0 && atomic_load(&e->needs_repair))
		ret = error_set(err, -EUCLEAN, "refcounts or flags have to be repaired first");
	if (ret == 0) {
		h = with_version(m, 2);
		ret = become(m, &h, err);
	}
	if (ret < 0) {
		give_up(m);
		return ret;
	}
	meta_slot_take(&e->order.commit);
	e->lazy = false;
	meta_slot_leave(&e->order.commit);
	atomic_store(&e->dirty_bit, false);
	return 0;
}

/* ---- bits and names ---- */

int meta_set_lazy(struct meta *m, bool lazy, struct qcow2_error *err)
{
	struct meta_engine *e = m->engine;
	uint64_t bits = m->header.compatible & ~LAYOUT_COMPAT_LAZY_REFCOUNTS;
	int ret = 0;

	if (!lazy) { /* what was put off is done first */
		ret = meta_commit_counts(m, err);
		if (ret == 0)
			ret = meta_dirty_clear(m, err);
	}
	if (ret == 0)
		ret = meta_super_write_compatible(
			m, bits | (lazy ? LAYOUT_COMPAT_LAZY_REFCOUNTS : 0), err);
	if (ret == 0)
		ret = meta_barrier(m, err);
	if (ret < 0)
		return ret;
	meta_slot_take(&e->order.commit);
	e->lazy = lazy;
	meta_slot_leave(&e->order.commit);
	return 0;
}

int meta_drop_raw_data(struct meta *m, struct qcow2_error *err)
{
	int ret = meta_super_write_autoclear(
		m, m->header.autoclear & ~LAYOUT_AUTOCLEAR_DATA_FILE_RAW, err);

	return ret == 0 ? meta_barrier(m, err) : ret;
}

int meta_set_data_file(struct meta *m, char **name, struct qcow2_error *err)
{
	struct format_header h = m->header;
	char *old = h.ext.data_file;
	int ret;

	h.ext.data_file = *name;
	ret = become(m, &h, err);
	if (ret == 0)
		*name = old;
	return ret;
}
