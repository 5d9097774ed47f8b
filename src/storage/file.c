/* SPDX-License-Identifier: MIT */
/*
 * Regular files and block devices: opening, moving bytes, size, flush. Holes are in filehole.c,
 * O_DIRECT in filedirect.c, locks in filelock.c.
 *
 * - A request is moved whole or fails: short transfers and interrupts are continued here. What
 *   is past the end reads as zeros.
 * - Once a flush has failed every later one fails too. The kernel tells of lost writes once and
 *   then forgets them; a second flush that reported success would be a lie.
 * - One descriptor for the life of the store, never shared: QEMU's locks hang on it.
 */
#include "storage/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/iov.h"
#include "base/num.h"

#define PIECES 128

#ifndef RWF_DONTCACHE /* Linux 6.14 */
#define RWF_DONTCACHE 0x80
#endif

int file_error(const struct file *f, struct qcow2_error *err, int code, const char *what,
	       uint64_t off, uint64_t len)
{
	error_errno(err, code, "can't %s %llu bytes at 0x%llx of \"%s\"", what,
		    (unsigned long long)len, (unsigned long long)off, f->path);
	if (err)
		err->host_off = off;
	return code;
}

bool file_range_fits(uint64_t off, uint64_t len)
{
	uint64_t end;

	return add_fits(off, len, &end) && end <= INT64_MAX;
}

static int check_range(const struct file *f, const char *what, uint64_t off, uint64_t len,
		       struct qcow2_error *err)
{
	return file_range_fits(off, len) ? 0 : file_error(f, err, -EFBIG, what, off, len);
}

int file_check_change(const struct file *f, const char *what, uint64_t off, uint64_t len,
		      struct qcow2_error *err)
{
	if (!(f->flags & STORAGE_FILE_WRITE))
		return error_set(err, -EACCES, "can't %s \"%s\": it is open for reading only", what,
				 f->path);
	return check_range(f, what, off, len, err);
}

int file_size(const struct file *f, uint64_t *size)
{
	struct stat sb;

	if (f->is_block)
		return ioctl(f->fd, BLKGETSIZE64, size) == 0 ? 0 : -errno;
	if (fstat(f->fd, &sb) != 0)
		return -errno;
	*size = (uint64_t)sb.st_size;
	return 0;
}

static int size_op(void *self, uint64_t *size, struct qcow2_error *err)
{
	const struct file *f = self;
	int code = file_size(f, size);

	return code == 0 ? 0 : error_errno(err, code, "can't get the size of \"%s\"", f->path);
}

/*
 * Large requests only: the kernel drops each piece of the cache that was read or written, however
 * small a part of it, and would have to read it again for the next part.
 */
static bool spares_cache(const struct file *f, uint64_t len)
{
	return atomic_load_explicit(&f->sparing, memory_order_relaxed) != 0 &&
	       len >= FILE_SPARING_MIN && !(f->flags & STORAGE_FILE_DIRECT) &&
	       !(atomic_load(&f->missing) & FILE_NO_DONTCACHE);
}

/* One buffer without a vector around it: the kernel needn't copy that in. */
static ssize_t transfer(struct file *f, bool write, const struct iovec *v, int n, off_t off,
			uint64_t len)
{
	if (spares_cache(f, len)) {
		ssize_t r = write ? pwritev2(f->fd, v, n, off, RWF_DONTCACHE)
				  : preadv2(f->fd, v, n, off, RWF_DONTCACHE);

		if (r >= 0 || errno != EOPNOTSUPP)
			return r;
		atomic_fetch_or(&f->missing, FILE_NO_DONTCACHE);
	}
	if (n == 1)
		return write ? pwrite(f->fd, v->iov_base, v->iov_len, off)
			     : pread(f->fd, v->iov_base, v->iov_len, off);
	return write ? pwritev(f->fd, v, n, off) : preadv(f->fd, v, n, off);
}

/*
 * Moves what is left of the vector until done bytes of it are total; short of that only where a
 * read met the end of the file, and there the cursor is behind what was moved.
 */
static int move(struct file *f, bool write, struct iov_cursor *c, uint64_t total, uint64_t off,
		uint64_t *done)
{
	struct iovec pieces[PIECES];

	while (*done < total) {
		struct iov_cursor ahead = *c;
		const struct iovec *v = c->iov;
		int n = c->iovcnt;
		size_t taken;
		ssize_t r;

		if (c->skip != 0 || n > IOV_MAX) {
			n = iov_cut(&ahead, (size_t)(total - *done), pieces, PIECES, &taken);
			v = pieces;
		}
		r = transfer(f, write, v, n, (off_t)(off + *done), total - *done);
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r == 0)
			return write ? -EIO : 0;
		if (r > 0 && (uint64_t)r == total - *done) {
			*done = total;
			return 0;
		}
		if (r > 0) {
			*done += (uint64_t)r;
			iov_skip(c, (size_t)r);
		}
		/* with O_DIRECT only the end of a file is off the grid, and can't be read again */
		if (!write && *done % f->align != 0 && (f->flags & STORAGE_FILE_DIRECT))
			return 0;
	}
	return 0;
}

int file_read(struct file *f, const struct iovec *iov, int iovcnt, uint64_t total, uint64_t off)
{
	struct iov_cursor c;
	uint64_t done = 0;
	int code;

	iov_cursor_init(&c, iov, iovcnt);
	code = move(f, false, &c, total, off, &done);
	if (code == 0)
		iov_fill(&c, 0, (size_t)(total - done));
	return code;
}

int file_write(struct file *f, const struct iovec *iov, int iovcnt, uint64_t total, uint64_t off)
{
	struct iov_cursor c;
	uint64_t done = 0;

	iov_cursor_init(&c, iov, iovcnt);
	return move(f, true, &c, total, off, &done);
}

static int file_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t off,
		       struct qcow2_error *err)
{
	struct file *f = self;
	uint64_t total;
	int code;

	if (!iov_total(iov, iovcnt, &total))
		return error_set(err, -EINVAL, "can't read \"%s\": bad vector", f->path);
	code = check_range(f, "read", off, total, err);
	if (code != 0)
		return code;
	code = f->flags & STORAGE_FILE_DIRECT ? file_direct_preadv(f, iov, iovcnt, total, off)
					      : file_read(f, iov, iovcnt, total, off);
	return code == 0 ? 0 : file_error(f, err, code, "read", off, total);
}

static void remember_flush_code(struct file *f, int code)
{
	pthread_mutex_lock(&f->lock);
	if (f->flush_code == 0)
		f->flush_code = code;
	pthread_mutex_unlock(&f->lock);
}

int file_pwritev(void *self, const struct iovec *iov, int iovcnt, uint64_t off,
		 struct qcow2_error *err)
{
	struct file *f = self;
	uint64_t total;
	int code;

	if (!iov_total(iov, iovcnt, &total))
		return error_set(err, -EINVAL, "can't write \"%s\": bad vector", f->path);
	code = file_check_change(f, "write", off, total, err);
	if (code != 0)
		return code;
	code = f->flags & STORAGE_FILE_DIRECT ? file_direct_pwritev(f, iov, iovcnt, total, off)
					      : file_write(f, iov, iovcnt, total, off);
	if (code == 0)
		return 0;
	/* a write that syncs takes the kernel's memory of the fault with it */
	if (code == -EIO && (f->flags & STORAGE_FILE_WRITETHROUGH))
		remember_flush_code(f, code);
	return file_error(f, err, code, "write", off, total);
}

/*
 * One fdatasync at a time, so that no thread can be told of success while another is just being
 * told what the first one lost. All that wait meanwhile share the next one.
 */
int file_flush(void *self, struct qcow2_error *err)
{
	struct file *f = self;
	uint64_t wanted;
	int code;

	if ((f->flags & STORAGE_FILE_NO_FLUSH) || !(f->flags & STORAGE_FILE_WRITE))
		return 0;
	pthread_mutex_lock(&f->lock);
	wanted = f->flush_started + 1;
	while (f->flush_done < wanted && f->flush_code == 0) {
		if (f->flush_running) {
			pthread_cond_wait(&f->changed, &f->lock);
			continue;
		}
		f->flush_running = true;
		f->flush_started++;
		pthread_mutex_unlock(&f->lock);
		do
			code = fdatasync(f->fd) == 0 ? 0 : -errno;
		while (code == -EINTR);
		pthread_mutex_lock(&f->lock);
		f->flush_running = false;
		f->flush_done = f->flush_started;
		if (f->flush_code == 0)
			f->flush_code = code;
		pthread_cond_broadcast(&f->changed);
	}
	code = f->flush_code;
	pthread_mutex_unlock(&f->lock);
	if (code == 0)
		return 0;
	return error_errno(err, code, "can't flush \"%s\": writes may be lost", f->path);
}

int file_write_through(struct file *f, struct qcow2_error *err)
{
	return f->flags & STORAGE_FILE_WRITETHROUGH ? file_flush(f, err) : 0;
}

static int truncate_block(const struct file *f, uint64_t size, struct qcow2_error *err)
{
	uint64_t device = 0;
	int code = file_size(f, &device);

	if (code != 0)
		return error_errno(err, code, "can't get the size of \"%s\"", f->path);
	if (size <= device)
		return 0;
	return error_set(err, -ENOSPC, "can't make \"%s\" %llu bytes long: the device has %llu",
			 f->path, (unsigned long long)size, (unsigned long long)device);
}

static int file_truncate(void *self, uint64_t size, struct qcow2_error *err)
{
	struct file *f = self;
	struct storage_range range;
	int code = file_check_change(f, "truncate", size, 0, err);

	if (code != 0)
		return code;
	if (f->is_block)
		return truncate_block(f, size, err);
	file_enter(f, &range, 0, UINT64_MAX, true);
	do
		code = ftruncate(f->fd, (off_t)size) == 0 ? 0 : -errno;
	while (code == -EINTR);
	file_leave(f, &range);
	file_forget_data(f);
	if (code != 0)
		return error_errno(err, code, "can't make \"%s\" %llu bytes long", f->path,
				   (unsigned long long)size);
	return file_write_through(f, err);
}

static void file_close(void *self)
{
	struct file *f = self;

	/* the descriptor is gone whatever close says, and flush is what tells of lost writes */
	if (f->fd >= 0) {
		file_unlock(f);
		close(f->fd);
	}
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	pthread_mutex_destroy(&f->lock_lock);
	mem_free(f->path);
	mem_free(f);
}

static const struct qcow2_storage_ops file_ops = {
	.kind = "file",
	.close = file_close,
	.size = size_op,
	.preadv = file_preadv,
	.pwritev = file_pwritev,
	.zero = file_zero,
	.discard = file_discard,
	.flush = file_flush,
	.truncate = file_truncate,
	.allocate = file_allocate,
	.extent = file_extent,
	.lock = file_lock,
};

struct file *file_of(struct qcow2_storage st)
{
	return st.ops == &file_ops ? st.self : NULL;
}

static int check_kind(const char *path, mode_t mode, struct qcow2_error *err)
{
	const char *kind = S_ISDIR(mode)    ? "a directory"
			   : S_ISFIFO(mode) ? "a pipe"
			   : S_ISSOCK(mode) ? "a socket"
			   : S_ISCHR(mode)  ? "a character device"
					    : "neither";

	if (S_ISREG(mode) || S_ISBLK(mode))
		return 0;
	return error_set(err, -EINVAL, "can't open \"%s\": it is %s, not a file or block device",
			 path, kind);
}

static int open_fd(const char *path, unsigned flags, int *fd, struct qcow2_error *err)
{
	/* O_NONBLOCK: should it have become a pipe since it was looked at */
	int how = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	const char *verb = flags & STORAGE_FILE_CREATE ? "create" : "open";
	struct stat sb;

	how |= flags & STORAGE_FILE_WRITE ? O_RDWR : O_RDONLY;
	if (flags & STORAGE_FILE_CREATE)
		how |= O_CREAT | (flags & STORAGE_FILE_EXCL ? O_EXCL : 0);
	if ((flags & STORAGE_FILE_WRITETHROUGH) && !(flags & STORAGE_FILE_NO_FLUSH))
		how |= O_DSYNC;
	/* opening some devices does things to them, so look first; what counts is fstat, below */
	if (stat(path, &sb) == 0 && check_kind(path, sb.st_mode, err) != 0)
		return -EINVAL;
	do
		*fd = open(path, how, 0644);
	while (*fd < 0 && errno == EINTR);
	if (*fd < 0)
		return error_errno(err, -errno, "can't %s \"%s\"", verb, path);
	return 0;
}

/* Looks at what was opened, and takes back O_NONBLOCK. */
static int inspect(struct file *f, struct qcow2_error *err)
{
	struct stat sb;
	int how, code, sector = 0;

	if (fstat(f->fd, &sb) != 0)
		return error_errno(err, -errno, "can't look at \"%s\"", f->path);
	code = check_kind(f->path, sb.st_mode, err);
	if (code != 0)
		return code;
	how = fcntl(f->fd, F_GETFL);
	if (how < 0 || fcntl(f->fd, F_SETFL, how & ~O_NONBLOCK) != 0)
		return error_errno(err, -errno, "can't open \"%s\"", f->path);
	f->is_block = S_ISBLK(sb.st_mode);
	/* two nodes of one device have different inodes */
	f->dev = f->is_block ? sb.st_rdev : sb.st_dev;
	f->ino = f->is_block ? 0 : sb.st_ino;
	f->align = 1;
	if (f->is_block)
		f->align = ioctl(f->fd, BLKSSZGET, &sector) == 0 && sector > 0 &&
					   is_pow2((uint64_t)sector)
				   ? (uint64_t)sector
				   : 512;
	return f->flags & STORAGE_FILE_DIRECT ? file_direct_init(f, err) : 0;
}

int storage_file_open(struct qcow2_storage *st, const char *path, unsigned flags,
		      struct qcow2_error *err)
{
	struct file *f = mem_zalloc(1, sizeof(*f));
	int code;

	*st = (struct qcow2_storage){0};
	if (!f)
		return error_errno(err, -ENOMEM, "can't open \"%s\"", path);
	f->fd = -1;
	f->flags = flags;
	pthread_mutex_init(&f->lock, NULL);
	pthread_mutex_init(&f->lock_lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	f->path = mem_strdup(path);
	code = f->path ? open_fd(path, flags, &f->fd, err)
		       : error_errno(err, -ENOMEM, "can't open \"%s\"", path);
	if (code == 0)
		code = inspect(f, err);
	if (code != 0) {
		file_close(f);
		return code;
	}
	*st = (struct qcow2_storage){.ops = &file_ops, .self = f};
	return 0;
}

int storage_file_stat(struct qcow2_storage st, struct storage_file_stat *out,
		      struct qcow2_error *err)
{
	const struct file *f = st.self;
	struct stat sb;
	int code;

	if (st.ops != &file_ops)
		return error_set(err, -ENOTSUP, "a %s store is no file", st.ops->kind);
	*out = (struct storage_file_stat){
		.dev = f->dev, .ino = f->ino, .is_block_device = f->is_block};
	code = file_size(f, &out->size_bytes);
	if (code == 0 && fstat(f->fd, &sb) != 0)
		code = -errno;
	if (code != 0)
		return error_errno(err, code, "can't look at \"%s\"", f->path);
	out->disk_bytes = (uint64_t)sb.st_blocks * 512;
	return 0;
}

/* May what copy_file_range said mean that the bytes have to go through memory? */
static bool copy_unsupported(int code)
{
	return code == -EXDEV || code == -EINVAL || code == -ENOSYS || code == -EOPNOTSUPP ||
	       code == -ENOTSUP || code == -EPERM || code == -ETXTBSY;
}

int storage_file_copy(struct qcow2_storage from, uint64_t from_off, struct qcow2_storage to,
		      uint64_t to_off, uint64_t len_bytes, uint64_t *copied,
		      struct qcow2_error *err)
{
	const struct file *src = from.self;
	struct file *dst = to.self;
	off_t in = (off_t)from_off, out = (off_t)to_off;
	int code;

	*copied = 0;
	if (from.ops != &file_ops || to.ops != &file_ops ||
	    ((src->flags | dst->flags) & STORAGE_FILE_DIRECT))
		return error_set(err, -ENOTSUP, "no copying inside the kernel between these");
	code = file_check_change(dst, "copy to", to_off, len_bytes, err);
	if (code == 0)
		code = check_range(src, "copy", from_off, len_bytes, err);
	while (code == 0 && *copied < len_bytes) {
		size_t want = (size_t)min_u64(len_bytes - *copied, 1u << 30);
		ssize_t r = copy_file_range(src->fd, &in, dst->fd, &out, want, 0);

		if (r == 0 || (r < 0 && copy_unsupported(-errno)))
			break;
		if (r > 0)
			*copied += (uint64_t)r;
		else if (errno != EINTR)
			return file_error(dst, err, -errno, "copy to", to_off, len_bytes);
	}
	if (code == 0 && *copied == 0 && len_bytes != 0)
		return error_set(err, -ENOTSUP, "the kernel can't copy from \"%s\" to \"%s\"",
				 src->path, dst->path);
	return code == 0 ? file_write_through(dst, err) : code;
}
