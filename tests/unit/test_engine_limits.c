/* SPDX-License-Identifier: MIT */
/*
 * Refcounts at their limits: a table that may not become larger, counts that are as high as their
 * width allows, counts that can't be taken back, and the list of clusters that wait for a commit.
 * Whatever can't be is an error before anything was changed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>

#include "engine_hook.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/refbits.h"
#include "image/image.h"

#define KIB ((uint64_t)1 << 10)
#define TABLE_ENTRIES ((uint64_t)1 << 20)

/* ---- images in memory ---- */

/* A store that outlives who closes it. */
static void leave_open(void *self)
{
	(void)self;
}

static struct qcow2_storage kept_open(struct qcow2_storage st, struct qcow2_storage_ops *ops)
{
	*ops = *st.ops;
	ops->close = leave_open;
	return (struct qcow2_storage){ops, st.self};
}

/* A new image, in a store that may become as large as one likes. */
static struct qcow2_storage make_in_memory(void **state, const char *options, const char *size)
{
	char *path = engine_make(state, "image", options, size);
	struct qcow2_storage st;
	size_t len;
	uint8_t *bytes = image_tmp_load(path, &len);

	assert_int_equal(storage_mem_new(&st, len, NULL), 0);
	assert_int_equal(storage_write(st, bytes, len, 0, NULL), 0);
	free(bytes);
	free(path);
	return st;
}

static void open_meta(struct qcow2_storage st, struct meta *m)
{
	struct meta_engine_options options = {0};
	struct meta_snapshots none = {0};

	assert_int_equal(meta_open(m, st, 0, NULL), 0);
	assert_int_equal(meta_load_l1(m, NULL, true, 1 << 20, NULL), 0);
	assert_int_equal(meta_engine_new(m, &options, &none, NULL), 0);
}

static void close_meta(struct meta *m)
{
	assert_int_equal(meta_engine_finish(m, NULL), 0);
	meta_engine_free(m);
	meta_release(m);
}

static uint64_t count_of(struct meta *m, uint64_t cluster)
{
	uint64_t count;

	assert_int_equal(meta_refs_get(m, cluster, &count, NULL), 0);
	return count;
}

static struct qcow2_image *open_image(struct qcow2_storage st)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_error err = {0};
	struct qcow2_image *image;

	o.flags = QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_LOCK;
	o.format = "qcow2";
	if (qcow2_open_storage(&image, st, "image", &o, &err) < 0)
		fail_msg("%s", err.message);
	return image;
}

/* ---- the refcount table ---- */

/* Clusters behind all there are, as if all below had been handed out. */
static int take_far(struct meta *m, uint64_t first, uint64_t n, struct qcow2_error *err)
{
	int ret;

	assert_int_equal(meta_alloc_mark(m, first, n, NULL), 0);
	ret = meta_refs_raise(m, first, n, err);
	if (ret < 0)
		meta_alloc_give_back(m, first, n);
	return ret;
}

static void assert_full(struct meta *m, uint64_t first, uint64_t n)
{
	uint64_t table_off = m->header.reftable_off;
	struct qcow2_error err = {0};

	assert_int_equal(take_far(m, first, n, &err), -EFBIG);
	assert_non_null(strstr(err.message, "would pass the 8388608 bytes"));
	assert_int_equal(meta_check_sound(m, NULL), 0);
	assert_int_equal(m->header.reftable_off, table_off);
}

/*
 * Takes clusters further and further up, so that the table moves and moves; at last it has the
 * entries that it may have, and up to the last of them clusters can be counted.
 */
static void grow_to_the_limit(struct meta *m, uint64_t limit)
{
	for (uint64_t first = limit / 1024; meta_refs_end(m) < limit;
	     first = max_u64(first + first / 2, meta_refs_end(m))) {
		assert_int_equal(take_far(m, first, 4, NULL), 0);
		for (uint64_t i = 0; i < 4; i++)
			assert_int_equal(count_of(m, first + i), 1);
		meta_untake(m, &(struct meta_run){.first = first, .nclusters = 4});
	}
	assert_int_equal((uint64_t)m->header.reftable_clusters << m->geometry.cluster_bits,
			 TABLE_ENTRIES * 8);
	assert_full(m, limit, 4);
	assert_full(m, limit - 4, 8);
	assert_int_equal(count_of(m, limit - 4), 0); /* all or nothing */
	assert_int_equal(take_far(m, limit - 4, 4, NULL), 0);
	assert_int_equal(count_of(m, limit - 1), 1);
}

static void check_table(void **state, const char *options, unsigned cluster_bits,
			unsigned refcount_order)
{
	struct qcow2_storage_ops ops;
	struct qcow2_storage st = make_in_memory(state, options, "1M");
	uint64_t limit = TABLE_ENTRIES << (cluster_bits + 3 - refcount_order);
	struct qcow2_check_options co = QCOW2_CHECK_OPTIONS_INIT;
	struct qcow2_check_result found;
	struct qcow2_error err = {0};
	struct qcow2_image *image;
	struct meta_run run;
	struct meta m;

	open_meta(kept_open(st, &ops), &m);
	/* a table that would have to move to the end of what can be counted doesn't count itself */
	assert_full(&m, limit - 4, 4);
	close_meta(&m);
	open_meta(kept_open(st, &ops), &m);
	grow_to_the_limit(&m, limit);
	/* space further down is there as before */
	assert_int_equal(meta_take(&m, 10, LAYOUT_HOST_OFF_MAX, &run, NULL), 0);
	assert_true(run.first + 10 < limit / 1024);
	meta_untake(&m, &run);
	meta_untake(&m, &(struct meta_run){.first = limit - 4, .nclusters = 4});
	close_meta(&m);
	image = open_image(kept_open(st, &ops));
	engine_write(image, 0, 1024 * KIB, 7);
	assert_int_equal(engine_read(image, 0, 1024 * KIB), 7);
	assert_int_equal(qcow2_finish(image, &err), 0);
	qcow2_close(image);
	assert_int_equal(qcow2_check_storage(st, &co, &found, &err), 0);
	assert_int_equal(found.corruptions + found.leaks + found.check_errors, 0);
	storage_close(&st);
}

static void test_beyond_the_limit_of_the_table_nothing_is_taken(void **state)
{
	check_table(state, "cluster_size=512,refcount_bits=64", 9, 6);
	check_table(state, "cluster_size=512,refcount_bits=16", 9, 4);
	check_table(state, "cluster_size=4096,refcount_bits=64", 12, 6);
}

/* ---- counts at their maximum ---- */

/* Gives a guest cluster the highest count there is; what that needs of the flags too. */
static void set_highest(struct qcow2_storage st, uint64_t guest_off)
{
	uint8_t block[4096], raw[8];
	struct meta_entry e;
	struct meta m;
	unsigned n;
	uint64_t l2, refblock, cluster;

	open_meta(st, &m);
	assert_int_equal(meta_entries_get(&m, guest_off, &e, 1, &n, NULL), 0);
	cluster = meta_cluster_of(&m, e.raw & LAYOUT_ENTRY_OFFSET_MASK);
	assert_int_equal(
		meta_refblock_off(&m, cluster >> m.geometry.refblock_bits, &refblock, NULL), 0);
	l2 = format_l1_decode(&m.geometry, meta_l1_get(&m, 0)).l2_off;
	assert_int_equal(storage_read(st, block, sizeof(block), refblock, NULL), 0);
	format_refcount_set(block, m.geometry.refcount_order, cluster, m.geometry.refcount_max);
	assert_int_equal(storage_write(st, block, sizeof(block), refblock, NULL), 0);
	if (m.geometry.refcount_max > 1)
		e.raw &= ~LAYOUT_ENTRY_COPIED;
	store_be64(raw, e.raw);
	assert_int_equal(
		storage_write(st, raw, 8, l2 + format_l2_index(&m.geometry, guest_off) * 8, NULL),
		0);
	close_meta(&m);
}

static void list_counts(struct qcow2_image *image, uint64_t *counts, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		counts[i] = count_of(&image->qcow2->meta, i);
}

static void check_width(void **state, unsigned order)
{
	struct qcow2_storage_ops ops;
	struct qcow2_image *image;
	struct qcow2_error err = {0};
	struct qcow2_storage st;
	uint64_t before[16], after[16], max = UINT64_MAX >> (64 - (1u << order));
	char options[64], number[32];

	snprintf(options, sizeof(options), "cluster_size=4096,refcount_bits=%u", 1u << order);
	st = make_in_memory(state, options, "1M");
	image = open_image(kept_open(st, &ops));
	engine_write(image, 0, 16 * KIB, 5);
	assert_int_equal(qcow2_finish(image, &err), 0);
	qcow2_close(image);
	set_highest(kept_open(st, &ops), 8 * KIB);
	image = open_image(kept_open(st, &ops));
	list_counts(image, before, 16);
	assert_int_equal(qcow2_snapshot_create(image, "one more", NULL, &err), -ERANGE);
	snprintf(number, sizeof(number), "(%" PRIu64 ")", max);
	assert_non_null(strstr(err.message, number));
	list_counts(image, after, 16);
	assert_memory_equal(before, after, sizeof(before));
	/* writing takes one reference away, but doesn't touch what others have */
	engine_write(image, 8 * KIB, 4 * KIB, 6);
	assert_int_equal(engine_read(image, 8 * KIB, 4 * KIB), 6);
	assert_int_equal(engine_read(image, 0, 8 * KIB), 5);
	assert_int_equal(qcow2_finish(image, &err), 0);
	list_counts(image, after, 16);
	for (unsigned i = 0; i < 16; i++) {
		if (before[i] == max && max > 1)
			assert_int_equal(after[i], max - 1);
	}
	qcow2_close(image);
	storage_close(&st);
}

static void test_a_count_at_its_maximum_is_left_there(void **state)
{
	for (unsigned order = 0; order <= 6; order++)
		check_width(state, order);
}

/* ---- counts that can't be taken back ---- */

static int count_down(struct engine_hook *h, bool counts)
{
	unsigned *left = h->opaque;

	if (!counts)
		return 0;
	*left -= *left > 0;
	return *left == 0 ? -EIO : 0;
}

/* From the n-th read on nothing is read any more. */
static int fail_reads(struct engine_hook *h, enum storage_op op, uint64_t off, uint64_t len)
{
	(void)off;
	(void)len;
	return count_down(h, op == STORAGE_OP_READ);
}

static int fail_writes(struct engine_hook *h, enum storage_op op, uint64_t off, uint64_t len)
{
	(void)off;
	(void)len;
	return count_down(h, op == STORAGE_OP_WRITE);
}

/*
 * Many counts are raised, more than the cache holds; then one can't be read, and neither can those
 * that have left the cache. What is free and what isn't is then unknown.
 */
static void test_counts_that_cant_be_taken_back_end_writing(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=512,refcount_bits=64", "4M");
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	unsigned left = UINT32_MAX;
	struct engine_hook h = {.opaque = &left, .before = fail_reads};
	struct qcow2_error err = {0};
	struct qcow2_image *image;
	struct meta_run run;
	struct meta *m;

	o.refcount_cache_bytes = 1;
	assert_int_equal(engine_hook_open(&h, path, &o, &image, NULL), 0);
	m = &image->qcow2->meta;
	engine_write(image, 0, 512, 3);
	/* blocks for all of them, so that later only counts are read */
	assert_int_equal(meta_take(m, 64 * 60, LAYOUT_HOST_OFF_MAX, &run, NULL), 0);
	meta_untake(m, &run);
	left = 40;
	assert_int_equal(meta_take(m, 64 * 60, LAYOUT_HOST_OFF_MAX, &run, &err), -EIO);
	assert_int_equal(qcow2_pwrite(image, "x", 1, 4096, 0, &err), -EIO);
	assert_non_null(strstr(err.message, "couldn't be lowered again"));
	h.before = NULL;
	assert_int_equal(qcow2_pwrite(image, "x", 1, 4096, 0, &err), -EIO);
	assert_int_equal(engine_read(image, 0, 512), 3);
	assert_int_equal(qcow2_finish(image, &err), -EIO);
	qcow2_close(image);
	/* nothing but leaks */
	assert_int_equal(QEMU_IMG("check", "-q", path), 3);
	free(path);
}

/* Those that can be lowered again are, and nothing has happened. */
static void test_counts_that_were_raised_are_taken_back(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=512,refcount_bits=64", "4M");
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	unsigned left = UINT32_MAX;
	struct engine_hook h = {.opaque = &left, .before = fail_writes};
	struct qcow2_image *image;
	struct meta_run run;

	assert_int_equal(engine_hook_open(&h, path, &o, &image, NULL), 0);
	assert_int_equal(meta_take(&image->qcow2->meta, 64 * 60, LAYOUT_HOST_OFF_MAX, &run, NULL),
			 0);
	meta_untake(&image->qcow2->meta, &run);
	assert_int_equal(qcow2_finish(image, NULL), 0);
	qcow2_close(image);
	left = UINT32_MAX;
	assert_int_equal(engine_hook_open(&h, path, &o, &image, NULL), 0);
	engine_write(image, 0, 512, 3);
	left = 10; /* blocks are made for all that is taken, and the tenth can't be written */
	assert_int_equal(meta_take(&image->qcow2->meta, 64 * 60, LAYOUT_HOST_OFF_MAX, &run, NULL),
			 -EIO);
	h.before = NULL;
	engine_write(image, 4096, 4096, 4);
	assert_int_equal(qcow2_finish(image, NULL), 0);
	qcow2_close(image);
	assert_int_equal(QEMU_IMG("check", "-q", path), 0);
	free(path);
}

/* ---- the list of those that wait ---- */

#define MANY 4096

/* Every second cluster: none of them are one run with another. */
static void test_what_waits_for_a_commit_doesnt_become_too_much(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=512", "12M");
	struct engine_hook h = {0};
	struct qcow2_image *image;
	struct meta_order *order;
	size_t most = 0;
	uint64_t end;

	assert_int_equal(engine_hook_open(&h, path, NULL, &image, NULL), 0);
	order = &image->qcow2->meta.engine->order;
	engine_write(image, 0, 12288 * KIB, 1);
	assert_int_equal(qcow2_flush(image, NULL), 0);
	end = meta_alloc_end(&image->qcow2->meta);
	h.flushes = 0;
	for (uint64_t off = 0; off < 12288 * KIB; off += 1024) {
		assert_int_equal(qcow2_discard(image, off, 512, NULL), 0);
		most = max_u64(most, atomic_load(&order->ndropped));
	}
	/* nobody asked for a flush */
	assert_in_range(most, MANY - 1, MANY);
	assert_in_range(h.flushes, 2, 6);
	assert_int_equal(order->graves.head, order->graves.count);
	/* and what they left is found again */
	for (uint64_t off = 0; off < 8192 * KIB; off += 1024)
		engine_write(image, off, 512, 2);
	assert_int_equal(meta_alloc_end(&image->qcow2->meta), end);
	assert_int_equal(qcow2_finish(image, NULL), 0);
	qcow2_close(image);
	assert_int_equal(QEMU_IMG("check", "-q", path), 0);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_beyond_the_limit_of_the_table_nothing_is_taken),
		IMAGE_TEST(test_a_count_at_its_maximum_is_left_there),
		IMAGE_TEST(test_counts_that_cant_be_taken_back_end_writing),
		IMAGE_TEST(test_counts_that_were_raised_are_taken_back),
		IMAGE_TEST(test_what_waits_for_a_commit_doesnt_become_too_much),
	};

	return cmocka_run_group_tests_name("engine limits", tests, NULL, NULL);
}
