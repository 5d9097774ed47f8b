/* SPDX-License-Identifier: MIT */
/* What is done to an image while a commit is under way: the rules of docs/ordering.md hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>

#include "engine_hook.h"
#include "image/image.h"

#define CS 65536u

/* The file as it is now, as after a crash. */
static struct qcow2_image *open_copy(void **state, const char *path)
{
	char *copy = image_tmp_path(state, "copy");
	struct qcow2_image *image;

	assert_int_equal(QEMU_IMG("convert", "-U", "-f", "raw", "-O", "raw", path, copy), 0);
	image = image_tmp_open(copy, "qcow2");
	free(copy);
	return image;
}

/* ---- rule 3 ---- */

static int discard_second(struct engine_hook *h, enum storage_op op, uint64_t off, uint64_t len)
{
	(void)off;
	(void)len;
	if (op != STORAGE_OP_FLUSH)
		return 0;
	h->before = NULL;
	assert_int_equal(qcow2_discard(*(struct qcow2_image **)h->opaque, CS, CS, NULL), 0);
	return 0;
}

static void test_dropped_beside_commit_waits_for_the_next(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=64k", "4M");
	struct engine_hook h = {0};
	struct qcow2_image *image, *copy;

	assert_int_equal(engine_hook_open(&h, path, NULL, &image, NULL), 0);
	engine_write(image, 0, 2 * CS, 1);
	assert_int_equal(qcow2_flush(image, NULL), 0);
	/* the second cluster goes while the table without the first is on its way */
	assert_int_equal(qcow2_discard(image, 0, CS, NULL), 0);
	h.opaque = &image;
	h.before = discard_second;
	assert_int_equal(qcow2_flush(image, NULL), 0);
	/* the table on disk has the second, so its place isn't free yet */
	for (unsigned i = 10; i < 14; i++)
		engine_write(image, i * CS, CS, 2);
	copy = open_copy(state, path);
	assert_int_equal(engine_read(copy, CS, CS), 1);
	qcow2_close(copy);
	qcow2_close(image);
	free(path);
}

/* ---- giving freed clusters away ---- */

static int write_third(struct engine_hook *h, enum storage_op op, uint64_t off, uint64_t len)
{
	(void)off;
	(void)len;
	if (op != STORAGE_OP_DISCARD)
		return 0;
	h->before = NULL;
	engine_write(*(struct qcow2_image **)h->opaque, 2 * CS, CS, 3);
	return 0;
}

/* Nobody has looked for clusters yet: who does it first, while one is given away, won't get it. */
static void test_a_cluster_is_found_only_when_it_has_been_given_away(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=64k", "4M");
	struct engine_hook h = {0};
	struct qcow2_image *image;

	assert_int_equal(engine_hook_open(&h, path, NULL, &image, NULL), 0);
	engine_write(image, 0, 2 * CS, 1);
	qcow2_close(image);
	assert_int_equal(engine_hook_open(&h, path, NULL, &image, NULL), 0);
	assert_int_equal(qcow2_discard(image, 0, CS, NULL), 0);
	h.opaque = &image;
	h.before = write_third;
	for (unsigned i = 0; i < 3 && h.before; i++)
		assert_int_equal(qcow2_flush(image, NULL), 0);
	assert_null(h.before);
	assert_int_equal(engine_read(image, 2 * CS, CS), 3);
	engine_write(image, 3 * CS, 2 * CS, 4);
	assert_int_equal(engine_read(image, 2 * CS, CS), 3);
	assert_int_equal(engine_read(image, CS, CS), 1);
	qcow2_close(image);
	assert_int_equal(QEMU_IMG("check", "-q", path), 0);
	free(path);
}

/* ---- rule 1 ---- */

/*
 * A commit because of the refcounts comes between the two halves of a change: it has been counted,
 * but isn't in the table yet. There is no barrier in that commit; so the next one has to have it.
 */
static void test_change_beside_a_commit_without_tables_has_its_barrier(void **state)
{
	char *path = engine_make(state, "image", "cluster_size=64k", "4M");
	struct engine_hook h = {0};
	struct qcow2_image *image;
	struct meta_entry e;
	struct meta *m;
	unsigned n;

	assert_int_equal(engine_hook_open(&h, path, NULL, &image, NULL), 0);
	m = &image->qcow2->meta;
	engine_write(image, 0, CS, 1);
	assert_int_equal(qcow2_flush(image, NULL), 0);
	assert_int_equal(meta_entries_get(m, 0, &e, 1, &n, NULL), 0);
	atomic_fetch_add(&m->engine->order.depends, 1);
	assert_int_equal(meta_commit(m, false, NULL), 0);
	assert_int_equal(meta_entries_set(m, 0, &e, 1, false, NULL), 0);
	h.flushes = 0;
	assert_int_equal(qcow2_flush(image, NULL), 0);
	assert_int_equal(h.flushes, 2);
	qcow2_close(image);
	free(path);
}

/* ---- rule 14 ---- */

struct meeting {
	struct qcow2_image *image;
	uint64_t table_off; /* of the table that is copied */
	pthread_t committer;
	sem_t may_copy, copied;
};

static void *commit_beside(void *opaque)
{
	struct meeting *t = opaque;

	assert_int_equal(qcow2_flush(t->image, NULL), 0);
	sem_post(&t->may_copy); /* nothing was in the way */
	return NULL;
}

static int meet(struct engine_hook *h, enum storage_op op, uint64_t off, uint64_t len)
{
	struct meeting *t = h->opaque;

	if (op == STORAGE_OP_READ && len == CS && off == t->table_off) {
		assert_int_equal(pthread_create(&t->committer, NULL, commit_beside, t), 0);
		sem_wait(&t->may_copy);
	} else if (op == STORAGE_OP_WRITE && len == 512 && off % CS == CS - 512) {
		/* the commit has seen that the file is too short */
		sem_post(&t->may_copy);
		sem_wait(&t->copied);
	} else if (op == STORAGE_OP_WRITE && len == 2 * 4096) {
		sem_post(&t->copied);
		pthread_join(t->committer, NULL);
	}
	return 0;
}

static void test_a_commit_leaves_a_table_alone_that_is_being_copied(void **state)
{
	const uint64_t last = (512u << 20) - CS;
	char *path = engine_make(state, "image", "cluster_size=64k", "2G");
	struct engine_hook h = {0};
	struct meeting t = {0};
	struct qcow2_image *copy;

	assert_int_equal(engine_hook_open(&h, path, NULL, &t.image, NULL), 0);
	engine_write(t.image, 0, CS, 1);
	engine_write(t.image, last, CS, 2);
	qcow2_close(t.image);
	assert_int_equal(QEMU_IMG("snapshot", "-c", "first", path), 0);
	assert_int_equal(engine_hook_open(&h, path, NULL, &t.image, NULL), 0);
	t.table_off = format_l1_decode(&t.image->qcow2->meta.geometry,
				       meta_l1_get(&t.image->qcow2->meta, 0))
			      .l2_off;
	engine_write(t.image, 1u << 30, CS, 3); /* so that there is something to commit */
	sem_init(&t.may_copy, 0, 0);
	sem_init(&t.copied, 0, 0);
	h.opaque = &t;
	h.before = meet;
	engine_write(t.image, CS, 2 * 4096, 4);
	h.before = NULL;
	assert_int_equal(qcow2_flush(t.image, NULL), 0);
	copy = open_copy(state, path);
	assert_int_equal(engine_read(copy, last, CS), 2);
	qcow2_close(copy);
	qcow2_close(t.image);
	sem_destroy(&t.may_copy);
	sem_destroy(&t.copied);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(test_a_cluster_is_found_only_when_it_has_been_given_away),
		IMAGE_TEST(test_dropped_beside_commit_waits_for_the_next),
		IMAGE_TEST(test_change_beside_a_commit_without_tables_has_its_barrier),
		IMAGE_TEST(test_a_commit_leaves_a_table_alone_that_is_being_copied),
	};

	return cmocka_run_group_tests_name("engine beside commit", tests, NULL, NULL);
}
