/* SPDX-License-Identifier: MIT */
/* Opening and closing the shell's image. */
#ifndef TOOLS_IO_OPEN_H
#define TOOLS_IO_OPEN_H

#include "io/io.h"

/*
 * Opens what setup says and takes it over, also on failure. Says what went wrong. No image may be
 * open.
 */
int io_open(struct io *io, struct names_setup *setup);

/* Says why the image of setup doesn't get opened. */
void io_open_failed(const struct io *io, const struct names_setup *setup,
		    const struct qcow2_error *err);

/*
 * Closes the image, once all requests are done, and opens it again by setup, which it takes over.
 * If that fails it is opened as it was before; if that fails too there is no image any more.
 */
int io_reopen(struct io *io, struct names_setup *setup);

/* Waits for all requests; none stops at a breakpoint any more. */
void io_drain(struct io *io);

/* Waits for all requests, finishes the image and closes it. Says what went wrong. */
int io_close(struct io *io);

#endif
