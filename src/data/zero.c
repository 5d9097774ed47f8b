/* SPDX-License-Identifier: MIT */
/*
 * Zeros and discards: changes of the map without data, by the tables of sections 15.3 and 15.4.
 * What the map can't say (parts of clusters, version 2 over a backing file) is written as zeros
 * for a zero request, and left alone for a discard.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/num.h"
#include "data/write.h"

#define ZEROS_IOVCNT 16

#define BITMAP_ALL_ZERO format_subcluster_bitmap(0, UINT32_MAX)

/* What a request does to clusters. */
struct change {
	bool forget;  /* the entry becomes 0: nothing is known of the cluster any more */
	bool discard; /* only what is allocated matters, or what hides a backing file */
	bool unmap;   /* clusters are let go of */
	bool punch;   /* those that aren't keep their place without the host's space */
	bool give_back;
};

/* ---- one entry ---- */

static struct meta_entry zero_entry(const struct data_writer *w, uint64_t host_off, bool copied)
{
	struct meta_entry e = {0};

	if (w->m->geometry.extended_l2) {
		e.raw = format_l2_encode_normal(host_off, copied);
		e.bitmap = BITMAP_ALL_ZERO;
	} else {
		e.raw = format_l2_encode_zero(host_off, copied);
	}
	return e;
}

/* What entry i becomes; *dropped: its cluster isn't pointed to any more. */
static struct meta_entry changed_entry(const struct data_chunk *c, const struct change *ch,
				       unsigned i, bool *dropped)
{
	const struct format_l2_entry *e = &c->e[i];
	bool is_zero = e->kind == FORMAT_CLUSTER_ZERO_PLAIN;
	bool has_place = e->has_host_off;
	bool keeps = has_place && !ch->unmap && e->kind != FORMAT_CLUSTER_COMPRESSED;

	*dropped = has_place && !keeps;
	if (ch->forget || c->w->m->header.version < 3) {
		*dropped = has_place;
		return (struct meta_entry){0};
	}
	if (ch->discard && !has_place && !c->raw[i].bitmap && (is_zero || !c->w->has_backing))
		return c->raw[i];
	return keeps ? zero_entry(c->w, e->host_off, e->copied) : zero_entry(c->w, 0, false);
}

static bool differs(const struct meta_entry *a, const struct meta_entry *b)
{
	return a->raw != b->raw || a->bitmap != b->bitmap;
}

/* ---- whole clusters ---- */

/* Rule 11, and what the space of a data file is given back by. */
static int clear_data_file(struct data_chunk *c, const struct change *ch, struct qcow2_error *err)
{
	const struct meta *m = c->w->m;
	bool raw = m->header.autoclear & LAYOUT_AUTOCLEAR_DATA_FILE_RAW;
	uint64_t end = min_u64(c->end, data_size(c->w));

	if (!m->geometry.data_file || c->guest_off >= end)
		return 0;
	if (raw && !META_BROKEN(11))
		return storage_zero(m->data, c->guest_off, end - c->guest_off,
				    ch->unmap ? QCOW2_STORAGE_MAY_UNMAP : 0, err);
	if (!raw && ch->give_back && ch->unmap)
		(void)storage_discard(m->data, c->guest_off, end - c->guest_off, NULL);
	return 0;
}

static bool is_own(const struct format_l2_entry *e)
{
	return e->has_host_off && e->copied && e->kind != FORMAT_CLUSTER_COMPRESSED;
}

/*
 * What keeps its place gives back its space: it reads as zeros before and after the entries are
 * durable. What a snapshot has too is left alone.
 */
static void punch(const struct data_chunk *c, unsigned first, unsigned n)
{
	const struct meta *m = c->w->m;
	uint64_t cs = m->geometry.cluster_size;

	for (unsigned i = first, len; i < first + n; i += len) {
		const struct format_l2_entry *e = &c->e[i];

		for (len = 1; i + len < first + n && is_own(&e[len]) &&
			      e[len].host_off == e->host_off + len * cs;
		     len++)
			;
		if (is_own(e))
			(void)storage_zero(m->data, e->host_off, len * cs,
					   QCOW2_STORAGE_MAY_UNMAP | QCOW2_STORAGE_NO_FALLBACK,
					   NULL);
	}
}

/* Sets runs of entries that change, and lets go of what they pointed to. */
static int set_changed(struct data_chunk *c, const struct change *ch, struct qcow2_error *err)
{
	bool depends = c->w->m->geometry.data_file;
	struct meta_entry e[DATA_CHUNK];
	bool dropped[DATA_CHUNK];
	int ret = 0;

	for (unsigned i = 0; i < c->n; i++)
		e[i] = changed_entry(c, ch, i, &dropped[i]);
	for (unsigned i = 0, n; i < c->n && ret == 0; i += n) {
		for (n = 0; i + n < c->n && differs(&e[i + n], &c->raw[i + n]); n++)
			;
		if (n > 0)
			ret = meta_entries_set(c->w->m, data_cluster_off(c, i), e + i, n, depends,
					       err);
		if (ret == 0 && n > 0 && ch->punch && ch->give_back)
			punch(c, i, n);
		for (unsigned k = i; ret == 0 && k < i + n; k++) {
			if (dropped[k])
				data_drop_old(c->w, &c->e[k], ch->give_back);
		}
		n += n == 0;
	}
	return ret;
}

static bool changes_something(const struct data_chunk *c, const struct change *ch)
{
	bool dropped;

	for (unsigned i = 0; i < c->n; i++) {
		struct meta_entry e = changed_entry(c, ch, i, &dropped);

		if (differs(&e, &c->raw[i]))
			return true;
	}
	return false;
}

/*
 * Changes the clusters from guest_off on, up to end or the end of a slice: *done_to. A table that
 * says the same already is left as it is, even if it isn't there.
 */
static int change_chunk(struct data_writer *w, uint64_t guest_off, uint64_t end,
			const struct change *ch, uint64_t *done_to, struct qcow2_error *err)
{
	struct data_chunk c;
	int ret = data_chunk_take(&c, w, guest_off, end, err);

	if (ret < 0)
		return ret;
	if (changes_something(&c, ch)) {
		/* entries stay as they are read: who replaces the table copies it */
		ret = meta_table_ensure(w->m, guest_off, err);
		if (ret == 0)
			ret = clear_data_file(&c, ch, err);
		if (ret == 0)
			ret = set_changed(&c, ch, err);
	}
	data_chunk_leave(&c);
	*done_to = c.end;
	return ret;
}

/* Where the table that maps guest_off ends, if it isn't there and needn't be; else guest_off. */
static uint64_t skip_absent(const struct data_writer *w, uint64_t guest_off,
			    const struct change *ch)
{
	const struct format_geometry *g = &w->m->geometry;
	uint64_t idx = format_l1_index(g, guest_off);
	bool idle = ch->forget || (ch->discard && !w->has_backing) || w->m->header.version < 3;

	if (!idle || meta_l1_get(w->m, idx) != 0)
		return guest_off;
	return (idx + 1) << (g->cluster_bits + g->l2_bits);
}

static int change_clusters(struct data_writer *w, uint64_t guest_off, uint64_t end,
			   const struct change *ch, struct qcow2_error *err)
{
	int ret = 0;

	while (guest_off < end && ret == 0) {
		uint64_t next = skip_absent(w, guest_off, ch);

		if (next == guest_off)
			ret = change_chunk(w, guest_off, end, ch, &next, err);
		if (ret == 0)
			ret = progress_step(w->m->engine->progress, min_u64(next, end) - guest_off,
					    err);
		guest_off = next;
	}
	return ret;
}

/* ---- zeros ---- */

/* As data; what is zero already, or can be made so in a subcluster, doesn't come here. */
static int write_zeros(struct data_writer *w, uint64_t guest_off, uint64_t len_bytes,
		       unsigned flags, struct qcow2_error *err)
{
	struct iovec iov[ZEROS_IOVCNT];
	struct iov_cursor cur;
	int ret = 0;

	if (flags & QCOW2_WRITE_NO_FALLBACK)
		return error_set_at(err, -ENOTSUP, guest_off, QCOW2_NO_OFFSET,
				    "the image can't say that these %" PRIu64
				    " bytes are zeros, and writing them wasn't wanted",
				    len_bytes);
	for (unsigned i = 0; i < ZEROS_IOVCNT; i++)
		iov[i] = (struct iovec){.iov_base = (void *)(uintptr_t)data_zeros,
					.iov_len = DATA_ZEROS_LEN};
	while (len_bytes > 0 && ret == 0) {
		uint64_t n = min_u64(len_bytes, ZEROS_IOVCNT * DATA_ZEROS_LEN);

		iov_cursor_init(&cur, iov, ZEROS_IOVCNT);
		ret = data_write(w, &cur, guest_off, n, err);
		guest_off += n;
		len_bytes -= n;
	}
	return ret;
}

/* Marks subclusters of one cluster; *done is false where that can't be said. */
static int zero_subclusters(struct data_writer *w, uint64_t guest_off, uint64_t end, bool *done,
			    struct qcow2_error *err)
{
	const struct format_geometry *g = &w->m->geometry;
	struct data_chunk c;
	struct change ch = {0};
	uint64_t in_cluster = guest_off & (g->cluster_size - 1);
	uint32_t bits;
	int ret = meta_table_ensure(w->m, guest_off, err);

	*done = false;
	if (ret == 0)
		ret = data_chunk_take(&c, w, guest_off, end, err);
	if (ret < 0)
		return ret;
	if (c.e[0].kind != FORMAT_CLUSTER_COMPRESSED) {
		bits = (uint32_t)((1ull << div_ceil(in_cluster + (end - guest_off),
						    1ull << g->subcluster_bits)) -
				  (1ull << (in_cluster >> g->subcluster_bits)));
		c.raw[0].bitmap = format_subcluster_bitmap(c.e[0].alloc_bitmap & ~bits,
							   c.e[0].zero_bitmap | bits);
		ret = clear_data_file(&c, &ch, err);
		if (ret == 0)
			ret = meta_entries_set(w->m, c.first_off, c.raw, 1, g->data_file, err);
		*done = true;
	}
	data_chunk_leave(&c);
	return ret;
}

/*
 * A part [off, end) of one subcluster. If the rest of it reads as zeros anyway the whole can be
 * marked, but that is no less work than seeing that all of it does already.
 */
static int zero_part(struct data_writer *w, uint64_t off, uint64_t end, unsigned flags,
		     struct qcow2_error *err)
{
	bool zero;
	int ret = data_is_zero(w, off, end, &zero, err);

	if (ret < 0 || zero)
		return ret;
	return write_zeros(w, off, end - off, flags, err);
}

/* [off, end) begins and ends at subclusters, or at the end of the disk. */
static int zero_aligned(struct data_writer *w, uint64_t off, uint64_t end, unsigned flags,
			struct qcow2_error *err)
{
	const bool may_unmap = flags & QCOW2_WRITE_MAY_UNMAP;
	const bool keep = w->discard == QCOW2_DISCARD_NO_UNREF;
	const struct change ch = {
		.unmap = may_unmap && !keep,
		.punch = may_unmap && keep,
		.give_back = w->give_back,
	};
	const uint64_t cs = w->m->geometry.cluster_size;
	bool at_end = end == data_size(w);
	uint64_t middle = align_up(off, cs);
	uint64_t last = at_end ? end : align_down(end, cs);
	bool done;
	int ret = 0;

	if (middle > last)
		middle = last = end;
	if (off < middle) {
		ret = zero_subclusters(w, off, min_u64(middle, end), &done, err);
		if (ret == 0 && !done)
			ret = write_zeros(w, off, min_u64(middle, end) - off, flags, err);
	}
	if (ret == 0 && middle < last)
		ret = change_clusters(w, middle, last, &ch, err);
	if (ret == 0 && last < end) {
		ret = zero_subclusters(w, last, end, &done, err);
		if (ret == 0 && !done)
			ret = write_zeros(w, last, end - last, flags, err);
	}
	return ret;
}

int data_zero(struct data_writer *w, uint64_t guest_off, uint64_t len_bytes, unsigned flags,
	      struct qcow2_error *err)
{
	const uint64_t sub = 1ull << w->m->geometry.subcluster_bits;
	uint64_t end = guest_off + len_bytes;
	uint64_t from = align_up(guest_off, sub);
	uint64_t to = end == data_size(w) ? end : align_down(end, sub);
	int ret = meta_check_sound(w->m, err);

	if (ret < 0)
		return ret;
	if (w->m->header.version < 3 && w->has_backing)
		return write_zeros(w, guest_off, len_bytes, flags, err);
	if (from >= to) /* all within one subcluster, or two */
		from = to = min_u64(from, end);
	if (guest_off < from)
		ret = zero_part(w, guest_off, from, flags, err);
	if (ret == 0 && from < to)
		ret = zero_aligned(w, from, to, flags, err);
	if (ret == 0 && to < end)
		ret = zero_part(w, to, end, flags, err);
	return ret;
}

/* ---- discards ---- */

int data_discard(struct data_writer *w, uint64_t guest_off, uint64_t len_bytes,
		 struct qcow2_error *err)
{
	const uint64_t cs = w->m->geometry.cluster_size;
	const bool keep = w->discard == QCOW2_DISCARD_NO_UNREF && w->m->header.version >= 3;
	uint64_t end = guest_off + len_bytes;
	const struct change ch = {
		.discard = true,
		.unmap = !keep,
		.punch = keep,
		.give_back = w->give_back,
	};
	int ret = meta_check_sound(w->m, err);

	if (ret < 0 || w->discard == QCOW2_DISCARD_IGNORE)
		return ret;
	if (w->m->header.version < 3 && w->has_backing)
		return 0;
	guest_off = align_up(guest_off, cs);
	if (end != data_size(w))
		end = align_down(end, cs);
	return guest_off < end ? change_clusters(w, guest_off, end, &ch, err) : 0;
}

int data_forget(struct data_writer *w, uint64_t guest_off, uint64_t len_bytes, bool give_back,
		struct qcow2_error *err)
{
	const struct change ch = {.forget = true, .unmap = true, .give_back = give_back};

	return change_clusters(w, guest_off, guest_off + len_bytes, &ch, err);
}

int data_hide(struct data_writer *w, uint64_t guest_off, uint64_t len_bytes,
	      struct qcow2_error *err)
{
	const struct change ch = {.unmap = true, .give_back = true};

	return change_clusters(w, guest_off, guest_off + len_bytes, &ch, err);
}
