/* SPDX-License-Identifier: MIT */
/* Requests in flight: gate.h says how the epochs work and why no lock is needed. */
#include "meta/gate.h"

#include <assert.h>
#include <errno.h>
#include <stdalign.h>

#include "base/alloc.h"

#define STRIPE_BITS 4
#define STRIPES (1u << STRIPE_BITS)
#define CACHE_LINE 64

#define CLOSED 1u /* in the word */
#define EPOCH 2u  /* what the word grows by */

struct meta_gate_stripe {
	alignas(CACHE_LINE) atomic_uint in[2]; /* by the parity of the epoch that they entered in */
};

static uint64_t epoch_of(uint64_t word)
{
	return word / EPOCH;
}

/* Threads have stacks of their own, so the place of a local variable tells them apart. */
static unsigned own_stripe(void)
{
	char here;
	uint64_t place = (uint64_t)(uintptr_t)&here >> 12;

	return (unsigned)(place * 0x9e3779b97f4a7c15ull >> (64 - STRIPE_BITS));
}

int meta_gate_init(struct meta_gate *g, struct qcow2_error *err)
{
	int ret;

	*g = (struct meta_gate){0};
	g->stripes = mem_aligned(CACHE_LINE, STRIPES * sizeof(*g->stripes));
	if (!g->stripes)
		return error_errno(err, -ENOMEM, "can't set up the count of requests");
	for (unsigned s = 0; s < STRIPES; s++) {
		atomic_init(&g->stripes[s].in[0], 0);
		atomic_init(&g->stripes[s].in[1], 0);
	}
	ret = pthread_mutex_init(&g->lock, NULL);
	if (ret == 0) {
		ret = pthread_cond_init(&g->changed, NULL);
		if (ret == 0)
			return 0;
		pthread_mutex_destroy(&g->lock);
	}
	mem_free(mem_steal(&g->stripes));
	return error_errno(err, -ret, "can't set up the count of requests");
}

static bool none_in(struct meta_gate *g, unsigned parity)
{
	for (unsigned s = 0; s < STRIPES; s++) {
		if (atomic_load(&g->stripes[s].in[parity]) != 0)
			return false;
	}
	return true;
}

void meta_gate_release(struct meta_gate *g)
{
	if (!g->stripes)
		return;
	assert(none_in(g, 0) && none_in(g, 1));
	pthread_cond_destroy(&g->changed);
	pthread_mutex_destroy(&g->lock);
	mem_free(g->stripes);
	g->stripes = NULL;
}

static void wait_until_open(struct meta_gate *g)
{
	pthread_mutex_lock(&g->lock);
	while (atomic_load(&g->word) & CLOSED)
		pthread_cond_wait(&g->changed, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

bool meta_gate_try_enter(struct meta_gate *g, unsigned *ticket)
{
	unsigned stripe = own_stripe();
	uint64_t word;

	while (!((word = atomic_load(&g->word)) & CLOSED)) {
		*ticket = stripe * 2 + epoch_of(word) % 2;
		atomic_fetch_add(&g->stripes[stripe].in[*ticket % 2], 1);
		if (atomic_load(&g->word) == word)
			return true;
		meta_gate_leave(g, *ticket);
	}
	return false;
}

unsigned meta_gate_enter(struct meta_gate *g)
{
	unsigned ticket;

	while (!meta_gate_try_enter(g, &ticket))
		wait_until_open(g);
	return ticket;
}

void meta_gate_leave(struct meta_gate *g, unsigned ticket)
{
	unsigned before;

	assert(ticket < STRIPES * 2);
	before = atomic_fetch_sub(&g->stripes[ticket / 2].in[ticket % 2], 1);
	assert(before > 0);
	(void)before;
	/* either the closer, who closes first and counts then, sees us gone, or we see him */
	if (!(atomic_load(&g->word) & CLOSED))
		return;
	pthread_mutex_lock(&g->lock);
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->lock);
}

uint64_t meta_gate_mark(struct meta_gate *g)
{
	/* A write, not a mere load: who moves the epoch on has then seen what we did before. */
	return epoch_of(atomic_fetch_add(&g->word, 0));
}

bool meta_gate_passed(struct meta_gate *g, uint64_t mark)
{
	uint64_t word = atomic_load(&g->word);

	while (epoch_of(word) < mark + 2) {
		if (!none_in(g, (epoch_of(word) + 1) % 2))
			return false;
		/* on failure somebody else moved it, or closed or opened: word is the new one */
		if (atomic_compare_exchange_strong(&g->word, &word, word + EPOCH))
			word += EPOCH;
	}
	return true;
}

void meta_gate_close(struct meta_gate *g)
{
	pthread_mutex_lock(&g->lock);
	while (g->closing)
		pthread_cond_wait(&g->changed, &g->lock);
	g->closing = true;
	atomic_fetch_or(&g->word, CLOSED);
	while (!none_in(g, 0) || !none_in(g, 1))
		pthread_cond_wait(&g->changed, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

void meta_gate_open(struct meta_gate *g)
{
	pthread_mutex_lock(&g->lock);
	assert(g->closing);
	atomic_fetch_and(&g->word, ~(uint64_t)CLOSED);
	g->closing = false;
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->lock);
}
