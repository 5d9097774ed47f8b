/* SPDX-License-Identifier: MIT */
/*
 * The judges of the harnesses can say no: the audit sees damage in images that the real qemu-img
 * made, and what is expected of a disk after a crash isn't just anything.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/num.h"
#include "engine/run.h"

#define K 1024ull

static const struct world_config kinds[] = {
	{.version = 3, .cluster_bits = 9, .refcount_bits = 1, .size = 100 * K},
	{.version = 3, .cluster_bits = 9, .refcount_bits = 64, .size = 300 * K},
	{.version = 3, .cluster_bits = 12, .refcount_bits = 4, .size = 300 * K, .snapshots = true},
	{.version = 2,
	 .cluster_bits = 16,
	 .refcount_bits = 16,
	 .size = 1024 * K,
	 .snapshots = true},
	{.version = 3, .cluster_bits = 14, .refcount_bits = 16, .size = 1024 * K, .extended = true},
	{.version = 3, .cluster_bits = 12, .refcount_bits = 16, .size = 300 * K, .data = DATA_FILE},
};

static void qemu_io(struct world *w, const char *const *commands)
{
	const char *argv[16] = {"qemu-io", "-f", "qcow2"};
	unsigned n = 3;

	for (unsigned i = 0; commands[i]; i++) {
		argv[n++] = "-c";
		argv[n++] = commands[i];
	}
	argv[n] = w->image_path;
	if (world_run(w, argv) != 0) {
		world_complain_of_output(w, "qemu-io", w->image_path, 1);
		fail();
	}
}

static void make(struct world *w, const struct world_config *c)
{
	static const char *const plain[] = {"write -P 7 0 30k", "write -P 8 50k 20k",
					    "write -z 10k 16k", "discard 54k 8k", NULL};
	static const char *const packed[] = {"write -c -P 9 80k 4k", "write -c -P 6 84k 4k", NULL};
	static const char *const large[] = {"write -c -P 9 192k 64k", "write -c -P 6 128k 64k",
					    NULL};

	assert_int_equal(world_make(w, c, 1), 0);
	qemu_io(w, plain);
	if (c->data == DATA_INSIDE)
		qemu_io(w, c->cluster_bits > 12 ? large : packed);
	assert_int_equal(flat_load(&w->file, w->image_path), 0);
}

static void an_image_of_qemu_is_found_sound(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		struct world w;
		struct audit a;

		make(&w, &kinds[i]);
		assert_int_equal(world_audit(&w, "made by qemu-io", &a), 0);
		assert_int_equal(a.leaks, 0);
		assert_int_equal(a.size_bytes, kinds[i].size);
		assert_int_equal(a.data_clusters > 0, kinds[i].data == DATA_INSIDE);
		assert_int_equal(a.packed_clusters > 0, kinds[i].data == DATA_INSIDE);
		world_release(&w);
	}
}

/* The place of the table that the entry at table_off + 8 * idx points to. */
static uint64_t target(const struct world *w, uint64_t table_off)
{
	return load_be64(w->file.bytes + table_off) & 0x00fffffffffffe00ull;
}

static void a_count_that_is_wrong_is_seen(void **state)
{
	uint64_t block, l1;
	struct world w;
	struct audit a;

	(void)state;
	make(&w, &kinds[3]); /* 16-bit counts */
	block = target(&w, load_be64(w.file.bytes + 48));
	l1 = load_be64(w.file.bytes + 40);
	for (unsigned c = 0; c < w.file.size >> 16; c++) {
		uint8_t *count = w.file.bytes + block + c * 2;
		uint16_t right = load_be16(count);

		store_be16(count, (uint16_t)(right + 1));
		audit_image(w.file.bytes, w.file.size, &a);
		assert_true(a.leaks > 0 || a.corruptions > 0);
		if (right > 0) {
			store_be16(count, (uint16_t)(right - 1));
			audit_image(w.file.bytes, w.file.size, &a);
			assert_true(a.corruptions > 0);
		}
		store_be16(count, right);
	}
	w.file.bytes[l1] ^= 0x80;
	audit_image(w.file.bytes, w.file.size, &a);
	assert_true(a.corruptions > 0);
	world_release(&w);
}

static void two_owners_of_a_cluster_are_seen(void **state)
{
	uint64_t l2, first, second;
	struct world w;
	struct audit a;

	(void)state;
	make(&w, &kinds[1]);
	l2 = target(&w, load_be64(w.file.bytes + 40));
	first = load_be64(w.file.bytes + l2);
	second = load_be64(w.file.bytes + l2 + 8);
	store_be64(w.file.bytes + l2 + 8, first);
	audit_image(w.file.bytes, w.file.size, &a);
	assert_true(a.corruptions > 0);
	assert_int_equal(a.leaks, 1);
	/* the L2 table as data */
	store_be64(w.file.bytes + l2 + 8, l2 | 1ull << 63);
	audit_image(w.file.bytes, w.file.size, &a);
	assert_true(a.corruptions > 0);
	store_be64(w.file.bytes + l2 + 8, second);
	audit_image(w.file.bytes, w.file.size, &a);
	assert_int_equal(a.corruptions + a.leaks, 0);
	world_release(&w);
}

/* ---- after a crash ---- */

#define DISK 4096u

static uint8_t ones[1024], twos[1024];

/* Ones everywhere from 0 on, flushed; then twos from 512 on; then zeros from 1024 on. */
static void setup_history(struct history *h, struct event *events)
{
	memset(ones, 1, sizeof(ones));
	memset(twos, 2, sizeof(twos));
	events[0] = (struct event){.len = 1024, .bytes = ones, .start = 0, .end = 1};
	events[1] = (struct event){.kind = EVENT_FLUSH, .start = 1, .end = 2};
	events[2] =
		(struct event){.guest_off = 512, .len = 1024, .bytes = twos, .start = 2, .end = 3};
	events[3] = (struct event){.guest_off = 1024, .len = 512, .start = 3, .end = 4};
	for (unsigned i = 0; i < 4; i++) {
		events[i].began = 2 * i;
		events[i].ended = 2 * i + 1;
	}
	*h = (struct history){.events = events, .count = 4};
}

static int judge(const struct history *h, size_t cut, const uint8_t *disk, uint64_t size)
{
	const struct world w = {.max_size = DISK, .total = DISK};
	static uint8_t before[DISK];
	struct expected x;
	int ret;

	expected_init(&x, h, &w, before, DISK);
	for (size_t i = 0; i <= cut; i++)
		expected_advance(&x, i);
	ret = expected_check(&x, disk, size, "(expected)");
	expected_release(&x);
	return ret;
}

static void what_was_flushed_has_to_be_there(void **state)
{
	struct event events[4];
	struct history h;
	uint8_t disk[DISK] = {0};

	(void)state;
	setup_history(&h, events);
	assert_int_equal(judge(&h, 1, disk, DISK), 0);
	assert_int_equal(judge(&h, 2, disk, DISK), -1);
	memset(disk, 1, 1024);
	assert_int_equal(judge(&h, 0, disk, DISK), -1);
	assert_int_equal(judge(&h, 1, disk, DISK), 0);
	assert_int_equal(judge(&h, 2, disk, DISK), 0);
	assert_int_equal(judge(&h, 2, disk, DISK - 512), -1);
}

static void what_was_not_flushed_is_old_or_new(void **state)
{
	struct event events[4];
	struct history h;
	uint8_t disk[DISK] = {0};

	(void)state;
	setup_history(&h, events);
	memset(disk, 1, 1024);
	memset(disk + 700, 2, 100);
	assert_int_equal(judge(&h, 3, disk, DISK), 0);
	disk[900] = 0; /* nobody wrote zeros here */
	assert_int_equal(judge(&h, 3, disk, DISK), -1);
	disk[900] = 1;
	memset(disk + 1024, 2, 300);
	assert_int_equal(judge(&h, 4, disk, DISK), 0);
	disk[2000] = 2; /* and nothing here */
	assert_int_equal(judge(&h, 4, disk, DISK), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_image_of_qemu_is_found_sound),
		cmocka_unit_test(a_count_that_is_wrong_is_seen),
		cmocka_unit_test(two_owners_of_a_cluster_are_seen),
		cmocka_unit_test(what_was_flushed_has_to_be_there),
		cmocka_unit_test(what_was_not_flushed_is_old_or_new),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
