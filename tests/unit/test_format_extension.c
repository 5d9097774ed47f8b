/* SPDX-License-Identifier: MIT */
/* Header extensions, feature names and the backing file name: sections 4 and 5. */
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

#define BACKING_FORMAT 0xe2792acau
#define FEATURE_NAMES 0x6803f857u
#define BITMAPS 0x23852875u
#define CRYPTO 0x0537be77u
#define DATA_FILE 0x44415441u
#define CS 65536u

/* An image under construction: a good header, and where the next extension goes. */
struct image {
	uint8_t *p;
	size_t at;
};

static struct image make(uint32_t version)
{
	struct image im = {.p = calloc(1, CS), .at = version < 3 ? 72 : 112};

	assert_non_null(im.p);
	memcpy(im.p, "QFI\xfb", 4);
	store_be32(im.p + 4, version);
	store_be32(im.p + 20, 16);
	store_be64(im.p + 48, CS);
	store_be32(im.p + 56, 1);
	if (version >= 3) {
		store_be32(im.p + 96, 4);
		store_be32(im.p + 100, 112);
	}
	return im;
}

static void add(struct image *im, uint32_t type, const void *data, size_t len)
{
	store_be32(im->p + im->at, type);
	store_be32(im->p + im->at + 4, (uint32_t)len);
	memcpy(im->p + im->at + 8, data, len);
	im->at += 8 + (len + 7) / 8 * 8;
}

static void add_string(struct image *im, uint32_t type, const char *s)
{
	add(im, type, s, strlen(s));
}

static int decode(const struct image *im, struct format_header *h, struct qcow2_error *err)
{
	return format_header_decode(h, im->p, CS, 0, NULL, err);
}

static void accept(const struct image *im, struct format_header *h)
{
	struct qcow2_error err = {0};
	int ret = decode(im, h, &err);

	assert_string_equal(err.message, "");
	assert_int_equal(ret, 0);
}

static void refuse(const struct image *im, int code, const char *sentence)
{
	struct format_header h;
	struct qcow2_error err;

	assert_int_equal(decode(im, &h, &err), code);
	assert_string_equal(err.message, sentence);
	assert_true(err.host_off != QCOW2_NO_OFFSET);
	if (strstr(sentence, "(at 0x")) /* the place in the record is the one in the sentence */
		assert_true(err.host_off == strtoull(strstr(sentence, "(at 0x") + 4, NULL, 16));
	assert_null(h.ext.unknown);
}

static void done(struct image *im, struct format_header *h)
{
	if (h)
		format_header_release(h);
	free(im->p);
}

static void unknown_extensions_are_kept_in_order(void **state)
{
	(void)state;
	for (uint32_t version = 2; version <= 3; version++) {
		struct image im = make(version), again = make(version);
		struct format_header h;
		size_t first = im.at;

		add_string(&im, 0x11111111, "first");
		add_string(&im, 0x22222222, "");
		add_string(&im, 0x11111111, "a second of the first type");
		accept(&im, &h);
		assert_int_equal(h.ext.nunknown, 3);
		assert_true(h.ext.unknown[0].host_off == first);
		assert_memory_equal(h.ext.unknown[2].data, "a second", 8);
		assert_int_equal(format_header_encode(&h, again.p, CS, NULL), 0);
		/* Behind the feature name table, in the same order, then an end marker. */
		if (version >= 3)
			first += 8 + 384;
		assert_memory_equal(again.p + first, im.p + (version < 3 ? 72 : 112),
				    im.at - (version < 3 ? 72 : 112) + 8);
		done(&again, NULL);
		done(&im, &h);
	}
}

static void absurd_lengths_are_refused(void **state)
{
	static const struct {
		uint32_t type, len;
		const char *sentence;
	} cases[] = {
		{0x12345678, UINT32_MAX,
		 "header extension 0x12345678 at 0x70 too large: length 4294967295, room for"
		 " 65416"},
		{0x12345678, 65417,
		 "header extension 0x12345678 at 0x70 too large: length 65417, room for 65416"},
		{0, 65417,
		 "header extension 0x00000000 at 0x70 too large: length 65417, room for 65416"},
		{0x12345678, 65416, NULL},
		{0x12345678, 65409, NULL},
		{0, 65416, NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct image im = make(3);
		struct format_header h = {0};

		store_be32(im.p + im.at, cases[i].type);
		store_be32(im.p + im.at + 4, cases[i].len);
		if (cases[i].sentence)
			refuse(&im, -EINVAL, cases[i].sentence);
		else
			accept(&im, &h);
		done(&im, &h);
	}
}

static void the_area_may_end_without_a_marker(void **state)
{
	struct image im = make(3);
	struct format_header h;

	(void)state;
	add_string(&im, 0x12345678, "12345678");
	store_be64(im.p + 8, im.at); /* a backing name begins right there */
	store_be32(im.p + 16, 4);
	memcpy(im.p + im.at, "base", 4);
	accept(&im, &h);
	assert_int_equal(h.ext.nunknown, 1);
	assert_string_equal(h.backing_name, "base");
	format_header_release(&h);

	/* The data may end there, and their padding not fit. */
	store_be64(im.p + 8, im.at - 3);
	store_be32(im.p + 116, 5);
	accept(&im, &h);
	assert_int_equal(h.ext.unknown[0].len_bytes, 5);
	format_header_release(&h);

	/* But a frame must fit. */
	store_be64(im.p + 8, im.at + 7);
	refuse(&im, -EINVAL, "header extension at 0x80 passes the end of its area at 0x87");
	done(&im, NULL);
}

static void a_header_past_the_backing_name_has_no_extensions(void **state)
{
	struct image im = make(3);
	struct format_header h;

	(void)state;
	add_string(&im, 0x12345678, "not seen");
	store_be64(im.p + 8, 4); /* a name inside the header is nonsense, but readable */
	store_be32(im.p + 16, 3);
	im.p[5] = 'x';
	store_be32(im.p + 4, 3);
	accept(&im, &h);
	assert_int_equal(h.ext.nunknown, 0);
	assert_null(h.backing_name); /* its first byte is NUL */
	done(&im, &h);
}

static void a_header_as_long_as_the_cluster_has_no_room(void **state)
{
	struct image im = make(3);
	struct format_header h;
	struct qcow2_error err;

	(void)state;
	store_be32(im.p + 100, CS);
	accept(&im, &h);
	assert_int_equal(h.unknown_fields_len, CS - 105);
	assert_int_equal(format_header_encode(&h, im.p, CS, &err), -ENOSPC);
	assert_string_equal(
		err.message,
		"header extensions end at 0x10190, past the first cluster of 0x10000 bytes");
	done(&im, &h);
}

static void the_last_of_several_holds(void **state)
{
	struct image im = make(3);
	struct format_header h;

	(void)state;
	add_string(&im, BACKING_FORMAT, "raw");
	add_string(&im, DATA_FILE, "first");
	add_string(&im, BACKING_FORMAT, "qcow2");
	add_string(&im, DATA_FILE, "second");
	accept(&im, &h);
	assert_string_equal(h.ext.backing_format, "qcow2");
	assert_string_equal(h.ext.data_file, "second");
	format_header_release(&h);
	add_string(&im, BACKING_FORMAT, "");
	accept(&im, &h);
	assert_null(h.ext.backing_format);
	done(&im, &h);
}

static void strings_end_at_a_nul(void **state)
{
	struct image im = make(3);
	struct format_header h;

	(void)state;
	add(&im, BACKING_FORMAT, "ra\0w", 4);
	add(&im, DATA_FILE, "d\0ata", 5);
	accept(&im, &h);
	assert_string_equal(h.ext.backing_format, "ra");
	assert_string_equal(h.ext.data_file, "d");
	done(&im, &h);
}

static void backing_format_has_15_bytes_at_most(void **state)
{
	struct image im = make(3), longer = make(3);
	struct format_header h;

	(void)state;
	add_string(&im, BACKING_FORMAT, "123456789012345");
	accept(&im, &h);
	assert_string_equal(h.ext.backing_format, "123456789012345");
	done(&im, &h);
	add_string(&longer, BACKING_FORMAT, "1234567890123456");
	refuse(&longer, -EINVAL, "backing format name of 16 bytes at 0x70, expected at most 15");
	done(&longer, NULL);
}

static void encryption_pointer_goes_with_luks(void **state)
{
	static const struct {
		uint32_t method;
		uint64_t off;
		size_t len;
		const char *sentence;
	} cases[] = {
		{2, 0x40000, 16, NULL},
		{0, 0x40000, 16, "encryption header extension in an image without LUKS (at 0x70)"},
		{1, 0x40000, 16, "encryption header extension in an image without LUKS (at 0x70)"},
		{2, 0x40000, 15, "encryption header extension isn't 16 bytes long (at 0x70)"},
		{2, 0x40000, 17, "encryption header extension isn't 16 bytes long (at 0x70)"},
		{2, 0x40200, 16,
		 "encryption header offset 0x40200 isn't a multiple of the cluster size"
		 " 0x10000"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct image im = make(3);
		struct format_header h = {0};
		uint8_t data[24] = {0};

		store_be32(im.p + 32, cases[i].method);
		store_be64(data, cases[i].off);
		store_be64(data + 8, 2068480);
		add(&im, CRYPTO, data, cases[i].len);
		if (cases[i].sentence) {
			refuse(&im, -EINVAL, cases[i].sentence);
		} else {
			accept(&im, &h);
			assert_true(h.ext.has_crypto && h.ext.crypto.header_off == 0x40000 &&
				    h.ext.crypto.header_len == 2068480);
		}
		done(&im, &h);
	}
}

struct bitmaps_case {
	uint32_t nb, reserved;
	uint64_t size, off;
	const char *sentence; /* with the autoclear bit; NULL: accepted */
};

static void add_bitmaps(struct image *im, const struct bitmaps_case *c)
{
	uint8_t data[24];

	store_be32(data, c->nb);
	store_be32(data + 4, c->reserved);
	store_be64(data + 8, c->size);
	store_be64(data + 16, c->off);
	add(im, BITMAPS, data, sizeof(data));
}

static void bitmaps_have_their_limits(void **state)
{
	static const struct bitmaps_case cases[] = {
		{1, 0, 32, 0x50000, NULL},
		{65535, 0, 67107840, 0x50000, NULL},
		{0, 0, 32, 0x50000, "bitmaps extension with zero bitmaps (at 0x70)"},
		{65536, 0, 32, 0x50000, "65536 bitmaps, expected at most 65535"},
		{1, 1, 32, 0x50000, "reserved field of the bitmaps extension isn't zero (at 0x70)"},
		{1, 0, 0, 0x50000, "bitmap directory of zero bytes (at 0x70)"},
		{1, 0, 67107841, 0x50000,
		 "bitmap directory of 67107841 bytes, expected at most 67107840"},
		{1, 0, UINT64_MAX, 0x50000,
		 "bitmap directory of 18446744073709551615 bytes, expected at most 67107840"},
		{1, 0, 65535, 0x7fffffffffff0000, NULL},
		{1, 0, 65536, 0x7fffffffffff0000,
		 "bitmap directory offset 0x7fffffffffff0000, expected a multiple of the cluster"
		 " size 0x10000 below 2^63"},
		{1, 0, 32, 0x50200,
		 "bitmap directory offset 0x50200, expected a multiple of the cluster size 0x10000"
		 " below 2^63"},
		{1, 0, 32, 0xffffffffffff0000,
		 "bitmap directory offset 0xffffffffffff0000, expected a multiple of the cluster"
		 " size 0x10000 below 2^63"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const unsigned allow = FORMAT_HEADER_ALLOW_BITMAPS;
		struct image im = make(3);
		struct format_header h = {0};
		unsigned tolerated;

		add_bitmaps(&im, &cases[i]);
		accept(&im, &h); /* without the autoclear bit the contents don't count */
		assert_true(h.ext.has_bitmaps && h.ext.bitmaps.nb_bitmaps == cases[i].nb &&
			    h.ext.bitmaps.directory_size == cases[i].size &&
			    h.ext.bitmaps.directory_off == cases[i].off);
		format_header_release(&h);
		im.p[95] = 1;
		if (cases[i].sentence)
			refuse(&im, -EINVAL, cases[i].sentence);
		assert_int_equal(format_header_decode(&h, im.p, CS, allow, &tolerated, NULL), 0);
		assert_int_equal(h.ext.has_bitmaps, !cases[i].sentence);
		assert_int_equal(tolerated, cases[i].sentence ? allow : 0);
		done(&im, &h);
	}
}

static void a_bitmaps_extension_of_another_length_is_bad_in_any_case(void **state)
{
	(void)state;
	for (uint32_t version = 2; version <= 3; version++) {
		struct image im = make(version);
		struct format_header h;
		unsigned tolerated;

		add_string(&im, BITMAPS, "not 24 bytes long");
		refuse(&im, -EINVAL,
		       version < 3 ? "bitmaps extension isn't 24 bytes long (at 0x48)"
				   : "bitmaps extension isn't 24 bytes long (at 0x70)");
		assert_int_equal(format_header_decode(&h, im.p, CS, FORMAT_HEADER_ALLOW_BITMAPS,
						      &tolerated, NULL),
				 0);
		assert_int_equal(tolerated, FORMAT_HEADER_ALLOW_BITMAPS);
		assert_false(h.ext.has_bitmaps);
		done(&im, &h);
	}
}

static size_t add_name(uint8_t *table, size_t n, uint8_t set, uint8_t bit, const char *name)
{
	table[n * 48] = set;
	table[n * 48 + 1] = bit;
	memset(table + n * 48 + 2, 0, 46);
	memcpy(table + n * 48 + 2, name, strlen(name));
	return n + 1;
}

static void unknown_bits_are_named_from_the_image(void **state)
{
	struct image im = make(3);
	uint8_t table[48 * 8] = {0};
	size_t n = 0;

	(void)state;
	store_be64(im.p + 72, 0x000000f000000061);
	refuse(&im, -ENOTSUP, "unsupported incompatible features: unknown bits 0xf000000060");
	n = add_name(table, n, 0, 38, "thirty eight");
	n = add_name(table, n, 1, 6, "a compatible one");
	n = add_name(table, n, 0, 5, "five");
	n = add_name(table, n, 0, 5, "five again");
	n = add_name(table, n, 0, 0, "known");
	n = add_name(table, n, 0, 70, "no bit");
	n = add_name(table, n, 0, 36, "evil\n\x1b\x80~");
	add(&im, FEATURE_NAMES, table, n * 48);
	refuse(&im, -ENOTSUP,
	       "unsupported incompatible features: thirty eight, five, evil???~, unknown bits"
	       " 0xa000000040");
	store_be64(im.p + 72, 0x60); /* an extension that comes first and is wrong in itself */
	im.p[72 + 7] = 0x20;
	refuse(&im, -ENOTSUP, "unsupported incompatible features: five");
	done(&im, NULL);
}

static void names_fill_their_field_and_end_at_an_empty_one(void **state)
{
	const char *longest = "0123456789012345678901234567890123456789012345";
	uint8_t table[48 * 4 + 47] = {0};
	char buf[47];

	(void)state;
	add_name(table, 0, 2, 63, longest);
	add_name(table, 1, 1, 7, "seven");
	add_name(table, 2, 0, 9, "");
	add_name(table, 3, 0, 8, "behind the end");
	assert_string_equal(format_feature_name(table, sizeof(table), 2, 63, buf), longest);
	assert_string_equal(format_feature_name(table, sizeof(table), 1, 7, buf), "seven");
	assert_null(format_feature_name(table, sizeof(table), 0, 7, buf));
	assert_null(format_feature_name(table, sizeof(table), 0, 8, buf));
	assert_null(format_feature_name(table, 48 + 47, 1, 7, buf));
	assert_null(format_feature_name(NULL, 0, 0, 0, buf));
}

static void sixty_names_do_not_overrun_the_sentence(void **state)
{
	struct image im = make(3);
	uint8_t table[48 * 59];
	struct format_header h;
	struct qcow2_error err;

	(void)state;
	for (uint8_t i = 0; i < 59; i++)
		add_name(table, i, 0, i + 5, "a name that is made to be as long as can be");
	add(&im, FEATURE_NAMES, table, sizeof(table));
	memset(im.p + 72, 0xff, 8);
	im.p[79] = 0xe0;
	assert_int_equal(decode(&im, &h, &err), -ENOTSUP);
	assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
	done(&im, NULL);
}

static void a_name_table_is_found_behind_what_is_wrong(void **state)
{
	struct image im = make(3);
	uint8_t table[48];

	(void)state;
	add_string(&im, BACKING_FORMAT, "much longer than fifteen");
	add_name(table, 0, 0, 9, "nine");
	add(&im, FEATURE_NAMES, table, 48);
	store_be32(im.p + im.at, 0x12345678);
	store_be32(im.p + im.at + 4, UINT32_MAX);
	im.p[78] = 2;
	refuse(&im, -ENOTSUP, "unsupported incompatible features: nine");
	done(&im, NULL);
}

static void the_backing_name_has_its_limits(void **state)
{
	static const struct {
		uint64_t off;
		uint32_t len;
		const char *name, *sentence;
	} cases[] = {
		{0x200, 8, "base.img", NULL},
		{0x200, 5, "ba", NULL}, /* "ba\0.." */
		{0x200, 0, NULL, NULL},
		{0x200, 1023, "base.img", NULL},
		{0x200, 1024, NULL,
		 "backing file name too long: 1024 bytes at 0x200, expected at most 1023"},
		{0x200, UINT32_MAX, NULL,
		 "backing file name too long: 4294967295 bytes at 0x200, expected at most 1023"},
		{CS - 2, 2, "ok", NULL},
		{CS - 2, 3, NULL,
		 "backing file name too long: 3 bytes at 0xfffe, expected at most 2"},
		{CS, 0, NULL, NULL},
		{CS, 1, NULL, "backing file name too long: 1 bytes at 0x10000, expected at most 0"},
		{CS + 1, 0, NULL,
		 "header field backing_file_offset (at 0x8) is 0x10001, expected at most the"
		 " cluster size 0x10000"},
		{UINT64_MAX, 0, NULL,
		 "header field backing_file_offset (at 0x8) is 0xffffffffffffffff, expected at"
		 " most the cluster size 0x10000"},
		{0, UINT32_MAX, NULL, NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct image im = make(3);
		struct format_header h = {0};

		store_be64(im.p + 8, cases[i].off);
		store_be32(im.p + 16, cases[i].len);
		if (cases[i].name)
			memcpy(im.p + cases[i].off, cases[i].name, strlen(cases[i].name));
		if (cases[i].sentence) {
			refuse(&im, -EINVAL, cases[i].sentence);
		} else {
			accept(&im, &h);
			if (cases[i].name)
				assert_string_equal(h.backing_name, cases[i].name);
			else
				assert_null(h.backing_name);
		}
		done(&im, &h);
	}
}

static int allowed;

static bool few_allocations(size_t size)
{
	(void)size;
	return allowed-- > 0;
}

static void short_memory_is_an_error_at_each_allocation(void **state)
{
	struct image im = make(3);
	struct format_header h;
	struct qcow2_error err;
	int n, ret = -ENOMEM;

	(void)state;
	store_be32(im.p + 100, 120);
	im.at = 120;
	add_string(&im, BACKING_FORMAT, "raw");
	add_string(&im, DATA_FILE, "data");
	for (uint32_t i = 1; i <= 5; i++)
		add(&im, i, "unknown", 7);
	store_be64(im.p + 8, im.at);
	store_be32(im.p + 16, 4);
	memcpy(im.p + im.at, "base", 4);
	for (n = 0; n < 100 && ret == -ENOMEM; n++) {
		allowed = n;
		mem_fault_hook = few_allocations;
		ret = decode(&im, &h, &err);
		mem_fault_hook = NULL;
		if (ret == -ENOMEM)
			assert_non_null(strstr(err.message, "no memory for"));
	}
	assert_int_equal(ret, 0);
	assert_int_equal(n, 12); /* fields, two strings, five and two times their list, name */
	done(&im, &h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unknown_extensions_are_kept_in_order),
		cmocka_unit_test(absurd_lengths_are_refused),
		cmocka_unit_test(the_area_may_end_without_a_marker),
		cmocka_unit_test(a_header_past_the_backing_name_has_no_extensions),
		cmocka_unit_test(a_header_as_long_as_the_cluster_has_no_room),
		cmocka_unit_test(the_last_of_several_holds),
		cmocka_unit_test(strings_end_at_a_nul),
		cmocka_unit_test(backing_format_has_15_bytes_at_most),
		cmocka_unit_test(encryption_pointer_goes_with_luks),
		cmocka_unit_test(bitmaps_have_their_limits),
		cmocka_unit_test(a_bitmaps_extension_of_another_length_is_bad_in_any_case),
		cmocka_unit_test(unknown_bits_are_named_from_the_image),
		cmocka_unit_test(names_fill_their_field_and_end_at_an_empty_one),
		cmocka_unit_test(sixty_names_do_not_overrun_the_sentence),
		cmocka_unit_test(a_name_table_is_found_behind_what_is_wrong),
		cmocka_unit_test(the_backing_name_has_its_limits),
		cmocka_unit_test(short_memory_is_an_error_at_each_allocation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
