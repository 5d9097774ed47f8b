/* SPDX-License-Identifier: MIT */
/* Lines from standard input: with editing and a history if it is a terminal. */
#ifndef TOOLS_IO_INPUT_H
#define TOOLS_IO_INPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "cli/edit.h"

struct io_input {
	const char *prompt;
	bool always;  /* the prompt is printed for pipes and files too */
	bool editing; /* it is a terminal that lines can be edited on */
	bool ended;
	char *buf; /* read, and not handed out yet */
	size_t len, size;
	struct cli_edit edit;
};

void io_input_init(struct io_input *input, const char *prompt, bool always);
void io_input_release(struct io_input *input);

/*
 * The next line without its end, for the caller to free; NULL when there are none, or no memory.
 * While it waits, event is called whenever fd can be read (-1: none).
 */
char *io_input_line(struct io_input *input, int fd, void (*event)(void *opaque), void *opaque);

#endif
