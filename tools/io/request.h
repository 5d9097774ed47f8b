/* SPDX-License-Identifier: MIT */
/* One read or write: what is asked, what became of it, and how that is told. */
#ifndef TOOLS_IO_REQUEST_H
#define TOOLS_IO_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "io/io.h"

#define IO_PATTERN 0xcd /* what is written if no -P says otherwise */

struct io_request {
	struct io *io;
	const char *name; /* "aio_write": of whom it is said that it failed */
	const char *done; /* "wrote" */
	/* What to do. */
	bool write, zero, discard; /* the last two with the first */
	bool vm_state;		   /* rather than the disk */
	unsigned flags;		   /* QCOW2_WRITE_* */
	uint64_t guest_off, len_bytes;
	uint8_t *memory; /* to be freed; buf begins somewhere in it */
	uint8_t *buf;
	struct iovec *iov; /* its parts, or NULL: one piece */
	int niov;
	/* How to tell it. */
	bool quiet, machine, dump, check;
	uint8_t pattern;
	uint64_t check_off, check_len; /* the part that is checked, from guest_off */
	/* What became of it. */
	int result;
	struct qcow2_error err;
	uint64_t elapsed_ns;
	struct io_request *next; /* of the pool's lists */
};

void io_request_init(struct io_request *request, struct io *io, const char *name, bool write);
void io_request_release(struct io_request *request);

/* Gets the buffer for len_bytes and fills it with the pattern. -ENOMEM after telling. */
int io_request_buffer(struct io_request *request);

/* Fills the buffer from a file, again and again if that is shorter. Tells what went wrong. */
int io_request_fill_from(struct io_request *request, const char *path);

/* Does it, in whatever thread. */
void io_request_perform(struct io_request *request);

/* Tells what became of it, in the shell's thread. Negative if it failed or read something else. */
int io_request_tell(const struct io_request *request);

/* "NAME failed: REASON", and the library's own sentence where qemu-io's words aren't all. */
void io_tell_failure(struct io *io, const char *name, int code, const struct qcow2_error *err);

/* Where the state of a VM begins: behind the disk, at what the next L2 table would map. */
uint64_t io_vm_state_offset(const struct qcow2_info *info);

/* CLOCK_MONOTONIC. */
uint64_t io_now_ns(void);

#endif
