/* SPDX-License-Identifier: MIT */
/* How `check` shows findings: a line each, in the words of qemu-img where that has some. */
#ifndef TOOLS_CHECK_LINES_H
#define TOOLS_CHECK_LINES_H

#include <stdbool.h>

#include "cli/progress.h"
#include "qcow2.h"

struct check_lines {
	struct cli_progress *progress; /* what stands in the way of a line */
	bool needs_rebuild;	       /* a repair of leaks met what it can't repair */
};

/* Fits struct qcow2_check_options; opaque is the struct check_lines. */
int check_lines_put(void *opaque, const struct qcow2_check_finding *finding);

#endif
