/* SPDX-License-Identifier: MIT */
/* Copy-on-read, by map, read and write. */
#include <errno.h>
#include <stdlib.h>

#include "io/copy.h"

#define PIECE (UINT64_C(1) << 20)

static bool is_on(const struct io *io)
{
	return io->setup.copy_on_read && io->has_backing;
}

void io_copy_lock(struct io *io)
{
	if (is_on(io))
		pthread_mutex_lock(&io->guard);
}

void io_copy_unlock(struct io *io)
{
	if (is_on(io))
		pthread_mutex_unlock(&io->guard);
}

static int copy(struct io *io, const struct qcow2_extent *extent, struct qcow2_error *err)
{
	uint64_t done, n;
	uint8_t *buf;
	int rc = 0;

	if (extent->flags & QCOW2_EXTENT_ZERO)
		return qcow2_write_zeroes(io->image, extent->guest_off, extent->len_bytes, 0, err);
	buf = malloc(PIECE);
	if (!buf)
		return names_reason(err, -ENOMEM, "out of memory");
	for (done = 0; rc == 0 && done < extent->len_bytes; done += n) {
		n = extent->len_bytes - done < PIECE ? extent->len_bytes - done : PIECE;
		rc = qcow2_pread(io->image, buf, (size_t)n, extent->guest_off + done, err);
		if (rc == 0)
			rc = qcow2_pwrite(io->image, buf, (size_t)n, extent->guest_off + done, 0,
					  err);
	}
	free(buf);
	return rc;
}

int io_copy_range(struct io *io, uint64_t guest_off, uint64_t len_bytes, struct qcow2_error *err)
{
	uint64_t end = guest_off + len_bytes, size = qcow2_size(io->image);
	uint64_t at = guest_off / io->cluster_size * io->cluster_size;
	struct qcow2_extent extent;
	int rc = 0;

	if (!is_on(io) || len_bytes == 0)
		return 0;
	end = (end + io->cluster_size - 1) / io->cluster_size * io->cluster_size;
	if (end > size)
		end = size;
	for (; rc == 0 && at < end; at += extent.len_bytes) {
		rc = qcow2_map(io->image, at, end - at, &extent, err);
		if (rc < 0)
			return rc;
		if (extent.depth > 0 || !(extent.flags & QCOW2_EXTENT_PRESENT))
			rc = copy(io, &extent, err);
	}
	return rc;
}
