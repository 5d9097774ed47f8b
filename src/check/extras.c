/* SPDX-License-Identifier: MIT */
/*
 * What an image has beside its disk: snapshots, bitmaps, a LUKS header. Only references are looked
 * at here; a table that can't be made sense of is reported once, and nothing is freed as long as
 * it stands.
 */
#include <errno.h>

#include "base/bytes.h"
#include "base/num.h"
#include "check/run.h"
#include "format/bitmap_rec.h"
#include "format/snapshot_rec.h"

/* What nearly every directory entry fits in; for others the whole directory is read. */
#define BITMAP_RECORD_USUAL 131072

static int report_at(struct check_run *run, enum check_finding finding, uint64_t host_off)
{
	struct check_report r = check_blank(finding);

	r.host_off = host_off;
	return check_found(run, &r);
}

/* ---- snapshots ----------------------------------------------------------------------------- */

static int scan_snapshot(struct check_run *run, const struct format_snapshot *s,
			 uint64_t record_off, struct qcow2_error *err)
{
	uint64_t len = (uint64_t)s->l1_entries * LAYOUT_L1_ENTRY_LEN;
	uint64_t tables;
	int ret = 0;

	if (run->header.version >= 3 && !s->has_disk_size)
		ret = report_at(run, CHECK_SNAPSHOT_INCOMPLETE, record_off);
	if (ret != 0)
		return ret;
	if (s->l1_entries > LAYOUT_L1_ENTRIES_MAX || !is_aligned(s->l1_off, run->g.cluster_size) ||
	    s->l1_off > INT64_MAX - len)
		return report_at(run, CHECK_SNAPSHOT_L1, s->l1_off);
	tables = run->table_clusters;
	ret = check_count_table(run, s->l1_off, len, CHECK_TABLE_PAST_END, err);
	run->table_clusters = tables; /* it isn't the active disk's */
	if (ret == 0 && check_ranges_add(&run->inactive_l1, s->l1_off, len) < 0)
		ret = check_no_memory(err);
	return ret;
}

/* Goes through the records. *bad: what the table is, if it can't be read to its end. */
static int scan_records(struct check_run *run, struct run_window *w, enum check_finding *bad,
			struct qcow2_error *err)
{
	struct format_snapshot s;
	const uint8_t *bytes;
	size_t got, used;
	int ret;

	for (uint32_t i = 0; i < run->header.nb_snapshots; i++) {
		ret = check_window_need(w, LAYOUT_SNAPSHOT_RECORD_MAX, &bytes, &got, err);
		if (ret != 0)
			return ret;
		ret = format_snapshot_decode(&s, bytes, got, &used, NULL);
		if (ret == -ENOMEM)
			return check_no_memory(err);
		if (ret < 0) {
			*bad = ret == -EFBIG ? CHECK_SNAPSHOT_EXTRA : CHECK_SNAPSHOT_TABLE;
			return 0;
		}
		ret = scan_snapshot(run, &s, w->pos, err);
		/* The padding of the last record isn't part of the table. */
		if (i + 1 == run->header.nb_snapshots)
			used = LAYOUT_SNAP_FIXED_LEN + (size_t)s.extra_len + s.id_len + s.name_len;
		format_snapshot_release(&s);
		if (ret != 0)
			return ret;
		w->pos += min_u64(used, w->end - w->pos);
	}
	return 0;
}

int check_scan_snapshots(struct check_run *run, struct qcow2_error *err)
{
	uint64_t off = run->header.snapshots_off;
	struct run_window w = {.run = run, .pos = off};
	enum check_finding bad = CHECK_FINDINGS;
	int ret = 0;

	if (run->tolerated & FORMAT_HEADER_ALLOW_SNAPSHOTS)
		return report_at(run, CHECK_SNAPSHOT_TABLE, off);
	if (run->header.nb_snapshots == 0)
		return 0;
	if (run->g.data_file)
		ret = report_at(run, CHECK_SNAPSHOTS_DATA_FILE, off);
	if (ret != 0)
		return ret;
	/* Behind the end of the file there is nothing but zeros, which are no records. */
	w.end = min_u64(off + LAYOUT_SNAPSHOT_TABLE_BYTES_MAX,
			align_up(max_u64(run->file_size, 1), run->g.cluster_size));
	if (off >= w.end)
		return report_at(run, CHECK_TABLE_PAST_END, off);
	ret = scan_records(run, &w, &bad, err);
	run->snapshots_len = w.pos - off;
	if (ret == 0)
		ret = check_count_table(run, off, w.pos - off, CHECK_TABLE_PAST_END, err);
	if (ret == 0 && bad != CHECK_FINDINGS)
		ret = report_at(run, bad, w.pos);
	check_window_release(&w);
	return ret;
}

/* ---- bitmaps ------------------------------------------------------------------------------- */

static int scan_bitmap_entries(struct check_run *run, void *opaque, uint64_t host_off,
			       uint8_t *bytes, size_t len, struct qcow2_error *err)
{
	uint64_t times = *(const uint64_t *)opaque;
	struct check_report r = check_blank(CHECK_BITMAP_ENTRY);
	int ret = 0;

	for (size_t i = 0; ret == 0 && i + 8 <= len; i += 8) {
		uint64_t raw = load_be64(bytes + i);
		struct format_bitmap_entry e = format_bitmap_entry_decode(&run->g, raw);

		if (e.faults) {
			r.host_off = e.host_off;
			r.entry_off = host_off + i;
			r.stored = raw;
			ret = check_found(run, &r);
		} else if (e.host_off == 0) {
			continue;
		} else if (check_past_end(run, e.host_off, run->g.cluster_size)) {
			ret = report_at(run, CHECK_DATA_PAST_END, e.host_off);
		} else {
			ret = check_count_cluster(run, e.host_off, times, err);
		}
	}
	return ret;
}

static int scan_bitmap_tables(struct check_run *run, uint64_t start, uint64_t end, uint64_t times,
			      struct qcow2_error *err)
{
	return check_read_range(run, start, end, scan_bitmap_entries, &times, err);
}

static int scan_bitmap(struct check_run *run, const struct format_bitmap *b,
		       struct qcow2_error *err)
{
	uint64_t len = (uint64_t)b->table_entries * 8;
	int ret = check_count_table(run, b->table_off, len, CHECK_TABLE_PAST_END, err);

	if (ret == 0 && check_ranges_add(&run->bitmap_tables, b->table_off, len) < 0)
		ret = check_no_memory(err);
	return ret;
}

/* One directory entry; -EINVAL, without a sentence, if it is malformed. */
static int decode_bitmap(struct check_run *run, struct run_window *w, struct format_bitmap *b,
			 size_t *used, struct qcow2_error *err)
{
	const uint8_t *bytes;
	size_t got;
	int ret = check_window_need(w, BITMAP_RECORD_USUAL, &bytes, &got, err);

	if (ret != 0)
		return ret;
	ret = format_bitmap_decode(b, &run->g, bytes, got, used, NULL);
	if (ret == -EINVAL && w->end - w->pos > got) {
		ret = check_window_need(w, w->end - w->pos, &bytes, &got, err);
		if (ret == 0)
			ret = format_bitmap_decode(b, &run->g, bytes, got, used, NULL);
	}
	return ret == -ENOMEM ? check_no_memory(err) : ret;
}

static int scan_directory(struct check_run *run, struct run_window *w, struct qcow2_error *err)
{
	uint32_t nbitmaps = run->header.ext.bitmaps.nb_bitmaps, n = 0;
	struct format_bitmap b;
	size_t used;
	int ret;

	for (; n < nbitmaps && w->pos < w->end; n++) {
		ret = decode_bitmap(run, w, &b, &used, err);
		if (ret == -EINVAL)
			break;
		if (ret != 0)
			return ret;
		ret = scan_bitmap(run, &b, err);
		format_bitmap_release(&b);
		if (ret != 0)
			return ret;
		w->pos += used;
	}
	if (n != nbitmaps || w->pos != w->end)
		return report_at(run, CHECK_BITMAPS_BAD, w->pos);
	return 0;
}

int check_scan_bitmaps(struct check_run *run, struct qcow2_error *err)
{
	const struct format_ext_bitmaps *ext = &run->header.ext.bitmaps;
	struct run_window w = {.run = run, .pos = ext->directory_off};
	int ret;

	if (!(run->header.autoclear & LAYOUT_AUTOCLEAR_BITMAPS))
		return 0; /* stale: nothing that they have counts */
	if (run->tolerated & FORMAT_HEADER_ALLOW_BITMAPS)
		return report_at(run, CHECK_BITMAPS_BAD, QCOW2_NO_OFFSET);
	if (!run->header.ext.has_bitmaps)
		return 0;
	ret = check_count_table(run, ext->directory_off, ext->directory_size, CHECK_TABLE_PAST_END,
				err);
	if (ret != 0)
		return ret;
	if (check_past_end(run, ext->directory_off, ext->directory_size))
		return 0; /* that has been said */
	w.end = ext->directory_off + ext->directory_size;
	ret = scan_directory(run, &w, err);
	check_window_release(&w);
	if (ret == 0)
		ret = check_ranges_sweep(run, &run->bitmap_tables, scan_bitmap_tables, err);
	return ret;
}

/* ---- encryption ---------------------------------------------------------------------------- */

int check_scan_crypto(struct check_run *run, struct qcow2_error *err)
{
	const struct format_ext_crypto *c = &run->header.ext.crypto;

	if (run->header.crypt_method != LAYOUT_CRYPT_LUKS)
		return 0;
	if (!run->header.ext.has_crypto)
		return report_at(run, CHECK_CRYPTO_MISSING, QCOW2_NO_OFFSET);
	return check_count_table(run, c->header_off, c->header_len, CHECK_TABLE_PAST_END, err);
}
