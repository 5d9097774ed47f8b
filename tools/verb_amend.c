/* SPDX-License-Identifier: MIT */
/* qcow2 amend: other options for an image that exists. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/size.h"
#include "create_options.h"
#include "image.h"
#include "loss.h"
#include "verb.h"

/* Instead of an exit code. */
#define CANCELED (-1) /* the process ends by the signal that came */
#define GO_ON (-2)

struct amend_args {
	const char *format;
	struct cli_list options;
	int cache;
	bool shrink, force, dry_run, progress, quiet, image_opts;
};

#define AT(member) offsetof(struct amend_args, member)

static const struct cli_option amend_cli_options[] = {
	{'f', "format", CLI_STRING, AT(format), "FMT", "format of the image (default: look)", NULL},
	{'o', "options", CLI_LIST, AT(options), "LIST",
	 "NAME=VALUE,... of the image: see '-o help'", NULL},
	{0, "shrink", CLI_FLAG, AT(shrink), NULL, "it may become smaller: what is behind is lost",
	 NULL},
	{0, "force", CLI_FLAG, AT(force), NULL, "bitmaps may be lost: version 2 has none", NULL},
	{0, "dry-run", CLI_FLAG, AT(dry_run), NULL, "only tell what would be done", NULL},
	{'t', "cache", CLI_CHOICE, AT(cache), "CACHE", "cache mode of the image", tool_cache_modes},
	{'p', "progress", CLI_PROGRESS, AT(progress), NULL, "show the progress, in percent", NULL},
	{'q', "quiet", CLI_FLAG, AT(quiet), NULL, "say nothing but errors", NULL},
	{0, "image-opts", CLI_FLAG, AT(image_opts), NULL,
	 "FILE is driver=FMT,file.filename=FILE,...", NULL},
	CLI_END,
};

const struct cli_command amend_command = {
	.name = "amend",
	.operands = "FILE",
	.summary = "Changes options of an image that exists; its disk reads as before.",
	.options = amend_cli_options,
	.notes = "CACHE is none, writeback, writethrough, directsync or unsafe.\n"
		 "Another backing file is for 'qcow2 rebase'.",
	.failure_status = EXIT_FAILURE,
};

static int collect(struct tool_create *create, const struct amend_args *args)
{
	size_t i;
	int rc = 0;

	for (i = 0; rc == 0 && i < args->options.n; i++)
		rc = tool_create_set_list(create, args->options.items[i]);
	return rc;
}

/* qemu-img takes a size of 0 for none that is given. */
static bool has_size(const struct tool_create *create)
{
	return tool_create_has(create, "size") && (create->lib.size > 0 || !cli_is_face());
}

static void fill(struct qcow2_amend_options *o, const struct tool_create *create,
		 const struct amend_args *args)
{
	const struct qcow2_create_options *lib = &create->lib;

	o->what = (tool_create_has(create, "compat") ? QCOW2_AMEND_VERSION : 0) |
		  (tool_create_has(create, "refcount_bits") ? QCOW2_AMEND_REFCOUNT_BITS : 0) |
		  (tool_create_has(create, "lazy_refcounts") ? QCOW2_AMEND_LAZY_REFCOUNTS : 0) |
		  (tool_create_has(create, "data_file") ? QCOW2_AMEND_DATA_FILE : 0) |
		  (tool_create_has(create, "data_file_raw") ? QCOW2_AMEND_DATA_FILE_RAW : 0) |
		  (has_size(create) ? QCOW2_AMEND_SIZE : 0);
	o->flags = (args->dry_run ? QCOW2_AMEND_DRY_RUN : 0) |
		   (args->shrink || cli_is_face() ? QCOW2_AMEND_SHRINK : 0) |
		   (args->force || cli_is_face() ? QCOW2_AMEND_DROP_BITMAPS : 0);
	o->version = lib->version;
	o->refcount_bits = lib->refcount_bits;
	o->lazy_refcounts = lib->lazy_refcounts;
	o->data_file = lib->data_file;
	o->data_file_raw = lib->data_file_raw;
	o->size = lib->size;
}

/* The options are as they will be, or would. Says what went wrong. */
static int tell_losses(struct qcow2_image *image, const struct qcow2_amend_options *options,
		       enum tool_loss mode)
{
	struct qcow2_amend_options o = *options;
	struct qcow2_amend_result r = {0};
	struct qcow2_error err = {0};
	uint64_t old = qcow2_size(image);

	o.flags |= QCOW2_AMEND_DRY_RUN;
	if (qcow2_amend(image, &o, &r, &err) < 0)
		return cli_error("%s", err.message);
	if (r.dropped_bitmaps)
		tool_loss_say(mode,
			      "%" PRIu64 " bitmap%s [would be|will be] lost: version 2 can't have "
			      "them",
			      r.dropped_bitmaps, r.dropped_bitmaps > 1 ? "s" : "");
	if (o.what & QCOW2_AMEND_SIZE && o.size < old &&
	    tool_loss_say_size(mode, image, o.size) < 0)
		return EXIT_FAILURE;
	return 0;
}

static void tell(const struct qcow2_amend_result *r)
{
	char text[CLI_SIZE_TEXT];

	if (r->refcount_bytes)
		printf("%s of refcounts would be written anew.\n",
		       cli_size_human(text, r->refcount_bytes));
	if (r->filled_bytes)
		printf("%s of zeros would be written: version 2 can't say that they are.\n",
		       cli_size_human(text, r->filled_bytes));
	if (r->emptied_bytes)
		printf("%s that are known to be zeros would become unallocated.\n",
		       cli_size_human(text, r->emptied_bytes));
	if (!r->refcount_bytes && !r->filled_bytes && !r->emptied_bytes && !r->dropped_bitmaps)
		puts("Nothing but the header would be written.");
}

static int amend(struct qcow2_image *image, const struct tool_create *create,
		 const struct amend_args *args)
{
	struct qcow2_amend_options options = QCOW2_AMEND_OPTIONS_INIT;
	struct qcow2_amend_result result = {0};
	struct qcow2_error err = {0};
	struct cli_progress progress;
	enum tool_loss mode;
	int rc;

	fill(&options, create, args);
	mode = tool_loss_mode(args->dry_run, args->quiet);
	if (mode != TOOL_LOSS_UNSAID && tell_losses(image, &options, mode) != 0)
		return EXIT_FAILURE;
	options.progress.tick = cli_progress_tick;
	options.progress.opaque = &progress;
	cli_interrupt_catch();
	cli_progress_begin(&progress, args->progress, args->quiet);
	rc = qcow2_amend(image, &options, &result, &err);
	if (rc == 0 && !args->dry_run)
		rc = qcow2_finish(image, &err);
	cli_progress_end(&progress, rc == 0);
	if (rc == -ECANCELED)
		return CANCELED;
	if (rc < 0)
		return cli_error("%s", err.message);
	if (args->dry_run)
		tell(&result);
	return EXIT_SUCCESS;
}

static int refuse_raw(void)
{
	return cli_error("Format driver 'raw' does not support option amendment");
}

static bool is_other(const char *asked, const char *is)
{
	return !asked || !is || strcmp(asked, is) != 0;
}

/* What can be said only of the image that it is. */
static int check(const struct qcow2_info *info, const struct tool_create *create)
{
	bool has_backing =
		tool_create_has(create, "backing_file") || tool_create_has(create, "backing_fmt");

	if (strcmp(info->format, "raw") == 0)
		return refuse_raw();
	if (create->encryption)
		return cli_error("the image isn't encrypted: there are no keys to amend");
	if (has_backing && (is_other(create->lib.backing_file, info->backing_file) ||
			    is_other(create->lib.backing_format, info->backing_format)))
		return cli_error(
			"the backing file isn't amended: 'qcow2 rebase' gives an image another");
	if (has_size(create) && create->lib.size == 0)
		return cli_error("New image size must be positive");
	return 0;
}

static int work(struct qcow2_image *image, const struct tool_create *create,
		const struct amend_args *args)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct qcow2_error err = {0};

	if (qcow2_info(image, &info, &err) < 0)
		return cli_error("%s", err.message);
	if (check(&info, create) != 0)
		return EXIT_FAILURE;
	if (!create->help)
		return amend(image, create, args);
	tool_create_print_amend_help(info.format);
	return EXIT_SUCCESS;
}

static int run(const char *path, const struct tool_create *create, const struct amend_args *args)
{
	struct qcow2_image *image = NULL;
	int status = EXIT_FAILURE;
	unsigned flags = (create->help ? QCOW2_OPEN_INFO : QCOW2_OPEN_WRITE) |
			 tool_cache_write_flags(args->cache) |
			 (args->image_opts ? TOOL_OPEN_IMAGE_OPTS : 0);

	tool_many_files();
	if (tool_open(&image, path, args->format, NULL, flags) == 0)
		status = work(image, create, args);
	qcow2_close(image);
	if (status == CANCELED)
		cli_interrupt_die();
	return status == CANCELED ? EXIT_FAILURE : status;
}

/* What needs no image: mistakes, and help. GO_ON: it is to be opened. */
static int begin(struct tool_create *create, const struct amend_args *args, int noperands)
{
	if (args->options.n == 0)
		return cli_usage("amend", "Must specify options (-o)");
	if (args->format && strcmp(args->format, "raw") == 0)
		return refuse_raw();
	if (collect(create, args) < 0)
		return EXIT_FAILURE;
	if (create->help)
		cli_set_subject("amend help", NULL);
	if (!tool_known_format(args->format))
		return EXIT_FAILURE;
	if (create->help && (args->format || (noperands == 0 && !cli_is_face()))) {
		tool_create_print_amend_help("qcow2");
		return EXIT_SUCCESS;
	}
	if (noperands != 1)
		return cli_usage("amend", "Expecting one image file name");
	return GO_ON;
}

int verb_amend(int argc, char **argv)
{
	struct amend_args args = {.cache = TOOL_CACHE_WRITEBACK};
	struct tool_create create;
	int status, first = cli_parse(&amend_command, argc, argv, &args, &status);

	tool_create_init(&create, "amend", "qcow2");
	create.amend = true;
	if (first >= 0)
		status = begin(&create, &args, argc - first);
	if (first >= 0 && status == GO_ON)
		status = run(argv[first], &create, &args);
	tool_create_release(&create);
	cli_list_release(&args.options);
	return status;
}
