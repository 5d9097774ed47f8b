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

/* Section 5: 512 - 112 - 16 - 8 bytes are left for a name with a three-letter format. */
static void the_longest_name_of_a_small_cluster_is_376_bytes(void **state)
{
	char name[512] = {0}, raw[] = "raw";
	struct format_header h = fresh(3, 9);
	struct format_header back;
	struct qcow2_error err;

	(void)state;
	memset(name, 'n', 376);
	h.l1_entries = 32768;
	h.backing_name = name;
	h.ext.backing_format = raw;
	encode(&h);
	assert_true(h.backing_off == 136 && h.backing_len == 376);
	assert_int_equal(format_header_decode(&back, cluster, 512, 0, NULL, NULL), 0);
	assert_string_equal(back.backing_name, name);
	format_header_release(&back);
	name[376] = 'n';
	assert_int_equal(format_header_encode(&h, cluster, 512, &err), -ENOSPC);
	assert_string_equal(err.message, "backing file name ends at 0x201, past the first cluster"
					 " of 0x200 bytes");
	assert_true(h.backing_len == 376); /* as it was */
}

static void names_longer_than_qemu_reads_are_not_written(void **state)
{
	char name[1025] = {0}, format[] = "1234567890123456";
	struct format_header h = fresh(3, 16);
	struct qcow2_error err;

	(void)state;
	memset(name, 'n', 1023);
	h.backing_name = name;
	encode(&h);
	assert_int_equal(h.backing_len, 1023);
	name[1023] = 'n';
	assert_int_equal(format_header_encode(&h, cluster, CLUSTER_MAX, &err), -EINVAL);
	assert_string_equal(err.message, "backing file name of 1024 bytes, expected at most 1023");
	h.backing_name = NULL;
	h.ext.backing_format = format;
	assert_int_equal(format_header_encode(&h, cluster, CLUSTER_MAX, &err), -EINVAL);
	assert_string_equal(err.message, "backing format name of 16 bytes, expected at most 15");
	format[15] = '\0';
	encode(&h);
}

/* Bytes 105 to header_length belong to somebody; the length is rounded up to 8. */
static void unknown_fields_survive_a_rewrite(void **state)
{
	(void)state;
	for (uint32_t length = 104; length <= 300; length++) {
		uint32_t rounded = length <= 112 ? 112 : (length + 7) / 8 * 8;
		uint8_t *before = malloc(CLUSTER_MAX);
		struct format_header h = fresh(3, 16), back;

		assert_non_null(before);
		encode(&h);
		memset(cluster + 112, 0, CLUSTER_MAX - 112);
		store_be32(cluster + 100, length);
		for (uint32_t i = 105; i < length; i++)
			cluster[i] = (uint8_t)i;
		memcpy(before, cluster, CLUSTER_MAX);
		assert_int_equal(format_header_decode(&back, cluster, CLUSTER_MAX, 0, NULL, NULL),
				 0);
		encode(&back);
		assert_int_equal(back.header_length, rounded);
		assert_int_equal(load_be32(cluster + 100), rounded);
		assert_memory_equal(cluster, before, 100);
		assert_at(105, before + 105, rounded - 105);
		assert_int_equal(load_be32(cluster + rounded), 0x6803f857);
		format_header_release(&back);
		free(before);
	}
}

static void everything_at_once_comes_in_order(void **state)
{
	char base[] = "base", raw[] = "raw", data[] = "data.raw";
	struct format_ext_raw unknown[] = {
		{.type = 0xaaaaaaaa, .len_bytes = 3, .data = (const uint8_t *)"abc"},
		{.type = 0xbbbbbbbb, .len_bytes = 0},
	};
	struct format_header h = fresh(3, 16), back;
	uint8_t *once = malloc(CLUSTER_MAX);

	(void)state;
	assert_non_null(once);
	h.crypt_method = 2;
	h.incompatible = 4;
	h.autoclear = 1;
	h.backing_name = base;
	h.ext = (struct format_extensions){
		.backing_format = raw,
		.data_file = data,
		.has_crypto = true,
		.crypto = {.header_off = 0x40000, .header_len = 2068480},
		.has_bitmaps = true,
		.bitmaps = {.nb_bitmaps = 1, .directory_size = 32, .directory_off = 0x50000},
		.unknown = unknown,
		.nunknown = 2,
	};
	encode(&h);
	assert_at(0x70, "\xe2\x79\x2a\xca\0\0\0\3raw\0\0\0\0\0", 16);
	assert_at(0x80,
		  "DATA\0\0\0\x08"
		  "data.raw",
		  16);
	assert_at(0x90, "\x05\x37\xbe\x77\0\0\0\x10\0\0\0\0\0\4\0\0\0\0\0\0\0\x1f\x90\0", 24);
	assert_at(0xa8, "\x68\x03\xf8\x57\0\0\1\x80", 8);
	assert_at(0x230, "\x23\x85\x28\x75\0\0\0\x18\0\0\0\1\0\0\0\0", 16);
	assert_at(0x240, "\0\0\0\0\0\0\0\x20\0\0\0\0\0\5\0\0", 16);
	assert_at(0x250,
		  "\xaa\xaa\xaa\xaa\0\0\0\3"
		  "abc\0\0\0\0\0",
		  16);
	assert_at(0x260, "\xbb\xbb\xbb\xbb\0\0\0\0\0\0\0\0\0\0\0\0base", 20);
	assert_zeros(0x274, CLUSTER_MAX);
	memcpy(once, cluster, CLUSTER_MAX);

	/* and reads and writes as the same again */
	assert_int_equal(format_header_decode(&back, cluster, CLUSTER_MAX, 0, NULL, NULL), 0);
	assert_true(back.ext.has_feature_names && back.ext.has_bitmaps && back.ext.has_crypto);
	encode(&back);
	assert_memory_equal(cluster, once, CLUSTER_MAX);
	format_header_release(&back);
	free(once);
}

static void what_does_not_hold_is_left_out(void **state)
{
	char data[] = "data.raw";
	struct format_header h = fresh(3, 12);

	(void)state;
	h.ext.data_file = data;	  /* without the data file bit */
	h.ext.has_bitmaps = true; /* none of them */
	h.ext.has_crypto = true;  /* without LUKS */
	h.ext.crypto.header_off = 0x4000;
	encode(&h);
	assert_zeros(0x70, 4096);
	h.incompatible = 4;
	data[0] = '\0'; /* an empty name is recorded as it was read */
	encode(&h);
	assert_at(0x70, "DATA\0\0\0\0\0\0\0\0", 12);
}

static void extensions_that_do_not_fit_are_an_error(void **state)
{
	uint8_t big[392] = {0};
	struct format_ext_raw unknown = {.type = 1, .len_bytes = 384, .data = big};
	struct format_header h = fresh(3, 9);
	struct qcow2_error err;

	(void)state;
	h.ext.unknown = &unknown;
	h.ext.nunknown = 1;
	encode(&h);
	unknown.len_bytes = 385;
	assert_int_equal(format_header_encode(&h, cluster, 512, &err), -ENOSPC);
	assert_string_equal(err.message, "header extensions end at 0x208, past the first cluster of"
					 " 0x200 bytes");
	unknown.len_bytes = UINT32_MAX; /* nothing of it is touched */
	assert_int_equal(format_header_encode(&h, cluster, 512, &err), -ENOSPC);
	h.ext.nunknown = 0;
	h.unknown_fields = big;
	h.unknown_fields_len = 408;
	assert_int_equal(format_header_encode(&h, cluster, 512, &err), -ENOSPC);
	assert_string_equal(err.message,
			    "header ends at 0x208, past the first cluster of 0x200 bytes");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_default_image_has_the_header_of_section_24_2),
		cmocka_unit_test(version_2_ends_at_72),
		cmocka_unit_test(small_clusters_have_no_feature_names),
		cmocka_unit_test(a_backing_name_follows_the_extensions),
		cmocka_unit_test(the_longest_name_of_a_small_cluster_is_376_bytes),
		cmocka_unit_test(names_longer_than_qemu_reads_are_not_written),
		cmocka_unit_test(unknown_fields_survive_a_rewrite),
		cmocka_unit_test(everything_at_once_comes_in_order),
		cmocka_unit_test(what_does_not_hold_is_left_out),
		cmocka_unit_test(extensions_that_do_not_fit_are_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
