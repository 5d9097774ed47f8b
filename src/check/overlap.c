/* SPDX-License-Identifier: MIT */
/*
 * Tables that are something else as well. The refcounts may well agree with that, but the next
 * write to the one destroys the other. Every table but an L2 table is counted as a run and belongs
 * to one owner; an L2 table has as many references as L1 entries point to it.
 */
#include "base/num.h"
#include "check/run.h"

static int report_shared(struct check_run *run, enum check_finding finding,
			 const struct counts_span *span, uint64_t expected)
{
	struct check_report r = check_blank(finding);

	r.host_off = check_cluster_off(run, span->first);
	r.nclusters = span->nclusters;
	r.stored = expected;
	r.computed = span->count;
	return check_found(run, &r);
}

/* The refcount table and its blocks have findings of their own: stored.c. */
static bool in_reftable(const struct check_run *run, uint64_t cluster_idx)
{
	uint64_t first = run->header.reftable_off >> run->g.cluster_bits;

	return cluster_idx >= first && cluster_idx - first < check_reftable_clusters(run);
}

static int check_run_of_tables(struct check_run *run, uint64_t from, uint64_t end)
{
	struct counts_span span;
	int ret = 0;

	while (ret == 0 && counts_next(&run->counts, from, end, &span)) {
		if (span.count > 1 && !in_reftable(run, span.first))
			ret = report_shared(run, CHECK_TABLE_SHARED, &span, 1);
		from = span.first + span.nclusters;
	}
	return ret;
}

uint64_t check_tables_until(const struct check_run *run, uint64_t cluster_idx, uint64_t *until)
{
	uint64_t n = counts_level(&run->counts, cluster_idx, until);

	if (cluster_idx == 0) {
		*until = 1;
		n++;
	}
	/* The refcount table is a run, and its edges are among those. */
	return n > 0 && in_reftable(run, cluster_idx) ? n - 1 : n;
}

uint64_t check_tables_at(const struct check_run *run, uint64_t cluster_idx)
{
	uint64_t until;

	return check_tables_until(run, cluster_idx, &until);
}

bool check_tables_meet(const struct check_run *run, uint64_t first, uint64_t nclusters)
{
	const struct counts *c = &run->counts;
	uint64_t i = counts_edges_before(c, first);

	if ((i > 0 && c->edges[i - 1].level > 1) || first == 0)
		return true;
	for (; i < c->nedges && c->edges[i].cluster_idx < first + nclusters; i++)
		if (c->edges[i].level > 1)
			return true;
	return false;
}

static int note_repeated(struct check_run *run, const struct run_l2 *l2)
{
	struct check_report r = check_blank(CHECK_L2_REPEATED);

	r.host_off = l2->host_off;
	r.computed = l2->active_refs;
	return check_found(run, &r);
}

int check_overlaps(struct check_run *run)
{
	const struct counts_edge *edges = run->counts.edges;
	struct counts_span header = {0, 1, counts_get(&run->counts, 0)};
	int ret = 0;

	if (header.count != 1)
		ret = report_shared(run, CHECK_TABLE_SHARED, &header, 1);
	for (uint64_t i = 0; ret == 0 && i + 1 < run->counts.nedges; i++)
		if (edges[i].level > 0)
			ret = check_run_of_tables(run, max_u64(1, edges[i].cluster_idx),
						  edges[i + 1].cluster_idx);
	for (uint64_t i = 0; ret == 0 && i < run->nl2; i++) {
		struct counts_span table = {run->l2[i].host_off >> run->g.cluster_bits, 1, 0};

		table.count = counts_get(&run->counts, table.first);
		if (table.count != run->l2[i].refs)
			ret = report_shared(run, CHECK_L2_SHARED, &table, run->l2[i].refs);
		if (ret == 0 && run->l2[i].active_refs > 1)
			ret = note_repeated(run, &run->l2[i]);
	}
	return ret;
}
