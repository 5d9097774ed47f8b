/* SPDX-License-Identifier: MIT */
/*
 * Queues of requests. The fast path is taken in the submitting thread: a request whose whole range
 * the tables in memory map to one run of plain data goes into the ring, one that reads as zeros is
 * over at once. Everything else is a job for the queue's threads, which make the blocking calls; so
 * does a request that the kernel failed, because those know what to say, and what to do, about it.
 *
 * A request in the ring is inside the image's gate until it is reaped. Therefore nothing here waits
 * for the gate while there is one: entering is only tried, and this thread runs jobs itself only
 * when the ring is empty.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/iov.h"
#include "base/num.h"
#include "base/work.h"
#include "image/image.h"
#include "image/options.h"
#include "meta/bitmap.h"
#include "storage/ring.h"

#define DEPTH_DEFAULT 128
#define DEPTH_MAX 4096
#define THREADS_DEFAULT_MAX 16

struct slot {
	struct storage_ring_op ring_op; /* first: found from it */
	struct work_job job;
	struct qcow2_queue *queue;
	struct qcow2_request *request;
	struct slot *next; /* in the list of free ones, or of those that a thread has done */
	unsigned ticket;   /* of the gate, while it is in the ring */
	bool in_ring;
};

struct qcow2_queue {
	/* immutable */
	struct qcow2_image *image;
	unsigned depth;
	struct storage_ring *ring; /* NULL: threads do all */
	struct work_pool *pool;
	struct slot *slots;
	int event_fd;

	/* owned by the thread that uses the queue */
	struct slot *idle;
	unsigned nidle;
	unsigned nring, njobs;			  /* in flight */
	struct qcow2_request *ready, **ready_end; /* completed, not handed out */
	bool has_watcher;			  /* somebody looks at event_fd */

	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct slot *finished; /* by threads */
	bool wants_event;      /* event_fd is written to when there is more */
};

/* ---- the end of a request ---- */

/* The slot is free again: a request that has completed takes its place only in the count. */
static void complete(struct slot *s, int result)
{
	struct qcow2_queue *q = s->queue;
	struct qcow2_request *r = s->request;

	r->result = result;
	r->slot = NULL;
	r->next = NULL;
	*q->ready_end = r;
	q->ready_end = &r->next;
	s->request = NULL;
	s->next = q->idle;
	q->idle = s;
}

static void signal_event(const struct qcow2_queue *q)
{
	(void)eventfd_write(q->event_fd, 1); /* fails if it is full, and readable then */
}

/* ---- slow: on a thread ---- */

static int carry_out(struct qcow2_image *image, const struct qcow2_request *r)
{
	switch (r->op) {
	case QCOW2_OP_READ:
		return qcow2_preadv(image, r->iov, r->iovcnt, r->guest_off, r->err);
	case QCOW2_OP_WRITE:
		return qcow2_pwritev(image, r->iov, r->iovcnt, r->guest_off, r->flags, r->err);
	case QCOW2_OP_WRITE_ZEROES:
		return qcow2_write_zeroes(image, r->guest_off, r->len_bytes, r->flags, r->err);
	case QCOW2_OP_DISCARD:
		return qcow2_discard(image, r->guest_off, r->len_bytes, r->err);
	case QCOW2_OP_FLUSH:
		return qcow2_flush(image, r->err);
	}
	return error_set(r->err, -EINVAL, "unknown operation %u of a request", (unsigned)r->op);
}

static void run_job(struct work_job *job)
{
	struct slot *s = (struct slot *)(void *)((char *)job - offsetof(struct slot, job));
	struct qcow2_queue *q = s->queue;

	s->request->result = carry_out(q->image, s->request);
	pthread_mutex_lock(&q->lock);
	s->next = q->finished;
	q->finished = s;
	if (q->wants_event)
		signal_event(q);
	pthread_cond_signal(&q->more);
	pthread_mutex_unlock(&q->lock);
}

static void start_slowly(struct slot *s)
{
	struct qcow2_queue *q = s->queue;

	s->job.run = run_job;
	/* the first of them is left for this thread, which may be about to wait for it */
	work_pool_put(q->pool, &s->job, q->has_watcher || q->nring > 0 || q->njobs > 0);
	q->njobs++;
}

static void take_finished(struct qcow2_queue *q)
{
	struct slot *s, *next;

	pthread_mutex_lock(&q->lock);
	s = q->finished;
	q->finished = NULL;
	pthread_mutex_unlock(&q->lock);
	for (; s; s = next) {
		next = s->next;
		q->njobs--;
		complete(s, s->request->result);
	}
}

/* ---- fast: in the ring ---- */

static void ring_done(struct storage_ring_op *op, int code)
{
	struct slot *s = (struct slot *)(void *)op;

	image_leave(s->queue->image, s->ticket);
	s->in_ring = false;
	s->queue->nring--;
	if (code == -ECANCELED)
		complete(s, error_set(s->request->err, code, "the request was cancelled"));
	else if (code < 0)
		start_slowly(s);
	else
		complete(s, 0);
}

/* false: it isn't in the ring. */
static bool put_in_ring(struct slot *s, struct qcow2_storage store, uint64_t host_off, uint64_t len)
{
	struct qcow2_queue *q = s->queue;
	const struct qcow2_request *r = s->request;

	s->ring_op.write = r->op == QCOW2_OP_WRITE;
	s->ring_op.iov = r->iov;
	s->ring_op.iovcnt = r->iovcnt;
	s->ring_op.len_bytes = len;
	s->ring_op.host_off = host_off;
	s->ring_op.done = ring_done;
	if (!storage_ring_put(q->ring, store, &s->ring_op))
		return false;
	storage_event(store, s->ring_op.write ? QCOW2_EVENT_WRITE_AIO : QCOW2_EVENT_READ_AIO);
	s->in_ring = true;
	q->nring++;
	return true;
}

static bool start_read(struct slot *s, uint64_t len, bool *over)
{
	const struct qcow2_image *image = s->queue->image;
	const struct qcow2_request *r = s->request;
	struct iov_cursor cur;
	struct data_run run;

	if (image_check_range(image, r->guest_off, len, NULL) < 0 ||
	    data_map_cached(&image->layers, r->guest_off, len, &run) < 0 ||
	    run.run.len_bytes < len || run.run.kind == DISK_RUN_COMPRESSED)
		return false;
	if (run.run.kind == DISK_RUN_DATA)
		return s->queue->ring && put_in_ring(s, run.run.store, run.run.host_off, len);
	iov_cursor_init(&cur, r->iov, r->iovcnt);
	iov_fill(&cur, 0, (size_t)len);
	*over = true;
	return true;
}

static bool start_write(struct slot *s, uint64_t len)
{
	const struct qcow2_image *image = s->queue->image;
	const struct qcow2_request *r = s->request;
	uint64_t host_off = r->guest_off;

	if (!s->queue->ring || r->flags || image->flags & QCOW2_OPEN_WRITETHROUGH ||
	    image_check_writable(image, NULL) < 0 ||
	    image_check_range(image, r->guest_off, len, NULL) < 0)
		return false;
	if (!image->qcow2)
		return put_in_ring(s, disk_raw_store(image->disk), host_off, len);
	return data_find_in_place(image->qcow2->writer, r->guest_off, len, &host_off) == 0 &&
	       meta_bitmaps_try_mark(&image->qcow2->meta, r->guest_off, len) &&
	       put_in_ring(s, image->qcow2->meta.data, host_off, len);
}

/* false: it is for the slow path. */
static bool start_fast(struct slot *s)
{
	const struct qcow2_request *r = s->request;
	const struct qcow2_image *image = s->queue->image;
	bool over = false, started = false;
	uint64_t len;

	if ((r->op != QCOW2_OP_READ && r->op != QCOW2_OP_WRITE) ||
	    !iov_total(r->iov, r->iovcnt, &len) || len == 0 || !image_try_enter(image, &s->ticket))
		return false;
	if (r->op == QCOW2_OP_READ)
		started = start_read(s, len, &over);
	else
		started = start_write(s, len);
	if (!started || over)
		image_leave(image, s->ticket);
	if (over)
		complete(s, 0);
	return started;
}

/* ---- the calls ---- */

int qcow2_queue_submit(struct qcow2_queue *queue, struct qcow2_request *const *requests, size_t n,
		       struct qcow2_error *err)
{
	if (n > queue->nidle)
		return error_set(err, -EAGAIN,
				 "%zu requests and the %u that are in the queue are more than its "
				 "depth of %u",
				 n, queue->depth - queue->nidle, queue->depth);
	queue->nidle -= (unsigned)n;
	for (size_t i = 0; i < n; i++) {
		struct slot *s = queue->idle;

		queue->idle = s->next;
		s->request = requests[i];
		requests[i]->slot = s;
		if (!start_fast(s))
			start_slowly(s);
	}
	if (queue->nring > 0)
		storage_ring_submit(queue->ring);
	if (queue->ready && queue->has_watcher)
		signal_event(queue);
	return 0;
}

/* Sleeps until a thread has done a job. */
static void wait_for_job(struct qcow2_queue *q)
{
	pthread_mutex_lock(&q->lock);
	while (!q->finished)
		pthread_cond_wait(&q->more, &q->lock);
	pthread_mutex_unlock(&q->lock);
}

static void set_wants_event(struct qcow2_queue *q, bool wants)
{
	pthread_mutex_lock(&q->lock);
	q->wants_event = wants;
	if (wants && q->finished)
		signal_event(q);
	pthread_mutex_unlock(&q->lock);
}

static void drain_event(const struct qcow2_queue *q)
{
	eventfd_t count;

	(void)eventfd_read(q->event_fd, &count); /* it doesn't block: there may be nothing */
}

/* Sleeps until either has something. */
static void wait_for_either(struct qcow2_queue *q)
{
	struct pollfd fds[] = {
		{.fd = storage_ring_fd(q->ring), .events = POLLIN},
		{.fd = q->event_fd, .events = POLLIN},
	};

	work_pool_wake(q->pool); /* this thread won't run what was left for it */
	set_wants_event(q, true);
	(void)poll(fds, ARRAY_LEN(fds), -1);
	set_wants_event(q, q->has_watcher);
	if (!q->has_watcher)
		drain_event(q);
}

static void wait_for_some(struct qcow2_queue *q)
{
	struct work_job *job;

	if (q->njobs == 0) {
		storage_ring_reap(q->ring, true);
		return;
	}
	if (q->nring > 0) {
		wait_for_either(q);
		return;
	}
	job = work_pool_take(q->pool);
	if (job)
		job->run(job);
	else
		wait_for_job(q);
}

/* What has completed, the first of it first. NULL: nothing. */
static struct qcow2_request *next_ready(struct qcow2_queue *q)
{
	struct qcow2_request *r = q->ready;

	if (!r)
		return NULL;
	q->ready = r->next;
	if (!q->ready)
		q->ready_end = &q->ready;
	q->nidle++;
	return r;
}

/* Gives how many it handed out, either way; of those n were put into requests. */
static size_t hand_out(struct qcow2_queue *q, struct qcow2_request **requests, size_t max,
		       size_t *n)
{
	size_t all = 0;

	while (q->ready && (q->ready->done || *n < max)) {
		struct qcow2_request *r = next_ready(q);

		all++;
		if (r->done)
			r->done(r);
		else
			requests[(*n)++] = r;
	}
	return all;
}

static void collect(struct qcow2_queue *q)
{
	if (q->nring > 0)
		storage_ring_reap(q->ring, false);
	if (q->njobs > 0)
		take_finished(q);
}

size_t qcow2_queue_poll(struct qcow2_queue *queue, struct qcow2_request **requests, size_t max,
			size_t min_done)
{
	size_t all = 0, n = 0;

	if (queue->has_watcher)
		drain_event(queue);
	for (;;) {
		collect(queue);
		all += hand_out(queue, requests, max, &n);
		if (all >= min_done || queue->ready || queue->nring + queue->njobs == 0)
			break;
		wait_for_some(queue);
	}
	if (queue->ready && queue->has_watcher)
		signal_event(queue);
	return n;
}

void qcow2_queue_cancel(struct qcow2_queue *queue, struct qcow2_request *request)
{
	struct slot *s = request->slot;

	if (!s)
		return;
	if (s->in_ring) {
		storage_ring_cancel(queue->ring, &s->ring_op);
	} else if (work_pool_drop(queue->pool, &s->job)) {
		queue->njobs--;
		complete(s, error_set(request->err, -ECANCELED, "the request was cancelled"));
		if (queue->has_watcher)
			signal_event(queue);
	}
}

const char *qcow2_queue_engine(const struct qcow2_queue *queue)
{
	return queue->ring ? "io_uring" : "threads";
}

int qcow2_queue_fd(struct qcow2_queue *queue, struct qcow2_error *err)
{
	int ret = 0;

	if (queue->event_fd < 0)
		return error_set(err, -EMFILE, "there was no descriptor for the queue's events");
	if (queue->ring && !queue->has_watcher)
		ret = storage_ring_watch(queue->ring, queue->event_fd);
	if (ret < 0)
		return error_errno(err, ret, "can't be told of the ring's events");
	queue->has_watcher = true;
	set_wants_event(queue, true);
	return queue->event_fd;
}

/* ---- making and freeing ---- */

void qcow2_queue_free(struct qcow2_queue *queue)
{
	if (!queue)
		return;
	while (queue->ready || queue->nring + queue->njobs > 0) {
		struct qcow2_request *r;

		while ((r = next_ready(queue)) != NULL) {
			if (r->done)
				r->done(r);
		}
		if (queue->nring + queue->njobs > 0)
			wait_for_some(queue);
		collect(queue);
	}
	work_pool_free(queue->pool);
	storage_ring_free(queue->ring);
	if (queue->event_fd >= 0)
		close(queue->event_fd);
	pthread_cond_destroy(&queue->more);
	pthread_mutex_destroy(&queue->lock);
	mem_free(queue->slots);
	mem_free(queue);
}

static void make_slots(struct qcow2_queue *q)
{
	for (unsigned i = q->depth; i-- > 0;) {
		q->slots[i].queue = q;
		q->slots[i].next = q->idle;
		q->idle = &q->slots[i];
	}
	q->nidle = q->depth;
}

int qcow2_queue_new(struct qcow2_queue **queue, struct qcow2_image *image,
		    const struct qcow2_queue_options *options, struct qcow2_error *err)
{
	struct qcow2_queue_options o = QCOW2_QUEUE_OPTIONS_INIT;
	int ret = OPTIONS_TAKE(&o, options, "queue options", err);
	struct qcow2_queue *q;

	*queue = NULL;
	if (ret == 0)
		ret = image_check_readable(image, err);
	if (ret == 0 && (o.flags & ~QCOW2_QUEUE_THREADS || o.depth > DEPTH_MAX))
		ret = error_set(err, -EINVAL, "a queue has a depth of 1 to %u, and flags 0x%x",
				DEPTH_MAX, QCOW2_QUEUE_THREADS);
	if (ret < 0)
		return ret;
	q = mem_zalloc(1, sizeof(*q));
	if (!q)
		return error_errno(err, -ENOMEM, "can't make a queue");
	q->image = image;
	q->depth = o.depth ? o.depth : DEPTH_DEFAULT;
	q->ready_end = &q->ready;
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->more, NULL);
	q->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->slots = mem_zalloc(q->depth, sizeof(*q->slots));
	q->pool = work_pool_new(o.threads ? o.threads
					  : (unsigned)min_u64(work_cpus(), THREADS_DEFAULT_MAX));
	if (!q->slots || !q->pool) {
		qcow2_queue_free(q);
		return error_errno(err, -ENOMEM, "can't make a queue");
	}
	make_slots(q);
	/* without it all is done by threads, which is no failure */
	if (!(o.flags & QCOW2_QUEUE_THREADS) && q->event_fd >= 0)
		(void)storage_ring_new(&q->ring, q->depth, NULL);
	*queue = q;
	return 0;
}
