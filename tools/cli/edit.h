/* SPDX-License-Identifier: MIT */
/*
 * A line typed at a terminal: with the arrow keys, a history, and the control keys that people have
 * in their fingers (A E B F P N H D K U W L C).
 */
#ifndef TOOLS_CLI_EDIT_H
#define TOOLS_CLI_EDIT_H

#include <stdbool.h>
#include <stddef.h>

#define CLI_EDIT_HISTORY 500

struct cli_edit {
	const char *prompt;
	/* The line as it is now; at is where the cursor stands. */
	char *text;
	size_t len, size, at;
	/* Lines before, the oldest first; place is the one shown, nlines a new one. */
	char *lines[CLI_EDIT_HISTORY];
	size_t nlines, place;
	char *draft; /* the new line, while an old one is shown */
	bool failed; /* no memory */
};

/* Whether lines can be edited: standard input and output are a terminal that knows how. */
bool cli_edit_possible(void);

void cli_edit_init(struct cli_edit *edit, const char *prompt);
void cli_edit_release(struct cli_edit *edit);

/*
 * Reads a line; it is the caller's to free, NULL at the end of input. event is called when fd can
 * be read while it waits (-1: none); it may print whole lines.
 */
char *cli_edit_line(struct cli_edit *edit, int fd, void (*event)(void *opaque), void *opaque);

#endif
