/* SPDX-License-Identifier: MIT */
/* What follows from cluster size, entry size and refcount width: section 7.1 and 9. */
#ifndef FORMAT_GEOMETRY_H
#define FORMAT_GEOMETRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "format/layout.h"

struct format_geometry {
	uint32_t version;
	uint32_t cluster_bits;
	uint64_t cluster_size;
	bool extended_l2;
	bool data_file;	       /* guest data lie in an external data file */
	uint32_t l2_entry_len; /* bytes: 8 or 16 */
	uint32_t l2_bits;      /* log2 of l2_entries */
	uint32_t l2_entries;   /* in one L2 table */
	uint32_t subclusters;  /* in a cluster: 1 or 32 */
	uint32_t subcluster_bits;
	uint32_t refcount_order;
	uint64_t refcount_max;
	uint32_t refblock_bits; /* log2 of refblock_entries */
	uint64_t refblock_entries;
};

/* All arguments have been checked: see format_header_decode. */
void format_geometry_init(struct format_geometry *g, uint32_t version, uint32_t cluster_bits,
			  uint32_t refcount_order, bool extended_l2, bool data_file);

static inline uint64_t format_l1_index(const struct format_geometry *g, uint64_t guest_off)
{
	return guest_off >> (g->cluster_bits + g->l2_bits);
}

static inline uint32_t format_l2_index(const struct format_geometry *g, uint64_t guest_off)
{
	return (uint32_t)(guest_off >> g->cluster_bits) & (g->l2_entries - 1);
}

/* L1 entries that a disk of that size needs. */
uint64_t format_size_to_l1(const struct format_geometry *g, uint64_t size_bytes);
/* The largest disk: section 7.1. */
uint64_t format_max_size(const struct format_geometry *g);
/* Guest offset at which the VM state of a disk of that size begins: section 12.4. */
uint64_t format_vm_state_off(const struct format_geometry *g, uint64_t size_bytes);

#endif
