/* SPDX-License-Identifier: MIT */
/*
 * Rebase: another backing file for an image, whose disk reads as before.
 *
 * Where the image leaves its disk to the backing file, the chain that there is and the new one are
 * compared: by what their maps say as far as that tells (both zero, or the same bytes of the same
 * file), by reading where it doesn't. What differs is copied into the image. That changes nothing
 * of what it reads as; when it is durable the header gets the new name. So it can be cut off
 * anywhere.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/zero.h"
#include "codec/codec.h"
#include "image/options.h"
#include "job/copy.h"
#include "job/job.h"
#include "job/twin.h"

#define FLAGS_KNOWN (QCOW2_REBASE_UNSAFE | QCOW2_REBASE_COMPRESS)
#define BACKING_FLAGS_KNOWN (QCOW2_OPEN_DIRECT | QCOW2_OPEN_FORCE_SHARE)
#define SPARSE 4096 /* zeros in a row that aren't copied as data */

/* ---- reading what differs ---- */

struct diff {
	struct job_reader reader;
	/* immutable */
	struct qcow2_image *image; /* with its present chain */
	struct qcow2_image *next;  /* the new backing file; NULL: none */
	struct job_files files, next_files;
	size_t step; /* what is read and compared at a time: JOB_COMPARE_STEP, or SIZE_MAX */
};

static bool is_zero(const struct data_run *r)
{
	return r->run.kind == DISK_RUN_ZERO || r->run.kind == DISK_RUN_ABSENT;
}

/* What a chain has from its layer first on; nothing is zeros, too. */
static int look(const struct qcow2_image *image, unsigned first, uint64_t guest_off,
		uint64_t len_bytes, struct data_run *r, struct qcow2_error *err)
{
	struct data_layers layers = {0}; /* what is remembered of a chain is about all of it */
	int ret;

	*r = (struct data_run){.run = {.kind = DISK_RUN_ZERO, .len_bytes = len_bytes}};
	if (!image || image->layers.count <= first)
		return 0;
	layers.disks = image->layers.disks + first;
	layers.count = image->layers.count - first;
	ret = image_map_zeros(&layers, guest_off, len_bytes, r, err);
	r->depth += first;
	return ret;
}

static int map_diff(const void *of, uint64_t guest_off, struct job_piece *p,
		    struct qcow2_error *err)
{
	const struct diff *d = of;
	const struct data_layers top = {.disks = d->image->layers.disks, .count = 1};
	struct data_run own, old, next;
	int ret = data_map(&top, guest_off, qcow2_size(d->image) - guest_off, &own, err);

	if (ret < 0)
		return ret;
	*p = (struct job_piece){.kind = JOB_BLOCK_ABSENT, .len_bytes = own.run.len_bytes};
	if (own.run.kind != DISK_RUN_ABSENT)
		return 0;
	ret = look(d->image, 1, guest_off, p->len_bytes, &old, err);
	if (ret == 0)
		ret = look(d->next, 0, guest_off, old.run.len_bytes, &next, err);
	if (ret < 0)
		return ret;
	p->len_bytes = next.run.len_bytes;
	if ((is_zero(&old) && is_zero(&next)) ||
	    (!is_zero(&old) && !is_zero(&next) &&
	     job_is_twin(&d->files, &old, &d->next_files, &next)))
		return 0;
	p->kind = is_zero(&old) ? JOB_BLOCK_ZERO : JOB_BLOCK_DATA;
	return 0;
}

/* What the new backing file has; behind its end are zeros. */
static int read_next(const struct diff *d, uint8_t *buf, size_t len, uint64_t guest_off,
		     struct qcow2_error *err)
{
	uint64_t size = d->next ? qcow2_size(d->next) : 0;
	size_t n = guest_off < size ? (size_t)min_u64(len, size - guest_off) : 0;
	int ret = n ? qcow2_pread(d->next, buf, n, guest_off, err) : 0;

	memset(buf + n, 0, len - n);
	return ret;
}

/* Those of the blocks, all of one kind, that the new backing file has too become ABSENT. */
static void drop_same(const uint8_t *buf, const uint8_t *next, size_t len, size_t block_size,
		      uint8_t *states)
{
	for (size_t pos = 0; pos < len; pos += block_size) {
		size_t part = min_u64(block_size, len - pos);
		uint8_t *state = &states[pos / block_size];

		if (*state == JOB_BLOCK_ZERO ? bytes_are_zero(next + pos, part)
					     : memcmp(buf + pos, next + pos, part) == 0)
			*state = JOB_BLOCK_ABSENT;
	}
}

/* What is left of them goes from where it was read to where it stays. Is it all? */
static bool keep_data(uint8_t *buf, const uint8_t *old, size_t len, size_t block_size,
		      const uint8_t *states)
{
	bool all = true;

	for (size_t pos = 0; pos < len; pos += block_size) {
		if (states[pos / block_size] != JOB_BLOCK_DATA)
			all = false;
		else if (old != buf)
			memcpy(buf + pos, old + pos, min_u64(block_size, len - pos));
	}
	return all;
}

/*
 * Blocks of one kind. Most are the same, so what both sides have is read to the same small places
 * again and again; but where all differed, what follows is read to where it is to stay.
 */
static int read_run(const struct diff *d, uint64_t guest_off, size_t len, size_t block_size,
		    uint8_t *buf, uint8_t *room, uint8_t *states, struct qcow2_error *err)
{
	size_t in_disk = (size_t)min_u64(len, qcow2_size(d->image) - guest_off);
	bool is_data = states[0] == JOB_BLOCK_DATA;
	bool stays = d->step == SIZE_MAX;
	int ret = 0;

	for (size_t at = 0, n; ret == 0 && at < in_disk; at += n) {
		uint8_t *old = stays ? buf + at : room + JOB_COMPARE_STEP;

		n = min_u64(d->step, in_disk - at);
		/* where a part of a block is the image's own, that stays */
		if (is_data)
			ret = qcow2_pread(d->image, old, n, guest_off + at, err);
		if (ret == 0)
			ret = read_next(d, room, n, guest_off + at, err);
		if (ret < 0)
			break;
		drop_same(old, room, n, block_size, states + at / block_size);
		if (is_data)
			stays = keep_data(buf + at, old, n, block_size, states + at / block_size);
	}
	if (is_data)
		memset(buf + in_disk, 0, len - in_disk);
	return ret;
}

static int read_diff(const struct job_reader *r, uint64_t guest_off, size_t len, size_t block_size,
		     uint8_t *buf, uint8_t *states, uint64_t *quiet, job_unreadable_fn unreadable,
		     void *opaque, struct qcow2_error *err)
{
	const struct diff *d = (const struct diff *)r;
	uint64_t end = min_u64(guest_off + len, qcow2_size(d->image));
	uint8_t *room = buf + align_up(len, JOB_ROOM_ALIGN);
	size_t nblocks = (size_t)div_ceil(end - guest_off, block_size);
	int ret = job_map_blocks(map_diff, d, guest_off, end, block_size, states, quiet, err);

	(void)unreadable;
	(void)opaque;
	for (size_t first = 0, next; ret == 0 && first < nblocks; first = next) {
		size_t at = first * block_size;

		next = job_run_of_blocks(states, first, nblocks);
		if (states[first] == JOB_BLOCK_ABSENT)
			continue;
		*quiet = 0; /* how far it goes on has to be read */
		ret = read_run(d, guest_off + at, next * block_size - at, block_size, buf + at,
			       room, states + first, err);
	}
	return ret;
}

/* cluster_max: clusters that are larger than a step may be compressed, so they are read whole. */
static int diff_init(struct diff *d, struct qcow2_image *image, struct qcow2_image *next,
		     uint64_t cluster_max, struct qcow2_error *err)
{
	int ret;

	*d = (struct diff){
		.reader = {.read = read_diff, .wants_room = true}, .image = image, .next = next};
	ret = job_files_init(&d->files, image, err);
	if (ret == 0 && next)
		ret = job_files_init(&d->next_files, next, err);
	d->step = job_compare_step(&d->files, next ? &d->next_files : &d->files);
	if (cluster_max > d->step)
		d->step = SIZE_MAX;
	return ret;
}

static void diff_release(struct diff *d)
{
	job_files_release(&d->files);
	job_files_release(&d->next_files);
}

/* ---- copying it ---- */

static int copy(struct job_copy *c, struct qcow2_image *image, struct qcow2_image *next,
		const struct qcow2_rebase_options *o, struct qcow2_error *err)
{
	const struct format_geometry *g = &image->qcow2->meta.geometry;
	const bool compress = o->flags & QCOW2_REBASE_COMPRESS;
	const struct job_target_how how = {
		.block_size = (size_t)1 << (compress ? g->cluster_bits : g->subcluster_bits),
		.compressed = compress,
	};
	struct diff d;
	int ret;

	c->reader = &d.reader;
	c->size_bytes = qcow2_size(image);
	c->cluster_max = job_largest_cluster(next, job_largest_cluster(image, 0));
	ret = diff_init(&d, image, next, c->cluster_max, err);
	if (ret == 0)
		ret = job_target_open_image(&c->target, image, &how, err);
	if (ret == 0) {
		ret = job_copy_run(c, err);
		c->target->ops->close(c->target);
	}
	diff_release(&d);
	return ret;
}

/* ---- the new backing file ---- */

static int open_next(struct qcow2_image **next, struct qcow2_image *image, const char *name,
		     const struct qcow2_rebase_options *o, struct qcow2_error *err)
{
	const struct qcow2_policy *policy = o->policy ? o->policy : &image_policy_local;
	struct qcow2_open_options open = QCOW2_OPEN_OPTIONS_INIT;
	struct job_source source = {0};
	cleanup_free char *path = NULL;
	int ret;

	open.flags = o->backing_open_flags;
	open.format = o->backing_format;
	open.policy = policy;
	open.warn = image->warn;
	open.opaque = image->opaque;
	ret = image_resolve_name(image->placeless ? NULL : image->path, name, &path, err);
	if (ret == 0 && !(policy->follow & QCOW2_FOLLOW_BACKING))
		ret = error_set(err, -EPERM, "the policy doesn't allow to open \"%s\"", path);
	if (ret == 0)
		ret = image_check_dirs(policy, path, err);
	if (ret == 0)
		ret = qcow2_open(next, path, &open, err);
	if (ret < 0) {
		error_prefix(err, "new backing file \"%s\"", name);
		return ret;
	}
	/* the lock told so, unless locks weren't wanted */
	ret = job_source_init(&source, next, 1, err);
	if (ret == 0 && storage_file_stat(image->store, &(struct storage_file_stat){0}, NULL) == 0)
		ret = job_source_differs(image->store, image->path, &source, err);
	job_source_release(&source);
	return ret;
}

static int check(const struct qcow2_image *image, const char *name,
		 const struct qcow2_rebase_options *o, struct qcow2_error *err)
{
	int ret = image_check_writable(image, err);

	if (ret < 0)
		return ret;
	if (o->flags & ~FLAGS_KNOWN || o->backing_open_flags & ~BACKING_FLAGS_KNOWN)
		return error_set(err, -EINVAL, "unknown rebase flags");
	if (!image->qcow2)
		return error_set(err, -ENOTSUP,
				 "\"%s\" is a raw image: it can't have a backing file",
				 image->path);
	if (name && !o->backing_format)
		return error_set(err, -EINVAL,
				 "the format of the backing file \"%s\" has to be told", name);
	if (o->flags & QCOW2_REBASE_UNSAFE)
		return 0;
	if (image->qcow2->meta.header.backing_name && !image->backing)
		return error_set(err, -EINVAL,
				 "\"%s\" was opened without its backing file, so it isn't known "
				 "what it reads as",
				 image->path);
	if (o->flags & QCOW2_REBASE_COMPRESS && image->qcow2->meta.geometry.data_file)
		return error_set(err, -ENOTSUP,
				 "an image with an external data file can't have compressed "
				 "clusters");
	return codec_check_level((enum codec_type)image->qcow2->meta.header.compression_type,
				 o->compression_level, err);
}

static int copy_difference(struct job_copy *c, struct qcow2_image *image, const char *name,
			   const struct qcow2_rebase_options *o, struct qcow2_error *err)
{
	struct qcow2_image *both[2] = {image};
	int ret = name ? open_next(&both[1], image, name, o, err) : 0;
	bool spared = ret == 0 && job_spare_cache(both, 2);

	if (ret == 0)
		ret = copy(c, image, both[1], o, err);
	if (spared)
		job_spare_cache_end(both, 2);
	qcow2_close(both[1]);
	return ret;
}

int qcow2_rebase(struct qcow2_image *image, const char *backing_file,
		 const struct qcow2_rebase_options *options, struct qcow2_rebase_result *result,
		 struct qcow2_error *err)
{
	struct qcow2_rebase_options o = QCOW2_REBASE_OPTIONS_INIT;
	struct job_copy c = {0};
	int ret;

	ret = OPTIONS_TAKE(&o, options, "rebase options", err);
	if (ret == 0)
		ret = check(image, backing_file, &o, err);
	if (ret < 0)
		return ret;
	c.threads = o.threads;
	c.sparse_bytes = SPARSE;
	c.compression_level = o.compression_level;
	c.progress = o.progress;
	if (!(o.flags & QCOW2_REBASE_UNSAFE))
		ret = copy_difference(&c, image, backing_file, &o, err);
	if (ret == 0)
		ret = image_set_backing(image, backing_file, o.backing_format, err);
	if (ret == 0)
		ret = qcow2_finish(image, err);
	if (ret < 0)
		return ret;
	job_copy_end(&c);
	if (result)
		result->data_bytes = atomic_load(&c.data_bytes);
	return 0;
}
