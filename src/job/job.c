/* SPDX-License-Identifier: MIT */
/* Progress, told at a bearable rate. */
#include "job/job.h"

#include <time.h>

#define TICK_NSEC 200000000ull

uint64_t job_now_nsec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

bool job_tick_due(const struct job_ticker *t)
{
	return job_now_nsec() - t->ticked_nsec >= TICK_NSEC;
}

int job_tick(struct job_ticker *t, const struct qcow2_progress *progress, uint64_t done_bytes,
	     uint64_t total_bytes, bool last)
{
	if (!progress || !progress->tick || (!last && !job_tick_due(t)))
		return 0;
	t->ticked_nsec = job_now_nsec();
	return progress->tick(progress->opaque, done_bytes, total_bytes) != 0 && !last;
}
