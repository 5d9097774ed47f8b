/* SPDX-License-Identifier: MIT */
/*
 * Where the space of an image file goes, from what was counted. Data and compressed data are those
 * of the active disk; what only snapshots need is what is left when everything else is known. An
 * image that is damaged, with tables that several things use, gives figures that are about right.
 */
#include "base/num.h"
#include "check/run.h"

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

void check_usage_packed(struct check_run *run, uint64_t first, uint64_t n)
{
	/* One begins in the cluster in which the one before it ends. */
	run->packed_clusters += first + 1 == run->packed_end ? n - 1 : n;
	run->packed_end = first + n;
}

void check_usage(struct check_run *run)
{
	struct check_result *res = run->result;
	uint64_t cs = run->g.cluster_size, used = run->used_clusters, tables = run->table_clusters,
		 rest;

	tables += check_reftable_clusters(run);
	for (uint64_t i = 0; i < run->nl2; i++)
		tables += run->l2[i].active_refs > 0;
	res->metadata_bytes = min_u64(tables, used) * cs;
	if (!run->g.data_file)
		res->data_bytes = less(res->allocated_clusters, res->compressed_clusters) * cs;
	rest = less(used * cs, res->metadata_bytes + res->data_bytes);
	res->compressed_bytes = run->inactive_l1.n == 0 ? rest : run->packed_clusters * cs;
	res->compressed_bytes = min_u64(res->compressed_bytes, rest);
	res->snapshot_bytes = rest - res->compressed_bytes;
	res->leaked_bytes = min_u64(res->leaks, less(run->file_clusters, used)) * cs;
	res->free_bytes = less(run->file_size, used * cs + res->leaked_bytes);
}
