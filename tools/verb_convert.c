/* SPDX-License-Identifier: MIT */
/* qcow2 convert: copies disks into a new image, or over an existing one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/diag.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "create_options.h"
#include "image.h"
#include "snapshot_arg.h"
#include "verb.h"

#define SPARSE_MAX (16 << 20)

struct convert_args {
	bool image_opts, target_image_opts;
	const char *target; /* as it was typed */
	bool named_twice;   /* the format of the target: by -O and by its options */
	const char *format, *target_format, *backing, *backing_format, *snapshot;
	struct cli_list options;
	struct cli_size sparse, threads, rate, level;
	int source_cache, target_cache, reflink;
	bool compress, no_create, target_is_zero, disordered, offload, force_share, salvage, force;
	bool bitmaps, skip_broken;
	bool progress, quiet;
};

#define AT(member) offsetof(struct convert_args, member)

enum { REFLINK_AUTO, REFLINK_NEVER, REFLINK_ALWAYS };
static const char *const reflinks[] = {"auto", "never", "always", NULL};

static const struct cli_option convert_options[] = {
	{'f', "format", CLI_STRING, AT(format), "FMT", "format of the sources (default: look)",
	 NULL},
	{'O', "target-format", CLI_STRING, AT(target_format), "FMT",
	 "format of the target, qcow2 or raw (the default)", NULL},
	{'o', "options", CLI_LIST, AT(options), "LIST",
	 "NAME=VALUE,... of the target: see '-o help'", NULL},
	{'B', "backing", CLI_STRING, AT(backing), "FILE", "copy the top layer only, on this file",
	 NULL},
	{'b', NULL, CLI_STRING, AT(backing), "FILE", NULL, NULL},
	{'F', "backing-format", CLI_STRING, AT(backing_format), "FMT", "format of that file", NULL},
	{'c', "compress", CLI_FLAG, AT(compress), NULL, "compress the data (qcow2)", NULL},
	{'l', "snapshot", CLI_STRING, AT(snapshot), "ID|NAME", "copy this internal snapshot", NULL},
	{'n', "no-create", CLI_FLAG, AT(no_create), NULL,
	 "write into an image (that reads as zeros)", NULL},
	{0, "target-is-zero", CLI_FLAG, AT(target_is_zero), NULL, NULL, NULL},
	{'S', "sparse-size", CLI_SIZE, AT(sparse), "SIZE", "zeros to leave out (from 4k); 0: none",
	 NULL},
	{'m', "parallel", CLI_NUMBER, AT(threads), "N",
	 "threads; how hard to compress: 1-12, zstd 1-22", NULL},
	{0, "level", CLI_NUMBER, AT(level), "N", NULL, NULL},
	{'W', "out-of-order", CLI_FLAG, AT(disordered), NULL, "in any order; -C: the kernel copies",
	 NULL},
	{'C', "copy-offload", CLI_FLAG, AT(offload), NULL, NULL, NULL},
	{0, "reflink", CLI_CHOICE, AT(reflink), "WHEN",
	 "share blocks with the sources: auto, never, always", reflinks},
	{'r', "rate-limit", CLI_SIZE, AT(rate), "SIZE", "move so many bytes a second at most",
	 NULL},
	{'t', "target-cache", CLI_CHOICE, AT(target_cache), "CACHE",
	 "cache modes (unsafe, writeback)", tool_cache_modes},
	{'T', "source-cache", CLI_CHOICE, AT(source_cache), "CACHE", NULL, tool_cache_modes},
	{'U', "force-share", CLI_FLAG, AT(force_share), NULL,
	 "read while others write; damage, as zeros", NULL},
	{0, "salvage", CLI_FLAG, AT(salvage), NULL, NULL, NULL},
	{0, "bitmaps", CLI_FLAG, AT(bitmaps), NULL, "copy bitmaps, too (but broken ones)", NULL},
	{0, "skip-broken-bitmaps", CLI_FLAG, AT(skip_broken), NULL, NULL, NULL},
	{0, "force", CLI_FLAG, AT(force), NULL, "replace a target that isn't empty", NULL},
	{'p', "progress", CLI_PROGRESS, AT(progress), NULL, "show the progress, in percent", NULL},
	{'q', "quiet", CLI_FLAG, AT(quiet), NULL, "show nothing but errors", NULL},
	{0, "image-opts", CLI_FLAG, AT(image_opts), NULL, "sources, target: driver=FMT,...", NULL},
	{0, "target-image-opts", CLI_FLAG, AT(target_image_opts), NULL, NULL, NULL},
	CLI_END,
};

const struct cli_command convert_command = {
	.name = "convert",
	.operands = "SOURCE... TARGET",
	.summary = "Copies disks, one behind the other, into a new image.",
	.options = convert_options,
	.failure_status = EXIT_FAILURE,
};

struct sources {
	struct qcow2_image **images;
	size_t n;
};

static void sources_release(struct sources *sources)
{
	size_t i;

	for (i = 0; i < sources->n; i++)
		qcow2_close(sources->images[i]);
	free(sources->images);
}

/* What doesn't go together, before anything is opened. 0, or an exit code after the sentence. */
static int check(const struct convert_args *args, const struct tool_create *create, int nsources)
{
	uint64_t sparse = args->sparse.value;

	if (nsources < 1)
		return cli_usage("convert", "expecting a source and a target");
	if (args->no_create && args->options.n)
		return cli_usage("convert", "-o has no effect with -n, which makes no image");
	if (args->target_image_opts && !args->no_create)
		return cli_usage("convert", "--target-image-opts goes with -n only");
	if (args->named_twice)
		return cli_usage("convert", "--target-image-opts and -O are mutually exclusive");
	if (args->target_is_zero && !args->no_create)
		return cli_usage("convert", "--target-is-zero goes with -n only");
	if (args->target_is_zero && create->lib.backing_file)
		return cli_usage("convert", "--target-is-zero and a backing file of the target "
					    "don't go together");
	if (args->compress && strcmp(create->lib.format, "raw") == 0)
		return cli_usage("convert", "raw images can't be compressed (use -O qcow2)");
	if (args->level.given && !args->compress)
		return cli_usage("convert", "--level goes with -c");
	if (args->offload && (args->compress || args->sparse.given || args->salvage))
		return cli_usage("convert", "-C copies as it is: it doesn't go with %s",
				 args->compress	      ? "-c"
				 : args->sparse.given ? "-S"
						      : "--salvage");
	if (args->offload && args->reflink == REFLINK_NEVER)
		return cli_usage("convert", "-C may share blocks: it doesn't go with "
					    "--reflink=never");
	if (args->reflink == REFLINK_ALWAYS &&
	    (args->compress || args->sparse.given || args->salvage))
		return cli_usage("convert",
				 "--reflink=always shares as it is: it doesn't go with %s",
				 args->compress	      ? "-c"
				 : args->sparse.given ? "-S"
						      : "--salvage");
	if (nsources > 1 && create->lib.backing_file)
		return cli_usage("convert", "a backing file of the target makes no sense with "
					    "several sources");
	if (args->skip_broken && !args->bitmaps)
		return cli_error("Use of --skip-broken-bitmaps requires --bitmaps");
	if (nsources > 1 && args->bitmaps)
		return cli_error("Copying bitmaps only possible with single source");
	if (nsources > 1 && args->snapshot)
		return cli_usage("convert", "-l takes one source only");
	if (args->sparse.given && (sparse % 512 || sparse > SPARSE_MAX))
		return cli_usage("convert", "-S takes multiples of 512 up to 16M, not %llu",
				 (unsigned long long)sparse);
	return 0;
}

/*
 * With -n and without -O, qemu-img writes raw over whatever the target holds. Over an image that's
 * hardly meant.
 */
static int check_existing(const struct convert_args *args, const char *target)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct qcow2_image *image = NULL;
	bool is_image;

	if (!args->no_create || args->target_format)
		return 0;
	options.flags = QCOW2_OPEN_INFO | QCOW2_OPEN_NO_LOCK;
	if (qcow2_open(&image, target, &options, NULL) < 0)
		return 0; /* what's wrong with it is told when it is written */
	is_image = qcow2_info(image, &info, NULL) == 0 && strcmp(info.format, "raw") != 0;
	qcow2_close(image);
	if (is_image)
		return cli_usage("convert",
				 "\"%s\" holds an image: say -O qcow2 to write into it, or -O raw "
				 "to write over it",
				 target);
	return 0;
}

static int collect(struct tool_create *create, const struct convert_args *args)
{
	size_t i;
	int rc = 0;

	for (i = 0; rc == 0 && i < args->options.n; i++)
		rc = tool_create_set_list(create, args->options.items[i]);
	if (rc == 0 && args->backing)
		rc = tool_create_set(create, "backing_file", args->backing);
	if (rc == 0 && args->backing_format)
		rc = tool_create_set(create, "backing_fmt", args->backing_format);
	if (args->force)
		create->lib.flags |= QCOW2_CREATE_OVERWRITE;
	return rc;
}

static int open_sources(struct sources *sources, const struct convert_args *args, char **paths,
			size_t n)
{
	unsigned flags = tool_cache_read_flags(args->source_cache) |
			 (args->force_share ? QCOW2_OPEN_FORCE_SHARE : 0) |
			 (args->image_opts ? TOOL_OPEN_IMAGE_OPTS : 0);
	char *snapshot = NULL;
	int rc = 0;

	sources->images = calloc(n, sizeof(*sources->images));
	if (!sources->images) {
		cli_error("out of memory");
		return -ENOMEM;
	}
	if (args->snapshot)
		rc = tool_find_snapshot(paths[0], args->format, flags, args->snapshot, &snapshot);
	while (rc == 0 && sources->n < n) {
		rc = tool_open(&sources->images[sources->n], paths[sources->n], args->format,
			       snapshot, flags);
		if (rc == 0)
			sources->n++;
	}
	free(snapshot);
	return rc;
}

/* Whether writing to target would destroy what is being read. Locks see it too, but not with -U. */
static bool is_source(const struct sources *sources, const struct stat *target)
{
	struct qcow2_image *image;
	size_t i;

	for (i = 0; i < sources->n; i++) {
		for (image = sources->images[i]; image; image = qcow2_backing(image)) {
			struct qcow2_info info = QCOW2_INFO_INIT;
			struct stat st;

			if (qcow2_info(image, &info, NULL) == 0 && info.filename &&
			    stat(info.filename, &st) == 0 && st.st_dev == target->st_dev &&
			    st.st_ino == target->st_ino)
				return true;
		}
	}
	return false;
}

static void warn(void *opaque, const char *sentence)
{
	cli_progress_clear(opaque);
	cli_warn("%s", sentence);
}

static unsigned convert_flags(const struct convert_args *args, const struct tool_create *create)
{
	return (args->compress ? QCOW2_CONVERT_COMPRESS : 0) |
	       (args->no_create ? QCOW2_CONVERT_EXISTING : 0) |
	       (args->target_is_zero ? QCOW2_CONVERT_TARGET_IS_ZERO : 0) |
	       (args->salvage ? QCOW2_CONVERT_SALVAGE : 0) |
	       (args->disordered ? QCOW2_CONVERT_DISORDERED : 0) |
	       (args->bitmaps ? QCOW2_CONVERT_BITMAPS : 0) |
	       (args->skip_broken ? QCOW2_CONVERT_SKIP_BROKEN_BITMAPS : 0) |
	       (args->offload ? QCOW2_CONVERT_OFFLOAD : 0) |
	       (args->reflink == REFLINK_ALWAYS ? QCOW2_CONVERT_REFLINK_ALWAYS : 0) |
	       (args->reflink == REFLINK_NEVER ? QCOW2_CONVERT_REFLINK_NEVER : 0) |
	       (create->lib.backing_file ? QCOW2_CONVERT_ON_TOP : 0);
}

static int convert(const struct sources *sources, const char *target,
		   const struct convert_args *args, struct tool_create *create)
{
	struct qcow2_convert_options options = QCOW2_CONVERT_OPTIONS_INIT;
	struct cli_progress progress;
	struct qcow2_error err = {0};
	struct stat st;
	int rc;

	if (stat(target, &st) == 0) {
		if (is_source(sources, &st))
			return cli_error(
				"\"%s\" is read and to be written: a source and the target "
				"are the same file",
				target);
		if (S_ISBLK(st.st_mode))
			create->lib.flags |= QCOW2_CREATE_OVERWRITE;
	}
	options.flags = convert_flags(args, create);
	options.create = &create->lib;
	options.target_open_flags = tool_cache_write_flags(args->target_cache);
	options.threads = (unsigned)args->threads.value;
	if (args->sparse.given)
		options.sparse_bytes = args->sparse.value;
	options.compression_level = (int)args->level.value;
	options.rate_limit = args->rate.value;
	options.progress.tick = cli_progress_tick;
	options.progress.opaque = &progress;
	options.warn = args->quiet ? NULL : warn;
	options.opaque = &progress;
	cli_interrupt_catch();
	cli_progress_begin(&progress, args->progress, args->quiet);
	rc = qcow2_convert(sources->images, sources->n, target, &options, NULL, &err);
	cli_progress_end(&progress, rc == 0);
	if (rc == -ECANCELED)
		cli_interrupt_die();
	if (rc == -ESTALE && args->bitmaps)
		tool_explain(&err, "--skip-broken-bitmaps leaves it out");
	else if (rc < 0 && args->target_image_opts && strncmp(err.message, "can't open", 10) == 0)
		tool_explain_opening(args->target, TOOL_OPEN_IMAGE_OPTS, &err, NULL);
	else if (rc < 0)
		tool_explain(&err, rc == -EEXIST ? "--force replaces it" : NULL);
	return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int verb_convert(int argc, char **argv)
{
	struct convert_args args = {.source_cache = TOOL_CACHE_WRITEBACK,
				    .target_cache = TOOL_CACHE_UNSAFE};
	struct sources sources = {0};
	struct tool_create create;
	const char *format;
	char *target = NULL, *subject = NULL; /* what qemu-img names */
	int status, first = cli_parse(&convert_command, argc, argv, &args, &status);
	int nsources = argc - first - 1;

	args.named_twice = args.target_image_opts && args.target_format;
	if (first >= 0 && nsources >= 0) {
		args.target = argv[argc - 1];
		target = tool_plain_path(args.target, &args.target_format, args.target_image_opts);
		if (!target) {
			status = EXIT_FAILURE;
			first = -1;
		}
	}
	format = args.target_format ? args.target_format : "raw";
	tool_create_init(&create, "convert", format);
	if (first < 0)
		goto out;
	status = EXIT_FAILURE;
	if (!tool_known_format(args.format))
		goto out;
	cli_set_subject("convert of", NULL); /* not of the sources */
	if (!tool_known_format(args.target_format))
		goto out;
	if (target && asprintf(&subject, "%s: error while converting %s", target, format) < 0)
		subject = NULL;
	cli_set_subject("convert to", subject);
	if (collect(&create, &args) < 0)
		goto out;
	cli_set_subject("convert", NULL);
	if (create.help) {
		tool_create_print_help(format, nsources >= 0);
		status = EXIT_SUCCESS;
		goto out;
	}
	status = check(&args, &create, nsources);
	if (status == 0)
		status = check_existing(&args, target);
	if (status != 0)
		goto out;
	tool_many_files();
	status = EXIT_FAILURE;
	if (open_sources(&sources, &args, argv + first, (size_t)nsources) == 0) {
		cli_set_subject(args.no_create ? "convert into" : "convert to", subject);
		status = convert(&sources, target, &args, &create);
	}
out:
	cli_set_subject("convert", NULL);
	free(subject);
	free(target);
	sources_release(&sources);
	tool_create_release(&create);
	cli_list_release(&args.options);
	return status;
}
