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
#include "cli/progress.h"
#include "cli/size.h"

#define OPTIONS_MAX 48
#define LONG_BASE 256 /* what getopt_long returns for option i of the table is LONG_BASE + i */
#define NUMBER_MAX 1024

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

void cli_steps_release(struct cli_steps *steps)
{
	free(steps->items);
	steps->items = NULL;
	steps->n = 0;
}

static int steps_add(struct cli_steps *steps, const char *name, const char *argument)
{
	struct cli_step *items = reallocarray(steps->items, steps->n + 1, sizeof(*items));

	if (!items)
		return -ENOMEM;
	items[steps->n++] = (struct cli_step){name, argument};
	steps->items = items;
	return 0;
}

static bool takes_argument(const struct cli_option *o)
{
	return o->kind != CLI_FLAG && o->kind != CLI_PROGRESS && (o->kind != CLI_STEP || o->arg);
}

size_t cli_count_options(const struct cli_command *command)
{
	size_t n = 0;

	while (command->options[n].letter || command->options[n].name)
		n++;
	return n;
}

const char *cli_option_spelled(const struct cli_option *o, char buf[CLI_OPTION_SPELLED])
{
	if (o->letter)
		snprintf(buf, CLI_OPTION_SPELLED, "-%c", o->letter);
	else
		snprintf(buf, CLI_OPTION_SPELLED, "--%s", o->name);
	return buf;
}

static int choose(const struct cli_command *command, const struct cli_option *o, const char *text,
		  int *choice)
{
	char name[CLI_OPTION_SPELLED], list[200] = "";
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
	cli_usage(command->name, "%s: '%s' is not one of %s", cli_option_spelled(o, name), text,
		  list);
	return -EINVAL;
}

static int take_size(const struct cli_command *command, const struct cli_option *o,
		     const char *text, struct cli_size *size)
{
	char name[CLI_OPTION_SPELLED];
	int rc = cli_size_parse(text, &size->value);

	if (rc == 0 && size->value > INT64_MAX)
		rc = -ERANGE;
	if (rc == -EINVAL)
		cli_usage(command->name,
			  "%s: '%s' is not a size: use a number of bytes, or of the unit k, M, G, "
			  "T, P or E behind it",
			  cli_option_spelled(o, name), text);
	else if (rc < 0)
		cli_usage(command->name, "%s: '%s' is out of range, 0 to 9223372036854775807 bytes",
			  cli_option_spelled(o, name), text);
	size->given = true;
	return rc;
}

static int take_number(const struct cli_command *command, const struct cli_option *o,
		       const char *text, struct cli_size *size)
{
	char name[CLI_OPTION_SPELLED];
	int rc = cli_number_parse(text, 1, NUMBER_MAX, &size->value);

	if (rc < 0)
		cli_usage(command->name, "%s: '%s' is not a whole number from 1 to %d",
			  cli_option_spelled(o, name), text, NUMBER_MAX);
	size->given = true;
	return rc;
}

/* Where progress goes: text is what stands behind --progress=, or NULL. */
static int take_progress(const struct cli_command *command, const char *text, bool *percent)
{
	if (!text) {
		*percent = true;
		return 0;
	}
	if (cli_progress_to(text) == 0)
		return 0;
	cli_usage(command->name,
		  "--progress: '%s' is not json or json:FD with a file descriptor that is open",
		  text);
	return -EINVAL;
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
	case CLI_STEP:
		if ((o->kind == CLI_LIST ? list_add(at, text) : steps_add(at, o->name, text)) == 0)
			return 0;
		cli_error("out of memory");
		return -ENOMEM;
	case CLI_SIZE:
		return take_size(command, o, text, at);
	case CLI_NUMBER:
		return take_number(command, o, text, at);
	case CLI_PROGRESS:
		return take_progress(command, text, at);
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
		bool has_arg = takes_argument(o);

		if (o->letter) {
			*letters++ = o->letter;
			if (has_arg)
				*letters++ = ':';
		}
		if (o->name)
			longs[nlongs++] = (struct option){
				.name = o->name,
				.has_arg = has_arg		     ? required_argument
					   : o->kind == CLI_PROGRESS ? optional_argument
								     : no_argument,
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

/* What stands behind --output, if word is that, or as much of it as no other option begins with. */
static const char *output_of(const struct cli_command *command, const char *word, const char *next)
{
	size_t len = strncmp(word, "--", 2) == 0 ? strcspn(word + 2, "=") : 0;
	size_t i, n = cli_count_options(command), matches = 0;
	bool ours = false;

	for (i = 0; i < n && len > 0; i++) {
		const char *name = command->options[i].name;
		bool output = name && strcmp(name, "output") == 0;

		if (!name || strncmp(name, word + 2, len) != 0)
			continue;
		matches++;
		ours = ours || output;
		if (name[len] == '\0') /* in full: that one is meant */
			return !output ? NULL : word[2 + len] ? word + 2 + len + 1 : next;
	}
	if (!ours || matches != 1)
		return NULL;
	return word[2 + len] ? word + 2 + len + 1 : next;
}

/* Whether JSON is asked for, on a command line that may not be understood yet. */
static bool wants_json(const struct cli_command *command, int argc, char **argv)
{
	bool json = false;

	if (cli_is_face())
		return false;
	for (int w = 1; w < argc && strcmp(argv[w], "--") != 0; w++) {
		const char *output = output_of(command, argv[w], w + 1 < argc ? argv[w + 1] : NULL);

		if (output)
			json = strcmp(output, "json") == 0;
	}
	return json;
}

/* An option that the program which this stands in for doesn't have. */
static bool is_hidden(const struct cli_command *command, const struct cli_option *o)
{
	return cli_is_face() && command->own_progress && o && o->kind == CLI_PROGRESS;
}

int cli_parse(const struct cli_command *command, int argc, char **argv, void *args, int *status)
{
	struct option longs[OPTIONS_MAX + 2];
	char letters[2 * OPTIONS_MAX + 3], name[CLI_OPTION_SPELLED];
	size_t n = cli_count_options(command);
	int c;

	make_tables(command, n, letters, longs);
	cli_set_subject(command->name, NULL);
	cli_set_json(wants_json(command, argc, argv));
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
		if (is_hidden(command, find(command, n, c)))
			c = '?';
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
				  o ? cli_option_spelled(o, name) : argv[optind - 1], o ? ", " : "",
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
