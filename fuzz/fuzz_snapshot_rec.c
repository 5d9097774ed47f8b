/* SPDX-License-Identifier: MIT */
/*
 * The snapshot table. Input: records one behind the other. Each that decodes must encode to what
 * decodes to the same, with at least the fields that a rewrite adds.
 */
#include "fuzz.h"

#include <errno.h>

#include "base/num.h"
#include "format/snapshot_rec.h"

static void check_same(const struct format_snapshot *a, const struct format_snapshot *b)
{
	CHECK(a->l1_off == b->l1_off && a->l1_entries == b->l1_entries);
	CHECK(a->date_sec == b->date_sec && a->date_nsec == b->date_nsec);
	CHECK(a->vm_clock_nsec == b->vm_clock_nsec && a->vm_state_bytes == b->vm_state_bytes);
	CHECK(a->disk_size == b->disk_size && b->has_disk_size);
	CHECK(a->icount == b->icount && b->has_icount);
	CHECK(a->unknown_extra_len == b->unknown_extra_len);
	CHECK(a->unknown_extra_len == 0 ||
	      memcmp(a->unknown_extra, b->unknown_extra, a->unknown_extra_len) == 0);
	CHECK(a->id_len == b->id_len && memcmp(a->id, b->id, a->id_len + 1u) == 0);
	CHECK(a->name_len == b->name_len && memcmp(a->name, b->name, a->name_len + 1u) == 0);
}

static void round_trip(struct format_snapshot *s)
{
	size_t len, used;
	uint8_t *once, *twice;
	struct format_snapshot again;

	s->has_disk_size = true; /* what a writer fills in */
	len = format_snapshot_encoded_len(s);
	once = malloc(len);
	twice = malloc(len);
	CHECK(once && twice);
	format_snapshot_encode(s, once);
	CHECK(format_snapshot_decode(&again, once, len, &used, NULL) == 0);
	CHECK(used == align_up(len, 8) && format_snapshot_encoded_len(&again) == len);
	check_same(s, &again);
	format_snapshot_encode(&again, twice);
	CHECK(memcmp(once, twice, len) == 0);
	format_snapshot_release(&again);
	free(once);
	free(twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	struct format_snapshot s;
	struct qcow2_error err;
	size_t used;
	int ret;

	do {
		uint8_t *rest = fuzz_copy(&in, in.len);

		ret = format_snapshot_decode(&s, rest, in.len, &used, &err);
		if (ret == 0) {
			CHECK(used % 8 == 0 && used >= 40 && used < in.len + 8);
			round_trip(&s);
			used = used < in.len ? used : in.len;
			in.data += used;
			in.len -= used;
		} else {
			CHECK((ret == -EINVAL || ret == -EFBIG) && err.message[0] && !s.name);
		}
		format_snapshot_release(&s);
		free(rest);
	} while (ret == 0 && in.len > 0);
	return 0;
}
