/* SPDX-License-Identifier: MIT */
/*
 * What writing costs: operations on the image file, counted, for named patterns. The numbers are
 * what the order of docs/ordering.md needs and not one more: a new cluster costs its one write; a
 * flush with new entries costs the dirty slices of refcounts, L2 tables and L1, and two barriers;
 * without new entries one barrier.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "engine/run.h"

#define K 1024ull
#define CLUSTER (64 * K)
#define CLUSTERS 32
#define TABLES 3 /* one refcount slice, one L2 slice, one sector of L1 */

static const struct world_config plain = {
	.version = 3, .cluster_bits = 16, .refcount_bits = 16, .size = CLUSTERS * CLUSTER};

struct cost {
	uint64_t reads, writes, zeros, flushes, discards;
	uint64_t len; /* of what was written, as data or as zeros */
};

struct costed {
	struct world w;
	struct run r;
};

static void begin(struct costed *t, const struct world_config *c)
{
	*t = (struct costed){0};
	assert_int_equal(world_make(&t->w, c, 7), 0);
	t->r.w = &t->w;
	assert_int_equal(run_open(&t->r), 0);
}

static void end(struct costed *t)
{
	assert_int_equal(run_read(&t->r, 0, t->w.size), 0);
	assert_int_equal(run_close(&t->r), 0);
	assert_int_equal(world_judge(&t->w, "afterwards"), 0);
	world_release(&t->w);
}

/* Since the last time. */
static struct cost cost_of(struct costed *t)
{
	_Atomic uint64_t *n = t->w.file.count, *len = t->w.file.len;
	struct cost c = {n[STORAGE_OP_READ],	n[STORAGE_OP_WRITE],
			 n[STORAGE_OP_ZERO],	n[STORAGE_OP_FLUSH],
			 n[STORAGE_OP_DISCARD], len[STORAGE_OP_WRITE] + len[STORAGE_OP_ZERO]};

	for (unsigned i = 0; i < STORAGE_OP_COUNT; i++)
		n[i] = len[i] = 0;
	return c;
}

static void write_at(struct costed *t, uint64_t off, uint64_t len)
{
	assert_int_equal(run_write(&t->r, off, len, FILL_NOISE, 0), 0);
}

static struct cost flush(struct costed *t)
{
	assert_int_equal(run_flush(&t->r), 0);
	return cost_of(t);
}

#define assert_cost(c, w, f)                                                                       \
	do {                                                                                       \
		struct cost c__ = (c);                                                             \
		assert_int_equal(c__.writes + c__.zeros, w);                                       \
		assert_int_equal(c__.flushes, f);                                                  \
	} while (0)

/* ---- filling ---- */

static void filling_in_order_costs_a_write_a_cluster(void **state)
{
	struct costed t;

	(void)state;
	begin(&t, &plain);
	write_at(&t, 0, CLUSTER); /* the L2 table too, unless its place reads as zeros */
	cost_of(&t);
	for (uint64_t i = 1; i < CLUSTERS; i++)
		write_at(&t, i * CLUSTER, CLUSTER);
	assert_cost(cost_of(&t), CLUSTERS - 1, 0);
	assert_cost(flush(&t), TABLES, 2);
	end(&t);
}

static void a_fresh_disk_costs_a_write_more_for_its_table_at_most(void **state)
{
	struct costed t;
	struct cost c;

	(void)state;
	begin(&t, &plain);
	cost_of(&t);
	write_at(&t, 0, CLUSTER);
	c = cost_of(&t);
	assert_in_range(c.writes + c.zeros, 1, 2);
	assert_int_equal(c.flushes, 0);
	end(&t);
}

static void a_large_write_is_one(void **state)
{
	struct costed t;

	(void)state;
	begin(&t, &plain);
	write_at(&t, 0, CLUSTER);
	cost_of(&t);
	write_at(&t, CLUSTER, (CLUSTERS - 1) * CLUSTER);
	assert_cost(cost_of(&t), 1, 0);
	assert_cost(flush(&t), TABLES, 2);
	end(&t);
}

/* What is around them is zeros beyond the end of the file, and isn't written. */
static void small_writes_to_an_empty_disk_cost_one_write_each(void **state)
{
	struct costed t;
	struct cost c;

	(void)state;
	begin(&t, &plain);
	write_at(&t, 0, 4 * K);
	cost_of(&t);
	for (uint64_t i = 1; i < CLUSTERS; i++)
		write_at(&t, (i * 7 % CLUSTERS) * CLUSTER + i % 16 * 4 * K, 4 * K);
	c = cost_of(&t);
	assert_int_equal(c.writes + c.zeros, CLUSTERS - 1);
	assert_int_equal(c.len, (CLUSTERS - 1) * 4 * K);
	assert_cost(flush(&t), TABLES, 2);
	end(&t);
}

/* Longer than what is written in one with the data, and as little: nor is the table. */
static void the_largest_clusters_are_not_filled_either(void **state)
{
	static const struct world_config large = {
		.version = 3, .cluster_bits = 21, .refcount_bits = 16, .size = 16 * K * K};
	struct costed t;
	struct cost c;

	(void)state;
	begin(&t, &large);
	cost_of(&t);
	for (uint64_t i = 0; i < 8; i++)
		write_at(&t, i * 2 * K * K + i * 200 * K, 4 * K);
	c = cost_of(&t);
	assert_int_equal(c.writes + c.zeros, 8);
	assert_int_equal(c.len, 8 * 4 * K);
	end(&t);
}

/* ---- what is there ---- */

/* A slice a table here, and the cache has room for all of them. */
static void writing_all_over_the_disk_reads_each_table_once(void **state)
{
	static const struct world_config config = {
		.version = 3, .cluster_bits = 9, .refcount_bits = 16, .size = K * K};
	const uint64_t clusters = K * K / 512, tables = clusters / 64, refblocks = clusters / 256;
	struct costed t;

	(void)state;
	begin(&t, &config);
	(void)cost_of(&t);
	for (uint64_t i = 0; i < 2 * clusters; i++)
		write_at(&t, i * 781 % clusters * 512, 512);
	/* one more for those that hold the tables themselves */
	assert_in_range(cost_of(&t).reads, 0, tables + refblocks + 1);
	end(&t);
}

static void writing_in_place_costs_nothing_but_the_data(void **state)
{
	struct costed t;

	(void)state;
	begin(&t, &plain);
	write_at(&t, 0, CLUSTERS * CLUSTER);
	flush(&t);
	for (uint64_t i = 0; i < 64; i++)
		write_at(&t, i * 20 * K, 4 * K);
	assert_cost(cost_of(&t), 64, 0);
	assert_cost(flush(&t), 0, 1);
	end(&t);
}

static void flushing_after_each_new_cluster_costs_two_barriers_each(void **state)
{
	struct costed t;
	struct cost c;

	(void)state;
	begin(&t, &plain);
	write_at(&t, 0, CLUSTER);
	flush(&t);
	for (uint64_t i = 1; i < 16; i++) {
		write_at(&t, i * CLUSTER, CLUSTER);
		c = flush(&t);
		assert_int_equal(c.flushes, 2);
		/* the data, refcounts, L2; the L1 entry is there already */
		assert_int_equal(c.writes + c.zeros, 3);
	}
	end(&t);
}

static void a_durable_write_costs_what_write_and_flush_cost(void **state)
{
	struct costed t;

	(void)state;
	begin(&t, &plain);
	write_at(&t, 0, 2 * CLUSTER);
	flush(&t);
	assert_int_equal(run_write(&t.r, 0, CLUSTER, FILL_NOISE, QCOW2_WRITE_FUA), 0);
	assert_cost(cost_of(&t), 1, 1);
	assert_int_equal(run_write(&t.r, 2 * CLUSTER, CLUSTER, FILL_NOISE, QCOW2_WRITE_FUA), 0);
	assert_cost(cost_of(&t), 3, 2);
	end(&t);
}

static void reading_and_flushing_an_idle_image_writes_nothing(void **state)
{
	struct costed t;
	struct cost c;

	(void)state;
	begin(&t, &plain);
	write_at(&t, 0, 2 * CLUSTER);
	flush(&t);
	assert_int_equal(run_read(&t.r, 0, 4 * CLUSTER), 0);
	c = flush(&t);
	assert_int_equal(c.writes + c.zeros, 0);
	assert_true(c.flushes <= 1);
	end(&t);
}

/* ---- copy-on-write ---- */

static void the_first_write_after_a_snapshot_copies_in_one_write(void **state)
{
	struct world_config c = plain;
	struct costed t;
	struct cost cost;
	uint64_t off = 0;

	(void)state;
	c.filled = c.snapshots = true;
	begin(&t, &c);
	while (t.w.bytes[off] == 0)
		off += CLUSTER;
	assert_int_equal(run_read(&t.r, 0, t.w.size), 0); /* the tables are in memory */
	cost_of(&t);
	write_at(&t, off + 8 * K, 4 * K);
	cost = cost_of(&t);
	assert_in_range(cost.writes + cost.zeros, 1, 2); /* the cluster; the L2 table's copy */
	/* before and behind; the table, the slice of its copy; the refcounts */
	assert_in_range(cost.reads, 2, 5);
	assert_int_equal(cost.flushes, 0);
	write_at(&t, off + 20 * K, 4 * K);
	assert_cost(cost_of(&t), 1, 0);
	cost = flush(&t);
	assert_int_equal(cost.flushes, 2);
	assert_in_range(cost.writes + cost.zeros, 2, TABLES + 1);
	end(&t);
}

static void a_small_write_over_a_backing_file_is_one_write(void **state)
{
	struct world_config c = plain;
	struct costed t;

	(void)state;
	c.backing = BACKING_RAW;
	c.backing_size = c.size;
	begin(&t, &c);
	write_at(&t, 0, 4 * K);
	cost_of(&t);
	t.w.base.count[STORAGE_OP_READ] = 0;
	for (uint64_t i = 1; i < 16; i++)
		write_at(&t, i * CLUSTER + 8 * K, 4 * K);
	assert_cost(cost_of(&t), 15, 0);
	/* before and behind at once */
	assert_int_equal(t.w.base.count[STORAGE_OP_READ], 15);
	assert_cost(flush(&t), TABLES, 2);
	end(&t);
}

static void a_subcluster_over_a_backing_file_is_not_filled(void **state)
{
	struct world_config c = plain;
	struct costed t;

	(void)state;
	c.backing = BACKING_RAW;
	c.backing_size = c.size;
	c.extended = true;
	begin(&t, &c);
	write_at(&t, 0, 4 * K);
	cost_of(&t);
	t.w.base.count[STORAGE_OP_READ] = 0;
	for (uint64_t i = 1; i < 16; i++)
		write_at(&t, i * CLUSTER + 8 * K, 4 * K);
	assert_cost(cost_of(&t), 15, 0);
	assert_int_equal(t.w.base.count[STORAGE_OP_READ], 0);
	assert_cost(flush(&t), TABLES, 2);
	end(&t);
}

/* A full disk of many small tables, of which a snapshot was taken. */
static void begin_with_snapshot(struct costed *t, struct world_config *many, struct history *h)
{
	many->cluster_bits = 9; /* 64 entries a table */
	many->size = 64 * 64 * 512;
	history_init(h, NULL, 64);
	h->only_shots = true;
	begin(t, many);
	t->r.history = h;
	write_at(t, 0, many->size);
	flush(t);
	assert_int_equal(run_take(&t->r), 0);
}

/* Whatever the snapshot and the disk have in common is neither read nor written. */
static void going_back_costs_what_changed_since(void **state)
{
	struct world_config many = plain;
	struct history h;
	struct costed t;
	struct cost c;

	(void)state;
	begin_with_snapshot(&t, &many, &h);
	cost_of(&t);
	assert_int_equal(run_go_back(&t.r, 0), 0);
	c = cost_of(&t);
	assert_in_range(c.reads + c.writes, 0, 16);
	write_at(&t, 0, 512);
	flush(&t);
	assert_int_equal(run_go_back(&t.r, 0), 0);
	c = cost_of(&t);
	assert_in_range(c.reads + c.writes, 1, 24);
	end(&t);
	history_release(&h);
}

/* Clusters that were written in another order than they have on the disk. */
static void write_all_over(struct costed *t, uint64_t clusters)
{
	for (uint64_t i = 0; i < clusters; i++)
		write_at(t, i * 781 % clusters * 512, 512);
}

static void what_going_back_sets_free_is_given_back_in_one_piece(void **state)
{
	struct world_config many = plain;
	struct history h;
	struct costed t;

	(void)state;
	begin_with_snapshot(&t, &many, &h);
	write_all_over(&t, many.size / 512);
	flush(&t);
	assert_int_equal(run_go_back(&t.r, 0), 0);
	/* blocks of refcounts are in between, and the tables */
	assert_in_range(cost_of(&t).discards, 1, 64);
	end(&t);
	history_release(&h);
}

/* ---- zeros and discards ---- */

static void zeros_in_whole_clusters_move_no_data(void **state)
{
	struct costed t;

	(void)state;
	begin(&t, &plain);
	write_at(&t, 0, CLUSTERS * CLUSTER);
	flush(&t);
	assert_int_equal(run_zero(&t.r, 0, 16 * CLUSTER, 0), 0);
	assert_cost(cost_of(&t), 0, 0);
	/* no new cluster is mapped: the L2 slice alone has to arrive */
	assert_cost(flush(&t), 1, 1);
	end(&t);
}

static void a_discard_costs_one_slice_and_one_barrier(void **state)
{
	struct costed t;
	struct cost c;

	(void)state;
	begin(&t, &plain);
	write_at(&t, 0, CLUSTERS * CLUSTER);
	flush(&t);
	assert_int_equal(run_discard(&t.r, CLUSTER, 8 * CLUSTER), 0);
	assert_cost(cost_of(&t), 0, 0);
	c = flush(&t);
	assert_in_range(c.writes + c.zeros, 1, 2); /* the counts may come at once or later */
	assert_in_range(c.flushes, 1, 2);
	end(&t);
}

static void what_is_discarded_all_over_is_given_back_in_one_piece_at_the_end(void **state)
{
	static const struct world_config config = {
		.version = 3, .cluster_bits = 9, .refcount_bits = 16, .size = K * K};
	const uint64_t clusters = config.size / 512;
	struct costed t;

	(void)state;
	begin(&t, &config);
	write_all_over(&t, clusters);
	flush(&t);
	for (uint64_t i = 0; i < clusters; i++)
		assert_int_equal(run_discard(&t.r, i * 512, 512), 0);
	cost_of(&t);
	assert_int_equal(run_close(&t.r), 0);
	assert_in_range(cost_of(&t).discards, 1, 64);
	assert_int_equal(run_open(&t.r), 0);
	end(&t);
}

/* The bit that excuses the counts becomes durable with the data. */
static void with_lazy_refcounts_the_first_flush_costs_no_barrier_more(void **state)
{
	static const struct world_config lazy = {.version = 3,
						 .cluster_bits = 16,
						 .refcount_bits = 16,
						 .size = CLUSTERS * CLUSTER,
						 .lazy = true};
	struct costed t;

	(void)state;
	begin(&t, &lazy);
	write_at(&t, 0, CLUSTER);
	cost_of(&t);
	assert_cost(flush(&t), 3, 2); /* the header, L2, L1 */
	write_at(&t, CLUSTER, CLUSTER);
	assert_cost(flush(&t), 2, 2);
	end(&t);
}

/* ---- refcount blocks ---- */

/* A block counts 64 clusters, so that this takes a dozen of them. */
static const struct world_config tiny = {
	.version = 3, .cluster_bits = 9, .refcount_bits = 64, .size = 400 * K};

static void many_new_refcount_blocks_become_durable_together(void **state)
{
	struct costed t;

	(void)state;
	begin(&t, &tiny);
	cost_of(&t);
	write_at(&t, 0, t.w.size);
	assert_int_equal(cost_of(&t).flushes, 0);
	assert_int_equal(flush(&t).flushes, 3); /* the blocks, what they count, the tables */
	write_at(&t, 0, CLUSTER);
	assert_int_equal(flush(&t).flushes, 1);
	end(&t);
}

static void many_refcount_blocks_go_together(void **state)
{
	struct costed t;

	(void)state;
	begin(&t, &tiny);
	write_at(&t, 0, t.w.size);
	flush(&t);
	assert_int_equal(run_resize(&t.r, 32 * K), 0);
	assert_in_range(cost_of(&t).flushes, 1, 8);
	end(&t);
}

/* ---- sizes ---- */

static void tables_that_a_smaller_disk_loses_are_not_written(void **state)
{
	static const struct world_config config = {
		.version = 3, .cluster_bits = 12, .refcount_bits = 16, .size = 32 * K * K};
	const uint64_t tables = 8; /* of 16 are lost, 2 MiB each */
	struct costed t;
	struct cost c;

	(void)state;
	begin(&t, &config);
	write_at(&t, 0, t.w.size);
	flush(&t);
	assert_int_equal(run_resize(&t.r, t.w.size / 2), 0);
	c = cost_of(&t);
	/* read twice: to see that they can go, and to let go of what they have */
	assert_in_range(c.reads, tables, 2 * tables + 20);
	/* L1, size, counts and their table: not more than a sector or slice of each, but for counts
	 */
	assert_in_range(c.writes + c.zeros, 4, 12);
	assert_in_range(c.len, 4 * 512, 48 * K);
	/* the map, the size, the counts and what a cut takes, all of it */
	assert_in_range(c.flushes, 3, 5);
	/* the file was cut: no need to give back what was behind its end */
	assert_int_equal(c.discards, 0);
	end(&t);
}

static void tables_of_a_disk_that_grows_are_made_at_once(void **state)
{
	static const struct world_config config = {.version = 3,
						   .cluster_bits = 12,
						   .refcount_bits = 16,
						   .size = 2 * K * K,
						   .max_size = 130 * K * K};
	const uint64_t tables = 64, refblocks = 16; /* 2 MiB, and 8 MiB, each */
	struct costed t;
	struct cost c;

	(void)state;
	begin(&t, &config);
	cost_of(&t);
	t.r.prealloc = QCOW2_PREALLOC_METADATA;
	assert_int_equal(run_resize(&t.r, config.max_size), 0);
	c = cost_of(&t);
	assert_in_range(c.reads, 0, 8);
	/* the tables in one; a block first with its own count, then with all of them */
	assert_in_range(c.writes + c.zeros, 8, 2 * refblocks + 16);
	assert_in_range(c.len, (tables + refblocks) * 4 * K,
			(tables + 2 * refblocks) * 4 * K + 40 * K);
	/* the L1 table moves: 3; blocks, what they count, the tables, the size */
	assert_in_range(c.flushes, 4, 7);
	end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(filling_in_order_costs_a_write_a_cluster),
		cmocka_unit_test(a_fresh_disk_costs_a_write_more_for_its_table_at_most),
		cmocka_unit_test(a_large_write_is_one),
		cmocka_unit_test(small_writes_to_an_empty_disk_cost_one_write_each),
		cmocka_unit_test(the_largest_clusters_are_not_filled_either),
		cmocka_unit_test(writing_all_over_the_disk_reads_each_table_once),
		cmocka_unit_test(writing_in_place_costs_nothing_but_the_data),
		cmocka_unit_test(flushing_after_each_new_cluster_costs_two_barriers_each),
		cmocka_unit_test(a_durable_write_costs_what_write_and_flush_cost),
		cmocka_unit_test(reading_and_flushing_an_idle_image_writes_nothing),
		cmocka_unit_test(the_first_write_after_a_snapshot_copies_in_one_write),
		cmocka_unit_test(going_back_costs_what_changed_since),
		cmocka_unit_test(what_going_back_sets_free_is_given_back_in_one_piece),
		cmocka_unit_test(a_small_write_over_a_backing_file_is_one_write),
		cmocka_unit_test(a_subcluster_over_a_backing_file_is_not_filled),
		cmocka_unit_test(zeros_in_whole_clusters_move_no_data),
		cmocka_unit_test(a_discard_costs_one_slice_and_one_barrier),
		cmocka_unit_test(what_is_discarded_all_over_is_given_back_in_one_piece_at_the_end),
		cmocka_unit_test(with_lazy_refcounts_the_first_flush_costs_no_barrier_more),
		cmocka_unit_test(many_new_refcount_blocks_become_durable_together),
		cmocka_unit_test(many_refcount_blocks_go_together),
		cmocka_unit_test(tables_that_a_smaller_disk_loses_are_not_written),
		cmocka_unit_test(tables_of_a_disk_that_grows_are_made_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
