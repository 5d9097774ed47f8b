/* SPDX-License-Identifier: MIT */
/*
 * Changes of a chain: another backing file in the header, a layer that gives what it holds up to
 * the one below, a layer below that becomes writable.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "image/image.h"
#include "meta/super.h"

/* ---- the name in the header ---- */

static int check_backing(const struct qcow2_image *image, const char *name, const char *format,
			 struct qcow2_error *err)
{
	int ret = image_check_writable(image, err);

	if (ret < 0)
		return ret;
	if (!image->qcow2)
		return error_set(err, -ENOTSUP,
				 "\"%s\" is a raw image: it can't have a backing file",
				 image->path);
	if (!name)
		return 0;
	if (strlen(name) > LAYOUT_BACKING_NAME_MAX)
		return error_set(err, -EINVAL,
				 "the name of the backing file has %zu bytes, more than the %u "
				 "that the format allows",
				 strlen(name), LAYOUT_BACKING_NAME_MAX);
	if (!format)
		return error_set(err, -EINVAL,
				 "the format of the backing file \"%s\" has to be told", name);
	if (image->qcow2->meta.header.autoclear & LAYOUT_AUTOCLEAR_DATA_FILE_RAW)
		return error_set(err, -EINVAL,
				 "\"%s\" keeps its data in a raw file: what isn't allocated there "
				 "can't come from a backing file",
				 image->path);
	return 0;
}

static int write_backing(struct qcow2_image *image, const char *name, const char *format,
			 struct qcow2_error *err)
{
	cleanup_free char *own_name = name ? mem_strdup(name) : NULL;
	cleanup_free char *own_format = name ? mem_strdup(format) : NULL;
	struct meta *m = &image->qcow2->meta;
	struct image_former *former = mem_zalloc(1, sizeof(*former));
	int ret;

	if (!former || (name && (!own_name || !own_format))) {
		mem_free(former);
		return error_errno(err, -ENOMEM, "can't change the backing file");
	}
	ret = meta_check_sound(m, err);
	if (ret == 0)
		ret = meta_commit(m, true, err);
	if (ret == 0)
		ret = meta_super_write_backing(m, &own_name, &own_format, err);
	if (ret < 0) {
		mem_free(former);
		return ret;
	}
	/* whoever asked for information may still have them */
	former->name = mem_steal(&own_name);
	former->format = mem_steal(&own_format);
	former->next = image->former;
	image->former = former;
	return 0;
}

int image_set_backing(struct qcow2_image *image, const char *name, const char *format,
		      struct qcow2_error *err)
{
	int ret;

	if (image->gate)
		meta_gate_close(image->gate);
	ret = check_backing(image, name, format, err);
	if (ret == 0)
		ret = write_backing(image, name, format, err);
	if (image->gate)
		meta_gate_open(image->gate);
	if (ret < 0)
		error_prefix(err, "changing the backing file of \"%s\"", image->path);
	return ret;
}

void image_free_former(struct image_former *former)
{
	while (former) {
		struct image_former *next = former->next;

		mem_free(former->name);
		mem_free(former->format);
		mem_free(former);
		former = next;
	}
}

/* ---- emptying ---- */

/* With an external data file, where nothing is counted: cluster by cluster. */
static int forget_all(struct qcow2_image *image, struct qcow2_error *err)
{
	struct meta *m = &image->qcow2->meta;
	uint64_t end = (uint64_t)m->l1_entries << (m->geometry.cluster_bits + m->geometry.l2_bits);
	int ret = data_forget(image->qcow2->writer, 0, end, false, err);

	if (ret == 0)
		ret = meta_commit(m, true, err);
	if (ret < 0)
		return ret;
	(void)storage_discard(m->data, 0, m->size_bytes, NULL);
	meta_reap(m, true);
	meta_l1_drop_tables(m, 0, m->l1_entries);
	return meta_commit(m, true, err);
}

static int make_empty(struct qcow2_image *image, struct qcow2_error *err)
{
	struct meta *m = &image->qcow2->meta;
	int ret;

	if (meta_can_lay_out_anew(m))
		return meta_lay_out_anew(m, err);
	ret = m->geometry.data_file ? forget_all(image, err) : meta_make_empty(m, err);
	return ret == 0 ? meta_engine_finish(m, err) : ret;
}

int image_make_empty(struct qcow2_image *image, struct qcow2_error *err)
{
	int ret = image_check_writable(image, err);

	if (ret == 0 && !image->qcow2)
		ret = error_set(err, -ENOTSUP, "\"%s\" is a raw image: it can't be emptied",
				image->path);
	if (ret < 0)
		return ret;
	meta_gate_close(image->gate);
	ret = make_empty(image, err);
	image->qcow2->finished = ret == 0;
	meta_gate_open(image->gate);
	if (ret < 0)
		error_prefix(err, "emptying \"%s\"", image->path);
	return ret;
}

/* ---- a layer that becomes writable ---- */

static bool is_same_name(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

/* Between letting go of the one lock and having the other somebody may have come. */
static bool is_same_layer(const struct qcow2_image *a, const struct qcow2_image *b)
{
	const struct format_header *x, *y;

	if (!a->qcow2 || !b->qcow2)
		return a->qcow2 == b->qcow2;
	x = &a->qcow2->meta.header;
	y = &b->qcow2->meta.header;
	return is_same_name(x->backing_name, y->backing_name) &&
	       is_same_name(x->ext.data_file, y->ext.data_file);
}

/* Opens the file of a layer for writing; the layers below it are those that there are. */
static int open_again(struct qcow2_image **image, const struct qcow2_image *old,
		      const struct qcow2_open_options *options, struct qcow2_error *err)
{
	struct qcow2_storage store;
	int ret = storage_file_open(&store, old->path, image_storage_flags(options->flags), err);

	if (ret < 0)
		return ret;
	ret = image_open_layer(image, store, old->path, old->format, true, options, err);
	if (ret < 0)
		return ret;
	if (!is_same_layer(old, *image))
		ret = error_set(err, -EAGAIN, "\"%s\" has just been changed by somebody else",
				old->path);
	if (ret == 0 && (*image)->qcow2 && (*image)->qcow2->meta.geometry.data_file)
		ret = image_open_data_file(*image, &image_policy_local, err);
	if (ret < 0) {
		image_free_layer(*image);
		*image = NULL;
	}
	return ret;
}

static void unlock(const struct qcow2_image *image)
{
	(void)storage_lock(image->store, 0, 0, NULL);
	if (image->qcow2 && storage_is_open(image->qcow2->data_file))
		(void)storage_lock(image->qcow2->data_file, 0, 0, NULL);
}

static void lock_again(const struct qcow2_image *image)
{
	(void)image_take_lock(image->store, image->format, image->flags, NULL);
	if (image->qcow2 && storage_is_open(image->qcow2->data_file))
		(void)image_lock_data_file(image->qcow2->data_file, image->flags, NULL);
}

/* Puts a layer in the place of the one below above. */
static void replace(struct qcow2_image *top, struct qcow2_image *above, unsigned depth,
		    struct qcow2_image *layer)
{
	struct qcow2_image *old = above->backing;

	/* they say what the layers below the top have, which will change */
	data_hints_free(top->layers.hints);
	top->layers.hints = NULL;
	layer->backing = old->backing;
	layer->layers = old->layers;
	layer->backing_path = mem_steal(&old->backing_path);
	top->disks[depth] = layer->disk;
	above->backing = layer;
	old->backing = NULL;
	image_free_layer(old);
}

int image_reopen_for_writing(struct qcow2_image *top, unsigned depth, struct qcow2_error *err)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *above = top, *old, *layer;
	int ret;

	for (unsigned i = 1; i < depth; i++)
		above = above->backing;
	old = above->backing;
	options.flags = top->flags;
	options.warn = top->warn;
	options.opaque = top->opaque;
	unlock(old);
	ret = open_again(&layer, old, &options, err);
	if (ret < 0) {
		lock_again(old);
		error_prefix(err, "can't write to \"%s\"", old->path);
		return ret;
	}
	replace(top, above, depth, layer);
	ret = image_start_writing(layer, &options, err);
	if (ret < 0)
		error_prefix(err, "can't write to \"%s\"", layer->path);
	return ret;
}
