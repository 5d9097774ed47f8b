/* SPDX-License-Identifier: MIT */
/*
 * Data for clusters that aren't mapped to a place of their own yet: what the guest writes, with
 * what has to be around it so that the rest of the clusters reads as before, in one write where
 * that can be. The map is changed when all of it is in the file (rule 1).
 *
 * What is around it is read as the guest would read it: from the backing file, a compressed or a
 * shared cluster, or zeros; behind the end of the disk it is zeros. Zeros aren't written where the
 * place reads as zeros already.
 */
#include <errno.h>
#include <string.h>

#include "base/num.h"
#include "data/write.h"

#define PIECES 64
#define GAP_MAX (16u * 1024) /* between two fills: reading it costs less than another read */

/* Longer runs of zeros are left to the store. */
const uint8_t data_zeros[DATA_ZEROS_LEN] __attribute__((aligned(4096)));

/* Something to be filled in, before or behind the guest's data. */
struct fill {
	uint64_t guest_off, len;
	bool is_zero;
	uint8_t *bytes;	    /* unless it is zero; owned, or a part of what the other fill owns */
	uint64_t owned_len; /* of bytes, as they were asked for; 0: another's */
};

/* ---- how much has to be filled in ---- */

/*
 * What of cluster idx gets its data in the new place, rounded to subclusters. In a cluster that
 * stays where it is subclusters with data are left alone: others may be writing to them.
 */
static void filled_part(const struct data_chunk *c, unsigned idx, bool ours, uint64_t *from,
			uint64_t *to)
{
	const struct format_geometry *g = &c->w->m->geometry;
	const struct format_l2_entry *e = &c->e[idx];
	const uint64_t sub = 1ull << g->subcluster_bits;
	uint64_t a, b;

	data_covered_part(c, idx, from, to);
	a = align_down(*from, sub);
	b = align_up(*to, sub);
	if (!g->extended_l2) {
		*from = a;
		*to = b;
		return;
	}
	if (e->kind == FORMAT_CLUSTER_COMPRESSED) {
		a = 0;
		b = g->cluster_size;
	} else if (!ours && e->alloc_bitmap) {
		a = min_u64(a, (uint64_t)__builtin_ctz(e->alloc_bitmap) * sub);
		b = max_u64(b, (uint64_t)(32 - __builtin_clz(e->alloc_bitmap)) * sub);
	} else if (ours) {
		if (e->alloc_bitmap >> (a / sub) & 1)
			a = *from;
		if (e->alloc_bitmap >> (b / sub - 1) & 1)
			b = *to;
	}
	*from = a;
	*to = b;
}

/* ---- what it is ---- */

/* What the guest would read from the fill on, len bytes, with zeros behind the end of the disk. */
static int load(struct data_writer *w, struct fill *f, uint64_t len, struct qcow2_error *err)
{
	uint64_t guest_off = f->guest_off;
	uint64_t in_disk = guest_off < data_size(w) ? min_u64(len, data_size(w) - guest_off) : 0;
	struct iovec iov;

	storage_event(w->m->file, QCOW2_EVENT_COW_READ);
	f->bytes = data_bounce_get(&w->bounce, len);
	if (!f->bytes)
		return error_errno(err, -ENOMEM, "can't copy the rest of a cluster");
	f->owned_len = len;
	memset(f->bytes + in_disk, 0, len - in_disk);
	iov = (struct iovec){.iov_base = f->bytes, .iov_len = in_disk};
	return data_read(w->layers, &iov, 1, guest_off, in_disk, err);
}

/* Both fills, in one read if little lies between them. On failure they still have to be freed. */
static int load_fills(struct data_writer *w, struct fill *head, struct fill *tail,
		      struct qcow2_error *err)
{
	uint64_t gap = tail->guest_off - (head->guest_off + head->len);
	int ret =
		data_is_zero(w, head->guest_off, head->guest_off + head->len, &head->is_zero, err);

	if (ret == 0)
		ret = data_is_zero(w, tail->guest_off, tail->guest_off + tail->len, &tail->is_zero,
				   err);
	if (ret < 0)
		return ret;
	if (!head->is_zero && !tail->is_zero && gap <= GAP_MAX) {
		ret = load(w, head, head->len + gap + tail->len, err);
		if (ret == 0)
			tail->bytes = head->bytes + head->len + gap;
		return ret;
	}
	if (!head->is_zero)
		ret = load(w, head, head->len, err);
	if (ret == 0 && !tail->is_zero)
		ret = load(w, tail, tail->len, err);
	return ret;
}

static void free_fill(struct data_writer *w, struct fill *f)
{
	if (f->owned_len)
		data_bounce_put(&w->bounce, f->bytes, f->owned_len);
}

/* ---- writing ---- */

/* Zeros too long to be a piece of the one write. */
static int write_long_zeros(struct qcow2_storage store, const struct fill *f, uint64_t host_off,
			    bool fresh, struct qcow2_error *err)
{
	if (!f->is_zero || f->len <= DATA_ZEROS_LEN || fresh)
		return 0;
	return storage_zero(store, host_off, f->len, 0, err);
}

/* The fill as a piece of the one write, if it is one. */
static unsigned fill_piece(const struct fill *f, bool fresh, struct iovec *iov)
{
	if (f->len == 0 || (f->is_zero && (fresh || f->len > DATA_ZEROS_LEN)))
		return 0;
	iov->iov_base = f->is_zero ? (void *)(uintptr_t)data_zeros : f->bytes;
	iov->iov_len = f->len;
	return 1;
}

struct assembly {
	struct fill head, tail;
	uint64_t data_len;
	uint64_t host_off; /* of the head */
	bool fresh;
};

static int write_assembly(struct data_writer *w, const struct assembly *a, struct iov_cursor *cur,
			  struct qcow2_error *err)
{
	struct qcow2_storage store = w->m->data;
	uint64_t data_off = a->host_off + a->head.len;
	uint64_t left = a->data_len;
	struct iovec iov[PIECES];
	uint64_t off;
	size_t taken;
	unsigned n;
	int ret;

	/* it is both, in one */
	if (a->head.len || a->tail.len)
		storage_event(w->m->file, QCOW2_EVENT_COW_WRITE);
	storage_event(w->m->file, QCOW2_EVENT_WRITE_AIO);
	ret = write_long_zeros(store, &a->head, a->host_off, a->fresh, err);

	if (ret == 0)
		ret = write_long_zeros(store, &a->tail, data_off + a->data_len, a->fresh, err);
	n = fill_piece(&a->head, a->fresh, iov);
	off = n ? a->host_off : data_off;
	while (ret == 0 && left > 0) {
		size_t max = left < SIZE_MAX ? (size_t)left : SIZE_MAX;
		uint64_t len = n ? iov[0].iov_len : 0;

		n += (unsigned)iov_cut(cur, max, iov + n, (int)(PIECES - 1 - n), &taken);
		left -= taken;
		len += taken;
		if (left == 0)
			n += fill_piece(&a->tail, a->fresh, iov + n);
		ret = storage_writev(store, iov, (int)n, off, err);
		off += len;
		n = 0;
	}
	return ret;
}

/* ---- the map ---- */

static struct meta_entry new_entry(const struct data_chunk *c, const struct data_place *p,
				   unsigned idx)
{
	const struct format_geometry *g = &c->w->m->geometry;
	uint64_t host_off = p->host_off + (uint64_t)(idx - p->first) * g->cluster_size;
	struct meta_entry entry = {.raw = format_l2_encode_normal(host_off, true)};
	const struct format_l2_entry *e = &c->e[idx];
	uint64_t from, to;
	uint32_t bits;

	if (!g->extended_l2)
		return entry;
	filled_part(c, idx, p->ours, &from, &to);
	from >>= g->subcluster_bits;
	to = div_ceil(to, 1ull << g->subcluster_bits);
	bits = (uint32_t)((1ull << to) - (1ull << from));
	if (e->kind == FORMAT_CLUSTER_COMPRESSED)
		entry.bitmap = format_subcluster_bitmap(bits, 0);
	else
		entry.bitmap = format_subcluster_bitmap((p->ours ? e->alloc_bitmap : 0) | bits,
							e->zero_bitmap & ~bits);
	return entry;
}

void data_drop_old(struct data_writer *w, const struct format_l2_entry *e, bool give_back)
{
	struct meta *m = w->m;
	uint64_t first, last;

	if (!e->has_host_off || m->geometry.data_file)
		return;
	first = meta_cluster_of(m, e->host_off);
	last = e->kind == FORMAT_CLUSTER_COMPRESSED
		       ? meta_cluster_of(m, e->host_off + e->compressed_len - 1)
		       : first;
	meta_drop(m, first, last - first + 1, give_back);
}

static int map_place(struct data_chunk *c, const struct data_place *p, struct qcow2_error *err)
{
	struct meta_entry entries[DATA_CHUNK];
	int ret;

	for (unsigned i = 0; i < p->n; i++)
		entries[i] = new_entry(c, p, p->first + i);
	ret = meta_entries_set(c->w->m, data_cluster_off(c, p->first), entries, p->n, true, err);
	for (unsigned i = 0; ret == 0 && !p->ours && i < p->n; i++)
		data_drop_old(c->w, &c->e[p->first + i], false);
	return ret;
}

int data_write_place(struct data_chunk *c, const struct data_place *p, struct iov_cursor *cur,
		     struct qcow2_error *err)
{
	const uint64_t cs = c->w->m->geometry.cluster_size;
	uint64_t start = data_cluster_off(c, p->first);
	uint64_t last = data_cluster_off(c, p->first + p->n - 1);
	uint64_t data_start = max_u64(start, c->guest_off);
	uint64_t data_end = min_u64(last + cs, c->end);
	struct assembly a = {.data_len = data_end - data_start, .fresh = p->fresh};
	uint64_t from, to, fill_end;
	int ret;

	filled_part(c, p->first, p->ours, &from, &to);
	a.head.guest_off = start + from;
	a.head.len = data_start - a.head.guest_off;
	a.host_off = p->host_off + from;
	filled_part(c, p->first + p->n - 1, p->ours, &from, &to);
	fill_end = last + to;
	a.tail.guest_off = data_end;
	a.tail.len = fill_end - data_end;
	ret = load_fills(c->w, &a.head, &a.tail, err);
	if (ret == 0 && !c->w->m->geometry.data_file)
		ret = meta_guard_check(c->w->m, p->host_off, p->n * cs, META_REGION_NONE, err);
	if (ret == 0 && META_BROKEN(1))
		ret = map_place(c, p, err);
	if (ret == 0)
		ret = write_assembly(c->w, &a, cur, err);
	if (ret == 0 && !META_BROKEN(1))
		ret = map_place(c, p, err);
	free_fill(c->w, &a.head);
	free_fill(c->w, &a.tail);
	return ret;
}
