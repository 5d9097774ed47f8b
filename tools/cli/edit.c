/* SPDX-License-Identifier: MIT */
/*
 * Editing a line. Standard input is read byte by byte, so that what is typed ahead stays where it
 * is for whoever reads next; the terminal is in its raw mode only while a line is typed. A line
 * that is longer than the terminal is wide is shown in part. Every character is taken to be one
 * column wide.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "cli/edit.h"

#define CONTROL(letter) ((letter)&0x1f)
#define ESC 0x1b
#define RUBOUT 0x7f
#define ESC_WAIT_MS 50
#define COLUMNS_DEFAULT 80
#define COLUMNS_MIN 20

/* What a key means; plain bytes and control keys are themselves. */
enum key { KEY_NONE = 0x100, KEY_UP, KEY_DOWN, KEY_LEFT, KEY_RIGHT, KEY_HOME, KEY_END, KEY_DELETE };

bool cli_edit_possible(void)
{
	const char *term = getenv("TERM");

	return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && term && *term &&
	       strcmp(term, "dumb") != 0;
}

void cli_edit_init(struct cli_edit *edit, const char *prompt)
{
	memset(edit, 0, sizeof(*edit));
	edit->prompt = prompt;
}

void cli_edit_release(struct cli_edit *edit)
{
	size_t i;

	for (i = 0; i < edit->nlines; i++)
		free(edit->lines[i]);
	free(edit->text);
	free(edit->draft);
}

/* ---- the line ---- */

static bool is_inside(char byte)
{
	return ((unsigned char)byte & 0xc0) == 0x80; /* not the first of its character */
}

static size_t before(const struct cli_edit *e, size_t at)
{
	while (at > 0 && is_inside(e->text[--at]))
		;
	return at;
}

static size_t after(const struct cli_edit *e, size_t at)
{
	if (at < e->len)
		at++;
	while (at < e->len && is_inside(e->text[at]))
		at++;
	return at;
}

static void cut(struct cli_edit *e, size_t from, size_t to)
{
	memmove(e->text + from, e->text + to, e->len - to);
	e->len -= to - from;
	e->at = from;
}

static bool make_room(struct cli_edit *e, size_t n)
{
	size_t size = 2 * e->len + n + 64;
	char *text;

	if (e->size - e->len >= n)
		return true;
	text = realloc(e->text, size);
	if (!text) {
		e->failed = true;
		return false;
	}
	e->text = text;
	e->size = size;
	return true;
}

static void insert(struct cli_edit *e, const char *bytes, size_t n)
{
	if (!make_room(e, n))
		return;
	memmove(e->text + e->at + n, e->text + e->at, e->len - e->at);
	memcpy(e->text + e->at, bytes, n);
	e->len += n;
	e->at += n;
}

static void cut_word(struct cli_edit *e)
{
	size_t from = e->at;

	while (from > 0 && e->text[from - 1] == ' ')
		from--;
	while (from > 0 && e->text[from - 1] != ' ')
		from--;
	cut(e, from, e->at);
}

/* Shows another line of the history, or the new one again. */
static void show_place(struct cli_edit *e, size_t place)
{
	const char *line;

	if (place > e->nlines)
		return;
	if (e->place == e->nlines && place != e->nlines) {
		free(e->draft);
		e->draft = strndup(e->text, e->len);
	}
	e->place = place;
	line = place == e->nlines ? e->draft : e->lines[place];
	cut(e, 0, e->len);
	if (line)
		insert(e, line, strlen(line));
}

static void remember(struct cli_edit *e)
{
	char *line;

	if (e->len == 0 || (e->nlines && strlen(e->lines[e->nlines - 1]) == e->len &&
			    memcmp(e->lines[e->nlines - 1], e->text, e->len) == 0))
		return;
	line = strndup(e->text, e->len);
	if (!line)
		return;
	if (e->nlines == CLI_EDIT_HISTORY) {
		free(e->lines[0]);
		e->nlines--;
		memmove(e->lines, e->lines + 1, e->nlines * sizeof(e->lines[0]));
	}
	e->lines[e->nlines++] = line;
}

/* ---- the screen ---- */

static size_t columns(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < COLUMNS_MIN)
		return COLUMNS_DEFAULT;
	return size.ws_col;
}

static void show(const struct cli_edit *e)
{
	size_t room = columns() - 1, used = strlen(e->prompt), from = e->at, to = e->at, i;
	size_t width = 0, cursor = 0;

	room = used < room ? room - used : 1;
	/* as much as fits, first of what is before the cursor */
	while (from > 0 && width < room - 1) {
		from = before(e, from);
		width++;
		cursor++;
	}
	while (to < e->len && width < room) {
		to = after(e, to);
		width++;
	}
	printf("\r%s", e->prompt);
	for (i = from; i < to; i++)
		putchar((unsigned char)e->text[i] < ' ' || e->text[i] == RUBOUT ? '?' : e->text[i]);
	fputs("\x1b[K\r", stdout);
	if (used + cursor > 0)
		printf("\x1b[%zuC", used + cursor);
	fflush(stdout);
}

/* ---- the keyboard ---- */

/* -1 at the end of input. */
static int next_byte(void)
{
	unsigned char c;
	ssize_t n;

	do
		n = read(STDIN_FILENO, &c, 1);
	while (n < 0 && errno == EINTR);
	return n == 1 ? c : -1;
}

static bool more_comes(int wait_ms)
{
	struct pollfd fds = {.fd = STDIN_FILENO, .events = POLLIN};

	return poll(&fds, 1, wait_ms) == 1;
}

/* What follows an escape: "[A", "OA", "[3~", ... */
static int escape_key(void)
{
	int c = more_comes(ESC_WAIT_MS) ? next_byte() : -1, number = 0;

	if (c != '[' && c != 'O')
		return KEY_NONE;
	for (c = next_byte(); (c >= '0' && c <= '9') || c == ';'; c = next_byte())
		number = c == ';' ? 0 : (number * 10 + c - '0') % 1000;
	switch (c) {
	case 'A':
		return KEY_UP;
	case 'B':
		return KEY_DOWN;
	case 'C':
		return KEY_RIGHT;
	case 'D':
		return KEY_LEFT;
	case 'H':
		return KEY_HOME;
	case 'F':
		return KEY_END;
	case '~':
		return number == 3		    ? KEY_DELETE
		       : number == 1 || number == 7 ? KEY_HOME
		       : number == 4 || number == 8 ? KEY_END
						    : KEY_NONE;
	default:
		return KEY_NONE;
	}
}

/* Keys that move the cursor or change the line; false for others. */
static bool edit_key(struct cli_edit *e, int key)
{
	switch (key) {
	case KEY_LEFT:
	case CONTROL('B'):
		e->at = before(e, e->at);
		return true;
	case KEY_RIGHT:
	case CONTROL('F'):
		e->at = after(e, e->at);
		return true;
	case KEY_HOME:
	case CONTROL('A'):
		e->at = 0;
		return true;
	case KEY_END:
	case CONTROL('E'):
		e->at = e->len;
		return true;
	case KEY_DELETE:
	case CONTROL('D'):
		cut(e, e->at, after(e, e->at));
		return true;
	case RUBOUT:
	case CONTROL('H'):
		cut(e, before(e, e->at), e->at);
		return true;
	case CONTROL('K'):
		cut(e, e->at, e->len);
		return true;
	case CONTROL('U'):
		cut(e, 0, e->at);
		return true;
	case CONTROL('W'):
		cut_word(e);
		return true;
	default:
		return false;
	}
}

/* Any other key. */
static void other_key(struct cli_edit *e, int key)
{
	char byte = (char)key;

	switch (key) {
	case KEY_UP:
	case CONTROL('P'):
		if (e->place > 0)
			show_place(e, e->place - 1);
		break;
	case KEY_DOWN:
	case CONTROL('N'):
		show_place(e, e->place + 1);
		break;
	case CONTROL('C'):
		/* given up: a new line below it */
		cut(e, 0, e->len);
		e->place = e->nlines;
		fputs("^C\n", stdout);
		break;
	case CONTROL('L'):
		fputs("\x1b[H\x1b[2J", stdout);
		break;
	default:
		if ((key >= ' ' && key < KEY_NONE) || key == '\t')
			insert(e, &byte, 1);
	}
}

static void wait_for_key(const struct cli_edit *e, int fd, void (*event)(void *opaque),
			 void *opaque)
{
	struct pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN},
			       {.fd = fd, .events = POLLIN}};

	for (;;) {
		int n = poll(fds, 2, -1);

		if (n < 0 && errno != EINTR)
			return;
		if (n > 0 && fds[1].revents) {
			fputs("\r\x1b[K", stdout);
			event(opaque);
			show(e);
		}
		if (n > 0 && fds[0].revents)
			return;
	}
}

/* False at the end of input. */
static bool type(struct cli_edit *e, int fd, void (*event)(void *opaque), void *opaque)
{
	for (;;) {
		int key;

		/* what is pasted is shown once, and no half of a character */
		if (!more_comes(0))
			show(e);
		wait_for_key(e, fd, event, opaque);
		key = next_byte();
		if (key == ESC)
			key = escape_key();
		if (key < 0 || e->failed || (key == CONTROL('D') && e->len == 0))
			return false;
		if (key == '\r' || key == '\n')
			return true;
		if (!edit_key(e, key))
			other_key(e, key);
	}
}

char *cli_edit_line(struct cli_edit *e, int fd, void (*event)(void *opaque), void *opaque)
{
	struct termios cooked, raw;
	bool typed;

	e->len = e->at = 0;
	e->place = e->nlines;
	if (!make_room(e, 1) || tcgetattr(STDIN_FILENO, &cooked) < 0)
		return NULL;
	raw = cooked;
	raw.c_iflag &= ~(tcflag_t)(ICRNL | IXON | INLCR | IGNCR);
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG | IEXTEN);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
	typed = type(e, fd, event, opaque);
	tcsetattr(STDIN_FILENO, TCSADRAIN, &cooked);
	putchar('\n');
	fflush(stdout);
	if (!typed)
		return NULL;
	remember(e);
	return strndup(e->text, e->len);
}
