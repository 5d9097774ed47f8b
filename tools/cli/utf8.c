/* SPDX-License-Identifier: MIT */
/*
 * Text of unknown origin. Names in an image are a stranger's: printed raw, they could move the
 * cursor, set the title or forge lines of our own output. JSON has its own rules (out.c).
 */
#include <string.h>

#include "cli/utf8.h"

/* Bytes that a character takes by its first one; 0: it can't be the first. */
static size_t length_of(unsigned char lead)
{
	if (lead < 0x80)
		return 1;
	if (lead < 0xc0 || lead >= 0xfe)
		return 0;
	if (lead < 0xe0)
		return 2;
	if (lead < 0xf0)
		return 3;
	if (lead < 0xf8)
		return 4;
	return lead < 0xfc ? 5 : 6;
}

static bool is_scalar(uint32_t code)
{
	if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
		return false;
	return (code & 0xfffe) != 0xfffe && !(code >= 0xfdd0 && code <= 0xfdef);
}

int32_t cli_utf8_next(const char *s, size_t *nbytes)
{
	/* the least code that a length is for: what is below is written too long */
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000, 0x200000, 0x4000000};
	const unsigned char *u = (const unsigned char *)s;
	size_t len = length_of(u[0]), i;
	uint32_t code;

	*nbytes = 1;
	if (len == 0)
		return -1;
	if (len == 1)
		return u[0];
	code = u[0] & (0x7fu >> len);
	for (i = 1; i < len && (u[i] & 0xc0) == 0x80; i++)
		code = code << 6 | (u[i] & 0x3f);
	*nbytes = i;
	if (i < len)
		return -1;
	if (len == 2 && code == 0)
		return 0;
	return code >= least[len] && is_scalar(code) ? (int32_t)code : -1;
}

/* Whether a terminal shows the character itself and does nothing else. */
static bool is_plain(int32_t code)
{
	if (code < 0x20 || (code >= 0x7f && code < 0xa0))
		return false;
	if (code == 0x200e || code == 0x200f || code == 0x2028 || code == 0x2029)
		return false;
	return !(code >= 0x202a && code <= 0x202e) && !(code >= 0x2066 && code <= 0x2069);
}

#define PIECE_SIZE 32 /* the longest: six bytes as \xNN */

/* Writes the character at s, made safe, to piece. Returns the bytes of s that it took. */
static size_t one_piece(char piece[PIECE_SIZE], const char *s)
{
	size_t nbytes, i;
	int32_t code = cli_utf8_next(s, &nbytes);

	if (code >= 0 && is_plain(code)) {
		memcpy(piece, s, nbytes);
		piece[nbytes] = 0;
	} else if (code >= 0x80) {
		snprintf(piece, PIECE_SIZE, "\\u%04x", (unsigned)code);
	} else {
		for (i = 0; i < nbytes; i++)
			snprintf(piece + 4 * i, PIECE_SIZE - 4 * i, "\\x%02x", (unsigned char)s[i]);
	}
	return nbytes;
}

char *cli_text_safe(char *buf, size_t size, const char *s)
{
	char piece[PIECE_SIZE];
	const char *dots;
	size_t used = 0, total = 0, room;
	const char *next;

	for (next = s; *next; total += strlen(piece))
		next += one_piece(piece, next);
	dots = total < size || size < 4 ? "" : "...";
	room = size - strlen(dots);
	for (next = s; *next; used += strlen(piece)) {
		next += one_piece(piece, next);
		if (used + strlen(piece) >= room)
			break;
		memcpy(buf + used, piece, strlen(piece));
	}
	memcpy(buf + used, dots, strlen(dots) + 1);
	return buf;
}

void cli_text_put(FILE *f, const char *s)
{
	char piece[PIECE_SIZE];

	while (*s) {
		s += one_piece(piece, s);
		fputs(piece, f);
	}
}
