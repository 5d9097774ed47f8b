/* SPDX-License-Identifier: MIT */
/*
 * What an undo file holds: a header, then records, each with a checksum and its number. A record
 * has the bytes of a range as they were before it was changed; where ranges overlap the earlier
 * record counts. So records are laid back from the last to the first, any number of times.
 *
 * The file ends with the last record that is whole: behind it there may be the beginning of one
 * that was being written when the power went, and then nothing relied on that one.
 */
#ifndef STORAGE_UNDO_H
#define STORAGE_UNDO_H

#include "storage/storage.h"

#define UNDO_MAGIC 0x51434f5732554e44ull /* "QCOW2UND" */
#define UNDO_VERSION 1u
#define UNDO_HEADER_LEN 64u
#define UNDO_RECORD_MAGIC 0x756e646fu /* "undo" */
#define UNDO_RECORD_LEN 40u	      /* without the bytes behind it */
#define UNDO_PIECE (256u << 10)	      /* the most that a record has */
#define UNDO_HEAD_MAX (64u << 10)     /* by which a store is known again */

enum undo_kind {
	UNDO_BYTES = 1, /* followed by them */
	UNDO_ZEROS,	/* the range was zeros */
	UNDO_FINISHED,	/* off: the size of the store now; crc: of what it was changed to */
	UNDO_BEGUN,	/* the store is being brought back */
};

struct undo_record {
	enum undo_kind kind;
	uint64_t host_off, len_bytes;
	uint64_t bytes_at; /* in the undo file, of UNDO_BYTES */
};

struct undo_log {
	struct qcow2_storage file; /* borrowed */
	uint64_t size_bytes;	   /* of the store, before */
	uint32_t head_len, head_crc;
	uint64_t end; /* where the next record goes */
	uint64_t seq; /* its number */
	struct undo_record *records;
	size_t nrecords, room;
	bool finished, begun;
	uint64_t finished_size;
	uint32_t finished_crc;
	uint8_t *piece; /* UNDO_PIECE bytes */
};

/* Begins a log of store in file, which is empty. Not durable yet. */
int undo_log_start(struct undo_log *log, struct qcow2_storage file, struct qcow2_storage store,
		   struct qcow2_error *err);
/* Reads and checks what is in file. */
int undo_log_load(struct undo_log *log, struct qcow2_storage file, struct qcow2_error *err);
void undo_log_release(struct undo_log *log);

/* Adds what is in the range of the store; nothing of what lies behind its end. */
int undo_log_save(struct undo_log *log, struct qcow2_storage store, uint64_t host_off,
		  uint64_t len_bytes, struct qcow2_error *err);
/* Adds a record without bytes. */
int undo_log_mark(struct undo_log *log, enum undo_kind kind, uint64_t value, uint32_t crc,
		  struct qcow2_error *err);
/* The sum of what the saved ranges of the store hold now, and of its head. */
int undo_log_sum(struct undo_log *log, struct qcow2_storage store, uint32_t *crc,
		 struct qcow2_error *err);

#endif
