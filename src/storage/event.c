/* SPDX-License-Identifier: MIT */
/*
 * The named steps of an update of metadata. A store may listen, to inject faults at a step; trace
 * points show them from outside. Names are those that QEMU's blkdebug made known.
 */
#include <string.h>

#include "base/num.h"
#include "base/trace.h"
#include "storage/storage.h"

static const char *const names[] = {
#define NAME(event, name) [QCOW2_EVENT_##event] = name
	NAME(NONE, "none"),
	NAME(L1_UPDATE, "l1_update"),
	NAME(L1_GROW_ALLOC_TABLE, "l1_grow_alloc_table"),
	NAME(L1_GROW_WRITE_TABLE, "l1_grow_write_table"),
	NAME(L1_GROW_ACTIVATE_TABLE, "l1_grow_activate_table"),
	NAME(L2_LOAD, "l2_load"),
	NAME(L2_UPDATE, "l2_update"),
	NAME(L2_ALLOC_WRITE, "l2_alloc_write"),
	NAME(READ_AIO, "read_aio"),
	NAME(COW_READ, "cow_read"),
	NAME(WRITE_AIO, "write_aio"),
	NAME(COW_WRITE, "cow_write"),
	NAME(WRITE_COMPRESSED, "write_compressed"),
	NAME(REFTABLE_LOAD, "reftable_load"),
	NAME(REFTABLE_UPDATE, "reftable_update"),
	NAME(REFBLOCK_LOAD, "refblock_load"),
	NAME(REFBLOCK_UPDATE_PART, "refblock_update_part"),
	NAME(REFBLOCK_ALLOC, "refblock_alloc"),
	NAME(REFBLOCK_ALLOC_HOOKUP, "refblock_alloc_hookup"),
	NAME(REFBLOCK_ALLOC_WRITE, "refblock_alloc_write"),
	NAME(REFBLOCK_ALLOC_WRITE_BLOCKS, "refblock_alloc_write_blocks"),
	NAME(REFBLOCK_ALLOC_WRITE_TABLE, "refblock_alloc_write_table"),
	NAME(REFBLOCK_ALLOC_SWITCH_TABLE, "refblock_alloc_switch_table"),
	NAME(CLUSTER_ALLOC, "cluster_alloc"),
	NAME(CLUSTER_ALLOC_BYTES, "cluster_alloc_bytes"),
	NAME(CLUSTER_FREE, "cluster_free"),
	NAME(EMPTY_IMAGE_PREPARE, "empty_image_prepare"),
#undef NAME
};

_Static_assert(ARRAY_LEN(names) == QCOW2_EVENT_COUNT, "every event has a name");

const char *qcow2_event_name(unsigned event)
{
	return event < QCOW2_EVENT_COUNT ? names[event] : NULL;
}

unsigned qcow2_event_find(const char *name)
{
	for (unsigned i = 1; i < QCOW2_EVENT_COUNT; i++) {
		if (strcmp(names[i], name) == 0)
			return i;
	}
	return QCOW2_EVENT_NONE;
}

void storage_event(struct qcow2_storage st, unsigned event)
{
	TRACE2(event, st.self, event);
	if (st.ops->event)
		st.ops->event(st.self, event);
}
