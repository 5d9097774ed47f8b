/* SPDX-License-Identifier: MIT */
/* The LUKS header: section 14.2. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "format/crypto_rec.h"

#define SLOT(i) (208 + 48 * (i))

/* An AES-256-XTS header with slot 0 in use, written field by field from the table. */
static void make(uint8_t *buf)
{
	memset(buf, 0, 592);
	memcpy(buf, "LUKS\xba\xbe\0\1", 8);
	memcpy(buf + 8, "aes", 3);
	memcpy(buf + 40, "xts-plain64", 11);
	memcpy(buf + 72, "sha256", 6);
	store_be32(buf + 104, 4040);
	store_be32(buf + 108, 64);
	memset(buf + 112, 0xd1, 20);
	memset(buf + 132, 0x5a, 32);
	store_be32(buf + 164, 1000);
	memcpy(buf + 168, "01234567-89ab-cdef-0123-456789abcdef", 36);
	for (uint32_t i = 0; i < 8; i++) {
		store_be32(buf + SLOT(i), i == 0 ? 0x00ac71f3 : 0x0000dead);
		store_be32(buf + SLOT(i) + 4, i == 0 ? 1500 : 0);
		memset(buf + SLOT(i) + 8, i == 0 ? 0x17 : 0, 32);
		store_be32(buf + SLOT(i) + 40, 8 + 504 * i);
		store_be32(buf + SLOT(i) + 44, 4000);
	}
}

static void a_header_decodes_and_encodes_to_the_same_bytes(void **state)
{
	uint8_t buf[592], again[592];
	struct format_luks l;

	(void)state;
	make(buf);
	assert_int_equal(format_luks_decode(&l, buf, NULL), 0);
	assert_string_equal(l.cipher, "aes");
	assert_string_equal(l.mode, "xts-plain64");
	assert_string_equal(l.hash, "sha256");
	assert_string_equal(l.uuid, "01234567-89ab-cdef-0123-456789abcdef");
	assert_true(l.payload_sector == 4040 && l.key_len == 64 && l.digest_iterations == 1000);
	assert_true(l.digest[19] == 0xd1 && l.digest_salt[31] == 0x5a);
	assert_true(l.slots[0].active && l.slots[0].iterations == 1500);
	assert_true(l.slots[0].salt[31] == 0x17 && l.slots[0].material_sector == 8);
	assert_true(!l.slots[7].active && l.slots[7].material_sector == 3536);
	assert_true(l.slots[7].stripes == 4000);
	memset(again, 0xaa, sizeof(again));
	format_luks_encode(&l, again);
	assert_memory_equal(again, buf, sizeof(buf));
}

static void slots_take_whole_groups_of_eight_sectors(void **state)
{
	(void)state;
	assert_true(format_luks_slot_sectors(64) == 504);
	assert_true(format_luks_slot_sectors(32) == 256);
	assert_true(format_luks_slot_sectors(16) == 128);
	assert_true(format_luks_slot_sectors(UINT32_MAX) == 33554432000);
}

struct patch {
	size_t at, len;
	uint64_t value;
	const char *sentence; /* NULL: accepted */
};

static void run(const struct patch *p, int code)
{
	struct qcow2_error err = {0};
	struct format_luks l;
	uint8_t buf[592];

	make(buf);
	for (size_t i = 0; i < p->len; i++)
		buf[p->at + i] = (uint8_t)(p->value >> 8 * (p->len - 1 - i));
	assert_int_equal(format_luks_decode(&l, buf, &err), p->sentence ? code : 0);
	assert_string_equal(err.message, p->sentence ? p->sentence : "");
}

static void fields_out_of_range_are_refused(void **state)
{
	static const struct patch patches[] = {
		{0, 1, 'l', "LUKS header: no LUKS magic number"},
		{5, 1, 0xbf, "LUKS header: no LUKS magic number"},
		{104, 4, 7, "LUKS header: payload at sector 7, expected at least 8"},
		{104, 4, 4039,
		 "LUKS header: key material of slot 7 ends at sector 4040, past the payload's"
		 " 4039"},
		{104, 4, 4041, NULL},
		{104, 4, UINT32_MAX, NULL},
		{108, 4, 0, "LUKS header: key of 0 bytes, expected 1 to 64"},
		{108, 4, 63, NULL},
		{108, 4, 65, "LUKS header: key of 65 bytes, expected 1 to 64"},
		{108, 4, UINT32_MAX, "LUKS header: key of 4294967295 bytes, expected 1 to 64"},
		{164, 4, 0, "LUKS header: no digest iterations"},
		{164, 4, 1, NULL},
		{SLOT(0), 4, 0,
		 "LUKS header: key slot 0 has state 0x00000000, expected 0x00ac71f3 or"
		 " 0x0000dead"},
		{SLOT(0) + 4, 4, 0, "LUKS header: active key slot 0 has no iterations"},
		{SLOT(1), 4, 0x00ac71f3, "LUKS header: active key slot 1 has no iterations"},
		{SLOT(1), 8, 0x00ac71f300000001, NULL},
		{SLOT(3) + 44, 4, 3999, "LUKS header: key slot 3 has 3999 stripes, expected 4000"},
		{SLOT(3) + 44, 4, 4001, "LUKS header: key slot 3 has 4001 stripes, expected 4000"},
		{SLOT(0) + 40, 4, 7,
		 "LUKS header: key material of slot 0 begins at sector 7, expected at least 8"},
		{SLOT(1) + 40, 4, 511, "LUKS header: key material of slots 0 and 1 overlaps"},
		{SLOT(2) + 40, 4, 1017, "LUKS header: key material of slots 2 and 3 overlaps"},
		{SLOT(7) + 40, 4, 3537,
		 "LUKS header: key material of slot 7 ends at sector 4041, past the payload's"
		 " 4040"},
		{SLOT(7) + 40, 4, UINT32_MAX,
		 "LUKS header: key material of slot 7 ends at sector 4294967799, past the"
		 " payload's 4040"},
	};
	static const struct patch version = {6, 2, 2, "LUKS header: version 2, expected 1"};

	(void)state;
	for (size_t i = 0; i < sizeof(patches) / sizeof(patches[0]); i++)
		run(&patches[i], -EINVAL);
	run(&version, -ENOTSUP);
}

static void slots_may_lie_in_any_order(void **state)
{
	uint8_t buf[592], again[592];
	struct format_luks l;

	(void)state;
	make(buf);
	for (uint32_t i = 0; i < 8; i++)
		store_be32(buf + SLOT(i) + 40, 8 + 504 * (7 - i));
	assert_int_equal(format_luks_decode(&l, buf, NULL), 0);
	format_luks_encode(&l, again);
	assert_memory_equal(again, buf, sizeof(buf));
	store_be32(buf + SLOT(7) + 40, 9); /* into slot 6, which begins at 512 */
	assert_int_equal(format_luks_decode(&l, buf, NULL), -EINVAL);
}

static void names_must_be_terminated(void **state)
{
	static const struct {
		size_t at;
		const char *what;
	} names[] = {{8, "cipher name"}, {40, "cipher mode"}, {72, "hash name"}};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct qcow2_error err;
		struct format_luks l;
		uint8_t buf[592];

		make(buf);
		memset(buf + names[i].at, 'x', 32);
		assert_int_equal(format_luks_decode(&l, buf, &err), -EINVAL);
		assert_non_null(strstr(err.message, names[i].what));
		assert_non_null(strstr(err.message, "isn't terminated"));
		buf[names[i].at + 31] = 0;
		assert_int_equal(format_luks_decode(&l, buf, &err), 0);
	}
}

static void a_uuid_may_fill_its_field(void **state)
{
	uint8_t buf[592], again[592];
	struct format_luks l;

	(void)state;
	make(buf);
	memset(buf + 168, 'u', 40);
	assert_int_equal(format_luks_decode(&l, buf, NULL), 0);
	assert_int_equal(strlen(l.uuid), 40);
	format_luks_encode(&l, again);
	assert_memory_equal(again, buf, sizeof(buf));
}

static void bytes_behind_a_name_do_not_matter(void **state)
{
	struct format_luks a, b;
	uint8_t buf[592];

	(void)state;
	make(buf);
	assert_int_equal(format_luks_decode(&a, buf, NULL), 0);
	memset(buf + 8 + 4, 'x', 28);
	memset(buf + 168 + 37, 'x', 3);
	assert_int_equal(format_luks_decode(&b, buf, NULL), 0);
	assert_memory_equal(&a, &b, sizeof(a));
}

static void a_mode_is_taken_apart(void **state)
{
	static const struct {
		const char *stored;
		uint32_t key_len;
		const char *cipher, *mode, *ivgen, *hash;
	} cases[] = {
		{"xts-plain64", 64, "aes-256", "xts", "plain64", ""},
		{"xts-plain", 32, "aes-128", "xts", "plain", ""},
		{"cbc-essiv:sha256", 32, "aes-256", "cbc", "essiv", "sha256"},
		{"cbc-plain:sha256", 16, "aes-128", "cbc", "plain", ""},
		{"a-b-c", 24, "aes-192", "a", "b-c", ""},
		{"c-essiv:6789012345678901234567a", 1, "aes-8", "c", "essiv",
		 "6789012345678901234567a"},
	};
	struct format_luks_spec spec;
	struct format_luks l = {.cipher = "aes"};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memcpy(l.mode, cases[i].stored, strlen(cases[i].stored) + 1);
		l.key_len = cases[i].key_len;
		memset(&spec, 'x', sizeof(spec));
		assert_int_equal(format_luks_spec(&spec, &l, NULL), 0);
		assert_string_equal(spec.cipher, cases[i].cipher);
		assert_string_equal(spec.mode, cases[i].mode);
		assert_string_equal(spec.ivgen, cases[i].ivgen);
		assert_string_equal(spec.ivgen_hash, cases[i].hash);
	}
}

static void the_longest_names_have_room(void **state)
{
	struct format_luks l = {.key_len = 64};
	struct format_luks_spec spec;

	(void)state;
	memset(l.cipher, 'c', 31);
	memset(l.mode, 'm', 31);
	l.mode[29] = '-';
	assert_int_equal(format_luks_spec(&spec, &l, NULL), 0);
	assert_int_equal(strlen(spec.cipher), 31 + strlen("-512"));
	assert_int_equal(strlen(spec.mode), 29);
	assert_string_equal(spec.ivgen, "m");
}

static void a_mode_without_its_parts_is_refused(void **state)
{
	static const char *const none[] = {"", "xts", "-plain64", "xts-", "xts-:sha256"};
	static const char *const no_hash[] = {"cbc-essiv", "cbc-essiv:"};
	struct format_luks l = {.cipher = "aes", .key_len = 64};
	struct format_luks_spec spec;
	struct qcow2_error err;

	(void)state;
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
		memcpy(l.mode, none[i], strlen(none[i]) + 1);
		assert_int_equal(format_luks_spec(&spec, &l, &err), -EINVAL);
		assert_non_null(strstr(err.message, "expected a mode and an IV generator like "
						    "\"xts-plain64\""));
	}
	for (size_t i = 0; i < sizeof(no_hash) / sizeof(no_hash[0]); i++) {
		memcpy(l.mode, no_hash[i], strlen(no_hash[i]) + 1);
		assert_int_equal(format_luks_spec(&spec, &l, &err), -EINVAL);
		assert_non_null(strstr(err.message, "has no hash, expected one like in "
						    "\"cbc-essiv:sha256\""));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_header_decodes_and_encodes_to_the_same_bytes),
		cmocka_unit_test(slots_take_whole_groups_of_eight_sectors),
		cmocka_unit_test(fields_out_of_range_are_refused),
		cmocka_unit_test(slots_may_lie_in_any_order),
		cmocka_unit_test(names_must_be_terminated),
		cmocka_unit_test(a_uuid_may_fill_its_field),
		cmocka_unit_test(bytes_behind_a_name_do_not_matter),
		cmocka_unit_test(a_mode_is_taken_apart),
		cmocka_unit_test(the_longest_names_have_room),
		cmocka_unit_test(a_mode_without_its_parts_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
