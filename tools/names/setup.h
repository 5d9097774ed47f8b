/* SPDX-License-Identifier: MIT */
/*
 * How an image is to be opened: from what a user names it by ("PATH", "json:{...}",
 * "driver=qcow2,file.filename=F,lazy-refcounts=on"), from the options of the program, and in the
 * shell from those of the commands open and reopen.
 */
#ifndef TOOLS_NAMES_SETUP_H
#define TOOLS_NAMES_SETUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "names/options.h"
#include "qcow2.h"

enum names_setup_zeroes { NAMES_ZEROES_AS_DATA, NAMES_ZEROES, NAMES_ZEROES_UNMAP };
enum names_setup_access { NAMES_ACCESS_DEFAULT, NAMES_READ_ONLY, NAMES_READ_WRITE };

/* Strings belong to the setup. */
struct names_setup {
	char *name;	     /* as the user typed it, where that was one word; else NULL */
	char *path;	     /* what file.filename is; NULL: not said */
	char *format;	     /* NULL: not said */
	bool path_is_option; /* it came as file.filename */
	bool guessed;	     /* format wasn't said: it is what was found when it was opened */
	enum names_setup_access access;
	bool force_share, no_lock, no_backing, snapshot, copy_on_read;
	bool direct, no_flush, writethrough; /* the cache mode */
	bool native_aio;
	bool discard;	    /* discards are carried out rather than ignored */
	bool discard_keeps; /* discard-no-unref */
	bool pass_request, pass_snapshot, pass_other;
	enum names_setup_zeroes detect_zeroes;			    /* in what the shell writes */
	unsigned lazy_refcounts;				    /* QCOW2_AS_RECORDED, ... */
	uint64_t cache_bytes, l2_cache_bytes, refcount_cache_bytes; /* 0: not said */
	unsigned overlap_check;					    /* QCOW2_OVERLAP_* */
	uint64_t l2_entry_bytes;				    /* 0: not said */
	/* What isn't here: of the nodes below, and what only some drivers have. */
	struct names_options tree;
	char *overlap_template, *overlap_word; /* as they were said */
	char *qcow2_option; /* the first one that raw images don't have, or NULL */
};

void names_setup_init(struct names_setup *setup);
void names_setup_release(struct names_setup *setup);

/* A copy of its own. -ENOMEM. */
int names_setup_copy(struct names_setup *to, const struct names_setup *from);

/* Replaces *at, one of a setup's strings, by a copy of text. -ENOMEM. */
int names_setup_string(char **at, const char *text);

/* The modes of -t, -d and -i. On failure, err says what is wrong with the word. */
int names_setup_cache(struct names_setup *setup, const char *mode, struct qcow2_error *err);
int names_setup_discard(struct names_setup *setup, const char *mode, struct qcow2_error *err);
int names_setup_aio(struct names_setup *setup, const char *mode, struct qcow2_error *err);

#define NAMES_OPTIONS_CACHE 1u	/* cache modes were among them */
#define NAMES_OPTIONS_ACCESS 2u /* read-only was */

/*
 * Takes a name: a path, with or without a protocol in front, "json:{...}"; or with image_opts a
 * list of driver options, whose first element, if it is only a value, says what "file" is.
 */
int names_setup_name(struct names_setup *setup, const char *name, bool image_opts,
		     struct qcow2_error *err);

/* Takes one driver option. value NULL: null. */
int names_setup_option(struct names_setup *setup, const char *name, const char *value,
		       struct qcow2_error *err);

/* Takes a list of driver options. *seen: NAMES_OPTIONS_*. changing: it is for reopen. */
int names_setup_options(struct names_setup *setup, const char *list, bool changing, unsigned *seen,
			struct qcow2_error *err);

/* What the library is asked for; strings stay the setup's. */
void names_setup_fill(struct qcow2_open_options *to, const struct names_setup *s);

#endif
