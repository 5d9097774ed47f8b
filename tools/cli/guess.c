/* SPDX-License-Identifier: MIT */
/*
 * Edit distance (with neighbours exchanged counting as one) to a list of names. A guess is only
 * made when at most a third of the letters are wrong, or what was typed is the name's beginning.
 */
#include <stdbool.h>
#include <string.h>

#include "cli/guess.h"

#define LONGEST 40

static size_t min3(size_t a, size_t b, size_t c)
{
	if (b < a)
		a = b;
	return c < a ? c : a;
}

static size_t distance_of(const char *a, const char *b)
{
	size_t row[3][LONGEST + 1]; /* this one, the one above, and above that */
	size_t m = strlen(a), n = strlen(b), i, j;

	for (j = 0; j <= n; j++)
		row[0][j] = j;
	for (i = 1; i <= m; i++) {
		memcpy(row[2], row[1], sizeof(row[1]));
		memcpy(row[1], row[0], sizeof(row[0]));
		row[0][0] = i;
		for (j = 1; j <= n; j++) {
			bool same = a[i - 1] == b[j - 1];

			row[0][j] = min3(row[1][j] + 1, row[0][j - 1] + 1,
					 row[1][j - 1] + (same ? 0 : 1));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    row[2][j - 2] + 1 < row[0][j])
				row[0][j] = row[2][j - 2] + 1;
		}
	}
	return row[0][n];
}

void cli_guess_try(struct cli_guess *guess, const char *candidate)
{
	size_t typed_len = strlen(guess->typed), len = strlen(candidate), distance;

	if (typed_len == 0 || typed_len > LONGEST || len > LONGEST)
		return;
	if (typed_len >= 2 && strncmp(candidate, guess->typed, typed_len) == 0)
		distance = 1;
	else
		distance = distance_of(guess->typed, candidate);
	if (distance > 1 + len / 3 || distance >= len)
		return;
	if (!guess->best || distance < guess->distance) {
		guess->best = candidate;
		guess->distance = distance;
	}
}
