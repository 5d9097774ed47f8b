/* SPDX-License-Identifier: MIT */
/*
 * Unit u is prepared in slot u % nslots, as soon as the unit that was there before it has been
 * taken. The lock is held for a look at numbers only.
 */
#include "check/pipe.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/work.h"

#define THREADS_MAX 8u
#define SLOTS_PER_THREAD 3u
#define SLOTS_MAX (THREADS_MAX * SLOTS_PER_THREAD)
#define UNITS_FEW 4 /* so few aren't worth a thread */

struct slot {
	bool made; /* guarded by lock */
	int ret;   /* whoever makes the unit; who takes it, once it is made */
	uint8_t *memory;
	struct qcow2_error err;
};

struct pipe {
	/* immutable */
	const struct check_pipe_job *job;
	unsigned nslots;
	struct qcow2_error *err;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t made, taken;
	uint64_t next;	 /* unit that nobody makes yet */
	uint64_t ntaken; /* so many have been taken */
	bool ended;
	/* the caller's */
	int ret;

	struct slot slots[SLOTS_MAX];
};

static bool can_make_locked(const struct pipe *p)
{
	return p->next < p->job->nunits && p->next < p->ntaken + p->nslots;
}

/* Makes the next unit; the lock is released meanwhile. */
static void make_locked(struct pipe *p)
{
	uint64_t unit = p->next++;
	struct slot *s = &p->slots[unit % p->nslots];

	pthread_mutex_unlock(&p->lock);
	s->ret = p->job->make(p->job->opaque, unit, s->memory, &s->err);
	pthread_mutex_lock(&p->lock);
	s->made = true;
	if (unit == p->ntaken)
		pthread_cond_signal(&p->made);
}

static void help(struct pipe *p)
{
	pthread_mutex_lock(&p->lock);
	while (!p->ended && p->next < p->job->nunits) {
		if (can_make_locked(p))
			make_locked(p);
		else
			pthread_cond_wait(&p->taken, &p->lock);
	}
	pthread_mutex_unlock(&p->lock);
}

static struct slot *await(struct pipe *p, uint64_t unit)
{
	struct slot *s = &p->slots[unit % p->nslots];

	pthread_mutex_lock(&p->lock);
	while (!s->made) {
		if (can_make_locked(p))
			make_locked(p);
		else
			pthread_cond_wait(&p->made, &p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	return s;
}

static void take_all(struct pipe *p)
{
	for (uint64_t unit = 0; p->ret == 0 && unit < p->job->nunits; unit++) {
		struct slot *s = await(p, unit);

		p->ret = s->ret;
		if (p->ret == 0)
			p->ret = p->job->take(p->job->opaque, unit, s->memory, p->err);
		else if (p->err)
			*p->err = s->err;
		pthread_mutex_lock(&p->lock);
		s->made = false;
		p->ntaken++;
		pthread_cond_signal(&p->taken);
		pthread_mutex_unlock(&p->lock);
	}
	pthread_mutex_lock(&p->lock);
	p->ended = true;
	pthread_cond_broadcast(&p->taken);
	pthread_mutex_unlock(&p->lock);
}

static void work(void *opaque, unsigned i)
{
	if (i == 0)
		take_all(opaque);
	else
		help(opaque);
}

int check_pipe_run(const struct check_pipe_job *job, unsigned nthreads, struct qcow2_error *err)
{
	struct pipe *p = mem_zalloc(1, sizeof(*p));
	unsigned n = nthreads ? nthreads : work_cpus();
	int ret = 0;

	if (!p)
		return error_errno(err, -ENOMEM, "can't read tables");
	n = job->nunits < UNITS_FEW ? 1 : (unsigned)min_u64(n, THREADS_MAX);
	p->job = job;
	p->err = err;
	p->nslots = n == 1 ? 1 : n * SLOTS_PER_THREAD;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->made, NULL);
	pthread_cond_init(&p->taken, NULL);
	for (unsigned i = 0; i < p->nslots && ret == 0; i++) {
		p->slots[i].memory = mem_alloc(job->slot_len, 1);
		if (!p->slots[i].memory)
			ret = error_errno(err, -ENOMEM, "can't read tables");
	}
	if (ret == 0) {
		work_team(n, work, p);
		ret = p->ret;
	}
	for (unsigned i = 0; i < p->nslots; i++)
		mem_free(p->slots[i].memory);
	pthread_cond_destroy(&p->taken);
	pthread_cond_destroy(&p->made);
	pthread_mutex_destroy(&p->lock);
	mem_free(p);
	return ret;
}
