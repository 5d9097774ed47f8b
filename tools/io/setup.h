/* SPDX-License-Identifier: MIT */
/*
 * How an image is to be opened: from the options of the program, of the commands open and reopen,
 * and from driver options ("driver=qcow2,file.filename=F,lazy-refcounts=on").
 */
#ifndef TOOLS_IO_SETUP_H
#define TOOLS_IO_SETUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qcow2.h"

enum io_setup_access { IO_ACCESS_DEFAULT, IO_READ_ONLY, IO_READ_WRITE };

/* Strings belong to the setup. */
struct io_setup {
	char *path;	     /* NULL: not said */
	char *format;	     /* NULL: not said */
	bool path_is_option; /* it came as file.filename */
	bool guessed;	     /* format wasn't said: it is what was found when it was opened */
	enum io_setup_access access;
	bool force_share, no_lock, no_backing, snapshot, copy_on_read;
	bool direct, no_flush, writethrough; /* the cache mode */
	bool native_aio;
	bool discard;	    /* discards are carried out rather than ignored */
	bool discard_keeps; /* discard-no-unref */
	bool pass_request, pass_snapshot, pass_other;
	unsigned lazy_refcounts;				    /* QCOW2_AS_RECORDED, ... */
	uint64_t cache_bytes, l2_cache_bytes, refcount_cache_bytes; /* 0: not said */
	/* What the backing file must turn out to be, if said. */
	char *backing_path, *backing_format;
	char *qcow2_option;   /* the first one that raw images don't have, or NULL */
	char *unknown_option; /* the first one that nobody has, or NULL */
};

void io_setup_init(struct io_setup *setup);
void io_setup_release(struct io_setup *setup);

/* A copy of its own. -ENOMEM. */
int io_setup_copy(struct io_setup *to, const struct io_setup *from);

/* Replaces *at, one of a setup's strings, by a copy of text. -ENOMEM. */
int io_setup_string(char **at, const char *text);

/* The modes of -t, -d and -i. On failure, err says what is wrong with the word. */
int io_setup_cache(struct io_setup *setup, const char *mode, struct qcow2_error *err);
int io_setup_discard(struct io_setup *setup, const char *mode, struct qcow2_error *err);
int io_setup_aio(struct io_setup *setup, const char *mode, struct qcow2_error *err);

#define IO_OPTIONS_CACHE 1u  /* cache modes were among them */
#define IO_OPTIONS_ACCESS 2u /* read-only was */

/* Takes a list of driver options. *seen: IO_OPTIONS_*. changing: it is for reopen. */
int io_setup_options(struct io_setup *setup, const char *list, bool changing, unsigned *seen,
		     struct qcow2_error *err);

/* What the library is asked for; strings stay the setup's. */
void io_setup_fill(struct qcow2_open_options *to, const struct io_setup *s);

/* Fills err and returns code. */
int io_reason(struct qcow2_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
