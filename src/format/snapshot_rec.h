/* SPDX-License-Identifier: MIT */
/* One record of the snapshot table: section 12.1. */
#ifndef FORMAT_SNAPSHOT_REC_H
#define FORMAT_SNAPSHOT_REC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct format_snapshot {
	uint64_t l1_off;
	uint32_t l1_entries;
	uint32_t date_sec, date_nsec;
	uint64_t vm_clock_nsec;
	uint64_t vm_state_bytes;
	bool has_disk_size; /* else the image's size holds */
	uint64_t disk_size;
	bool has_icount;
	uint64_t icount;
	uint32_t extra_len;	/* of the whole extra data, as read */
	uint8_t *unknown_extra; /* what follows the first LAYOUT_SNAP_EXTRA_KNOWN bytes. Owned */
	uint32_t unknown_extra_len;
	char *id, *name; /* owned, NUL-terminated */
	uint16_t id_len, name_len;
};

/*
 * Decodes the record at the start of buf; *used is its length with the padding to 8 (which may
 * pass len by up to 7 bytes for the last one). -EINVAL if it doesn't fit in len, -EFBIG if its
 * extra data are longer than LAYOUT_SNAPSHOT_EXTRA_MAX.
 */
int format_snapshot_decode(struct format_snapshot *s, const uint8_t *buf, size_t len, size_t *used,
			   struct qcow2_error *err);
void format_snapshot_release(struct format_snapshot *s);

/*
 * Length of the record that encode writes, without final padding: extra data are >= 24 bytes, so
 * that disk_size is always written. Where decode found none (has_disk_size is false) the caller
 * sets it, to the image's size, before.
 */
size_t format_snapshot_encoded_len(const struct format_snapshot *s);
void format_snapshot_encode(const struct format_snapshot *s, uint8_t *buf);

#endif
