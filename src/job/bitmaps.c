/* SPDX-License-Identifier: MIT */
/*
 * The source's dirty bitmaps, put into the target of a conversion when that is complete: they say
 * of the copy what they said of the disk. Whether they can be copied is looked at before anything
 * is written.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "image/image.h"
#include "job/job.h"

/* 0, -ESTALE or -ENOTSUP: the bitmap can't be copied. */
static int look_at(struct qcow2_image *image, const struct qcow2_bitmap_info *b,
		   struct qcow2_error *err)
{
	struct qcow2_bitmap_extent extent;

	if (b->flags & QCOW2_BITMAP_IN_USE)
		return error_set(err, -ESTALE, "can't copy the inconsistent bitmap \"%s\"",
				 b->name);
	return qcow2_bitmap_map(image, b->name, 0, 1, &extent, err);
}

static void tell_skipped(const struct qcow2_convert_options *o, const char *name)
{
	char sentence[QCOW2_ERROR_MESSAGE_SIZE];

	if (!o->warn)
		return;
	snprintf(sentence, sizeof(sentence), "Skipping inconsistent bitmap '%.900s'", name);
	o->warn(o->opaque, sentence);
}

static bool can_be_skipped(int ret, const struct qcow2_convert_options *o)
{
	return (ret == -ESTALE || ret == -ENOTSUP) &&
	       (o->flags & QCOW2_CONVERT_SKIP_BROKEN_BITMAPS);
}

/* Whether the target can have bitmaps. */
static bool has_bitmaps(const char *path, const struct qcow2_convert_options *o)
{
	const struct qcow2_create_options *create = o->create;
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct qcow2_image *image;
	bool has;

	if (!(o->flags & QCOW2_CONVERT_EXISTING))
		return !create || ((!create->format || strcmp(create->format, "raw") != 0) &&
				   create->version != 2);
	options.flags = QCOW2_OPEN_INFO | QCOW2_OPEN_NO_LOCK;
	if (qcow2_open(&image, path, &options, NULL) < 0)
		return true; /* what is wrong with it is told when it is opened to be written */
	has = qcow2_info(image, &info, NULL) < 0 || info.version >= 3;
	qcow2_close(image);
	return has;
}

int job_bitmaps_check(struct qcow2_image *const *sources, size_t nsources, const char *path,
		      const struct qcow2_convert_options *o, struct qcow2_error *err)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	int ret;

	if (nsources != 1)
		return error_set(err, -EINVAL, "bitmaps are copied of a single source only");
	ret = qcow2_info(sources[0], &info, err);
	if (ret < 0)
		return ret;
	if (strcmp(info.format, "raw") == 0)
		return error_set(err, -ENOTSUP, "\"%s\" is a raw image: it has no bitmaps to copy",
				 info.filename);
	/* from the last, as QEMU looks at them */
	for (size_t i = info.nbitmaps; i-- > 0;) {
		ret = look_at(sources[0], &info.bitmaps[i], err);
		if (ret < 0 && !can_be_skipped(ret, o))
			return ret;
		if (ret < 0)
			tell_skipped(o, info.bitmaps[i].name);
	}
	if (!has_bitmaps(path, o))
		return error_set(err, -ENOTSUP, "\"%s\" would have a format without bitmaps", path);
	return 0;
}

static int copy_one(struct qcow2_image *target, struct qcow2_image *source,
		    const struct qcow2_bitmap_info *b, struct qcow2_error *err)
{
	int ret = qcow2_bitmap_add(target, b->name, b->granularity, b->flags & QCOW2_BITMAP_AUTO,
				   err);

	return ret < 0 ? ret : qcow2_bitmap_merge(target, b->name, source, b->name, err);
}

/* Those that can't be were told of before. */
static int copy_all(struct qcow2_image *target, struct qcow2_image *source, struct qcow2_error *err)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	int ret = qcow2_info(source, &info, err);

	for (size_t i = 0; ret == 0 && i < info.nbitmaps; i++) {
		if (look_at(source, &info.bitmaps[i], NULL) == 0)
			ret = copy_one(target, source, &info.bitmaps[i], err);
	}
	return ret == 0 ? qcow2_finish(target, err) : ret;
}

int job_bitmaps_copy(struct qcow2_image *source, const char *path,
		     const struct qcow2_convert_options *o, struct qcow2_error *err)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_image *target = NULL;
	int ret;

	/* a data file has to be there; what is below isn't needed */
	policy.follow = QCOW2_FOLLOW_DATA_FILE;
	options.flags = QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_BACKING | o->target_open_flags;
	options.format = "qcow2";
	options.policy = &policy;
	ret = qcow2_open(&target, path, &options, err);
	if (ret == 0)
		ret = copy_all(target, source, err);
	qcow2_close(target);
	if (ret < 0)
		error_prefix(err, "the disk has been copied, but not its bitmaps");
	return ret;
}
