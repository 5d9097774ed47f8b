/* SPDX-License-Identifier: MIT */
/*
 * Mapping through a chain, and reading.
 *
 * The first layer that knows a range answers for it; a layer that doesn't narrows the question to
 * the run that it doesn't know, and to its own end: behind a shorter backing file come zeros, not
 * what lies further down.
 */
#include "data/data.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/alloc.h"
#include "base/iov.h"
#include "base/num.h"

#define PIECES 64 /* of the caller's vector that one storage call takes */

static int map_layer(struct disk *disk, uint64_t guest_off, uint64_t len_bytes, bool cached,
		     struct disk_run *run, struct qcow2_error *err)
{
	if (!cached)
		return disk->ops->map(disk, guest_off, len_bytes, run, err);
	if (!disk->ops->map_cached)
		return -EAGAIN;
	return disk->ops->map_cached(disk, guest_off, len_bytes, run);
}

static int map_layers(const struct data_layers *layers, uint64_t guest_off, uint64_t len_bytes,
		      bool cached, struct data_run *out, struct qcow2_error *err)
{
	uint64_t len = len_bytes;
	int ret;

	for (unsigned depth = 0;; depth++) {
		struct disk *disk = layers->disks[depth];

		out->past_end = guest_off >= disk->size_bytes;
		out->depth = depth;
		if (out->past_end && depth > 0) {
			/* zeros of the layer above, which may have a place for them */
			out->depth = depth - 1;
			out->run.kind = DISK_RUN_ZERO;
			return 0;
		}
		if (out->past_end) {
			out->run = (struct disk_run){.kind = DISK_RUN_ZERO, .len_bytes = len};
			return 0;
		}
		len = min_u64(len, disk->size_bytes - guest_off);
		ret = map_layer(disk, guest_off, len, cached, &out->run, err);
		if (ret < 0)
			return ret;
		if (out->run.kind != DISK_RUN_ABSENT || depth + 1 == layers->count)
			return 0;
		len = out->run.len_bytes;
		if (depth == 0)
			depth = data_hints_depth(layers, guest_off, &len, cached) - 1;
	}
}

int data_map(const struct data_layers *layers, uint64_t guest_off, uint64_t len_bytes,
	     struct data_run *out, struct qcow2_error *err)
{
	return map_layers(layers, guest_off, len_bytes, false, out, err);
}

int data_map_cached(const struct data_layers *layers, uint64_t guest_off, uint64_t len_bytes,
		    struct data_run *out)
{
	return map_layers(layers, guest_off, len_bytes, true, out, NULL);
}

/* The next len bytes of the vector from plain bytes in a store. */
static int read_plain(const struct disk_run *run, struct iov_cursor *cur, size_t len,
		      struct qcow2_error *err)
{
	uint64_t host_off = run->host_off;
	struct iovec pieces[PIECES];
	size_t taken;
	int n, ret;

	storage_event(run->store, QCOW2_EVENT_READ_AIO);
	while (len > 0) {
		n = iov_cut(cur, len, pieces, PIECES, &taken);
		ret = storage_readv(run->store, pieces, n, host_off, err);
		if (ret < 0)
			return ret;
		host_off += taken;
		len -= taken;
	}
	return 0;
}

static int read_compressed(struct disk *disk, const struct disk_run *run, struct iov_cursor *cur,
			   size_t len, uint64_t guest_off, struct qcow2_error *err)
{
	cleanup_free uint8_t *bounce = NULL;
	void *buf = iov_contiguous(cur, len);
	size_t taken;
	int ret;

	if (buf) {
		struct iovec piece;

		iov_cut(cur, len, &piece, 1, &taken);
		return disk->ops->read_compressed(disk, run, buf, len, guest_off, err);
	}
	bounce = mem_alloc(len, 1);
	if (!bounce)
		return error_errno(err, -ENOMEM, "can't read a compressed cluster");
	ret = disk->ops->read_compressed(disk, run, bounce, len, guest_off, err);
	if (ret == 0)
		iov_put(cur, bounce, len);
	return ret;
}

static int read_run(const struct data_layers *layers, const struct data_run *r,
		    struct iov_cursor *cur, uint64_t guest_off, struct qcow2_error *err)
{
	size_t len = (size_t)r->run.len_bytes;

	switch (r->run.kind) {
	case DISK_RUN_DATA:
		return read_plain(&r->run, cur, len, err);
	case DISK_RUN_COMPRESSED:
		return read_compressed(layers->disks[r->depth], &r->run, cur, len, guest_off, err);
	case DISK_RUN_ZERO:
	case DISK_RUN_ABSENT:
		break;
	}
	iov_fill(cur, 0, len);
	return 0;
}

int data_read(const struct data_layers *layers, const struct iovec *iov, int iovcnt,
	      uint64_t guest_off, uint64_t len_bytes, struct qcow2_error *err)
{
	struct iov_cursor cur;
	struct data_run r;
	int ret;

	iov_cursor_init(&cur, iov, iovcnt);
	while (len_bytes > 0) {
		ret = data_map(layers, guest_off, len_bytes, &r, err);
		if (ret == 0)
			ret = read_run(layers, &r, &cur, guest_off, err);
		if (ret < 0) {
			error_at_guest(err, guest_off);
			return ret;
		}
		guest_off += r.run.len_bytes;
		len_bytes -= r.run.len_bytes;
	}
	return 0;
}
