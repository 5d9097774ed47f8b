/* SPDX-License-Identifier: MIT */
/*
 * One line of output, put together in memory and written by one call: for output of very many
 * lines, where printf would cost more than what the lines are about.
 *
 * The caller knows how long its lines may get: a line that doesn't fit is a bug of the caller's.
 */
#ifndef TOOLS_CLI_LINE_H
#define TOOLS_CLI_LINE_H

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define CLI_LINE_SIZE 320
#define CLI_U64_DIGITS 20 /* of UINT64_MAX */

struct cli_line {
	size_t len;
	char text[CLI_LINE_SIZE];
};

/* Writes value in decimal, without a NUL, to text, which has CLI_U64_DIGITS. Returns the digits. */
size_t cli_u64_text(char *text, uint64_t value);

/* Inline, so that the length of a literal is known to the compiler. */
static inline void cli_line_text(struct cli_line *line, const char *s)
{
	size_t len = strlen(s);

	assert(len <= sizeof(line->text) - line->len);
	memcpy(line->text + line->len, s, len);
	line->len += len;
}

void cli_line_u64(struct cli_line *line, uint64_t value);

/* Writes the line out and empties it. A failure shows in ferror(f). */
void cli_line_write(struct cli_line *line, FILE *f);

#endif
