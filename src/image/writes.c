/* SPDX-License-Identifier: MIT */
/* Lists of writes: neighbours are joined, and long runs of zeros left out where they aren't needed.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/zero.h"
#include "image/writer.h"

#define JOIN_MAX 256 /* pieces in one write */
/* Zeros that are left out: a page of them is written in less time than another write takes. */
#define GRAIN 4096u
#define ZEROS_MIN (16u * 1024)

void image_writes_release(struct image_writes *writes)
{
	for (size_t i = 0; i < writes->count; i++)
		mem_free(writes->list[i].owned);
	mem_free(writes->list);
	*writes = (struct image_writes){0};
}

static bool joins(const struct image_writes *writes, const struct image_write *w)
{
	const struct image_write *last = writes->count ? &writes->list[writes->count - 1] : NULL;

	return w->moved && last && last->moved && last->store.self == w->store.self &&
	       last->host_off + last->len == w->host_off &&
	       last->guest_off + last->len == w->guest_off;
}

int image_writes_add(struct image_writes *writes, const struct image_write *write,
		     struct qcow2_error *err)
{
	if (joins(writes, write)) {
		writes->list[writes->count - 1].len += write->len;
		return 0;
	}
	if (writes->count == writes->cap) {
		size_t cap = writes->cap ? writes->cap * 2 : 64;
		struct image_write *list = mem_realloc(writes->list, cap, sizeof(*list));

		if (!list)
			return error_errno(err, -ENOMEM, "can't queue a write");
		writes->list = list;
		writes->cap = cap;
	}
	writes->list[writes->count++] = *write;
	return 0;
}

static bool follows(const struct image_write *a, const struct image_write *b)
{
	return a->store.self == b->store.self && a->host_off + a->len == b->host_off && a->bytes &&
	       b->bytes;
}

/* Appends bytes to the vector: to its last piece where they lie behind that in memory too, since
 * few long pieces are written faster than many short ones. */
static void append_piece(struct iovec *iov, int *iovcnt, const struct image_write *write)
{
	struct iovec *last = *iovcnt ? &iov[*iovcnt - 1] : NULL;

	if (last && (const uint8_t *)last->iov_base + last->iov_len == write->bytes)
		last->iov_len += write->len;
	else
		iov[(*iovcnt)++] = (struct iovec){
			.iov_base = (void *)(uintptr_t)write->bytes,
			.iov_len = write->len,
		};
}

/* Writes the piece at i with all that follow it in the file; gives how many that were. */
static int write_joined(const struct image_write *list, size_t n, size_t *done,
			struct qcow2_error *err)
{
	struct iovec iov[JOIN_MAX];
	int iovcnt = 0;
	size_t k = 0;

	*done = 1;
	if (list[0].moved)
		return 0;
	if (!list[0].bytes)
		return storage_zero(list[0].store, list[0].host_off, list[0].len, 0, err);
	do {
		append_piece(iov, &iovcnt, &list[k]);
		k++;
	} while (k < n && iovcnt < JOIN_MAX && follows(&list[k - 1], &list[k]));
	*done = k;
	return storage_writev(list[0].store, iov, iovcnt, list[0].host_off, err);
}

/* The first zeros from `at` on that are worth leaving out: [*gap, *behind); at the end if none. */
static void find_gap(const struct image_write *w, size_t at, size_t *gap, size_t *behind)
{
	for (*gap = *behind = at; *behind < w->len;) {
		size_t n = (size_t)min_u64(GRAIN, w->len - *behind);

		if (bytes_are_zero(w->bytes + *behind, n)) {
			*behind += n;
			continue;
		}
		if (*behind - *gap >= ZEROS_MIN)
			return;
		*gap = *behind += n;
	}
	if (*behind - *gap < ZEROS_MIN)
		*gap = *behind;
}

/* Cuts writes to places that read as zeros at long runs of zeros. The further parts come last. */
static int leave_out_zeros(struct image_writes *writes, struct qcow2_error *err)
{
	const size_t n = writes->count;
	int ret = 0;

	for (size_t i = 0; i < n; i++) {
		const struct image_write w = writes->list[i];
		size_t gap, behind;

		if (!w.sparse)
			continue;
		writes->list[i].len = 0;
		for (size_t at = 0; at < w.len && ret == 0; at = behind) {
			struct image_write part = w;

			find_gap(&w, at, &gap, &behind);
			part.host_off += at;
			part.bytes += at;
			part.len = gap - at;
			if (writes->list[i].len == 0)
				writes->list[i] = part;
			else if (part.len > 0)
				ret = image_writes_add(writes, &part, err);
		}
	}
	return ret;
}

int image_writes_run(struct image_writes *writes, struct qcow2_error *err)
{
	size_t done;
	int ret = leave_out_zeros(writes, err);

	for (size_t i = 0; ret == 0 && i < writes->count; i += done)
		ret = write_joined(&writes->list[i], writes->count - i, &done, err);
	for (size_t i = 0; i < writes->count; i++)
		mem_free(writes->list[i].owned);
	writes->count = 0;
	return ret;
}
