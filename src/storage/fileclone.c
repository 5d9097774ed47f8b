/* SPDX-License-Identifier: MIT */
/*
 * Reflinks: a range of one file becomes the same blocks as a range of another, and no data are
 * moved. What the kernel writes of the source before it does that, and drops of the target from the
 * page cache, is its own affair.
 */
#include <errno.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include "base/num.h"
#include "storage/file.h"

#define BLOCK_DEFAULT 4096
#define BLOCK_MAX (1u << 20)

/* Does that mean that these files, or these ranges, can't share blocks? */
static bool is_refusal(int code)
{
	return code == -EOPNOTSUPP || code == -ENOTTY || code == -ENOSYS || code == -EXDEV ||
	       code == -EINVAL || code == -EPERM || code == -ETXTBSY;
}

static int ask_kernel(const struct file *from, uint64_t from_off, const struct file *to,
		      uint64_t to_off, uint64_t len_bytes)
{
	struct file_clone_range range = {
		.src_fd = from->fd,
		.src_offset = from_off,
		.src_length = len_bytes,
		.dest_offset = to_off,
	};
	int code;

	do
		code = ioctl(to->fd, FICLONERANGE, &range) == 0 ? 0 : -errno;
	while (code == -EINTR);
	return code;
}

static int refused(const struct file *from, const struct file *to, int code,
		   struct qcow2_error *err)
{
	error_errno(err, code, "\"%s\" and \"%s\" can't share blocks", from->path, to->path);
	if (err)
		err->code = -ENOTSUP;
	return -ENOTSUP;
}

/* NULL, with a sentence: one of them is no regular file. */
static struct file *files_of(struct qcow2_storage from, struct qcow2_storage to,
			     const struct file **source, struct qcow2_error *err)
{
	struct file *target = file_of(to);

	*source = file_of(from);
	if (target && *source && !target->is_block && !(*source)->is_block)
		return target;
	error_set(err, -ENOTSUP, "only regular files can share blocks");
	return NULL;
}

int storage_can_clone(struct qcow2_storage from, struct qcow2_storage to, uint64_t *block_bytes,
		      struct qcow2_error *err)
{
	const struct file *source;
	const struct file *target = files_of(from, to, &source, err);
	uint64_t size = 0;
	struct statfs sb;
	int code;

	if (!target)
		return -ENOTSUP;
	/*
	 * What is behind the end is nothing, and is cloned without a change wherever anything could
	 * be. Should the file grow just now: no target is at an odd place.
	 */
	code = file_size(source, &size);
	if (code == 0)
		code = ask_kernel(source, size, target, 1, 0);
	if (code == 0)
		code = fstatfs(target->fd, &sb) == 0 ? 0 : -errno;
	if (code != 0)
		return refused(source, target, code, err);
	*block_bytes = (uint64_t)sb.f_bsize;
	if (!is_pow2(*block_bytes) || *block_bytes > BLOCK_MAX)
		*block_bytes = BLOCK_DEFAULT;
	return 0;
}

int storage_clone(struct qcow2_storage from, uint64_t from_off, struct qcow2_storage to,
		  uint64_t to_off, uint64_t len_bytes, struct qcow2_error *err)
{
	const struct file *source;
	struct file *target = files_of(from, to, &source, err);
	struct storage_range range;
	int code;

	if (!target)
		return -ENOTSUP;
	code = file_check_change(target, "clone to", to_off, len_bytes, err);
	if (code != 0 || len_bytes == 0) /* 0 would mean: up to the end */
		return code;
	file_enter(target, &range, to_off, to_off + len_bytes, false);
	code = ask_kernel(source, from_off, target, to_off, len_bytes);
	file_leave(target, &range);
	if (is_refusal(code))
		return refused(source, target, code, err);
	file_forget_data(target); /* it may have got holes */
	if (code != 0)
		return file_error(target, err, code, "clone to", to_off, len_bytes);
	return file_write_through(target, err);
}
