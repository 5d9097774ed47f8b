/* SPDX-License-Identifier: MIT */
/*
 * Threads: a team on one job, and a pool for many small ones. The only place that creates them.
 */
#ifndef BASE_WORK_H
#define BASE_WORK_H

#include <stdbool.h>

/* Processors that this process may use, at least 1. */
unsigned work_cpus(void);

/*
 * Runs fn(opaque, i) for i from 0 to n - 1, each in a thread of its own, 0 in the calling one, and
 * returns when all have. Where fewer threads can be had fewer calls are made, but always that of 0:
 * the work has to be such that any number of them finishes it.
 */
void work_team(unsigned n, void (*fn)(void *opaque, unsigned i), void *opaque);

/* One piece of work; it lies in what it is about. */
struct work_job {
	void (*run)(struct work_job *job); /* may free the job */
	struct work_job *next;		   /* the pool's */
};

struct work_pool;

/* NULL: no memory. Threads are made when the first job needs them. */
struct work_pool *work_pool_new(unsigned nthreads) __attribute__((warn_unused_result));
/* Every job has been taken, dropped or run. NULL is allowed. */
void work_pool_free(struct work_pool *pool);
/*
 * Jobs are begun in their order. wake: by a thread of the pool, if there can be any; without it one
 * may wait until somebody takes it, or another is put with wake.
 */
void work_pool_put(struct work_pool *pool, struct work_job *job, bool wake);
/* Has those that wait begun by threads of the pool. */
void work_pool_wake(struct work_pool *pool);
/* Takes the first job that nobody has begun, to be run by the caller; NULL: there is none. */
struct work_job *work_pool_take(struct work_pool *pool);
/* Takes that one back. false: it has begun, or is done. */
bool work_pool_drop(struct work_pool *pool, struct work_job *job);

#endif
