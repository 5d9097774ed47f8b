/* SPDX-License-Identifier: MIT */
/*
 * What an act will take away, in one sentence: on standard error before it, for people at a
 * terminal, who are asked nothing; with --dry-run on standard output, in its place.
 */
#ifndef TOOLS_LOSS_H
#define TOOLS_LOSS_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2.h"

enum tool_loss {
	TOOL_LOSS_UNSAID, /* nobody would read it */
	TOOL_LOSS_NOW,
	TOOL_LOSS_DRY_RUN,
};

enum tool_loss tool_loss_mode(bool dry_run, bool quiet);

/*
 * Says the sentence, which has no full stop and is about now; or with --dry-run, where each of its
 * "[would ...|...]" is the part before the bar, else the one behind it.
 */
void tool_loss_say(enum tool_loss mode, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Bytes from guest_off to the end for which the topmost image itself has data. -errno, told. */
int tool_loss_count(struct qcow2_image *image, uint64_t guest_off, uint64_t *bytes);

/* Of a disk that gets another size. -errno, told. */
int tool_loss_say_size(enum tool_loss mode, struct qcow2_image *image, uint64_t size);

#endif
