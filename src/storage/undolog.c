/* SPDX-License-Identifier: MIT */
/* Reading and writing an undo file: see undo.h. A file that is read may be anybody's. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/num.h"
#include "base/zero.h"
#include "storage/undo.h"

static int no_memory(struct qcow2_error *err)
{
	return error_set(err, -ENOMEM, "no memory for an undo file");
}

static int begin(struct undo_log *log, struct qcow2_storage file, struct qcow2_error *err)
{
	*log = (struct undo_log){.file = file, .piece = mem_alloc(UNDO_PIECE, 1)};
	return log->piece ? 0 : no_memory(err);
}

void undo_log_release(struct undo_log *log)
{
	mem_free(log->records);
	mem_free(log->piece);
	*log = (struct undo_log){0};
}

static int remember(struct undo_log *log, const struct undo_record *r, struct qcow2_error *err)
{
	if (log->nrecords == log->room) {
		size_t room = log->room ? log->room * 2 : 64;
		struct undo_record *v = mem_realloc(log->records, room, sizeof(*v));

		if (!v)
			return no_memory(err);
		log->records = v;
		log->room = room;
	}
	log->records[log->nrecords++] = *r;
	return 0;
}

/* ---- writing ------------------------------------------------------------------------------- */

int undo_log_start(struct undo_log *log, struct qcow2_storage file, struct qcow2_storage store,
		   struct qcow2_error *err)
{
	uint8_t header[UNDO_HEADER_LEN] = {0};
	int ret = begin(log, file, err);

	if (ret == 0)
		ret = storage_size(store, &log->size_bytes, err);
	if (ret != 0)
		return ret;
	log->head_len = (uint32_t)min_u64(log->size_bytes, UNDO_HEAD_MAX);
	ret = storage_read(store, log->piece, log->head_len, 0, err);
	if (ret != 0)
		return ret;
	log->head_crc = crc32c(0, log->piece, log->head_len);
	store_be64(header, UNDO_MAGIC);
	store_be32(header + 8, UNDO_VERSION);
	store_be32(header + 12, UNDO_HEADER_LEN);
	store_be64(header + 16, log->size_bytes);
	store_be32(header + 24, log->head_len);
	store_be32(header + 28, log->head_crc);
	store_be32(header + 60, crc32c(0, header, 60));
	log->end = UNDO_HEADER_LEN;
	return storage_write(file, header, sizeof(header), 0, err);
}

static int append(struct undo_log *log, const struct undo_record *r, uint32_t crc,
		  struct qcow2_error *err)
{
	uint8_t head[UNDO_RECORD_LEN];
	struct iovec iov[2] = {{.iov_base = head, .iov_len = sizeof(head)},
			       {.iov_base = log->piece}};
	int ret;

	if (r->kind == UNDO_BYTES)
		iov[1].iov_len = (size_t)r->len_bytes;
	store_be32(head, UNDO_RECORD_MAGIC);
	store_be32(head + 4, r->kind);
	store_be64(head + 8, log->seq);
	store_be64(head + 16, r->host_off);
	store_be64(head + 24, r->len_bytes);
	store_be32(head + 32, crc);
	store_be32(head + 36, crc32c(0, head, 36));
	ret = storage_writev(log->file, iov, iov[1].iov_len ? 2 : 1, log->end, err);
	if (ret != 0)
		return ret;
	log->end += sizeof(head) + iov[1].iov_len;
	log->seq++;
	return 0;
}

int undo_log_save(struct undo_log *log, struct qcow2_storage store, uint64_t host_off,
		  uint64_t len_bytes, struct qcow2_error *err)
{
	struct undo_record r = {.host_off = host_off};
	int ret = 0;

	while (ret == 0 && len_bytes > 0 && r.host_off < log->size_bytes) {
		r.len_bytes = min_u64(min_u64(len_bytes, UNDO_PIECE), log->size_bytes - r.host_off);
		ret = storage_read(store, log->piece, (size_t)r.len_bytes, r.host_off, err);
		if (ret != 0)
			return ret;
		r.kind = bytes_are_zero(log->piece, (size_t)r.len_bytes) ? UNDO_ZEROS : UNDO_BYTES;
		r.bytes_at = log->end + UNDO_RECORD_LEN;
		ret = append(log, &r,
			     r.kind == UNDO_BYTES ? crc32c(0, log->piece, (size_t)r.len_bytes) : 0,
			     err);
		if (ret == 0)
			ret = remember(log, &r, err);
		r.host_off += r.len_bytes;
		len_bytes -= r.len_bytes;
	}
	return ret;
}

int undo_log_mark(struct undo_log *log, enum undo_kind kind, uint64_t value, uint32_t crc,
		  struct qcow2_error *err)
{
	const struct undo_record r = {.kind = kind, .host_off = value};

	return append(log, &r, crc, err);
}

static int sum_range(struct undo_log *log, struct qcow2_storage store, uint64_t host_off,
		     uint64_t len_bytes, uint32_t *crc, struct qcow2_error *err)
{
	int ret = storage_read(store, log->piece, (size_t)len_bytes, host_off, err);

	if (ret == 0)
		*crc = crc32c(*crc, log->piece, (size_t)len_bytes);
	return ret;
}

int undo_log_sum(struct undo_log *log, struct qcow2_storage store, uint32_t *crc,
		 struct qcow2_error *err)
{
	int ret;

	*crc = 0;
	ret = sum_range(log, store, 0, log->head_len, crc, err);
	for (size_t i = 0; ret == 0 && i < log->nrecords; i++)
		ret = sum_range(log, store, log->records[i].host_off, log->records[i].len_bytes,
				crc, err);
	return ret;
}

/* ---- reading ------------------------------------------------------------------------------- */

static int load_header(struct undo_log *log, uint64_t file_size, struct qcow2_error *err)
{
	uint8_t h[UNDO_HEADER_LEN];
	int ret = storage_read(log->file, h, sizeof(h), 0, err);

	if (ret != 0)
		return ret;
	if (file_size < sizeof(h) || load_be64(h) != UNDO_MAGIC)
		return error_set(err, -EINVAL, "this is no undo file");
	if (load_be32(h + 8) != UNDO_VERSION)
		return error_set(err, -ENOTSUP, "an undo file of version %u, expected %u",
				 load_be32(h + 8), UNDO_VERSION);
	if (load_be32(h + 60) != crc32c(0, h, 60) || load_be32(h + 12) != sizeof(h) ||
	    load_be32(h + 24) > UNDO_HEAD_MAX)
		return error_set(err, -EIO, "the header of the undo file is damaged");
	log->size_bytes = load_be64(h + 16);
	log->head_len = load_be32(h + 24);
	log->head_crc = load_be32(h + 28);
	log->end = sizeof(h);
	return 0;
}

static bool is_whole(const uint8_t *head)
{
	return load_be32(head) == UNDO_RECORD_MAGIC && load_be32(head + 36) == crc32c(0, head, 36);
}

/* Takes the bytes of a record in. *ok: they are there, and are what was saved. */
static int load_bytes(struct undo_log *log, uint64_t file_size, const struct undo_record *r,
		      uint32_t crc, bool *ok, struct qcow2_error *err)
{
	uint64_t end;
	int ret;

	*ok = r->len_bytes > 0 && r->len_bytes <= UNDO_PIECE &&
	      add_fits(r->host_off, r->len_bytes, &end) && end <= log->size_bytes;
	if (!*ok || r->kind == UNDO_ZEROS)
		return 0;
	*ok = r->len_bytes <= file_size - r->bytes_at;
	if (!*ok)
		return 0;
	ret = storage_read(log->file, log->piece, (size_t)r->len_bytes, r->bytes_at, err);
	*ok = ret == 0 && crc32c(0, log->piece, (size_t)r->len_bytes) == crc;
	return ret;
}

/* *ok: there was a record, and it is whole. */
static int load_record(struct undo_log *log, uint64_t file_size, bool *ok, struct qcow2_error *err)
{
	uint8_t head[UNDO_RECORD_LEN];
	struct undo_record r;
	uint64_t next = log->end + sizeof(head);
	int ret;

	*ok = file_size - log->end >= sizeof(head);
	ret = *ok ? storage_read(log->file, head, sizeof(head), log->end, err) : 0;
	if (ret != 0 || !*ok)
		return ret;
	r = (struct undo_record){load_be32(head + 4), load_be64(head + 16), load_be64(head + 24),
				 next};
	*ok = is_whole(head) && load_be64(head + 8) == log->seq;
	if (*ok && (r.kind == UNDO_BYTES || r.kind == UNDO_ZEROS)) {
		ret = load_bytes(log, file_size, &r, load_be32(head + 32), ok, err);
		if (ret == 0 && *ok)
			ret = remember(log, &r, err);
		next += r.kind == UNDO_BYTES ? r.len_bytes : 0;
	} else if (*ok && r.kind == UNDO_FINISHED) {
		log->finished = true;
		log->finished_size = r.host_off;
		log->finished_crc = load_be32(head + 32);
	} else if (*ok && r.kind == UNDO_BEGUN) {
		log->begun = true;
	} else {
		*ok = false;
	}
	if (*ok) {
		log->end = next;
		log->seq++;
	}
	return ret;
}

/*
 * A record that isn't whole is the last of a file that was being written. If the file ends as one
 * does that was completed, a record in the middle has been damaged since.
 */
static int check_end(struct undo_log *log, uint64_t file_size, struct qcow2_error *err)
{
	uint8_t head[UNDO_RECORD_LEN];
	int ret;

	if (log->end == file_size || file_size - log->end < sizeof(head))
		return 0;
	ret = storage_read(log->file, head, sizeof(head), file_size - sizeof(head), err);
	if (ret == 0 && is_whole(head) && load_be32(head + 4) >= UNDO_FINISHED)
		ret = error_set_at(err, -EIO, QCOW2_NO_OFFSET, log->end,
				   "the undo file is damaged at 0x%" PRIx64, log->end);
	return ret;
}

int undo_log_load(struct undo_log *log, struct qcow2_storage file, struct qcow2_error *err)
{
	uint64_t file_size = 0;
	bool ok = true;
	int ret = begin(log, file, err);

	if (ret == 0)
		ret = storage_size(file, &file_size, err);
	if (ret == 0)
		ret = load_header(log, file_size, err);
	while (ret == 0 && ok)
		ret = load_record(log, file_size, &ok, err);
	return ret == 0 ? check_end(log, file_size, err) : ret;
}
