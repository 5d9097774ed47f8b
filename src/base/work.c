/* SPDX-License-Identifier: MIT */
/* Threads come from here; they block all signals, which belong to the program's own threads. */
#include "base/work.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>

#include "base/alloc.h"
#include "base/num.h"

#define TEAM_MAX 64

struct member {
	void (*fn)(void *opaque, unsigned i);
	void *opaque;
	unsigned i;
	pthread_t thread;
};

unsigned work_cpus(void)
{
	cpu_set_t set;
	int n;

	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return 1;
	n = CPU_COUNT(&set);
	return n > 0 ? (unsigned)n : 1;
}

static void *run_member(void *p)
{
	struct member *m = p;

	m->fn(m->opaque, m->i);
	return NULL;
}

void work_team(unsigned n, void (*fn)(void *opaque, unsigned i), void *opaque)
{
	struct member members[TEAM_MAX];
	sigset_t all, old;
	unsigned started = 1;

	n = (unsigned)min_u64(n, TEAM_MAX);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (; started < n; started++) {
		struct member *m = &members[started];

		*m = (struct member){.fn = fn, .opaque = opaque, .i = started};
		if (pthread_create(&m->thread, NULL, run_member, m) != 0)
			break;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	fn(opaque, 0);
	for (unsigned i = 1; i < started; i++)
		pthread_join(members[i].thread, NULL);
}

/* ---- a pool -------------------------------------------------------------------------------- */

struct work_pool {
	unsigned max; /* immutable: threads */
	pthread_mutex_t lock;
	pthread_cond_t more;
	/* guarded by lock */
	struct work_job *first, **end;
	unsigned njobs;	  /* in the list */
	unsigned nwanted; /* of those, from the first on, that a thread of the pool is to begin */
	bool stopping;
	unsigned nthreads, nidle;
	pthread_t threads[TEAM_MAX];
};

struct work_pool *work_pool_new(unsigned nthreads)
{
	struct work_pool *pool = mem_zalloc(1, sizeof(*pool));

	if (!pool)
		return NULL;
	pool->max = (unsigned)min_u64(nthreads, TEAM_MAX);
	pool->end = &pool->first;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->more, NULL);
	return pool;
}

void work_pool_free(struct work_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->stopping = true;
	pthread_cond_broadcast(&pool->more);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->nthreads; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->more);
	pthread_mutex_destroy(&pool->lock);
	mem_free(pool);
}

static struct work_job *take_locked(struct work_pool *pool)
{
	struct work_job *job = pool->first;

	if (!job)
		return NULL;
	pool->first = job->next;
	if (!pool->first)
		pool->end = &pool->first;
	pool->njobs--;
	pool->nwanted -= pool->nwanted > 0;
	return job;
}

static void *run_pool(void *p)
{
	struct work_pool *pool = p;
	struct work_job *job;

	pthread_mutex_lock(&pool->lock);
	while (!pool->stopping) {
		job = pool->nwanted > 0 ? take_locked(pool) : NULL;
		if (!job) {
			pool->nidle++;
			pthread_cond_wait(&pool->more, &pool->lock);
			pool->nidle--;
			continue;
		}
		pthread_mutex_unlock(&pool->lock);
		job->run(job);
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

static void add_thread_locked(struct work_pool *pool)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&pool->threads[pool->nthreads], NULL, run_pool, pool) == 0)
		pool->nthreads++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void wake_locked(struct work_pool *pool)
{
	pool->nwanted = pool->njobs; /* what came before the last one is begun before it */
	if (pool->nidle > 0)
		pthread_cond_signal(&pool->more);
	else if (pool->nthreads < pool->max)
		add_thread_locked(pool);
}

void work_pool_put(struct work_pool *pool, struct work_job *job, bool wake)
{
	pthread_mutex_lock(&pool->lock);
	job->next = NULL;
	*pool->end = job;
	pool->end = &job->next;
	pool->njobs++;
	if (wake)
		wake_locked(pool);
	pthread_mutex_unlock(&pool->lock);
}

void work_pool_wake(struct work_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	if (pool->njobs > 0)
		wake_locked(pool);
	pthread_mutex_unlock(&pool->lock);
}

struct work_job *work_pool_take(struct work_pool *pool)
{
	struct work_job *job;

	pthread_mutex_lock(&pool->lock);
	job = take_locked(pool);
	pthread_mutex_unlock(&pool->lock);
	return job;
}

bool work_pool_drop(struct work_pool *pool, struct work_job *job)
{
	struct work_job **at;
	bool found;

	pthread_mutex_lock(&pool->lock);
	for (at = &pool->first; *at && *at != job; at = &(*at)->next)
		;
	found = *at != NULL;
	if (found) {
		*at = job->next;
		if (!job->next)
			pool->end = at;
		pool->njobs--;
		pool->nwanted = (unsigned)min_u64(pool->nwanted, pool->njobs);
	}
	pthread_mutex_unlock(&pool->lock);
	return found;
}
