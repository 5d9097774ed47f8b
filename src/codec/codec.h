/* SPDX-License-Identifier: MIT */
/*
 * Compression of one cluster's bytes: section 8.4 (deflate) and 8.5 (zstd). A codec context is
 * one thread's and is used again for every cluster.
 */
#ifndef CODEC_CODEC_H
#define CODEC_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum codec_type {
	CODEC_DEFLATE = 0, /* the numbers of the header's compression_type */
	CODEC_ZSTD = 1,
};

struct codec;

/* -EINVAL unless level is 0, the default, or one that the type has: 1 to 12, or to 22 with zstd. */
int codec_check_level(enum codec_type type, int level, struct qcow2_error *err);
/* level: a checked one. -ENOTSUP for a type that this build lacks, -ENOMEM. */
int codec_new(struct codec **codec, enum codec_type type, int level, struct qcow2_error *err);
void codec_free(struct codec *codec);

/*
 * Compresses len bytes into out, which has room for cap. Gives the compressed length, or 0 if it
 * doesn't fit (the cluster is then stored plain). Deterministic: the same input gives the same
 * output whatever was compressed before. Deflate output never refers back more than 4 KiB.
 */
size_t codec_compress(struct codec *codec, const void *in, size_t len, void *out, size_t cap);

/*
 * Decompresses exactly out_len bytes from in, whose last bytes may be garbage after the stream.
 * Deflate: a stream that holds more is cut, one that holds less is -EIO. zstd: frames one after
 * the other, the last of which must end exactly at out_len. Never writes past out, whatever the
 * input.
 */
int codec_decompress(struct codec *codec, const void *in, size_t in_len, void *out, size_t out_len,
		     struct qcow2_error *err);

#endif
