/* SPDX-License-Identifier: MIT */
/*
 * qcow2 bitmap: changes dirty bitmaps, in steps that are taken in the order given. What was done
 * before a step that fails stays done, as with qemu-img.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/size.h"
#include "image.h"
#include "loss.h"
#include "verb.h"

#define GRANULARITY_MIN 512u
#define GRANULARITY_MAX (1ull << 31)

struct bitmap_args {
	struct cli_steps steps;
	struct cli_size granularity;
	const char *format, *source, *source_format;
	bool image_opts, dry_run;
};

#define AT(member) offsetof(struct bitmap_args, member)

static const struct cli_option bitmap_options[] = {
	{0, "add", CLI_STEP, AT(steps), NULL, "add it; it records what is written from then on",
	 NULL},
	{0, "remove", CLI_STEP, AT(steps), NULL, "remove it", NULL},
	{0, "clear", CLI_STEP, AT(steps), NULL, "nothing is dirty in it any more", NULL},
	{0, "enable", CLI_STEP, AT(steps), NULL, "it records what is written from then on", NULL},
	{0, "disable", CLI_STEP, AT(steps), NULL, "it doesn't", NULL},
	{0, "merge", CLI_STEP, AT(steps), "SOURCE", "what is dirty in SOURCE is so in it, too",
	 NULL},
	{'g', "granularity", CLI_SIZE, AT(granularity), "SIZE",
	 "of --add: 512 to 2G (default: a cluster)", NULL},
	{'b', "source-file", CLI_STRING, AT(source), "FILE", "the image that SOURCE is of", NULL},
	{'F', "source-format", CLI_STRING, AT(source_format), "FMT", "format of that image", NULL},
	{'f', "format", CLI_STRING, AT(format), "FMT", "format of FILE (default: look)", NULL},
	{0, "image-opts", CLI_FLAG, AT(image_opts), NULL, "FILE is a list of driver options", NULL},
	{0, "dry-run", CLI_FLAG, AT(dry_run), NULL, "only tell what would be lost", NULL},
	CLI_END,
};

const struct cli_command bitmap_command = {
	.name = "bitmap",
	.operands = "FILE BITMAP",
	.summary = "Adds, removes and changes dirty bitmaps.",
	.options = bitmap_options,
	.notes = "\nSeveral steps are taken in the order given. 'qcow2 info' lists bitmaps.",
	.failure_status = EXIT_FAILURE,
};

/* ---- the command line ---- */

static bool has_step(const struct bitmap_args *args, const char *name)
{
	for (size_t i = 0; i < args->steps.n; i++)
		if (strcmp(args->steps.items[i].name, name) == 0)
			return true;
	return false;
}

/* In qemu-img's order. */
static int check(const struct bitmap_args *args, int noperands)
{
	if (args->steps.n == 0)
		return cli_error("Need at least one of --add, --remove, --clear, --enable, "
				 "--disable, or --merge");
	if (args->granularity.given && !has_step(args, "add"))
		return cli_error("granularity only supported with --add");
	if (args->source_format && !args->source)
		return cli_error("-F only supported with -b");
	if (args->source && !has_step(args, "merge"))
		return cli_error("Merge bitmap source file only supported with --merge");
	if (noperands != 2)
		return cli_error("Expecting filename and bitmap name");
	if (args->format && args->image_opts)
		return cli_error("--image-opts and --format are mutually exclusive");
	return tool_known_format(args->format) ? 0 : EXIT_FAILURE;
}

/* Fills err with what is wrong, in qemu-img's words. */
static int refuse(struct qcow2_error *err, const char *why)
{
	err->code = -EINVAL;
	snprintf(err->message, sizeof(err->message), "%s", why);
	return -EINVAL;
}

/* ---- the steps ---- */

static int add(struct qcow2_image *image, const char *name, const struct cli_size *granularity,
	       struct qcow2_error *err)
{
	uint64_t g = granularity->value;

	if (name[0] == '\0')
		return refuse(err, "Bitmap name cannot be empty");
	if (g != 0 && (g & (g - 1) || g < GRANULARITY_MIN || g > GRANULARITY_MAX))
		return refuse(err, "Granularity must be power of 2 and at least 512");
	return qcow2_bitmap_add(image, name, g, QCOW2_BITMAP_AUTO, err);
}

static bool is_loss(const struct cli_step *step)
{
	return strcmp(step->name, "remove") == 0 || strcmp(step->name, "clear") == 0;
}

/* Of a bitmap that can't be read nothing is lost. */
static int tell_loss(struct qcow2_image *image, const char *name, const struct cli_step *step,
		     enum tool_loss mode, struct qcow2_error *err)
{
	struct qcow2_bitmap_extent e = {0};
	char size[CLI_SIZE_TEXT];
	uint64_t dirty = 0;
	int rc = 0;

	for (uint64_t off = 0; rc == 0 && off < qcow2_size(image); off += e.len_bytes) {
		rc = qcow2_bitmap_map(image, name, off, qcow2_size(image) - off, &e, err);
		if (rc == 0 && e.dirty)
			dirty += e.len_bytes;
	}
	if (rc == 0)
		tool_loss_say(
			mode,
			"bitmap \"%s\" [would be|is] %s, and with it [would go|goes] which %s "
			"of the disk were written",
			name, step->name[0] == 'r' ? "removed" : "cleared",
			cli_size_human(size, dirty));
	return rc == -ESTALE || rc == -ENOTSUP ? 0 : rc;
}

static int take_step(struct qcow2_image *image, struct qcow2_image *source, const char *name,
		     const struct bitmap_args *args, const struct cli_step *step,
		     struct qcow2_error *err)
{
	static const struct {
		const char *name;
		int (*call)(struct qcow2_image *image, const char *name, struct qcow2_error *err);
	} calls[] = {
		{"remove", qcow2_bitmap_remove},
		{"clear", qcow2_bitmap_clear},
		{"enable", qcow2_bitmap_enable},
		{"disable", qcow2_bitmap_disable},
	};

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (strcmp(step->name, calls[i].name) == 0)
			return calls[i].call(image, name, err);
	if (step->argument)
		return qcow2_bitmap_merge(image, name, source ? source : image, step->argument,
					  err);
	return add(image, name, &args->granularity, err);
}

static bool has_bitmap(struct qcow2_image *image, const char *name, bool *inconsistent)
{
	struct qcow2_info info = QCOW2_INFO_INIT;

	if (qcow2_info(image, &info, NULL) < 0)
		return false;
	for (size_t i = 0; i < info.nbitmaps; i++) {
		if (strcmp(info.bitmaps[i].name, name) != 0)
			continue;
		*inconsistent = info.bitmaps[i].flags & QCOW2_BITMAP_IN_USE;
		return true;
	}
	return false;
}

/* Says what failed, where there is one in qemu-img's sentence. */
static int explain(struct qcow2_image *image, const char *name, const struct cli_step *step,
		   const struct qcow2_error *err)
{
	const char *culprit = name;
	bool inconsistent = false;
	int status;

	/* of two, the target is looked at first */
	if (step->argument && has_bitmap(image, name, &inconsistent) && !inconsistent)
		culprit = step->argument;
	if (err->code == -ENOENT)
		return cli_error("Operation %s on bitmap %s failed: Dirty bitmap '%s' not found",
				 step->name, name, culprit);
	if (err->code == -EEXIST)
		return cli_error("Operation %s on bitmap %s failed: Bitmap already exists: %s",
				 step->name, name, name);
	if (err->code != -ESTALE)
		return cli_error("Operation %s on bitmap %s failed: %s", step->name, name,
				 err->message);
	status = cli_error("Operation %s on bitmap %s failed: Bitmap '%s' is inconsistent and "
			   "cannot be used",
			   step->name, name, culprit);
	fputs("Try block-dirty-bitmap-remove to delete this bitmap from disk\n", stderr);
	return status;
}

static int take_steps(struct qcow2_image *image, struct qcow2_image *source, const char *name,
		      const struct bitmap_args *args)
{
	enum tool_loss mode = tool_loss_mode(args->dry_run, false);
	struct qcow2_error err = {0};
	bool lost = false;

	for (size_t i = 0; i < args->steps.n; i++) {
		const struct cli_step *step = &args->steps.items[i];

		if (mode != TOOL_LOSS_UNSAID && is_loss(step) &&
		    tell_loss(image, name, step, mode, &err) < 0)
			return explain(image, name, step, &err);
		lost = lost || is_loss(step);
		if (args->dry_run)
			continue;
		if (take_step(image, source, name, args, step, &err) < 0)
			return explain(image, name, step, &err);
	}
	if (args->dry_run && !lost)
		tool_loss_say(mode, "nothing would be lost");
	if (args->dry_run || qcow2_finish(image, &err) == 0)
		return EXIT_SUCCESS;
	tool_explain(&err, NULL);
	return EXIT_FAILURE;
}

static int change(const struct bitmap_args *args, const char *file, const char *name)
{
	struct qcow2_image *image = NULL, *source = NULL;
	int status = EXIT_FAILURE;
	unsigned flags = QCOW2_OPEN_NO_BACKING; /* the top layer alone is enough */
	int rc = tool_open(&image, file, args->format, NULL,
			   flags | (args->dry_run ? 0 : QCOW2_OPEN_WRITE) |
				   (args->image_opts ? TOOL_OPEN_IMAGE_OPTS : 0));

	if (rc == 0 && args->source) {
		cli_set_subject("bitmap", args->source);
		rc = tool_known_format(args->source_format) ? 0 : -EINVAL;
	}
	if (rc == 0 && args->source)
		rc = tool_open(&source, args->source, args->source_format, NULL, flags);
	if (rc == 0)
		status = take_steps(image, source, name, args);
	qcow2_close(source);
	qcow2_close(image);
	return status;
}

int verb_bitmap(int argc, char **argv)
{
	struct bitmap_args args = {0};
	int status, first = cli_parse(&bitmap_command, argc, argv, &args, &status);

	if (first >= 0) {
		status = check(&args, argc - first);
		if (status == 0)
			status = change(&args, argv[first], argv[first + 1]);
	}
	cli_steps_release(&args.steps);
	return status;
}
