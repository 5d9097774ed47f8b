/* SPDX-License-Identifier: MIT */
/*
 * Structures of the public header that may grow: a caller built against another version passes
 * another struct_size.
 */
#ifndef IMAGE_OPTIONS_H
#define IMAGE_OPTIONS_H

#include <errno.h>
#include <string.h>

#include "base/error.h"

/*
 * Copies the caller's structure over one that holds the defaults. A longer structure than ours is
 * refused if it asks for something in the part that we don't know.
 */
static inline int options_take(void *dst, size_t dst_size, const void *src, size_t src_size,
			       const char *what, struct qcow2_error *err)
{
	if (!src)
		return 0;
	if (src_size < sizeof(size_t))
		return error_set(err, -EINVAL, "%s: struct_size isn't set", what);
	for (size_t i = dst_size; i < src_size; i++) {
		if (((const unsigned char *)src)[i])
			return error_set(err, -ENOTSUP,
					 "%s: an option that this version of the "
					 "library doesn't know",
					 what);
	}
	memcpy(dst, src, src_size < dst_size ? src_size : dst_size);
	memcpy(dst, &dst_size, sizeof(dst_size)); /* what it has now: it may be passed on */
	return 0;
}

#define OPTIONS_TAKE(dst, src, what, err)                                                          \
	options_take(dst, sizeof(*(dst)), src, (src) ? (src)->struct_size : 0, what, err)

#endif
