/* SPDX-License-Identifier: MIT */
/*
 * The command called as qemu-img: the same verbs under that program's manners. What differs is put
 * in front of the arguments here or said in words.c; the few places where a verb itself prints
 * something else ask cli_is_face().
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "compat/trace.h"
#include "compat/words.h"
#include "names/object.h"
#include "qcow2.h"
#include "verb.h"

/* The version whose behaviour the drop-in has; scripts ask for it. */
#define QEMU_IMG_VERSION "7.2.0"
#define BEFORE_MAX 4

static char force[] = "--force", format[] = "-f", raw[] = "raw";

static const struct {
	const char *name;
	char *before[BEFORE_MAX]; /* arguments that stand in front of those typed */
} verbs[] = {
	{"amend", {NULL}},
	{"bench", {NULL}},
	{"bitmap", {NULL}},
	{"check", {NULL}},
	{"commit", {NULL}},
	{"compare", {NULL}},
	{"convert", {force, NULL}}, /* what is there is replaced without a question */
	{"create", {force, format, raw, NULL}},
	{"dd", {force, NULL}},
	{"info", {NULL}},
	{"map", {NULL}},
	{"measure", {NULL}},
	{"snapshot", {NULL}},
	{"rebase", {NULL}},
	{"resize", {NULL}},
};
#define NVERBS (sizeof(verbs) / sizeof(verbs[0]))

static void print_version(void)
{
	printf("qemu-img version %s (libqcow2 %s)\n", QEMU_IMG_VERSION, qcow2_version());
}

static void print_help(void)
{
	size_t i;

	print_version();
	puts("usage: qemu-img [standard options] command [command options]\n"
	     "QEMU disk image utility, as libqcow2 has it\n\n"
	     "    '-h', '--help'       display this help and exit\n"
	     "    '-V', '--version'    output version information and exit\n"
	     "    '-T', '--trace'      [[enable=]<pattern>][,events=<file>][,file=<file>]\n"
	     "                         accepted: there is none of these events here\n\n"
	     "Command syntax:");
	for (i = 0; i < NVERBS; i++)
		cli_print_syntax(verb_find(verbs[i].name)->command);
	puts("\nEvery command but bench also takes [--object objectdef].\n"
	     "'qcow2 COMMAND --help' tells what the options do.\n\n"
	     "Supported formats: qcow2 raw");
}

static const struct cli_face qemu_img = {
	.program = "qemu-img",
	.words = compat_qemu_img_words,
	.print_help = print_help,
};

static int run_verb(int argc, char **argv)
{
	const struct verb *verb = verb_find(argv[0]);
	char **words = calloc((size_t)argc + BEFORE_MAX + 1, sizeof(*words));
	char *size = NULL;
	size_t v, nbefore = 0;
	int status = 0;

	for (v = 0; v < NVERBS && strcmp(verbs[v].name, argv[0]) != 0; v++)
		;
	if (!words) {
		status = cli_error("out of memory");
	} else if (v == NVERBS) {
		status = cli_usage(NULL, "Command not found: %s", argv[0]);
	} else {
		words[0] = argv[0];
		for (; verbs[v].before[nbefore]; nbefore++)
			words[1 + nbefore] = verbs[v].before[nbefore];
		memcpy(words + 1 + nbefore, argv + 1, (size_t)(argc - 1) * sizeof(*words));
		argc += (int)nbefore;
		/* the last word is the size, whatever it looks like */
		if (verb->command == &resize_command && argc > 2)
			size = words[--argc];
		words[argc] = NULL;
		/* bench alone has no --object */
		if (verb->command != &bench_command)
			status = names_take_objects(words, &argc, verb->command->failure_status);
		if (size)
			words[argc++] = size;
		words[argc] = NULL;
		if (status == 0)
			status = verb->run(argc, words);
	}
	free(words);
	return status;
}

int face_qemu_img(int argc, char **argv)
{
	static const struct option longs[] = {
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{"trace", required_argument, NULL, 'T'},
		{NULL, 0, NULL, 0},
	};
	const char *trace = NULL;
	int c, status;

	cli_set_face(&qemu_img);
	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:hVT:", longs, NULL)) != -1) {
		switch (c) {
		case ':':
			return cli_usage(NULL, "missing argument for option '%s'",
					 argv[optind - 1]);
		case '?':
			return cli_usage(NULL, "unrecognized option '%s'", argv[optind - 1]);
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		case 'V':
			print_version();
			return EXIT_SUCCESS;
		default:
			trace = optarg;
			status = compat_trace_take(trace);
			if (status != COMPAT_TRACE_GO_ON)
				return status;
		}
	}
	if (argc < 2)
		return cli_usage(NULL, "Not enough arguments");
	if (optind >= argc) /* options alone: nothing was asked for */
		return EXIT_SUCCESS;
	if (compat_trace_begin(trace) != 0)
		return EXIT_FAILURE;
	return run_verb(argc - optind, argv + optind);
}
