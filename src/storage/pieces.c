/* SPDX-License-Identifier: MIT */
/*
 * A layer that passes requests on in pieces, no longer than the limits say: as a device with such
 * limits would get them. What a request does is the same; only how often the store below is asked
 * isn't. Of a request that fails, what came before the piece that failed has been done.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/iov.h"
#include "base/num.h"
#include "storage/storage.h"

#define PIECES 64

/* All of it is immutable. */
struct pieces {
	struct qcow2_storage lower;
	struct storage_limits limits;
};

typedef int move_fn(struct qcow2_storage st, const struct iovec *iov, int iovcnt, uint64_t host_off,
		    struct qcow2_error *err);

static void pieces_close(void *self)
{
	struct pieces *p = self;

	storage_close(&p->lower);
	mem_free(p);
}

static int pieces_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	const struct pieces *p = self;

	return storage_size(p->lower, size_bytes, err);
}

static int move(const struct pieces *p, move_fn *fn, const struct iovec *iov, int iovcnt,
		uint64_t host_off, struct qcow2_error *err)
{
	const uint64_t most = p->limits.max_transfer;
	struct iovec some[PIECES];
	struct iov_cursor c;
	uint64_t left;
	size_t taken;
	int ret = 0;

	if (!iov_total(iov, iovcnt, &left))
		return error_set(err, -EINVAL, "malformed I/O vector");
	if (most == 0 || left <= most)
		return fn(p->lower, iov, iovcnt, host_off, err);
	iov_cursor_init(&c, iov, iovcnt);
	for (; ret == 0 && left != 0; left -= taken, host_off += taken) {
		int n = iov_cut(&c, (size_t)min_u64(left, most), some, PIECES, &taken);

		ret = fn(p->lower, some, n, host_off, err);
	}
	return ret;
}

static int pieces_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
			 struct qcow2_error *err)
{
	return move(self, storage_readv, iov, iovcnt, host_off, err);
}

static int pieces_pwritev(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
			  struct qcow2_error *err)
{
	return move(self, storage_writev, iov, iovcnt, host_off, err);
}

/* The next piece of a range: it ends at a multiple of opt, if it can. */
static uint64_t next_piece(uint64_t host_off, uint64_t left, uint64_t most, uint64_t opt)
{
	uint64_t to_border = opt ? opt - host_off % opt : 0;
	uint64_t len = most ? min_u64(left, most) : left;

	if (opt && to_border < opt && to_border < len)
		return to_border; /* the head */
	if (opt && len > opt)
		len -= len % opt;
	return len;
}

static int pieces_zero(void *self, uint64_t host_off, uint64_t len_bytes, unsigned flags,
		       struct qcow2_error *err)
{
	const struct pieces *p = self;
	int ret = 0;

	while (ret == 0 && len_bytes != 0) {
		uint64_t len =
			next_piece(host_off, len_bytes, p->limits.max_zero, p->limits.opt_zero);

		ret = storage_zero(p->lower, host_off, len, flags, err);
		host_off += len;
		len_bytes -= len;
	}
	return ret;
}

static int pieces_discard(void *self, uint64_t host_off, uint64_t len_bytes,
			  struct qcow2_error *err)
{
	const struct pieces *p = self;
	int ret = 0;

	while (ret == 0 && len_bytes != 0) {
		uint64_t len = next_piece(host_off, len_bytes, p->limits.max_discard,
					  p->limits.opt_discard);

		ret = storage_discard(p->lower, host_off, len, err);
		host_off += len;
		len_bytes -= len;
	}
	return ret;
}

static int pieces_flush(void *self, struct qcow2_error *err)
{
	const struct pieces *p = self;

	return storage_flush(p->lower, err);
}

static int pieces_truncate(void *self, uint64_t size_bytes, struct qcow2_error *err)
{
	const struct pieces *p = self;

	return storage_truncate(p->lower, size_bytes, err);
}

static int pieces_allocate(void *self, uint64_t host_off, uint64_t len_bytes,
			   struct qcow2_error *err)
{
	const struct pieces *p = self;

	return storage_allocate(p->lower, host_off, len_bytes, err);
}

static int pieces_extent(void *self, uint64_t host_off, uint64_t len_bytes,
			 struct qcow2_storage_extent *out, struct qcow2_error *err)
{
	const struct pieces *p = self;

	return storage_extent(p->lower, host_off, len_bytes, out, err);
}

static int pieces_lock(void *self, unsigned use, unsigned forbid, struct qcow2_error *err)
{
	const struct pieces *p = self;

	return storage_lock(p->lower, use, forbid, err);
}

static void pieces_event(void *self, unsigned event)
{
	const struct pieces *p = self;

	storage_event(p->lower, event);
}

static const struct qcow2_storage_ops pieces_ops = {
	.kind = "pieces",
	.close = pieces_close,
	.size = pieces_size,
	.preadv = pieces_preadv,
	.pwritev = pieces_pwritev,
	.zero = pieces_zero,
	.discard = pieces_discard,
	.flush = pieces_flush,
	.truncate = pieces_truncate,
	.allocate = pieces_allocate,
	.extent = pieces_extent,
	.lock = pieces_lock,
	.event = pieces_event,
};

int storage_pieces_new(struct qcow2_storage *st, struct qcow2_storage lower,
		       const struct storage_limits *limits, struct qcow2_error *err)
{
	struct pieces *p = mem_zalloc(1, sizeof(*p));

	*st = (struct qcow2_storage){0};
	if (!p) {
		storage_close(&lower);
		return error_errno(err, -ENOMEM, "can't limit a store's requests");
	}
	p->lower = lower;
	p->limits = *limits;
	*st = (struct qcow2_storage){.ops = &pieces_ops, .self = p};
	return 0;
}
