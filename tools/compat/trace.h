/* SPDX-License-Identifier: MIT */
/* --trace of the programs that the command stands in for. */
#ifndef TOOLS_COMPAT_TRACE_H
#define TOOLS_COMPAT_TRACE_H

#define COMPAT_TRACE_GO_ON (-1)

/*
 * Takes the argument of --trace: "[[enable=]PATTERN][,events=FILE][,file=FILE]". Returns
 * COMPAT_TRACE_GO_ON, or the exit code of the program, which has nothing else to do.
 */
int compat_trace_take(const char *spec);

/* Makes the file that the last --trace named, if one did. 0, or EXIT_FAILURE after an error. */
int compat_trace_begin(const char *spec);

#endif
