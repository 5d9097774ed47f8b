/* SPDX-License-Identifier: MIT */
/*
 * qcow2 info: what an image says of itself. Reads headers and nothing else (with --usage, all of
 * its tables): the disk's bytes, the data file and (without --backing-chain) the backing files stay
 * closed.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/diag.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/size.h"
#include "cli/utf8.h"
#include "image.h"
#include "info_rows.h"
#include "verb.h"

struct info_args {
	bool image_opts;
	const char *format;
	bool force_share, backing_chain, usage, progress;
	int output;
};

static const struct cli_option info_options[] = {
	{'f', "format", CLI_STRING, offsetof(struct info_args, format), "FMT",
	 "format: qcow2 or raw (default: look)", NULL},
	{0, "backing-chain", CLI_FLAG, offsetof(struct info_args, backing_chain), NULL,
	 "go on with its backing files", NULL},
	{0, "usage", CLI_FLAG, offsetof(struct info_args, usage), NULL,
	 "where its space goes (reads all its tables)", NULL},
	{'p', "progress", CLI_PROGRESS, offsetof(struct info_args, progress), NULL,
	 "with --usage: show the progress, in percent", NULL},
	{'U', "force-share", CLI_FLAG, offsetof(struct info_args, force_share), NULL,
	 "read even while another program writes", NULL},
	{0, "output", CLI_CHOICE, offsetof(struct info_args, output), "text|json",
	 "how to print it", tool_outputs},
	{0, "image-opts", CLI_FLAG, offsetof(struct info_args, image_opts), NULL,
	 "FILE is driver=FMT,file.filename=FILE,...", NULL},
	CLI_END,
};

const struct cli_command info_command = {
	.name = "info",
	.operands = "FILE",
	.summary = "Shows what an image says of itself.",
	.options = info_options,
	.failure_status = EXIT_FAILURE,
	.own_progress = true,
};

/* One image of the chain. It stays open while its info is in use. */
struct layer {
	struct qcow2_image *image;
	struct qcow2_info info;
	dev_t dev;
	ino_t ino;
	bool has_identity;
	struct qcow2_check_result usage;
	bool has_usage;
};

struct chain {
	struct layer *layers;
	size_t n;
};

static void chain_release(struct chain *chain)
{
	size_t i;

	for (i = 0; i < chain->n; i++)
		qcow2_close(chain->layers[i].image);
	free(chain->layers);
}

static bool is_in_chain(const struct chain *chain, const struct layer *layer)
{
	size_t i;

	for (i = 0; layer->has_identity && i < chain->n; i++)
		if (chain->layers[i].has_identity && chain->layers[i].dev == layer->dev &&
		    chain->layers[i].ino == layer->ino)
			return true;
	return false;
}

/* Opens path and puts it at the end of the chain. Says what went wrong. */
static int append(struct chain *chain, const char *path, const char *format, unsigned flags)
{
	struct layer layer = {.info = QCOW2_INFO_INIT}, *layers;
	struct qcow2_error err = {0};
	struct stat st;
	int rc;

	if (stat(path, &st) == 0) {
		layer.dev = st.st_dev;
		layer.ino = st.st_ino;
		layer.has_identity = true;
	}
	if (is_in_chain(chain, &layer)) {
		cli_error("backing file \"%s\" is above itself in the chain: a circle", path);
		return -ELOOP;
	}
	if (chain->n >= QCOW2_DEPTH_DEFAULT) {
		cli_error("the chain has more than %d images", QCOW2_DEPTH_DEFAULT);
		return -ELOOP;
	}
	layers = reallocarray(chain->layers, chain->n + 1, sizeof(*layers));
	if (!layers) {
		cli_error("out of memory");
		return -ENOMEM;
	}
	chain->layers = layers;
	rc = tool_open(&layer.image, path, format, NULL, flags | QCOW2_OPEN_INFO);
	if (rc < 0)
		return rc;
	rc = qcow2_info(layer.image, &layer.info, &err);
	if (rc < 0) {
		tool_explain(&err, NULL);
		qcow2_close(layer.image);
		return rc;
	}
	if (layer.info.bitmaps_lost)
		cli_warn("\"%s\": a program that doesn't know bitmaps wrote to it, its bitmaps are "
			 "out of date and not shown",
			 path);
	chain->layers[chain->n++] = layer;
	return 0;
}

/* The backing file of the last image; 1 at the end of the chain. */
static int append_backing(struct chain *chain, unsigned flags)
{
	const struct qcow2_info *info = &chain->layers[chain->n - 1].info;

	if (!info->backing_file)
		return 1;
	if (!info->backing_path) {
		cli_error("\"%s\" has the backing file \"%s\", not a local file: it isn't opened",
			  info->filename, info->backing_file);
		return -EPERM;
	}
	return append(chain, info->backing_path, info->backing_format, flags);
}

/* Of each image that has tables. Says what went wrong. */
static int find_usage(struct chain *chain, const struct info_args *args)
{
	struct qcow2_check_options options = QCOW2_CHECK_OPTIONS_INIT;
	struct cli_progress progress;
	struct qcow2_error err = {0};
	size_t i;
	int rc;

	options.flags = args->force_share ? QCOW2_OPEN_FORCE_SHARE : 0;
	options.progress.tick = cli_progress_tick;
	options.progress.opaque = &progress;
	cli_interrupt_catch();
	for (i = 0; i < chain->n; i++) {
		struct layer *layer = &chain->layers[i];

		if (strcmp(layer->info.format, "qcow2") != 0)
			continue;
		options.format = layer->info.format;
		/* one image after the other, each from its beginning to its end */
		cli_progress_begin(&progress, args->progress && args->output != TOOL_OUTPUT_JSON,
				   false);
		rc = qcow2_check(layer->info.filename, &options, &layer->usage, &err);
		cli_progress_end(&progress, rc == 0);
		if (rc == -ECANCELED)
			cli_interrupt_die();
		if (rc < 0) {
			tool_explain(&err, NULL);
			return rc;
		}
		layer->has_usage = true;
	}
	return 0;
}

#define TREE_DEPTH 12 /* what is further below isn't indented more */

/* The chain at a glance, for people: each image stands on the next. */
static void print_tree(const struct chain *chain)
{
	char size[CLI_SIZE_TEXT], disk[CLI_SIZE_TEXT];
	size_t i;

	for (i = 0; i < chain->n; i++) {
		const struct qcow2_info *info = &chain->layers[i].info;

		if (i > 0)
			printf("%*s\\_ ", i > TREE_DEPTH ? 3 * TREE_DEPTH : 3 * (int)(i - 1), "");
		cli_text_put(stdout, info->filename);
		printf(" (%s, %s", info->format, cli_size_human(size, info->virtual_size));
		if (info->has_disk_bytes)
			printf(", %s on disk", cli_size_human(disk, info->disk_bytes));
		puts(")");
	}
	putchar('\n');
}

static void print_chain(const struct chain *chain, bool json, bool as_list)
{
	struct cli_out out;
	size_t i;

	if (as_list && !json && !cli_is_face())
		print_tree(chain);
	cli_out_init(&out, stdout, json);
	if (json && as_list)
		cli_out_open(&out, NULL, '[');
	for (i = 0; i < chain->n; i++) {
		if (!json && i > 0)
			putchar('\n');
		cli_out_open(&out, NULL, '{');
		info_rows_put(&out, &chain->layers[i].info);
		if (chain->layers[i].has_usage)
			info_rows_put_usage(&out, &chain->layers[i].usage);
		cli_out_close(&out);
	}
	if (json && as_list)
		cli_out_close(&out);
}

int verb_info(int argc, char **argv)
{
	struct info_args args = {0};
	struct chain chain = {0};
	int status, first = cli_parse(&info_command, argc, argv, &args, &status);
	unsigned flags;
	int rc;

	if (first < 0)
		return status;
	if (argc - first != 1)
		return cli_usage("info", "expecting one image file");
	if (!tool_known_format(args.format))
		return EXIT_FAILURE;
	flags = args.force_share ? QCOW2_OPEN_FORCE_SHARE : 0;
	if (args.backing_chain)
		tool_many_files();
	rc = append(&chain, argv[first], args.format,
		    flags | (args.image_opts ? TOOL_OPEN_IMAGE_OPTS : 0));
	while (rc == 0 && args.backing_chain)
		rc = append_backing(&chain, flags);
	if (rc >= 0 && args.usage)
		rc = find_usage(&chain, &args);
	if (rc >= 0)
		print_chain(&chain, args.output == TOOL_OUTPUT_JSON, args.backing_chain);
	chain_release(&chain);
	return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
