/* SPDX-License-Identifier: MIT */
/*
 * An image whose refcounts say that a table's cluster is free: whoever is given that cluster would
 * write over the table (rule 13 of docs/ordering.md). It is refused, the image is marked, and the
 * table stays as it was.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/num.h"
#include "engine/run.h"

#define CLUSTER 4096u
#define CORRUPT 2u /* of the incompatible features, whose last byte is at 79 */
#define MASK 0x00fffffffffffe00ull

static const struct world_config plain = {.version = 3,
					  .cluster_bits = 12,
					  .refcount_bits = 16,
					  .size = 100 * CLUSTER,
					  .filled = true};

static const struct world_config shared = {.version = 3,
					   .cluster_bits = 12,
					   .refcount_bits = 16,
					   .size = 100 * CLUSTER,
					   .filled = true,
					   .snapshots = true};

/* The last ones are those of a snapshot. */
enum table { L1, L2, REFTABLE, REFBLOCK, SNAPSHOTS, OTHER_L1, OTHER_L2 };

static uint64_t place_of(const struct world *w, enum table which)
{
	const uint8_t *b = w->file.bytes;

	switch (which) {
	case L1:
		return load_be64(b + 40);
	case L2:
		return load_be64(b + load_be64(b + 40)) & MASK;
	case REFTABLE:
		return load_be64(b + 48);
	case SNAPSHOTS:
		return load_be64(b + 64);
	case OTHER_L1:
		return load_be64(b + load_be64(b + 64));
	case OTHER_L2:
		return load_be64(b + place_of(w, OTHER_L1)) & MASK;
	default:
		return load_be64(b + load_be64(b + 48)) & MASK;
	}
}

static void say_it_is_free(struct world *w, uint64_t host_off)
{
	uint64_t block = place_of(w, REFBLOCK);

	store_be16(w->file.bytes + block + host_off / CLUSTER * 2, 0);
}

/* Everything that isn't there yet; until one is refused. */
static int write_new_clusters(struct qcow2_image *image, const struct world *w,
			      struct qcow2_error *err)
{
	static uint8_t buf[CLUSTER];
	int ret = 0;

	memset(buf, 0x5a, sizeof(buf));
	for (uint64_t off = 0; ret == 0 && off < w->size; off += CLUSTER) {
		bool empty = true;

		for (unsigned i = 0; i < CLUSTER && empty; i++)
			empty = w->bytes[off + i] == 0;
		if (empty)
			ret = qcow2_pwrite(image, buf, CLUSTER, off, 0, err);
		if (ret == 0 && off % (8 * CLUSTER) == 0)
			ret = qcow2_flush(image, err);
	}
	return ret;
}

/* The disk and the snapshot have an L2 table each. */
static void part_tables(struct world *w)
{
	struct world_how how = {0};
	struct qcow2_image *image;
	uint64_t off = 0;

	while (w->bytes[off] == 0)
		off += CLUSTER;
	assert_int_equal(world_open(w, &image, &how, NULL, NULL), 0);
	assert_int_equal(qcow2_pwrite(image, w->bytes + off, CLUSTER, off, 0, NULL), 0);
	assert_int_equal(qcow2_finish(image, NULL), 0);
	qcow2_close(image);
	assert_int_not_equal(place_of(w, L2), place_of(w, OTHER_L2));
}

/* compressed data and a moving table take clusters too, but by the same way */
static void check_table(enum table which)
{
	struct world_how how = {.overlap_check = which == OTHER_L2 ? QCOW2_OVERLAP_INACTIVE_L2 : 0};
	struct qcow2_image *image;
	struct qcow2_error err = {0};
	uint8_t before[64], *disk = malloc(plain.size);
	struct world w;
	uint64_t at;

	assert_int_equal(world_make(&w, which < SNAPSHOTS ? &plain : &shared, 5), 0);
	if (which == OTHER_L2)
		part_tables(&w);
	at = place_of(&w, which);
	say_it_is_free(&w, at);
	memcpy(before, w.file.bytes + at, sizeof(before));
	if (world_open(&w, &image, &how, NULL, &err) == 0) {
		assert_int_equal(write_new_clusters(image, &w, &err), -EUCLEAN);
		assert_true(strlen(err.message) > 20);
		/* for good, and reads go on */
		assert_true(qcow2_pwrite(image, disk, 512, 0, 0, &err) < 0);
		assert_int_equal(qcow2_pread(image, disk, w.size, 0, &err), 0);
		qcow2_close(image);
		assert_int_equal(w.file.bytes[79] & CORRUPT, CORRUPT);
		assert_true(world_open(&w, &image, &how, NULL, &err) < 0);
	}
	/* entries that were set before it was refused are behind these */
	if (which != L2 && which != REFBLOCK)
		assert_memory_equal(w.file.bytes + at, before, sizeof(before));
	assert_int_equal(world_open(&w, &image, NULL, NULL, &err), 0);
	assert_int_equal(qcow2_pread(image, disk, w.size, 0, &err), 0);
	for (uint64_t i = 0; i < w.size; i++)
		assert_true(disk[i] == w.bytes[i] || disk[i] == 0x5a);
	qcow2_close(image);
	free(disk);
	world_release(&w);
}

static void the_l1_table_is_not_given_away(void **state)
{
	(void)state;
	check_table(L1);
}

static void an_l2_table_is_not_given_away(void **state)
{
	(void)state;
	check_table(L2);
}

static void the_refcount_table_is_not_given_away(void **state)
{
	(void)state;
	check_table(REFTABLE);
}

static void a_refcount_block_is_not_given_away(void **state)
{
	(void)state;
	check_table(REFBLOCK);
}

static void the_snapshot_table_is_not_given_away(void **state)
{
	(void)state;
	check_table(SNAPSHOTS);
}

static void the_l1_table_of_a_snapshot_is_not_given_away(void **state)
{
	(void)state;
	check_table(OTHER_L1);
}

static void an_l2_table_of_a_snapshot_is_not_given_away_if_that_is_wanted(void **state)
{
	(void)state;
	check_table(OTHER_L2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_l1_table_is_not_given_away),
		cmocka_unit_test(an_l2_table_is_not_given_away),
		cmocka_unit_test(the_refcount_table_is_not_given_away),
		cmocka_unit_test(a_refcount_block_is_not_given_away),
		cmocka_unit_test(the_snapshot_table_is_not_given_away),
		cmocka_unit_test(the_l1_table_of_a_snapshot_is_not_given_away),
		cmocka_unit_test(an_l2_table_of_a_snapshot_is_not_given_away_if_that_is_wanted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
