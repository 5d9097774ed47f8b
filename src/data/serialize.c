/* SPDX-License-Identifier: MIT */
/*
 * Guest ranges that somebody changes the map of. Few at a time: a list is enough. A request owns
 * one range at a time, so that nobody waits in a circle.
 */
#include "data/write.h"

void data_ranges_init(struct data_ranges *rs)
{
	pthread_mutex_init(&rs->lock, NULL);
	pthread_cond_init(&rs->left, NULL);
	rs->list = NULL;
}

void data_ranges_release(struct data_ranges *rs)
{
	pthread_cond_destroy(&rs->left);
	pthread_mutex_destroy(&rs->lock);
}

static bool is_taken_locked(const struct data_ranges *rs, uint64_t start, uint64_t end)
{
	for (const struct data_range *r = rs->list; r; r = r->next) {
		if (start < r->end && r->start < end)
			return true;
	}
	return false;
}

void data_range_take(struct data_ranges *rs, struct data_range *r, uint64_t start, uint64_t end)
{
	pthread_mutex_lock(&rs->lock);
	while (is_taken_locked(rs, start, end))
		pthread_cond_wait(&rs->left, &rs->lock);
	*r = (struct data_range){.start = start, .end = end, .next = rs->list};
	rs->list = r;
	pthread_mutex_unlock(&rs->lock);
}

void data_range_leave(struct data_ranges *rs, struct data_range *r)
{
	struct data_range **at;

	pthread_mutex_lock(&rs->lock);
	for (at = &rs->list; *at != r; at = &(*at)->next)
		;
	*at = r->next;
	pthread_cond_broadcast(&rs->left);
	pthread_mutex_unlock(&rs->lock);
}
