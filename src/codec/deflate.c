/* SPDX-License-Identifier: MIT */
/*
 * Raw deflate streams, one a cluster (section 8.4 of the format reference). Written by our own
 * encoder, read by libdeflate and, what that refuses, by our own decoder.
 */
#include <errno.h>
#include <libdeflate.h>

#include "base/alloc.h"
#include "codec/backend.h"
#include "codec/deflate_enc.h"
#include "codec/inflate.h"

struct deflate_codec {
	struct deflate_enc *enc;
	struct libdeflate_decompressor *dec;
};

int deflate_codec_new(struct deflate_codec **codec, int level, struct qcow2_error *err)
{
	struct deflate_codec *c = mem_zalloc(1, sizeof(*c));

	if (!c)
		return error_set(err, -ENOMEM, "no memory for a deflate context");
	c->enc = deflate_enc_new(level ? level : DEFLATE_LEVEL_DEFAULT);
	c->dec = libdeflate_alloc_decompressor();
	if (!c->enc || !c->dec) {
		deflate_codec_free(c);
		return error_set(err, -ENOMEM, "no memory for a deflate context");
	}
	*codec = c;
	return 0;
}

void deflate_codec_free(struct deflate_codec *codec)
{
	if (!codec)
		return;
	deflate_enc_free(codec->enc);
	libdeflate_free_decompressor(codec->dec);
	mem_free(codec);
}

size_t deflate_codec_compress(struct deflate_codec *codec, const void *in, size_t len, void *out,
			      size_t cap)
{
	return deflate_enc_run(codec->enc, in, len, out, cap);
}

int deflate_codec_decompress(struct deflate_codec *codec, const void *in, size_t in_len, void *out,
			     size_t out_len, struct qcow2_error *err)
{
	enum libdeflate_result fast;
	enum inflate_result slow;
	size_t done;

	fast = libdeflate_deflate_decompress(codec->dec, in, in_len, out, out_len, NULL);
	if (fast == LIBDEFLATE_SUCCESS)
		return 0;
	slow = inflate_cluster(in, in_len, out, out_len, &done);
	if (slow == INFLATE_FULL)
		return 0;
	return error_set(err, -EIO,
			 slow == INFLATE_SHORT
				 ? "deflate stream ends after 0x%zx of 0x%zx bytes"
				 : "deflate stream is damaged after 0x%zx of 0x%zx bytes",
			 done, out_len);
}
