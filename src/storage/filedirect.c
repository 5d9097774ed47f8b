/* SPDX-License-Identifier: MIT */
/*
 * O_DIRECT: requests that aren't aligned go through a bounce buffer, and those that change parts
 * of blocks read, change and write them. Ranges keep that right between threads (see file.h);
 * other processes are kept away by locks.
 *
 * A block at the end of the file is written whole and the file cut back to its length after
 * that; for this moment it looks longer than it is, with zeros there.
 */
#include "storage/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/iov.h"
#include "base/num.h"

#define ALIGN_DEFAULT 4096
#define ALIGN_MAX (1u << 20)
#define BOUNCE_BYTES (1u << 20)

static uint64_t ask_alignment(const struct file *f)
{
	uint64_t align = f->is_block ? f->align : ALIGN_DEFAULT;
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
	    (sx.stx_mask & STATX_DIOALIGN) && sx.stx_dio_offset_align != 0)
		align = max_u64(sx.stx_dio_offset_align, sx.stx_dio_mem_align);
#endif
	return is_pow2(align) && align <= ALIGN_MAX ? align : ALIGN_DEFAULT;
}

int file_direct_init(struct file *f, struct qcow2_error *err)
{
	int how = fcntl(f->fd, F_GETFL);

	if (how < 0 || fcntl(f->fd, F_SETFL, how | O_DIRECT) != 0)
		return error_errno(err, -errno, "can't open \"%s\" past the page cache (O_DIRECT)",
				   f->path);
	f->align = ask_alignment(f);
	return 0;
}

static bool in_the_way(const struct file *f, const struct storage_range *r)
{
	for (const struct storage_range *o = f->ranges; o; o = o->next) {
		if ((r->exclusive || o->exclusive) && r->start < o->end && o->start < r->end)
			return true;
	}
	return false;
}

static void set_range(const struct file *f, struct storage_range *r, uint64_t start, uint64_t end,
		      bool exclusive)
{
	r->start = align_down(start, f->align);
	r->end = end > INT64_MAX ? UINT64_MAX : align_up(end, f->align);
	r->exclusive = exclusive;
}

static void add_range_locked(struct file *f, struct storage_range *r)
{
	r->next = f->ranges;
	f->ranges = r;
}

void file_enter(struct file *f, struct storage_range *r, uint64_t start, uint64_t end,
		bool exclusive)
{
	if (!(f->flags & STORAGE_FILE_DIRECT))
		return;
	set_range(f, r, start, end, exclusive);
	pthread_mutex_lock(&f->lock);
	while (in_the_way(f, r))
		pthread_cond_wait(&f->changed, &f->lock);
	add_range_locked(f, r);
	pthread_mutex_unlock(&f->lock);
}

bool file_try_enter(struct file *f, struct storage_range *r, uint64_t start, uint64_t end)
{
	bool free;

	if (!(f->flags & STORAGE_FILE_DIRECT))
		return true;
	set_range(f, r, start, end, false);
	pthread_mutex_lock(&f->lock);
	free = !in_the_way(f, r);
	if (free)
		add_range_locked(f, r);
	pthread_mutex_unlock(&f->lock);
	return free;
}

void file_leave(struct file *f, struct storage_range *r)
{
	struct storage_range **at = &f->ranges;

	if (!(f->flags & STORAGE_FILE_DIRECT))
		return;
	pthread_mutex_lock(&f->lock);
	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

bool file_is_aligned(const struct file *f, const struct iovec *iov, int iovcnt, uint64_t off)
{
	uint64_t bits = off;

	for (int i = 0; i < iovcnt; i++)
		bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
	return is_aligned(bits, f->align);
}

/* Aligned read of len bytes, zeros past the end. */
static int read_blocks(struct file *f, void *buf, uint64_t len, uint64_t off)
{
	struct iovec iov = {.iov_base = buf, .iov_len = (size_t)len};

	return file_read(f, &iov, 1, len, off);
}

/* A buffer for the blocks from start to end, or as much of it as makes sense. */
static int get_bounce(const struct file *f, uint64_t start, uint64_t end, uint8_t **buf,
		      uint64_t *len)
{
	*len = min_u64(end - start, BOUNCE_BYTES);
	*buf = mem_aligned((size_t)f->align, *len);
	return *buf ? 0 : -ENOMEM;
}

int file_direct_preadv(struct file *f, const struct iovec *iov, int iovcnt, uint64_t total,
		       uint64_t off)
{
	uint64_t start = align_down(off, f->align), end = align_up(off + total, f->align);
	cleanup_free uint8_t *buf = NULL;
	uint64_t done = 0, chunk;
	struct iov_cursor c;
	int code;

	if (file_is_aligned(f, iov, iovcnt, off))
		return file_read(f, iov, iovcnt, total, off);
	iov_cursor_init(&c, iov, iovcnt);
	code = get_bounce(f, start, end, &buf, &chunk);
	while (code == 0 && done < total) {
		uint64_t at = align_down(off + done, f->align), skip = off + done - at;
		uint64_t n = min_u64(chunk, end - at);

		code = read_blocks(f, buf, n, at);
		if (code != 0)
			break;
		n = min_u64(n - skip, total - done);
		iov_put(&c, buf + skip, (size_t)n);
		done += n;
	}
	return code;
}

/* Writes bytes [lo, hi) of the file, next in the vector, by whole blocks through buf. */
static int merge(struct file *f, uint8_t *buf, struct iov_cursor *c, uint64_t lo, uint64_t hi)
{
	uint64_t start = align_down(lo, f->align), end = align_up(hi, f->align);
	struct iovec blocks = {.iov_base = buf, .iov_len = (size_t)(end - start)};
	uint64_t last = end - f->align;
	int code = 0;

	if (lo != start)
		code = read_blocks(f, buf, f->align, start);
	if (code == 0 && hi != end && !(lo != start && last == start))
		code = read_blocks(f, buf + (last - start), f->align, last);
	if (code != 0)
		return code;
	iov_get(c, buf + (lo - start), (size_t)(hi - lo));
	return file_write(f, &blocks, 1, end - start, start);
}

/*
 * Enters the blocks from start to end. If the last of them passes the end of the file nobody
 * else may change anything from here on, since the file gets cut again: *cut says so and *size
 * is its length.
 */
static int enter_merge(struct file *f, struct storage_range *r, uint64_t start, uint64_t end,
		       uint64_t *size, bool *cut)
{
	int code;

	*cut = false;
	for (;;) {
		file_enter(f, r, start, *cut ? UINT64_MAX : end, true);
		code = file_size(f, size);
		if (code != 0)
			file_leave(f, r);
		if (code != 0 || f->is_block || *cut || end <= *size)
			return code;
		file_leave(f, r);
		*cut = true;
	}
}

static int cut_back(const struct file *f, uint64_t size)
{
	uint64_t now;
	int code = file_size(f, &now);

	while (code == 0 && now > size) {
		code = ftruncate(f->fd, (off_t)size) == 0 ? 0 : -errno;
		if (code == 0)
			return 0;
		code = code == -EINTR ? 0 : code;
	}
	return code;
}

int file_direct_pwritev(struct file *f, const struct iovec *iov, int iovcnt, uint64_t total,
			uint64_t off)
{
	uint64_t start = align_down(off, f->align), end = align_up(off + total, f->align);
	cleanup_free uint8_t *buf = NULL;
	uint64_t done = 0, chunk, size;
	struct storage_range range;
	struct iov_cursor c;
	bool cut;
	int code, cut_code;

	if (file_is_aligned(f, iov, iovcnt, off)) {
		file_enter(f, &range, start, end, false);
		code = file_write(f, iov, iovcnt, total, off);
		file_leave(f, &range);
		return code;
	}
	iov_cursor_init(&c, iov, iovcnt);
	code = get_bounce(f, start, end, &buf, &chunk);
	if (code == 0)
		code = enter_merge(f, &range, start, end, &size, &cut);
	if (code != 0)
		return code;
	while (code == 0 && done < total) {
		uint64_t lo = off + done;
		uint64_t hi = min_u64(off + total, align_down(lo, f->align) + chunk);

		code = merge(f, buf, &c, lo, hi);
		if (code == 0)
			done += hi - lo;
	}
	if (cut) {
		cut_code = cut_back(f, max_u64(size, off + done));
		code = code != 0 ? code : cut_code;
	}
	file_leave(f, &range);
	return code;
}
