/* SPDX-License-Identifier: MIT */
/* Refcount entries of every width, against a bit by bit reference of section 9. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "format/geometry.h"
#include "format/refbits.h"

#define BLOCK 512u

static uint64_t max_of(uint32_t order)
{
	return UINT64_MAX >> (64 - (1u << order));
}

/* Section 9 word for word, by bits: below a byte from the least significant, else big-endian. */
static uint64_t reference_get(const uint8_t *block, uint32_t order, uint64_t idx)
{
	uint32_t bits = 1u << order;
	uint64_t value = 0;

	if (bits < 8)
		return (uint64_t)(block[idx * bits / 8] >> (idx * bits % 8)) & max_of(order);
	for (uint32_t i = 0; i < bits / 8; i++)
		value = value << 8 | block[idx * (bits / 8) + i];
	return value;
}

static uint64_t pattern(uint64_t i)
{
	return i * 0x9e3779b97f4a7c15ull ^ (i << 17);
}

static void every_entry_is_where_the_format_says(void **state)
{
	uint8_t block[BLOCK];

	(void)state;
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (uint8_t)(pattern(i) >> 24);
	for (uint32_t order = 0; order <= 6; order++)
		for (uint64_t idx = 0; idx < BLOCK * 8 >> order; idx++)
			assert_true(format_refcount_get(block, order, idx) ==
				    reference_get(block, order, idx));
}

static void setting_an_entry_changes_no_other(void **state)
{
	(void)state;
	for (uint32_t order = 0; order <= 6; order++) {
		uint64_t n = BLOCK * 8 >> order;
		const uint64_t values[] = {0, 1, max_of(order), max_of(order) - 1,
					   max_of(order) / 2 + 1};
		const uint64_t places[] = {0, 1, 2, 3, 7, 8, 9, n / 2, n - 2, n - 1};

		for (size_t p = 0; p < sizeof(places) / sizeof(places[0]); p++) {
			for (size_t v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
				uint8_t block[BLOCK], before[BLOCK];

				for (size_t i = 0; i < sizeof(block); i++)
					block[i] = (uint8_t)(pattern(i + v) >> 16);
				memcpy(before, block, sizeof(block));
				format_refcount_set(block, order, places[p], values[v]);
				for (uint64_t i = 0; i < n; i++)
					assert_true(reference_get(block, order, i) ==
						    (i == places[p]
							     ? values[v]
							     : reference_get(before, order, i)));
			}
		}
	}
}

static void examples_of_fresh_images(void **state)
{
	/* Section 24.3: the first block of an image with four clusters. */
	static const struct {
		uint32_t order;
		uint8_t bytes[4];
	} cases[] = {
		{0, {0x0f}},	   {1, {0x55}},	      {2, {0x11, 0x11}}, {3, {1, 1, 1, 1}},
		{4, {0, 1, 0, 1}}, {5, {0, 0, 0, 1}}, {6, {0, 0, 0, 0}},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t block[BLOCK] = {0};

		format_refcount_fill(block, cases[i].order, 0, 4, 1);
		assert_memory_equal(block, cases[i].bytes, 4);
		assert_true(format_refcount_get(block, cases[i].order, 3) == 1);
		assert_true(format_refcount_get(block, cases[i].order, 4) == 0);
	}
}

static void check_fill(uint32_t order, uint64_t first, uint64_t count, uint64_t value)
{
	uint8_t filled[BLOCK], expected[BLOCK];

	for (size_t i = 0; i < sizeof(filled); i++)
		filled[i] = (uint8_t)(pattern(i + first) >> 40);
	memcpy(expected, filled, sizeof(filled));
	for (uint64_t i = 0; i < count; i++)
		format_refcount_set(expected, order, first + i, value);
	format_refcount_fill(filled, order, first, count, value);
	assert_memory_equal(filled, expected, sizeof(filled));
}

static void filling_is_the_same_as_setting_each(void **state)
{
	(void)state;
	for (uint32_t order = 0; order <= 6; order++) {
		uint64_t n = BLOCK * 8 >> order;

		for (uint64_t first = 0; first < 18; first++) {
			for (uint64_t count = 0; count < 40 && first + count <= n; count++) {
				check_fill(order, first, count, max_of(order));
				check_fill(order, first, count, 0);
				check_fill(order, first, count, pattern(count) & max_of(order));
			}
			check_fill(order, first, n - first, 1);
			check_fill(order, n - 1 - first, first + 1, max_of(order));
		}
		check_fill(order, n, 0, 1);
	}
}

static void a_row_of_the_same_is_told_from_others(void **state)
{
	uint8_t block[BLOCK];

	(void)state;
	for (uint32_t order = 0; order <= 6; order++) {
		uint64_t n = BLOCK * 8 >> order;

		memset(block, 0, sizeof(block));
		format_refcount_fill(block, order, 3, n - 5, 1);
		assert_true(format_refcount_all(block, order, 3, n - 5, 1));
		assert_false(format_refcount_all(block, order, 3, n - 4, 1));
		assert_false(format_refcount_all(block, order, 2, n - 5, 1));
		assert_false(format_refcount_all(block, order, 3, n - 5, 0));
		assert_true(format_refcount_all(block, order, n - 2, 2, 0));
		assert_true(format_refcount_all(block, order, n - 1, 1, 0));
		assert_true(format_refcount_all(block, order, n, 0, 1));
		for (uint64_t i = 3; i < n - 2; i++) {
			format_refcount_set(block, order, i, 0);
			assert_false(format_refcount_all(block, order, 3, n - 5, 1));
			format_refcount_set(block, order, i, 1);
		}
	}
}

/* Each bulk operation against the same done one by one, at every start and length. */
static void bulk_is_the_same_as_one_by_one(void **state)
{
	enum { N = 150 };
	uint8_t block[N * 8], other[N * 8];
	uint64_t values[N];

	(void)state;
	for (uint32_t order = 0; order <= 6; order++) {
		uint64_t max = UINT64_MAX >> (64 - (1u << order));

		for (unsigned i = 0; i < N; i++)
			format_refcount_set(block, order, i, (i / 40 + (i > 130 ? i : 0)) & max);
		for (unsigned idx = 0; idx < N; idx += 3) {
			unsigned count = N - idx - idx % 7, same = 1, found = 0;
			uint64_t first = format_refcount_get(block, order, idx);

			while (same < count &&
			       format_refcount_get(block, order, idx + same) == first)
				same++;
			assert_int_equal(format_refcount_stretch(block, order, idx, count), same);
			while (found < count && format_refcount_get(block, order, idx + found) != 1)
				found++;
			assert_int_equal(format_refcount_find(block, order, idx, count, 1), found);
			format_refcount_load(block, order, idx, count, values);
			for (unsigned i = 0; i < count; i++)
				assert_true(values[i] ==
					    format_refcount_get(block, order, idx + i));
			memcpy(other, block, sizeof(block));
			format_refcount_add(other, order, idx, count, UINT64_MAX);
			for (unsigned i = 0; i < N; i++)
				assert_true(format_refcount_get(other, order, i) ==
					    ((format_refcount_get(block, order, i) -
					      (i >= idx && i < idx + count)) &
					     max));
		}
	}
}

static void filling_an_empty_range_touches_nothing(void **state)
{
	(void)state;
	for (uint32_t order = 0; order <= 6; order++)
		format_refcount_fill(NULL, order, 0, 0, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_entry_is_where_the_format_says),
		cmocka_unit_test(setting_an_entry_changes_no_other),
		cmocka_unit_test(examples_of_fresh_images),
		cmocka_unit_test(filling_is_the_same_as_setting_each),
		cmocka_unit_test(a_row_of_the_same_is_told_from_others),
		cmocka_unit_test(bulk_is_the_same_as_one_by_one),
		cmocka_unit_test(filling_an_empty_range_touches_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
