/* SPDX-License-Identifier: MIT */
/*
 * Random operations on a store, compared with a flat array after each. The seed is printed; set
 * QCOW2_TEST_SEED to have the same run again.
 */
#ifndef TESTS_UNIT_STORAGE_MODEL_H
#define TESTS_UNIT_STORAGE_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/storage.h"

#define MODEL_BYTES 300000u
#define MODEL_MAX_IOV 5

struct model {
	struct qcow2_storage st;
	uint64_t random;
	uint64_t size;
	bool fixed_size; /* as block devices have it */
	uint8_t *bytes;	 /* zeros from size on */
	uint8_t *buffer; /* where vectors point into */
	struct iovec iov[MODEL_MAX_IOV];
	int iovcnt;
	char last[100]; /* the last operation, for messages */
};

static inline uint64_t model_random(struct model *m, uint64_t below)
{
	m->random ^= m->random << 13;
	m->random ^= m->random >> 7;
	m->random ^= m->random << 17;
	return m->random % below;
}

/* A range, often at the borders of blocks, seldom large. */
static inline void model_range(struct model *m, uint64_t *off, uint64_t *len)
{
	const uint64_t most[] = {10, 600, 5000, 70000};
	uint64_t limit = m->fixed_size ? m->size : MODEL_BYTES;

	*off = model_random(m, limit);
	if (model_random(m, 2))
		*off &= model_random(m, 2) ? ~511ull : ~4095ull;
	*len = 1 + model_random(m, most[model_random(m, 4)]);
	if (model_random(m, 3) == 0)
		*len = (*len + 511) & ~511ull;
	if (*len > limit - *off)
		*len = limit - *off;
}

/* Cuts len bytes of the buffer into a vector; some of it aligned, some not. */
static inline void model_vector(struct model *m, uint64_t len)
{
	uint8_t *at = m->buffer + (model_random(m, 2) ? model_random(m, 4096) : 0);

	m->iovcnt = 0;
	while (m->iovcnt < MODEL_MAX_IOV - 1 && len != 0) {
		uint64_t n = model_random(m, 3) == 0 ? len : model_random(m, len + 1);

		if (model_random(m, 2))
			n &= ~511ull;
		m->iov[m->iovcnt++] = (struct iovec){at, n};
		at += n;
		len -= n;
	}
	if (len != 0)
		m->iov[m->iovcnt++] = (struct iovec){at, len};
}

static inline void model_grow(struct model *m, uint64_t end)
{
	if (end > m->size)
		m->size = end;
}

static inline int model_read(struct model *m, uint64_t off, uint64_t len)
{
	const uint8_t *expected = m->bytes + off;

	snprintf(m->last, sizeof(m->last), "read %llu at %llu", (unsigned long long)len,
		 (unsigned long long)off);
	model_vector(m, len);
	memset(m->buffer, 0xee, MODEL_BYTES + 4096);
	if (storage_readv(m->st, m->iov, m->iovcnt, off, NULL) != 0)
		return -1;
	for (int i = 0; i < m->iovcnt; i++) {
		if (memcmp(m->iov[i].iov_base, expected, m->iov[i].iov_len) != 0)
			return -1;
		expected += m->iov[i].iov_len;
	}
	return 0;
}

static inline int model_write(struct model *m, uint64_t off, uint64_t len)
{
	uint8_t *to = m->bytes + off;

	snprintf(m->last, sizeof(m->last), "write %llu at %llu", (unsigned long long)len,
		 (unsigned long long)off);
	model_vector(m, len);
	for (uint64_t i = 0; i < len + 4096; i++)
		m->buffer[i] = (uint8_t)model_random(m, 256);
	for (int i = 0; i < m->iovcnt; i++) {
		memcpy(to, m->iov[i].iov_base, m->iov[i].iov_len);
		to += m->iov[i].iov_len;
	}
	model_grow(m, off + len);
	return storage_writev(m->st, m->iov, m->iovcnt, off, NULL);
}

static inline int model_zero(struct model *m, uint64_t off, uint64_t len)
{
	unsigned flags = model_random(m, 2) ? QCOW2_STORAGE_MAY_UNMAP : 0;

	snprintf(m->last, sizeof(m->last), "zero %llu at %llu, flags %u", (unsigned long long)len,
		 (unsigned long long)off, flags);
	memset(m->bytes + off, 0, len);
	model_grow(m, off + len);
	return storage_zero(m->st, off, len, flags, NULL);
}

/* What a discarded range reads as is anybody's guess: it is written again. */
static inline int model_discard(struct model *m, uint64_t off, uint64_t len)
{
	if (off >= m->size)
		return 0;
	if (len > m->size - off)
		len = m->size - off;
	if (storage_discard(m->st, off, len, NULL) != 0)
		return -1;
	return model_write(m, off, len);
}

static inline int model_truncate(struct model *m, uint64_t size)
{
	snprintf(m->last, sizeof(m->last), "truncate to %llu", (unsigned long long)size);
	if (m->fixed_size)
		return storage_truncate(m->st, m->size, NULL);
	if (size < m->size)
		memset(m->bytes + size, 0, m->size - size);
	m->size = size;
	return storage_truncate(m->st, size, NULL);
}

/* Holes have to be zeros, and nothing past the end is data. */
static inline int model_extent(struct model *m, uint64_t off, uint64_t len)
{
	struct qcow2_storage_extent e;

	snprintf(m->last, sizeof(m->last), "extent of %llu at %llu", (unsigned long long)len,
		 (unsigned long long)off);
	if (storage_extent(m->st, off, len, &e, NULL) != 0 || e.len_bytes == 0 || e.len_bytes > len)
		return -1;
	if (e.is_data)
		return off < m->size && e.len_bytes <= m->size - off ? 0 : -1;
	for (uint64_t i = 0; i < e.len_bytes; i++) {
		if (m->bytes[off + i] != 0)
			return -1;
	}
	return 0;
}

static inline int model_step(struct model *m)
{
	uint64_t off, len;

	model_range(m, &off, &len);
	switch (model_random(m, 8)) {
	case 0:
	case 1:
		return model_read(m, off, len);
	case 2:
	case 3:
	case 4:
		return model_write(m, off, len);
	case 5:
		return model_zero(m, off, len);
	case 6:
		return model_random(m, 3) ? model_extent(m, off, len) : model_discard(m, off, len);
	default:
		return model_random(m, 3) ? model_extent(m, off, len) : model_truncate(m, off);
	}
}

/* Whole runs on a store that reads as zeros; its size stays if fixed_size. */
static inline void model_run(struct qcow2_storage st, bool fixed_size, unsigned steps)
{
	const char *seed = getenv("QCOW2_TEST_SEED");
	struct model m = {.st = st, .fixed_size = fixed_size};
	uint64_t size;

	m.random = (seed ? strtoull(seed, NULL, 10) : 1) * 2654435769u + 88172645463325252u;
	assert_int_equal(storage_size(st, &m.size, NULL), 0);
	m.bytes = calloc(1, MODEL_BYTES);
	assert_int_equal(posix_memalign((void **)&m.buffer, 4096, MODEL_BYTES + 8192), 0);
	assert_non_null(m.bytes);
	assert_true(m.size <= MODEL_BYTES);
	for (unsigned i = 0; i < steps; i++) {
		uint64_t before = m.size;

		if (model_step(&m) != 0 || storage_size(st, &size, NULL) != 0 || size != m.size)
			fail_msg("step %u (%s) of seed %s, size before %llu", i, m.last,
				 seed ? seed : "1", (unsigned long long)before);
	}
	assert_int_equal(model_read(&m, 0, MODEL_BYTES), 0);
	free(m.bytes);
	free(m.buffer);
}

#endif
