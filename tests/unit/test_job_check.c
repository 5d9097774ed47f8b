/* SPDX-License-Identifier: MIT */
/* qcow2_check and qcow2_check_storage: findings, phases, progress, refusals. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "check_forge.h"

struct heard {
	unsigned phases[4], notes, cancel_after;
	char code[32], sentence[256];
	uint64_t entry_index;
	unsigned ticks;
	int tick_answer;
};

static int hear(void *opaque, const struct qcow2_check_finding *f)
{
	struct heard *h = opaque;

	if (f->severity == QCOW2_CHECK_NOTE) {
		h->notes++;
		return 0;
	}
	h->phases[f->phase]++;
	snprintf(h->code, sizeof(h->code), "%s", f->code);
	snprintf(h->sentence, sizeof(h->sentence), "%s", f->sentence);
	h->entry_index = f->entry_index;
	assert_int_equal(f->cluster_bytes, FORGE_CS);
	return h->cancel_after != 0 && --h->cancel_after == 0;
}

static int tick(void *opaque, uint64_t done, uint64_t total)
{
	struct heard *h = opaque;

	assert_true(done <= total);
	h->ticks++;
	return h->tick_answer;
}

static int check(struct forge *f, struct heard *h, unsigned repair, struct qcow2_check_result *r)
{
	struct qcow2_check_options options = QCOW2_CHECK_OPTIONS_INIT;

	options.repair = repair;
	options.finding = hear;
	options.opaque = h;
	options.progress.tick = tick;
	options.progress.opaque = h;
	return qcow2_check_storage(f->st, &options, r, &f->err);
}

static void findings_come_with_their_places(void **state)
{
	struct qcow2_check_result r;
	struct heard h = {0};
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_set_word(&f, forge_l2(1), forge_word(&f, forge_l2(1)) & ~LAYOUT_ENTRY_COPIED);
	assert_int_equal(check(&f, &h, QCOW2_REPAIR_NONE, &r), 0);
	assert_string_equal(r.format, "qcow2");
	assert_int_equal(r.corruptions, 1);
	assert_int_equal(h.phases[QCOW2_CHECK_FOUND], 1);
	assert_string_equal(h.code, "l2-copied");
	assert_int_equal(h.entry_index, 1);
	assert_non_null(strstr(h.sentence, "wrong COPIED flag"));
	assert_true(h.ticks > 0);
	forge_free(&f);
}

static void a_repair_tells_what_it_does(void **state)
{
	struct qcow2_check_result r;
	struct heard h = {0};
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_set_count(&f, 40, 9);
	forge_set_word(&f, LAYOUT_OFF_INCOMPATIBLE, LAYOUT_INCOMPAT_DIRTY);
	assert_int_equal(check(&f, &h, QCOW2_REPAIR_ALL, &r), 0);
	assert_int_equal(h.phases[QCOW2_CHECK_FOUND], 1);
	assert_int_equal(h.phases[QCOW2_CHECK_REPAIRED], 1);
	assert_int_equal(h.phases[QCOW2_CHECK_LEFT], 0);
	assert_int_equal(h.notes, 1);
	assert_int_equal(r.leaks, 0);
	assert_int_equal(r.leaks_fixed, 1);
	assert_int_equal(forge_word(&f, LAYOUT_OFF_INCOMPATIBLE), 0);
	forge_free(&f);
}

static void what_a_repair_leaves_is_told_again(void **state)
{
	struct qcow2_check_result r;
	struct heard h = {0};
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_set_count(&f, 40, 9);
	forge_set_count(&f, FORGE_PACKED, 1);
	assert_int_equal(check(&f, &h, QCOW2_REPAIR_LEAKS, &r), 0);
	assert_int_equal(h.phases[QCOW2_CHECK_FOUND], 2);
	assert_int_equal(h.phases[QCOW2_CHECK_REPAIRED], 1);
	assert_int_equal(h.phases[QCOW2_CHECK_KEPT], 1);
	assert_int_equal(h.phases[QCOW2_CHECK_LEFT], 1);
	assert_int_equal(r.corruptions, 1);
	forge_free(&f);
}

static void the_caller_can_end_it(void **state)
{
	struct qcow2_check_result r;
	struct heard h = {.cancel_after = 1};
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	forge_set_count(&f, 40, 9);
	assert_int_equal(check(&f, &h, QCOW2_REPAIR_ALL, &r), -ECANCELED);
	assert_string_equal(f.err.message, "canceled");
	assert_int_equal(forge_count(&f, 40), 9);
	h = (struct heard){.tick_answer = 1};
	assert_int_equal(check(&f, &h, QCOW2_REPAIR_ALL, &r), -ECANCELED);
	assert_int_equal(forge_count(&f, 40), 9);
	forge_free(&f);
}

static void what_makes_no_sense_is_refused(void **state)
{
	struct qcow2_check_options options = QCOW2_CHECK_OPTIONS_INIT;
	struct qcow2_check_result r;
	struct forge f;

	(void)state;
	forge_new(&f, 4);
	options.repair = 3;
	assert_int_equal(qcow2_check_storage(f.st, &options, &r, &f.err), -EINVAL);
	options.repair = QCOW2_REPAIR_ALL;
	options.flags = QCOW2_OPEN_FORCE_SHARE;
	assert_int_equal(qcow2_check_storage(f.st, &options, &r, &f.err), -EINVAL);
	assert_non_null(strstr(f.err.message, "others may be writing"));
	options = (struct qcow2_check_options)QCOW2_CHECK_OPTIONS_INIT;
	options.format = "raw";
	assert_int_equal(qcow2_check_storage(f.st, &options, &r, &f.err), -ENOTSUP);
	assert_string_equal(r.format, "raw");
	options.format = "vdi";
	assert_int_equal(qcow2_check_storage(f.st, &options, &r, &f.err), -ENOTSUP);
	assert_null(r.format);
	assert_int_equal(qcow2_check("/nonexistent/image", NULL, &r, &f.err), -ENOENT);
	forge_free(&f);
}

static void an_undo_file_takes_it_back(void **state)
{
	struct qcow2_check_options options = QCOW2_CHECK_OPTIONS_INIT;
	char path[] = "/tmp/undo-XXXXXX";
	struct qcow2_storage file;
	struct qcow2_check_result r;
	struct forge f;

	(void)state;
	close(mkstemp(path));
	forge_new(&f, 4);
	forge_set_count(&f, FORGE_PACKED, 1);
	options.repair = QCOW2_REPAIR_ALL;
	options.undo_path = path;
	assert_int_equal(qcow2_check_storage(f.st, &options, &r, &f.err), -EEXIST);
	assert_false(r.undo_left);
	assert_int_equal(forge_count(&f, FORGE_PACKED), 1);
	unlink(path);
	options.undo_flags = QCOW2_UNDO_KEEP;
	assert_int_equal(qcow2_check_storage(f.st, &options, &r, &f.err), 0);
	assert_true(r.undo_left);
	assert_int_equal(forge_count(&f, FORGE_PACKED), 2);
	assert_int_equal(storage_file_open(&file, path, STORAGE_FILE_WRITE, NULL), 0);
	assert_int_equal(storage_undo_apply(f.st, file, &f.err), 0);
	assert_int_equal(forge_count(&f, FORGE_PACKED), 1);
	storage_close(&file);
	assert_int_equal(qcow2_check_undo("/nonexistent/image", path, 0, 0, &f.err), -ENOENT);
	assert_int_equal(qcow2_check_undo("/nonexistent/image", path, 0, 2, &f.err), -EINVAL);
	options.undo_flags = 2;
	assert_int_equal(qcow2_check_storage(f.st, &options, &r, &f.err), -EINVAL);
	unlink(path);
	forge_free(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(findings_come_with_their_places),
		cmocka_unit_test(a_repair_tells_what_it_does),
		cmocka_unit_test(what_a_repair_leaves_is_told_again),
		cmocka_unit_test(the_caller_can_end_it),
		cmocka_unit_test(what_makes_no_sense_is_refused),
		cmocka_unit_test(an_undo_file_takes_it_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
