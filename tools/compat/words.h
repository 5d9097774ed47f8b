/* SPDX-License-Identifier: MIT */
/* What the programs that we stand in for say where we say something else. */
#ifndef TOOLS_COMPAT_WORDS_H
#define TOOLS_COMPAT_WORDS_H

#include "cli/words.h"

extern const struct cli_words compat_qemu_img_words[];
extern const struct cli_words compat_qemu_io_words[];

#endif
