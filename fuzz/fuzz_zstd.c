/* SPDX-License-Identifier: MIT */
/*
 * zstd frames. Input: 2 bytes of output length, then the frames. What libzstd's streaming decoder
 * takes in the way of QEMU's reader, ours takes too, with the same bytes.
 */
#include "fuzz.h"

#include <zstd.h>

#include "codec/codec.h"

static int stream(ZSTD_DCtx *dctx, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
	ZSTD_inBuffer src = {in, in_len, 0};
	ZSTD_outBuffer dst = {out, out_len, 0};
	size_t ret = 0;

	ZSTD_DCtx_reset(dctx, ZSTD_reset_session_only);
	ZSTD_DCtx_setParameter(dctx, ZSTD_d_windowLogMax, 20);
	while (dst.pos < out_len) {
		size_t before = src.pos + dst.pos;

		ret = ZSTD_decompressStream(dctx, &dst, &src);
		if (ZSTD_isError(ret) || src.pos + dst.pos == before)
			return 0;
	}
	return ret == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct codec *codec;
	static ZSTD_DCtx *dctx;
	struct fuzz_input in = {data, size};
	size_t out_len = 1 + fuzz_take(&in, 2);
	uint8_t *packed = fuzz_copy(&in, in.len);
	uint8_t *ours = malloc(out_len), *theirs = malloc(out_len);

	if (!codec) {
		CHECK(codec_new(&codec, CODEC_ZSTD, 0, NULL) == 0);
		dctx = ZSTD_createDCtx();
	}
	CHECK(ours && theirs && dctx);
	if (stream(dctx, packed, in.len, theirs, out_len)) {
		CHECK(codec_decompress(codec, packed, in.len, ours, out_len, NULL) == 0);
		CHECK(memcmp(ours, theirs, out_len) == 0);
	} else {
		(void)codec_decompress(codec, packed, in.len, ours, out_len, NULL);
	}
	free(packed);
	free(ours);
	free(theirs);
	return 0;
}
