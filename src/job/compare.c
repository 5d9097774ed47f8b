/* SPDX-License-Identifier: MIT */
/*
 * Compare: do two disks read the same?
 *
 * Windows of the disk are taken by several threads in order; what is zero on both sides by their
 * maps, or the same bytes of the same file (two overlays of one base), is passed over, in one step
 * however long it is. Whatever ends the comparison, a difference
 * or a fault, has a place, and the first on the disk wins, whichever thread is first to meet one: a
 * thread goes on only with what lies before the best so far. So the answer is always the same.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/progress.h"
#include "base/work.h"
#include "base/zero.h"
#include "image/image.h"
#include "job/job.h"
#include "job/twin.h"

#define WINDOW (1024u * 1024)
#define THREADS_MAX 4

struct compare {
	/* immutable while the threads run */
	struct qcow2_image *images[2];
	struct job_files files[2];
	size_t step;	 /* what is read and compared at a time */
	uint64_t common; /* the smaller size */
	uint64_t size;	 /* the larger one */
	bool strict;
	const struct qcow2_progress *progress;
	/* guarded by lock */
	pthread_mutex_t lock;
	uint64_t next_off;
	struct qcow2_compare_result result; /* what is at limit: a difference, */
	int ret;			    /* or a fault */
	struct qcow2_error err;
	/* written under the lock, read at any time */
	_Atomic uint64_t limit; /* nothing from here on matters any more */
	/* atomic */
	_Atomic uint64_t done_bytes;
	/* of the calling thread */
	struct progress_ticker ticker;
};

/* The comparison can't go past guest_off; at 0 it ends at once. */
static void fail(struct compare *c, int ret, const struct qcow2_error *err, int image,
		 uint64_t guest_off)
{
	pthread_mutex_lock(&c->lock);
	if (guest_off < atomic_load(&c->limit)) {
		c->ret = ret;
		c->err = *err;
		c->result.verdict = QCOW2_COMPARE_SAME;
		c->result.guest_off = 0;
		c->result.failed_image = image;
		atomic_store(&c->limit, guest_off);
	}
	pthread_mutex_unlock(&c->lock);
}

static void differ(struct compare *c, enum qcow2_compare_verdict verdict, uint64_t guest_off)
{
	pthread_mutex_lock(&c->lock);
	if (guest_off < atomic_load(&c->limit)) {
		c->ret = 0;
		c->result.verdict = verdict;
		c->result.guest_off = guest_off;
		c->result.failed_image = 0;
		atomic_store(&c->limit, guest_off);
	}
	pthread_mutex_unlock(&c->lock);
}

static size_t first_difference(const uint8_t *a, const uint8_t *b, size_t len)
{
	size_t i = 0;

	while (i < len && a[i] == b[i])
		i++;
	return i;
}

/* ---- one run ---- */

struct run {
	bool zero;
	bool present;
	uint64_t len_bytes;
	struct data_run at; /* unless zero */
};

/* What an image has at guest_off; past its end it is zero and absent. */
static int look(struct compare *c, int i, uint64_t guest_off, struct run *run,
		struct qcow2_error *err)
{
	uint64_t size = qcow2_size(c->images[i]);
	struct data_run r;
	int ret;

	if (guest_off >= size) {
		*run = (struct run){.zero = true, .len_bytes = c->size - guest_off};
		return 0;
	}
	ret = image_map_zeros(&c->images[i]->layers, guest_off, size - guest_off, &r, err);
	if (ret < 0) {
		fail(c, ret, err, i, guest_off);
		return ret;
	}
	run->zero = r.run.kind == DISK_RUN_ZERO || r.run.kind == DISK_RUN_ABSENT;
	run->present = r.run.kind != DISK_RUN_ABSENT && !r.past_end;
	run->len_bytes = r.run.len_bytes;
	run->at = r;
	return 0;
}

/* Equal by what the maps say: zeros on both sides, or the same bytes of one file. */
static bool is_same(const struct compare *c, const struct run runs[2])
{
	if (runs[0].zero || runs[1].zero)
		return runs[0].zero && runs[1].zero;
	return job_is_twin(&c->files[0], &runs[0].at, &c->files[1], &runs[1].at);
}

static int read_side(struct compare *c, int i, uint8_t *buf, size_t len, uint64_t guest_off,
		     struct qcow2_error *err)
{
	int ret = qcow2_pread(c->images[i], buf, len, guest_off, err);

	if (ret < 0)
		fail(c, ret, err, i, guest_off);
	return ret;
}

static int compare_step(struct compare *c, uint64_t guest_off, const struct run *runs, size_t len,
			uint8_t *bufs[2], struct qcow2_error *err)
{
	size_t at;
	int ret;

	for (int i = 0; i < 2; i++) {
		if (runs[i].zero)
			continue;
		ret = read_side(c, i, bufs[i], len, guest_off, err);
		if (ret < 0)
			return ret;
	}
	if (runs[0].zero || runs[1].zero) {
		const uint8_t *data = bufs[runs[0].zero];

		if (bytes_are_zero(data, len))
			return 0;
		for (at = 0; data[at] == 0;)
			at++;
	} else {
		if (memcmp(bufs[0], bufs[1], len) == 0)
			return 0;
		at = first_difference(bufs[0], bufs[1], len);
	}
	differ(c, QCOW2_COMPARE_CONTENT, guest_off + at);
	return 0;
}

static bool is_packed(const struct run *run)
{
	return !run->zero && run->at.run.kind == DISK_RUN_COMPRESSED;
}

/* Compares len bytes that at least one side has data for. What is compressed is read whole. */
static int compare_bytes(struct compare *c, uint64_t guest_off, const struct run *runs, size_t len,
			 uint8_t *bufs[2], struct qcow2_error *err)
{
	size_t step = is_packed(&runs[0]) || is_packed(&runs[1]) ? len : c->step;
	uint64_t end = guest_off + len;
	int ret = 0;

	while (ret == 0 && guest_off < end && guest_off < atomic_load(&c->limit)) {
		len = (size_t)min_u64(step, end - guest_off);
		ret = compare_step(c, guest_off, runs, len, bufs, err);
		guest_off += len;
	}
	return ret;
}

/* Lets the next window begin behind a long run that needs no reading. */
static void skip_to(struct compare *c, uint64_t off)
{
	pthread_mutex_lock(&c->lock);
	if (off > c->next_off) {
		atomic_fetch_add(&c->done_bytes, off - c->next_off);
		c->next_off = off;
	}
	pthread_mutex_unlock(&c->lock);
}

static int compare_window(struct compare *c, uint64_t guest_off, uint8_t *bufs[2],
			  struct qcow2_error *err)
{
	uint64_t end = guest_off + min_u64(WINDOW, c->size - guest_off);
	struct run runs[2];
	uint64_t len;
	int ret = 0;

	while (ret == 0 && guest_off < end && guest_off < atomic_load(&c->limit)) {
		ret = look(c, 0, guest_off, &runs[0], err);
		if (ret == 0)
			ret = look(c, 1, guest_off, &runs[1], err);
		if (ret < 0)
			return ret;
		len = min_u64(runs[0].len_bytes, runs[1].len_bytes);
		if (c->strict && guest_off < c->common && runs[0].present != runs[1].present) {
			differ(c, QCOW2_COMPARE_ALLOCATION, guest_off);
			return 0;
		}
		if (is_same(c, runs)) {
			if (guest_off + len > end)
				skip_to(c, align_down(guest_off + len, WINDOW));
		} else {
			len = min_u64(len, end - guest_off);
			ret = compare_bytes(c, guest_off, runs, (size_t)len, bufs, err);
		}
		guest_off += len;
	}
	return ret;
}

/* ---- the threads ---- */

static bool take_window(struct compare *c, uint64_t *guest_off)
{
	bool more;

	pthread_mutex_lock(&c->lock);
	*guest_off = c->next_off;
	more = c->next_off < c->size && c->next_off < atomic_load(&c->limit);
	if (more)
		c->next_off += min_u64(WINDOW, c->size - c->next_off);
	pthread_mutex_unlock(&c->lock);
	return more;
}

static void tick(struct compare *c, bool last)
{
	struct qcow2_error err;

	if (progress_tell(&c->ticker, c->progress, min_u64(atomic_load(&c->done_bytes), c->size),
			  c->size, last) != 0) {
		error_set(&err, -ECANCELED, "canceled");
		fail(c, -ECANCELED, &err, 0, 0);
	}
}

static void run_thread(void *opaque, unsigned i)
{
	struct compare *c = opaque;
	cleanup_free uint8_t *a = mem_aligned(4096, WINDOW);
	cleanup_free uint8_t *b = mem_aligned(4096, WINDOW);
	uint8_t *bufs[2] = {a, b};
	struct qcow2_error err;
	uint64_t off;

	error_clear(&err);
	if (!a || !b) {
		error_errno(&err, -ENOMEM, "can't compare");
		fail(c, -ENOMEM, &err, 0, 0);
		return;
	}
	while (take_window(c, &off)) {
		if (compare_window(c, off, bufs, &err) < 0)
			continue; /* noted by whoever saw it; there may be a window before it */
		atomic_fetch_add(&c->done_bytes, WINDOW);
		if (i == 0)
			tick(c, false);
	}
}

static int run(struct compare *c)
{
	bool spared = job_spare_cache(c->images, 2);
	int ret = 0;

	pthread_mutex_init(&c->lock, NULL);
	for (int i = 0; i < 2 && ret == 0; i++)
		ret = job_files_init(&c->files[i], c->images[i], &c->err);
	c->step = ret == 0 ? job_compare_step(&c->files[0], &c->files[1]) : 0;
	if (ret < 0)
		c->ret = ret;
	else
		work_team((unsigned)min_u64(work_cpus(), THREADS_MAX), run_thread, c);
	if (c->ret == 0)
		tick(c, true);
	for (int i = 0; i < 2; i++)
		job_files_release(&c->files[i]);
	if (spared)
		job_spare_cache_end(c->images, 2);
	pthread_mutex_destroy(&c->lock);
	return c->ret;
}

int qcow2_compare(struct qcow2_image *a, struct qcow2_image *b, unsigned flags,
		  const struct qcow2_progress *progress, struct qcow2_compare_result *result,
		  struct qcow2_error *err)
{
	struct compare c = {
		.images = {a, b},
		.common = min_u64(qcow2_size(a), qcow2_size(b)),
		.size = max_u64(qcow2_size(a), qcow2_size(b)),
		.strict = flags & QCOW2_COMPARE_STRICT,
		.progress = progress,
		.limit = UINT64_MAX,
	};
	int ret;

	*result = c.result;
	if (flags & ~QCOW2_COMPARE_STRICT)
		return error_set(err, -EINVAL, "unknown compare flags 0x%x",
				 flags & ~QCOW2_COMPARE_STRICT);
	for (int i = 0; i < 2; i++) {
		result->failed_image = i;
		if (image_check_readable(c.images[i], err) < 0)
			return -EINVAL;
	}
	c.result.sizes_differ = c.common != c.size;
	if (c.strict && c.result.sizes_differ) {
		c.result.verdict = QCOW2_COMPARE_SIZE;
		c.result.guest_off = c.common;
		*result = c.result;
		return 0;
	}
	ret = run(&c);
	*result = c.result;
	if (ret < 0 && err)
		*err = c.err;
	return ret;
}
