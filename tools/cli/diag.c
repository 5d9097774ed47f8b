/* SPDX-License-Identifier: MIT */
/*
 * Diagnostics and the standard streams. Sentences may quote names from an image, so everything
 * goes through cli_text_put.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/diag.h"
#include "cli/utf8.h"

#define SENTENCE_SIZE 4096
#define DEFAULT_PROGRAM "qcow2"

static const char *program = DEFAULT_PROGRAM;

void cli_set_program(const char *name)
{
	program = name;
}

const char *cli_program(void)
{
	return program;
}

static void say(const char *before, const char *fmt, va_list args)
	__attribute__((format(printf, 2, 0)));

static void say(const char *before, const char *fmt, va_list args)
{
	char sentence[SENTENCE_SIZE];

	vsnprintf(sentence, sizeof(sentence), fmt, args);
	fflush(stdout);
	fprintf(stderr, "%s: %s", program, before);
	cli_text_put(stderr, sentence);
	fputc('\n', stderr);
}

int cli_error(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("", fmt, args);
	va_end(args);
	return EXIT_FAILURE;
}

void cli_warn(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("warning: ", fmt, args);
	va_end(args);
}

int cli_usage(const char *verb, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("", fmt, args);
	va_end(args);
	/* a program that we stand in for has no verbs */
	if (strcmp(program, DEFAULT_PROGRAM) != 0)
		verb = NULL;
	fprintf(stderr, "Try '%s %s%s--help' for more information\n", program, verb ? verb : "",
		verb ? " " : "");
	return EXIT_FAILURE;
}

void cli_start(void)
{
	static const int modes[] = {O_WRONLY, O_RDONLY, O_WRONLY};
	int fd;

	/* 0 and 1 the wrong way round: using them is an error, as it would be if they were closed
	 */
	for (fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", modes[fd]) != fd)
			_exit(EXIT_FAILURE);
	signal(SIGPIPE, SIG_IGN);
}

static int output_errno; /* why, where that was seen */

bool cli_output_lost(void)
{
	if (!ferror(stdout))
		return false;
	if (output_errno == 0)
		output_errno = errno;
	return true;
}

int cli_finish(int status, int failure_status)
{
	if (fflush(stdout) != 0 && output_errno == 0)
		output_errno = errno;
	if (output_errno == 0 && !ferror(stdout))
		return status;
	cli_error("could not write to standard output%s%s", output_errno ? ": " : "",
		  output_errno ? strerror(output_errno) : "");
	return status ? status : failure_status;
}
