/* SPDX-License-Identifier: MIT */
/*
 * The `qcow2` command: a table of verbs. What a verb does stands in its verb_*.c. Called by the
 * name of another program that it stands in for, it is that program.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/diag.h"
#include "cli/guess.h"
#include "names/object.h"
#include "cli/out.h"
#include "qcow2.h"
#include "verb.h"

/* clang-format off */
static const struct verb verbs[] = {
	{&create_command, verb_create},
	{&info_command, verb_info},
	{&map_command, verb_map},
	{&convert_command, verb_convert},
	{&measure_command, verb_measure},
	{&compare_command, verb_compare},
	{&check_command, verb_check},
	{&commit_command, verb_commit},
	{&rebase_command, verb_rebase},
	{&dd_command, verb_dd},
	{&bench_command, verb_bench},
	{&dump_command, verb_dump},
	{&io_command, verb_io},
	{&snapshot_command, verb_snapshot},
	{&bitmap_command, verb_bitmap},
	{&resize_command, verb_resize},
	{&amend_command, verb_amend},
};
/* clang-format on */
#define NVERBS (sizeof(verbs) / sizeof(verbs[0]))

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} faces[] = {
	{"qemu-img", face_qemu_img},
	{"qemu-io", face_qemu_io},
};

static void print_help(FILE *f)
{
	size_t i;

	fputs("Usage: qcow2 VERB [OPTION]... ARGUMENT...\n"
	      "Reads, makes, converts and checks disk images in the qcow2 format.\n\n",
	      f);
	for (i = 0; i < NVERBS; i++)
		fprintf(f, "  %-10s%s\n", verbs[i].command->name, verbs[i].command->summary);
	fputs("\n'qcow2 VERB --help' tells more of a verb, 'qcow2 --version' the version.\n", f);
}

const struct verb *verb_find(const char *name)
{
	size_t i;

	for (i = 0; i < NVERBS; i++)
		if (strcmp(verbs[i].command->name, name) == 0)
			return &verbs[i];
	return NULL;
}

/* For those who make manual pages and shell completion; see tools/docs.py. */
static void dump_options(void)
{
	struct cli_out out;
	size_t i;

	cli_out_init(&out, stdout, true);
	cli_out_open(&out, NULL, '[');
	for (i = 0; i < NVERBS; i++)
		cli_dump_command(&out, verbs[i].command);
	cli_out_close(&out);
}

static int unknown_verb(const char *name)
{
	struct cli_guess guess = {.typed = name};
	size_t i;

	for (i = 0; i < NVERBS; i++)
		cli_guess_try(&guess, verbs[i].command->name);
	if (name[0] == '-')
		return cli_usage(NULL, "unknown option '%s'", name);
	if (guess.best)
		return cli_usage(NULL, "unknown verb '%s'; did you mean '%s'?", name, guess.best);
	return cli_usage(NULL, "unknown verb '%s'", name);
}

static int help(int argc, char **argv)
{
	const struct verb *verb;

	if (argc < 2) {
		print_help(stdout);
		return EXIT_SUCCESS;
	}
	verb = verb_find(argv[1]);
	if (!verb)
		return unknown_verb(argv[1]);
	cli_print_help(verb->command);
	return EXIT_SUCCESS;
}

/* *failure_status is the exit code when the output gets lost. */
static int run(int argc, char **argv, int *failure_status)
{
	const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
	const struct verb *verb;
	size_t i;

	for (i = 0; argc > 0 && i < sizeof(faces) / sizeof(faces[0]); i++)
		if (strcmp(slash ? slash + 1 : argv[0], faces[i].name) == 0)
			return faces[i].run(argc, argv);
	if (argc < 2) {
		print_help(stderr);
		return EXIT_FAILURE;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		printf("qcow2 %s\n", qcow2_version());
		return EXIT_SUCCESS;
	}
	if (strcmp(argv[1], "--dump-options") == 0) {
		dump_options();
		return EXIT_SUCCESS;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
	    strcmp(argv[1], "help") == 0)
		return help(argc - 1, argv + 1);
	verb = verb_find(argv[1]);
	if (!verb)
		return unknown_verb(argv[1]);
	*failure_status = verb->command->failure_status;
	argc--;
	argv++;
	/* qemu-io's own is among the options of io, where a command may look like one */
	if (verb->command != &io_command) {
		int status = names_take_objects(argv, &argc, *failure_status);

		if (status != 0)
			return status;
	}
	return verb->run(argc, argv);
}

int main(int argc, char **argv)
{
	int status, failure_status = EXIT_FAILURE;

	cli_start();
	status = run(argc, argv, &failure_status);
	return cli_finish(status, failure_status);
}
