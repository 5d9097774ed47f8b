/* SPDX-License-Identifier: MIT */
/* qcow2 dump: the microscope. Every field of a structure, where it stands and what it means. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/guess.h"
#include "cli/out.h"
#include "cli/size.h"
#include "cli/utf8.h"
#include "image.h"
#include "verb.h"

struct dump_args {
	bool image_opts;
	const char *format;
	bool force_share;
	int output;
};

static const struct cli_option dump_options[] = {
	{'f', "format", CLI_STRING, offsetof(struct dump_args, format), "FMT",
	 "format: qcow2 or raw (default: look)", NULL},
	{'U', "force-share", CLI_FLAG, offsetof(struct dump_args, force_share), NULL,
	 "read even while another program writes", NULL},
	{0, "output", CLI_CHOICE, offsetof(struct dump_args, output), "text|json",
	 "how to print it", tool_outputs},
	{0, "image-opts", CLI_FLAG, offsetof(struct dump_args, image_opts), NULL,
	 "FILE is driver=FMT,file.filename=FILE,...", NULL},
	CLI_END,
};

const struct cli_command dump_command = {
	.name = "dump",
	.operands = "FILE [WHAT [INDEX]]",
	.summary = "Shows the fields of an image's own structures.",
	.options = dump_options,
	.notes = "\nWHAT is one of:\n"
		 "  header           the header (the default)\n"
		 "  extensions       the header extensions\n"
		 "  l1               the L1 table\n"
		 "  l2 INDEX         the L2 table of an entry of the L1 table\n"
		 "  reftable         the refcount table\n"
		 "  refblock INDEX   the refcount block of an entry of the refcount table\n"
		 "  snapshots        the snapshot table\n"
		 "  bitmaps          the bitmap directory\n"
		 "Entries of tables that are zero are left out.",
	.failure_status = EXIT_FAILURE,
};

static const struct part {
	const char *name;
	unsigned what;
	bool has_index;
} parts[] = {
	{"header", QCOW2_DUMP_HEADER, false},
	{"extensions", QCOW2_DUMP_EXTENSIONS, false},
	{"l1", QCOW2_DUMP_L1, false},
	{"l2", QCOW2_DUMP_L2, true},
	{"reftable", QCOW2_DUMP_REFTABLE, false},
	{"refblock", QCOW2_DUMP_REFBLOCK, true},
	{"snapshots", QCOW2_DUMP_SNAPSHOTS, false},
	{"bitmaps", QCOW2_DUMP_BITMAPS, false},
};
#define NPARTS (sizeof(parts) / sizeof(parts[0]))

struct printer {
	bool json;
	uint64_t nprinted;
};

static void column_offset(const struct printer *p, const struct qcow2_field *field)
{
	if (p->json)
		printf("%" PRIu64, field->host_off);
	else
		printf("0x%-14" PRIx64, field->host_off);
}

static void column_length(const struct printer *p, const struct qcow2_field *field)
{
	printf(p->json ? "%" PRIu32 : "%6" PRIu32 "  ", field->len_bytes);
}

static void column_table(const struct printer *p, const struct qcow2_field *field)
{
	if (p->json)
		cli_json_put(stdout, field->table);
}

static void column_index(const struct printer *p, const struct qcow2_field *field)
{
	if (p->json)
		printf("%" PRIu64, field->index);
	else if (strcmp(field->table, "header") == 0)
		printf("%-8s", "");
	else
		printf("%-7" PRIu64 " ", field->index);
}

static void column_field(const struct printer *p, const struct qcow2_field *field)
{
	const char *name = field->name ? field->name : "";
	char safe[200];

	if (p->json)
		cli_json_put(stdout, name);
	else
		printf("%-23s ", cli_text_safe(safe, sizeof(safe), name));
}

/* Counts are read in decimal, offsets and entries in hexadecimal. */
#define DECIMAL_BELOW 4096

/* The last column where a field has no meaning: then a line must not end in spaces. */
static void column_value(const struct printer *p, const struct qcow2_field *field)
{
	bool padded = field->text && *field->text;

	if (p->json)
		printf("%" PRIu64, field->value);
	else if (field->value < DECIMAL_BELOW)
		printf("%-*" PRIu64, padded ? 19 : 0, field->value);
	else
		printf("0x%-*" PRIx64, padded ? 17 : 0, field->value);
}

static void column_meaning(const struct printer *p, const struct qcow2_field *field)
{
	const char *text = field->text ? field->text : "";

	if (p->json)
		cli_json_put(stdout, text);
	else
		cli_text_put(stdout, text);
}

/* The row, for text and for JSON. */
static const struct column {
	const char *heading; /* NULL: not in text */
	int width;
	const char *key;
	void (*put)(const struct printer *p, const struct qcow2_field *field);
} columns[] = {
	{"Offset", 16, "offset", column_offset},   {"Length", 8, "length", column_length},
	{NULL, 0, "table", column_table},	   {"Index", 8, "index", column_index},
	{"Field", 24, "field", column_field},	   {"Value", 19, "value", column_value},
	{"Meaning", 0, "meaning", column_meaning},
};
#define NCOLUMNS (sizeof(columns) / sizeof(columns[0]))

static void print_headings(void)
{
	size_t i;

	for (i = 0; i < NCOLUMNS; i++)
		if (columns[i].heading)
			printf("%-*s", columns[i].width, columns[i].heading);
	putchar('\n');
}

static int print_field(void *opaque, const struct qcow2_field *field)
{
	struct printer *p = opaque;
	size_t i;

	if (p->json)
		fputs(p->nprinted ? ",\n" : "[", stdout);
	else if (p->nprinted == 0)
		print_headings();
	for (i = 0; i < NCOLUMNS; i++) {
		if (p->json)
			printf("%s\"%s\": ", i ? ", " : "{ ", columns[i].key);
		columns[i].put(p, field);
	}
	fputs(p->json ? "}" : "\n", stdout);
	p->nprinted++;
	return cli_output_lost() ? -EIO : 0;
}

/* The operands behind the file: what to show, and of which table. */
static const struct part *find_part(int noperands, char **operands, uint64_t *index)
{
	const char *name = noperands > 1 ? operands[1] : "header";
	struct cli_guess guess = {.typed = name};
	const struct part *part = NULL;
	size_t i;

	for (i = 0; i < NPARTS; i++) {
		cli_guess_try(&guess, parts[i].name);
		if (strcmp(parts[i].name, name) == 0)
			part = &parts[i];
	}
	*index = 0;
	if (!part && guess.best)
		cli_usage("dump", "an image has no '%s'; did you mean '%s'?", name, guess.best);
	else if (!part)
		cli_usage("dump", "an image has no '%s'", name);
	else if (part->has_index && noperands < 3)
		cli_usage("dump", "%s needs an index: which table to show", name);
	else if (!part->has_index && noperands > 2)
		cli_usage("dump", "%s has no index: what is '%s'?", name, operands[2]);
	else if (part->has_index && cli_number_parse(operands[2], 0, UINT64_MAX, index) < 0)
		cli_usage("dump", "'%s' is not an index", operands[2]);
	else
		return part;
	return NULL;
}

static int dump(struct qcow2_image *image, const struct part *part, uint64_t index, bool json)
{
	struct printer printer = {.json = json};
	struct qcow2_error err = {0};
	int rc;

	rc = qcow2_dump(image, part->what, index, print_field, &printer, &err);
	if (json && rc == 0)
		puts(printer.nprinted ? "]" : "[]");
	else if (json && printer.nprinted)
		putchar('\n');
	else if (rc == 0 && printer.nprinted == 0)
		print_headings();
	if (rc < 0 && !cli_output_lost())
		cli_error("%s: %s", part->name, err.message);
	return rc;
}

int verb_dump(int argc, char **argv)
{
	struct dump_args args = {0};
	struct qcow2_image *image = NULL;
	int status, first = cli_parse(&dump_command, argc, argv, &args, &status);
	const struct part *part;
	unsigned flags;
	uint64_t index;
	int rc;

	if (first < 0)
		return status;
	if (argc - first < 1 || argc - first > 3)
		return cli_usage("dump", "expecting an image file and what to show of it");
	part = find_part(argc - first, argv + first, &index);
	if (!part || !tool_known_format(args.format))
		return EXIT_FAILURE;
	flags = QCOW2_OPEN_INFO | (args.force_share ? QCOW2_OPEN_FORCE_SHARE : 0) |
		(args.image_opts ? TOOL_OPEN_IMAGE_OPTS : 0);
	rc = tool_open(&image, argv[first], args.format, NULL, flags);
	if (rc == 0)
		rc = dump(image, part, index, args.output == TOOL_OUTPUT_JSON);
	qcow2_close(image);
	return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
