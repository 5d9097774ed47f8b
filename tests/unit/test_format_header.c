/* SPDX-License-Identifier: MIT */
/* Decoding the header: each field at its limits, the order of checks, what is kept. */
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
#include "format/header.h"

/* A disk of 1 GiB as in section 24.2, without extensions, from the tables of section 2. */
static uint8_t *make(uint32_t version, uint32_t cluster_bits)
{
	uint64_t cs = 1ull << cluster_bits;
	uint8_t *p = calloc(1, cs);

	assert_non_null(p);
	memcpy(p, "QFI\xfb", 4);
	store_be32(p + 4, version);
	store_be32(p + 20, cluster_bits);
	store_be64(p + 24, 1ull << 30);
	store_be32(p + 36, (uint32_t)((1ull << 30) / cs / (cs / 16)));
	store_be64(p + 40, 3 * cs);
	store_be64(p + 48, cs);
	store_be32(p + 56, 1);
	if (version >= 3) {
		store_be32(p + 96, 4);
		store_be32(p + 100, 112);
	}
	return p;
}

/* One field of a good header gets another value. */
struct patch {
	size_t at, len;
	uint64_t value;
	int code; /* 0: accepted */
	const char *sentence;
};

static void apply(uint8_t *p, const struct patch *patch)
{
	for (size_t i = 0; i < patch->len; i++)
		p[patch->at + i] = (uint8_t)(patch->value >> 8 * (patch->len - 1 - i));
}

static void run(uint32_t version, uint32_t cluster_bits, const struct patch *patches, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint8_t *p = make(version, cluster_bits);
		struct qcow2_error err = {0};
		struct format_header h;
		unsigned tolerated = 0xff;

		apply(p, &patches[i]);
		assert_int_equal(
			format_header_decode(&h, p, 1ull << cluster_bits, 0, &tolerated, &err),
			patches[i].code);
		assert_int_equal(tolerated, 0);
		assert_string_equal(err.message, patches[i].sentence ? patches[i].sentence : "");
		/* The place in the record is the one in the sentence. */
		if (strstr(err.message, "(at 0x"))
			assert_true(err.host_off ==
				    strtoull(strstr(err.message, "(at 0x") + 4, NULL, 16));
		format_header_release(&h);
		free(p);
	}
}

#define RUN(version, cluster_bits, patches)                                                        \
	run(version, cluster_bits, patches, sizeof(patches) / sizeof((patches)[0]))

static void magic_version_and_cluster_size_are_checked(void **state)
{
	static const struct patch patches[] = {
		{0, 4, 0x514649fa, -EINVAL,
		 "not a qcow2 image: the magic number is 0x514649fa, expected 0x514649fb"},
		{4, 4, 0, -ENOTSUP, "header field version (at 0x4) is 0, expected 2 or 3"},
		{4, 4, 1, -ENOTSUP, "header field version (at 0x4) is 1, expected 2 or 3"},
		{4, 4, 4, -ENOTSUP, "header field version (at 0x4) is 4, expected 2 or 3"},
		{4, 4, UINT32_MAX, -ENOTSUP,
		 "header field version (at 0x4) is 4294967295, expected 2 or 3"},
		{20, 4, 0, -EINVAL, "header field cluster_bits (at 0x14) is 0, expected 9 to 21"},
		{20, 4, 8, -EINVAL, "header field cluster_bits (at 0x14) is 8, expected 9 to 21"},
		{20, 4, 22, -EINVAL, "header field cluster_bits (at 0x14) is 22, expected 9 to 21"},
		{20, 4, 15, -EINVAL,
		 "header field cluster_bits (at 0x14) is 15, expected that of clusters of"
		 " 0x10000 bytes"},
	};

	(void)state;
	RUN(3, 16, patches);
}

static void peeking_tells_the_cluster_size(void **state)
{
	(void)state;
	for (uint32_t c = 8; c <= 22; c++) {
		uint8_t *p = make(3, c);
		uint8_t first[FORMAT_HEADER_PEEK] = {0};
		uint32_t bits = 0;

		memcpy(first, p, 112);
		assert_int_equal(format_header_peek(first, &bits, NULL),
				 c < 9 || c > 21 ? -EINVAL : 0);
		assert_int_equal(bits, c < 9 || c > 21 ? 0 : c);
		free(p);
	}
}

static void header_length_has_its_limits(void **state)
{
	static const struct patch patches[] = {
		{100, 4, 0, -EINVAL,
		 "header field header_length (at 0x64) is 0, expected at least 104"},
		{100, 4, 103, -EINVAL,
		 "header field header_length (at 0x64) is 103, expected at least 104"},
		{100, 4, 104, 0, NULL},
		{100, 4, 105, 0, NULL},
		{100, 4, 107, 0, NULL},
		{100, 4, 65536, 0, NULL},
		{100, 4, 65537, -EINVAL,
		 "header field header_length (at 0x64) is 65537, expected at most the cluster"
		 " size"},
		{100, 4, UINT32_MAX, -EINVAL,
		 "header field header_length (at 0x64) is 4294967295, expected at most the"
		 " cluster size"},
	};

	(void)state;
	RUN(3, 16, patches);
}

static void compression_type_and_its_bit_go_together(void **state)
{
	static const struct patch patches[] = {
		{104, 1, 1, -EINVAL,
		 "header field compression_type (at 0x68) is 1, then the compression type"
		 " incompatible feature bit must be set"},
		{72, 8, 8, -EINVAL,
		 "header field compression_type (at 0x68) is 0, then the compression type"
		 " incompatible feature bit must not be set"},
		{104, 1, 2, -ENOTSUP,
		 "header field compression_type (at 0x68) is 2, expected 0 (zlib) or 1 (zstd)"},
		{104, 1, 255, -ENOTSUP,
		 "header field compression_type (at 0x68) is 255, expected 0 (zlib) or 1"
		 " (zstd)"},
	};
	uint8_t *p = make(3, 16);
	struct format_header h;

	(void)state;
	RUN(3, 16, patches);
	p[79] = 8;
	p[104] = 1;
	assert_int_equal(format_header_decode(&h, p, 65536, 0, NULL, NULL), 0);
	assert_int_equal(h.compression_type, 1);
	format_header_release(&h);
	/* A header that ends before the field has type 0, whatever byte follows. */
	p[103] = 104;
	assert_int_equal(format_header_decode(&h, p, 65536, 0, NULL, NULL), -EINVAL);
	p[79] = 0;
	assert_int_equal(format_header_decode(&h, p, 65536, 0, NULL, NULL), 0);
	assert_int_equal(h.compression_type, 0);
	format_header_release(&h);
	free(p);
}

static void widths_have_their_limits(void **state)
{
	static const struct patch order[] = {
		{96, 4, 0, 0, NULL},
		{96, 4, 6, 0, NULL},
		{96, 4, 7, -EINVAL,
		 "header field refcount_order (at 0x60) is 7, expected at most 6"},
		{96, 4, UINT32_MAX, -EINVAL,
		 "header field refcount_order (at 0x60) is 4294967295, expected at most 6"},
	};
	static const struct patch extended[] = {{72, 8, 16, 0, NULL}};
	static const struct patch small[] = {
		{72, 8, 16, -EINVAL,
		 "header field cluster_bits (at 0x14) is 13, expected at least 14 with extended L2"
		 " entries"},
	};

	(void)state;
	RUN(3, 16, order);
	RUN(3, 14, extended);
	RUN(3, 13, small);
}

static void refcount_table_has_its_limits(void **state)
{
	static const struct patch patches[] = {
		{56, 4, 0, -EINVAL,
		 "header field refcount_table_clusters (at 0x38) is 0, expected at least 1"},
		{56, 4, 128, 0, NULL},
		{56, 4, 129, -EFBIG,
		 "header field refcount_table_clusters (at 0x38) is 129, expected a table of at"
		 " most 8 MiB"},
		{56, 4, UINT32_MAX, -EFBIG,
		 "header field refcount_table_clusters (at 0x38) is 4294967295, expected a table"
		 " of at most 8 MiB"},
		{48, 8, 0, 0, NULL},
		{48, 8, 0x8000, -EINVAL,
		 "header field refcount_table_offset (at 0x30) is 0x8000, expected a multiple of"
		 " the cluster size 0x10000"},
		{48, 8, 0x7ffffffffffe0000, 0, NULL},
		{48, 8, 0x7fffffffffff0000, -EINVAL,
		 "header field refcount_table_offset (at 0x30) is 0x7fffffffffff0000, a table of"
		 " 65536 bytes there would pass 2^63"},
		{48, 8, 0xffffffffffff0000, -EINVAL,
		 "header field refcount_table_offset (at 0x30) is 0xffffffffffff0000, a table of"
		 " 65536 bytes there would pass 2^63"},
		{48, 8, UINT64_MAX, -EINVAL,
		 "header field refcount_table_offset (at 0x30) is 0xffffffffffffffff, expected a"
		 " multiple of the cluster size 0x10000"},
	};
	static const struct patch small[] = {
		{56, 4, 16384, 0, NULL},
		{56, 4, 16385, -EFBIG,
		 "header field refcount_table_clusters (at 0x38) is 16385, expected a table of at"
		 " most 8 MiB"},
	};

	(void)state;
	RUN(3, 16, patches);
	RUN(2, 9, small);
}

static void snapshot_table_has_its_limits(void **state)
{
	static const struct patch patches[] = {
		{60, 4, 65536, 0, NULL},
		{60, 4, 65537, -EFBIG,
		 "header field nb_snapshots (at 0x3c) is 65537, expected at most 65536"},
		{60, 4, UINT32_MAX, -EFBIG,
		 "header field nb_snapshots (at 0x3c) is 4294967295, expected at most 65536"},
		{64, 8, 0x10000, 0, NULL},
		{64, 8, 0x10200, -EINVAL,
		 "header field snapshots_offset (at 0x40) is 0x10200, expected a multiple of the"
		 " cluster size 0x10000"},
		{64, 8, 0x7fffffffffff0000, 0, NULL},
		{64, 8, 0x8000000000000000, -EINVAL,
		 "header field snapshots_offset (at 0x40) is 0x8000000000000000, a table of 0"
		 " bytes there would pass 2^63"},
	};
	uint8_t *p = make(3, 9);
	struct format_header h;

	(void)state;
	RUN(3, 16, patches);
	/* 511 bytes are left before 2^63: twelve records of at least 40 bytes */
	store_be64(p + 64, 0x7ffffffffffffe00);
	store_be32(p + 60, 12);
	assert_int_equal(format_header_decode(&h, p, 512, 0, NULL, NULL), 0);
	format_header_release(&h);
	store_be32(p + 60, 13);
	assert_int_equal(format_header_decode(&h, p, 512, 0, NULL, NULL), -EINVAL);
	free(p);
}

static void l1_table_has_its_limits(void **state)
{
	static const struct patch patches[] = {
		{36, 4, 2, 0, NULL},
		{36, 4, 1, -EINVAL,
		 "L1 table is too small: header field l1_size (at 0x24) is 1, a disk of 1073741824"
		 " bytes needs 2"},
		{36, 4, 0, -EINVAL,
		 "L1 table is too small: header field l1_size (at 0x24) is 0, a disk of 1073741824"
		 " bytes needs 2"},
		{36, 4, 4194304, 0, NULL},
		{36, 4, 4194305, -EFBIG,
		 "header field l1_size (at 0x24) is 4194305, expected at most 4194304 entries"},
		{36, 4, UINT32_MAX, -EFBIG,
		 "header field l1_size (at 0x24) is 4294967295, expected at most 4194304"
		 " entries"},
		{40, 8, 0x30001, -EINVAL,
		 "header field l1_table_offset (at 0x28) is 0x30001, expected a multiple of the"
		 " cluster size 0x10000"},
		{40, 8, 0x7fffffffffff0000, 0, NULL},
		{40, 8, 0x8000000000000000, -EINVAL,
		 "header field l1_table_offset (at 0x28) is 0x8000000000000000, a table of 32"
		 " bytes there would pass 2^63"},
		{24, 8, 0, 0, NULL},
		{24, 8, 4ull << 29, 0, NULL},
		{24, 8, (4ull << 29) + 1, -EINVAL,
		 "L1 table is too small: header field l1_size (at 0x24) is 4, a disk of 2147483649"
		 " bytes needs 5"},
		{24, 8, (uint64_t)INT32_MAX << 29, -EINVAL,
		 "L1 table is too small: header field l1_size (at 0x24) is 4, a disk of"
		 " 1152921504069976064 bytes needs 2147483647"},
		{24, 8, ((uint64_t)INT32_MAX << 29) + 1, -EFBIG,
		 "header field size (at 0x18) is 1152921504069976065, expected less for this"
		 " cluster size: the image is too big"},
		{24, 8, UINT64_MAX, -EFBIG,
		 "header field size (at 0x18) is 18446744073709551615, expected less for this"
		 " cluster size: the image is too big"},
	};

	(void)state;
	RUN(2, 16, patches);
	RUN(3, 16, patches);
}

static void encryption_method_is_known(void **state)
{
	static const struct patch patches[] = {
		{32, 4, 1, 0, NULL},
		{32, 4, 2, 0, NULL},
		{32, 4, 3, -EINVAL,
		 "header field crypt_method (at 0x20) is 3, expected 0 (none), 1 (AES) or 2"
		 " (LUKS)"},
		{32, 4, UINT32_MAX, -EINVAL,
		 "header field crypt_method (at 0x20) is 4294967295, expected 0 (none), 1 (AES)"
		 " or 2 (LUKS)"},
	};

	(void)state;
	RUN(3, 16, patches);
}

static void harmless_bits_are_handed_out(void **state)
{
	uint8_t *p = make(3, 16);
	struct format_header h;

	(void)state;
	store_be64(p + 72, 7);
	store_be64(p + 80, 0x8000000000000001);
	store_be64(p + 88, 0x4000000000000003);
	assert_int_equal(format_header_decode(&h, p, 65536, 0, NULL, NULL), 0);
	assert_true(h.incompatible == 7 && h.compatible == 0x8000000000000001 &&
		    h.autoclear == 0x4000000000000003);
	format_header_release(&h);
	free(p);
}

static void version_2_has_none_of_the_later_fields(void **state)
{
	uint8_t *p = make(2, 16);
	struct format_geometry g;
	struct format_header h;

	(void)state;
	store_be32(p + 72, 0); /* an end marker, then what would be wrong in version 3 */
	memset(p + 80, 0xff, 200);
	assert_int_equal(format_header_decode(&h, p, 65536, 0, NULL, NULL), 0);
	assert_true(h.incompatible == 0 && h.compatible == 0 && h.autoclear == 0);
	assert_true(h.refcount_order == 4 && h.header_length == 72 && h.compression_type == 0);
	assert_null(h.unknown_fields);
	format_header_geometry(&h, &g);
	assert_true(g.version == 2 && g.refblock_entries == 32768 && !g.extended_l2);
	format_header_release(&h);
	free(p);
}

static void geometry_follows_the_feature_bits(void **state)
{
	uint8_t *p = make(3, 16);
	struct format_geometry g;
	struct format_header h;

	(void)state;
	store_be64(p + 72, 4 | 16);
	store_be32(p + 96, 1);
	assert_int_equal(format_header_decode(&h, p, 65536, 0, NULL, NULL), 0);
	format_header_geometry(&h, &g);
	assert_true(g.extended_l2 && g.data_file && g.l2_entries == 4096 && g.refcount_max == 3);
	format_header_release(&h);
	free(p);
}

static void bad_parts_may_be_let_pass(void **state)
{
	static const struct {
		struct patch patch;
		unsigned kind;
	} cases[] = {
		{{56, 4, 0, 0, NULL}, FORMAT_HEADER_ALLOW_REFTABLE},
		{{56, 4, UINT32_MAX, 0, NULL}, FORMAT_HEADER_ALLOW_REFTABLE},
		{{48, 8, 1, 0, NULL}, FORMAT_HEADER_ALLOW_REFTABLE},
		{{60, 4, 65537, 0, NULL}, FORMAT_HEADER_ALLOW_SNAPSHOTS},
		{{64, 8, 1, 0, NULL}, FORMAT_HEADER_ALLOW_SNAPSHOTS},
	};
	const unsigned all = FORMAT_HEADER_ALLOW_REFTABLE | FORMAT_HEADER_ALLOW_SNAPSHOTS |
			     FORMAT_HEADER_ALLOW_BITMAPS;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t *p = make(3, 16);
		struct qcow2_error err = {0};
		struct format_header h;
		unsigned tolerated;

		assert_int_equal(format_header_decode(&h, p, 65536, all, &tolerated, &err), 0);
		assert_int_equal(tolerated, 0);
		format_header_release(&h);
		apply(p, &cases[i].patch);
		assert_int_equal(format_header_decode(&h, p, 65536, all, &tolerated, &err), 0);
		assert_int_equal(tolerated, cases[i].kind);
		assert_string_equal(err.message, "");
		format_header_release(&h);
		assert_int_equal(format_header_decode(&h, p, 65536, cases[i].kind, NULL, NULL), 0);
		format_header_release(&h);
		assert_true(format_header_decode(&h, p, 65536, all & ~cases[i].kind, &tolerated,
						 NULL) < 0);
		assert_int_equal(tolerated, 0);
		free(p);
	}
}

/* Reads past the end of a short file give zeros: every prefix is a header or an error. */
static void a_file_cut_at_any_byte_is_judged(void **state)
{
	uint8_t *whole = make(3, 9);
	struct format_header h;

	(void)state;
	store_be64(whole + 24, 0);
	for (size_t len = 0; len <= 112; len++) {
		uint8_t *p = calloc(1, 512);

		assert_non_null(p);
		memcpy(p, whole, len);
		/* Byte 103 is the last one that isn't zero. */
		assert_int_equal(format_header_decode(&h, p, 512, 0, NULL, NULL) == 0, len >= 104);
		format_header_release(&h);
		free(p);
	}
	free(whole);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(magic_version_and_cluster_size_are_checked),
		cmocka_unit_test(peeking_tells_the_cluster_size),
		cmocka_unit_test(header_length_has_its_limits),
		cmocka_unit_test(compression_type_and_its_bit_go_together),
		cmocka_unit_test(widths_have_their_limits),
		cmocka_unit_test(refcount_table_has_its_limits),
		cmocka_unit_test(snapshot_table_has_its_limits),
		cmocka_unit_test(l1_table_has_its_limits),
		cmocka_unit_test(encryption_method_is_known),
		cmocka_unit_test(harmless_bits_are_handed_out),
		cmocka_unit_test(version_2_has_none_of_the_later_fields),
		cmocka_unit_test(geometry_follows_the_feature_bits),
		cmocka_unit_test(bad_parts_may_be_let_pass),
		cmocka_unit_test(a_file_cut_at_any_byte_is_judged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
