/* SPDX-License-Identifier: MIT */
/*
 * Requests on one image through the library's blocking calls, DEPTH threads at a time: what
 * `qemu-img bench` does, with that command's option letters, so that both can be given the same.
 *
 *	io_bench [OPTION...] IMAGE
 *
 *	-f FORMAT	of the image (default qcow2)
 *	-l		the limit: the same calls with plain pread and pwrite on a raw file
 *	-b FILE		of the limit: the first write to each 64 KiB reads them from this raw file,
 *			and writes them whole
 *	-w		write (default: read)
 *	-c COUNT	requests (default 75000)
 *	-d DEPTH	threads, each with one request at a time (default 1)
 *	-q		one thread with DEPTH requests in a queue instead
 *	-i ENGINE	of the queue: io_uring (default) or threads
 *	-s SIZE		bytes of a request (default 4096)
 *	-S STEP		from the start of a request to that of the next (default SIZE)
 *	-o OFFSET	of the first request
 *	-r SEED		requests at random multiples of SIZE rather than in steps
 *	-t CACHE	writeback (default), none (O_DIRECT), writethrough, unsafe (never flush)
 *	-F, --flush-interval N	a flush after every N-th request; with DEPTH 1 only
 *	--pattern BYTE	what is written
 *
 * Offsets go round at the end of the disk. Requests are begun in their order, whatever the depth.
 * Backing files and data files are followed. Prints the seconds that the requests took, and those
 * of closing, which brings to the file what is still in memory.
 *
 * It doesn't look at what it reads and doesn't check the image: bench/run does that, off the clock.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "qcow2.h"

#define DEPTH_MAX 1024
#define ALIGN 4096 /* of buffers, for O_DIRECT */
#define CLUSTER_SIZE 65536

struct options {
	const char *path, *format, *below;
	uint64_t count, size, step, first_off, seed, flush_interval;
	unsigned depth;
	int pattern;
	bool limit, write, is_random, direct, sync, no_flush, queue, queue_threads;
};

/* What is measured: either an image or, for the limit, a descriptor. */
struct target {
	const struct options *o;
	struct qcow2_image *image;
	int fd, below;
	atomic_uchar *copied; /* for each 64 KiB, whether they came from below */
	uint64_t disk_bytes;
	atomic_uint_fast64_t next; /* request */
};

static void die(const char *what)
{
	fprintf(stderr, "io_bench: %s\n", what);
	exit(1);
}

static void die_errno(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- one request ---- */

/* The n-th value of a random sequence (splitmix64): any thread can ask for any of them. */
static uint64_t random_at(uint64_t seed, uint64_t n)
{
	uint64_t z = (seed << 32) + (n + 1) * 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static uint64_t offset_of(const struct target *t, uint64_t n)
{
	const struct options *o = t->o;

	if (o->is_random)
		return random_at(o->seed, n) % (t->disk_bytes / o->size) * o->size;
	return (o->first_off + n * o->step) % t->disk_bytes;
}

static void request_of_image(struct target *t, uint8_t *buf, uint64_t off)
{
	const struct options *o = t->o;
	struct qcow2_error err;
	int ret = o->write ? qcow2_pwrite(t->image, buf, o->size, off, 0, &err)
			   : qcow2_pread(t->image, buf, o->size, off, &err);

	if (ret < 0)
		die(err.message);
}

/* What writing into a cluster that lies in a backing file can't do without. */
static void copy_on_write(const struct target *t, const uint8_t *buf, uint64_t off)
{
	off_t start = (off_t)(off / CLUSTER_SIZE * CLUSTER_SIZE);
	_Alignas(ALIGN) uint8_t cluster[CLUSTER_SIZE];

	if (pread(t->below, cluster, sizeof(cluster), start) != (ssize_t)sizeof(cluster))
		die("the file below can't be read");
	memcpy(cluster + off % CLUSTER_SIZE, buf, t->o->size);
	if (pwrite(t->fd, cluster, sizeof(cluster), start) != (ssize_t)sizeof(cluster))
		die("a cluster can't be written");
}

static void request_of_file(struct target *t, uint8_t *buf, uint64_t off)
{
	const struct options *o = t->o;
	ssize_t n;

	if (o->below && !atomic_exchange(&t->copied[off / CLUSTER_SIZE], 1)) {
		copy_on_write(t, buf, off);
		return;
	}
	n = o->write ? pwrite(t->fd, buf, o->size, (off_t)off)
		     : pread(t->fd, buf, o->size, (off_t)off);

	if (n != (ssize_t)o->size)
		die("a request on the file wasn't carried out whole");
}

static void flush(struct target *t)
{
	struct qcow2_error err;

	if (t->o->limit && !t->o->no_flush && fdatasync(t->fd) != 0)
		die_errno("fdatasync");
	if (!t->o->limit && qcow2_flush(t->image, &err) < 0)
		die(err.message);
}

static void *run_requests(void *opaque)
{
	struct target *t = opaque;
	const struct options *o = t->o;
	uint8_t *buf = aligned_alloc(ALIGN, (o->size + ALIGN - 1) / ALIGN * ALIGN);
	uint64_t n;

	if (!buf)
		die("no memory");
	memset(buf, o->pattern, o->size);
	while ((n = atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed)) < o->count) {
		if (o->limit)
			request_of_file(t, buf, offset_of(t, n));
		else
			request_of_image(t, buf, offset_of(t, n));
		if (o->flush_interval && (n + 1) % o->flush_interval == 0)
			flush(t);
	}
	free(buf);
	return NULL;
}

/* ---- a queue of requests ---- */

struct queued {
	struct qcow2_request request;
	struct iovec iov;
	struct qcow2_error err;
};

static struct qcow2_queue *new_queue(const struct target *t)
{
	struct qcow2_queue_options how = QCOW2_QUEUE_OPTIONS_INIT;
	struct qcow2_queue *queue;
	struct qcow2_error err;

	how.depth = t->o->depth;
	how.flags = t->o->queue_threads ? QCOW2_QUEUE_THREADS : 0;
	if (qcow2_queue_new(&queue, t->image, &how, &err) < 0)
		die(err.message);
	return queue;
}

static struct queued *new_requests(const struct options *o)
{
	struct queued *all = calloc(o->depth, sizeof(*all));

	for (unsigned i = 0; all && i < o->depth; i++) {
		all[i].iov.iov_base = aligned_alloc(ALIGN, (o->size + ALIGN - 1) / ALIGN * ALIGN);
		if (!all[i].iov.iov_base)
			die("no memory");
		memset(all[i].iov.iov_base, o->pattern, o->size);
		all[i].iov.iov_len = o->size;
		all[i].request = (struct qcow2_request){
			.op = o->write ? QCOW2_OP_WRITE : QCOW2_OP_READ,
			.iov = &all[i].iov,
			.iovcnt = 1,
			.err = &all[i].err,
		};
	}
	if (!all)
		die("no memory");
	return all;
}

static void run_queue(struct target *t)
{
	const struct options *o = t->o;
	struct qcow2_queue *queue = new_queue(t);
	struct queued *all = new_requests(o);
	struct qcow2_request *batch[DEPTH_MAX];
	uint64_t n = 0, done = 0;
	size_t nbatch;

	for (nbatch = 0; nbatch < o->depth && nbatch < o->count; nbatch++)
		batch[nbatch] = &all[nbatch].request;
	while (done < o->count) {
		for (size_t i = 0; i < nbatch; i++)
			batch[i]->guest_off = offset_of(t, n++);
		if (qcow2_queue_submit(queue, batch, nbatch, NULL) < 0)
			die("the queue is full");
		nbatch = qcow2_queue_poll(queue, batch, o->depth, 1);
		for (size_t i = 0; i < nbatch; i++) {
			if (batch[i]->result < 0)
				die(batch[i]->err->message);
		}
		done += nbatch;
		if (nbatch > o->count - n)
			nbatch = (size_t)(o->count - n);
	}
	qcow2_queue_free(queue);
	for (unsigned i = 0; i < o->depth; i++)
		free(all[i].iov.iov_base);
	free(all);
}

/* This thread is one of them. */
static void run_threads(struct target *t)
{
	pthread_t threads[DEPTH_MAX];
	unsigned others = t->o->depth - 1;

	for (unsigned i = 0; i < others; i++) {
		if (pthread_create(&threads[i], NULL, run_requests, t) != 0)
			die("a thread can't be made");
	}
	run_requests(t);
	for (unsigned i = 0; i < others; i++)
		pthread_join(threads[i], NULL);
}

/* ---- opening and closing ---- */

static void open_file(struct target *t)
{
	const struct options *o = t->o;
	int how = (o->write ? O_RDWR : O_RDONLY) | O_CLOEXEC;
	off_t end;

	how |= (o->direct ? O_DIRECT : 0) | (o->sync ? O_DSYNC : 0);
	t->fd = open(o->path, how);
	if (t->fd < 0)
		die_errno(o->path);
	end = lseek(t->fd, 0, SEEK_END);
	if (end < 0)
		die_errno(o->path);
	t->disk_bytes = (uint64_t)end;
	if (!o->below)
		return;
	t->below = open(o->below, O_RDONLY | O_CLOEXEC);
	t->copied = calloc(t->disk_bytes / CLUSTER_SIZE + 1, sizeof(*t->copied));
	if (t->below < 0 || !t->copied)
		die_errno(o->below);
}

static void open_image(struct target *t)
{
	struct qcow2_open_options how = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	const struct options *o = t->o;
	struct qcow2_error err;

	policy.follow = QCOW2_FOLLOW_LOCAL;
	how.policy = &policy;
	how.format = o->format;
	how.flags = (o->write ? QCOW2_OPEN_WRITE : 0) | (o->direct ? QCOW2_OPEN_DIRECT : 0) |
		    (o->sync ? QCOW2_OPEN_WRITETHROUGH : 0) |
		    (o->no_flush ? QCOW2_OPEN_NO_FLUSH : 0);
	if (qcow2_open(&t->image, o->path, &how, &err) < 0)
		die(err.message);
	t->disk_bytes = qcow2_size(t->image);
}

static void close_target(struct target *t)
{
	struct qcow2_error err;

	if (t->o->write)
		flush(t);
	if (t->image && qcow2_finish(t->image, &err) < 0)
		die(err.message);
	qcow2_close(t->image);
	if (t->fd >= 0)
		close(t->fd);
	if (t->below >= 0)
		close(t->below);
	free(t->copied);
}

/* ---- the command line ---- */

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(text, &end, 0);
	if (errno != 0 || *end || end == text || *text == '-')
		die("an option wants a number");
	return n;
}

static void set_cache(struct options *o, const char *mode)
{
	if (strcmp(mode, "none") == 0)
		o->direct = true;
	else if (strcmp(mode, "writethrough") == 0)
		o->sync = true;
	else if (strcmp(mode, "unsafe") == 0)
		o->no_flush = true;
	else if (strcmp(mode, "writeback") != 0)
		die("cache modes are writeback, none, writethrough, unsafe");
}

static void set_number(struct options *o, int letter, uint64_t n)
{
	switch (letter) {
	case 'c':
		o->count = n;
		break;
	case 'd':
		o->depth = n < DEPTH_MAX ? (unsigned)n : DEPTH_MAX;
		break;
	case 's':
		o->size = n;
		break;
	case 'S':
		o->step = n;
		break;
	case 'o':
		o->first_off = n;
		break;
	case 'r':
		o->seed = n;
		o->is_random = true;
		break;
	case 'F':
		o->flush_interval = n;
		break;
	case 'p':
		o->pattern = (int)(n & 0xff);
		break;
	default:
		die("usage: io_bench [OPTION...] IMAGE; the options are at the top of its source");
	}
}

static void parse(struct options *o, int argc, char **argv)
{
	static const struct option words[] = {
		{"flush-interval", required_argument, NULL, 'F'},
		{"pattern", required_argument, NULL, 'p'},
		{NULL, 0, NULL, 0},
	};
	int letter;

	while ((letter = getopt_long(argc, argv, "f:lb:wqc:d:i:s:S:o:r:t:F:", words, NULL)) != -1) {
		if (letter == 'f')
			o->format = optarg;
		else if (letter == 'l')
			o->limit = true;
		else if (letter == 'b')
			o->below = optarg;
		else if (letter == 'w')
			o->write = true;
		else if (letter == 'q')
			o->queue = true;
		else if (letter == 'i')
			o->queue_threads = strcmp(optarg, "threads") == 0;
		else if (letter == 't')
			set_cache(o, optarg);
		else
			set_number(o, letter, optarg ? number(optarg) : 0);
	}
	if (optind + 1 != argc)
		die("usage: io_bench [OPTION...] IMAGE; the options are at the top of its source");
	o->path = argv[optind];
	if (o->step == 0)
		o->step = o->size;
	if (o->size == 0 || o->depth == 0)
		die("no requests of no bytes, and none at a time of nothing");
	if (o->flush_interval && o->depth > 1)
		die("--flush-interval is for depth 1");
	if (o->below && (!o->limit || !o->write || CLUSTER_SIZE % o->size))
		die("-b is for the limit of small writes");
	if (o->queue && (o->limit || o->flush_interval))
		die("a queue is for images, and without --flush-interval");
}

/* Every request has to lie inside the disk: offsets go round, requests don't. */
static void check_fit(const struct target *t)
{
	const struct options *o = t->o;

	if (o->size > t->disk_bytes || t->disk_bytes % o->size || o->step % o->size ||
	    o->first_off % o->size)
		die("the disk, the step and the first offset have to be multiples of the size");
}

int main(int argc, char **argv)
{
	struct options o = {.format = "qcow2", .count = 75000, .depth = 1, .size = 4096};
	struct target t = {.o = &o, .fd = -1, .below = -1};
	double start, middle, end;

	parse(&o, argc, argv);
	if (o.limit)
		open_file(&t);
	else
		open_image(&t);
	check_fit(&t);
	start = now();
	if (o.queue)
		run_queue(&t);
	else
		run_threads(&t);
	middle = now();
	close_target(&t);
	end = now();
	printf("%" PRIu64 " requests in %.6f seconds, closed in %.6f\n", o.count, middle - start,
	       end - middle);
	return 0;
}
