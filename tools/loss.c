/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/diag.h"
#include "cli/size.h"
#include "cli/utf8.h"
#include "image.h"
#include "loss.h"

#define SENTENCE_SIZE 2048

enum tool_loss tool_loss_mode(bool dry_run, bool quiet)
{
	if (dry_run)
		return TOOL_LOSS_DRY_RUN;
	return !quiet && !cli_is_face() && isatty(STDERR_FILENO) ? TOOL_LOSS_NOW : TOOL_LOSS_UNSAID;
}

/* "[a|b]" becomes a or b, in the pattern: what is put into it later may have brackets. */
static void choose(char *to, size_t size, const char *fmt, bool first)
{
	size_t n = 0;
	bool inside = false, wanted = true;

	for (; *fmt && n + 1 < size; fmt++) {
		if (*fmt == '[' || *fmt == ']')
			inside = *fmt == '[';
		wanted = *fmt == '[' ? first : *fmt == ']' || wanted;
		if (inside && *fmt == '|')
			wanted = !first;
		else if (wanted && *fmt != '[' && *fmt != ']')
			to[n++] = *fmt;
	}
	to[n] = 0;
}

void tool_loss_say(enum tool_loss mode, const char *fmt, ...)
{
	char pattern[SENTENCE_SIZE], sentence[SENTENCE_SIZE];
	va_list args;

	if (mode == TOOL_LOSS_UNSAID)
		return;
	choose(pattern, sizeof(pattern), fmt, mode == TOOL_LOSS_DRY_RUN);
	va_start(args, fmt);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* a part of fmt, which was looked at */
	vsnprintf(sentence, sizeof(sentence), pattern, args);
#pragma GCC diagnostic pop
	va_end(args);
	if (mode == TOOL_LOSS_NOW) {
		cli_note("%s", sentence);
		return;
	}
	sentence[0] = (char)toupper((unsigned char)sentence[0]);
	cli_text_put(stdout, sentence);
	puts(".");
}

int tool_loss_count(struct qcow2_image *image, uint64_t guest_off, uint64_t *bytes)
{
	uint64_t end = qcow2_size(image);
	struct qcow2_error err = {0};
	struct qcow2_extent e;
	int rc;

	*bytes = 0;
	for (uint64_t off = guest_off; off < end; off += e.len_bytes) {
		rc = qcow2_map(image, off, end - off, &e, &err);
		if (rc < 0) {
			tool_explain(&err, NULL);
			return rc;
		}
		if (e.flags & QCOW2_EXTENT_DATA && e.depth == 0)
			*bytes += e.len_bytes;
	}
	return 0;
}

int tool_loss_say_size(enum tool_loss mode, struct qcow2_image *image, uint64_t size)
{
	char cut[CLI_SIZE_TEXT], data[CLI_SIZE_TEXT];
	uint64_t old = qcow2_size(image), lost = 0;

	if (mode == TOOL_LOSS_UNSAID || (size >= old && mode == TOOL_LOSS_NOW))
		return 0;
	if (size >= old) {
		tool_loss_say(mode,
			      "the disk would become %s (%" PRIu64
			      " bytes) larger. Nothing would be lost",
			      cli_size_human(cut, size - old), size - old);
		return 0;
	}
	if (tool_loss_count(image, size, &lost) < 0)
		return -1;
	tool_loss_say(mode,
		      "the disk [would lose|loses] its last %s (%" PRIu64
		      " bytes), of which %s (%" PRIu64 " bytes) hold data",
		      cli_size_human(cut, old - size), old - size, cli_size_human(data, lost),
		      lost);
	return 0;
}
