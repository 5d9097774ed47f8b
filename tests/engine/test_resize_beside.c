/* SPDX-License-Identifier: MIT */
/*
 * A resize beside the end of a flush. What the flush set free is given away outside the gate, since
 * who is in it keeps the epoch from moving on; and where the cache of refcounts is small that needs
 * a commit, which goes through the L1 table. So a resize that replaces the table while the gate is
 * closed waits for a commit that runs. Both are held up in the store, so that the one has its new
 * table ready while the other is in the middle of its commit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <time.h>

#include "engine/run.h"

#define K 1024ull
#define PATIENCE 10    /* seconds, for what has to come */
#define IMPATIENCE 200 /* milliseconds, for what mustn't */
#define SLICE 512      /* of refcounts: a cluster */
#define HEADER_LEN 12  /* what is written of the header when the L1 table moves */

static const struct world_config small = {
	.version = 3, .cluster_bits = 9, .refcount_bits = 64, .size = 1500 * K};

/* What the two have come to. */
enum stage {
	START,
	GIVING_AWAY, /* the flush: durable, out of the gate */
	SWITCHED,    /* the resize: the header points to the new table */
	COMMITTING,  /* the flush: a commit of its own writes its copies */
	REPLACED,    /* the resize: it has let go of the old table */
	DONE
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum stage stage;
	bool too_early; /* the table was replaced in the middle of the commit */
	struct run *r;
	int flush_ret, resize_ret;
} meeting = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static _Thread_local enum { NOBODY, FLUSHER, RESIZER } who;

static bool is_at(enum stage stage)
{
	bool at;

	pthread_mutex_lock(&meeting.lock);
	at = meeting.stage == stage;
	pthread_mutex_unlock(&meeting.lock);
	return at;
}

static void come_to(enum stage stage)
{
	pthread_mutex_lock(&meeting.lock);
	meeting.stage = stage;
	pthread_cond_broadcast(&meeting.changed);
	pthread_mutex_unlock(&meeting.lock);
}

static void wait_for(enum stage stage, long ms)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += (until.tv_nsec / 1000000 + ms) / 1000;
	until.tv_nsec = (until.tv_nsec + ms % 1000 * 1000000) % 1000000000;
	pthread_mutex_lock(&meeting.lock);
	while (meeting.stage < stage &&
	       pthread_cond_timedwait(&meeting.changed, &meeting.lock, &until) == 0)
		;
	pthread_mutex_unlock(&meeting.lock);
}

static void hold_flusher(enum storage_op op, uint64_t len)
{
	static _Thread_local bool durable;

	if (is_at(START) && durable) {
		come_to(GIVING_AWAY);
		wait_for(SWITCHED, PATIENCE * 1000);
	} else if (is_at(SWITCHED) && op == STORAGE_OP_WRITE && len == SLICE) {
		come_to(COMMITTING);
		wait_for(REPLACED, IMPATIENCE);
		pthread_mutex_lock(&meeting.lock);
		meeting.too_early = meeting.stage == REPLACED;
		pthread_mutex_unlock(&meeting.lock);
		come_to(DONE);
	}
	durable |= op == STORAGE_OP_FLUSH;
}

static void hold_resizer(enum storage_op op, uint64_t host_off, uint64_t len)
{
	static _Thread_local bool header;

	if (is_at(GIVING_AWAY) && op == STORAGE_OP_FLUSH && header) {
		come_to(SWITCHED);
		wait_for(COMMITTING, PATIENCE * 1000);
	} else if (is_at(COMMITTING) && op == STORAGE_OP_DISCARD) {
		come_to(REPLACED);
	}
	header |= op == STORAGE_OP_WRITE && host_off < 512 && len == HEADER_LEN;
}

static int hold_up(enum storage_op op, uint64_t host_off, uint64_t len_bytes, uint64_t *short_bytes)
{
	(void)short_bytes;
	if (who == FLUSHER)
		hold_flusher(op, len_bytes);
	else if (who == RESIZER)
		hold_resizer(op, host_off, len_bytes);
	return 0;
}

static void *flush(void *opaque)
{
	(void)opaque;
	who = FLUSHER;
	meeting.flush_ret = qcow2_flush(meeting.r->image, NULL);
	return NULL;
}

static void *resize(void *opaque)
{
	(void)opaque;
	who = RESIZER;
	meeting.resize_ret = qcow2_resize(meeting.r->image, 2000 * K, QCOW2_PREALLOC_OFF, 0, NULL);
	return NULL;
}

static void the_table_is_replaced_between_commits(void **state)
{
	static struct world w;
	static struct run r;
	pthread_t flusher, resizer;

	(void)state;
	assert_int_equal(world_make(&w, &small, 3), 0);
	r.w = &w;
	r.how = (struct world_how){.pass_discard = QCOW2_PASS_ALL, .refcount_cache_bytes = 1};
	assert_int_equal(run_open(&r), 0);
	assert_int_equal(run_write(&r, 0, w.size, FILL_NOISE, 0), 0);
	assert_int_equal(run_flush(&r), 0);
	/* more refcounts than fit the cache */
	assert_int_equal(run_discard(&r, 0, w.size), 0);
	meeting.r = &r;
	flat_fault = hold_up;
	pthread_create(&flusher, NULL, flush, NULL);
	wait_for(GIVING_AWAY, PATIENCE * 1000);
	pthread_create(&resizer, NULL, resize, NULL);
	pthread_join(flusher, NULL);
	pthread_join(resizer, NULL);
	flat_fault = NULL;
	assert_int_equal(meeting.stage, DONE);
	assert_false(meeting.too_early);
	assert_int_equal(meeting.flush_ret, 0);
	assert_int_equal(meeting.resize_ret, 0);
	w.size = 2000 * K;
	assert_int_equal(run_write(&r, 0, w.size, FILL_NOISE, 0), 0);
	assert_int_equal(run_close(&r), 0);
	assert_int_equal(world_judge(&w, "afterwards"), 0);
	world_release(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_table_is_replaced_between_commits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
