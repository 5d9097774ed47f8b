/* SPDX-License-Identifier: MIT */
/*
 * Text of unknown origin, one character at a time, and made harmless for a terminal.
 */
#ifndef TOOLS_CLI_UTF8_H
#define TOOLS_CLI_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * Decodes the character at s, which isn't at its NUL. *nbytes is what it takes, at least 1. Returns
 * the code point, or -1 for bytes that aren't valid UTF-8 (they are to be passed over as one).
 * The two bytes C0 80 are 0, as in QEMU.
 */
int32_t cli_utf8_next(const char *s, size_t *nbytes);

/*
 * Copies s for people to read: control characters, marks that turn the direction of the text and
 * invalid bytes become \xNN and \uNNNN. Cut (with "...") at size. Returns buf.
 */
char *cli_text_safe(char *buf, size_t size, const char *s);

/* The same, of any length, straight to a stream. */
void cli_text_put(FILE *f, const char *s);

#endif
