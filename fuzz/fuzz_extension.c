/* SPDX-License-Identifier: MIT */
/*
 * Header extensions. Input: 3 bytes of what the header says, then the area. What decodes must
 * encode to what decodes to the same. The same bytes serve as a feature name table.
 */
#include "fuzz.h"

#include <errno.h>

#include "format/extension.h"
#include "format/layout.h"

#define MORE 1024 /* what encoding may add: the feature name table, an end marker */

static void check_same(const struct format_extensions *a, const struct format_extensions *b,
		       const struct format_ext_rules *rules)
{
	CHECK(fuzz_same_string(a->backing_format, b->backing_format));
	if (rules->data_file)
		CHECK(fuzz_same_string(a->data_file, b->data_file));
	CHECK(b->has_bitmaps == (a->has_bitmaps && a->bitmaps.nb_bitmaps > 0));
	if (b->has_bitmaps)
		CHECK(a->bitmaps.nb_bitmaps == b->bitmaps.nb_bitmaps &&
		      a->bitmaps.directory_size == b->bitmaps.directory_size &&
		      a->bitmaps.directory_off == b->bitmaps.directory_off);
	CHECK(b->has_crypto == (a->has_crypto && a->crypto.header_off != 0));
	if (b->has_crypto)
		CHECK(a->crypto.header_off == b->crypto.header_off &&
		      a->crypto.header_len == b->crypto.header_len);
	CHECK(a->nunknown == b->nunknown);
	for (size_t i = 0; i < a->nunknown; i++) {
		const struct format_ext_raw *x = &a->unknown[i], *y = &b->unknown[i];

		CHECK(x->type == y->type && x->len_bytes == y->len_bytes);
		CHECK(x->len_bytes == 0 || memcmp(x->data, y->data, x->len_bytes) == 0);
	}
}

static void round_trip(const struct format_extensions *ext, const struct format_ext_rules *rules,
		       size_t room)
{
	uint8_t *area = calloc(1, room);
	struct format_extensions again;
	struct qcow2_error err;
	uint64_t pos = 0, less = 0;
	bool bad;

	CHECK(area);
	CHECK(format_extensions_encode(ext, rules, area, &pos, room, &err) == 0);
	CHECK(pos % 8 == 0 && pos <= room);
	CHECK(format_extensions_decode(&again, rules, area, 0, pos, &bad, &err) == 0 && !bad);
	check_same(ext, &again, rules);
	/* With one byte less it doesn't fit. */
	memset(area, 0, room);
	CHECK(format_extensions_encode(ext, rules, area, &less, pos - 1, &err) == -ENOSPC);
	CHECK(less == 0);
	format_extensions_release(&again);
	free(area);
}

static void name_bits(const uint8_t *table, size_t len)
{
	char small[20], name[LAYOUT_FEATURE_NAME_TEXT + 1];
	uint64_t mask = 0xfffffffffffffff0, left;

	for (unsigned set = 0; set < 3; set++) {
		left = format_feature_names(table, len, set, mask, small, sizeof(small));
		CHECK((left & ~mask) == 0 && strlen(small) < sizeof(small));
		for (unsigned bit = 4; bit < 64; bit++)
			CHECK(!!format_feature_name(table, len, set, bit, name) ==
			      !(left >> bit & 1));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	unsigned flags = (unsigned)fuzz_take(&in, 1), start = (unsigned)fuzz_take(&in, 2);
	struct format_ext_rules rules = {
		.version = flags & 1 ? 3 : 2,
		.cluster_size = 512u << (flags >> 4),
		.crypt_method = flags & 2 ? LAYOUT_CRYPT_LUKS : LAYOUT_CRYPT_NONE,
		.data_file = flags & 1,
		.bitmaps_valid = flags & 4,
		.allow_bad_bitmaps = flags & 8,
	};
	struct format_extensions ext;
	struct qcow2_error err;
	uint8_t *area;
	bool bad;
	int ret;

	if (rules.cluster_size > 2u << 20)
		return 0;
	area = fuzz_copy(&in, in.len);
	ret = format_extensions_decode(&ext, &rules, area, start, in.len, &bad, &err);
	if (ret == 0)
		round_trip(&ext, &rules, in.len + MORE);
	else
		CHECK(ret == -EINVAL && err.code == ret && err.message[0] && !ext.unknown);
	format_extensions_release(&ext);
	name_bits(area, in.len);
	free(area);
	return 0;
}
