/* SPDX-License-Identifier: MIT */
/*
 * Requests to an open image, each carried out on the reference too. What a request has to do to
 * the disk is said here once, for all harnesses; who wants to know of each request afterwards, to
 * judge what a crash or a fault may have left of it, gives a history.
 */
#ifndef TESTS_ENGINE_RUN_H
#define TESTS_ENGINE_RUN_H

#include "engine/world.h"

enum event_kind { EVENT_CHANGE, EVENT_FLUSH, EVENT_SIZE, EVENT_WHOLE };

struct event {
	enum event_kind kind;
	uint64_t guest_off, len; /* of a change; VM state lies at max_size of the world */
	uint8_t *bytes;		 /* NULL: zeros */
	const uint8_t *loose;	 /* of WHOLE: what of them isn't known; or NULL */
	uint64_t size;		 /* of the disk, for SIZE and WHOLE (the disk became another) */
	size_t start, end;	 /* of the tape, when the request began and when it returned */
	uint64_t began, ended;	 /* the same by a clock that says which of two came first */
	bool failed;
};

/* Several threads may write one, if what they change doesn't overlap. */
/* The life of an internal snapshot. */
struct shot {
	char name[16];
	uint8_t *bytes, *loose; /* the disk then, and what of it isn't known; NULL: all is */
	uint64_t size;
	size_t born_start, born_end, gone_start, gone_end; /* of the tape; SIZE_MAX: not yet */
	bool born_failed, gone_failed;
};

struct history {
	struct tape *tape; /* NULL: no ends are noted */
	bool only_shots;   /* no events: the life of the snapshots is enough */
	struct shot *shots;
	size_t nshots;
	pthread_mutex_t lock;
	struct event *events; /* most of them: they don't move; in the order of start */
	size_t count, most;   /* guarded by lock, as is the clock */
	uint64_t clock;
};

/* most: events that there is room for; one more is a fault of the harness */
void history_init(struct history *h, struct tape *tape, size_t most);
void history_release(struct history *h);

struct run {
	struct world *w;
	struct qcow2_image *image;
	struct world_how how;
	unsigned prealloc; /* of what a disk grows by */
	uint64_t rng, tag;
	struct history *history; /* or NULL */
	/*
	 * Faults are expected: a request may fail. What it covered is then unknown (loose) until
	 * something else is written there. NULL: nothing may fail.
	 */
	uint8_t *loose;
	uint64_t failures;
	uint64_t nrequests, most; /* after so many requests the rest is left out; 0: none is */
	unsigned opens;
	bool unfinished; /* the last close failed */
	bool given_up;	 /* emptying it failed: nothing of it may be changed any more */
	char last[160];	 /* the request, in words */
	struct qcow2_error err;
};

/*
 * -1 with a complaint if the call failed and mustn't, or lied. A failure that may be is 0 and is
 * counted. Without an open image (because that failed) nothing is done.
 */
int run_open(struct run *r);
int run_write(struct run *r, uint64_t off, uint64_t len, enum fill how, unsigned flags);
int run_zero(struct run *r, uint64_t off, uint64_t len, unsigned flags);
int run_discard(struct run *r, uint64_t off, uint64_t len);
int run_flush(struct run *r);
int run_resize(struct run *r, uint64_t size);
/* Reads and compares. */
int run_read(struct run *r, uint64_t off, uint64_t len);
/* The same with VM state, of which the world has state_size bytes. */
int run_write_state(struct run *r, uint64_t off, uint64_t len);
int run_read_state(struct run *r, uint64_t off, uint64_t len);
/*
 * Snapshots, with a history only. The disk is flushed by each. Every second one takes the VM state
 * over.
 */
int run_take(struct run *r);
/* idx: of the history's shots; nothing happens if that one is gone. */
int run_go_back(struct run *r, size_t idx);
int run_forget(struct run *r, size_t idx);
/*
 * Each snapshot that there must be after the first cut entries of the tape reads as it was; those
 * that may be there do so if they are.
 */
int run_check_shots(const struct history *h, struct world *w, size_t cut, const char *when);
/* Finishes and closes. */
int run_close(struct run *r);
/* The disk stays what it was, whatever happens; and the image is closed. */
int run_commit(struct run *r);
/* Likewise. flags: QCOW2_REBASE_*; unsafely only to another name of the backing file. */
int run_rebase(struct run *r, const char *backing_file, unsigned flags);
/* What the disk reads as stays: no size among the options. */
int run_amend(struct run *r, const struct qcow2_amend_options *o);

/* The part of a range that a discard makes zeros; may be empty. */
void run_discard_range(const struct run *r, uint64_t *off, uint64_t *len);

/* ---- any request (random.c) ---- */

/* Random options to open an image with. */
struct world_how random_how(const struct world_config *c, uint64_t *rng);
/* One request; once in a hundred times the image is closed and opened with other options. */
int random_step(struct run *r);

/* ---- what may be there after a crash (history.c) ---- */

struct expected {
	const struct history *h;
	size_t next;	   /* the first event that hasn't begun */
	bool *settled;	   /* of each event: a flush came after it; made by the first advance */
	size_t first_open; /* all events before that are settled */
	uint64_t max_size, total; /* of the disk, and of the arrays: as in the world */
	uint8_t *latest, *durable;
	uint8_t *vague; /* 1: the last to change this byte before the flush failed */
	uint64_t durable_size;
	bool vague_size;
	uint64_t version; /* counts what changes */
};

/* bytes, size: of the disk before the first event. */
void expected_init(struct expected *x, const struct history *h, const struct world *w,
		   const uint8_t *bytes, uint64_t size);
void expected_release(struct expected *x);
/* To the crash after the first cut entries of the tape. */
void expected_advance(struct expected *x, size_t cut);
/* Reads disk and VM state of the open image, to found as the reference has them. */
int expected_read(struct world *w, struct qcow2_image *image, uint8_t *found);
/* What was found. Complains and gives -1 if that can't be. */
int expected_check(const struct expected *x, const uint8_t *found, uint64_t size, const char *when);

#endif
