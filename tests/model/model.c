/* SPDX-License-Identifier: MIT */
/*
 * Random requests to images of every kind, held against a flat reference of the disk: through our
 * own reader, after opening it again, by an audit of the image's structure, and by the real
 * qemu-img (check must find nothing at all, compare no difference).
 *
 *   model [--seed N] [--ops N] [--threads N] [--case NAME]... [--list]
 *
 * With no --case all kinds. --ops is for each of them. --threads 1 (the default) makes requests one
 * after the other; more make them at once. Prints TAP, and for what failed the command that repeats
 * it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/num.h"
#include "model/model.h"

#define ALARM 600 /* a case that takes that long hangs */

struct options {
	uint64_t seed, ops;
	unsigned threads;
	const char *cases[64];
	unsigned ncases;
};

static uint64_t total_ops;

static int usage(void)
{
	fprintf(stderr,
		"usage: model [--seed N] [--ops N] [--threads N] [--case NAME]... [--list]\n");
	return 2;
}

static int list(void)
{
	for (unsigned i = 0; i < model_ncases; i++)
		printf("%s\n", model_cases[i].config.name);
	return 0;
}

static bool take(struct options *o, const char *name, const char *value)
{
	if (strcmp(name, "--seed") == 0)
		o->seed = strtoull(value, NULL, 0);
	else if (strcmp(name, "--ops") == 0)
		o->ops = strtoull(value, NULL, 0);
	else if (strcmp(name, "--threads") == 0)
		o->threads = (unsigned)strtoul(value, NULL, 0);
	else if (strcmp(name, "--case") == 0 && o->ncases < ARRAY_LEN(o->cases))
		o->cases[o->ncases++] = value;
	else
		return false;
	return true;
}

/* An exit code, or -1: go on. */
static int parse(struct options *o, int argc, char **argv)
{
	for (int i = 1; i < argc; i += 2) {
		if (strcmp(argv[i], "--list") == 0)
			return list();
		if (i + 1 == argc || !take(o, argv[i], argv[i + 1]))
			return usage();
	}
	return -1;
}

static bool is_wanted(const struct options *o, const char *name)
{
	for (unsigned i = 0; i < o->ncases; i++) {
		if (strcmp(o->cases[i], name) == 0)
			return true;
	}
	return o->ncases == 0;
}

static bool run_case(const struct options *o, const struct model_case *c)
{
	uint64_t ops = o->ops ? o->ops : c->ops;
	struct world w;
	int ret;

	alarm(ALARM);
	ret = world_make(&w, &c->config, o->seed);
	if (ret == 0 && o->threads > 1)
		ret = model_together(&w, o->seed, ops, o->threads);
	else if (ret == 0)
		ret = model_alone(&w, o->seed, ops);
	if (ret == 0)
		ret = world_judge(&w, "afterwards");
	world_release(&w);
	alarm(0);
	total_ops += ops;
	if (ret == 0)
		return true;
	printf("# to repeat: model --seed %" PRIu64 " --ops %" PRIu64 " --threads %u --case %s\n",
	       o->seed, ops, o->threads, c->config.name);
	return false;
}

int main(int argc, char **argv)
{
	const char *seed = getenv("QCOW2_TEST_SEED");
	struct options o = {.seed = seed ? strtoull(seed, NULL, 0) : 1, .threads = 1};
	unsigned done = 0, bad = 0;
	int code = parse(&o, argc, argv);

	if (code >= 0)
		return code;
	for (unsigned i = 0; i < model_ncases; i++) {
		const char *name = model_cases[i].config.name;
		bool good;

		if (!is_wanted(&o, name))
			continue;
		good = run_case(&o, &model_cases[i]);
		bad += !good;
		printf("%sok %u - %s\n", good ? "" : "not ", ++done, name);
		fflush(stdout);
	}
	printf("1..%u\n# %" PRIu64 " requests with seed %" PRIu64 "\n", done, total_ops, o.seed);
	return bad || !done ? 1 : 0;
}
