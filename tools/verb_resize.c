/* SPDX-License-Identifier: MIT */
/* qcow2 resize: another size for a disk. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/size.h"
#include "image.h"
#include "loss.h"
#include "verb.h"

struct resize_args {
	const char *format, *prealloc;
	bool shrink, dry_run, progress, quiet, image_opts;
};

#define AT(member) offsetof(struct resize_args, member)

static const struct cli_option resize_options[] = {
	{'f', "format", CLI_STRING, AT(format), "FMT", "format of the image (default: look)", NULL},
	{0, "preallocation", CLI_STRING, AT(prealloc), "MODE",
	 "of what is added: off, metadata, falloc or full", NULL},
	{0, "shrink", CLI_FLAG, AT(shrink), NULL, "it may become smaller: what is behind is lost",
	 NULL},
	{0, "dry-run", CLI_FLAG, AT(dry_run), NULL, "only tell what would be lost", NULL},
	{'p', "progress", CLI_PROGRESS, AT(progress), NULL, "show the progress, in percent", NULL},
	{'q', "quiet", CLI_FLAG, AT(quiet), NULL, "say nothing but errors", NULL},
	{0, "image-opts", CLI_FLAG, AT(image_opts), NULL,
	 "FILE is driver=FMT,file.filename=FILE,...", NULL},
	CLI_END,
};

const struct cli_command resize_command = {
	.name = "resize",
	.operands = "FILE [+|-]SIZE",
	.summary = "Gives a disk another size.",
	.options = resize_options,
	.notes = "\nSIZE is in bytes, or in the unit behind it: 512, 64k, 100M, 1.5T. With a sign\n"
		 "it is by how much the disk becomes larger or smaller.",
	.failure_status = EXIT_FAILURE,
	.own_progress = true,
};

struct order {
	const char *path;
	int sign; /* 0: the size itself */
	uint64_t size;
	unsigned prealloc;
};

/* The size stands last; "-1M" looks like an option, so it is taken away before they are read. */
static int read_size(struct order *o, const char *text)
{
	int rc;

	o->sign = text[0] == '+' ? 1 : text[0] == '-' ? -1 : 0;
	rc = cli_size_parse(text + (o->sign != 0), &o->size);
	if (rc < 0)
		return cli_error("'%s' is not a size: expecting bytes, or a number with k, M, G, "
				 "T, P or E",
				 text);
	return 0;
}

static int read_prealloc(struct order *o, const char *text)
{
	static const char *const modes[] = {"off", "metadata", "falloc", "full"};

	for (o->prealloc = 0; text && o->prealloc < sizeof(modes) / sizeof(modes[0]); o->prealloc++)
		if (strcmp(modes[o->prealloc], text) == 0)
			return 0;
	o->prealloc = QCOW2_PREALLOC_OFF;
	return text ? cli_error("Invalid preallocation mode '%s'", text) : 0;
}

/* What the disk is to have; 0: no such size. */
static uint64_t new_size(const struct order *o, uint64_t old)
{
	if (o->sign > 0)
		return o->size > INT64_MAX - old ? 0 : old + o->size;
	if (o->sign < 0)
		return o->size > old ? 0 : old - o->size;
	return o->size > INT64_MAX ? 0 : o->size;
}

static int refuse_to_shrink(void)
{
	cli_error("Use the --shrink option to perform a shrink operation.");
	cli_warn("Shrinking an image will delete all data beyond the shrunken image's end. Before "
		 "performing such an operation, make sure there is no important data there.");
	return EXIT_FAILURE;
}

#define CANCELED (-1) /* instead of an exit code: the process ends by the signal that came */

static int set_size(struct qcow2_image *image, uint64_t size, const struct order *o,
		    const struct resize_args *args)
{
	struct cli_progress progress;
	struct qcow2_progress watch = {cli_progress_tick, &progress};
	struct qcow2_error err = {0};
	int rc;

	cli_interrupt_catch();
	cli_progress_begin(&progress, args->progress, args->quiet);
	qcow2_watch(image, &watch);
	rc = qcow2_resize(image, size, o->prealloc, args->shrink ? QCOW2_RESIZE_SHRINK : 0, &err);
	if (rc == 0)
		rc = qcow2_finish(image, &err);
	qcow2_watch(image, NULL);
	cli_progress_end(&progress, rc == 0);
	if (rc == -ECANCELED)
		return CANCELED;
	return rc < 0 ? cli_error("%s", err.message) : 0;
}

static int resize(struct qcow2_image *image, const struct order *o, const struct resize_args *args)
{
	uint64_t old = qcow2_size(image), size = new_size(o, old);
	int status;

	if (size == 0)
		return cli_error("New image size must be positive");
	if (size <= old && o->prealloc != QCOW2_PREALLOC_OFF)
		return cli_error("Preallocation can only be used for growing images");
	if (size < old && !args->shrink && !args->dry_run)
		return refuse_to_shrink();
	if (tool_loss_say_size(tool_loss_mode(args->dry_run, args->quiet), image, size) < 0)
		return EXIT_FAILURE;
	if (args->dry_run)
		return EXIT_SUCCESS;
	status = set_size(image, size, o, args);
	if (status == 0 && !args->quiet)
		puts("Image resized.");
	return status;
}

int verb_resize(int argc, char **argv)
{
	struct resize_args args = {0};
	struct qcow2_image *image = NULL;
	struct order o = {0};
	char *last = argc > 2 && strcmp(argv[argc - 1], "--help") != 0 ? argv[argc - 1] : NULL;
	unsigned flags;
	int status, first;

	first = cli_parse(&resize_command, last ? argc - 1 : argc, argv, &args, &status);
	if (first < 0)
		return status;
	if (!last)
		return cli_usage("resize", "Not enough arguments");
	if (argc - 1 - first != 1)
		return cli_usage("resize", "Expecting image file name and size");
	o.path = argv[first];
	if (read_size(&o, last) != 0 || read_prealloc(&o, args.prealloc) != 0)
		return EXIT_FAILURE;
	if (!tool_known_format(args.format))
		return EXIT_FAILURE;
	tool_many_files();
	status = EXIT_FAILURE;
	flags = (args.dry_run ? 0 : QCOW2_OPEN_WRITE) |
		(args.image_opts ? TOOL_OPEN_IMAGE_OPTS : 0);
	if (tool_open(&image, o.path, args.format, NULL, flags) == 0)
		status = resize(image, &o, &args);
	qcow2_close(image);
	if (status == CANCELED)
		cli_interrupt_die();
	return status == CANCELED ? EXIT_FAILURE : status;
}
