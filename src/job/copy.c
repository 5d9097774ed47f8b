/* SPDX-License-Identifier: MIT */
/*
 * The copier under convert, commit and rebase: a disk read, chunk by chunk, and written to another.
 *
 * The disk is cut into windows at fixed places. Each thread takes the next window, reads it,
 * looks for zeros and compresses, waits until all windows before it have been placed, places its
 * own, and writes it. Only placing is in order and exclusive ("the turn"); it does no I/O, unless
 * the target is an image that is changed in place. So the threads run side by side and the bytes
 * of the output don't depend on them. A window with nothing to be placed waives its turn.
 *
 * A thread that finds a long run without data moves the start of the next window behind it.
 */
#include "job/copy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/work.h"
#include "base/zero.h"
#include "codec/codec.h"

#define WINDOW_MIN (1024u * 1024)
#define MOVED_MAX (64u * 1024 * 1024)
#define MOVED_SHARES 8 /* of each thread, so that all end at about the same time */
#define THREADS_MAX 64
#define NAP_NSEC 200000000ull /* a cancel shouldn't have to wait longer */
#define SKIP_MAX 1024u	      /* windows that are skipped in one turn: others wait meanwhile */

/* Ends the job with an error, unless it has one already. */
static void fail(struct job_copy *c, int ret, const struct qcow2_error *err)
{
	pthread_mutex_lock(&c->lock);
	if (c->ret == 0) {
		c->ret = ret;
		c->err = *err;
	}
	atomic_store(&c->stop, true);
	pthread_cond_broadcast(&c->turned);
	pthread_mutex_unlock(&c->lock);
}

/* ---- progress, warnings, rate: the calling thread's part ---- */

static void note_unreadable(void *opaque, uint64_t guest_off, uint64_t len_bytes, const char *why)
{
	struct job_copy *c = opaque;

	(void)why;
	atomic_fetch_add(&c->unreadable_bytes, len_bytes);
	pthread_mutex_lock(&c->lock);
	if (c->unreadable.len == 0)
		c->unreadable.off = guest_off;
	c->unreadable.len += len_bytes;
	pthread_mutex_unlock(&c->lock);
}

static void tell_unreadable(struct job_copy *c)
{
	char sentence[160];
	uint64_t off, len;

	pthread_mutex_lock(&c->lock);
	off = c->unreadable.off;
	len = c->unreadable.len;
	c->unreadable.len = 0;
	pthread_mutex_unlock(&c->lock);
	if (len == 0 || !c->warn)
		return;
	snprintf(sentence, sizeof(sentence),
		 "%" PRIu64 " bytes at or behind 0x%" PRIx64 " can't be read and become zeros", len,
		 off);
	c->warn(c->opaque, sentence);
}

static void tick(struct job_copy *c)
{
	struct qcow2_error err;

	if (progress_due(&c->ticker))
		tell_unreadable(c);
	if (progress_tell(&c->ticker, &c->progress,
			  min_u64(atomic_load(&c->done_bytes), c->size_bytes), c->size_bytes,
			  false) != 0) {
		error_set(&err, -ECANCELED, "canceled");
		fail(c, -ECANCELED, &err);
	}
}

/* How long the job has to wait from now on to keep to its rate. */
static uint64_t ahead_nsec(const struct job_copy *c)
{
	double due = (double)atomic_load(&c->data_bytes) / (double)c->rate_limit * 1e9;
	double now = (double)(progress_now_nsec() - c->started_nsec);

	return due > now ? (uint64_t)(due - now < NAP_NSEC ? due - now : NAP_NSEC) : 0;
}

/* Sleeps as long as the job is ahead of its rate, in naps; the calling thread ticks meanwhile. */
static void keep_rate(struct job_copy *c, bool ticks)
{
	uint64_t nap;

	while (c->rate_limit && !atomic_load(&c->stop) && (nap = ahead_nsec(c)) != 0) {
		struct timespec ts = {.tv_nsec = (long)nap};

		nanosleep(&ts, NULL);
		if (ticks)
			tick(c);
	}
}

/* ---- one window ---- */

/* Takes the next window; false when there is none. */
static bool take_window(struct job_copy *c, struct job_chunk *k, uint64_t *seq)
{
	uint64_t size = c->size_bytes;
	bool more;

	pthread_mutex_lock(&c->lock);
	more = c->next_off < size && !atomic_load(&c->stop);
	if (more) {
		k->guest_off = c->next_off;
		k->len = (size_t)min_u64(c->window, size - c->next_off);
		k->nblocks = (k->len + c->target->block_size - 1) / c->target->block_size;
		*seq = c->next_seq++;
		c->next_off += c->window;
	}
	pthread_mutex_unlock(&c->lock);
	return more;
}

/* Nothing that the target would hear of, so that it needs no turn. */
static bool is_nothing(const struct job_copy *c, const struct job_chunk *k)
{
	return c->target->ignores_absent && k->states[0] == JOB_BLOCK_ABSENT &&
	       job_run_of_blocks(k->states, 0, k->nblocks) == k->nblocks;
}

static bool may_skip(const struct job_copy *c, enum job_block kind)
{
	return kind == JOB_BLOCK_ABSENT ? c->target->skip_absent : c->target->skip_zero;
}

/* A range that no window will cover. */
struct skipped {
	uint64_t off, len_bytes;
	uint64_t seq; /* its turn, where the target does it in order */
	enum job_block kind;
};

/* Whether the target has to hear of what is skipped, and in order. */
static bool skips_in_order(const struct job_copy *c, enum job_block kind)
{
	return c->target->ops->skip && c->target->ops->place &&
	       !(kind == JOB_BLOCK_ABSENT && c->target->ignores_absent);
}

/*
 * All from the window on for quiet bytes is of one kind and not data: lets the next window begin
 * where that ends.
 */
static void skip_ahead(struct job_copy *c, const struct job_chunk *k, uint64_t quiet,
		       struct skipped *skip)
{
	uint64_t size = c->size_bytes;
	uint64_t end = k->guest_off + min_u64(quiet, size - k->guest_off);

	if (end < size)
		end = align_down(end, c->window);
	skip->kind = (enum job_block)k->states[0];
	pthread_mutex_lock(&c->lock);
	skip->off = c->next_off;
	skip->len_bytes = end > c->next_off ? end - c->next_off : 0;
	if (skip->len_bytes && skips_in_order(c, skip->kind)) {
		skip->len_bytes = min_u64(skip->len_bytes, SKIP_MAX * c->window);
		skip->seq = c->next_seq++;
	}
	c->next_off += skip->len_bytes;
	pthread_mutex_unlock(&c->lock);
}

/* Data blocks that hold only zeros become zero blocks, where there are enough of them in a row. */
static void find_zeros(const struct job_copy *c, struct job_chunk *k)
{
	size_t bs = c->target->block_size;
	size_t need = (size_t)min_u64(div_ceil(min_u64(c->sparse_bytes, k->len), bs), k->nblocks);
	size_t run = 0;

	for (size_t i = 0; i <= k->nblocks; i++) {
		bool zero = i < k->nblocks && k->states[i] == JOB_BLOCK_DATA &&
			    bytes_are_zero(k->buf + i * bs, bs);

		if (zero) {
			run++;
			continue;
		}
		if (run && run >= need)
			memset(k->states + i - run, JOB_BLOCK_ZERO, run);
		run = 0;
	}
}

/* Everything gets written: zeros are data too. */
static void make_all_data(const struct job_copy *c, struct job_chunk *k)
{
	size_t bs = c->target->block_size;

	for (size_t i = 0; i < k->nblocks; i++) {
		if (k->states[i] != JOB_BLOCK_ZERO)
			continue;
		memset(k->buf + i * bs, 0, bs);
		k->states[i] = JOB_BLOCK_DATA;
	}
}

/* What can be taken as it is. */
static int fetch_packed(const struct job_copy *c, struct job_chunk *k, struct qcow2_error *err)
{
	size_t bs = c->target->block_size;
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < k->nblocks; i++) {
		if (k->states[i] != JOB_BLOCK_PACKED)
			continue;
		ret = c->reader->fetch(c->reader, k->guest_off + i * bs, k->packed + i * bs,
				       &k->packed_len[i], &k->origins[i], k->buf + i * bs, err);
		if (ret == 0 && k->packed_len[i] == 0)
			k->states[i] = JOB_BLOCK_DATA;
	}
	return ret;
}

static void compress_blocks(const struct job_copy *c, struct job_chunk *k)
{
	size_t bs = c->target->block_size;

	for (size_t i = 0; i < k->nblocks; i++) {
		if (k->states[i] == JOB_BLOCK_PACKED)
			continue;
		k->packed_len[i] = 0;
		if (k->states[i] == JOB_BLOCK_DATA)
			k->packed_len[i] = codec_compress(k->codec, k->buf + i * bs, bs,
							  k->packed + i * bs, bs - 1);
	}
}

static int read_window(struct job_copy *c, struct job_chunk *k, struct skipped *skip,
		       struct qcow2_error *err)
{
	uint64_t quiet;
	int ret;

	ret = c->reader->read(c->reader, k->guest_off, k->nblocks * c->target->block_size,
			      c->target->block_size, k->buf, k->states, &quiet, note_unreadable, c,
			      err);
	if (ret < 0)
		return ret;
	if (quiet > c->window && may_skip(c, k->states[0]))
		skip_ahead(c, k, quiet, skip);
	if (c->target->passes)
		ret = fetch_packed(c, k, err);
	if (ret < 0)
		return ret;
	if (c->target->write_all)
		make_all_data(c, k);
	else if (c->sparse_bytes > 0)
		find_zeros(c, k);
	if (k->packed)
		compress_blocks(c, k);
	return 0;
}

static int await_turn(struct job_copy *c, uint64_t seq, struct qcow2_error *err)
{
	bool stop;

	pthread_mutex_lock(&c->lock);
	while (c->turn != seq && !atomic_load(&c->stop))
		pthread_cond_wait(&c->turned, &c->lock);
	stop = atomic_load(&c->stop);
	pthread_mutex_unlock(&c->lock);
	return stop ? error_set(err, -ECANCELED, "canceled") : 0;
}

/* To the next window that hasn't done without. */
static void pass_turn_locked(struct job_copy *c)
{
	for (c->turn++; c->waived[c->turn % JOB_WAIVED_MAX]; c->turn++)
		c->waived[c->turn % JOB_WAIVED_MAX] = false;
	pthread_cond_broadcast(&c->turned);
}

/* Not after a failure: the turn stays then, nobody may go on from what was half done. */
static void pass_turn(struct job_copy *c)
{
	pthread_mutex_lock(&c->lock);
	pass_turn_locked(c);
	pthread_mutex_unlock(&c->lock);
}

/* The window needs no turn, and doesn't wait for it. */
static void waive_turn(struct job_copy *c, uint64_t seq)
{
	pthread_mutex_lock(&c->lock);
	while (seq - c->turn >= JOB_WAIVED_MAX && !atomic_load(&c->stop))
		pthread_cond_wait(&c->turned, &c->lock);
	if (seq == c->turn)
		pass_turn_locked(c);
	else if (seq - c->turn < JOB_WAIVED_MAX)
		c->waived[seq % JOB_WAIVED_MAX] = true;
	pthread_mutex_unlock(&c->lock);
}

/* Waits for the window's turn, places it, and gives the turn to the next. */
static int place_window(struct job_copy *c, struct job_chunk *k, uint64_t seq,
			struct qcow2_error *err)
{
	int ret;

	if (!c->target->ops->place)
		return 0;
	if (is_nothing(c, k)) {
		waive_turn(c, seq);
		return 0;
	}
	ret = await_turn(c, seq, err);
	if (ret == 0)
		ret = c->target->ops->place(c->target, k, err);
	if (ret == 0)
		pass_turn(c);
	return ret;
}

/* In order: in pieces where windows would be, so that nobody can tell that there are none. */
static int tell_skipped(struct job_copy *c, const struct skipped *s, struct qcow2_error *err)
{
	const bool in_order = skips_in_order(c, s->kind);
	const uint64_t step = in_order ? c->window : s->len_bytes;
	int ret = 0;

	if (s->len_bytes == 0)
		return 0;
	if (in_order)
		ret = await_turn(c, s->seq, err);
	for (uint64_t pos = 0; ret == 0 && c->target->ops->skip && pos < s->len_bytes; pos += step)
		ret = c->target->ops->skip(c->target, s->off + pos,
					   min_u64(step, s->len_bytes - pos), s->kind, err);
	if (ret == 0 && in_order)
		pass_turn(c);
	atomic_fetch_add(&c->done_bytes, s->len_bytes);
	return ret;
}

static void count_data(struct job_copy *c, const struct job_chunk *k)
{
	uint64_t data = 0;

	for (size_t i = 0; i < k->nblocks; i++) {
		if (k->states[i] == JOB_BLOCK_DATA || k->states[i] == JOB_BLOCK_PACKED)
			data += c->target->block_size;
	}
	atomic_fetch_add(&c->data_bytes, min_u64(data, k->len));
	atomic_fetch_add(&c->done_bytes, k->len);
}

static int do_window(struct job_copy *c, struct job_chunk *k, uint64_t seq, struct qcow2_error *err)
{
	struct skipped skip = {0};
	int ret = read_window(c, k, &skip, err);

	if (ret == 0)
		ret = place_window(c, k, seq, err);
	if (ret == 0 && c->target->ops->write)
		ret = c->target->ops->write(c->target, k, err);
	if (ret == 0)
		count_data(c, k);
	return ret == 0 ? tell_skipped(c, &skip, err) : ret;
}

/* ---- the threads ---- */

static void release_chunk(struct job_chunk *k)
{
	codec_free(k->codec);
	image_writes_release(&k->writes);
	mem_free(k->buf);
	mem_free(k->packed);
	mem_free(k->packed_len);
	mem_free(k->origins);
	mem_free(k->states);
}

static int init_chunk(const struct job_copy *c, struct job_chunk *k, struct qcow2_error *err)
{
	size_t nblocks = c->window / c->target->block_size;
	size_t room = c->reader->wants_room ? c->window : 0;

	k->buf = mem_aligned(JOB_ROOM_ALIGN, c->target->moves ? JOB_MOVE_BUFFER : c->window + room);
	k->states = mem_alloc(nblocks, 1);
	if (!k->buf || !k->states)
		return error_errno(err, -ENOMEM, "can't get a buffer of %zu bytes", c->window);
	if (!c->target->compressed)
		return 0;
	k->packed = mem_alloc(c->window, 1);
	k->packed_len = mem_alloc(nblocks, sizeof(*k->packed_len));
	k->origins = mem_alloc(nblocks, sizeof(*k->origins));
	if (!k->packed || !k->packed_len || !k->origins)
		return error_errno(err, -ENOMEM, "can't get a buffer of %zu bytes", c->window);
	return codec_new(&k->codec, (enum codec_type)c->target->compression, c->compression_level,
			 err);
}

static void run_thread(void *opaque, unsigned i)
{
	struct job_copy *c = opaque;
	struct job_chunk k = {0};
	struct qcow2_error err;
	uint64_t seq;
	int ret;

	error_clear(&err);
	ret = init_chunk(c, &k, &err);
	while (ret == 0 && take_window(c, &k, &seq)) {
		ret = do_window(c, &k, seq, &err);
		if (i == 0)
			tick(c);
		keep_rate(c, i == 0);
	}
	if (ret < 0)
		fail(c, ret, &err);
	release_chunk(&k);
}

static unsigned threads_wanted(const struct job_copy *c)
{
	return (unsigned)min_u64(c->threads ? c->threads : work_cpus(), THREADS_MAX);
}

/*
 * What is moved needs no room in memory, and a long range may take no longer than a short one. Yet
 * each thread should have a share, since a part may have to be copied.
 */
static size_t window_size(const struct job_copy *c)
{
	uint64_t size = max_u64(max_u64(WINDOW_MIN, c->cluster_max), c->target->block_size);
	uint64_t share = c->size_bytes / (threads_wanted(c) * (uint64_t)MOVED_SHARES);

	while (c->target->moves && !c->rate_limit && size < MOVED_MAX && 2 * size <= share)
		size *= 2;
	return (size_t)size;
}

static unsigned thread_count(const struct job_copy *c)
{
	return (unsigned)min_u64(threads_wanted(c), max_u64(1, div_ceil(c->size_bytes, c->window)));
}

int job_copy_run(struct job_copy *c, struct qcow2_error *err)
{
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->turned, NULL);
	c->window = window_size(c);
	c->started_nsec = c->ticker.ticked_nsec = progress_now_nsec();
	work_team(thread_count(c), run_thread, c);
	if (c->ret == 0)
		tell_unreadable(c);
	pthread_cond_destroy(&c->turned);
	pthread_mutex_destroy(&c->lock);
	if (c->ret < 0 && err)
		*err = c->err;
	return c->ret;
}

void job_copy_end(struct job_copy *c)
{
	(void)progress_tell(&c->ticker, &c->progress, c->size_bytes, c->size_bytes, true);
}

uint64_t job_largest_cluster(const struct qcow2_image *image, uint64_t least)
{
	for (const struct qcow2_image *l = image; l; l = l->backing) {
		if (l->qcow2)
			least = max_u64(least, l->qcow2->meta.geometry.cluster_size);
	}
	return least;
}
