/* SPDX-License-Identifier: MIT */
/*
 * A deflate encoder whose matches never reach back more than 4 KiB, the window of QEMU's reader.
 * (libdeflate's can't be limited, zlib's is slow.) It takes a cluster whole: parse it into
 * sequences (deflate_parse.c), cut these into blocks (deflate_split.c), give each its codes
 * (deflate_huff.c) and write it (deflate_block.c).
 */
#ifndef CODEC_DEFLATE_ENC_H
#define CODEC_DEFLATE_ENC_H

#include <stddef.h>
#include <stdint.h>

#define DEFLATE_LEVEL_MIN 1
#define DEFLATE_LEVEL_MAX 12
#define DEFLATE_LEVEL_DEFAULT 6

struct deflate_enc;

/* A level outside the range is moved to its nearest end. NULL: no memory. */
struct deflate_enc *deflate_enc_new(int level);
void deflate_enc_free(struct deflate_enc *enc);

/* Length of the stream written to out, or 0 if it doesn't fit in cap. len is at least 1. */
size_t deflate_enc_run(struct deflate_enc *enc, const uint8_t *in, size_t len, uint8_t *out,
		       size_t cap);

#endif
