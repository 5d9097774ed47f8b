/* SPDX-License-Identifier: MIT */
/*
 * The image header with its extensions: sections 2 to 5. Decoding works on the first cluster of
 * the file (or what there is of it, padded with zeros) and checks every field against the limits
 * of section 11; encoding builds a whole first cluster in the order of section 2.6.
 */
#ifndef FORMAT_HEADER_H
#define FORMAT_HEADER_H

#include <stddef.h>

#include "format/extension.h"
#include "format/geometry.h"

struct format_header {
	uint32_t version;
	uint64_t backing_off; /* as read; 0: none. Encoding sets its own */
	uint32_t backing_len;
	uint32_t cluster_bits;
	uint64_t size_bytes; /* as read; a disk's size is this rounded down to 512 */
	uint32_t crypt_method;
	uint32_t l1_entries;
	uint64_t l1_off;
	uint64_t reftable_off;
	uint32_t reftable_clusters;
	uint32_t nb_snapshots;
	uint64_t snapshots_off;
	uint64_t incompatible;
	uint64_t compatible;
	uint64_t autoclear;
	uint32_t refcount_order;
	uint32_t header_length;
	uint32_t compression_type;
	/* bytes LAYOUT_OFF_UNKNOWN_FIELDS .. header_length, kept; NULL if there are none. Owned. */
	uint8_t *unknown_fields;
	uint32_t unknown_fields_len;

	struct format_extensions ext;
	char *backing_name; /* NULL: no backing file. Owned. Ends at the first NUL, as in QEMU */
};

/* What a decoder may let pass, for a program that only looks or repairs. */
#define FORMAT_HEADER_ALLOW_SNAPSHOTS 1u /* a bad snapshot count or offset */
#define FORMAT_HEADER_ALLOW_REFTABLE 2u	 /* a bad refcount table place or size */
#define FORMAT_HEADER_ALLOW_BITMAPS 4u	 /* a bad bitmaps extension */

/* Bytes that must be read before cluster_bits is known, and at the least for decoding. */
#define FORMAT_HEADER_PEEK 512

/*
 * Finds the cluster size from the first FORMAT_HEADER_PEEK bytes: checks magic, version and
 * cluster_bits, so that the caller knows how much the first cluster is.
 */
int format_header_peek(const uint8_t *buf, uint32_t *cluster_bits, struct qcow2_error *err);

/*
 * cluster is the first cluster, zero-padded. On success *h owns memory: format_header_release. On
 * failure *h holds nothing. The order of checks is that of section 2.5 (steps 1 to 19, 23, 26), so
 * that a doubly broken image shows the error that QEMU shows; crypt_method is checked after 19.
 * Left to whoever opens the image, since it depends on what for: the corrupt bit (10), a LUKS image
 * without encryption extension, autoclear bit "raw external data" without a data file. *tolerated
 * gets the FORMAT_HEADER_ ALLOW_* of what was wrong and let pass (never bits that allow doesn't
 * have); it may be NULL.
 */
int format_header_decode(struct format_header *h, const uint8_t *cluster, uint64_t cluster_size,
			 unsigned allow, unsigned *tolerated, struct qcow2_error *err);
void format_header_release(struct format_header *h);

/* Geometry of a header that was decoded. */
void format_header_geometry(const struct format_header *h, struct format_geometry *g);

/*
 * Builds the first cluster (cluster_size bytes, all written). Sets h->header_length, backing_off
 * and backing_len to what was laid out. -ENOSPC if it doesn't fit, -EINVAL for a backing file name
 * or format that is longer than QEMU reads; then *h is unchanged and cluster unspecified. Version 2
 * leaves out what it has no place for: feature bits, refcount order, compression type, unknown
 * fields.
 */
int format_header_encode(struct format_header *h, uint8_t *cluster, uint64_t cluster_size,
			 struct qcow2_error *err);

#endif
