/* SPDX-License-Identifier: MIT */
/* One thread at a time, for longer than a lock may be held. */
#include "meta/engine.h"

void meta_slot_init(struct meta_slot *s)
{
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->freed, NULL);
	s->taken = false;
}

void meta_slot_release(struct meta_slot *s)
{
	pthread_cond_destroy(&s->freed);
	pthread_mutex_destroy(&s->lock);
}

void meta_slot_take(struct meta_slot *s)
{
	pthread_mutex_lock(&s->lock);
	while (s->taken)
		pthread_cond_wait(&s->freed, &s->lock);
	s->taken = true;
	pthread_mutex_unlock(&s->lock);
}

void meta_slot_leave(struct meta_slot *s)
{
	pthread_mutex_lock(&s->lock);
	s->taken = false;
	pthread_cond_signal(&s->freed);
	pthread_mutex_unlock(&s->lock);
}
