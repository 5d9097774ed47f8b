/* SPDX-License-Identifier: MIT */
/*
 * A request that is under way in the image file while its cluster is freed, the table that says so
 * is durable, and others look for space: the cluster isn't theirs before the request has ended
 * (rule 4 of docs/ordering.md). The request is held up in the store for that long.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "engine/run.h"

#define CLUSTER 65536u
#define PATIENCE 3 /* seconds: a discard may as well wait for the request; then it is let go */

static const struct world_config plain = {
	.version = 3, .cluster_bits = 16, .refcount_bits = 16, .size = 40 * CLUSTER};

/* ---- holding up one request ---- */

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum storage_op op;
	uint64_t len;
	enum { IDLE, ARMED, HELD, FREE } state;
} hold = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void set_state(int state)
{
	pthread_mutex_lock(&hold.lock);
	hold.state = state;
	pthread_cond_broadcast(&hold.changed);
	pthread_mutex_unlock(&hold.lock);
}

static void wait_for(int state)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE;
	pthread_mutex_lock(&hold.lock);
	while ((int)hold.state != state &&
	       pthread_cond_timedwait(&hold.changed, &hold.lock, &until) == 0)
		;
	pthread_mutex_unlock(&hold.lock);
}

/* The first operation of that kind and length. */
static int hold_up(enum storage_op op, uint64_t host_off, uint64_t len_bytes, uint64_t *short_bytes)
{
	bool mine;

	(void)host_off;
	(void)short_bytes;
	pthread_mutex_lock(&hold.lock);
	mine = hold.state == ARMED && op == hold.op && len_bytes == hold.len;
	pthread_mutex_unlock(&hold.lock);
	if (mine) {
		set_state(HELD);
		wait_for(FREE);
	}
	return 0;
}

/* ---- the image ---- */

struct both {
	struct world w;
	struct run r;
	uint8_t before[CLUSTER], got[CLUSTER];
	int ret;
	pthread_t thread;
};

static void setup_image(struct both *b, unsigned flags)
{
	memset(b, 0, sizeof(*b));
	assert_int_equal(world_make(&b->w, &plain, 3), 0);
	b->r.w = &b->w;
	b->w.file.garbage = true;
	b->r.how.pass_discard = QCOW2_PASS_ALL;
	assert_int_equal(run_open(&b->r), 0);
	assert_int_equal(run_write(&b->r, 0, CLUSTER, FILL_TEXT, flags), 0);
	assert_int_equal(run_flush(&b->r), 0);
	memcpy(b->before, b->w.bytes, CLUSTER);
}

static void start(struct both *b, void *(*request)(void *), enum storage_op op, uint64_t len)
{
	hold.op = op;
	hold.len = len;
	set_state(ARMED);
	flat_fault = hold_up;
	assert_int_equal(pthread_create(&b->thread, NULL, request, b), 0);
	wait_for(HELD);
	assert_int_equal(hold.state, HELD);
}

/* The cluster is freed for good, and whoever takes what is free gets it. */
static void free_and_reuse(struct both *b)
{
	assert_int_equal(run_discard(&b->r, 0, CLUSTER), 0);
	for (uint64_t i = 0; i < 3; i++) {
		assert_int_equal(run_flush(&b->r), 0);
		assert_int_equal(
			run_write(&b->r, (3 + 4 * i) * CLUSTER, 3 * CLUSTER, FILL_NOISE, 0), 0);
	}
	assert_int_equal(run_flush(&b->r), 0);
}

static void end(struct both *b)
{
	set_state(FREE);
	assert_int_equal(pthread_join(b->thread, NULL), 0);
	flat_fault = NULL;
	set_state(IDLE);
	assert_int_equal(b->ret, 0);
}

static void release_image(struct both *b)
{
	assert_int_equal(world_compare(&b->w, b->r.image, "afterwards"), 0);
	assert_int_equal(run_close(&b->r), 0);
	assert_int_equal(world_judge(&b->w, "afterwards"), 0);
	world_release(&b->w);
}

static void *read_it(void *opaque)
{
	struct both *b = opaque;

	b->ret = qcow2_pread(b->r.image, b->got, CLUSTER, 0, NULL);
	return NULL;
}

/* ---- cases ---- */

static void a_read_sees_its_own_bytes_to_the_end(void **state)
{
	static struct both b;

	(void)state;
	setup_image(&b, 0);
	/* reads tell no length */
	start(&b, read_it, STORAGE_OP_READ, 0);
	free_and_reuse(&b);
	end(&b);
	assert_memory_equal(b.got, b.before, CLUSTER);
	release_image(&b);
}

static void a_read_of_compressed_data_too(void **state)
{
	static struct both b;

	(void)state;
	setup_image(&b, QCOW2_WRITE_COMPRESSED);
	start(&b, read_it, STORAGE_OP_READ, 0);
	free_and_reuse(&b);
	end(&b);
	assert_memory_equal(b.got, b.before, CLUSTER);
	release_image(&b);
}

#define PART 5000u

static void *write_it(void *opaque)
{
	struct both *b = opaque;

	b->ret = qcow2_pwrite(b->r.image, b->before, PART, 0, 0, NULL);
	return NULL;
}

/* It may come before or after the discard: the disk holds its bytes or zeros. */
static void a_write_hits_nobody_else(void **state)
{
	static struct both b;

	(void)state;
	setup_image(&b, 0);
	start(&b, write_it, STORAGE_OP_WRITE, PART);
	free_and_reuse(&b);
	end(&b);
	assert_int_equal(qcow2_pread(b.r.image, b.got, PART, 0, NULL), 0);
	if (memcmp(b.got, b.before, PART) == 0)
		memcpy(b.w.bytes, b.before, PART);
	release_image(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_read_sees_its_own_bytes_to_the_end),
		cmocka_unit_test(a_read_of_compressed_data_too),
		cmocka_unit_test(a_write_hits_nobody_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
