/* SPDX-License-Identifier: MIT */
/* What the requests of run.h, in run.c and shots.c, have in common. */
#ifndef TESTS_ENGINE_RUN_PARTS_H
#define TESTS_ENGINE_RUN_PARTS_H

#include "engine/run.h"

/* Clears the error record. Nothing is to be done: there is no image, or it is enough. */
bool part_skip(struct run *r);
/* An event of the history; NULL without one that keeps events. */
struct event *part_begin(struct run *r, enum event_kind kind, uint64_t off, uint64_t len);
void part_end(struct run *r, struct event *e, int ret);
void part_keep_bytes(struct event *e, const uint8_t *bytes);
/* A flush of everything, done by the request that e is of. */
void part_also_flush(struct run *r, struct event *e, int ret);
/* Zeros in all of the VM state, as a part of what is done otherwise. */
struct event *part_begin_dropping(struct run *r);
void part_end_dropping(struct run *r, struct event *e, int ret);

void part_loosen(struct run *r, uint64_t off, uint64_t len, bool loose);
/* What version 2 can't is refused, with nothing changed. */
bool part_may_refuse_resize(const struct world *w, uint64_t size);
/* What the request returns for what the call did. */
int part_outcome(struct run *r, int ret);

#endif
