/* SPDX-License-Identifier: MIT */
/*
 * Queues: many requests in flight from one thread, on io_uring and on threads alike, have the
 * effects and the errors of the blocking calls.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "image_tmp.h"

#define SIZE (8u << 20)
#define DEPTH 32
#define ROUNDS 1500
#define LEN_MAX (192u * 1024)

/* A request with what belongs to it. */
struct asked {
	struct qcow2_request r;
	struct iovec iov[3];
	struct qcow2_error err;
	uint8_t *buf;
	uint64_t len;
	bool busy;
	unsigned calls;
};

struct world {
	struct qcow2_image *image;
	struct qcow2_queue *queue;
	uint8_t *disk; /* what it has to read as */
	struct asked asked[DEPTH];
	uint64_t seed;
};

static struct qcow2_image *open_for_writing(const char *path, const char *format, unsigned flags)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_image *image;
	struct qcow2_error err = {0};

	policy.follow = QCOW2_FOLLOW_LOCAL;
	options.policy = &policy;
	options.format = format;
	options.flags = QCOW2_OPEN_WRITE | flags;
	if (qcow2_open(&image, path, &options, &err) < 0)
		fail_msg("%s", err.message);
	return image;
}

static struct qcow2_queue *new_queue(struct qcow2_image *image, unsigned flags, unsigned depth)
{
	struct qcow2_queue_options options = QCOW2_QUEUE_OPTIONS_INIT;
	struct qcow2_queue *queue;
	struct qcow2_error err = {0};

	options.flags = flags;
	options.depth = depth;
	options.threads = 3;
	if (qcow2_queue_new(&queue, image, &options, &err) < 0)
		fail_msg("%s", err.message);
	return queue;
}

/* ---- random requests against a flat reference ---- */

static bool overlaps(const struct world *w, uint64_t off, uint64_t len)
{
	for (unsigned i = 0; i < DEPTH; i++) {
		const struct asked *a = &w->asked[i];

		if (a->busy && off < a->r.guest_off + a->len && a->r.guest_off < off + len)
			return true;
	}
	return false;
}

/* The buffer in up to three pieces. */
static void cut(struct world *w, struct asked *a)
{
	size_t first = image_tmp_random(&w->seed) % (a->len + 1) / 512 * 512;
	size_t second = image_tmp_random(&w->seed) % (a->len - first + 1) / 512 * 512;

	if (image_tmp_random(&w->seed) % 2)
		first = second = 0;
	a->iov[0] = (struct iovec){a->buf, first};
	a->iov[1] = (struct iovec){a->buf + first, second};
	a->iov[2] = (struct iovec){a->buf + first + second, a->len - first - second};
	a->r.iov = a->iov;
	a->r.iovcnt = 3;
}

static void think_of(struct world *w, struct asked *a)
{
	unsigned kind = image_tmp_random(&w->seed) % 10;

	do {
		uint64_t max = 1 + ((uint64_t)LEN_MAX >> image_tmp_random(&w->seed) % 9);

		a->len = (image_tmp_random(&w->seed) % max / 512 + 1) * 512;
		a->r.guest_off = image_tmp_random(&w->seed) % (SIZE - a->len + 1) / 512 * 512;
	} while (overlaps(w, a->r.guest_off, a->len));
	a->busy = true;
	a->r.err = &a->err;
	a->r.flags = 0;
	a->r.opaque = w;
	a->r.len_bytes = a->len;
	cut(w, a);
	if (kind < 4) {
		a->r.op = QCOW2_OP_READ;
		memset(a->buf, 0xee, a->len);
	} else if (kind < 8) {
		a->r.op = QCOW2_OP_WRITE;
		memset(a->buf, (int)(image_tmp_random(&w->seed) & 0xff), a->len);
		memcpy(w->disk + a->r.guest_off, a->buf, a->len);
	} else if (kind == 8) {
		a->r.op = QCOW2_OP_WRITE_ZEROES;
		a->r.flags = image_tmp_random(&w->seed) % 2 ? QCOW2_WRITE_MAY_UNMAP : 0;
		memset(w->disk + a->r.guest_off, 0, a->len);
	} else {
		a->r.op = QCOW2_OP_FLUSH;
	}
}

static void settle(struct world *w, struct asked *a)
{
	if (a->r.result < 0)
		fail_msg("operation %u at %llu: %s", a->r.op, (unsigned long long)a->r.guest_off,
			 a->err.message);
	if (a->r.op == QCOW2_OP_READ)
		assert_memory_equal(a->buf, w->disk + a->r.guest_off, a->len);
	a->busy = false;
}

static void settle_in_callback(struct qcow2_request *r)
{
	struct asked *a = (struct asked *)r;

	a->calls++;
	settle(r->opaque, a);
}

static void run_random(struct world *w)
{
	struct qcow2_request *batch[DEPTH], *done[DEPTH];
	unsigned left = ROUNDS;
	bool busy = true;

	while (busy) {
		size_t n = 0;

		for (unsigned i = 0; i < DEPTH && left > 0; i++) {
			if (w->asked[i].busy)
				continue;
			think_of(w, &w->asked[i]);
			w->asked[i].r.done = i % 2 ? settle_in_callback : NULL;
			batch[n++] = &w->asked[i].r;
			left--;
		}
		assert_int_equal(qcow2_queue_submit(w->queue, batch, n, NULL), 0);
		n = qcow2_queue_poll(w->queue, done, DEPTH / 4, image_tmp_random(&w->seed) % 4);
		for (size_t i = 0; i < n; i++)
			settle(w, (struct asked *)done[i]);
		busy = left > 0;
		for (unsigned i = 0; i < DEPTH; i++)
			busy |= w->asked[i].busy;
	}
}

static void check_disk(struct qcow2_image *image, const uint8_t *expected)
{
	uint8_t *all = malloc(SIZE);

	assert_int_equal(qcow2_pread(image, all, SIZE, 0, NULL), 0);
	assert_memory_equal(all, expected, SIZE);
	free(all);
}

static void random_requests(struct qcow2_image *image, unsigned flags)
{
	struct world w = {.image = image, .seed = 88172645463325252ull};

	w.disk = malloc(SIZE);
	assert_int_equal(qcow2_pread(image, w.disk, SIZE, 0, NULL), 0);
	for (unsigned i = 0; i < DEPTH; i++)
		assert_int_equal(posix_memalign((void **)&w.asked[i].buf, 4096, LEN_MAX), 0);
	w.queue = new_queue(image, flags, DEPTH);
	run_random(&w);
	qcow2_queue_free(w.queue);
	check_disk(image, w.disk);
	for (unsigned i = 0; i < DEPTH; i++)
		free(w.asked[i].buf);
	free(w.disk);
}

static const struct kind {
	const char *format, *options;
	bool backed;
	unsigned open_flags;
} kinds[] = {
	{"raw", NULL, false, 0},
	{"qcow2", "cluster_size=64k", false, 0},
	{"qcow2", "preallocation=metadata,cluster_size=4k", false, 0},
	{"qcow2", "cluster_size=64k", true, 0},
	{"qcow2", "extended_l2=on,cluster_size=64k", true, QCOW2_OPEN_DIRECT},
	{"qcow2", "preallocation=full,cluster_size=64k", false, QCOW2_OPEN_DIRECT},
};

static void make(void **state, const struct kind *k, char **path)
{
	char *base = image_tmp_path(state, "base.raw");
	char size[32];

	*path = image_tmp_path(state, "disk");
	image_tmp_make_raw(base, SIZE, 4711);
	snprintf(size, sizeof(size), "%u", SIZE);
	if (!k->options)
		image_tmp_make_raw(*path, SIZE, 4712);
	else if (k->backed)
		assert_int_equal(QEMU_IMG("create", "-f", "qcow2", "-o", k->options, "-b", base,
					  "-F", "raw", *path),
				 0);
	else
		assert_int_equal(QEMU_IMG("create", "-f", "qcow2", "-o", k->options, *path, size),
				 0);
	free(base);
}

static void test_random_requests(void **state)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		for (unsigned threads = 0; threads < 2; threads++) {
			const struct kind *k = &kinds[i];
			struct qcow2_image *image;
			char *path;

			make(state, k, &path);
			image = open_for_writing(path, k->format,
						 k->open_flags | QCOW2_OPEN_NO_FLUSH);
			random_requests(image, threads ? QCOW2_QUEUE_THREADS : 0);
			assert_int_equal(qcow2_finish(image, NULL), 0);
			qcow2_close(image);
			if (k->options)
				assert_int_equal(QEMU_IMG("check", "-f", "qcow2", path), 0);
			unlink(path);
			free(path);
		}
	}
}

/* ---- errors and limits ---- */

static void ask(struct asked *a, enum qcow2_op op, uint64_t off, uint64_t len)
{
	memset(&a->r, 0, sizeof(a->r));
	a->buf = realloc(a->buf, len + 1);
	a->iov[0] = (struct iovec){a->buf, len};
	a->r = (struct qcow2_request){.op = op,
				      .guest_off = off,
				      .len_bytes = len,
				      .iov = a->iov,
				      .iovcnt = 1,
				      .err = &a->err};
}

static void wait_for(struct qcow2_queue *queue, struct asked *a)
{
	struct qcow2_request *r = &a->r, *done;

	assert_int_equal(qcow2_queue_submit(queue, &r, 1, NULL), 0);
	assert_int_equal(qcow2_queue_poll(queue, &done, 1, 1), 1);
	assert_ptr_equal(done, r);
}

static void test_errors_and_limits(void **state)
{
	char *path = image_tmp_path(state, "disk");
	struct asked a[4] = {0};
	struct qcow2_request *r[4], *done[4];
	struct qcow2_image *image;
	struct qcow2_error err;
	struct qcow2_queue *q;

	assert_int_equal(QEMU_IMG("create", "-f", "qcow2", path, "1M"), 0);
	image = image_tmp_open(path, "qcow2");
	for (unsigned threads = 0; threads < 2; threads++) {
		q = new_queue(image, threads ? QCOW2_QUEUE_THREADS : 0, 3);
		ask(&a[0], QCOW2_OP_READ, 1 << 20, 512);
		wait_for(q, &a[0]);
		assert_int_equal(a[0].r.result, -EINVAL);
		assert_non_null(strstr(a[0].err.message, "passes the end of the disk"));
		ask(&a[0], QCOW2_OP_WRITE, 0, 512);
		wait_for(q, &a[0]);
		assert_int_equal(a[0].r.result, -EACCES);
		ask(&a[0], (enum qcow2_op)99, 0, 512);
		wait_for(q, &a[0]);
		assert_int_equal(a[0].r.result, -EINVAL);
		/* no more than its depth, until they are handed out */
		for (unsigned i = 0; i < 4; i++) {
			ask(&a[i], QCOW2_OP_READ, 0, 512);
			r[i] = &a[i].r;
		}
		assert_int_equal(qcow2_queue_submit(q, r, 4, &err), -EAGAIN);
		assert_non_null(strstr(err.message, "depth of 3"));
		assert_int_equal(qcow2_queue_submit(q, r, 3, &err), 0);
		assert_int_equal(qcow2_queue_submit(q, r + 3, 1, &err), -EAGAIN);
		assert_int_equal(qcow2_queue_poll(q, done, 2, 3), 2);
		assert_int_equal(qcow2_queue_submit(q, r + 3, 1, &err), 0);
		assert_int_equal(qcow2_queue_poll(q, done, 4, 9), 2);
		assert_int_equal(qcow2_queue_poll(q, done, 4, 1), 0); /* nothing is in flight */
		qcow2_queue_free(q);
	}
	for (unsigned i = 0; i < 4; i++)
		free(a[i].buf);
	qcow2_close(image);
	free(path);
}

static void count_in_callback(struct qcow2_request *r)
{
	((struct asked *)r)->calls++;
}

static void test_what_is_left_ends_with_the_queue(void **state)
{
	char *path = image_tmp_path(state, "disk");
	struct asked a[8] = {0};
	struct qcow2_request *r[8];
	struct qcow2_image *image;
	struct qcow2_queue *q;

	assert_int_equal(QEMU_IMG("create", "-f", "qcow2", path, "1M"), 0);
	image = open_for_writing(path, "qcow2", 0);
	q = new_queue(image, 0, 8);
	for (unsigned i = 0; i < 8; i++) {
		ask(&a[i], QCOW2_OP_WRITE, i * 65536, 65536);
		memset(a[i].buf, (int)i, 65536);
		a[i].r.done = count_in_callback;
		r[i] = &a[i].r;
	}
	assert_int_equal(qcow2_queue_submit(q, r, 8, NULL), 0);
	qcow2_queue_cancel(q, r[7]);
	qcow2_queue_free(q);
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(a[i].calls, 1);
		/* too late or not, it completes */
		assert_true(a[i].r.result == 0 || (i == 7 && a[i].r.result == -ECANCELED));
		free(a[i].buf);
	}
	qcow2_close(image);
	free(path);
}

/* ---- an event loop ---- */

static void test_a_descriptor_tells_of_what_completed(void **state)
{
	char *path = image_tmp_path(state, "disk");
	struct asked a[16] = {0};
	struct qcow2_request *r[16], *done[3];
	struct qcow2_image *image;
	struct qcow2_queue *q;
	struct pollfd fd;
	unsigned ndone;

	assert_int_equal(QEMU_IMG("create", "-f", "qcow2", path, "1M"), 0);
	image = open_for_writing(path, "qcow2", 0);
	for (unsigned threads = 0; threads < 2; threads++) {
		q = new_queue(image, threads ? QCOW2_QUEUE_THREADS : 0, 16);
		fd = (struct pollfd){.fd = qcow2_queue_fd(q, NULL), .events = POLLIN};
		assert_true(fd.fd >= 0);
		assert_int_equal(poll(&fd, 1, 0), 0);
		for (unsigned i = 0; i < 16; i++) {
			ask(&a[i], i % 3 ? QCOW2_OP_WRITE : QCOW2_OP_READ, i * 65536, 4096);
			memset(a[i].buf, 1, 4096);
			r[i] = &a[i].r;
		}
		assert_int_equal(qcow2_queue_submit(q, r, 16, NULL), 0);
		for (ndone = 0; ndone < 16;) {
			int n = poll(&fd, 1, 10000);

			assert_true(n == 1 || (n < 0 && errno == EINTR));
			ndone += (unsigned)qcow2_queue_poll(q, done, 3, 0);
		}
		qcow2_queue_free(q);
	}
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(a[i].r.result, 0);
		free(a[i].buf);
	}
	qcow2_close(image);
	free(path);
}

/* ---- beside others ---- */

struct resizer {
	struct qcow2_image *image;
	atomic_bool stop;
	atomic_uint failures;
};

static void *keep_resizing(void *opaque)
{
	struct resizer *z = opaque;

	for (unsigned i = 0; !atomic_load(&z->stop); i++) {
		if (qcow2_resize(z->image, SIZE + i % 3 * 65536, 0, QCOW2_RESIZE_SHRINK, NULL) < 0)
			atomic_fetch_add(&z->failures, 1);
	}
	return NULL;
}

static void test_beside_a_thread_that_resizes(void **state)
{
	const struct kind k = {"qcow2", "cluster_size=64k", true, 0};
	struct resizer z = {0};
	pthread_t thread;
	char *path;

	make(state, &k, &path);
	z.image = open_for_writing(path, "qcow2", QCOW2_OPEN_NO_FLUSH);
	assert_int_equal(pthread_create(&thread, NULL, keep_resizing, &z), 0);
	random_requests(z.image, 0);
	atomic_store(&z.stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&z.failures), 0);
	qcow2_close(z.image);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_random_requests),
		IMAGE_TEST(test_errors_and_limits),
		IMAGE_TEST(test_what_is_left_ends_with_the_queue),
		IMAGE_TEST(test_a_descriptor_tells_of_what_completed),
		IMAGE_TEST(test_beside_a_thread_that_resizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
