/* SPDX-License-Identifier: MIT */
#include "check_forge.h"

#include <errno.h>

static void what_the_forger_makes_is_sound(void **state)
{
	struct forge f;

	(void)state;
	for (uint32_t order = 0; order <= 6; order++) {
		forge_new(&f, order);
		forge_expect(&f, 0, 0);
		forge_expect_data(&f);
		assert_int_equal(f.result.allocated_clusters, order > 0 ? 8 : 7);
		assert_int_equal(f.result.compressed_clusters, order > 0 ? 2 : 1);
		assert_int_equal(f.result.image_end_off, FORGE_END * FORGE_CS);
		forge_free(&f);
	}
}

/* But for the header; and nothing of what the guest has is looked at. */
static void each_table_is_read_once(void **state)
{
	uint64_t read[FORGE_END] = {0};
	struct qcow2_storage lower;
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	lower = f.st;
	assert_int_equal(storage_record_new(&f.st, lower, true, NULL), 0);
	assert_int_equal(forge_check(&f, 0), 0);
	for (size_t i = 0; i < storage_record_entries(f.st); i++) {
		struct storage_record_entry e = storage_record_entry(f.st, i);

		assert_true(e.op == STORAGE_OP_READ || e.op == STORAGE_OP_EXTENT);
		for (uint64_t at = 0; e.op == STORAGE_OP_READ && at < e.len_bytes; at++)
			read[(e.host_off + at) / FORGE_CS]++;
	}
	for (uint64_t i = FORGE_REFTABLE; i < FORGE_END; i++)
		assert_in_range(read[i], i < FORGE_DATA, i < FORGE_DATA ? FORGE_CS : 0);
	forge_free(&f);
}

static void every_damage_is_found_and_mended(void **state)
{
	struct forge f;
	uint64_t found;

	(void)state;
	for (size_t i = 0; i < FORGE_DAMAGES; i++) {
		for (uint32_t order = 2; order <= 6; order++) {
			forge_new(&f, order);
			forge_damages[i].apply(&f);
			assert_int_equal(forge_check(&f, 0), 0);
			found = f.result.corruptions;
			assert_true(found > 0);
			assert_int_equal(forge_check(&f, CHECK_REPAIR_ALL), 0);
			assert_int_equal(f.result.corruptions, 0);
			/* Flags follow the counts: as many as were changed, not as were wrong. */
			assert_true(f.result.corruptions_fixed > 0);
			forge_expect(&f, 0, 0);
			assert_true(forge_word(&f, LAYOUT_OFF_INCOMPATIBLE) == 0);
			forge_expect_data(&f);
			forge_free(&f);
		}
	}
}

static void leaks_alone_are_mended_on_demand(void **state)
{
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_set_count(&f, FORGE_END, 1);
	forge_set_count(&f, FORGE_LAST, 2);
	forge_set_word(&f, forge_l2(FORGE_L2_ENTRIES), FORGE_LAST * FORGE_CS);
	forge_expect(&f, 0, 2);
	assert_int_equal(forge_check(&f, CHECK_REPAIR_LEAKS), 0);
	assert_int_equal(f.result.leaks_fixed, 2);
	forge_expect(&f, 0, 0);
	/* The cluster is its entry's alone now. */
	assert_true(forge_word(&f, forge_l2(FORGE_L2_ENTRIES)) & LAYOUT_ENTRY_COPIED);
	forge_free(&f);
}

/* What is lost is in no table: each look reads them once, and the repair doesn't. */
static void leaks_that_nothing_refers_to_take_no_look_at_entries(void **state)
{
	static const unsigned modes[] = {CHECK_REPAIR_LEAKS, CHECK_REPAIR_ALL};

	(void)state;
	for (size_t mode = 0; mode < sizeof(modes) / sizeof(modes[0]); mode++) {
		struct qcow2_storage lower;
		struct forge f;
		uint64_t read = 0;

		forge_new(&f, 4);
		forge_set_count(&f, FORGE_END, 1);
		lower = f.st;
		assert_int_equal(storage_record_new(&f.st, lower, true, NULL), 0);
		assert_int_equal(forge_check(&f, modes[mode]), 0);
		assert_int_equal(f.result.leaks_fixed, 1);
		for (size_t i = 0; i < storage_record_entries(f.st); i++) {
			struct storage_record_entry e = storage_record_entry(f.st, i);

			if (e.op == STORAGE_OP_READ && e.host_off <= FORGE_L2A * FORGE_CS &&
			    e.host_off + e.len_bytes > FORGE_L2A * FORGE_CS)
				read++;
		}
		assert_int_equal(read, 2);
		forge_expect(&f, 0, 0);
		forge_free(&f);
	}
}

static void repairing_leaks_leaves_corruptions(void **state)
{
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_set_count(&f, FORGE_END, 1);
	forge_set_count(&f, FORGE_PACKED, 1);
	forge_expect(&f, 1, 1);
	assert_int_equal(forge_check(&f, CHECK_REPAIR_LEAKS), 0);
	assert_int_equal(f.result.leaks_fixed, 1);
	forge_expect(&f, 1, 0);
	/* Without a structure to write to leaks can't be mended either. */
	forge_no_block(&f);
	assert_int_equal(forge_check(&f, CHECK_REPAIR_LEAKS), 0);
	assert_int_equal(f.result.check_errors, 1);
	forge_free(&f);
}

static void nothing_is_freed_while_references_may_be_hidden(void **state)
{
	struct forge f;

	(void)state;
	for (int rebuild = 0; rebuild < 2; rebuild++) {
		forge_new(&f, 4);
		forge_set_word(&f, FORGE_L1 * FORGE_CS + 8, FORGE_L2B * FORGE_CS + 512);
		forge_set_count(&f, FORGE_PACKED, 1);
		if (rebuild)
			forge_bad_reftable_entry(&f);
		assert_int_equal(forge_check(&f, 0), 0);
		assert_true(f.result.hides_references);
		/* The second L2 table and its data look unused. */
		assert_int_equal(f.result.leaks, 2);
		assert_int_equal(forge_check(&f, CHECK_REPAIR_LEAKS), 0);
		assert_int_equal(forge_count(&f, FORGE_L2B), 1);
		assert_int_equal(forge_check(&f, CHECK_REPAIR_ALL), 0);
		assert_int_equal(f.result.corruptions, 1);
		assert_int_equal(forge_count(&f, FORGE_L2B), 1);
		assert_int_equal(forge_count(&f, FORGE_LAST), 1);
		assert_int_equal(forge_count(&f, FORGE_PACKED), 2);
		/* Nor was anything put where a hidden cluster may be. */
		if (rebuild)
			assert_true(forge_word(&f, LAYOUT_OFF_REFTABLE_OFFSET) >=
				    FORGE_END * FORGE_CS);
		forge_set_word(&f, FORGE_L1 * FORGE_CS + 8,
			       format_l1_encode(FORGE_L2B * FORGE_CS, true));
		forge_expect_data(&f);
		assert_int_equal(forge_check(&f, CHECK_REPAIR_ALL), 0);
		forge_expect(&f, 0, 0);
		forge_free(&f);
	}
}

/* Found by fuzzing: the new refcount table went where the lost L1 table had been. */
static void a_file_that_was_cut_off_is_not_made_longer(void **state)
{
	struct forge f;
	uint64_t size;

	(void)state;
	forge_new(&f, 4);
	forge_no_block(&f);
	assert_int_equal(storage_truncate(f.st, FORGE_L2B * FORGE_CS, NULL), 0);
	assert_int_equal(forge_check(&f, CHECK_REPAIR_ALL), 0);
	assert_int_equal(f.result.check_errors, 1);
	assert_true(f.result.corruptions > 0);
	assert_int_equal(storage_size(f.st, &size, NULL), 0);
	assert_true(size == FORGE_L2B * FORGE_CS);
	assert_int_equal(check_repair_dirty(f.st, &f.err), -EIO);
	forge_free(&f);
}

static void more_references_than_the_width_holds_stay_a_corruption(void **state)
{
	struct forge f;

	(void)state;
	forge_new(&f, 0);
	for (uint64_t i = 20; i < 23; i++)
		forge_set_word(&f, forge_l2(i), FORGE_DATA * FORGE_CS);
	forge_expect(&f, 4, 0); /* and each has the flag of a lone owner to have */
	assert_int_equal(forge_check(&f, CHECK_REPAIR_ALL), 0);
	assert_int_equal(f.result.corruptions, 1);
	forge_free(&f);
}

static void two_owners_both_lose_the_flag(void **state)
{
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_set_word(&f, forge_l2(20), format_l2_encode_normal(FORGE_DATA * FORGE_CS, true));
	forge_expect(&f, 1, 0);
	assert_int_equal(forge_check(&f, CHECK_REPAIR_ALL), 0);
	forge_expect(&f, 0, 0);
	assert_true(forge_word(&f, forge_l2(20)) == FORGE_DATA * FORGE_CS);
	assert_true(forge_word(&f, forge_l2(0)) == FORGE_DATA * FORGE_CS);
	assert_int_equal(forge_count(&f, FORGE_DATA), 2);
	forge_free(&f);
}

/* The counts agree, so that nothing but this would tell. */
static void tables_that_are_data_too_are_found(void **state)
{
	static const struct {
		uint64_t cluster_idx;
		uint64_t corruptions;
	} cases[] = {{FORGE_L2B, 2}, {FORGE_L1, 1}};
	struct forge f;

	(void)state;
	for (int i = 0; i < 2; i++) {
		forge_new(&f, 4);
		forge_set_word(&f, forge_l2(20), cases[i].cluster_idx * FORGE_CS);
		forge_set_count(&f, cases[i].cluster_idx, 2);
		forge_expect(&f, cases[i].corruptions, 0);
		assert_int_equal(forge_check(&f, CHECK_REPAIR_ALL), 0);
		assert_true(f.result.corruptions > 0);
		forge_free(&f);
	}
}

static void an_unaligned_zero_cluster_becomes_a_plain_one(void **state)
{
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_set_word(&f, forge_l2(4), FORGE_ZERO * FORGE_CS + 513);
	forge_expect(&f, 1, 1);
	assert_int_equal(forge_check(&f, CHECK_REPAIR_ALL), 0);
	forge_expect(&f, 0, 0);
	assert_true(forge_word(&f, forge_l2(4)) == 1);
	forge_free(&f);
}

static void a_table_that_is_something_else_is_not_written_to(void **state)
{
	struct forge f;
	uint64_t word;

	(void)state;
	forge_new(&f, 4);
	/* A data cluster as an L2 table: every word of it has reserved bits. */
	forge_set_word(&f, FORGE_L1 * FORGE_CS + 8, FORGE_DATA * FORGE_CS);
	word = forge_word(&f, FORGE_DATA * FORGE_CS);
	assert_int_equal(forge_check(&f, CHECK_REPAIR_ALL), 0);
	assert_true(f.result.corruptions > 0);
	assert_true(forge_word(&f, FORGE_DATA * FORGE_CS) == word);
	forge_free(&f);
}

static void counts_behind_the_end_of_the_file_are_checked(void **state)
{
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_set_count(&f, 1500, 7);
	forge_expect(&f, 0, 1);
	assert_int_equal(f.result.image_end_off, 1501 * FORGE_CS);
	assert_int_equal(forge_check(&f, CHECK_REPAIR_LEAKS), 0);
	forge_expect(&f, 0, 0);
	forge_free(&f);
}

/* ---- the dirty bit ---- */

static void an_image_that_is_not_dirty_is_left_alone(void **state)
{
	struct forge f;
	uint64_t size;

	(void)state;
	forge_new(&f, 4);
	forge_bad_reftable_entry(&f);
	assert_int_equal(check_repair_dirty(f.st, &f.err), 0);
	assert_true(forge_word(&f, FORGE_REFTABLE * FORGE_CS + 8) == 0x1234567);
	assert_int_equal(storage_size(f.st, &size, NULL), 0);
	assert_true(size == FORGE_END * FORGE_CS);
	forge_free(&f);
}

static void a_dirty_image_is_repaired(void **state)
{
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_stale_counts(&f);
	assert_int_equal(check_repair_dirty(f.st, &f.err), 0);
	assert_true(forge_word(&f, LAYOUT_OFF_INCOMPATIBLE) == 0);
	forge_expect(&f, 0, 0);
	forge_free(&f);
}

static void what_cannot_be_repaired_keeps_the_image_dirty(void **state)
{
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_stale_counts(&f);
	forge_set_word(&f, forge_l2(30), FORGE_LAST * FORGE_CS + 512);
	assert_int_equal(check_repair_dirty(f.st, &f.err), 0);
	assert_true(forge_word(&f, LAYOUT_OFF_INCOMPATIBLE) == LAYOUT_INCOMPAT_DIRTY);
	assert_int_equal(forge_check(&f, 0), 0);
	assert_int_equal(f.result.corruptions, 1);
	forge_free(&f);
}

static void an_image_that_cannot_be_examined_is_an_error(void **state)
{
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_set_dirty(&f);
	/* A snapshot table without end. */
	forge_set_word(&f, LAYOUT_OFF_NB_SNAPSHOTS, 0x7fffffffull << 32);
	assert_int_equal(check_repair_dirty(f.st, &f.err), -EIO);
	assert_non_null(strstr(f.err.message, "can't be repaired: 1 parts"));
	assert_true(forge_word(&f, LAYOUT_OFF_INCOMPATIBLE) == LAYOUT_INCOMPAT_DIRTY);
	forge_free(&f);
}

/* ---- reports ---- */

struct heard {
	struct check_report reports[8];
	unsigned n;
	int answer;
};

static int hear(void *opaque, const struct check_report *r)
{
	struct heard *h = opaque;

	if (h->n < 8)
		h->reports[h->n] = *r;
	h->n++;
	return h->answer;
}

static void a_report_says_what_and_where(void **state)
{
	struct heard h = {0};
	struct check_options options = {.report = hear, .opaque = &h};
	struct forge f;
	char text[200];

	(void)state;
	forge_new(&f, 4);
	forge_set_count(&f, 40, 9);
	forge_set_count(&f, 41, 9);
	forge_set_word(&f, forge_l2(1), forge_word(&f, forge_l2(1)) & ~LAYOUT_ENTRY_COPIED);
	assert_int_equal(check_image(f.st, &options, &f.result, &f.err), 0);
	assert_int_equal(h.n, 2);
	assert_string_equal(check_finding_text(&h.reports[1], text, sizeof(text)),
			    "L2 entry with a wrong COPIED flag at 0x7000, guest offset 0x1000:"
			    " 0x7000 in the entry at 0x4008");
	assert_string_equal(check_finding_text(&h.reports[0], text, sizeof(text)),
			    "leaked cluster at 0x28000, 2 clusters: refcount 9, expected 0");
	assert_int_equal(f.result.leaks, 2);
	assert_string_equal(check_finding_text(&h.reports[0], text, 7), "leaked");
	forge_free(&f);
}

static void a_report_can_end_the_check(void **state)
{
	struct heard h = {.answer = -ECANCELED};
	struct check_options options = {.report = hear, .opaque = &h, .repair = CHECK_REPAIR_ALL};
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_stale_counts(&f);
	assert_int_equal(check_image(f.st, &options, &f.result, &f.err), -ECANCELED);
	assert_int_equal(h.n, 1);
	assert_int_equal(forge_count(&f, FORGE_END + 3), 1);
	forge_free(&f);
}

static void what_is_no_image_is_refused(void **state)
{
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	assert_int_equal(storage_truncate(f.st, 90, NULL), 0);
	assert_int_equal(forge_check(&f, CHECK_REPAIR_ALL), -EINVAL);
	assert_non_null(strstr(f.err.message, "can't check the image: the file ends after 90"));
	assert_int_equal(f.result.check_errors, 1);
	forge_free(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_forger_makes_is_sound),
		cmocka_unit_test(each_table_is_read_once),
		cmocka_unit_test(every_damage_is_found_and_mended),
		cmocka_unit_test(leaks_alone_are_mended_on_demand),
		cmocka_unit_test(leaks_that_nothing_refers_to_take_no_look_at_entries),
		cmocka_unit_test(repairing_leaks_leaves_corruptions),
		cmocka_unit_test(nothing_is_freed_while_references_may_be_hidden),
		cmocka_unit_test(a_file_that_was_cut_off_is_not_made_longer),
		cmocka_unit_test(more_references_than_the_width_holds_stay_a_corruption),
		cmocka_unit_test(two_owners_both_lose_the_flag),
		cmocka_unit_test(tables_that_are_data_too_are_found),
		cmocka_unit_test(an_unaligned_zero_cluster_becomes_a_plain_one),
		cmocka_unit_test(a_table_that_is_something_else_is_not_written_to),
		cmocka_unit_test(counts_behind_the_end_of_the_file_are_checked),
		cmocka_unit_test(an_image_that_is_not_dirty_is_left_alone),
		cmocka_unit_test(a_dirty_image_is_repaired),
		cmocka_unit_test(what_cannot_be_repaired_keeps_the_image_dirty),
		cmocka_unit_test(an_image_that_cannot_be_examined_is_an_error),
		cmocka_unit_test(a_report_says_what_and_where),
		cmocka_unit_test(a_report_can_end_the_check),
		cmocka_unit_test(what_is_no_image_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
