/* SPDX-License-Identifier: MIT */
/*
 * What format a file has, by its first 512 bytes and nothing else: not its name, not its size.
 * Anything that isn't qcow2 is raw, as QEMU has it (sections 5 and 23 of the format reference).
 * A guest can write any header into a raw disk, so what was probed must not be trusted with the
 * names inside it; that is the caller's policy.
 */
#include "disk/disk.h"

#include "base/bytes.h"
#include "format/layout.h"

#define PROBE_BYTES 512

int disk_probe(struct qcow2_storage store, const char **format, struct qcow2_error *err)
{
	uint8_t head[PROBE_BYTES];
	int code = storage_read(store, head, sizeof(head), 0, err);

	if (code != 0) {
		error_prefix(err, "can't find out the format");
		return code;
	}
	/* a version that nobody knows is qcow2 all the same: refused by name, not served as raw */
	*format = load_be32(head + LAYOUT_OFF_MAGIC) == LAYOUT_MAGIC &&
				  load_be32(head + LAYOUT_OFF_VERSION) >= 2
			  ? "qcow2"
			  : "raw";
	return 0;
}
