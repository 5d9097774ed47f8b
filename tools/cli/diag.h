/* SPDX-License-Identifier: MIT */
/* What the tool says to people on standard error, and how it ends. */
#ifndef TOOLS_CLI_DIAG_H
#define TOOLS_CLI_DIAG_H

#include <stdbool.h>

/* The name that messages begin with, "qcow2" without this call. The string has to stay. */
void cli_set_program(const char *name);
const char *cli_program(void);

/*
 * "qcow2: <sentence>" in one line on standard error, made safe for terminals. Returns 1, the exit
 * code of failure, so that `return cli_error(...)` works.
 */
int cli_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

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
