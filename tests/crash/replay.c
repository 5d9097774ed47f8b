/* SPDX-License-Identifier: MIT */
/*
 * The tape of a workload is cut after every entry. What stands before the last barrier of its file
 * is there for good; of what came later anything may have reached the disk: nothing, all of it, any
 * subset, writes torn between sectors. Each such state is put together in the stores (and taken
 * back afterwards), audited, opened, read, and used.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/num.h"
#include "crash/crash.h"

#define SECTOR 512u
#define EVERY_SUBSET 4	 /* of that many operations all subsets are tried */
#define SAMPLES 2	 /* of each kind, at each cut */
#define USE_EVERY 4	 /* one of so many states is written to */
#define MAX_COMPLAINTS 3 /* then a workload is given up */

struct seen {
	uint64_t *slots;
	size_t count, size;
};

struct replay {
	const struct crash_options *o;
	struct world *w;
	struct tape *tape;
	struct expected x;
	size_t *pending; /* entries since the last barrier of their file */
	uint8_t *keep;	 /* of each of them: 0 dropped, 1 there, 2 torn */
	size_t npending, cut;
	struct seen states, images;
	struct crash_counts *counts;
	uint8_t *disk;
	uint64_t start_hash, autoclear; /* of the image file, and the bits in it, at the start */
	uint64_t rng, tear_seed;
	unsigned complaints;
};

/* true if it is new */
static bool see(struct seen *s, uint64_t key)
{
	struct seen old = *s;
	size_t i;

	if (key == 0)
		key = 1;
	if (s->count * 2 >= s->size) {
		*s = (struct seen){.size = old.size ? old.size * 2 : 1024};
		s->slots = calloc(s->size, sizeof(*s->slots));
		assert(s->slots);
		for (i = 0; i < old.size; i++) {
			if (old.slots[i])
				see(s, old.slots[i]);
		}
		free(old.slots);
	}
	for (i = key % s->size; s->slots[i]; i = (i + 1) % s->size) {
		if (s->slots[i] == key)
			return false;
	}
	s->slots[i] = key;
	s->count++;
	return true;
}

static struct flat *flat_of(struct replay *p, const struct tape_entry *e)
{
	if (e->file == p->w->base.id)
		return &p->w->base;
	return e->file == p->w->data.id ? &p->w->data : &p->w->file;
}

/* ---- one state ---- */

static void describe(struct replay *p, const char *what)
{
	static const char *const names[] = {"read",  "write",	 "zero",     "discard",
					    "flush", "truncate", "allocate", "extent"};

	complain("%s: cut %zu of %zu, %zu pending; --seed %" PRIu64 " --workload %s --cut %zu",
		 what, p->cut, p->tape->count, p->npending, p->o->seed, p->w->c.name, p->cut);
	for (size_t i = 0; i < p->npending && i < 24; i++) {
		const struct tape_entry *e = &p->tape->entries[p->pending[i]];

		complain("    %5zu %-8s %s 0x%" PRIx64 " + 0x%" PRIx64 ": %s", p->pending[i],
			 names[e->op],
			 e->file == 2	? "data file"
			 : e->file == 3 ? "backing file"
					: "image",
			 e->host_off, e->len_bytes,
			 p->keep[i] == 0   ? "dropped"
			 : p->keep[i] == 1 ? "there"
					   : "torn");
	}
	if (p->o->save_dir && p->complaints == 0) {
		char path[300];

		snprintf(path, sizeof(path), "%s/%s-%zu.qcow2", p->o->save_dir, p->w->c.name,
			 p->cut);
		flat_save(&p->w->file, path);
		complain("    saved as %s", path);
	}
	p->complaints++;
}

static int audit_state(struct replay *p, const char *when, bool *dirty)
{
	struct audit a;
	int ret = world_audit(p->w, when, &a);

	*dirty = a.dirty;
	p->counts->leaking += a.leaks > 0;
	return ret;
}

static int read_state(struct replay *p, struct qcow2_image *image)
{
	uint64_t size = qcow2_size(image);

	if (size > p->x.max_size)
		return complain("the disk has 0x%" PRIx64 " bytes", size);
	if (expected_read(p->w, image, p->disk) < 0)
		return -1;
	return expected_check(&p->x, p->disk, size, "after the crash");
}

/* The image goes on working. */
static int use_state(struct replay *p, struct qcow2_image *image)
{
	struct qcow2_error err = {0};
	uint64_t size = qcow2_size(image), off = rnd_below(&p->rng, size);
	uint64_t len = min_u64(rnd_below(&p->rng, 20000) + 1, size - off);
	uint8_t *buf = malloc(len);
	int ret;

	fill_bytes(p->disk + off, off, len, 99, FILL_NOISE);
	ret = qcow2_pwrite(image, p->disk + off, len, off, 0, &err);
	if (ret == 0)
		ret = qcow2_pread(image, buf, len, off, &err);
	if (ret == 0)
		ret = qcow2_finish(image, &err);
	if (ret < 0)
		complain("using it after the crash: %s", err.message);
	else if (memcmp(buf, p->disk + off, len) != 0)
		ret = complain("what was written after the crash reads differently");
	free(buf);
	return ret;
}

#define AUTOCLEAR 88u /* place of the field in the header */

/* While an autoclear bit that nobody keeps true stands, nothing else may have changed. */
static int check_autoclear(struct replay *p)
{
	const struct flat *f = &p->w->file;

	if (p->autoclear == 0 || (load_be64(f->bytes + AUTOCLEAR) & ~1ull) != p->autoclear ||
	    f->hash == p->start_hash)
		return 0;
	return complain("the image was changed while an unknown autoclear bit stood");
}

static int open_state(struct replay *p, bool new_image)
{
	struct qcow2_error err = {0};
	struct qcow2_image *image;
	struct world_how how = {0};
	bool dirty, still = false;
	int ret = audit_state(p, "as the crash left it", &dirty);

	if (ret < 0 || check_autoclear(p) < 0)
		return -1;
	p->counts->repaired += dirty;
	if (world_open(p->w, &image, &how, NULL, &err) < 0)
		return complain("doesn't open after the crash: %s", err.message);
	ret = read_state(p, image);
	if (ret == 0)
		ret = world_check_bitmap(p->w, image, p->disk, false, "after the crash");
	if (ret == 0)
		ret = run_check_shots(p->x.h, p->w, p->cut, "after the crash");
	if (ret == 0 && dirty)
		ret = audit_state(p, "opened and repaired", &still);
	if (ret == 0 && still)
		ret = complain("still dirty after it was opened for writing");
	if (ret == 0 && new_image && rnd_below(&p->rng, USE_EVERY) == 0)
		ret = use_state(p, image);
	qcow2_close(image);
	return ret < 0 ? -1 : audit_state(p, "closed again", &dirty);
}

static void apply_torn(struct replay *p, const struct tape_entry *e, uint64_t *seed)
{
	uint64_t first = SECTOR - e->host_off % SECTOR, at = 0, sector = 0;
	uint64_t n = (e->len_bytes + e->host_off % SECTOR + SECTOR - 1) / SECTOR;
	uint64_t edge = rnd_below(seed, n + 1);
	unsigned how = (unsigned)rnd_below(seed, 3); /* the front, the end, any of it */

	while (at < e->len_bytes) {
		uint64_t to = min_u64(sector == 0 ? first : at + SECTOR, e->len_bytes);
		bool there = how == 0	? sector < edge
			     : how == 1 ? sector >= edge
					: rnd_below(seed, 2) == 0;

		if (there)
			flat_apply(flat_of(p, e), e, at, to);
		at = to;
		sector++;
	}
}

/* Puts the state together that keep says, looks at it, takes it back. */
static void examine(struct replay *p)
{
	uint64_t seed = p->tear_seed = rnd(&p->rng), key;
	struct world *w = p->w;

	if (p->complaints >= MAX_COMPLAINTS)
		return;
	flat_mark(&w->file);
	flat_mark(&w->data);
	flat_mark(&w->base);
	for (size_t i = 0; i < p->npending; i++) {
		const struct tape_entry *e = &p->tape->entries[p->pending[i]];

		if (p->keep[i] == 1)
			flat_apply(flat_of(p, e), e, 0, e->len_bytes);
		else if (p->keep[i] == 2)
			apply_torn(p, e, &seed);
	}
	key = w->file.hash ^ w->data.hash * 31 ^ w->base.hash * 37;
	if (see(&p->states, key ^ p->x.version * 0x9e3779b97f4a7c15ull)) {
		bool new_image = see(&p->images, key);

		p->counts->states++;
		p->counts->images += new_image;
		if (open_state(p, new_image) < 0)
			describe(p, "a bad state");
	}
	flat_undo(&w->base);
	flat_undo(&w->data);
	flat_undo(&w->file);
}

/* ---- all states at one cut ---- */

static void keep_all(struct replay *p, uint8_t how)
{
	memset(p->keep, how, p->npending + 1);
}

static uint8_t any_way(struct replay *p)
{
	return (uint8_t)(const uint8_t[]){0, 0, 1, 1, 2}[rnd_below(&p->rng, 5)];
}

static void examine_cut(struct replay *p, unsigned samples)
{
	size_t n = p->npending;

	keep_all(p, 1);
	examine(p);
	keep_all(p, 0);
	examine(p);
	for (size_t bits = 1; n <= EVERY_SUBSET && bits < (1u << n) - 1; bits++) {
		for (size_t i = 0; i < n; i++)
			p->keep[i] = bits >> i & 1;
		examine(p);
	}
	for (unsigned s = 0; n > 0 && s < samples; s++) {
		keep_all(p, 1);
		p->keep[n - 1] = 2; /* what was on its way */
		examine(p);
		keep_all(p, 1);
		p->keep[rnd_below(&p->rng, n)] = s % 2 * 2;
		examine(p);
		keep_all(p, 0);
		p->keep[rnd_below(&p->rng, n)] = 1;
		examine(p);
		for (size_t i = 0; i < n; i++)
			p->keep[i] = any_way(p);
		examine(p);
	}
}

/* One more entry is behind us. */
static void advance(struct replay *p)
{
	const struct tape_entry *e = &p->tape->entries[p->cut];
	size_t left = 0;

	if (e->op != STORAGE_OP_FLUSH)
		p->pending[p->npending++] = p->cut;
	if (e->op != STORAGE_OP_FLUSH || !e->done)
		return;
	for (size_t i = 0; i < p->npending; i++) {
		const struct tape_entry *old = &p->tape->entries[p->pending[i]];

		if (old->file == e->file && p->pending[i] < e->began)
			flat_apply(flat_of(p, old), old, 0, old->len_bytes);
		else
			p->pending[left++] = p->pending[i];
	}
	p->npending = left;
}

static int replay(struct replay *p, unsigned samples)
{
	flat_hash(&p->w->file);
	flat_hash(&p->w->data);
	flat_hash(&p->w->base);
	p->start_hash = p->w->file.hash;
	if (!p->w->c.raw && p->w->c.version == 3 && p->w->c.data == DATA_INSIDE)
		p->autoclear = load_be64(p->w->file.bytes + AUTOCLEAR) & ~1ull; /* bitmaps */
	for (p->cut = 0; p->complaints < MAX_COMPLAINTS; p->cut++) {
		expected_advance(&p->x, p->cut);
		/* the same states whichever cuts are looked at */
		p->rng = p->o->seed * 1000003 + p->cut;
		if (!p->o->has_cut || p->o->cut == p->cut)
			examine_cut(p, samples);
		p->counts->cuts++;
		if (p->cut == p->tape->count)
			break;
		advance(p);
	}
	return p->complaints ? -1 : 0;
}

/* ---- recording ---- */

static int record(const struct workload *load, struct world *w, struct history *h, uint64_t seed)
{
	struct run r = {.w = w, .how = load->how, .rng = seed, .tag = seed << 20, .history = h};
	int ret = run_open(&r);

	if (ret == 0)
		ret = load->run(&r);
	if (ret == 0 && r.image)
		ret = world_compare(w, r.image, "while it was recorded");
	if (r.image && ret == 0)
		ret = run_close(&r);
	else if (r.image)
		qcow2_close(r.image);
	return ret < 0 ? complain("recording %s failed", load->config.name) : 0;
}

static unsigned samples_of(const struct workload *load, const struct crash_options *o)
{
	if (o->samples)
		return o->samples;
	return load->samples ? load->samples : SAMPLES;
}

static void release_replay(struct replay *p)
{
	free(p->pending);
	free(p->keep);
	free(p->disk);
	free(p->states.slots);
	free(p->images.slots);
	expected_release(&p->x);
}

/* The stores are as they were when the tape began, and nothing is written down any more. */
static int rewind_and_replay(struct replay *p, unsigned samples)
{
	size_t n = p->tape->count + 1;
	int ret;

	p->pending = calloc(n, sizeof(*p->pending));
	p->keep = calloc(n, 1);
	p->disk = malloc(p->w->total + 1);
	assert(p->pending && p->keep && p->disk);
	ret = replay(p, samples);
	release_replay(p);
	return ret;
}

static int record_and_replay(const struct workload *load, struct world *w,
			     const struct crash_options *o, struct crash_counts *counts)
{
	struct replay p = {.o = o, .w = w, .counts = counts};
	struct flat file_before, data_before, base_before;
	struct history h;
	struct tape tape;
	int ret;

	tape_init(&tape);
	history_init(&h, &tape, 4096);
	flat_init(&file_before, 1);
	flat_init(&data_before, 2);
	flat_init(&base_before, 3);
	flat_copy(&file_before, &w->file);
	flat_copy(&data_before, &w->data);
	flat_copy(&base_before, &w->base);
	w->file.tape = w->data.tape = w->base.tape = p.tape = &tape;
	expected_init(&p.x, &h, w, w->bytes, w->size);
	ret = record(load, w, &h, o->seed);
	w->file.tape = w->data.tape = w->base.tape = NULL;
	flat_copy(&w->file, &file_before);
	flat_copy(&w->data, &data_before);
	flat_copy(&w->base, &base_before);
	if (ret == 0)
		ret = rewind_and_replay(&p, samples_of(load, o));
	else
		release_replay(&p);
	history_release(&h);
	tape_release(&tape);
	flat_release(&file_before);
	flat_release(&data_before);
	flat_release(&base_before);
	return ret;
}

int crash_run(const struct workload *load, const struct crash_options *o,
	      struct crash_counts *counts)
{
	struct world w;
	int ret = world_make(&w, &load->config, o->seed);

	if (ret == 0 && load->prepare)
		load->prepare(&w);
	if (ret == 0)
		ret = record_and_replay(load, &w, o, counts);
	world_release(&w);
	return ret;
}
