/* SPDX-License-Identifier: MIT */
#include "base/seed.h"

#include <sys/random.h>
#include <time.h>

uint64_t seed_random(void)
{
	struct timespec now = {0};
	uint64_t seed;

	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) == (ssize_t)sizeof(seed))
		return seed;
	/* Soon after booting, or where the call is forbidden: the time, and where things lie. */
	clock_gettime(CLOCK_REALTIME, &now);
	seed = (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15ull ^ (uint64_t)now.tv_sec;
	return seed ^ (uint64_t)(uintptr_t)&now << 24;
}
