/* SPDX-License-Identifier: MIT */
/*
 * A layer that can be taken back: what a range holds is saved to an undo file, and durable there,
 * before anything is done to the range on the store below.
 *
 * Writes are held back and done in batches, for each batch costs a flush of the undo file: they
 * reach the store below with a flush, when there are many, or when somebody reads what they
 * change. What is still held back when the layer is closed is dropped, as a power cut would do. A
 * batch whose old bytes can't be saved isn't done, nor is anything after it.
 *
 * The undo file is made with the first batch. No locks: between a write and the next flush only
 * one thread may use the layer; else any number may read.
 */
#include "storage/undo.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/crc32c.h"
#include "base/iov.h"
#include "base/num.h"

#define PENDING_MAX 512u
#define PENDING_BYTES_MAX (16u << 20)

struct pending {
	uint64_t host_off, len_bytes;
	uint8_t *bytes;
};

struct undo {
	/* immutable */
	struct qcow2_storage lower; /* borrowed */
	char *path;		    /* NULL: the file was given */

	struct qcow2_storage file; /* owned; not open before the first batch */
	struct undo_log log;
	bool started;
	struct pending pending[PENDING_MAX];
	unsigned npending;
	uint64_t pending_bytes;
	int failed; /* negative errno: nothing is changed any more */
};

static const struct qcow2_storage_ops undo_ops;

static struct undo *undo_of(struct qcow2_storage st)
{
	assert(st.ops == &undo_ops);
	return st.self;
}

/* ---- saving -------------------------------------------------------------------------------- */

static int start(struct undo *u, struct qcow2_error *err)
{
	int ret = 0;

	if (u->started)
		return 0;
	if (u->path) {
		ret = storage_file_open(
			&u->file, u->path,
			STORAGE_FILE_WRITE | STORAGE_FILE_CREATE | STORAGE_FILE_EXCL, err);
		if (ret == -EEXIST)
			return error_set(err, ret,
					 "the undo file \"%s\" is there already: apply or remove "
					 "it, or name another",
					 u->path);
	}
	if (ret == 0)
		ret = undo_log_start(&u->log, u->file, u->lower, err);
	if (ret == 0 && u->path)
		ret = storage_file_settle(u->path, err);
	u->started = ret == 0;
	if (ret != 0 && u->path && storage_is_open(u->file))
		storage_file_remove(u->file, u->path, NULL);
	return ret;
}

/* After a failure the file may hold less than it should: nothing more is done to the store. */
static int save(struct undo *u, uint64_t host_off, uint64_t len_bytes, struct qcow2_error *err)
{
	int ret = u->failed;

	if (ret != 0)
		return error_errno(err, ret, "an undo file couldn't be written before");
	ret = start(u, err);
	if (ret == 0)
		ret = undo_log_save(&u->log, u->lower, host_off, len_bytes, err);
	if (ret != 0) {
		u->failed = ret;
		error_prefix(err, "can't save what is to be overwritten");
	}
	return ret;
}

static int settle_log(struct undo *u, struct qcow2_error *err)
{
	int ret = storage_flush(u->file, err);

	if (ret != 0) {
		u->failed = ret;
		error_prefix(err, "can't save what is to be overwritten");
	}
	return ret;
}

static void drop_pending(struct undo *u)
{
	for (unsigned i = 0; i < u->npending; i++)
		mem_free(u->pending[i].bytes);
	u->npending = 0;
	u->pending_bytes = 0;
}

/* Does what was held back. */
static int drain(struct undo *u, struct qcow2_error *err)
{
	int ret = 0;

	if (u->npending == 0)
		return 0;
	for (unsigned i = 0; ret == 0 && i < u->npending; i++)
		ret = save(u, u->pending[i].host_off, u->pending[i].len_bytes, err);
	if (ret == 0)
		ret = settle_log(u, err);
	for (unsigned i = 0; ret == 0 && i < u->npending; i++)
		ret = storage_write(u->lower, u->pending[i].bytes, (size_t)u->pending[i].len_bytes,
				    u->pending[i].host_off, err);
	if (ret != 0 && u->failed == 0)
		u->failed = ret;
	drop_pending(u);
	return ret;
}

/* The same if anything of the range is held back. */
static int drain_range(struct undo *u, uint64_t host_off, uint64_t len_bytes,
		       struct qcow2_error *err)
{
	for (unsigned i = 0; i < u->npending; i++)
		if (ranges_overlap(u->pending[i].host_off, u->pending[i].len_bytes, host_off,
				   len_bytes))
			return drain(u, err);
	return 0;
}

/* Before an operation on the range that isn't held back. */
static int save_now(struct undo *u, uint64_t host_off, uint64_t len_bytes, struct qcow2_error *err)
{
	int ret = drain(u, err);

	if (ret == 0)
		ret = save(u, host_off, len_bytes, err);
	return ret == 0 ? settle_log(u, err) : ret;
}

/* ---- operations ---------------------------------------------------------------------------- */

static void undo_close(void *self)
{
	struct undo *u = self;

	drop_pending(u);
	undo_log_release(&u->log);
	storage_close(&u->file);
	mem_free(u->path);
	mem_free(u);
}

static int undo_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	struct undo *u = self;
	int ret = drain(u, err);

	return ret == 0 ? storage_size(u->lower, size_bytes, err) : ret;
}

static int undo_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
		       struct qcow2_error *err)
{
	struct undo *u = self;
	uint64_t total;
	int ret = 0;

	if (u->npending > 0 && iov_total(iov, iovcnt, &total))
		ret = drain_range(u, host_off, total, err);
	return ret == 0 ? storage_readv(u->lower, iov, iovcnt, host_off, err) : ret;
}

static int undo_pwritev(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
			struct qcow2_error *err)
{
	struct undo *u = self;
	struct pending *p;
	struct iov_cursor c;
	uint64_t total;
	int ret = u->failed;

	if (ret != 0)
		return error_errno(err, ret, "an earlier write failed");
	if (!iov_total(iov, iovcnt, &total))
		return error_set(err, -EINVAL, "can't write: bad vector");
	if (u->npending == PENDING_MAX || u->pending_bytes + total > PENDING_BYTES_MAX)
		ret = drain(u, err);
	if (ret != 0)
		return ret;
	p = &u->pending[u->npending];
	*p = (struct pending){host_off, total, mem_alloc(total, 1)};
	if (!p->bytes)
		return error_errno(err, -ENOMEM, "can't hold back a write");
	iov_cursor_init(&c, iov, iovcnt);
	iov_get(&c, p->bytes, (size_t)total);
	u->npending++;
	u->pending_bytes += total;
	return 0;
}

static int undo_zero(void *self, uint64_t host_off, uint64_t len_bytes, unsigned flags,
		     struct qcow2_error *err)
{
	struct undo *u = self;
	int ret = save_now(u, host_off, len_bytes, err);

	return ret == 0 ? storage_zero(u->lower, host_off, len_bytes, flags, err) : ret;
}

static int undo_discard(void *self, uint64_t host_off, uint64_t len_bytes, struct qcow2_error *err)
{
	struct undo *u = self;
	int ret = save_now(u, host_off, len_bytes, err);

	return ret == 0 ? storage_discard(u->lower, host_off, len_bytes, err) : ret;
}

static int undo_flush(void *self, struct qcow2_error *err)
{
	struct undo *u = self;
	int ret = drain(u, err);

	return ret == 0 ? storage_flush(u->lower, err) : ret;
}

static int undo_truncate(void *self, uint64_t size_bytes, struct qcow2_error *err)
{
	struct undo *u = self;
	int ret = save_now(u, size_bytes, UINT64_MAX - size_bytes, err);

	return ret == 0 ? storage_truncate(u->lower, size_bytes, err) : ret;
}

static int undo_extent(void *self, uint64_t host_off, uint64_t len_bytes,
		       struct qcow2_storage_extent *out, struct qcow2_error *err)
{
	struct undo *u = self;
	int ret = drain_range(u, host_off, len_bytes, err);

	return ret == 0 ? storage_extent(u->lower, host_off, len_bytes, out, err) : ret;
}

static const struct qcow2_storage_ops undo_ops = {
	.kind = "undo",
	.close = undo_close,
	.size = undo_size,
	.preadv = undo_preadv,
	.pwritev = undo_pwritev,
	.zero = undo_zero,
	.discard = undo_discard,
	.flush = undo_flush,
	.truncate = undo_truncate,
	.extent = undo_extent,
};

static struct undo *make(struct qcow2_storage *st, struct qcow2_storage lower,
			 struct qcow2_error *err)
{
	struct undo *u = mem_zalloc(1, sizeof(*u));

	*st = (struct qcow2_storage){0};
	if (!u) {
		error_errno(err, -ENOMEM, "can't make an undo store");
		return NULL;
	}
	u->lower = lower;
	*st = (struct qcow2_storage){.ops = &undo_ops, .self = u};
	return u;
}

int storage_undo_new(struct qcow2_storage *st, struct qcow2_storage lower, const char *path,
		     struct qcow2_error *err)
{
	struct undo *u = make(st, lower, err);

	if (!u)
		return -ENOMEM;
	u->path = mem_strdup(path);
	if (u->path)
		return 0;
	storage_close(st);
	return error_errno(err, -ENOMEM, "can't make an undo store");
}

int storage_undo_new_on(struct qcow2_storage *st, struct qcow2_storage lower,
			struct qcow2_storage file, struct qcow2_error *err)
{
	struct undo *u = make(st, lower, err);

	if (!u) {
		storage_close(&file);
		return -ENOMEM;
	}
	u->file = file;
	return 0;
}

bool storage_undo_is_there(struct qcow2_storage st)
{
	return undo_of(st)->started;
}

int storage_undo_finish(struct qcow2_storage st, struct qcow2_error *err)
{
	struct undo *u = undo_of(st);
	uint64_t size_bytes;
	uint32_t crc;
	int ret = storage_flush(st, err);

	if (ret != 0 || !u->started)
		return ret;
	ret = storage_size(u->lower, &size_bytes, err);
	if (ret == 0)
		ret = undo_log_sum(&u->log, u->lower, &crc, err);
	if (ret == 0)
		ret = undo_log_mark(&u->log, UNDO_FINISHED, size_bytes, crc, err);
	return ret == 0 ? storage_flush(u->file, err) : ret;
}

int storage_undo_remove(struct qcow2_storage st, struct qcow2_error *err)
{
	struct undo *u = undo_of(st);

	return u->started && u->path ? storage_file_remove(u->file, u->path, err) : 0;
}

/* ---- bringing back ------------------------------------------------------------------------- */

/* What the head of the store would be with all records laid back. */
static int sum_old_head(struct undo_log *log, struct qcow2_storage store, uint32_t *crc,
			struct qcow2_error *err)
{
	cleanup_free uint8_t *head = mem_alloc(UNDO_HEAD_MAX, 1);
	int ret;

	if (!head)
		return error_errno(err, -ENOMEM, "can't look at the image");
	ret = storage_read(store, head, log->head_len, 0, err);
	for (size_t i = log->nrecords; ret == 0 && i-- > 0;) {
		const struct undo_record *r = &log->records[i];
		struct iovec iov;

		if (r->host_off >= log->head_len)
			continue;
		iov.iov_base = head + r->host_off;
		iov.iov_len = (size_t)min_u64(r->len_bytes, log->head_len - r->host_off);
		if (r->kind == UNDO_BYTES) {
			ret = storage_readv(log->file, &iov, 1, r->bytes_at, err);
		} else {
			struct iov_cursor c;

			iov_cursor_init(&c, &iov, 1);
			iov_fill(&c, 0, iov.iov_len);
		}
	}
	*crc = ret == 0 ? crc32c(0, head, log->head_len) : 0;
	return ret;
}

static int check_store(struct undo_log *log, struct qcow2_storage store, struct qcow2_error *err)
{
	uint64_t size_bytes;
	uint32_t crc;
	int ret = sum_old_head(log, store, &crc, err);

	if (ret != 0)
		return ret;
	if (crc != log->head_crc)
		return error_set(err, -EINVAL,
				 "the undo file is of another image, or this one was changed "
				 "since: its first %u bytes wouldn't be what they were",
				 log->head_len);
	if (!log->finished || log->begun)
		return 0;
	ret = storage_size(store, &size_bytes, err);
	if (ret == 0)
		ret = undo_log_sum(log, store, &crc, err);
	if (ret != 0)
		return ret;
	if (size_bytes != log->finished_size || crc != log->finished_crc)
		return error_set(err, -EINVAL,
				 "the image has been changed since the undo file was written, or "
				 "is another one");
	return 0;
}

static int lay_back(struct undo_log *log, struct qcow2_storage store, const struct undo_record *r,
		    struct qcow2_error *err)
{
	int ret;

	if (r->kind == UNDO_ZEROS)
		return storage_zero(store, r->host_off, r->len_bytes, QCOW2_STORAGE_MAY_UNMAP, err);
	ret = storage_read(log->file, log->piece, (size_t)r->len_bytes, r->bytes_at, err);
	if (ret == 0)
		ret = storage_write(store, log->piece, (size_t)r->len_bytes, r->host_off, err);
	return ret;
}

static int bring_back(struct undo_log *log, struct qcow2_storage store, struct qcow2_error *err)
{
	uint64_t size_bytes;
	int ret = 0;

	for (size_t i = log->nrecords; ret == 0 && i-- > 0;)
		ret = lay_back(log, store, &log->records[i], err);
	if (ret == 0)
		ret = storage_size(store, &size_bytes, err);
	if (ret == 0 && size_bytes != log->size_bytes)
		ret = storage_truncate(store, log->size_bytes, err);
	return ret == 0 ? storage_flush(store, err) : ret;
}

int storage_undo_apply(struct qcow2_storage store, struct qcow2_storage file,
		       struct qcow2_error *err)
{
	struct undo_log log;
	int ret = undo_log_load(&log, file, err);

	if (ret == 0)
		ret = check_store(&log, store, err);
	/* From here on the store is neither what it was nor what it became. */
	if (ret == 0 && !log.begun)
		ret = undo_log_mark(&log, UNDO_BEGUN, 0, 0, err);
	if (ret == 0)
		ret = storage_flush(file, err);
	if (ret == 0)
		ret = bring_back(&log, store, err);
	undo_log_release(&log);
	return ret;
}
