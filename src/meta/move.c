/* SPDX-License-Identifier: MIT */
/*
 * What tables that move (L1, refcount, snapshot table) have in common: rule 7. Who moves one writes
 * it, has a barrier, lets the header point to it, has another, and lets go of the old one.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "meta/engine.h"

int meta_write_words(struct meta *m, const uint64_t *words, uint64_t n, uint64_t host_off,
		     struct qcow2_error *err)
{
	cleanup_free uint8_t *bytes = mem_alloc(n, sizeof(*words));

	if (!bytes)
		return error_errno(err, -ENOMEM, "can't write a table of %llu entries",
				   (unsigned long long)n);
	for (uint64_t i = 0; i < n; i++)
		store_be64(bytes + i * sizeof(*words), words[i]);
	return storage_write(m->file, bytes, (size_t)(n * sizeof(*words)), host_off, err);
}

int meta_header_unknown(struct meta *m, int ret, const char *what)
{
	struct qcow2_error why;

	error_set(&why, ret, "it isn't known which %s the header points to", what);
	meta_fail(m, &why);
	return ret;
}

void meta_table_free(struct meta *m, enum meta_region region, uint64_t off, uint64_t len_bytes)
{
	uint64_t first = meta_cluster_of(m, off);
	uint64_t n = div_ceil(len_bytes, m->geometry.cluster_size);

	if (n == 0)
		return;
	meta_guard_remove(&m->engine->guard, region, off, len_bytes);
	/* nobody is in flight, or nobody looks at it: no need to wait */
	if (meta_refs_lower(m, first, n, NULL, NULL, NULL) == 0)
		meta_clusters_free(m, first, n, m->engine->pass_discard & QCOW2_PASS_OTHER);
}
