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
#include "cli/out.h"
#include "cli/utf8.h"
#include "cli/words.h"

#define SENTENCE_SIZE 4096

static const struct cli_face *face;
static const char *subject_verb, *subject_file;
static bool as_json;
static int error_code;

void cli_set_face(const struct cli_face *new_face)
{
	face = new_face;
}

bool cli_is_face(void)
{
	return face != NULL;
}

const char *cli_program(void)
{
	return face ? face->program : "qcow2";
}

bool cli_face_help(void)
{
	if (!face || !face->print_help)
		return false;
	face->print_help();
	return true;
}

void cli_set_json(bool json)
{
	as_json = json;
}

void cli_set_errno(int code)
{
	error_code = code < 0 ? -code : code;
}

bool cli_colours(int fd)
{
	const char *term = getenv("TERM"), *no = getenv("NO_COLOR");

	return !face && !(no && *no) && term && strcmp(term, "dumb") != 0 && isatty(fd);
}

void cli_set_subject(const char *verb, const char *file)
{
	subject_verb = verb;
	subject_file = file;
}

/* The lines of a text, each made safe; those that begin with '\a' get the program's name. */
static void put_lines(const char *text)
{
	while (*text) {
		size_t len = strcspn(text, "\n");
		char *line = strndup(text, len);

		if (text[0] == '\a')
			fprintf(stderr, "%s: ", cli_program());
		if (line)
			cli_text_put(stderr, line + (text[0] == '\a'));
		free(line);
		fputc('\n', stderr);
		text += len + (text[len] == '\n');
	}
}

static void put_object(const char *kind, const char *sentence)
{
	const char *code = error_code ? strerrorname_np(error_code) : NULL;

	fprintf(stderr, "{\"%s\": ", kind);
	cli_json_put(stderr, sentence);
	if (subject_verb) {
		fputs(", \"verb\": ", stderr);
		cli_json_put(stderr, subject_verb);
	}
	if (code)
		fprintf(stderr, ", \"code\": \"%s\"", code);
	fputs("}\n", stderr);
	error_code = 0;
}

static void put_name(bool is_warning)
{
	const char *colour = is_warning ? "\033[1;33m" : "\033[1;31m";
	bool in_colour = cli_colours(STDERR_FILENO);

	fprintf(stderr, "%s%s:%s ", in_colour ? colour : "", cli_program(),
		in_colour ? "\033[0m" : "");
}

/* Returns whether it has to be told where to read more: has_hint is what we would do. */
static bool say(const char *before, bool has_hint, const char *fmt, va_list args)
	__attribute__((format(printf, 3, 0)));

static bool say(const char *before, bool has_hint, const char *fmt, va_list args)
{
	char sentence[SENTENCE_SIZE], theirs[SENTENCE_SIZE];
	const struct cli_words *words = NULL;

	vsnprintf(sentence, sizeof(sentence), fmt, args);
	if (face && face->words)
		words = cli_words_find(face->words, subject_verb, subject_file, sentence, theirs,
				       sizeof(theirs));
	if (words && !words->theirs)
		return false;
	fflush(stdout);
	if (as_json) {
		put_object(*before ? "warning" : "error", sentence);
		return false;
	}
	put_name(*before);
	fputs(before, stderr);
	if (words) {
		put_lines(theirs);
		return words->hint == CLI_HINT_KEEP ? has_hint : words->hint == CLI_HINT_YES;
	}
	cli_text_put(stderr, sentence);
	fputc('\n', stderr);
	return has_hint;
}

static void put_hint(const char *verb)
{
	/* a program that we stand in for explains itself as a whole */
	if (face)
		verb = NULL;
	fprintf(stderr, "Try '%s %s%s--help' for more information\n", cli_program(),
		verb ? verb : "", verb ? " " : "");
}

int cli_error(const char *fmt, ...)
{
	va_list args;
	bool has_hint;

	va_start(args, fmt);
	has_hint = say("", false, fmt, args);
	va_end(args);
	if (has_hint)
		put_hint(NULL);
	return EXIT_FAILURE;
}

void cli_warn(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("warning: ", false, fmt, args);
	va_end(args);
}

void cli_note(const char *fmt, ...)
{
	char sentence[SENTENCE_SIZE];
	va_list args;

	if (as_json)
		return;
	va_start(args, fmt);
	vsnprintf(sentence, sizeof(sentence), fmt, args);
	va_end(args);
	fflush(stdout);
	fprintf(stderr, "%s: ", cli_program());
	cli_text_put(stderr, sentence);
	fputc('\n', stderr);
}

int cli_usage(const char *verb, const char *fmt, ...)
{
	va_list args;
	bool has_hint;

	va_start(args, fmt);
	has_hint = say("", true, fmt, args);
	va_end(args);
	if (has_hint)
		put_hint(verb);
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
