/* SPDX-License-Identifier: MIT */
/*
 * The deflate encoder. Input: level, 2 bytes of room, 2 bytes of length, then what the cluster is
 * filled with again and again. The stream comes back through zlib's window of 4 KiB, keeps to its
 * room, and doesn't depend on what was compressed before.
 */
#include "fuzz.h"

#include <zlib.h>

#include "codec/deflate_enc.h"

/* zlib gets room for few bytes at a time, so that it can copy from its window only. */
static void check_stream(const uint8_t *packed, size_t packed_len, const uint8_t *want, size_t len)
{
	uint8_t piece[61];
	size_t done = 0;
	z_stream z = {0};
	int ret = Z_OK;

	CHECK(inflateInit2(&z, -12) == Z_OK);
	z.next_in = (Bytef *)(uintptr_t)packed;
	z.avail_in = (uInt)packed_len;
	while (ret == Z_OK) {
		size_t n;

		z.next_out = piece;
		z.avail_out = sizeof(piece);
		ret = inflate(&z, Z_SYNC_FLUSH);
		n = sizeof(piece) - z.avail_out;
		CHECK(n <= len - done && memcmp(piece, want + done, n) == 0);
		done += n;
	}
	CHECK(ret == Z_STREAM_END && done == len && z.avail_in == 0);
	inflateEnd(&z);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct deflate_enc *used[DEFLATE_LEVEL_MAX + 1];
	struct fuzz_input in = {data, size};
	int level = 1 + (int)fuzz_take(&in, 1) % DEFLATE_LEVEL_MAX;
	size_t cap = fuzz_take(&in, 2), len = 1 + fuzz_take(&in, 2) % 16384, n;
	uint8_t *cluster = malloc(len), *packed = malloc(cap ? cap : 1);
	uint8_t *again = malloc(cap ? cap : 1);
	struct deflate_enc *fresh = deflate_enc_new(level);

	if (!used[level])
		used[level] = deflate_enc_new(level);
	CHECK(cluster && packed && again && fresh && used[level]);
	for (size_t i = 0; i < len; i++)
		cluster[i] = in.len ? in.data[i % in.len] : 0;
	n = deflate_enc_run(used[level], cluster, len, packed, cap);
	CHECK(n <= cap);
	CHECK(n == deflate_enc_run(fresh, cluster, len, again, cap));
	CHECK(memcmp(packed, again, n) == 0);
	if (n)
		check_stream(packed, n, cluster, len);
	deflate_enc_free(fresh);
	free(cluster);
	free(packed);
	free(again);
	return 0;
}
