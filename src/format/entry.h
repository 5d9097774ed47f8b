/* SPDX-License-Identifier: MIT */
/*
 * L1, L2 and refcount table entries. Decoding never fails: it says what the entry means and which
 * faults it has; whoever reads decides which of them matter (reading serves an entry with stray
 * reserved bits, a check reports it).
 */
#ifndef FORMAT_ENTRY_H
#define FORMAT_ENTRY_H

#include "format/geometry.h"

/* Faults; FATAL ones make an entry unusable for reading (section 7). */
#define FORMAT_FAULT_RESERVED 1u    /* reserved bits are set */
#define FORMAT_FAULT_UNALIGNED 2u   /* fatal: the offset isn't a multiple of the cluster size */
#define FORMAT_FAULT_ZERO_IN_V2 4u  /* fatal: zero flag in a version 2 image */
#define FORMAT_FAULT_SUBCLUSTERS 8u /* fatal: the subcluster bitmap contradicts itself */
#define FORMAT_FAULT_COMPRESSED_BITMAP 16u    /* compressed, with a nonzero subcluster bitmap */
#define FORMAT_FAULT_COMPRESSED_COPIED 32u    /* compressed, with COPIED */
#define FORMAT_FAULT_COMPRESSED_DATA_FILE 64u /* fatal: compressed, with an external data file */
#define FORMAT_FAULT_COMPRESSED_OFFSET 128u   /* fatal: bits above 55 of a compressed offset */
#define FORMAT_FAULT_DATA_FILE_OFFSET                                                              \
	256u /* fatal: with a data file, host and guest offset differ;                             \
		set by format_l2_check_data_file */
#define FORMAT_FAULT_FATAL                                                                         \
	(FORMAT_FAULT_UNALIGNED | FORMAT_FAULT_ZERO_IN_V2 | FORMAT_FAULT_SUBCLUSTERS |             \
	 FORMAT_FAULT_COMPRESSED_DATA_FILE | FORMAT_FAULT_COMPRESSED_OFFSET |                      \
	 FORMAT_FAULT_DATA_FILE_OFFSET)

/* What the first fault in the set is, as words for a sentence ("an unaligned cluster offset"). */
const char *format_fault_text(unsigned faults);

struct format_l1_entry {
	uint64_t l2_off; /* host offset of the L2 table; 0: none */
	bool copied;
	unsigned faults;
};

struct format_l1_entry format_l1_decode(const struct format_geometry *g, uint64_t raw);
uint64_t format_l1_encode(uint64_t l2_off, bool copied);

enum format_cluster {
	FORMAT_CLUSTER_UNALLOCATED,
	FORMAT_CLUSTER_ZERO_PLAIN,
	FORMAT_CLUSTER_ZERO_ALLOCATED, /* preallocated zero */
	FORMAT_CLUSTER_NORMAL,	       /* with extended L2: see the bitmaps for each subcluster */
	FORMAT_CLUSTER_COMPRESSED,
};

struct format_l2_entry {
	enum format_cluster kind;
	bool has_host_off; /* NORMAL, ZERO_ALLOCATED, COMPRESSED */
	bool copied;
	uint64_t host_off;	 /* of the cluster; for COMPRESSED of the first byte */
	uint64_t compressed_len; /* COMPRESSED: upper bound in bytes, to the end of the last sector
				  */
	uint32_t alloc_bitmap;	 /* extended L2: bit i, subcluster i has data in the host cluster */
	uint32_t zero_bitmap;	 /* extended L2: bit i, subcluster i reads as zeros */
	unsigned faults;
};

/*
 * raw is the first word, bitmap the second (0 without extended L2). With extended L2 a cluster
 * without host offset is UNALLOCATED or, with all 32 zero bits, ZERO_PLAIN; one with is NORMAL or,
 * with all 32 zero bits set, ZERO_ALLOCATED; the bitmaps tell in every case.
 */
struct format_l2_entry format_l2_decode(const struct format_geometry *g, uint64_t raw,
					uint64_t bitmap);

/*
 * Entries as an image has them that was written in order: clusters with nothing but data, side by
 * side in the file, their COPIED flags alike. table points to at least nentries (not 0) of them,
 * as stored. How many of the first are so; 0: the first one isn't such a cluster.
 */
struct format_straight {
	uint64_t host_off;
	bool copied;
};
uint32_t format_l2_straight(const struct format_geometry *g, const uint8_t *table,
			    uint32_t nentries, struct format_straight *run);

/* Adds FORMAT_FAULT_DATA_FILE_OFFSET if the entry is at the wrong place of an external data file.
 */
void format_l2_check_data_file(const struct format_geometry *g, struct format_l2_entry *e,
			       uint64_t guest_off);

/* The state of subcluster idx (0 without extended L2): UNALLOCATED, ZERO_*, NORMAL, COMPRESSED. */
enum format_cluster format_l2_subcluster(const struct format_geometry *g,
					 const struct format_l2_entry *e, uint32_t idx);

uint64_t format_l2_encode_normal(uint64_t host_off, bool copied);
/*
 * A whole table: n entries, copied, of clusters that lie side by side from host_off on, all with
 * that bitmap where L2 is extended; the others are empty.
 */
void format_l2_fill(const struct format_geometry *g, uint8_t *table, uint64_t host_off, uint32_t n,
		    uint64_t bitmap);
/* host_off 0: plain zero, else preallocated. Standard L2 only. */
uint64_t format_l2_encode_zero(uint64_t host_off, bool copied);
/* host_off + len must be below format_compressed_limit; len is the exact compressed length, 1..cs.
 */
uint64_t format_l2_encode_compressed(const struct format_geometry *g, uint64_t host_off,
				     uint64_t len);
/* Compressed data must end at or before this host offset: min(2^x, 2^56), section 8.1. */
uint64_t format_compressed_limit(const struct format_geometry *g);

static inline uint64_t format_subcluster_bitmap(uint32_t alloc, uint32_t zero)
{
	return (uint64_t)zero << 32 | alloc;
}

struct format_reftable_entry {
	uint64_t refblock_off; /* 0: none */
	unsigned faults;       /* RESERVED, UNALIGNED */
};

struct format_reftable_entry format_reftable_decode(const struct format_geometry *g, uint64_t raw);

#endif
