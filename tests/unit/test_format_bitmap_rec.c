/* SPDX-License-Identifier: MIT */
/* Bitmap directory entries and bitmap table entries: section 13. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "format/bitmap_rec.h"
#include "format/entry.h"

/* The example of section 13.4: a bitmap "b0" of a 1 GiB disk. */
static const uint8_t example[32] = {
	0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 16, 0, 2, 0, 0, 0, 0, 'b', '0',
};

static struct format_geometry geometry(uint32_t cluster_bits)
{
	struct format_geometry g;

	format_geometry_init(&g, 3, cluster_bits, 4, false, false);
	return g;
}

/* Decodes from a buffer of exactly len bytes, so that a sanitizer sees what is read beyond. */
static int decode_at(struct format_bitmap *b, uint32_t cluster_bits, const uint8_t *bytes,
		     size_t len, size_t *used, struct qcow2_error *err)
{
	struct format_geometry g = geometry(cluster_bits);
	uint8_t *exact = malloc(len ? len : 1);
	int ret;

	assert_non_null(exact);
	memcpy(exact, bytes, len);
	ret = format_bitmap_decode(b, &g, exact, len, used, err);
	free(exact);
	return ret;
}

static void the_example_of_the_reference_decodes(void **state)
{
	struct format_bitmap b;
	uint8_t again[sizeof(example)];
	size_t used;

	(void)state;
	assert_int_equal(decode_at(&b, 16, example, sizeof(example), &used, NULL), 0);
	assert_int_equal(used, 32);
	assert_true(b.table_off == 0x40000 && b.table_entries == 1);
	assert_int_equal(b.flags, LAYOUT_BITMAP_FLAG_AUTO);
	assert_true(b.type == 1 && b.granularity_bits == 16 && b.extra_len == 0);
	assert_string_equal(b.name, "b0");
	assert_true(b.usable);
	assert_int_equal(format_bitmap_encoded_len(&b), 32);
	memset(again, 0xaa, sizeof(again));
	format_bitmap_encode(&b, again);
	assert_memory_equal(again, example, sizeof(example));
	format_bitmap_release(&b);
	assert_null(b.name);
}

static void entries_cut_short_are_refused_at_every_length(void **state)
{
	struct format_bitmap b;
	struct qcow2_error err;
	size_t used;

	(void)state;
	for (size_t len = 0; len < sizeof(example); len++) {
		assert_int_equal(decode_at(&b, 16, example, len, &used, &err), -EINVAL);
		assert_true(b.name == NULL && used == 0);
		assert_non_null(strstr(err.message,
				       len < 24 ? "entry cut short" : "entry of 32 bytes, only"));
	}
}

struct patch {
	size_t at, len;
	uint64_t value;
	uint32_t cluster_bits;
	const char *sentence; /* part of it; NULL: accepted */
};

static void patch_entry(uint8_t *buf, const struct patch *p)
{
	memset(buf, 0, 64);
	memcpy(buf, example, sizeof(example));
	for (size_t i = 0; i < p->len; i++)
		buf[p->at + i] = (uint8_t)(p->value >> 8 * (p->len - 1 - i));
}

static void tables_that_cannot_be_are_refused(void **state)
{
	static const struct patch patches[] = {
		{0, 8, 0, 16, "bitmap table offset 0x0,"},
		{0, 8, 0x40001, 16, "offset 0x40001, expected a nonzero multiple"},
		{0, 8, 0x48000, 16, "offset 0x48000"},
		{0, 8, 0x48000, 15, NULL},
		{0, 8, 0x10000, 16, NULL},
		{0, 8, 0xffffffffffff0000, 16, "offset 0xffffffffffff0000"},
		{0, 8, 0x7fffffffffff0000, 16, "offset 0x7fffffffffff0000"},
		{0, 8, 0x7fffffffdfff0000, 16, NULL},
		{8, 4, 0, 16, "bitmap table of 0 entries, expected 1 to 8192"},
		{8, 4, 8191, 16, NULL},
		{8, 4, 8192, 16, NULL},
		{8, 4, 8193, 16, "bitmap table of 8193 entries"},
		{8, 4, UINT32_MAX, 16, "bitmap table of 4294967295 entries"},
		{8, 4, 0x100000, 9, NULL},
		{8, 4, 0x100001, 9, "expected 1 to 1048576"},
		{8, 4, 2049, 18, "expected 1 to 2048"},
		{20, 4, UINT32_MAX, 16, "entry of 4294967328 bytes, only 64 are left"},
		{18, 2, 65535, 16, "entry of 65560 bytes, only 64 are left"},
		{18, 2, 41, 16, "entry of 72 bytes, only 64 are left"},
		{18, 2, 40, 16, NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(patches) / sizeof(patches[0]); i++) {
		struct qcow2_error err = {0};
		struct format_bitmap b;
		uint8_t buf[64];
		size_t used;
		int ret;

		patch_entry(buf, &patches[i]);
		ret = decode_at(&b, patches[i].cluster_bits, buf, sizeof(buf), &used, &err);
		assert_int_equal(ret, patches[i].sentence ? -EINVAL : 0);
		if (patches[i].sentence)
			assert_non_null(strstr(err.message, patches[i].sentence));
		format_bitmap_release(&b);
	}
}

static void what_we_cannot_use_is_kept_and_left_alone(void **state)
{
	static const struct {
		struct patch patch;
		uint32_t extra_len;
		bool usable;
	} cases[] = {
		{{12, 4, 0}, 0, true},	       {{12, 4, 7}, 0, true},	{{12, 4, 8}, 0, false},
		{{12, 4, 1u << 31}, 0, false}, {{16, 1, 0}, 0, false},	{{16, 1, 2}, 0, false},
		{{16, 1, 255}, 0, false},      {{17, 1, 8}, 0, false},	{{17, 1, 9}, 0, true},
		{{17, 1, 31}, 0, true},	       {{17, 1, 32}, 0, false}, {{17, 1, 255}, 0, false},
		{{18, 2, 0}, 0, false},	       {{20, 4, 5}, 5, false},	{{16, 8, 0}, 0, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct format_bitmap b;
		uint8_t buf[64], again[64] = {0};
		size_t used;

		patch_entry(buf, &cases[i].patch);
		assert_int_equal(decode_at(&b, 16, buf, sizeof(buf), &used, NULL), 0);
		assert_int_equal(b.usable, cases[i].usable);
		assert_int_equal(b.extra_len, cases[i].extra_len);
		assert_int_equal(format_bitmap_encoded_len(&b), used);
		format_bitmap_encode(&b, again);
		/* all but the padding, which an entry that became shorter leaves behind */
		assert_memory_equal(again, buf, 24u + b.extra_len + b.name_len);
		format_bitmap_release(&b);
	}
}

static void extra_data_are_usable_with_their_flag(void **state)
{
	struct patch p = {20, 4, 7, 16, NULL};
	struct format_bitmap b;
	uint8_t buf[64];
	size_t used;

	(void)state;
	patch_entry(buf, &p);
	buf[15] = LAYOUT_BITMAP_FLAG_EXTRA_COMPATIBLE;
	memcpy(buf + 24, "extra..b0", 9);
	assert_int_equal(decode_at(&b, 16, buf, sizeof(buf), &used, NULL), 0);
	assert_true(b.usable && used == 40);
	assert_memory_equal(b.extra, "extra..", 7);
	assert_string_equal(b.name, "b0");
	format_bitmap_release(&b);
}

static void names_of_more_than_1023_bytes_are_left_alone(void **state)
{
	(void)state;
	for (unsigned len = 1022; len <= 1025; len++) {
		uint8_t buf[2048];
		struct format_bitmap b;
		size_t used;

		memset(buf, 'n', sizeof(buf));
		memcpy(buf, example, 24);
		store_be16(buf + 18, (uint16_t)len);
		assert_int_equal(decode_at(&b, 16, buf, sizeof(buf), &used, NULL), 0);
		assert_int_equal(b.usable, len <= 1023);
		assert_int_equal(strlen(b.name), len);
		format_bitmap_release(&b);
	}
}

static void each_bit_of_a_table_entry_has_its_meaning(void **state)
{
	struct format_geometry g = geometry(16);
	struct format_bitmap_entry e;

	(void)state;
	for (uint32_t bit = 0; bit < 64; bit++) {
		bool offset = bit >= 9 && bit <= 55;
		unsigned faults = bit == 0   ? 0
				  : !offset  ? FORMAT_FAULT_RESERVED
				  : bit < 16 ? FORMAT_FAULT_UNALIGNED
					     : 0;

		e = format_bitmap_entry_decode(&g, 1ull << bit);
		assert_true(e.host_off == (offset ? 1ull << bit : 0));
		assert_int_equal(e.all_ones, bit == 0);
		assert_int_equal(e.faults, faults);
	}
	assert_int_equal(format_bitmap_entry_decode(&g, 0x50202).faults,
			 FORMAT_FAULT_RESERVED | FORMAT_FAULT_UNALIGNED);
	e = format_bitmap_entry_decode(&g, 0x50001);
	assert_true(e.host_off == 0x50000 && !e.all_ones && e.faults == FORMAT_FAULT_RESERVED);
}

static void table_length_follows_from_disk_and_granularity(void **state)
{
	struct format_geometry g = geometry(16), small = geometry(9);

	(void)state;
	assert_true(format_bitmap_table_entries(&g, 1ull << 30, 16) == 1);
	assert_true(format_bitmap_table_entries(&g, 0, 16) == 0);
	assert_true(format_bitmap_table_entries(&g, 1, 63) == 1);
	/* one table entry: 65536 bytes of 8 bits of 512 bytes of disk */
	assert_true(format_bitmap_table_entries(&g, 1ull << 28, 9) == 1);
	assert_true(format_bitmap_table_entries(&g, (1ull << 28) + 1, 9) == 2);
	assert_true(format_bitmap_table_entries(&small, 1ull << 30, 16) == 4);
	assert_true(format_bitmap_table_entries(&small, UINT64_MAX, 0) == 1ull << 52);
}

static int allowed;

static bool few_allocations(size_t size)
{
	(void)size;
	return allowed-- > 0;
}

static void short_memory_is_an_error_at_each_allocation(void **state)
{
	struct format_geometry g = geometry(16);
	struct patch p = {20, 4, 7, 16, NULL};
	struct format_bitmap b;
	struct qcow2_error err;
	uint8_t buf[64];
	size_t used;

	(void)state;
	patch_entry(buf, &p);
	for (int n = 0; n < 2; n++) {
		allowed = n;
		mem_fault_hook = few_allocations;
		assert_int_equal(format_bitmap_decode(&b, &g, buf, sizeof(buf), &used, &err),
				 -ENOMEM);
		mem_fault_hook = NULL;
		assert_string_equal(err.message,
				    "no memory for a bitmap directory entry of 40 bytes");
		assert_null(b.extra);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_example_of_the_reference_decodes),
		cmocka_unit_test(entries_cut_short_are_refused_at_every_length),
		cmocka_unit_test(tables_that_cannot_be_are_refused),
		cmocka_unit_test(what_we_cannot_use_is_kept_and_left_alone),
		cmocka_unit_test(extra_data_are_usable_with_their_flag),
		cmocka_unit_test(names_of_more_than_1023_bytes_are_left_alone),
		cmocka_unit_test(each_bit_of_a_table_entry_has_its_meaning),
		cmocka_unit_test(table_length_follows_from_disk_and_granularity),
		cmocka_unit_test(short_memory_is_an_error_at_each_allocation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
