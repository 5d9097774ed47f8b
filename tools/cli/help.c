/* SPDX-License-Identifier: MIT */
/*
 * What the tables of options say of themselves: to people as --help, to the makers of manual pages
 * and shell completion as JSON.
 */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/diag.h"
#include "cli/out.h"

#define HELP_COLUMN 30

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
	if (group[0].kind == CLI_PROGRESS)
		snprintf(line + used, size - used, "[=json[:FD]]");
	else if (group[0].arg)
		snprintf(line + used, size - used, " %s", group[0].arg);
}

void cli_print_syntax(const struct cli_command *command)
{
	const struct cli_option *o;
	char name[CLI_OPTION_SPELLED];

	printf("  %s", command->name);
	for (o = command->options; o->letter || o->name; o++) {
		const char *between = o->letter ? " " : "=";

		if (command->own_progress && o->kind == CLI_PROGRESS)
			continue;
		printf(" [%s%s%s]", cli_option_spelled(o, name), o->arg ? between : "",
		       o->arg ? o->arg : "");
	}
	printf(" %s\n", command->operands);
}

void cli_print_help(const struct cli_command *command)
{
	static const struct cli_option help = {'h', "help", .help = "show this"};
	bool has_verbs = !cli_is_face(); /* a program that we stand in for */
	size_t n = cli_count_options(command), i, next;

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

static void dump_option(struct cli_out *out, const struct cli_option *o)
{
	char letter[2] = {o->letter, 0};
	size_t i;

	cli_out_open(out, NULL, '{');
	if (o->letter)
		cli_out_string(out, "letter", letter);
	if (o->name)
		cli_out_string(out, "name", o->name);
	if (o->arg)
		cli_out_string(out, "arg", o->arg);
	/* without one it is another form of the option before it */
	if (o->help)
		cli_out_string(out, "help", o->help);
	if (o->kind == CLI_PROGRESS)
		cli_out_string(out, "optional", "json[:FD]");
	if (o->choices) {
		cli_out_open(out, "choices", '[');
		for (i = 0; o->choices[i]; i++)
			cli_out_string(out, NULL, o->choices[i]);
		cli_out_close(out);
	}
	cli_out_close(out);
}

void cli_dump_command(struct cli_out *out, const struct cli_command *command)
{
	size_t i, n = cli_count_options(command);

	cli_out_open(out, NULL, '{');
	cli_out_string(out, "name", command->name);
	cli_out_string(out, "operands", command->operands);
	cli_out_string(out, "summary", command->summary);
	cli_out_string(out, "notes", command->notes ? command->notes : "");
	cli_out_open(out, "options", '[');
	for (i = 0; i < n; i++)
		dump_option(out, &command->options[i]);
	cli_out_close(out);
	cli_out_close(out);
}
