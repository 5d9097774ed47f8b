/* SPDX-License-Identifier: MIT */
/*
 * A store with a qcow2 image of any size in it, all of it mapped, that is nowhere: what is read is
 * worked out then. Header, refcount table, refcount blocks, L1 table, L2 tables, data, in this
 * order.
 */
#ifndef TESTS_UNIT_CHECK_HUGE_H
#define TESTS_UNIT_CHECK_HUGE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/num.h"
#include "storage/storage.h"

struct huge {
	uint32_t cluster_bits;
	uint64_t size; /* of the disk, a multiple of what an L2 table maps */
	bool in_pairs; /* neighbours change places: no two clusters are in a row */
	bool damaged;  /* here and there an entry or a refcount isn't what it should be */
	/* clusters, and where each region begins */
	uint64_t reftable, refblocks, l1, l2, data, end;
};

static inline void huge_init(struct huge *h)
{
	uint64_t cs = 1ull << h->cluster_bits, ntables = h->size >> (2 * h->cluster_bits - 3);
	uint64_t clusters = h->size >> h->cluster_bits, nblocks = 0, nreftable = 1, end;

	do { /* the blocks count themselves */
		h->reftable = 1;
		h->refblocks = h->reftable + nreftable;
		h->l1 = h->refblocks + nblocks;
		h->l2 = h->l1 + div_ceil(ntables * 8, cs);
		h->data = h->l2 + ntables;
		h->end = h->data + clusters;
		end = nblocks * (cs / 2);
		nblocks = div_ceil(h->end, cs / 2);
		nreftable = div_ceil(nblocks * 8, cs);
	} while (end < h->end || h->refblocks - h->reftable != nreftable);
}

static inline void huge_header(const struct huge *h, uint8_t *p)
{
	memcpy(p, "QFI\xfb", 4);
	store_be32(p + 4, 3);
	store_be32(p + 20, h->cluster_bits);
	store_be64(p + 24, h->size);
	store_be32(p + 36, (uint32_t)(h->size >> (2 * h->cluster_bits - 3)));
	store_be64(p + 40, h->l1 << h->cluster_bits);
	store_be64(p + 48, h->reftable << h->cluster_bits);
	store_be32(p + 56, (uint32_t)(h->refblocks - h->reftable));
	store_be32(p + 96, 4);
	store_be32(p + 100, 104);
}

/* The n-th word of a table whose entries point to clusters from first on. */
__attribute__((no_sanitize("address", "undefined"))) static inline uint64_t
huge_entry(const struct huge *h, uint64_t first, uint64_t n, uint64_t last, uint64_t flag)
{
	return first + n < last ? (first + n) << h->cluster_bits | flag : 0;
}

__attribute__((no_sanitize("address", "undefined"))) static inline uint64_t
huge_word(const struct huge *h, uint64_t off)
{
	uint64_t cluster = off >> h->cluster_bits, copied = 1ull << 63, n, raw;

	if (cluster >= h->end || cluster >= h->data)
		return 0;
	if (cluster >= h->l2) {
		n = (off - (h->l2 << h->cluster_bits)) / 8;
		raw = huge_entry(h, h->data, h->in_pairs ? n ^ 1 : n, h->end, copied);
		if (!h->damaged || n % 100003 != 5)
			return raw;
		switch (n / 100003 % 4) {
		case 0:
			return raw ^ copied;
		case 1:
			return raw | 0x2;
		case 2:
			return h->end << (h->cluster_bits + 1) | copied;
		default:
			return (h->l2 + 3) << h->cluster_bits | copied;
		}
	}
	if (cluster >= h->l1)
		return huge_entry(h, h->l2, (off - (h->l1 << h->cluster_bits)) / 8, h->data,
				  copied);
	if (cluster >= h->refblocks) {
		n = (off - (h->refblocks << h->cluster_bits)) / 2;
		raw = n + 4 <= h->end ? 0x0001000100010001 : 0;
		for (uint64_t i = n; raw == 0 && i < n + 4; i++)
			raw |= i < h->end ? 1ull << (48 - 16 * (i - n)) : 0;
		return h->damaged && n % 70001 < 4 ? raw + 1 : raw;
	}
	return huge_entry(h, h->refblocks, (off - (h->reftable << h->cluster_bits)) / 8, h->l1, 0);
}

/* Billions of words: not looked at by a sanitizer. */
__attribute__((no_sanitize("address", "undefined"))) static inline void
huge_words(const struct huge *h, uint8_t *p, size_t len, uint64_t off)
{
	for (size_t n = 0, part; n < len; n += part) {
		uint64_t word = huge_word(h, align_down(off + n, 8));

		store_be64((uint8_t *)&word, word);
		part = min_u64(8 - (off + n) % 8, len - n);
		if (part == 8)
			memcpy(p + n, &word, 8);
		else
			memcpy(p + n, (const uint8_t *)&word + (off + n) % 8, part);
	}
}

static inline int huge_readv(void *self, const struct iovec *iov, int iovcnt, uint64_t off,
			     struct qcow2_error *err)
{
	const struct huge *h = self;

	(void)err;
	for (int i = 0; i < iovcnt; i++) {
		uint8_t *p = iov[i].iov_base;

		huge_words(h, p, iov[i].iov_len, off);
		if (off < 1 << 9) {
			uint8_t header[104] = {0};

			huge_header(h, header);
			if (off < sizeof(header))
				memcpy(p, header + off,
				       min_u64(sizeof(header) - off, iov[i].iov_len));
		}
		off += iov[i].iov_len;
	}
	return 0;
}

static inline int huge_size(void *self, uint64_t *size, struct qcow2_error *err)
{
	const struct huge *h = self;

	(void)err;
	*size = h->end << h->cluster_bits;
	return 0;
}

static inline struct qcow2_storage huge_store(struct huge *h)
{
	static const struct qcow2_storage_ops ops = {
		.kind = "huge", .size = huge_size, .preadv = huge_readv};

	huge_init(h);
	return (struct qcow2_storage){&ops, h};
}

#endif
