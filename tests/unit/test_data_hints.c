/* SPDX-License-Identifier: MIT */
/*
 * Hints for long chains: a chain maps to the same runs with them as without, whatever its layers
 * have and however long they are; and once a place is known few layers are asked for it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "data/data.h"

#define LAYERS 300u
#define SECTOR 512u
#define SECTORS 4096u /* of the disk: 2 MiB */

/* A disk whose sectors are data, zeros or absent. */
struct fake {
	struct disk disk;
	unsigned number;
	uint8_t kind[SECTORS]; /* enum disk_run_kind */
	unsigned asked;
};

struct chain {
	struct fake *fakes;
	struct disk *disks[LAYERS];
	struct data_layers with, without;
};

static uint64_t seed = 88172645463325252ull;

static uint64_t random_below(uint64_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % n;
}

static int fake_map(struct disk *disk, uint64_t guest_off, uint64_t len, struct disk_run *run,
		    struct qcow2_error *err)
{
	struct fake *f = (struct fake *)disk;
	uint64_t first = guest_off / SECTOR, end = (guest_off + len + SECTOR - 1) / SECTOR, n;

	(void)err;
	f->asked++;
	assert_true(len > 0 && guest_off + len <= disk->size_bytes);
	for (n = first + 1; n < end && f->kind[n] == f->kind[first]; n++)
		;
	*run = (struct disk_run){.kind = f->kind[first], .host_off = f->number};
	run->len_bytes = n * SECTOR - guest_off < len ? n * SECTOR - guest_off : len;
	return 0;
}

static const struct disk_ops fake_ops = {.format = "fake", .map = fake_map, .map_cached = NULL};

static void fill(struct fake *f)
{
	unsigned runs = (unsigned)random_below(4);

	while (runs-- > 0) {
		uint64_t at = random_below(SECTORS);
		uint64_t n = 1 + random_below(SECTORS >> random_below(10));
		uint8_t kind = random_below(3) ? DISK_RUN_DATA : DISK_RUN_ZERO;

		for (; n > 0 && at < SECTORS; at++, n--)
			f->kind[at] = kind;
	}
}

/* One in sparse layers has something in it, one in ten is shorter than the disk. */
static void make_chain(struct chain *c, unsigned count, unsigned sparse)
{
	c->fakes = calloc(count, sizeof(*c->fakes));
	assert_non_null(c->fakes);
	for (unsigned i = 0; i < count; i++) {
		struct fake *f = &c->fakes[i];

		f->disk.ops = &fake_ops;
		f->disk.size_bytes = SECTORS * SECTOR;
		if (i > 0 && random_below(10) == 0)
			f->disk.size_bytes = (1 + random_below(SECTORS)) * SECTOR;
		f->number = i;
		if (random_below(sparse) == 0)
			fill(f);
		c->disks[i] = &f->disk;
	}
	c->without = (struct data_layers){.disks = c->disks, .count = count};
	c->with = c->without;
	c->with.hints = data_hints_new(SECTORS * SECTOR);
	assert_non_null(c->with.hints);
}

static void free_chain(struct chain *c)
{
	data_hints_free(c->with.hints);
	free(c->fakes);
}

/* The run with hints may be cut shorter, at a granule; what it says of its part is the same. */
static void same_runs(const struct chain *c, uint64_t off, uint64_t len)
{
	while (len > 0) {
		struct data_run a, b;
		uint64_t n;

		assert_int_equal(data_map(&c->with, off, len, &a, NULL), 0);
		assert_int_equal(data_map(&c->without, off, len, &b, NULL), 0);
		assert_int_equal(a.run.kind, b.run.kind);
		assert_int_equal(a.depth, b.depth);
		assert_int_equal(a.past_end, b.past_end);
		assert_int_equal(a.run.host_off, b.run.host_off);
		assert_in_range(a.run.len_bytes, 1, len);
		n = a.run.len_bytes < b.run.len_bytes ? a.run.len_bytes : b.run.len_bytes;
		off += n;
		len -= n;
	}
}

static void the_same_is_found_with_hints(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 40; round++) {
		unsigned count = 3 + (unsigned)random_below(LAYERS - 2);
		struct chain c;

		make_chain(&c, count, 1 + (unsigned)random_below(60));
		for (unsigned i = 0; i < 150; i++) {
			uint64_t off = random_below(SECTORS);
			uint64_t max = SECTORS >> random_below(12);
			uint64_t n = 1 + random_below(max < SECTORS - off ? max : SECTORS - off);

			same_runs(&c, off * SECTOR, n * SECTOR);
			if (i % 50 == 49) /* the top may change */
				fill(&c.fakes[0]);
		}
		free_chain(&c);
	}
}

static unsigned asked(const struct chain *c)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->with.count; i++)
		n += c->fakes[i].asked;
	return n;
}

static void few_layers_are_asked_once_a_place_is_known(void **state)
{
	struct data_run r;
	struct chain c;
	unsigned before;

	(void)state;
	make_chain(&c, LAYERS, UINT32_MAX);
	for (unsigned i = 0; i < LAYERS; i++)
		c.fakes[i].disk.size_bytes = SECTORS * SECTOR;
	for (unsigned i = 0; i < SECTORS; i++)
		c.fakes[LAYERS - 1].kind[i] = DISK_RUN_DATA;
	assert_int_equal(data_map(&c.with, 0, SECTOR, &r, NULL), 0);
	before = asked(&c);
	assert_int_equal(data_map(&c.with, 1000 * SECTOR, SECTOR, &r, NULL), 0);
	assert_in_range(asked(&c) - before, LAYERS, LAYERS + 3); /* another granule */
	before = asked(&c);
	assert_int_equal(data_map(&c.with, 1003 * SECTOR, 3 * SECTOR, &r, NULL), 0);
	assert_int_equal(asked(&c) - before, 2); /* the top, and who has it */
	assert_int_equal(r.depth, LAYERS - 1);
	assert_int_equal(r.run.len_bytes, 3 * SECTOR);
	free_chain(&c);
}

/* A disk of any size costs little until it is read. */
static void huge_disks_have_hints_too(void **state)
{
	struct data_hints *h = data_hints_new(UINT64_MAX / 2);

	(void)state;
	assert_non_null(h);
	data_hints_free(h);
	h = data_hints_new(0);
	assert_non_null(h);
	data_hints_free(h);
}

int main(void)
{
	const char *given = getenv("QCOW2_TEST_SEED");
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_same_is_found_with_hints),
		cmocka_unit_test(few_layers_are_asked_once_a_place_is_known),
		cmocka_unit_test(huge_disks_have_hints_too),
	};

	if (given)
		seed = strtoull(given, NULL, 0) | 1;
	printf("# QCOW2_TEST_SEED=%llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
