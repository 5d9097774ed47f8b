/* SPDX-License-Identifier: MIT */
/*
 * A small sound image in memory, made word by word, to be damaged: two L2 tables, data, a
 * preallocated zero cluster, two compressed clusters in one host cluster.
 */
#ifndef TESTS_UNIT_CHECK_FORGE_H
#define TESTS_UNIT_CHECK_FORGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/bytes.h"
#include "check/check.h"
#include "format/entry.h"
#include "format/header.h"
#include "format/refbits.h"

/* Host clusters. */
enum {
	FORGE_REFTABLE = 1,
	FORGE_REFBLOCK,
	FORGE_L1,
	FORGE_L2A,
	FORGE_L2B,
	FORGE_DATA, /* to 9: guest clusters 0 to 3 */
	FORGE_ZERO = 10,
	FORGE_PACKED,
	FORGE_LAST, /* the first guest cluster of the second table */
	FORGE_END
};

#define FORGE_BITS 12
#define FORGE_CS (1ull << FORGE_BITS)
#define FORGE_L2_ENTRIES (FORGE_CS / 8)

struct forge {
	struct qcow2_storage st;
	struct format_geometry g;
	struct qcow2_error err;
	struct check_result result;
};

static inline uint64_t forge_word(struct forge *f, uint64_t off)
{
	uint8_t buf[8];

	assert_int_equal(storage_read(f->st, buf, 8, off, NULL), 0);
	return load_be64(buf);
}

static inline void forge_set_word(struct forge *f, uint64_t off, uint64_t value)
{
	uint8_t buf[8];

	store_be64(buf, value);
	assert_int_equal(storage_write(f->st, buf, 8, off, NULL), 0);
}

static inline uint64_t forge_l2(uint64_t guest_idx)
{
	return (guest_idx < FORGE_L2_ENTRIES ? FORGE_L2A : FORGE_L2B) * FORGE_CS +
	       guest_idx % FORGE_L2_ENTRIES * 8;
}

/* The count in the first block. */
static inline uint64_t forge_count(struct forge *f, uint64_t cluster_idx)
{
	uint8_t block[FORGE_CS];
	uint64_t off = forge_word(f, forge_word(f, LAYOUT_OFF_REFTABLE_OFFSET));

	assert_int_equal(storage_read(f->st, block, sizeof(block), off, NULL), 0);
	return format_refcount_get(block, f->g.refcount_order, cluster_idx);
}

static inline void forge_set_count(struct forge *f, uint64_t cluster_idx, uint64_t count)
{
	uint8_t block[FORGE_CS];
	uint64_t off = FORGE_REFBLOCK * FORGE_CS;

	assert_int_equal(storage_read(f->st, block, sizeof(block), off, NULL), 0);
	format_refcount_set(block, f->g.refcount_order, cluster_idx, count);
	assert_int_equal(storage_write(f->st, block, sizeof(block), off, NULL), 0);
}

static inline void forge_header(struct forge *f, uint32_t order)
{
	uint8_t cluster[FORGE_CS];
	struct format_header h = {
		.version = 3,
		.cluster_bits = FORGE_BITS,
		.size_bytes = (FORGE_L2_ENTRIES + 10) * FORGE_CS,
		.l1_entries = 2,
		.l1_off = FORGE_L1 * FORGE_CS,
		.reftable_off = FORGE_REFTABLE * FORGE_CS,
		.reftable_clusters = 1,
		.refcount_order = order,
	};

	assert_int_equal(format_header_encode(&h, cluster, sizeof(cluster), &f->err), 0);
	format_header_geometry(&h, &f->g);
	assert_int_equal(storage_write(f->st, cluster, sizeof(cluster), 0, NULL), 0);
}

static inline void forge_new(struct forge *f, uint32_t order)
{
	uint8_t data[FORGE_CS];
	uint64_t packed = FORGE_PACKED * FORGE_CS;

	*f = (struct forge){0};
	assert_int_equal(storage_mem_new(&f->st, FORGE_END * FORGE_CS, NULL), 0);
	forge_header(f, order);
	forge_set_word(f, FORGE_REFTABLE * FORGE_CS, FORGE_REFBLOCK * FORGE_CS);
	forge_set_word(f, FORGE_L1 * FORGE_CS, format_l1_encode(FORGE_L2A * FORGE_CS, true));
	forge_set_word(f, FORGE_L1 * FORGE_CS + 8, format_l1_encode(FORGE_L2B * FORGE_CS, true));
	for (uint64_t i = 0; i < 4; i++)
		forge_set_word(f, forge_l2(i),
			       format_l2_encode_normal((FORGE_DATA + i) * FORGE_CS, true));
	forge_set_word(f, forge_l2(4), format_l2_encode_zero(FORGE_ZERO * FORGE_CS, true));
	forge_set_word(f, forge_l2(5), format_l2_encode_compressed(&f->g, packed, 700));
	if (order > 0)
		forge_set_word(f, forge_l2(6),
			       format_l2_encode_compressed(&f->g, packed + 700, 900));
	forge_set_word(f, forge_l2(FORGE_L2_ENTRIES),
		       format_l2_encode_normal(FORGE_LAST * FORGE_CS, true));
	for (uint64_t i = FORGE_DATA; i < FORGE_END; i++) {
		memset(data, (int)i, sizeof(data));
		assert_int_equal(storage_write(f->st, data, sizeof(data), i * FORGE_CS, NULL), 0);
	}
	for (uint64_t i = 0; i < FORGE_END; i++)
		forge_set_count(f, i, i == FORGE_PACKED && order > 0 ? 2 : 1);
}

static inline void forge_free(struct forge *f)
{
	storage_close(&f->st);
}

static inline int forge_check(struct forge *f, unsigned repair)
{
	struct check_options options = {.repair = repair};

	return check_image(f->st, &options, &f->result, &f->err);
}

static inline void forge_expect(struct forge *f, uint64_t corruptions, uint64_t leaks)
{
	assert_int_equal(forge_check(f, 0), 0);
	assert_int_equal(f->result.corruptions, corruptions);
	assert_int_equal(f->result.leaks, leaks);
	assert_int_equal(f->result.check_errors, 0);
}

/* What a reader sees is what forge_new has put there. */
static inline void forge_expect_data(struct forge *f)
{
	const uint64_t mask = ~LAYOUT_ENTRY_COPIED;
	struct forge fresh;
	uint8_t byte[1];

	forge_new(&fresh, f->g.refcount_order);
	for (uint64_t i = 0; i < 2; i++)
		assert_true((forge_word(f, FORGE_L1 * FORGE_CS + i * 8) & mask) ==
			    (forge_word(&fresh, FORGE_L1 * FORGE_CS + i * 8) & mask));
	for (uint64_t i = 0; i < FORGE_L2_ENTRIES + 10; i++)
		assert_true((forge_word(f, forge_l2(i)) & mask) ==
			    (forge_word(&fresh, forge_l2(i)) & mask));
	for (uint64_t i = FORGE_DATA; i < FORGE_END; i++) {
		assert_int_equal(storage_read(f->st, byte, 1, i * FORGE_CS + 77, NULL), 0);
		assert_int_equal(byte[0], i);
	}
	forge_free(&fresh);
}

static inline void forge_set_dirty(struct forge *f)
{
	forge_set_word(f, LAYOUT_OFF_INCOMPATIBLE, LAYOUT_INCOMPAT_DIRTY);
}

/* ---- damage that a repair mends as a whole ---- */

static inline void forge_stale_counts(struct forge *f)
{
	forge_set_dirty(f);
	for (uint64_t i = FORGE_L2B; i < FORGE_END; i++)
		forge_set_count(f, i, i % 3 == 0 ? 0 : 1);
	forge_set_count(f, FORGE_END + 3, 1);
}

static inline void forge_no_block(struct forge *f)
{
	forge_set_dirty(f);
	forge_set_word(f, FORGE_REFTABLE * FORGE_CS, 0);
}

static inline void forge_bad_reftable_entry(struct forge *f)
{
	forge_set_word(f, FORGE_REFTABLE * FORGE_CS + 8, 0x1234567);
}

static inline void forge_no_reftable(struct forge *f)
{
	uint64_t word = forge_word(f, LAYOUT_OFF_REFTABLE_CLUSTERS);

	forge_set_word(f, LAYOUT_OFF_REFTABLE_CLUSTERS, word & UINT32_MAX);
}

static inline void forge_shared_block(struct forge *f)
{
	forge_set_word(f, FORGE_REFTABLE * FORGE_CS + 16, FORGE_REFBLOCK * FORGE_CS);
}

static inline void forge_wrong_flags(struct forge *f)
{
	for (uint64_t i = 0; i < 7; i++)
		forge_set_word(f, forge_l2(i), forge_word(f, forge_l2(i)) ^ LAYOUT_ENTRY_COPIED);
	forge_set_word(f, FORGE_L1 * FORGE_CS + 8,
		       forge_word(f, FORGE_L1 * FORGE_CS + 8) ^ LAYOUT_ENTRY_COPIED);
	forge_set_count(f, FORGE_LAST, 3); /* and its flag isn't wrong */
	forge_set_word(f, forge_l2(FORGE_L2_ENTRIES), FORGE_LAST * FORGE_CS);
}

static inline void forge_reserved_bits(struct forge *f)
{
	forge_set_word(f, FORGE_L1 * FORGE_CS, forge_word(f, FORGE_L1 * FORGE_CS) | 1ull << 60);
	forge_set_word(f, forge_l2(2), forge_word(f, forge_l2(2)) | 1ull << 57 | 4);
}

/* ---- damage that only a repair of everything mends, with a loss of what can't be read ---- */

static inline void forge_lead_nowhere(struct forge *f)
{
	forge_set_word(f, forge_l2(0), LAYOUT_ENTRY_COPIED | 1ull << 40);
	forge_set_word(f, forge_l2(5), LAYOUT_ENTRY_COMPRESSED | 1ull << 40);
	forge_set_word(f, forge_l2(20), FORGE_END * FORGE_CS + 512);
	forge_set_word(f, FORGE_L1 * FORGE_CS + 8, 1ull << 40);
}

static inline void forge_unaligned_l1(struct forge *f)
{
	forge_set_word(f, FORGE_L1 * FORGE_CS + 8, FORGE_L2B * FORGE_CS + 512);
}

static inline void forge_data_on_tables(struct forge *f)
{
	forge_set_word(f, forge_l2(20), format_l2_encode_normal(FORGE_L2B * FORGE_CS, true));
	forge_set_word(f, forge_l2(21), FORGE_L1 * FORGE_CS);
	forge_set_word(f, forge_l2(22), FORGE_L1 * FORGE_CS);
	forge_set_word(f, forge_l2(FORGE_L2_ENTRIES + 3), FORGE_L2A * FORGE_CS);
}

static inline void forge_table_on_table(struct forge *f)
{
	forge_set_word(f, FORGE_L1 * FORGE_CS + 8, FORGE_L1 * FORGE_CS);
}

static inline void forge_data_on_refcounts(struct forge *f)
{
	forge_set_word(f, forge_l2(20), FORGE_REFBLOCK * FORGE_CS);
	forge_set_word(f, forge_l2(21), FORGE_REFTABLE * FORGE_CS);
	forge_set_word(f, forge_l2(22), FORGE_L1 * FORGE_CS);
}

/* A snapshot, in a table behind everything; extra: with what version 3 wants in it. */
static inline void forge_snapshot(struct forge *f, uint64_t l1_off, bool extra)
{
	uint8_t record[64] = {0}, header[12] = {0, 0, 0, 1};

	store_be64(record, l1_off);
	store_be32(record + 8, 2);
	record[13] = 1; /* the id's length */
	record[39] = extra ? 16 : 0;
	store_be64(record + 48, extra ? (FORGE_L2_ENTRIES + 10) * FORGE_CS : 0);
	record[extra ? 56 : 40] = '1';
	store_be64(header + 4, FORGE_END * FORGE_CS);
	assert_int_equal(storage_write(f->st, record, sizeof(record), FORGE_END * FORGE_CS, NULL),
			 0);
	assert_int_equal(
		storage_write(f->st, header, sizeof(header), LAYOUT_OFF_NB_SNAPSHOTS, NULL), 0);
	forge_set_count(f, FORGE_END, 1);
}

static inline void forge_l1_for_two(struct forge *f)
{
	forge_snapshot(f, FORGE_L1 * FORGE_CS, true);
}

static inline void forge_l1_on_l2(struct forge *f)
{
	forge_snapshot(f, FORGE_L2A * FORGE_CS, true);
}

static inline void forge_incomplete_snapshot(struct forge *f)
{
	forge_snapshot(f, (FORGE_END + 1) * FORGE_CS, false);
	forge_set_word(f, (FORGE_END + 1) * FORGE_CS, FORGE_L2A * FORGE_CS);
	forge_set_word(f, (FORGE_END + 1) * FORGE_CS + 8, FORGE_L2B * FORGE_CS);
}

static inline void forge_bits_without_sense(struct forge *f)
{
	forge_set_word(f, LAYOUT_OFF_AUTOCLEAR,
		       LAYOUT_AUTOCLEAR_BITMAPS | LAYOUT_AUTOCLEAR_DATA_FILE_RAW);
}

/* The L1 tables of the disk and of its snapshot. Returns how many there are. */
static inline unsigned forge_disks(struct forge *f, uint64_t l1[2])
{
	l1[0] = forge_word(f, LAYOUT_OFF_L1_OFFSET);
	if (forge_word(f, LAYOUT_OFF_NB_SNAPSHOTS) >> 32 == 0)
		return 1;
	l1[1] = forge_word(f, forge_word(f, LAYOUT_OFF_SNAPSHOTS_OFFSET));
	return 2;
}

/* What the guest cluster, which isn't compressed, has in its middle; -1: there are zeros. */
static inline int forge_read(struct forge *f, uint64_t l1_off, uint64_t guest_idx)
{
	uint64_t l1 = l1_off + guest_idx / FORGE_L2_ENTRIES * 8;
	uint64_t l2 = forge_word(f, l1) & LAYOUT_ENTRY_OFFSET_MASK, entry;
	uint8_t byte;

	if (l2 == 0)
		return -1;
	entry = forge_word(f, l2 + guest_idx % FORGE_L2_ENTRIES * 8);
	if (entry == 0 || (entry & LAYOUT_ENTRY_ZERO))
		return -1;
	entry &= LAYOUT_ENTRY_OFFSET_MASK;
	assert_int_equal(storage_read(f->st, &byte, 1, entry + 77, NULL), 0);
	return byte;
}

struct forge_damage {
	const char *name;
	void (*apply)(struct forge *f);
};

static const struct forge_damage forge_losses[] = {
	{"entries that lead nowhere", forge_lead_nowhere},
	{"unaligned L1 entry", forge_unaligned_l1},
	{"data on tables", forge_data_on_tables},
	{"table on table", forge_table_on_table},
	{"data on refcounts", forge_data_on_refcounts},
	{"an L1 table for two", forge_l1_for_two},
	{"an L1 table that is an L2 table", forge_l1_on_l2},
	{"an incomplete snapshot", forge_incomplete_snapshot},
	{"bits that make no sense", forge_bits_without_sense},
};

#define FORGE_LOSSES (sizeof(forge_losses) / sizeof(forge_losses[0]))

static const struct forge_damage forge_damages[] = {
	{"stale counts", forge_stale_counts},
	{"no block", forge_no_block},
	{"bad reftable entry", forge_bad_reftable_entry},
	{"no reftable", forge_no_reftable},
	{"shared block", forge_shared_block},
	{"wrong flags", forge_wrong_flags},
	{"reserved bits", forge_reserved_bits},
};

#define FORGE_DAMAGES (sizeof(forge_damages) / sizeof(forge_damages[0]))

#endif
