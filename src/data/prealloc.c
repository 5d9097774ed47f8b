/* SPDX-License-Identifier: MIT */
/*
 * Places for clusters that hold nothing yet: preallocation of the space that a disk grows by. They
 * read as zeros: by being fresh, by being zeroed, or by their subcluster bits.
 */
#include <errno.h>

#include "base/num.h"
#include "data/write.h"

/* Makes the place read as zeros, and takes its space on the host, as prealloc says. */
static int fill_place(struct data_chunk *c, const struct data_place *p, unsigned prealloc,
		      struct qcow2_error *err)
{
	const struct meta *m = c->w->m;
	uint64_t len = p->n * m->geometry.cluster_size;
	int ret = 0;

	if (m->geometry.data_file) /* the file as a whole is the caller's */
		return 0;
	meta_need_end(c->w->m, p->host_off + len);
	if (prealloc == QCOW2_PREALLOC_FULL)
		return storage_zero(m->data, p->host_off, len, 0, err);
	if (!p->fresh && !m->geometry.extended_l2)
		ret = storage_zero(m->data, p->host_off, len, QCOW2_STORAGE_MAY_UNMAP, err);
	if (ret == 0 && prealloc == QCOW2_PREALLOC_FALLOC) {
		ret = storage_allocate(m->data, p->host_off, len, err);
		if (ret == -ENOTSUP)
			ret = storage_zero(m->data, p->host_off, len, 0, err);
	}
	return ret;
}

static int map_empty(struct data_chunk *c, const struct data_place *p, struct qcow2_error *err)
{
	const uint64_t cs = c->w->m->geometry.cluster_size;
	struct meta_entry e[DATA_CHUNK];

	for (unsigned i = 0; i < p->n; i++) {
		e[i] = (struct meta_entry){
			.raw = format_l2_encode_normal(p->host_off + i * cs, true)};
		if (c->w->m->geometry.extended_l2 && c->w->has_backing)
			e[i].bitmap = format_subcluster_bitmap(0, UINT32_MAX);
	}
	return meta_entries_set(c->w->m, data_cluster_off(c, p->first), e, p->n, true, err);
}

static bool is_empty(const struct data_chunk *c, unsigned idx)
{
	return !c->e[idx].has_host_off;
}

static int place_empty(struct data_chunk *c, unsigned prealloc, struct qcow2_error *err)
{
	int ret = 0;

	for (unsigned idx = 0; idx < c->n && ret == 0;) {
		struct data_place p = {.first = idx};

		while (idx + p.n < c->n && is_empty(c, idx + p.n))
			p.n++;
		if (p.n == 0) {
			idx++;
			continue;
		}
		ret = data_find_place(c, &p, 0, err);
		if (ret < 0)
			return ret;
		ret = fill_place(c, &p, prealloc, err);
		if (ret == 0)
			ret = map_empty(c, &p, err);
		if (ret < 0)
			data_give_up_place(c, &p);
		idx += p.n;
	}
	return ret;
}

int data_preallocate(struct data_writer *w, uint64_t guest_off, uint64_t end, unsigned prealloc,
		     struct qcow2_error *err)
{
	int ret = 0;

	while (guest_off < end && ret == 0) {
		struct data_chunk c;

		ret = meta_table_ensure(w->m, guest_off, err);
		if (ret == 0)
			ret = data_chunk_take(&c, w, guest_off, end, err);
		if (ret < 0)
			return ret;
		ret = place_empty(&c, prealloc, err);
		data_chunk_leave(&c);
		if (ret == 0)
			ret = progress_step(w->m->engine->progress, c.end - guest_off, err);
		guest_off = c.end;
	}
	return ret;
}
