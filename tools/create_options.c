/* SPDX-License-Identifier: MIT */
/*
 * Options of a new image. Names and values are qemu-img's. This file checks that a value is of
 * its kind; whether options go together is the library's to say.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/guess.h"
#include "cli/keyval.h"
#include "cli/size.h"
#include "cli/utf8.h"
#include "create_options.h"

enum kind {
	KIND_STRING, /* const char * */
	KIND_SIZE,   /* uint64_t */
	KIND_NUMBER, /* unsigned */
	KIND_BOOL,
	KIND_CHOICE, /* unsigned */
};

struct choice {
	const char *name;
	unsigned value;
};

static const struct choice compats[] = {{"0.10", 2}, {"1.1", 3}, {"v2", 2}, {"v3", 3}, {NULL, 0}};
static const struct choice compressions[] = {
	{"zlib", QCOW2_COMPRESSION_ZLIB}, {"zstd", QCOW2_COMPRESSION_ZSTD}, {NULL, 0}};
static const struct choice preallocs[] = {{"off", QCOW2_PREALLOC_OFF},
					  {"metadata", QCOW2_PREALLOC_METADATA},
					  {"falloc", QCOW2_PREALLOC_FALLOC},
					  {"full", QCOW2_PREALLOC_FULL},
					  {NULL, 0}};

struct create_option {
	const char *name;
	enum kind kind;
	size_t at; /* offsetof the member of qcow2_create_options */
	const struct choice *choices;
	bool is_shown;	    /* in "Formatting ..." also when it wasn't given */
	unsigned place;	    /* there, from 1 */
	unsigned raw_place; /* the same for raw images; 0: they don't know the option */
	const char *help;
};

#define AT(member) offsetof(struct qcow2_create_options, member)
#define BYTES "bytes, or a number with k, M, G, T, P or E, up to 8E - 1"

static const struct create_option options[TOOL_NOPTIONS] = {
	{"backing_file", KIND_STRING, AT(backing_file), NULL, false, 7, 0,
	 "File name of a base image"},
	{"backing_fmt", KIND_STRING, AT(backing_format), NULL, false, 8, 0,
	 "Image format of the base image"},
	{"cluster_size", KIND_SIZE, AT(cluster_size), NULL, true, 1, 0, "qcow2 cluster size"},
	{"compat", KIND_CHOICE, AT(version), compats, false, 6, 0,
	 "Compatibility level (v2 [0.10] or v3 [1.1])"},
	{"compression_type", KIND_CHOICE, AT(compression), compressions, true, 4, 0,
	 "Compression method used for image cluster compression"},
	{"data_file", KIND_STRING, AT(data_file), NULL, false, 9, 0,
	 "File name of an external data file"},
	{"data_file_raw", KIND_BOOL, AT(data_file_raw), NULL, false, 10, 0,
	 "The external data file must stay valid as a raw image"},
	{"extended_l2", KIND_BOOL, AT(extended_l2), NULL, true, 2, 0, "Extended L2 tables"},
	{"lazy_refcounts", KIND_BOOL, AT(lazy_refcounts), NULL, true, 11, 0,
	 "Postpone refcount updates"},
	{"preallocation", KIND_CHOICE, AT(prealloc), preallocs, false, 3, 2,
	 "Preallocation mode (allowed values: off, metadata, falloc, full)"},
	{"refcount_bits", KIND_NUMBER, AT(refcount_bits), NULL, true, 12, 0,
	 "Width of a reference count entry in bits"},
	{"size", KIND_SIZE, AT(size), NULL, true, 5, 1, "Virtual disk size"},
};

/* Hints to some file systems that qemu-img has too. Scripts pass them everywhere, so they are
 * taken. */
static const struct create_option ignored[] = {
	{.name = "extent_size_hint", .kind = KIND_SIZE},
	{.name = "nocow", .kind = KIND_BOOL},
};

/* Of the help of qemu-img, which has them when it is told what file it would be. */
static const struct {
	const char *before, *line;
} file_options[] = {
	{"lazy_refcounts",
	 "  extent_size_hint=<size> - Extent size hint for the image file, 0 to disable"},
	{"preallocation",
	 "  nocow=<bool (on/off)>  - Turn off copy-on-write (valid only on btrfs)"},
};

static bool is_raw(const char *format)
{
	return strcmp(format, "raw") == 0;
}

/* Where the option stands in "Formatting ..."; 0: images of the format don't have it. */
static unsigned place_in(const char *format, const struct create_option *o)
{
	return is_raw(format) ? o->raw_place : o->place;
}

void tool_create_init(struct tool_create *create, const char *verb, const char *format)
{
	static const struct qcow2_create_options defaults = QCOW2_CREATE_OPTIONS_INIT;

	memset(create, 0, sizeof(*create));
	create->verb = verb;
	create->lib = defaults;
	create->lib.format = format;
}

void tool_create_release(struct tool_create *create)
{
	size_t i;

	for (i = 0; i < TOOL_NOPTIONS; i++)
		free(create->typed[i]);
}

static int parse_bool(const char *text, bool *value)
{
	static const char *const words[] = {"on", "off", "yes", "no", "true", "false", "y", "n"};
	size_t i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(words[i], text) == 0) {
			*value = i % 2 == 0;
			return 0;
		}
	}
	return -EINVAL;
}

static int refuse(const struct tool_create *create, const struct create_option *o,
		  const char *value, const char *expected)
{
	cli_usage(create->verb, "option '%s' doesn't take '%s': expecting %s", o->name, value,
		  expected);
	return -EINVAL;
}

static int store_choice(struct tool_create *create, const struct create_option *o,
			const char *value, unsigned *at)
{
	const struct choice *c;
	char expected[100] = "";

	for (c = o->choices; c->name; c++) {
		size_t used = strlen(expected);

		if (strcmp(c->name, value) == 0) {
			*at = c->value;
			return 0;
		}
		snprintf(expected + used, sizeof(expected) - used, "%s%s", used ? ", " : "",
			 c->name);
	}
	return refuse(create, o, value, expected);
}

/* Stores the value, whose string lives as long as create. */
static int store(struct tool_create *create, const struct create_option *o, const char *value)
{
	void *at = (char *)&create->lib + o->at;
	uint64_t number;

	switch (o->kind) {
	case KIND_STRING:
		*(const char **)at = value;
		return 0;
	case KIND_SIZE:
		if (cli_size_parse(value, at) < 0 || *(uint64_t *)at > INT64_MAX)
			return refuse(create, o, value, BYTES);
		/* to the library 0 is "the default" */
		if (o->at == AT(cluster_size) && *(uint64_t *)at == 0)
			return refuse(create, o, value, "a power of two from 512 to 2M");
		return 0;
	case KIND_NUMBER:
		if (cli_number_parse(value, 0, UINT32_MAX, &number) < 0 || number == 0)
			return refuse(create, o, value, "a number from 1 on");
		*(unsigned *)at = (unsigned)number;
		return 0;
	case KIND_BOOL:
		if (parse_bool(value, at) < 0)
			return refuse(create, o, value, "on or off");
		return 0;
	case KIND_CHOICE:
		return store_choice(create, o, value, at);
	}
	return -EINVAL;
}

static int refuse_amend(const char *name)
{
	cli_error("option '%s' can be chosen only when an image is made", name);
	return -EINVAL;
}

/* Keys can be changed, if there are any; nothing else of encryption. */
static int amend_encryption(struct tool_create *create, const char *name)
{
	static const char *const known[] = {"encrypt.iter-time", "encrypt.keyslot",
					    "encrypt.new-secret", "encrypt.old-secret",
					    "encrypt.state"};
	size_t i;

	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(known[i], name) == 0)
			create->encryption = true;
	return create->encryption ? 0 : refuse_amend(name);
}

/* Its value has to be one all the same. */
static int pass_over(const struct tool_create *create, const struct create_option *o,
		     const char *value)
{
	uint64_t size;
	bool on;

	if (create->amend)
		return refuse_amend(o->name);
	if (o->kind == KIND_BOOL && value && parse_bool(value, &on) < 0)
		return refuse(create, o, value, "on or off");
	if (o->kind == KIND_SIZE && (!value || cli_size_parse(value, &size) < 0))
		return refuse(create, o, value ? value : "", BYTES);
	cli_warn("option '%s' has no effect yet", o->name);
	return 0;
}

/* 0 if it may be passed over. */
static int unknown_option(struct tool_create *create, const char *name, const char *value)
{
	struct cli_guess guess = {.typed = name};
	size_t i;

	if (strncmp(name, "encrypt", 7) == 0 && create->amend)
		return amend_encryption(create, name);
	if (strncmp(name, "encrypt", 7) == 0) {
		cli_error("option '%s': encrypted images aren't supported yet", name);
		return -ENOTSUP;
	}
	for (i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++) {
		if (strcmp(ignored[i].name, name) == 0)
			return pass_over(create, &ignored[i], value);
	}
	for (i = 0; i < TOOL_NOPTIONS; i++)
		cli_guess_try(&guess, options[i].name);
	if (guess.best)
		cli_usage(create->verb, "unknown option '%s' in -o; did you mean '%s'?", name,
			  guess.best);
	else
		cli_usage(create->verb, "unknown option '%s' in -o ('-o help' lists them)", name);
	return -EINVAL;
}

/* Of those the image's structure depends on none, so that they can be changed later. */
static bool is_amendable(const struct create_option *o)
{
	static const char *const fixed[] = {"cluster_size", "compression_type", "extended_l2",
					    "preallocation"};
	size_t i;

	for (i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		if (strcmp(fixed[i], o->name) == 0)
			return false;
	return true;
}

int tool_create_set(struct tool_create *create, const char *name, const char *value)
{
	const struct create_option *o = NULL;
	char *copy;
	size_t i;
	int rc;

	for (i = 0; i < TOOL_NOPTIONS && !o; i++)
		if (strcmp(options[i].name, name) == 0)
			o = &options[i];
	if (!o)
		return unknown_option(create, name, value);
	if (place_in(create->lib.format, o) == 0) {
		cli_usage(create->verb, "raw images have no option '%s'", name);
		return -EINVAL;
	}
	if (create->amend && !is_amendable(o))
		return refuse_amend(o->name);
	/* a bare name switches on, as in QEMU */
	if (!value && o->kind == KIND_BOOL)
		value = "on";
	if (!value) {
		cli_usage(create->verb, "option '%s' needs a value: %s=VALUE", name, name);
		return -EINVAL;
	}
	copy = strdup(value);
	if (!copy) {
		cli_error("out of memory");
		return -ENOMEM;
	}
	rc = store(create, o, copy);
	free(create->typed[o - options]);
	create->typed[o - options] = copy;
	return rc;
}

static int take(void *opaque, const char *name, const char *value)
{
	struct tool_create *create = opaque;

	if (!value && (strcmp(name, "help") == 0 || strcmp(name, "?") == 0)) {
		create->help = true;
		return 0;
	}
	/* positive: it has been told */
	return tool_create_set(create, name, value) < 0 ? 1 : 0;
}

int tool_create_set_list(struct tool_create *create, const char *list)
{
	int rc = cli_keyval_each(list, take, create);

	if (rc == -EINVAL)
		cli_usage(create->verb, "-o: empty element in '%s' (a comma in a name is doubled)",
			  list);
	else if (rc < 0)
		cli_error("out of memory");
	return rc == 0 ? 0 : -EINVAL;
}

bool tool_create_has(const struct tool_create *create, const char *name)
{
	size_t i;

	for (i = 0; i < TOOL_NOPTIONS; i++)
		if (strcmp(options[i].name, name) == 0)
			return create->typed[i] != NULL;
	return false;
}

bool tool_create_has_size(const struct tool_create *create)
{
	return create->lib.size != QCOW2_SIZE_FROM_BACKING;
}

/* Raw images have no other options than those of their file. */
static bool is_file_option(const char *format, const struct create_option *o)
{
	return is_raw(format) && o->choices == preallocs;
}

static void print_file_option_before(const char *format, const struct create_option *o)
{
	size_t i;

	for (i = 0; i < sizeof(file_options) / sizeof(file_options[0]); i++)
		if (strcmp(file_options[i].before, o->name) == 0 ||
		    (is_file_option(format, o) && i == 0))
			puts(file_options[i].line);
}

static void print_option(const struct create_option *o, const char *help)
{
	static const char *const kinds[] = {
		[KIND_STRING] = "str",	       [KIND_SIZE] = "size",  [KIND_NUMBER] = "num",
		[KIND_BOOL] = "bool (on/off)", [KIND_CHOICE] = "str",
	};
	char form[64];

	snprintf(form, sizeof(form), "%s=<%s>", o->name, kinds[o->kind]);
	printf("  %-22s - %s\n", form, help);
}

void tool_create_print_amend_help(const char *format)
{
	size_t i;

	printf("Amend options for '%s':\n", format);
	for (i = 0; i < TOOL_NOPTIONS; i++)
		if (place_in(format, &options[i]) != 0 && is_amendable(&options[i]))
			print_option(&options[i], options[i].help);
}

void tool_create_print_help(const char *format, bool has_file)
{
	size_t i;

	if (cli_is_face() && !has_file)
		printf("Supported %s options:\n", format);
	else
		puts("Supported options:");
	for (i = 0; i < TOOL_NOPTIONS; i++) {
		const struct create_option *o = &options[i];
		const char *help = o->help;

		if (place_in(format, o) == 0)
			continue;
		if (cli_is_face() && has_file)
			print_file_option_before(format, o);
		if (cli_is_face() && !has_file && is_file_option(format, o))
			continue;
		if (is_raw(format) && o->choices == preallocs)
			help = "Preallocation mode (allowed values: off, falloc, full)";
		print_option(o, help);
	}
	if (cli_is_face() && !has_file)
		puts("\nThe protocol level may support further options.\n"
		     "Specify the target filename to include those options.");
}

static void print_value(const struct tool_create *create, size_t i)
{
	const struct create_option *o = &options[i];
	const char *at = (const char *)&create->lib + o->at;
	const struct choice *c;

	switch (o->kind) {
	case KIND_STRING:
		cli_keyval_put(stdout, *(const char *const *)(const void *)at);
		break;
	case KIND_SIZE:
		printf("%" PRIu64, *(const uint64_t *)(const void *)at);
		break;
	case KIND_NUMBER:
		printf("%u", *(const unsigned *)(const void *)at);
		break;
	case KIND_BOOL:
		fputs(*(const bool *)at ? "on" : "off", stdout);
		break;
	case KIND_CHOICE:
		for (c = o->choices; c->value != *(const unsigned *)(const void *)at; c++)
			;
		fputs(create->typed[i] ? create->typed[i] : c->name, stdout);
		break;
	}
}

void tool_create_print(const struct tool_create *create, const char *path)
{
	size_t place, i;

	fputs("Formatting '", stdout);
	cli_text_put(stdout, path);
	printf("', fmt=%s", create->lib.format);
	for (place = 1; place <= TOOL_NOPTIONS; place++) {
		for (i = 0; i < TOOL_NOPTIONS; i++)
			if (place_in(create->lib.format, &options[i]) == place)
				break;
		if (i == TOOL_NOPTIONS || (!create->typed[i] && !options[i].is_shown))
			continue;
		printf(" %s=", options[i].name);
		print_value(create, i);
	}
	putchar('\n');
}
