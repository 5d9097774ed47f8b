/* SPDX-License-Identifier: MIT */
/*
 * A deflate decoder for the streams that libdeflate refuses, but QEMU's reader takes: those that
 * hold more than a cluster, and those whose input ends when the cluster is full, without an end of
 * block. It accepts what zlib's inflate does in one call, and is slow.
 */
#ifndef CODEC_INFLATE_H
#define CODEC_INFLATE_H

#include <stddef.h>
#include <stdint.h>

enum inflate_result {
	INFLATE_FULL,	 /* out is full, nothing wrong was seen up to there */
	INFLATE_SHORT,	 /* the stream, or the input, ended before */
	INFLATE_DAMAGED, /* not a deflate stream */
};

/* *done: bytes of out that are filled. */
enum inflate_result inflate_cluster(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
				    size_t *done);

#endif
