/* SPDX-License-Identifier: MIT */
/*
 * Whoever may write the first sector of a disk whose format is guessed decides what it will be
 * taken for next time. So nobody may: such a write is refused if it makes a known header.
 */
#ifndef TOOLS_IO_GUARD_H
#define TOOLS_IO_GUARD_H

#include <stdint.h>

#include "io/request.h"

/* The format that a disk with such a first sector would be taken for, or NULL: none but raw. */
const char *io_guard_format(const uint8_t sector[512]);

/* Does a write, or refuses it: -EPERM. */
int io_guard_write(struct io_request *request);

/* Whether the write has to go through io_guard_write. */
bool io_guard_concerns(const struct io_request *request);

#endif
