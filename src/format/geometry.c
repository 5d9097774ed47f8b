/* SPDX-License-Identifier: MIT */
/*
 * Numbers that follow from cluster size, entry size and refcount width, computed once an image.
 * Checks nothing: header.c did.
 */
#include "format/geometry.h"

#include <assert.h>

#include "base/num.h"

void format_geometry_init(struct format_geometry *g, uint32_t version, uint32_t cluster_bits,
			  uint32_t refcount_order, bool extended_l2, bool data_file)
{
	uint32_t refcount_bits = 1u << refcount_order;

	assert(cluster_bits >= LAYOUT_CLUSTER_BITS_MIN && cluster_bits <= LAYOUT_CLUSTER_BITS_MAX);
	assert(!extended_l2 || cluster_bits >= LAYOUT_CLUSTER_BITS_MIN_EXTENDED);
	assert(refcount_order <= LAYOUT_REFCOUNT_ORDER_MAX);

	*g = (struct format_geometry){
		.version = version,
		.cluster_bits = cluster_bits,
		.cluster_size = 1ull << cluster_bits,
		.extended_l2 = extended_l2,
		.data_file = data_file,
		.l2_entry_len = extended_l2 ? LAYOUT_L2_ENTRY_LEN_EXTENDED : LAYOUT_L2_ENTRY_LEN,
		.subclusters = extended_l2 ? LAYOUT_SUBCLUSTERS : 1,
		.refcount_order = refcount_order,
		.refcount_max = UINT64_MAX >> (64 - refcount_bits),
		.refblock_bits = cluster_bits + 3 - refcount_order,
	};
	g->l2_bits = cluster_bits - log2_u64(g->l2_entry_len);
	g->l2_entries = 1u << g->l2_bits;
	g->subcluster_bits = cluster_bits - log2_u64(g->subclusters);
	g->refblock_entries = 1ull << g->refblock_bits;
}

uint64_t format_size_to_l1(const struct format_geometry *g, uint64_t size_bytes)
{
	return div_ceil(size_bytes, 1ull << (g->cluster_bits + g->l2_bits));
}

uint64_t format_max_size(const struct format_geometry *g)
{
	return (uint64_t)LAYOUT_L1_ENTRIES_MAX << (g->cluster_bits + g->l2_bits);
}

uint64_t format_vm_state_off(const struct format_geometry *g, uint64_t size_bytes)
{
	uint64_t off;

	/* A snapshot may claim any disk size: saturate rather than wrap around to offset 0. */
	if (!mul_fits(format_size_to_l1(g, size_bytes), 1ull << (g->cluster_bits + g->l2_bits),
		      &off))
		return UINT64_MAX;
	return off;
}
