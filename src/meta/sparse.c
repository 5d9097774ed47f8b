/* SPDX-License-Identifier: MIT */
/*
 * Whether an image looks preallocated: many of its clusters are counted as used and yet take no
 * space on the host. `map` then says where the clusters are holes, as the real tool does; the rule
 * was found by watching that one.
 *
 * The counts are read for this alone, once, and only for a file that could fulfil the rule. Damage
 * in them is no error here: the image then doesn't look preallocated.
 */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"
#include "format/refbits.h"
#include "meta/meta.h"

/*
 * A preallocated image has few free clusters. Who has many more than used ones isn't one, and isn't
 * read to its end: a stranger's sparse file could keep us at it for long.
 */
#define UNUSED_PER_USED 16
#define UNUSED_AT_LEAST (1u << 20)

/* Clusters of the file with a count, but no more than `enough`, through blocks that are read. */
static uint64_t count_used(const struct meta *m, const uint8_t *table, size_t table_len,
			   uint64_t nclusters, uint64_t enough)
{
	const struct format_geometry *g = &m->geometry;
	cleanup_free uint8_t *block = mem_alloc(g->cluster_size, 1);
	uint64_t budget = enough * UNUSED_PER_USED + UNUSED_AT_LEAST;
	uint64_t used = 0;

	for (uint64_t i = 0; block && used < enough && budget > 0; i++) {
		uint64_t first = i << g->refblock_bits;
		struct format_reftable_entry e;
		uint64_t n;

		if (first >= nclusters || (i + 1) * LAYOUT_REFTABLE_ENTRY_LEN > table_len)
			break;
		e = format_reftable_decode(g, load_be64(table + i * LAYOUT_REFTABLE_ENTRY_LEN));
		if (e.refblock_off == 0 || (e.faults & FORMAT_FAULT_FATAL))
			continue;
		if (storage_read(m->file, block, (size_t)g->cluster_size, e.refblock_off, NULL) < 0)
			break;
		n = min_u64(min_u64(g->refblock_entries, nclusters - first), budget);
		for (uint64_t k = 0; k < n; k++)
			used += format_refcount_get(block, g->refcount_order, k) != 0;
		budget -= n;
	}
	return used;
}

bool meta_looks_preallocated(const struct meta *m, uint64_t disk_bytes)
{
	const struct format_geometry *g = &m->geometry;
	uint64_t held = disk_bytes >> g->cluster_bits;
	uint64_t enough = max_u64(held + held / 9, held + 2);
	uint64_t nclusters = div_ceil(m->file_size, g->cluster_size);
	cleanup_free uint8_t *table = NULL;
	size_t len;

	if (nclusters < enough || (m->tolerated & FORMAT_HEADER_ALLOW_REFTABLE))
		return false;
	if (meta_read_table(m, m->header.reftable_off,
			    (uint64_t)m->header.reftable_clusters << g->cluster_bits, &table, &len,
			    NULL) < 0)
		return false;
	return count_used(m, table, len, nclusters, enough) >= enough;
}
