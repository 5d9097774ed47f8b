/* SPDX-License-Identifier: MIT */
/*
 * Commit: what the layers above a backing file hold is written into it.
 *
 * All that is read comes through the top image, so that at any moment, also half way, the chain
 * reads as before: what is written to the base is hidden by the layers above it, and is what they
 * hold. Only when the base is durable the top image is emptied.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "image/options.h"
#include "job/copy.h"

#define FLAGS_KNOWN (QCOW2_COMMIT_KEEP | QCOW2_COMMIT_CHECK)

/* ---- which layer ---- */

/* Is that the file of the layer, whatever it is called? */
static bool is_file_of(const struct qcow2_image *layer, const char *path)
{
	struct storage_file_stat a, b;
	struct qcow2_storage store;
	bool same;

	if (storage_file_open(&store, path, 0, NULL) < 0)
		return false;
	same = storage_file_stat(store, &a, NULL) == 0 &&
	       storage_file_stat(layer->store, &b, NULL) == 0 && a.dev == b.dev && a.ino == b.ino;
	storage_close(&store);
	return same;
}

/* name: as it is stored above the layer, or a path from here or from where the layer above is. */
static bool is_named(const struct qcow2_image *above, const char *name)
{
	const struct qcow2_image *layer = above->backing;
	cleanup_free char *path = NULL;

	if (strcmp(name, above->qcow2->meta.header.backing_name) == 0 ||
	    strcmp(name, layer->path) == 0 || is_file_of(layer, name))
		return true;
	return image_resolve_name(above->path, name, &path, NULL) == 0 && is_file_of(layer, path);
}

/* *depth of the base. */
static int find_base(const struct qcow2_image *top, const char *name, unsigned *depth,
		     struct qcow2_error *err)
{
	const struct qcow2_image *above = top;

	if (!top->backing)
		return error_set(err, -EINVAL, "\"%s\" has no backing file", top->path);
	*depth = 1;
	for (; name && above->backing; above = above->backing, (*depth)++) {
		if (is_named(above, name))
			return 0;
	}
	return name ? error_set(err, -ENOENT, "\"%s\" isn't in the backing chain of \"%s\"", name,
				top->path)
		    : 0;
}

static struct qcow2_image *layer_at(struct qcow2_image *top, unsigned depth)
{
	while (depth-- > 0)
		top = top->backing;
	return top;
}

/* ---- copying ---- */

/* What is allocated in the layers above depth is so in multiples of this. */
static size_t granularity(const struct qcow2_image *top, unsigned depth)
{
	size_t unit = (size_t)1 << top->qcow2->meta.geometry.cluster_bits;

	for (const struct qcow2_image *l = top; depth-- > 0; l = l->backing)
		unit = min_u64(unit, (size_t)1 << l->qcow2->meta.geometry.subcluster_bits);
	return unit;
}

static int copy(struct job_copy *c, struct qcow2_image *top, unsigned depth,
		struct qcow2_error *err)
{
	struct job_source source;
	const struct job_target_how how = {
		.block_size = granularity(top, depth), .asks_zero = true, .source = &source};
	int ret = job_source_init(&source, &top, 1, err);

	if (ret < 0)
		return ret;
	source.nlayers = depth;
	c->reader = &source.reader;
	c->size_bytes = source.size_bytes;
	c->cluster_max = job_largest_cluster(top, 0);
	ret = job_target_open_image(&c->target, layer_at(top, depth), &how, err);
	if (ret == 0) {
		source.unread = c->target->moves;
		ret = job_copy_run(c, err);
		c->target->ops->close(c->target);
	}
	job_source_release(&source);
	return ret;
}

/* A base that is smaller than the disk becomes as large. */
static int grow(struct qcow2_image *base, uint64_t size_bytes, struct qcow2_error *err)
{
	if (base->disk->size_bytes >= size_bytes)
		return 0;
	return qcow2_resize(base, size_bytes, QCOW2_PREALLOC_OFF, 0, err);
}

static int commit(struct job_copy *c, struct qcow2_image *top, unsigned depth,
		  struct qcow2_error *err)
{
	struct qcow2_image *base = layer_at(top, depth);
	int ret = grow(base, qcow2_size(top), err);
	int last;

	if (ret == 0)
		ret = copy(c, top, depth, err);
	/* after a failure too: what was copied does no harm */
	last = qcow2_finish(base, ret == 0 ? err : NULL);
	return ret == 0 ? last : ret;
}

static int check(const struct qcow2_image *top, const struct qcow2_commit_options *o,
		 struct qcow2_error *err)
{
	int ret = o->flags & QCOW2_COMMIT_CHECK ? 0 : image_check_writable(top, err);

	if (ret == 0 && o->flags & ~FLAGS_KNOWN)
		ret = error_set(err, -EINVAL, "unknown commit flags 0x%x", o->flags & ~FLAGS_KNOWN);
	return ret;
}

int qcow2_commit(struct qcow2_image *image, const struct qcow2_commit_options *options,
		 struct qcow2_commit_result *result, struct qcow2_error *err)
{
	struct qcow2_commit_options o = QCOW2_COMMIT_OPTIONS_INIT;
	struct job_copy c = {0};
	bool empties;
	unsigned depth = 0;
	int ret;

	ret = OPTIONS_TAKE(&o, options, "commit options", err);
	if (ret == 0)
		ret = check(image, &o, err);
	if (ret == 0)
		ret = find_base(image, o.base, &depth, err);
	if (ret == 0 && o.flags & QCOW2_COMMIT_CHECK) {
		if (result)
			*result = (struct qcow2_commit_result){0};
		return 0;
	}
	if (ret == 0)
		ret = image_reopen_for_writing(image, depth, err);
	if (ret < 0)
		return ret;
	c.threads = o.threads;
	c.rate_limit = o.rate_limit;
	c.progress = o.progress;
	ret = commit(&c, image, depth, err);
	/* what shows through must be the base that all of it is in */
	empties = depth == 1 && !(o.flags & QCOW2_COMMIT_KEEP);
	if (ret == 0 && empties)
		ret = image_make_empty(image, err);
	if (ret < 0)
		return ret;
	job_copy_end(&c);
	if (result)
		*result = (struct qcow2_commit_result){
			.data_bytes = atomic_load(&c.data_bytes),
			.emptied = empties,
		};
	return 0;
}
