/* SPDX-License-Identifier: MIT */
/* Named series of requests, for harnesses that break something in the middle of them. */
#ifndef TESTS_ENGINE_WORKLOAD_H
#define TESTS_ENGINE_WORKLOAD_H

#include "engine/run.h"

struct workload {
	struct world_config config;
	struct world_how how;
	/* Requests to the open image; closes it too, if it likes. */
	int (*run)(struct run *r);
	/* Changes the image before it is opened; or NULL. */
	void (*prepare)(struct world *w);
	bool threads;	  /* not the same in every run */
	unsigned samples; /* random states at each cut; 0: as many as usual */
};

/* In amending.c: both ways between the versions, refcounts of all widths, lazy refcounts. */
int amending_change_version(struct run *r);
int amending_drop_bitmaps(struct run *r);
int amending_change_width(struct run *r);
int amending_change_laziness(struct run *r);
/* The data file gets other names, of all lengths. */
int amending_change_data_file(struct run *r);

extern const struct workload workloads[];
extern const unsigned nworkloads;

#endif
