/* SPDX-License-Identifier: MIT */
/*
 * Records of the snapshot table. A record is taken apart as it is; whether its L1 table makes
 * sense is checked by whoever uses it, so that one bad snapshot doesn't hide the others.
 */
#include "format/snapshot_rec.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/layout.h"

static void decode_extra(struct format_snapshot *s, const uint8_t *extra)
{
	/* A field is there if the extra data reach its end: section 12.1. */
	if (s->extra_len >= LAYOUT_SNAP_EXTRA_VM_STATE + 8)
		s->vm_state_bytes = load_be64(extra + LAYOUT_SNAP_EXTRA_VM_STATE);
	if (s->extra_len >= LAYOUT_SNAP_EXTRA_DISK_SIZE + 8) {
		s->has_disk_size = true;
		s->disk_size = load_be64(extra + LAYOUT_SNAP_EXTRA_DISK_SIZE);
	}
	if (s->extra_len >= LAYOUT_SNAP_EXTRA_ICOUNT + 8) {
		s->has_icount = true;
		s->icount = load_be64(extra + LAYOUT_SNAP_EXTRA_ICOUNT);
	} else {
		s->icount = UINT64_MAX;
	}
}

/* The parts of variable length; extra, id and name lie within the buffer. */
static int copy_parts(struct format_snapshot *s, const uint8_t *extra)
{
	const uint8_t *id = extra + s->extra_len;

	if (s->extra_len > LAYOUT_SNAP_EXTRA_KNOWN) {
		s->unknown_extra_len = s->extra_len - LAYOUT_SNAP_EXTRA_KNOWN;
		s->unknown_extra = mem_alloc(s->unknown_extra_len, 1);
		if (!s->unknown_extra)
			return -ENOMEM;
		memcpy(s->unknown_extra, extra + LAYOUT_SNAP_EXTRA_KNOWN, s->unknown_extra_len);
	}
	s->id = mem_strndup(id, s->id_len);
	s->name = mem_strndup(id + s->id_len, s->name_len);
	return s->id && s->name ? 0 : -ENOMEM;
}

int format_snapshot_decode(struct format_snapshot *s, const uint8_t *buf, size_t len, size_t *used,
			   struct qcow2_error *err)
{
	size_t total;
	int ret;

	*s = (struct format_snapshot){0};
	*used = 0;
	if (len < LAYOUT_SNAP_FIXED_LEN)
		return error_set(err, -EINVAL,
				 "snapshot record cut short: %zu bytes left, expected at least %d",
				 len, LAYOUT_SNAP_FIXED_LEN);
	*s = (struct format_snapshot){
		.l1_off = load_be64(buf + LAYOUT_SNAP_OFF_L1_OFFSET),
		.l1_entries = load_be32(buf + LAYOUT_SNAP_OFF_L1_SIZE),
		.id_len = load_be16(buf + LAYOUT_SNAP_OFF_ID_SIZE),
		.name_len = load_be16(buf + LAYOUT_SNAP_OFF_NAME_SIZE),
		.date_sec = load_be32(buf + LAYOUT_SNAP_OFF_DATE_SEC),
		.date_nsec = load_be32(buf + LAYOUT_SNAP_OFF_DATE_NSEC),
		.vm_clock_nsec = load_be64(buf + LAYOUT_SNAP_OFF_VM_CLOCK),
		.vm_state_bytes = load_be32(buf + LAYOUT_SNAP_OFF_VM_STATE_SIZE),
		.extra_len = load_be32(buf + LAYOUT_SNAP_OFF_EXTRA_SIZE),
	};
	if (s->extra_len > LAYOUT_SNAPSHOT_EXTRA_MAX) {
		ret = error_set(err, -EFBIG,
				"snapshot record with %" PRIu32
				" bytes of extra data, expected at most %u",
				s->extra_len, LAYOUT_SNAPSHOT_EXTRA_MAX);
		goto fail;
	}
	total = LAYOUT_SNAP_FIXED_LEN + (size_t)s->extra_len + s->id_len + s->name_len;
	if (total > len) {
		ret = error_set(err, -EINVAL, "snapshot record of %zu bytes, only %zu are left",
				total, len);
		goto fail;
	}
	decode_extra(s, buf + LAYOUT_SNAP_FIXED_LEN);
	ret = copy_parts(s, buf + LAYOUT_SNAP_FIXED_LEN);
	if (ret < 0) {
		error_set(err, ret, "no memory for a snapshot record of %zu bytes", total);
		goto fail;
	}
	*used = (size_t)align_up(total, 8);
	return 0;
fail:
	format_snapshot_release(s);
	return ret;
}

void format_snapshot_release(struct format_snapshot *s)
{
	mem_free(s->unknown_extra);
	mem_free(s->id);
	mem_free(s->name);
	*s = (struct format_snapshot){0};
}

size_t format_snapshot_encoded_len(const struct format_snapshot *s)
{
	return LAYOUT_SNAP_FIXED_LEN + LAYOUT_SNAP_EXTRA_KNOWN + (size_t)s->unknown_extra_len +
	       s->id_len + s->name_len;
}

static uint8_t *put(uint8_t *to, const void *bytes, size_t len)
{
	if (len > 0)
		memcpy(to, bytes, len);
	return to + len;
}

void format_snapshot_encode(const struct format_snapshot *s, uint8_t *buf)
{
	uint8_t *extra = buf + LAYOUT_SNAP_FIXED_LEN, *p;

	assert(s->has_disk_size);
	assert(s->unknown_extra_len <= LAYOUT_SNAPSHOT_EXTRA_MAX - LAYOUT_SNAP_EXTRA_KNOWN);
	store_be64(buf + LAYOUT_SNAP_OFF_L1_OFFSET, s->l1_off);
	store_be32(buf + LAYOUT_SNAP_OFF_L1_SIZE, s->l1_entries);
	store_be16(buf + LAYOUT_SNAP_OFF_ID_SIZE, s->id_len);
	store_be16(buf + LAYOUT_SNAP_OFF_NAME_SIZE, s->name_len);
	store_be32(buf + LAYOUT_SNAP_OFF_DATE_SEC, s->date_sec);
	store_be32(buf + LAYOUT_SNAP_OFF_DATE_NSEC, s->date_nsec);
	store_be64(buf + LAYOUT_SNAP_OFF_VM_CLOCK, s->vm_clock_nsec);
	/* Old software must take a state that is too long for it for none. */
	store_be32(buf + LAYOUT_SNAP_OFF_VM_STATE_SIZE,
		   s->vm_state_bytes <= UINT32_MAX ? (uint32_t)s->vm_state_bytes : 0);
	store_be32(buf + LAYOUT_SNAP_OFF_EXTRA_SIZE,
		   LAYOUT_SNAP_EXTRA_KNOWN + s->unknown_extra_len);
	store_be64(extra + LAYOUT_SNAP_EXTRA_VM_STATE, s->vm_state_bytes);
	store_be64(extra + LAYOUT_SNAP_EXTRA_DISK_SIZE, s->disk_size);
	store_be64(extra + LAYOUT_SNAP_EXTRA_ICOUNT, s->has_icount ? s->icount : UINT64_MAX);
	p = put(extra + LAYOUT_SNAP_EXTRA_KNOWN, s->unknown_extra, s->unknown_extra_len);
	p = put(p, s->id, s->id_len);
	put(p, s->name, s->name_len);
}
