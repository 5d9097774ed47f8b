/* SPDX-License-Identifier: MIT */
/* The parts of the program `crash`: see crash.c. */
#ifndef TESTS_CRASH_CRASH_H
#define TESTS_CRASH_CRASH_H

#include "engine/workload.h"

struct crash_options {
	uint64_t seed;
	unsigned samples; /* 0: as the workload says */
	bool has_cut;
	size_t cut;	      /* only that one */
	const char *save_dir; /* where the first bad state is saved; or NULL */
};

struct crash_counts {
	uint64_t cuts, states, images; /* states that differ; images that differ */
	uint64_t repaired, leaking;
};

/* Records the workload and looks at what every crash leaves. 0, or -1 with complaints. */
int crash_run(const struct workload *load, const struct crash_options *o,
	      struct crash_counts *counts);

#endif
