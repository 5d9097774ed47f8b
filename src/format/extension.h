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
	uint64_t host_off;   /* of the frame, as read */
	const uint8_t *data; /* owned by the format_extensions */
};

struct format_extensions {
	char *backing_format; /* NULL: not recorded. Owned. Never empty */
	char *data_file;      /* NULL: not recorded. Owned. May be there without the feature bit */
	bool has_bitmaps;     /* checked only if the header's autoclear bit says that they hold */
	struct format_ext_bitmaps bitmaps;
	bool has_crypto;
	struct format_ext_crypto crypto;
	bool has_feature_names;		/* as read; encoding writes the table by its own rule */
	struct format_ext_raw *unknown; /* owned */
	size_t nunknown;
};

void format_extensions_release(struct format_extensions *ext);

/* What the header says that extensions have to agree with. */
struct format_ext_rules {
	uint32_t version;
	uint64_t cluster_size;
	uint32_t crypt_method;
	bool data_file;		/* the data file bit is set: its name may be written */
	bool bitmaps_valid;	/* the bitmaps bit is set: what the extension says counts */
	bool allow_bad_bitmaps; /* leave a bad bitmaps extension out rather than fail */
};

/*
 * Decodes the area [start, end) of the first cluster. On failure *ext holds nothing. *bad_bitmaps
 * says whether a bad bitmaps extension was left out.
 */
int format_extensions_decode(struct format_extensions *ext, const struct format_ext_rules *rules,
			     const uint8_t *cluster, uint64_t start, uint64_t end,
			     bool *bad_bitmaps, struct qcow2_error *err);

/*
 * Writes the area with its end marker into the zeroed first cluster from *pos on, in the order of
 * section 2.6, and moves *pos behind it. -ENOSPC if it passes end; -EINVAL if QEMU would refuse it.
 */
int format_extensions_encode(const struct format_extensions *ext,
			     const struct format_ext_rules *rules, uint8_t *cluster, uint64_t *pos,
			     uint64_t end, struct qcow2_error *err);

/* One extension of the area [pos, end): 0 and *raw (data points into area), or *done at the end. */
int format_extension_next(const uint8_t *area, uint64_t end, uint64_t *pos,
			  struct format_ext_raw *raw, bool *done, struct qcow2_error *err);

/*
 * The name of a feature bit from a feature name table's data (section 4.3), NULL if it has none.
 * set: 0 incompatible, 1 compatible, 2 autoclear. buf holds the result, NUL-terminated.
 */
const char *format_feature_name(const uint8_t *table, size_t len_bytes, unsigned set, unsigned bit,
				char buf[47]);

/*
 * Writes the names of the bits of mask in the given set into buf, in table order, joined by ", ",
 * with anything but printable ASCII replaced by '?'. Returns the bits that have no name.
 */
uint64_t format_feature_names(const uint8_t *table, size_t len_bytes, unsigned set, uint64_t mask,
			      char *buf, size_t buf_len);

#endif
