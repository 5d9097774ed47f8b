/* SPDX-License-Identifier: MIT */
/*
 * The bitmap directory. Input: a byte of geometry, a table entry, then directory entries one
 * behind the other. Each that decodes must encode to the same bytes, but for the padding.
 */
#include "fuzz.h"

#include <errno.h>

#include "format/bitmap_rec.h"

static void round_trip(const struct format_bitmap *b, const struct format_geometry *g,
		       const uint8_t *original, size_t used)
{
	size_t len = format_bitmap_encoded_len(b), again_used;
	uint8_t *bytes = malloc(len);
	struct format_bitmap again;

	CHECK(bytes && len == used);
	memset(bytes, 0xaa, len);
	format_bitmap_encode(b, bytes);
	CHECK(memcmp(bytes, original, (size_t)24 + b->extra_len + b->name_len) == 0);
	CHECK(format_bitmap_decode(&again, g, bytes, len, &again_used, NULL) == 0);
	CHECK(again_used == used && again.usable == b->usable);
	CHECK(memcmp(again.name, b->name, b->name_len + 1u) == 0);
	format_bitmap_release(&again);
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	uint32_t cluster_bits = 9 + (uint32_t)fuzz_take(&in, 1) % 13;
	uint64_t raw = fuzz_take(&in, 8);
	struct format_bitmap_entry e;
	struct format_geometry g;
	struct format_bitmap b;
	struct qcow2_error err;
	size_t used;
	int ret;

	format_geometry_init(&g, 3, cluster_bits, 4, false, false);
	e = format_bitmap_entry_decode(&g, raw);
	CHECK(!(e.all_ones && e.host_off));
	CHECK(e.faults || (e.host_off | e.all_ones) == raw);
	CHECK(format_bitmap_table_entries(&g, raw, (uint32_t)(raw >> 58)) <= 1ull << 52);
	do {
		uint8_t *rest = fuzz_copy(&in, in.len);

		ret = format_bitmap_decode(&b, &g, rest, in.len, &used, &err);
		if (ret == 0) {
			CHECK(used % 8 == 0 && used >= 24 && used <= in.len);
			CHECK(b.table_off % g.cluster_size == 0 && b.table_entries > 0);
			round_trip(&b, &g, rest, used);
			in.data += used;
			in.len -= used;
		} else {
			CHECK(ret == -EINVAL && err.message[0] && !b.name);
		}
		format_bitmap_release(&b);
		free(rest);
	} while (ret == 0 && in.len > 0);
	return 0;
}
