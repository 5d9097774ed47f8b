/* SPDX-License-Identifier: MIT */
/*
 * The pool. A request is on one of three: the list of those that wait, in the hands of a thread,
 * the list of those that are done, in the order in which they got done. It is told by the shell's
 * thread only.
 *
 * If no thread can be started at all, submitting carries the request out on the spot.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "io/pool.h"

#define THREADS_MAX 16

struct list {
	struct io_request *first, *last;
};

struct io_pool {
	int fd; /* an eventfd, raised when something gets done; -1 if there are none */
	pthread_mutex_t lock;
	/* All below is guarded by lock. */
	pthread_cond_t work_came, work_done;
	struct list waiting, done;
	unsigned nthreads, nidle;
	unsigned nopen; /* requests that aren't told yet */
	bool ending;
	pthread_t threads[THREADS_MAX];
};

static void append(struct list *list, struct io_request *request)
{
	request->next = NULL;
	if (list->last)
		list->last->next = request;
	else
		list->first = request;
	list->last = request;
}

static struct io_request *take(struct list *list)
{
	struct io_request *request = list->first;

	if (request) {
		list->first = request->next;
		if (!list->first)
			list->last = NULL;
	}
	return request;
}

static void raise_fd(struct io_pool *pool)
{
	uint64_t one = 1;
	ssize_t n = pool->fd >= 0 ? write(pool->fd, &one, sizeof(one)) : 0;

	(void)n; /* it can only be full, then it is raised */
}

static void *serve(void *opaque)
{
	struct io_pool *pool = opaque;
	struct io_request *request;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		request = take(&pool->waiting);
		if (!request && pool->ending)
			break;
		if (!request) {
			pool->nidle++;
			pthread_cond_wait(&pool->work_came, &pool->lock);
			pool->nidle--;
			continue;
		}
		pthread_mutex_unlock(&pool->lock);
		io_request_perform(request);
		pthread_mutex_lock(&pool->lock);
		append(&pool->done, request);
		pthread_cond_signal(&pool->work_done);
		raise_fd(pool);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

struct io_pool *io_pool_new(void)
{
	struct io_pool *pool = calloc(1, sizeof(*pool));
	pthread_condattr_t monotonic;

	if (!pool)
		return NULL;
	pool->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work_came, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->work_done, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return pool;
}

void io_pool_free(struct io_pool *pool)
{
	unsigned i;

	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	assert(pool->nopen == 0);
	pool->ending = true;
	pthread_cond_broadcast(&pool->work_came);
	pthread_mutex_unlock(&pool->lock);
	for (i = 0; i < pool->nthreads; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->work_came);
	pthread_cond_destroy(&pool->work_done);
	pthread_mutex_destroy(&pool->lock);
	if (pool->fd >= 0)
		close(pool->fd);
	free(pool);
}

/* One thread more, unless enough are idle or there may be no more. Holds the lock. */
static void grow_locked(struct io_pool *pool, unsigned nwaiting)
{
	if (pool->nidle >= nwaiting || pool->nthreads == THREADS_MAX)
		return;
	if (pthread_create(&pool->threads[pool->nthreads], NULL, serve, pool) == 0)
		pool->nthreads++;
}

void io_pool_submit(struct io_pool *pool, struct io_request *request)
{
	unsigned nwaiting = 1;
	const struct io_request *r;

	pthread_mutex_lock(&pool->lock);
	for (r = pool->waiting.first; r && nwaiting <= THREADS_MAX; r = r->next)
		nwaiting++;
	grow_locked(pool, nwaiting);
	pool->nopen++;
	if (pool->nthreads > 0) {
		append(&pool->waiting, request);
		pthread_cond_signal(&pool->work_came);
	} else {
		io_request_perform(request);
		append(&pool->done, request);
		raise_fd(pool);
	}
	pthread_mutex_unlock(&pool->lock);
}

/* Tells one that is done. Holds the lock, but not while it is told. */
static bool tell_one_locked(struct io_pool *pool)
{
	struct io_request *request = take(&pool->done);

	if (!request)
		return false;
	pthread_mutex_unlock(&pool->lock);
	io_request_tell(request);
	io_request_release(request);
	free(request);
	pthread_mutex_lock(&pool->lock);
	pool->nopen--;
	return true;
}

bool io_pool_deliver(struct io_pool *pool)
{
	uint64_t count;
	bool any = false;

	if (!pool)
		return false;
	if (pool->fd >= 0 && read(pool->fd, &count, sizeof(count)) < 0)
		assert(errno == EAGAIN || errno == EINTR);
	pthread_mutex_lock(&pool->lock);
	while (tell_one_locked(pool))
		any = true;
	pthread_mutex_unlock(&pool->lock);
	return any;
}

void io_pool_drain(struct io_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	while (pool->nopen > 0)
		if (!tell_one_locked(pool))
			pthread_cond_wait(&pool->work_done, &pool->lock);
	pthread_mutex_unlock(&pool->lock);
	io_pool_deliver(pool); /* lowers the eventfd */
}

void io_pool_sleep(struct io_pool *pool, uint64_t ns)
{
	uint64_t end_ns = io_now_ns() + ns;
	struct timespec end = {.tv_sec = (time_t)(end_ns / 1000000000),
			       .tv_nsec = (long)(end_ns % 1000000000)};
	int rc = 0;

	if (!pool) {
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR)
			;
		return;
	}
	pthread_mutex_lock(&pool->lock);
	while (rc != ETIMEDOUT)
		if (!tell_one_locked(pool))
			rc = pthread_cond_timedwait(&pool->work_done, &pool->lock, &end);
	pthread_mutex_unlock(&pool->lock);
}

bool io_pool_is_busy(struct io_pool *pool)
{
	bool busy;

	if (!pool)
		return false;
	pthread_mutex_lock(&pool->lock);
	busy = pool->nopen > 0;
	pthread_mutex_unlock(&pool->lock);
	return busy;
}

int io_pool_fd(const struct io_pool *pool)
{
	return pool ? pool->fd : -1;
}
