/* SPDX-License-Identifier: MIT */
/*
 * The public calls that change an image: checked here, carried out by data/ for qcow2 and by the
 * store itself for raw.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/iov.h"
#include "base/num.h"
#include "image/image.h"

#define WRITE_FLAGS_KNOWN                                                                          \
	(QCOW2_WRITE_FUA | QCOW2_WRITE_COMPRESSED | QCOW2_WRITE_MAY_UNMAP | QCOW2_WRITE_NO_FALLBACK)

static int check_writable(const struct qcow2_image *image, struct qcow2_error *err)
{
	if (image->flags & QCOW2_OPEN_WRITE)
		return 0;
	return error_set(err, -EACCES, "\"%s\" is open for reading only", image->path);
}

static int check_request(const struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
			 unsigned flags, struct qcow2_error *err)
{
	int ret = check_writable(image, err);

	if (ret == 0 && flags & ~WRITE_FLAGS_KNOWN)
		ret = error_set(err, -EINVAL, "unknown write flags 0x%x",
				flags & ~WRITE_FLAGS_KNOWN);
	return ret == 0 ? image_check_range(image, guest_off, len_bytes, err) : ret;
}

/* ---- raw ---- */

static int raw_write(struct qcow2_image *image, const struct iovec *iov, int iovcnt,
		     uint64_t guest_off, unsigned flags, struct qcow2_error *err)
{
	if (flags & QCOW2_WRITE_COMPRESSED)
		return error_set(err, -ENOTSUP, "a raw image can't hold compressed data");
	return storage_writev(disk_raw_store(image->disk), iov, iovcnt, guest_off, err);
}

static int raw_zero(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		    unsigned flags, struct qcow2_error *err)
{
	unsigned how = (flags & QCOW2_WRITE_MAY_UNMAP ? QCOW2_STORAGE_MAY_UNMAP : 0) |
		       (flags & QCOW2_WRITE_NO_FALLBACK ? QCOW2_STORAGE_NO_FALLBACK : 0);

	return storage_zero(disk_raw_store(image->disk), guest_off, len_bytes, how, err);
}

/* ---- the calls ---- */

static int finish_write(struct qcow2_image *image, int ret, unsigned flags, const char *what,
			struct qcow2_error *err)
{
	if (ret == 0 && flags & QCOW2_WRITE_FUA)
		ret = qcow2_flush(image, err);
	else if (ret < 0)
		error_prefix(err, "%s \"%s\"", what, image->path);
	return ret;
}

int qcow2_pwritev(struct qcow2_image *image, const struct iovec *iov, int iovcnt,
		  uint64_t guest_off, unsigned flags, struct qcow2_error *err)
{
	uint64_t len;
	int ret;

	if (!iov_total(iov, iovcnt, &len))
		return error_set(err, -EINVAL, "malformed I/O vector");
	ret = check_request(image, guest_off, len, flags, err);
	if (ret == 0 && len > 0)
		ret = raw_write(image, iov, iovcnt, guest_off, flags, err);
	return finish_write(image, ret, flags, "writing", err);
}

int qcow2_pwrite(struct qcow2_image *image, const void *buf, size_t len, uint64_t guest_off,
		 unsigned flags, struct qcow2_error *err)
{
	/* struct iovec has no const; writing only reads the buffer */
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};

	return qcow2_pwritev(image, &iov, 1, guest_off, flags, err);
}

int qcow2_write_zeroes(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		       unsigned flags, struct qcow2_error *err)
{
	int ret = check_request(image, guest_off, len_bytes, flags, err);

	if (ret == 0 && flags & QCOW2_WRITE_COMPRESSED)
		ret = error_set(err, -EINVAL, "zeros aren't compressed");
	if (ret == 0 && len_bytes > 0)
		ret = raw_zero(image, guest_off, len_bytes, flags, err);
	return finish_write(image, ret, flags, "writing zeros to", err);
}

int qcow2_discard(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		  struct qcow2_error *err)
{
	int ret = check_request(image, guest_off, len_bytes, 0, err);

	if (ret == 0 && len_bytes > 0)
		ret = storage_zero(disk_raw_store(image->disk), guest_off, len_bytes,
				   QCOW2_STORAGE_MAY_UNMAP | QCOW2_STORAGE_NO_FALLBACK, err);
	return ret == -ENOTSUP ? 0 : finish_write(image, ret, 0, "discarding in", err);
}

int qcow2_flush(struct qcow2_image *image, struct qcow2_error *err)
{
	int ret = 0;

	if (image->flags & QCOW2_OPEN_WRITE)
		ret = storage_flush(image->store, err);
	if (ret < 0)
		error_prefix(err, "flushing \"%s\"", image->path);
	return ret;
}

static int check_resize(const struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc,
			unsigned flags, struct qcow2_error *err)
{
	int ret = check_writable(image, err);

	if (ret < 0)
		return ret;
	if (flags & ~QCOW2_RESIZE_SHRINK || prealloc > QCOW2_PREALLOC_FULL)
		return error_set(err, -EINVAL, "unknown resize options");
	if (!is_aligned(size_bytes, 512))
		return error_set(err, -EINVAL,
				 "the size of a disk is a multiple of 512 bytes, %" PRIu64 " isn't",
				 size_bytes);
	if (size_bytes >= image->disk->size_bytes)
		return 0;
	if (!(flags & QCOW2_RESIZE_SHRINK))
		return error_set(err, -EINVAL,
				 "%" PRIu64 " bytes are less than the disk has (%" PRIu64
				 "), and making it smaller wasn't asked for",
				 size_bytes, image->disk->size_bytes);
	if (prealloc != QCOW2_PREALLOC_OFF)
		return error_set(err, -EINVAL, "a disk that becomes smaller can't be preallocated");
	return 0;
}

static int raw_resize(struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc,
		      struct qcow2_error *err)
{
	struct qcow2_storage store = disk_raw_store(image->disk);
	uint64_t old = image->disk->size_bytes;
	int ret;

	if (prealloc == QCOW2_PREALLOC_METADATA)
		return error_set(err, -ENOTSUP, "a raw image has no metadata to preallocate");
	ret = disk_raw_resize(image->disk, size_bytes, err);
	if (ret < 0 || size_bytes <= old || prealloc == QCOW2_PREALLOC_OFF)
		return ret;
	if (prealloc == QCOW2_PREALLOC_FALLOC)
		ret = storage_allocate(store, old, size_bytes - old, err);
	else
		ret = storage_zero(store, old, size_bytes - old, 0, err);
	if (ret < 0)
		(void)disk_raw_resize(image->disk, old, NULL);
	return ret;
}

int qcow2_resize(struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc, unsigned flags,
		 struct qcow2_error *err)
{
	int ret = check_resize(image, size_bytes, prealloc, flags, err);

	if (ret == 0)
		ret = raw_resize(image, size_bytes, prealloc, err);
	if (ret < 0)
		error_prefix(err, "resizing \"%s\"", image->path);
	return ret;
}

int qcow2_finish(struct qcow2_image *image, struct qcow2_error *err)
{
	return qcow2_flush(image, err);
}
