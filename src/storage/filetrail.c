/* SPDX-License-Identifier: MIT */
/*
 * Bytes on their way to the disk before anybody waits for them: a flush that comes after many
 * writes finds most of its work done, by a disk that would have had none meanwhile.
 *
 * Nothing is promised, and no error is told. What the kernel couldn't write it remembers until the
 * flush: asking it to begin, and not to wait, takes nothing of that away.
 */
#include <fcntl.h>

#include "base/num.h"
#include "storage/file.h"

#define TRAIL_BYTES (1u << 20) /* at once: less is a call too often, more lets the disk wait */

/* Is there a page cache to empty, and a flush that this is for? */
static bool is_lazy(const struct file *f)
{
	return f && f->flags & STORAGE_FILE_WRITE &&
	       !(f->flags &
		 (STORAGE_FILE_DIRECT | STORAGE_FILE_NO_FLUSH | STORAGE_FILE_WRITETHROUGH));
}

void storage_trail_add(struct storage_trail *trail, struct qcow2_storage st, uint64_t host_off,
		       uint64_t len_bytes)
{
	const struct file *f = file_of(st);

	if (!is_lazy(f))
		return;
	trail->start = trail->bytes > 0 ? min_u64(trail->start, host_off) : host_off;
	trail->end = max_u64(trail->end, host_off + len_bytes);
	trail->bytes += len_bytes;
	if (trail->bytes < TRAIL_BYTES)
		return;
	(void)sync_file_range(f->fd, (off_t)trail->start, (off_t)(trail->end - trail->start),
			      SYNC_FILE_RANGE_WRITE);
	*trail = (struct storage_trail){0};
}
