/* SPDX-License-Identifier: MIT */
/*
 * qcow2 map: what backs each part of a disk, through the whole chain. The library reports runs of
 * one kind; neighbours that continue each other are printed as one line, as qemu-img does.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/line.h"
#include "cli/utf8.h"
#include "image.h"
#include "verb.h"

struct map_args {
	bool image_opts;
	const char *format;
	bool force_share;
	int output;
	struct cli_size start, length;
};

static const struct cli_option map_options[] = {
	{'f', "format", CLI_STRING, offsetof(struct map_args, format), "FMT",
	 "format: qcow2 or raw (default: look)", NULL},
	{'s', "start-offset", CLI_SIZE, offsetof(struct map_args, start), "OFFSET",
	 "begin here rather than at 0", NULL},
	{'l', "max-length", CLI_SIZE, offsetof(struct map_args, length), "SIZE",
	 "end after so many bytes", NULL},
	{'U', "force-share", CLI_FLAG, offsetof(struct map_args, force_share), NULL,
	 "read even while another program writes", NULL},
	{0, "output", CLI_CHOICE, offsetof(struct map_args, output), "text|json",
	 "text: the parts with data; json: everything", tool_outputs},
	{0, "image-opts", CLI_FLAG, offsetof(struct map_args, image_opts), NULL,
	 "FILE is driver=FMT,file.filename=FILE,...", NULL},
	CLI_END,
};

const struct cli_command map_command = {
	.name = "map",
	.operands = "FILE",
	.summary = "Shows where the bytes of a disk are stored.",
	.options = map_options,
	.failure_status = EXIT_FAILURE,
};

struct map_printer {
	bool json;
	uint64_t nprinted;
};

static bool has(const struct qcow2_extent *e, unsigned flag)
{
	return (e->flags & flag) != 0;
}

static bool continues(const struct qcow2_extent *a, const struct qcow2_extent *b)
{
	if (a->flags != b->flags || a->depth != b->depth)
		return false;
	if (!has(a, QCOW2_EXTENT_HOST_OFF))
		return true;
	return a->host_off + a->len_bytes == b->host_off && a->filename && b->filename &&
	       strcmp(a->filename, b->filename) == 0;
}

static void put_bool(struct cli_line *line, bool value)
{
	if (value)
		cli_line_text(line, "true");
	else
		cli_line_text(line, "false");
}

/*
 * An image in many fragments has a line for each. They go to the stream one by one, which has a
 * buffer of its own, so that they keep their place among what is said on standard error.
 */
static void print_json(const struct map_printer *printer, const struct qcow2_extent *e)
{
	struct cli_line line;

	line.len = 0; /* its text needs no zeros */
	cli_line_text(&line, printer->nprinted ? ",\n{ \"start\": " : "[{ \"start\": ");
	cli_line_u64(&line, e->guest_off);
	cli_line_text(&line, ", \"length\": ");
	cli_line_u64(&line, e->len_bytes);
	cli_line_text(&line, ", \"depth\": ");
	cli_line_u64(&line, e->depth);
	cli_line_text(&line, ", \"present\": ");
	put_bool(&line, has(e, QCOW2_EXTENT_PRESENT));
	cli_line_text(&line, ", \"zero\": ");
	put_bool(&line, has(e, QCOW2_EXTENT_ZERO));
	cli_line_text(&line, ", \"data\": ");
	put_bool(&line, has(e, QCOW2_EXTENT_DATA));
	cli_line_text(&line, ", \"compressed\": ");
	put_bool(&line, has(e, QCOW2_EXTENT_COMPRESSED));
	if (has(e, QCOW2_EXTENT_HOST_OFF)) {
		cli_line_text(&line, ", \"offset\": ");
		cli_line_u64(&line, e->host_off);
	}
	cli_line_text(&line, "}");
	cli_line_write(&line, stdout);
}

static int print_row(const struct qcow2_extent *e)
{
	if (!has(e, QCOW2_EXTENT_DATA))
		return 0;
	if (!has(e, QCOW2_EXTENT_HOST_OFF)) {
		cli_error("the data at guest offset 0x%" PRIx64
			  " are compressed or encrypted, which "
			  "this table has no words for (use --output=json)",
			  e->guest_off);
		return -ENOTSUP;
	}
	if (has(e, QCOW2_EXTENT_ZERO))
		return 0;
	printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64, e->guest_off, e->len_bytes,
	       e->host_off);
	cli_text_put(stdout, e->filename ? e->filename : "");
	putchar('\n');
	return 0;
}

static int print_extent(struct map_printer *printer, const struct qcow2_extent *e)
{
	int rc = 0;

	if (printer->json)
		print_json(printer, e);
	else
		rc = print_row(e);
	printer->nprinted++;
	return rc == 0 && cli_output_lost() ? -EIO : rc;
}

/* Prints the map from guest_off to end. Errors have been told when it returns. */
static int walk(struct qcow2_image *image, uint64_t guest_off, uint64_t end,
		struct map_printer *printer)
{
	struct qcow2_extent run = {.guest_off = guest_off}, next;
	struct qcow2_error err = {0};
	int rc;

	for (; guest_off < end; guest_off += next.len_bytes) {
		rc = qcow2_map(image, guest_off, end - guest_off, &next, &err);
		if (rc < 0) {
			tool_explain(&err, NULL);
			return rc;
		}
		if (run.len_bytes && continues(&run, &next)) {
			run.len_bytes += next.len_bytes;
			continue;
		}
		if (run.len_bytes) {
			rc = print_extent(printer, &run);
			if (rc < 0)
				return rc;
		}
		run = next;
	}
	/* an empty range is one empty entry, as in qemu-img */
	return print_extent(printer, &run);
}

int verb_map(int argc, char **argv)
{
	struct map_args args = {0};
	struct map_printer printer = {0};
	struct qcow2_image *image = NULL;
	int status, first = cli_parse(&map_command, argc, argv, &args, &status);
	uint64_t end;
	int rc;

	if (first < 0)
		return status;
	if (argc - first != 1)
		return cli_usage("map", "expecting one image file");
	if (!tool_known_format(args.format))
		return EXIT_FAILURE;
	tool_many_files();
	rc = tool_open(&image, argv[first], args.format, NULL,
		       (args.force_share ? QCOW2_OPEN_FORCE_SHARE : 0) |
			       (args.image_opts ? TOOL_OPEN_IMAGE_OPTS : 0));
	if (rc < 0)
		return EXIT_FAILURE;
	end = qcow2_size(image);
	if (args.length.given && args.start.value < end &&
	    args.length.value < end - args.start.value)
		end = args.start.value + args.length.value;
	printer.json = args.output == TOOL_OUTPUT_JSON;
	if (!printer.json)
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	rc = walk(image, args.start.value, end, &printer);
	if (printer.json && printer.nprinted > 0)
		puts(rc == 0 ? "]" : "");
	qcow2_close(image);
	return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
