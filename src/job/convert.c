/* SPDX-License-Identifier: MIT */
/*
 * Convert: disks read, chunk by chunk, and written as another image.
 *
 * The disk is cut into windows at fixed places. Each thread takes the next window, reads it,
 * looks for zeros and compresses, waits until all windows before it have been placed, places its
 * own, and writes it. Only placing is in order and exclusive ("the turn"); it does no I/O, unless
 * the target is an image that is changed in place. So the threads run side by side and the bytes
 * of the output don't depend on them.
 *
 * A thread that finds a long run without data moves the start of the next window behind it.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/work.h"
#include "base/zero.h"
#include "codec/codec.h"
#include "image/options.h"
#include "job/job.h"
#include "job/target.h"

#define WINDOW_MIN (1024u * 1024)
#define THREADS_MAX 64
#define FLAGS_KNOWN                                                                                \
	(QCOW2_CONVERT_COMPRESS | QCOW2_CONVERT_EXISTING | QCOW2_CONVERT_TARGET_IS_ZERO |          \
	 QCOW2_CONVERT_SALVAGE | QCOW2_CONVERT_DISORDERED | QCOW2_CONVERT_ON_TOP)
#define TARGET_FLAGS_KNOWN (QCOW2_OPEN_DIRECT | QCOW2_OPEN_NO_FLUSH | QCOW2_OPEN_WRITETHROUGH)
#define NAP_NSEC 200000000ull /* a cancel shouldn't have to wait longer */
#define SKIP_MAX 1024u	      /* windows that are skipped in one turn: others wait meanwhile */

struct convert {
	/* immutable while the threads run */
	const struct qcow2_convert_options *options;
	struct job_source source;
	struct job_target *target;
	size_t window;
	uint64_t started_nsec;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t turned;
	uint64_t next_off; /* start of the next window */
	uint64_t next_seq; /* its number */
	uint64_t turn;	   /* the window that may be placed */
	int ret;	   /* the first failure, and its record */
	struct qcow2_error err;
	struct {
		uint64_t off, len;
	} unreadable; /* a range not yet told */
	/* atomic */
	_Atomic bool stop;
	_Atomic uint64_t done_bytes;
	_Atomic uint64_t data_bytes;
	_Atomic uint64_t unreadable_bytes;
	/* of the calling thread */
	struct job_ticker ticker;
};

/* Ends the job with an error, unless it has one already. */
static void fail(struct convert *c, int ret, const struct qcow2_error *err)
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
	struct convert *c = opaque;

	(void)why;
	atomic_fetch_add(&c->unreadable_bytes, len_bytes);
	pthread_mutex_lock(&c->lock);
	if (c->unreadable.len == 0)
		c->unreadable.off = guest_off;
	c->unreadable.len += len_bytes;
	pthread_mutex_unlock(&c->lock);
}

static void tell_unreadable(struct convert *c)
{
	char sentence[160];
	uint64_t off, len;

	pthread_mutex_lock(&c->lock);
	off = c->unreadable.off;
	len = c->unreadable.len;
	c->unreadable.len = 0;
	pthread_mutex_unlock(&c->lock);
	if (len == 0 || !c->options->warn)
		return;
	snprintf(sentence, sizeof(sentence),
		 "%" PRIu64 " bytes at or behind 0x%" PRIx64 " can't be read and become zeros", len,
		 off);
	c->options->warn(c->options->opaque, sentence);
}

static void tick(struct convert *c, bool last)
{
	struct qcow2_error err;

	if (last || job_tick_due(&c->ticker))
		tell_unreadable(c);
	if (job_tick(&c->ticker, &c->options->progress,
		     min_u64(atomic_load(&c->done_bytes), c->source.size_bytes),
		     c->source.size_bytes, last) != 0) {
		error_set(&err, -ECANCELED, "canceled");
		fail(c, -ECANCELED, &err);
	}
}

/* How long the job has to wait from now on to keep to its rate. */
static uint64_t ahead_nsec(const struct convert *c)
{
	double due = (double)atomic_load(&c->data_bytes) / (double)c->options->rate_limit * 1e9;
	double now = (double)(job_now_nsec() - c->started_nsec);

	return due > now ? (uint64_t)(due - now < NAP_NSEC ? due - now : NAP_NSEC) : 0;
}

/* Sleeps as long as the job is ahead of its rate, in naps; the calling thread ticks meanwhile. */
static void keep_rate(struct convert *c, bool ticks)
{
	uint64_t nap;

	while (c->options->rate_limit && !atomic_load(&c->stop) && (nap = ahead_nsec(c)) != 0) {
		struct timespec ts = {.tv_nsec = (long)nap};

		nanosleep(&ts, NULL);
		if (ticks)
			tick(c, false);
	}
}

/* ---- one window ---- */

/* Takes the next window; false when there is none. */
static bool take_window(struct convert *c, struct job_chunk *k, uint64_t *seq)
{
	uint64_t size = c->source.size_bytes;
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

static bool may_skip(const struct convert *c, enum job_block kind)
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
static bool skips_in_order(const struct convert *c)
{
	return c->target->ops->skip && c->target->ops->place;
}

/*
 * All from the window on for quiet bytes is of one kind and not data: lets the next window begin
 * where that ends.
 */
static void skip_ahead(struct convert *c, const struct job_chunk *k, uint64_t quiet,
		       struct skipped *skip)
{
	uint64_t size = c->source.size_bytes;
	uint64_t end = k->guest_off + min_u64(quiet, size - k->guest_off);

	if (end < size)
		end = align_down(end, c->window);
	skip->kind = (enum job_block)k->states[0];
	pthread_mutex_lock(&c->lock);
	skip->off = c->next_off;
	skip->len_bytes = end > c->next_off ? end - c->next_off : 0;
	if (skip->len_bytes && skips_in_order(c)) {
		skip->len_bytes = min_u64(skip->len_bytes, SKIP_MAX * c->window);
		skip->seq = c->next_seq++;
	}
	c->next_off += skip->len_bytes;
	pthread_mutex_unlock(&c->lock);
}

/* Data blocks that hold only zeros become zero blocks, where there are enough of them in a row. */
static void find_zeros(const struct convert *c, struct job_chunk *k)
{
	size_t bs = c->target->block_size;
	size_t need = (size_t)min_u64(div_ceil(min_u64(c->options->sparse_bytes, k->len), bs),
				      k->nblocks);
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
static void make_all_data(const struct convert *c, struct job_chunk *k)
{
	size_t bs = c->target->block_size;

	for (size_t i = 0; i < k->nblocks; i++) {
		if (k->states[i] != JOB_BLOCK_ZERO)
			continue;
		memset(k->buf + i * bs, 0, bs);
		k->states[i] = JOB_BLOCK_DATA;
	}
}

static void compress_blocks(const struct convert *c, struct job_chunk *k)
{
	size_t bs = c->target->block_size;

	for (size_t i = 0; i < k->nblocks; i++) {
		k->packed_len[i] = 0;
		if (k->states[i] == JOB_BLOCK_DATA)
			k->packed_len[i] = codec_compress(k->codec, k->buf + i * bs, bs,
							  k->packed + i * bs, bs - 1);
	}
}

static int read_window(struct convert *c, struct job_chunk *k, struct skipped *skip,
		       struct qcow2_error *err)
{
	uint64_t quiet;
	int ret;

	ret = job_source_read(&c->source, k->guest_off, k->nblocks * c->target->block_size,
			      c->target->block_size, k->buf, k->states, &quiet, note_unreadable, c,
			      err);
	if (ret < 0)
		return ret;
	if (quiet > c->window && may_skip(c, k->states[0]))
		skip_ahead(c, k, quiet, skip);
	if (c->target->write_all)
		make_all_data(c, k);
	else
		find_zeros(c, k);
	if (k->packed)
		compress_blocks(c, k);
	return 0;
}

static int await_turn(struct convert *c, uint64_t seq, struct qcow2_error *err)
{
	bool stop;

	pthread_mutex_lock(&c->lock);
	while (c->turn != seq && !atomic_load(&c->stop))
		pthread_cond_wait(&c->turned, &c->lock);
	stop = atomic_load(&c->stop);
	pthread_mutex_unlock(&c->lock);
	return stop ? error_set(err, -ECANCELED, "canceled") : 0;
}

/* Not after a failure: the turn stays then, nobody may go on from what was half done. */
static void pass_turn(struct convert *c)
{
	pthread_mutex_lock(&c->lock);
	c->turn++;
	pthread_cond_broadcast(&c->turned);
	pthread_mutex_unlock(&c->lock);
}

/* Waits for the window's turn, places it, and gives the turn to the next. */
static int place_window(struct convert *c, struct job_chunk *k, uint64_t seq,
			struct qcow2_error *err)
{
	int ret;

	if (!c->target->ops->place)
		return 0;
	ret = await_turn(c, seq, err);
	if (ret == 0)
		ret = c->target->ops->place(c->target, k, err);
	if (ret == 0)
		pass_turn(c);
	return ret;
}

/* In order: in pieces where windows would be, so that nobody can tell that there are none. */
static int tell_skipped(struct convert *c, const struct skipped *s, struct qcow2_error *err)
{
	const uint64_t step = skips_in_order(c) ? c->window : s->len_bytes;
	int ret = 0;

	if (s->len_bytes == 0)
		return 0;
	if (skips_in_order(c))
		ret = await_turn(c, s->seq, err);
	for (uint64_t pos = 0; ret == 0 && c->target->ops->skip && pos < s->len_bytes; pos += step)
		ret = c->target->ops->skip(c->target, s->off + pos,
					   min_u64(step, s->len_bytes - pos), s->kind, err);
	if (ret == 0 && skips_in_order(c))
		pass_turn(c);
	atomic_fetch_add(&c->done_bytes, s->len_bytes);
	return ret;
}

static void count_data(struct convert *c, const struct job_chunk *k)
{
	uint64_t data = 0;

	for (size_t i = 0; i < k->nblocks; i++) {
		if (k->states[i] == JOB_BLOCK_DATA)
			data += c->target->block_size;
	}
	atomic_fetch_add(&c->data_bytes, min_u64(data, k->len));
	atomic_fetch_add(&c->done_bytes, k->len);
}

static int do_window(struct convert *c, struct job_chunk *k, uint64_t seq, struct qcow2_error *err)
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
	mem_free(k->states);
}

static int init_chunk(const struct convert *c, struct job_chunk *k, struct qcow2_error *err)
{
	size_t nblocks = c->window / c->target->block_size;

	k->buf = mem_aligned(4096, c->window);
	k->states = mem_alloc(nblocks, 1);
	if (!k->buf || !k->states)
		return error_errno(err, -ENOMEM, "can't get a buffer of %zu bytes", c->window);
	if (!c->target->compressed)
		return 0;
	k->packed = mem_alloc(c->window, 1);
	k->packed_len = mem_alloc(nblocks, sizeof(*k->packed_len));
	if (!k->packed || !k->packed_len)
		return error_errno(err, -ENOMEM, "can't get a buffer of %zu bytes", c->window);
	return codec_new(&k->codec, (enum codec_type)c->target->compression,
			 c->options->compression_level, err);
}

static void run_thread(void *opaque, unsigned i)
{
	struct convert *c = opaque;
	struct job_chunk k = {0};
	struct qcow2_error err;
	uint64_t seq;
	int ret;

	error_clear(&err);
	ret = init_chunk(c, &k, &err);
	while (ret == 0 && take_window(c, &k, &seq)) {
		ret = do_window(c, &k, seq, &err);
		if (i == 0)
			tick(c, false);
		keep_rate(c, i == 0);
	}
	if (ret < 0)
		fail(c, ret, &err);
	release_chunk(&k);
}

/* As much at once as the largest cluster on either side, so that none is read in two halves. */
static size_t window_size(const struct convert *c)
{
	uint64_t window = max_u64(WINDOW_MIN, c->target->block_size);

	for (size_t i = 0; i < c->source.nimages; i++) {
		for (const struct qcow2_image *l = c->source.images[i]; l; l = l->backing) {
			if (l->qcow2)
				window = max_u64(window, l->qcow2->meta.geometry.cluster_size);
		}
	}
	return (size_t)window;
}

static unsigned thread_count(const struct convert *c)
{
	unsigned n = c->options->threads ? c->options->threads : work_cpus();

	return (unsigned)min_u64(min_u64(n, THREADS_MAX),
				 max_u64(1, div_ceil(c->source.size_bytes, c->window)));
}

static int run(struct convert *c, struct qcow2_convert_result *result, struct qcow2_error *err)
{
	int ret;

	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->turned, NULL);
	c->window = window_size(c);
	c->started_nsec = c->ticker.ticked_nsec = job_now_nsec();
	work_team(thread_count(c), run_thread, c);
	ret = c->ret;
	if (ret < 0) {
		if (err)
			*err = c->err;
	} else {
		ret = c->target->ops->finish(c->target, &result->host_bytes, err);
	}
	if (ret == 0)
		tick(c, true);
	pthread_cond_destroy(&c->turned);
	pthread_mutex_destroy(&c->lock);
	result->data_bytes = atomic_load(&c->data_bytes);
	result->unreadable_bytes = atomic_load(&c->unreadable_bytes);
	result->zero_bytes = c->source.size_bytes - result->data_bytes;
	return ret;
}

/* ---- setting up ---- */

/* The disk's size comes from the sources; the rest of the options is the caller's. */
static int settle_create(const struct qcow2_convert_options *options, const char *path,
			 uint64_t size_bytes, struct qcow2_create_options *create,
			 struct qcow2_error *err)
{
	int ret = OPTIONS_TAKE(create, options->create, "create options", err);

	if (ret < 0)
		return ret;
	create->size = size_bytes;
	if (!create->format)
		create->format = "qcow2";
	/* the backing file is looked at though the size is known: a target without it is none */
	return image_create_resolve(path, create, true, err);
}

int job_target_differs(const struct image_place *place, const struct job_source *source,
		       struct qcow2_error *err)
{
	return job_source_differs(place->st, place->path, source, err);
}

/*
 * The same before the target is opened, for the sake of the sentence: our own lock on a source
 * would be in the way of opening it.
 */
static int check_path_differs(const char *path, const struct job_source *source,
			      struct qcow2_error *err)
{
	struct qcow2_storage store;
	int ret;

	if (!path || storage_file_open(&store, path, 0, NULL) < 0)
		return 0;
	ret = job_source_differs(store, path, source, err);
	storage_close(&store);
	return ret;
}

int job_target_goes_on_top(const struct qcow2_create_options *create,
			   const struct job_source *source, struct qcow2_error *err)
{
	bool deep = false;

	for (size_t i = 0; i < source->nimages; i++)
		deep |= source->images[i]->layers.count > 1;
	if (!source->top_only || !deep)
		return 0;
	if (!create->backing_file)
		return error_set(err, -EINVAL,
				 "only the source's top layer is to be copied, but the target has "
				 "no backing file for the rest");
	if (source->nimages > 1)
		return error_set(err, -EINVAL,
				 "the top layer of one source can be copied, not of %zu",
				 source->nimages);
	return 0;
}

static int open_target(struct convert *c, const char *path, struct qcow2_error *err)
{
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	int ret = settle_create(c->options, path, c->source.size_bytes, &create, err);

	if (ret == 0)
		ret = check_path_differs(path, &c->source, err);
	if (ret < 0)
		return ret;
	if (strcmp(create.format, "raw") == 0)
		return job_target_raw(&c->target, path, &c->source, c->options, &create, err);
	return job_target_qcow2(&c->target, path, &c->source, c->options, &create, err);
}

static int check_flags(const struct qcow2_convert_options *o, struct qcow2_error *err)
{
	if (o->flags & ~FLAGS_KNOWN)
		return error_set(err, -EINVAL, "unknown convert flags 0x%x",
				 o->flags & ~FLAGS_KNOWN);
	if (o->target_open_flags & ~TARGET_FLAGS_KNOWN)
		return error_set(err, -EINVAL, "open flags 0x%x, which targets don't have",
				 o->target_open_flags & ~TARGET_FLAGS_KNOWN);
	return 0;
}

int qcow2_convert(struct qcow2_image *const *sources, size_t nsources, const char *path,
		  const struct qcow2_convert_options *options, struct qcow2_convert_result *result,
		  struct qcow2_error *err)
{
	struct qcow2_convert_options o = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_convert_result unwanted;
	struct convert c = {.options = &o};
	int ret;

	ret = OPTIONS_TAKE(&o, options, "convert options", err);
	if (ret == 0)
		ret = check_flags(&o, err);
	if (ret < 0)
		return ret;
	if (o.sparse_bytes == QCOW2_SPARSE_DEFAULT)
		o.sparse_bytes = 4096;
	ret = job_source_init(&c.source, sources, nsources, err);
	if (ret < 0)
		return ret;
	c.source.top_only = o.flags & QCOW2_CONVERT_ON_TOP;
	c.source.salvage = o.flags & QCOW2_CONVERT_SALVAGE;
	ret = open_target(&c, path, err);
	if (ret == 0)
		ret = run(&c, result ? result : &unwanted, err);
	if (c.target)
		c.target->ops->close(c.target);
	job_source_release(&c.source);
	return ret;
}
