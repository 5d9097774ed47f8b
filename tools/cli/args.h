/* SPDX-License-Identifier: MIT */
/*
 * Command lines. A verb describes its options in one table; parsing, --help and the tests that
 * compare help and manual all read that table.
 */
#ifndef TOOLS_CLI_ARGS_H
#define TOOLS_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cli_kind {
	CLI_FLAG,     /* bool */
	CLI_STRING,   /* const char *; the last one counts */
	CLI_LIST,     /* struct cli_list: all of them */
	CLI_SIZE,     /* struct cli_size */
	CLI_NUMBER,   /* struct cli_size: 1 to 1024, no unit */
	CLI_CHOICE,   /* int: the index in choices */
	CLI_PROGRESS, /* bool; its long form may be given json or json:FD, see progress.h */
	CLI_STEP,     /* struct cli_steps, which several share: in the order given */
};

struct cli_list {
	size_t n;
	const char **items; /* the strings are argv's */
};
void cli_list_release(struct cli_list *list);

struct cli_step {
	const char *name;     /* of the option */
	const char *argument; /* argv's; NULL for one that takes none */
};

struct cli_steps {
	size_t n;
	struct cli_step *items;
};
void cli_steps_release(struct cli_steps *steps);

struct cli_size {
	bool given;
	uint64_t value;
};

struct cli_option {
	char letter;	  /* 0: none */
	const char *name; /* the long form without dashes, or NULL */
	enum cli_kind kind;
	size_t at;	 /* offsetof the member of the verb's struct */
	const char *arg; /* what --help calls its argument; NULL for flags, and steps without one */
	const char *help;	    /* NULL: shares line and argument of the option before it */
	const char *const *choices; /* of CLI_CHOICE, NULL-terminated */
};
#define CLI_END                                                                                    \
	{                                                                                          \
		.letter = 0, .name = NULL                                                          \
	}

struct cli_command {
	const char *name;
	const char *operands;		  /* "FILE [SIZE]" */
	const char *summary;		  /* one line */
	const struct cli_option *options; /* up to CLI_END */
	const char *notes; /* below the options (begin with a newline for an empty line), or NULL */
	int failure_status; /* exit code when it couldn't do what was asked */
	bool own_progress;  /* the verb of other programs has none: their faces don't know it */
};

/*
 * Reads the options into args (to be zeroed by the caller, or filled with defaults). Options and
 * operands may be mixed; "--" ends the options. Returns the index in argv of the first operand
 * (argc if there are none), or -1 when the verb is over: help was printed, or the error; *status
 * is the exit code then.
 */
int cli_parse(const struct cli_command *command, int argc, char **argv, void *args, int *status);

size_t cli_count_options(const struct cli_command *command);

/* "-f", "--output": as people would type it. */
#define CLI_OPTION_SPELLED 40
const char *cli_option_spelled(const struct cli_option *o, char buf[CLI_OPTION_SPELLED]);

void cli_print_help(const struct cli_command *command);

/* One line, "  info [-f FMT] [--output=human|json] FILE". */
void cli_print_syntax(const struct cli_command *command);

/* The command as an object, with a list of its options. */
struct cli_out;
void cli_dump_command(struct cli_out *out, const struct cli_command *command);

#endif
