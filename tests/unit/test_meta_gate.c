/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/work.h"
#include "meta/gate.h"

static void gate_is_up(struct meta_gate *g)
{
	assert_int_equal(meta_gate_init(g, NULL), 0);
}

static void with_nobody_in_a_mark_passes_at_once(void **state)
{
	struct meta_gate g;

	(void)state;
	gate_is_up(&g);
	for (int i = 0; i < 5; i++)
		assert_true(meta_gate_passed(&g, meta_gate_mark(&g)));
	meta_gate_leave(&g, meta_gate_enter(&g));
	assert_true(meta_gate_passed(&g, meta_gate_mark(&g)));
	meta_gate_release(&g);
}

/* At every distance between the epoch that he entered in and that of the mark. */
static void a_mark_waits_for_who_was_in(void **state)
{
	struct meta_gate g;

	(void)state;
	gate_is_up(&g);
	for (int moves = 0; moves < 4; moves++) {
		unsigned ticket = meta_gate_enter(&g);
		uint64_t mark;

		for (int i = 0; i < moves; i++)
			meta_gate_passed(&g, meta_gate_mark(&g));
		mark = meta_gate_mark(&g);
		for (int i = 0; i < 10; i++)
			assert_false(meta_gate_passed(&g, mark));
		meta_gate_leave(&g, ticket);
		assert_true(meta_gate_passed(&g, mark));
		assert_true(meta_gate_passed(&g, mark));
	}
	meta_gate_release(&g);
}

/* Requests that overlap in an endless chain may delay a mark, but don't hold it for ever. */
static void who_came_after_a_mark_doesnt_hold_it(void **state)
{
	struct meta_gate g;
	unsigned first, then;
	uint64_t mark;
	int rounds = 0;

	(void)state;
	gate_is_up(&g);
	first = meta_gate_enter(&g);
	mark = meta_gate_mark(&g);
	while (!meta_gate_passed(&g, mark)) {
		then = meta_gate_enter(&g);
		meta_gate_leave(&g, first);
		first = then;
		assert_true(++rounds <= 3);
	}
	assert_true(rounds >= 1);
	meta_gate_leave(&g, first);
	meta_gate_release(&g);
}

static void a_later_mark_never_passes_before_an_earlier_one(void **state)
{
	struct meta_gate g;
	unsigned a, b;
	uint64_t early, late;

	(void)state;
	gate_is_up(&g);
	a = meta_gate_enter(&g);
	early = meta_gate_mark(&g);
	meta_gate_passed(&g, early);
	b = meta_gate_enter(&g);
	late = meta_gate_mark(&g);
	assert_false(meta_gate_passed(&g, early));
	meta_gate_leave(&g, a);
	assert_true(meta_gate_passed(&g, early));
	assert_false(meta_gate_passed(&g, late));
	meta_gate_leave(&g, b);
	assert_true(meta_gate_passed(&g, late));
	meta_gate_release(&g);
}

static void marks_pass_while_the_gate_is_closed(void **state)
{
	struct meta_gate g;
	uint64_t mark;

	(void)state;
	gate_is_up(&g);
	mark = meta_gate_mark(&g);
	meta_gate_close(&g);
	assert_true(meta_gate_passed(&g, mark));
	assert_true(meta_gate_passed(&g, meta_gate_mark(&g)));
	meta_gate_open(&g);
	meta_gate_leave(&g, meta_gate_enter(&g));
	meta_gate_release(&g);
}

static bool refuse(size_t size)
{
	(void)size;
	return false;
}

static void without_memory_it_says_so(void **state)
{
	struct qcow2_error err = {0};
	struct meta_gate g;

	(void)state;
	mem_fault_hook = refuse;
	assert_int_equal(meta_gate_init(&g, &err), -ENOMEM);
	mem_fault_hook = NULL;
	assert_non_null(strstr(err.message, "can't set up the count of requests"));
	meta_gate_release(&g);
}

/* ---- closing ---- */

struct closing {
	struct meta_gate gate;
	atomic_uint in, closers, wrong;
	unsigned under_close; /* guarded by the closed gate */
};

static void pass_or_close(void *opaque, unsigned i)
{
	struct closing *c = opaque;

	for (int round = 0; round < 3000; round++) {
		unsigned ticket;

		if (i < 2 && round % 4 == 0) {
			meta_gate_close(&c->gate);
			c->wrong += c->in != 0;
			c->wrong += atomic_fetch_add(&c->closers, 1) != 0;
			c->under_close++;
			if (round % 64 == 0)
				sched_yield();
			c->wrong += c->in != 0;
			c->closers--;
			meta_gate_open(&c->gate);
			continue;
		}
		ticket = meta_gate_enter(&c->gate);
		c->in++;
		c->wrong += c->closers != 0;
		if (round % 16 == 0)
			sched_yield();
		c->wrong += c->closers != 0;
		c->in--;
		meta_gate_leave(&c->gate, ticket);
	}
}

static void a_closer_is_alone(void **state)
{
	struct closing c = {0};

	(void)state;
	gate_is_up(&c.gate);
	work_team(6, pass_or_close, &c);
	assert_int_equal(c.wrong, 0);
	assert_int_equal(c.in, 0);
	assert_true(c.under_close >= 750);
	meta_gate_release(&c.gate);
}

/* ---- a list of free items ---- */

#define ITEMS 4
#define READERS_AND_OWNERS 6

/*
 * A published item is replaced by another; the old one may be filled anew only when its mark has
 * passed. Content is plain memory, so that a thread sanitizer sees who comes too early.
 */
struct reuse {
	struct meta_gate gate;
	_Atomic unsigned published;
	unsigned content[ITEMS]; /* twice the number of the item, or an odd number when free */
	uint64_t mark[ITEMS];
	atomic_bool done;
	atomic_uint wrong, reused;
};

static void replace(struct reuse *r)
{
	unsigned oldest = 1, newest = 0;

	for (int tries = 0; tries < 300000 && r->reused < 20000; tries++) {
		if (!meta_gate_passed(&r->gate, r->mark[oldest])) {
			if (tries % 64 == 0)
				sched_yield();
			continue;
		}
		r->content[oldest] = tries * 2 + 1;
		r->content[oldest] = oldest * 2;
		atomic_store_explicit(&r->published, oldest, memory_order_release);
		r->mark[newest] = meta_gate_mark(&r->gate);
		newest = oldest;
		oldest = (oldest + 1) % ITEMS;
		r->reused++;
	}
	r->done = true;
}

static void look_or_replace(void *opaque, unsigned i)
{
	struct reuse *r = opaque;
	unsigned rounds = 0;

	if (i == 0) {
		replace(r);
		return;
	}
	while (!r->done) {
		unsigned ticket = meta_gate_enter(&r->gate);
		unsigned item = atomic_load_explicit(&r->published, memory_order_acquire);

		if (++rounds % 32 == 0)
			sched_yield();
		r->wrong += r->content[item] != item * 2;
		meta_gate_leave(&r->gate, ticket);
	}
}

static void what_is_in_use_isnt_given_to_others(void **state)
{
	struct reuse r = {0};

	(void)state;
	gate_is_up(&r.gate);
	for (unsigned i = 0; i < ITEMS; i++)
		r.content[i] = i * 2;
	work_team(READERS_AND_OWNERS, look_or_replace, &r);
	assert_int_equal(r.wrong, 0);
	assert_true(r.reused >= ITEMS);
	meta_gate_release(&r.gate);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(with_nobody_in_a_mark_passes_at_once),
		cmocka_unit_test(a_mark_waits_for_who_was_in),
		cmocka_unit_test(who_came_after_a_mark_doesnt_hold_it),
		cmocka_unit_test(a_later_mark_never_passes_before_an_earlier_one),
		cmocka_unit_test(marks_pass_while_the_gate_is_closed),
		cmocka_unit_test(without_memory_it_says_so),
		cmocka_unit_test(a_closer_is_alone),
		cmocka_unit_test(what_is_in_use_isnt_given_to_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
