/* SPDX-License-Identifier: MIT */
/*
 * Copy-on-read: what is read from below the image is written to the image, in whole clusters. The
 * library doesn't know such reads; so that none undoes a write beside it, nothing runs beside
 * anything while an image is open like this.
 */
#ifndef TOOLS_IO_COPY_H
#define TOOLS_IO_COPY_H

#include <stdint.h>

#include "io/io.h"

/* Around everything that reads or changes the disk; nothing happens without copy-on-read. */
void io_copy_lock(struct io *io);
void io_copy_unlock(struct io *io);

/* Before a read. The lock is held. */
int io_copy_range(struct io *io, uint64_t guest_off, uint64_t len_bytes, struct qcow2_error *err);

#endif
