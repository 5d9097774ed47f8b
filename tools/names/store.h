/* SPDX-License-Identifier: MIT */
/* Nodes below a format: what file.driver=... describes, as a store of the library. */
#ifndef TOOLS_NAMES_STORE_H
#define TOOLS_NAMES_STORE_H

#include "names/options.h"
#include "qcow2.h"

struct names_stores {
	struct names_options *options;
	unsigned flags;		   /* QCOW2_OPEN_*, for files */
	struct qcow2_debug *debug; /* of the uppermost blkdebug node, if there is one */
	bool no_lock;		   /* locking=off was among the options */
	char *path;		   /* of the file that it ends in, or what stands for it; owned */
	void (*told)(void *opaque, const char *tag, bool resumed); /* as in qcow2_debug_options */
};

/* Is driver one that needs nothing below it, or blkdebug: a node that is a store? */
bool names_is_protocol(const char *driver);

/*
 * Opens the node whose options begin with prefix; filename is its option of that name if it came in
 * another way, or NULL. *storage is the caller's.
 */
int names_store_open(struct names_stores *s, const char *prefix, const char *filename,
		     struct qcow2_storage *storage, struct qcow2_error *err);

/* Rules and limits of a blkdebug node (debug.c): puts it on lower, which it owns from now on. */
int names_debug_open(struct names_stores *s, const char *prefix, const char *config,
		     struct qcow2_storage lower, struct qcow2_storage *storage,
		     struct qcow2_error *err);

/* Takes the value of an option as a number of bytes, 0 if it isn't there. */
int names_size_option(struct names_options *o, const char *prefix, const char *name, uint64_t *size,
		      struct qcow2_error *err);

#endif
