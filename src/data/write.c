/* SPDX-License-Identifier: MIT */
/*
 * Writing. What is mapped to a place of its own is written there by the map alone: no lock, no
 * change of metadata. Everything else takes the range of a chunk and is given places, in the order
 * and at the positions of section 10.6 of the reference.
 */
#include "data/write.h"

#include <errno.h>
#include <inttypes.h>

#include "base/num.h"

#define PIECES 64

/* ---- chunks ---- */

static int bad_entry(struct data_chunk *c, unsigned idx, struct qcow2_error *err)
{
	uint64_t guest_off = data_cluster_off(c, idx);

	error_set_at(err, -EUCLEAN, guest_off, c->e[idx].host_off,
		     "the L2 entry 0x%016" PRIx64 " for guest offset 0x%" PRIx64 " has %s",
		     c->raw[idx].raw, guest_off,
		     format_fault_text(c->e[idx].faults & FORMAT_FAULT_FATAL));
	return meta_mark_corrupt(c->w->m, err);
}

static int decode_chunk(struct data_chunk *c, struct qcow2_error *err)
{
	const struct format_geometry *g = &c->w->m->geometry;

	for (unsigned i = 0; i < c->n; i++) {
		c->e[i] = format_l2_decode(g, c->raw[i].raw, c->raw[i].bitmap);
		if (g->data_file)
			format_l2_check_data_file(g, &c->e[i], data_cluster_off(c, i));
		if (c->e[i].faults & FORMAT_FAULT_FATAL)
			return bad_entry(c, i, err);
	}
	return 0;
}

int data_chunk_take(struct data_chunk *c, struct data_writer *w, uint64_t guest_off, uint64_t end,
		    struct qcow2_error *err)
{
	const struct format_geometry *g = &w->m->geometry;
	uint64_t first = align_down(guest_off, g->cluster_size);
	uint64_t in_slice = (first >> g->cluster_bits) & (w->m->slice_entries - 1);
	uint64_t n = div_ceil(end - first, g->cluster_size);
	int ret;

	n = min_u64(n, min_u64(DATA_CHUNK, w->m->slice_entries - in_slice));
	c->w = w;
	c->guest_off = guest_off;
	c->first_off = first;
	c->end = min_u64(end, first + (n << g->cluster_bits));
	data_range_take(&w->ranges, &c->range, first, first + (n << g->cluster_bits));
	ret = meta_entries_get(w->m, first, c->raw, (unsigned)n, &c->n, err);
	if (ret == 0)
		ret = decode_chunk(c, err);
	if (ret < 0)
		data_chunk_leave(c);
	return ret;
}

void data_chunk_leave(struct data_chunk *c)
{
	data_range_leave(&c->w->ranges, &c->range);
}

uint64_t data_cluster_off(const struct data_chunk *c, unsigned idx)
{
	return c->first_off + idx * c->w->m->geometry.cluster_size;
}

void data_covered_part(const struct data_chunk *c, unsigned idx, uint64_t *from, uint64_t *to)
{
	uint64_t start = data_cluster_off(c, idx);

	*from = c->guest_off > start ? c->guest_off - start : 0;
	*to = min_u64(c->end - start, c->w->m->geometry.cluster_size);
}

int data_is_zero(struct data_writer *w, uint64_t off, uint64_t end, bool *is_zero,
		 struct qcow2_error *err)
{
	struct data_run r;
	int ret;

	*is_zero = true;
	end = min_u64(end, data_size(w));
	for (; off < end && *is_zero; off += r.run.len_bytes) {
		ret = data_map(w->layers, off, end - off, &r, err);
		if (ret < 0)
			return ret;
		*is_zero = r.run.kind == DISK_RUN_ZERO || r.run.kind == DISK_RUN_ABSENT;
	}
	return 0;
}

/* ---- what has to happen to a cluster ---- */

enum need {
	NEED_NOTHING, /* it is written where it is */
	NEED_FLAGS,   /* it has a place of its own, but the map has to say that data are in it */
	NEED_PLACE,
};

/* Whether all subclusters that the piece writes have data. */
static bool has_data(const struct data_chunk *c, unsigned idx)
{
	const struct format_geometry *g = &c->w->m->geometry;
	uint64_t from, to, bits;

	if (!g->extended_l2)
		return c->e[idx].kind == FORMAT_CLUSTER_NORMAL;
	data_covered_part(c, idx, &from, &to);
	bits = (1ull << div_ceil(to, 1ull << g->subcluster_bits)) -
	       (1ull << (from >> g->subcluster_bits));
	return (c->e[idx].alloc_bitmap & bits) == bits;
}

static enum need need_of(const struct data_chunk *c, unsigned idx)
{
	const struct format_l2_entry *e = &c->e[idx];

	if (e->kind == FORMAT_CLUSTER_COMPRESSED || !e->has_host_off || !e->copied)
		return NEED_PLACE;
	return has_data(c, idx) ? NEED_NOTHING : NEED_FLAGS;
}

/* How many clusters from idx on need the same, and lie together if they have a place. */
static unsigned same_need(const struct data_chunk *c, unsigned idx, enum need need)
{
	const uint64_t cs = c->w->m->geometry.cluster_size;
	unsigned n = 1;

	while (idx + n < c->n && need_of(c, idx + n) == need &&
	       (need == NEED_PLACE || c->e[idx + n].host_off == c->e[idx].host_off + n * cs))
		n++;
	return n;
}

/* ---- writing in place ---- */

static int write_at(struct data_writer *w, struct iov_cursor *cur, uint64_t len, uint64_t host_off,
		    struct qcow2_error *err)
{
	struct iovec pieces[PIECES];
	size_t taken;
	int ret = 0;

	storage_event(w->m->file, QCOW2_EVENT_WRITE_AIO);
	if (!w->m->geometry.data_file)
		ret = meta_guard_check(w->m, host_off, len, META_REGION_NONE, err);
	while (ret == 0 && len > 0) {
		size_t max = len < SIZE_MAX ? (size_t)len : SIZE_MAX;
		int n = iov_cut(cur, max, pieces, PIECES, &taken);

		ret = storage_writev(w->m->data, pieces, n, host_off, err);
		host_off += taken;
		len -= taken;
	}
	return ret;
}

static int write_in_place(struct data_chunk *c, unsigned idx, unsigned n, struct iov_cursor *cur,
			  struct qcow2_error *err)
{
	const uint64_t cs = c->w->m->geometry.cluster_size;
	uint64_t start = data_cluster_off(c, idx);
	uint64_t from = max_u64(start, c->guest_off);
	uint64_t to = min_u64(start + n * cs, c->end);

	return write_at(c->w, cur, to - from, c->e[idx].host_off + (from - start), err);
}

/* ---- places ---- */

int data_find_place(struct data_chunk *c, struct data_place *p, uint64_t behind,
		    struct qcow2_error *err)
{
	struct meta *m = c->w->m;
	struct meta_run run = {0};
	int ret = 0;

	if (m->geometry.data_file) {
		p->host_off = data_cluster_off(c, p->first);
		return 0;
	}
	if (behind != 0)
		ret = meta_take_at(m, meta_cluster_of(m, behind), p->n, &run, err);
	if (ret == 0 && run.nclusters == 0)
		ret = meta_take(m, p->n, LAYOUT_HOST_OFF_MAX, &run, err);
	if (ret < 0)
		return ret;
	p->n = (unsigned)run.nclusters;
	p->host_off = meta_off_of(m, run.first);
	p->fresh = run.fresh;
	return 0;
}

void data_give_up_place(struct data_chunk *c, const struct data_place *p)
{
	struct meta *m = c->w->m;
	struct meta_run run = {.first = meta_cluster_of(m, p->host_off), .nclusters = p->n};

	if (!p->ours && !m->geometry.data_file)
		meta_untake(m, &run);
}

/* Clusters [idx, idx + n) need places; *behind is the offset behind the last one. */
static int write_to_places(struct data_chunk *c, unsigned idx, unsigned n, struct iov_cursor *cur,
			   uint64_t *behind, struct qcow2_error *err)
{
	int ret = 0;

	while (n > 0 && ret == 0) {
		struct data_place p = {.first = idx, .n = n};

		ret = data_find_place(c, &p, *behind, err);
		if (ret < 0)
			return ret;
		ret = data_write_place(c, &p, cur, err);
		if (ret < 0)
			data_give_up_place(c, &p);
		*behind = p.host_off + p.n * c->w->m->geometry.cluster_size;
		idx += p.n;
		n -= p.n;
	}
	return ret;
}

static int write_chunk(struct data_chunk *c, struct iov_cursor *cur, struct qcow2_error *err)
{
	uint64_t behind = 0;
	int ret = 0;

	for (unsigned idx = 0, n; idx < c->n && ret == 0; idx += n) {
		enum need need = need_of(c, idx);

		n = same_need(c, idx, need);
		if (need == NEED_PLACE) {
			ret = write_to_places(c, idx, n, cur, &behind, err);
			continue;
		}
		if (need == NEED_NOTHING) {
			ret = write_in_place(c, idx, n, cur, err);
		} else {
			struct data_place p = {
				.first = idx, .n = n, .host_off = c->e[idx].host_off, .ours = true};

			ret = data_write_place(c, &p, cur, err);
		}
		behind = c->e[idx].host_off + n * c->w->m->geometry.cluster_size;
	}
	return ret;
}

static int write_slowly(struct data_writer *w, struct iov_cursor *cur, uint64_t guest_off,
			uint64_t end, uint64_t *done_to, struct qcow2_error *err)
{
	struct data_chunk c;
	int ret = meta_table_ensure(w->m, guest_off, err);

	if (ret == 0)
		ret = data_chunk_take(&c, w, guest_off, end, err);
	if (ret < 0)
		return ret;
	ret = write_chunk(&c, cur, err);
	data_chunk_leave(&c);
	*done_to = c.end;
	return ret;
}

int data_write(struct data_writer *w, struct iov_cursor *cur, uint64_t guest_off,
	       uint64_t len_bytes, struct qcow2_error *err)
{
	uint64_t end = guest_off + len_bytes;
	struct disk_run run;
	int ret = meta_check_sound(w->m, err);

	while (ret == 0 && guest_off < end) {
		ret = meta_map_for_writing(w->m, guest_off, end - guest_off, &run, err);
		if (ret == -EIO) /* bad metadata: the slow path says so, and marks the image */
			run.copied = false;
		else if (ret < 0)
			break;
		if (run.copied) {
			ret = write_at(w, cur, run.len_bytes, run.host_off, err);
			guest_off += run.len_bytes;
		} else {
			ret = write_slowly(w, cur, guest_off, end, &guest_off, err);
		}
		if (ret < 0)
			error_at_guest(err, guest_off);
	}
	return ret;
}

int data_find_in_place(struct data_writer *w, uint64_t guest_off, uint64_t len_bytes,
		       uint64_t *host_off)
{
	struct meta *m = w->m;
	struct disk_run run;

	if (meta_check_sound(m, NULL) < 0 || m->engine->guard_inactive_l2 ||
	    meta_map_cached(m, guest_off, len_bytes, true, &run) < 0 || !run.copied ||
	    run.len_bytes < len_bytes)
		return -EAGAIN;
	/* a hit has to be told, and marked */
	if (!m->geometry.data_file && meta_guard_find(&m->engine->guard, run.host_off, len_bytes,
						      META_REGION_NONE, NULL) != META_REGION_NONE)
		return -EAGAIN;
	*host_off = run.host_off;
	return 0;
}
