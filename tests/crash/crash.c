/* SPDX-License-Identifier: MIT */
/*
 * Power cuts. Workloads are recorded, the record is cut at every write and barrier, and what the
 * disk may hold then is opened again: see replay.c for the states, history.c for what may be in
 * them.
 *
 *   crash [--seed N] [--samples N] [--workload NAME]... [--part I/N] [--cut N] [--save DIR]
 * [--list]
 *
 * With no --workload all of them; --part takes the I-th of N shares, so that several processes can
 * do it together. Prints TAP and how many states there were.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/num.h"
#include "crash/crash.h"

#define ALARM 300 /* a workload that takes that long hangs */

struct options {
	struct crash_options o;
	const char *names[64];
	unsigned nnames, part, parts;
};

static int usage(void)
{
	fprintf(stderr, "usage: crash [--seed N] [--samples N] [--workload NAME]... [--part I/N] "
			"[--cut N] [--save DIR] [--list]\n");
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
		o->o.seed = strtoull(value, NULL, 0);
	else if (strcmp(name, "--samples") == 0)
		o->o.samples = (unsigned)strtoul(value, NULL, 0);
	else if (strcmp(name, "--workload") == 0 && o->nnames < ARRAY_LEN(o->names))
		o->names[o->nnames++] = value;
	else if (strcmp(name, "--part") == 0)
		return sscanf(value, "%u/%u", &o->part, &o->parts) == 2 && o->parts > 0;
	else if (strcmp(name, "--save") == 0)
		o->o.save_dir = value;
	else if (strcmp(name, "--cut") == 0) {
		o->o.has_cut = true;
		o->o.cut = strtoull(value, NULL, 0);
	} else
		return false;
	return true;
}

static bool is_wanted(const struct options *o, unsigned idx)
{
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
	struct options o = {.o.seed = seed ? strtoull(seed, NULL, 0) : 1};
	struct crash_counts sum = {0};
	unsigned done = 0, bad = 0;

	for (int i = 1; i < argc; i += 2) {
		if (strcmp(argv[i], "--list") == 0)
			return list();
		if (i + 1 == argc || !take(&o, argv[i], argv[i + 1]))
			return usage();
	}
	for (unsigned i = 0; i < nworkloads; i++) {
		uint64_t before = sum.states;
		bool good;

		if (!is_wanted(&o, i))
			continue;
		alarm(ALARM);
		good = crash_run(&workloads[i], &o.o, &sum) == 0;
		alarm(0);
		bad += !good;
		printf("%sok %u - %s, %" PRIu64 " states\n", good ? "" : "not ", ++done,
		       workloads[i].config.name, sum.states - before);
		fflush(stdout);
	}
	printf("1..%u\n", done);
	printf("# %" PRIu64 " crash states after %" PRIu64 " cuts, %" PRIu64
	       " different images; %" PRIu64 " had leaks, %" PRIu64 " were repaired\n",
	       sum.states, sum.cuts, sum.images, sum.leaking, sum.repaired);
	return bad || !done ? 1 : 0;
}
