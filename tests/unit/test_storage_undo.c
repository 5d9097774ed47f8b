/* SPDX-License-Identifier: MIT */
/*
 * The undo layer: what it lets through, what it saves first, and that the store comes back byte
 * for byte, whatever was cut off where.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/num.h"
#include "storage_tmp.h"

#define SIZE 300000u

/* ---- two stores with one log of what is done to them ---- */

struct step {
	unsigned store;
	enum { WRITE, FLUSH, TRUNCATE } op;
	uint64_t off, len;
	uint8_t *bytes;
};

static struct step steps[4096];
static size_t nsteps;

struct side {
	unsigned store;
	struct qcow2_storage lower;
};

static void log_step(struct side *s, int op, uint64_t off, const uint8_t *bytes, uint64_t len)
{
	struct step *st = &steps[nsteps++];

	assert_true(nsteps < ARRAY_LEN(steps));
	*st = (struct step){s->store, op, off, len, malloc(len + 1)};
	if (bytes)
		memcpy(st->bytes, bytes, len);
}

static int side_size(void *self, uint64_t *size, struct qcow2_error *err)
{
	return storage_size(((struct side *)self)->lower, size, err);
}

static int side_preadv(void *self, const struct iovec *iov, int n, uint64_t off,
		       struct qcow2_error *err)
{
	return storage_readv(((struct side *)self)->lower, iov, n, off, err);
}

static int side_pwritev(void *self, const struct iovec *iov, int n, uint64_t off,
			struct qcow2_error *err)
{
	struct side *s = self;
	uint64_t at = off;

	for (int i = 0; i < n; i++) {
		log_step(s, WRITE, at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	return storage_writev(s->lower, iov, n, off, err);
}

static int side_flush(void *self, struct qcow2_error *err)
{
	(void)err;
	log_step(self, FLUSH, 0, NULL, 0);
	return 0;
}

static int side_truncate(void *self, uint64_t size, struct qcow2_error *err)
{
	log_step(self, TRUNCATE, size, NULL, 0);
	return storage_truncate(((struct side *)self)->lower, size, err);
}

static const struct qcow2_storage_ops side_ops = {
	.kind = "side",
	.size = side_size,
	.preadv = side_preadv,
	.pwritev = side_pwritev,
	.flush = side_flush,
	.truncate = side_truncate,
};

static uint32_t random_state = 7;

static uint32_t random_u32(void)
{
	random_state = random_state * 1664525 + 1013904223;
	return random_state >> 8;
}

/* What the disks of a machine hold whose power went before step cut. */
static void replay(struct qcow2_storage to[2], size_t cut, bool lose)
{
	size_t synced[2] = {0, 0};

	for (size_t i = 0; i < cut; i++)
		if (steps[i].op == FLUSH)
			synced[steps[i].store] = i;
	for (size_t i = 0; i < cut; i++) {
		const struct step *s = &steps[i];
		uint64_t len = s->len;

		if (lose && i >= synced[s->store]) {
			if (random_u32() % 2)
				continue;
			len = random_u32() % 2 ? len : random_u32() % (len + 1);
		}
		if (s->op == WRITE)
			assert_int_equal(
				storage_write(to[s->store], s->bytes, (size_t)len, s->off, NULL),
				0);
		else if (s->op == TRUNCATE)
			assert_int_equal(storage_truncate(to[s->store], s->off, NULL), 0);
	}
}

static void forget_steps(void)
{
	while (nsteps > 0)
		free(steps[--nsteps].bytes);
}

/* ---- a store, and what is done to it ---- */

static uint8_t original[SIZE];

static struct qcow2_storage fresh(void)
{
	struct qcow2_storage st;

	for (size_t i = 0; i < SIZE; i++)
		original[i] = i / 4096 % 3 == 0 ? 0 : (uint8_t)(i * 7 + i / 256);
	assert_int_equal(storage_mem_new(&st, SIZE, NULL), 0);
	assert_int_equal(storage_write(st, original, SIZE, 0, NULL), 0);
	return st;
}

static struct qcow2_storage empty(void)
{
	struct qcow2_storage st;

	assert_int_equal(storage_mem_new(&st, 0, NULL), 0);
	return st;
}

static void expect_original(struct qcow2_storage st)
{
	static uint8_t now[SIZE];
	uint64_t size;

	assert_int_equal(storage_size(st, &size, NULL), 0);
	assert_true(size == SIZE);
	assert_int_equal(storage_read(st, now, SIZE, 0, NULL), 0);
	assert_memory_equal(now, original, SIZE);
}

static void put(struct qcow2_storage st, uint64_t off, size_t len, int value)
{
	static uint8_t bytes[SIZE];

	memset(bytes, value, len);
	assert_int_equal(storage_write(st, bytes, len, off, NULL), 0);
}

static void change(struct qcow2_storage st)
{
	put(st, 0, 100, 1);
	put(st, 70000, 8, 2);
	put(st, 65536, 70000, 3); /* over what was written just now */
	assert_int_equal(storage_flush(st, NULL), 0);
	put(st, 70000, 5000, 4);
	put(st, SIZE - 10, 5000, 5);
	put(st, SIZE + 70000, 9, 6);
	assert_int_equal(storage_zero(st, 200000, 9000, 0, NULL), 0);
	assert_int_equal(storage_flush(st, NULL), 0);
	assert_int_equal(storage_truncate(st, 250000, NULL), 0);
	put(st, 4, 4, 7);
	assert_int_equal(storage_flush(st, NULL), 0);
}

static void everything_comes_back(void **state)
{
	struct qcow2_storage image = fresh(), st;
	struct tmp *t = *state;
	uint8_t byte;

	assert_int_equal(storage_undo_new(&st, image, t->path, &t->err), 0);
	assert_false(storage_undo_is_there(st));
	assert_int_equal(tmp_open(t, 0), -ENOENT);
	change(st);
	assert_int_equal(storage_read(st, &byte, 1, 69999, NULL), 0);
	assert_int_equal(byte, 3);
	assert_int_equal(storage_undo_finish(st, &t->err), 0);
	assert_true(storage_undo_is_there(st));
	storage_close(&st);
	tmp_make(t, 0);
	assert_int_equal(storage_undo_apply(image, t->st, &t->err), 0);
	expect_original(image);
	/* Again: it does no harm. */
	assert_int_equal(storage_undo_apply(image, t->st, &t->err), 0);
	expect_original(image);
	storage_close(&image);
}

static void what_is_held_back_is_seen_by_readers(void **state)
{
	struct qcow2_storage image = fresh(), st;
	struct qcow2_storage_extent x;
	uint8_t byte;
	uint64_t size;

	(void)state;
	assert_int_equal(storage_undo_new_on(&st, image, empty(), NULL), 0);
	put(st, 5000, 10, 9);
	assert_int_equal(storage_read(image, &byte, 1, 5000, NULL), 0);
	assert_int_equal(byte, original[5000]);
	assert_int_equal(storage_read(st, &byte, 1, 100, NULL), 0);
	assert_false(storage_undo_is_there(st));
	assert_int_equal(storage_read(st, &byte, 1, 5009, NULL), 0);
	assert_int_equal(byte, 9);
	assert_true(storage_undo_is_there(st));
	put(st, 2 * SIZE, 10, 9);
	assert_int_equal(storage_extent(st, 2 * SIZE, 10, &x, NULL), 0);
	assert_true(x.is_data);
	put(st, 3 * SIZE, 10, 9);
	assert_int_equal(storage_size(st, &size, NULL), 0);
	assert_true(size == 3 * SIZE + 10);
	for (int i = 0; i < 2000; i++)
		put(st, 8u * (unsigned)i, 8, i);
	put(st, 100, 8, 1);
	storage_close(&st); /* what was held back is lost, as if the power had gone */
	assert_int_equal(storage_read(image, &byte, 1, 100, NULL), 0);
	assert_int_equal(byte, 12);
	storage_close(&image);
}

static void an_undo_file_that_is_there_is_left_alone(void **state)
{
	struct qcow2_storage image = fresh(), st;
	struct tmp *t = *state;
	uint64_t size;

	tmp_make(t, 0);
	put(t->st, 0, 4, 'x');
	assert_int_equal(storage_undo_new(&st, image, t->path, &t->err), 0);
	put(st, 0, 4, 1);
	assert_int_equal(storage_flush(st, &t->err), -EEXIST);
	assert_non_null(strstr(t->err.message, "is there already"));
	assert_int_equal(storage_write(st, "a", 1, 0, &t->err), -EEXIST);
	assert_int_equal(storage_undo_remove(st, &t->err), 0);
	storage_close(&st);
	assert_int_equal(storage_size(t->st, &size, NULL), 0);
	assert_true(size == 4);
	expect_original(image);
	storage_close(&image);
}

/* The n-th operation on the undo file fails: the image is what it was, or can be brought back. */
static void a_full_disk_stops_the_change_before_damage(void **state)
{
	static const enum storage_op ops[] = {STORAGE_OP_WRITE, STORAGE_OP_FLUSH};

	(void)state;
	for (size_t k = 0; k < 2; k++) {
		for (uint64_t n = 0; n < 5; n++) {
			struct storage_fault_rule rule = {.op = ops[k],
							  .nth = n,
							  .times = UINT64_MAX,
							  .code = -ENOSPC,
							  .short_bytes = 50};
			struct qcow2_storage image = fresh(), keep = empty(), file, st;
			struct qcow2_error err = {0};
			uint8_t bytes[4096];
			uint64_t size;
			int ret = 0;

			assert_int_equal(storage_fault_new(&file, keep, NULL), 0);
			assert_int_equal(storage_fault_add(file, &rule), 0);
			assert_int_equal(storage_undo_new_on(&st, image, file, NULL), 0);
			for (int i = 0; ret == 0 && i < 20; i++) {
				put(st, (uint64_t)i * 10000, 9000, i);
				ret = storage_flush(st, &err);
			}
			assert_int_equal(ret, -ENOSPC);
			assert_non_null(strstr(err.message, "can't save what is to be"));
			/* Nor is anything done later on. */
			assert_int_equal(storage_truncate(st, 0, &err), -ENOSPC);
			assert_int_equal(storage_zero(st, 0, 5, 0, &err), -ENOSPC);
			assert_int_equal(storage_write(st, bytes, 1, 0, &err), -ENOSPC);
			storage_fault_clear(file);
			assert_int_equal(storage_size(file, &size, NULL), 0);
			if (size >= 64)
				assert_int_equal(storage_undo_apply(image, file, &err), 0);
			expect_original(image);
			storage_close(&st);
			storage_close(&image);
		}
	}
}

static void a_power_cut_anywhere_can_be_undone(void **state)
{
	struct side image = {0, fresh()}, log = {1, empty()};
	struct qcow2_storage on_image = {&side_ops, &image}, on_log = {&side_ops, &log}, st;

	(void)state;
	assert_int_equal(storage_undo_new_on(&st, on_image, on_log, NULL), 0);
	change(st);
	assert_int_equal(storage_undo_finish(st, NULL), 0);
	storage_close(&st);
	for (size_t cut = 0; cut <= nsteps; cut++) {
		for (unsigned fate = 0; fate < 6; fate++) {
			struct qcow2_storage now[2] = {fresh(), empty()};
			struct qcow2_error err = {0};

			replay(now, cut, fate > 0);
			/* Refused where the header isn't whole: nothing has happened yet then. */
			storage_undo_apply(now[0], now[1], &err);
			expect_original(now[0]);
			storage_close(&now[0]);
			storage_close(&now[1]);
		}
	}
	forget_steps();
	storage_close(&image.lower);
	storage_close(&log.lower);
}

/* A changed store and its undo file, finished or not. */
static void make_pair(struct qcow2_storage *image, struct qcow2_storage *file, bool finish)
{
	struct side side = {0, empty()};
	struct qcow2_storage st;

	*image = fresh();
	assert_int_equal(
		storage_undo_new_on(&st, *image, (struct qcow2_storage){&side_ops, &side}, NULL),
		0);
	change(st);
	if (finish)
		assert_int_equal(storage_undo_finish(st, NULL), 0);
	storage_close(&st);
	forget_steps();
	*file = side.lower;
}

static void a_power_cut_while_undoing_can_be_undone(void **state)
{
	(void)state;
	for (size_t cut = 0, n = 1; cut <= n; cut++) {
		for (unsigned fate = 0; fate < 4; fate++) {
			struct side image = {0, {0}}, log = {1, {0}};
			struct qcow2_storage now[2], file, store;
			struct qcow2_error err = {0};

			make_pair(&image.lower, &log.lower, true);
			store = (struct qcow2_storage){&side_ops, &image};
			file = (struct qcow2_storage){&side_ops, &log};
			assert_int_equal(storage_undo_apply(store, file, &err), 0);
			expect_original(image.lower);
			n = nsteps;
			make_pair(&now[0], &now[1], true);
			/* make_pair has forgotten the steps: once more. */
			storage_close(&image.lower);
			storage_close(&log.lower);
			make_pair(&image.lower, &log.lower, true);
			assert_int_equal(storage_undo_apply(store, file, &err), 0);
			replay(now, cut, fate > 0);
			assert_int_equal(storage_undo_apply(now[0], now[1], &err), 0);
			expect_original(now[0]);
			forget_steps();
			for (int i = 0; i < 2; i++)
				storage_close(&now[i]);
			storage_close(&image.lower);
			storage_close(&log.lower);
		}
	}
}

static void the_wrong_image_is_refused(void **state)
{
	struct qcow2_storage image, file, other;
	struct qcow2_error err = {0};
	uint8_t byte;

	(void)state;
	make_pair(&image, &file, true);
	other = fresh();
	put(other, 1000, 1, 99);
	assert_int_equal(storage_undo_apply(other, file, &err), -EINVAL);
	assert_non_null(strstr(err.message, "is of another image"));
	storage_close(&other);
	/* The right one, but written to since, where the repair has been. */
	put(image, 75001, 1, 77);
	assert_int_equal(storage_undo_apply(image, file, &err), -EINVAL);
	assert_non_null(strstr(err.message, "has been changed since"));
	assert_int_equal(storage_read(image, &byte, 1, 75001, NULL), 0);
	assert_int_equal(byte, 77);
	storage_close(&image);
	storage_close(&file);
}

static void what_is_no_undo_file_is_refused(void **state)
{
	struct qcow2_storage image, file, none = empty();
	struct qcow2_error err = {0};
	uint64_t size;

	(void)state;
	make_pair(&image, &file, true);
	assert_int_equal(storage_undo_apply(image, none, &err), -EINVAL);
	assert_string_equal(err.message, "this is no undo file");
	assert_int_equal(storage_undo_apply(image, image, &err), -EINVAL);
	/* A damaged record in the middle of a finished one: half of it would be worse than none. */
	put(file, 300, 1, 0x55);
	assert_int_equal(storage_undo_apply(image, file, &err), -EIO);
	assert_non_null(strstr(err.message, "the undo file is damaged at 0x"));
	put(file, 20, 1, 0x55);
	assert_int_equal(storage_undo_apply(image, file, &err), -EIO);
	put(file, 11, 1, 9);
	assert_int_equal(storage_undo_apply(image, file, &err), -ENOTSUP);
	assert_int_equal(storage_size(image, &size, NULL), 0);
	assert_true(size == 250000);
	storage_close(&none);
	storage_close(&image);
	storage_close(&file);
}

/* An undo file is anybody's: no record makes it write behind the store, or read without end. */
static void damaged_records_end_the_file(void **state)
{
	(void)state;
	for (uint64_t at = 64; at < 900; at++) {
		struct qcow2_storage image, file;
		uint64_t size;
		uint8_t byte;

		make_pair(&image, &file, false);
		assert_int_equal(storage_read(file, &byte, 1, at, NULL), 0);
		put(file, at, 1, byte ^ 1 << at % 8);
		storage_undo_apply(image, file, NULL);
		assert_int_equal(storage_size(image, &size, NULL), 0);
		assert_true(size == 250000 || size == SIZE);
		storage_close(&image);
		storage_close(&file);
	}
}

static void the_sum_is_the_one_that_everybody_has(void **state)
{
	(void)state;
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TMP_TEST(everything_comes_back),
		cmocka_unit_test(what_is_held_back_is_seen_by_readers),
		TMP_TEST(an_undo_file_that_is_there_is_left_alone),
		cmocka_unit_test(a_full_disk_stops_the_change_before_damage),
		cmocka_unit_test(a_power_cut_anywhere_can_be_undone),
		cmocka_unit_test(a_power_cut_while_undoing_can_be_undone),
		cmocka_unit_test(the_wrong_image_is_refused),
		cmocka_unit_test(what_is_no_undo_file_is_refused),
		cmocka_unit_test(damaged_records_end_the_file),
		cmocka_unit_test(the_sum_is_the_one_that_everybody_has),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
