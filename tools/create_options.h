/* SPDX-License-Identifier: MIT */
/* The options of a new image as typed: -o, -b, -F, and the line that says what they come to. */
#ifndef TOOLS_CREATE_OPTIONS_H
#define TOOLS_CREATE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "qcow2.h"

#define TOOL_NOPTIONS 12

struct tool_create {
	const char *verb;
	struct qcow2_create_options lib;
	char *typed[TOOL_NOPTIONS]; /* the value of each option of the table, NULL if not given */
	bool help;		    /* "help" stood in a list */
	bool amend;		    /* set before the first: of an image that exists */
	bool encryption;	    /* amend: an option of encrypted images was given */
};

/* format is the target's, known and not NULL; verb is for messages. */
void tool_create_init(struct tool_create *create, const char *verb, const char *format);
void tool_create_release(struct tool_create *create);

/* One option, or the list that stands behind -o. Says what went wrong. */
int tool_create_set(struct tool_create *create, const char *name, const char *value);
int tool_create_set_list(struct tool_create *create, const char *list);

/* Was the option of that name given? */
bool tool_create_has(const struct tool_create *create, const char *name);
bool tool_create_has_size(const struct tool_create *create);

/* The table of options for -o help. has_file: the command line names the image, too. */
void tool_create_print_help(const char *format, bool has_file);

/* The same for those that can be changed later. */
void tool_create_print_amend_help(const char *format);

/* "Formatting 'F', fmt=qcow2 cluster_size=65536 ..." from resolved options. */
void tool_create_print(const struct tool_create *create, const char *path);

#endif
