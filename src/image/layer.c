/* SPDX-License-Identifier: MIT */
/*
 * One layer: a file opened as a raw or qcow2 disk. The lock comes before the first byte that
 * counts: a probe may look earlier, but the header is read again under the lock.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "image/image.h"

#define L2_CACHE_DEFAULT (32u * 1024 * 1024)

void image_warn(const struct qcow2_image *image, const char *fmt, ...)
{
	char sentence[QCOW2_ERROR_MESSAGE_SIZE];
	va_list ap;

	if (!image->warn)
		return;
	va_start(ap, fmt);
	vsnprintf(sentence, sizeof(sentence), fmt, ap);
	va_end(ap);
	image->warn(image->opaque, sentence);
}

unsigned image_storage_flags(unsigned open_flags)
{
	return (open_flags & QCOW2_OPEN_WRITE ? STORAGE_FILE_WRITE : 0) |
	       (open_flags & QCOW2_OPEN_DIRECT ? STORAGE_FILE_DIRECT : 0) |
	       (open_flags & QCOW2_OPEN_NO_FLUSH ? STORAGE_FILE_NO_FLUSH : 0) |
	       (open_flags & QCOW2_OPEN_WRITETHROUGH ? STORAGE_FILE_WRITETHROUGH : 0);
}

/* ---- the qcow2 disk ---- */

int image_map_tables(struct image_qcow2 *q, uint64_t guest_off, uint64_t len_bytes,
		     struct disk_run *run, struct qcow2_error *err)
{
	int ret = meta_map(&q->meta, guest_off, len_bytes, run, err);

	run->store = q->meta.data;
	run->filename = q->data_filename;
	return ret;
}

int image_read_packed(struct image_qcow2 *q, const struct disk_run *run, void *buf, size_t len,
		      uint64_t guest_off, struct qcow2_error *err)
{
	uint64_t in_cluster = guest_off & (q->meta.geometry.cluster_size - 1);

	return data_packed_read(q->packed, run->cookie, in_cluster, buf, len, err);
}

static struct image_qcow2 *qcow2_of(struct disk *disk)
{
	return (struct image_qcow2 *)disk;
}

static void qcow2_disk_close(struct disk *disk)
{
	struct image_qcow2 *q = qcow2_of(disk);

	image_stop_writing(q);
	data_packed_free(q->packed);
	meta_release(&q->meta);
	storage_close(&q->data_file);
	storage_close(&q->file);
	mem_free(q);
}

static int qcow2_disk_map(struct disk *disk, uint64_t guest_off, uint64_t len_bytes,
			  struct disk_run *run, struct qcow2_error *err)
{
	struct image_qcow2 *q = qcow2_of(disk);

	if (guest_off >= q->meta.state_off) {
		/* a snapshot of a disk that was smaller: its VM state lies there */
		*run = (struct disk_run){.kind = DISK_RUN_ABSENT, .len_bytes = len_bytes};
		return 0;
	}
	len_bytes = min_u64(len_bytes, q->meta.state_off - guest_off);
	return image_map_tables(q, guest_off, len_bytes, run, err);
}

static int qcow2_disk_map_cached(struct disk *disk, uint64_t guest_off, uint64_t len_bytes,
				 struct disk_run *run)
{
	struct image_qcow2 *q = qcow2_of(disk);
	int ret = meta_map_cached(&q->meta, guest_off, len_bytes, false, run);

	run->store = q->meta.data;
	run->filename = q->data_filename;
	return ret;
}

static int qcow2_disk_read_compressed(struct disk *disk, const struct disk_run *run, void *buf,
				      size_t len, uint64_t guest_off, struct qcow2_error *err)
{
	return image_read_packed(qcow2_of(disk), run, buf, len, guest_off, err);
}

static const struct disk_ops qcow2_disk_ops = {
	.format = "qcow2",
	.close = qcow2_disk_close,
	.map = qcow2_disk_map,
	.map_cached = qcow2_disk_map_cached,
	.read_compressed = qcow2_disk_read_compressed,
};

/* Two threads may ask at once: they get the same answer. */
static bool looks_preallocated(struct image_qcow2 *q)
{
	int known = atomic_load(&q->preallocated);
	struct storage_file_stat st;

	if (known < 0) {
		known = storage_file_stat(q->file, &st, NULL) == 0 && !st.is_block_device &&
			meta_looks_preallocated(&q->meta, st.disk_bytes);
		atomic_store(&q->preallocated, known);
	}
	return known > 0;
}

bool image_looks_preallocated(const struct qcow2_image *image)
{
	return image->qcow2 && looks_preallocated(image->qcow2);
}

int image_find_hole(struct disk *disk, struct disk_run *run, bool *is_hole, struct qcow2_error *err)
{
	struct qcow2_storage_extent extent;
	int ret;

	*is_hole = false;
	if (run->kind != DISK_RUN_DATA || disk->ops != &qcow2_disk_ops ||
	    !looks_preallocated(qcow2_of(disk)))
		return 0;
	ret = storage_extent(run->store, run->host_off, run->len_bytes, &extent, err);
	if (ret < 0)
		return ret;
	run->len_bytes = extent.len_bytes;
	*is_hole = !extent.is_data;
	return 0;
}

int image_map_zeros(const struct data_layers *layers, uint64_t guest_off, uint64_t len_bytes,
		    struct data_run *r, struct qcow2_error *err)
{
	bool is_hole = false;
	int ret = data_map(layers, guest_off, len_bytes, r, err);

	if (ret == 0)
		ret = image_find_hole(layers->disks[r->depth], &r->run, &is_hole, err);
	if (ret == 0 && is_hole)
		r->run.kind = DISK_RUN_ZERO;
	return ret;
}

/* ---- opening ---- */

/* The locks of section 25.3 of the reference. */
int image_take_lock(struct qcow2_storage store, const char *format, unsigned flags,
		    struct qcow2_error *err)
{
	unsigned use = QCOW2_LOCK_READ;
	unsigned forbid = QCOW2_LOCK_WRITE | QCOW2_LOCK_RESIZE;

	if (flags & QCOW2_OPEN_NO_LOCK)
		return 0;
	if (strcmp(format, "raw") == 0)
		forbid = 0;
	if (flags & QCOW2_OPEN_INFO)
		use = 0;
	if (flags & QCOW2_OPEN_WRITE)
		use |= QCOW2_LOCK_WRITE | (forbid & QCOW2_LOCK_RESIZE);
	if (flags & QCOW2_OPEN_FORCE_SHARE)
		forbid = 0;
	return storage_lock(store, use, forbid, err);
}

/* Finds the format: a given one is believed, an unknown one is looked up in the first bytes. */
int image_settle_format(struct qcow2_storage store, const char *given, const char **format,
			unsigned flags, struct qcow2_error *err)
{
	int ret;

	if (given) {
		if (strcmp(given, "qcow2") == 0)
			*format = "qcow2";
		else if (strcmp(given, "raw") == 0 || strcmp(given, "file") == 0 ||
			 strcmp(given, "host_device") == 0)
			*format = "raw";
		else
			return error_set(err, -ENOTSUP,
					 "unknown image format \"%s\": only "
					 "\"qcow2\" and \"raw\" are known here",
					 given);
		return 0;
	}
	/* share everything while looking, but respect who forbids reading */
	ret = image_take_lock(store, "raw", flags, err);
	return ret < 0 ? ret : disk_probe(store, format, err);
}

static void tell_tolerated(const struct qcow2_image *image, unsigned tolerated)
{
	if (tolerated & FORMAT_HEADER_ALLOW_SNAPSHOTS)
		image_warn(image,
			   "\"%s\": the place of the snapshot table makes no sense; its "
			   "snapshots can't be reached",
			   image->path);
	if (tolerated & FORMAT_HEADER_ALLOW_REFTABLE)
		image_warn(image,
			   "\"%s\": the place of the refcount table makes no sense; the "
			   "image can be read but not written",
			   image->path);
	if (tolerated & FORMAT_HEADER_ALLOW_BITMAPS)
		image_warn(image,
			   "\"%s\": the bitmaps extension of the header makes no sense; "
			   "its bitmaps are ignored",
			   image->path);
}

static int refuse_encrypted(const struct format_header *h, const char *path,
			    struct qcow2_error *err)
{
	if (h->crypt_method == LAYOUT_CRYPT_NONE)
		return 0;
	return error_set(err, -ENOTSUP,
			 "\"%s\" is encrypted (%s): reading encrypted images isn't "
			 "supported yet",
			 path, h->crypt_method == LAYOUT_CRYPT_AES ? "AES" : "LUKS");
}

static int check_raw_data(const struct format_header *h, const char *path, struct qcow2_error *err)
{
	if (!(h->autoclear & LAYOUT_AUTOCLEAR_DATA_FILE_RAW) ||
	    (h->incompatible & LAYOUT_INCOMPAT_DATA_FILE))
		return 0;
	return error_set(err, -EINVAL,
			 "\"%s\" says that its external data file is raw, but it has "
			 "none: it requires a data file",
			 path);
}

static int find_view(struct qcow2_image *image, const char *id, struct meta_snapshots *list,
		     const struct format_snapshot **snap, struct qcow2_error *err)
{
	int ret;

	*snap = NULL;
	if (!id)
		return 0;
	ret = meta_load_snapshots(&image->qcow2->meta, list, err);
	if (ret < 0)
		return ret;
	*snap = meta_find_snapshot(list, id);
	if (!*snap)
		return error_set(err, -ENOENT, "\"%s\" has no snapshot with the id or name \"%s\"",
				 image->path, id);
	return 0;
}

static int load_view(struct qcow2_image *image, const struct qcow2_open_options *options,
		     bool is_backing, struct qcow2_error *err)
{
	struct image_qcow2 *q = image->qcow2;
	struct meta_snapshots list = {0};
	const struct format_snapshot *snap;
	uint64_t cache = options->l2_cache_bytes ? options->l2_cache_bytes : L2_CACHE_DEFAULT;
	int ret;

	ret = refuse_encrypted(&q->meta.header, image->path, err);
	if (ret == 0)
		ret = check_raw_data(&q->meta.header, image->path, err);
	if (ret == 0)
		ret = find_view(image, is_backing ? NULL : options->snapshot, &list, &snap, err);
	q->meta.direct = options->flags & QCOW2_OPEN_DIRECT;
	if (ret == 0)
		ret = meta_load_l1(&q->meta, snap, options->flags & QCOW2_OPEN_WRITE, cache, err);
	if (ret == 0 && q->meta.l1_missing)
		image_warn(image,
			   "\"%s\": the file ends before its L1 table does; what the %" PRIu32
			   " missing entries map of the disk isn't there any more",
			   image->path, q->meta.l1_missing);
	if (ret == 0)
		ret = data_packed_new(&q->packed, &q->meta, err);
	if (ret == 0)
		image_state_init(q);
	meta_snapshots_release(&list);
	return ret;
}

static int open_qcow2(struct qcow2_image *image, bool is_backing,
		      const struct qcow2_open_options *options, struct qcow2_error *err)
{
	struct image_qcow2 *q = mem_zalloc(1, sizeof(*q));
	/* damage in what reading doesn't need */
	const unsigned allow = options->flags & QCOW2_OPEN_WRITE
				       ? 0
				       : FORMAT_HEADER_ALLOW_SNAPSHOTS |
						 FORMAT_HEADER_ALLOW_REFTABLE |
						 FORMAT_HEADER_ALLOW_BITMAPS;
	int ret;

	if (!q) {
		storage_close(&image->store);
		return error_errno(err, -ENOMEM, "can't open \"%s\"", image->path);
	}
	q->disk.ops = &qcow2_disk_ops;
	atomic_init(&q->preallocated, -1);
	q->file = image->store;
	q->data_filename = image->path;
	image->disk = &q->disk;
	image->qcow2 = q;
	ret = meta_open(&q->meta, q->file, allow, err);
	if (ret == 0 && (options->flags & QCOW2_OPEN_WRITE))
		ret = image_prepare_writing(&q->meta, image->path, err);
	if (ret < 0) {
		error_prefix(err, "can't open \"%s\" as qcow2", image->path);
		return ret;
	}
	tell_tolerated(image, q->meta.tolerated);
	if (!(options->flags & QCOW2_OPEN_INFO))
		ret = load_view(image, options, is_backing, err);
	q->disk.size_bytes = q->meta.size_bytes;
	return ret;
}

static int open_as(struct qcow2_image *image, bool is_backing,
		   const struct qcow2_open_options *options, struct qcow2_error *err)
{
	if (image->format[0] == 'q')
		return open_qcow2(image, is_backing, options, err);
	if (options->snapshot && !is_backing) {
		storage_close(&image->store);
		return error_set(err, -ENOTSUP, "\"%s\" is a raw image and has no snapshots",
				 image->path);
	}
	return disk_raw_open(&image->disk, image->store, image->path, err);
}

int image_open_layer(struct qcow2_image **image, struct qcow2_storage store, const char *path,
		     const char *format, bool is_backing, const struct qcow2_open_options *options,
		     struct qcow2_error *err)
{
	struct qcow2_image *i = mem_zalloc(1, sizeof(*i));
	int ret;

	if (i)
		i->path = mem_strdup(path);
	if (!i || !i->path) {
		mem_free(i);
		storage_close(&store);
		return error_errno(err, -ENOMEM, "can't open \"%s\"", path);
	}
	pthread_mutex_init(&i->lock, NULL);
	i->flags = options->flags;
	i->discard = options->discard;
	i->warn = options->warn;
	i->opaque = options->opaque;
	i->store = store;
	ret = image_settle_format(store, format, &i->format, options->flags, err);
	if (ret == 0)
		ret = image_take_lock(store, i->format, options->flags, err);
	if (ret < 0)
		storage_close(&i->store);
	else
		ret = open_as(i, is_backing, options, err);
	if (ret < 0) {
		image_free_layer(i);
		return ret;
	}
	*image = i;
	return 0;
}

void image_free_layer(struct qcow2_image *image)
{
	image_free_tables(image->tables);
	image_free_tables(image->older_tables);
	image_free_former(image->former);
	meta_gate_release(&image->raw_gate);
	disk_close(image->disk);
	mem_free(image->backing_path);
	mem_free(image->path);
	pthread_mutex_destroy(&image->lock);
	mem_free(image);
}
