/* SPDX-License-Identifier: MIT */
/* The copier under convert, commit and rebase: see copy.c. */
#ifndef JOB_COPY_H
#define JOB_COPY_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/progress.h"
#include "job/job.h"
#include "job/target.h"

#define JOB_WAIVED_MAX 256u /* a window so far ahead of the turn waits in any case */

struct job_copy {
	/* immutable while the threads run; set by the caller, who owns what they point to */
	const struct job_reader *reader;
	struct job_target *target;
	uint64_t size_bytes;   /* of the disk */
	uint64_t cluster_max;  /* a window is no smaller: the largest cluster on either side */
	unsigned threads;      /* 0: one a core */
	uint64_t sparse_bytes; /* data that are zeros become that from so many in a row on; 0: never
				*/
	int compression_level;
	uint64_t rate_limit; /* bytes a second; 0: none */
	struct qcow2_progress progress;
	void (*warn)(void *opaque, const char *sentence);
	void *opaque;
	/* immutable; of the copier, as is the rest. All begins as zero */
	size_t window;
	uint64_t started_nsec;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t turned;
	uint64_t next_off;	     /* start of the next window */
	uint64_t next_seq;	     /* its number */
	uint64_t turn;		     /* the window that may be placed */
	bool waived[JOB_WAIVED_MAX]; /* by seq: windows behind that which need no turn */
	int ret;		     /* the first failure, and its record */
	struct qcow2_error err;
	struct {
		uint64_t off, len;
	} unreadable; /* a range not yet told */
	/* atomic */
	_Atomic bool stop;
	_Atomic uint64_t done_bytes;
	_Atomic uint64_t data_bytes; /* moved */
	_Atomic uint64_t unreadable_bytes;
	/* of the calling thread */
	struct progress_ticker ticker;
};

/* Copies all of it. Finishing the target, and job_copy_end, is the caller's. */
int job_copy_run(struct job_copy *c, struct qcow2_error *err);

/* All is done and stays: tells so. */
void job_copy_end(struct job_copy *c);

/* The largest cluster in a chain, no less than least. */
uint64_t job_largest_cluster(const struct qcow2_image *image, uint64_t least);

#endif
