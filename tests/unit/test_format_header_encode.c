/* SPDX-License-Identifier: MIT */
/* The first cluster as QEMU writes it: sections 2.6, 24.2 and 24.3. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "format/header.h"

#define CLUSTER_MAX 65536

static uint8_t cluster[CLUSTER_MAX];

/* What a fresh image of 1 GiB has in its header. */
static struct format_header fresh(uint32_t version, uint32_t cluster_bits)
{
	return (struct format_header){
		.version = version,
		.cluster_bits = cluster_bits,
		.size_bytes = 1ull << 30,
		.l1_entries = 2,
		.l1_off = 3ull << cluster_bits,
		.reftable_off = 1ull << cluster_bits,
		.reftable_clusters = 1,
		.refcount_order = 4,
	};
}

static void encode(struct format_header *h)
{
	memset(cluster, 0xaa, sizeof(cluster));
	assert_int_equal(format_header_encode(h, cluster, 1ull << h->cluster_bits, NULL), 0);
}

static void assert_zeros(size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		assert_int_equal(cluster[i], 0);
}

static void assert_at(size_t at, const void *bytes, size_t len)
{
	assert_memory_equal(cluster + at, bytes, len);
}

static void a_default_image_has_the_header_of_section_24_2(void **state)
{
	static const uint8_t start[] = {
		0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3,    0, 0, 0, 0, 0,	 0, 0, 0, /* 0x00 */
		0,    0,    0,	  0,	0, 0, 0, 16,   0, 0, 0, 0, 0x40, 0, 0, 0, /* 0x10 */
		0,    0,    0,	  0,	0, 0, 0, 2,    0, 0, 0, 0, 0,	 3, 0, 0, /* 0x20 */
		0,    0,    0,	  0,	0, 1, 0, 0,    0, 0, 0, 1, 0,	 0, 0, 0, /* 0x30 */
		0,    0,    0,	  0,	0, 0, 0, 0,    0, 0, 0, 0, 0,	 0, 0, 0, /* 0x40 */
		0,    0,    0,	  0,	0, 0, 0, 0,    0, 0, 0, 0, 0,	 0, 0, 0, /* 0x50 */
		0,    0,    0,	  4,	0, 0, 0, 0x70, 0, 0, 0, 0, 0,	 0, 0, 0, /* 0x60 */
		0x68, 0x03, 0xf8, 0x57, 0, 0, 1, 0x80,				  /* 0x70 */
	};
	static const struct {
		size_t at;
		const char *text;
		size_t len;
	} names[] = {
		{0x078, "\0\0dirty bit", 11},
		{0x0a8, "\0\1corrupt bit", 13},
		{0x0d8, "\0\2external data file", 20},
		{0x108, "\0\3compression type", 18},
		{0x138, "\0\4extended L2 entries", 21},
		{0x168, "\1\0lazy refcounts", 16},
		{0x198, "\2\0bitmaps", 9},
		{0x1c8, "\2\1raw external data", 19},
	};
	struct format_header h = fresh(3, 16);

	(void)state;
	encode(&h);
	assert_at(0, start, sizeof(start));
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_at(names[i].at, names[i].text, names[i].len);
		assert_zeros(names[i].at + names[i].len, names[i].at + 48);
	}
	assert_zeros(0x1f8, CLUSTER_MAX);
	assert_int_equal(h.header_length, 112);
}

static void version_2_ends_at_72(void **state)
{
	struct format_header h = fresh(2, 16);

	(void)state;
	h.compatible = h.autoclear = 1; /* have no place there */
	encode(&h);
	assert_int_equal(cluster[7], 2);
	assert_zeros(64, CLUSTER_MAX);
	assert_int_equal(h.header_length, 72);
}

static void small_clusters_have_no_feature_names(void **state)
{
	(void)state;
	for (uint32_t c = 9; c <= 16; c++) {
		struct format_header h = fresh(3, c);

		encode(&h);
		if (c <= 12)
			assert_zeros(0x70, 1u << c);
		else
			assert_int_equal(load_be32(cluster + 0x70), 0x6803f857);
	}
}

static void a_backing_name_follows_the_extensions(void **state)
{
	char base[] = "base.img", raw[] = "raw", qcow2[] = "qcow2";
	struct format_header h = fresh(3, 16), v2 = fresh(2, 16);

	(void)state;
	h.backing_name = base;
	h.ext.backing_format = raw;
	encode(&h);
	assert_at(0x70, "\xe2\x79\x2a\xca\0\0\0\3raw\0\0\0\0\0\x68\x03\xf8\x57", 20);
	assert_zeros(0x208, 0x210);
	assert_at(0x210, "base.img", 8);
	assert_zeros(0x218, CLUSTER_MAX);
	assert_true(load_be64(cluster + 8) == 0x210 && h.backing_off == 0x210);
	assert_true(load_be32(cluster + 16) == 8 && h.backing_len == 8);

	v2.backing_name = base;
	v2.ext.backing_format = qcow2;
	encode(&v2);
	assert_at(0x48, "\xe2\x79\x2a\xca\0\0\0\5qcow2\0\0\0\0\0\0\0\0\0\0\0base.img", 32);
	assert_true(load_be64(cluster + 8) == 0x60);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_default_image_has_the_header_of_section_24_2),
		cmocka_unit_test(version_2_ends_at_72),
		cmocka_unit_test(small_clusters_have_no_feature_names),
		cmocka_unit_test(a_backing_name_follows_the_extensions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
