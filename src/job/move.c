/* SPDX-License-Identifier: MIT */
/*
 * Data that get from one file to another without being looked at.
 *
 * Where the file system can, the target shares the source's blocks (a reflink). Whether it can is
 * asked once for each file that the source is read from, before anything is made, and the answer
 * holds for the whole copy: what is zero is then for the source's map to say, and nobody reads data
 * to find out, so the answer shows in the target. All files have to be able to, or none is cloned.
 *
 * With that settled, how a range gets there is of no consequence. One that is contiguous in both
 * files is cloned by one call, with what is compressed, or doesn't fill blocks of the file system,
 * copied; and so is what the kernel refuses after all.
 */
#include "job/move.h"

#include <errno.h>

#include "base/num.h"
#include "base/zero.h"

#define GRAIN 4096u /* zeros of this size that come by are left out of what is copied */

/* ---- whether ---- */

/* Where that layer's data are. */
static struct qcow2_storage data_store(const struct qcow2_image *layer)
{
	if (layer->qcow2 && storage_is_open(layer->qcow2->data_file))
		return layer->qcow2->data_file;
	return layer->store;
}

static int can_clone_layer(const struct qcow2_image *layer, struct qcow2_storage to,
			   uint64_t *block, struct qcow2_error *err)
{
	int ret = storage_can_clone(data_store(layer), to, block, err);

	if (ret == 0 && layer->qcow2 && layer->qcow2->meta.geometry.cluster_size < *block)
		return error_set(err, -ENOTSUP,
				 "clusters of \"%s\" are smaller than the %u bytes of a block "
				 "that can be shared",
				 layer->path, (unsigned)*block);
	return ret;
}

/* Every file that the source is read from, and where its parts begin. */
static int can_clone(const struct job_source *s, struct qcow2_storage to, uint64_t *block,
		     struct qcow2_error *err)
{
	for (size_t i = 0; i < s->nimages; i++) {
		const struct qcow2_image *l = s->images[i];
		unsigned left = s->nlayers ? s->nlayers : UINT32_MAX;
		int ret = 0;

		for (; ret == 0 && l && left > 0; l = l->backing, left--)
			ret = can_clone_layer(l, to, block, err);
		if (ret < 0)
			return ret;
		if (!is_aligned(s->starts[i] - (i == 0 ? s->first_off : 0), *block))
			return error_set(err, -ENOTSUP,
					 "what is copied of \"%s\" isn't moved by multiples of the "
					 "%u bytes of a block that can be shared",
					 s->images[i]->path, (unsigned)*block);
	}
	return 0;
}

static int settle_clone(struct job_mover *m, const struct job_moving *target,
			struct qcow2_error *err)
{
	uint64_t block = 0;
	int ret = can_clone(m->source, target->to, &block, err);

	if (ret < 0)
		return ret;
	if (target->block_size && target->block_size < block)
		return error_set(err, -ENOTSUP,
				 "clusters of %zu bytes are smaller than the %u of a block that "
				 "can be shared",
				 target->block_size, (unsigned)block);
	m->clone_block = block;
	return 0;
}

/* Do data have to be looked at? */
static bool reads(const struct qcow2_convert_options *o, const struct job_moving *target)
{
	return target->prealloc == QCOW2_PREALLOC_FULL || o->sparse_bytes == 0 ||
	       o->flags & (QCOW2_CONVERT_COMPRESS | QCOW2_CONVERT_SALVAGE);
}

/* How many zeros are to be left out, if somebody says so, is for reading to find. */
static bool may_clone(const struct qcow2_convert_options *o, const struct job_moving *target)
{
	return !(o->flags & QCOW2_CONVERT_REFLINK_NEVER) && !reads(o, target) &&
	       o->sparse_bytes == QCOW2_SPARSE_DEFAULT && target->prealloc != QCOW2_PREALLOC_FALLOC;
}

int job_mover_init(struct job_mover *m, bool *moves, const struct job_source *source,
		   const struct qcow2_convert_options *options, const struct job_moving *target,
		   struct qcow2_error *err)
{
	bool must = options->flags & QCOW2_CONVERT_REFLINK_ALWAYS;
	int ret = 0;

	*moves = false;
	*m = (struct job_mover){
		.source = source,
		.to = target->to,
		.offload = options->flags & QCOW2_CONVERT_OFFLOAD && !reads(options, target),
		.reads_zero = target->reads_zero,
	};
	if (may_clone(options, target))
		ret = source->size_bytes ? settle_clone(m, target, must ? err : NULL) : 0;
	else if (must)
		ret = error_set(err, -ENOTSUP,
				"a target that has all its space for itself can't share blocks");
	*moves = m->clone_block || m->offload;
	return must ? ret : 0;
}

/* ---- copying ---- */

/* Leaves zeros out where the place has them already. */
static int write_grains(const struct job_mover *m, const uint8_t *buf, size_t len,
			uint64_t host_off, struct qcow2_error *err)
{
	size_t from = 0, to, n;
	int ret = 0;

	for (to = 0; ret == 0 && to < len; to += n) {
		n = (size_t)min_u64(GRAIN, len - to);
		if (!bytes_are_zero(buf + to, n))
			continue;
		if (to > from)
			ret = storage_write(m->to, buf + from, to - from, host_off + from, err);
		from = to + n;
	}
	if (ret == 0 && len > from)
		ret = storage_write(m->to, buf + from, len - from, host_off + from, err);
	return ret;
}

static int copy_bytes(const struct job_mover *m, uint64_t guest_off, uint64_t len_bytes,
		      uint64_t host_off, uint8_t *buf, struct qcow2_error *err)
{
	bool sparse = m->clone_block && m->reads_zero;
	size_t n;
	int ret = 0;

	for (; ret == 0 && len_bytes > 0; guest_off += n, host_off += n, len_bytes -= n) {
		n = (size_t)min_u64(len_bytes, JOB_MOVE_BUFFER);
		ret = job_source_read(m->source, guest_off, buf, n, err);
		if (ret == 0)
			ret = sparse ? write_grains(m, buf, n, host_off, err)
				     : storage_write(m->to, buf, n, host_off, err);
	}
	return ret;
}

/* ---- inside the kernel ---- */

/* Of one kind in the source; plain bytes are contiguous in their file. */
struct stretch {
	uint64_t guest_off, host_off; /* in the target */
	uint64_t len_bytes;
	struct disk_run run; /* that it begins with */
};

static bool is_zero(const struct disk_run *run)
{
	return run->kind == DISK_RUN_ZERO || run->kind == DISK_RUN_ABSENT;
}

static bool goes_on(const struct stretch *s, const struct disk_run *next)
{
	if (s->run.kind == DISK_RUN_DATA)
		return next->kind == DISK_RUN_DATA && next->store.self == s->run.store.self &&
		       next->host_off == s->run.host_off + s->len_bytes;
	return is_zero(&s->run) ? is_zero(next) : next->kind == s->run.kind;
}

/* How far it is to the next block in both files; 0: this is one, or there is none. */
static uint64_t odd_bytes(const struct job_mover *m, const struct stretch *s)
{
	const uint64_t block = m->clone_block;

	if (!block || s->run.kind != DISK_RUN_DATA ||
	    !is_aligned(s->run.host_off ^ s->host_off, block))
		return 0;
	return align_up(s->host_off, block) - s->host_off;
}

/*
 * The longest stretch at guest_off. Holes of a raw file are looked for only where they have to be
 * left out by us: cloning takes them over.
 */
static int find_stretch(const struct job_mover *m, struct stretch *s, uint64_t len_bytes,
			struct qcow2_error *err)
{
	bool cached = m->clone_block;
	struct disk_run next;
	uint64_t odd;
	int ret = job_source_run(m->source, s->guest_off, len_bytes, cached, &s->run, err);

	if (ret < 0)
		return ret;
	s->len_bytes = s->run.len_bytes;
	odd = odd_bytes(m, s);
	if (odd) {
		s->len_bytes = min_u64(s->len_bytes, odd);
		return 0;
	}
	while (s->len_bytes < len_bytes) {
		ret = job_source_run(m->source, s->guest_off + s->len_bytes,
				     len_bytes - s->len_bytes, cached, &next, err);
		if (ret < 0 || !goes_on(s, &next))
			return ret;
		s->len_bytes += next.len_bytes;
	}
	return 0;
}

/* Whole blocks from its start on, as far as they lie inside of the source's file. */
static int clone_start(const struct job_mover *m, const struct stretch *s, uint64_t *done,
		       struct qcow2_error *err)
{
	uint64_t size, len;
	int ret;

	if (!m->clone_block || !is_aligned(s->run.host_off | s->host_off, m->clone_block))
		return 0;
	ret = storage_size(s->run.store, &size, err);
	if (ret < 0 || size <= s->run.host_off)
		return ret;
	len = align_down(min_u64(s->len_bytes, size - s->run.host_off), m->clone_block);
	ret = storage_clone(s->run.store, s->run.host_off, m->to, s->host_off, len, err);
	if (ret == 0)
		*done = len;
	return ret == -ENOTSUP ? 0 : ret;
}

static int copy_in_kernel(const struct job_mover *m, const struct stretch *s, uint64_t *done,
			  struct qcow2_error *err)
{
	uint64_t n = 1;
	int ret = 0;

	while (ret == 0 && n > 0 && *done < s->len_bytes) {
		ret = storage_file_copy(s->run.store, s->run.host_off + *done, m->to,
					s->host_off + *done, s->len_bytes - *done, &n, err);
		*done += n;
	}
	return ret == -ENOTSUP ? 0 : ret;
}

/* Finds a stretch, and does of it what needs no memory: that many bytes. */
static int move_start(const struct job_mover *m, struct stretch *s, uint64_t len_bytes,
		      uint64_t *done, struct qcow2_error *err)
{
	int ret = find_stretch(m, s, len_bytes, err);

	*done = 0;
	if (ret == 0 && is_zero(&s->run)) {
		*done = s->len_bytes;
		if (!m->reads_zero)
			ret = storage_zero(m->to, s->host_off, s->len_bytes,
					   QCOW2_STORAGE_MAY_UNMAP, err);
	}
	if (ret == 0 && s->run.kind == DISK_RUN_DATA)
		ret = clone_start(m, s, done, err);
	if (ret == 0 && s->run.kind == DISK_RUN_DATA && m->offload)
		ret = copy_in_kernel(m, s, done, err);
	return ret;
}

int job_mover_move(const struct job_mover *m, uint64_t guest_off, uint64_t len_bytes,
		   uint64_t host_off, uint8_t *buf, struct qcow2_error *err)
{
	struct stretch s = {.guest_off = guest_off, .host_off = host_off};
	uint64_t done, left, end = guest_off + len_bytes;
	int ret = 0;

	for (; ret == 0 && s.guest_off < end;
	     s.guest_off += s.len_bytes, s.host_off += s.len_bytes) {
		const struct qcow2_image *image;
		unsigned ticket = 0;

		left = end - s.guest_off;
		image = job_source_image(m->source, s.guest_off, &left);
		/* what the map says has to stay true until it is done */
		if (image)
			ticket = image_enter(image);
		ret = move_start(m, &s, left, &done, err);
		if (image)
			image_leave(image, ticket);
		if (ret == 0)
			ret = copy_bytes(m, s.guest_off + done, s.len_bytes - done,
					 s.host_off + done, buf, err);
	}
	return ret;
}
