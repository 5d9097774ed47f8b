/* SPDX-License-Identifier: MIT */
/*
 * Images with random tables, good and bad, forged entry by entry, against a flat model of what
 * they must read as: by many threads at once, through a table cache of next to nothing. TEST_SEED
 * chooses others.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>

#include "base/bytes.h"
#include "base/num.h"
#include "base/work.h"
#include "codec/codec.h"
#include "format/entry.h"
#include "format/header.h"
#include "image_tmp.h"
#include "storage/storage.h"

#define THREADS 6
#define ROUNDS 150
#define READ_MAX (300 * 1024u)

enum kind { ABSENT, ZERO, DATA, PACKED, BAD, KINDS };

struct model {
	struct format_geometry g;
	uint64_t seed;
	struct qcow2_storage st;
	uint64_t size, backing_size;
	uint64_t end; /* of what is in the store */
	uint8_t *expected;
	uint8_t *kinds;	 /* of each unit of 512 bytes */
	uint8_t *packed; /* room for a compressed cluster */
	struct codec *codec;
	struct qcow2_image *image;
	_Atomic unsigned failures;
};

static uint64_t rnd(struct model *m, uint64_t n)
{
	return image_tmp_random(&m->seed) % n;
}

static void put(struct model *m, const void *bytes, size_t len, uint64_t off)
{
	assert_int_equal(storage_write(m->st, bytes, len, off, NULL), 0);
	m->end = max_u64(m->end, off + len);
}

static void put_word(struct model *m, uint64_t word, uint64_t off)
{
	uint8_t bytes[8];

	store_be64(bytes, word);
	put(m, bytes, 8, off);
}

static uint64_t fresh_cluster(struct model *m)
{
	return align_up(m->end, m->g.cluster_size);
}

/* ---- one cluster ---- */

/* What the guest sees in part of a cluster; behind the disk's end nobody sees anything. */
static void expect(struct model *m, uint64_t guest_off, uint64_t len, enum kind kind,
		   const uint8_t *bytes)
{
	for (uint64_t i = 0; i < len && guest_off + i < m->size; i += 512) {
		m->kinds[(guest_off + i) / 512] = (uint8_t)kind;
		if (kind == ZERO)
			memset(m->expected + guest_off + i, 0, 512);
		if (kind == DATA || kind == PACKED)
			memcpy(m->expected + guest_off + i, bytes + i, 512);
	}
}

/* A host cluster with noise or text: fresh, or one beyond the end of the file, which is zeros. */
static uint64_t data_cluster(struct model *m, uint8_t *bytes, bool text)
{
	uint64_t off = fresh_cluster(m);

	if (!text && rnd(m, 10) == 0) {
		memset(bytes, 0, m->g.cluster_size);
		return off + (rnd(m, 1u << 20) + 100000) * m->g.cluster_size;
	}
	for (uint64_t i = 0; i < m->g.cluster_size; i += 8)
		store_be64(bytes + i, text ? rnd(m, 3) : rnd(m, UINT64_MAX));
	if (!text)
		put(m, bytes, m->g.cluster_size, off);
	return off;
}

static uint64_t stray_bits(struct model *m)
{
	return rnd(m, 4) ? 0 : image_tmp_random(&m->seed) & LAYOUT_L2_RESERVED_MASK;
}

static uint64_t packed_entry(struct model *m, uint64_t guest_off, uint8_t *bytes)
{
	uint64_t off = m->end + rnd(m, 3);
	size_t len;

	data_cluster(m, bytes, true);
	len = codec_compress(m->codec, bytes, m->g.cluster_size, m->packed, m->g.cluster_size - 1);
	assert_true(len > 0);
	put(m, m->packed, len, off);
	expect(m, guest_off, m->g.cluster_size, PACKED, bytes);
	return format_l2_encode_compressed(&m->g, off, len);
}

static uint64_t standard_entry(struct model *m, uint64_t guest_off, uint8_t *bytes)
{
	uint64_t cs = m->g.cluster_size;

	switch (rnd(m, 7)) {
	case 0:
		expect(m, guest_off, cs, ABSENT, NULL);
		return stray_bits(m);
	case 1:
		if (m->g.version < 3) {
			expect(m, guest_off, cs, BAD, NULL);
			return LAYOUT_ENTRY_ZERO;
		}
		expect(m, guest_off, cs, ZERO, NULL);
		return LAYOUT_ENTRY_ZERO | stray_bits(m) | (rnd(m, 2) ? fresh_cluster(m) : 0);
	case 2:
		if (rnd(m, 8) || m->g.cluster_bits == 9)
			break;
		expect(m, guest_off, cs, BAD, NULL);
		return fresh_cluster(m) + 512;
	case 3:
		return packed_entry(m, guest_off, bytes);
	default:
		break;
	}
	{
		uint64_t off = data_cluster(m, bytes, false);

		expect(m, guest_off, cs, DATA, bytes);
		return off | stray_bits(m) | (rnd(m, 2) ? LAYOUT_ENTRY_COPIED : 0);
	}
}

static uint64_t extended_entry(struct model *m, uint64_t guest_off, uint8_t *bytes,
			       uint64_t *bitmap)
{
	uint64_t sub = m->g.cluster_size / LAYOUT_SUBCLUSTERS;
	uint32_t zero = (uint32_t)image_tmp_random(&m->seed) & (uint32_t)image_tmp_random(&m->seed);
	uint32_t alloc = (uint32_t)image_tmp_random(&m->seed) & ~zero;
	bool has_host = rnd(m, 3) != 0;
	bool bad = rnd(m, 12) == 0;
	uint64_t off = 0;

	if (rnd(m, 5) == 0)
		return packed_entry(m, guest_off, bytes);
	if (has_host)
		off = data_cluster(m, bytes, false);
	else if (!bad)
		alloc = 0;
	if (bad && has_host)
		zero |= alloc & -alloc;
	bad = alloc & (has_host ? zero : UINT32_MAX);
	*bitmap = format_subcluster_bitmap(alloc, zero);
	for (uint32_t i = 0; i < LAYOUT_SUBCLUSTERS; i++)
		expect(m, guest_off + i * sub, sub,
		       bad		? BAD
		       : zero >> i & 1	? ZERO
		       : alloc >> i & 1 ? DATA
					: ABSENT,
		       bytes + i * sub);
	return off | stray_bits(m);
}

/* ---- the image ---- */

static uint64_t make_l2(struct model *m, uint64_t guest_off)
{
	uint64_t l2_off = fresh_cluster(m);
	uint8_t *bytes = malloc(m->g.cluster_size);

	assert_non_null(bytes);
	put_word(m, 0, l2_off + m->g.cluster_size - 8); /* takes the cluster */
	for (uint32_t i = 0; i < m->g.l2_entries && guest_off < m->size; i++) {
		uint64_t at = l2_off + (uint64_t)i * m->g.l2_entry_len;
		uint64_t bitmap = 0;

		if (m->g.extended_l2) {
			put_word(m, extended_entry(m, guest_off, bytes, &bitmap), at);
			put_word(m, bitmap, at + 8);
		} else {
			put_word(m, standard_entry(m, guest_off, bytes), at);
		}
		guest_off += m->g.cluster_size;
	}
	free(bytes);
	return l2_off;
}

static void make_tables(struct model *m, uint64_t l1_off, uint64_t l1_entries)
{
	uint64_t span = m->g.cluster_size * m->g.l2_entries;

	put_word(m, 0, l1_off + align_up(l1_entries * 8, m->g.cluster_size) - 8);
	for (uint64_t i = 0; i < l1_entries; i++) {
		unsigned choice = (unsigned)rnd(m, 12);

		if (choice == 0) {
			expect(m, i * span, span, ABSENT, NULL);
		} else if (choice == 1 && m->g.cluster_bits > 9) {
			put_word(m, m->g.cluster_size + 512, l1_off + i * 8);
			expect(m, i * span, span, BAD, NULL);
		} else {
			put_word(m, make_l2(m, i * span) | LAYOUT_ENTRY_COPIED, l1_off + i * 8);
		}
	}
}

static void make_image(struct model *m, const char *backing)
{
	uint8_t *cluster = malloc(m->g.cluster_size);
	struct format_header h = {
		.version = m->g.version,
		.cluster_bits = m->g.cluster_bits,
		.size_bytes = m->size,
		.l1_off = 2 * m->g.cluster_size,
		.l1_entries = (uint32_t)format_size_to_l1(&m->g, m->size),
		.reftable_off = m->g.cluster_size,
		.reftable_clusters = 1,
		.refcount_order = 4,
		.incompatible = m->g.extended_l2 ? LAYOUT_INCOMPAT_EXTENDED_L2 : 0,
		.backing_name = strdup(backing),
	};

	assert_non_null(cluster);
	h.ext.backing_format = strdup("raw");
	assert_int_equal(format_header_encode(&h, cluster, m->g.cluster_size, NULL), 0);
	put(m, cluster, m->g.cluster_size, 0);
	make_tables(m, h.l1_off, h.l1_entries);
	format_header_release(&h);
	free(cluster);
}

static void open_image(struct model *m, uint64_t cache_bytes)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_error err = {0};

	policy.follow = QCOW2_FOLLOW_BACKING;
	options.policy = &policy;
	options.l2_cache_bytes = cache_bytes;
	if (qcow2_open_storage(&m->image, m->st, NULL, &options, &err) < 0)
		fail_msg("%s", err.message);
}

static void setup_model(struct model *m, void **state, unsigned version, unsigned cluster_bits,
			bool extended, uint64_t cache_bytes)
{
	char *backing = image_tmp_path(state, "backing");
	uint64_t span;
	uint8_t *below;
	size_t len;

	format_geometry_init(&m->g, version, cluster_bits, 4, extended, false);
	span = m->g.cluster_size * m->g.l2_entries;
	m->size = min_u64(5 * span / 2, 4u << 20) + rnd(m, 999) * 512;
	m->backing_size = m->size / 3 * 2 / 512 * 512;
	image_tmp_make_raw(backing, m->backing_size, rnd(m, 1u << 30) | 1);
	below = image_tmp_load(backing, &len);
	m->expected = calloc(1, m->size);
	m->kinds = calloc(1, m->size / 512);
	m->packed = malloc(m->g.cluster_size);
	memcpy(m->expected, below, len);
	free(below);
	assert_int_equal(codec_new(&m->codec, CODEC_DEFLATE, 0, NULL), 0);
	assert_int_equal(storage_mem_new(&m->st, 0, NULL), 0);
	make_image(m, backing);
	open_image(m, cache_bytes);
	free(backing);
}

static void release_model(struct model *m)
{
	qcow2_close(m->image);
	codec_free(m->codec);
	free(m->expected);
	free(m->kinds);
	free(m->packed);
}

/* ---- reading and mapping ---- */

static bool any_bad(const struct model *m, uint64_t off, uint64_t len)
{
	return len > 0 && memchr(m->kinds + off / 512, BAD, (off + len - 1) / 512 - off / 512 + 1);
}

static void fault(struct model *m, const char *what, uint64_t off, uint64_t len,
		  const struct qcow2_error *err)
{
	atomic_fetch_add(&m->failures, 1);
	print_error("%s at 0x%llx, %llu bytes: %s\n", what, (unsigned long long)off,
		    (unsigned long long)len, err->message);
}

static void read_once(struct model *m, uint64_t off, uint64_t len, uint8_t *buf)
{
	struct qcow2_error err = {0};
	size_t half = (size_t)(len / 2);
	struct iovec iov[3] = {{buf, half}, {NULL, 0}, {buf + half, (size_t)len - half}};
	int ret = qcow2_preadv(m->image, iov, 3, off, &err);
	int want = any_bad(m, off, len) ? -EIO : 0;

	if (ret != want || err.code != ret)
		fault(m, "wrong result", off, len, &err);
	else if (ret == 0 && memcmp(buf, m->expected + off, len) != 0)
		fault(m, "wrong bytes", off, len, &err);
}

static bool fits(enum kind kind, const struct qcow2_extent *e)
{
	unsigned what = e->flags & ~QCOW2_EXTENT_HOST_OFF;

	switch (kind) {
	case ZERO:
		return e->depth == 0 && what == (QCOW2_EXTENT_PRESENT | QCOW2_EXTENT_ZERO);
	case DATA:
		return e->depth == 0 && what == (QCOW2_EXTENT_PRESENT | QCOW2_EXTENT_DATA);
	case PACKED:
		return e->depth == 0 &&
		       what == (QCOW2_EXTENT_PRESENT | QCOW2_EXTENT_DATA | QCOW2_EXTENT_COMPRESSED);
	case ABSENT:
		/* what is past the end of the backing file is this layer's */
		return e->depth == 1 || !(what & QCOW2_EXTENT_PRESENT);
	default:
		return false;
	}
}

static void map_once(struct model *m, uint64_t off)
{
	struct qcow2_extent e = {0};
	struct qcow2_error err = {0};
	int ret = qcow2_map(m->image, off, UINT64_MAX, &e, &err);

	if (ret != (m->kinds[off / 512] == BAD ? -EIO : 0) || err.code != ret)
		fault(m, "wrong result of mapping", off, 0, &err);
	if (ret < 0)
		return;
	if (e.len_bytes == 0 || e.len_bytes > m->size - off || e.guest_off != off)
		fault(m, "wrong extent", off, e.len_bytes, &err);
	for (uint64_t at = off; at < off + e.len_bytes; at += 512) {
		if (!fits(m->kinds[at / 512], &e)) {
			fault(m, "wrong kind in the extent", at, e.len_bytes, &err);
			return;
		}
	}
}

static void read_and_map(void *opaque, unsigned i)
{
	struct model *m = opaque;
	uint64_t seed = (i + 1) * 0x9e3779b97f4a7c15ull ^ m->size;
	uint8_t *buf = malloc(READ_MAX);

	for (int round = 0; buf && round < ROUNDS; round++) {
		uint64_t off = image_tmp_random(&seed) % m->size;
		uint64_t len = image_tmp_random(&seed) % READ_MAX >> image_tmp_random(&seed) % 12;

		read_once(m, off, min_u64(len, m->size - off), buf);
		map_once(m, off / 512 * 512);
	}
	free(buf);
}

/* Each unit by itself: nothing is bad but what is. */
static void read_every_sector(struct model *m)
{
	uint8_t buf[512];

	for (uint64_t off = 0; off < m->size; off += 512)
		read_once(m, off, 512, buf);
}

static void check_model(void **state, unsigned version, unsigned cluster_bits, bool extended,
			uint64_t cache_bytes, uint64_t *seed)
{
	struct model m = {.seed = image_tmp_random(seed)};

	setup_model(&m, state, version, cluster_bits, extended, cache_bytes);
	work_team(THREADS, read_and_map, &m);
	read_every_sector(&m);
	if (m.failures)
		fail_msg("version %u, clusters of 2^%u%s: %u faults", version, cluster_bits,
			 extended ? ", extended L2 entries" : "", m.failures);
	release_model(&m);
}

static void random_tables_read_as_they_say(void **state)
{
	const char *s = getenv("TEST_SEED");
	uint64_t seed = s ? strtoull(s, NULL, 0) : 20240229;

	print_message("TEST_SEED=%llu\n", (unsigned long long)seed);
	for (unsigned bits = 9; bits <= 18; bits += 3) {
		check_model(state, 3, bits, false, 1, &seed);
		check_model(state, 2, bits, false, 0, &seed);
	}
	check_model(state, 3, 14, true, 1, &seed);
	check_model(state, 3, 16, true, 0, &seed);
	check_model(state, 3, 18, true, 1, &seed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IMAGE_TEST(random_tables_read_as_they_say),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
