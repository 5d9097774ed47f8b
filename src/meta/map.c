/* SPDX-License-Identifier: MIT */
/*
 * From a guest offset to what backs it.
 *
 * A run is grown over neighbouring entries, slices and tables while they continue it: the same
 * kind and, where there is one, the host offset that follows. Bad entries stop a run; only a bad
 * first entry is an error, so that damage is met exactly where a reader needs it.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"
#include "meta/meta.h"

/* A walk along the disk; holds the slice under it. */
struct walk {
	const struct meta *m;
	uint64_t guest_off;
	uint64_t end;		      /* of the range that was asked for */
	struct meta_slice slice;      /* of the L2 table; bytes NULL: none held */
	uint64_t slice_first;	      /* guest cluster of the slice's first entry */
	bool for_writing;	      /* a run is all copied or not at all */
	bool cached;		      /* no table is loaded: -EAGAIN, without a sentence */
	struct format_l2_entry entry; /* at guest_off */
	struct disk_run *run;
};

static void drop_slice(struct walk *w)
{
	if (w->slice.bytes)
		meta_cache_put(w->m->l2, &w->slice);
}

/* The L1 entry for an offset; zero where the table has none. */
static struct format_l1_entry l1_at(const struct meta *m, uint64_t guest_off)
{
	uint64_t idx = format_l1_index(&m->geometry, guest_off);

	return format_l1_decode(&m->geometry, meta_l1_get(m, idx));
}

static uint64_t table_end(const struct walk *w)
{
	uint32_t bits = w->m->geometry.cluster_bits + w->m->geometry.l2_bits;
	uint64_t next = (w->guest_off >> bits) + 1;

	return next > UINT64_MAX >> bits ? w->end : min_u64(w->end, next << bits);
}

/* What else of the table is worth reading with the slice of guest cluster first. */
static struct meta_ahead look_ahead(const struct walk *w, uint64_t first, uint64_t in_table)
{
	const struct format_geometry *g = &w->m->geometry;
	uint64_t last = (w->end - 1) >> g->cluster_bits;
	uint64_t left = (g->l2_entries - in_table) / w->m->slice_entries;

	return (struct meta_ahead){
		.wanted = (unsigned)min_u64((last - first) / w->m->slice_entries + 1, left),
		.left = (unsigned)left,
		.before = (unsigned)(in_table / w->m->slice_entries),
		.is_first = in_table == 0,
	};
}

/* Where the slice with the entry for guest_off is. */
struct slice_place {
	uint64_t first;	   /* guest cluster of its first entry */
	uint64_t in_table; /* index of that entry in the L2 table */
	uint64_t host_off;
};

static struct slice_place find_slice(const struct walk *w, uint64_t l2_off)
{
	const struct format_geometry *g = &w->m->geometry;
	uint64_t first = align_down(w->guest_off >> g->cluster_bits, w->m->slice_entries);
	uint64_t in_table = first & (g->l2_entries - 1);

	return (struct slice_place){first, in_table, l2_off + in_table * g->l2_entry_len};
}

/* Holds the slice if it is in the cache: no I/O, no sentence. */
static int hold_cached(struct walk *w, const struct slice_place *place)
{
	int ret = meta_cache_peek(w->m->l2, place->host_off, &w->slice);

	w->slice_first = place->first;
	return ret;
}

/* Makes the slice with the entry for guest_off the one that is held. */
static int hold_slice(struct walk *w, uint64_t l2_off, struct qcow2_error *err)
{
	struct slice_place place = find_slice(w, l2_off);
	struct meta_ahead ahead;
	int ret;

	if (w->slice.bytes && w->slice_first == place.first)
		return 0;
	drop_slice(w);
	if (w->cached)
		return hold_cached(w, &place);
	ahead = look_ahead(w, place.first, place.in_table);
	ret = meta_cache_get_ahead(w->m->l2, place.host_off, &ahead, &w->slice, err);
	if (ret < 0)
		error_prefix(err, "can't read the L2 table at 0x%" PRIx64, l2_off);
	else
		w->slice_first = place.first;
	return ret;
}

static void raw_entry(const struct walk *w, uint64_t *raw, uint64_t *bitmap)
{
	const struct format_geometry *g = &w->m->geometry;
	uint64_t idx = (w->guest_off >> g->cluster_bits) - w->slice_first;
	const uint8_t *p = w->slice.bytes + idx * g->l2_entry_len;

	*raw = load_be64_acquire(p);
	*bitmap = g->extended_l2 ? load_be64_acquire(p + 8) : 0;
}

/* Decodes the entry at guest_off; false if it can't be used. */
static bool decode_entry(struct walk *w, uint64_t *raw)
{
	const struct format_geometry *g = &w->m->geometry;
	uint64_t bitmap;

	raw_entry(w, raw, &bitmap);
	w->entry = format_l2_decode(g, *raw, bitmap);
	if (g->data_file)
		format_l2_check_data_file(g, &w->entry, align_down(w->guest_off, g->cluster_size));
	return !(w->entry.faults & FORMAT_FAULT_FATAL);
}

static int bad_entry(const struct walk *w, uint64_t raw, struct qcow2_error *err)
{
	return error_set_at(err, -EIO, w->guest_off, w->entry.host_off,
			    "the L2 entry 0x%016" PRIx64 " for guest offset 0x%" PRIx64 " has %s",
			    raw, w->guest_off,
			    format_fault_text(w->entry.faults & FORMAT_FAULT_FATAL));
}

static enum disk_run_kind run_kind(enum format_cluster kind)
{
	switch (kind) {
	case FORMAT_CLUSTER_NORMAL:
		return DISK_RUN_DATA;
	case FORMAT_CLUSTER_COMPRESSED:
		return DISK_RUN_COMPRESSED;
	case FORMAT_CLUSTER_ZERO_PLAIN:
	case FORMAT_CLUSTER_ZERO_ALLOCATED:
		return DISK_RUN_ZERO;
	case FORMAT_CLUSTER_UNALLOCATED:
		break;
	}
	return DISK_RUN_ABSENT;
}

/* What w->entry says of the subcluster at guest_off, as a run to the end of that subcluster. */
static struct disk_run run_here(const struct walk *w, uint64_t raw)
{
	const struct format_geometry *g = &w->m->geometry;
	uint64_t in_cluster = w->guest_off & (g->cluster_size - 1);
	uint32_t sub = (uint32_t)(in_cluster >> g->subcluster_bits);
	struct disk_run run = {0};

	run.kind = run_kind(format_l2_subcluster(g, &w->entry, sub));
	if (run.kind == DISK_RUN_COMPRESSED) {
		run.len_bytes = g->cluster_size - in_cluster;
		run.cookie = raw;
		return run;
	}
	run.len_bytes =
		(1ull << g->subcluster_bits) - (w->guest_off & ((1ull << g->subcluster_bits) - 1));
	run.has_host_off = w->entry.has_host_off;
	run.copied = w->for_writing && w->entry.copied && run.kind == DISK_RUN_DATA;
	if (run.has_host_off)
		run.host_off = w->entry.host_off + in_cluster;
	return run;
}

static bool continues(const struct disk_run *run, const struct disk_run *next)
{
	return run->kind == next->kind && run->kind != DISK_RUN_COMPRESSED &&
	       run->has_host_off == next->has_host_off && run->copied == next->copied &&
	       (!run->has_host_off || run->host_off + run->len_bytes == next->host_off);
}

/* Takes next, at guest_off, into the run; false when it is the start of another. */
static bool take(struct walk *w, const struct disk_run *next)
{
	uint64_t len = min_u64(next->len_bytes, w->end - w->guest_off);

	if (w->run->len_bytes == 0) {
		*w->run = *next;
		w->run->len_bytes = len;
	} else if (continues(w->run, next)) {
		w->run->len_bytes += len;
	} else {
		return false;
	}
	w->guest_off += len;
	return true;
}

/*
 * Standard entries that simply go on: whole clusters with the same kind and the next offset,
 * without decoding each. Leaves guest_off at the first that doesn't.
 */
static void take_repeats(struct walk *w, uint64_t raw)
{
	const struct format_geometry *g = &w->m->geometry;
	const uint64_t mask = LAYOUT_ENTRY_OFFSET_MASK | LAYOUT_ENTRY_COMPRESSED |
			      LAYOUT_ENTRY_ZERO | (w->for_writing ? LAYOUT_ENTRY_COPIED : 0);
	uint64_t step = w->entry.has_host_off ? g->cluster_size : 0;
	uint64_t idx = (w->guest_off >> g->cluster_bits) - w->slice_first;
	uint64_t max =
		min_u64(w->m->slice_entries - idx, (w->end - w->guest_off) >> g->cluster_bits);
	uint64_t expect = raw & mask;
	uint64_t n = 0;
	const uint8_t *p;

	if (g->extended_l2 || g->data_file || w->entry.kind == FORMAT_CLUSTER_COMPRESSED)
		return;
	p = w->slice.bytes + idx * g->l2_entry_len;
	while (n < max &&
	       (load_be64_acquire(p + n * LAYOUT_L2_ENTRY_LEN) & mask) == expect + step) {
		expect += step;
		n++;
	}
	w->run->len_bytes += n << g->cluster_bits;
	w->guest_off += n << g->cluster_bits;
}

/* The entries of one slice; *more is false when the run ends in it. */
static int walk_entries(struct walk *w, bool *more, struct qcow2_error *err)
{
	const struct format_geometry *g = &w->m->geometry;
	uint64_t last = w->slice_first + w->m->slice_entries;
	struct disk_run next;
	uint64_t raw;

	*more = false;
	while (w->guest_off < w->end && w->guest_off >> g->cluster_bits < last) {
		if (!decode_entry(w, &raw))
			return w->run->len_bytes ? 0 : bad_entry(w, raw, err);
		do {
			next = run_here(w, raw);
			if (!take(w, &next))
				return 0;
		} while (w->guest_off < w->end && (w->guest_off & (g->cluster_size - 1)) != 0);
		if (w->guest_off >> g->cluster_bits < last)
			take_repeats(w, raw);
		if (w->run->kind == DISK_RUN_COMPRESSED)
			return 0;
	}
	*more = true;
	return 0;
}

/* walk_entries on a slice that doesn't change meanwhile. */
static int walk_slice(struct walk *w, bool *more, struct qcow2_error *err)
{
	const struct disk_run run = *w->run;
	const uint64_t guest_off = w->guest_off;
	struct qcow2_error *say = NULL;
	uint32_t seq;
	int ret;

	do {
		*w->run = run;
		w->guest_off = guest_off;
		seq = meta_slice_begin(&w->slice);
		ret = walk_entries(w, more, say);
		if (meta_slice_changed(&w->slice, seq))
			continue;
		if (ret == 0 || say == err)
			return ret;
		say = err; /* it stands: once more for the sentence */
	} while (true);
}

/* What one L1 entry, or the rest of one, says. */
static int walk_table(struct walk *w, bool *more, struct qcow2_error *err)
{
	struct format_l1_entry l1 = l1_at(w->m, w->guest_off);
	struct disk_run absent = {.kind = DISK_RUN_ABSENT};
	int ret;

	if (l1.faults & FORMAT_FAULT_FATAL) {
		*more = false;
		if (w->run->len_bytes)
			return 0;
		return error_set_at(err, -EIO, w->guest_off, l1.l2_off,
				    "the L1 entry for guest offset 0x%" PRIx64
				    " points to 0x%" PRIx64 ", which isn't a cluster's start",
				    w->guest_off, l1.l2_off);
	}
	if (l1.l2_off == 0) {
		absent.len_bytes = table_end(w) - w->guest_off;
		*more = take(w, &absent);
		return 0;
	}
	/* once there is a run, a table that can't be read only ends it: no word of it */
	ret = hold_slice(w, l1.l2_off, w->run->len_bytes ? NULL : err);
	if (ret < 0) {
		*more = false;
		return w->run->len_bytes ? 0 : ret;
	}
	return walk_slice(w, more, err);
}

/* May the range be looked up by take_plain: does it lie in one cluster with a standard entry? */
static bool is_short(const struct walk *w)
{
	const struct format_geometry *g = &w->m->geometry;

	return !g->extended_l2 && !g->data_file &&
	       (w->guest_off ^ (w->end - 1)) >> g->cluster_bits == 0;
}

/*
 * The common case without a walk: one entry, of plain data and nothing else. One word needs no
 * sequence number. false: it is another kind of entry, and nothing was done.
 */
static bool take_plain(struct walk *w, uint64_t raw)
{
	const struct format_geometry *g = &w->m->geometry;
	uint64_t in_cluster = w->guest_off & (g->cluster_size - 1);
	uint64_t host_off = raw & LAYOUT_ENTRY_OFFSET_MASK;

	if (raw & ~(LAYOUT_ENTRY_OFFSET_MASK | LAYOUT_ENTRY_COPIED) || host_off == 0 ||
	    !is_aligned(host_off, g->cluster_size))
		return false;
	w->run->kind = DISK_RUN_DATA;
	w->run->has_host_off = true;
	w->run->host_off = host_off + in_cluster;
	w->run->copied = w->for_writing && raw & LAYOUT_ENTRY_COPIED;
	w->run->len_bytes = w->end - w->guest_off;
	return true;
}

static bool take_held(struct walk *w)
{
	uint64_t raw, bitmap;

	raw_entry(w, &raw, &bitmap);
	return take_plain(w, raw);
}

/* take_plain where it can be asked; *more is false if the run is complete. */
static int try_plain(struct walk *w, bool *more, struct qcow2_error *err)
{
	struct format_l1_entry l1 = l1_at(w->m, w->guest_off);
	struct slice_place place;
	uint64_t cluster, raw;
	int ret = 0;

	if (l1.l2_off == 0 || l1.faults & FORMAT_FAULT_FATAL)
		return 0;
	place = find_slice(w, l1.l2_off);
	cluster = w->guest_off >> w->m->geometry.cluster_bits;
	if (hold_cached(w, &place) < 0) {
		if (meta_cache_peek_word(w->m->l2, place.host_off,
					 (uint32_t)(cluster - place.first), &raw) &&
		    take_plain(w, raw)) {
			*more = false;
			return 0;
		}
		ret = w->cached ? -EAGAIN : hold_slice(w, l1.l2_off, err);
	}
	if (ret == 0)
		*more = !take_held(w);
	return ret;
}

static int map(struct walk *w, struct qcow2_error *err)
{
	bool more = true;
	int ret = 0;

	w->end += w->guest_off;
	*w->run = (struct disk_run){0};
	if (is_short(w))
		ret = try_plain(w, &more, err);
	while (ret == 0 && more && w->guest_off < w->end)
		ret = walk_table(w, &more, err);
	drop_slice(w);
	return ret;
}

int meta_map(const struct meta *m, uint64_t guest_off, uint64_t len_bytes, struct disk_run *run,
	     struct qcow2_error *err)
{
	struct walk w = {.m = m, .guest_off = guest_off, .end = len_bytes, .run = run};

	return map(&w, err);
}

int meta_map_cached(const struct meta *m, uint64_t guest_off, uint64_t len_bytes, bool for_writing,
		    struct disk_run *run)
{
	struct walk w = {.m = m,
			 .guest_off = guest_off,
			 .end = len_bytes,
			 .run = run,
			 .for_writing = for_writing,
			 .cached = true};

	return map(&w, NULL);
}

int meta_map_for_writing(const struct meta *m, uint64_t guest_off, uint64_t len_bytes,
			 struct disk_run *run, struct qcow2_error *err)
{
	struct walk w = {
		.m = m, .guest_off = guest_off, .end = len_bytes, .run = run, .for_writing = true};

	return map(&w, err);
}
