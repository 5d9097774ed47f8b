/* SPDX-License-Identifier: MIT */
/*
 * zstd frames, normally one a cluster (section 8.5 of the format reference). Frames that we write
 * carry the content size and no checksum, as QEMU's do. The reader takes what QEMU's takes: several
 * frames in a row, the last of which ends exactly with the cluster.
 */
#include <errno.h>
#include <stdint.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/num.h"
#include "codec/backend.h"

#define OWN_FROM 65536u
#define OWN_TO 524288u

struct zstd_codec {
	ZSTD_CCtx *enc;
	ZSTD_DCtx *dec;
	int level;	/* 0: the default */
	size_t set_for; /* the cluster size that the default was set for */
};

static unsigned floor_log2(size_t v)
{
	return v ? 63 - (unsigned)__builtin_clzll(v) : 0;
}

/*
 * The default. Clusters of 64 to 512 KiB: matches of four bytes or more, found through a long and a
 * short table that are much smaller than those of level 3, which is what QEMU uses. They are
 * cleared for each cluster, and small ones stay near the processor: a tenth less time, for a result
 * that is smaller by some tenths of a percent on a disk of programs and libraries (at 256 KiB it is
 * 0.7 % larger). Other sizes would lose, and get level 3 (0 means "as the level has it").
 */
static size_t set_defaults(struct zstd_codec *c, size_t len)
{
	bool own = len >= OWN_FROM && len <= OWN_TO;
	int log = own ? (int)floor_log2(len) : 0;
	size_t ret;

	if (c->level || c->set_for == len)
		return 0;
	ret = ZSTD_CCtx_setParameter(c->enc, ZSTD_c_strategy, own ? ZSTD_dfast : 0);
	if (!ZSTD_isError(ret))
		ret = ZSTD_CCtx_setParameter(c->enc, ZSTD_c_minMatch, own ? 4 : 0);
	if (!ZSTD_isError(ret))
		ret = ZSTD_CCtx_setParameter(c->enc, ZSTD_c_hashLog, own ? log - 3 : 0);
	if (!ZSTD_isError(ret))
		ret = ZSTD_CCtx_setParameter(c->enc, ZSTD_c_chainLog, own ? log - 4 : 0);
	c->set_for = len;
	return ret;
}

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
	c->level = level;
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
	size_t ret = set_defaults(codec, len);

	if (!ZSTD_isError(ret))
		ret = ZSTD_compress2(codec->enc, out, cap, in, len);
	return ZSTD_isError(ret) ? 0 : ret;
}

/*
 * Frame by frame, each in one call straight into the cluster: unlike with the streaming interface
 * no window is allocated, whatever size a frame's header asks for.
 */
int zstd_codec_decompress(struct zstd_codec *codec, const void *in, size_t in_len, void *out,
			  size_t out_len, struct qcow2_error *err)
{
	const uint8_t *src = in;
	uint8_t *dst = out;
	size_t done = 0;

	while (done < out_len) {
		size_t frame_len = ZSTD_findFrameCompressedSize(src, in_len);
		size_t n = frame_len;

		if (in_len == 0)
			return error_set(err, -EIO, "zstd frames end after 0x%zx of 0x%zx bytes",
					 done, out_len);
		if (!ZSTD_isError(frame_len))
			n = ZSTD_decompressDCtx(codec->dec, dst + done, out_len - done, src,
						frame_len);
		if (ZSTD_isError(n))
			return error_set(err, -EIO,
					 "zstd frame is damaged after 0x%zx of 0x%zx bytes: %s",
					 done, out_len, ZSTD_getErrorName(n));
		done += n;
		src += frame_len;
		in_len -= frame_len;
	}
	return 0;
}
