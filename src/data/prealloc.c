/* SPDX-License-Identifier: MIT */
/*
 * Places for clusters that hold nothing yet: preallocation of the space that a disk grows by. They
 * read as zeros: by being fresh, by being zeroed, or by their subcluster bits.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/num.h"
#include "data/write.h"

#define FILL_BYTES (256u << 20) /* at once: a file system may take long over it */
/* Tables that are made together */
#define GROUP_BYTES (1u << 20)
#define GROUP_TABLES 64

/* Makes the place read as zeros, and takes its space on the host, as prealloc says. */
static int fill_place(struct data_writer *w, const struct data_place *p, unsigned prealloc,
		      struct qcow2_error *err)
{
	const struct meta *m = w->m;
	uint64_t len = p->n * m->geometry.cluster_size;
	int ret = 0;

	/* what was discarded may still be there; space for the file as a whole is the caller's */
	if (m->geometry.data_file)
		return storage_zero(m->data, p->host_off, min_u64(len, m->size_bytes - p->host_off),
				    QCOW2_STORAGE_MAY_UNMAP, err);
	if (prealloc == QCOW2_PREALLOC_FULL)
		ret = storage_zero(m->data, p->host_off, len, 0, err);
	else if (!p->fresh && !m->geometry.extended_l2)
		ret = storage_zero(m->data, p->host_off, len, QCOW2_STORAGE_MAY_UNMAP, err);
	if (ret == 0 && prealloc == QCOW2_PREALLOC_FALLOC) {
		ret = storage_allocate(m->data, p->host_off, len, err);
		if (ret == -ENOTSUP)
			ret = storage_zero(m->data, p->host_off, len, 0, err);
	}
	/* not before: the file couldn't be made as long as that where there is no room */
	if (ret == 0)
		meta_need_end(w->m, p->host_off + len);
	return ret;
}

/* ---- entries of a table that is there ---- */

/* What says that nothing is in the subclusters, whatever is below. */
static uint64_t empty_bitmap(const struct data_writer *w)
{
	return w->has_backing ? format_subcluster_bitmap(0, UINT32_MAX) : 0;
}

static int map_empty(struct data_chunk *c, const struct data_place *p, struct qcow2_error *err)
{
	const uint64_t cs = c->w->m->geometry.cluster_size;
	struct meta_entry e[DATA_CHUNK];

	for (unsigned i = 0; i < p->n; i++) {
		e[i] = (struct meta_entry){
			.raw = format_l2_encode_normal(p->host_off + i * cs, true)};
		if (c->w->m->geometry.extended_l2)
			e[i].bitmap = empty_bitmap(c->w);
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
		ret = fill_place(c->w, &p, prealloc, err);
		if (ret == 0)
			ret = map_empty(c, &p, err);
		if (ret < 0)
			data_give_up_place(c, &p);
		idx += p.n;
	}
	return ret;
}

/* Up to the end, or that of a slice. */
static int preallocate_chunk(struct data_writer *w, uint64_t *guest_off, uint64_t end,
			     unsigned prealloc, struct qcow2_error *err)
{
	struct data_chunk c;
	int ret = meta_table_ensure(w->m, *guest_off, err);

	if (ret == 0)
		ret = data_chunk_take(&c, w, *guest_off, end, err);
	if (ret < 0)
		return ret;
	ret = place_empty(&c, prealloc, err);
	data_chunk_leave(&c);
	if (ret == 0)
		ret = progress_step(w->m->engine->progress, c.end - *guest_off, err);
	*guest_off = c.end;
	return ret;
}

/* ---- whole tables ---- */

/*
 * Tables that aren't there, side by side, made in memory and written as a whole to where nothing
 * points yet; then the clusters that they map, each table's in one piece.
 */
struct group {
	struct data_writer *w;
	unsigned prealloc;
	unsigned n;
	struct meta_run tables;
	unsigned placed; /* tables whose clusters have a place */
	struct meta_run data[GROUP_TABLES];
	uint8_t *bytes;
};

static uint64_t table_span(const struct format_geometry *g)
{
	return (uint64_t)g->l2_entries << g->cluster_bits;
}

/* How many tables from guest_off on aren't there and can be made together. */
static unsigned count_absent(const struct data_writer *w, uint64_t guest_off, uint64_t end)
{
	const struct format_geometry *g = &w->m->geometry;
	uint64_t idx = format_l1_index(g, guest_off);
	uint64_t max = min_u64(max_u64(GROUP_BYTES >> g->cluster_bits, 1), GROUP_TABLES);
	unsigned n = 0;

	if (!is_aligned(guest_off, table_span(g)))
		return 0;
	max = min_u64(max, div_ceil(end - guest_off, table_span(g)));
	while (n < max && meta_l1_get(w->m, idx + n) == 0)
		n++;
	return n;
}

/* Piece by piece, where that takes time. */
static int fill_run(struct group *g, const struct meta_run *run, struct qcow2_error *err)
{
	struct meta *m = g->w->m;
	uint64_t most = g->prealloc == QCOW2_PREALLOC_METADATA
				? run->nclusters
				: max_u64(FILL_BYTES >> m->geometry.cluster_bits, 1);
	int ret = 0;

	for (uint64_t done = 0, n; ret == 0 && done < run->nclusters; done += n) {
		struct data_place p = {.host_off = meta_off_of(m, run->first + done),
				       .fresh = run->fresh};

		n = min_u64(run->nclusters - done, most);
		p.n = (unsigned)n;
		ret = fill_place(g->w, &p, g->prealloc, err);
		if (ret == 0)
			ret = progress_step(m->engine->progress, n << m->geometry.cluster_bits,
					    err);
	}
	return ret;
}

/* A place for n clusters of the disk that begin at guest_off, and the next table. */
static int place_table(struct group *g, uint64_t guest_off, uint64_t n, struct qcow2_error *err)
{
	struct meta *m = g->w->m;
	const uint64_t cs = m->geometry.cluster_size;
	struct meta_run *run = &g->data[g->placed];
	int ret = 0;

	if (m->geometry.data_file)
		*run = (struct meta_run){.first = meta_cluster_of(m, guest_off), .nclusters = n};
	else
		ret = meta_take(m, n, LAYOUT_HOST_OFF_MAX, run, err);
	if (ret < 0)
		return ret;
	format_l2_fill(&m->geometry, g->bytes + g->placed * cs, meta_off_of(m, run->first),
		       (uint32_t)n, empty_bitmap(g->w));
	g->placed++;
	return fill_run(g, run, err);
}

static void give_up_group(struct group *g)
{
	struct meta *m = g->w->m;

	for (unsigned i = 0; i < g->placed && !m->geometry.data_file; i++)
		meta_untake(m, &g->data[i]);
	meta_untake(m, &g->tables);
}

static int place_group(struct group *g, uint64_t guest_off, uint64_t end,
		       struct storage_trail *trail, struct qcow2_error *err)
{
	struct meta *m = g->w->m;
	const uint64_t cs = m->geometry.cluster_size, span = table_span(&m->geometry);
	int ret = meta_take(m, g->n, LAYOUT_HOST_OFF_MAX, &g->tables, err);

	if (ret < 0)
		return ret;
	for (uint64_t off = guest_off, n; ret == 0 && g->placed < g->n; off += span) {
		n = div_ceil(min_u64(end - off, span), cs);
		ret = place_table(g, off, n, err);
	}
	if (ret == 0)
		ret = meta_tables_enter(m, guest_off, &g->tables, g->bytes, trail, err);
	if (ret < 0)
		give_up_group(g);
	return ret;
}

/* ---- ---- */

int data_preallocate(struct data_writer *w, uint64_t guest_off, uint64_t end, unsigned prealloc,
		     struct qcow2_error *err)
{
	const struct format_geometry *g = &w->m->geometry;
	cleanup_free uint8_t *bytes =
		mem_aligned(4096, max_u64(g->cluster_size,
					  min_u64(GROUP_BYTES, GROUP_TABLES << g->cluster_bits)));
	struct storage_trail trail = {0};
	int ret = bytes ? 0 : error_errno(err, -ENOMEM, "can't make L2 tables");

	while (guest_off < end && ret == 0) {
		struct group group = {.w = w, .prealloc = prealloc, .bytes = bytes};

		group.n = count_absent(w, guest_off, end);
		if (group.n == 0) {
			ret = preallocate_chunk(w, &guest_off, end, prealloc, err);
			continue;
		}
		ret = place_group(&group, guest_off, end, &trail, err);
		guest_off += group.n * table_span(g);
	}
	return ret;
}
