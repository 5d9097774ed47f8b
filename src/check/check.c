/* SPDX-License-Identifier: MIT */
/* One check from its start to its end, and what it found. */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "check/run.h"

struct check_report check_blank(enum check_finding finding)
{
	return (struct check_report){
		.finding = finding,
		.host_off = QCOW2_NO_OFFSET,
		.guest_off = QCOW2_NO_OFFSET,
		.entry_off = QCOW2_NO_OFFSET,
		.index = QCOW2_NO_OFFSET,
		.nclusters = 1,
	};
}

uint64_t check_cluster_off(const struct check_run *run, uint64_t cluster_idx)
{
	uint64_t off;

	return mul_fits(cluster_idx, run->g.cluster_size, &off) ? off : QCOW2_NO_OFFSET;
}

int check_told(struct check_run *run, const struct check_report *r)
{
	struct check_report told = *r;

	told.after_repair = run->after_repair;
	told.cluster_size = run->g.cluster_size;
	return run->options.report ? run->options.report(run->options.opaque, &told) : 0;
}

int check_tick(struct check_run *run, uint64_t ntables)
{
	uint64_t cs = run->g.cluster_size;

	if (!run->options.tick)
		return 0;
	return run->options.tick(run->options.opaque, ntables * cs,
				 (run->nl2 + run->nrefblocks) * cs);
}

/* What is missing may have been anything: a repair puts nothing where it should be. */
static void note_lost(struct check_run *run, const struct check_report *r)
{
	uint64_t limit = run->nrefblocks << run->g.refblock_bits, end;

	if (r->finding != CHECK_DATA_PAST_END && r->finding != CHECK_L2_PAST_END &&
	    r->finding != CHECK_TABLE_PAST_END)
		return;
	if (!add_fits(r->host_off, max_u64(r->len_bytes, run->g.cluster_size), &end))
		end = UINT64_MAX;
	if (r->host_off >> run->g.cluster_bits < limit)
		run->lost_idx =
			max_u64(run->lost_idx, min_u64(limit, div_ceil(end, run->g.cluster_size)));
}

int check_found(struct check_run *run, const struct check_report *r)
{
	switch (check_finding_kind(r->finding)) {
	case CHECK_KIND_LEAK:
		run->result->leaks += r->nclusters;
		break;
	case CHECK_KIND_CORRUPTION:
		run->result->corruptions += r->nclusters;
		break;
	case CHECK_KIND_ERROR:
		run->result->check_errors += r->nclusters;
		break;
	case CHECK_KIND_NOTE:
		break;
	}
	note_lost(run, r);
	run->found[r->finding] += r->nclusters;
	run->result->hides_references |= check_finding_hides(r->finding);
	return run->passes > 0 && !run->after_repair ? 0 : check_told(run, r);
}

/* ---- opening ------------------------------------------------------------------------------- */

static int check_header_is_there(const struct check_run *run, const uint8_t *peek,
				 struct qcow2_error *err)
{
	unsigned len = load_be32(peek + LAYOUT_OFF_VERSION) == 2 ? LAYOUT_HEADER_LEN_V2
								 : LAYOUT_HEADER_LEN_V3_MIN;

	if (run->file_size >= len)
		return 0;
	return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, run->file_size,
			    "the file ends after %" PRIu64
			    " bytes, inside its header, which has at least %u",
			    run->file_size, len);
}

static int read_header(struct check_run *run, struct qcow2_error *err)
{
	const unsigned allow = FORMAT_HEADER_ALLOW_SNAPSHOTS | FORMAT_HEADER_ALLOW_REFTABLE |
			       FORMAT_HEADER_ALLOW_BITMAPS;
	uint8_t peek[FORMAT_HEADER_PEEK];
	uint32_t cluster_bits;
	uint64_t cs;
	int ret;

	ret = storage_read(run->file, peek, sizeof(peek), 0, err);
	if (ret == 0)
		ret = format_header_peek(peek, &cluster_bits, err);
	if (ret == 0)
		ret = check_header_is_there(run, peek, err);
	if (ret < 0)
		return ret;
	cs = 1ull << cluster_bits;
	run->cluster = mem_alloc(cs, 1);
	run->block = mem_alloc(cs, 1);
	run->piece = mem_alloc(RUN_PIECE, 1);
	if (!run->cluster || !run->block || !run->piece)
		return check_no_memory(err);
	ret = storage_read(run->file, run->cluster, (size_t)cs, 0, err);
	if (ret < 0)
		return ret;
	return format_header_decode(&run->header, run->cluster, cs, allow, &run->tolerated, err);
}

static int open_run(struct check_run *run, struct qcow2_error *err)
{
	int ret = storage_size(run->file, &run->file_size, err);

	if (ret == 0)
		ret = read_header(run, err);
	if (ret < 0)
		return ret;
	format_header_geometry(&run->header, &run->g);
	run->file_clusters = div_ceil(run->file_size, run->g.cluster_size);
	run->result->total_clusters =
		div_ceil(align_down(run->header.size_bytes, LAYOUT_SECTOR), run->g.cluster_size);
	return 0;
}

static void release_run(struct check_run *run)
{
	counts_release(&run->counts);
	format_header_release(&run->header);
	mem_free(run->l2);
	mem_free(run->inactive_l1.v);
	mem_free(run->bitmap_tables.v);
	mem_free(run->refblocks);
	mem_free(run->slices);
	mem_free(run->piece);
	mem_free(run->cluster);
	mem_free(run->block);
}

/* ---- the check ----------------------------------------------------------------------------- */

static int count_references(struct check_run *run, struct qcow2_error *err)
{
	static int (*const steps[])(struct check_run *, struct qcow2_error *) = {
		check_stored_load, check_scan_snapshots, check_scan_l1,	     check_scan_l2,
		check_scan_crypto, check_scan_bitmaps,	 check_stored_count,
	};
	int ret = check_scan_marks(run);

	if (ret == 0)
		ret = check_count_cluster(run, 0, 1, err); /* the header */
	for (size_t i = 0; ret == 0 && i < ARRAY_LEN(steps); i++)
		ret = steps[i](run, err);
	if (ret == 0)
		counts_seal(&run->counts);
	return ret;
}

static int examine(struct check_run *run, struct qcow2_error *err)
{
	int ret = count_references(run, err);

	if (ret == 0)
		ret = check_stored_overlaps(run);
	if (ret == 0)
		ret = check_overlaps(run);
	if (ret == 0)
		ret = check_compare(run, err);
	if (ret == 0)
		check_usage(run);
	return ret;
}

/* ---- repair -------------------------------------------------------------------------------- */

/* Corruptions that aren't but a COPIED flag. */
static uint64_t serious(const struct check_run *run)
{
	return run->result->corruptions - run->found[CHECK_L1_COPIED] - run->found[CHECK_L2_COPIED];
}

/* What is wrong with COPIED flags is told once it is known what the repair does about them. */
static int tell_copied(struct check_run *run, struct qcow2_error *err)
{
	if (run->copied_wrong == 0)
		return 0;
	run->copied_wrong = 0;
	return check_copied(run, err);
}

/* Nothing is done about the flags, nor is anybody told; they are wrong all the same. */
static int count_copied(struct check_run *run, struct qcow2_error *err)
{
	int (*report)(void *opaque, const struct check_report *r) = run->options.report;
	int ret;

	run->options.report = NULL;
	ret = tell_copied(run, err);
	run->options.report = report;
	return ret;
}

static int report_needs_rebuild(struct check_run *run)
{
	const struct check_report r = check_blank(CHECK_NEEDS_REBUILD);

	return check_found(run, &r);
}

static int repair_leaks(struct check_run *run, struct qcow2_error *err)
{
	int ret = check_repair_counts(run, false, err);

	if (ret != 0)
		return ret;
	return serious(run) == 0 ? check_repair_entries(run, false, err) : tell_copied(run, err);
}

/*
 * A file that ends too early isn't made longer: what is missing would come back as zeros, or as
 * part of the new structure, and nothing would tell any more that it is lost.
 */
bool check_is_cut_off(const struct check_run *run)
{
	return run->found[CHECK_DATA_PAST_END] > 0 || run->found[CHECK_L2_PAST_END] > 0 ||
	       run->found[CHECK_TABLE_PAST_END] > 0;
}

int check_repair_refcounts(struct check_run *run, struct qcow2_error *err)
{
	int ret = 0;

	if (run->needs_rebuild && !check_is_cut_off(run)) {
		struct check_report r = check_blank(CHECK_NEEDS_REBUILD);

		r.repaired = true;
		run->changed = true;
		ret = check_told(run, &r);
		return ret == 0 ? check_rebuild(run, err) : ret;
	}
	if (run->needs_rebuild)
		ret = report_needs_rebuild(run);
	return ret == 0 ? check_repair_counts(run, true, err) : ret;
}

/* What overlaps can be moved once there are counts to move by. */
static int rebuild_first(struct check_run *run, bool *done, struct qcow2_error *err)
{
	if ((run->found[CHECK_L2_SHARED] == 0 && run->found[CHECK_TABLE_SHARED] == 0) ||
	    !run->needs_rebuild || check_is_cut_off(run))
		return 0;
	(void)done; /* the counts hold: the rebuild has kept them up */
	return check_repair_refcounts(run, err);
}

/* Changes what there is to count; then everything has to be counted anew. */
static int repair_structure(struct check_run *run, struct qcow2_error *err)
{
	static int (*const steps[])(struct check_run *, bool *, struct qcow2_error *) = {
		check_repair_marks,
		check_clear,
		rebuild_first,
		check_move,
	};
	int ret = 0;

	if (!(run->options.repair & CHECK_REPAIR_CLEAR) || run->passes >= RUN_PASSES_MAX)
		return 0;
	for (size_t i = 0; ret == 0 && !run->again && i < ARRAY_LEN(steps); i++)
		ret = steps[i](run, &run->again, err);
	return ret;
}

static int repair_all(struct check_run *run, struct qcow2_error *err)
{
	int ret = repair_structure(run, err);

	if (ret != 0 || run->again)
		return ret;
	ret = check_snapshots_write(run, err);
	if (ret == 0)
		ret = check_repair_refcounts(run, err);
	if (ret == 0)
		ret = check_snapshots_switch(run, err);
	if (ret == 0)
		ret = check_repair_entries(run, !run->result->hides_references, err);
	return ret;
}

/* One examination, and the repair of what it finds. *repaired: something may have been written. */
static int run_once(struct check_run *run, bool *repaired, struct qcow2_error *err)
{
	const struct check_result *res = run->result;
	int ret = open_run(run, err);

	*repaired = false;
	if (ret == 0)
		ret = examine(run, err);
	if (ret != 0)
		return ret;
	if (!run->options.repair || res->check_errors > 0 ||
	    (res->corruptions == 0 && res->leaks == 0 && run->copied_wrong == 0))
		return tell_copied(run, err);
	if (run->options.repair & CHECK_REPAIR_ALL) {
		ret = repair_all(run, err);
	} else if (run->needs_rebuild) {
		ret = count_copied(run, err);
		return ret != 0 ? ret : report_needs_rebuild(run);
	} else {
		ret = repair_leaks(run, err);
	}
	/* What is neither repaired nor told of is seen in the second look. */
	*repaired = run->changed || run->copied_wrong > 0;
	return ret;
}

static uint64_t fixed(uint64_t before, uint64_t after)
{
	return before > after ? before - after : 0;
}

/* Sets out again on an image of which some has been repaired. */
static void start_over(struct check_run *run)
{
	struct check_result before = *run->result;

	*run->result = (struct check_result){
		.was_dirty = before.was_dirty,
		.was_corrupt = before.was_corrupt,
		.corruptions_fixed = before.corruptions_fixed,
		.leaks_fixed = before.leaks_fixed,
	};
}

/* The image isn't what was counted any more: the repair goes on with a new count. */
static int go_on(struct check_run *run, struct qcow2_error *err)
{
	struct check_result *res = run->result, before = *res;
	bool repaired;
	int ret;

	release_run(run);
	*run = (struct check_run){
		.file = run->file,
		.options = run->options,
		.result = res,
		.passes = run->passes + 1,
		.copied_mended = run->copied_mended,
	};
	start_over(run);
	ret = run_once(run, &repaired, err);
	res->corruptions_fixed += fixed(before.corruptions, serious(run));
	res->leaks_fixed += fixed(before.leaks, res->leaks);
	return ret;
}

/* Looks at the repaired image as if nothing were known of it. */
static int look_again(struct qcow2_storage file, const struct check_options *options,
		      uint64_t copied_mended, struct check_result *result, struct qcow2_error *err)
{
	struct check_result before = *result;
	struct check_run run = {
		.file = file, .options = *options, .result = result, .after_repair = true};
	bool repaired;
	int ret;

	run.options.repair = 0;
	start_over(&run);
	ret = run_once(&run, &repaired, err);
	release_run(&run);
	/* Flags that a raised count made wrong were never counted as found. */
	result->corruptions_fixed += fixed(before.corruptions, serious(&run)) + copied_mended;
	result->leaks_fixed += fixed(before.leaks, result->leaks);
	result->check_errors += before.check_errors;
	return ret;
}

/* The image is sound: the marks that say otherwise go, in one write, section 3.2. */
static int clear_marks(struct qcow2_storage file, uint64_t incompatible, struct qcow2_error *err)
{
	const uint64_t marks = LAYOUT_INCOMPAT_DIRTY | LAYOUT_INCOMPAT_CORRUPT;
	uint8_t bytes[8];
	int ret;

	if (!(incompatible & marks))
		return 0;
	store_be64(bytes, incompatible & ~marks);
	ret = storage_flush(file, err);
	if (ret == 0)
		ret = storage_write(file, bytes, sizeof(bytes), LAYOUT_OFF_INCOMPATIBLE, err);
	return ret == 0 ? storage_flush(file, err) : ret;
}

int check_image(struct qcow2_storage file, const struct check_options *options,
		struct check_result *result, struct qcow2_error *err)
{
	struct check_run run = {.file = file, .options = *options, .result = result};
	uint64_t incompatible;
	bool repaired;
	int ret;

	*result = (struct check_result){0};
	ret = run_once(&run, &repaired, err);
	incompatible = run.header.incompatible;
	result->was_dirty = incompatible & LAYOUT_INCOMPAT_DIRTY;
	result->was_corrupt = incompatible & LAYOUT_INCOMPAT_CORRUPT;
	while (ret == 0 && run.again) {
		repaired = true;
		ret = go_on(&run, err);
	}
	release_run(&run);
	if (ret == 0 && repaired)
		ret = look_again(file, options, run.copied_mended, result, err);
	if (ret == 0 && options->repair && result->corruptions == 0 && result->check_errors == 0)
		ret = clear_marks(file, incompatible, err);
	if (ret != 0) {
		result->check_errors++;
		error_prefix(err, "can't check the image");
	}
	return ret;
}

int check_repair_dirty(struct qcow2_storage file, struct qcow2_error *err)
{
	const struct check_options options = {.repair = CHECK_REPAIR_ALL};
	struct check_result result = {0};
	struct check_run run = {.file = file, .result = &result};
	int ret = open_run(&run, err);
	bool dirty = ret == 0 && (run.header.incompatible & LAYOUT_INCOMPAT_DIRTY);

	release_run(&run);
	if (ret < 0 || !dirty)
		return ret;
	ret = check_image(file, &options, &result, err);
	if (ret == 0 && result.check_errors > 0)
		ret = error_set(err, -EIO,
				"the refcounts can't be repaired: %" PRIu64
				" parts of the image couldn't be examined or written anew",
				result.check_errors);
	return ret;
}
