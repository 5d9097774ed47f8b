/* SPDX-License-Identifier: MIT */
/*
 * Driver options as one flat list: "file.image.filename" is the option filename of the node below
 * the node below. JSON objects are flattened to the same ("file": {"filename": F}), arrays by the
 * index of their elements. Which of them was of use is noted, so that the others can be refused.
 */
#ifndef TOOLS_NAMES_OPTIONS_H
#define TOOLS_NAMES_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "qcow2.h"

struct names_option {
	char *name;
	char *value; /* NULL: JSON's null */
	bool used;
};

struct names_options {
	size_t n;
	struct names_option *list;
};

void names_options_release(struct names_options *o);
/* A copy of its own, nothing of it used yet. -ENOMEM. */
int names_options_copy(struct names_options *to, const struct names_options *from);
/* Adds it; one of that name is replaced. -ENOMEM. */
int names_options_set(struct names_options *o, const char *name, const char *value);
/* The value of prefix + name, which is used now; NULL if there is none. */
const char *names_options_get(struct names_options *o, const char *prefix, const char *name);
/* The first that begins with prefix and wasn't used; NULL: there is none. */
const char *names_options_unused(const struct names_options *o, const char *prefix);
/* All that begin with prefix are used now. */
void names_options_use(struct names_options *o, const char *prefix);
/* Is there any that begins with prefix? */
bool names_options_any(const struct names_options *o, const char *prefix);

/*
 * Calls take for each element of "{...}", an object as JSON has it; what is doubled comes doubled.
 * The first negative return ends it and is returned. -EINVAL, and a sentence, for what isn't JSON.
 */
int names_json_each(const char *text,
		    int (*take)(void *opaque, const char *name, const char *value), void *opaque,
		    struct qcow2_error *err);

/* Was the sentence filled in by names_reason, not by the library? That sets a place, or says none.
 */
bool names_said(const struct qcow2_error *err);

/* Fills err and returns code. */
int names_reason(struct qcow2_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
