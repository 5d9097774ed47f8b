/* SPDX-License-Identifier: MIT */
/*
 * How far a job is. For people: with -p the percentage that qemu-img prints, on standard output;
 * else, on a terminal and once the job has lasted a second, a line with bytes, rate and time left,
 * on standard error. Nothing else: logs and pipes never get it.
 *
 * For programs: with --progress=json an object a line, on standard error or the file descriptor
 * that is named:
 *	{"done": 1048576, "total": 4194304, "percent": 25.00, "seconds": 0.413}
 * in bytes, a few times a second, and at the end, with "state": "finished", "failed" or
 * "cancelled". Later versions may add members.
 */
#ifndef TOOLS_CLI_PROGRESS_H
#define TOOLS_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

enum cli_progress_mode {
	CLI_PROGRESS_NONE,
	CLI_PROGRESS_PERCENT,
	CLI_PROGRESS_LINE,
	CLI_PROGRESS_JSON
};

struct cli_progress {
	enum cli_progress_mode mode;
	double shown_percent; /* PERCENT: the last that was printed */
	bool line_is_up;      /* LINE: something stands on the terminal's line */
	uint64_t start_ns, shown_ns;
	uint64_t done, total; /* JSON: the last that was told */
};

/* What stands behind --progress=: "json", "json:3". -EINVAL for something else. */
int cli_progress_to(const char *text);

/* percent: -p was given. quiet: -q, nothing is shown. */
void cli_progress_begin(struct cli_progress *progress, bool percent, bool quiet);

/*
 * Fits struct qcow2_progress; opaque is the struct cli_progress. Nonzero when the user interrupted.
 */
int cli_progress_tick(void *opaque, uint64_t done_bytes, uint64_t total_bytes);

/* Takes the line away so that something else can be printed. */
void cli_progress_clear(struct cli_progress *progress);

/* The end, done or not. */
void cli_progress_end(struct cli_progress *progress, bool done);

#endif
