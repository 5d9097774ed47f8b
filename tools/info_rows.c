/* SPDX-License-Identifier: MIT */
/*
 * The rows of `info`. Words, order and layout are qemu-img's, whose output scripts parse: in text
 * the rows come in the order of the table, in JSON in the order of their json_place.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/size.h"
#include "cli/utf8.h"
#include "info_rows.h"

struct row {
	const char *text; /* the label, or NULL: not in text */
	const char *json; /* the key */
	unsigned json_place;
	/* Prints the row under key, or nothing where it doesn't apply. */
	void (*put)(struct cli_out *out, const char *key, const struct qcow2_info *info);
};

static void put_filename(struct cli_out *out, const char *key, const struct qcow2_info *info)
{
	cli_out_string(out, key, info->filename);
}

static void put_format(struct cli_out *out, const char *key, const struct qcow2_info *info)
{
	cli_out_string(out, key, info->format);
}

static void put_virtual_size(struct cli_out *out, const char *key, const struct qcow2_info *info)
{
	char human[CLI_SIZE_TEXT], text[CLI_SIZE_TEXT + 40];

	if (out->json) {
		cli_out_u64(out, key, info->virtual_size);
		return;
	}
	snprintf(text, sizeof(text), "%s (%" PRIu64 " bytes)",
		 cli_size_human(human, info->virtual_size), info->virtual_size);
	cli_out_string(out, key, text);
}

static void put_disk_size(struct cli_out *out, const char *key, const struct qcow2_info *info)
{
	char human[CLI_SIZE_TEXT];

	if (out->json && info->has_disk_bytes)
		cli_out_u64(out, key, info->disk_bytes);
	else if (!out->json)
		cli_out_string(out, key,
			       info->has_disk_bytes ? cli_size_human(human, info->disk_bytes)
						    : "unavailable");
}

static void put_encrypted(struct cli_out *out, const char *key, const struct qcow2_info *info)
{
	if (!info->encryption)
		return;
	if (out->json)
		cli_out_bool(out, key, true);
	else
		cli_out_string(out, key, "yes");
}

static void put_cluster_size(struct cli_out *out, const char *key, const struct qcow2_info *info)
{
	if (info->cluster_size)
		cli_out_u64(out, key, info->cluster_size);
}

static void put_dirty(struct cli_out *out, const char *key, const struct qcow2_info *info)
{
	if (out->json)
		cli_out_bool(out, key, info->dirty);
	else if (info->dirty)
		cli_out_string(out, key, "no");
}

/* Where the backing file is. Names that aren't plain paths (file:, json:) stand for themselves. */
static const char *backing_place(const struct qcow2_info *info)
{
	if (!info->backing_path || strncmp(info->backing_file, "file:", 5) == 0)
		return info->backing_file;
	return info->backing_path;
}

static void put_backing_file(struct cli_out *out, const char *key, const struct qcow2_info *info)
{
	if (!info->backing_file)
		return;
	if (out->json || strcmp(info->backing_file, backing_place(info)) == 0) {
		cli_out_string(out, key, info->backing_file);
		return;
	}
	fprintf(out->f, "%s: ", key);
	cli_text_put(out->f, info->backing_file);
	fputs(" (actual path: ", out->f);
	cli_text_put(out->f, backing_place(info));
	fputs(")\n", out->f);
}

static void put_backing_place(struct cli_out *out, const char *key, const struct qcow2_info *info)
{
	if (info->backing_file)
		cli_out_string(out, key, backing_place(info));
}

static void put_backing_format(struct cli_out *out, const char *key, const struct qcow2_info *info)
{
	if (info->backing_format)
		cli_out_string(out, key, info->backing_format);
}

static bool has_icount(const struct qcow2_snapshot_info *snapshot)
{
	return snapshot->has_icount && snapshot->icount != UINT64_MAX;
}

static void put_snapshot_json(struct cli_out *out, const struct qcow2_snapshot_info *s)
{
	cli_out_open(out, NULL, '{');
	/* signed as in QEMU, where sizes beyond 63 bits come out negative */
	if (has_icount(s))
		cli_out_i64(out, "icount", (int64_t)s->icount);
	cli_out_u64(out, "vm-clock-nsec", s->vm_clock_nsec % 1000000000);
	cli_out_string(out, "name", s->name);
	cli_out_u64(out, "date-sec", s->date_sec);
	cli_out_u64(out, "date-nsec", s->date_nsec);
	cli_out_u64(out, "vm-clock-sec", s->vm_clock_nsec / 1000000000);
	cli_out_string(out, "id", s->id);
	cli_out_i64(out, "vm-state-size", (int64_t)s->vm_state_bytes);
	cli_out_close(out);
}

/* Like printf("%-*s"): columns count bytes, as they do in qemu-img. */
static void put_padded(FILE *f, const char *text, int width)
{
	char safe[512];

	fprintf(f, "%-*s", width, cli_text_safe(safe, sizeof(safe), text));
}

static void put_snapshot_text(FILE *f, const struct qcow2_snapshot_info *s)
{
	uint64_t seconds = s->vm_clock_nsec / 1000000000;
	char size[CLI_SIZE_TEXT], date[40] = "", clock[40], icount[24] = "";
	time_t when = (time_t)s->date_sec;
	struct tm tm;

	if (localtime_r(&when, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(clock, sizeof(clock), "%02" PRIu64 ":%02u:%02u.%03u", seconds / 3600,
		 (unsigned)(seconds / 60 % 60), (unsigned)(seconds % 60),
		 (unsigned)(s->vm_clock_nsec / 1000000 % 1000));
	if (has_icount(s))
		snprintf(icount, sizeof(icount), "%" PRId64, (int64_t)s->icount);
	put_padded(f, s->id, 9);
	fputc(' ', f);
	put_padded(f, s->name, 16);
	fprintf(f, " %8s%20s%13s%11s\n", cli_size_human(size, s->vm_state_bytes), date, clock,
		icount);
}

static void put_snapshots(struct cli_out *out, const char *key, const struct qcow2_info *info)
{
	size_t i;

	if (info->nsnapshots == 0 && (key || !out->json))
		return;
	if (out->json) {
		cli_out_open(out, key, '[');
		for (i = 0; i < info->nsnapshots; i++)
			put_snapshot_json(out, &info->snapshots[i]);
		cli_out_close(out);
		return;
	}
	fprintf(out->f, "%s:\n%-9s %-16s %8s%20s%13s%11s\n", key, "ID", "TAG", "VM SIZE", "DATE",
		"VM CLOCK", "ICOUNT");
	for (i = 0; i < info->nsnapshots; i++)
		put_snapshot_text(out->f, &info->snapshots[i]);
}

static void put_bitmaps(struct cli_out *out, const struct qcow2_info *info)
{
	size_t i;

	if (info->nbitmaps == 0 || info->bitmaps_lost)
		return;
	cli_out_open(out, "bitmaps", '[');
	for (i = 0; i < info->nbitmaps; i++) {
		const struct qcow2_bitmap_info *bitmap = &info->bitmaps[i];

		cli_out_open(out, NULL, '{');
		cli_out_open(out, "flags", '[');
		if (bitmap->flags & QCOW2_BITMAP_IN_USE)
			cli_out_string(out, NULL, "in-use");
		if (bitmap->flags & QCOW2_BITMAP_AUTO)
			cli_out_string(out, NULL, "auto");
		cli_out_close(out);
		cli_out_string(out, "name", bitmap->name);
		cli_out_u64(out, "granularity", bitmap->granularity);
		if (bitmap->unknown_flags)
			cli_out_u64(out, "unknown-flags", bitmap->unknown_flags);
		cli_out_close(out);
	}
	cli_out_close(out);
}

/* The order of the keys is qemu-img's. */
static void put_luks(struct cli_out *out, const struct qcow2_luks_info *luks)
{
	cli_out_string(out, "ivgen-alg", luks->ivgen);
	cli_out_string(out, "hash-alg", luks->hash);
	cli_out_string(out, "cipher-alg", luks->cipher);
	cli_out_string(out, "uuid", luks->uuid);
	if (luks->ivgen_hash)
		cli_out_string(out, "ivgen-hash-alg", luks->ivgen_hash);
	cli_out_string(out, "format", "luks");
	cli_out_string(out, "cipher-mode", luks->cipher_mode);
	cli_out_open(out, "slots", '[');
	for (size_t i = 0; i < luks->nslots; i++) {
		const struct qcow2_luks_slot_info *slot = &luks->slots[i];

		cli_out_open(out, NULL, '{');
		cli_out_bool(out, "active", slot->active);
		if (slot->active)
			cli_out_u64(out, "iters", slot->iterations);
		cli_out_u64(out, "key-offset", slot->key_off);
		if (slot->active)
			cli_out_u64(out, "stripes", slot->stripes);
		cli_out_close(out);
	}
	cli_out_close(out);
	cli_out_u64(out, "payload-offset", luks->payload_off);
	cli_out_u64(out, "master-key-iters", luks->digest_iterations);
}

static void put_encrypt(struct cli_out *out, const struct qcow2_info *info)
{
	if (!info->encryption)
		return;
	cli_out_open(out, "encrypt", '{');
	if (info->luks)
		put_luks(out, info->luks);
	else
		cli_out_string(out, "format", info->encryption);
	cli_out_close(out);
}

static void put_qcow2(struct cli_out *out, const struct qcow2_info *info)
{
	bool is_v3 = info->version >= 3;

	cli_out_string(out, "compat", is_v3 ? "1.1" : "0.10");
	cli_out_string(out, "compression-type", info->compression_type);
	if (is_v3)
		cli_out_bool(out, "lazy-refcounts", info->lazy_refcounts);
	put_bitmaps(out, info);
	cli_out_u64(out, "refcount-bits", info->refcount_bits);
	if (info->data_file)
		cli_out_string(out, "data-file", info->data_file);
	put_encrypt(out, info);
	if (info->has_data_file)
		cli_out_bool(out, "data-file-raw", info->data_file_raw);
	if (is_v3) {
		cli_out_bool(out, "corrupt", info->corrupt);
		cli_out_bool(out, "extended-l2", info->extended_l2);
	}
}

static void put_specific(struct cli_out *out, const char *key, const struct qcow2_info *info)
{
	if (strcmp(info->format, "qcow2") != 0)
		return;
	cli_out_open(out, key, '{');
	if (out->json) {
		cli_out_string(out, "type", info->format);
		cli_out_open(out, "data", '{');
	}
	put_qcow2(out, info);
	if (out->json)
		cli_out_close(out);
	cli_out_close(out);
}

static const struct row rows[] = {
	{"image", "filename", 3, put_filename},
	{"file format", "format", 5, put_format},
	{"virtual size", "virtual-size", 2, put_virtual_size},
	{"disk size", "actual-size", 6, put_disk_size},
	{"encrypted", "encrypted", 9, put_encrypted},
	{"cluster_size", "cluster-size", 4, put_cluster_size},
	{"cleanly shut down", "dirty-flag", 11, put_dirty},
	{"backing file", "backing-filename", 10, put_backing_file},
	{NULL, "full-backing-filename", 8, put_backing_place},
	{"backing file format", "backing-filename-format", 1, put_backing_format},
	{"Snapshot list", "snapshots", 0, put_snapshots},
	{"Format specific information", "format-specific", 7, put_specific},
};
#define NROWS (sizeof(rows) / sizeof(rows[0]))

void info_rows_put_specific(struct cli_out *out, const struct qcow2_info *info)
{
	put_specific(out, "Format specific information", info);
}

void info_rows_put_usage(struct cli_out *out, const struct qcow2_check_result *usage)
{
	const struct {
		const char *key;
		uint64_t bytes;
	} parts[] = {
		{"data", usage->data_bytes},	     {"compressed", usage->compressed_bytes},
		{"metadata", usage->metadata_bytes}, {"snapshots", usage->snapshot_bytes},
		{"leaked", usage->leaked_bytes},     {"free", usage->free_bytes},
	};
	char human[CLI_SIZE_TEXT];
	size_t i;

	cli_out_open(out, out->json ? "usage" : "Space in the file", '{');
	for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		if (out->json)
			cli_out_u64(out, parts[i].key, parts[i].bytes);
		else
			cli_out_string(out, parts[i].key, cli_size_human(human, parts[i].bytes));
	}
	cli_out_close(out);
}

void info_rows_put_snapshots(struct cli_out *out, const struct qcow2_info *info)
{
	put_snapshots(out, out->json ? NULL : "Snapshot list", info);
}

void info_rows_put(struct cli_out *out, const struct qcow2_info *info)
{
	size_t place, i;

	for (place = 0; place < NROWS; place++) {
		for (i = 0; out->json && i < NROWS && rows[i].json_place != place; i++)
			;
		if (out->json)
			rows[i].put(out, rows[i].json, info);
		else if (rows[place].text)
			rows[place].put(out, rows[place].text, info);
	}
}
