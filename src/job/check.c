/* SPDX-License-Identifier: MIT */
/*
 * Check: the examination and repair of check/ for callers of the library, with locks and progress.
 * What is wrong with an image is decided there, not here.
 */
#include <errno.h>
#include <string.h>

#include "base/num.h"
#include "base/progress.h"
#include "check/check.h"
#include "disk/disk.h"
#include "image/image.h"
#include "image/options.h"

#define CHECK_FLAGS (QCOW2_OPEN_FORCE_SHARE | QCOW2_OPEN_NO_LOCK | QCOW2_OPEN_DIRECT)
#define SENTENCE_SIZE 256

struct check {
	const struct qcow2_check_options *options;
	struct progress_ticker ticker;
	uint64_t done, total;
};

static enum qcow2_check_severity severity_of(enum check_finding finding)
{
	switch (check_finding_kind(finding)) {
	case CHECK_KIND_LEAK:
		return QCOW2_CHECK_LEAK;
	case CHECK_KIND_CORRUPTION:
		return QCOW2_CHECK_ERROR;
	case CHECK_KIND_NOTE:
		return QCOW2_CHECK_NOTE;
	case CHECK_KIND_ERROR:
		break;
	}
	return QCOW2_CHECK_FAILED;
}

bool qcow2_check_rule(size_t idx, struct qcow2_check_rule *rule)
{
	enum check_finding finding = (enum check_finding)idx;

	if (idx >= CHECK_FINDINGS)
		return false;
	*rule = (struct qcow2_check_rule){
		.code = check_finding_name(finding),
		.severity = severity_of(finding),
		.meaning = check_finding_words(finding),
		.repair = check_finding_repair(finding),
	};
	return true;
}

static enum qcow2_check_phase phase_of(const struct check_report *r)
{
	if (r->repaired)
		return QCOW2_CHECK_REPAIRED;
	if (r->kept)
		return QCOW2_CHECK_KEPT;
	return r->after_repair ? QCOW2_CHECK_LEFT : QCOW2_CHECK_FOUND;
}

static int tell(const struct check *c, const struct qcow2_check_finding *finding)
{
	if (!c->options->finding)
		return 0;
	return c->options->finding(c->options->opaque, finding) != 0 ? -ECANCELED : 0;
}

static int report(void *opaque, const struct check_report *r)
{
	char sentence[SENTENCE_SIZE];
	const struct qcow2_check_finding finding = {
		.code = check_finding_name(r->finding),
		.severity = severity_of(r->finding),
		.phase = phase_of(r),
		.sentence = check_finding_text(r, sentence, sizeof(sentence)),
		.repair = check_finding_repair(r->finding),
		.guest_off = r->guest_off,
		.host_off = r->host_off,
		.entry_off = r->entry_off,
		.entry_index = r->index,
		.stored = r->stored,
		.computed = r->computed,
		.nclusters = r->nclusters,
		.len_bytes = r->len_bytes,
		.cluster_bytes = r->cluster_size,
	};

	return tell(opaque, &finding);
}

static int tick(void *opaque, uint64_t done_bytes, uint64_t total_bytes)
{
	struct check *c = opaque;

	c->done = done_bytes;
	c->total = total_bytes;
	return progress_tell(&c->ticker, &c->options->progress, done_bytes, total_bytes, false) != 0
		       ? -ECANCELED
		       : 0;
}

static void fill(struct qcow2_check_result *result, const struct check_result *r)
{
	result->corruptions = r->corruptions;
	result->leaks = r->leaks;
	result->check_errors = r->check_errors;
	result->corruptions_fixed = r->corruptions_fixed;
	result->leaks_fixed = r->leaks_fixed;
	result->image_end_off = r->image_end_off;
	result->total_clusters = r->total_clusters;
	result->allocated_clusters = r->allocated_clusters;
	result->fragmented_clusters = r->fragmented_clusters;
	result->compressed_clusters = r->compressed_clusters;
	result->data_bytes = r->data_bytes;
	result->compressed_bytes = r->compressed_bytes;
	result->metadata_bytes = r->metadata_bytes;
	result->snapshot_bytes = r->snapshot_bytes;
	result->leaked_bytes = r->leaked_bytes;
	result->free_bytes = r->free_bytes;
}

static int examine(struct qcow2_storage store, const struct qcow2_check_options *o,
		   struct qcow2_check_result *result, struct qcow2_error *err)
{
	struct check c = {.options = o};
	struct check_options options = {.report = report, .tick = tick, .opaque = &c};
	struct check_result r;
	int ret;

	if (o->repair == QCOW2_REPAIR_LEAKS)
		options.repair = CHECK_REPAIR_LEAKS;
	else if (o->repair == QCOW2_REPAIR_ALL)
		options.repair = CHECK_REPAIR_ALL | CHECK_REPAIR_CLEAR;
	ret = check_image(store, &options, &r, err);
	fill(result, &r);
	if (ret == -ECANCELED)
		return error_set(err, ret, "canceled");
	if (ret == 0)
		progress_tell(&c.ticker, &o->progress, c.total, c.total, true);
	return ret;
}

/* Was everything repaired that was to be? */
static bool is_mended(const struct qcow2_check_options *o, const struct qcow2_check_result *r)
{
	return r->check_errors == 0 && r->leaks == 0 &&
	       (o->repair == QCOW2_REPAIR_LEAKS || r->corruptions == 0);
}

/* The same with an undo file. */
static int examine_undoably(struct qcow2_storage store, const struct qcow2_check_options *o,
			    struct qcow2_check_result *result, struct qcow2_error *err)
{
	struct qcow2_storage undo;
	bool remove;
	int ret = storage_undo_new(&undo, store, o->undo_path, err);

	if (ret < 0)
		return ret;
	ret = examine(undo, o, result, err);
	remove = ret == 0 && is_mended(o, result) && !(o->undo_flags & QCOW2_UNDO_KEEP);
	if (ret == 0)
		ret = remove ? storage_undo_remove(undo, err) : storage_undo_finish(undo, err);
	result->undo_left = storage_undo_is_there(undo) && !(remove && ret == 0);
	storage_close(&undo);
	return ret;
}

static int run(struct qcow2_storage store, const struct qcow2_check_options *o,
	       struct qcow2_check_result *result, struct qcow2_error *err)
{
	if (strcmp(result->format, "qcow2") != 0)
		return error_set(err, -ENOTSUP, "%s images have nothing that could be checked",
				 result->format);
	if (o->repair && o->undo_path)
		return examine_undoably(store, o, result, err);
	return examine(store, o, result, err);
}

static int take_options(struct qcow2_check_options *o, const struct qcow2_check_options *given,
			struct qcow2_check_result *result, struct qcow2_error *err)
{
	int ret = OPTIONS_TAKE(o, given, "check options", err);

	*result = (struct qcow2_check_result){0};
	if (ret < 0)
		return ret;
	if (o->flags & ~CHECK_FLAGS)
		return error_set(err, -EINVAL, "unknown check flags 0x%x", o->flags & ~CHECK_FLAGS);
	if (o->undo_flags & ~QCOW2_UNDO_KEEP)
		return error_set(err, -EINVAL, "unknown undo flags 0x%x", o->undo_flags);
	if (o->repair > QCOW2_REPAIR_ALL)
		return error_set(err, -EINVAL, "unknown way of repair %u", o->repair);
	if (o->repair && (o->flags & QCOW2_OPEN_FORCE_SHARE))
		return error_set(err, -EINVAL,
				 "can't repair an image that others may be writing to");
	return 0;
}

int qcow2_check(const char *path, const struct qcow2_check_options *options,
		struct qcow2_check_result *result, struct qcow2_error *err)
{
	struct qcow2_check_options o = QCOW2_CHECK_OPTIONS_INIT;
	struct qcow2_storage store = {0};
	unsigned flags;
	int ret = take_options(&o, options, result, err);

	if (ret < 0)
		return ret;
	flags = o.flags | (o.repair ? QCOW2_OPEN_WRITE : 0);
	ret = storage_file_open(&store, path, image_storage_flags(flags), err);
	if (ret == 0)
		ret = image_settle_format(store, o.format, &result->format, flags, err);
	if (ret == 0)
		ret = image_take_lock(store, result->format, flags, err);
	if (ret == 0) {
		ret = run(store, &o, result, err);
		if (ret < 0 && ret != -ECANCELED)
			error_prefix(err, "\"%s\"", path);
	}
	storage_close(&store);
	return ret;
}

int qcow2_check_storage(struct qcow2_storage storage, const struct qcow2_check_options *options,
			struct qcow2_check_result *result, struct qcow2_error *err)
{
	struct qcow2_check_options o = QCOW2_CHECK_OPTIONS_INIT;
	int ret = take_options(&o, options, result, err);

	if (ret == 0)
		ret = image_settle_format(storage, o.format, &result->format, QCOW2_OPEN_NO_LOCK,
					  err);
	return ret == 0 ? run(storage, &o, result, err) : ret;
}

/* ---- taking a repair back ------------------------------------------------------------------ */

static int undo(struct qcow2_storage store, const char *undo_path, unsigned undo_flags,
		struct qcow2_error *err)
{
	struct qcow2_storage file = {0};
	int ret = storage_file_open(&file, undo_path, STORAGE_FILE_WRITE, err);

	if (ret == 0)
		ret = storage_undo_apply(store, file, err);
	if (ret == 0 && !(undo_flags & QCOW2_UNDO_KEEP))
		ret = storage_file_remove(file, undo_path, err);
	storage_close(&file);
	return ret;
}

int qcow2_check_undo(const char *path, const char *undo_path, unsigned flags, unsigned undo_flags,
		     struct qcow2_error *err)
{
	struct qcow2_storage store = {0};
	int ret;

	if ((flags & ~(CHECK_FLAGS & ~QCOW2_OPEN_FORCE_SHARE)) || (undo_flags & ~QCOW2_UNDO_KEEP))
		return error_set(err, -EINVAL, "unknown flags 0x%x, 0x%x", flags, undo_flags);
	flags |= QCOW2_OPEN_WRITE;
	ret = storage_file_open(&store, path, image_storage_flags(flags), err);
	/* Whatever the repair has made of it: it was a qcow2 image. */
	if (ret == 0)
		ret = image_take_lock(store, "qcow2", flags, err);
	if (ret == 0) {
		ret = undo(store, undo_path, undo_flags, err);
		if (ret < 0)
			error_prefix(err, "can't bring \"%s\" back with \"%s\"", path, undo_path);
	}
	storage_close(&store);
	return ret;
}
