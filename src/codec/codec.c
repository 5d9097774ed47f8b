/* SPDX-License-Identifier: MIT */
/*
 * The door of the room: picks the type that a context was made for. It knows nothing of the
 * streams themselves.
 */
#include "codec/codec.h"

#include <errno.h>

#include "base/alloc.h"
#include "codec/backend.h"
#include "codec/deflate_enc.h"

struct codec {
	enum codec_type type;
	union {
		struct deflate_codec *deflate;
		struct zstd_codec *zstd;
	};
};

int codec_check_level(enum codec_type type, int level, struct qcow2_error *err)
{
	int max = type == CODEC_ZSTD ? ZSTD_LEVEL_MAX : DEFLATE_LEVEL_MAX;

	if (level >= 0 && level <= max)
		return 0;
	return error_set(err, -EINVAL, "compression levels of %s go from 1 to %d, not %d",
			 type == CODEC_ZSTD ? "zstd" : "deflate", max, level);
}

int codec_new(struct codec **codec, enum codec_type type, int level, struct qcow2_error *err)
{
	struct codec *c = mem_zalloc(1, sizeof(*c));
	int ret;

	*codec = NULL;
	if (!c)
		return error_set(err, -ENOMEM, "no memory for a compression context");
	c->type = type;
	switch (type) {
	case CODEC_DEFLATE:
		ret = deflate_codec_new(&c->deflate, level, err);
		break;
	case CODEC_ZSTD:
		ret = zstd_codec_new(&c->zstd, level, err);
		break;
	default:
		ret = error_set(err, -ENOTSUP, "unknown compression type %u", (unsigned)type);
		break;
	}
	if (ret < 0) {
		mem_free(c);
		return ret;
	}
	*codec = c;
	return 0;
}

void codec_free(struct codec *codec)
{
	if (!codec)
		return;
	if (codec->type == CODEC_DEFLATE)
		deflate_codec_free(codec->deflate);
	else
		zstd_codec_free(codec->zstd);
	mem_free(codec);
}

size_t codec_compress(struct codec *codec, const void *in, size_t len, void *out, size_t cap)
{
	if (codec->type == CODEC_DEFLATE)
		return deflate_codec_compress(codec->deflate, in, len, out, cap);
	return zstd_codec_compress(codec->zstd, in, len, out, cap);
}

int codec_decompress(struct codec *codec, const void *in, size_t in_len, void *out, size_t out_len,
		     struct qcow2_error *err)
{
	if (codec->type == CODEC_DEFLATE)
		return deflate_codec_decompress(codec->deflate, in, in_len, out, out_len, err);
	return zstd_codec_decompress(codec->zstd, in, in_len, out, out_len, err);
}
