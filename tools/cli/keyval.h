/* SPDX-License-Identifier: MIT */
/* "name=value,name,name=a,,b": the argument of -o. */
#ifndef TOOLS_CLI_KEYVAL_H
#define TOOLS_CLI_KEYVAL_H

#include <stddef.h>
#include <stdio.h>

/*
 * Calls take for each element in turn; a doubled comma stands for one. value is NULL where there is
 * no '='. The strings are valid during the call only. Stops at the first nonzero return and
 * returns it. -EINVAL for an empty element, -ENOMEM.
 */
int cli_keyval_each(const char *text,
		    int (*take)(void *opaque, const char *name, const char *value), void *opaque);

/* Writes a value so that it can stand in such a list. */
void cli_keyval_put(FILE *f, const char *value);

#endif
