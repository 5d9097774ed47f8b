/* SPDX-License-Identifier: MIT */
/* What the reading and writing commands share in taking their arguments. */
#ifndef TOOLS_IO_CMD_ARGS_H
#define TOOLS_IO_CMD_ARGS_H

#include "io/request.h"

/*
 * Takes -C, -p, -P, -q or -v. Returns false for another letter; *rc is negative if the pattern is
 * wrong, which was told then.
 */
bool io_common_option(struct io_request *request, int letter, int *rc);

enum io_limit {
	IO_LIMIT,	/* IO_REQUEST_MAX */
	IO_LIMIT_BUT_N, /* and it is told that -n lifts it */
	IO_NO_LIMIT,
};

/* Offset and length, words[0] and words[1]. */
int io_parse_range(struct io_request *request, char **words, enum io_limit limit);

/*
 * An offset and one or more lengths; makes the buffer, and its parts. The usage of self is told if
 * there are too few words.
 */
int io_parse_vector(const struct io_command *self, struct io_request *request, int nwords,
		    char **words);

#endif
