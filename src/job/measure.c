/* SPDX-License-Identifier: MIT */
/*
 * Measure: how large the file will be that a conversion makes, or qcow2_create, without making it.
 *
 * What a cluster of the new image becomes depends on what the sources' tables say of it, and where
 * clusters go on how many there are, since the writer takes one after the other. So the sources are
 * mapped, in runs as long as they come, clusters and tables are counted, and the allocator that the
 * real thing has says where they end. Counts of parts of the disk add up in any order, as long as
 * no table or cluster lies in two of them, so several threads do that.
 *
 * Data aren't read. Clusters of zeros that are stored as data, and compression, make the real file
 * smaller than this says.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/num.h"
#include "base/progress.h"
#include "base/work.h"
#include "image/options.h"
#include "job/job.h"
#include "job/tables.h"
#include "job/target.h"
#include "meta/bitmap.h"

#define NO_TABLE UINT64_MAX
#define PART_MIN (4ull << 30) /* of the disk, for one thread at a time; a power of two */
#define THREADS_MAX 8

/* What clusters of one kind cost in the new image. */
struct cost {
	bool cluster; /* a place of their own */
	bool table;   /* an entry, so that their L2 table has to be there */
};

/* How many there are, counted in guest order. */
struct tally {
	struct format_geometry g;
	struct cost costs[JOB_BLOCK_DATA + 1];
	uint64_t nclusters, ntables;
	uint64_t ndata;	     /* clusters with data, whatever they cost */
	uint64_t last_table; /* the last that was counted */
	bool is_begun;	     /* a cluster of which only the beginning has been seen */
	enum job_block begun;
};

/* So many clusters from `first` on are of that kind. */
static void count(struct tally *t, uint64_t first, uint64_t n, enum job_block kind)
{
	uint64_t from = first >> t->g.l2_bits, to = (first + n - 1) >> t->g.l2_bits;

	if (n == 0)
		return;
	if (kind == JOB_BLOCK_DATA)
		t->ndata += n;
	if (t->costs[kind].cluster)
		t->nclusters += n;
	if (!t->costs[kind].table)
		return;
	t->ntables += to - from + (from != t->last_table);
	t->last_table = to;
}

/* The next piece of the disk. A cluster with two kinds in it is data, as for the copier. */
static void add(void *tally, uint64_t guest_off, const struct job_piece *p)
{
	struct tally *t = tally;
	const uint64_t cs = t->g.cluster_size, bits = t->g.cluster_bits;
	uint64_t end = guest_off + p->len_bytes;
	uint64_t first = guest_off >> bits, behind = end >> bits;

	if (t->is_begun && t->begun != p->kind)
		t->begun = JOB_BLOCK_DATA;
	if (t->is_begun && behind > first) {
		count(t, first++, 1, t->begun);
		t->is_begun = false;
	}
	if (behind > first)
		count(t, first, behind - first, p->kind);
	if (!t->is_begun && !is_aligned(end, cs)) {
		t->is_begun = true;
		t->begun = p->kind;
	}
}

/* The next piece, or all pieces of the next table. Gives in *len how much of the disk that was. */
static int tally_next(struct tally *t, const struct job_source *source,
		      const struct job_tables *tables, uint64_t off, uint64_t end, uint64_t *len,
		      struct qcow2_error *err)
{
	struct job_piece p;
	int ret;

	*len = job_tables_tell(tables, off, add, t);
	if (*len > 0)
		return 0;
	ret = job_source_map(source, off, &p, err);
	if (ret < 0)
		return ret;
	p.len_bytes = min_u64(p.len_bytes, end - off);
	add(t, off, &p);
	*len = p.len_bytes;
	return 0;
}

/* A part of the disk; tables of either image don't reach beyond it, unless the disk ends there. */
static int tally_part(struct tally *t, const struct job_source *source,
		      const struct job_tables *tables, uint64_t off, uint64_t end,
		      struct qcow2_error *err)
{
	uint64_t len;
	int ret = 0;

	for (; ret == 0 && off < end; off += len)
		ret = tally_next(t, source, tables, off, end, &len, err);
	if (ret == 0 && t->is_begun)
		count(t, off >> t->g.cluster_bits, 1, t->begun);
	t->is_begun = false;
	return ret;
}

/* ---- all parts, by several threads: their counts add up in any order ---- */

struct survey {
	/* immutable */
	const struct job_source *source;
	const struct tally *blank;
	const struct qcow2_progress *progress;
	uint64_t part_bytes;
	/* atomic */
	_Atomic uint64_t next_off, done_bytes;
	_Atomic uint64_t nclusters, ntables, ndata;
	atomic_bool failed, canceled;
	/* of the calling thread */
	struct progress_ticker ticker;
};

static void survey_part(struct survey *s, const struct job_tables *tables, uint64_t off)
{
	uint64_t end = min_u64(off + s->part_bytes, s->source->size_bytes);
	struct tally t = *s->blank;

	if (tally_part(&t, s->source, tables, off, end, NULL) < 0)
		atomic_store(&s->failed, true);
	atomic_fetch_add(&s->nclusters, t.nclusters);
	atomic_fetch_add(&s->ntables, t.ntables);
	atomic_fetch_add(&s->ndata, t.ndata);
	atomic_fetch_add(&s->done_bytes, end - off);
}

static void run_thread(void *opaque, unsigned i)
{
	struct survey *s = opaque;
	struct job_tables tables;
	uint64_t off;

	job_tables_init(&tables, s->source);
	while (!atomic_load(&s->failed) && !atomic_load(&s->canceled)) {
		off = atomic_fetch_add(&s->next_off, s->part_bytes);
		if (off >= s->source->size_bytes)
			break;
		survey_part(s, &tables, off);
		if (i == 0 && progress_tell(&s->ticker, s->progress, atomic_load(&s->done_bytes),
					    s->source->size_bytes, false) != 0)
			atomic_store(&s->canceled, true);
	}
	job_tables_release(&tables);
}

/* Something went wrong somewhere: the first such place is the one to tell of. */
static int tally_in_order(struct tally *t, const struct job_source *source, struct qcow2_error *err)
{
	struct job_tables tables;
	int ret;

	job_tables_init(&tables, source);
	ret = tally_part(t, source, &tables, 0, source->size_bytes, err);
	job_tables_release(&tables);
	return ret;
}

static uint64_t part_size(const struct tally *t, const struct job_source *source)
{
	uint64_t part = max_u64(PART_MIN, (uint64_t)t->g.l2_entries << t->g.cluster_bits);

	for (size_t i = 0; i < source->nimages; i++) {
		const struct image_qcow2 *q = source->images[i]->qcow2;
		const struct format_geometry *g = q ? &q->meta.geometry : &t->g;

		part = max_u64(part, (uint64_t)g->l2_entries << g->cluster_bits);
	}
	return part;
}

static int tally_source(struct tally *t, const struct job_source *source, unsigned threads,
			const struct qcow2_progress *progress, struct qcow2_error *err)
{
	struct survey s = {.source = source, .blank = t, .progress = progress};
	uint64_t size = source->size_bytes;

	s.part_bytes = part_size(t, source);
	s.ticker.ticked_nsec = progress_now_nsec();
	threads = (unsigned)min_u64(threads ? threads : work_cpus(), THREADS_MAX);
	work_team((unsigned)min_u64(threads, max_u64(1, div_ceil(size, s.part_bytes))), run_thread,
		  &s);
	if (s.canceled)
		return error_set(err, -ECANCELED, "canceled");
	if (s.failed)
		return tally_in_order(t, source, err);
	t->nclusters = s.nclusters;
	t->ntables = s.ntables;
	t->ndata = s.ndata;
	(void)progress_tell(&s.ticker, progress, size, size, true);
	return 0;
}

/* ---- the image that would be made ---- */

struct plan {
	struct qcow2_convert_options o;
	struct qcow2_create_options create; /* checked, with a size */
	const struct job_source *source;    /* NULL: the image stays empty */
	struct format_geometry g;
	unsigned prealloc; /* what it comes to */
};

/* What image/writer.c does with each kind. */
static void set_costs(const struct plan *p, struct cost *costs)
{
	bool map_all = p->prealloc != QCOW2_PREALLOC_OFF, hides = p->create.backing_file;
	bool write_all = p->o.sparse_bytes == 0 || p->prealloc == QCOW2_PREALLOC_FULL;
	struct cost both = {true, true}, nothing = {false, false}, entry = {false, true};

	costs[JOB_BLOCK_DATA] = both;
	costs[JOB_BLOCK_ABSENT] = map_all ? both : nothing;
	if (write_all || (hides && p->create.version < 3) ||
	    (map_all && !(hides && p->create.extended_l2)))
		costs[JOB_BLOCK_ZERO] = both;
	else
		costs[JOB_BLOCK_ZERO] = hides ? entry : nothing;
}

/* The new image when so many clusters and tables have been put into it; to be abandoned. */
static int fill_draft(const struct plan *p, struct image_draft *d, unsigned prealloc,
		      uint64_t nclusters, uint64_t ntables, struct qcow2_error *err)
{
	struct qcow2_create_options o = p->create;
	int ret;

	o.prealloc = prealloc;
	ret = image_draft_plan(d, &o, err);
	if (ret < 0 || image_create_prealloc(&o) != QCOW2_PREALLOC_OFF)
		return ret; /* what is preallocated is mapped already */
	ret = image_fresh_alloc_each(&d->fresh, ntables + (p->g.data_file ? 0 : nclusters), err);
	if (ret < 0)
		image_draft_abandon(d);
	return ret;
}

static uint64_t disk_clusters(const struct plan *p)
{
	return div_ceil(p->create.size, p->g.cluster_size);
}

/*
 * Everything mapped, one cluster after the other. Tables may be too small for that, though they
 * aren't for the disk: then set_bounds says what it would be.
 */
static int length_when_full(const struct plan *p, uint64_t *len_bytes, struct qcow2_error *err)
{
	uint64_t n = disk_clusters(p);
	struct image_draft d;
	int ret = fill_draft(p, &d, QCOW2_PREALLOC_OFF, n, div_ceil(n, p->g.l2_entries), err);

	*len_bytes = 0;
	if (ret < 0)
		return ret == -EFBIG ? 0 : ret;
	*len_bytes = image_draft_length(&d);
	image_draft_abandon(&d);
	return 0;
}

/* ---- bitmaps ---- */

/* The one image whose bitmaps the new one could have; NULL: none. */
static const struct qcow2_image *bitmaps_of(const struct plan *p)
{
	const struct qcow2_image *image = p->source ? p->source->images[0] : NULL;

	if (!image || p->source->nimages != 1 || !image->qcow2 || p->create.version < 3 ||
	    image->qcow2->meta.header.version < 3)
		return NULL;
	return image;
}

/* Puts all of them into the draft, with all of their clusters. */
static int place_bitmaps(struct image_draft *d, const struct meta_bitmap_set *set,
			 struct qcow2_error *err)
{
	const uint64_t cs = d->g.cluster_size;
	uint64_t first, directory = 0;
	int ret = 0;

	for (size_t i = 0; ret == 0 && set && i < set->count; i++) {
		const struct meta_bitmap *b = set->list[i];
		uint64_t n = div_ceil(div_ceil(b->nbits, 8), cs);

		if (b->state != META_BITMAP_GOOD)
			continue;
		directory += format_bitmap_encoded_len(&b->rec);
		ret = image_fresh_alloc_each(&d->fresh, n, err);
		if (ret == 0)
			ret = image_fresh_alloc(&d->fresh, div_ceil(n * sizeof(uint64_t), cs),
						&first, err);
	}
	if (ret == 0)
		ret = image_fresh_alloc(&d->fresh, div_ceil(directory, cs), &first, err);
	return ret;
}

/* By how much they make the draft longer, which has all the rest. */
static int measure_bitmaps(const struct plan *p, struct image_draft *d,
			   struct qcow2_measure_result *r, struct qcow2_error *err)
{
	const struct qcow2_image *image = bitmaps_of(p);
	unsigned ticket;
	int ret = 0;

	if (!image)
		return 0;
	ticket = image_enter(image);
	r->has_bitmaps = meta_bitmaps_open(&image->qcow2->meta, NULL) == 0;
	if (r->has_bitmaps) {
		r->bound_bitmaps_bytes = meta_bitmaps_space(&image->qcow2->meta, p->g.cluster_size);
		ret = place_bitmaps(d, image->qcow2->meta.bitmaps, err);
		r->bitmaps_bytes = image_draft_length(d) - r->required_bytes;
	}
	image_leave(image, ticket);
	return ret;
}

/* ---- all of it ---- */

/*
 * Section 21: what QEMU's measure says. It counts the tables of the whole disk, and doesn't know
 * of data files.
 */
static void set_bounds(const struct plan *p, uint64_t ndata, struct qcow2_measure_result *r)
{
	const struct format_geometry *g = &p->g;
	uint64_t cs = g->cluster_size, disk = align_up(p->create.size, cs);
	uint64_t l2 = align_up(disk / cs * g->l2_entry_len, cs);
	uint64_t l1 = align_up(l2 / cs * LAYOUT_L1_ENTRY_LEN, cs);
	uint64_t meta = cs + l2 + l1, exact;
	bool all = (p->source && p->create.backing_file) ||
		   p->create.prealloc >= QCOW2_PREALLOC_FALLOC;

	meta += image_fresh_refcount_clusters(g, (meta + disk) / cs) * cs;
	r->bound_fully_allocated_bytes = max_u64(r->fully_allocated_bytes, meta + disk);
	if (r->fully_allocated_bytes == 0)
		r->fully_allocated_bytes = r->bound_fully_allocated_bytes;
	r->bound_required_bytes = max_u64(r->required_bytes, meta + (all ? disk : ndata * cs));
	exact = r->required_bytes + r->bitmaps_bytes;
	if (exact > r->bound_required_bytes + r->bound_bitmaps_bytes)
		r->bound_bitmaps_bytes = exact - r->bound_required_bytes;
}

static int measure_empty(const struct plan *p, struct qcow2_measure_result *r,
			 struct qcow2_error *err)
{
	struct image_draft d;
	int ret = fill_draft(p, &d, p->create.prealloc, 0, 0, err);

	if (ret < 0)
		return ret;
	r->required_bytes = r->fully_allocated_bytes = image_draft_length(&d);
	image_draft_abandon(&d);
	if (p->prealloc == QCOW2_PREALLOC_OFF)
		ret = length_when_full(p, &r->fully_allocated_bytes, err);
	set_bounds(p, 0, r);
	return ret;
}

static int measure_filled(const struct plan *p, struct qcow2_measure_result *r,
			  struct qcow2_error *err)
{
	struct tally t = {.g = p->g, .last_table = NO_TABLE};
	struct image_draft d;
	int ret;

	set_costs(p, t.costs);
	ret = tally_source(&t, p->source, p->o.threads, &p->o.progress, err);
	if (ret == 0)
		ret = fill_draft(p, &d, QCOW2_PREALLOC_OFF, t.nclusters, t.ntables, err);
	if (ret < 0)
		return ret;
	r->required_bytes = image_draft_length(&d);
	ret = measure_bitmaps(p, &d, r, err);
	image_draft_abandon(&d);
	if (ret == 0)
		ret = length_when_full(p, &r->fully_allocated_bytes, err);
	set_bounds(p, t.ndata, r);
	return ret;
}

/* What is mapped before there are data is mapped to the end of the last (sub)cluster. */
static uint64_t data_file_length(const struct plan *p)
{
	bool by_draft = p->create.data_file_raw || (!p->source && p->prealloc);

	return by_draft ? align_up(p->create.size, 1ull << p->g.subcluster_bits) : p->create.size;
}

static int measure_qcow2(struct plan *p, struct qcow2_measure_result *r, struct qcow2_error *err)
{
	int ret = job_target_check_qcow2(&p->o, &p->create, err);

	if (ret == 0 && p->source)
		ret = job_target_goes_on_top(&p->create, p->source, err);
	if (ret < 0)
		return ret;
	image_create_geometry(&p->create, &p->g);
	p->prealloc = image_create_prealloc(&p->create);
	ret = p->source ? measure_filled(p, r, err) : measure_empty(p, r, err);
	if (p->g.data_file)
		r->data_file_bytes = data_file_length(p);
	return ret;
}

static int measure_raw(const struct plan *p, struct qcow2_measure_result *r,
		       struct qcow2_error *err)
{
	int ret = job_target_check_raw(&p->o, &p->create, err);

	if (ret == 0 && p->source)
		ret = job_target_goes_on_top(&p->create, p->source, err);
	r->required_bytes = r->fully_allocated_bytes = p->create.size;
	r->bound_required_bytes = r->bound_fully_allocated_bytes = p->create.size;
	return ret;
}

/* ---- the call ---- */

static int settle_options(struct plan *p, const struct qcow2_convert_options *options,
			  struct qcow2_error *err)
{
	int ret = OPTIONS_TAKE(&p->o, options, "convert options", err);

	if (ret == 0)
		ret = job_convert_check(&p->o, err);
	if (ret == 0 && p->o.flags & QCOW2_CONVERT_EXISTING)
		ret = error_set(err, -EINVAL,
				"what an existing image grows by can't be measured, only what a "
				"new one takes");
	if (ret == 0)
		ret = OPTIONS_TAKE(&p->create, p->o.create, "create options", err);
	return ret;
}

static int measure(struct plan *p, struct qcow2_measure_result *r, struct qcow2_error *err)
{
	int ret;

	if (p->source)
		p->create.size = p->source->size_bytes;
	/* it isn't opened: its contents have no say in it */
	p->create.flags |= QCOW2_CREATE_UNSAFE_BACKING;
	ret = image_create_check(&p->create, err);
	if (ret < 0)
		return ret;
	r->disk_bytes = p->create.size;
	if (strcmp(p->create.format, "raw") == 0)
		return measure_raw(p, r, err);
	return measure_qcow2(p, r, err);
}

int qcow2_measure(struct qcow2_image *const *sources, size_t nsources,
		  const struct qcow2_convert_options *options, struct qcow2_measure_result *result,
		  struct qcow2_error *err)
{
	struct plan p = {.o = QCOW2_CONVERT_OPTIONS_INIT, .create = QCOW2_CREATE_OPTIONS_INIT};
	struct qcow2_measure_result r = QCOW2_MEASURE_RESULT_INIT;
	struct job_source source;
	size_t size = result->struct_size;
	int ret = settle_options(&p, options, err);

	if (ret < 0)
		return ret;
	if (nsources > 0) {
		ret = job_source_init(&source, sources, nsources, err);
		if (ret < 0)
			return ret;
		source.nlayers = p.o.flags & QCOW2_CONVERT_ON_TOP ? 1 : 0;
		source.salvage = p.o.flags & QCOW2_CONVERT_SALVAGE;
		ret = job_source_cut(&source, p.o.source_off, p.o.source_bytes, err);
		p.source = &source;
	}
	if (ret == 0)
		ret = measure(&p, &r, err);
	if (nsources > 0)
		job_source_release(&source);
	if (ret < 0) {
		error_prefix(err, "measuring the new image");
		return ret;
	}
	r.struct_size = size;
	memcpy(result, &r, min_u64(size, sizeof(r)));
	return 0;
}
