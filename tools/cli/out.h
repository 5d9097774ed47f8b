/* SPDX-License-Identifier: MIT */
/*
 * Structured output, once as text and once as JSON, from the same calls:
 *
 *	snapshot list:			"snapshot-list": [
 *	    [0]:			    {
 *	        name: one			"name": "one"
 *
 * The layout of both is that of qemu-img, to the byte.
 */
#ifndef TOOLS_CLI_OUT_H
#define TOOLS_CLI_OUT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define CLI_OUT_DEPTH 16

struct cli_out {
	FILE *f;
	bool json;
	unsigned depth;
	struct {
		char kind; /* '{' or '[' */
		unsigned count;
	} level[CLI_OUT_DEPTH];
};

void cli_out_init(struct cli_out *out, FILE *f, bool json);

/*
 * A member of an object (with a key, in text shown with '-' as ' '), an element of a list or the
 * whole (key NULL).
 */
void cli_out_string(struct cli_out *out, const char *key, const char *value);
void cli_out_u64(struct cli_out *out, const char *key, uint64_t value);
void cli_out_i64(struct cli_out *out, const char *key, int64_t value);
void cli_out_bool(struct cli_out *out, const char *key, bool value);

/* kind is '{' for an object, '[' for a list. */
void cli_out_open(struct cli_out *out, const char *key, char kind);
void cli_out_close(struct cli_out *out);

/* The string in quotes, everything but plain ASCII escaped, bytes that aren't UTF-8 as U+FFFD. */
void cli_json_put(FILE *f, const char *s);

#endif
