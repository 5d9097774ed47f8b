/* SPDX-License-Identifier: MIT */
/* The reading end of a copy: map first, then read only what is data. */
#include "job/source.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "job/job.h"

#define SALVAGE_STEP 512
#define UNSEEN 0xff /* a block that no run has touched yet */

void job_source_release(struct job_source *s)
{
	if (s->spares_cache)
		job_spare_cache_end(s->images, s->nimages);
	s->spares_cache = false;
	mem_free(s->starts);
	s->starts = NULL;
}

static bool is_file(struct qcow2_storage store, const struct storage_file_stat *st)
{
	struct storage_file_stat own;

	return storage_is_open(store) && storage_file_stat(store, &own, NULL) == 0 &&
	       own.dev == st->dev && own.ino == st->ino;
}

int job_source_differs(struct qcow2_storage store, const char *path,
		       const struct job_source *source, struct qcow2_error *err)
{
	struct storage_file_stat st;
	int ret = storage_file_stat(store, &st, err);

	if (ret < 0)
		return ret;
	for (size_t i = 0; i < source->nimages; i++) {
		for (const struct qcow2_image *l = source->images[i]; l; l = l->backing) {
			if (is_file(l->store, &st) ||
			    (l->qcow2 && is_file(l->qcow2->data_file, &st)))
				return error_set(err, -EINVAL,
						 "\"%s\" is read from, so it can't be "
						 "written to",
						 path);
		}
	}
	return 0;
}

/* The image that holds guest_off, which is before the end of the last. */
static size_t image_at(const struct job_source *s, uint64_t guest_off)
{
	size_t i = 0;

	while (guest_off >= s->starts[i + 1])
		i++;
	return i;
}

/* Where that is in image i. */
static uint64_t place_in(const struct job_source *s, size_t i, uint64_t guest_off)
{
	return guest_off - s->starts[i] + (i == 0 ? s->first_off : 0);
}

int job_source_run_of(const struct job_source *s, uint64_t guest_off, size_t *image_idx,
		      uint64_t *image_off, struct data_run *r, struct qcow2_error *err)
{
	size_t i = image_at(s, guest_off);
	struct data_layers layers = s->images[i]->layers;

	if (s->nlayers && s->nlayers < layers.count) {
		layers.count = s->nlayers;
		layers.hints = NULL; /* what is remembered of a chain is about all of it */
	}
	*image_idx = i;
	*image_off = place_in(s, i, guest_off);
	/* up to the end of the image: a long hole is passed in one step */
	return image_map_zeros(&layers, *image_off, s->starts[i + 1] - guest_off, r, err);
}

/* With salvage a range whose tables are damaged counts as data: reading it tells the damage. */
int job_source_map(const void *of, uint64_t guest_off, struct job_piece *p, struct qcow2_error *err)
{
	const struct job_source *s = of;
	struct data_run r;
	uint64_t image_off;
	size_t i;
	int ret;

	if (guest_off >= s->starts[s->nimages]) {
		*p = (struct job_piece){.kind = JOB_BLOCK_ZERO,
					.len_bytes = s->size_bytes - guest_off};
		return 0;
	}
	ret = job_source_run_of(s, guest_off, &i, &image_off, &r, err);
	if (ret < 0) {
		*p = (struct job_piece){.kind = JOB_BLOCK_DATA, .len_bytes = SALVAGE_STEP};
		return s->salvage ? 0 : ret;
	}
	*p = (struct job_piece){.kind = JOB_BLOCK_ZERO, .len_bytes = r.run.len_bytes};
	if (job_pass_fits(s, guest_off, i, image_off, &r))
		p->kind = JOB_BLOCK_PACKED;
	else if (r.run.kind == DISK_RUN_DATA || r.run.kind == DISK_RUN_COMPRESSED)
		p->kind = JOB_BLOCK_DATA;
	else if (r.run.kind == DISK_RUN_ABSENT && s->nlayers &&
		 s->nlayers < s->images[i]->layers.count)
		p->kind = JOB_BLOCK_ABSENT;
	return 0;
}

/* A range that lies in one image. */
struct part {
	struct qcow2_image *image;
	uint64_t image_off;
	uint64_t len_bytes;
};

/* Reads what it can, a sector at a time; the rest is zero and told. */
static void salvage(const struct part *p, uint64_t guest_off, uint8_t *buf, size_t len,
		    job_unreadable_fn unreadable, void *opaque)
{
	struct qcow2_error why;
	size_t n;

	for (size_t pos = 0; pos < len; pos += n) {
		n = (size_t)min_u64(SALVAGE_STEP, len - pos);
		error_clear(&why);
		if (qcow2_pread(p->image, buf + pos, n, p->image_off + pos, &why) == 0)
			continue;
		memset(buf + pos, 0, n);
		unreadable(opaque, guest_off + pos, n, why.message);
	}
}

static int read_piece(const struct job_source *s, const struct part *p, uint64_t guest_off,
		      uint8_t *buf, size_t len, job_unreadable_fn unreadable, void *opaque,
		      struct qcow2_error *err)
{
	int ret = qcow2_pread(p->image, buf, len, p->image_off, err);

	if (ret == 0 || !s->salvage)
		return ret;
	salvage(p, guest_off, buf, len, unreadable, opaque);
	return 0;
}

/*
 * A run of that kind touches these blocks. A block that is partly zero and partly absent has to be
 * read like data: neither word alone would be true of all of it.
 */
static void note_run(uint8_t *states, size_t first, size_t end, enum job_block kind)
{
	for (size_t i = first; i < end; i++) {
		if (states[i] == UNSEEN)
			states[i] = (uint8_t)kind;
		else if (states[i] != kind)
			states[i] = JOB_BLOCK_DATA;
	}
}

static bool any_data(const uint8_t *states, size_t n)
{
	return memchr(states, JOB_BLOCK_DATA, n) || memchr(states, JOB_BLOCK_PACKED, n);
}

int job_map_blocks(int (*map)(const void *of, uint64_t guest_off, struct job_piece *piece,
			      struct qcow2_error *err),
		   const void *of, uint64_t guest_off, uint64_t end, size_t block_size,
		   uint8_t *states, uint64_t *quiet, struct qcow2_error *err)
{
	uint64_t pos = guest_off;
	struct job_piece p;
	int ret;

	*quiet = 0;
	memset(states, UNSEEN, (size_t)div_ceil(end - guest_off, block_size));
	while (pos < end) {
		ret = map(of, pos, &p, err);
		if (ret < 0)
			return ret;
		if (pos == guest_off && (p.kind == JOB_BLOCK_ABSENT || p.kind == JOB_BLOCK_ZERO))
			*quiet = p.len_bytes;
		p.len_bytes = min_u64(p.len_bytes, end - pos);
		note_run(states, (size_t)((pos - guest_off) / block_size),
			 (size_t)div_ceil(pos + p.len_bytes - guest_off, block_size), p.kind);
		pos += p.len_bytes;
	}
	return 0;
}

size_t job_run_of_blocks(const uint8_t *states, size_t first, size_t nblocks)
{
	size_t end = first + 1;

	while (end < nblocks && states[end] == states[first])
		end++;
	return end;
}

/* Reads all blocks from first to end, which are DATA, in one go for each image. */
static int read_blocks(const struct job_source *s, uint64_t guest_off, uint8_t *buf, size_t len,
		       job_unreadable_fn unreadable, void *opaque, struct qcow2_error *err)
{
	uint64_t end = min_u64(guest_off + len, s->starts[s->nimages]);
	uint64_t pos = guest_off;
	int ret;

	while (pos < end) {
		size_t i = image_at(s, pos);
		struct part p = {
			.image = s->images[i],
			.image_off = place_in(s, i, pos),
			.len_bytes = min_u64(end, s->starts[i + 1]) - pos,
		};

		ret = read_piece(s, &p, pos, buf + (pos - guest_off), (size_t)p.len_bytes,
				 unreadable, opaque, err);
		if (ret < 0)
			return ret;
		pos += p.len_bytes;
	}
	memset(buf + (pos - guest_off), 0, (size_t)(guest_off + len - pos));
	return 0;
}

static int read_source(const struct job_reader *r, uint64_t guest_off, size_t len,
		       size_t block_size, uint8_t *buf, uint8_t *states, uint64_t *quiet,
		       job_unreadable_fn unreadable, void *opaque, struct qcow2_error *err)
{
	const struct job_source *s = (const struct job_source *)r;
	uint64_t end = min_u64(guest_off + len, s->size_bytes);
	size_t nblocks = (size_t)div_ceil(end - guest_off, block_size);
	int ret = job_map_blocks(job_source_map, s, guest_off, end, block_size, states, quiet, err);

	if (ret < 0 || !any_data(states, nblocks))
		return ret;
	*quiet = 0;
	if (s->unread)
		return 0;
	for (size_t first = 0, next; ret == 0 && first < nblocks; first = next) {
		size_t at = first * block_size;

		next = job_run_of_blocks(states, first, nblocks);
		if (states[first] == JOB_BLOCK_DATA)
			ret = read_blocks(s, guest_off + at, buf + at,
					  min_u64(next * block_size, len) - at, unreadable, opaque,
					  err);
	}
	return ret;
}

const struct qcow2_image *job_source_image(const struct job_source *s, uint64_t guest_off,
					   uint64_t *len_bytes)
{
	size_t i;

	if (guest_off >= s->starts[s->nimages])
		return NULL;
	i = image_at(s, guest_off);
	*len_bytes = min_u64(*len_bytes, s->starts[i + 1] - guest_off);
	return s->images[i];
}

int job_source_run(const struct job_source *s, uint64_t guest_off, uint64_t len_bytes, bool cached,
		   struct disk_run *run, struct qcow2_error *err)
{
	const struct qcow2_image *image = job_source_image(s, guest_off, &len_bytes);
	struct data_run r;
	uint64_t image_off;
	int ret = -EAGAIN;

	if (!image) {
		*run = (struct disk_run){.kind = DISK_RUN_ZERO, .len_bytes = len_bytes};
		return 0;
	}
	image_off = place_in(s, image_at(s, guest_off), guest_off);
	if (cached)
		ret = data_map_cached(&image->layers, image_off, len_bytes, &r);
	if (ret == -EAGAIN)
		ret = data_map(&image->layers, image_off, len_bytes, &r, err);
	if (ret == 0)
		*run = r.run;
	return ret;
}

int job_source_read(const struct job_source *s, uint64_t guest_off, uint8_t *buf, size_t len,
		    struct qcow2_error *err)
{
	return read_blocks(s, guest_off, buf, len, NULL, NULL, err);
}

int job_source_init(struct job_source *s, struct qcow2_image *const *images, size_t nimages,
		    struct qcow2_error *err)
{
	uint64_t sum = 0;
	int ret;

	for (size_t i = 0; i < nimages; i++) {
		ret = image_check_readable(images[i], err);
		if (ret < 0)
			return ret;
	}
	*s = (struct job_source){.reader = {.read = read_source, .fetch = job_pass_fetch},
				 .images = images,
				 .nimages = nimages};
	s->starts = mem_zalloc(nimages + 1, sizeof(*s->starts));
	if (!s->starts)
		return error_errno(err, -ENOMEM, "can't set up the copy");
	for (size_t i = 0; i < nimages; i++) {
		s->starts[i] = sum;
		if (!add_fits(sum, qcow2_size(images[i]), &sum) || sum > INT64_MAX) {
			job_source_release(s);
			return error_set(err, -EFBIG, "the sources together are too large");
		}
	}
	s->starts[nimages] = sum;
	s->size_bytes = sum;
	s->spares_cache = job_spare_cache(images, nimages);
	return 0;
}

int job_source_cut(struct job_source *s, uint64_t first_off, uint64_t len_bytes,
		   struct qcow2_error *err)
{
	uint64_t rest;

	if (first_off == 0 && len_bytes == 0)
		return 0;
	if (s->nimages != 1)
		return error_set(err, -EINVAL, "a part of one source can be copied, not of %zu",
				 s->nimages);
	rest = first_off < s->size_bytes ? s->size_bytes - first_off : 0;
	s->first_off = first_off;
	s->starts[1] = len_bytes ? min_u64(len_bytes, rest) : rest;
	s->size_bytes = align_up(s->starts[1], 512);
	return 0;
}
