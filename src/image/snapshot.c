/* SPDX-License-Identifier: MIT */
/* The public calls for internal snapshots: what they are called, and that nobody is in between. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/num.h"
#include "image/image.h"
#include "image/options.h"
#include "meta/bitmap.h"

static int check_image(const struct qcow2_image *image, struct qcow2_error *err)
{
	int ret = image_check_writable(image, err);

	if (ret == 0 && !image->qcow2)
		ret = error_set(err, -ENOTSUP, "\"%s\" is a raw image: it can't have snapshots",
				image->path);
	return ret;
}

void image_forget_tables(struct qcow2_image *image)
{
	pthread_mutex_lock(&image->lock);
	if (image->tables) {
		image->tables->older = image->older_tables;
		image->older_tables = image->tables;
		image->tables = NULL;
	}
	pthread_mutex_unlock(&image->lock);
}

/* Holds up all other requests, until end; nothing else has been done if it fails. */
static int begin(struct qcow2_image *image, struct progress_work *work, struct qcow2_error *err)
{
	int ret;

	*work = (struct progress_work){.to = &image->watch};
	if (image->gate)
		meta_gate_close(image->gate);
	ret = check_image(image, err);
	if (ret == 0)
		image->qcow2->meta.engine->progress = work;
	return ret;
}

static int end(struct qcow2_image *image, struct progress_work *work, int ret,
	       struct qcow2_error *err)
{
	if (image->qcow2 && image->qcow2->meta.engine)
		image->qcow2->meta.engine->progress = NULL;
	if (ret == 0)
		progress_end(work);
	if (ret == 0)
		ret = storage_size(image->store, &image->qcow2->meta.file_size, err);
	image_forget_tables(image); /* before somebody asks who was held up */
	if (image->gate)
		meta_gate_open(image->gate);
	return ret;
}

static int find(const struct meta_snapshots *s, const char *wanted, unsigned flags, size_t *idx)
{
	for (size_t i = 0; i < s->count && !(flags & QCOW2_SNAPSHOT_BY_NAME); i++) {
		if (strcmp(s->list[i].id, wanted) == 0) {
			*idx = i;
			return 0;
		}
	}
	for (size_t i = 0; i < s->count; i++) {
		if (strcmp(s->list[i].name, wanted) == 0) {
			*idx = i;
			return 0;
		}
	}
	return -ENOENT;
}

static int not_found(const struct qcow2_image *image, const char *wanted, struct qcow2_error *err)
{
	return error_set(err, -ENOENT, "\"%s\" has no snapshot \"%s\"", image->path, wanted);
}

/* The list as it is in the file, which may be longer than when it was opened. */
static int load_list(struct meta *m, struct meta_snapshots *s, struct qcow2_error *err)
{
	int ret = storage_size(m->file, &m->file_size, err);

	*s = (struct meta_snapshots){0};
	return ret == 0 ? meta_load_snapshots(m, s, err) : ret;
}

/* ---- create ---- */

static uint64_t next_id(const struct meta_snapshots *s)
{
	uint64_t max = 0;

	for (size_t i = 0; i < s->count; i++)
		max = max_u64(max, strtoul(s->list[i].id, NULL, 10));
	return max + 1;
}

static int fill_record(struct format_snapshot *f, const struct meta *m, uint64_t id,
		       const char *name, const struct qcow2_snapshot_options *o,
		       struct qcow2_error *err)
{
	struct timespec now;
	char text[24];

	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(text, sizeof(text), "%" PRIu64, id);
	*f = (struct format_snapshot){
		.date_sec = o->date_sec ? o->date_sec : (uint32_t)now.tv_sec,
		.date_nsec = o->date_sec ? o->date_nsec : (uint32_t)now.tv_nsec,
		.vm_clock_nsec = o->vm_clock_nsec,
		.vm_state_bytes = o->vm_state_bytes,
		.has_disk_size = true,
		.disk_size = m->size_bytes,
		.has_icount = true,
		.icount = o->icount,
		.extra_len = LAYOUT_SNAP_EXTRA_KNOWN,
		.id = mem_strdup(text),
		.name = mem_strdup(name),
		.id_len = (uint16_t)strlen(text),
		.name_len = (uint16_t)strlen(name),
	};
	return f->id && f->name ? 0 : error_errno(err, -ENOMEM, "can't take a snapshot");
}

/* Room for one more at the end of the list. */
static int grow_list(struct meta_snapshots *s, struct qcow2_error *err)
{
	struct format_snapshot *list;
	uint64_t *host_off;

	if (s->count >= LAYOUT_SNAPSHOTS_MAX)
		return error_set(err, -EFBIG, "an image can't have more than %u snapshots",
				 LAYOUT_SNAPSHOTS_MAX);
	list = mem_realloc(s->list, s->count + 1, sizeof(*list));
	if (list)
		s->list = list;
	host_off = mem_realloc(s->host_off, s->count + 1, sizeof(*host_off));
	if (host_off)
		s->host_off = host_off;
	return list && host_off ? 0 : error_errno(err, -ENOMEM, "can't take a snapshot");
}

static int create(struct qcow2_image *image, const char *name,
		  const struct qcow2_snapshot_options *o, struct qcow2_error *err)
{
	struct meta *m = &image->qcow2->meta;
	struct meta_snapshots s;
	int ret = load_list(m, &s, err);

	if (ret < 0)
		return ret;
	for (size_t i = 0; i < s.count; i++) {
		if (!s.list[i].has_disk_size) {
			s.list[i].has_disk_size = true;
			s.list[i].disk_size = m->size_bytes;
		}
	}
	ret = grow_list(&s, err);
	if (ret == 0) {
		ret = fill_record(&s.list[s.count], m, next_id(&s), name, o, err);
		s.count++;
	}
	if (ret == 0)
		ret = meta_snapshot_create(m, &s, err);
	meta_snapshots_release(&s);
	return ret;
}

int qcow2_snapshot_create(struct qcow2_image *image, const char *name,
			  const struct qcow2_snapshot_options *options, struct qcow2_error *err)
{
	struct qcow2_snapshot_options o = QCOW2_SNAPSHOT_OPTIONS_INIT;
	struct progress_work work;
	int ret = OPTIONS_TAKE(&o, options, "snapshot options", err);

	if (ret == 0 && (!name || strlen(name) > UINT16_MAX))
		ret = error_set(err, -EINVAL, "the name of a snapshot has at most %u bytes",
				UINT16_MAX);
	if (ret < 0)
		return ret;
	ret = begin(image, &work, err);
	if (ret == 0)
		ret = create(image, name, &o, err);
	ret = end(image, &work, ret, err);
	if (ret < 0)
		error_prefix(err, "taking a snapshot of \"%s\"", image->path);
	return ret;
}

/* ---- apply and delete ---- */

static int apply(struct qcow2_image *image, const struct format_snapshot *f,
		 struct qcow2_error *err)
{
	struct meta *m = &image->qcow2->meta;
	uint64_t size = f->has_disk_size ? align_down(f->disk_size, LAYOUT_SECTOR) : m->size_bytes;
	int ret = 0;

	if (m->bitmaps->count > 0)
		return error_set(err, -EBUSY,
				 "the image has dirty bitmaps, which don't know what differs "
				 "between its disk and the snapshot");
	if (size != m->size_bytes)
		ret = image_check_size(image, size, err);
	if (ret < 0)
		return ret;
	ret = meta_snapshot_apply(m, f, size, err);
	image_set_size(image->qcow2, m->header.size_bytes);
	return ret;
}

static int change(struct qcow2_image *image, const char *wanted, unsigned flags, bool remove,
		  struct qcow2_error *err)
{
	struct meta *m = &image->qcow2->meta;
	struct meta_snapshots s;
	size_t idx;
	int ret = load_list(m, &s, err);

	if (ret < 0)
		return ret;
	if (find(&s, wanted, flags, &idx) < 0)
		ret = not_found(image, wanted, err);
	else if (remove)
		ret = meta_snapshot_delete(m, &s, idx, err);
	else
		ret = apply(image, &s.list[idx], err);
	meta_snapshots_release(&s);
	return ret;
}

static int change_closed(struct qcow2_image *image, const char *wanted, unsigned flags, bool remove,
			 struct qcow2_error *err)
{
	struct progress_work work;
	int ret;

	if (flags & ~QCOW2_SNAPSHOT_BY_NAME)
		return error_set(err, -EINVAL, "unknown snapshot flags 0x%x", flags);
	ret = begin(image, &work, err);
	if (ret == 0)
		ret = change(image, wanted, flags, remove, err);
	return end(image, &work, ret, err);
}

int qcow2_snapshot_apply(struct qcow2_image *image, const char *id_or_name, unsigned flags,
			 struct qcow2_error *err)
{
	int ret = change_closed(image, id_or_name, flags, false, err);

	if (ret < 0)
		error_prefix(err, "going back to a snapshot of \"%s\"", image->path);
	return ret;
}

int qcow2_snapshot_delete(struct qcow2_image *image, const char *id_or_name, unsigned flags,
			  struct qcow2_error *err)
{
	int ret = change_closed(image, id_or_name, flags, true, err);

	if (ret < 0)
		error_prefix(err, "deleting a snapshot of \"%s\"", image->path);
	return ret;
}
