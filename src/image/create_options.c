/* SPDX-License-Identifier: MIT */
/*
 * What may be asked of a new image (section 24.0): defaults, limits, and what doesn't go together.
 * Everything is checked here, before a file is touched. The only thing that is opened is the
 * backing file.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "image/create.h"
#include "image/image.h"
#include "image/options.h"

#define REFCOUNT_BITS_MAX (1u << LAYOUT_REFCOUNT_ORDER_MAX)
#define REFCOUNT_BITS_V2 (1u << LAYOUT_REFCOUNT_ORDER_V2)
#define CLUSTER_SIZE_MIN (1ull << LAYOUT_CLUSTER_BITS_MIN)
#define CLUSTER_SIZE_MAX (1ull << LAYOUT_CLUSTER_BITS_MAX)
#define CLUSTER_SIZE_MIN_EXTENDED (1ull << LAYOUT_CLUSTER_BITS_MIN_EXTENDED)
#define DISK_ALIGN 512

/* Names that QEMU's tools take as the format of a backing file and can open later. */
static const char *const backing_formats[] = {
	"bochs", "cloop", "dmg",   "file", "ftp", "ftps", "gluster",   "host_cdrom", "host_device",
	"http",	 "https", "iscsi", "luks", "nbd", "nfs",  "parallels", "qcow",	     "qcow2",
	"qed",	 "raw",	  "rbd",   "ssh",  "vdi", "vhdx", "vmdk",      "vpc",
};

static const char *prealloc_name(unsigned prealloc)
{
	switch (prealloc) {
	case QCOW2_PREALLOC_METADATA:
		return "metadata";
	case QCOW2_PREALLOC_FALLOC:
		return "falloc";
	case QCOW2_PREALLOC_FULL:
		return "full";
	default:
		return "off";
	}
}

static bool is_raw(const struct qcow2_create_options *o)
{
	return strcmp(o->format, "raw") == 0;
}

void image_create_geometry(const struct qcow2_create_options *o, struct format_geometry *g)
{
	format_geometry_init(g, o->version, log2_u64(o->cluster_size), log2_u64(o->refcount_bits),
			     o->extended_l2, o->data_file != NULL);
}

unsigned image_create_prealloc(const struct qcow2_create_options *o)
{
	if (o->data_file_raw && o->prealloc == QCOW2_PREALLOC_OFF)
		return QCOW2_PREALLOC_METADATA;
	return o->prealloc;
}

int image_create_set_size(struct qcow2_create_options *o, uint64_t size_bytes,
			  struct qcow2_error *err)
{
	struct format_geometry g;
	uint64_t limit = align_down(INT64_MAX, DISK_ALIGN);

	if (!is_raw(o)) {
		image_create_geometry(o, &g);
		limit = min_u64(limit, format_max_size(&g));
	}
	if (size_bytes > limit && is_raw(o))
		return error_set(err, -EFBIG, "a size of %llu bytes: files end at %llu",
				 (unsigned long long)size_bytes, (unsigned long long)limit);
	if (size_bytes > limit)
		return error_set(err, -EFBIG,
				 "a size of %llu bytes: with clusters of %llu bytes%s the limit is "
				 "%llu (larger clusters allow more)",
				 (unsigned long long)size_bytes,
				 (unsigned long long)o->cluster_size,
				 o->extended_l2 ? " and extended L2 entries" : "",
				 (unsigned long long)limit);
	o->size = align_up(size_bytes, DISK_ALIGN);
	return 0;
}

/* ---- checks; each knows one kind of option ---- */

static int check_raw(const struct qcow2_create_options *o, struct qcow2_error *err)
{
	const char *what = NULL;

	if (o->version)
		what = "a version";
	else if (o->cluster_size)
		what = "a cluster size";
	else if (o->refcount_bits)
		what = "a refcount width";
	else if (o->compression != QCOW2_COMPRESSION_ZLIB)
		what = "a compression type";
	else if (o->lazy_refcounts)
		what = "lazy refcounts";
	else if (o->extended_l2)
		what = "extended L2 entries";
	else if (o->backing_file || o->backing_format)
		what = "a backing file";
	else if (o->data_file || o->data_file_raw)
		what = "an external data file";
	if (what)
		return error_set(err, -EINVAL, "a raw image has no place for %s", what);
	if (o->prealloc == QCOW2_PREALLOC_METADATA)
		return error_set(err, -EINVAL,
				 "preallocation=metadata: a raw image has no metadata (off, falloc "
				 "and full are possible)");
	return 0;
}

static int check_numbers(const struct qcow2_create_options *o, struct qcow2_error *err)
{
	if (o->version != 2 && o->version != 3)
		return error_set(err, -EINVAL, "version %u: there are 2 and 3", o->version);
	if (!is_pow2(o->cluster_size) || o->cluster_size < CLUSTER_SIZE_MIN ||
	    o->cluster_size > CLUSTER_SIZE_MAX)
		return error_set(
			err, -EINVAL,
			"a cluster size of %llu bytes: it must be a power of two from %llu "
			"to %llu",
			(unsigned long long)o->cluster_size, CLUSTER_SIZE_MIN, CLUSTER_SIZE_MAX);
	if (o->extended_l2 && o->cluster_size < CLUSTER_SIZE_MIN_EXTENDED)
		return error_set(err, -EINVAL,
				 "a cluster size of %llu bytes: extended L2 entries need at least "
				 "%llu",
				 (unsigned long long)o->cluster_size, CLUSTER_SIZE_MIN_EXTENDED);
	if (!is_pow2(o->refcount_bits) || o->refcount_bits > REFCOUNT_BITS_MAX)
		return error_set(err, -EINVAL,
				 "refcounts of %u bits: the width must be a power of two from 1 to "
				 "%u",
				 o->refcount_bits, REFCOUNT_BITS_MAX);
	if (o->compression > QCOW2_COMPRESSION_ZSTD)
		return error_set(err, -EINVAL,
				 "compression type %u: there are 0 (zlib) and "
				 "1 (zstd)",
				 o->compression);
	return 0;
}

static int check_version2(const struct qcow2_create_options *o, struct qcow2_error *err)
{
	const char *what = NULL;

	if (o->version != 2)
		return 0;
	if (o->refcount_bits != REFCOUNT_BITS_V2)
		what = "refcounts of another width than 16 bits";
	else if (o->lazy_refcounts)
		what = "lazy refcounts";
	else if (o->extended_l2)
		what = "extended L2 entries";
	else if (o->compression != QCOW2_COMPRESSION_ZLIB)
		what = "another compression than zlib";
	else if (o->data_file)
		what = "an external data file";
	if (what)
		return error_set(err, -EINVAL, "%s: that needs version 3 (compat=1.1)", what);
	return 0;
}

static int check_data_file(const struct qcow2_create_options *o, struct qcow2_error *err)
{
	if (o->data_file && o->data_file[0] == '\0')
		return error_set(err, -EINVAL, "the name of the data file is empty");
	if (o->data_file_raw && !o->data_file)
		return error_set(err, -EINVAL, "data_file_raw: that needs a data file");
	if (o->data_file_raw && o->backing_file)
		return error_set(err, -EINVAL,
				 "data_file_raw: a data file that can be read on its own excludes "
				 "a backing file");
	return 0;
}

static int check_backing_format(const struct qcow2_create_options *o, struct qcow2_error *err)
{
	for (size_t i = 0; i < ARRAY_LEN(backing_formats); i++) {
		if (strcmp(o->backing_format, backing_formats[i]) == 0)
			return 0;
	}
	return error_set(err, -EINVAL, "\"%s\" is no format of a backing file", o->backing_format);
}

static int check_backing(const struct qcow2_create_options *o, struct qcow2_error *err)
{
	size_t len;

	if (!o->backing_file && o->backing_format)
		return error_set(err, -EINVAL, "a backing format without a backing file");
	if (!o->backing_file)
		return 0;
	len = strlen(o->backing_file);
	if (len == 0)
		return error_set(err, -EINVAL, "the name of the backing file is empty");
	if (len > LAYOUT_BACKING_NAME_MAX)
		return error_set(err, -EINVAL,
				 "the name of the backing file has %zu bytes: the limit is %u", len,
				 LAYOUT_BACKING_NAME_MAX);
	if (!o->backing_format || o->backing_format[0] == '\0')
		return error_set(
			err, -EINVAL,
			"the backing file \"%s\" needs a backing format: guessing one from "
			"its contents isn't safe",
			o->backing_file);
	if (o->prealloc != QCOW2_PREALLOC_OFF && !o->extended_l2)
		return error_set(err, -EINVAL,
				 "preallocation=%s would hide the backing file; only extended L2 "
				 "entries can have both",
				 prealloc_name(o->prealloc));
	return check_backing_format(o, err);
}

static void fill_in(struct qcow2_create_options *o)
{
	if (o->version == 0)
		o->version = 3;
	if (o->cluster_size == 0)
		o->cluster_size = 1ull << LAYOUT_CLUSTER_BITS_DEFAULT;
	if (o->refcount_bits == 0)
		o->refcount_bits = 1u << LAYOUT_REFCOUNT_ORDER_V2;
}

static int check_all(struct qcow2_create_options *o, struct qcow2_error *err)
{
	int rc;

	if (!o->format)
		o->format = "qcow2";
	if (o->prealloc > QCOW2_PREALLOC_FULL)
		return error_set(err, -EINVAL, "preallocation mode %u: the last is %u (full)",
				 o->prealloc, QCOW2_PREALLOC_FULL);
	if (is_raw(o)) {
		rc = check_raw(o, err);
	} else if (strcmp(o->format, "qcow2") == 0) {
		fill_in(o);
		rc = check_numbers(o, err);
		if (rc == 0)
			rc = check_version2(o, err);
		if (rc == 0)
			rc = check_data_file(o, err);
		if (rc == 0)
			rc = check_backing(o, err);
	} else {
		rc = error_set(err, -EINVAL, "format \"%s\": there are qcow2 and raw", o->format);
	}
	if (rc < 0)
		return rc;
	if (o->size != QCOW2_SIZE_FROM_BACKING)
		return image_create_set_size(o, o->size, err);
	if (!o->backing_file || (o->flags & QCOW2_CREATE_UNSAFE_BACKING))
		return error_set(err, -EINVAL, "a size is needed%s",
				 o->backing_file ? ": the backing file isn't looked at" : "");
	return 0;
}

int image_create_check(struct qcow2_create_options *o, struct qcow2_error *err)
{
	return check_all(o, err);
}

/* ---- the backing file ---- */

static int open_backing(const char *path, const struct qcow2_create_options *o,
			struct qcow2_image **backing, struct qcow2_error *err)
{
	struct qcow2_policy policy = {.struct_size = sizeof(policy)};
	struct qcow2_open_options open = QCOW2_OPEN_OPTIONS_INIT;
	cleanup_free char *backing_path = NULL;
	int rc;

	if (!o->policy)
		policy = image_policy_local;
	rc = OPTIONS_TAKE(&policy, o->policy, "policy", err);
	if (rc < 0)
		return rc;
	policy.struct_size = sizeof(policy);
	if (!(policy.follow & QCOW2_FOLLOW_BACKING))
		return error_set(err, -EPERM, "the policy doesn't allow a backing file");
	rc = image_resolve_name(path, o->backing_file, &backing_path, err);
	if (rc < 0)
		return rc;
	rc = image_check_dirs(&policy, backing_path, err);
	if (rc < 0)
		return rc;
	open.format = o->backing_format;
	open.policy = &policy;
	return qcow2_open(backing, backing_path, &open, err);
}

int image_create_resolve(const char *path, struct qcow2_create_options *o, bool always,
			 struct qcow2_error *err)
{
	struct qcow2_image *backing = NULL;
	int rc;

	if (!path || path[0] == '\0')
		return error_set(err, -EINVAL, "can't create an image without a name");
	rc = image_create_check(o, err);
	if (rc < 0)
		goto out;
	if (o->backing_file && strcmp(o->backing_file, path) == 0) {
		rc = error_set(err, -EINVAL, "it can't be its own backing file");
		goto out;
	}
	if (o->data_file && strcmp(o->data_file, path) == 0) {
		rc = error_set(err, -EINVAL, "it can't be its own data file");
		goto out;
	}
	if (!o->backing_file || (o->flags & QCOW2_CREATE_UNSAFE_BACKING) ||
	    (!always && o->size != QCOW2_SIZE_FROM_BACKING))
		return 0;
	rc = open_backing(path, o, &backing, err);
	if (rc == 0 && o->size == QCOW2_SIZE_FROM_BACKING)
		rc = image_create_set_size(o, qcow2_size(backing), err);
	qcow2_close(backing);
out:
	if (rc < 0)
		error_prefix(err, "can't create \"%s\"", path);
	return rc;
}

int qcow2_create_resolve(const char *path, struct qcow2_create_options *options,
			 struct qcow2_error *err)
{
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;
	size_t size = options->struct_size;
	int rc;

	rc = OPTIONS_TAKE(&o, options, "qcow2_create_resolve", err);
	if (rc < 0)
		return rc;
	rc = image_create_resolve(path, &o, false, err);
	if (rc < 0)
		return rc;
	o.struct_size = size;
	memcpy(options, &o, min_u64(size, sizeof(o)));
	return 0;
}
