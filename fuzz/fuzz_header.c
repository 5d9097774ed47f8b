/* SPDX-License-Identifier: MIT */
/*
 * The image header. Input: a byte of FORMAT_HEADER_ALLOW_*, then the start of the first cluster.
 * What decodes must encode, unless it has no room, and then decode to the same.
 */
#include "fuzz.h"

#include <errno.h>

#include "format/header.h"

static void check_same(const struct format_header *a, const struct format_header *b)
{
	CHECK(a->version == b->version && a->cluster_bits == b->cluster_bits);
	CHECK(a->size_bytes == b->size_bytes && a->crypt_method == b->crypt_method);
	CHECK(a->l1_entries == b->l1_entries && a->l1_off == b->l1_off);
	CHECK(a->reftable_off == b->reftable_off && a->reftable_clusters == b->reftable_clusters);
	CHECK(a->nb_snapshots == b->nb_snapshots && a->snapshots_off == b->snapshots_off);
	CHECK(a->incompatible == b->incompatible && a->compatible == b->compatible);
	CHECK(a->autoclear == b->autoclear && a->refcount_order == b->refcount_order);
	CHECK(a->compression_type == b->compression_type);
	CHECK(a->header_length == b->header_length);
	CHECK(a->unknown_fields_len <= b->unknown_fields_len);
	CHECK(a->unknown_fields_len == 0 ||
	      memcmp(a->unknown_fields, b->unknown_fields, a->unknown_fields_len) == 0);
	CHECK(a->backing_off == b->backing_off && a->backing_len == b->backing_len);
	CHECK(fuzz_same_string(a->backing_name, b->backing_name));
}

static void round_trip(struct format_header *h, uint64_t cluster_size, unsigned allow)
{
	uint8_t *once = malloc(cluster_size), *twice = malloc(cluster_size);
	struct format_header again;
	struct qcow2_error err;
	int ret;

	CHECK(once && twice);
	memset(once, 0xaa, cluster_size);
	memset(twice, 0x55, cluster_size);
	ret = format_header_encode(h, once, cluster_size, &err);
	if (ret < 0) {
		CHECK(ret == -ENOSPC && err.message[0]);
	} else {
		CHECK(format_header_decode(&again, once, cluster_size, allow, NULL, &err) == 0);
		check_same(h, &again);
		CHECK(format_header_encode(&again, twice, cluster_size, &err) == 0);
		CHECK(memcmp(once, twice, cluster_size) == 0);
		format_header_release(&again);
	}
	free(once);
	free(twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	unsigned allow = (unsigned)fuzz_take(&in, 1), tolerated = ~0u;
	uint8_t *first = fuzz_copy(&in, FORMAT_HEADER_PEEK), *cluster;
	struct format_geometry g;
	struct qcow2_error err;
	struct format_header h;
	uint32_t bits;
	int ret;

	if (format_header_peek(first, &bits, &err) < 0) {
		CHECK(err.message[0]);
		free(first);
		return 0;
	}
	cluster = fuzz_copy(&in, (size_t)1 << bits);
	ret = format_header_decode(&h, cluster, 1ull << bits, allow, &tolerated, &err);
	if (ret == 0) {
		CHECK((tolerated & ~allow) == 0);
		format_header_geometry(&h, &g);
		CHECK(format_size_to_l1(&g, h.size_bytes) <= h.l1_entries);
		round_trip(&h, 1ull << bits, allow);
	} else {
		CHECK(err.code == ret && err.message[0] && tolerated == 0);
		CHECK(!h.backing_name && !h.ext.unknown && !h.unknown_fields);
	}
	format_header_release(&h);
	free(cluster);
	free(first);
	return 0;
}
