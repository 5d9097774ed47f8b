/* SPDX-License-Identifier: MIT */
/*
 * How an image comes into being: in which order it reaches the store, and what is left when
 * something fails. That its bytes are right is for tests/interop.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "image/create.h"
#include "storage_tmp.h"

#define SIZE (3ull << 20)

struct kind {
	const char *name;
	unsigned prealloc;
	bool data_file;
	uint64_t cluster_size;
};

static const struct kind kinds[] = {
	{"off", QCOW2_PREALLOC_OFF, false, 65536},
	{"metadata", QCOW2_PREALLOC_METADATA, false, 65536},
	{"falloc", QCOW2_PREALLOC_FALLOC, false, 65536},
	{"full", QCOW2_PREALLOC_FULL, false, 65536},
	{"metadata, many tables", QCOW2_PREALLOC_METADATA, false, 512},
	{"data file", QCOW2_PREALLOC_OFF, true, 65536},
	{"data file, falloc", QCOW2_PREALLOC_FALLOC, true, 65536},
};
#define NKINDS (sizeof(kinds) / sizeof(kinds[0]))

static char data_path[96];

static int open_draft(struct image_draft *d, const struct tmp *t, const struct kind *kind,
		      struct qcow2_error *err)
{
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;

	snprintf(data_path, sizeof(data_path), "%s/data", t->dir);
	o.size = SIZE;
	o.prealloc = kind->prealloc;
	o.cluster_size = kind->cluster_size;
	o.data_file = kind->data_file ? data_path : NULL;
	assert_int_equal(image_create_resolve(t->path, &o, true, err), 0);
	return image_draft_open(d, t->path, &o, 0, err);
}

static int64_t size_of(const char *path)
{
	struct stat sb;

	return stat(path, &sb) == 0 ? (int64_t)sb.st_size : -1;
}

/* ---- order ---- */

static void check_order(struct qcow2_storage st, const struct kind *kind)
{
	size_t n = storage_record_entries(st);

	assert_true(n > 4);
	assert_int_equal(storage_record_entry(st, n - 3).op, STORAGE_OP_FLUSH);
	assert_int_equal(storage_record_entry(st, n - 2).op, STORAGE_OP_WRITE);
	assert_int_equal(storage_record_entry(st, n - 2).host_off, 0);
	assert_int_equal(storage_record_entry(st, n - 2).len_bytes, kind->cluster_size);
	assert_int_equal(storage_record_entry(st, n - 1).op, STORAGE_OP_FLUSH);
	/* two barriers are enough */
	assert_int_equal(storage_record_count(st, STORAGE_OP_FLUSH), 2);
	/* a new file is empty already, and cutting it would make its close wait */
	assert_int_not_equal(storage_record_entry(st, 0).op, STORAGE_OP_TRUNCATE);
	for (size_t i = 0; i < n - 2; i++) {
		struct storage_record_entry e = storage_record_entry(st, i);

		if (e.op == STORAGE_OP_WRITE)
			assert_true(e.host_off >= kind->cluster_size);
	}
}

static void the_header_is_written_alone_and_last_between_two_flushes(void **state)
{
	struct tmp *t = *state;

	for (size_t i = 0; i < NKINDS; i++) {
		struct image_draft d;
		struct qcow2_error err;

		print_message("# %s\n", kinds[i].name);
		assert_int_equal(open_draft(&d, t, &kinds[i], &err), 0);
		assert_int_equal(storage_record_new(&d.file.st, d.file.st, false, &err), 0);
		assert_int_equal(image_draft_begin(&d, &err), 0);
		assert_int_equal(image_draft_finish(&d, NULL, &err), 0);
		check_order(d.file.st, &kinds[i]);
		image_draft_close(&d);
		assert_int_equal(unlink(t->path), 0);
		assert_int_equal(unlink(data_path), kinds[i].data_file ? 0 : -1);
	}
}

/* ---- faults ---- */

/* Makes the n-th operation fail; true if there was one. */
static bool make_with_fault(struct tmp *t, const struct kind *kind, bool in_data,
			    const struct storage_fault_rule *rule)
{
	struct qcow2_error err = {.code = 0};
	struct image_draft d;
	struct qcow2_storage *st;
	int rc;

	assert_int_equal(open_draft(&d, t, kind, &err), 0);
	st = in_data ? &d.data.st : &d.file.st;
	assert_int_equal(storage_fault_new(st, *st, &err), 0);
	assert_int_equal(storage_fault_add(*st, rule), 0);
	rc = image_draft_begin(&d, &err);
	if (rc == 0)
		rc = image_draft_finish(&d, NULL, &err);
	if (rc == 0) {
		image_draft_close(&d);
		return false;
	}
	assert_int_equal(rc, rule->code);
	assert_int_equal(err.code, rule->code);
	assert_non_null(strstr(err.message, "injected fault"));
	storage_fault_clear(*st);
	image_draft_abandon(&d);
	/* the layer that makes faults isn't a file that can be removed, only emptied */
	assert_true(size_of(in_data ? data_path : t->path) <= 0);
	assert_int_equal(in_data ? size_of(t->path) : size_of(data_path), -1);
	unlink(t->path);
	unlink(data_path);
	return true;
}

static void every_fault_is_an_error_and_leaves_no_image(void **state)
{
	static const enum storage_op ops[] = {STORAGE_OP_WRITE, STORAGE_OP_FLUSH,
					      STORAGE_OP_TRUNCATE, STORAGE_OP_ALLOCATE};
	struct tmp *t = *state;
	unsigned hits = 0;

	for (size_t i = 0; i < NKINDS; i++) {
		for (size_t j = 0; j < sizeof(ops) / sizeof(ops[0]); j++) {
			struct storage_fault_rule rule = {.op = ops[j],
							  .times = UINT64_MAX,
							  .code = -EIO,
							  .short_bytes = 700};
			bool in_data = kinds[i].data_file && j % 2;

			while (make_with_fault(t, &kinds[i], in_data, &rule)) {
				rule.nth++;
				hits++;
			}
			unlink(t->path);
			unlink(data_path);
		}
	}
	assert_true(hits > 50);
}

static void a_file_system_that_cannot_reserve_gets_zeros_written(void **state)
{
	struct tmp *t = *state;
	struct storage_fault_rule rule = {.op = STORAGE_OP_ALLOCATE, .times = 9, .code = -ENOTSUP};
	struct image_draft d;
	struct qcow2_error err;
	struct stat sb;

	assert_int_equal(open_draft(&d, t, &kinds[2], &err), 0);
	assert_int_equal(storage_fault_new(&d.file.st, d.file.st, &err), 0);
	assert_int_equal(storage_fault_add(d.file.st, &rule), 0);
	assert_int_equal(image_draft_begin(&d, &err), 0);
	assert_int_equal(image_draft_finish(&d, NULL, &err), 0);
	image_draft_close(&d);
	assert_int_equal(stat(t->path, &sb), 0);
	assert_true((uint64_t)sb.st_blocks * 512 >= SIZE);
}

/* ---- what is left of files ---- */

static int create(struct tmp *t, unsigned flags, uint64_t size, unsigned prealloc)
{
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;
	struct rlimit old, low = {.rlim_cur = 1 << 20};
	int rc;

	o.flags = flags;
	o.size = size;
	o.prealloc = prealloc;
	/* files end at 1 MiB: what is longer fails on the way */
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	low.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
	rc = qcow2_create(t->path, &o, &t->err);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	return rc;
}

static void put_file(struct tmp *t, const char *text)
{
	FILE *f = fopen(t->path, "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void a_failed_creation_removes_what_it_made(void **state)
{
	struct tmp *t = *state;

	assert_int_equal(create(t, 0, SIZE, QCOW2_PREALLOC_FULL), -EFBIG);
	assert_int_equal(size_of(t->path), -1);
	assert_int_equal(create(t, 0, SIZE, QCOW2_PREALLOC_METADATA), -EFBIG);
	assert_int_equal(size_of(t->path), -1);
	assert_int_equal(create(t, 0, SIZE, QCOW2_PREALLOC_OFF), 0);
}

static void a_file_with_contents_is_kept_without_overwrite(void **state)
{
	struct tmp *t = *state;

	put_file(t, "letters");
	assert_int_equal(create(t, 0, 4096, QCOW2_PREALLOC_OFF), -EEXIST);
	assert_non_null(strstr(t->err.message, "exists and isn't empty"));
	assert_int_equal(size_of(t->path), 7);
	/* refused for another reason: before anything is touched */
	assert_int_equal(create(t, QCOW2_CREATE_OVERWRITE, UINT64_MAX - 1, 0), -EFBIG);
	assert_int_equal(size_of(t->path), 7);
	assert_int_equal(create(t, QCOW2_CREATE_OVERWRITE, 4096, QCOW2_PREALLOC_OFF), 0);
	assert_int_equal(size_of(t->path), 3 * 65536 + 8);
}

static void an_empty_file_that_was_there_stays_when_creation_fails(void **state)
{
	struct tmp *t = *state;

	put_file(t, "");
	assert_int_equal(create(t, 0, SIZE, QCOW2_PREALLOC_FULL), -EFBIG);
	assert_int_equal(size_of(t->path), 0);
	/* to be replaced: it goes, as with QEMU's tool */
	assert_int_equal(create(t, QCOW2_CREATE_OVERWRITE, SIZE, QCOW2_PREALLOC_FULL), -EFBIG);
	assert_int_equal(size_of(t->path), -1);
}

static void a_link_survives_a_failed_creation_but_no_image_does(void **state)
{
	struct tmp *t = *state;
	char target[96];

	snprintf(target, sizeof(target), "%s/target", t->dir);
	assert_int_equal(symlink(target, t->path), 0);
	assert_int_equal(create(t, 0, SIZE, QCOW2_PREALLOC_FULL), -EFBIG);
	assert_int_equal(size_of(t->path), 0);
	assert_int_equal(create(t, 0, SIZE, QCOW2_PREALLOC_OFF), 0);
	assert_true(size_of(target) > 0);
	assert_int_equal(unlink(target), 0);
}

/* ---- progress ---- */

struct listener {
	unsigned ticks, cancel_at; /* the tick that says no; 0: none does */
	uint64_t done, total;
};

#define SLOW_TICKS 3

/* The first take so long that the next step is told too. */
static int listen(void *opaque, uint64_t done, uint64_t total)
{
	struct listener *l = opaque;

	assert_true(done >= l->done && done <= total);
	assert_true(l->ticks == 0 || total == l->total);
	l->done = done;
	l->total = total;
	if (l->ticks < SLOW_TICKS)
		usleep(210000);
	return ++l->ticks == l->cancel_at;
}

static int create_told(struct tmp *t, size_t kind, const char *format, struct listener *l)
{
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;

	o.format = format;
	o.flags = QCOW2_CREATE_OVERWRITE;
	o.size = 2 * SIZE;
	o.prealloc = kinds[kind].prealloc;
	o.cluster_size = strcmp(format, "raw") == 0 ? 0 : kinds[kind].cluster_size;
	o.data_file = kinds[kind].data_file ? data_path : NULL;
	o.progress = (struct qcow2_progress){listen, l};
	return qcow2_create(t->path, &o, &t->err);
}

static void check_told(struct tmp *t, size_t kind, const char *format)
{
	struct listener all = {0};

	print_message("# %s, %s\n", format, kinds[kind].name);
	assert_int_equal(create_told(t, kind, format, &all), 0);
	assert_true(all.ticks > 1);
	assert_int_equal(all.done, all.total);
	unlink(t->path);
	unlink(data_path);
	for (unsigned n = 1; n <= SLOW_TICKS; n++) {
		struct listener one = {.cancel_at = n};
		int rc = create_told(t, kind, format, &one);

		/* at the end all is done */
		assert_int_equal(rc, n < all.ticks ? -ECANCELED : 0);
		if (rc == 0)
			break;
		assert_int_equal(one.ticks, n);
		assert_non_null(strstr(t->err.message, "canceled"));
		assert_int_equal(size_of(t->path), -1);
		assert_int_equal(size_of(data_path), -1);
	}
	unlink(t->path);
	unlink(data_path);
}

static void what_is_cancelled_leaves_nothing_behind(void **state)
{
	struct tmp *t = *state;

	snprintf(data_path, sizeof(data_path), "%s/data", t->dir);
	for (size_t i = 1; i < NKINDS; i++)
		check_told(t, i, "qcow2");
	check_told(t, 2, "raw");
	check_told(t, 3, "raw");
}

static void what_is_cancelled_empties_a_file_that_was_empty(void **state)
{
	struct listener l = {.cancel_at = 1};
	struct tmp *t = *state;
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;

	put_file(t, "");
	o.size = SIZE;
	o.prealloc = QCOW2_PREALLOC_FULL;
	o.progress = (struct qcow2_progress){listen, &l};
	assert_int_equal(qcow2_create(t->path, &o, &t->err), -ECANCELED);
	assert_int_equal(size_of(t->path), 0);
}

static void resolving_fills_in_defaults(void **state)
{
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_error err;

	(void)state;
	o.size = 1000;
	assert_int_equal(qcow2_create_resolve("x", &o, &err), 0);
	assert_int_equal(o.size, 1024);
	assert_int_equal(o.version, 3);
	assert_int_equal(o.cluster_size, 65536);
	assert_int_equal(o.refcount_bits, 16);
	assert_string_equal(o.format, "qcow2");
	assert_int_equal(o.struct_size, sizeof(o));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TMP_TEST(the_header_is_written_alone_and_last_between_two_flushes),
		TMP_TEST(every_fault_is_an_error_and_leaves_no_image),
		TMP_TEST(a_file_system_that_cannot_reserve_gets_zeros_written),
		TMP_TEST(a_failed_creation_removes_what_it_made),
		TMP_TEST(a_file_with_contents_is_kept_without_overwrite),
		TMP_TEST(an_empty_file_that_was_there_stays_when_creation_fails),
		TMP_TEST(a_link_survives_a_failed_creation_but_no_image_does),
		TMP_TEST(what_is_cancelled_leaves_nothing_behind),
		TMP_TEST(what_is_cancelled_empties_a_file_that_was_empty),
		cmocka_unit_test(resolving_fills_in_defaults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
