/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters that a copy takes over as they are, from a source that is open for writing:
 * what is written to it between the look at its map and the taking of the bytes is seen.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "image_tmp.h"
#include "job/source.h"

#define CLUSTER 65536u /* the default */
#define NCLUSTERS 4u

struct taken {
	struct qcow2_image *image;
	struct job_source source;
	uint8_t buf[NCLUSTERS * CLUSTER];
	uint8_t states[NCLUSTERS];
	uint8_t packed[CLUSTER];
	struct qcow2_error err;
};

/* Bytes that shrink to about a third. */
static void fill(uint8_t *bytes, uint64_t seed)
{
	for (size_t i = 0; i < CLUSTER; i++)
		bytes[i] = i % 3 ? 'x' : (uint8_t)image_tmp_random(&seed);
}

static struct taken *take(const char *path, unsigned flags)
{
	struct taken *t = calloc(1, sizeof(*t));
	struct qcow2_open_options open = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *const *images = &t->image;
	uint64_t quiet;

	open.flags = flags;
	assert_int_equal(qcow2_open(&t->image, path, &open, &t->err), 0);
	assert_int_equal(job_source_init(&t->source, images, 1, &t->err), 0);
	t->source.pass_cluster_size = CLUSTER;
	t->source.pass_compression = QCOW2_COMPRESSION_ZLIB;
	assert_int_equal(t->source.reader.read(&t->source.reader, 0, sizeof(t->buf), CLUSTER,
					       t->buf, t->states, &quiet, NULL, NULL, &t->err),
			 0);
	for (unsigned i = 0; i < NCLUSTERS; i++)
		assert_int_equal(t->states[i], JOB_BLOCK_PACKED);
	return t;
}

static void release(struct taken *t)
{
	job_source_release(&t->source);
	qcow2_close(t->image);
	free(t);
}

/* The compressed length, or 0: then the data are in buf. */
static size_t fetch(struct taken *t, unsigned cluster, struct image_origin *origin)
{
	size_t len = 1;

	memset(t->buf, 0, CLUSTER);
	assert_int_equal(t->source.reader.fetch(&t->source.reader, (uint64_t)cluster * CLUSTER,
						t->packed, &len, origin, t->buf, &t->err),
			 0);
	return len;
}

static char *make(void **state)
{
	char *path = image_tmp_path(state, "source.qcow2");
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_open_options open = QCOW2_OPEN_OPTIONS_INIT;
	static uint8_t bytes[CLUSTER];
	struct qcow2_image *image;
	struct qcow2_error err;

	create.size = NCLUSTERS * CLUSTER;
	assert_int_equal(qcow2_create(path, &create, &err), 0);
	open.flags = QCOW2_OPEN_WRITE;
	assert_int_equal(qcow2_open(&image, path, &open, &err), 0);
	for (unsigned i = 0; i < NCLUSTERS; i++) {
		fill(bytes, i + 1);
		assert_int_equal(qcow2_pwrite(image, bytes, CLUSTER, (uint64_t)i * CLUSTER,
					      QCOW2_WRITE_COMPRESSED, &err),
				 0);
	}
	assert_int_equal(qcow2_finish(image, &err), 0);
	qcow2_close(image);
	return path;
}

static void what_is_written_meanwhile_is_what_is_taken(void **state)
{
	char *path = make(state);
	struct taken *t = take(path, QCOW2_OPEN_WRITE);
	static uint8_t now[CLUSTER];
	struct image_origin origin;

	fill(now, 77);
	assert_int_equal(qcow2_pwrite(t->image, now, CLUSTER, CLUSTER, 0, &t->err), 0);
	assert_int_not_equal(fetch(t, 0, &origin), 0);
	assert_int_equal(fetch(t, 1, &origin), 0);
	assert_memory_equal(t->buf, now, CLUSTER);

	/* a part of one: its rest comes from what was compressed */
	assert_int_equal(qcow2_pwrite(t->image, "part", 4, 2 * CLUSTER + 9, 0, &t->err), 0);
	fill(now, 3);
	memcpy(now + 9, "part", 4);
	assert_int_equal(fetch(t, 2, &origin), 0);
	assert_memory_equal(t->buf, now, CLUSTER);

	/* compressed again: that is taken */
	assert_int_equal(
		qcow2_pwrite(t->image, now, CLUSTER, 3 * CLUSTER, QCOW2_WRITE_COMPRESSED, &t->err),
		0);
	assert_int_not_equal(fetch(t, 3, &origin), 0);
	release(t);
	free(path);
}

static void sectors_are_shared_only_where_nobody_writes(void **state)
{
	char *path = make(state);
	struct taken *t = take(path, QCOW2_OPEN_WRITE);
	struct image_origin origin;

	assert_int_not_equal(fetch(t, 0, &origin), 0);
	assert_null(origin.file);
	release(t);
	t = take(path, 0);
	assert_int_not_equal(fetch(t, 0, &origin), 0);
	assert_non_null(origin.file);
	release(t);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(what_is_written_meanwhile_is_what_is_taken),
		IMAGE_TEST(sectors_are_shared_only_where_nobody_writes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
