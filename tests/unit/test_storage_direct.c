/* SPDX-License-Identifier: MIT */
/* The file store past the page cache, and on block devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/num.h"
#include "storage_model.h"
#include "storage_tmp.h"

#define DEVICE_BYTES 299520ull /* 585 sectors */

/* Some file systems can't, and say so. */
static void make_direct(struct tmp *t)
{
	int code = tmp_open(t, STORAGE_FILE_WRITE | STORAGE_FILE_CREATE | STORAGE_FILE_DIRECT);

	if (code == 0)
		return;
	assert_int_equal(code, -EINVAL);
	assert_non_null(strstr(t->err.message, "past the page cache (O_DIRECT)"));
	skip();
}

static void unaligned_requests_match_a_flat_array(void **state)
{
	struct tmp *t = *state;

	make_direct(t);
	model_run(t->st, false, 3000);
}

static void files_end_where_they_should(void **state)
{
	struct tmp *t = *state;
	uint64_t size;
	char buf[20];

	make_direct(t);
	for (uint64_t end = 1; end < 9000; end += end < 20 ? 1 : 997) {
		assert_int_equal(storage_write(t->st, "x", 1, end - 1, &t->err), 0);
		assert_int_equal(storage_size(t->st, &size, &t->err), 0);
		assert_int_equal(size, end);
	}
	memset(buf, 'y', sizeof(buf));
	assert_int_equal(storage_read(t->st, buf, sizeof(buf), size - 1, &t->err), 0);
	assert_int_equal(buf[0], 'x');
	for (size_t i = 1; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0);
	assert_int_equal(storage_file_copy(t->st, 0, t->st, 4096, 10, &size, &t->err), -ENOTSUP);
}

struct worker {
	struct tmp *t;
	unsigned idx;
	bool ok;
};

/*
 * Three threads in the same blocks: one writes bytes, one zeroes others, one writes whole blocks
 * beyond, and none may undo what another did.
 */
static void *meddle(void *arg)
{
	struct worker *w = arg;
	struct qcow2_storage st = w->t->st;
	uint8_t *block, in[100];
	uint64_t off;

	if (posix_memalign((void **)&block, 4096, 4096) != 0)
		return NULL;
	memset(block, 0x33, 4096);
	for (unsigned i = 0; i < 300; i++) {
		off = (uint64_t)i * 8192;
		if (w->idx == 0 && storage_write(st, block, 100, off + 10, NULL) != 0)
			break;
		if (w->idx == 1 && (storage_write(st, block, 100, off + 2000, NULL) != 0 ||
				    storage_zero(st, off + 2010, 50, 0, NULL) != 0))
			break;
		if (w->idx == 2 && storage_write(st, block, 4096, off + 4096, NULL) != 0)
			break;
		off += w->idx == 0 ? 10 : w->idx == 1 ? 2010 : 8000;
		if (storage_read(st, in, 50, off, NULL) != 0 || in[0] != (w->idx == 1 ? 0 : 0x33))
			break;
		w->ok = i == 299;
	}
	free(block);
	return NULL;
}

static void neighbours_in_a_block_do_not_undo_each_other(void **state)
{
	static uint8_t blocks[8192];
	struct tmp *t = *state;
	struct worker w[3];
	pthread_t threads[3];
	uint64_t size;

	make_direct(t);
	for (unsigned i = 0; i < 3; i++) {
		w[i] = (struct worker){.t = t, .idx = i};
		assert_int_equal(pthread_create(&threads[i], NULL, meddle, &w[i]), 0);
	}
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(threads[i], NULL);
		assert_true(w[i].ok);
	}
	assert_int_equal(storage_size(t->st, &size, NULL), 0);
	assert_int_equal(size, 300 * 8192);
	for (uint64_t i = 0; i < 300; i++) {
		assert_int_equal(storage_read(t->st, blocks, 8192, i * 8192, NULL), 0);
		for (unsigned k = 0; k < 8192; k++) {
			bool set = (k >= 10 && k < 110) || (k >= 2000 && k < 2010) ||
				   (k >= 2060 && k < 2100) || k >= 4096;

			assert_int_equal(blocks[k], set ? 0x33 : 0);
		}
	}
}

/* A loop device on the test's file; its descriptor, which frees it when it is closed. */
static int make_device(struct tmp *t, char *path, size_t path_size)
{
	struct loop_config config = {.info = {.lo_flags = LO_FLAGS_AUTOCLEAR}};
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), fd = -1;

	tmp_make(t, 0);
	assert_int_equal(storage_truncate(t->st, DEVICE_BYTES, &t->err), 0);
	storage_close(&t->st);
	/* only root may, and not in every container */
	if (control < 0)
		skip();
	config.fd = (uint32_t)open(t->path, O_RDWR | O_CLOEXEC);
	/* somebody else may take the free one first */
	for (int i = 0; i < 20 && fd < 0; i++) {
		snprintf(path, path_size, "/dev/loop%d", ioctl(control, LOOP_CTL_GET_FREE));
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) != 0) {
			close(fd);
			fd = -1;
		}
	}
	close((int)config.fd);
	close(control);
	if (fd < 0)
		skip();
	return fd;
}

static void block_devices_are_stores_of_fixed_size(void **state)
{
	const unsigned modes[] = {0, STORAGE_FILE_DIRECT};
	struct storage_file_stat sb;
	struct qcow2_storage_extent e;
	struct tmp *t = *state;
	uint8_t buf[600] = {1};
	char path[32];
	int fd = make_device(t, path, sizeof(path));

	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(
			storage_file_open(&t->st, path, STORAGE_FILE_WRITE | modes[i], &t->err), 0);
		assert_int_equal(storage_file_stat(t->st, &sb, &t->err), 0);
		assert_true(sb.is_block_device && sb.size_bytes == DEVICE_BYTES);
		assert_int_equal(storage_zero(t->st, 0, DEVICE_BYTES, 0, &t->err), 0);
		model_run(t->st, true, 1000);
		assert_int_equal(storage_truncate(t->st, 0, &t->err), 0);
		assert_int_equal(storage_truncate(t->st, DEVICE_BYTES + 1, &t->err), -ENOSPC);
		assert_non_null(strstr(t->err.message, "the device has 299520"));
		assert_int_equal(storage_write(t->st, buf, 600, DEVICE_BYTES - 512, &t->err),
				 -ENOSPC);
		assert_int_equal(storage_zero(t->st, DEVICE_BYTES - 1, 2, 0, &t->err), -ENOSPC);
		assert_int_equal(storage_allocate(t->st, 0, DEVICE_BYTES, &t->err), 0);
		assert_int_equal(storage_allocate(t->st, 1, DEVICE_BYTES, &t->err), -ENOSPC);
		assert_int_equal(storage_extent(t->st, 100, 1 << 20, &e, &t->err), 0);
		assert_true(e.is_data && e.len_bytes == DEVICE_BYTES - 100);
		assert_int_equal(storage_discard(t->st, 0, DEVICE_BYTES, &t->err), 0);
		assert_int_equal(storage_flush(t->st, &t->err), 0);
		storage_close(&t->st);
	}
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TMP_TEST(unaligned_requests_match_a_flat_array),
		TMP_TEST(files_end_where_they_should),
		TMP_TEST(neighbours_in_a_block_do_not_undo_each_other),
		TMP_TEST(block_devices_are_stores_of_fixed_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
