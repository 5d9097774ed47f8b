/* SPDX-License-Identifier: MIT */
/* qcow2 commit: what an overlay holds is written into its backing file. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/diag.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/size.h"
#include "image.h"
#include "loss.h"
#include "verb.h"

#define CANCELED (-1) /* instead of an exit code: the process ends by the signal that came */

struct commit_args {
	bool image_opts;
	const char *format, *base, *filename;
	struct cli_size rate;
	int cache;
	bool keep, progress, quiet, dry_run;
};

#define AT(member) offsetof(struct commit_args, member)

static const struct cli_option commit_options[] = {
	{'f', "format", CLI_STRING, AT(format), "FMT", "format of the image: qcow2 or raw", NULL},
	{'b', "base", CLI_STRING, AT(base), "FILE",
	 "write into this file of the chain (implies -d)", NULL},
	{'d', "keep", CLI_FLAG, AT(keep), NULL, "don't empty the image when all is committed",
	 NULL},
	{'r', "rate-limit", CLI_SIZE, AT(rate), "SIZE", "move so many bytes a second at most",
	 NULL},
	{'t', "cache", CLI_CHOICE, AT(cache), "CACHE", "cache mode (default: writeback)",
	 tool_cache_modes},
	{0, "dry-run", CLI_FLAG, AT(dry_run), NULL, "only tell what would be lost", NULL},
	{'p', "progress", CLI_PROGRESS, AT(progress), NULL, "show the progress, in percent", NULL},
	{'q', "quiet", CLI_FLAG, AT(quiet), NULL, "say nothing but errors", NULL},
	{0, "image-opts", CLI_FLAG, AT(image_opts), NULL,
	 "FILE is driver=FMT,file.filename=FILE,...", NULL},
	CLI_END,
};

const struct cli_command commit_command = {
	.name = "commit",
	.operands = "FILE",
	.summary = "Writes what an image holds into its backing file, and empties it.",
	.options = commit_options,
	.notes = "CACHE is none, writeback, writethrough, directsync or unsafe.\n\n"
		 "The backing file grows to the size of the image if it is smaller. With -b the\n"
		 "image isn't emptied, and the layers between it and the base are of no use any\n"
		 "more. Other images on top of the base are not either, in any case.",
	.failure_status = EXIT_FAILURE,
};

static int explain(const struct commit_args *args, const struct qcow2_error *err)
{
	if (err->code == -ENOENT && args->base)
		return cli_error("Did not find '%s' in the backing chain of '%s'", args->base,
				 args->filename);
	tool_explain(err, NULL);
	return EXIT_FAILURE;
}

/* -errno, told. */
static int tell_loss(struct qcow2_image *image, const struct commit_args *args, enum tool_loss mode)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	char size[CLI_SIZE_TEXT];
	struct qcow2_error err = {0};
	uint64_t bytes;
	int rc;

	if (mode == TOOL_LOSS_UNSAID)
		return 0;
	if (args->base) {
		tool_loss_say(
			mode,
			"\"%s\" [would get|gets] what the images above it hold, and [would "
			"lose|loses] what it has there: all that stand on it, but for \"%s\", "
			"[would be|are] of no use then",
			args->base, args->filename);
		return 0;
	}
	rc = tool_loss_count(image, 0, &bytes);
	if (rc == 0 && qcow2_info(qcow2_backing(image), &info, &err) < 0) {
		tool_explain(&err, NULL);
		rc = err.code;
	}
	if (rc == 0)
		tool_loss_say(
			mode,
			"\"%s\" [would lose|loses] what it has where the %s of data in \"%s\" "
			"are written: other images on it [would be|are] of no use then",
			info.filename, cli_size_human(size, bytes), args->filename);
	return rc;
}

static int commit(struct qcow2_image *image, const struct commit_args *args)
{
	struct qcow2_commit_options options = QCOW2_COMMIT_OPTIONS_INIT;
	struct qcow2_error err = {0};
	struct cli_progress progress;
	int rc;

	if (!qcow2_backing(image))
		return cli_error("Image does not have a backing file");
	options.base = args->base;
	options.flags = QCOW2_COMMIT_CHECK;
	if (qcow2_commit(image, &options, NULL, &err) < 0)
		return explain(args, &err);
	if (tell_loss(image, args, tool_loss_mode(args->dry_run, args->quiet)) < 0)
		return EXIT_FAILURE;
	if (args->dry_run)
		return EXIT_SUCCESS;
	options.flags = args->keep || args->base ? QCOW2_COMMIT_KEEP : 0;
	options.rate_limit = args->rate.value;
	options.progress.tick = cli_progress_tick;
	options.progress.opaque = &progress;
	cli_interrupt_catch();
	cli_progress_begin(&progress, args->progress, args->quiet);
	rc = qcow2_commit(image, &options, NULL, &err);
	cli_progress_end(&progress, rc == 0);
	if (rc < 0 && rc != -ECANCELED)
		return explain(args, &err);
	if (rc == 0 && !args->quiet)
		puts("Image committed.");
	if (rc == -ECANCELED)
		return CANCELED;
	return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int verb_commit(int argc, char **argv)
{
	struct commit_args args = {.cache = TOOL_CACHE_WRITEBACK};
	struct qcow2_image *image = NULL;
	int status, first = cli_parse(&commit_command, argc, argv, &args, &status);

	if (first < 0)
		return status;
	if (argc - first != 1)
		return cli_usage("commit", "expecting one image file");
	if (!tool_known_format(args.format))
		return EXIT_FAILURE;
	args.filename = argv[first];
	tool_many_files();
	status = EXIT_FAILURE;
	if (tool_open(&image, args.filename, args.format, NULL,
		      (args.dry_run ? 0 : QCOW2_OPEN_WRITE) | tool_cache_write_flags(args.cache) |
			      (args.image_opts ? TOOL_OPEN_IMAGE_OPTS : 0)) == 0)
		status = commit(image, &args);
	qcow2_close(image);
	if (status == CANCELED)
		cli_interrupt_die();
	return status == CANCELED ? EXIT_FAILURE : status;
}
