/* SPDX-License-Identifier: MIT */
/* qcow2 measure: how large a new image will be, before it is made. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/out.h"
#include "create_options.h"
#include "image.h"
#include "snapshot_arg.h"
#include "verb.h"

struct measure_args {
	bool image_opts, force_share, progress;
	const char *format, *target_format, *backing, *backing_format, *snapshot;
	struct cli_list options;
	struct cli_size size;
	int output;
};

#define AT(member) offsetof(struct measure_args, member)

static const struct cli_option measure_options[] = {
	{0, "size", CLI_SIZE, AT(size), "SIZE", "of an empty disk, in place of one that is copied",
	 NULL},
	{'f', "format", CLI_STRING, AT(format), "FMT", "format of the source (default: look)",
	 NULL},
	{'O', "target-format", CLI_STRING, AT(target_format), "FMT",
	 "format of the image, qcow2 or raw (the default)", NULL},
	{'o', "options", CLI_LIST, AT(options), "LIST",
	 "NAME=VALUE,... of the new image: see '-o help'", NULL},
	{'B', "backing", CLI_STRING, AT(backing), "FILE", "of the top layer only, on this file",
	 NULL},
	{'b', NULL, CLI_STRING, AT(backing), "FILE", NULL, NULL},
	{'F', "backing-format", CLI_STRING, AT(backing_format), "FMT", "format of that file", NULL},
	{'l', "snapshot", CLI_STRING, AT(snapshot), "ID|NAME", "of this internal snapshot", NULL},
	{'U', "force-share", CLI_FLAG, AT(force_share), NULL, "read even while others write", NULL},
	{'p', "progress", CLI_PROGRESS, AT(progress), NULL, "show the progress, in percent", NULL},
	{0, "output", CLI_CHOICE, AT(output), "text|json", "for people (the default) or programs",
	 tool_outputs},
	{0, "image-opts", CLI_FLAG, AT(image_opts), NULL,
	 "FILE is driver=FMT,file.filename=FILE,...", NULL},
	CLI_END,
};

const struct cli_command measure_command = {
	.name = "measure",
	.operands = "[FILE]",
	.summary = "Tells how large a new image will be.",
	.options = measure_options,
	.notes = "\nFor what 'qcow2 convert' makes of FILE with these options, or what\n"
		 "'qcow2 create' does with --size. Data aren't read.",
	.failure_status = EXIT_FAILURE,
	.own_progress = true,
};

/* What doesn't go together. 0, or an exit code after the sentence. */
static int check(const struct measure_args *args, int nfiles)
{
	if (nfiles > 1)
		return cli_error("at most one FILE can be measured");
	if (nfiles == 0 && (args->image_opts || args->format || args->snapshot))
		return cli_error("--image-opts, -f and -l are about a FILE, and there is none");
	if (nfiles == 0 && !args->size.given)
		return cli_error("a FILE is needed, or the --size of an empty disk");
	if (nfiles > 0 && args->size.given)
		return cli_error("--size is of an empty disk: it doesn't go with a FILE");
	return 0;
}

static int collect(struct tool_create *create, const struct measure_args *args)
{
	size_t i;
	int rc = 0;

	for (i = 0; rc == 0 && i < args->options.n; i++)
		rc = tool_create_set_list(create, args->options.items[i]);
	if (rc == 0 && args->backing)
		rc = tool_create_set(create, "backing_file", args->backing);
	if (rc == 0 && args->backing_format)
		rc = tool_create_set(create, "backing_fmt", args->backing_format);
	if (args->size.given)
		create->lib.size = args->size.value;
	/* of a file that isn't opened nobody has to say what it is */
	if (create->lib.backing_file && !create->lib.backing_format)
		create->lib.backing_format = "raw";
	return rc;
}

static int open_source(struct qcow2_image **image, const struct measure_args *args,
		       const char *path)
{
	unsigned flags = (args->force_share ? QCOW2_OPEN_FORCE_SHARE : 0) |
			 (args->image_opts ? TOOL_OPEN_IMAGE_OPTS : 0);
	char *snapshot = NULL;
	int rc = 0;

	tool_many_files();
	if (args->snapshot)
		rc = tool_find_snapshot(path, args->format, flags, args->snapshot, &snapshot);
	if (rc == 0)
		rc = tool_open(image, path, args->format, snapshot, flags);
	free(snapshot);
	return rc;
}

/* The other program reckons by rules of its own, and says nothing of data files. */
static void print(const struct qcow2_measure_result *r, bool json)
{
	bool face = cli_is_face();
	uint64_t bitmaps = face ? r->bound_bitmaps_bytes : r->bitmaps_bytes;
	struct cli_out out;

	cli_out_init(&out, stdout, json);
	cli_out_open(&out, NULL, '{');
	if (json && r->has_bitmaps)
		cli_out_u64(&out, "bitmaps", bitmaps);
	cli_out_u64(&out, json ? "required" : "required size",
		    face ? r->bound_required_bytes : r->required_bytes);
	cli_out_u64(&out, json ? "fully-allocated" : "fully allocated size",
		    face ? r->bound_fully_allocated_bytes : r->fully_allocated_bytes);
	if (!json && r->has_bitmaps)
		cli_out_u64(&out, "bitmaps size", bitmaps);
	if (r->data_file_bytes && !face)
		cli_out_u64(&out, json ? "data-file" : "data file size", r->data_file_bytes);
	cli_out_close(&out);
}

static int measure(struct qcow2_image *image, const struct tool_create *create,
		   const struct measure_args *args)
{
	bool json = args->output == TOOL_OUTPUT_JSON;
	struct cli_progress progress;
	int rc;
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_measure_result result = QCOW2_MEASURE_RESULT_INIT;
	struct qcow2_error err = {0};

	options.create = &create->lib;
	options.flags = create->lib.backing_file ? QCOW2_CONVERT_ON_TOP : 0;
	options.progress.tick = cli_progress_tick;
	options.progress.opaque = &progress;
	cli_interrupt_catch();
	cli_progress_begin(&progress, args->progress && !json, false);
	rc = qcow2_measure(&image, image ? 1 : 0, &options, &result, &err);
	cli_progress_end(&progress, rc == 0);
	if (rc == -ECANCELED)
		cli_interrupt_die();
	if (rc < 0) {
		tool_explain(&err, NULL);
		return EXIT_FAILURE;
	}
	print(&result, json);
	return EXIT_SUCCESS;
}

int verb_measure(int argc, char **argv)
{
	struct measure_args args = {0};
	struct qcow2_image *image = NULL;
	struct tool_create create;
	const char *format;
	int status, first = cli_parse(&measure_command, argc, argv, &args, &status);

	format = args.target_format ? args.target_format : "raw";
	tool_create_init(&create, "measure", format);
	if (first < 0)
		goto out;
	status = EXIT_FAILURE;
	if (collect(&create, &args) < 0)
		goto out;
	if (create.help) {
		tool_create_print_help(format, true);
		status = EXIT_SUCCESS;
		goto out;
	}
	status = check(&args, argc - first);
	if (status != 0)
		goto out;
	status = EXIT_FAILURE;
	if (!tool_known_format(args.format))
		goto out;
	cli_set_subject("measure for", format); /* not of the source */
	if (!tool_known_format(args.target_format))
		goto out;
	cli_set_subject("measure", NULL);
	if (argc > first && open_source(&image, &args, argv[first]) < 0)
		goto out;
	status = measure(image, &create, &args);
out:
	qcow2_close(image);
	tool_create_release(&create);
	cli_list_release(&args.options);
	return status;
}
