/* SPDX-License-Identifier: MIT */
/*
 * Deflate streams. Input: 2 bytes of output length, then the stream. What zlib takes in the way of
 * QEMU's reader, our own decoder and the codec take too, with the same bytes.
 */
#include "fuzz.h"

#include <zlib.h>

#include "codec/codec.h"
#include "codec/inflate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct codec *codec;
	struct fuzz_input in = {data, size};
	size_t out_len = 1 + fuzz_take(&in, 2), done = 0;
	uint8_t *packed = fuzz_copy(&in, in.len);
	uint8_t *own = malloc(out_len), *both = malloc(out_len), *theirs = malloc(out_len);
	enum inflate_result slow;
	z_stream z = {0};
	int ret, fast;

	if (!codec)
		CHECK(codec_new(&codec, CODEC_DEFLATE, 0, NULL) == 0);
	CHECK(own && both && theirs && inflateInit2(&z, -12) == Z_OK);
	z.next_in = packed;
	z.avail_in = (uInt)in.len;
	z.next_out = theirs;
	z.avail_out = (uInt)out_len;
	ret = inflate(&z, Z_FINISH);
	slow = inflate_cluster(packed, in.len, own, out_len, &done);
	fast = codec_decompress(codec, packed, in.len, both, out_len, NULL);
	CHECK(done <= out_len);
	if (z.avail_out == 0 && (ret == Z_STREAM_END || ret == Z_BUF_ERROR)) {
		/* A code without words, cut off: zlib hasn't come to the fault yet. */
		CHECK(slow == INFLATE_FULL || (slow == INFLATE_DAMAGED && ret == Z_BUF_ERROR));
	} else {
		CHECK(slow != INFLATE_FULL);
	}
	if (slow == INFLATE_FULL) {
		CHECK(fast == 0 && memcmp(own, theirs, out_len) == 0);
		CHECK(memcmp(both, theirs, out_len) == 0);
	}
	inflateEnd(&z);
	free(packed);
	free(own);
	free(both);
	free(theirs);
	return 0;
}
