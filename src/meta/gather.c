/* SPDX-License-Identifier: MIT */
/*
 * Clusters that become free one by one, mostly in the order of the disk, are given away in that of
 * the file and in as long runs as there are: the host takes back a range of thousands of clusters
 * in the time of one. The gate is closed, so that nobody looks for clusters meanwhile.
 */
#include <stdlib.h>

#include "base/alloc.h"
#include "base/num.h"
#include "meta/engine.h"

#define GATHERED_MAX 65536 /* runs; 2 MiB of memory */

static int by_place(const void *a, const void *b)
{
	const struct meta_freed *x = a, *y = b;

	return (x->first > y->first) - (x->first < y->first);
}

/* Whether b is straight behind a. */
static bool follows(const struct meta_freed *a, const struct meta_freed *b)
{
	return b->first == a->first + a->nclusters && b->give_back == a->give_back;
}

void meta_gather(struct meta *m, struct meta_freed_list *list, const struct meta_freed *f)
{
	struct meta_freed *last = list->count > 0 ? &list->list[list->count - 1] : NULL;

	if (last && follows(last, f)) {
		last->nclusters += f->nclusters;
		return;
	}
	if (list->count == GATHERED_MAX)
		meta_gather_end(m, list);
	if (meta_freed_reserve(list, 1) == 0)
		list->list[list->count++] = *f;
	else /* it only takes longer */
		meta_clusters_free(m, f->first, f->nclusters, f->give_back);
}

/* In order of the file. */
static void sort(struct meta_freed_list *list)
{
	if (list->count > 0)
		qsort(list->list, list->count, sizeof(*list->list), by_place);
}

/* The run that begins with entry i of a sorted list; *n entries are in it. */
static struct meta_freed run_at(const struct meta_freed_list *list, size_t i, size_t *n)
{
	struct meta_freed run = list->list[i];

	for (*n = 1; i + *n < list->count && follows(&run, &list->list[i + *n]); ++*n)
		run.nclusters += list->list[i + *n].nclusters;
	return run;
}

void meta_gather_end(struct meta *m, struct meta_freed_list *list)
{
	sort(list);
	for (size_t i = 0, n; i < list->count; i += n) {
		struct meta_freed run = run_at(list, i, &n);

		meta_clusters_free(m, run.first, run.nclusters, run.give_back);
	}
	mem_free(list->list);
	*list = (struct meta_freed_list){0};
}

void meta_gather_give_back(struct meta *m, struct meta_freed_list *list)
{
	uint64_t size = 0;

	if (list->count > 0 && storage_size(m->file, &size, NULL) < 0)
		list->count = 0; /* advisory */
	sort(list);
	for (size_t i = 0, n; i < list->count; i += n) {
		struct meta_freed run = run_at(list, i, &n);
		uint64_t off = meta_off_of(m, run.first);

		if (off < size)
			(void)storage_discard(m->file, off,
					      min_u64(meta_off_of(m, run.nclusters), size - off),
					      NULL);
	}
	mem_free(list->list);
	*list = (struct meta_freed_list){0};
}
