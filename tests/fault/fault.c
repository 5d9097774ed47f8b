/* SPDX-License-Identifier: MIT */
/*
 * The N-th read, write, flush, zero, discard, truncate or allocation of a workload fails, once or
 * from then on, for every N until the workload runs through without meeting it. Each time:
 *
 * - what fails says so by a negative errno and a sentence, and hits nothing but its own range;
 * - after a fault that happened once requests work again; but after a failed flush every change is
 *   refused, and after a failed write to the header it may be; reads go on;
 * - the file, when the fault is gone, is sound but for leaks, and everything flushed is there.
 *
 *   fault [--seed N] [--most N] [--step N] [--workload NAME]... [--part I/N]
 *         [--kind NAME] [--nth N] [--list]
 *
 * --most: requests of each workload. --step: behind the first few, only every N-th place, others
 * with the next kind of fault; QCOW2_TEST_LONG in the environment makes it 1. --kind and --nth
 * repeat one run. Prints TAP.
 */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/num.h"
#include "engine/bulk.h"
#include "engine/workload.h"

#define ALARM 120 /* seconds for one workload and kind of fault: then it hangs */
#define MOST 16
#define FIRST 8 /* places of a fault that are never left out */
#define ALLOCATION STORAGE_OP_COUNT

/* ---- the fault ---- */

struct kind {
	const char *name;
	enum storage_op op; /* or ALLOCATION */
	bool forever;
	int code;
	bool torn; /* half of a write is done */
};

static const struct kind kinds[] = {
	{"read", STORAGE_OP_READ, false, -EIO, false},
	{"reads", STORAGE_OP_READ, true, -EIO, false},
	{"write", STORAGE_OP_WRITE, false, -EIO, false},
	{"torn-write", STORAGE_OP_WRITE, false, -ENOSPC, true},
	{"writes", STORAGE_OP_WRITE, true, -ENOSPC, true},
	{"flush", STORAGE_OP_FLUSH, false, -EIO, false},
	{"flushes", STORAGE_OP_FLUSH, true, -EIO, false},
	{"zero", STORAGE_OP_ZERO, false, -EIO, false},
	{"zeros", STORAGE_OP_ZERO, true, -ENOSPC, false},
	{"discard", STORAGE_OP_DISCARD, false, -EIO, false},
	{"discards", STORAGE_OP_DISCARD, true, -EIO, false},
	{"truncate", STORAGE_OP_TRUNCATE, false, -EIO, false},
	{"truncates", STORAGE_OP_TRUNCATE, true, -ENOSPC, false},
	{"allocation", ALLOCATION, false, -ENOMEM, false},
	{"allocations", ALLOCATION, true, -ENOMEM, false},
};

static struct {
	const struct kind *kind;
	uint64_t nth, seen, hits;
	unsigned opens; /* at the last hit */
	bool header;	/* a write to the header was hit: nobody knows where it points to now */
	const struct run *run;
} fault;

static char now[200]; /* for the alarm */

static bool strikes(unsigned op)
{
	uint64_t n;

	if (!fault.kind || fault.kind->op != op)
		return false;
	n = fault.seen++;
	if (n < fault.nth || (n > fault.nth && !fault.kind->forever))
		return false;
	fault.hits++;
	fault.opens = fault.run->opens;
	return true;
}

static int fail_store(enum storage_op op, uint64_t host_off, uint64_t len_bytes,
		      uint64_t *short_bytes)
{
	if (!strikes(op))
		return 0;
	fault.header |= op == STORAGE_OP_WRITE && host_off < 512;
	if (fault.kind->torn)
		*short_bytes = len_bytes / 1024 * 512;
	return fault.kind->code;
}

static bool fail_allocation(size_t size)
{
	(void)size;
	return !strikes(ALLOCATION);
}

static void arm(const struct kind *kind, uint64_t nth, const struct run *r)
{
	fault.kind = kind;
	fault.nth = nth;
	fault.seen = fault.hits = 0;
	fault.header = false;
	fault.opens = 0;
	fault.run = r;
	flat_fault = fail_store;
	mem_fault_hook = fail_allocation;
}

static void disarm(void)
{
	flat_fault = NULL;
	mem_fault_hook = NULL;
	fault.kind = NULL;
}

static void on_alarm(int sig)
{
	ssize_t n = write(STDOUT_FILENO, now, strlen(now));

	(void)sig;
	_exit(n >= 0 ? 3 : 4);
}

/* ---- one run ---- */

struct trial {
	const struct workload *load;
	struct world *w;
	const struct flat *file, *data, *base; /* at the start */
	const uint8_t *bytes;
	uint64_t size, seed, most;
	struct run r;
	struct history h;
};

static void start_over(struct trial *t)
{
	flat_copy(&t->w->file, t->file);
	flat_copy(&t->w->data, t->data);
	if (t->w->base_changes)
		flat_copy(&t->w->base, t->base);
	memcpy(t->w->bytes, t->bytes, t->w->total);
	t->w->size = t->size;
}

enum probe { PROBE_READ, PROBE_WRITE, PROBE_FLUSH };

static int request(struct run *r, enum probe what)
{
	if (what == PROBE_READ)
		return run_read(r, 0, r->w->size);
	return what == PROBE_WRITE ? run_write(r, r->w->size / 2, 600, FILL_NOISE, 0)
				   : run_flush(r);
}

/* The reason is the fault's own. */
static bool says_why(const struct run *r)
{
	const char *why = strstr(r->err.message, "the image can't be changed any more: ");

	return why && strstr(why, strerror(-fault.kind->code));
}

/* One request more, after the fault: must it fail, mustn't it, or may it? */
static int probe(struct trial *t, enum probe what)
{
	static const char *const names[] = {"reading", "writing", "flushing"};
	bool met = fault.hits > 0 && fault.opens == t->r.opens;
	bool barrier = met && fault.kind->op == STORAGE_OP_FLUSH;
	uint64_t before = t->r.failures, hits = fault.hits;
	bool failed;

	if (request(&t->r, what) < 0)
		return -1;
	failed = t->r.failures > before;
	if (barrier && what != PROBE_READ && !failed)
		return complain("%s works after a barrier failed", names[what]);
	/* counts that can't be read can't be put back either */
	if (failed && fault.kind->forever && what != PROBE_READ && says_why(&t->r))
		return 0;
	if (failed && fault.hits == hits && ((!barrier && !fault.header) || what == PROBE_READ))
		return complain("%s doesn't work though nothing failed just now: %s", names[what],
				t->r.err.message);
	return 0;
}

/* The open image after all requests, with the fault still there if it is one for ever. */
static int look_at_open_image(struct trial *t)
{
	bool once = !fault.kind->forever && fault.kind->op != STORAGE_OP_FLUSH;
	int ret = 0;

	if (once && t->r.given_up && !fault.header && t->r.failures > 1 && !says_why(&t->r))
		return complain("it isn't said why there are no changes any more: %s",
				t->r.err.message);
	if (once && !fault.header && !t->r.given_up && t->r.failures > 1)
		return complain("one fault made %" PRIu64 " requests fail", t->r.failures);
	t->r.most = 0;
	for (int what = PROBE_READ; ret == 0 && t->r.image && what <= PROBE_FLUSH; what++)
		ret = probe(t, (enum probe)what);
	return ret;
}

static int compare_finished(const struct trial *t, const uint8_t *disk, uint64_t from, uint64_t to)
{
	const uint8_t *want = t->w->bytes;

	if (memcmp(disk + from, want + from, to - from) == 0)
		return 0;
	for (uint64_t i = from; i < to; i++) {
		if (disk[i] != want[i] && !t->r.loose[i])
			return complain("0x%02x instead of 0x%02x at guest offset 0x%" PRIx64
					" though it was finished",
					disk[i], want[i], i);
	}
	return 0;
}

/* Everything that succeeded is there, if closing did: else what was flushed. */
static int check_content(struct trial *t, struct qcow2_image *image)
{
	uint64_t size = qcow2_size(image);
	struct expected x;
	uint8_t *disk;
	int ret;

	expected_init(&x, &t->h, t->w, t->bytes, t->size);
	expected_advance(&x, SIZE_MAX);
	if (size > t->w->max_size)
		size = t->w->max_size;
	disk = bulk_alloc(t->w->total);
	ret = expected_read(t->w, image, disk);
	if (ret == 0)
		ret = expected_check(&x, disk, size, "the file afterwards");
	if (ret == 0)
		ret = world_check_bitmap(t->w, image, disk, false, "the file afterwards");
	if (ret == 0 && !t->r.unfinished)
		ret = compare_finished(t, disk, 0, t->w->size);
	if (ret == 0 && !t->r.unfinished)
		ret = compare_finished(t, disk, t->w->max_size, t->w->total);
	bulk_free(disk);
	expected_release(&x);
	return ret;
}

static int look_at_file(struct trial *t)
{
	struct world_how how = {0};
	struct qcow2_image *image;
	struct qcow2_error err = {0};
	struct audit a;
	int ret = world_audit(t->w, "the file afterwards", &a);

	if (ret < 0)
		return -1;
	if (world_open(t->w, &image, &how, NULL, &err) < 0)
		return complain("doesn't open afterwards: %s", err.message);
	ret = check_content(t, image);
	qcow2_close(image);
	if (ret == 0)
		ret = run_check_shots(&t->h, t->w, SIZE_MAX, "the file afterwards");
	return ret < 0 ? ret : world_audit(t->w, "opened and closed again", &a);
}

/* hit: whether the workload met the fault */
static int run_once(struct trial *t, const struct kind *kind, uint64_t nth, bool *hit)
{
	int ret;

	start_over(t);
	history_init(&t->h, NULL, t->most ? 3 * t->most + 64 : 4096);
	t->r = (struct run){.w = t->w, .how = t->load->how, .rng = t->seed, .most = t->most};
	t->r.tag = t->seed << 20;
	t->r.history = &t->h;
	t->r.loose = bulk_zeroed(t->w->total);
	arm(kind, nth, &t->r);
	ret = run_open(&t->r);
	if (ret == 0)
		ret = t->load->run(&t->r);
	if (ret == 0)
		ret = look_at_open_image(t);
	*hit = fault.hits > 0;
	if (t->r.image && ret == 0)
		ret = run_close(&t->r);
	*hit |= fault.hits > 0;
	disarm();
	if (t->r.image)
		qcow2_close(t->r.image);
	if (ret == 0)
		ret = look_at_file(t);
	bulk_free(t->r.loose);
	history_release(&t->h);
	return ret;
}

/* ---- all of them ---- */

struct options {
	uint64_t seed, most, step, nth;
	bool has_nth;
	const char *kind, *names[64];
	unsigned nnames, part, parts;
};

static uint64_t nruns;

static bool is_left_out(const struct options *o, const struct kind *kind, uint64_t nth)
{
	return !o->has_nth && nth >= FIRST && (nth + (uint64_t)(kind - kinds)) % o->step != 0;
}

static int sweep(struct trial *t, const struct kind *kind, const struct options *o)
{
	bool hit = true;

	for (uint64_t nth = o->nth; hit; nth++) {
		if (is_left_out(o, kind, nth))
			continue;
		snprintf(now, sizeof(now),
			 "# hangs: fault --seed %" PRIu64 " --most %" PRIu64
			 " --workload %s --kind %s --nth %" PRIu64 "\n",
			 o->seed, o->most, t->load->config.name, kind->name, nth);
		alarm(ALARM);
		nruns++;
		if (run_once(t, kind, nth, &hit) < 0) {
			complain("%s", now + strlen("# hangs: "));
			return -1;
		}
		if (o->has_nth)
			break;
	}
	return 0;
}

static bool run_workload(const struct workload *load, const struct options *o)
{
	struct flat file, data, base;
	struct world w;
	struct trial t = {.load = load, .w = &w, .seed = o->seed, .most = o->most};
	int ret = world_make(&w, &load->config, o->seed);
	uint8_t *bytes = malloc(w.total + 1);

	flat_init(&file, 1);
	flat_init(&data, 2);
	flat_init(&base, 3);
	if (ret == 0 && load->prepare)
		load->prepare(&w);
	if (ret == 0) {
		flat_copy(&file, &w.file);
		flat_copy(&data, &w.data);
		flat_copy(&base, &w.base);
		memcpy(bytes, w.bytes, w.total);
		t.file = &file;
		t.data = &data;
		t.base = &base;
		t.bytes = bytes;
		t.size = w.size;
	}
	for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(kinds); i++) {
		if (!o->kind || strcmp(o->kind, kinds[i].name) == 0)
			ret = sweep(&t, &kinds[i], o);
	}
	alarm(0);
	free(bytes);
	flat_release(&file);
	flat_release(&data);
	flat_release(&base);
	world_release(&w);
	return ret == 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: fault [--seed N] [--most N] [--workload NAME]... [--part I/N] "
			"[--step N] [--kind NAME] [--nth N] [--list]\n");
	return 2;
}

static int list(void)
{
	for (unsigned i = 0; i < nworkloads; i++)
		printf("%s\n", workloads[i].config.name);
	return 0;
}

static bool take(struct options *o, const char *name, const char *value)
{
	if (strcmp(name, "--seed") == 0)
		o->seed = strtoull(value, NULL, 0);
	else if (strcmp(name, "--most") == 0)
		o->most = strtoull(value, NULL, 0);
	else if (strcmp(name, "--step") == 0)
		return (o->step = strtoull(value, NULL, 0)) > 0;
	else if (strcmp(name, "--workload") == 0 && o->nnames < ARRAY_LEN(o->names))
		o->names[o->nnames++] = value;
	else if (strcmp(name, "--part") == 0)
		return sscanf(value, "%u/%u", &o->part, &o->parts) == 2 && o->parts > 0;
	else if (strcmp(name, "--kind") == 0)
		o->kind = value;
	else if (strcmp(name, "--nth") == 0) {
		o->has_nth = true;
		o->nth = strtoull(value, NULL, 0);
	} else
		return false;
	return true;
}

static bool is_wanted(const struct options *o, unsigned idx)
{
	/* the n-th operation has to be the same one each time */
	if (workloads[idx].threads)
		return false;
	if (o->parts > 0 && idx % o->parts != o->part % o->parts)
		return false;
	for (unsigned i = 0; i < o->nnames; i++) {
		if (strcmp(o->names[i], workloads[idx].config.name) == 0)
			return true;
	}
	return o->nnames == 0;
}

int main(int argc, char **argv)
{
	const char *seed = getenv("QCOW2_TEST_SEED");
	struct options o = {.seed = seed ? strtoull(seed, NULL, 0) : 1, .most = MOST, .step = 1};
	unsigned done = 0, bad = 0;

	for (int i = 1; i < argc; i += 2) {
		if (strcmp(argv[i], "--list") == 0)
			return list();
		if (i + 1 == argc || !take(&o, argv[i], argv[i + 1]))
			return usage();
	}
	if (getenv("QCOW2_TEST_LONG"))
		o.step = 1;
	signal(SIGALRM, on_alarm);
	/* what one run gave back the next one wants again: not by way of the kernel */
	mallopt(M_MMAP_THRESHOLD, 1 << 28);
	mallopt(M_TRIM_THRESHOLD, 1 << 28);
	for (unsigned i = 0; i < nworkloads; i++) {
		uint64_t before = nruns;
		bool good;

		if (!is_wanted(&o, i))
			continue;
		good = run_workload(&workloads[i], &o);
		bad += !good;
		printf("%sok %u - %s, %" PRIu64 " faults\n", good ? "" : "not ", ++done,
		       workloads[i].config.name, nruns - before);
		fflush(stdout);
	}
	printf("1..%u\n# %" PRIu64 " faults\n", done, nruns);
	return bad || !done ? 1 : 0;
}
