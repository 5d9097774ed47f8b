/* SPDX-License-Identifier: MIT */
/* Which of the space that becomes free goes back to the host, and when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine_hook.h"

#define MIB (1u << 20)

/*
 * Bytes given back by a disk that is written, snapshotted, written again and loses the snapshot:
 * first by the guest's discard, then by the snapshot's end.
 */
static void given_back(const char *path, unsigned pass, uint64_t *by_guest, uint64_t *by_snapshot)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_storage file, tape;
	struct qcow2_image *image;

	o.flags = QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_LOCK;
	o.format = "qcow2";
	o.pass_discard = pass;
	assert_int_equal(storage_file_open(&file, path, STORAGE_FILE_WRITE, NULL), 0);
	assert_int_equal(storage_record_new(&tape, file, false, NULL), 0);
	assert_int_equal(qcow2_open_storage(&image, tape, path, &o, NULL), 0);
	engine_write(image, 0, 2 * MIB, 1);
	assert_int_equal(qcow2_discard(image, MIB, MIB, NULL), 0);
	assert_int_equal(qcow2_flush(image, NULL), 0);
	*by_guest = storage_record_bytes(tape, STORAGE_OP_DISCARD);
	assert_int_equal(qcow2_snapshot_create(image, "s", NULL, NULL), 0);
	engine_write(image, 0, MIB, 2);
	assert_int_equal(qcow2_snapshot_delete(image, "s", 0, NULL), 0);
	assert_int_equal(qcow2_finish(image, NULL), 0);
	*by_snapshot = storage_record_bytes(tape, STORAGE_OP_DISCARD) - *by_guest;
	qcow2_close(image);
	assert_int_equal(QEMU_IMG("check", "-q", path), 0);
}

static void test_what_goes_back_to_the_host_is_the_callers_choice(void **state)
{
	const unsigned passes[] = {QCOW2_PASS_NONE, QCOW2_PASS_DEFAULT, QCOW2_PASS_ALL};
	uint64_t guest[3], snapshot[3];

	for (unsigned i = 0; i < 3; i++) {
		char name[8], *path;

		snprintf(name, sizeof(name), "i%u", i);
		path = engine_make(state, name, "cluster_size=64k", "4M");
		given_back(path, passes[i], &guest[i], &snapshot[i]);
		free(path);
	}
	assert_int_equal(guest[0], 0);
	assert_int_equal(guest[1], MIB);
	assert_int_equal(guest[2], MIB);
	/* the data and the L2 table that only the snapshot had; with ALL its own tables too */
	assert_int_equal(snapshot[0], 0);
	assert_int_equal(snapshot[1], MIB + 65536);
	assert_true(snapshot[2] > snapshot[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_what_goes_back_to_the_host_is_the_callers_choice),
	};

	return cmocka_run_group_tests_name("engine space", tests, NULL, NULL);
}
