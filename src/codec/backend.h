/* SPDX-License-Identifier: MIT */
/*
 * What codec.c asks of a compression type. Contracts are those of codec.h; new() leaves nothing
 * behind when it fails.
 */
#ifndef CODEC_BACKEND_H
#define CODEC_BACKEND_H

#include <stddef.h>

#include "base/error.h"

struct deflate_codec;
int deflate_codec_new(struct deflate_codec **codec, int level, struct qcow2_error *err);
void deflate_codec_free(struct deflate_codec *codec);
size_t deflate_codec_compress(struct deflate_codec *codec, const void *in, size_t len, void *out,
			      size_t cap);
int deflate_codec_decompress(struct deflate_codec *codec, const void *in, size_t in_len, void *out,
			     size_t out_len, struct qcow2_error *err);

struct zstd_codec;
#define ZSTD_LEVEL_MAX 22
int zstd_codec_new(struct zstd_codec **codec, int level, struct qcow2_error *err);
void zstd_codec_free(struct zstd_codec *codec);
size_t zstd_codec_compress(struct zstd_codec *codec, const void *in, size_t len, void *out,
			   size_t cap);
int zstd_codec_decompress(struct zstd_codec *codec, const void *in, size_t in_len, void *out,
			  size_t out_len, struct qcow2_error *err);

#endif
