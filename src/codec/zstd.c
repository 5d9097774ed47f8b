/* SPDX-License-Identifier: MIT */
/*
 * zstd frames, normally one a cluster (section 8.5 of the format reference). Frames that we write
 * carry the content size and no checksum, as QEMU's do. The reader takes what QEMU's takes: several
 * frames in a row, the last of which ends exactly with the cluster.
 */
#include <errno.h>
#include <stdbool.h>
#include <zstd.h>

#include "base/alloc.h"
#include "codec/backend.h"

struct zstd_codec {
	ZSTD_CCtx *enc;
	ZSTD_DCtx *dec;
};

int zstd_codec_new(struct zstd_codec **codec, int level, struct qcow2_error *err)
{
	struct zstd_codec *c = mem_zalloc(1, sizeof(*c));

	if (!c)
		return error_set(err, -ENOMEM, "no memory for a zstd context");
	c->enc = ZSTD_createCCtx();
	c->dec = ZSTD_createDCtx();
	if (!c->enc || !c->dec ||
	    ZSTD_isError(ZSTD_CCtx_setParameter(c->enc, ZSTD_c_compressionLevel,
						level ? level : ZSTD_CLEVEL_DEFAULT))) {
		zstd_codec_free(c);
		return error_set(err, -ENOMEM, "no memory for a zstd context");
	}
	*codec = c;
	return 0;
}

void zstd_codec_free(struct zstd_codec *codec)
{
	if (!codec)
		return;
	ZSTD_freeCCtx(codec->enc);
	ZSTD_freeDCtx(codec->dec);
	mem_free(codec);
}

size_t zstd_codec_compress(struct zstd_codec *codec, const void *in, size_t len, void *out,
			   size_t cap)
{
	size_t ret = ZSTD_compress2(codec->enc, out, cap, in, len);

	return ZSTD_isError(ret) ? 0 : ret;
}

int zstd_codec_decompress(struct zstd_codec *codec, const void *in, size_t in_len, void *out,
			  size_t out_len, struct qcow2_error *err)
{
	ZSTD_inBuffer src = {.src = in, .size = in_len};
	ZSTD_outBuffer dst = {.dst = out, .size = out_len};
	size_t ret = 1;

	ZSTD_DCtx_reset(codec->dec, ZSTD_reset_session_only);
	while (dst.pos < dst.size || ret != 0) {
		size_t in_before = src.pos, out_before = dst.pos;

		ret = ZSTD_decompressStream(codec->dec, &dst, &src);
		if (ZSTD_isError(ret))
			return error_set(err, -EIO, "damaged zstd frame: %s",
					 ZSTD_getErrorName(ret));
		if (src.pos == in_before && dst.pos == out_before)
			return error_set(
				err, -EIO,
				"zstd frame doesn't end with the cluster: %zu of %zu bytes",
				dst.pos, dst.size);
	}
	return 0;
}
