/* SPDX-License-Identifier: MIT */
/*
 * The files that something new is made in: opened and locked as QEMU does, emptied only after
 * every check has passed, removed again when the making fails.
 *
 * Knows nothing of the format.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "image/create.h"

#define ZEROS_BYTES (2u << 20)
#define RESERVE_BYTES                                                                              \
	(256u << 20)	  /* of a file system that zeroes it meanwhile: some tenths of a           \
			     second */
#define HEADER_BYTES 4096 /* without its first bytes nothing is an image */
/* QEMU allocates the first block of a new raw file, so that alignment can be found out by reading.
 */
#define RAW_FIRST_BLOCK 4096

static int open_or_create(struct image_place *p, unsigned open_flags, struct qcow2_error *err)
{
	struct qcow2_error absent; /* what isn't an error to the caller */
	int rc;

	open_flags |= STORAGE_FILE_WRITE;
	rc = storage_file_open(&p->st, p->path, open_flags, &absent);
	if (rc == -ENOENT) {
		rc = storage_file_open(&p->st, p->path, open_flags | STORAGE_FILE_CREATE, err);
		p->made = rc == 0;
	} else if (rc < 0 && err) {
		*err = absent;
	}
	return rc;
}

int image_place_open(struct image_place *p, const char *path, bool replace, unsigned open_flags,
		     struct qcow2_error *err)
{
	struct storage_file_stat sb;
	int rc;

	*p = (struct image_place){.path = path, .replace = replace};
	rc = open_or_create(p, open_flags, err);
	if (rc < 0)
		return rc;
	rc = storage_lock(p->st, QCOW2_LOCK_WRITE | QCOW2_LOCK_RESIZE, QCOW2_LOCK_RESIZE, err);
	if (rc < 0) {
		/* whoever holds the lock came between, and the file is theirs */
		storage_close(&p->st);
		return rc;
	}
	rc = storage_file_stat(p->st, &sb, err);
	if (rc < 0)
		goto fail;
	p->is_device = sb.is_block_device;
	p->device_bytes = sb.size_bytes;
	if (sb.size_bytes != 0 && !replace) {
		p->made = false;
		rc = error_set(err, -EEXIST,
			       p->is_device
				       ? "\"%s\" is a block device: what is on it would be lost"
				       : "\"%s\" exists and isn't empty",
			       path);
		goto fail;
	}
	return 0;
fail:
	image_place_abandon(p);
	return rc;
}

int image_place_differs(const struct image_place *p, const char *path, const char *what,
			struct qcow2_error *err)
{
	struct storage_file_stat mine, other;
	struct qcow2_storage st;
	int rc;

	/* a file that can't be opened for reading isn't the one that we have open for writing */
	if (storage_file_open(&st, path, 0, NULL) < 0)
		return 0;
	rc = storage_file_stat(st, &other, err);
	storage_close(&st);
	if (rc == 0)
		rc = storage_file_stat(p->st, &mine, err);
	if (rc < 0)
		return rc;
	if (mine.dev == other.dev && mine.ino == other.ino)
		return error_set(err, -EINVAL,
				 "can't create \"%s\": its %s \"%s\" is the same file", p->path,
				 what, path);
	return 0;
}

int image_place_clear(struct image_place *p, uint64_t header_bytes, struct qcow2_error *err)
{
	uint64_t size;
	int rc;

	p->touched = true;
	if (!p->is_device) {
		/* ext4 writes a file that was cut to 0 bytes out when it is closed, also if it was
		 * empty before, and that makes the close of a large image slow */
		rc = storage_size(p->st, &size, err);
		return rc < 0 || size == 0 ? rc : storage_truncate(p->st, 0, err);
	}
	if (header_bytes > p->device_bytes)
		return error_set(err, -ENOSPC, "\"%s\" has %llu bytes: too few for an image",
				 p->path, (unsigned long long)p->device_bytes);
	rc = storage_zero(p->st, 0, header_bytes, 0, err);
	/* an old header must not come back over new tables */
	return rc < 0 ? rc : storage_flush(p->st, err);
}

int image_write_zeros(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes,
		      struct progress_work *progress, struct qcow2_error *err)
{
	size_t size = (size_t)min_u64(len_bytes, ZEROS_BYTES);
	cleanup_free uint8_t *zeros = mem_zalloc(size, 1);
	int rc;

	if (!zeros)
		return error_set(err, -ENOMEM, "no memory for %zu bytes of zeros", size);
	while (len_bytes > 0) {
		size_t piece = (size_t)min_u64(len_bytes, size);

		rc = storage_write(st, zeros, piece, host_off, err);
		if (rc == 0)
			rc = progress_step(progress, piece, err);
		if (rc < 0)
			return rc;
		host_off += piece;
		len_bytes -= piece;
	}
	return 0;
}

int image_allocate(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes,
		   struct progress_work *progress, struct qcow2_error *err)
{
	int rc = 0;

	while (rc == 0 && len_bytes > 0) {
		uint64_t piece = min_u64(len_bytes, RESERVE_BYTES);

		rc = storage_allocate(st, host_off, piece, err);
		if (rc == 0)
			rc = progress_step(progress, piece, err);
		host_off += piece;
		len_bytes -= piece;
	}
	return rc;
}

int image_reserve(struct qcow2_storage st, uint64_t host_off, uint64_t len_bytes, unsigned prealloc,
		  struct progress_work *progress, struct qcow2_error *err)
{
	struct qcow2_error why;
	int rc;

	if (len_bytes == 0)
		return 0;
	if (prealloc == QCOW2_PREALLOC_FALLOC) {
		error_clear(&why);
		rc = image_allocate(st, host_off, len_bytes, progress, &why);
		if (rc < 0 && rc != -ENOTSUP && err)
			*err = why;
		if (rc != -ENOTSUP)
			return rc;
		/* a file system that can't reserve: writing is what is left, and what QEMU does */
	}
	return image_write_zeros(st, host_off, len_bytes, progress, err);
}

int image_place_reserve(struct image_place *p, uint64_t host_off, uint64_t len_bytes,
			unsigned prealloc, struct progress_work *progress, struct qcow2_error *err)
{
	if (p->is_device)
		prealloc = QCOW2_PREALLOC_FULL;
	return image_reserve(p->st, host_off, len_bytes, prealloc, progress, err);
}

unsigned image_place_settle_prealloc(struct image_place *p, unsigned prealloc, uint64_t len_bytes)
{
	if (prealloc != QCOW2_PREALLOC_FALLOC || len_bytes == 0)
		return prealloc;
	if (p->is_device ||
	    storage_allocate(p->st, 0, min_u64(len_bytes, HEADER_BYTES), NULL) == -ENOTSUP)
		return QCOW2_PREALLOC_FULL;
	return prealloc;
}

int image_place_fill(struct image_place *p, uint64_t size_bytes, unsigned prealloc,
		     struct progress_work *progress, struct qcow2_error *err)
{
	uint64_t old_bytes;
	int rc;

	if (prealloc == QCOW2_PREALLOC_FALLOC || prealloc == QCOW2_PREALLOC_FULL)
		return image_place_reserve(p, 0, size_bytes, prealloc, progress, err);
	if (p->is_device)
		return storage_zero(p->st, 0, size_bytes, QCOW2_STORAGE_MAY_UNMAP, err);
	rc = storage_size(p->st, &old_bytes, err);
	if (rc == 0 && old_bytes < size_bytes)
		rc = storage_truncate(p->st, size_bytes, err);
	if (rc == 0 && old_bytes == 0)
		rc = image_write_zeros(p->st, 0, min_u64(size_bytes, RAW_FIRST_BLOCK), NULL, err);
	return rc;
}

void image_place_close(struct image_place *p)
{
	storage_close(&p->st);
}

void image_place_abandon(struct image_place *p)
{
	bool ours = p->made || (p->touched && p->replace && !p->is_device);

	if (!storage_is_open(p->st))
		return;
	/* a name that can't be taken away (a link, a directory that changed) loses its contents */
	if (ours && storage_file_remove(p->st, p->path, NULL) == 0)
		;
	else if ((ours || p->touched) && !p->is_device)
		(void)storage_truncate(p->st, 0, NULL);
	else if (p->touched)
		(void)storage_zero(p->st, 0, min_u64(p->device_bytes, HEADER_BYTES), 0, NULL);
	storage_close(&p->st);
}
