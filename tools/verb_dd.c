/* SPDX-License-Identifier: MIT */
/* qcow2 dd: a part of a disk as a new image, in the words of dd(1). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/size.h"
#include "image.h"
#include "verb.h"

#define BLOCK_MAX INT32_MAX

struct dd_args {
	const char *format, *target_format;
	bool force_share, force, image_opts, progress, quiet;
	/* of the operands */
	const char *input, *output;
	uint64_t block, count, skip;
	bool counted;
};

#define AT(member) offsetof(struct dd_args, member)

static const struct cli_option dd_options[] = {
	{'f', "format", CLI_STRING, AT(format), "FMT", "format of the input (default: look)", NULL},
	{'O', "target-format", CLI_STRING, AT(target_format), "FMT",
	 "format of the output, qcow2 or raw (the default)", NULL},
	{'U', "force-share", CLI_FLAG, AT(force_share), NULL, "read even while others write", NULL},
	{0, "force", CLI_FLAG, AT(force), NULL, "replace an output that isn't empty", NULL},
	{'p', "progress", CLI_PROGRESS, AT(progress), NULL, "show the progress, in percent", NULL},
	{'q', "quiet", CLI_FLAG, AT(quiet), NULL, "say nothing but errors", NULL},
	{0, "image-opts", CLI_FLAG, AT(image_opts), NULL,
	 "INPUT is driver=FMT,file.filename=FILE,...", NULL},
	CLI_END,
};

const struct cli_command dd_command = {
	.name = "dd",
	.operands = "if=INPUT of=OUTPUT [bs=SIZE] [count=N] [skip=N]",
	.summary = "Copies a part of a disk to a new image.",
	.options = dd_options,
	.notes = "\nbs is the size of a block, 512 bytes if it isn't given. skip blocks are left\n"
		 "out at the beginning; the output ends where block number count would begin.\n"
		 "Numbers may have a unit too.",
	.failure_status = EXIT_FAILURE,
	.own_progress = true,
};

/* ---- operands ---- */

static int take_number(uint64_t *number, const char *name, const char *value)
{
	if (cli_size_parse(value, number) == 0 && *number <= INT64_MAX)
		return 0;
	cli_error("Invalid %s specified. You may use k, M, G, T, P or E suffixes for", name);
	return cli_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
}

/* "name=value": an exit code after an error, else 0. */
static int take_operand(struct dd_args *args, const char *word)
{
	const char *value = strchr(word, '=');
	size_t len = value ? (size_t)(value++ - word) : strlen(word);
	int status = 0;

	if (value && len == 2 && strncmp(word, "if", len) == 0) {
		args->input = value;
	} else if (value && len == 2 && strncmp(word, "of", len) == 0) {
		args->output = value;
	} else if (value && len == 2 && strncmp(word, "bs", len) == 0) {
		status = take_number(&args->block, "bs", value);
		if (status == 0 && (args->block < 1 || args->block > BLOCK_MAX))
			status = cli_error("Invalid bs specified. Must be between 1 and %d.",
					   BLOCK_MAX);
	} else if (value && len == 5 && strncmp(word, "count", len) == 0) {
		status = take_number(&args->count, "count", value);
		args->counted = true;
	} else if (value && len == 4 && strncmp(word, "skip", len) == 0) {
		status = take_number(&args->skip, "skip", value);
	} else {
		status = cli_error("unrecognized operand %.*s", (int)len, word);
	}
	return status;
}

/* ---- the part of the disk ---- */

static uint64_t bytes_of(uint64_t nblocks, uint64_t block)
{
	return nblocks > INT64_MAX / block ? INT64_MAX : nblocks * block;
}

/* The part that is copied: [off, end). */
static void find_part(const struct dd_args *args, uint64_t size, uint64_t *off, uint64_t *end)
{
	*end = size;
	if (args->counted && bytes_of(args->count, args->block) < size)
		*end = bytes_of(args->count, args->block);
	*off = bytes_of(args->skip, args->block);
	if (*off > *end)
		*off = *end;
}

static int copy(struct qcow2_image *input, const struct dd_args *args)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	struct cli_progress progress;
	struct qcow2_error err = {0};
	uint64_t size = qcow2_size(input), off, end;
	int rc;

	find_part(args, size, &off, &end);
	if (bytes_of(args->skip, args->block) > end)
		cli_error("%s: cannot skip to specified offset", args->input);
	create.format = args->target_format ? args->target_format : "raw";
	create.flags = args->force ? QCOW2_CREATE_OVERWRITE : 0;
	options.create = &create;
	/* a part without length is told by where it begins */
	options.source_off = off < end ? off : size;
	options.source_bytes = off < end ? end - off : 0;
	options.progress.tick = cli_progress_tick;
	options.progress.opaque = &progress;
	cli_interrupt_catch();
	cli_progress_begin(&progress, args->progress, args->quiet);
	rc = qcow2_convert(&input, 1, args->output, &options, NULL, &err);
	cli_progress_end(&progress, rc == 0);
	if (rc == -ECANCELED)
		cli_interrupt_die();
	if (rc < 0)
		tool_explain(&err, rc == -EEXIST ? "--force replaces it" : NULL);
	return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int verb_dd(int argc, char **argv)
{
	struct dd_args args = {.block = 512};
	struct qcow2_image *input = NULL;
	int status, first = cli_parse(&dd_command, argc, argv, &args, &status);

	if (first < 0)
		return status;
	for (status = 0; first < argc && status == 0; first++)
		status = take_operand(&args, argv[first]);
	if (status != 0)
		return status;
	if (!args.input || !args.output)
		return cli_usage("dd", "Must specify both input and output files");
	cli_set_subject("dd", args.input);
	if (!tool_known_format(args.format))
		return EXIT_FAILURE;
	cli_set_subject("dd to", args.output);
	if (!tool_known_format(args.target_format))
		return EXIT_FAILURE;
	tool_many_files();
	status = EXIT_FAILURE;
	if (tool_open(&input, args.input, args.format, NULL,
		      (args.force_share ? QCOW2_OPEN_FORCE_SHARE : 0) |
			      (args.image_opts ? TOOL_OPEN_IMAGE_OPTS : 0)) == 0)
		status = copy(input, &args);
	qcow2_close(input);
	return status;
}
