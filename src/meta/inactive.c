/* SPDX-License-Identifier: MIT */
/*
 * The L2 tables of snapshots, looked up where they are recorded: for who wants every write of data
 * held against them, too (QCOW2_OVERLAP_INACTIVE_L2). The guard doesn't keep them: there may be as
 * many as all snapshots have together, and most of them are the active disk's as well.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"
#include "meta/engine.h"

static int check_one(struct meta *m, const struct format_snapshot *snap, uint64_t host_off,
		     uint64_t len_bytes, struct qcow2_error *err)
{
	const uint64_t cs = m->geometry.cluster_size;
	cleanup_free uint8_t *table = NULL;
	size_t got;
	int ret =
		meta_read_table(m, snap->l1_off, (uint64_t)snap->l1_entries * 8, &table, &got, err);

	if (ret < 0)
		return ret;
	for (size_t i = 0; i + 8 <= got; i += 8) {
		uint64_t off = format_l1_decode(&m->geometry, load_be64(table + i)).l2_off;

		if (off != 0 && ranges_overlap(off, cs, host_off, len_bytes))
			return error_set_at(err, -EUCLEAN, QCOW2_NO_OFFSET, off,
					    "writing %" PRIu64 " bytes at host offset 0x%" PRIx64
					    " would overwrite the L2 table at 0x%" PRIx64
					    " of the snapshot \"%s\"",
					    len_bytes, host_off, off, snap->name);
	}
	return 0;
}

int meta_guard_check_inactive(struct meta *m, uint64_t host_off, uint64_t len_bytes,
			      struct qcow2_error *err)
{
	struct meta_snapshots snapshots;
	int ret = meta_load_snapshots(m, &snapshots, err);

	if (ret < 0)
		return ret;
	for (size_t i = 0; ret == 0 && i < snapshots.count; i++)
		ret = check_one(m, &snapshots.list[i], host_off, len_bytes, err);
	meta_snapshots_release(&snapshots);
	return ret;
}
