/* SPDX-License-Identifier: MIT */
/*
 * Bitmaps on their way into the file: rule 16 of docs/ordering.md. Everything new is written to
 * clusters that nothing points to, made durable, and then one write of the header makes it count;
 * after that the old is let go of.
 *
 * A cluster of bits that are the same as before stays where it is, and so does a table in which no
 * entry changed. Clusters of nothing but zeros or ones are told by their entry alone.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"
#include "meta/bitmap.h"

#define MIXED 2u /* no entry: the bits of a cluster aren't all the same */

struct run_list {
	struct meta_run *runs;
	size_t count, cap;
};

/* A bitmap as it is going to be stored. */
struct image_of {
	struct format_bitmap rec; /* shares what the bitmap's owns */
	uint64_t *table;	  /* NULL: it keeps the one that it has */
};

struct store {
	struct meta *m;
	struct run_list taken; /* to be given back if it fails */
	struct run_list old;   /* to be let go of if it doesn't */
	struct image_of *images;
	struct format_ext_bitmaps ext;
	uint8_t *bytes; /* a cluster, and one more to compare with */
};

/* ---- clusters ---- */

static int note_run(struct run_list *l, uint64_t first, uint64_t n, struct qcow2_error *err)
{
	struct meta_run *longer;
	size_t cap;

	if (l->count > 0 &&
	    l->runs[l->count - 1].first + l->runs[l->count - 1].nclusters == first) {
		l->runs[l->count - 1].nclusters += n;
		return 0;
	}
	if (l->count == l->cap) {
		cap = l->cap * 2 + 16;
		longer = mem_realloc(l->runs, cap, sizeof(*longer));
		if (!longer)
			return error_errno(err, -ENOMEM, "can't store the bitmaps");
		l->runs = longer;
		l->cap = cap;
	}
	l->runs[l->count++] = (struct meta_run){.first = first, .nclusters = n};
	return 0;
}

static int take(struct store *s, uint64_t len, uint64_t *host_off, struct qcow2_error *err)
{
	struct meta_run run;
	int ret = meta_take(s->m, div_ceil(len, s->m->geometry.cluster_size), LAYOUT_HOST_OFF_MAX,
			    &run, err);

	if (ret < 0)
		return ret;
	ret = note_run(&s->taken, run.first, run.nclusters, err);
	if (ret < 0)
		meta_untake(s->m, &run);
	*host_off = meta_off_of(s->m, run.first);
	return ret;
}

static int note_old(struct store *s, uint64_t host_off, uint64_t len, struct qcow2_error *err)
{
	return note_run(&s->old, meta_cluster_of(s->m, host_off),
			div_ceil(len, s->m->geometry.cluster_size), err);
}

/* What isn't only ours stays, counted: the image is damaged, and it is no time to make it worse. */
static void let_go(struct meta *m, const struct meta_run *run)
{
	for (uint64_t i = 0; i < run->nclusters; i++) {
		uint64_t off = meta_off_of(m, run->first + i), count;

		if (meta_guard_find(&m->engine->guard, off, m->geometry.cluster_size,
				    META_REGION_NONE, NULL) == META_REGION_NONE &&
		    meta_refs_get(m, run->first + i, &count, NULL) == 0 && count == 1 &&
		    meta_refs_lower(m, run->first + i, 1, NULL, NULL, NULL) == 0)
			meta_clusters_free(m, run->first + i, 1,
					   m->engine->pass_discard & QCOW2_PASS_OTHER);
	}
	atomic_store(&m->engine->ever_freed, true);
}

/* All that a stored bitmap has: its data and its table. */
static int note_all_of(struct store *s, struct meta_bitmap *b, struct qcow2_error *err)
{
	const struct meta *m = s->m;
	const uint64_t *table = NULL;
	int ret = 0;

	/* of one that can't be read the data are lost: a check finds them */
	if (b->stored && meta_bitmap_table(m, b, &table, NULL) == -ENOMEM)
		return error_errno(err, -ENOMEM, "can't store the bitmaps");
	for (uint32_t i = 0; table && i < b->rec.table_entries && ret == 0; i++) {
		struct format_bitmap_entry e = format_bitmap_entry_decode(&m->geometry, table[i]);

		if (e.host_off)
			ret = note_old(s, e.host_off, m->geometry.cluster_size, err);
	}
	if (ret == 0 && b->stored)
		ret = note_old(s, b->rec.table_off, (uint64_t)b->rec.table_entries * 8, err);
	return ret;
}

/* ---- one bitmap ---- */

/* The bits of cluster idx. *entry: what tells them if they are all the same, else MIXED. */
static int put_together(struct store *s, struct meta_bitmap *b, uint64_t idx, uint64_t *entry,
			struct qcow2_error *err)
{
	const uint64_t cs = s->m->geometry.cluster_size;
	size_t step = (size_t)min_u64(cs, META_BITMAP_PAGE_BYTES);
	uint64_t nbits = min_u64(b->nbits - idx * cs * 8, cs * 8), ones = 0;
	int ret = 0;

	for (uint64_t at = 0; at < cs && ret == 0; at += step) {
		memset(s->bytes + at, 0, step);
		if (at * 8 < nbits)
			ret = meta_bitmap_bytes(s->m, b, idx * cs + at, step, s->bytes + at, err);
	}
	for (uint64_t at = 0; at < cs && ret == 0; at += 8)
		ones += (unsigned)__builtin_popcountll(load_le64(s->bytes + at));
	*entry = ones == 0 ? 0 : ones == nbits ? LAYOUT_BITMAP_ENTRY_ALL_ONES : MIXED;
	return ret;
}

static int is_in_file(struct store *s, uint64_t old, bool *same, struct qcow2_error *err)
{
	const uint64_t cs = s->m->geometry.cluster_size;
	uint64_t off = format_bitmap_entry_decode(&s->m->geometry, old).host_off;
	int ret = 0;

	*same = false;
	if (off)
		ret = storage_read(s->m->file, s->bytes + cs, (size_t)cs, off, err);
	if (off && ret == 0)
		*same = memcmp(s->bytes, s->bytes + cs, (size_t)cs) == 0;
	return ret;
}

/* Whether the table of before has it as it is now. */
static bool is_untouched(const struct store *s, const struct meta_bitmap *b, uint64_t idx)
{
	const uint64_t bits = s->m->geometry.cluster_size * 8;

	if (meta_bitmap_has_pages(b, idx * bits, bits))
		return false;
	return (idx + 1) * bits <= b->table_bits ||
	       (b->nbits == b->stored_bits && b->nbits == b->table_bits);
}

static int store_cluster(struct store *s, struct meta_bitmap *b, uint64_t idx, uint64_t old,
			 uint64_t *entry, struct qcow2_error *err)
{
	const uint64_t cs = s->m->geometry.cluster_size;
	bool same = false;
	int ret;

	*entry = old;
	if (is_untouched(s, b, idx))
		return 0;
	ret = put_together(s, b, idx, entry, err);
	if (ret == 0 && *entry == MIXED)
		ret = is_in_file(s, old, &same, err);
	if (ret == 0 && *entry == MIXED && !same) {
		ret = take(s, cs, entry, err);
		if (ret == 0)
			ret = storage_write(s->m->file, s->bytes, (size_t)cs, *entry, err);
	}
	if (same)
		*entry = old;
	return ret;
}

static int store_clusters(struct store *s, struct meta_bitmap *b, const uint64_t *old,
			  struct image_of *im, bool *moves, struct qcow2_error *err)
{
	const struct format_geometry *g = &s->m->geometry;
	uint32_t nold = old ? b->rec.table_entries : 0;
	int ret = 0;

	*moves = im->rec.table_entries != nold;
	for (uint32_t i = 0; i < im->rec.table_entries && ret == 0; i++) {
		uint64_t was = i < nold ? old[i] : 0;

		ret = store_cluster(s, b, i, was, &im->table[i], err);
		*moves = *moves || im->table[i] != was;
	}
	for (uint32_t i = 0; i < nold && ret == 0; i++) {
		uint64_t off = format_bitmap_entry_decode(g, old[i]).host_off;

		if (off && (i >= im->rec.table_entries || im->table[i] != old[i]))
			ret = note_old(s, off, g->cluster_size, err);
	}
	return ret;
}

static int store_table(struct store *s, const struct meta_bitmap *b, struct image_of *im,
		       struct qcow2_error *err)
{
	uint64_t len = (uint64_t)im->rec.table_entries * sizeof(uint64_t);
	int ret = take(s, len, &im->rec.table_off, err);

	if (ret == 0)
		ret = meta_write_words(s->m, im->table, im->rec.table_entries, im->rec.table_off,
				       err);
	if (ret == 0 && b->stored)
		ret = note_old(s, b->rec.table_off, (uint64_t)b->rec.table_entries * 8, err);
	return ret;
}

static int store_bitmap(struct store *s, struct meta_bitmap *b, struct image_of *im,
			struct qcow2_error *err)
{
	const uint64_t *old = NULL;
	bool moves;
	int ret = 0;

	im->rec = b->rec;
	im->rec.flags = meta_bitmap_flags(b);
	if (b->state != META_BITMAP_GOOD)
		return 0;
	if (b->stored && !b->changed && !b->pages)
		return 0;
	ret = meta_bitmap_table(s->m, b, &old, err);
	if (ret < 0)
		return ret;
	im->rec.table_entries = (uint32_t)format_bitmap_table_entries(
		&s->m->geometry, s->m->size_bytes, b->rec.granularity_bits);
	im->table = mem_zalloc(im->rec.table_entries, sizeof(*im->table));
	if (!im->table)
		return error_errno(err, -ENOMEM, "can't store the bitmaps");
	ret = store_clusters(s, b, old, im, &moves, err);
	return ret == 0 && moves ? store_table(s, b, im, err) : ret;
}

/* ---- the directory ---- */

static int write_directory(struct store *s, struct qcow2_error *err)
{
	const struct meta_bitmap_set *set = s->m->bitmaps;
	cleanup_free uint8_t *bytes = NULL;
	uint64_t len = 0, pos = 0;
	int ret;

	for (size_t i = 0; i < set->count; i++)
		len += format_bitmap_encoded_len(&s->images[i].rec);
	bytes = mem_alloc(len, 1);
	if (!bytes)
		return error_errno(err, -ENOMEM, "can't store the bitmaps");
	for (size_t i = 0; i < set->count; i++) {
		format_bitmap_encode(&s->images[i].rec, bytes + pos);
		pos += format_bitmap_encoded_len(&s->images[i].rec);
	}
	s->ext.nb_bitmaps = (uint32_t)set->count;
	s->ext.directory_size = len;
	ret = take(s, len, &s->ext.directory_off, err);
	return ret == 0 ? storage_write(s->m->file, bytes, (size_t)len, s->ext.directory_off, err)
			: ret;
}

static bool has_directory(const struct meta *m)
{
	return m->header.ext.has_bitmaps && (m->header.autoclear & LAYOUT_AUTOCLEAR_BITMAPS);
}

static int write_all(struct store *s, struct qcow2_error *err)
{
	const struct meta_bitmap_set *set = s->m->bitmaps;
	const struct format_ext_bitmaps *old = &s->m->header.ext.bitmaps;
	int ret = 0;

	for (size_t i = 0; i < set->count && ret == 0; i++)
		ret = store_bitmap(s, set->list[i], &s->images[i], err);
	for (size_t i = 0; i < set->ngone && ret == 0; i++)
		ret = note_all_of(s, set->gone[i], err);
	if (ret == 0 && set->count > 0)
		ret = write_directory(s, err);
	if (ret == 0 && set->count > 0)
		ret = meta_guard_add(&s->m->engine->guard, META_REGION_BITMAPS,
				     s->ext.directory_off, s->ext.directory_size, err);
	if (ret == 0 && has_directory(s->m))
		ret = note_old(s, old->directory_off, old->directory_size, err);
	if (ret == 0 && !META_BROKEN(16))
		ret = meta_commit_counts(s->m, err);
	return ret;
}

/* ---- afterwards ---- */

static void adopt(struct meta_bitmap *b, struct image_of *im, uint64_t host_off)
{
	b->stored_flags = im->rec.flags;
	b->flags_off = host_off + LAYOUT_BITMAP_OFF_FLAGS;
	b->rec.table_off = im->rec.table_off;
	b->rec.table_entries = im->rec.table_entries;
	b->stored = true;
	if (b->state != META_BITMAP_GOOD)
		return;
	if (im->table) {
		mem_free(b->table);
		b->table = mem_steal(&im->table);
	}
	meta_bitmap_drop_pages(b);
	b->table_bits = b->stored_bits = b->nbits;
	b->changed = false;
}

static void adopt_all(struct store *s)
{
	struct meta_bitmap_set *set = s->m->bitmaps;
	uint64_t pos = s->ext.directory_off;

	for (size_t i = 0; i < set->count; i++) {
		uint64_t len = format_bitmap_encoded_len(&s->images[i].rec);

		adopt(set->list[i], &s->images[i], pos);
		pos += len;
	}
	for (size_t i = 0; i < set->ngone; i++)
		meta_bitmap_free(set->gone[i]);
	set->ngone = 0;
	set->changed = false;
	atomic_store(&set->settled, false);
	for (size_t i = 0; i < s->old.count; i++)
		let_go(s->m, &s->old.runs[i]);
}

static void give_up(struct store *s)
{
	if (s->ext.directory_off)
		meta_guard_remove(&s->m->engine->guard, META_REGION_BITMAPS, s->ext.directory_off,
				  s->ext.directory_size);
	for (size_t i = 0; i < s->taken.count; i++)
		meta_untake(s->m, &s->taken.runs[i]);
}

static int store(struct store *s, struct qcow2_error *err)
{
	struct meta *m = s->m;
	const struct format_ext_bitmaps old = m->header.ext.bitmaps;
	bool had = has_directory(m);
	int ret = write_all(s, err);

	if (ret == 0)
		ret = meta_super_write_bitmaps(m, m->bitmaps->count > 0 ? &s->ext : NULL, err);
	if (ret < 0) {
		if (meta_check_sound(m, NULL) == 0)
			give_up(s);
		return ret;
	}
	if (had)
		meta_guard_remove(&m->engine->guard, META_REGION_BITMAPS, old.directory_off,
				  old.directory_size);
	adopt_all(s);
	return META_BROKEN(16) ? meta_commit_counts(m, err) : 0;
}

int meta_bitmaps_store(struct meta *m, struct qcow2_error *err)
{
	const struct meta_bitmap_set *set = m->bitmaps;
	struct store s = {.m = m};
	bool is_stale = m->header.ext.has_bitmaps && !has_directory(m);
	int ret = 0;

	if (!set || (!set->changed && !is_stale))
		return 0;
	s.images = mem_zalloc(set->count, sizeof(*s.images));
	s.bytes = mem_alloc(2, (size_t)m->geometry.cluster_size);
	if (s.images && s.bytes)
		ret = store(&s, err);
	else
		ret = error_errno(err, -ENOMEM, "no memory");
	for (size_t i = 0; s.images && i < set->count; i++)
		mem_free(s.images[i].table);
	mem_free(s.images);
	mem_free(s.bytes);
	mem_free(s.taken.runs);
	mem_free(s.old.runs);
	if (ret < 0)
		error_prefix(err, "the bitmaps can't be stored");
	return ret;
}

uint64_t meta_bitmaps_space(const struct meta *m, uint64_t cluster_size)
{
	const struct meta_bitmap_set *set = m->bitmaps;
	uint64_t total = 0, directory = 0;

	for (size_t i = 0; set && i < set->count; i++) {
		const struct meta_bitmap *b = set->list[i];
		uint64_t n;

		if (b->state != META_BITMAP_GOOD)
			continue;
		n = div_ceil(div_ceil(b->nbits, 8), cluster_size);
		total += n * cluster_size + align_up(n * sizeof(uint64_t), cluster_size);
		directory += format_bitmap_encoded_len(&b->rec);
	}
	return total + align_up(directory, cluster_size);
}
