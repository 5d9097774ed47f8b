/* SPDX-License-Identifier: MIT */
/*
 * The header as a living object: each call changes one thing of it in the file, by one write, and
 * then in m->header (section 2.6 of the format reference).
 *
 * Invariants: small changes touch the bytes concerned and no others, so that a torn write can't
 * mix in something else; m->header changes only after a write that succeeded, and then only in the
 * fields that were written. What a failed write left in the file isn't known.
 *
 * None but the last two flushes: what a header may point to when is for the caller to order. One
 * call at a time, and nobody reads the fields of m->header that it changes meanwhile. They change
 * nothing else of m: neither the geometry, nor size_bytes, nor the L1 table in memory.
 */
#ifndef META_SUPER_H
#define META_SUPER_H

#include "meta/meta.h"

/* Bytes 24 to 31. Left to the caller: that the L1 table covers the disk. */
int meta_super_write_size(struct meta *m, uint64_t size_bytes, struct qcow2_error *err);
/* Bytes 36 to 47. Offsets of tables are multiples of the cluster size, here and below. */
int meta_super_write_l1(struct meta *m, uint64_t l1_off, uint32_t entries, struct qcow2_error *err);
/* Both at once, and the field between them as it is: the disk becomes another. */
int meta_super_write_disk(struct meta *m, uint64_t size_bytes, uint64_t l1_off, uint32_t entries,
			  struct qcow2_error *err);
/* Bytes 48 to 59. clusters isn't 0. */
int meta_super_write_reftable(struct meta *m, uint64_t off, uint32_t clusters,
			      struct qcow2_error *err);
/* Bytes 36 to 59: the L1 table, as large as it is, and a refcount table of one cluster. */
int meta_super_write_tables(struct meta *m, uint64_t l1_off, uint64_t reftable_off,
			    struct qcow2_error *err);
/* Bytes 60 to 71. */
int meta_super_write_snapshots(struct meta *m, uint32_t count, uint64_t off,
			       struct qcow2_error *err);
/*
 * Bytes 72 to 79. A version 2 header has none: -ENOTSUP, but for bits that it has: none, which
 * writes nothing.
 */
int meta_super_write_incompatible(struct meta *m, uint64_t bits, struct qcow2_error *err);

/* Bytes 88 to 95, likewise. */
int meta_super_write_autoclear(struct meta *m, uint64_t bits, struct qcow2_error *err);

/*
 * The whole first cluster anew, as m->header says it, with these feature masks in version 3
 * (version 2 has no place for them and ignores them). Kept as they were: unknown fields and
 * extensions, the names of the backing file, of its format and of the data file, the pointers to a
 * LUKS header and to bitmaps. Written anew: the feature name table, padding, the length of the
 * header. -ENOSPC: it doesn't fit into a cluster; -EINVAL: it was opened in spite of a bad bitmaps
 * extension, which a rewrite would lose. Nothing is written then.
 */
int meta_super_rewrite(struct meta *m, uint64_t incompatible, uint64_t compatible,
		       uint64_t autoclear, struct qcow2_error *err);

/* The same and the width of what it counts: bytes 48 to 99, in version 3. */
int meta_super_write_width(struct meta *m, uint64_t off, uint32_t clusters, uint32_t order,
			   struct qcow2_error *err);
/* Bytes 80 to 87, likewise. */
int meta_super_write_compatible(struct meta *m, uint64_t bits, struct qcow2_error *err);

/* ---- with barriers; the image is open for writing, the gate closed (super_switch.c) ---- */

/*
 * They put another first cluster in the place of the present one: a crash leaves the one or the
 * other, as far as the format lets it. Where a failure leaves unknown which of both it is the image
 * has failed.
 */

/*
 * The first cluster becomes the one in cluster, which an encoder has made for this image, whatever
 * lies behind its first sector (super_aside.c). m->header is the caller's to follow.
 */
int meta_super_switch(struct meta *m, const uint8_t *cluster, struct qcow2_error *err);
/* Whether that leaves the one or the other: old is what the first cluster has now. */
bool meta_super_can_switch(const struct meta *m, const uint8_t *old, const uint8_t *cluster);

/* Another bitmap directory, or none (NULL), and its autoclear bit. */
int meta_super_write_bitmaps(struct meta *m, const struct format_ext_bitmaps *bitmaps,
			     struct qcow2_error *err);

/*
 * Another backing file: *name, and *format as it is recorded with it; both NULL: none. On success m
 * owns the strings, and the caller those that were there before.
 */
int meta_super_write_backing(struct meta *m, char **name, char **format, struct qcow2_error *err);

#endif
