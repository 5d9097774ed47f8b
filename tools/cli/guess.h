/* SPDX-License-Identifier: MIT */
/* What somebody probably meant to type. */
#ifndef TOOLS_CLI_GUESS_H
#define TOOLS_CLI_GUESS_H

#include <stddef.h>

/* Collects the best candidate; .typed is what was typed, the rest starts as zero. */
struct cli_guess {
	const char *typed;
	const char *best; /* NULL: nothing is near */
	size_t distance;
};

void cli_guess_try(struct cli_guess *guess, const char *candidate);

#endif
