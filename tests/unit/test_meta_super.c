/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "meta/super.h"

#define CLUSTER_MAX 65536u
#define MEMORY_LIMIT 20 /* allocations that are tried to fail, more than a rewrite needs */

/* An image in memory: mem below, faults on it, a recorder on top. */
struct image {
	struct qcow2_storage mem, fault, record;
	struct meta m;
	uint8_t before[CLUSTER_MAX];
	uint64_t cluster_size;
};

struct plan {
	uint32_t version, cluster_bits, header_length;
	const char *unknown; /* fields from byte 105 on */
	const char *backing; /* file name */
	bool extensions, bitmaps;
};

static const uint8_t backing_format[] = {0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3,
					 'r',  'a',  'w',  0,	 0, 0, 0, 0};
/* of a type that nobody knows, five bytes long, then one that is empty */
static const uint8_t unknown_extensions[] = {0x11, 0x22, 0x33, 0x44, 0,	  0, 0, 5,
					     'h',  'e',	 'l',  'l',  'o', 0, 0, 0,
					     0x55, 0x66, 0x77, 0x88, 0,	  0, 0, 0};
static const uint8_t bitmaps_extension[] = {0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24, 0, 0, 0,
					    2,	  0,	0,    0,    0, 0, 0, 0,	 0, 0, 0,
					    0,	  64,	0,    0,    0, 0, 0, 9,	 0, 0};

static size_t append(uint8_t *p, size_t at, const void *bytes, size_t len)
{
	memcpy(p + at, bytes, len);
	return at + len;
}

static void lay_out(const struct plan *plan, uint8_t *p)
{
	size_t at = plan->version == 2 ? LAYOUT_HEADER_LEN_V2 : plan->header_length;

	memset(p, 0, CLUSTER_MAX);
	store_be32(p, LAYOUT_MAGIC);
	store_be32(p + LAYOUT_OFF_VERSION, plan->version);
	store_be32(p + LAYOUT_OFF_CLUSTER_BITS, plan->cluster_bits);
	store_be64(p + LAYOUT_OFF_SIZE, 100001);
	store_be32(p + LAYOUT_OFF_L1_SIZE, 4);
	store_be64(p + LAYOUT_OFF_L1_OFFSET, 3ull << plan->cluster_bits);
	store_be64(p + LAYOUT_OFF_REFTABLE_OFFSET, 1ull << plan->cluster_bits);
	store_be32(p + LAYOUT_OFF_REFTABLE_CLUSTERS, 1);
	if (plan->version >= 3) {
		store_be64(p + LAYOUT_OFF_COMPATIBLE, 1ull << 63);
		store_be64(p + LAYOUT_OFF_AUTOCLEAR, plan->bitmaps);
		store_be32(p + LAYOUT_OFF_REFCOUNT_ORDER, 4);
		store_be32(p + LAYOUT_OFF_HEADER_LENGTH, plan->header_length);
	}
	if (plan->unknown)
		memcpy(p + LAYOUT_OFF_UNKNOWN_FIELDS, plan->unknown, strlen(plan->unknown));
	if (plan->extensions) {
		at = append(p, at, unknown_extensions, sizeof(unknown_extensions));
		at = append(p, at, backing_format, sizeof(backing_format));
	}
	if (plan->bitmaps)
		at = append(p, at, bitmaps_extension, sizeof(bitmaps_extension));
	at += LAYOUT_EXT_FRAME_LEN;
	if (plan->backing) {
		store_be64(p + LAYOUT_OFF_BACKING_OFFSET, at);
		store_be32(p + LAYOUT_OFF_BACKING_SIZE, (uint32_t)strlen(plan->backing));
		memcpy(p + at, plan->backing, strlen(plan->backing));
	}
}

static void image_open(struct image *i, const struct plan *plan)
{
	lay_out(plan, i->before);
	i->cluster_size = 1ull << plan->cluster_bits;
	assert_int_equal(storage_mem_new(&i->mem, 0, NULL), 0);
	assert_int_equal(storage_write(i->mem, i->before, CLUSTER_MAX, 0, NULL), 0);
	assert_int_equal(storage_fault_new(&i->fault, i->mem, NULL), 0);
	assert_int_equal(storage_record_new(&i->record, i->fault, false, NULL), 0);
	assert_int_equal(meta_open(&i->m, i->record, 0, NULL), 0);
	storage_record_reset(i->record);
}

static void image_close(struct image *i)
{
	meta_release(&i->m);
	storage_close(&i->record); /* and what it stands on */
}

/* The file has become, by one write of these bytes and nothing else, what is in before now. */
static void expect_one_write(struct image *i, uint64_t off, uint64_t len)
{
	uint8_t now[CLUSTER_MAX];
	struct storage_record_entry e;

	assert_int_equal(storage_record_entries(i->record), 1);
	e = storage_record_entry(i->record, 0);
	assert_int_equal(e.op, STORAGE_OP_WRITE);
	assert_int_equal(e.host_off, off);
	assert_int_equal(e.len_bytes, len);
	storage_record_reset(i->record);
	assert_int_equal(storage_read(i->mem, now, CLUSTER_MAX, 0, NULL), 0);
	assert_memory_equal(now, i->before, CLUSTER_MAX);
}

static const struct plan plain = {.version = 3, .cluster_bits = 16, .header_length = 112};

static void small_changes_touch_their_bytes_only(void **state)
{
	static struct image i;

	(void)state;
	image_open(&i, &plain);
	assert_int_equal(meta_super_write_size(&i.m, 0x123456789a00, NULL), 0);
	store_be64(i.before + 24, 0x123456789a00);
	expect_one_write(&i, 24, 8);
	assert_int_equal(i.m.header.size_bytes, 0x123456789a00);

	assert_int_equal(meta_super_write_l1(&i.m, 0x70000, 77, NULL), 0);
	store_be32(i.before + 36, 77);
	store_be64(i.before + 40, 0x70000);
	expect_one_write(&i, 36, 12);
	assert_int_equal(i.m.header.l1_off, 0x70000);
	assert_int_equal(i.m.header.l1_entries, 77);

	assert_int_equal(meta_super_write_reftable(&i.m, 0x80000, 5, NULL), 0);
	store_be64(i.before + 48, 0x80000);
	store_be32(i.before + 56, 5);
	expect_one_write(&i, 48, 12);
	assert_int_equal(i.m.header.reftable_off, 0x80000);
	assert_int_equal(i.m.header.reftable_clusters, 5);

	assert_int_equal(meta_super_write_snapshots(&i.m, 3, 0x90000, NULL), 0);
	store_be32(i.before + 60, 3);
	store_be64(i.before + 64, 0x90000);
	expect_one_write(&i, 60, 12);
	assert_int_equal(i.m.header.nb_snapshots, 3);
	assert_int_equal(i.m.header.snapshots_off, 0x90000);

	assert_int_equal(meta_super_write_incompatible(&i.m, 3, NULL), 0);
	store_be64(i.before + 72, 3);
	expect_one_write(&i, 72, 8);
	assert_int_equal(i.m.header.incompatible, 3);
	image_close(&i);
}

static int change_something(struct meta *m, unsigned which, struct qcow2_error *err)
{
	switch (which) {
	case 0:
		return meta_super_write_size(m, 5, err);
	case 1:
		return meta_super_write_l1(m, 0x50000, 5, err);
	case 2:
		return meta_super_write_reftable(m, 0x50000, 5, err);
	case 3:
		return meta_super_write_snapshots(m, 5, 0x50000, err);
	case 4:
		return meta_super_write_incompatible(m, 1, err);
	default:
		return meta_super_rewrite(m, 1, 1, 1, err);
	}
}

static void a_failed_write_changes_nothing_in_memory(void **state)
{
	static const char *const sentences[] = {
		"can't change the disk's size in the header: ",
		"can't change the place of the L1 table in the header: ",
		"can't change the place of the refcount table in the header: ",
		"can't change the place of the snapshot table in the header: ",
		"can't change the incompatible feature bits in the header: ",
		"can't rewrite the header: ",
	};
	const struct storage_fault_rule rule = {
		.op = STORAGE_OP_WRITE, .times = UINT64_MAX, .code = -EIO};
	const struct plan plan = {.version = 3, .cluster_bits = 16, .header_length = 104};
	struct format_header before;
	static struct image i;

	(void)state;
	image_open(&i, &plan);
	before = i.m.header;
	assert_int_equal(storage_fault_add(i.fault, &rule), 0);
	for (unsigned which = 0; which < ARRAY_LEN(sentences); which++) {
		struct qcow2_error err = {0};

		assert_int_equal(change_something(&i.m, which, &err), -EIO);
		assert_memory_equal(err.message, sentences[which], strlen(sentences[which]));
		assert_memory_equal(&i.m.header, &before, sizeof(before));
	}
	storage_fault_clear(i.fault);
	image_close(&i);
}

static void version_2_has_no_feature_bits(void **state)
{
	const struct plan plan = {.version = 2, .cluster_bits = 16, .extensions = true};
	struct qcow2_error err = {0};
	static struct image i;

	(void)state;
	image_open(&i, &plan);
	assert_int_equal(meta_super_write_incompatible(&i.m, 0, NULL), 0);
	assert_int_equal(meta_super_write_incompatible(&i.m, 2, &err), -ENOTSUP);
	assert_string_equal(err.message, "can't set the incompatible feature bits 0x2: a header of"
					 " version 2 has none");
	assert_int_equal(storage_record_entries(i.record), 0);
	assert_int_equal(meta_super_rewrite(&i.m, 2, 1, 1, NULL), 0);
	assert_int_equal(i.m.header.incompatible | i.m.header.compatible | i.m.header.autoclear, 0);
	/* the format comes before what is unknown */
	memcpy(i.before + 72, backing_format, sizeof(backing_format));
	memcpy(i.before + 72 + sizeof(backing_format), unknown_extensions,
	       sizeof(unknown_extensions));
	expect_one_write(&i, 0, i.cluster_size);
	image_close(&i);
}

/* What is in the file now, opened anew, against what was in memory before. */
static void expect_same_meaning(struct image *i, const struct plan *plan)
{
	const struct format_header *was = &i->m.header, *now;
	struct meta again;

	assert_int_equal(meta_open(&again, i->mem, 0, NULL), 0);
	now = &again.header;
	assert_int_equal(now->size_bytes, 100001);
	assert_int_equal(now->header_length, was->header_length);
	assert_int_equal(now->backing_off, was->backing_off);
	assert_int_equal(now->incompatible, was->incompatible);
	assert_int_equal(now->compatible, was->compatible);
	assert_int_equal(now->autoclear, was->autoclear);
	assert_int_equal(now->l1_off, was->l1_off);
	assert_int_equal(now->reftable_off, was->reftable_off);
	assert_int_equal(now->reftable_clusters, was->reftable_clusters);
	if (plan->unknown)
		assert_memory_equal(now->unknown_fields, plan->unknown, strlen(plan->unknown));
	if (plan->backing)
		assert_string_equal(now->backing_name, plan->backing);
	else
		assert_null(now->backing_name);
	assert_int_equal(now->ext.nunknown, plan->extensions ? 2 : 0);
	if (plan->extensions) {
		assert_string_equal(now->ext.backing_format, "raw");
		assert_int_equal(now->ext.unknown[0].type, 0x11223344);
		assert_int_equal(now->ext.unknown[0].len_bytes, 5);
		assert_memory_equal(now->ext.unknown[0].data, "hello", 5);
		assert_int_equal(now->ext.unknown[1].type, 0x55667788);
		assert_int_equal(now->ext.unknown[1].len_bytes, 0);
	}
	assert_int_equal(now->ext.has_bitmaps, plan->bitmaps);
	if (plan->bitmaps) {
		assert_int_equal(now->ext.bitmaps.nb_bitmaps, 2);
		assert_int_equal(now->ext.bitmaps.directory_size, 64);
		assert_int_equal(now->ext.bitmaps.directory_off, 0x90000);
	}
	meta_release(&again);
}

static void a_rewrite_keeps_what_it_doesnt_change(void **state)
{
	static const struct {
		struct plan plan;
		uint32_t header_length; /* afterwards */
	} cases[] = {
		{{3, 16, 112, NULL, NULL, false, false}, 112},
		{{3, 16, 104, NULL, NULL, true, false}, 112},
		{{3, 16, 104, NULL, "base.raw", true, true}, 112},
		{{3, 16, 107, "ab", "base.raw", true, false}, 112},
		{{3, 16, 115, "0123456789", NULL, true, false}, 120},
		{{3, 12, 128, "0123456789abcdefghijklm", "b", true, false}, 128},
		{{3, 9, 104, NULL, "base.raw", true, false}, 112},
		{{2, 16, 0, NULL, "base.raw", true, false}, 72},
		{{2, 9, 0, NULL, "base.raw", false, false}, 72},
	};
	static struct image i;

	(void)state;
	for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
		const struct plan *plan = &cases[c].plan;
		bool v3 = plan->version == 3;
		uint64_t compatible = v3 ? 1ull << 63 | 1 : 0;

		image_open(&i, plan);
		for (int times = 0; times < 2; times++) {
			assert_int_equal(meta_super_rewrite(&i.m, v3 ? 1 : 0, compatible,
							    i.m.header.autoclear, NULL),
					 0);
			assert_int_equal(storage_record_entries(i.record), 1);
			assert_int_equal(storage_record_entry(i.record, 0).len_bytes,
					 i.cluster_size);
			storage_record_reset(i.record);
			assert_int_equal(i.m.header.incompatible, v3);
			assert_int_equal(i.m.header.compatible, compatible);
			assert_int_equal(i.m.header.header_length, cases[c].header_length);
			expect_same_meaning(&i, plan);
		}
		image_close(&i);
	}
}

/* 104 bytes of header become 112, and then the name doesn't fit any more. */
static void what_doesnt_fit_is_refused_before_it_is_written(void **state)
{
	char name[512 - 104 - LAYOUT_EXT_FRAME_LEN + 1];
	struct plan plan = {.version = 3, .cluster_bits = 9, .header_length = 104, .backing = name};
	struct qcow2_error err = {0};
	struct format_header before;
	static struct image i;

	(void)state;
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	image_open(&i, &plan);
	before = i.m.header;
	assert_int_equal(meta_super_rewrite(&i.m, 1, 0, 0, &err), -ENOSPC);
	assert_string_equal(err.message,
			    "can't rewrite the header: backing file name ends at 0x208,"
			    " past the first cluster of 0x200 bytes");
	assert_int_equal(storage_record_entries(i.record), 0);
	assert_memory_equal(&i.m.header, &before, sizeof(before));
	/* small changes are still possible */
	assert_int_equal(meta_super_write_incompatible(&i.m, 1, &err), 0);
	store_be64(i.before + 72, 1);
	expect_one_write(&i, 72, 8);
	image_close(&i);
}

static void bad_bitmaps_that_were_let_pass_arent_lost(void **state)
{
	const struct plan plan = {
		.version = 3, .cluster_bits = 16, .header_length = 112, .bitmaps = true};
	struct qcow2_error err = {0};
	static struct image i;
	uint8_t bad = 77;

	(void)state;
	image_open(&i, &plan);
	meta_release(&i.m);
	i.before[112 + 7] = 23; /* the extension's length */
	i.before[112 + 8 + 23] = bad;
	assert_int_equal(storage_write(i.mem, i.before, CLUSTER_MAX, 0, NULL), 0);
	assert_int_equal(meta_open(&i.m, i.record, FORMAT_HEADER_ALLOW_BITMAPS, NULL), 0);
	assert_int_equal(i.m.tolerated, FORMAT_HEADER_ALLOW_BITMAPS);
	storage_record_reset(i.record);
	assert_int_equal(meta_super_rewrite(&i.m, 0, 0, 0, &err), -EINVAL);
	assert_string_equal(err.message,
			    "can't rewrite the header: its bitmaps extension is bad and"
			    " would be lost");
	assert_int_equal(storage_record_entries(i.record), 0);
	image_close(&i);
}

static int allowed;

static bool allow_some(size_t size)
{
	(void)size;
	return allowed-- > 0;
}

static void without_memory_nothing_is_written(void **state)
{
	static struct image i;
	int ret = -ENOMEM;

	(void)state;
	image_open(&i, &plain);
	for (int n = 0; n < MEMORY_LIMIT && ret < 0; n++) {
		assert_int_equal(storage_record_entries(i.record), 0);
		allowed = n;
		mem_fault_hook = allow_some;
		ret = meta_super_rewrite(&i.m, 0, 1, 0, NULL);
		mem_fault_hook = NULL;
		assert_true(ret == 0 || ret == -ENOMEM);
		assert_int_equal(i.m.header.compatible, ret == 0 ? 1 : 1ull << 63);
	}
	assert_int_equal(ret, 0);
	image_close(&i);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(small_changes_touch_their_bytes_only),
		cmocka_unit_test(a_failed_write_changes_nothing_in_memory),
		cmocka_unit_test(version_2_has_no_feature_bits),
		cmocka_unit_test(a_rewrite_keeps_what_it_doesnt_change),
		cmocka_unit_test(what_doesnt_fit_is_refused_before_it_is_written),
		cmocka_unit_test(bad_bitmaps_that_were_let_pass_arent_lost),
		cmocka_unit_test(without_memory_nothing_is_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
