/* SPDX-License-Identifier: MIT */
/*
 * The developer's microscope: every field of the on-disk structures with its place, as it is
 * stored. Nothing is followed but what was asked for, and a damaged table is shown, not refused.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"
#include "format/refbits.h"
#include "image/image.h"

typedef int (*emit_fn)(void *opaque, const struct qcow2_field *field);

struct dump {
	struct qcow2_image *image;
	const struct meta *m;
	const struct format_header *h;
	uint64_t index; /* of the table that was asked for */
	emit_fn emit;
	void *opaque;
	const char *table;
};

static int field(const struct dump *d, uint64_t index, uint64_t host_off, uint32_t len_bytes,
		 const char *name, uint64_t value, const char *text)
{
	struct qcow2_field f = {
		.table = d->table,
		.index = index,
		.host_off = host_off,
		.len_bytes = len_bytes,
		.name = name,
		.value = value,
		.text = text,
	};

	return d->emit(d->opaque, &f);
}

/* A field of a record, by its place in it. */
struct row {
	uint32_t off, len;
	const char *name;
	uint64_t value;
	const char *text;
};

/* The fields of record number index, which begins at host_off. */
static int record(const struct dump *d, uint64_t index, uint64_t host_off, const struct row *rows,
		  size_t nrows)
{
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < nrows; i++)
		ret = field(d, index, host_off + rows[i].off, rows[i].len, rows[i].name,
			    rows[i].value, rows[i].text);
	return ret;
}

/* ---- header ---- */

/* "dirty, extended L2" for the bits of a mask that have a name. */
static const char *bit_names(uint64_t mask, const char *const *names, size_t nnames, char *buf,
			     size_t cap)
{
	size_t used = 0;

	buf[0] = '\0';
	for (unsigned bit = 0; bit < 64; bit++) {
		const char *comma = used ? ", " : "";

		if (!(mask >> bit & 1) || used >= cap)
			continue;
		if (bit < nnames)
			used += (size_t)snprintf(buf + used, cap - used, "%s%s", comma, names[bit]);
		else
			used += (size_t)snprintf(buf + used, cap - used, "%sbit %u", comma, bit);
	}
	return used ? buf : NULL;
}

static int dump_features(const struct dump *d)
{
	static const char *const incompatible[] = {"dirty", "corrupt", "external data file",
						   "compression type", "extended L2 entries"};
	static const char *const compatible[] = {"lazy refcounts"};
	static const char *const autoclear[] = {"bitmaps", "raw external data"};
	char text[1024];
	int ret;

	ret = field(d, 0, LAYOUT_OFF_INCOMPATIBLE, 8, "incompatible_features", d->h->incompatible,
		    bit_names(d->h->incompatible, incompatible, ARRAY_LEN(incompatible), text,
			      sizeof(text)));
	if (ret == 0)
		ret = field(d, 0, LAYOUT_OFF_COMPATIBLE, 8, "compatible_features", d->h->compatible,
			    bit_names(d->h->compatible, compatible, ARRAY_LEN(compatible), text,
				      sizeof(text)));
	if (ret == 0)
		ret = field(d, 0, LAYOUT_OFF_AUTOCLEAR, 8, "autoclear_features", d->h->autoclear,
			    bit_names(d->h->autoclear, autoclear, ARRAY_LEN(autoclear), text,
				      sizeof(text)));
	return ret;
}

static int dump_header_v3(const struct dump *d)
{
	char width[32];
	int ret;

	snprintf(width, sizeof(width), "%u bits", 1u << d->h->refcount_order);
	ret = dump_features(d);
	if (ret == 0)
		ret = field(d, 0, LAYOUT_OFF_REFCOUNT_ORDER, 4, "refcount_order",
			    d->h->refcount_order, width);
	if (ret == 0)
		ret = field(d, 0, LAYOUT_OFF_HEADER_LENGTH, 4, "header_length", d->h->header_length,
			    NULL);
	if (ret == 0 && d->h->header_length > LAYOUT_OFF_COMPRESSION_TYPE)
		ret = field(d, 0, LAYOUT_OFF_COMPRESSION_TYPE, 1, "compression_type",
			    d->h->compression_type,
			    d->h->compression_type == LAYOUT_COMPRESSION_ZSTD ? "zstd" : "deflate");
	for (uint32_t i = 0; ret == 0 && i < d->h->unknown_fields_len; i++) {
		if (d->h->unknown_fields[i])
			ret = field(d, i, LAYOUT_OFF_UNKNOWN_FIELDS + i, 1, "unknown byte",
				    d->h->unknown_fields[i], NULL);
	}
	return ret;
}

static int dump_header(struct dump *d, struct qcow2_error *err)
{
	static const char *const crypt[] = {"none", "AES", "LUKS"};
	const struct format_header *h = d->h;
	const struct row rows[] = {
		{LAYOUT_OFF_MAGIC, 4, "magic", LAYOUT_MAGIC, "QFI\\xfb"},
		{LAYOUT_OFF_VERSION, 4, "version", h->version, NULL},
		{LAYOUT_OFF_BACKING_OFFSET, 8, "backing_file_offset", h->backing_off,
		 h->backing_name},
		{LAYOUT_OFF_BACKING_SIZE, 4, "backing_file_size", h->backing_len, NULL},
		{LAYOUT_OFF_CLUSTER_BITS, 4, "cluster_bits", h->cluster_bits, NULL},
		{LAYOUT_OFF_SIZE, 8, "size", h->size_bytes, NULL},
		{LAYOUT_OFF_CRYPT_METHOD, 4, "crypt_method", h->crypt_method,
		 crypt[h->crypt_method]},
		{LAYOUT_OFF_L1_SIZE, 4, "l1_size", h->l1_entries, NULL},
		{LAYOUT_OFF_L1_OFFSET, 8, "l1_table_offset", h->l1_off, NULL},
		{LAYOUT_OFF_REFTABLE_OFFSET, 8, "refcount_table_offset", h->reftable_off, NULL},
		{LAYOUT_OFF_REFTABLE_CLUSTERS, 4, "refcount_table_clusters", h->reftable_clusters,
		 NULL},
		{LAYOUT_OFF_NB_SNAPSHOTS, 4, "nb_snapshots", h->nb_snapshots, NULL},
		{LAYOUT_OFF_SNAPSHOTS_OFFSET, 8, "snapshots_offset", h->snapshots_off, NULL},
	};
	int ret;

	(void)err;
	ret = record(d, 0, 0, rows, ARRAY_LEN(rows));
	return ret != 0 || h->version < 3 ? ret : dump_header_v3(d);
}

/* ---- header extensions ---- */

static const char *extension_name(uint32_t type)
{
	switch (type) {
	case LAYOUT_EXT_BACKING_FORMAT:
		return "backing file format";
	case LAYOUT_EXT_FEATURE_NAMES:
		return "feature name table";
	case LAYOUT_EXT_BITMAPS:
		return "bitmaps";
	case LAYOUT_EXT_CRYPTO:
		return "full disk encryption header";
	case LAYOUT_EXT_DATA_FILE:
		return "external data file name";
	default:
		return "unknown extension";
	}
}

static int dump_extension(const struct dump *d, uint64_t index, const struct format_ext_raw *x,
			  struct qcow2_error *err)
{
	cleanup_free char *text = NULL;

	if (x->type == LAYOUT_EXT_BACKING_FORMAT || x->type == LAYOUT_EXT_DATA_FILE) {
		text = mem_strndup(x->data, x->len_bytes);
		if (!text)
			return error_errno(err, -ENOMEM, "can't show an extension");
	}
	return field(d, index, x->host_off, LAYOUT_EXT_FRAME_LEN + x->len_bytes,
		     extension_name(x->type), x->type, text);
}

static int dump_extensions(struct dump *d, struct qcow2_error *err)
{
	uint64_t cs = d->m->geometry.cluster_size;
	uint64_t pos = d->h->header_length;
	uint64_t end = d->h->backing_off ? min_u64(d->h->backing_off, cs) : cs;
	cleanup_free uint8_t *cluster = mem_alloc(cs, 1);
	struct format_ext_raw x;
	bool done = false;
	int ret;

	if (!cluster)
		return error_errno(err, -ENOMEM, "can't read the header");
	ret = storage_read(d->m->file, cluster, (size_t)cs, 0, err);
	for (uint64_t i = 0; ret == 0 && pos < end; i++) {
		ret = format_extension_next(cluster, end, &pos, &x, &done, err);
		if (ret == 0 && done)
			break;
		if (ret == 0)
			ret = dump_extension(d, i, &x, err);
	}
	return ret;
}

/* ---- tables ---- */

/* Calls show for each entry of a table of 8-byte words that isn't zero. */
static int each_word(struct dump *d, uint64_t host_off, uint64_t nentries, uint32_t entry_len,
		     int (*show)(struct dump *d, uint64_t idx, uint64_t host_off, uint64_t raw,
				 uint64_t second),
		     struct qcow2_error *err)
{
	cleanup_free uint8_t *bytes = NULL;
	size_t got;
	int ret;

	ret = meta_read_table(d->m, host_off, nentries * entry_len, &bytes, &got, err);
	for (uint64_t i = 0; ret == 0 && (i + 1) * entry_len <= got; i++) {
		const uint8_t *p = bytes + i * entry_len;
		uint64_t raw = load_be64(p);
		uint64_t second = entry_len > 8 ? load_be64(p + 8) : 0;

		if (raw || second)
			ret = show(d, i, host_off + i * entry_len, raw, second);
	}
	return ret;
}

static int show_l1(struct dump *d, uint64_t idx, uint64_t host_off, uint64_t raw, uint64_t second)
{
	struct format_l1_entry e = format_l1_decode(&d->m->geometry, raw);
	char text[160];

	(void)second;
	snprintf(text, sizeof(text), "L2 table at 0x%" PRIx64 "%s%s%s", e.l2_off,
		 e.copied ? ", copied" : "", e.faults ? "; has " : "",
		 e.faults ? format_fault_text(e.faults) : "");
	return field(d, idx, host_off, LAYOUT_L1_ENTRY_LEN, "l1 entry", raw, text);
}

static int dump_l1(struct dump *d, struct qcow2_error *err)
{
	return each_word(d, d->h->l1_off, d->h->l1_entries, LAYOUT_L1_ENTRY_LEN, show_l1, err);
}

static void describe_l2(const struct format_l2_entry *e, char *text, size_t cap)
{
	static const char *const kinds[] = {"unallocated", "zero", "zero, preallocated", "data",
					    "compressed"};
	size_t used = (size_t)snprintf(text, cap, "%s", kinds[e->kind]);

	if (e->has_host_off)
		used += (size_t)snprintf(text + used, cap - used, " at 0x%" PRIx64, e->host_off);
	if (e->kind == FORMAT_CLUSTER_COMPRESSED)
		used += (size_t)snprintf(text + used, cap - used, ", up to %" PRIu64 " bytes",
					 e->compressed_len);
	if (e->copied)
		used += (size_t)snprintf(text + used, cap - used, ", copied");
	if (e->faults)
		snprintf(text + used, cap - used, "; has %s", format_fault_text(e->faults));
}

static int show_l2(struct dump *d, uint64_t idx, uint64_t host_off, uint64_t raw, uint64_t second)
{
	struct format_l2_entry e = format_l2_decode(&d->m->geometry, raw, second);
	char text[256];
	int ret;

	describe_l2(&e, text, sizeof(text));
	ret = field(d, idx, host_off, 8, "l2 entry", raw, text);
	if (ret == 0 && d->m->geometry.extended_l2) {
		snprintf(text, sizeof(text), "allocated 0x%08" PRIx32 ", zero 0x%08" PRIx32,
			 (uint32_t)second, (uint32_t)(second >> 32));
		ret = field(d, idx, host_off + 8, 8, "subclusters", second, text);
	}
	return ret;
}

/* The host offset in entry index of a table of 8-byte words; an error if there is none. */
static int table_of(struct dump *d, uint64_t table_off, uint64_t nentries, uint64_t mask,
		    uint64_t *host_off, struct qcow2_error *err)
{
	uint8_t word[8];
	int ret;

	if (d->index >= nentries)
		return error_set(err, -EINVAL,
				 "there is no entry %" PRIu64 ": the table has %" PRIu64, d->index,
				 nentries);
	ret = storage_read(d->m->file, word, sizeof(word), table_off + d->index * 8, err);
	if (ret < 0)
		return ret;
	*host_off = load_be64(word) & mask;
	if (*host_off == 0)
		return error_set(err, -ENOENT, "entry %" PRIu64 " of the table is empty", d->index);
	return 0;
}

static int dump_l2(struct dump *d, struct qcow2_error *err)
{
	const struct format_geometry *g = &d->m->geometry;
	uint64_t off;
	int ret = table_of(d, d->h->l1_off, d->h->l1_entries, LAYOUT_ENTRY_OFFSET_MASK, &off, err);

	return ret < 0 ? ret : each_word(d, off, g->l2_entries, g->l2_entry_len, show_l2, err);
}

static int show_reftable(struct dump *d, uint64_t idx, uint64_t host_off, uint64_t raw,
			 uint64_t second)
{
	struct format_reftable_entry e = format_reftable_decode(&d->m->geometry, raw);
	char text[160];

	(void)second;
	snprintf(text, sizeof(text), "refcount block at 0x%" PRIx64 "%s%s", e.refblock_off,
		 e.faults ? "; has " : "", e.faults ? format_fault_text(e.faults) : "");
	return field(d, idx, host_off, LAYOUT_REFTABLE_ENTRY_LEN, "refcount table entry", raw,
		     text);
}

/* A table beyond the limit, which doesn't stop reading an image, is shown as far as the limit. */
static uint64_t reftable_entries(const struct dump *d)
{
	uint64_t bytes = (uint64_t)d->h->reftable_clusters * d->m->geometry.cluster_size;

	return min_u64(bytes, LAYOUT_REFTABLE_BYTES_MAX) / LAYOUT_REFTABLE_ENTRY_LEN;
}

static int dump_reftable(struct dump *d, struct qcow2_error *err)
{
	return each_word(d, d->h->reftable_off, reftable_entries(d), LAYOUT_REFTABLE_ENTRY_LEN,
			 show_reftable, err);
}

static int dump_refblock(struct dump *d, struct qcow2_error *err)
{
	const struct format_geometry *g = &d->m->geometry;
	cleanup_free uint8_t *block = mem_zalloc(g->cluster_size, 1);
	uint64_t bits = 1ull << g->refcount_order;
	char text[64];
	uint64_t off;
	int ret;

	if (!block)
		return error_errno(err, -ENOMEM, "can't read a refcount block");
	ret = table_of(d, d->h->reftable_off, reftable_entries(d), LAYOUT_REFTABLE_OFFSET_MASK,
		       &off, err);
	if (ret == 0)
		ret = storage_read(d->m->file, block, (size_t)g->cluster_size, off, err);
	for (uint64_t i = 0; ret == 0 && i < g->refblock_entries; i++) {
		uint64_t count = format_refcount_get(block, g->refcount_order, i);

		if (count == 0)
			continue;
		snprintf(text, sizeof(text), "cluster at 0x%" PRIx64,
			 (d->index * g->refblock_entries + i) << g->cluster_bits);
		ret = field(d, i, off + i * bits / 8, (uint32_t)(bits / 8), "refcount", count,
			    text);
	}
	return ret;
}

/* ---- snapshots and bitmaps ---- */

/* The fields that are there if the extra data reach their end. */
static int show_snapshot_extra(const struct dump *d, uint64_t i, uint64_t off,
			       const struct format_snapshot *s)
{
	int ret = 0;

	if (s->extra_len >= LAYOUT_SNAP_EXTRA_VM_STATE + 8)
		ret = field(d, i, off + LAYOUT_SNAP_EXTRA_VM_STATE, 8, "vm_state_size_large",
			    s->vm_state_bytes, NULL);
	if (ret == 0 && s->has_disk_size)
		ret = field(d, i, off + LAYOUT_SNAP_EXTRA_DISK_SIZE, 8, "disk_size", s->disk_size,
			    NULL);
	if (ret == 0 && s->has_icount)
		ret = field(d, i, off + LAYOUT_SNAP_EXTRA_ICOUNT, 8, "icount", s->icount, NULL);
	return ret;
}

static int show_snapshot(const struct dump *d, uint64_t i, uint64_t off,
			 const struct format_snapshot *s, uint32_t vm_state_size)
{
	const struct row rows[] = {
		{LAYOUT_SNAP_OFF_L1_OFFSET, 8, "l1_table_offset", s->l1_off, NULL},
		{LAYOUT_SNAP_OFF_L1_SIZE, 4, "l1_size", s->l1_entries, NULL},
		{LAYOUT_SNAP_OFF_ID_SIZE, 2, "id_str_size", s->id_len, s->id},
		{LAYOUT_SNAP_OFF_NAME_SIZE, 2, "name_size", s->name_len, s->name},
		{LAYOUT_SNAP_OFF_DATE_SEC, 4, "date_sec", s->date_sec, NULL},
		{LAYOUT_SNAP_OFF_DATE_NSEC, 4, "date_nsec", s->date_nsec, NULL},
		{LAYOUT_SNAP_OFF_VM_CLOCK, 8, "vm_clock_nsec", s->vm_clock_nsec, NULL},
		{LAYOUT_SNAP_OFF_VM_STATE_SIZE, 4, "vm_state_size", vm_state_size, NULL},
		{LAYOUT_SNAP_OFF_EXTRA_SIZE, 4, "extra_data_size", s->extra_len, NULL},
	};
	int ret = record(d, i, off, rows, ARRAY_LEN(rows));

	return ret ? ret : show_snapshot_extra(d, i, off + LAYOUT_SNAP_FIXED_LEN, s);
}

static int dump_snapshots(struct dump *d, struct qcow2_error *err)
{
	uint8_t small[4]; /* the size in 32 bits, which a decoded record has no more */
	struct meta_snapshots s;
	int ret = meta_load_snapshots(d->m, &s, err);

	for (size_t i = 0; ret == 0 && i < s.count; i++) {
		ret = storage_read(d->m->file, small, sizeof(small),
				   s.host_off[i] + LAYOUT_SNAP_OFF_VM_STATE_SIZE, err);
		if (ret == 0)
			ret = show_snapshot(d, i, s.host_off[i], &s.list[i], load_be32(small));
	}
	meta_snapshots_release(&s);
	return ret;
}

static int show_bitmap(const struct dump *d, uint64_t i, uint64_t off,
		       const struct format_bitmap *b)
{
	const struct row rows[] = {
		{LAYOUT_BITMAP_OFF_TABLE_OFFSET, 8, "bitmap_table_offset", b->table_off, NULL},
		{LAYOUT_BITMAP_OFF_TABLE_SIZE, 4, "bitmap_table_size", b->table_entries, NULL},
		{LAYOUT_BITMAP_OFF_FLAGS, 4, "flags", b->flags,
		 b->flags & LAYOUT_BITMAP_FLAG_IN_USE ? "in use" : NULL},
		{LAYOUT_BITMAP_OFF_TYPE, 1, "type", b->type, NULL},
		{LAYOUT_BITMAP_OFF_GRANULARITY, 1, "granularity_bits", b->granularity_bits, NULL},
		{LAYOUT_BITMAP_OFF_NAME_SIZE, 2, "name_size", b->name_len, b->name},
		{LAYOUT_BITMAP_OFF_EXTRA_SIZE, 4, "extra_data_size", b->extra_len, NULL},
	};

	return record(d, i, off, rows, ARRAY_LEN(rows));
}

static int dump_bitmaps(struct dump *d, struct qcow2_error *err)
{
	struct meta_bitmaps b;
	int ret = meta_load_bitmaps(d->m, &b, err);

	for (size_t i = 0; ret == 0 && i < b.count; i++)
		ret = show_bitmap(d, i, b.host_off[i], &b.list[i]);
	meta_bitmaps_release(&b);
	return ret;
}

int qcow2_dump(struct qcow2_image *image, unsigned what, uint64_t index, emit_fn emit, void *opaque,
	       struct qcow2_error *err)
{
	static const struct {
		const char *table;
		int (*dump)(struct dump *d, struct qcow2_error *err);
	} tables[] = {
		[QCOW2_DUMP_HEADER] = {"header", dump_header},
		[QCOW2_DUMP_EXTENSIONS] = {"extension", dump_extensions},
		[QCOW2_DUMP_L1] = {"l1", dump_l1},
		[QCOW2_DUMP_L2] = {"l2", dump_l2},
		[QCOW2_DUMP_REFTABLE] = {"reftable", dump_reftable},
		[QCOW2_DUMP_REFBLOCK] = {"refblock", dump_refblock},
		[QCOW2_DUMP_SNAPSHOTS] = {"snapshot", dump_snapshots},
		[QCOW2_DUMP_BITMAPS] = {"bitmap", dump_bitmaps},
	};
	struct dump d = {.image = image, .index = index, .emit = emit, .opaque = opaque};

	if (what >= ARRAY_LEN(tables))
		return error_set(err, -EINVAL, "there is no structure number %u to dump", what);
	if (!image->qcow2)
		return error_set(err, -ENOTSUP, "\"%s\" is a raw image and has no structures",
				 image->path);
	d.m = &image->qcow2->meta;
	d.h = &d.m->header;
	d.table = tables[what].table;
	return tables[what].dump(&d, err);
}
