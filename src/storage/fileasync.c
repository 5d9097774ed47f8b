/* SPDX-License-Identifier: MIT */
/* Which requests on a file the kernel can be asked to carry out by itself: see ring.h. */
#include "storage/file.h"
#include "storage/ring.h"

bool storage_file_async_begin(struct storage_ring_op *op)
{
	struct file *f = file_of(op->store);

	if (!f || !file_range_fits(op->host_off, op->len_bytes))
		return false;
	if (op->write &&
	    (!(f->flags & STORAGE_FILE_WRITE) || (f->flags & STORAGE_FILE_WRITETHROUGH)))
		return false;
	op->fd = f->fd;
	op->align = f->flags & STORAGE_FILE_DIRECT ? f->align : 1;
	if (!(f->flags & STORAGE_FILE_DIRECT))
		return true;
	if (!file_is_aligned(f, op->iov, op->iovcnt, op->host_off))
		return false;
	return !op->write ||
	       file_try_enter(f, &op->range, op->host_off, op->host_off + op->len_bytes);
}

void storage_file_async_end(struct storage_ring_op *op)
{
	if (op->write)
		file_leave(file_of(op->store), &op->range);
}
