/* SPDX-License-Identifier: MIT */
/* What the verbs share in handling images: opening by their options, messages, formats. */
#ifndef TOOLS_IMAGE_H
#define TOOLS_IMAGE_H

#include <stdbool.h>

#include "qcow2.h"

/* Choices of -t and -T, in the order of TOOL_CACHE_*. */
extern const char *const tool_cache_modes[];
enum tool_cache {
	TOOL_CACHE_NONE,
	TOOL_CACHE_WRITEBACK,
	TOOL_CACHE_WRITETHROUGH,
	TOOL_CACHE_DIRECTSYNC,
	TOOL_CACHE_UNSAFE,
};

/* QCOW2_OPEN_* for a cache mode of an image that is read, or written. */
unsigned tool_cache_read_flags(int cache);
unsigned tool_cache_write_flags(int cache);

/* Choices of --output. */
extern const char *const tool_outputs[];
enum tool_output { TOOL_OUTPUT_TEXT, TOOL_OUTPUT_JSON, TOOL_OUTPUT_HUMAN };

/* Whether there is such a format (NULL is fine). False after an error with the list of formats. */
bool tool_known_format(const char *format);

/* Tells of a warning; fits the callbacks of qcow2.h. */
void tool_warn(void *opaque, const char *sentence);

/* Tells why a call failed: the sentence, and in brackets what to do about it where that's known. */
void tool_explain(const struct qcow2_error *err, const char *advice);

/* Beside QCOW2_OPEN_*: the name is a list of driver options. */
#define TOOL_OPEN_IMAGE_OPTS 0x80000000u

struct names_setup;

/* What is to be opened, by name, format (or NULL) and flags. Sets the access, not other flags. */
int tool_fill_setup(struct names_setup *setup, const char *name, const char *format, unsigned flags,
		    struct qcow2_error *err);

/*
 * The path of the file that a user's name comes to, and in *format, if that is NULL, the format
 * that it says: for calls that take paths only. The path is the caller's; NULL after an error.
 */
char *tool_plain_path(const char *name, const char **format, bool image_opts);

/*
 * The same for calls that take a store, too: where the name is more than a file's, *path stays NULL
 * and *store, which is the caller's, is what it comes to, with the lock that flags (QCOW2_OPEN_*,
 * TOOL_OPEN_IMAGE_OPTS) ask for. -errno, told.
 */
int tool_path_or_store(const char *name, const char **format, unsigned flags, char **path,
		       struct qcow2_storage *store);

/* Tells why name couldn't be opened: qemu-img's sentence has all of a description. */
void tool_explain_opening(const char *name, unsigned flags, const struct qcow2_error *err,
			  const char *advice);

/*
 * Opens an image by any name that a user may give it, local references followed, flags
 * QCOW2_OPEN_*. Says what went wrong. The snapshot may be NULL.
 */
int tool_open(struct qcow2_image **image, const char *path, const char *format,
	      const char *snapshot, unsigned flags);

/* Chains may be long, and every file of one stays open: takes all file descriptors there are. */
void tool_many_files(void);

#endif
