/* SPDX-License-Identifier: MIT */
/*
 * L2 tables, active and of snapshots, each read once, in the order of the file: every reference in
 * them is counted, every entry looked at.
 *
 * Any thread reads and decodes a piece of tables; what comes of it is a list of rows, of clusters
 * that are to be counted, with what is wrong or unusual left as it is. The caller's thread counts
 * rows and looks at the rest, piece after piece.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/bytes.h"
#include "base/num.h"
#include "base/zero.h"
#include "check/pipe.h"
#include "check/run.h"

#define PIECE (64u << 10) /* a multiple of every L2 entry; of clusters, or they of it */
#define PIECE_ENTRIES (PIECE / LAYOUT_L2_ENTRY_LEN)
#define PIECE_TABLES (PIECE >> LAYOUT_CLUSTER_BITS_MIN)
#define AT_ONCE 32u /* entries in no order that are decoded together */

/* What a row is: in its two lowest bits. */
enum row_kind {
	ROW_ODD,    /* one entry that wants a closer look; its index in the table */
	ROW_PACKED, /* the clusters that compressed data touch */
	ROW_BARE,   /* data or preallocated clusters side by side, without COPIED */
	ROW_COPIED, /* with it */
};

#define ROW_LEN_BITS 15 /* of the number of clusters, above the kind; above that the first one */
#define ROW_FIRST_SHIFT (2 + ROW_LEN_BITS)
_Static_assert((ROW_BARE | 1) == ROW_COPIED, "they differ in their lowest bit");
_Static_assert(PIECE_ENTRIES < 1u << ROW_LEN_BITS, "a row has as many clusters as a piece");
_Static_assert(ROW_FIRST_SHIFT + 56 - LAYOUT_CLUSTER_BITS_MIN <= 64, "any cluster has a number");

/* A piece of one large table, or of several small ones. */
struct piece {
	uint64_t nrows[PIECE_TABLES]; /* of each table */
	uint64_t rows[PIECE_ENTRIES];
	uint8_t bytes[PIECE];
};

/* ---- entries that want a closer look ------------------------------------------------------- */

/* An L2 table on the way through its entries. */
struct l2_view {
	const struct run_l2 *table;
	uint64_t raw, entry_off, guest_off;
	uint64_t next_host_off; /* where the next cluster wouldn't be a fragment; 0: anywhere */
	unsigned claims[4];	/* of rows, by their kind */
};

struct scan {
	struct check_run *run;
	/* immutable */
	uint64_t table_len;  /* of each table as much as a piece has of it */
	unsigned tables;     /* in a piece */
	unsigned parts;	     /* of a table, each a piece */
	struct l2_view view; /* the caller's: of the table whose rows it takes */
	/* a table was empty: it is worth while to ask for holes; atomic */
	_Atomic bool sparse;
};

static int report_l2(struct check_run *run, enum check_finding finding, const struct l2_view *v,
		     const struct format_l2_entry *e)
{
	struct check_report r = check_blank(finding);

	r.host_off = e->host_off;
	r.guest_off = v->guest_off;
	r.entry_off = v->entry_off;
	r.index = (v->entry_off - v->table->host_off) / run->g.l2_entry_len;
	r.stored = v->raw;
	r.len_bytes =
		e->kind == FORMAT_CLUSTER_COMPRESSED ? e->compressed_len : run->g.cluster_size;
	return check_found(run, &r);
}

static int scan_compressed(struct check_run *run, const struct l2_view *v,
			   const struct format_l2_entry *e, struct qcow2_error *err)
{
	uint64_t cs = run->g.cluster_size, off;
	int ret = 0;

	if (e->faults & FORMAT_FAULT_COMPRESSED_COPIED)
		ret = report_l2(run, CHECK_COMPRESSED_COPIED, v, e);
	if (ret == 0 && (e->faults & FORMAT_FAULT_COMPRESSED_BITMAP))
		ret = report_l2(run, CHECK_COMPRESSED_BITMAP, v, e);
	if (ret != 0)
		return ret;
	if (e->faults & FORMAT_FAULT_COMPRESSED_DATA_FILE)
		return report_l2(run, CHECK_COMPRESSED_DATA_FILE, v, e);
	if (e->faults & FORMAT_FAULT_COMPRESSED_OFFSET)
		return report_l2(run, CHECK_COMPRESSED_OFFSET, v, e);
	if (check_past_end(run, e->host_off, e->compressed_len))
		return report_l2(run, CHECK_DATA_PAST_END, v, e);
	for (off = align_down(e->host_off, cs); ret == 0 && off < e->host_off + e->compressed_len;
	     off += cs)
		ret = check_count_row(run, off, 1, v->table->refs, 0, err);
	return ret;
}

static int scan_host_cluster(struct check_run *run, const struct l2_view *v,
			     const struct format_l2_entry *e, struct qcow2_error *err)
{
	unsigned claim = check_claim(v->table->active_refs > 0, e->copied);
	int ret;

	if (run->g.data_file) { /* every cluster is its owner's alone */
		run->copied_wrong += claim == COUNTS_SHARED;
		return 0;
	}
	if (check_past_end(run, e->host_off, run->g.cluster_size)) {
		ret = check_hold_claim(run, e->host_off, claim, err);
		return ret != 0 ? ret : report_l2(run, CHECK_DATA_PAST_END, v, e);
	}
	return check_count_row(run, e->host_off, 1, v->table->refs, claim, err);
}

static bool has_data(const struct check_run *run, const struct format_l2_entry *e)
{
	return run->g.extended_l2 ? e->alloc_bitmap != 0 : e->kind == FORMAT_CLUSTER_NORMAL;
}

static int scan_uncompressed(struct check_run *run, const struct l2_view *v,
			     struct format_l2_entry *e, struct qcow2_error *err)
{
	int ret = 0;

	if (e->faults & FORMAT_FAULT_RESERVED)
		ret = report_l2(run, CHECK_L2_RESERVED, v, e);
	if (ret == 0 && (e->faults & FORMAT_FAULT_ZERO_IN_V2))
		ret = report_l2(run, CHECK_ZERO_IN_V2, v, e);
	if (ret == 0 && (e->faults & FORMAT_FAULT_SUBCLUSTERS))
		ret = report_l2(
			run, e->has_host_off ? CHECK_SUBCLUSTER_BOTH : CHECK_SUBCLUSTER_UNALLOCATED,
			v, e);
	if (ret != 0 || !e->has_host_off)
		return ret;
	if (e->faults & FORMAT_FAULT_UNALIGNED)
		return report_l2(
			run, has_data(run, e) ? CHECK_DATA_UNALIGNED : CHECK_ZERO_UNALIGNED, v, e);
	if (v->guest_off != QCOW2_NO_OFFSET)
		format_l2_check_data_file(&run->g, e, v->guest_off);
	/* A table that is in two places of the disk is right in one at most. */
	if ((e->faults & FORMAT_FAULT_DATA_FILE_OFFSET) ||
	    (run->g.data_file && v->table->active_refs > 1)) {
		ret = report_l2(run, CHECK_DATA_FILE_OFFSET, v, e);
		if (ret != 0)
			return ret;
	}
	return scan_host_cluster(run, v, e, err);
}

/* n clusters of the active disk with data, or preallocated. */
static void note_data(struct check_run *run, struct l2_view *v, uint64_t host_off, uint64_t n)
{
	struct check_result *res = run->result;
	uint64_t times = v->table->active_refs;

	res->allocated_clusters += n * times;
	if (v->next_host_off != 0 && host_off != v->next_host_off)
		res->fragmented_clusters += times;
	v->next_host_off = host_off + n * run->g.cluster_size;
}

/* A compressed one. */
static void note_compressed(struct check_run *run, const struct l2_view *v)
{
	struct check_result *res = run->result;
	uint64_t times = v->table->active_refs;

	res->allocated_clusters += times;
	res->compressed_clusters += times;
	res->fragmented_clusters += times;
}

static int scan_l2_entry(struct check_run *run, struct l2_view *v, uint64_t bitmap,
			 struct qcow2_error *err)
{
	struct format_l2_entry e = format_l2_decode(&run->g, v->raw, bitmap);

	if (v->table->active_refs > 0 && e.kind == FORMAT_CLUSTER_COMPRESSED)
		note_compressed(run, v);
	else if (v->table->active_refs > 0 && e.has_host_off)
		note_data(run, v, e.host_off, 1);
	if (e.kind == FORMAT_CLUSTER_COMPRESSED)
		return scan_compressed(run, v, &e, err);
	return scan_uncompressed(run, v, &e, err);
}

/* ---- any thread: reading and decoding ------------------------------------------------------ */

static uint64_t row_of(enum row_kind kind, uint64_t first, uint64_t n)
{
	return first << ROW_FIRST_SHIFT | n << 2 | kind;
}

/* Of one cluster with data? */
static bool is_single(uint64_t row)
{
	return (row & ((1u << ROW_FIRST_SHIFT) - 1) & ~1u) == (1u << 2 | ROW_BARE);
}

/* An entry that isn't one of a row. false: there is nothing in it. */
static bool digest_entry(const struct check_run *run, const uint8_t *p, uint64_t idx, uint64_t *row)
{
	const struct format_geometry *g = &run->g;
	uint64_t raw = load_be64(p), bitmap = g->extended_l2 ? load_be64(p + 8) : 0, first, last;
	struct format_l2_entry e;

	if (raw == 0 && (uint32_t)bitmap == 0)
		return false;
	e = format_l2_decode(g, raw, bitmap);
	if (!e.has_host_off && !e.faults)
		return false;
	*row = row_of(ROW_ODD, idx, 1);
	if (e.faults || g->data_file)
		return true;
	first = e.host_off >> g->cluster_bits;
	if (e.kind == FORMAT_CLUSTER_COMPRESSED) {
		last = (e.host_off + e.compressed_len - 1) >> g->cluster_bits;
		if (!check_past_end(run, e.host_off, e.compressed_len))
			*row = row_of(ROW_PACKED, first, last - first + 1);
	} else if (!check_past_end(run, e.host_off, g->cluster_size)) {
		*row = row_of(e.copied ? ROW_COPIED : ROW_BARE, first, 1);
	}
	return true;
}

/* Where the whole clusters of the file end. What is behind that is looked at one by one. */
static uint64_t whole_end(const struct check_run *run)
{
	return align_down(min_u64(run->file_size, LAYOUT_HOST_OFF_MAX + 1), run->g.cluster_size);
}

/* Clusters side by side, from the first of n entries on. Returns how many entries they are. */
static uint32_t digest_straight(const struct check_run *run, const uint8_t *p, uint32_t n,
				uint64_t *row)
{
	const struct format_geometry *g = &run->g;
	uint64_t end = whole_end(run);
	struct format_straight s;

	n = g->data_file ? 0 : format_l2_straight(g, p, n, &s);
	if (n == 0 || s.host_off >= end)
		return 0;
	n = (uint32_t)min_u64(n, (end - s.host_off) >> g->cluster_bits);
	*row = row_of(s.copied ? ROW_COPIED : ROW_BARE, s.host_off >> g->cluster_bits, n);
	return n;
}

/*
 * Entries in no order, n of them: as many rows as there are clusters. false: there are others than
 * of plain data or nothing. No branch is taken in the loop, for no processor would foresee it.
 */
static bool digest_scattered(const struct check_run *run, const uint8_t *p, uint32_t n,
			     uint64_t *rows, uint64_t *nrows)
{
	const struct format_geometry *g = &run->g;
	const uint32_t cluster_bits = g->cluster_bits;
	const uint64_t last = whole_end(run) - g->cluster_size;
	uint64_t all = 0, behind = 0, made = 0;

	if (g->data_file || g->extended_l2)
		return false;
	for (uint32_t i = 0; i < n; i++, p += LAYOUT_L2_ENTRY_LEN) {
		uint64_t raw = load_be64(p), host_off = raw & ~LAYOUT_ENTRY_COPIED;

		all |= host_off;
		behind |= last - host_off; /* below zero if it is behind the last one */
		rows[made] = row_of(ROW_BARE, host_off >> cluster_bits, 1) + (raw >> 63);
		made += host_off != 0;
	}
	*nrows = made;
	return is_aligned(all, g->cluster_size) && behind >> 63 == 0;
}

static uint64_t digest_each(const struct check_run *run, const uint8_t *p, uint32_t n,
			    uint64_t first_idx, uint64_t *rows)
{
	uint64_t nrows = 0;

	for (uint32_t i = 0; i < n; i++, p += run->g.l2_entry_len)
		nrows += digest_entry(run, p, first_idx + i, &rows[nrows]);
	return nrows;
}

/*
 * The part of a table whose first entry has that index. Returns how many rows it makes. Where
 * nothing goes on from an entry, as it is where clusters lie in no order, that isn't tried again
 * for a while.
 */
static uint64_t digest(const struct check_run *run, const uint8_t *bytes, uint64_t len,
		       uint64_t first_idx, uint64_t *rows)
{
	uint32_t entries = (uint32_t)(len / run->g.l2_entry_len);
	uint64_t nrows = 0, made;

	for (uint32_t i = 0, n; i < entries; i += n, nrows += made) {
		const uint8_t *p = bytes + (size_t)i * run->g.l2_entry_len;

		made = 1;
		n = digest_straight(run, p, entries - i, &rows[nrows]);
		if (n > 1)
			continue;
		n = (uint32_t)min_u64(entries - i, AT_ONCE);
		if (!digest_scattered(run, p, n, &rows[nrows], &made))
			made = digest_each(run, p, n, first_idx + i, &rows[nrows]);
	}
	return nrows;
}

/* How many tables from the i-th on, at most n, lie one behind the other. */
static unsigned neighbours(const struct check_run *run, uint64_t i, unsigned n)
{
	unsigned count = 1;

	while (count < n &&
	       run->l2[i + count].host_off == run->l2[i].host_off + count * run->g.cluster_size)
		count++;
	return count;
}

static int make_piece(void *opaque, uint64_t unit, void *slot, struct qcow2_error *err)
{
	struct scan *s = opaque;
	const struct check_run *run = s->run;
	struct piece *p = slot;
	uint64_t first = unit / s->parts * s->tables, part_off = unit % s->parts * PIECE;
	unsigned n = (unsigned)min_u64(s->tables, run->nl2 - first), joined;
	uint64_t *rows = p->rows;
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < n; i += joined) {
		uint8_t *bytes = p->bytes + i * s->table_len;
		uint64_t off = run->l2[first + i].host_off + part_off;

		joined = neighbours(run, first + i, n - i);
		ret = check_read_part(run, off, bytes, (size_t)(joined * s->table_len), &s->sparse,
				      err);
		for (unsigned k = i; ret == 0 && k < i + joined; k++) {
			p->nrows[k] = digest(run, p->bytes + k * s->table_len, s->table_len,
					     part_off / run->g.l2_entry_len, rows);
			rows += p->nrows[k];
		}
	}
	return ret;
}

/* ---- the caller's thread: counting --------------------------------------------------------- */

static int take_row(struct check_run *run, struct l2_view *v, uint64_t row, struct qcow2_error *err)
{
	uint64_t first = row >> ROW_FIRST_SHIFT, n = row >> 2 & ((1u << ROW_LEN_BITS) - 1);
	uint64_t host_off = first << run->g.cluster_bits;

	if (v->table->active_refs > 0 && (row & 3) == ROW_PACKED) {
		check_usage_packed(run, first, n);
		note_compressed(run, v);
	} else if (v->table->active_refs > 0) {
		note_data(run, v, host_off, n);
	}
	return check_count_row(run, host_off, n, v->table->refs, v->claims[row & 3], err);
}

/* Rows from *at on, as many of them as are data of one cluster: all, where there is no order. */
static int take_singles(struct check_run *run, struct l2_view *v, const uint64_t **at,
			const uint64_t *end, struct qcow2_error *err)
{
	struct chunks_adder adder = chunks_adder(&run->counts.chunks, v->table->refs);
	const unsigned claims[] = {v->claims[ROW_BARE], v->claims[ROW_COPIED]}; /* by COPIED */
	const bool active = v->table->active_refs > 0;
	const uint64_t *row = *at;
	int ret = 0;

	for (; row < end && is_single(*row); row++) {
		uint64_t idx = *row >> ROW_FIRST_SHIFT;

		if (active)
			note_data(run, v, idx << run->g.cluster_bits, 1);
		if (chunks_adder_add(&adder, idx, claims[*row & 1]))
			continue;
		ret = check_count_row(run, idx << run->g.cluster_bits, 1, v->table->refs,
				      claims[*row & 1], err);
		if (ret != 0)
			break;
		adder = chunks_adder(&run->counts.chunks, v->table->refs);
	}
	*at = row;
	return ret;
}

/* Entry idx of the table; p is where it stands. */
static int take_odd(struct check_run *run, struct l2_view *v, const uint8_t *p, uint64_t idx,
		    struct qcow2_error *err)
{
	const struct format_geometry *g = &run->g;
	uint64_t bitmap = g->extended_l2 ? load_be64(p + LAYOUT_L2_ENTRY_LEN) : 0;

	v->raw = load_be64(p);
	v->entry_off = v->table->host_off + idx * g->l2_entry_len;
	v->guest_off = QCOW2_NO_OFFSET;
	if (v->table->active_refs > 0)
		v->guest_off = (((uint64_t)v->table->l1_index << g->l2_bits) + idx)
			       << g->cluster_bits;
	return scan_l2_entry(run, v, bitmap, err);
}

static struct l2_view view_of(const struct run_l2 *table)
{
	bool active = table->active_refs > 0;
	struct l2_view v = {.table = table};

	v.claims[ROW_BARE] = check_claim(active, false);
	v.claims[ROW_COPIED] = check_claim(active, true);
	return v;
}

static int take_piece(void *opaque, uint64_t unit, void *slot, struct qcow2_error *err)
{
	struct scan *s = opaque;
	struct check_run *run = s->run;
	const struct piece *p = slot;
	uint64_t first = unit / s->parts * s->tables, part_off = unit % s->parts * PIECE;
	unsigned n = (unsigned)min_u64(s->tables, run->nl2 - first);
	const uint64_t *row = p->rows;
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < n; i++) {
		const uint8_t *bytes = p->bytes + i * s->table_len - part_off;
		const uint64_t *end = row + p->nrows[i];

		if (part_off == 0)
			s->view = view_of(&run->l2[first + i]);
		while (ret == 0 && row < end) {
			uint64_t idx = *row >> ROW_FIRST_SHIFT;

			if (is_single(*row)) {
				ret = take_singles(run, &s->view, &row, end, err);
				continue;
			}
			if ((*row & 3) == ROW_ODD)
				ret = take_odd(run, &s->view, bytes + idx * run->g.l2_entry_len,
					       idx, err);
			else
				ret = take_row(run, &s->view, *row, err);
			row++;
		}
	}
	return ret == 0 ? check_tick(run, first + n) : ret;
}

int check_scan_l2(struct check_run *run, struct qcow2_error *err)
{
	uint64_t cs = run->g.cluster_size;
	struct scan s = {
		.run = run,
		.table_len = min_u64(cs, PIECE),
		.tables = (unsigned)max_u64(1, PIECE / cs),
		.parts = (unsigned)max_u64(1, cs / PIECE),
	};
	const struct check_pipe_job job = {
		.nunits = div_ceil(run->nl2, s.tables) * s.parts,
		.slot_len = sizeof(struct piece),
		.make = make_piece,
		.take = take_piece,
		.opaque = &s,
	};

	return check_pipe_run(&job, 0, err);
}
