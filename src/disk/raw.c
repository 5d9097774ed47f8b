/* SPDX-License-Identifier: MIT */
/*
 * A raw disk: guest offsets are host offsets. What is a hole in the store, or past its end, is a
 * run of zeros, with the place where it would be. The size is the store's when it was opened.
 */
#include "disk/disk.h"

#include <assert.h>
#include <errno.h>

#include "base/alloc.h"
#include "base/num.h"

#define SECTOR 512

struct raw {
	struct disk disk; /* first, so that a disk is its raw */
	struct qcow2_storage store;
	char *filename;
};

static void raw_close(struct disk *disk)
{
	struct raw *raw = (struct raw *)disk;

	storage_close(&raw->store);
	mem_free(raw->filename);
	mem_free(raw);
}

static int raw_map(struct disk *disk, uint64_t guest_off, uint64_t len_bytes, struct disk_run *run,
		   struct qcow2_error *err)
{
	const struct raw *raw = (const struct raw *)disk;
	struct qcow2_storage_extent extent;
	int code;

	assert(guest_off < disk->size_bytes && len_bytes != 0);
	len_bytes = min_u64(len_bytes, disk->size_bytes - guest_off);
	code = storage_extent(raw->store, guest_off, len_bytes, &extent, err);
	if (code != 0) {
		error_at_guest(err, guest_off);
		return code;
	}
	*run = (struct disk_run){
		.kind = extent.is_data ? DISK_RUN_DATA : DISK_RUN_ZERO,
		.has_host_off = true,
		.len_bytes = extent.len_bytes,
		.host_off = guest_off,
		.store = raw->store,
		.filename = raw->filename,
	};
	return 0;
}

static int raw_map_cached(struct disk *disk, uint64_t guest_off, uint64_t len_bytes,
			  struct disk_run *run)
{
	const struct raw *raw = (const struct raw *)disk;

	assert(guest_off < disk->size_bytes && len_bytes != 0);
	*run = (struct disk_run){
		.kind = DISK_RUN_DATA,
		.has_host_off = true,
		.len_bytes = min_u64(len_bytes, disk->size_bytes - guest_off),
		.host_off = guest_off,
		.store = raw->store,
		.filename = raw->filename,
	};
	return 0;
}

static const struct disk_ops raw_ops = {
	.format = "raw",
	.close = raw_close,
	.map = raw_map,
	.map_cached = raw_map_cached,
};

void disk_close(struct disk *disk)
{
	if (disk)
		disk->ops->close(disk);
}

int disk_raw_open(struct disk **disk, struct qcow2_storage store, const char *filename,
		  struct qcow2_error *err)
{
	struct raw *raw = mem_zalloc(1, sizeof(*raw));
	uint64_t size_bytes;
	int code;

	*disk = NULL;
	if (!raw) {
		storage_close(&store);
		return error_errno(err, -ENOMEM, "can't open \"%s\"", filename);
	}
	raw->disk.ops = &raw_ops;
	raw->store = store;
	raw->filename = mem_strdup(filename);
	code = raw->filename ? storage_size(store, &size_bytes, err)
			     : error_errno(err, -ENOMEM, "can't open \"%s\"", filename);
	if (code == 0 && size_bytes > UINT64_MAX - (SECTOR - 1))
		code = error_set(err, -EFBIG,
				 "can't open \"%s\": 0x%llx bytes are too many for a disk",
				 filename, (unsigned long long)size_bytes);
	if (code != 0) {
		raw_close(&raw->disk);
		return code;
	}
	raw->disk.size_bytes = align_up(size_bytes, SECTOR);
	*disk = &raw->disk;
	return 0;
}

struct qcow2_storage disk_raw_store(struct disk *disk)
{
	assert(disk->ops == &raw_ops);
	return ((struct raw *)disk)->store;
}

int disk_raw_resize(struct disk *disk, uint64_t size_bytes, struct qcow2_error *err)
{
	int ret = storage_truncate(disk_raw_store(disk), size_bytes, err);

	if (ret == 0)
		__atomic_store_n(&disk->size_bytes, size_bytes, __ATOMIC_RELAXED);
	return ret;
}
