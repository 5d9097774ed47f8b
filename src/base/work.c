/* SPDX-License-Identifier: MIT */
/* Threads come from here; they block all signals, which belong to the program's own threads. */
#include "base/work.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>

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
