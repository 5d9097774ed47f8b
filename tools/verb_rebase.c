/* SPDX-License-Identifier: MIT */
/* qcow2 rebase: another backing file for an image. */
#include <errno.h>
#include <stdlib.h>

#include "cli/diag.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "image.h"
#include "loss.h"
#include "verb.h"

#define CANCELED (-1) /* instead of an exit code: the process ends by the signal that came */

struct rebase_args {
	bool image_opts;
	const char *format, *backing, *backing_format;
	int cache, source_cache;
	struct cli_size level;
	bool unsafe, compress, progress, quiet, force_share, dry_run;
};

#define AT(member) offsetof(struct rebase_args, member)

static const struct cli_option rebase_options[] = {
	{'f', "format", CLI_STRING, AT(format), "FMT", "format of the image", NULL},
	{'b', "backing", CLI_STRING, AT(backing), "FILE", "the new backing file; '' for none",
	 NULL},
	{'F', "backing-format", CLI_STRING, AT(backing_format), "FMT",
	 "format of the new backing file: qcow2 or raw", NULL},
	{'u', "unsafe", CLI_FLAG, AT(unsafe), NULL,
	 "change the name only: for a file that was moved", NULL},
	{'c', "compress", CLI_FLAG, AT(compress), NULL, "compress what is copied", NULL},
	{0, "level", CLI_NUMBER, AT(level), "N", "so hard: deflate 1-12, zstd 1-22", NULL},
	{'t', "cache", CLI_CHOICE, AT(cache), "CACHE", "cache mode of the image", tool_cache_modes},
	{'T', "backing-cache", CLI_CHOICE, AT(source_cache), "CACHE",
	 "cache mode of the backing files", tool_cache_modes},
	{'U', "force-share", CLI_FLAG, AT(force_share), NULL,
	 "read the new backing file even while others write", NULL},
	{0, "dry-run", CLI_FLAG, AT(dry_run), NULL, "with -u: only tell what would be lost", NULL},
	{'p', "progress", CLI_PROGRESS, AT(progress), NULL, "show the progress, in percent", NULL},
	{'q', "quiet", CLI_FLAG, AT(quiet), NULL, "say nothing but errors", NULL},
	{0, "image-opts", CLI_FLAG, AT(image_opts), NULL,
	 "FILE is driver=FMT,file.filename=FILE,...", NULL},
	CLI_END,
};

const struct cli_command rebase_command = {
	.name = "rebase",
	.operands = "FILE",
	.summary = "Gives an image another backing file; its disk reads as before.",
	.options = rebase_options,
	.notes = "CACHE is none, writeback, writethrough, directsync or unsafe.\n\n"
		 "What the new backing file has otherwise is copied into the image first, but not\n"
		 "with -u: then the new one has to read as the old one did.",
	.failure_status = EXIT_FAILURE,
};

/* What doesn't go together, before anything is opened. */
static int check(const struct rebase_args *args)
{
	if (!args->backing && !args->unsafe)
		return cli_usage("rebase",
				 "Must specify backing file (-b) or use unsafe mode (-u)");
	if (args->level.given && !args->compress)
		return cli_usage("rebase", "--level goes with -c");
	if (args->dry_run && !args->unsafe)
		return cli_usage("rebase", "--dry-run goes with -u: nothing is lost without it");
	if (!tool_known_format(args->format))
		return EXIT_FAILURE;
	cli_set_subject("rebase to", NULL);
	if (!tool_known_format(args->backing_format))
		return EXIT_FAILURE;
	cli_set_subject("rebase", NULL);
	if (args->backing && args->backing[0] && !args->backing_format)
		return cli_error(
			"Could not change the backing file to '%s': backing format must be "
			"specified",
			args->backing);
	return 0;
}

/* Without a copy the disk may change. -errno, told. */
static int tell_loss(struct qcow2_image *image, const char *backing, enum tool_loss mode)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct qcow2_error err = {0};

	if (mode == TOOL_LOSS_UNSAID)
		return 0;
	if (qcow2_info(image, &info, &err) < 0) {
		tool_explain(&err, NULL);
		return err.code;
	}
	if (!info.backing_file) {
		if (mode == TOOL_LOSS_DRY_RUN)
			tool_loss_say(mode, "nothing would be lost: there is no backing file yet");
		return 0;
	}
	tool_loss_say(
		mode,
		"what the disk has from \"%s\" [would be|is] lost, but for what %s%s%s: nothing "
		"[would be|is] copied",
		info.backing_file, backing ? "\"" : "is zeros", backing ? backing : "",
		backing ? "\" has, too" : "");
	return 0;
}

static int rebase(struct qcow2_image *image, const struct rebase_args *args)
{
	struct qcow2_rebase_options options = QCOW2_REBASE_OPTIONS_INIT;
	const char *backing = args->backing && args->backing[0] ? args->backing : NULL;
	struct qcow2_error err = {0};
	struct cli_progress progress;
	int rc;

	if (args->unsafe &&
	    tell_loss(image, backing, tool_loss_mode(args->dry_run, args->quiet)) < 0)
		return EXIT_FAILURE;
	if (args->dry_run)
		return EXIT_SUCCESS;
	options.flags = (args->unsafe ? QCOW2_REBASE_UNSAFE : 0) |
			(args->compress ? QCOW2_REBASE_COMPRESS : 0);
	options.compression_level = (int)args->level.value;
	options.backing_format = args->backing_format;
	options.backing_open_flags = tool_cache_read_flags(args->source_cache) |
				     (args->force_share ? QCOW2_OPEN_FORCE_SHARE : 0);
	options.progress.tick = cli_progress_tick;
	options.progress.opaque = &progress;
	cli_interrupt_catch();
	cli_progress_begin(&progress, args->progress, args->quiet);
	rc = qcow2_rebase(image, backing, &options, NULL, &err);
	cli_progress_end(&progress, rc == 0);
	if (rc < 0 && rc != -ECANCELED)
		cli_error("Could not change the backing file to '%s': %s", backing ? backing : "",
			  err.message);
	if (rc == -ECANCELED)
		return CANCELED;
	return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int verb_rebase(int argc, char **argv)
{
	struct rebase_args args = {.cache = TOOL_CACHE_WRITEBACK,
				   .source_cache = TOOL_CACHE_WRITEBACK};
	struct qcow2_image *image = NULL;
	int status, first = cli_parse(&rebase_command, argc, argv, &args, &status);
	unsigned flags;

	if (first < 0)
		return status;
	if (argc - first != 1)
		return cli_usage("rebase", "expecting one image file");
	status = check(&args);
	if (status != 0)
		return status;
	tool_many_files();
	/* its present backing file may be missing: that is what -u is for */
	flags = (args.dry_run ? 0 : QCOW2_OPEN_WRITE) | tool_cache_write_flags(args.cache) |
		(args.unsafe ? QCOW2_OPEN_NO_BACKING : 0) |
		(args.image_opts ? TOOL_OPEN_IMAGE_OPTS : 0);
	status = EXIT_FAILURE;
	if (tool_open(&image, argv[first], args.format, NULL, flags) == 0)
		status = rebase(image, &args);
	qcow2_close(image);
	if (status == CANCELED)
		cli_interrupt_die();
	return status == CANCELED ? EXIT_FAILURE : status;
}
