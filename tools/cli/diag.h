/* SPDX-License-Identifier: MIT */
/* What the tool says to people on standard error, and how it ends. */
#ifndef TOOLS_CLI_DIAG_H
#define TOOLS_CLI_DIAG_H

#include <stdbool.h>

struct cli_words;

/* A program that we stand in for. */
struct cli_face {
	const char *program;	       /* its name, with which messages begin */
	const struct cli_words *words; /* its sentences; NULL: ours */
	void (*print_help)(void);      /* the only help it has; NULL: the verb's own */
};

/* Without this call the program is "qcow2". The face has to stay. */
void cli_set_face(const struct cli_face *face);
bool cli_is_face(void);
const char *cli_program(void);
/* Prints the face's own help, if it has one. */
bool cli_face_help(void);

/* What messages are about: a verb, and the file that it works on. Either may be NULL. */
void cli_set_subject(const char *verb, const char *file);

/*
 * Messages become objects, a line each: {"error": "sentence", "verb": "info", "code": "ENOENT"}
 * with what of it is known; warnings have "warning" in its place.
 */
void cli_set_json(bool json);

/* The next error is about this errno (of any sign). */
void cli_set_errno(int code);

/* Whether what is written to a terminal may be in colours: NO_COLOR isn't set. */
bool cli_colours(int fd);

/*
 * "qcow2: <sentence>" in one line on standard error, made safe for terminals. Returns 1, the exit
 * code of failure, so that `return cli_error(...)` works.
 */
int cli_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* "qcow2: <sentence>" for people: neither an error nor a warning, and never an object. */
void cli_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* "qcow2: warning: <sentence>". */
void cli_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The error, and where to read how the verb is used. verb may be NULL. Returns 1. */
int cli_usage(const char *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * Call first: standard input, output and error that were closed are opened on nothing, so that an
 * image never gets their numbers, and a closed pipe becomes an error rather than a signal.
 */
void cli_start(void);

/* Whether standard output has failed: reason enough to stop printing. */
bool cli_output_lost(void);

/*
 * Call last: writes out standard output. Returns status; if the output got lost and status is 0,
 * failure_status.
 */
int cli_finish(int status, int failure_status);

#endif
