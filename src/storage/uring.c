/* SPDX-License-Identifier: MIT */
/*
 * The ring of ring.h on io_uring. A transfer that ends short goes on behind what was moved, so that
 * an op is carried out whole or fails; a read that meets the end of the file gets zeros.
 *
 * It keeps no thread and no lock: one thread at a time uses it.
 */
#include "storage/ring.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/num.h"

#ifdef QCOW2_HAVE_URING

#include <liburing.h>

#define FILES_MAX 8 /* that the ring knows by number: that saves looking each up */

struct storage_ring {
	struct io_uring uring;
	unsigned depth, nused;
	bool knows_files; /* a table of them could be had */
	int files[FILES_MAX];
	unsigned nfiles;
};

int storage_ring_new(struct storage_ring **ring, unsigned depth, struct qcow2_error *err)
{
	struct storage_ring *r = mem_zalloc(1, sizeof(*r));
	int ret;

	*ring = NULL;
	if (!r)
		return error_errno(err, -ENOMEM, "can't set up a ring of requests");
	r->depth = depth;
	ret = io_uring_queue_init(depth, &r->uring, IORING_SETUP_COOP_TASKRUN);
	if (ret == -EINVAL) /* Linux before 5.19 */
		ret = io_uring_queue_init(depth, &r->uring, 0);
	if (ret < 0) {
		mem_free(r);
		return error_errno(err, ret == -ENOMEM ? ret : -ENOTSUP,
				   "the kernel gives no ring of requests");
	}
	r->knows_files = io_uring_register_files_sparse(&r->uring, FILES_MAX) == 0;
	*ring = r;
	return 0;
}

void storage_ring_free(struct storage_ring *ring)
{
	if (!ring)
		return;
	io_uring_queue_exit(&ring->uring);
	mem_free(ring);
}

/* The file's number in the ring's table, or -1. */
static int file_number(struct storage_ring *r, int fd)
{
	for (unsigned i = 0; i < r->nfiles; i++) {
		if (r->files[i] == fd)
			return (int)i;
	}
	if (!r->knows_files || r->nfiles == FILES_MAX ||
	    io_uring_register_files_update(&r->uring, r->nfiles, &fd, 1) != 1)
		return -1;
	r->files[r->nfiles] = fd;
	return (int)r->nfiles++;
}

static struct io_uring_sqe *get_sqe(struct storage_ring *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

	if (sqe)
		return sqe;
	io_uring_submit(&r->uring);
	return io_uring_get_sqe(&r->uring);
}

/* Asks for what is left of the op. false: no room, which a submit makes. */
static bool ask(struct storage_ring *r, struct storage_ring_op *op)
{
	struct io_uring_sqe *sqe = get_sqe(r);
	struct iov_cursor ahead = op->left;
	uint64_t off = op->host_off + op->moved;
	int number = sqe ? file_number(r, op->fd) : -1;
	int fd = number >= 0 ? number : op->fd;
	size_t taken;
	int n;

	if (!sqe)
		return false;
	n = iov_cut(&ahead, (size_t)(op->len_bytes - op->moved), op->pieces, STORAGE_RING_PIECES,
		    &taken);
	if (n == 1 && taken <= UINT32_MAX && op->write)
		io_uring_prep_write(sqe, fd, op->pieces[0].iov_base, (unsigned)taken, off);
	else if (n == 1 && taken <= UINT32_MAX)
		io_uring_prep_read(sqe, fd, op->pieces[0].iov_base, (unsigned)taken, off);
	else if (op->write)
		io_uring_prep_writev(sqe, fd, op->pieces, (unsigned)n, off);
	else
		io_uring_prep_readv(sqe, fd, op->pieces, (unsigned)n, off);
	sqe->flags |= number >= 0 ? IOSQE_FIXED_FILE : 0;
	io_uring_sqe_set_data(sqe, op);
	return true;
}

bool storage_ring_put(struct storage_ring *ring, struct qcow2_storage store,
		      struct storage_ring_op *op)
{
	if (ring->nused == ring->depth)
		return false;
	op->store = store;
	if (!storage_file_async_begin(op))
		return false;
	iov_cursor_init(&op->left, op->iov, op->iovcnt);
	op->moved = 0;
	if (!ask(ring, op)) {
		storage_file_async_end(op);
		return false;
	}
	ring->nused++;
	return true;
}

void storage_ring_submit(struct storage_ring *ring)
{
	/* what the kernel didn't take now stays in the ring for the next time */
	if (io_uring_sq_ready(&ring->uring) > 0)
		io_uring_submit(&ring->uring);
}

static void end(struct storage_ring *r, struct storage_ring_op *op, int code)
{
	r->nused--;
	storage_file_async_end(op);
	op->done(op, code);
}

/* Past the end of a file there are zeros. */
static void end_with_zeros(struct storage_ring *r, struct storage_ring_op *op)
{
	iov_fill(&op->left, 0, (size_t)(op->len_bytes - op->moved));
	end(r, op, 0);
}

/* What the kernel said of an op. */
static void took(struct storage_ring *r, struct storage_ring_op *op, int res)
{
	size_t n = res > 0 ? (size_t)min_u64((uint64_t)res, op->len_bytes - op->moved) : 0;
	bool again = res > 0 || res == -EINTR || res == -EAGAIN;

	iov_skip(&op->left, n);
	op->moved += n;
	if (op->moved == op->len_bytes)
		end(r, op, 0);
	/* with O_DIRECT only the end of a file is off the grid, and can't be read again */
	else if (!op->write && (res == 0 || op->moved % op->align != 0))
		end_with_zeros(r, op);
	else if (!again)
		end(r, op, res < 0 ? res : -EIO);
	else if (!ask(r, op))
		end(r, op, -EAGAIN);
}

void storage_ring_reap(struct storage_ring *ring, bool wait)
{
	struct io_uring_cqe *cqes[64];
	unsigned n;

	if (wait && ring->nused > 0 && io_uring_cq_ready(&ring->uring) == 0)
		io_uring_submit_and_wait(&ring->uring, 1);
	while ((n = io_uring_peek_batch_cqe(&ring->uring, cqes, ARRAY_LEN(cqes))) > 0) {
		for (unsigned i = 0; i < n; i++) {
			struct storage_ring_op *op = io_uring_cqe_get_data(cqes[i]);
			int res = cqes[i]->res;

			io_uring_cqe_seen(&ring->uring, cqes[i]);
			if (op) /* else it is what became of asking to cancel one */
				took(ring, op, res);
		}
	}
	storage_ring_submit(ring);
}

void storage_ring_cancel(struct storage_ring *ring, struct storage_ring_op *op)
{
	struct io_uring_sqe *sqe = get_sqe(ring);

	if (!sqe)
		return;
	io_uring_prep_cancel(sqe, op, 0);
	io_uring_sqe_set_data(sqe, NULL);
	storage_ring_submit(ring);
}

int storage_ring_watch(struct storage_ring *ring, int event_fd)
{
	return io_uring_register_eventfd(&ring->uring, event_fd);
}

int storage_ring_fd(const struct storage_ring *ring)
{
	return ring->uring.ring_fd;
}

#else

int storage_ring_new(struct storage_ring **ring, unsigned depth, struct qcow2_error *err)
{
	(void)depth;
	*ring = NULL;
	return error_set(err, -ENOTSUP, "this build of the library has no rings of requests");
}

void storage_ring_free(struct storage_ring *ring)
{
	(void)ring;
}

bool storage_ring_put(struct storage_ring *ring, struct qcow2_storage store,
		      struct storage_ring_op *op)
{
	(void)ring;
	(void)store;
	(void)op;
	return false;
}

void storage_ring_submit(struct storage_ring *ring)
{
	(void)ring;
}

void storage_ring_reap(struct storage_ring *ring, bool wait)
{
	(void)ring;
	(void)wait;
}

void storage_ring_cancel(struct storage_ring *ring, struct storage_ring_op *op)
{
	(void)ring;
	(void)op;
}

int storage_ring_watch(struct storage_ring *ring, int event_fd)
{
	(void)ring;
	(void)event_fd;
	return -ENOTSUP;
}

int storage_ring_fd(const struct storage_ring *ring)
{
	(void)ring;
	return -1;
}

#endif
