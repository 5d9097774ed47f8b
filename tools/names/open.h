/* SPDX-License-Identifier: MIT */
/* From a setup to an open image: every node that it names, from the bottom up. */
#ifndef TOOLS_NAMES_OPEN_H
#define TOOLS_NAMES_OPEN_H

#include "names/setup.h"
#include "qcow2.h"

struct names_opening {
	/* In: what the library is asked for. names_setup_fill fills most; policy, warn, snapshot
	 * and backing are the caller's. */
	struct qcow2_open_options options;
	void (*told)(void *opaque, const char *tag, bool resumed); /* of a blkdebug node, or NULL */
	/* Out. */
	struct qcow2_image *image;
	struct qcow2_debug *debug; /* of a blkdebug node; NULL: there is none */
};

/* Notes in the setup which of its options were of use, nothing else. */
int names_open(struct names_opening *o, struct names_setup *setup, struct qcow2_error *err);

/* The store under a format alone, for who doesn't need an image. Format is what was said. */
int names_open_store(struct names_setup *setup, unsigned flags, struct qcow2_storage *storage,
		     struct qcow2_error *err);

/*
 * The path of the file if that is all there is to the setup, with at most a format; else NULL: for
 * calls that take paths only.
 */
const char *names_plain_path(const struct names_setup *setup);

/* What can be said before anything is opened: contradictions between options. */
int names_check(const struct names_setup *setup, unsigned flags, struct qcow2_error *err);

#endif
