/* SPDX-License-Identifier: MIT */
/*
 * The image header. Decoding checks each field before anything is derived from it, in QEMU's
 * order, and hands out either a header that holds or nothing. It doesn't look beyond the first
 * cluster: whether the tables that it points to make sense is for those who read them.
 */
#include "format/header.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"

#define SNAPSHOT_TABLE_ENTRY_MIN LAYOUT_SNAP_FIXED_LEN

/* A table that the header points to, with what is needed to say what is wrong with it. */
struct table {
	const char *name;
	uint64_t off, entries, entry_len;
	uint32_t off_at; /* position of the offset field */
};

static int bad_number(struct qcow2_error *err, int code, uint32_t at, const char *name,
		      uint64_t found, const char *expected)
{
	return error_set_at(err, code, QCOW2_NO_OFFSET, at,
			    "header field %s (at 0x%" PRIx32 ") is %" PRIu64 ", expected %s", name,
			    at, found, expected);
}

/* Alignment, and the end within INT64_MAX: section 2.5. */
static int check_table(const struct table *t, uint64_t cluster_size, struct qcow2_error *err)
{
	uint64_t bytes = t->entries * t->entry_len; /* the number of entries has been checked */

	if (!is_aligned(t->off, cluster_size))
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, t->off_at,
				    "header field %s (at 0x%" PRIx32 ") is 0x%" PRIx64
				    ", expected a multiple of the cluster size 0x%" PRIx64,
				    t->name, t->off_at, t->off, cluster_size);
	if (t->off > INT64_MAX - bytes)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, t->off_at,
				    "header field %s (at 0x%" PRIx32 ") is 0x%" PRIx64
				    ", a table of %" PRIu64 " bytes there would pass 2^63",
				    t->name, t->off_at, t->off, bytes);
	return 0;
}

int format_header_peek(const uint8_t *buf, uint32_t *cluster_bits, struct qcow2_error *err)
{
	uint32_t magic = load_be32(buf + LAYOUT_OFF_MAGIC);
	uint32_t version = load_be32(buf + LAYOUT_OFF_VERSION);
	uint32_t bits = load_be32(buf + LAYOUT_OFF_CLUSTER_BITS);

	if (magic != LAYOUT_MAGIC)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, LAYOUT_OFF_MAGIC,
				    "not a qcow2 image: the magic number is 0x%08" PRIx32
				    ", expected 0x%08x",
				    magic, LAYOUT_MAGIC);
	if (version != 2 && version != 3)
		return bad_number(err, -ENOTSUP, LAYOUT_OFF_VERSION, "version", version, "2 or 3");
	if (bits < LAYOUT_CLUSTER_BITS_MIN || bits > LAYOUT_CLUSTER_BITS_MAX)
		return bad_number(err, -EINVAL, LAYOUT_OFF_CLUSTER_BITS, "cluster_bits", bits,
				  "9 to 21");
	*cluster_bits = bits;
	return 0;
}

static void load_fields(struct format_header *h, const uint8_t *p)
{
	*h = (struct format_header){
		.version = load_be32(p + LAYOUT_OFF_VERSION),
		.backing_off = load_be64(p + LAYOUT_OFF_BACKING_OFFSET),
		.backing_len = load_be32(p + LAYOUT_OFF_BACKING_SIZE),
		.cluster_bits = load_be32(p + LAYOUT_OFF_CLUSTER_BITS),
		.size_bytes = load_be64(p + LAYOUT_OFF_SIZE),
		.crypt_method = load_be32(p + LAYOUT_OFF_CRYPT_METHOD),
		.l1_entries = load_be32(p + LAYOUT_OFF_L1_SIZE),
		.l1_off = load_be64(p + LAYOUT_OFF_L1_OFFSET),
		.reftable_off = load_be64(p + LAYOUT_OFF_REFTABLE_OFFSET),
		.reftable_clusters = load_be32(p + LAYOUT_OFF_REFTABLE_CLUSTERS),
		.nb_snapshots = load_be32(p + LAYOUT_OFF_NB_SNAPSHOTS),
		.snapshots_off = load_be64(p + LAYOUT_OFF_SNAPSHOTS_OFFSET),
		.refcount_order = LAYOUT_REFCOUNT_ORDER_V2,
		.header_length = LAYOUT_HEADER_LEN_V2,
	};
	if (h->version < 3)
		return;
	h->incompatible = load_be64(p + LAYOUT_OFF_INCOMPATIBLE);
	h->compatible = load_be64(p + LAYOUT_OFF_COMPATIBLE);
	h->autoclear = load_be64(p + LAYOUT_OFF_AUTOCLEAR);
	h->refcount_order = load_be32(p + LAYOUT_OFF_REFCOUNT_ORDER);
	h->header_length = load_be32(p + LAYOUT_OFF_HEADER_LENGTH);
	if (h->header_length > LAYOUT_OFF_COMPRESSION_TYPE)
		h->compression_type = p[LAYOUT_OFF_COMPRESSION_TYPE];
}

/* header_length, and what lies before it that this program has no name for. */
static int load_unknown_fields(struct format_header *h, const uint8_t *cluster,
			       uint64_t cluster_size, struct qcow2_error *err)
{
	uint32_t len;

	if (h->version < 3)
		return 0;
	if (h->header_length < LAYOUT_HEADER_LEN_V3_MIN)
		return bad_number(err, -EINVAL, LAYOUT_OFF_HEADER_LENGTH, "header_length",
				  h->header_length, "at least 104");
	if (h->header_length > cluster_size)
		return bad_number(err, -EINVAL, LAYOUT_OFF_HEADER_LENGTH, "header_length",
				  h->header_length, "at most the cluster size");
	if (h->header_length <= LAYOUT_OFF_UNKNOWN_FIELDS)
		return 0;
	len = h->header_length - LAYOUT_OFF_UNKNOWN_FIELDS;
	h->unknown_fields = mem_alloc(len, 1);
	if (!h->unknown_fields)
		return error_set(err, -ENOMEM, "no memory for a header of %" PRIu32 " bytes",
				 h->header_length);
	memcpy(h->unknown_fields, cluster + LAYOUT_OFF_UNKNOWN_FIELDS, len);
	h->unknown_fields_len = len;
	return 0;
}

static int check_compression(const struct format_header *h, struct qcow2_error *err)
{
	bool bit = h->incompatible & LAYOUT_INCOMPAT_COMPRESSION;

	if (h->compression_type > LAYOUT_COMPRESSION_ZSTD)
		return bad_number(err, -ENOTSUP, LAYOUT_OFF_COMPRESSION_TYPE, "compression_type",
				  h->compression_type, "0 (zlib) or 1 (zstd)");
	if (bit != (h->compression_type != LAYOUT_COMPRESSION_ZLIB))
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, LAYOUT_OFF_COMPRESSION_TYPE,
				    "header field compression_type (at 0x%x) is %" PRIu32
				    ", then the compression type incompatible feature bit must %sbe"
				    " set",
				    LAYOUT_OFF_COMPRESSION_TYPE, h->compression_type,
				    bit ? "not " : "");
	return 0;
}

/* Where extensions end: section 4.1. May lie before where they begin: then there are none. */
static uint64_t extensions_end(const struct format_header *h, uint64_t cluster_size)
{
	return h->backing_off ? h->backing_off : cluster_size;
}

/* Looks for the image's own feature name table, past whatever else is wrong with extensions. */
static void find_feature_names(const struct format_header *h, const uint8_t *cluster,
			       uint64_t cluster_size, struct format_ext_raw *table)
{
	uint64_t pos = h->header_length;
	struct format_ext_raw raw;
	bool done;

	*table = (struct format_ext_raw){0};
	while (format_extension_next(cluster, extensions_end(h, cluster_size), &pos, &raw, &done,
				     NULL) == 0 &&
	       !done)
		if (raw.type == LAYOUT_EXT_FEATURE_NAMES)
			*table = raw;
}

static int check_features(const struct format_header *h, const uint8_t *cluster,
			  uint64_t cluster_size, struct qcow2_error *err)
{
	uint64_t unknown = h->incompatible & ~LAYOUT_INCOMPAT_KNOWN, nameless;
	char names[QCOW2_ERROR_MESSAGE_SIZE];
	struct format_ext_raw table;

	if (!unknown)
		return 0;
	find_feature_names(h, cluster, cluster_size, &table);
	nameless =
		format_feature_names(table.data, table.len_bytes, LAYOUT_FEATURE_SET_INCOMPATIBLE,
				     unknown, names, sizeof(names));
	if (!nameless)
		return error_set_at(err, -ENOTSUP, QCOW2_NO_OFFSET, LAYOUT_OFF_INCOMPATIBLE,
				    "unsupported incompatible features: %s", names);
	return error_set_at(err, -ENOTSUP, QCOW2_NO_OFFSET, LAYOUT_OFF_INCOMPATIBLE,
			    "unsupported incompatible features: %s%sunknown bits 0x%" PRIx64, names,
			    names[0] ? ", " : "", nameless);
}

static int check_geometry(const struct format_header *h, struct qcow2_error *err)
{
	if ((h->incompatible & LAYOUT_INCOMPAT_EXTENDED_L2) &&
	    h->cluster_bits < LAYOUT_CLUSTER_BITS_MIN_EXTENDED)
		return bad_number(err, -EINVAL, LAYOUT_OFF_CLUSTER_BITS, "cluster_bits",
				  h->cluster_bits, "at least 14 with extended L2 entries");
	if (h->refcount_order > LAYOUT_REFCOUNT_ORDER_MAX)
		return bad_number(err, -EINVAL, LAYOUT_OFF_REFCOUNT_ORDER, "refcount_order",
				  h->refcount_order, "at most 6");
	return 0;
}

static int check_reftable(const struct format_header *h, uint64_t cluster_size,
			  struct qcow2_error *err)
{
	struct table t = {
		.name = "refcount_table_offset",
		.off_at = LAYOUT_OFF_REFTABLE_OFFSET,
		.off = h->reftable_off,
		.entries = h->reftable_clusters,
		.entry_len = cluster_size,
	};

	if (h->reftable_clusters == 0)
		return bad_number(err, -EINVAL, LAYOUT_OFF_REFTABLE_CLUSTERS,
				  "refcount_table_clusters", 0, "at least 1");
	if (h->reftable_clusters > LAYOUT_REFTABLE_BYTES_MAX / cluster_size)
		return bad_number(err, -EFBIG, LAYOUT_OFF_REFTABLE_CLUSTERS,
				  "refcount_table_clusters", h->reftable_clusters,
				  "a table of at most 8 MiB");
	return check_table(&t, cluster_size, err);
}

static int check_snapshots(const struct format_header *h, uint64_t cluster_size,
			   struct qcow2_error *err)
{
	struct table t = {
		.name = "snapshots_offset",
		.off_at = LAYOUT_OFF_SNAPSHOTS_OFFSET,
		.off = h->snapshots_off,
		.entries = h->nb_snapshots,
		.entry_len = SNAPSHOT_TABLE_ENTRY_MIN,
	};

	if (h->nb_snapshots > LAYOUT_SNAPSHOTS_MAX)
		return bad_number(err, -EFBIG, LAYOUT_OFF_NB_SNAPSHOTS, "nb_snapshots",
				  h->nb_snapshots, "at most 65536");
	return check_table(&t, cluster_size, err);
}

static int check_l1(const struct format_header *h, uint64_t cluster_size, struct qcow2_error *err)
{
	struct table t = {
		.name = "l1_table_offset",
		.off_at = LAYOUT_OFF_L1_OFFSET,
		.off = h->l1_off,
		.entries = h->l1_entries,
		.entry_len = LAYOUT_L1_ENTRY_LEN,
	};
	struct format_geometry g;
	uint64_t needed;
	int ret;

	if (h->l1_entries > LAYOUT_L1_ENTRIES_MAX)
		return bad_number(err, -EFBIG, LAYOUT_OFF_L1_SIZE, "l1_size", h->l1_entries,
				  "at most 4194304 entries");
	ret = check_table(&t, cluster_size, err);
	if (ret < 0)
		return ret;
	format_header_geometry(h, &g);
	needed = format_size_to_l1(&g, h->size_bytes);
	if (needed > INT_MAX)
		return bad_number(err, -EFBIG, LAYOUT_OFF_SIZE, "size", h->size_bytes,
				  "less for this cluster size: the image is too big");
	if (h->l1_entries < needed)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, LAYOUT_OFF_L1_SIZE,
				    "L1 table is too small: header field l1_size (at 0x%x) is"
				    " %" PRIu32 ", a disk of %" PRIu64 " bytes needs %" PRIu64,
				    LAYOUT_OFF_L1_SIZE, h->l1_entries, h->size_bytes, needed);
	return 0;
}

/* Passes a failed check on, unless the caller lets this kind pass. */
static int judge(int ret, unsigned kind, unsigned allow, unsigned *tolerated)
{
	if (ret < 0 && (allow & kind)) {
		*tolerated |= kind;
		return 0;
	}
	return ret;
}

/* A record for a check whose failure is let pass stays as it was. */
static struct qcow2_error *unless(unsigned kind, unsigned allow, struct qcow2_error *err)
{
	return allow & kind ? NULL : err;
}

static int check_tables(const struct format_header *h, uint64_t cluster_size, unsigned allow,
			unsigned *tolerated, struct qcow2_error *err)
{
	const unsigned reftable = FORMAT_HEADER_ALLOW_REFTABLE;
	const unsigned snapshots = FORMAT_HEADER_ALLOW_SNAPSHOTS;
	int ret;

	ret = judge(check_reftable(h, cluster_size, unless(reftable, allow, err)), reftable, allow,
		    tolerated);
	if (ret < 0)
		return ret;
	ret = judge(check_snapshots(h, cluster_size, unless(snapshots, allow, err)), snapshots,
		    allow, tolerated);
	if (ret < 0)
		return ret;
	ret = check_l1(h, cluster_size, err);
	if (ret < 0)
		return ret;
	if (h->crypt_method > LAYOUT_CRYPT_LUKS)
		return bad_number(err, -EINVAL, LAYOUT_OFF_CRYPT_METHOD, "crypt_method",
				  h->crypt_method, "0 (none), 1 (AES) or 2 (LUKS)");
	return 0;
}

static struct format_ext_rules rules_of(const struct format_header *h, uint64_t cluster_size)
{
	bool v3 = h->version >= 3;

	return (struct format_ext_rules){
		.version = h->version,
		.cluster_size = cluster_size,
		.crypt_method = h->crypt_method,
		.data_file = v3 && (h->incompatible & LAYOUT_INCOMPAT_DATA_FILE),
		.bitmaps_valid = v3 && (h->autoclear & LAYOUT_AUTOCLEAR_BITMAPS),
	};
}

static int load_extensions(struct format_header *h, const uint8_t *cluster, uint64_t cluster_size,
			   unsigned allow, unsigned *tolerated, struct qcow2_error *err)
{
	struct format_ext_rules rules = rules_of(h, cluster_size);
	bool bad_bitmaps;
	int ret;

	rules.allow_bad_bitmaps = allow & FORMAT_HEADER_ALLOW_BITMAPS;
	ret = format_extensions_decode(&h->ext, &rules, cluster, h->header_length,
				       extensions_end(h, cluster_size), &bad_bitmaps, err);
	if (ret == 0 && bad_bitmaps)
		*tolerated |= FORMAT_HEADER_ALLOW_BITMAPS;
	return ret;
}

static int load_backing_name(struct format_header *h, const uint8_t *cluster, uint64_t cluster_size,
			     struct qcow2_error *err)
{
	uint64_t room;

	if (h->backing_off == 0)
		return 0;
	room = min_u64(LAYOUT_BACKING_NAME_MAX, cluster_size - h->backing_off);
	if (h->backing_len > room)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, LAYOUT_OFF_BACKING_SIZE,
				    "backing file name too long: %" PRIu32 " bytes at 0x%" PRIx64
				    ", expected at most %" PRIu64,
				    h->backing_len, h->backing_off, room);
	if (h->backing_len == 0 || cluster[h->backing_off] == '\0')
		return 0;
	h->backing_name = mem_strndup(cluster + h->backing_off, h->backing_len);
	if (!h->backing_name)
		return error_set(err, -ENOMEM, "no memory for a backing file name");
	return 0;
}

/* Steps 4 to 26, on what peek has let through. On failure *h may hold memory. */
static int decode(struct format_header *h, const uint8_t *cluster, uint64_t cluster_size,
		  unsigned allow, unsigned *tolerated, struct qcow2_error *err)
{
	int ret;

	load_fields(h, cluster);
	ret = load_unknown_fields(h, cluster, cluster_size, err);
	if (ret < 0)
		return ret;
	if (h->backing_off > cluster_size)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, LAYOUT_OFF_BACKING_OFFSET,
				    "header field backing_file_offset (at 0x%x) is 0x%" PRIx64
				    ", expected at most the cluster size 0x%" PRIx64,
				    LAYOUT_OFF_BACKING_OFFSET, h->backing_off, cluster_size);
	ret = check_compression(h, err);
	if (ret < 0)
		return ret;
	ret = check_features(h, cluster, cluster_size, err);
	if (ret < 0)
		return ret;
	ret = check_geometry(h, err);
	if (ret < 0)
		return ret;
	ret = check_tables(h, cluster_size, allow, tolerated, err);
	if (ret < 0)
		return ret;
	ret = load_extensions(h, cluster, cluster_size, allow, tolerated, err);
	if (ret < 0)
		return ret;
	return load_backing_name(h, cluster, cluster_size, err);
}

int format_header_decode(struct format_header *h, const uint8_t *cluster, uint64_t cluster_size,
			 unsigned allow, unsigned *tolerated, struct qcow2_error *err)
{
	unsigned passed = 0;
	uint32_t cluster_bits = 0;
	int ret;

	*h = (struct format_header){0};
	ret = format_header_peek(cluster, &cluster_bits, err);
	if (ret == 0 && cluster_size != 1ull << cluster_bits)
		/* The file can have changed since the caller looked at its cluster size. */
		ret = error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, LAYOUT_OFF_CLUSTER_BITS,
				   "header field cluster_bits (at 0x%x) is %" PRIu32
				   ", expected that of clusters of 0x%" PRIx64 " bytes",
				   LAYOUT_OFF_CLUSTER_BITS, cluster_bits, cluster_size);
	if (ret == 0)
		ret = decode(h, cluster, cluster_size, allow, &passed, err);
	if (ret < 0)
		format_header_release(h);
	if (tolerated)
		*tolerated = ret < 0 ? 0 : passed;
	return ret;
}

void format_header_release(struct format_header *h)
{
	mem_free(h->unknown_fields);
	mem_free(h->backing_name);
	format_extensions_release(&h->ext);
	*h = (struct format_header){0};
}

void format_header_geometry(const struct format_header *h, struct format_geometry *g)
{
	format_geometry_init(g, h->version, h->cluster_bits, h->refcount_order,
			     h->incompatible & LAYOUT_INCOMPAT_EXTENDED_L2,
			     h->incompatible & LAYOUT_INCOMPAT_DATA_FILE);
}

/* ---- encoding ------------------------------------------------------------------------------ */

static void store_fields(const struct format_header *h, uint8_t *p)
{
	store_be32(p + LAYOUT_OFF_MAGIC, LAYOUT_MAGIC);
	store_be32(p + LAYOUT_OFF_VERSION, h->version);
	store_be64(p + LAYOUT_OFF_BACKING_OFFSET, h->backing_off);
	store_be32(p + LAYOUT_OFF_BACKING_SIZE, h->backing_len);
	store_be32(p + LAYOUT_OFF_CLUSTER_BITS, h->cluster_bits);
	store_be64(p + LAYOUT_OFF_SIZE, h->size_bytes);
	store_be32(p + LAYOUT_OFF_CRYPT_METHOD, h->crypt_method);
	store_be32(p + LAYOUT_OFF_L1_SIZE, h->l1_entries);
	store_be64(p + LAYOUT_OFF_L1_OFFSET, h->l1_off);
	store_be64(p + LAYOUT_OFF_REFTABLE_OFFSET, h->reftable_off);
	store_be32(p + LAYOUT_OFF_REFTABLE_CLUSTERS, h->reftable_clusters);
	store_be32(p + LAYOUT_OFF_NB_SNAPSHOTS, h->nb_snapshots);
	store_be64(p + LAYOUT_OFF_SNAPSHOTS_OFFSET, h->snapshots_off);
	if (h->version < 3)
		return;
	store_be64(p + LAYOUT_OFF_INCOMPATIBLE, h->incompatible);
	store_be64(p + LAYOUT_OFF_COMPATIBLE, h->compatible);
	store_be64(p + LAYOUT_OFF_AUTOCLEAR, h->autoclear);
	store_be32(p + LAYOUT_OFF_REFCOUNT_ORDER, h->refcount_order);
	store_be32(p + LAYOUT_OFF_HEADER_LENGTH, h->header_length);
	p[LAYOUT_OFF_COMPRESSION_TYPE] = (uint8_t)h->compression_type;
	if (h->unknown_fields_len > 0)
		memcpy(p + LAYOUT_OFF_UNKNOWN_FIELDS, h->unknown_fields, h->unknown_fields_len);
}

/* Unknown fields keep their length, rounded up: writers give header_length as a multiple of 8. */
static uint64_t encoded_header_length(const struct format_header *h)
{
	if (h->version < 3)
		return LAYOUT_HEADER_LEN_V2;
	return max_u64(LAYOUT_HEADER_LEN_V3,
		       align_up(LAYOUT_OFF_UNKNOWN_FIELDS + (uint64_t)h->unknown_fields_len, 8));
}

static int no_space(struct qcow2_error *err, const char *what, uint64_t end, uint64_t cluster_size)
{
	return error_set(err, -ENOSPC,
			 "%s ends at 0x%" PRIx64 ", past the first cluster of 0x%" PRIx64 " bytes",
			 what, end, cluster_size);
}

int format_header_encode(struct format_header *h, uint8_t *cluster, uint64_t cluster_size,
			 struct qcow2_error *err)
{
	struct format_ext_rules rules = rules_of(h, cluster_size);
	size_t name_len = h->backing_name ? strlen(h->backing_name) : 0;
	uint64_t header_length = encoded_header_length(h), pos = header_length;
	int ret;

	assert(cluster_size == 1ull << h->cluster_bits);
	if (name_len > LAYOUT_BACKING_NAME_MAX)
		return error_set(err, -EINVAL,
				 "backing file name of %zu bytes, expected at most %u", name_len,
				 LAYOUT_BACKING_NAME_MAX);
	if (header_length > cluster_size)
		return no_space(err, "header", header_length, cluster_size);
	memset(cluster, 0, (size_t)cluster_size);
	ret = format_extensions_encode(&h->ext, &rules, cluster, &pos, cluster_size, err);
	if (ret < 0)
		return ret;
	if (name_len > cluster_size - pos)
		return no_space(err, "backing file name", pos + name_len, cluster_size);
	if (name_len > 0)
		memcpy(cluster + pos, h->backing_name, name_len);
	h->header_length = (uint32_t)header_length;
	h->backing_off = name_len > 0 ? pos : 0;
	h->backing_len = (uint32_t)name_len;
	store_fields(h, cluster);
	return 0;
}
