/* SPDX-License-Identifier: MIT */
/* A team of threads on one job. The only place that creates threads. */
#ifndef BASE_WORK_H
#define BASE_WORK_H

/* Processors that this process may use, at least 1. */
unsigned work_cpus(void);

/*
 * Runs fn(opaque, i) for i from 0 to n - 1, each in a thread of its own, 0 in the calling one, and
 * returns when all have. Where fewer threads can be had fewer calls are made, but always that of 0:
 * the work has to be such that any number of them finishes it.
 */
void work_team(unsigned n, void (*fn)(void *opaque, unsigned i), void *opaque);

#endif
