/* SPDX-License-Identifier: MIT */
/*
 * Changing tables in place, entry by entry: what is read is shown to a function that may change it,
 * and what it changed is written back. Nothing is flushed here.
 */
#include "base/bytes.h"
#include "base/num.h"
#include "check/run.h"

bool check_is_own(const struct check_run *run, uint64_t host_off, uint64_t len_bytes,
		  uint64_t times)
{
	uint64_t last = (host_off + len_bytes - 1) >> run->g.cluster_bits;

	for (uint64_t i = host_off >> run->g.cluster_bits; i <= last; i++)
		if (counts_get(&run->counts, i) != times)
			return false;
	return true;
}

int check_told_entry(struct check_run *run, enum check_finding finding, const struct run_place *at,
		     uint64_t host_off, uint64_t raw, uint64_t count)
{
	struct check_report r = check_blank(finding);

	r.host_off = host_off;
	r.guest_off = at->guest_off;
	r.entry_off = at->entry_off;
	r.index = at->index;
	r.stored = raw;
	r.computed = count;
	r.repaired = true;
	return check_told(run, &r);
}

struct words {
	run_word_fn fn;
	void *opaque;
};

static int change_piece(struct check_run *run, void *opaque, uint64_t host_off, uint8_t *bytes,
			size_t len, struct qcow2_error *err)
{
	const struct words *w = opaque;
	size_t first = len, end = 0;
	uint64_t raw, old;
	int ret;

	for (size_t i = 0; i + 8 <= len; i += 8) {
		old = raw = load_be64(bytes + i);
		ret = w->fn(run, w->opaque, host_off + i, &raw, err);
		if (ret != 0)
			return ret;
		if (raw == old)
			continue;
		store_be64(bytes + i, raw);
		first = first < i ? first : i;
		end = i + 8;
	}
	if (first >= end)
		return 0;
	run->changed = true;
	return storage_write(run->file, bytes + first, end - first, host_off + first, err);
}

int check_change_words(struct check_run *run, uint64_t start, uint64_t end, run_word_fn fn,
		       void *opaque, struct qcow2_error *err)
{
	struct words w = {fn, opaque};

	return check_read_range(run, start, end, change_piece, &w, err);
}

int check_change_l2(struct check_run *run, const struct run_l2 *l2, run_entry_fn fn, void *opaque,
		    struct qcow2_error *err)
{
	const struct format_geometry *g = &run->g;
	size_t first = SIZE_MAX, end = 0;
	bool zeros;
	int ret = check_read_cluster(run, l2->host_off, run->cluster, &zeros, err);

	if (ret < 0 || zeros)
		return ret;
	for (size_t i = 0; i < g->cluster_size; i += g->l2_entry_len) {
		uint8_t *p = run->cluster + i;
		uint64_t raw = load_be64(p), old = raw;
		uint64_t bitmap = g->extended_l2 ? load_be64(p + LAYOUT_L2_ENTRY_LEN) : 0;
		uint64_t old_bitmap = bitmap, idx = i / g->l2_entry_len;
		struct run_place at = {l2->host_off + i, idx, QCOW2_NO_OFFSET};

		if (l2->active_refs > 0)
			at.guest_off = (((uint64_t)l2->l1_index << g->l2_bits) + idx)
				       << g->cluster_bits;
		ret = fn(run, opaque, l2, &at, &raw, &bitmap, err);
		if (ret != 0)
			return ret;
		if (raw == old && bitmap == old_bitmap)
			continue;
		store_be64(p, raw);
		if (g->extended_l2)
			store_be64(p + LAYOUT_L2_ENTRY_LEN, bitmap);
		first = first < i ? first : i;
		end = i + g->l2_entry_len;
	}
	if (first >= end)
		return 0;
	run->changed = true;
	return storage_write(run->file, run->cluster + first, end - first, l2->host_off + first,
			     err);
}
