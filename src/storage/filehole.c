/* SPDX-License-Identifier: MIT */
/*
 * Holes in files and on devices: zero, discard, allocate, extents.
 *
 * - What a file system doesn't do it is asked once; then the answer is remembered.
 * - A file is made longer only by calls that can't make it shorter (never ftruncate): another
 *   thread may be writing past the end just now.
 * - Only extents of data are remembered. A stale one costs a needless read; a stale hole would
 *   lose data.
 */
#include "storage/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/num.h"

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static bool is_unsupported(int code)
{
	return code == -ENOTSUP || code == -EOPNOTSUPP || code == -EINVAL || code == -ENOSYS ||
	       code == -ENOTTY || code == -ENODEV;
}

/* Remembers that what doesn't work doesn't work. Ranges must be such that EINVAL means that. */
static int judge(struct file *f, unsigned feature, int code)
{
	if (!is_unsupported(code))
		return code;
	atomic_fetch_or(&f->missing, feature);
	return -ENOTSUP;
}

static bool lacks(struct file *f, unsigned feature)
{
	return atomic_load(&f->missing) & feature;
}

static int do_fallocate(struct file *f, unsigned feature, int mode, uint64_t off, uint64_t len)
{
	int code;

	if (lacks(f, feature))
		return -ENOTSUP;
	do
		code = fallocate(f->fd, mode, (off_t)off, (off_t)len) == 0 ? 0 : -errno;
	while (code == -EINTR);
	return judge(f, feature, code);
}

static int do_ioctl(struct file *f, unsigned feature, unsigned long request, uint64_t off,
		    uint64_t len)
{
	uint64_t range[2] = {off, len};
	int code;

	if (lacks(f, feature))
		return -ENOTSUP;
	do
		code = ioctl(f->fd, request, range) == 0 ? 0 : -errno;
	while (code == -EINTR);
	return judge(f, feature, code);
}

void file_forget_data(struct file *f)
{
	pthread_mutex_lock(&f->lock);
	f->data_epoch++;
	memset(f->known, 0, sizeof(f->known));
	pthread_mutex_unlock(&f->lock);
}

/* Makes the file at least size bytes long, by a block at the end that is punched out next. */
static int extend(struct file *f, uint64_t size)
{
	uint64_t now;
	int code = file_size(f, &now);

	if (code != 0 || now >= size)
		return code;
	return do_fallocate(f, FILE_NO_RESERVE, 0, size - 1, 1);
}

static int zero_regular(struct file *f, uint64_t off, uint64_t len, unsigned flags)
{
	int code;

	if (flags & QCOW2_STORAGE_MAY_UNMAP) {
		code = lacks(f, FILE_NO_PUNCH) ? -ENOTSUP : extend(f, off + len);
		if (code == 0)
			code = do_fallocate(f, FILE_NO_PUNCH, PUNCH, off, len);
		if (code != -ENOTSUP)
			return code;
	}
	code = do_fallocate(f, FILE_NO_ZERO_RANGE, FALLOC_FL_ZERO_RANGE, off, len);
	if (code != -ENOTSUP || lacks(f, FILE_NO_RESERVE))
		return code;
	code = do_fallocate(f, FILE_NO_PUNCH, PUNCH, off, len);
	return code != 0 ? code : do_fallocate(f, FILE_NO_RESERVE, 0, off, len);
}

/* The same for whole sectors of a device. */
static int zero_sectors(struct file *f, uint64_t off, uint64_t len, unsigned flags)
{
	int code = -ENOTSUP;

	if (flags & QCOW2_STORAGE_MAY_UNMAP)
		code = do_fallocate(f, FILE_NO_PUNCH, PUNCH, off, len);
	/* the kernel would write zeros where the device can't do better */
	if (code != -ENOTSUP || (flags & QCOW2_STORAGE_NO_FALLBACK))
		return code;
	code = do_fallocate(f, FILE_NO_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, off,
			    len);
	if (code == -ENOTSUP)
		code = do_ioctl(f, FILE_NO_BLKZEROOUT, BLKZEROOUT, off, len);
	return code;
}

/* Writes less than a block of zeros. */
static int write_zeros(struct file *f, uint64_t off, uint64_t end)
{
	cleanup_free uint8_t *zeros = NULL;
	struct iovec iov;

	if (off >= end)
		return 0;
	zeros = mem_zalloc(end - off, 1);
	if (!zeros)
		return -ENOMEM;
	iov = (struct iovec){.iov_base = zeros, .iov_len = (size_t)(end - off)};
	return file_pwritev(f, &iov, 1, off, NULL);
}

static int zero_block(struct file *f, uint64_t off, uint64_t len, unsigned flags)
{
	uint64_t end = off + len, size;
	uint64_t first = align_up(off, f->align), last = align_down(end, f->align);
	struct storage_range range;
	int code = file_size(f, &size);

	if (code == 0 && end > size)
		return -ENOSPC;
	if (code != 0)
		return code;
	if (first >= last) {
		/* within a sector, or parts of two */
		return write_zeros(f, off, end);
	}
	file_enter(f, &range, first, last, false);
	code = zero_sectors(f, first, last - first, flags);
	file_leave(f, &range);
	if (code == 0)
		code = write_zeros(f, off, first);
	return code == 0 ? write_zeros(f, last, end) : code;
}

int file_zero(void *self, uint64_t off, uint64_t len, unsigned flags, struct qcow2_error *err)
{
	struct file *f = self;
	struct storage_range range;
	uint64_t size = 0;
	int code = file_check_change(f, "zero", off, len, err);

	if (code != 0)
		return code;
	if (f->is_block) {
		code = zero_block(f, off, len, flags);
	} else {
		file_enter(f, &range, off, off + len, false);
		code = file_size(f, &size);
		if (code == 0)
			code = zero_regular(f, off, len, flags);
		file_leave(f, &range);
		/* space that wasn't there reads as zeros, it is enough to make the file longer */
		if (code == -ENOTSUP && off >= size)
			code = write_zeros(f, off + len - 1, off + len);
	}
	file_forget_data(f);
	if (code != 0)
		return file_error(f, err, code, "zero", off, len);
	return file_write_through(f, err);
}

int file_discard(void *self, uint64_t off, uint64_t len, struct qcow2_error *err)
{
	struct file *f = self;
	uint64_t first = align_up(off, f->align), last = align_down(off + len, f->align);
	struct storage_range range;
	int code = file_check_change(f, "discard", off, len, err);

	if (code != 0)
		return code;
	if (!f->is_block) {
		first = off;
		last = off + len;
	}
	if (first >= last)
		return 0;
	file_enter(f, &range, first, last, false);
	code = f->is_block ? do_ioctl(f, FILE_NO_DISCARD, BLKDISCARD, first, last - first)
			   : do_fallocate(f, FILE_NO_PUNCH, PUNCH, first, last - first);
	file_leave(f, &range);
	file_forget_data(f);
	if (code != 0)
		return file_error(f, err, code, "discard", off, len);
	return file_write_through(f, err);
}

int file_allocate(void *self, uint64_t off, uint64_t len, struct qcow2_error *err)
{
	struct file *f = self;
	struct storage_range range;
	uint64_t size = 0;
	int code = file_check_change(f, "allocate", off, len, err);

	if (code != 0)
		return code;
	if (f->is_block) {
		/* a device has its space */
		code = file_size(f, &size);
		if (code == 0 && off + len > size)
			code = -ENOSPC;
	} else {
		file_enter(f, &range, off, off + len, false);
		code = do_fallocate(f, FILE_NO_RESERVE, 0, off, len);
		file_leave(f, &range);
	}
	if (code != 0)
		return file_error(f, err, code, "allocate", off, len);
	return file_write_through(f, err);
}

/*
 * The remembered extent that has off, if there is one. *at_data: else, a remembered hole ends
 * there. *epoch goes to remember.
 */
static bool recall(struct file *f, uint64_t off, struct file_extent *out, bool *at_data,
		   uint64_t *epoch)
{
	bool found = false;

	*at_data = false;
	pthread_mutex_lock(&f->lock);
	*epoch = f->data_epoch;
	for (unsigned i = 0; i < FILE_KNOWN && !found; i++) {
		const struct file_extent *e = &f->known[i];

		found = off >= e->start && off < e->end;
		if (found)
			*out = *e;
		*at_data |= !e->is_data && e->end == off && e->start < off;
	}
	pthread_mutex_unlock(&f->lock);
	return found;
}

static void remember(struct file *f, uint64_t start, uint64_t end, bool is_data, uint64_t epoch)
{
	/* whoever may write to it makes data of holes without a word */
	if (!is_data && (f->flags & STORAGE_FILE_WRITE || !atomic_load(&f->settled)))
		return;
	pthread_mutex_lock(&f->lock);
	if (f->data_epoch == epoch) {
		f->known[f->next_known] = (struct file_extent){start, end, is_data};
		f->next_known = (f->next_known + 1) % FILE_KNOWN;
	}
	pthread_mutex_unlock(&f->lock);
}

/* All up to the end is data, where nobody tells. */
static int extent_by_size(struct file *f, uint64_t off, struct qcow2_storage_extent *out)
{
	uint64_t size;
	int code = file_size(f, &size);

	if (code != 0)
		return code;
	out->is_data = off < size;
	if (out->is_data)
		out->len_bytes = min_u64(out->len_bytes, size - off);
	return 0;
}

/* Asks the file system. out->len_bytes is the limit on the way in. at_data: data are at off. */
static int extent_by_seek(struct file *f, uint64_t off, bool at_data, uint64_t epoch,
			  struct qcow2_storage_extent *out)
{
	off_t data = at_data ? (off_t)off : lseek(f->fd, (off_t)off, SEEK_DATA);
	off_t hole;

	if (data < 0 && errno == ENXIO) {
		/* no data from here to the end, or past the end */
		out->is_data = false;
		return 0;
	}
	if (data < 0)
		return judge(f, FILE_NO_SEEK_DATA, -errno);
	if ((uint64_t)data > off) {
		out->is_data = false;
		out->len_bytes = min_u64(out->len_bytes, (uint64_t)data - off);
		remember(f, off, (uint64_t)data, false, epoch);
		return 0;
	}
	hole = lseek(f->fd, (off_t)off, SEEK_HOLE);
	out->is_data = true;
	/* the hole is just being made, or the file cut: data is always a safe answer */
	if (hole < 0 || (uint64_t)hole <= off)
		return 0;
	remember(f, off, (uint64_t)hole, true, epoch);
	out->len_bytes = min_u64(out->len_bytes, (uint64_t)hole - off);
	return 0;
}

int file_extent(void *self, uint64_t off, uint64_t len, struct qcow2_storage_extent *out,
		struct qcow2_error *err)
{
	struct file *f = self;
	struct file_extent known = {0};
	int code = -ENOTSUP;
	uint64_t epoch;
	bool at_data;

	*out = (struct qcow2_storage_extent){.len_bytes = len, .is_data = true};
	if (recall(f, off, &known, &at_data, &epoch)) {
		out->is_data = known.is_data;
		out->len_bytes = min_u64(len, known.end - off);
		return 0;
	}
	if (off > INT64_MAX) {
		/* past the end of any file */
		out->is_data = false;
		return 0;
	}
	if (!f->is_block && !lacks(f, FILE_NO_SEEK_DATA))
		code = extent_by_seek(f, off, at_data, epoch, out);
	if (code == -ENOTSUP)
		code = extent_by_size(f, off, out);
	return code == 0 ? 0 : file_error(f, err, code, "look for holes in", off, len);
}
