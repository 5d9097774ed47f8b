/* SPDX-License-Identifier: MIT */
/* The public calls for dirty bitmaps: what they are called, and that nobody is in between. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "image/image.h"
#include "meta/bitmap.h"

#define GRANULARITY_MIN (1ull << LAYOUT_BITMAP_GRANULARITY_BITS_MIN)
#define GRANULARITY_MAX (1ull << LAYOUT_BITMAP_GRANULARITY_BITS_MAX)
/* Without a wish: the size of a cluster, within these bounds, as in QEMU. */
#define GRANULARITY_DEFAULT_MIN 4096u
#define GRANULARITY_DEFAULT_MAX 65536u

static int check_kind(const struct qcow2_image *image, struct qcow2_error *err)
{
	if (!image->qcow2)
		return error_set(err, -ENOTSUP, "\"%s\" is a raw image: it can't have bitmaps",
				 image->path);
	if (image->qcow2->meta.header.version < 3)
		return error_set(err, -ENOTSUP,
				 "\"%s\" has version 2 of the format, which has no bitmaps",
				 image->path);
	return 0;
}

/* Of that name, whatever state it is in. */
static int find(const struct qcow2_image *image, const char *name, struct meta_bitmap **b,
		struct qcow2_error *err)
{
	*b = image->qcow2 ? meta_bitmaps_find(&image->qcow2->meta, name) : NULL;
	return *b ? 0 : error_set(err, -ENOENT, "\"%s\" has no bitmap \"%s\"", image->path, name);
}

static int find_good(const struct qcow2_image *image, const char *name, struct meta_bitmap **b,
		     struct qcow2_error *err)
{
	int ret = find(image, name, b, err);

	return ret == 0 ? meta_bitmap_check(*b, err) : ret;
}

/* ---- around each change ---- */

/* Holds up all other requests, until end. */
static int begin(struct qcow2_image *image, struct qcow2_error *err)
{
	int ret;

	if (image->gate)
		meta_gate_close(image->gate);
	ret = image_check_writable(image, err);
	if (ret == 0 && image->qcow2)
		ret = meta_check_sound(&image->qcow2->meta, err);
	return ret;
}

static int end(struct qcow2_image *image, int ret, const char *what, const char *name,
	       struct qcow2_error *err)
{
	image_forget_tables(image); /* before somebody asks who was held up */
	if (image->gate)
		meta_gate_open(image->gate);
	if (ret < 0)
		error_prefix(err, "%s bitmap \"%s\" of \"%s\"", what, name, image->path);
	return ret;
}

/* ---- add ---- */

static int check_add(const struct qcow2_image *image, const char *name, uint64_t granularity,
		     unsigned flags, struct qcow2_error *err)
{
	if (flags & ~QCOW2_BITMAP_AUTO)
		return error_set(err, -EINVAL, "unknown bitmap flags 0x%x", flags);
	if (!name || name[0] == '\0' || strlen(name) > LAYOUT_BITMAP_NAME_MAX)
		return error_set(err, -EINVAL, "the name of a bitmap has 1 to %u bytes",
				 LAYOUT_BITMAP_NAME_MAX);
	if (granularity != 0 && (!is_pow2(granularity) || granularity < GRANULARITY_MIN ||
				 granularity > GRANULARITY_MAX))
		return error_set(err, -EINVAL,
				 "the granularity of a bitmap is a power of 2 from %llu to %llu, "
				 "%" PRIu64 " isn't",
				 GRANULARITY_MIN, GRANULARITY_MAX, granularity);
	return check_kind(image, err);
}

static int add(struct qcow2_image *image, const char *name, uint64_t granularity, unsigned flags,
	       struct qcow2_error *err)
{
	struct meta *m = &image->qcow2->meta;

	if (granularity == 0)
		granularity = min_u64(max_u64(m->geometry.cluster_size, GRANULARITY_DEFAULT_MIN),
				      GRANULARITY_DEFAULT_MAX);
	if (meta_bitmaps_find(m, name))
		return error_set(err, -EEXIST, "there is one of that name already");
	return meta_bitmaps_add(m, name, log2_u64(granularity), flags & QCOW2_BITMAP_AUTO, err);
}

int qcow2_bitmap_add(struct qcow2_image *image, const char *name, uint64_t granularity,
		     unsigned flags, struct qcow2_error *err)
{
	int ret = check_add(image, name, granularity, flags, err);

	if (ret < 0)
		return ret;
	ret = begin(image, err);
	if (ret == 0)
		ret = add(image, name, granularity, flags, err);
	return end(image, ret, "adding", name, err);
}

/* ---- of one that is there ---- */

int qcow2_bitmap_remove(struct qcow2_image *image, const char *name, struct qcow2_error *err)
{
	struct meta_bitmap *b = NULL;
	int ret = begin(image, err);

	if (ret == 0)
		ret = find(image, name, &b, err);
	if (ret == 0)
		ret = meta_bitmaps_remove(&image->qcow2->meta, b, err);
	return end(image, ret, "removing", name, err);
}

int qcow2_bitmap_clear(struct qcow2_image *image, const char *name, struct qcow2_error *err)
{
	struct meta_bitmap *b = NULL;
	int ret = begin(image, err);

	if (ret == 0)
		ret = find_good(image, name, &b, err);
	if (ret == 0)
		meta_bitmaps_clear(&image->qcow2->meta, b);
	return end(image, ret, "clearing", name, err);
}

static int set_enabled(struct qcow2_image *image, const char *name, bool enabled, const char *what,
		       struct qcow2_error *err)
{
	struct meta_bitmap *b = NULL;
	int ret = begin(image, err);

	if (ret == 0)
		ret = find_good(image, name, &b, err);
	if (ret == 0)
		meta_bitmaps_enable(&image->qcow2->meta, b, enabled);
	return end(image, ret, what, name, err);
}

int qcow2_bitmap_enable(struct qcow2_image *image, const char *name, struct qcow2_error *err)
{
	return set_enabled(image, name, true, "enabling", err);
}

int qcow2_bitmap_disable(struct qcow2_image *image, const char *name, struct qcow2_error *err)
{
	return set_enabled(image, name, false, "disabling", err);
}

/* ---- reading ---- */

/* Those of an image that is only read are looked at when somebody asks for them. */
static int want_bitmaps(struct qcow2_image *image, struct qcow2_error *err)
{
	return image->qcow2 ? meta_bitmaps_open(&image->qcow2->meta, err) : 0;
}

static uint64_t recorded_size(const struct qcow2_image *image)
{
	const struct meta *m = &image->qcow2->meta;

	/* an open snapshot may have another size, but bitmaps are those of the disk */
	return m->engine ? m->size_bytes : align_down(m->header.size_bytes, LAYOUT_SECTOR);
}

static int map_bits(struct qcow2_image *image, const char *name, uint64_t guest_off,
		    uint64_t len_bytes, struct qcow2_bitmap_extent *extent, struct qcow2_error *err)
{
	struct meta_bitmap *b = NULL;
	uint64_t size, run = 0;
	bool dirty = false;
	int ret = want_bitmaps(image, err);

	if (ret == 0)
		ret = find_good(image, name, &b, err);
	if (ret < 0)
		return ret;
	size = recorded_size(image);
	if (guest_off >= size || len_bytes == 0)
		return error_set_at(err, -EINVAL, guest_off, QCOW2_NO_OFFSET,
				    "guest offset 0x%" PRIx64 " lies behind the end of the disk, "
				    "or no bytes were asked for",
				    guest_off);
	ret = meta_bitmap_run(&image->qcow2->meta, b, guest_off,
			      min_u64(len_bytes, size - guest_off), &run, &dirty, err);
	if (ret == 0)
		*extent = (struct qcow2_bitmap_extent){
			.guest_off = guest_off, .len_bytes = run, .dirty = dirty};
	return ret;
}

int qcow2_bitmap_map(struct qcow2_image *image, const char *name, uint64_t guest_off,
		     uint64_t len_bytes, struct qcow2_bitmap_extent *extent,
		     struct qcow2_error *err)
{
	unsigned ticket = image_enter(image);
	int ret = map_bits(image, name, guest_off, len_bytes, extent, err);

	image_leave(image, ticket);
	if (ret < 0)
		error_prefix(err, "reading bitmap \"%s\" of \"%s\"", name, image->path);
	return ret;
}

/* ---- merge ---- */

/* The granularity that the target has, and the size of its disk. */
static int look_at_target(struct qcow2_image *image, const char *name, uint32_t *bits,
			  uint64_t *size, struct qcow2_error *err)
{
	unsigned ticket = image_enter(image);
	struct meta_bitmap *b = NULL;
	int ret = image_check_writable(image, err);

	if (ret == 0)
		ret = find_good(image, name, &b, err);
	if (ret == 0) {
		*bits = b->rec.granularity_bits;
		*size = recorded_size(image);
	}
	image_leave(image, ticket);
	return ret;
}

static int copy_bits(struct qcow2_image *image, const char *name, struct meta_bitmap *to,
		     uint64_t size, struct qcow2_error *err)
{
	struct qcow2_bitmap_extent e = {0};
	int ret = 0;

	for (uint64_t off = 0; off < size && ret == 0; off += e.len_bytes) {
		ret = map_bits(image, name, off, size - off, &e, err);
		if (ret == 0 && e.dirty && meta_bitmap_set(to, off, e.len_bytes) < 0)
			ret = error_errno(err, -ENOMEM, "can't merge bitmaps");
	}
	return ret;
}

/* What the source has, in the granularity of the target: *bits is the caller's. */
static int read_source(struct qcow2_image *source, const char *name, uint32_t granularity_bits,
		       uint64_t size, struct meta_bitmap **bits, struct qcow2_error *err)
{
	unsigned ticket = image_enter(source);
	struct meta_bitmap *b = NULL;
	int ret = want_bitmaps(source, err);

	if (ret == 0)
		ret = find_good(source, name, &b, err);
	if (ret == 0 && recorded_size(source) != size)
		ret = error_set(err, -EINVAL,
				"the disks are of different sizes, %" PRIu64 " and %" PRIu64
				" bytes: their bitmaps can't be merged",
				size, recorded_size(source));
	if (ret == 0) {
		*bits = meta_bitmap_new(size, granularity_bits);
		ret = *bits ? copy_bits(source, name, *bits, size, err)
			    : error_errno(err, -ENOMEM, "can't merge bitmaps");
	}
	image_leave(source, ticket);
	return ret;
}

static int merge(struct qcow2_image *image, const char *name, const struct meta_bitmap *bits,
		 struct qcow2_error *err)
{
	struct meta_bitmap *b = NULL;
	int ret = find_good(image, name, &b, err);

	if (ret < 0)
		return ret;
	if (b->nbits != bits->nbits || b->rec.granularity_bits != bits->rec.granularity_bits)
		return error_set(err, -EAGAIN, "it has just become another");
	return meta_bitmaps_merge(&image->qcow2->meta, b, bits, err);
}

int qcow2_bitmap_merge(struct qcow2_image *image, const char *name, struct qcow2_image *source,
		       const char *source_name, struct qcow2_error *err)
{
	struct meta_bitmap *bits = NULL;
	uint32_t granularity_bits = 0;
	uint64_t size = 0;
	int ret = look_at_target(image, name, &granularity_bits, &size, err);

	if (ret == 0)
		ret = read_source(source, source_name, granularity_bits, size, &bits, err);
	if (ret < 0) {
		error_prefix(err, "merging into bitmap \"%s\" of \"%s\"", name, image->path);
	} else {
		ret = begin(image, err);
		if (ret == 0)
			ret = merge(image, name, bits, err);
		ret = end(image, ret, "merging into", name, err);
	}
	meta_bitmap_free(bits);
	return ret;
}
