/* SPDX-License-Identifier: MIT */
/* Header extensions: section 4. Unknown ones are kept, in order. */
#ifndef FORMAT_EXTENSION_H
#define FORMAT_EXTENSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct format_ext_bitmaps { /* section 13.1 */
	uint32_t nb_bitmaps;
	uint64_t directory_size;
	uint64_t directory_off;
};

struct format_ext_crypto { /* section 4.2 */
	uint64_t header_off;
	uint64_t header_len;
};

struct format_ext_raw {
	uint32_t type;
	uint32_t len_bytes;
	uint64_t host_off; /* of the frame, as read */
	const uint8_t *data; /* owned by the format_extensions */
};

struct format_extensions {
	char *backing_format; /* NULL: not recorded. Owned */
	char *data_file;      /* NULL: not recorded. Owned */
	bool has_bitmaps;
	struct format_ext_bitmaps bitmaps;
	bool has_crypto;
	struct format_ext_crypto crypto;
	bool has_feature_names;		/* as read; encoding writes the table by its own rule */
	struct format_ext_raw *unknown; /* owned */
	size_t nunknown;
};

void format_extensions_release(struct format_extensions *ext);

/* One extension of the area [pos, end): 0 and *raw (data points into area), or *done at the end. */
int format_extension_next(const uint8_t *area, uint64_t end, uint64_t *pos,
			  struct format_ext_raw *raw, bool *done, struct qcow2_error *err);

/*
 * The name of a feature bit from a feature name table's data (section 4.3), NULL if it has none.
 * set: 0 incompatible, 1 compatible, 2 autoclear. buf holds the result, NUL-terminated.
 */
const char *format_feature_name(const uint8_t *table, size_t len_bytes, unsigned set, unsigned bit,
				char buf[47]);

#endif
