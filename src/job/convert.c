/* SPDX-License-Identifier: MIT */
/* Convert: disks copied into another image, which comes into being complete or not at all. */
#include <errno.h>
#include <string.h>

#include "base/num.h"
#include "image/options.h"
#include "job/copy.h"

#define FLAGS_KNOWN                                                                                \
	(QCOW2_CONVERT_COMPRESS | QCOW2_CONVERT_EXISTING | QCOW2_CONVERT_TARGET_IS_ZERO |          \
	 QCOW2_CONVERT_SALVAGE | QCOW2_CONVERT_DISORDERED | QCOW2_CONVERT_ON_TOP |                 \
	 QCOW2_CONVERT_BITMAPS | QCOW2_CONVERT_SKIP_BROKEN_BITMAPS | QCOW2_CONVERT_OFFLOAD |       \
	 QCOW2_CONVERT_REFLINK_ALWAYS | QCOW2_CONVERT_REFLINK_NEVER)
#define SPARSE_DEFAULT 4096
#define TARGET_FLAGS_KNOWN (QCOW2_OPEN_DIRECT | QCOW2_OPEN_NO_FLUSH | QCOW2_OPEN_WRITETHROUGH)

/* The disk's size comes from the sources; the rest of the options is the caller's. */
static int settle_create(const struct qcow2_convert_options *options, const char *path,
			 uint64_t size_bytes, struct qcow2_create_options *create,
			 struct qcow2_error *err)
{
	int ret = OPTIONS_TAKE(create, options->create, "create options", err);

	if (ret < 0)
		return ret;
	create->size = size_bytes;
	if (!create->format)
		create->format = "qcow2";
	/* the backing file is looked at though the size is known: a target without it is none */
	return image_create_resolve(path, create, true, err);
}

int job_target_differs(const struct image_place *place, const struct job_source *source,
		       struct qcow2_error *err)
{
	return job_source_differs(place->st, place->path, source, err);
}

struct progress_work job_target_work(const struct qcow2_convert_options *options,
				     uint64_t size_bytes)
{
	return (struct progress_work){
		.to = &options->progress, .total_bytes = size_bytes, .still = true};
}

/*
 * The same before the target is opened, for the sake of the sentence: our own lock on a source
 * would be in the way of opening it.
 */
static int check_path_differs(const char *path, const struct job_source *source,
			      struct qcow2_error *err)
{
	struct qcow2_storage store;
	int ret;

	if (!path || storage_file_open(&store, path, 0, NULL) < 0)
		return 0;
	ret = job_source_differs(store, path, source, err);
	storage_close(&store);
	return ret;
}

int job_target_goes_on_top(const struct qcow2_create_options *create,
			   const struct job_source *source, struct qcow2_error *err)
{
	bool deep = false;

	for (size_t i = 0; i < source->nimages; i++)
		deep |= source->images[i]->layers.count > 1;
	if (!source->nlayers || !deep)
		return 0;
	if (!create->backing_file)
		return error_set(err, -EINVAL,
				 "only the source's top layer is to be copied, but the target has "
				 "no backing file for the rest");
	if (source->nimages > 1)
		return error_set(err, -EINVAL,
				 "the top layer of one source can be copied, not of %zu",
				 source->nimages);
	return 0;
}

static int open_target(struct job_target **target, const char *path,
		       const struct job_source *source, const struct qcow2_convert_options *options,
		       struct qcow2_error *err)
{
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	int ret = settle_create(options, path, source->size_bytes, &create, err);

	if (ret == 0)
		ret = check_path_differs(path, source, err);
	if (ret < 0)
		return ret;
	if (strcmp(create.format, "raw") == 0)
		return job_target_raw(target, path, source, options, &create, err);
	return job_target_qcow2(target, path, source, options, &create, err);
}

static uint64_t sparse_bytes(const struct job_target *target, const struct qcow2_convert_options *o)
{
	if (target->moves) /* nobody has looked at it */
		return 0;
	return o->sparse_bytes == QCOW2_SPARSE_DEFAULT ? SPARSE_DEFAULT : o->sparse_bytes;
}

static int copy(const struct job_source *source, struct job_target *target,
		const struct qcow2_convert_options *o, struct qcow2_convert_result *result,
		struct qcow2_error *err)
{
	struct job_copy c = {
		.reader = &source->reader,
		.target = target,
		.size_bytes = source->size_bytes,
		.threads = o->threads,
		.sparse_bytes = sparse_bytes(target, o),
		.compression_level = o->compression_level,
		.rate_limit = o->rate_limit,
		.progress = o->progress,
		.warn = o->warn,
		.opaque = o->opaque,
	};
	int ret;

	for (size_t i = 0; i < source->nimages; i++)
		c.cluster_max = job_largest_cluster(source->images[i], c.cluster_max);
	ret = job_copy_run(&c, err);
	if (ret == 0)
		ret = target->ops->finish(target, &result->host_bytes, err);
	if (ret == 0)
		job_copy_end(&c);
	result->data_bytes = atomic_load(&c.data_bytes);
	result->unreadable_bytes = atomic_load(&c.unreadable_bytes);
	result->zero_bytes = source->size_bytes - result->data_bytes;
	return ret;
}

int job_convert_check(const struct qcow2_convert_options *o, struct qcow2_error *err)
{
	if (o->flags & ~FLAGS_KNOWN)
		return error_set(err, -EINVAL, "unknown convert flags 0x%x",
				 o->flags & ~FLAGS_KNOWN);
	if (o->flags & QCOW2_CONVERT_OFFLOAD &&
	    o->flags & (QCOW2_CONVERT_COMPRESS | QCOW2_CONVERT_SALVAGE))
		return error_set(err, -EINVAL,
				 "data that the kernel moves can't be compressed or salvaged");
	if (o->flags & QCOW2_CONVERT_REFLINK_ALWAYS &&
	    (o->flags & (QCOW2_CONVERT_COMPRESS | QCOW2_CONVERT_SALVAGE |
			 QCOW2_CONVERT_REFLINK_NEVER) ||
	     o->sparse_bytes != QCOW2_SPARSE_DEFAULT))
		return error_set(err, -EINVAL,
				 "blocks that are to be shared can't be compressed, salvaged or "
				 "searched for zeros, nor not be shared");
	if (o->flags & QCOW2_CONVERT_REFLINK_NEVER && o->flags & QCOW2_CONVERT_OFFLOAD)
		return error_set(err, -EINVAL,
				 "what the kernel copies may be shared, so it can't be kept from "
				 "being shared");
	if (o->target_open_flags & ~TARGET_FLAGS_KNOWN)
		return error_set(err, -EINVAL, "open flags 0x%x, which targets don't have",
				 o->target_open_flags & ~TARGET_FLAGS_KNOWN);
	return 0;
}

int qcow2_convert(struct qcow2_image *const *sources, size_t nsources, const char *path,
		  const struct qcow2_convert_options *options, struct qcow2_convert_result *result,
		  struct qcow2_error *err)
{
	struct qcow2_convert_options o = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_convert_result unwanted;
	struct job_target *target = NULL;
	struct job_source source;
	int ret;

	ret = OPTIONS_TAKE(&o, options, "convert options", err);
	if (ret == 0)
		ret = job_convert_check(&o, err);
	if (ret == 0 && o.flags & QCOW2_CONVERT_BITMAPS)
		ret = job_bitmaps_check(sources, nsources, path, &o, err);
	if (ret < 0)
		return ret;
	ret = job_source_init(&source, sources, nsources, err);
	if (ret < 0)
		return ret;
	source.nlayers = o.flags & QCOW2_CONVERT_ON_TOP ? 1 : 0;
	source.salvage = o.flags & QCOW2_CONVERT_SALVAGE;
	ret = job_source_cut(&source, o.source_off, o.source_bytes, err);
	if (ret == 0)
		ret = open_target(&target, path, &source, &o, err);
	source.unread = ret == 0 && target->moves;
	source.pass_cluster_size = ret == 0 && target->passes ? target->block_size : 0;
	source.pass_compression = ret == 0 ? target->compression : 0;
	if (ret == 0)
		ret = copy(&source, target, &o, result ? result : &unwanted, err);
	if (target)
		target->ops->close(target);
	job_source_release(&source);
	if (ret == 0 && o.flags & QCOW2_CONVERT_BITMAPS)
		ret = job_bitmaps_copy(sources[0], path, &o, err);
	return ret;
}
