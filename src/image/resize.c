/* SPDX-License-Identifier: MIT */
/* Changing the size of a disk. */
#include <errno.h>
#include <inttypes.h>

#include "base/num.h"
#include "image/image.h"

static int check_resize(const struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc,
			unsigned flags, struct qcow2_error *err)
{
	int ret = image_check_writable(image, err);

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

/* ---- raw ---- */

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

/* ---- ---- */

int qcow2_resize(struct qcow2_image *image, uint64_t size_bytes, unsigned prealloc, unsigned flags,
		 struct qcow2_error *err)
{
	int ret = check_resize(image, size_bytes, prealloc, flags, err);

	if (ret == 0 && image->qcow2)
		ret = error_set(err, -ENOTSUP, "qcow2 images can't be resized yet");
	else if (ret == 0)
		ret = raw_resize(image, size_bytes, prealloc, err);
	if (ret < 0)
		error_prefix(err, "resizing \"%s\"", image->path);
	return ret;
}
