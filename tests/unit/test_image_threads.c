/* SPDX-License-Identifier: MIT */
/*
 * Many threads on one open image, all asking everything at once: each gets what it would have got
 * alone. Run under ThreadSanitizer too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>

#include "base/work.h"
#include "image_tmp.h"
#include "storage/storage.h"

#define THREADS 8
#define ROUNDS 60
#define SIZE (2 * 1024 * 1024u + 512)

struct job {
	struct qcow2_image *image;
	uint8_t *expected;
	unsigned fields;	   /* that a dump of all tables has */
	_Atomic unsigned warnings; /* they come in any thread */
	_Atomic unsigned failures;
};

static int setup(void **state)
{
	struct image_tmp *t;
	int rc = image_tmp_setup(state);

	t = *state;
	return rc ? rc : chdir(t->dir);
}

static int teardown(void **state)
{
	return chdir("/") || image_tmp_teardown(state);
}

/* cmocka's own checks belong to the main thread. */
static void expect(struct job *j, bool good, const char *what)
{
	if (good)
		return;
	atomic_fetch_add(&j->failures, 1);
	print_error("%s\n", what);
}

static void note_warning(void *opaque, const char *sentence)
{
	struct job *j = opaque;

	expect(j, strstr(sentence, "bitmaps can't be listed") != NULL, sentence);
	atomic_fetch_add(&j->warnings, 1);
}

static int count_field(void *opaque, const struct qcow2_field *field)
{
	*(unsigned *)opaque += field->name != NULL;
	return 0;
}

static unsigned dump_all(struct qcow2_image *image)
{
	unsigned fields = 0;

	for (unsigned what = 0; what < QCOW2_DUMP_BITMAPS; what++)
		qcow2_dump(image, what, 0, count_field, &fields, NULL);
	return fields;
}

static void ask_for_information(struct job *j)
{
	struct qcow2_info info = QCOW2_INFO_INIT;

	expect(j, qcow2_info(j->image, &info, NULL) == 0, "info failed");
	expect(j, info.nsnapshots == 2 && strcmp(info.snapshots[1].name, "two") == 0, "snapshots");
	expect(j, info.nbitmaps == 0, "bitmaps");
}

static void map_it(struct job *j)
{
	struct qcow2_extent e;
	uint64_t off;

	for (off = 0; off < SIZE; off += e.len_bytes) {
		if (qcow2_map(j->image, off, UINT64_MAX, &e, NULL) < 0 || e.len_bytes == 0)
			break;
	}
	expect(j, off == SIZE, "mapping failed");
}

static void read_it(struct job *j, uint64_t *seed)
{
	static const size_t lens[] = {512, 4096, 4097, 65536, 100000};
	size_t len = lens[image_tmp_random(seed) % 5];
	uint64_t off = image_tmp_random(seed) % (SIZE - len);
	uint8_t *buf = malloc(len);

	expect(j, buf && qcow2_pread(j->image, buf, len, off, NULL) == 0, "reading failed");
	expect(j, buf && memcmp(buf, j->expected + off, len) == 0, "other bytes");
	free(buf);
}

static void ask_everything(void *opaque, unsigned i)
{
	struct job *j = opaque;
	uint64_t seed = i + 1;

	for (int round = 0; round < ROUNDS; round++) {
		if (round % 16 == 0)
			ask_for_information(j);
		if (round % 16 == 1)
			expect(j, dump_all(j->image) == j->fields, "another dump");
		if (round % 8 == 2)
			map_it(j);
		read_it(j, &seed);
	}
}

static void make_chain(void)
{
	uint8_t nonsense[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	int fd;

	image_tmp_make_raw("disk", SIZE, 88);
	assert_int_equal(QEMU_IMG("convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=512",
				  "disk", "base"),
			 0);
	assert_int_equal(QEMU_IMG("convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
				  "cluster_size=4k", "-B", "base", "-F", "qcow2", "disk", "top"),
			 0);
	assert_int_equal(QEMU_IMG("snapshot", "-c", "one", "top"), 0);
	assert_int_equal(QEMU_IMG("snapshot", "-c", "two", "top"), 0);
	assert_int_equal(QEMU_IMG("bitmap", "--add", "top", "bits"), 0);
	fd = open("top", O_RDWR);
	assert_true(fd >= 0);
	for (off_t off = 112; off < 4096; off += 8) { /* the bitmaps extension's directory */
		uint8_t word[4];

		assert_int_equal(pread(fd, word, 4, off), 4);
		if (memcmp(word, "\x23\x85\x28\x75", 4) == 0)
			assert_int_equal(pwrite(fd, nonsense, 1, off + 8 + 3), 1);
	}
	close(fd);
}

static void all_threads_get_the_same_answers(void **state)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_error err = {0};
	struct job j = {0};
	size_t len;

	(void)state;
	make_chain();
	j.expected = image_tmp_load("disk", &len);
	policy.follow = QCOW2_FOLLOW_LOCAL;
	options.policy = &policy;
	options.l2_cache_bytes = 1;
	options.warn = note_warning;
	options.opaque = &j;
	if (qcow2_open(&j.image, "top", &options, &err) < 0)
		fail_msg("%s", err.message);
	j.fields = dump_all(j.image);
	assert_true(j.fields > 100);
	work_team(THREADS, ask_everything, &j);
	assert_int_equal(j.failures, 0);
	assert_true(j.warnings > 0);
	qcow2_close(j.image);
	free(j.expected);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_threads_get_the_same_answers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
