/* SPDX-License-Identifier: MIT */
/* The parts of the program `model`: see model.c. */
#ifndef TESTS_MODEL_MODEL_H
#define TESTS_MODEL_MODEL_H

#include "engine/run.h"

/* One kind of image. */
struct model_case {
	struct world_config config;
	unsigned ops; /* when it isn't said how many */
};

extern const struct model_case model_cases[];
extern const unsigned model_ncases;

/* nops random requests by one thread. 0, or -1 with a complaint. */
int model_alone(struct world *w, uint64_t seed, uint64_t nops);

/* The same by nthreads threads, each of which has parts of the disk for itself. */
int model_together(struct world *w, uint64_t seed, uint64_t nops, unsigned nthreads);

#endif
