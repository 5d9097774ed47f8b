/* SPDX-License-Identifier: MIT */
/* Progress on a terminal and for programs. Output goes out at once, an error in writing it is found
 * at the end. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/size.h"

#define QUIET_NS UINT64_C(1000000000) /* a job that is faster than this shows nothing */
#define PAUSE_NS UINT64_C(200000000)  /* between two lines */

static int json_fd = -1;

int cli_progress_to(const char *text)
{
	uint64_t fd = STDERR_FILENO;

	if (strncmp(text, "json", 4) != 0 || (text[4] && text[4] != ':'))
		return -EINVAL;
	if (text[4] && cli_number_parse(text + 5, 0, INT_MAX, &fd) < 0)
		return -EINVAL;
	if (fcntl((int)fd, F_GETFD) < 0)
		return -EINVAL;
	json_fd = (int)fd;
	return 0;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void put_percent(struct cli_progress *p, double percent)
{
	printf("    (%3.2f/100%%)\r", percent);
	fflush(stdout);
	p->shown_percent = percent;
}

static double percent_of(uint64_t done, uint64_t total)
{
	return total ? 100.0 * (double)done / (double)total : 100.0;
}

void cli_progress_begin(struct cli_progress *p, bool percent, bool quiet)
{
	const char *term = getenv("TERM");

	memset(p, 0, sizeof(*p));
	p->start_ns = now_ns();
	if (json_fd >= 0) {
		p->mode = CLI_PROGRESS_JSON;
		return;
	}
	if (quiet)
		return;
	if (percent) {
		p->mode = CLI_PROGRESS_PERCENT;
		put_percent(p, 0);
	} else if (isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0) {
		p->mode = CLI_PROGRESS_LINE;
	}
}

static void put_line(struct cli_progress *p, uint64_t done, uint64_t total)
{
	char done_text[CLI_SIZE_TEXT], total_text[CLI_SIZE_TEXT], rate_text[CLI_SIZE_TEXT];
	uint64_t now = now_ns();
	double seconds = (double)(now - p->start_ns) / 1e9, rate, left;

	if (now - p->start_ns < QUIET_NS || now - p->shown_ns < PAUSE_NS || total == 0)
		return;
	rate = (double)done / seconds;
	left = rate >= 1 ? (double)(total - done) / rate : 0;
	fprintf(stderr, "\r%s of %s, %.0f%%, %s/s", cli_size_human(done_text, done),
		cli_size_human(total_text, total), percent_of(done, total),
		cli_size_human(rate_text, (uint64_t)rate));
	if (rate >= 1 && left < 360000)
		fprintf(stderr, ", %u:%02u left", (unsigned)left / 60, (unsigned)left % 60);
	fputs("\033[K", stderr);
	fflush(stderr);
	p->shown_ns = now;
	p->line_is_up = true;
}

/* A line in one write, so that it stays whole. Who doesn't read it does no harm to the job. */
static void put_json(struct cli_progress *p, uint64_t done, uint64_t total, const char *state)
{
	uint64_t now = now_ns();
	char line[240];
	int len;
	ssize_t n;

	p->done = done;
	p->total = total;
	if (!state && p->shown_ns && now - p->shown_ns < PAUSE_NS)
		return;
	len = snprintf(line, sizeof(line),
		       "{\"done\": %" PRIu64 ", \"total\": %" PRIu64
		       ", \"percent\": %.2f, \"seconds\": %.3f%s%s%s}\n",
		       done, total, percent_of(done, total), (double)(now - p->start_ns) / 1e9,
		       state ? ", \"state\": \"" : "", state ? state : "", state ? "\"" : "");
	n = write(json_fd, line, (size_t)len);
	(void)n;
	p->shown_ns = now;
}

int cli_progress_tick(void *opaque, uint64_t done, uint64_t total)
{
	struct cli_progress *p = opaque;
	double percent;

	if (done > total)
		done = total;
	percent = percent_of(done, total);
	if (cli_interrupt_asked())
		fprintf(stderr, "    (%3.2f/100%%)\n", percent);
	if (p->mode == CLI_PROGRESS_PERCENT &&
	    (percent >= p->shown_percent + 1 || (done == total && p->shown_percent < 100)))
		put_percent(p, percent);
	else if (p->mode == CLI_PROGRESS_LINE)
		put_line(p, done, total);
	else if (p->mode == CLI_PROGRESS_JSON)
		put_json(p, done, total, NULL);
	return cli_interrupt_pending() != 0;
}

void cli_progress_clear(struct cli_progress *p)
{
	if (!p->line_is_up)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	p->line_is_up = false;
}

void cli_progress_end(struct cli_progress *p, bool done)
{
	cli_progress_clear(p);
	if (p->mode == CLI_PROGRESS_JSON)
		put_json(p, p->done, p->total,
			 done			   ? "finished"
			 : cli_interrupt_pending() ? "cancelled"
						   : "failed");
	if (p->mode != CLI_PROGRESS_PERCENT)
		return;
	if (done && p->shown_percent < 100)
		put_percent(p, 100);
	putchar('\n');
	fflush(stdout);
}
