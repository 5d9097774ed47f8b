/* SPDX-License-Identifier: MIT */
/* --object secret,id=NAME,...: accepted for programs that pass it; nothing needs a secret yet. */
#ifndef TOOLS_NAMES_OBJECT_H
#define TOOLS_NAMES_OBJECT_H

#include "cli/args.h"
#include "names/options.h"

/* Are these definitions of objects that there are? -EINVAL, in QEMU's words. */
int names_check_objects(const struct cli_list *objects, struct qcow2_error *err);

/*
 * Takes --object and its argument out of the n words of a command line, up to "--". Says what is
 * wrong with them: an exit code, failure for what is no good definition, else 0.
 */
int names_take_objects(char **words, int *n, int failure);

#endif
