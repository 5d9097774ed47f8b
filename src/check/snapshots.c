/* SPDX-License-Identifier: MIT */
/*
 * Completes the snapshot table of a version 3 image whose records lack the extra data that version
 * 3 wants (section 12.1). The new table is written beside the old one and counted; only when its
 * counts are durable the header switches to it.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "check/run.h"
#include "format/snapshot_rec.h"

int check_each_snapshot(struct check_run *run, run_snapshot_fn fn, void *opaque,
			struct qcow2_error *err)
{
	uint64_t off = run->header.snapshots_off;
	struct run_window w = {.run = run, .pos = off, .end = off + run->snapshots_len};
	struct format_snapshot s;
	const uint8_t *bytes;
	size_t got, used;
	int ret = 0;

	for (uint32_t i = 0; ret == 0 && i < run->header.nb_snapshots; i++) {
		ret = check_window_need(&w, LAYOUT_SNAPSHOT_RECORD_MAX, &bytes, &got, err);
		if (ret == 0)
			ret = format_snapshot_decode(&s, bytes, got, &used, err);
		if (ret != 0)
			break;
		ret = fn(run, opaque, w.pos, &s, err);
		format_snapshot_release(&s);
		w.pos += min_u64(used, w.end - w.pos);
	}
	check_window_release(&w);
	return ret;
}

/* The new table, on its way. */
struct table {
	uint8_t *buf; /* a record; NULL: it is only looked how long the table becomes */
	uint64_t end;
};

static int copy_record(struct check_run *run, void *opaque, uint64_t record_off,
		       struct format_snapshot *s, struct qcow2_error *err)
{
	struct table *t = opaque;
	uint64_t pos = align_up(t->end, 8);
	size_t len;
	int ret = 0;

	(void)record_off;
	if (!s->has_disk_size) {
		s->has_disk_size = true;
		s->disk_size = run->header.size_bytes;
	}
	len = format_snapshot_encoded_len(s);
	if (t->buf) {
		memset(t->buf, 0, LAYOUT_SNAPSHOT_RECORD_MAX);
		format_snapshot_encode(s, t->buf);
		ret = storage_write(run->file, t->buf, (size_t)align_up(len, 8), pos, err);
	}
	t->end = pos + len;
	return ret;
}

int check_snapshots_write(struct check_run *run, struct qcow2_error *err)
{
	cleanup_free uint8_t *buf = NULL;
	struct table t = {0};
	uint64_t idx, n;
	int ret;

	if (run->found[CHECK_SNAPSHOT_INCOMPLETE] == 0 || run->result->hides_references)
		return 0;
	buf = mem_alloc(LAYOUT_SNAPSHOT_RECORD_MAX, 1);
	if (!buf)
		return check_no_memory(err);
	ret = check_each_snapshot(run, copy_record, &t, err);
	if (ret != 0 || t.end > LAYOUT_SNAPSHOT_TABLE_BYTES_MAX)
		return ret;
	n = div_ceil(t.end, run->g.cluster_size);
	idx = counts_find_free(&run->counts, 0, n);
	run->new_snapshots_off = idx << run->g.cluster_bits;
	run->changed = true;
	run->new_snapshots_len = t.end;
	t = (struct table){buf, run->new_snapshots_off};
	ret = check_each_snapshot(run, copy_record, &t, err);
	if (ret != 0)
		return ret;
	if (counts_run(&run->counts, idx, n, 1) < 0)
		return check_no_memory(err);
	counts_seal(&run->counts);
	for (uint64_t i = idx; i < idx + n; i++)
		run->needs_rebuild |= !check_has_block(run, i);
	return storage_flush(run->file, err);
}

int check_snapshots_switch(struct check_run *run, struct qcow2_error *err)
{
	uint8_t bytes[LAYOUT_HEADER_LEN_V2 - LAYOUT_OFF_NB_SNAPSHOTS];
	uint64_t cs = run->g.cluster_size;
	int ret;

	if (run->new_snapshots_off == 0)
		return 0;
	store_be32(bytes, run->header.nb_snapshots);
	store_be64(bytes + (LAYOUT_OFF_SNAPSHOTS_OFFSET - LAYOUT_OFF_NB_SNAPSHOTS),
		   run->new_snapshots_off);
	ret = storage_write(run->file, bytes, sizeof(bytes), LAYOUT_OFF_NB_SNAPSHOTS, err);
	if (ret == 0)
		ret = storage_flush(run->file, err);
	if (ret != 0)
		return ret;
	if (counts_run(&run->counts, run->header.snapshots_off / cs,
		       div_ceil(run->snapshots_len, cs), -1) < 0)
		return check_no_memory(err);
	counts_seal(&run->counts);
	run->header.snapshots_off = run->new_snapshots_off;
	run->snapshots_len = run->new_snapshots_len;
	return check_repair_counts(run, true, err);
}
