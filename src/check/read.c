/* SPDX-License-Identifier: MIT */
/* Reading the tables of an image: in pieces, without its holes, each range once. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "base/zero.h"
#include "check/run.h"

/* How much of [off, off + len) is one extent; a store that can't say has data only. */
static uint64_t extent_len(const struct check_run *run, uint64_t off, uint64_t len, bool *is_data)
{
	struct qcow2_storage_extent x;

	*is_data = true;
	if (storage_extent(run->file, off, len, &x, NULL) < 0)
		return len;
	*is_data = x.is_data;
	return min_u64(len, max_u64(1, x.len_bytes));
}

bool check_is_hole(const struct check_run *run, uint64_t host_off, uint64_t max, uint64_t *len)
{
	bool is_data;

	*len = extent_len(run, host_off, max, &is_data);
	return !is_data;
}

int check_read_range(struct check_run *run, uint64_t start, uint64_t end, run_piece_fn fn,
		     void *opaque, struct qcow2_error *err)
{
	uint64_t pos = start, stop = min_u64(end, run->file_size), len;
	bool is_data;
	size_t n;
	int ret = 0;

	while (ret == 0 && pos < stop) {
		len = extent_len(run, pos, stop - pos, &is_data);
		/* A word that a hole ends in is data. */
		if (!is_data && len >= LAYOUT_L1_ENTRY_LEN) {
			pos += align_down(len, LAYOUT_L1_ENTRY_LEN);
			continue;
		}
		len = min_u64(min_u64(align_up(len, LAYOUT_L1_ENTRY_LEN), RUN_PIECE), end - pos);
		n = (size_t)len;
		ret = storage_read(run->file, run->piece, n, pos, err);
		if (ret == 0 && !bytes_are_zero(run->piece, n))
			ret = fn(run, opaque, pos, run->piece, n, err);
		pos += n;
	}
	return ret;
}

int check_read_cluster(struct check_run *run, uint64_t host_off, uint8_t *buf, bool *zeros,
		       struct qcow2_error *err)
{
	uint64_t cs = run->g.cluster_size;
	bool is_data;
	int ret;

	*zeros = host_off >= run->file_size ||
		 (extent_len(run, host_off, cs, &is_data) >= cs && !is_data);
	if (*zeros)
		return 0;
	ret = storage_read(run->file, buf, (size_t)cs, host_off, err);
	if (ret == 0)
		*zeros = bytes_are_zero(buf, (size_t)cs);
	return ret;
}

int check_read_part(const struct check_run *run, uint64_t host_off, uint8_t *buf, size_t len,
		    _Atomic bool *sparse, struct qcow2_error *err)
{
	bool is_data;
	int ret;

	if (atomic_load_explicit(sparse, memory_order_relaxed) &&
	    extent_len(run, host_off, len, &is_data) >= len && !is_data) {
		memset(buf, 0, len);
		return 0;
	}
	ret = storage_read(run->file, buf, len, host_off, err);
	if (ret == 0 && load_be64(buf) == 0 && bytes_are_zero(buf, len))
		atomic_store_explicit(sparse, true, memory_order_relaxed);
	return ret;
}

/* ---- arrays -------------------------------------------------------------------------------- */

int check_want_word(uint64_t **v, uint64_t *n, uint64_t *cap, uint64_t idx, struct qcow2_error *err)
{
	if (idx >= *cap) {
		uint64_t more = max_u64(max_u64(64, idx + 1), *cap * 2);
		uint64_t *longer = mem_realloc(*v, more, sizeof(*longer));

		if (!longer)
			return check_no_memory(err);
		*v = longer;
		*cap = more;
	}
	while (*n <= idx)
		(*v)[(*n)++] = 0;
	return 0;
}

/* ---- ranges that overlap ------------------------------------------------------------------- */

int check_ranges_add(struct run_ranges *r, uint64_t start, uint64_t len)
{
	if (len == 0)
		return 0;
	if (r->n == r->cap) {
		uint64_t cap = max_u64(16, r->cap * 2);
		struct run_range *v = mem_realloc(r->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		r->v = v;
		r->cap = cap;
	}
	r->v[r->n++] = (struct run_range){start, start + len};
	return 0;
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

int check_ranges_sweep(struct check_run *run, const struct run_ranges *r, run_cover_fn fn,
		       struct qcow2_error *err)
{
	cleanup_free uint64_t *starts = mem_alloc(r->n, sizeof(*starts));
	cleanup_free uint64_t *ends = mem_alloc(r->n, sizeof(*ends));
	uint64_t s = 0, e = 0, pos, next;
	int ret = 0;

	if (!starts || !ends)
		return check_no_memory(err);
	for (uint64_t i = 0; i < r->n; i++) {
		starts[i] = r->v[i].start;
		ends[i] = r->v[i].end;
	}
	if (r->n > 0) {
		qsort(starts, (size_t)r->n, sizeof(*starts), by_value);
		qsort(ends, (size_t)r->n, sizeof(*ends), by_value);
	}
	while (ret == 0 && e < r->n) {
		pos = s < r->n ? min_u64(starts[s], ends[e]) : ends[e];
		while (s < r->n && starts[s] == pos)
			s++;
		while (e < r->n && ends[e] == pos)
			e++;
		if (s == e)
			continue;
		next = s < r->n ? min_u64(starts[s], ends[e]) : ends[e];
		ret = fn(run, pos, next, s - e, err);
	}
	return ret;
}

/* ---- records of variable length ------------------------------------------------------------ */

int check_window_need(struct run_window *w, uint64_t len, const uint8_t **bytes, size_t *got,
		      struct qcow2_error *err)
{
	uint64_t want = min_u64(len, w->end - w->pos), cap;
	uint8_t *buf;
	int ret;

	*got = (size_t)want;
	if (w->pos < w->buf_off || w->pos - w->buf_off > w->have ||
	    want > w->have - (w->pos - w->buf_off)) {
		cap = min_u64(max_u64(want, RUN_PIECE), w->end - w->pos);
		if (cap > w->cap) {
			buf = mem_realloc(w->buf, cap, 1);
			if (!buf)
				return check_no_memory(err);
			w->buf = buf;
			w->cap = (size_t)cap;
		}
		ret = storage_read(w->run->file, w->buf, (size_t)cap, w->pos, err);
		if (ret < 0)
			return ret;
		w->buf_off = w->pos;
		w->have = (size_t)cap;
	}
	*bytes = w->buf + (w->pos - w->buf_off);
	return 0;
}

void check_window_release(struct run_window *w)
{
	mem_free(w->buf);
	*w = (struct run_window){0};
}
