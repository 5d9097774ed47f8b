/* SPDX-License-Identifier: MIT */
/*
 * qcow2 check: is an image sound, and can it be made so? Findings go to standard error, a line
 * each, the summary to standard output, both as qemu-img has them; what that doesn't know is told
 * by the library's own sentence in the same style. As JSON both are one object.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check_lines.h"
#include "cli/diag.h"
#include "cli/out.h"
#include "cli/progress.h"
#include "image.h"
#include "verb.h"

enum { CHECK_CLEAN, CHECK_INCOMPLETE, CHECK_CORRUPT, CHECK_LEAKS, CHECK_UNSUPPORTED = 63 };

struct check_args {
	bool image_opts;
	const char *format;
	const char *filename;	    /* of the file that is meant */
	const char *name;	    /* as it was typed */
	struct qcow2_storage store; /* what it comes to where it isn't a file's */
	const char *undo, *undo_apply;
	int repair, output;
	bool force_share, quiet, progress, no_undo, keep_undo, list;
	int cache;
};

static const char *const repairs[] = {"leaks", "all", NULL};

static const struct cli_option check_options[] = {
	{'f', "format", CLI_STRING, offsetof(struct check_args, format), "FMT",
	 "format: qcow2 (default: look)", NULL},
	{'r', "repair", CLI_CHOICE, offsetof(struct check_args, repair), "leaks|all",
	 "repair; leaks: give lost space back only", repairs},
	{0, "output", CLI_CHOICE, offsetof(struct check_args, output), "text|json",
	 "json: findings and summary as one object", tool_outputs},
	{'U', "force-share", CLI_FLAG, offsetof(struct check_args, force_share), NULL,
	 "check even while another program writes", NULL},
	{'T', "cache", CLI_CHOICE, offsetof(struct check_args, cache), "CACHE",
	 "none, directsync: no page cache", tool_cache_modes},
	{'p', "progress", CLI_PROGRESS, offsetof(struct check_args, progress), NULL,
	 "show the progress, in percent", NULL},
	{0, "undo", CLI_STRING, offsetof(struct check_args, undo), "FILE",
	 "where to save what is overwritten (IMAGE.undo)", NULL},
	{0, "no-undo", CLI_FLAG, offsetof(struct check_args, no_undo), NULL,
	 "repair without an undo file", NULL},
	{0, "keep-undo", CLI_FLAG, offsetof(struct check_args, keep_undo), NULL,
	 "leave the undo file where all went well too", NULL},
	{0, "undo-apply", CLI_STRING, offsetof(struct check_args, undo_apply), "FILE",
	 "take a repair back, of IMAGE if FILE is IMAGE.undo", NULL},
	{0, "list-findings", CLI_FLAG, offsetof(struct check_args, list), NULL,
	 "print what there is to find, and to repair", NULL},
	{'q', "quiet", CLI_FLAG, offsetof(struct check_args, quiet), NULL,
	 "say nothing but findings and errors", NULL},
	{0, "image-opts", CLI_FLAG, offsetof(struct check_args, image_opts), NULL,
	 "FILE is driver=FMT,file.filename=FILE,...", NULL},
	CLI_END,
};

const struct cli_command check_command = {
	.name = "check",
	.operands = "[FILE]",
	.summary = "Examines an image and repairs it.",
	.options = check_options,
	.notes =
		"\nThe undo file goes away when nothing is left to repair; block devices have one\n"
		"only if it is named. A repair that was cut off can be taken back, or run again\n"
		"once that file is removed.\n"
		"Exit code: 0 sound, 1 couldn't be checked, 2 corrupt, 3 leaks only,\n"
		"63 a format without a check.",
	.failure_status = CHECK_INCOMPLETE,
	.own_progress = true,
};

static bool was_repaired(const struct qcow2_check_result *r)
{
	return r->corruptions_fixed > 0 || r->leaks_fixed > 0;
}

static double percent(uint64_t part, uint64_t whole)
{
	return (double)part * 100.0 / (double)whole;
}

static void print_human(const struct qcow2_check_result *r)
{
	if (was_repaired(r))
		printf("The following inconsistencies were found and repaired:\n\n"
		       "    %" PRIu64 " leaked clusters\n    %" PRIu64 " corruptions\n\n"
		       "Double checking the fixed image now...\n",
		       r->leaks_fixed, r->corruptions_fixed);
	if (r->corruptions == 0 && r->leaks == 0 && r->check_errors == 0)
		puts("No errors were found on the image.");
	if (r->corruptions > 0)
		printf("\n%" PRIu64 " errors were found on the image.\n"
		       "Data may be corrupted, or further writes to the image may corrupt it.\n",
		       r->corruptions);
	if (r->leaks > 0)
		printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
		       "This means waste of disk space, but no harm to data.\n",
		       r->leaks);
	if (r->check_errors > 0)
		printf("\n%" PRIu64 " internal errors have occurred during the check.\n",
		       r->check_errors);
	if (r->allocated_clusters > 0 && r->total_clusters > 0)
		printf("%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, "
		       "%0.2f%% compressed clusters\n",
		       r->allocated_clusters, r->total_clusters,
		       percent(r->allocated_clusters, r->total_clusters),
		       percent(r->fragmented_clusters, r->allocated_clusters),
		       percent(r->compressed_clusters, r->allocated_clusters));
	if (r->image_end_off > 0)
		printf("Image end offset: %" PRIu64 "\n", r->image_end_off);
}

/* The order of qemu-img, which leaves out what is 0. */
static void print_json(struct cli_out *out, const struct qcow2_check_result *r,
		       const char *filename)
{
	const struct {
		const char *key;
		uint64_t value;
		bool always;
	} rows[] = {
		{"image-end-offset", r->image_end_off, false},
		{"compressed-clusters", r->compressed_clusters, false},
		{"total-clusters", r->total_clusters, false},
		{"corruptions", r->corruptions, false},
		{"corruptions-fixed", r->corruptions_fixed, false},
		{"check-errors", r->check_errors, true},
		{"leaks", r->leaks, false},
		{"leaks-fixed", r->leaks_fixed, false},
		{"allocated-clusters", r->allocated_clusters, false},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].always || rows[i].value > 0)
			cli_out_u64(out, rows[i].key, rows[i].value);
	cli_out_string(out, "filename", filename);
	cli_out_string(out, "format", r->format);
	if (r->fragmented_clusters > 0)
		cli_out_u64(out, "fragmented-clusters", r->fragmented_clusters);
}

/* result NULL: there is none, but what was begun is brought to an end. */
static void end_json(struct check_lines *lines, struct cli_out *out,
		     const struct qcow2_check_result *result, const struct check_args *args)
{
	if (cli_is_face() && result && !args->quiet) /* qemu-img is quiet then, too */
		cli_out_open(out, NULL, '{');
	else if (cli_is_face() || (!result && !lines->begun))
		return;
	if (lines->json) {
		check_lines_begin(lines);
		cli_out_close(out);
	}
	if (result)
		print_json(out, result, args->name);
	else
		cli_out_string(out, "filename", args->name);
	cli_out_close(out);
}

static int exit_code(const struct qcow2_check_result *r)
{
	if (r->check_errors > 0)
		return CHECK_INCOMPLETE;
	if (r->corruptions > 0)
		return CHECK_CORRUPT;
	return r->leaks > 0 ? CHECK_LEAKS : CHECK_CLEAN;
}

static unsigned open_flags(const struct check_args *args)
{
	return tool_cache_read_flags(args->cache) |
	       (args->force_share ? QCOW2_OPEN_FORCE_SHARE : 0) |
	       (args->repair >= 0 ? QCOW2_OPEN_WRITE : 0) |
	       (args->image_opts ? TOOL_OPEN_IMAGE_OPTS : 0);
}

static int failed(const struct qcow2_check_result *r, int rc, const struct qcow2_error *err,
		  const struct check_args *args)
{
	if (rc == -ENOTSUP && r->format && strcmp(r->format, "qcow2") != 0) {
		tool_explain(err, NULL);
		return CHECK_UNSUPPORTED;
	}
	tool_explain_opening(args->name, open_flags(args), err,
			     rc == -EAGAIN && args->repair < 0 && !args->force_share
				     ? "-U checks it all the same"
				     : NULL);
	return CHECK_INCOMPLETE;
}

/* ---- undo files ---- */

#define UNDO_SUFFIX ".undo"

/* The name beside the image, which is the caller's; NULL: there is to be none. */
static char *undo_path_of(const struct check_args *args)
{
	size_t size = args->filename ? strlen(args->filename) + sizeof(UNDO_SUFFIX) : 0;
	struct stat sb;
	char *path;

	/* qemu-img leaves no files beside an image. */
	if (size == 0 || args->repair < 0 || args->no_undo || args->undo || cli_is_face())
		return NULL;
	if (stat(args->filename, &sb) != 0 || !S_ISREG(sb.st_mode))
		return NULL;
	path = malloc(size);
	if (path)
		snprintf(path, size, "%s" UNDO_SUFFIX, args->filename);
	return path;
}

static void tell_undo(const struct check_args *args, const struct qcow2_check_options *options,
		      const struct qcow2_check_result *r)
{
	if (r->undo_left && !args->quiet)
		cli_warn("\"%s\" has what the repair has overwritten; --undo-apply brings it back",
			 options->undo_path);
}

static int apply_undo(const struct check_args *args)
{
	struct qcow2_error err = {0};
	size_t len = strlen(args->undo_apply), tail = sizeof(UNDO_SUFFIX) - 1;
	char *path = NULL;
	int rc;

	if (!args->filename) {
		if (len <= tail || strcmp(args->undo_apply + len - tail, UNDO_SUFFIX) != 0)
			return cli_usage("check", "which image? \"%s\" doesn't end in " UNDO_SUFFIX,
					 args->undo_apply);
		path = strndup(args->undo_apply, len - tail);
		if (!path)
			return cli_error("out of memory");
	}
	rc = qcow2_check_undo(path ? path : args->filename, args->undo_apply, 0,
			      args->keep_undo ? QCOW2_UNDO_KEEP : 0, &err);
	free(path);
	if (rc < 0) {
		tool_explain(&err, NULL);
		return CHECK_INCOMPLETE;
	}
	if (!args->quiet)
		puts("The image is what it was before the repair.");
	return CHECK_CLEAN;
}

/* ---- the catalogue ---- */

static int list_findings(bool json)
{
	struct qcow2_check_rule rule;
	struct cli_out out;

	cli_out_init(&out, stdout, json);
	if (json)
		cli_out_open(&out, NULL, '[');
	for (size_t i = 0; qcow2_check_rule(i, &rule); i++) {
		if (!json) {
			printf("%s (%s): %s\n    repair: %s\n", rule.code,
			       check_severities[rule.severity], rule.meaning, rule.repair);
			continue;
		}
		cli_out_open(&out, NULL, '{');
		cli_out_string(&out, "code", rule.code);
		cli_out_string(&out, "severity", check_severities[rule.severity]);
		cli_out_string(&out, "meaning", rule.meaning);
		cli_out_string(&out, "repair", rule.repair);
		cli_out_close(&out);
	}
	if (json)
		cli_out_close(&out);
	return CHECK_CLEAN;
}

/* ---- the verb ---- */

/* There may be a hundred thousand, and a program that reads them: not two system calls for each. */
static void buffer_findings(bool begin)
{
	static char buffer[1 << 16]; /* without one of ours the size is ignored */

	if (isatty(STDERR_FILENO))
		return;
	fflush(stderr);
	setvbuf(stderr, begin ? buffer : NULL, begin ? _IOFBF : _IONBF, begin ? sizeof(buffer) : 0);
}

static int check(const struct check_args *args)
{
	struct qcow2_check_options options = QCOW2_CHECK_OPTIONS_INIT;
	struct qcow2_check_result result = {0};
	struct qcow2_error err = {0};
	struct cli_progress shown;
	bool json = args->output == TOOL_OUTPUT_JSON;
	struct cli_out out;
	struct check_lines lines = {.progress = &shown,
				    .json = json && !cli_is_face() ? &out : NULL};
	char *undo_path = undo_path_of(args);
	int rc;

	cli_out_init(&out, stdout, true);
	options.flags = tool_cache_read_flags(args->cache) |
			(args->force_share ? QCOW2_OPEN_FORCE_SHARE : 0);
	options.repair = (unsigned)(args->repair + 1);
	options.format = args->format;
	options.finding = check_lines_put;
	options.opaque = &lines;
	options.progress.tick = cli_progress_tick;
	options.progress.opaque = &shown;
	cli_progress_begin(&shown, args->progress && !json, args->quiet);
	options.undo_path = args->undo ? args->undo : undo_path;
	options.undo_flags = args->keep_undo ? QCOW2_UNDO_KEEP : 0;
	buffer_findings(true);
	rc = args->filename ? qcow2_check(args->filename, &options, &result, &err)
			    : qcow2_check_storage(args->store, &options, &result, &err);
	buffer_findings(false);
	cli_progress_end(&shown, rc == 0);
	tell_undo(args, &options, &result);
	free(undo_path);
	if (json)
		end_json(&lines, &out, rc < 0 || lines.needs_rebuild ? NULL : &result, args);
	if (rc < 0)
		return failed(&result, rc, &err, args);
	if (lines.needs_rebuild) {
		cli_error("the refcounts have to be written anew first (-r all does that); "
			  "nothing was changed");
		return CHECK_INCOMPLETE;
	}
	if (!json && !args->quiet)
		print_human(&result);
	if (result.check_errors > 0)
		cli_error("the check couldn't be completed");
	return exit_code(&result);
}

int verb_check(int argc, char **argv)
{
	struct check_args args = {.repair = -1, .cache = TOOL_CACHE_WRITEBACK};
	int status, first = cli_parse(&check_command, argc, argv, &args, &status);
	char *path = NULL;

	if (first < 0)
		return status;
	if (args.list)
		return first == argc ? list_findings(args.output == TOOL_OUTPUT_JSON)
				     : cli_usage("check", "--list-findings looks at no image");
	args.filename = first < argc ? argv[first] : NULL;
	if (argc - first > 1 || (argc == first && !args.undo_apply))
		return cli_usage("check", "expecting one image file");
	if (args.undo_apply && (args.repair >= 0 || args.undo))
		return cli_usage("check",
				 "--undo-apply takes a repair back, and does nothing else");
	if ((args.undo || args.keep_undo) && args.no_undo)
		return cli_usage("check", "an undo file and --no-undo contradict each other");
	if (!tool_known_format(args.format))
		return CHECK_INCOMPLETE;
	if (args.format && args.image_opts)
		return cli_error("--image-opts and -f are mutually exclusive");
	if (args.filename) {
		args.name = args.filename;
		if (tool_path_or_store(args.name, &args.format, open_flags(&args), &path,
				       &args.store) < 0)
			return CHECK_INCOMPLETE;
		args.filename = path;
	}
	if (args.undo_apply && args.store.ops)
		status = cli_error("\"%s\" is more than a file: what was changed in that is "
				   "brought back by its own name",
				   args.name);
	else
		status = args.undo_apply ? apply_undo(&args) : check(&args);
	qcow2_storage_close(&args.store);
	free(path);
	return status;
}
