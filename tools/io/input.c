/* SPDX-License-Identifier: MIT */
/*
 * Standard input, read by itself rather than through stdio: what waits for a line has to wait for
 * something else too, and so must know that nothing is buffered.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/input.h"

#define PIECE 4096

void io_input_init(struct io_input *input, const char *prompt, bool always)
{
	memset(input, 0, sizeof(*input));
	input->prompt = prompt;
	input->always = always || isatty(STDIN_FILENO);
	input->editing = cli_edit_possible();
	cli_edit_init(&input->edit, prompt);
}

void io_input_release(struct io_input *input)
{
	cli_edit_release(&input->edit);
	free(input->buf);
}

/* Takes the first len bytes as a line, and what ends it away. */
static char *take(struct io_input *input, size_t len)
{
	char *line = strndup(input->buf, len);
	size_t used = len < input->len ? len + 1 : len;

	input->len -= used;
	memmove(input->buf, input->buf + used, input->len);
	return line;
}

static int make_room(struct io_input *input)
{
	size_t size = input->len + PIECE;
	char *buf = input->size >= size ? input->buf : realloc(input->buf, size);

	if (!buf)
		return -ENOMEM;
	input->buf = buf;
	input->size = input->size >= size ? input->size : size;
	return 0;
}

/* Waits until there is something to read. */
static void wait_for_input(int fd, void (*event)(void *opaque), void *opaque)
{
	struct pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN},
			       {.fd = fd, .events = POLLIN}};

	for (;;) {
		int n = poll(fds, 2, -1);

		if (n < 0 && errno != EINTR)
			return;
		if (n > 0 && fds[1].revents)
			event(opaque);
		if (n > 0 && fds[0].revents)
			return;
	}
}

char *io_input_line(struct io_input *input, int fd, void (*event)(void *opaque), void *opaque)
{
	if (input->editing)
		return cli_edit_line(&input->edit, fd, event, opaque);
	if (input->always)
		fputs(input->prompt, stdout);
	fflush(stdout);
	for (;;) {
		char *end = input->len ? memchr(input->buf, '\n', input->len) : NULL;
		ssize_t n;

		if (end)
			return take(input, (size_t)(end - input->buf));
		if (input->ended || make_room(input) < 0)
			return input->len ? take(input, input->len) : NULL;
		wait_for_input(fd, event, opaque);
		n = read(STDIN_FILENO, input->buf + input->len, PIECE);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			input->ended = true;
		else
			input->len += (size_t)n;
	}
}
