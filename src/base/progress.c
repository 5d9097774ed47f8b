/* SPDX-License-Identifier: MIT */
/* Progress, told at a bearable rate. */
#include "base/progress.h"

#include <errno.h>
#include <time.h>

#include "base/num.h"

#define TICK_NSEC 200000000ull

uint64_t progress_now_nsec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

bool progress_due(const struct progress_ticker *t)
{
	return progress_now_nsec() - t->ticked_nsec >= TICK_NSEC;
}

int progress_tell(struct progress_ticker *t, const struct qcow2_progress *to, uint64_t done_bytes,
		  uint64_t total_bytes, bool last)
{
	if (!to || !to->tick || (!last && !progress_due(t)))
		return 0;
	t->ticked_nsec = progress_now_nsec();
	return to->tick(to->opaque, done_bytes, total_bytes) != 0 && !last;
}

int progress_step(struct progress_work *w, uint64_t len_bytes, struct qcow2_error *err)
{
	if (!w)
		return 0;
	if (!w->still)
		w->done_bytes += min_u64(len_bytes, w->total_bytes - w->done_bytes);
	if (progress_tell(&w->ticker, w->to, w->done_bytes, w->total_bytes, false) == 0)
		return 0;
	return error_set(err, -ECANCELED, "canceled");
}

void progress_end(struct progress_work *w)
{
	(void)progress_tell(&w->ticker, w->to, w->total_bytes, w->total_bytes, true);
}
