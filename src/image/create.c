/* SPDX-License-Identifier: MIT */
/*
 * qcow2_create: an empty image, of one format or the other. The same bytes as QEMU's tool writes;
 * what they are is known to draft.c and what is below it.
 */
#include <string.h>

#include "base/num.h"
#include "image/create.h"
#include "image/options.h"

static int create_qcow2(const char *path, const struct qcow2_create_options *o,
			struct qcow2_error *err)
{
	struct progress_work work = {.to = &o->progress};
	struct image_draft d;
	int rc;

	rc = image_draft_open(&d, path, o, 0, err);
	if (rc < 0)
		return rc;
	work.total_bytes = image_draft_work(&d);
	d.progress = &work;
	rc = image_draft_begin(&d, err);
	if (rc == 0)
		rc = image_draft_finish(&d, NULL, err);
	if (rc == 0)
		progress_end(&work);
	if (rc < 0)
		image_draft_abandon(&d);
	else
		image_draft_close(&d);
	return rc;
}

static int create_raw(const char *path, const struct qcow2_create_options *o,
		      struct qcow2_error *err)
{
	struct progress_work work = {.to = &o->progress, .total_bytes = max_u64(o->size, 1)};
	struct image_place p;
	int rc;

	rc = image_place_open(&p, path, (o->flags & QCOW2_CREATE_OVERWRITE) != 0, 0, err);
	if (rc < 0)
		return rc;
	if (p.is_device && o->size > p.device_bytes)
		rc = error_set(err, -ENOSPC,
			       "can't create \"%s\": the disk has %llu bytes and the device %llu",
			       path, (unsigned long long)o->size,
			       (unsigned long long)p.device_bytes);
	if (rc == 0)
		rc = image_place_clear(&p, 0, err);
	if (rc == 0)
		rc = image_place_fill(&p, o->size, o->prealloc, &work, err);
	if (rc == 0)
		rc = storage_flush(p.st, err);
	if (rc == 0)
		progress_end(&work);
	if (rc < 0)
		image_place_abandon(&p);
	else
		image_place_close(&p);
	return rc;
}

int qcow2_create(const char *path, const struct qcow2_create_options *options,
		 struct qcow2_error *err)
{
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;
	int rc;

	rc = OPTIONS_TAKE(&o, options, "qcow2_create", err);
	if (rc == 0)
		rc = image_create_resolve(path, &o, true, err);
	if (rc < 0)
		return rc;
	if (strcmp(o.format, "raw") == 0)
		return create_raw(path, &o, err);
	return create_qcow2(path, &o, err);
}
