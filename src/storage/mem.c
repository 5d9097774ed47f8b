/* SPDX-License-Identifier: MIT */
/*
 * A store in memory: a tree of pages in which only what was written exists, so that a store of
 * any size costs what is in it. What isn't there reads as zeros and is a hole.
 *
 * Every level of the tree takes six bits of the page index. A node with nothing in it stays until
 * its range is dropped; nothing depends on it. Sizes go up to 2^64 - 1; there are no locks to
 * take part in and no space to reserve. One lock guards everything, held while bytes are copied:
 * no call in here waits for anything else.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/iov.h"
#include "base/num.h"
#include "storage/storage.h"

#define PAGE_BITS 12
#define PAGE_BYTES (1u << PAGE_BITS)
#define NODE_BITS 6
#define NODE_SLOTS (1u << NODE_BITS)
#define TOP_SHIFT 48 /* the top node takes the bits from 48 on: 54 of the 52 that there are */
#define NO_PAGE UINT64_MAX

struct node {
	uint64_t present;	/* bit i: slot i isn't NULL */
	void *slot[NODE_SLOTS]; /* nodes, or pages at the lowest level */
};

struct mem {
	pthread_rwlock_t lock; /* guards all below; no page begins at or after the end */
	uint64_t size_bytes;
	struct node top;
};

static unsigned slot_of(uint64_t page_idx, unsigned shift)
{
	return (unsigned)(page_idx >> shift) % NODE_SLOTS;
}

static uint8_t *find_page(const struct mem *m, uint64_t page_idx)
{
	const struct node *node = &m->top;
	unsigned shift = TOP_SHIFT;

	for (; node && shift != 0; shift -= NODE_BITS)
		node = node->slot[slot_of(page_idx, shift)];
	return node ? node->slot[slot_of(page_idx, 0)] : NULL;
}

/* What is in the slot, made of size zeros if there was nothing. NULL: no memory. */
static void *fill_slot(struct node *node, unsigned slot, size_t size)
{
	if (!node->slot[slot]) {
		node->slot[slot] = mem_zalloc(1, size);
		if (node->slot[slot])
			node->present |= 1ull << slot;
	}
	return node->slot[slot];
}

static uint8_t *make_page(struct mem *m, uint64_t page_idx)
{
	struct node *node = &m->top;
	unsigned shift = TOP_SHIFT;

	for (; node && shift != 0; shift -= NODE_BITS)
		node = fill_slot(node, slot_of(page_idx, shift), sizeof(struct node));
	return node ? fill_slot(node, slot_of(page_idx, 0), PAGE_BYTES) : NULL;
}

static void empty_slot(struct node *node, unsigned slot)
{
	mem_free(node->slot[slot]);
	node->slot[slot] = NULL;
	node->present &= ~(1ull << slot);
}

/* The slots from first on that have something. */
static uint64_t present_from(const struct node *node, unsigned first)
{
	return node->present & (UINT64_MAX << first);
}

/*
 * The first page at or after page_idx below node, whose slots are 2^shift pages each; base is
 * the page of slot 0. As deep as the tree, which is nine levels.
 */
static uint64_t next_below(const struct node *node, unsigned shift, uint64_t base,
			   uint64_t page_idx)
{
	unsigned first = page_idx > base ? slot_of(page_idx, shift) : 0;

	for (uint64_t left = present_from(node, first); left != 0; left &= left - 1) {
		unsigned slot = (unsigned)__builtin_ctzll(left);
		uint64_t start = base + ((uint64_t)slot << shift), found;

		if (shift == 0)
			return start;
		found = next_below(node->slot[slot], shift - NODE_BITS, start,
				   max_u64(page_idx, start));
		if (found != NO_PAGE)
			return found;
	}
	return NO_PAGE;
}

static uint64_t next_page(const struct mem *m, uint64_t page_idx)
{
	return next_below(&m->top, TOP_SHIFT, 0, page_idx);
}

/* Drops the pages from first to last, and nodes that have nothing left. */
static void drop_below(struct node *node, unsigned shift, uint64_t base, uint64_t first,
		       uint64_t last)
{
	for (uint64_t left = node->present; left != 0; left &= left - 1) {
		unsigned slot = (unsigned)__builtin_ctzll(left);
		uint64_t start = base + ((uint64_t)slot << shift);
		struct node *child = node->slot[slot];

		if (start > last || start + ((1ull << shift) - 1) < first)
			continue;
		if (shift != 0)
			drop_below(child, shift - NODE_BITS, start, first, last);
		if (shift == 0 || child->present == 0)
			empty_slot(node, slot);
	}
}

static void drop_pages(struct mem *m, uint64_t first, uint64_t last)
{
	drop_below(&m->top, TOP_SHIFT, 0, first, last);
}

/* Clears [start, end) within one page, if it is there. */
static void clear_part(struct mem *m, uint64_t start, uint64_t end)
{
	uint8_t *page = start < end ? find_page(m, start >> PAGE_BITS) : NULL;

	if (page)
		memset(page + start % PAGE_BYTES, 0, (size_t)(end - start));
}

/* Makes [start, end) zeros by dropping the whole pages in it. */
static void punch(struct mem *m, uint64_t start, uint64_t end)
{
	uint64_t first = start >> PAGE_BITS, last = end >> PAGE_BITS;

	if (first == last) {
		clear_part(m, start, end);
		return;
	}
	if (start % PAGE_BYTES != 0)
		clear_part(m, start, ++first << PAGE_BITS);
	clear_part(m, last << PAGE_BITS, end);
	if (first < last)
		drop_pages(m, first, last - 1);
}

/* Makes [start, end) zeros and leaves the pages. */
static void clear(struct mem *m, uint64_t start, uint64_t end)
{
	uint64_t page_idx = next_page(m, start >> PAGE_BITS);

	while (page_idx != NO_PAGE && page_idx << PAGE_BITS < end) {
		uint64_t page = page_idx << PAGE_BITS;
		uint64_t rest = end - page;

		clear_part(m, max_u64(start, page), page + min_u64(rest, PAGE_BYTES));
		page_idx = next_page(m, page_idx + 1);
	}
}

static void mem_close(void *self)
{
	struct mem *m = self;

	drop_pages(m, 0, UINT64_MAX);
	pthread_rwlock_destroy(&m->lock);
	mem_free(m);
}

static int mem_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	struct mem *m = self;

	(void)err;
	pthread_rwlock_rdlock(&m->lock);
	*size_bytes = m->size_bytes;
	pthread_rwlock_unlock(&m->lock);
	return 0;
}

static int mem_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
		      struct qcow2_error *err)
{
	struct mem *m = self;
	uint64_t total, done = 0;
	struct iov_cursor c;

	if (!iov_total(iov, iovcnt, &total))
		return error_set(err, -EINVAL, "can't read from memory: bad vector");
	iov_cursor_init(&c, iov, iovcnt);
	pthread_rwlock_rdlock(&m->lock);
	while (done < total) {
		uint64_t at = host_off + done, in_page = at % PAGE_BYTES;
		uint64_t n = min_u64(PAGE_BYTES - in_page, total - done);
		const uint8_t *page = find_page(m, at >> PAGE_BITS);

		if (page)
			iov_put(&c, page + in_page, (size_t)n);
		else
			iov_fill(&c, 0, (size_t)n);
		done += n;
	}
	pthread_rwlock_unlock(&m->lock);
	return 0;
}

static int mem_pwritev(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
		       struct qcow2_error *err)
{
	struct mem *m = self;
	uint64_t total, done = 0;
	struct iov_cursor c;
	int code = 0;

	if (!iov_total(iov, iovcnt, &total))
		return error_set(err, -EINVAL, "can't write to memory: bad vector");
	iov_cursor_init(&c, iov, iovcnt);
	pthread_rwlock_wrlock(&m->lock);
	while (done < total && code == 0) {
		uint64_t at = host_off + done, in_page = at % PAGE_BYTES;
		uint64_t n = min_u64(PAGE_BYTES - in_page, total - done);
		uint8_t *page = make_page(m, at >> PAGE_BITS);

		if (page) {
			iov_get(&c, page + in_page, (size_t)n);
			done += n;
		} else {
			code = -ENOMEM;
		}
	}
	if (done != 0)
		m->size_bytes = max_u64(m->size_bytes, host_off + done);
	pthread_rwlock_unlock(&m->lock);
	if (code == 0)
		return 0;
	error_errno(err, code, "can't write %llu bytes at 0x%llx to memory",
		    (unsigned long long)total, (unsigned long long)host_off);
	if (err)
		err->host_off = host_off;
	return code;
}

static int mem_zero(void *self, uint64_t host_off, uint64_t len_bytes, unsigned flags,
		    struct qcow2_error *err)
{
	struct mem *m = self;
	uint64_t end = host_off + len_bytes;

	(void)err;
	pthread_rwlock_wrlock(&m->lock);
	if (flags & QCOW2_STORAGE_MAY_UNMAP)
		punch(m, host_off, end);
	else
		clear(m, host_off, end);
	m->size_bytes = max_u64(m->size_bytes, end);
	pthread_rwlock_unlock(&m->lock);
	return 0;
}

static int mem_discard(void *self, uint64_t host_off, uint64_t len_bytes, struct qcow2_error *err)
{
	struct mem *m = self;

	(void)err;
	pthread_rwlock_wrlock(&m->lock);
	punch(m, host_off, host_off + len_bytes);
	pthread_rwlock_unlock(&m->lock);
	return 0;
}

static int mem_flush(void *self, struct qcow2_error *err)
{
	(void)self;
	(void)err;
	return 0;
}

static int mem_truncate(void *self, uint64_t size_bytes, struct qcow2_error *err)
{
	struct mem *m = self;

	(void)err;
	pthread_rwlock_wrlock(&m->lock);
	if (size_bytes < m->size_bytes) {
		/* whole pages, also the one that the old end was in */
		punch(m, size_bytes, m->size_bytes);
		drop_pages(m, div_ceil(size_bytes, PAGE_BYTES), UINT64_MAX);
	}
	m->size_bytes = size_bytes;
	pthread_rwlock_unlock(&m->lock);
	return 0;
}

static int mem_extent(void *self, uint64_t host_off, uint64_t len_bytes,
		      struct qcow2_storage_extent *out, struct qcow2_error *err)
{
	struct mem *m = self;
	uint64_t first = host_off >> PAGE_BITS, page_idx, end;

	(void)err;
	pthread_rwlock_rdlock(&m->lock);
	page_idx = next_page(m, first);
	out->is_data = page_idx == first && host_off < m->size_bytes;
	end = host_off + len_bytes;
	if (out->is_data) {
		end = min_u64(end, m->size_bytes);
		while (page_idx << PAGE_BITS < end && find_page(m, page_idx))
			page_idx++;
	}
	if (page_idx <= UINT64_MAX >> PAGE_BITS && page_idx != first)
		end = min_u64(end, page_idx << PAGE_BITS);
	pthread_rwlock_unlock(&m->lock);
	out->len_bytes = end - host_off;
	return 0;
}

static const struct qcow2_storage_ops mem_ops = {
	.kind = "memory",
	.close = mem_close,
	.size = mem_size,
	.preadv = mem_preadv,
	.pwritev = mem_pwritev,
	.zero = mem_zero,
	.discard = mem_discard,
	.flush = mem_flush,
	.truncate = mem_truncate,
	.extent = mem_extent,
};

int storage_mem_new(struct qcow2_storage *st, uint64_t size_bytes, struct qcow2_error *err)
{
	struct mem *m = mem_zalloc(1, sizeof(*m));

	*st = (struct qcow2_storage){0};
	if (!m)
		return error_errno(err, -ENOMEM, "can't make a store in memory");
	pthread_rwlock_init(&m->lock, NULL);
	m->size_bytes = size_bytes;
	*st = (struct qcow2_storage){.ops = &mem_ops, .self = m};
	return 0;
}
