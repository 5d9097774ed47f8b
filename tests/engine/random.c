/* SPDX-License-Identifier: MIT */
/* Random requests, in any order that the public header allows: see run.h. */
#include <stdlib.h>

#include "base/num.h"
#include "engine/run.h"

#define LONGEST (300 * 1024u)

struct world_how random_how(const struct world_config *c, uint64_t *rng)
{
	static const size_t caches[] = {1, 4096, 16384, 0, 0};
	struct world_how how = {
		.lazy = (unsigned)rnd_below(rng, 3),
		.pass_discard = (unsigned)rnd_below(rng, 3),
		.l2_cache_bytes = caches[rnd_below(rng, ARRAY_LEN(caches))],
		.refcount_cache_bytes = caches[rnd_below(rng, ARRAY_LEN(caches))],
	};

	if (rnd_below(rng, 2))
		how.discard = (unsigned)rnd_below(rng, 3);
	/* version 2 has no zeros that keep their place */
	if (how.discard == QCOW2_DISCARD_NO_UNREF && c->version == 2)
		how.discard = QCOW2_DISCARD_UNMAP;
	if (rnd_below(rng, 20) == 0)
		how.flags |= QCOW2_OPEN_WRITETHROUGH;
	/* to a store in memory it says only that a read of tables costs much */
	if (rnd_below(rng, 2) == 0)
		how.flags |= QCOW2_OPEN_DIRECT;
	return how;
}

/* Any range, or one of whole sectors or clusters; most are short. */
static void pick(struct run *r, uint64_t *off, uint64_t *len)
{
	uint64_t size = r->w->size, cs = world_cluster(r->w);
	uint64_t grain = (const uint64_t[]){1, 512, 4096, cs, cs}[rnd_below(&r->rng, 5)];
	uint64_t most = min_u64(max_u64(4 * cs, 8192), LONGEST);

	*off = align_down(rnd_below(&r->rng, size), grain);
	*len = rnd_below(&r->rng, most >> rnd_below(&r->rng, 8)) + 1;
	if (rnd_below(&r->rng, 40) == 0)
		*len = 0;
	*len = min_u64(align_up(*len, grain), size - *off);
}

static int write_compressed(struct run *r, uint64_t off, uint64_t len)
{
	uint64_t cs = world_cluster(r->w), size = r->w->size;

	if (r->w->c.raw || r->w->c.data != DATA_INSIDE)
		return run_write(r, off, len, FILL_TEXT, 0);
	off = align_down(off, cs);
	len = min_u64(align_up(len + !len, cs), size - off);
	return run_write(r, off, len, rnd_below(&r->rng, 5) ? FILL_TEXT : FILL_NOISE,
			 QCOW2_WRITE_COMPRESSED);
}

static int resize(struct run *r)
{
	uint64_t size = r->w->size;

	r->prealloc = r->w->c.raw ? QCOW2_PREALLOC_OFF : (unsigned)rnd_below(&r->rng, 4);
	if (rnd_below(&r->rng, 4) == 0)
		size = rnd_below(&r->rng, r->w->max_size / 512) * 512 + 512;
	else
		size += (rnd_below(&r->rng, 9) - 4) * 512;
	return run_resize(r, size == 0 || size > r->w->max_size ? r->w->max_size : size);
}

static int reopen(struct run *r)
{
	if (run_close(r) < 0)
		return -1;
	r->how = random_how(&r->w->c, &r->rng);
	return run_open(r);
}

/* A few are alive at any time. */
static int keep_snapshots(struct run *r)
{
	struct history *h = r->history;
	size_t idx, alive = 0;

	if (!h)
		return 0;
	for (size_t i = 0; i < h->nshots; i++)
		alive += h->shots[i].gone_start == SIZE_MAX;
	idx = h->nshots ? rnd_below(&r->rng, h->nshots) : 0;
	for (size_t i = 0; alive && h->shots[idx].gone_start != SIZE_MAX && i < h->nshots; i++)
		idx = (idx + 1) % h->nshots;
	if (alive == 0 || (alive < 4 && rnd_below(&r->rng, 2)))
		return run_take(r);
	return rnd_below(&r->rng, 2) ? run_go_back(r, idx) : run_forget(r, idx);
}

static int touch_state(struct run *r)
{
	uint64_t size = r->w->state_size, off, len;

	if (size == 0)
		return run_flush(r);
	off = rnd_below(&r->rng, size);
	len = min_u64(rnd_below(&r->rng, 6000 >> rnd_below(&r->rng, 5)) + 1, size - off);
	return rnd_below(&r->rng, 3) ? run_write_state(r, off, len) : run_read_state(r, off, len);
}

int random_step(struct run *r)
{
	unsigned kind = (unsigned)rnd_below(&r->rng, 1000);
	uint64_t off, len;

	pick(r, &off, &len);
	if (kind < 380)
		return run_write(r, off, len, (enum fill)rnd_below(&r->rng, FILLS),
				 kind < 10 ? QCOW2_WRITE_FUA : 0);
	if (kind < 620)
		return run_read(r, off, len);
	if (kind < 740)
		return run_zero(r, off, len,
				(unsigned)rnd_below(&r->rng, 4) * QCOW2_WRITE_MAY_UNMAP);
	if (kind < 860)
		return run_discard(r, off, len);
	if (kind < 940)
		return write_compressed(r, off, len);
	if (kind < 970)
		return kind % 2 ? run_flush(r) : touch_state(r);
	if (kind < 980)
		return keep_snapshots(r);
	return kind < 990 ? resize(r) : reopen(r);
}
