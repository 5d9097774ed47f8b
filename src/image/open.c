/* SPDX-License-Identifier: MIT */
/*
 * Opening an image with all that it needs, reading and mapping it, closing it.
 *
 * A chain is opened in a loop, layer by layer, each checked against the policy, the depth limit
 * and the files that are open already.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/iov.h"
#include "base/num.h"
#include "image/image.h"
#include "image/options.h"

#define OPEN_FLAGS_KNOWN                                                                           \
	(QCOW2_OPEN_WRITE | QCOW2_OPEN_FORCE_SHARE | QCOW2_OPEN_INFO | QCOW2_OPEN_NO_BACKING |     \
	 QCOW2_OPEN_NO_LOCK | QCOW2_OPEN_DIRECT | QCOW2_OPEN_NO_FLUSH | QCOW2_OPEN_WRITETHROUGH)

#define OVERLAP_KNOWN ((QCOW2_OVERLAP_INACTIVE_L2 << 1) - 1)

/* ---- external data file ---- */

int image_lock_data_file(struct qcow2_storage store, unsigned flags, struct qcow2_error *err)
{
	unsigned forbid = flags & QCOW2_OPEN_FORCE_SHARE ? 0 : QCOW2_LOCK_RESIZE;
	unsigned use = QCOW2_LOCK_READ;

	if (flags & QCOW2_OPEN_WRITE)
		use |= QCOW2_LOCK_WRITE | QCOW2_LOCK_RESIZE;
	return flags & QCOW2_OPEN_NO_LOCK ? 0 : storage_lock(store, use, forbid, err);
}

/* The stored name is a plain path, relative to the working directory: section 6. */
int image_open_data_file(struct qcow2_image *image, const struct qcow2_policy *policy,
			 struct qcow2_error *err)
{
	const char *name = image->qcow2->meta.header.ext.data_file;
	struct qcow2_storage *store = &image->qcow2->data_file;
	int ret;

	if (!name)
		return error_set(err, -EINVAL,
				 "\"%s\" keeps its data in another file, but doesn't "
				 "say in which",
				 image->path);
	if (!(policy->follow & QCOW2_FOLLOW_DATA_FILE))
		return error_set(err, -EPERM,
				 "\"%s\" keeps its data in \"%s\", which the policy "
				 "doesn't allow to open",
				 image->path, name);
	ret = image_check_dirs(policy, name, err);
	if (ret == 0)
		ret = storage_file_open(store, name, image_storage_flags(image->flags), err);
	if (ret == 0)
		ret = image_lock_data_file(*store, image->flags, err);
	if (ret < 0) {
		error_prefix(err, "data file of \"%s\"", image->path);
		return ret;
	}
	image->qcow2->meta.data = *store;
	image->qcow2->data_filename = name;
	return 0;
}

/* The caller's own; *given is empty afterwards. */
static int take_data_file(struct qcow2_image *image, struct qcow2_storage *given,
			  struct qcow2_error *err)
{
	struct image_qcow2 *q = image->qcow2;

	if (!q || !q->meta.geometry.data_file)
		return error_set(err, -EINVAL,
				 "'data-file' can only be set for images with an external data "
				 "file");
	q->data_file = *given;
	*given = (struct qcow2_storage){0};
	q->meta.data = q->data_file;
	q->data_filename =
		q->meta.header.ext.data_file ? q->meta.header.ext.data_file : image->path;
	return image_lock_data_file(q->data_file, image->flags, err);
}

/* ---- backing chain ---- */

static bool wants_backing(const struct qcow2_image *image)
{
	return image->qcow2 && image->qcow2->meta.header.backing_name &&
	       !(image->flags & (QCOW2_OPEN_INFO | QCOW2_OPEN_NO_BACKING));
}

static int resolve_backing(struct qcow2_image *image, struct qcow2_error *err)
{
	return image_resolve_name(image->placeless ? NULL : image->path,
				  image->qcow2->meta.header.backing_name, &image->backing_path,
				  err);
}

/* Is that file open already, in a layer from top down to last? */
static bool is_in_chain(const struct qcow2_image *top, const struct storage_file_stat *file)
{
	struct storage_file_stat st;

	for (const struct qcow2_image *i = top; i; i = i->backing) {
		if (storage_file_stat(i->store, &st, NULL) == 0 && st.dev == file->dev &&
		    st.ino == file->ino)
			return true;
	}
	return false;
}

static int check_reference(const struct qcow2_image *above, const struct qcow2_policy *policy,
			   unsigned depth, struct qcow2_error *err)
{
	const struct format_header *h = &above->qcow2->meta.header;
	unsigned limit = policy->max_depth ? policy->max_depth : QCOW2_DEPTH_DEFAULT;

	if (!(policy->follow & QCOW2_FOLLOW_BACKING))
		return error_set(err, -EPERM,
				 "\"%s\" has the backing file \"%s\", which the policy "
				 "doesn't allow to open",
				 above->path, h->backing_name);
	if (!h->ext.backing_format && !(policy->follow & QCOW2_FOLLOW_PROBE))
		return error_set(err, -EINVAL,
				 "\"%s\" doesn't record the format of its backing "
				 "file \"%s\", and guessing it isn't allowed",
				 above->path, h->backing_name);
	if (depth > limit)
		return error_set(err, -ELOOP,
				 "the chain of backing files is deeper than the limit "
				 "of %u, at \"%s\"",
				 limit, above->path);
	return 0;
}

static int open_backing(const struct qcow2_image *top, struct qcow2_image *above,
			const struct qcow2_policy *policy, unsigned depth,
			const struct qcow2_open_options *options, struct qcow2_error *err)
{
	struct qcow2_open_options below = *options;
	struct qcow2_storage store = {0};
	struct storage_file_stat st;
	int ret;

	/* what is below is read only */
	below.flags &= ~QCOW2_OPEN_WRITE;
	ret = check_reference(above, policy, depth, err);
	if (ret == 0 && !above->backing_path) /* it couldn't be resolved; once more, to say why */
		ret = resolve_backing(above, err);
	if (ret == 0)
		ret = image_check_dirs(policy, above->backing_path, err);
	if (ret == 0)
		ret = storage_file_open(&store, above->backing_path,
					image_storage_flags(below.flags), err);
	if (ret == 0)
		ret = storage_file_stat(store, &st, err);
	if (ret == 0 && is_in_chain(top, &st))
		ret = error_set(err, -ELOOP,
				"\"%s\" is in the chain already: the backing files "
				"form a circle",
				above->backing_path);
	if (ret < 0) {
		storage_close(&store);
		return ret;
	}
	return image_open_layer(&above->backing, store, above->backing_path,
				above->qcow2->meta.header.ext.backing_format, true, &below, err);
}

/* The array of disks that all layers share. */
static int link_layers(struct qcow2_image *top, unsigned count, struct qcow2_error *err)
{
	unsigned n = 0;

	top->disks = mem_alloc(count, sizeof(*top->disks));
	if (!top->disks)
		return error_errno(err, -ENOMEM, "can't open \"%s\"", top->path);
	for (struct qcow2_image *i = top; i; i = i->backing, n++) {
		top->disks[n] = i->disk;
		i->layers.disks = top->disks + n;
		i->layers.count = count - n;
	}
	if (count > 2)
		top->layers.hints = data_hints_new(top->disk->size_bytes);
	return 0;
}

/* Puts an image that is open already below top; *given is empty afterwards. */
static int take_backing(struct qcow2_image *top, struct qcow2_image **given, unsigned *count,
			struct qcow2_error *err)
{
	struct qcow2_image *below = *given;

	if (!top->qcow2 || below->flags & (QCOW2_OPEN_WRITE | QCOW2_OPEN_INFO))
		return error_set(err, -EINVAL,
				 "\"%s\" can't get \"%s\" as its backing file: that takes a qcow2 "
				 "image on one that is open for reading",
				 top->path, below->path);
	top->backing = below;
	*given = NULL;
	/* it is a part of another chain now */
	data_hints_free(below->layers.hints);
	mem_free(below->disks);
	below->layers.hints = NULL;
	below->disks = NULL;
	for (; below; below = below->backing)
		++*count;
	return 0;
}

/* options are the caller's, with what it gave for the top image: what is taken is cleared. */
static int open_below(struct qcow2_image *top, struct qcow2_open_options *options,
		      const struct qcow2_policy *policy, struct qcow2_error *err)
{
	struct qcow2_image *last = top;
	unsigned count = 1;
	int ret = 0;

	if (options->data_file.ops && !(top->flags & QCOW2_OPEN_INFO))
		ret = take_data_file(top, &options->data_file, err);
	if (ret == 0 && options->backing)
		ret = take_backing(top, &options->backing, &count, err);
	if (ret < 0)
		return ret;
	if (top->backing && !storage_is_open(top->qcow2->data_file) &&
	    top->qcow2->meta.geometry.data_file && !(top->flags & QCOW2_OPEN_INFO))
		ret = image_open_data_file(top, policy, err);
	if (top->backing)
		return ret < 0 ? ret : link_layers(top, count, err);
	for (;; last = last->backing, count++) {
		/* for info; a name that may not be followed matters only to who follows it */
		if (last->qcow2 && last->qcow2->meta.header.backing_name)
			resolve_backing(last, NULL);
		if (last->qcow2 && last->qcow2->meta.geometry.data_file &&
		    !storage_is_open(last->qcow2->data_file) && !(last->flags & QCOW2_OPEN_INFO))
			ret = image_open_data_file(last, policy, err);
		if (ret < 0)
			return ret;
		if (!wants_backing(last))
			return link_layers(top, count, err);
		ret = open_backing(top, last, policy, count, options, err);
		if (ret < 0) {
			error_prefix(err, "backing file of \"%s\"", last->path);
			return ret;
		}
	}
}

static bool is_pass_known(unsigned pass)
{
	const unsigned each = QCOW2_PASS_REQUEST | QCOW2_PASS_SNAPSHOT | QCOW2_PASS_OTHER;

	return pass <= QCOW2_PASS_NONE || (pass & ~each) == QCOW2_PASS_EACH;
}

static int check_options(const struct qcow2_open_options *o, struct qcow2_error *err)
{
	if (o->flags & ~OPEN_FLAGS_KNOWN)
		return error_set(err, -EINVAL, "unknown open flags 0x%x",
				 o->flags & ~OPEN_FLAGS_KNOWN);
	if (!(o->flags & QCOW2_OPEN_WRITE))
		return 0;
	if (o->flags & QCOW2_OPEN_INFO)
		return error_set(err, -EINVAL, "can't write to an image for information only");
	if (o->flags & QCOW2_OPEN_FORCE_SHARE)
		return error_set(err, -EINVAL,
				 "can't write to an image that others may be writing to");
	if (o->snapshot)
		return error_set(err, -EINVAL, "snapshots can't be written to");
	if (o->discard > QCOW2_DISCARD_NO_UNREF || !is_pass_known(o->pass_discard) ||
	    o->lazy_refcounts > QCOW2_OFF || o->overlap_check & ~OVERLAP_KNOWN)
		return error_set(err, -EINVAL, "unknown value of an open option");
	return 0;
}

static int open_image(struct qcow2_image **image, struct qcow2_storage store, const char *path,
		      struct qcow2_open_options *options, struct qcow2_error *err)
{
	struct qcow2_policy policy = {.struct_size = sizeof(policy)};
	int ret;

	ret = OPTIONS_TAKE(&policy, options->policy, "policy", err);
	if (ret < 0) {
		storage_close(&store);
		return ret;
	}
	ret = image_open_layer(image, store, path ? path : "(unnamed)", options->format, false,
			       options, err);
	if (ret < 0)
		return ret;
	(*image)->placeless = !path;
	ret = open_below(*image, options, &policy, err);
	if (ret == 0 && (options->flags & QCOW2_OPEN_WRITE))
		ret = image_start_writing(*image, options, err);
	if (ret < 0) {
		qcow2_close(*image);
		*image = NULL;
	}
	return ret;
}

/* What the caller gave and nobody took. */
static void release_given(struct qcow2_open_options *o)
{
	qcow2_close(o->backing);
	storage_close(&o->data_file);
}

int qcow2_open(struct qcow2_image **image, const char *path,
	       const struct qcow2_open_options *options, struct qcow2_error *err)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_storage store;
	int ret;

	*image = NULL;
	ret = OPTIONS_TAKE(&o, options, "open options", err);
	if (ret == 0)
		ret = check_options(&o, err);
	if (ret == 0)
		ret = storage_file_open(&store, path, image_storage_flags(o.flags), err);
	if (ret == 0)
		ret = open_image(image, store, path, &o, err);
	release_given(&o);
	return ret;
}

int qcow2_open_storage(struct qcow2_image **image, struct qcow2_storage storage, const char *name,
		       const struct qcow2_open_options *options, struct qcow2_error *err)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	int ret;

	*image = NULL;
	ret = OPTIONS_TAKE(&o, options, "open options", err);
	if (ret == 0)
		ret = check_options(&o, err);
	if (ret < 0)
		storage_close(&storage);
	else
		ret = open_image(image, storage, name, &o, err);
	release_given(&o);
	return ret;
}

void qcow2_close(struct qcow2_image *image)
{
	struct data_hints *hints = image ? image->layers.hints : NULL;
	struct disk **disks = image ? image->disks : NULL;

	if (image && (!image->qcow2 || image->qcow2->writer))
		(void)qcow2_finish(image, NULL);
	while (image) {
		struct qcow2_image *below = image->backing;

		image_free_layer(image);
		image = below;
	}
	data_hints_free(hints);
	mem_free(disks);
}

/* ---- what can be done with it ---- */

uint64_t qcow2_size(const struct qcow2_image *image)
{
	return __atomic_load_n(&image->disk->size_bytes, __ATOMIC_RELAXED);
}

struct qcow2_image *qcow2_backing(struct qcow2_image *image)
{
	return image->backing;
}

int image_check_readable(const struct qcow2_image *image, struct qcow2_error *err)
{
	if (image->flags & QCOW2_OPEN_INFO)
		return error_set(err, -EINVAL, "\"%s\" is open for information only", image->path);
	return 0;
}

int image_check_range(const struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
		      struct qcow2_error *err)
{
	uint64_t size = image->disk->size_bytes;
	int ret = image_check_readable(image, err);

	if (ret < 0)
		return ret;
	if (guest_off > size || len_bytes > size - guest_off)
		return error_set_at(err, -EINVAL, guest_off, QCOW2_NO_OFFSET,
				    "the range of %" PRIu64 " bytes at 0x%" PRIx64
				    " passes the end of the disk, which has %" PRIu64 " bytes",
				    len_bytes, guest_off, size);
	return 0;
}

int qcow2_preadv(struct qcow2_image *image, const struct iovec *iov, int iovcnt, uint64_t guest_off,
		 struct qcow2_error *err)
{
	unsigned ticket;
	uint64_t len;
	int ret;

	if (!iov_total(iov, iovcnt, &len))
		return error_set(err, -EINVAL, "malformed I/O vector");
	ticket = image_enter(image);
	ret = image_check_range(image, guest_off, len, err);
	if (ret == 0)
		ret = data_read(&image->layers, iov, iovcnt, guest_off, len, err);
	image_leave(image, ticket);
	if (ret < 0)
		error_prefix(err, "reading \"%s\"", image->path);
	return ret;
}

int qcow2_pread(struct qcow2_image *image, void *buf, size_t len, uint64_t guest_off,
		struct qcow2_error *err)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};

	return qcow2_preadv(image, &iov, 1, guest_off, err);
}

static unsigned extent_flags(const struct data_run *r)
{
	unsigned flags = 0;

	if (r->run.has_host_off)
		flags |= QCOW2_EXTENT_HOST_OFF;
	switch (r->run.kind) {
	case DISK_RUN_DATA:
		return flags | QCOW2_EXTENT_PRESENT | QCOW2_EXTENT_DATA;
	case DISK_RUN_COMPRESSED:
		return flags | QCOW2_EXTENT_PRESENT | QCOW2_EXTENT_DATA | QCOW2_EXTENT_COMPRESSED;
	case DISK_RUN_ZERO:
		return flags | QCOW2_EXTENT_ZERO | (r->past_end ? 0 : QCOW2_EXTENT_PRESENT);
	case DISK_RUN_ABSENT:
		break;
	}
	return flags | QCOW2_EXTENT_ZERO;
}

int qcow2_map(struct qcow2_image *image, uint64_t guest_off, uint64_t len_bytes,
	      struct qcow2_extent *extent, struct qcow2_error *err)
{
	struct data_run r;
	bool is_hole = false;
	unsigned ticket;
	int ret;

	if (len_bytes == 0)
		return error_set(err, -EINVAL, "mapping no bytes");
	ticket = image_enter(image);
	ret = image_check_range(image, guest_off, 1, err);
	if (ret == 0)
		ret = data_map(&image->layers, guest_off,
			       min_u64(len_bytes, image->disk->size_bytes - guest_off), &r, err);
	if (ret == 0)
		ret = image_find_hole(image->layers.disks[r.depth], &r.run, &is_hole, err);
	image_leave(image, ticket);
	if (ret < 0) {
		error_prefix(err, "mapping \"%s\"", image->path);
		return ret;
	}
	*extent = (struct qcow2_extent){
		.guest_off = guest_off,
		.len_bytes = r.run.len_bytes,
		.host_off = r.run.host_off,
		.flags = extent_flags(&r) | (is_hole ? QCOW2_EXTENT_ZERO : 0),
		.depth = r.depth,
		.filename = r.run.has_host_off ? r.run.filename : NULL,
	};
	return 0;
}
