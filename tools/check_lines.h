/* SPDX-License-Identifier: MIT */
/*
 * How `check` shows findings: a line each on standard error, in the words of qemu-img where that
 * has some; or an object each.
 */
#ifndef TOOLS_CHECK_LINES_H
#define TOOLS_CHECK_LINES_H

#include <stdbool.h>

#include "cli/out.h"
#include "cli/progress.h"
#include "qcow2.h"

struct check_lines {
	struct cli_progress *progress; /* what stands in the way of a line */
	/* NULL: lines. Else the object that has the list of them, which begins with the first */
	struct cli_out *json;
	bool begun;
	bool needs_rebuild; /* a repair of leaks met what it can't repair */
};

extern const char *const check_severities[]; /* by enum qcow2_check_severity */

/* Opens the object and in it the list of findings, if none of them did. */
void check_lines_begin(struct check_lines *lines);

/* Fits struct qcow2_check_options; opaque is the struct check_lines. */
int check_lines_put(void *opaque, const struct qcow2_check_finding *finding);

#endif
