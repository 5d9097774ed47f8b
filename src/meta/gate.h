/* SPDX-License-Identifier: MIT */
/*
 * Requests in flight: who came before a moment has left since? And: nobody in, please.
 *
 * What a request has looked up it may use until it leaves, although others unlink it meanwhile. So
 * whoever unlinks something takes a mark, and gives it to others only when the mark has passed.
 *
 * How it works. There is an epoch E, which only grows. A request counts itself in under the parity
 * of E and looks at E again: if that moved, it counts itself out and tries anew. So whoever is in
 * has entered in E or E - 1, since E becomes E + 1 only when nobody is counted under the other
 * parity, that of E - 1. A mark is the epoch of its moment: at E + 2 all who were in have left.
 *
 * Why no lock is needed. Entering is "count, then look at the epoch", moving on is "look at the
 * counters, then change the epoch", in one order that all threads see: either the count is seen,
 * or the new epoch is. Closing is a bit of the same word. The counters are striped, a cache line
 * each, so that threads don't pass one line around; a request leaves by the stripe that it came
 * by. Taking a mark writes the word (the same value), so that what was unlinked before the mark
 * was taken can't be found by who enters in a later epoch.
 *
 * It doesn't know what is marked, and keeps no list of it.
 */
#ifndef META_GATE_H
#define META_GATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct meta_gate_stripe;

struct meta_gate {
	/* immutable */
	struct meta_gate_stripe *stripes;
	/* atomic: the epoch, and in the lowest bit whether the gate is closed */
	_Atomic uint64_t word;
	/* guarded by lock; the lock is taken only while the gate is closed, closes or opens */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* opened, or somebody left while it is closed */
	bool closing;		/* somebody has closed it, or waits for the last to leave */
};

/* On failure nothing needs a release. */
int meta_gate_init(struct meta_gate *g, struct qcow2_error *err);
/* All calls, also of leave, have returned. Harmless on a gate of zeros. */
void meta_gate_release(struct meta_gate *g);

/*
 * Waits while the gate is closed. The ticket is for meta_gate_leave, which any thread may call.
 * Who is in neither enters again nor closes: he would wait for himself.
 */
unsigned meta_gate_enter(struct meta_gate *g);
/* The same without waiting: false, nobody is in, if the gate is closed. */
bool meta_gate_try_enter(struct meta_gate *g, unsigned *ticket);
void meta_gate_leave(struct meta_gate *g, unsigned ticket);

/* A mark: everything in flight now is older than it. */
uint64_t meta_gate_mark(struct meta_gate *g);
/*
 * Whether every request that was in flight when mark was taken has left. Never waits; moves the
 * epoch on where it can, so asking again is what makes a mark pass. What was in flight has then
 * been done before what the caller does next.
 */
bool meta_gate_passed(struct meta_gate *g, uint64_t mark);

/*
 * Holds up new requests and waits until all have left. One closer at a time, others wait for
 * their turn.
 */
void meta_gate_close(struct meta_gate *g);
void meta_gate_open(struct meta_gate *g);

#endif
