/* SPDX-License-Identifier: MIT */
/*
 * Sentences by table: a program that stands in for another one says what it has to say in the
 * other's words where these are known.
 */
#ifndef TOOLS_CLI_WORDS_H
#define TOOLS_CLI_WORDS_H

#include <stdbool.h>
#include <stddef.h>

#define CLI_WORDS_PART "-"

enum cli_hint {
	CLI_HINT_KEEP, /* where to read more is told if it would have been anyway */
	CLI_HINT_YES,
	CLI_HINT_NO,
};

struct cli_words {
	const char *verb; /* NULL: of any; CLI_WORDS_PART: only as a part of another sentence */
	/* '*' stands for any text, as short as possible, at most 9 times. */
	const char *ours;
	/*
	 * $1 to $9: what the stars stood for; ~1 to ~9: the same in their words; $@: the subject,
	 * without which "$@: " is left out. NULL: nothing is said. A line that begins with '\a' has
	 * the program's name in front, as the first has.
	 */
	const char *theirs;
	enum cli_hint hint;
};

/*
 * The first row, up to one with neither sentence, whose verb and pattern fit; NULL if none does.
 * Its words are written to buf, cut at size. verb and subject may be NULL.
 */
const struct cli_words *cli_words_find(const struct cli_words *table, const char *verb,
				       const char *subject, const char *sentence, char *buf,
				       size_t size);

#endif
