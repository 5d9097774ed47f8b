/* SPDX-License-Identifier: MIT */
/* Records of the snapshot table: section 12.1. */
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
#include "format/layout.h"
#include "format/snapshot_rec.h"

/* The example of section 12.1: one snapshot "snapA" of a 1 GiB disk. */
static const uint8_t example[70] = {
	0,    0,    0,	  0,	0,    7,    0, 0, 0, 0, 0,   2,	  0,   1,   0,	 5,   0x6b, 0x03,
	0x11, 0xff, 0x11, 0x17, 0xe2, 0x90, 0, 0, 0, 0, 0,   0,	  0,   0,   0,	 0,   0,    0,
	0,    0,    0,	  24,	0,    0,    0, 0, 0, 0, 0,   0,	  0,   0,   0,	 0,   0x40, 0,
	0,    0,    0,	  0,	0,    0,    0, 0, 0, 0, '1', 's', 'n', 'a', 'p', 'A',
};

/* Decodes from a buffer of exactly len bytes, so that a sanitizer sees what is read beyond. */
static int decode(struct format_snapshot *s, const uint8_t *bytes, size_t len, size_t *used,
		  struct qcow2_error *err)
{
	uint8_t *exact = malloc(len ? len : 1);
	int ret;

	assert_non_null(exact);
	memcpy(exact, bytes, len);
	ret = format_snapshot_decode(s, exact, len, used, err);
	free(exact);
	return ret;
}

static size_t make(uint8_t *buf, uint32_t extra_len, uint16_t id_len, uint16_t name_len)
{
	memset(buf, 0, LAYOUT_SNAP_FIXED_LEN);
	store_be16(buf + 12, id_len);
	store_be16(buf + 14, name_len);
	store_be32(buf + 32, 0x1234);
	store_be32(buf + 36, extra_len);
	for (uint32_t i = 0; i < extra_len + id_len + name_len; i++)
		buf[40 + i] = (uint8_t)(i % 251 + 1);
	return 40u + extra_len + id_len + name_len;
}

static void the_example_of_the_reference_decodes(void **state)
{
	struct format_snapshot s;
	struct qcow2_error err;
	uint8_t again[sizeof(example)];
	size_t used;

	(void)state;
	assert_int_equal(decode(&s, example, sizeof(example), &used, &err), 0);
	assert_int_equal(used, 72); /* the padding passes the end of the table */
	assert_true(s.l1_off == 0x70000 && s.l1_entries == 2);
	assert_true(s.date_sec == 0x6b0311ff && s.date_nsec == 0x1117e290);
	assert_true(s.vm_clock_nsec == 0 && s.vm_state_bytes == 0);
	assert_true(s.has_disk_size && s.disk_size == 1ull << 30);
	assert_true(s.has_icount && s.icount == 0);
	assert_string_equal(s.id, "1");
	assert_string_equal(s.name, "snapA");
	assert_int_equal(format_snapshot_encoded_len(&s), sizeof(example));
	format_snapshot_encode(&s, again);
	assert_memory_equal(again, example, sizeof(example));
	format_snapshot_release(&s);
	assert_null(s.id);
}

static void records_cut_short_are_refused_at_every_length(void **state)
{
	struct format_snapshot s;
	struct qcow2_error err;
	size_t used;

	(void)state;
	for (size_t len = 0; len < sizeof(example); len++) {
		assert_int_equal(decode(&s, example, len, &used, &err), -EINVAL);
		assert_true(s.id == NULL && s.name == NULL && used == 0);
		if (len < 40)
			assert_non_null(strstr(err.message, "snapshot record cut short"));
		else
			assert_non_null(strstr(err.message, "snapshot record of 70 bytes, only"));
	}
}

static void a_field_of_the_extra_data_counts_if_it_is_there_to_the_end(void **state)
{
	uint8_t buf[4096];

	(void)state;
	for (uint32_t extra = 0; extra <= 40; extra++) {
		size_t len = make(buf, extra, 2, 3), used;
		struct format_snapshot s;

		assert_int_equal(decode(&s, buf, len, &used, NULL), 0);
		assert_int_equal(used, (len + 7) / 8 * 8);
		assert_int_equal(s.extra_len, extra);
		assert_true(s.vm_state_bytes == (extra >= 8 ? load_be64(buf + 40) : 0x1234));
		assert_int_equal(s.has_disk_size, extra >= 16);
		assert_true(s.disk_size == (extra >= 16 ? load_be64(buf + 48) : 0));
		assert_int_equal(s.has_icount, extra >= 24);
		assert_true(s.icount == (extra >= 24 ? load_be64(buf + 56) : UINT64_MAX));
		assert_int_equal(s.unknown_extra_len, extra > 24 ? extra - 24 : 0);
		assert_memory_equal(s.id, buf + 40 + extra, 2);
		assert_memory_equal(s.name, buf + 42 + extra, 3);
		format_snapshot_release(&s);
	}
}

static void extra_data_are_limited(void **state)
{
	uint8_t buf[4096];
	struct format_snapshot s;
	struct qcow2_error err;
	size_t used, len = make(buf, 1024, 1, 1);

	(void)state;
	assert_int_equal(decode(&s, buf, len, &used, NULL), 0);
	assert_int_equal(s.unknown_extra_len, 1000);
	format_snapshot_release(&s);
	len = make(buf, 1025, 1, 1);
	assert_int_equal(decode(&s, buf, len, &used, &err), -EFBIG);
	assert_string_equal(err.message,
			    "snapshot record with 1025 bytes of extra data, expected at most 1024");
	store_be32(buf + 36, UINT32_MAX);
	assert_int_equal(decode(&s, buf, len, &used, NULL), -EFBIG);
}

static void unknown_extra_data_survive_a_rewrite(void **state)
{
	uint8_t buf[4096], again[4096];
	struct format_snapshot s;
	size_t used, len = make(buf, 99, 7, 9);

	(void)state;
	store_be64(buf + 40, 0x1234); /* the small field says the same */
	assert_int_equal(decode(&s, buf, len, &used, NULL), 0);
	assert_int_equal(format_snapshot_encoded_len(&s), len);
	format_snapshot_encode(&s, again);
	assert_memory_equal(again, buf, len);
	format_snapshot_release(&s);
}

static void a_short_record_grows_to_24_bytes_of_extra_data(void **state)
{
	uint8_t buf[4096], again[4096];
	struct format_snapshot s;
	size_t used, len = make(buf, 12, 1, 2);

	(void)state;
	assert_int_equal(decode(&s, buf, len, &used, NULL), 0);
	s.has_disk_size = true;
	s.disk_size = 0x40000000;
	assert_int_equal(format_snapshot_encoded_len(&s), 40 + 24 + 3);
	format_snapshot_encode(&s, again);
	assert_int_equal(load_be32(again + 36), 24);
	assert_true(load_be64(again + 40) == load_be64(buf + 40));
	assert_true(load_be64(again + 48) == 0x40000000);
	assert_true(load_be64(again + 56) == UINT64_MAX);
	assert_memory_equal(again + 64, buf + 52, 3);
	format_snapshot_release(&s);
}

static void a_large_vm_state_looks_like_none_to_old_software(void **state)
{
	char id[] = "1", name[] = "n";
	struct format_snapshot s = {.id = id, .name = name, .id_len = 1, .name_len = 1};
	uint8_t buf[128];

	(void)state;
	s.has_disk_size = true;
	s.vm_state_bytes = UINT32_MAX;
	format_snapshot_encode(&s, buf);
	assert_int_equal(load_be32(buf + 32), UINT32_MAX);
	s.vm_state_bytes = 1ull << 32;
	format_snapshot_encode(&s, buf);
	assert_int_equal(load_be32(buf + 32), 0);
	assert_true(load_be64(buf + 40) == 1ull << 32);
}

static void longest_and_empty_strings_fit(void **state)
{
	size_t max = 40 + 65535 + 65535, used;
	uint8_t *buf = calloc(1, max);
	struct format_snapshot s;

	(void)state;
	assert_non_null(buf);
	assert_int_equal(make(buf, 0, 65535, 65535), max);
	assert_int_equal(decode(&s, buf, max, &used, NULL), 0);
	assert_int_equal(strlen(s.id), 65535);
	assert_int_equal(strlen(s.name), 65535);
	format_snapshot_release(&s);
	assert_int_equal(decode(&s, buf, max - 1, &used, NULL), -EINVAL);
	make(buf, 0, 0, 0);
	assert_int_equal(decode(&s, buf, 40, &used, NULL), 0);
	assert_true(used == 40 && s.id[0] == '\0' && s.name[0] == '\0');
	format_snapshot_release(&s);
	free(buf);
}

static int allowed;

static bool few_allocations(size_t size)
{
	(void)size;
	return allowed-- > 0;
}

static void short_memory_is_an_error_at_each_allocation(void **state)
{
	uint8_t buf[256];
	size_t used, len = make(buf, 32, 3, 4);
	struct format_snapshot s;
	struct qcow2_error err;

	(void)state;
	for (int n = 0; n < 3; n++) {
		allowed = n;
		mem_fault_hook = few_allocations;
		assert_int_equal(format_snapshot_decode(&s, buf, len, &used, &err), -ENOMEM);
		mem_fault_hook = NULL;
		assert_string_equal(err.message, "no memory for a snapshot record of 79 bytes");
		assert_null(s.name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_example_of_the_reference_decodes),
		cmocka_unit_test(records_cut_short_are_refused_at_every_length),
		cmocka_unit_test(a_field_of_the_extra_data_counts_if_it_is_there_to_the_end),
		cmocka_unit_test(extra_data_are_limited),
		cmocka_unit_test(unknown_extra_data_survive_a_rewrite),
		cmocka_unit_test(a_short_record_grows_to_24_bytes_of_extra_data),
		cmocka_unit_test(a_large_vm_state_looks_like_none_to_old_software),
		cmocka_unit_test(longest_and_empty_strings_fit),
		cmocka_unit_test(short_memory_is_an_error_at_each_allocation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
