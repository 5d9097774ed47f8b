/* SPDX-License-Identifier: MIT */
/*
 * Header extensions: the walk over their frames, what each known type holds, and writing them
 * back. Unknown ones are kept with their data and their order. Where a known type is there twice,
 * the last one holds; only one is written.
 *
 * The area lies in the first cluster, so all that is copied here is bounded by a cluster.
 */
#include "format/extension.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/layout.h"

/* Section 4.3: what QEMU writes, in its order. */
static const struct {
	uint8_t set, bit;
	char name[LAYOUT_FEATURE_NAME_TEXT];
} feature_names[] = {
	{LAYOUT_FEATURE_SET_INCOMPATIBLE, 0, "dirty bit"},
	{LAYOUT_FEATURE_SET_INCOMPATIBLE, 1, "corrupt bit"},
	{LAYOUT_FEATURE_SET_INCOMPATIBLE, 2, "external data file"},
	{LAYOUT_FEATURE_SET_INCOMPATIBLE, 3, "compression type"},
	{LAYOUT_FEATURE_SET_INCOMPATIBLE, 4, "extended L2 entries"},
	{LAYOUT_FEATURE_SET_COMPATIBLE, 0, "lazy refcounts"},
	{LAYOUT_FEATURE_SET_AUTOCLEAR, 0, "bitmaps"},
	{LAYOUT_FEATURE_SET_AUTOCLEAR, 1, "raw external data"},
};

#define FEATURE_NAMES_LEN (ARRAY_LEN(feature_names) * LAYOUT_FEATURE_NAME_LEN)

void format_extensions_release(struct format_extensions *ext)
{
	for (size_t i = 0; i < ext->nunknown; i++)
		mem_free_ptr(&ext->unknown[i].data);
	mem_free(ext->unknown);
	mem_free(ext->backing_format);
	mem_free(ext->data_file);
	*ext = (struct format_extensions){0};
}

int format_extension_next(const uint8_t *area, uint64_t end, uint64_t *pos,
			  struct format_ext_raw *raw, bool *done, struct qcow2_error *err)
{
	uint64_t at = *pos, room;

	*done = true;
	if (at >= end)
		return 0;
	if (end - at < LAYOUT_EXT_FRAME_LEN)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, at,
				    "header extension at 0x%" PRIx64 " passes the end of its area"
				    " at 0x%" PRIx64,
				    at, end);
	room = end - at - LAYOUT_EXT_FRAME_LEN;
	*raw = (struct format_ext_raw){
		.type = load_be32(area + at),
		.len_bytes = load_be32(area + at + 4),
		.host_off = at,
		.data = area + at + LAYOUT_EXT_FRAME_LEN,
	};
	if (raw->len_bytes > room)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, at,
				    "header extension 0x%08" PRIx32 " at 0x%" PRIx64
				    " too large: length %" PRIu32 ", room for %" PRIu64,
				    raw->type, at, raw->len_bytes, room);
	if (raw->type == LAYOUT_EXT_END)
		return 0;
	*done = false;
	*pos = at + LAYOUT_EXT_FRAME_LEN + align_up(raw->len_bytes, 8);
	return 0;
}

/* Entry i of the table, false behind the last: at the end of the data, or at an empty name. */
static bool feature_entry(const uint8_t *table, size_t len_bytes, size_t i, unsigned *set,
			  unsigned *bit, char name[LAYOUT_FEATURE_NAME_TEXT + 1])
{
	const uint8_t *e;

	if (i >= len_bytes / LAYOUT_FEATURE_NAME_LEN)
		return false;
	e = table + i * LAYOUT_FEATURE_NAME_LEN;
	*set = e[LAYOUT_FEATURE_NAME_OFF_SET];
	*bit = e[LAYOUT_FEATURE_NAME_OFF_BIT];
	memcpy(name, e + LAYOUT_FEATURE_NAME_OFF_TEXT, LAYOUT_FEATURE_NAME_TEXT);
	name[LAYOUT_FEATURE_NAME_TEXT] = '\0';
	return name[0] != '\0';
}

const char *format_feature_name(const uint8_t *table, size_t len_bytes, unsigned set, unsigned bit,
				char buf[47])
{
	unsigned entry_set, entry_bit;

	for (size_t i = 0; feature_entry(table, len_bytes, i, &entry_set, &entry_bit, buf); i++)
		if (entry_set == set && entry_bit == bit)
			return buf;
	return NULL;
}

/* Adds what fits of s, printable: the bytes are a stranger's. */
static size_t append(char *buf, size_t buf_len, size_t used, const char *s)
{
	for (; *s && used + 1 < buf_len; s++)
		buf[used++] = *s >= ' ' && *s <= '~' ? *s : '?';
	buf[used] = '\0';
	return used;
}

uint64_t format_feature_names(const uint8_t *table, size_t len_bytes, unsigned set, uint64_t mask,
			      char *buf, size_t buf_len)
{
	char name[LAYOUT_FEATURE_NAME_TEXT + 1];
	unsigned entry_set, bit;
	size_t used = 0;

	assert(buf_len > 0);
	buf[0] = '\0';
	for (size_t i = 0; feature_entry(table, len_bytes, i, &entry_set, &bit, name); i++) {
		if (entry_set != set || bit > 63 || !(mask >> bit & 1))
			continue;
		mask &= ~(1ull << bit);
		used = append(buf, buf_len, used, used ? ", " : "");
		used = append(buf, buf_len, used, name);
	}
	return mask;
}

/* ---- decoding ------------------------------------------------------------------------------ */

static int bad(struct qcow2_error *err, const struct format_ext_raw *raw, const char *sentence)
{
	return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, raw->host_off, "%s (at 0x%" PRIx64 ")",
			    sentence, raw->host_off);
}

static int no_memory(struct qcow2_error *err, const struct format_ext_raw *raw)
{
	return error_set_at(err, -ENOMEM, QCOW2_NO_OFFSET, raw->host_off,
			    "no memory for %" PRIu32 " bytes of a header extension",
			    raw->len_bytes);
}

/* Replaces *to, which an earlier extension of the type may have set. */
static int decode_string(char **to, const struct format_ext_raw *raw, struct qcow2_error *err)
{
	char *copy = mem_strndup(raw->data, raw->len_bytes);

	if (!copy)
		return no_memory(err, raw);
	mem_free(*to);
	*to = copy;
	return 0;
}

static int decode_backing_format(struct format_extensions *ext, const struct format_ext_raw *raw,
				 struct qcow2_error *err)
{
	int ret;

	if (raw->len_bytes > LAYOUT_BACKING_FORMAT_MAX)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, raw->host_off,
				    "backing format name of %" PRIu32 " bytes at 0x%" PRIx64
				    ", expected at most %u",
				    raw->len_bytes, raw->host_off, LAYOUT_BACKING_FORMAT_MAX);
	ret = decode_string(&ext->backing_format, raw, err);
	if (ret == 0 && ext->backing_format[0] == '\0')
		mem_free(mem_steal(&ext->backing_format));
	return ret;
}

static int decode_crypto(struct format_extensions *ext, const struct format_ext_rules *rules,
			 const struct format_ext_raw *raw, struct qcow2_error *err)
{
	struct format_ext_crypto c;

	if (rules->crypt_method != LAYOUT_CRYPT_LUKS)
		return bad(err, raw, "encryption header extension in an image without LUKS");
	if (raw->len_bytes != LAYOUT_EXT_CRYPTO_LEN)
		return bad(err, raw, "encryption header extension isn't 16 bytes long");
	c.header_off = load_be64(raw->data + LAYOUT_EXT_CRYPTO_OFF_OFFSET);
	c.header_len = load_be64(raw->data + LAYOUT_EXT_CRYPTO_OFF_LENGTH);
	if (!is_aligned(c.header_off, rules->cluster_size))
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, raw->host_off,
				    "encryption header offset 0x%" PRIx64
				    " isn't a multiple of the cluster size 0x%" PRIx64,
				    c.header_off, rules->cluster_size);
	ext->crypto = c;
	ext->has_crypto = true;
	return 0;
}

static int check_bitmaps(const struct format_ext_bitmaps *b, uint32_t reserved,
			 const struct format_ext_rules *rules, const struct format_ext_raw *raw,
			 struct qcow2_error *err)
{
	if (b->nb_bitmaps == 0)
		return bad(err, raw, "bitmaps extension with zero bitmaps");
	if (reserved != 0)
		return bad(err, raw, "reserved field of the bitmaps extension isn't zero");
	if (b->nb_bitmaps > LAYOUT_BITMAPS_MAX)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, raw->host_off,
				    "%" PRIu32 " bitmaps, expected at most %u", b->nb_bitmaps,
				    LAYOUT_BITMAPS_MAX);
	if (b->directory_size == 0)
		return bad(err, raw, "bitmap directory of zero bytes");
	if (b->directory_size > LAYOUT_BITMAP_DIRECTORY_BYTES_MAX)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, raw->host_off,
				    "bitmap directory of %" PRIu64 " bytes, expected at most %u",
				    b->directory_size, LAYOUT_BITMAP_DIRECTORY_BYTES_MAX);
	if (!is_aligned(b->directory_off, rules->cluster_size) ||
	    b->directory_off > INT64_MAX - b->directory_size)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, raw->host_off,
				    "bitmap directory offset 0x%" PRIx64
				    ", expected a multiple of the cluster size 0x%" PRIx64
				    " below 2^63",
				    b->directory_off, rules->cluster_size);
	return 0;
}

static int decode_bitmaps(struct format_extensions *ext, const struct format_ext_rules *rules,
			  const struct format_ext_raw *raw, struct qcow2_error *err)
{
	struct format_ext_bitmaps b;
	uint32_t reserved;
	int ret;

	if (raw->len_bytes != LAYOUT_EXT_BITMAPS_LEN)
		return bad(err, raw, "bitmaps extension isn't 24 bytes long");
	b.nb_bitmaps = load_be32(raw->data + LAYOUT_EXT_BITMAPS_OFF_COUNT);
	reserved = load_be32(raw->data + LAYOUT_EXT_BITMAPS_OFF_RESERVED);
	b.directory_size = load_be64(raw->data + LAYOUT_EXT_BITMAPS_OFF_DIRECTORY_SIZE);
	b.directory_off = load_be64(raw->data + LAYOUT_EXT_BITMAPS_OFF_DIRECTORY_OFFSET);
	if (rules->bitmaps_valid) {
		ret = check_bitmaps(&b, reserved, rules, raw, err);
		if (ret < 0)
			return ret;
	}
	ext->bitmaps = b;
	ext->has_bitmaps = true;
	return 0;
}

static int keep_unknown(struct format_extensions *ext, size_t *capacity,
			const struct format_ext_raw *raw, struct qcow2_error *err)
{
	struct format_ext_raw *slot;
	uint8_t *data;

	if (ext->nunknown == *capacity) {
		size_t more = *capacity ? *capacity * 2 : 4;
		struct format_ext_raw *grown = mem_realloc(ext->unknown, more, sizeof(*grown));

		if (!grown)
			return no_memory(err, raw);
		ext->unknown = grown;
		*capacity = more;
	}
	slot = &ext->unknown[ext->nunknown];
	*slot = *raw;
	slot->data = NULL;
	if (raw->len_bytes > 0) {
		data = mem_alloc(raw->len_bytes, 1);
		if (!data)
			return no_memory(err, raw);
		memcpy(data, raw->data, raw->len_bytes);
		slot->data = data;
	}
	ext->nunknown++;
	return 0;
}

static int decode_one(struct format_extensions *ext, const struct format_ext_rules *rules,
		      const struct format_ext_raw *raw, size_t *capacity, bool *bad_bitmaps,
		      struct qcow2_error *err)
{
	switch (raw->type) {
	case LAYOUT_EXT_BACKING_FORMAT:
		return decode_backing_format(ext, raw, err);
	case LAYOUT_EXT_DATA_FILE:
		return decode_string(&ext->data_file, raw, err);
	case LAYOUT_EXT_FEATURE_NAMES:
		ext->has_feature_names = true;
		return 0;
	case LAYOUT_EXT_FILLER:
		return 0;
	case LAYOUT_EXT_CRYPTO:
		return decode_crypto(ext, rules, raw, err);
	case LAYOUT_EXT_BITMAPS:
		if (!rules->allow_bad_bitmaps)
			return decode_bitmaps(ext, rules, raw, err);
		if (decode_bitmaps(ext, rules, raw, NULL) < 0)
			*bad_bitmaps = true;
		return 0;
	default:
		return keep_unknown(ext, capacity, raw, err);
	}
}

int format_extensions_decode(struct format_extensions *ext, const struct format_ext_rules *rules,
			     const uint8_t *cluster, uint64_t start, uint64_t end,
			     bool *bad_bitmaps, struct qcow2_error *err)
{
	struct format_ext_raw raw;
	size_t capacity = 0;
	uint64_t pos = start;
	bool done = false;
	int ret;

	*ext = (struct format_extensions){0};
	*bad_bitmaps = false;
	for (;;) {
		ret = format_extension_next(cluster, end, &pos, &raw, &done, err);
		if (ret < 0 || done)
			break;
		ret = decode_one(ext, rules, &raw, &capacity, bad_bitmaps, err);
		if (ret < 0)
			break;
	}
	if (*bad_bitmaps) /* none of several may count then */
		ext->has_bitmaps = false;
	if (ret < 0)
		format_extensions_release(ext);
	return ret;
}

/* ---- encoding ------------------------------------------------------------------------------ */

/* A cursor in the first cluster. Past the end it goes on counting but writes nothing. */
struct writer {
	uint8_t *buf;
	uint64_t pos, end;
};

/* Writes the frame and makes room for the data; NULL if they don't fit. */
static uint8_t *put_frame(struct writer *w, uint32_t type, uint64_t len_bytes)
{
	uint64_t at = w->pos;

	w->pos += LAYOUT_EXT_FRAME_LEN + align_up(len_bytes, 8);
	if (w->pos > w->end)
		return NULL;
	store_be32(w->buf + at, type);
	store_be32(w->buf + at + 4, (uint32_t)len_bytes);
	return w->buf + at + LAYOUT_EXT_FRAME_LEN;
}

static void put_bytes(struct writer *w, uint32_t type, const void *data, uint64_t len_bytes)
{
	uint8_t *at = put_frame(w, type, len_bytes);

	if (at && len_bytes > 0)
		memcpy(at, data, (size_t)len_bytes);
}

static void put_crypto(struct writer *w, const struct format_ext_crypto *c)
{
	uint8_t data[LAYOUT_EXT_CRYPTO_LEN];

	store_be64(data + LAYOUT_EXT_CRYPTO_OFF_OFFSET, c->header_off);
	store_be64(data + LAYOUT_EXT_CRYPTO_OFF_LENGTH, c->header_len);
	put_bytes(w, LAYOUT_EXT_CRYPTO, data, sizeof(data));
}

static void put_feature_names(struct writer *w)
{
	uint8_t *at = put_frame(w, LAYOUT_EXT_FEATURE_NAMES, FEATURE_NAMES_LEN);

	if (!at)
		return;
	for (size_t i = 0; i < ARRAY_LEN(feature_names); i++, at += LAYOUT_FEATURE_NAME_LEN) {
		at[LAYOUT_FEATURE_NAME_OFF_SET] = feature_names[i].set;
		at[LAYOUT_FEATURE_NAME_OFF_BIT] = feature_names[i].bit;
		memcpy(at + LAYOUT_FEATURE_NAME_OFF_TEXT, feature_names[i].name,
		       LAYOUT_FEATURE_NAME_TEXT);
	}
}

static void put_bitmaps(struct writer *w, const struct format_ext_bitmaps *b)
{
	uint8_t data[LAYOUT_EXT_BITMAPS_LEN] = {0};

	store_be32(data + LAYOUT_EXT_BITMAPS_OFF_COUNT, b->nb_bitmaps);
	store_be64(data + LAYOUT_EXT_BITMAPS_OFF_DIRECTORY_SIZE, b->directory_size);
	store_be64(data + LAYOUT_EXT_BITMAPS_OFF_DIRECTORY_OFFSET, b->directory_off);
	put_bytes(w, LAYOUT_EXT_BITMAPS, data, sizeof(data));
}

int format_extensions_encode(const struct format_extensions *ext,
			     const struct format_ext_rules *rules, uint8_t *cluster, uint64_t *pos,
			     uint64_t end, struct qcow2_error *err)
{
	struct writer w = {.buf = cluster, .pos = *pos, .end = end};
	size_t format_len = ext->backing_format ? strlen(ext->backing_format) : 0;

	if (format_len > LAYOUT_BACKING_FORMAT_MAX)
		return error_set(err, -EINVAL,
				 "backing format name of %zu bytes, expected at most %u",
				 format_len, LAYOUT_BACKING_FORMAT_MAX);
	if (format_len > 0)
		put_bytes(&w, LAYOUT_EXT_BACKING_FORMAT, ext->backing_format, format_len);
	if (ext->data_file && rules->data_file)
		put_bytes(&w, LAYOUT_EXT_DATA_FILE, ext->data_file, strlen(ext->data_file));
	if (ext->has_crypto && ext->crypto.header_off != 0 &&
	    rules->crypt_method == LAYOUT_CRYPT_LUKS)
		put_crypto(&w, &ext->crypto);
	if (rules->version >= 3 && rules->cluster_size >= LAYOUT_FEATURE_NAMES_MIN_CLUSTER)
		put_feature_names(&w);
	if (ext->has_bitmaps && ext->bitmaps.nb_bitmaps > 0)
		put_bitmaps(&w, &ext->bitmaps);
	for (size_t i = 0; i < ext->nunknown; i++)
		put_bytes(&w, ext->unknown[i].type, ext->unknown[i].data,
			  ext->unknown[i].len_bytes);
	put_frame(&w, LAYOUT_EXT_END, 0);
	if (w.pos > w.end)
		return error_set(err, -ENOSPC,
				 "header extensions end at 0x%" PRIx64
				 ", past the first cluster of 0x%" PRIx64 " bytes",
				 w.pos, w.end);
	*pos = w.pos;
	return 0;
}
