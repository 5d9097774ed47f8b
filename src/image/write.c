/* SPDX-License-Identifier: MIT */
/*
 * The public calls that change a disk's contents: checked here, carried out by data/ for qcow2 and
 * by the store itself for raw.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/iov.h"
#include "base/num.h"
#include "image/image.h"
#include "meta/bitmap.h"

#define WRITE_FLAGS_KNOWN                                                                          \
	(QCOW2_WRITE_FUA | QCOW2_WRITE_COMPRESSED | QCOW2_WRITE_MAY_UNMAP | QCOW2_WRITE_NO_FALLBACK)

int image_check_writable(const struct qcow2_image *image, struct qcow2_error *err)
{
	int failed = atomic_load(&image->flush_failed);

	if (!(image->flags & QCOW2_OPEN_WRITE))
		return error_set(err, -EACCES, "\"%s\" is open for reading only", image->path);
	if (image->qcow2 && image->qcow2->finished)
		return error_set(err, -EINVAL, "\"%s\" has been finished", image->path);
	if (failed < 0)
		return error_set(err, failed,
				 "\"%s\" can't be changed any more: a flush of it failed, and what "
				 "was written before may be lost",
				 image->path);
	return 0;
}

static int check_request(const struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
			 unsigned flags, struct qcow2_error *err)
{
	int ret = image_check_writable(image, err);

	if (ret == 0 && flags & ~WRITE_FLAGS_KNOWN)
		ret = error_set(err, -EINVAL, "unknown write flags 0x%x",
				flags & ~WRITE_FLAGS_KNOWN);
	return ret == 0 ? image_check_range(image, guest_off, len_bytes, err) : ret;
}

/* Before anything of a request may reach the disk. Nothing is recorded of a raw image. */
static int record(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		  struct qcow2_error *err)
{
	return image->qcow2 ? meta_bitmaps_mark(&image->qcow2->meta, guest_off, len_bytes, err) : 0;
}

/* ---- raw ---- */

static int raw_write(struct qcow2_image *image, const struct iovec *iov, int iovcnt,
		     uint64_t guest_off, unsigned flags, struct qcow2_error *err)
{
	if (flags & QCOW2_WRITE_COMPRESSED)
		return error_set(err, -ENOTSUP, "a raw image can't hold compressed data");
	storage_event(image->store, QCOW2_EVENT_WRITE_AIO);
	return storage_writev(disk_raw_store(image->disk), iov, iovcnt, guest_off, err);
}

static int raw_zero(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		    unsigned flags, struct qcow2_error *err)
{
	unsigned how = (flags & QCOW2_WRITE_MAY_UNMAP ? QCOW2_STORAGE_MAY_UNMAP : 0) |
		       (flags & QCOW2_WRITE_NO_FALLBACK ? QCOW2_STORAGE_NO_FALLBACK : 0);

	return storage_zero(disk_raw_store(image->disk), guest_off, len_bytes, how, err);
}

static int raw_discard(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		       struct qcow2_error *err)
{
	int ret;

	if (image->discard == QCOW2_DISCARD_IGNORE)
		return 0;
	ret = storage_zero(disk_raw_store(image->disk), guest_off, len_bytes,
			   QCOW2_STORAGE_MAY_UNMAP | QCOW2_STORAGE_NO_FALLBACK, err);
	return ret == -ENOTSUP ? 0 : ret;
}

static int raw_flush(struct qcow2_image *image, struct qcow2_error *err)
{
	int ret = image_check_writable(image, err);

	if (ret < 0)
		return ret;
	ret = storage_flush(image->store, err);
	if (ret < 0)
		atomic_store(&image->flush_failed, ret);
	return ret;
}

/* ---- either ---- */

static struct data_writer *writer_of(const struct qcow2_image *image)
{
	return image->qcow2 ? image->qcow2->writer : NULL;
}

static int write_disk(struct qcow2_image *image, const struct iovec *iov, int iovcnt,
		      uint64_t guest_off, uint64_t len, unsigned flags, struct qcow2_error *err)
{
	struct data_writer *w = writer_of(image);
	struct iov_cursor cur;

	if (!w)
		return raw_write(image, iov, iovcnt, guest_off, flags, err);
	iov_cursor_init(&cur, iov, iovcnt);
	if (flags & QCOW2_WRITE_COMPRESSED)
		return data_write_compressed(w, &cur, guest_off, len, err);
	return data_write(w, &cur, guest_off, len, err);
}

static int zero_disk(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		     unsigned flags, struct qcow2_error *err)
{
	struct data_writer *w = writer_of(image);

	if (flags & QCOW2_WRITE_COMPRESSED)
		return error_set(err, -EINVAL, "zeros aren't compressed");
	return w ? data_zero(w, guest_off, len_bytes, flags, err)
		 : raw_zero(image, guest_off, len_bytes, flags, err);
}

int image_finish_request(struct qcow2_image *image, int ret, unsigned flags, const char *what,
			 struct qcow2_error *err)
{
	struct data_writer *w = writer_of(image);

	if (ret < 0)
		error_prefix(err, "%s \"%s\"", what, image->path);
	else if (flags & QCOW2_WRITE_FUA || image->flags & QCOW2_OPEN_WRITETHROUGH)
		ret = qcow2_flush(image, err);
	else if (w) /* its failure is told to who flushes, or to the next one here */
		(void)meta_relieve(w->m, NULL);
	return ret;
}

/* ---- the calls ---- */

int qcow2_pwritev(struct qcow2_image *image, const struct iovec *iov, int iovcnt,
		  uint64_t guest_off, unsigned flags, struct qcow2_error *err)
{
	unsigned ticket;
	uint64_t len;
	int ret;

	if (!iov_total(iov, iovcnt, &len))
		return error_set(err, -EINVAL, "malformed I/O vector");
	ticket = image_enter(image);
	ret = check_request(image, guest_off, len, flags, err);
	if (ret == 0)
		ret = record(image, guest_off, len, err);
	if (ret == 0 && len > 0)
		ret = write_disk(image, iov, iovcnt, guest_off, len, flags, err);
	image_leave(image, ticket);
	return image_finish_request(image, ret, flags, "writing", err);
}

int qcow2_pwrite(struct qcow2_image *image, const void *buf, size_t len, uint64_t guest_off,
		 unsigned flags, struct qcow2_error *err)
{
	/* struct iovec has no const; writing only reads the buffer */
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};

	return qcow2_pwritev(image, &iov, 1, guest_off, flags, err);
}

/* What a cluster that is given whole covers of the disk. */
static uint64_t packed_len(const struct qcow2_image *image, uint64_t guest_off)
{
	return min_u64(image->qcow2->meta.geometry.cluster_size,
		       image->disk->size_bytes - guest_off);
}

int image_write_packed(struct qcow2_image *image, uint64_t guest_off, const uint8_t *bytes,
		       size_t len, struct qcow2_error *err)
{
	unsigned ticket = image_enter(image);
	int ret = check_request(image, guest_off, 1, 0, err);

	if (ret == 0)
		ret = record(image, guest_off, packed_len(image, guest_off), err);
	if (ret == 0)
		ret = data_write_packed(writer_of(image), guest_off, bytes, len, err);
	image_leave(image, ticket);
	return image_finish_request(image, ret, 0, "writing", err);
}

int qcow2_write_zeroes(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		       unsigned flags, struct qcow2_error *err)
{
	unsigned ticket = image_enter(image);
	int ret = check_request(image, guest_off, len_bytes, flags, err);

	if (ret == 0)
		ret = record(image, guest_off, len_bytes, err);
	if (ret == 0 && len_bytes > 0)
		ret = zero_disk(image, guest_off, len_bytes, flags, err);
	image_leave(image, ticket);
	return image_finish_request(image, ret, flags, "writing zeros to", err);
}

int qcow2_discard(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		  struct qcow2_error *err)
{
	struct data_writer *w = writer_of(image);
	unsigned ticket = image_enter(image);
	int ret = check_request(image, guest_off, len_bytes, 0, err);

	if (ret == 0 && !(w && w->discard == QCOW2_DISCARD_IGNORE))
		ret = record(image, guest_off, len_bytes, err);
	if (ret == 0 && len_bytes > 0)
		ret = w ? data_discard(w, guest_off, len_bytes, err)
			: raw_discard(image, guest_off, len_bytes, err);
	image_leave(image, ticket);
	return image_finish_request(image, ret, 0, "discarding in", err);
}

int qcow2_flush(struct qcow2_image *image, struct qcow2_error *err)
{
	struct data_writer *w = writer_of(image);
	unsigned ticket;
	int ret = 0;

	if (!(image->flags & QCOW2_OPEN_WRITE) || (image->qcow2 && image->qcow2->finished))
		return 0;
	if (w) {
		ticket = image_enter(image);
		ret = meta_commit(w->m, true, err);
		image_leave(image, ticket);
		/* only now: it would wait for us */
		if (ret == 0)
			meta_reap(w->m, false);
	} else {
		ret = raw_flush(image, err);
	}
	if (ret < 0)
		error_prefix(err, "flushing \"%s\"", image->path);
	return ret;
}

int qcow2_finish(struct qcow2_image *image, struct qcow2_error *err)
{
	struct data_writer *w = writer_of(image);
	int ret;

	if (!w)
		return qcow2_flush(image, err);
	if (image->qcow2->finished)
		return 0;
	meta_gate_close(image->gate);
	ret = meta_engine_finish(w->m, err);
	image->qcow2->finished = ret == 0;
	meta_gate_open(image->gate);
	if (ret < 0)
		error_prefix(err, "finishing \"%s\"", image->path);
	return ret;
}
