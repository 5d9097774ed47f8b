/* SPDX-License-Identifier: MIT */
/*
 * A repair that is interrupted: by a power cut at every write, with what wasn't flushed lost, kept
 * or torn, and by every read, write, flush and allocation that can fail. The same repair finishes
 * what was begun, and nothing that a reader sees has changed; or what was done is taken back.
 */
#include "check_forge.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/num.h"

static uint32_t random_state = 2026;

static uint32_t random_u32(void)
{
	random_state = random_state * 1664525 + 1013904223;
	return random_state >> 8;
}

/* ---- power cuts ---- */

enum fate { KEEP_ALL, DROP_UNSYNCED, LAST_ONLY, SOME, FATES = 6 };

/* What of a write reaches the disk; torn at sectors. */
static void replay_write(struct forge *f, const struct storage_record_entry *e, unsigned fate)
{
	uint64_t len;

	for (uint64_t at = 0; at < e->len_bytes; at += len) {
		len = min_u64(e->len_bytes - at, 512 - (e->host_off + at) % 512);
		if (fate == KEEP_ALL || (fate >= SOME && random_u32() % 2))
			assert_int_equal(storage_write(f->st, e->bytes + at, (size_t)len,
						       e->host_off + at, NULL),
					 0);
	}
}

static void replay(struct forge *f, struct qcow2_storage log, size_t cut, unsigned fate)
{
	size_t synced = 0, last = 0;

	for (size_t i = 0; i < cut; i++) {
		if (storage_record_entry(log, i).op == STORAGE_OP_FLUSH)
			synced = i;
		if (storage_record_entry(log, i).op == STORAGE_OP_WRITE)
			last = i;
	}
	for (size_t i = 0; i < cut; i++) {
		struct storage_record_entry e = storage_record_entry(log, i);

		assert_true(e.op == STORAGE_OP_WRITE || e.op == STORAGE_OP_FLUSH ||
			    e.op == STORAGE_OP_READ || e.op == STORAGE_OP_EXTENT);
		if (e.op == STORAGE_OP_WRITE)
			replay_write(f, &e,
				     i < synced || (fate == LAST_ONLY && i == last) ? KEEP_ALL
										    : fate);
	}
}

/* A missing COPIED flag costs a copy, nothing else. */
static int count_harm(void *opaque, const struct check_report *r)
{
	bool copied = r->finding == CHECK_L1_COPIED || r->finding == CHECK_L2_COPIED;
	uint64_t *harm = opaque;

	if (check_finding_kind(r->finding) == CHECK_KIND_CORRUPTION &&
	    !(copied && !(r->stored & LAYOUT_ENTRY_COPIED)))
		*harm += r->nclusters;
	return 0;
}

static uint64_t harm_in(struct forge *f)
{
	uint64_t harm = 0;
	struct check_options options = {.report = count_harm, .opaque = &harm};

	assert_int_equal(check_image(f->st, &options, &f->result, &f->err), 0);
	return harm;
}

static void finish_after(const struct forge_damage *damage, uint32_t order,
			 struct qcow2_storage log, size_t cut, unsigned fate, uint64_t before)
{
	struct forge f;

	forge_new(&f, order);
	damage->apply(&f);
	replay(&f, log, cut, fate);
	/* Never worse than it was, and what says that it is damaged still says so. */
	assert_true(harm_in(&f) <= before);
	if (f.result.corruptions > 0 && damage->apply == forge_stale_counts)
		assert_true(forge_word(&f, LAYOUT_OFF_INCOMPATIBLE) == LAYOUT_INCOMPAT_DIRTY);
	assert_int_equal(forge_check(&f, CHECK_REPAIR_ALL), 0);
	forge_expect(&f, 0, 0);
	assert_true(forge_word(&f, LAYOUT_OFF_INCOMPATIBLE) == 0);
	forge_expect_data(&f);
	forge_free(&f);
}

static void cut_everywhere(const struct forge_damage *damage, uint32_t order)
{
	struct qcow2_storage lower;
	struct forge f;
	uint64_t before;
	size_t n;

	forge_new(&f, order);
	damage->apply(&f);
	before = harm_in(&f);
	lower = f.st;
	assert_int_equal(storage_record_new(&f.st, lower, true, NULL), 0);
	assert_int_equal(forge_check(&f, CHECK_REPAIR_ALL), 0);
	n = storage_record_entries(f.st);
	for (size_t cut = 0; cut <= n; cut++) {
		enum storage_op op =
			cut < n ? storage_record_entry(f.st, cut).op : STORAGE_OP_FLUSH;

		if (op != STORAGE_OP_WRITE && op != STORAGE_OP_FLUSH)
			continue;
		for (unsigned fate = 0; fate < FATES; fate++)
			finish_after(damage, order, f.st, cut, fate, before);
	}
	forge_free(&f);
}

static void a_power_cut_anywhere_can_be_finished(void **state)
{
	(void)state;
	for (size_t i = 0; i < FORGE_DAMAGES; i++) {
		cut_everywhere(&forge_damages[i], 4);
		cut_everywhere(&forge_damages[i], 2);
	}
}

/* ---- the same where something is given up, or moved ---- */

#define REPAIR (CHECK_REPAIR_ALL | CHECK_REPAIR_CLEAR)
#define GUEST_CLUSTERS (FORGE_L2_ENTRIES + 10)

struct seen {
	int byte[2][GUEST_CLUSTERS];
};

/* What a reader of the disk sees, and one of its snapshot. */
static void see(struct forge *f, struct seen *s)
{
	uint64_t l1[2];
	unsigned n = forge_disks(f, l1);

	assert_true(n == 1 || l1[0] != l1[1]);
	memset(s, 0, sizeof(*s));
	for (unsigned k = 0; k < n; k++)
		for (uint64_t i = 0; i < GUEST_CLUSTERS; i++)
			if (i != 5 && i != 6)
				s->byte[k][i] = forge_read(f, l1[k], i);
}

static void finish_losing(const struct forge_damage *damage, struct qcow2_storage log, size_t cut,
			  unsigned fate, const struct seen *expected, uint64_t before)
{
	struct seen seen;
	struct forge f;

	forge_new(&f, 4);
	damage->apply(&f);
	replay(&f, log, cut, fate);
	assert_true(harm_in(&f) <= before);
	assert_int_equal(forge_check(&f, REPAIR), 0);
	forge_expect(&f, 0, 0);
	see(&f, &seen);
	assert_memory_equal(&seen, expected, sizeof(seen));
	forge_free(&f);
}

static void lose_everywhere(const struct forge_damage *damage)
{
	struct qcow2_storage lower;
	struct seen expected;
	struct forge f;
	uint64_t before;
	size_t n;

	forge_new(&f, 4);
	damage->apply(&f);
	before = harm_in(&f);
	assert_true(before > 0);
	lower = f.st;
	assert_int_equal(storage_record_new(&f.st, lower, true, NULL), 0);
	assert_int_equal(forge_check(&f, REPAIR), 0);
	assert_int_equal(f.result.corruptions + f.result.leaks + f.result.check_errors, 0);
	n = storage_record_entries(f.st);
	see(&f, &expected);
	for (size_t cut = 0; cut < n; cut++) {
		enum storage_op op = storage_record_entry(f.st, cut).op;

		if (op != STORAGE_OP_WRITE && op != STORAGE_OP_FLUSH)
			continue;
		for (unsigned fate = 0; fate < FATES; fate++)
			finish_losing(damage, f.st, cut, fate, &expected, before);
	}
	forge_free(&f);
}

static void what_is_moved_or_given_up_can_be_cut_too(void **state)
{
	(void)state;
	for (size_t i = 0; i < FORGE_LOSSES; i++)
		lose_everywhere(&forge_losses[i]);
}

/* ---- faults ---- */

static void finish_after_fault(struct forge *f)
{
	assert_int_equal(forge_check(f, CHECK_REPAIR_ALL), 0);
	forge_expect(f, 0, 0);
	forge_expect_data(f);
}

/* The n-th operation fails. Returns whether there was one. */
static bool fail_nth(const struct forge_damage *damage, enum storage_op op, uint64_t nth,
		     uint64_t times)
{
	struct storage_fault_rule rule = {
		.op = op, .nth = nth, .times = times, .code = -ENOSPC, .short_bytes = 700};
	struct qcow2_storage lower;
	struct forge f;
	bool hit;
	int ret;

	forge_new(&f, 4);
	damage->apply(&f);
	lower = f.st;
	assert_int_equal(storage_fault_new(&f.st, lower, NULL), 0);
	assert_int_equal(storage_fault_add(f.st, &rule), 0);
	ret = forge_check(&f, CHECK_REPAIR_ALL);
	hit = storage_fault_seen(f.st, op) > nth;
	if (hit) {
		assert_int_equal(ret, -ENOSPC);
		assert_true(f.err.message[0] != '\0');
		assert_true(f.result.check_errors > 0);
	} else {
		assert_int_equal(ret, 0);
	}
	storage_fault_clear(f.st);
	finish_after_fault(&f);
	forge_free(&f);
	return hit;
}

static void any_failing_operation_is_said_and_can_be_finished(void **state)
{
	static const enum storage_op ops[] = {STORAGE_OP_READ, STORAGE_OP_WRITE, STORAGE_OP_FLUSH};

	(void)state;
	for (size_t i = 0; i < FORGE_DAMAGES; i++) {
		for (size_t k = 0; k < ARRAY_LEN(ops); k++) {
			uint64_t n = 0;

			while (fail_nth(&forge_damages[i], ops[k], n, 1))
				n++;
			assert_true(n > 0);
			fail_nth(&forge_damages[i], ops[k], 0, UINT64_MAX);
		}
	}
}

/* ---- a repair that is given up ---- */

static uint8_t *bytes_of(struct qcow2_storage st, uint64_t *size)
{
	uint8_t *bytes;

	assert_int_equal(storage_size(st, size, NULL), 0);
	bytes = mem_alloc(*size, 1);
	assert_non_null(bytes);
	assert_int_equal(storage_read(st, bytes, (size_t)*size, 0, NULL), 0);
	return bytes;
}

/* The n-th write, and all after it, fail. Returns whether there was one. */
static bool give_up_at(const struct forge_damage *damage, uint64_t nth)
{
	struct storage_fault_rule rule = {.op = STORAGE_OP_WRITE,
					  .nth = nth,
					  .times = UINT64_MAX,
					  .code = -EIO,
					  .short_bytes = 700};
	struct qcow2_storage image, saved;
	uint64_t size, size_after;
	uint8_t *before, *after;
	struct forge f;
	bool hit;

	forge_new(&f, 4);
	damage->apply(&f);
	before = bytes_of(f.st, &size);
	assert_int_equal(storage_fault_new(&image, f.st, NULL), 0);
	assert_int_equal(storage_fault_add(image, &rule), 0);
	assert_int_equal(storage_mem_new(&saved, 0, NULL), 0);
	assert_int_equal(storage_undo_new_on(&f.st, image, saved, NULL), 0);
	forge_check(&f, REPAIR);
	hit = storage_fault_seen(image, STORAGE_OP_WRITE) > nth;
	storage_fault_clear(image);
	assert_true(storage_undo_is_there(f.st));
	assert_int_equal(storage_undo_apply(image, saved, &f.err), 0);
	after = bytes_of(image, &size_after);
	assert_true(size_after == size);
	assert_memory_equal(after, before, (size_t)size);
	mem_free(before);
	mem_free(after);
	forge_free(&f);
	storage_close(&image);
	return hit;
}

static void a_repair_that_stops_anywhere_can_be_taken_back(void **state)
{
	(void)state;
	for (size_t i = 0; i < FORGE_DAMAGES + FORGE_LOSSES; i++) {
		const struct forge_damage *damage =
			i < FORGE_DAMAGES ? &forge_damages[i] : &forge_losses[i - FORGE_DAMAGES];
		uint64_t n = 0;

		while (give_up_at(damage, n))
			n++;
		assert_true(n > 0);
	}
}

/* ---- memory ---- */

static uint64_t allocations_left;

static bool grant(size_t size)
{
	(void)size;
	return allocations_left == UINT64_MAX || allocations_left-- > 0;
}

static void any_lack_of_memory_is_said_and_can_be_finished(void **state)
{
	(void)state;
	for (size_t i = 0; i < FORGE_DAMAGES; i++) {
		int ret = -ENOMEM;

		for (uint64_t n = 0; ret != 0; n++) {
			struct forge f;

			forge_new(&f, 4);
			forge_damages[i].apply(&f);
			allocations_left = n;
			mem_fault_hook = grant;
			ret = forge_check(&f, CHECK_REPAIR_ALL);
			mem_fault_hook = NULL;
			assert_true(ret == 0 || ret == -ENOMEM);
			finish_after_fault(&f);
			forge_free(&f);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_power_cut_anywhere_can_be_finished),
		cmocka_unit_test(what_is_moved_or_given_up_can_be_cut_too),
		cmocka_unit_test(any_failing_operation_is_said_and_can_be_finished),
		cmocka_unit_test(a_repair_that_stops_anywhere_can_be_taken_back),
		cmocka_unit_test(any_lack_of_memory_is_said_and_can_be_finished),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
