/* SPDX-License-Identifier: MIT */
/* qcow2 create: a new, empty image. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "create_options.h"
#include "image.h"
#include "verb.h"

struct create_args {
	const char *format, *backing, *backing_format;
	struct cli_list options;
	bool unsafe, progress, quiet, force;
};

static const struct cli_option create_cli_options[] = {
	{'f', "format", CLI_STRING, offsetof(struct create_args, format), "FMT",
	 "qcow2 (the default) or raw", NULL},
	{'o', "options", CLI_LIST, offsetof(struct create_args, options), "LIST",
	 "NAME=VALUE,... of the image: see '-o help'", NULL},
	{'b', "backing", CLI_STRING, offsetof(struct create_args, backing), "FILE",
	 "backing file: read where nothing is written", NULL},
	{'F', "backing-format", CLI_STRING, offsetof(struct create_args, backing_format), "FMT",
	 "format of the backing file", NULL},
	{'u', "backing-unsafe", CLI_FLAG, offsetof(struct create_args, unsafe), NULL,
	 "don't open the backing file; needs SIZE", NULL},
	{'p', "progress", CLI_PROGRESS, offsetof(struct create_args, progress), NULL,
	 "show the progress of preallocation, in percent", NULL},
	{'q', "quiet", CLI_FLAG, offsetof(struct create_args, quiet), NULL, "say nothing", NULL},
	{0, "force", CLI_FLAG, offsetof(struct create_args, force), NULL,
	 "replace a file that isn't empty", NULL},
	CLI_END,
};

const struct cli_command create_command = {
	.name = "create",
	.operands = "FILE [SIZE]",
	.summary = "Makes a new, empty image.",
	.options = create_cli_options,
	.notes = "\nSIZE is in bytes, or in the unit behind it: 512, 64k, 100M, 1.5T.\n"
		 "Without it the disk is as large as its backing file.",
	.failure_status = EXIT_FAILURE,
	.own_progress = true,
};

/* Everything typed, into create. The lists first: -b, -F and SIZE stand above them. */
static int collect(struct tool_create *create, const struct create_args *args, const char *size)
{
	size_t i;
	int rc = 0;

	for (i = 0; rc == 0 && i < args->options.n; i++)
		rc = tool_create_set_list(create, args->options.items[i]);
	if (rc == 0 && create->help)
		return 0;
	if (rc == 0 && args->backing)
		rc = tool_create_set(create, "backing_file", args->backing);
	if (rc == 0 && args->backing_format)
		rc = tool_create_set(create, "backing_fmt", args->backing_format);
	if (rc == 0 && size && tool_create_has_size(create)) {
		cli_usage("create", "the size is given twice, as '%s' and in -o", size);
		return -EINVAL;
	}
	if (rc == 0 && size)
		rc = tool_create_set(create, "size", size);
	if (args->unsafe)
		create->lib.flags |= QCOW2_CREATE_UNSAFE_BACKING;
	if (args->force)
		create->lib.flags |= QCOW2_CREATE_OVERWRITE;
	return rc;
}

static int write_image(struct tool_create *create, const char *path, const struct create_args *args,
		       struct qcow2_error *err)
{
	struct cli_progress progress;
	int rc;

	create->lib.progress.tick = cli_progress_tick;
	create->lib.progress.opaque = &progress;
	cli_interrupt_catch();
	cli_progress_begin(&progress, args->progress, args->quiet);
	rc = qcow2_create(path, &create->lib, err);
	cli_progress_end(&progress, rc == 0);
	if (rc == -ECANCELED)
		cli_interrupt_die();
	return rc;
}

static int make(struct tool_create *create, const char *path, const struct create_args *args)
{
	struct qcow2_error err = {0};
	uint64_t asked = create->lib.size;
	int rc;

	if (!tool_create_has_size(create) &&
	    (!create->lib.backing_file || (create->lib.flags & QCOW2_CREATE_UNSAFE_BACKING)))
		return cli_usage("create", "a size is needed, as in: qcow2 create %s 10G", path);
	rc = qcow2_create_resolve(path, &create->lib, &err);
	if (rc == 0)
		rc = write_image(create, path, args, &err);
	if (rc < 0) {
		tool_explain(&err, rc == -EEXIST ? "--force replaces it" : NULL);
		return EXIT_FAILURE;
	}
	if (asked != QCOW2_SIZE_FROM_BACKING)
		create->lib.size = asked;
	if (!args->quiet)
		tool_create_print(create, path);
	return EXIT_SUCCESS;
}

int verb_create(int argc, char **argv)
{
	struct create_args args = {.format = "qcow2"};
	struct tool_create create;
	int status, first = cli_parse(&create_command, argc, argv, &args, &status);
	int noperands = argc - first;

	tool_create_init(&create, "create", args.format);
	if (first < 0 || !tool_known_format(args.format)) {
		status = first < 0 ? status : EXIT_FAILURE;
	} else if (collect(&create, &args, noperands > 1 ? argv[first + 1] : NULL) < 0) {
		status = EXIT_FAILURE;
	} else if (create.help) {
		tool_create_print_help(args.format, noperands > 0);
		status = EXIT_SUCCESS;
	} else if (noperands < 1) {
		status = cli_usage("create", "expecting a file and a size");
	} else if (noperands > 2) {
		status = cli_usage("create", "'%s' is too much: expecting a file and a size",
				   argv[first + 2]);
	} else {
		tool_many_files();
		status = make(&create, argv[first], &args);
	}
	tool_create_release(&create);
	cli_list_release(&args.options);
	return status;
}
