/* SPDX-License-Identifier: MIT */
/* long: one list, and what is in it */
/* long: each workload is short, and all of them stand in one list */
/*
 * What is going on when the power or a disk fails. Each workload is short: what counts is that
 * every operation in it is a place to crash or fail at. They are named after what they put to the
 * test.
 */
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/num.h"
#include "base/work.h"
#include "engine/workload.h"

#define K 1024ull
#define M (1024 * 1024ull)

/* ---- patterns ---- */

static int fill_in_order(struct run *r)
{
	uint64_t len = world_cluster(r->w) * 3 / 2;
	int ret = 0;

	for (uint64_t off = 0, n = 1; ret == 0 && off < r->w->size; off += len, n++) {
		ret = run_write(r, off, min_u64(len, r->w->size - off), FILL_NOISE, 0);
		if (ret == 0 && n % 8 == 0)
			ret = run_flush(r);
	}
	return ret;
}

/* As many random writes; a flush after every few. */
static int scatter(struct run *r, unsigned n, uint64_t len, unsigned flush_every)
{
	int ret = 0;

	for (unsigned i = 1; ret == 0 && i <= n; i++) {
		uint64_t off = align_down(rnd_below(&r->rng, r->w->size), min_u64(len, 4096));

		ret = run_write(r, off, min_u64(len, r->w->size - off), FILL_NOISE, 0);
		if (ret == 0 && i % flush_every == 0)
			ret = run_flush(r);
	}
	return ret;
}

static int fill_at_random(struct run *r)
{
	return scatter(r, 40, 4096, 9);
}

static int write_small(struct run *r)
{
	return scatter(r, 60, 700, 7);
}

static int write_durably(struct run *r)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < 20; i++)
		ret = run_write(r, rnd_below(&r->rng, r->w->size - 5000), 5000, FILL_NOISE,
				i % 2 ? QCOW2_WRITE_FUA : 0);
	return ret;
}

/* What was freed is used again for something else at once. */
static int discard_and_reuse(struct run *r)
{
	uint64_t cs = world_cluster(r->w), n = r->w->size / cs;
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < 24; i++) {
		uint64_t at = rnd_below(&r->rng, n - 4) * cs;
		uint64_t to = rnd_below(&r->rng, n - 4) * cs;

		ret = run_write(r, at, 3 * cs, FILL_NOISE, 0);
		if (ret == 0 && i % 5 == 1)
			ret = run_flush(r);
		if (ret == 0)
			ret = run_discard(r, at, (1 + i % 3) * cs);
		if (ret == 0)
			ret = run_write(r, to, 2 * cs, FILL_NOISE, 0);
		if (ret == 0 && i % 4 == 3)
			ret = run_flush(r);
	}
	return ret;
}

static int write_zeros(struct run *r)
{
	uint64_t cs = world_cluster(r->w), size = r->w->size;
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < 40; i++) {
		uint64_t off = align_down(rnd_below(&r->rng, size), i % 3 ? cs : 512);
		uint64_t len = min_u64(rnd_below(&r->rng, 4 * cs) + 1, size - off);

		if (i % 2)
			ret = run_write(r, off, len, FILL_NOISE, 0);
		else
			ret = run_zero(r, off, min_u64(align_up(len, cs), size - off),
				       i % 4 ? QCOW2_WRITE_MAY_UNMAP : 0);
		if (ret == 0 && i % 6 == 5)
			ret = run_flush(r);
	}
	return ret;
}

static int pack(struct run *r, uint64_t cluster_idx, uint64_t n)
{
	uint64_t cs = world_cluster(r->w);

	return run_write(r, cluster_idx * cs, n * cs, FILL_TEXT, QCOW2_WRITE_COMPRESSED);
}

static int compress_and_overwrite(struct run *r)
{
	uint64_t cs = world_cluster(r->w), n = r->w->size / cs;
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < 30; i++) {
		uint64_t at = rnd_below(&r->rng, n - 3);

		ret = pack(r, at, 1 + i % 3);
		if (ret == 0 && i % 3 == 0)
			ret = run_write(r, at * cs + 100, cs / 2, FILL_NOISE, 0);
		if (ret == 0 && i % 4 == 1)
			ret = run_discard(r, at * cs, cs);
		if (ret == 0 && i % 5 == 2)
			ret = pack(r, at, 1);
		if (ret == 0 && i % 5 == 4)
			ret = run_flush(r);
	}
	return ret;
}

/* Large writes: refcount blocks and the refcount table have to grow. */
static int fill_quickly(struct run *r)
{
	uint64_t len = 48 * K;
	int ret = 0;

	for (uint64_t off = 0, n = 1; ret == 0 && off < r->w->size; off += len, n++) {
		ret = run_write(r, off, min_u64(len, r->w->size - off), FILL_NOISE, 0);
		if (ret == 0 && n % 7 == 0)
			ret = run_flush(r);
	}
	return ret;
}

/* Where little of the last refcount block that the table has room for is free. */
static int fill_what_is_added(struct run *r)
{
	uint64_t off = r->w->size;
	int ret = run_resize(r, r->w->max_size);

	for (; ret == 0 && off < r->w->size; off += 100 * K)
		ret = run_write(r, off, min_u64(100 * K, r->w->size - off), FILL_NOISE, 0);
	return ret == 0 ? run_flush(r) : ret;
}

/* Refcount blocks at the end count nothing but themselves any more, and go with the file's end. */
static int empty_and_close(struct run *r)
{
	uint64_t size = r->w->size;
	int ret = 0;

	/* L2 tables stay: in front of all data */
	for (uint64_t off = 0; ret == 0 && off < size; off += world_span(r->w))
		ret = run_write(r, off, 512, FILL_NOISE, 0);
	for (unsigned i = 0; ret == 0 && i < 3; i++) {
		ret = run_write(r, 0, size, FILL_NOISE, 0);
		if (ret == 0)
			ret = run_discard(r, size / 4 * i, size - size / 4 * i);
		if (ret == 0)
			ret = run_close(r);
		if (ret == 0)
			ret = run_open(r);
	}
	return ret;
}

static int resize_and_write(struct run *r)
{
	static const unsigned percent[] = {130, 60, 200, 90, 10, 150, 50, 100};
	uint64_t start = r->w->size;
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(percent); i++) {
		uint64_t size = align_down(start / 100 * percent[i], 512) + 512 * (i % 2);

		ret = scatter(r, 4, 3000, 3 + i % 2);
		if (ret == 0)
			ret = run_resize(r, min_u64(size, r->w->max_size));
		if (ret == 0)
			ret = run_write(r, r->w->size - 2048, 2048, FILL_NOISE, 0);
		if (ret == 0 && i % 3 == 0)
			ret = run_flush(r);
	}
	return ret;
}

/* What is added has clusters, and those are written to; every other time it is all taken. */
static int grow_preallocated(struct run *r)
{
	static const unsigned percent[] = {170, 60, 200, 20, 190};
	uint64_t start = r->w->size;
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(percent); i++) {
		r->prealloc = i % 4 ? QCOW2_PREALLOC_METADATA : QCOW2_PREALLOC_FALLOC;
		ret = run_resize(
			r, min_u64(align_down(start / 100 * percent[i], 512), r->w->max_size));
		if (ret == 0)
			ret = scatter(r, 6, 3000, 4);
	}
	return ret;
}

static int reopen_often(struct run *r)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < 5; i++) {
		ret = scatter(r, 4, 6000, 3);
		if (ret == 0)
			ret = run_discard(r, rnd_below(&r->rng, r->w->size / 2), r->w->size / 4);
		if (ret == 0)
			ret = run_close(r);
		r->how.lazy = i % 3;
		if (ret == 0)
			ret = run_open(r);
	}
	return ret;
}

/* Taken, gone back to and deleted, with writes between that are there, or not, in each. */
static int keep_snapshots(struct run *r)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < 4; i++) {
		ret = scatter(r, 3, 3000, 9);
		if (ret == 0)
			ret = run_take(r);
		if (ret == 0)
			ret = pack(r, i, 1);
		if (ret == 0)
			ret = run_discard(r, world_cluster(r->w) * 5, world_cluster(r->w) * 2);
		if (ret == 0 && i % 2)
			ret = run_go_back(r, i / 2);
		if (ret == 0 && i)
			ret = run_forget(r, i - 1);
	}
	return ret;
}

/* Going back to disks of other sizes. */
static int keep_sizes(struct run *r)
{
	static const unsigned percent[] = {60, 150};
	uint64_t start = r->w->size;
	int ret = run_take(r);

	for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(percent); i++) {
		ret = run_resize(r, align_down(start / 100 * percent[i], 512));
		if (ret == 0)
			ret = scatter(r, 3, 3000, 9);
		if (ret == 0)
			ret = run_take(r);
	}
	for (unsigned i = 0; ret == 0 && i < 4; i++)
		ret = run_go_back(r, (i * 2) % 3);
	return ret == 0 ? run_forget(r, 1) : ret;
}

static int write_states(struct run *r, unsigned n)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < n; i++) {
		uint64_t off = rnd_below(&r->rng, r->w->state_size - 3000);

		ret = run_write_state(r, off, rnd_below(&r->rng, 3000) + 1);
	}
	return ret;
}

/* VM state, with the disk and its snapshots. */
static int keep_states(struct run *r)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < 3; i++) {
		ret = write_states(r, 2);
		if (ret == 0)
			ret = scatter(r, 1, 3000, i % 2 + 1);
		if (ret == 0)
			ret = run_take(r);
		if (ret == 0)
			ret = write_states(r, 1);
		if (ret == 0 && i % 2)
			ret = run_go_back(r, i / 2);
		if (ret == 0 && i > 1)
			ret = run_forget(r, i - 2);
	}
	return ret == 0 ? run_read_state(r, 0, r->w->state_size) : ret;
}

/* It is in the way of the disk, or its place is another. */
static int resize_over_states(struct run *r)
{
	static const unsigned percent[] = {170, 60, 65, 180, 100};
	uint64_t start = r->w->size;
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(percent); i++) {
		ret = write_states(r, 2);
		if (ret == 0 && i % 2 == 0)
			ret = run_flush(r);
		if (ret == 0 && i == 2)
			ret = run_take(r);
		if (ret == 0)
			ret = run_resize(r, align_down(start / 100 * percent[i], 512));
		if (ret == 0)
			ret = run_read(r, 0, r->w->size);
	}
	return ret == 0 ? run_go_back(r, 0) : ret;
}

/* What isn't a bitmap's business is left out: nothing is asked of its success. */
static void change_bitmaps(struct run *r, unsigned i)
{
	static const char *const names[] = {"one", "two"};
	const char *name = names[i % 2];

	if (!r->image)
		return;
	switch (i % 5) {
	case 0:
		(void)qcow2_bitmap_add(r->image, name, 512, QCOW2_BITMAP_AUTO, NULL);
		break;
	case 1:
		(void)qcow2_bitmap_merge(r->image, name, r->image, WORLD_BITMAP, NULL);
		break;
	case 2:
		(void)qcow2_bitmap_disable(r->image, name, NULL);
		break;
	case 3:
		(void)qcow2_bitmap_clear(r->image, "one", NULL);
		break;
	default:
		(void)qcow2_bitmap_remove(r->image, name, NULL);
	}
}

/* Stored again and again, while others come and go. */
static int keep_bitmaps(struct run *r)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < 4; i++) {
		ret = scatter(r, 2, 3000, 9);
		change_bitmaps(r, i);
		if (ret == 0)
			ret = run_discard(r, world_cluster(r->w) * i, world_cluster(r->w) * 2);
		change_bitmaps(r, i + 1);
		if (ret == 0 && i % 2)
			ret = run_resize(r, align_down(r->w->size / 10 * (i == 1 ? 7 : 12), 512));
		if (ret == 0)
			ret = run_close(r);
		if (ret == 0)
			ret = run_open(r);
	}
	return ret;
}

static int anything(struct run *r)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < 120; i++)
		ret = random_step(r);
	return ret;
}

/* ---- several threads ---- */

#define TEAM 3u

struct team {
	struct run *r;
	_Atomic unsigned failures;
};

/* Of the first half of the disk each has every third sector, of the second every third cluster. */
static int step_of_one(struct run *r, unsigned me)
{
	uint64_t cs = world_cluster(r->w), half = r->w->size / 2 / cs;
	uint64_t cluster = half + rnd_below(&r->rng, half / TEAM) * TEAM + me;
	uint64_t sector = rnd_below(&r->rng, half * cs / 512 / TEAM) * TEAM + me;

	switch (rnd_below(&r->rng, 9)) {
	case 0:
		return run_flush(r);
	case 1:
		return run_discard(r, cluster * cs, cs);
	case 2:
		return run_zero(r, cluster * cs, cs, QCOW2_WRITE_MAY_UNMAP);
	case 3:
		return pack(r, cluster, 1);
	case 4:
	case 5:
		return run_write(r, cluster * cs + cs / 4, cs / 2, FILL_NOISE, 0);
	default:
		return run_write(r, sector * 512, 512, FILL_NOISE, 0);
	}
}

static void be_one_of_the_team(void *opaque, unsigned me)
{
	struct team *t = opaque;
	struct run r = *t->r;

	r.rng += me * 7919;
	r.tag += (uint64_t)(me + 1) << 40;
	for (unsigned i = 0; i < 40; i++) {
		if (step_of_one(&r, me) < 0)
			t->failures++;
	}
}

static int work_together(struct run *r)
{
	struct team t = {.r = r};

	work_team(TEAM, be_one_of_the_team, &t);
	return t.failures ? -1 : 0;
}

/* ---- chains ---- */

/* Some of it isn't durable yet when the commit begins. */
static int commit_all(struct run *r)
{
	int ret = scatter(r, 6, 3000, 4);

	if (ret == 0)
		ret = run_zero(r, 0, 2 * world_cluster(r->w), 0);
	return ret == 0 ? run_commit(r) : ret;
}

/*
 * The L1 table has moved, and data are where a new image has its tables. Not an L2 table, which
 * could become zeros without harm: so that one is there before, and what is below isn't so long
 * that it needs another to be hidden.
 */
static int grow_and_commit(struct run *r)
{
	int ret = run_write(r, 0, 512, FILL_NOISE, 0);

	if (ret == 0)
		ret = run_resize(r, r->w->max_size);
	if (ret == 0)
		ret = run_flush(r);
	for (unsigned i = 0; ret == 0 && i < 6; i++)
		ret = run_write(r, (8 + i) * K, 512, FILL_NOISE, 0);
	return ret == 0 ? run_commit(r) : ret;
}

static int flatten(struct run *r)
{
	int ret = scatter(r, 4, 3000, 3);

	return ret == 0 ? run_rebase(r, NULL, 0) : ret;
}

static int flatten_packed(struct run *r)
{
	return run_rebase(r, NULL, QCOW2_REBASE_COMPRESS);
}

/* Names of one file that end before, in and behind the header's first sector. */
static int change_name(struct run *r)
{
	static const size_t lengths[] = {40, 480, 60, 900, 30};
	char name[1024];
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(lengths); i++) {
		size_t len = strlen(r->w->base_path);

		snprintf(name, sizeof(name), "%s-%0*u", r->w->base_path, (int)lengths[i], i);
		name[len + lengths[i]] = '\0';
		flat_name(name, &r->w->base);
		if (!r->image)
			ret = run_open(r);
		if (ret == 0)
			ret = run_rebase(r, name, i % 2 ? QCOW2_REBASE_UNSAFE : 0);
	}
	return ret;
}

/* ---- before it is opened ---- */

/* An autoclear bit that nobody knows. */
static void set_autoclear(struct world *w)
{
	store_be64(w->file.bytes + 88, 1ull << 40);
}

/* A dirty image, whose refcounts mean nothing. */
static void set_dirty(struct world *w)
{
	uint64_t block = load_be64(w->file.bytes + load_be64(w->file.bytes + 48));

	w->file.bytes[79] |= 1;
	for (uint64_t i = 0; i < 64; i++)
		w->file.bytes[block + i] ^= 0x15;
}

/* What is in the header goes on behind its first sector: an extension that nobody knows. */
static void make_header_long(struct world *w)
{
	const uint32_t len = 600, shift = len + 8;
	uint8_t *b = w->file.bytes, *from = b + load_be32(b + 100);
	uint64_t name = load_be64(b + 8);

	memmove(from + shift, from, (size_t)(b + world_cluster(w) - from) - shift);
	store_be32(from, 0x6e6f6f6e);
	store_be32(from + 4, len);
	memset(from + 8, 0xee, len);
	if (name != 0)
		store_be64(b + 8, name + shift);
}

/* ---- the list ---- */

#define IMAGE(n, v, c, w, s, ...)                                                                  \
	{                                                                                          \
		.name = n, .version = v, .cluster_bits = c, .refcount_bits = w, .size = s,         \
		__VA_ARGS__                                                                        \
	}
#define TINY_CACHES .how = {.l2_cache_bytes = 1, .refcount_cache_bytes = 1}
#define OVER_RAW .backing = BACKING_RAW, .backing_size = 50 * K + 512
#define OVER_QCOW2 .backing = BACKING_QCOW2, .backing_size = 400 * K
#define SNAPSHOT .filled = true, .snapshots = true

/* long: a flat table */
const struct workload workloads[] = {
	{.config = {.name = "raw", .raw = true, .size = 100 * K}, .run = write_small},
	{IMAGE("fill-512", 3, 9, 16, 40 * K, .raw = false), .run = fill_in_order},
	{IMAGE("fill-4k", 3, 12, 16, 200 * K, .raw = false), .run = fill_in_order},
	{IMAGE("fill-64k", 3, 16, 16, M, .raw = false), .run = fill_in_order},
	{IMAGE("random-4k", 3, 12, 16, 400 * K, .raw = false), .run = fill_at_random},
	{IMAGE("random-64k", 3, 16, 16, 2 * M, .raw = false), .run = fill_at_random, .samples = 2},
	{IMAGE("random-v2", 2, 12, 16, 400 * K, .raw = false), .run = fill_at_random},
	{IMAGE("overwrite", 3, 12, 16, 200 * K, .filled = true), .run = write_small},
	{IMAGE("overwrite-durably", 3, 12, 16, 200 * K, .filled = true), .run = write_durably},
	{IMAGE("cow-snapshot", 3, 12, 16, 200 * K, SNAPSHOT), .run = write_small},
	{IMAGE("cow-snapshot-512", 3, 9, 8, 60 * K, SNAPSHOT), .run = write_small},
	{IMAGE("cow-backing", 3, 12, 16, 200 * K, OVER_RAW), .run = write_small},
	{IMAGE("cow-backing-64k", 3, 16, 16, 500 * K, OVER_QCOW2), .run = write_small,
	 .samples = 2},
	{IMAGE("cow-subclusters", 3, 14, 16, 400 * K, .extended = true, OVER_QCOW2),
	 .run = write_small},
	{IMAGE("discard", 3, 12, 16, 200 * K, .raw = false), .run = discard_and_reuse},
	{IMAGE("discard-512", 3, 9, 1, 40 * K, .raw = false), .run = discard_and_reuse},
	{IMAGE("discard-v2", 2, 12, 16, 200 * K, .raw = false), .run = discard_and_reuse},
	{IMAGE("discard-backing", 3, 12, 16, 200 * K, OVER_QCOW2), .run = discard_and_reuse},
	{IMAGE("discard-snapshot", 3, 12, 16, 200 * K, SNAPSHOT), .run = discard_and_reuse},
	{IMAGE("discard-kept", 3, 12, 16, 200 * K, .raw = false), .run = discard_and_reuse,
	 .how = {.discard = QCOW2_DISCARD_NO_UNREF}},
	{IMAGE("discard-kept-snapshot", 3, 12, 16, 60 * K, SNAPSHOT), .run = discard_and_reuse,
	 .samples = 1, .how = {.discard = QCOW2_DISCARD_NO_UNREF}},
	{IMAGE("zeros", 3, 12, 16, 200 * K, .filled = true), .run = write_zeros},
	{IMAGE("zeros-v2-backing", 2, 12, 16, 100 * K, OVER_RAW), .run = write_zeros},
	{IMAGE("zeros-subclusters", 3, 14, 16, 400 * K, .extended = true, OVER_RAW),
	 .run = write_zeros},
	{IMAGE("compressed", 3, 12, 16, 200 * K, .raw = false), .run = compress_and_overwrite},
	{IMAGE("compressed-512", 3, 9, 16, 40 * K, .raw = false), .run = compress_and_overwrite},
	{IMAGE("compressed-snapshot", 3, 12, 16, 200 * K, SNAPSHOT, .zstd = true),
	 .run = compress_and_overwrite},
	{IMAGE("grow-blocks-w64", 3, 9, 64, 200 * K, .raw = false), .run = fill_in_order,
	 .samples = 1},
	{IMAGE("grow-table-w64", 3, 9, 64, 2300 * K, .raw = false), .run = fill_quickly,
	 .samples = 1},
	{IMAGE("trim-blocks", 3, 9, 64, 120 * K, .raw = false), .run = empty_and_close},
	{IMAGE("grow-table-soon", 3, 9, 64, 1950 * K, .prealloc = QCOW2_PREALLOC_METADATA,
	       .max_size = 2250 * K),
	 .run = fill_what_is_added, .samples = 1},
	{IMAGE("grow-table-tiny", 3, 9, 64, 2300 * K, .raw = false), .run = fill_quickly,
	 .samples = 1, TINY_CACHES},
	{IMAGE("resize-512", 3, 9, 16, 1200 * K, .max_size = 3 * M), .run = resize_and_write},
	{IMAGE("resize-4k", 3, 12, 16, 300 * K, .raw = false), .run = resize_and_write},
	{IMAGE("resize-v2", 2, 12, 16, 300 * K, .raw = false), .run = resize_and_write},
	{IMAGE("resize-snapshot", 3, 12, 16, 200 * K, SNAPSHOT), .run = resize_and_write},
	{IMAGE("resize-backing", 3, 12, 16, 200 * K, OVER_QCOW2), .run = resize_and_write},
	/* whole tables come and go */
	{IMAGE("resize-512-snapshot", 3, 9, 16, 100 * K, SNAPSHOT), .run = resize_and_write,
	 .samples = 1},
	{IMAGE("resize-512-backing", 3, 9, 64, 100 * K, OVER_QCOW2), .run = resize_and_write,
	 .samples = 1},
	{IMAGE("resize-512-v2", 2, 9, 16, 100 * K, .raw = false), .run = resize_and_write,
	 .samples = 1},
	{IMAGE("resize-512-lazy", 3, 9, 16, 100 * K, .lazy = true), .run = resize_and_write,
	 .samples = 1},
	{IMAGE("grow-preallocated", 3, 9, 16, 100 * K, .raw = false), .run = grow_preallocated},
	{IMAGE("grow-preallocated-w64", 3, 9, 64, 100 * K, SNAPSHOT), .run = grow_preallocated,
	 .samples = 1},
	{IMAGE("grow-preallocated-lazy", 3, 9, 16, 100 * K, .lazy = true, OVER_QCOW2),
	 .run = grow_preallocated, .samples = 1},
	{IMAGE("grow-preallocated-tiny", 3, 9, 64, 100 * K, .raw = false), .run = grow_preallocated,
	 .samples = 1, TINY_CACHES},
	{IMAGE("grow-preallocated-subclusters", 3, 14, 16, 8 * M, .extended = true, OVER_RAW),
	 .run = grow_preallocated, .samples = 1},
	{IMAGE("grow-preallocated-data-file", 3, 9, 16, 100 * K, .data = DATA_FILE),
	 .run = grow_preallocated, .samples = 1},
	{IMAGE("lazy", 3, 12, 16, 200 * K, .lazy = true), .run = write_small},
	{IMAGE("lazy-discard", 3, 12, 16, 200 * K, .lazy = true), .run = discard_and_reuse},
	{IMAGE("lazy-512", 3, 9, 64, 100 * K, .lazy = true), .run = fill_in_order, .samples = 2},
	{IMAGE("lazy-snapshot", 3, 12, 16, 200 * K, .lazy = true, SNAPSHOT), .run = write_zeros},
	{IMAGE("autoclear", 3, 12, 16, 100 * K, .filled = true), .run = write_small,
	 .prepare = set_autoclear},
	{IMAGE("dirty", 3, 12, 16, 100 * K, .filled = true), .run = write_small,
	 .prepare = set_dirty},
	{IMAGE("evict-512", 3, 9, 16, 300 * K, .raw = false), .run = write_small, TINY_CACHES},
	{IMAGE("evict-w64", 3, 9, 64, 300 * K, SNAPSHOT), .run = write_small, TINY_CACHES},
	{IMAGE("evict-discard", 3, 9, 16, 300 * K, .raw = false), .run = discard_and_reuse,
	 TINY_CACHES},
	{IMAGE("reopen", 3, 12, 16, 200 * K, .raw = false), .run = reopen_often},
	{IMAGE("data-file", 3, 12, 16, 200 * K, .data = DATA_FILE), .run = write_small},
	{IMAGE("data-file-zeros", 3, 12, 16, 200 * K, .data = DATA_FILE, OVER_RAW),
	 .run = write_zeros},
	{IMAGE("data-file-raw", 3, 12, 16, 200 * K, .data = DATA_FILE_RAW), .run = write_zeros},
	{IMAGE("snapshots-512", 3, 9, 16, 40 * K, .filled = true), .run = keep_snapshots,
	 .samples = 1},
	{IMAGE("snapshots-4k", 3, 12, 16, 100 * K, .filled = true), .run = keep_snapshots},
	{IMAGE("snapshots-v2", 2, 12, 16, 100 * K, .filled = true), .run = keep_snapshots},
	{IMAGE("snapshots-w2", 3, 12, 2, 100 * K, .filled = true), .run = keep_snapshots,
	 .samples = 1},
	{IMAGE("snapshots-lazy", 3, 12, 16, 100 * K, .lazy = true), .run = keep_snapshots,
	 .samples = 1},
	{IMAGE("snapshots-subclusters", 3, 14, 16, 200 * K, .extended = true, OVER_RAW),
	 .run = keep_snapshots, .samples = 1},
	{IMAGE("snapshots-resize", 3, 9, 16, 60 * K, .filled = true), .run = keep_sizes,
	 .samples = 1},
	{IMAGE("state-512", 3, 9, 16, 40 * K, .filled = true), .run = keep_states, .samples = 1},
	{IMAGE("state-v2", 2, 12, 16, 60 * K, .filled = true), .run = keep_states, .samples = 1},
	{IMAGE("state-subclusters", 3, 14, 16, 60 * K, .extended = true), .run = keep_states,
	 .samples = 1},
	{IMAGE("state-resize", 3, 9, 16, 60 * K, .filled = true), .run = resize_over_states,
	 .samples = 1},
	{IMAGE("bitmaps-512", 3, 9, 16, 60 * K, .filled = true, .bitmap_bits = 9),
	 .run = keep_bitmaps, .samples = 1},
	{IMAGE("bitmaps-lazy", 3, 12, 16, 100 * K, .lazy = true, .bitmap_bits = 10, OVER_RAW),
	 .run = keep_bitmaps, .samples = 1},
	{IMAGE("bitmaps-data-file", 3, 12, 16, 100 * K, .data = DATA_FILE, .bitmap_bits = 12),
	 .run = keep_bitmaps, .samples = 1},
	{IMAGE("bitmaps-come", 3, 12, 16, 60 * K, OVER_QCOW2), .run = keep_bitmaps, .samples = 2},
	{IMAGE("bitmaps-long", 3, 12, 16, 60 * K, .bitmap_bits = 9), .run = keep_bitmaps,
	 .prepare = make_header_long, .samples = 2},
	{IMAGE("bitmaps-come-long", 3, 12, 16, 60 * K, .filled = true), .run = keep_bitmaps,
	 .prepare = make_header_long, .samples = 4},
	{IMAGE("bitmaps-write", 3, 12, 16, 100 * K, .bitmap_bits = 12, SNAPSHOT),
	 .run = write_zeros, .samples = 1},
	{IMAGE("bitmaps-resize", 3, 9, 16, 100 * K, .bitmap_bits = 9), .run = resize_and_write,
	 .samples = 1},
	{IMAGE("amend-version", 3, 12, 16, 100 * K, .raw = false), .run = amending_change_version,
	 .samples = 1},
	{IMAGE("amend-version-backing", 3, 12, 16, 100 * K, OVER_RAW),
	 .run = amending_change_version, .samples = 1},
	{IMAGE("amend-version-64k", 3, 16, 16, M, OVER_QCOW2), .run = amending_change_version,
	 .samples = 1},
	{IMAGE("amend-version-512", 3, 9, 16, 40 * K, .lazy = true), .run = amending_change_version,
	 .samples = 1},
	{IMAGE("amend-bitmaps", 3, 9, 16, 40 * K), .run = amending_drop_bitmaps, .samples = 1},
	{IMAGE("amend-version-long", 3, 12, 16, 40 * K, .filled = true), .samples = 1,
	 .run = amending_change_version, .prepare = make_header_long},
	{IMAGE("amend-data-file", 3, 12, 16, 40 * K, .data = DATA_FILE),
	 .run = amending_change_data_file, .samples = 4},
	{IMAGE("amend-width", 3, 12, 16, 100 * K, .filled = true), .run = amending_change_width},
	{IMAGE("amend-width-512", 3, 9, 16, 60 * K, SNAPSHOT), .run = amending_change_width,
	 .samples = 1},
	{IMAGE("amend-lazy", 3, 12, 16, 100 * K, .filled = true), .run = amending_change_laziness},
	{IMAGE("any-512", 3, 9, 16, 60 * K, .raw = false), .run = anything},
	{IMAGE("any-4k-snapshot", 3, 12, 16, 200 * K, SNAPSHOT), .run = anything},
	{IMAGE("any-subclusters", 3, 14, 16, 300 * K, .extended = true, OVER_RAW), .run = anything},
	{IMAGE("any-v2-backing", 2, 9, 16, 60 * K, OVER_RAW), .run = anything},
	{IMAGE("any-data-file", 3, 12, 16, 200 * K, .data = DATA_FILE), .run = anything},
	{IMAGE("threads", 3, 12, 16, 200 * K, .raw = false), .threads = true, .run = work_together,
	 .samples = 2},
	{IMAGE("threads-512", 3, 9, 64, 60 * K, .raw = false), .threads = true,
	 .run = work_together, .samples = 2},
	{IMAGE("threads-snapshot", 3, 12, 16, 200 * K, SNAPSHOT), .threads = true,
	 .run = work_together, .samples = 2},
	{IMAGE("threads-tiny", 3, 9, 16, 200 * K, OVER_RAW), .threads = true, .run = work_together,
	 .samples = 2, TINY_CACHES},
	{IMAGE("threads-bitmaps", 3, 12, 16, 200 * K, .bitmap_bits = 9), .threads = true,
	 .run = work_together, .samples = 1},
	{IMAGE("threads-lazy", 3, 12, 16, 200 * K, .lazy = true), .threads = true,
	 .run = work_together, .samples = 2},
	{IMAGE("any-lazy", 3, 10, 4, 100 * K, .lazy = true), .run = anything},
	{IMAGE("commit", 3, 12, 16, 100 * K, OVER_QCOW2, .filled = true), .run = commit_all},
	{IMAGE("commit-512", 3, 9, 8, 40 * K, OVER_RAW, .filled = true), .run = commit_all},
	{IMAGE("commit-larger", 3, 12, 16, 500 * K, OVER_QCOW2, .filled = true), .run = commit_all,
	 .samples = 1},
	{IMAGE("commit-snapshot", 3, 12, 16, 60 * K, OVER_QCOW2, SNAPSHOT), .run = commit_all},
	{IMAGE("commit-grown", 3, 9, 16, 30 * K, OVER_RAW, .max_size = 2050 * K),
	 .run = grow_and_commit, .samples = 1},
	{IMAGE("commit-moved", 3, 9, 16, 30 * K, .backing = BACKING_RAW, .backing_size = 20 * K,
	       .max_size = 1000 * K),
	 .run = grow_and_commit},
	{IMAGE("commit-v2", 2, 12, 16, 60 * K, OVER_RAW, .filled = true), .run = commit_all},
	{IMAGE("commit-lazy", 3, 12, 16, 60 * K, OVER_QCOW2, .lazy = true), .run = commit_all,
	 .samples = 1},
	{IMAGE("commit-subclusters", 3, 14, 16, 100 * K, OVER_QCOW2, .extended = true),
	 .run = commit_all, .samples = 1},
	{IMAGE("commit-data-file", 3, 12, 16, 60 * K, OVER_QCOW2, .data = DATA_FILE),
	 .run = commit_all, .samples = 1},
	{IMAGE("flatten", 3, 12, 16, 100 * K, OVER_QCOW2, .filled = true), .run = flatten},
	{IMAGE("flatten-subclusters", 3, 14, 16, 100 * K, OVER_RAW, .extended = true),
	 .run = flatten, .samples = 1},
	{IMAGE("flatten-packed", 3, 12, 16, 100 * K, OVER_QCOW2, .raw = false),
	 .run = flatten_packed, .samples = 1},
	{IMAGE("rename", 3, 12, 16, 20 * K, OVER_RAW), .run = change_name},
	{IMAGE("rename-long", 3, 12, 16, 20 * K, OVER_RAW), .run = change_name,
	 .prepare = make_header_long, .samples = 4},
	{IMAGE("rename-512", 2, 9, 16, 20 * K, OVER_RAW), .run = flatten},
};
const unsigned nworkloads = ARRAY_LEN(workloads);
