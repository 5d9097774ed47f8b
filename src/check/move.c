/* SPDX-License-Identifier: MIT */
/*
 * Structures that share clusters are moved apart. Who moves follows from what may be found again:
 * a table that the header or another table alone points to stays before an L2 table, which stays
 * before data; the refcounts themselves were moved by a rebuild before this. Whoever moves gets a
 * copy of the bytes, so that a reader sees what it saw, right or wrong; what was shared is then
 * one owner's, and the other's copy is judged on its own.
 *
 * Copies go where nothing is (behind the end of the file, if damage may hide references), are
 * counted, and durable with their counts, before anything points to them. Data and L2 tables move
 * together, since what is changed for the one may be the other's bytes; L1 tables when nothing else
 * has to move any more. After each the image is examined anew.
 *
 * Nothing moves where the file would be made longer than one from which something is missing, for
 * good; and none goes to where a thing is missing, or where its count can't be stored.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "check/longs.h"
#include "check/run.h"
#include "format/snapshot_rec.h"

#define UNIT_MAX 7u /* clusters that move together: a compressed cluster touches three at most */

/* In one pass. More than that no image needs but one that was made to take time and space. */
#define L1_MOVES_MAX 64u
#define L1_BYTES_MAX (64u << 20)

struct moved_l1 {
	uint64_t word_off; /* where its place is stored */
	uint64_t first, nclusters, to;
};

struct move {
	struct moved_l1 l1[L1_MOVES_MAX];
	unsigned nl1;
	bool too_many;	 /* then nothing moves */
	uint64_t budget; /* clusters that copies of L1 tables may take */
	/* Where so many free clusters in a row are looked for: none are given back meanwhile, so
	   that it need not be searched again before the last that were found. */
	uint64_t from[UNIT_MAX + 1];
	uint64_t end_idx; /* behind the last copy */
	struct longs to; /* first cluster and number of those that move, to the first of the copy */
	bool any;
	bool stuck;	/* a copy's count has no place, and can't get one */
	bool switching; /* the copies are there, now entries are changed */
};

/* Who is at the cluster, that doesn't move for the sake of data? */
static bool is_table(const struct check_run *run, uint64_t cluster_idx)
{
	uint64_t low = 0, high = run->nl2, off = cluster_idx << run->g.cluster_bits;

	if (check_tables_at(run, cluster_idx) > 0)
		return true;
	while (low < high) {
		uint64_t mid = low + (high - low) / 2;

		if (run->l2[mid].host_off < off)
			low = mid + 1;
		else
			high = mid;
	}
	return low < run->nl2 && run->l2[low].host_off == off;
}

static uint64_t key_of(uint64_t first, uint64_t n)
{
	return first * (UNIT_MAX + 1) + n;
}

/* An L2 table moves for others than the data that may be there too. */
static uint64_t key_of_l2(uint64_t host_off, uint32_t cluster_bits)
{
	return key_of(host_off >> cluster_bits, 0);
}

/* Holes stay holes where the copy is behind the end of the file: see reach_end. */
static int copy_clusters(struct check_run *run, struct move *m, uint64_t first, uint64_t n,
			 uint64_t to, struct qcow2_error *err)
{
	uint64_t len = n << run->g.cluster_bits, from_off = first << run->g.cluster_bits;
	uint64_t to_off = to << run->g.cluster_bits, part;
	int ret = 0;

	run->changed = true;
	m->end_idx = max_u64(m->end_idx, to + n);
	for (uint64_t done = 0; ret == 0 && done < len; done += part) {
		if (to_off >= run->file_size &&
		    check_is_hole(run, from_off + done, len - done, &part))
			continue;
		part = min_u64(len - done, RUN_PIECE);
		ret = storage_read(run->file, run->piece, (size_t)part, from_off + done, err);
		if (ret == 0)
			ret = storage_write(run->file, run->piece, (size_t)part, to_off + done,
					    err);
	}
	return ret;
}

/* The file ends behind the last copy, also if that ends in a hole. */
static int reach_end(struct check_run *run, const struct move *m, struct qcow2_error *err)
{
	static const uint8_t zeros[LAYOUT_SECTOR];
	uint64_t end = m->end_idx << run->g.cluster_bits, size;
	int ret = storage_size(run->file, &size, err);

	if (ret == 0 && size < end)
		ret = storage_write(run->file, zeros, sizeof(zeros), end - sizeof(zeros), err);
	return ret;
}

/* Nonzero, and stuck: there is none whose counts could be stored. */
static int find_place(const struct check_run *run, struct move *m, uint64_t n, uint64_t *place)
{
	uint64_t *from = &m->from[min_u64(n, UNIT_MAX)];

	*place = counts_find_free(&run->counts, *from, n);
	if (n <= UNIT_MAX)
		*from = *place + n;
	for (uint64_t i = *place; !m->stuck && i < *place + n; i++)
		m->stuck = check_is_cut_off(run) && !check_has_block(run, i);
	return m->stuck;
}

/* Makes a copy, if there is none yet, that has refs references more. */
static int copy_unit(struct check_run *run, struct move *m, uint64_t key, uint64_t first,
		     uint64_t n, uint64_t refs, uint64_t *to, struct qcow2_error *err)
{
	uint64_t place = longs_get(&m->to, key);
	int ret = 0;

	if (place == 0) {
		ret = find_place(run, m, n, &place);
		if (ret == 0)
			ret = copy_clusters(run, m, first, n, place, err);
		if (ret == 0 && longs_set(&m->to, key, place) < 0)
			ret = check_no_memory(err);
		m->any = true;
	}
	for (uint64_t i = 0; ret == 0 && i < n; i++) {
		ret = check_count_cluster(run, (place + i) << run->g.cluster_bits, refs, err);
		run->needs_rebuild |= !check_has_block(run, place + i);
	}
	*to = place;
	return ret;
}

/* All copies are there: their counts. */
static int settle_copies(struct check_run *run, const struct move *m, struct qcow2_error *err)
{
	int ret = reach_end(run, m, err);

	if (ret == 0)
		ret = storage_flush(run->file, err);
	return ret == 0 ? check_repair_refcounts(run, err) : ret;
}

/* ---- data ---------------------------------------------------------------------------------- */

static int move_entry(struct check_run *run, void *opaque, const struct run_l2 *l2,
		      const struct run_place *at, uint64_t *raw, uint64_t *bitmap,
		      struct qcow2_error *err)
{
	struct move *m = opaque;
	struct format_l2_entry e = format_l2_decode(&run->g, *raw, *bitmap);
	bool compressed = e.kind == FORMAT_CLUSTER_COMPRESSED, taken = false;
	uint32_t bits = run->g.cluster_bits;
	uint64_t len = compressed ? e.compressed_len : run->g.cluster_size;
	uint64_t first = e.host_off >> bits, n, to, old = *raw;
	int ret = 0;

	if (!e.has_host_off || (e.faults & FORMAT_FAULT_FATAL & ~FORMAT_FAULT_SUBCLUSTERS) ||
	    check_past_end(run, e.host_off, len))
		return 0;
	n = ((e.host_off + len - 1) >> bits) - first + 1;
	for (uint64_t i = 0; i < n; i++)
		taken |= is_table(run, first + i);
	if (!taken)
		return 0;
	if (!m->switching)
		return copy_unit(run, m, key_of(first, n), first, n, l2->refs, &to, err);
	to = longs_get(&m->to, key_of(first, n));
	if (to == 0) /* the table itself is new */
		return 0;
	*raw += (to - first) << bits;
	ret = check_told_entry(
		run, check_tables_at(run, first) > 0 ? CHECK_TABLE_SHARED : CHECK_L2_SHARED, at,
		e.host_off, old, 0);
	return ret;
}

/* Not in tables that have to move themselves: there the entries are another's too. */
static int go_over_data(struct check_run *run, struct move *m, struct qcow2_error *err)
{
	int ret = 0;

	for (uint64_t i = 0; ret == 0 && i < run->nl2; i++)
		if (check_tables_at(run, run->l2[i].host_off >> run->g.cluster_bits) == 0)
			ret = check_change_l2(run, &run->l2[i], move_entry, m, err);
	return ret;
}

/* ---- L2 tables ----------------------------------------------------------------------------- */

static int switch_l1_entry(struct check_run *run, void *opaque, uint64_t entry_off, uint64_t *raw,
			   struct qcow2_error *err)
{
	struct format_l1_entry e = format_l1_decode(&run->g, *raw);
	struct run_place at = {entry_off, QCOW2_NO_OFFSET, QCOW2_NO_OFFSET};
	uint64_t old = *raw, to;

	(void)opaque;
	(void)err;
	if (e.l2_off == 0 || (e.faults & FORMAT_FAULT_UNALIGNED))
		return 0;
	to = longs_get(run->moving, key_of_l2(e.l2_off, run->g.cluster_bits));
	if (to == 0)
		return 0;
	*raw = (*raw & ~LAYOUT_ENTRY_OFFSET_MASK) | to << run->g.cluster_bits;
	return check_told_entry(run, CHECK_TABLE_SHARED, &at, e.l2_off, old, 0);
}

static int switch_l1_tables(struct check_run *run, uint64_t start, uint64_t end, uint64_t times,
			    struct qcow2_error *err)
{
	(void)times;
	return check_change_words(run, start, end, switch_l1_entry, NULL, err);
}

/* The entries of a copy that nothing points to yet; what they read as is copied while it is. */
static int move_data_of(struct check_run *run, struct move *m, const struct run_l2 *l2, uint64_t to,
			struct qcow2_error *err)
{
	struct run_l2 copy = *l2;
	uint64_t file_size = run->file_size;
	int ret;

	copy.host_off = to << run->g.cluster_bits;
	run->file_size = max_u64(file_size, copy.host_off + run->g.cluster_size);
	ret = check_change_l2(run, &copy, move_entry, m, err);
	m->switching = true;
	if (ret == 0)
		ret = check_change_l2(run, &copy, move_entry, m, err);
	m->switching = false;
	run->file_size = file_size;
	return ret;
}

static int copy_l2_tables(struct check_run *run, struct move *m, struct qcow2_error *err)
{
	uint32_t bits = run->g.cluster_bits;
	uint64_t to;
	int ret = 0;

	for (uint64_t i = 0; ret == 0 && i < run->nl2; i++) {
		const struct run_l2 *l2 = &run->l2[i];

		if (check_tables_at(run, l2->host_off >> bits) == 0)
			continue;
		ret = copy_unit(run, m, key_of_l2(l2->host_off, bits), l2->host_off >> bits, 1,
				l2->refs, &to, err);
		if (ret == 0)
			ret = move_data_of(run, m, l2, to, err);
	}
	return ret;
}

static int switch_l2_tables(struct check_run *run, struct move *m, struct qcow2_error *err)
{
	uint64_t l1_len = (uint64_t)run->header.l1_entries * LAYOUT_L1_ENTRY_LEN;
	int ret;

	run->moving = &m->to;
	ret = switch_l1_tables(run, run->header.l1_off, run->header.l1_off + l1_len, 1, err);
	if (ret == 0)
		ret = check_ranges_sweep(run, &run->inactive_l1, switch_l1_tables, err);
	run->moving = NULL;
	return ret;
}

/* Any table may be somebody's data too: all is copied before the first of them changes. */
static int move_data_and_l2(struct check_run *run, struct move *m, struct qcow2_error *err)
{
	int ret = go_over_data(run, m, err);

	if (ret == 0)
		ret = copy_l2_tables(run, m, err);
	if (ret != 0 || !m->any)
		return ret;
	ret = settle_copies(run, m, err);
	m->switching = true;
	if (ret == 0)
		ret = go_over_data(run, m, err);
	return ret == 0 ? switch_l2_tables(run, m, err) : ret;
}

/* ---- L1 tables ----------------------------------------------------------------------------- */

/* Is another table, or the header, in clusters of this one, and stays there? */
static bool is_over_table(const struct check_run *run, const struct move *m, uint64_t first,
			  uint64_t n)
{
	for (uint64_t i = first, until; i < first + n; i = until) {
		uint64_t gone = 0, tables = check_tables_until(run, i, &until);

		for (unsigned k = 0; k < m->nl1; k++) {
			uint64_t start = m->l1[k].first, end = start + m->l1[k].nclusters;

			gone += i >= start && i < end;
			if (i < end)
				until = min_u64(until, i < start ? start : end);
		}
		if (tables > gone + 1)
			return true;
	}
	return false;
}

/* Takes note of an L1 table, whose offset is stored at word_off, if it has to move. */
static void plan_l1(struct check_run *run, struct move *m, uint64_t word_off, uint64_t l1_off,
		    uint64_t entries)
{
	uint64_t n = div_ceil(entries * LAYOUT_L1_ENTRY_LEN, run->g.cluster_size);
	uint64_t first = l1_off >> run->g.cluster_bits;

	if (m->too_many || n == 0 || !check_tables_meet(run, first, n) ||
	    !is_over_table(run, m, first, n))
		return;
	m->too_many = m->nl1 == L1_MOVES_MAX || n > m->budget;
	if (m->too_many)
		return;
	m->budget -= n;
	m->l1[m->nl1++] = (struct moved_l1){word_off, first, n, 0};
}

static int copy_l1(struct check_run *run, struct move *m, struct moved_l1 *l1,
		   struct qcow2_error *err)
{
	uint64_t to;
	int ret = find_place(run, m, l1->nclusters, &to);

	if (ret == 0)
		ret = copy_clusters(run, m, l1->first, l1->nclusters, to, err);
	for (uint64_t i = to; ret == 0 && i < to + l1->nclusters; i++) {
		ret = check_count_cluster(run, i << run->g.cluster_bits, 1, err);
		run->needs_rebuild |= !check_has_block(run, i);
	}
	l1->to = to;
	m->any = true;
	return ret;
}

static int plan_snapshot_l1(struct check_run *run, void *opaque, uint64_t record_off,
			    struct format_snapshot *s, struct qcow2_error *err)
{
	(void)err;
	plan_l1(run, opaque, record_off, s->l1_off, s->l1_entries);
	return 0;
}

static bool snapshots_are_sound(const struct check_run *run)
{
	return run->header.nb_snapshots > 0 && run->snapshots_len > 0 &&
	       run->found[CHECK_SNAPSHOT_TABLE] == 0 && run->found[CHECK_SNAPSHOT_EXTRA] == 0 &&
	       run->found[CHECK_SNAPSHOT_L1] == 0;
}

static int switch_l1(struct check_run *run, const struct moved_l1 *l1, struct qcow2_error *err)
{
	struct run_place at = {l1->word_off, QCOW2_NO_OFFSET, QCOW2_NO_OFFSET};
	uint64_t old = l1->first << run->g.cluster_bits;
	uint8_t bytes[8];
	int ret = check_told_entry(run, CHECK_TABLE_SHARED, &at, old, old, 0);

	store_be64(bytes, l1->to << run->g.cluster_bits);
	if (ret == 0)
		ret = storage_write(run->file, bytes, sizeof(bytes), l1->word_off, err);
	return ret;
}

static int move_l1_tables(struct check_run *run, struct move *m, struct qcow2_error *err)
{
	int ret = 0;

	if (run->found[CHECK_TABLE_SHARED] == 0)
		return 0;
	if (snapshots_are_sound(run))
		ret = check_each_snapshot(run, plan_snapshot_l1, m, err);
	plan_l1(run, m, LAYOUT_OFF_L1_OFFSET, run->header.l1_off, run->header.l1_entries);
	if (ret != 0 || m->too_many)
		return ret;
	for (unsigned i = 0; ret == 0 && i < m->nl1; i++)
		ret = copy_l1(run, m, &m->l1[i], err);
	if (ret == 0 && m->any)
		ret = settle_copies(run, m, err);
	for (unsigned i = 0; ret == 0 && i < m->nl1; i++)
		ret = switch_l1(run, &m->l1[i], err);
	return ret;
}

int check_move(struct check_run *run, bool *done, struct qcow2_error *err)
{
	static int (*const steps[])(struct check_run *, struct move *,
				    struct qcow2_error *) = {move_data_and_l2, move_l1_tables};
	struct move m = {.budget = L1_BYTES_MAX >> run->g.cluster_bits};
	uint64_t from = 1;
	int ret = 0;

	if ((run->found[CHECK_L2_SHARED] == 0 && run->found[CHECK_TABLE_SHARED] == 0) ||
	    run->g.data_file || run->needs_rebuild ||
	    (check_is_cut_off(run) && check_hides_for_good(run)))
		return 0;
	if (run->result->hides_references)
		from = max_u64(max_u64(run->file_clusters, run->lost_idx),
			       div_ceil(run->result->image_end_off, run->g.cluster_size));
	for (unsigned n = 0; n <= UNIT_MAX; n++)
		m.from[n] = from;
	for (size_t i = 0; ret == 0 && !m.any && !m.too_many && i < ARRAY_LEN(steps); i++)
		ret = steps[i](run, &m, err);
	longs_release(&m.to);
	if (m.stuck) { /* the copies are dropped, and nothing else is moved */
		run->passes = RUN_PASSES_MAX;
		*done = true;
		return 0;
	}
	*done |= m.any;
	return ret == 0 && m.any ? storage_flush(run->file, err) : ret;
}
