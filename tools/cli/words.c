/* SPDX-License-Identifier: MIT */
/* Patterns with stars, and putting together what they say. */
#include <stdio.h>
#include <string.h>

#include "cli/words.h"

#define STARS 9
#define SENTENCE_SIZE 1024

struct piece {
	const char *text;
	size_t len;
};

/* Fills a piece for each star. Tables are short and so are sentences: trying is good enough. */
static bool fits(const char *pattern, const char *text, struct piece *pieces, size_t n)
{
	size_t len;

	for (; *pattern != '*'; pattern++, text++) {
		if (*pattern != *text)
			return false;
		if (!*pattern)
			return true;
	}
	if (n == STARS)
		return false;
	for (len = 0;; len++) {
		pieces[n] = (struct piece){text, len};
		if (fits(pattern + 1, text + len, pieces, n + 1))
			return true;
		if (!text[len])
			return false;
	}
}

/* A text that may be cut. */
struct text {
	char *buf;
	size_t size, used;
};

static void append(struct text *to, const char *piece, size_t len)
{
	if (len > to->size - 1 - to->used)
		len = to->size - 1 - to->used;
	memcpy(to->buf + to->used, piece, len);
	to->used += len;
	to->buf[to->used] = 0;
}

static void put_part(const struct cli_words *table, struct piece piece, struct text *to)
{
	char ours[SENTENCE_SIZE], theirs[SENTENCE_SIZE];

	snprintf(ours, sizeof(ours), "%.*s", (int)piece.len, piece.text);
	if (cli_words_find(table, CLI_WORDS_PART, NULL, ours, theirs, sizeof(theirs)))
		append(to, theirs, strlen(theirs));
	else
		append(to, piece.text, piece.len);
}

static void put(const struct cli_words *table, const struct cli_words *row, const char *subject,
		const struct piece *pieces, struct text *to)
{
	const char *s = row->theirs ? row->theirs : "";

	for (; *s; s++) {
		bool is_piece = s[1] >= '1' && s[1] <= '9';

		if (s[0] == '$' && s[1] == '@') {
			append(to, subject, strlen(subject));
			if (!*subject && s[2] == ':' && s[3] == ' ')
				s += 2; /* "F: ..." without an F */
		} else if (s[0] == '$' && is_piece) {
			append(to, pieces[s[1] - '1'].text, pieces[s[1] - '1'].len);
		} else if (s[0] == '~' && is_piece) {
			put_part(table, pieces[s[1] - '1'], to);
		} else {
			append(to, s, 1);
			continue;
		}
		s++;
	}
}

static bool is_for(const struct cli_words *row, const char *verb)
{
	if (verb && strcmp(verb, CLI_WORDS_PART) == 0)
		return row->verb && strcmp(row->verb, CLI_WORDS_PART) == 0;
	return !row->verb || (verb && strcmp(row->verb, verb) == 0);
}

const struct cli_words *cli_words_find(const struct cli_words *table, const char *verb,
				       const char *subject, const char *sentence, char *buf,
				       size_t size)
{
	const struct cli_words *row;
	struct piece pieces[STARS];
	struct text to = {buf, size, 0};

	for (row = table; row->ours; row++) {
		if (!is_for(row, verb))
			continue;
		memset(pieces, 0, sizeof(pieces));
		if (!fits(row->ours, sentence, pieces, 0))
			continue;
		buf[0] = 0;
		put(table, row, subject ? subject : "", pieces, &to);
		return row;
	}
	return NULL;
}
