/* SPDX-License-Identifier: MIT */
/*
 * A long row of units, prepared by several threads and taken by one, the caller, in their order:
 * what it finds doesn't depend on the number of threads or their luck.
 *
 * A unit is some tables' worth of reading and decoding. While the caller has nothing to take it
 * prepares units itself, so that any number of threads does all the work.
 */
#ifndef CHECK_PIPE_H
#define CHECK_PIPE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct check_pipe_job {
	uint64_t nunits;
	size_t slot_len; /* bytes of memory for a unit that is on its way */
	/*
	 * make may be called by any thread, take by the caller's alone, unit after unit. Nonzero
	 * from take ends all at once, from make when the unit's turn comes; the error is the
	 * caller's then.
	 */
	int (*make)(void *opaque, uint64_t unit, void *slot, struct qcow2_error *err);
	int (*take)(void *opaque, uint64_t unit, void *slot, struct qcow2_error *err);
	void *opaque;
};

/* nthreads 0: as many as there are processors, within reason. */
int check_pipe_run(const struct check_pipe_job *job, unsigned nthreads, struct qcow2_error *err);

#endif
