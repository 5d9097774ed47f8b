/* SPDX-License-Identifier: MIT */
/*
 * Random requests by many threads at once. Every sector of the disk belongs to one thread, in runs
 * from one sector to a few clusters: so threads meet in the same clusters and tables all the time,
 * and yet what each of them has to find is known. Beside them one thread makes the disk longer and
 * shorter behind the part that belongs to somebody, and takes snapshots and deletes them. All read
 * where they please. One more writes VM state, further and further away: always the same byte in a
 * place, so that whether a resize has dropped it or not, what it finds is that byte or 0.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/num.h"
#include "base/work.h"
#include "model/model.h"

#define SECTOR 512u
#define LONGEST 256u /* sectors */
#define ROUNDS 3
#define THREADS_MAX 32u
#define STATE_TAG 0x5747u

struct team {
	struct world *w;
	struct qcow2_image *image;
	struct world_how how;
	uint64_t seed, ops; /* of each thread, in one round */
	unsigned nthreads;
	uint64_t nsectors; /* that belong to somebody */
	uint64_t end_size; /* what the thread that resizes left */
	bool has_snapshot; /* which the same thread takes and deletes */
	uint8_t *owner;
	_Atomic unsigned failures;
};

static void share_out(struct team *t)
{
	uint64_t cs = max_u64(world_cluster(t->w) / SECTOR, 1);
	const uint64_t runs[] = {1, 3, max_u64(cs / 4, 1), cs, 4 * cs};
	uint64_t seed = t->seed, left = 0, zone = 0, zone_run = 1;
	uint8_t who = 0;

	for (uint64_t s = 0; s < t->nsectors; s++, left--) {
		if (zone == 0) {
			zone = 8 * cs;
			zone_run = runs[rnd_below(&seed, ARRAY_LEN(runs))];
			left = 0;
		}
		if (left == 0) {
			left = zone_run;
			who = (uint8_t)rnd_below(&seed, t->nthreads);
		}
		t->owner[s] = who;
		zone--;
	}
}

/* A range of the thread's own: no bytes if there is none near. */
static void pick_own(const struct team *t, struct run *r, uint8_t me, uint64_t *off, uint64_t *len)
{
	uint64_t s = rnd_below(&r->rng, t->nsectors), end;
	uint64_t most = (LONGEST >> rnd_below(&r->rng, 9)) + 1;

	while (s < t->nsectors && t->owner[s] != me)
		s++;
	while (s > 0 && s < t->nsectors && rnd_below(&r->rng, 2) && t->owner[s - 1] == me)
		s--;
	end = s;
	while (end < t->nsectors && end - s < most && t->owner[end] == me)
		end++;
	*off = s * SECTOR;
	*len = (end - s) * SECTOR;
	if (*len > 0 && rnd_below(&r->rng, 3) == 0) {
		uint64_t cut = rnd_below(&r->rng, SECTOR);

		*off += cut;
		*len -= cut + rnd_below(&r->rng, SECTOR - cut);
	}
}

static int compress_own(struct run *r, uint64_t off, uint64_t len)
{
	uint64_t cs = world_cluster(r->w), from = align_up(off, cs);
	uint64_t to = align_down(off + len, cs);

	if (r->w->c.raw || r->w->c.data != DATA_INSIDE || from >= to)
		return run_write(r, off, len, FILL_TEXT, 0);
	return run_write(r, from, to - from, FILL_TEXT, QCOW2_WRITE_COMPRESSED);
}

/* Somebody else's too: whatever it is, it can be read. */
static int read_anything(const struct team *t, struct run *r)
{
	static _Thread_local uint8_t buf[64 * 1024];
	uint64_t off = rnd_below(&r->rng, t->nsectors * SECTOR);
	uint64_t len = min_u64(rnd_below(&r->rng, sizeof(buf)), t->nsectors * SECTOR - off);

	if (qcow2_pread(t->image, buf, len, off, &r->err) == 0)
		return 0;
	return complain("reading what others write: %s", r->err.message);
}

static int step(const struct team *t, struct run *r, uint8_t me)
{
	unsigned kind = (unsigned)rnd_below(&r->rng, 100);
	uint64_t off, len;

	pick_own(t, r, me, &off, &len);
	if (kind < 40)
		return run_write(r, off, len, (enum fill)rnd_below(&r->rng, FILLS), 0);
	if (kind < 60)
		return run_read(r, off, len);
	if (kind < 65)
		return read_anything(t, r);
	if (kind < 77)
		return run_zero(r, off, len,
				(unsigned)rnd_below(&r->rng, 4) * QCOW2_WRITE_MAY_UNMAP);
	if (kind < 90)
		return run_discard(r, off, len);
	return kind < 98 ? compress_own(r, off, len) : run_flush(r);
}

static void resize_step(struct team *t, uint64_t *rng)
{
	uint64_t least = t->w->size, most = t->w->max_size;
	uint64_t size = least + rnd_below(rng, (most - least) / SECTOR + 1) * SECTOR;
	struct qcow2_error err = {0};
	int ret;

	/* what is added counts as changed */
	world_touch(t->w, min_u64(size, t->end_size),
		    max_u64(size, t->end_size) - min_u64(size, t->end_size));
	ret = qcow2_resize(t->image, size, QCOW2_PREALLOC_OFF, QCOW2_RESIZE_SHRINK, &err);
	if (ret == 0) {
		t->end_size = size;
	} else if (ret != -ENOTSUP || t->w->c.version != 2) {
		complain("resizing beside others: %s", err.message);
		atomic_fetch_add(&t->failures, 1);
	}
}

/* Takes a snapshot of whatever there is just now, or deletes the one that was taken. */
static void snapshot_step(struct team *t)
{
	struct qcow2_error err = {0};
	int ret;

	if (t->w->c.raw || t->w->c.data != DATA_INSIDE)
		return;
	if (t->has_snapshot)
		ret = qcow2_snapshot_delete(t->image, "beside", 0, &err);
	else
		ret = qcow2_snapshot_create(t->image, "beside", NULL, &err);
	if (ret == 0) {
		t->has_snapshot = !t->has_snapshot;
	} else if (ret != -ERANGE || t->w->c.refcount_bits > 4) {
		complain("a snapshot beside others: %s", err.message);
		atomic_fetch_add(&t->failures, 1);
	}
}

/* ---- VM state ---- */

static int check_state(const uint8_t *buf, uint64_t pos, uint64_t len)
{
	uint8_t *want = malloc(len + 1);
	int ret = 0;

	fill_bytes(want, pos, len, STATE_TAG, FILL_NOISE);
	for (uint64_t i = 0; ret == 0 && i < len; i++) {
		if (buf[i] != 0 && buf[i] != want[i])
			ret = complain("0x%02x at 0x%llx of the VM state was never written there",
				       buf[i], (unsigned long long)(pos + i));
	}
	free(want);
	return ret;
}

/* n: of the step; tables are made, and the L1 table grows, again and again. */
static int state_step(const struct team *t, uint64_t *rng, uint64_t n)
{
	static _Thread_local uint8_t buf[20000];
	uint64_t pos = rnd_below(rng, 3) ? rnd_below(rng, sizeof(buf)) : n / 8 * world_span(t->w);
	uint64_t len = rnd_below(rng, sizeof(buf)) + 1;
	struct qcow2_error err = {0};
	int ret;

	if (rnd_below(rng, 2)) {
		fill_bytes(buf, pos, len, STATE_TAG, FILL_NOISE);
		ret = qcow2_vmstate_write(t->image, buf, len, pos, &err);
	} else {
		ret = qcow2_vmstate_read(t->image, buf, len, pos, &err);
		if (ret == 0)
			return check_state(buf, pos, len);
	}
	return ret == 0 ? 0 : complain("VM state: %s", err.message);
}

/* Whatever there is now is what has to be there after this. */
static int adopt_state(struct team *t)
{
	struct qcow2_error err = {0};
	struct world *w = t->w;

	if (world_state_read(w, t->image, w->bytes + w->max_size, 0, w->state_size, &err) < 0)
		return complain("VM state after a round: %s", err.message);
	return 0;
}

/* Calls 0 to nthreads - 1 are those of the owners. */
static void work(void *opaque, unsigned i)
{
	struct team *t = opaque;
	struct run r = {.w = t->w, .image = t->image, .how = t->how};

	r.rng = t->seed * 977 + i;
	r.tag = (t->seed << 28) + ((uint64_t)i << 20);
	for (uint64_t n = 0; n < t->ops && atomic_load(&t->failures) == 0; n++) {
		if (i > t->nthreads) {
			if (t->w->state_size > 0 && state_step(t, &r.rng, n) < 0)
				atomic_fetch_add(&t->failures, 1);
		} else if (i == t->nthreads) {
			if (n % 16 == 0 && !t->w->c.raw)
				resize_step(t, &r.rng);
			else if (n % 16 == 8)
				snapshot_step(t);
			else if (read_anything(t, &r) < 0)
				atomic_fetch_add(&t->failures, 1);
		} else if (step(t, &r, (uint8_t)i) < 0) {
			complain("that was request %llu of thread %u", (unsigned long long)n, i);
			atomic_fetch_add(&t->failures, 1);
		}
	}
}

static int one_round(struct team *t)
{
	struct world *w = t->w;
	struct run r = {.w = w, .how = t->how};
	int ret = run_open(&r);

	if (ret < 0)
		return -1;
	t->image = r.image;
	t->end_size = w->size;
	t->nsectors = align_down(w->size, world_cluster(w)) / SECTOR;
	share_out(t);
	work_team(t->nthreads + 2, work, t);
	if (t->has_snapshot)
		snapshot_step(t);
	w->size = t->end_size;
	if (t->failures > 0 || adopt_state(t) < 0 ||
	    world_compare(w, r.image, "after a round") < 0) {
		qcow2_close(r.image);
		return -1;
	}
	return run_close(&r);
}

int model_together(struct world *w, uint64_t seed, uint64_t nops, unsigned nthreads)
{
	struct team t = {
		.w = w, .seed = seed, .nthreads = (unsigned)min_u64(nthreads, THREADS_MAX)};
	uint64_t rng = seed;
	int ret = 0;

	t.owner = malloc(w->max_size / SECTOR + 1);
	if (!t.owner)
		return -1;
	for (unsigned i = 0; ret == 0 && i < ROUNDS; i++) {
		t.how = random_how(&w->c, &rng);
		t.seed = rnd(&rng) >> 8;
		t.ops = div_ceil(nops, (uint64_t)(t.nthreads + 1) * ROUNDS);
		w->file.garbage = w->data.garbage = i % 2;
		ret = one_round(&t);
	}
	free(t.owner);
	return ret < 0 ? -1 : 0;
}
