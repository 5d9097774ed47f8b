/* SPDX-License-Identifier: MIT */
/* Options by table, on top of getopt_long. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/diag.h"
#include "cli/guess.h"
#include "cli/size.h"

#define OPTIONS_MAX 48
#define LONG_BASE 256 /* what getopt_long returns for option i of the table is LONG_BASE + i */
#define NUMBER_MAX 1024
#define HELP_COLUMN 30

void cli_list_release(struct cli_list *list)
{
	free(list->items);
	list->items = NULL;
	list->n = 0;
}

static int list_add(struct cli_list *list, const char *item)
{
	const char **items = reallocarray(list->items, list->n + 1, sizeof(*items));

	if (!items)
		return -ENOMEM;
	items[list->n++] = item;
	list->items = items;
	return 0;
}

static size_t count_options(const struct cli_command *command)
{
	size_t n = 0;

	while (command->options[n].letter || command->options[n].name)
		n++;
	return n;
}

/* "-f", "--output": as people would type it. */
static const char *spelled(const struct cli_option *o, char buf[40])
{
	if (o->letter)
		snprintf(buf, 40, "-%c", o->letter);
	else
		snprintf(buf, 40, "--%s", o->name);
	return buf;
}

static int choose(const struct cli_command *command, const struct cli_option *o, const char *text,
		  int *choice)
{
	char name[40], list[200] = "";
	size_t used = 0;
	int i;

	for (i = 0; o->choices[i]; i++) {
		if (strcmp(o->choices[i], text) == 0) {
			*choice = i;
			return 0;
		}
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "",
					 o->choices[i]);
	}
	cli_usage(command->name, "%s: '%s' is not one of %s", spelled(o, name), text, list);
	return -EINVAL;
}

static int take_size(const struct cli_command *command, const struct cli_option *o,
		     const char *text, struct cli_size *size)
{
	char name[40];
	int rc = cli_size_parse(text, &size->value);

	if (rc == 0 && size->value > INT64_MAX)
		rc = -ERANGE;
	if (rc == -EINVAL)
		cli_usage(command->name,
			  "%s: '%s' is not a size: use a number of bytes, or of the unit k, M, G, "
			  "T, P or E behind it",
			  spelled(o, name), text);
	else if (rc < 0)
		cli_usage(command->name, "%s: '%s' is out of range, 0 to 9223372036854775807 bytes",
			  spelled(o, name), text);
	size->given = true;
	return rc;
}

static int take_number(const struct cli_command *command, const struct cli_option *o,
		       const char *text, struct cli_size *size)
{
	char name[40];
	int rc = cli_number_parse(text, 1, NUMBER_MAX, &size->value);

	if (rc < 0)
		cli_usage(command->name, "%s: '%s' is not a whole number from 1 to %d",
			  spelled(o, name), text, NUMBER_MAX);
	size->given = true;
	return rc;
}

/* Stores one option's argument in the verb's struct. */
static int take(const struct cli_command *command, const struct cli_option *o, const char *text,
		void *args)
{
	void *at = (char *)args + o->at;

	switch (o->kind) {
	case CLI_FLAG:
		*(bool *)at = true;
		return 0;
	case CLI_STRING:
		*(const char **)at = text;
		return 0;
	case CLI_LIST:
		if (list_add(at, text) == 0)
			return 0;
		cli_error("out of memory");
		return -ENOMEM;
	case CLI_SIZE:
		return take_size(command, o, text, at);
	case CLI_NUMBER:
		return take_number(command, o, text, at);
	case CLI_CHOICE:
		return choose(command, o, text, at);
	}
	return -EINVAL;
}

/* Fills what getopt_long wants. */
static void make_tables(const struct cli_command *command, size_t n, char *letters,
			struct option *longs)
{
	size_t i, nlongs = 0;

	*letters++ = ':';
	for (i = 0; i < n; i++) {
		const struct cli_option *o = &command->options[i];
		bool has_arg = o->kind != CLI_FLAG;

		if (o->letter) {
			*letters++ = o->letter;
			if (has_arg)
				*letters++ = ':';
		}
		if (o->name)
			longs[nlongs++] = (struct option){
				.name = o->name,
				.has_arg = has_arg ? required_argument : no_argument,
				.val = LONG_BASE + (int)i,
			};
	}
	*letters++ = 'h';
	*letters = 0;
	longs[nlongs++] = (struct option){.name = "help", .val = 'h'};
	memset(&longs[nlongs], 0, sizeof(longs[nlongs]));
}

static const struct cli_option *find(const struct cli_command *command, size_t n, int c)
{
	size_t i;

	if (c >= LONG_BASE && c < LONG_BASE + (int)n)
		return &command->options[c - LONG_BASE];
	for (i = 0; i < n; i++)
		if (command->options[i].letter && command->options[i].letter == c)
			return &command->options[i];
	return NULL;
}

/* getopt_long said '?': what it was that nobody knows. */
static void complain(const struct cli_command *command, size_t n, const char *typed)
{
	const struct cli_option *known = optopt ? find(command, n, optopt) : NULL;
	struct cli_guess guess = {0};
	char name[64];
	size_t i;

	if (known || optopt == 'h') {
		cli_usage(command->name, "option '--%s' takes no argument",
			  known ? known->name : "help");
		return;
	}
	if (optopt) {
		cli_usage(command->name, "unknown option '-%c'", optopt);
		return;
	}
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(typed + 2, "="), typed + 2);
	guess.typed = name;
	for (i = 0; i < n; i++)
		if (command->options[i].name)
			cli_guess_try(&guess, command->options[i].name);
	if (guess.best)
		cli_usage(command->name, "unknown option '--%s'; did you mean '--%s'?", name,
			  guess.best);
	else
		cli_usage(command->name, "unknown option '--%s'", name);
}

int cli_parse(const struct cli_command *command, int argc, char **argv, void *args, int *status)
{
	struct option longs[OPTIONS_MAX + 2];
	char letters[2 * OPTIONS_MAX + 3], name[40];
	size_t n = count_options(command);
	int c;

	make_tables(command, n, letters, longs);
	cli_set_subject(command->name, NULL);
	*status = command->failure_status;
	opterr = 0;
	optind = 0; /* what a face has parsed before us is forgotten */
	while ((c = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
		const struct cli_option *o;

		if (c == 'h' && !find(command, n, 'h')) {
			if (!cli_face_help())
				cli_print_help(command);
			*status = EXIT_SUCCESS;
			return -1;
		}
		if (cli_is_face() && (c == ':' || c == '?')) {
			cli_usage(NULL,
				  c == ':' ? "missing argument for option '%s'"
					   : "unrecognized option '%s'",
				  argv[optind - 1]);
			*status = EXIT_FAILURE;
			return -1;
		}
		if (c == ':') {
			o = find(command, n, optopt);
			cli_usage(command->name, "option '%s' needs an argument%s%s",
				  o ? spelled(o, name) : argv[optind - 1], o ? ", " : "",
				  o ? o->arg : "");
			return -1;
		}
		if (c == '?') {
			complain(command, n, argv[optind - 1]);
			return -1;
		}
		o = find(command, n, c);
		if (!o || take(command, o, optarg, args) < 0)
			return -1;
	}
	cli_set_subject(command->name, optind < argc ? argv[optind] : NULL);
	return optind;
}

/* "-f, --format FMT" of the n options that share a line: all letters, all long forms. */
static void put_forms(char *line, size_t size, const struct cli_option *group, size_t n)
{
	size_t used = 0, i;

	for (i = 0; i < n; i++)
		if (group[i].letter)
			used += (size_t)snprintf(line + used, size - used, "%s-%c",
						 used ? ", " : "", group[i].letter);
	for (i = 0; i < n; i++)
		if (group[i].name)
			used += (size_t)snprintf(line + used, size - used, "%s--%s",
						 used ? ", " : "    ", group[i].name);
	if (group[0].arg)
		snprintf(line + used, size - used, " %s", group[0].arg);
}

void cli_print_syntax(const struct cli_command *command)
{
	const struct cli_option *o;
	char name[40];

	printf("  %s", command->name);
	for (o = command->options; o->letter || o->name; o++)
		printf(" [%s%s%s]", spelled(o, name),
		       !o->arg	   ? ""
		       : o->letter ? " "
				   : "=",
		       o->arg ? o->arg : "");
	printf(" %s\n", command->operands);
}

void cli_print_help(const struct cli_command *command)
{
	static const struct cli_option help = {'h', "help", .help = "show this"};
	bool has_verbs = !cli_is_face(); /* a program that we stand in for */
	size_t n = count_options(command), i, next;

	printf("Usage: %s%s%s [OPTION]... %s\n%s\n\n", cli_program(), has_verbs ? " " : "",
	       has_verbs ? command->name : "", command->operands, command->summary);
	for (i = 0; i <= n; i = next) {
		const struct cli_option *o = i < n ? &command->options[i] : &help;
		char line[200];

		for (next = i + 1; next < n && !command->options[next].help; next++)
			;
		put_forms(line, sizeof(line), o, next - i);
		printf("  %-*s  %s\n", HELP_COLUMN - 4, line, o->help);
	}
	if (command->notes)
		printf("%s\n", command->notes);
}
