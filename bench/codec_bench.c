/* SPDX-License-Identifier: MIT */
/*
 * Our codecs beside zlib, libdeflate and libzstd on the same clusters, in one thread:
 *
 *	codec_bench FILE [CLUSTER_SIZE [ROUNDS]]
 *
 * FILE is cut into clusters; those of zeros are left out, as a conversion leaves them out. Prints
 * MB/s of CPU time (the best round), the sum of the compressed sizes, where a cluster that doesn't
 * shrink counts in full, and the size relative to what QEMU would write. What a row compresses is
 * decompressed too, by our codec or by the library that QEMU uses, and compared.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libdeflate.h>
#include <zlib.h>
#include <zstd.h>

#include "codec/codec.h"

struct row {
	const char *name;
	enum codec_type type;
	int level;
	/* 0: it doesn't fit in cap */
	size_t (*pack)(void *ctx, const uint8_t *in, size_t len, uint8_t *out, size_t cap);
	int (*unpack)(void *ctx, const uint8_t *in, size_t len, uint8_t *out, size_t out_len);
};

/* What rows need; each takes its own. */
struct contexts {
	int level;
	struct codec *codec;
	struct libdeflate_compressor *libdeflate;
};

/* Clusters of the file, one after the other. */
struct clusters {
	uint8_t *bytes;
	size_t count, size;
};

static void die(const char *what)
{
	fprintf(stderr, "codec_bench: %s\n", what);
	exit(1);
}

static void *need(void *p)
{
	if (!p)
		die("no memory");
	return p;
}

static size_t pack_ours(void *ctx, const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	return codec_compress(((struct contexts *)ctx)->codec, in, len, out, cap);
}

static int unpack_ours(void *ctx, const uint8_t *in, size_t len, uint8_t *out, size_t out_len)
{
	return codec_decompress(((struct contexts *)ctx)->codec, in, len, out, out_len, NULL);
}

/* As QEMU does it: a fresh context for each cluster. */
static size_t pack_zlib(void *ctx, const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	z_stream z = {0};
	size_t n;

	if (deflateInit2(&z, ((struct contexts *)ctx)->level, Z_DEFLATED, -12, 9,
			 Z_DEFAULT_STRATEGY) != Z_OK)
		die("zlib");
	z.next_in = (Bytef *)(uintptr_t)in;
	z.avail_in = (uInt)len;
	z.next_out = out;
	z.avail_out = (uInt)cap;
	n = deflate(&z, Z_FINISH) == Z_STREAM_END ? z.total_out : 0;
	deflateEnd(&z);
	return n;
}

static int unpack_zlib(void *ctx, const uint8_t *in, size_t len, uint8_t *out, size_t out_len)
{
	z_stream z = {0};
	int ret;

	(void)ctx;
	if (inflateInit2(&z, -12) != Z_OK)
		die("zlib");
	z.next_in = (Bytef *)(uintptr_t)in;
	z.avail_in = (uInt)len;
	z.next_out = out;
	z.avail_out = (uInt)out_len;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return ret == Z_STREAM_END && z.avail_out == 0 ? 0 : -1;
}

static size_t pack_libdeflate(void *ctx, const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	return libdeflate_deflate_compress(((struct contexts *)ctx)->libdeflate, in, len, out, cap);
}

static size_t pack_zstd(void *ctx, const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	ZSTD_CCtx *cctx = need(ZSTD_createCCtx());
	ZSTD_inBuffer src = {in, len, 0};
	ZSTD_outBuffer dst = {out, cap, 0};
	size_t ret;

	ZSTD_CCtx_setParameter(cctx, ZSTD_c_compressionLevel, ((struct contexts *)ctx)->level);
	ret = ZSTD_compressStream2(cctx, &dst, &src, ZSTD_e_end);
	ZSTD_freeCCtx(cctx);
	return ret == 0 ? dst.pos : 0;
}

static int unpack_zstd(void *ctx, const uint8_t *in, size_t len, uint8_t *out, size_t out_len)
{
	ZSTD_DCtx *dctx = need(ZSTD_createDCtx());
	ZSTD_inBuffer src = {in, len, 0};
	ZSTD_outBuffer dst = {out, out_len, 0};
	size_t ret = ZSTD_decompressStream(dctx, &dst, &src);

	(void)ctx;
	ZSTD_freeDCtx(dctx);
	return ret == 0 && dst.pos == out_len ? 0 : -1;
}

/* The first of a type is what sizes are compared with. */
static const struct row rows[] = {
	{"zlib 6, 4 KiB (QEMU)", CODEC_DEFLATE, 6, pack_zlib, unpack_zlib},
	{"zlib 1, 4 KiB", CODEC_DEFLATE, 1, pack_zlib, unpack_zlib},
	{"libdeflate 6, 32 KiB", CODEC_DEFLATE, 6, pack_libdeflate, unpack_ours},
	{"ours, default", CODEC_DEFLATE, 0, pack_ours, unpack_ours},
	{"ours 1", CODEC_DEFLATE, 1, pack_ours, unpack_ours},
	{"ours 3", CODEC_DEFLATE, 3, pack_ours, unpack_ours},
	{"ours 9", CODEC_DEFLATE, 9, pack_ours, unpack_ours},
	{"ours 12", CODEC_DEFLATE, 12, pack_ours, unpack_ours},
	{"zstd 3, fresh (QEMU)", CODEC_ZSTD, 3, pack_zstd, unpack_zstd},
	{"ours, default", CODEC_ZSTD, 0, pack_ours, unpack_ours},
	{"ours 1", CODEC_ZSTD, 1, pack_ours, unpack_ours},
	{"ours 3", CODEC_ZSTD, 3, pack_ours, unpack_ours},
	{"ours 6", CODEC_ZSTD, 6, pack_ours, unpack_ours},
};

static double cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* All clusters once; adds to the sum of sizes and to both times. */
static void run_round(const struct row *row, struct contexts *ctx, const struct clusters *in,
		      size_t *sum, double *pack_time, double *unpack_time)
{
	uint8_t *packed = need(malloc(in->size)), *back = need(malloc(in->size));

	for (size_t i = 0; i < in->count; i++) {
		const uint8_t *cluster = in->bytes + i * in->size;
		double start = cpu_seconds(), middle, end;
		size_t n = row->pack(ctx, cluster, in->size, packed, in->size - 1);

		middle = cpu_seconds();
		*pack_time += middle - start;
		*sum += n ? n : in->size;
		if (n == 0)
			continue;
		if (row->unpack(ctx, packed, n, back, in->size) != 0)
			die("a cluster can't be decompressed");
		end = cpu_seconds();
		*unpack_time += end - middle;
		if (memcmp(back, cluster, in->size) != 0)
			die("a cluster doesn't come back");
	}
	free(packed);
	free(back);
}

static size_t run_row(const struct row *row, const struct clusters *in, int rounds, size_t base)
{
	struct contexts ctx = {.level = row->level};
	double pack = 1e9, unpack = 1e9, len = (double)in->count * (double)in->size;
	size_t sum = 0;

	if (codec_new(&ctx.codec, row->type, row->level, NULL) != 0)
		die("no codec");
	ctx.libdeflate = need(libdeflate_alloc_compressor(row->level ? row->level : 6));
	for (int i = 0; i < rounds; i++) {
		double p = 0, u = 0;

		sum = 0;
		run_round(row, &ctx, in, &sum, &p, &u);
		pack = p < pack ? p : pack;
		unpack = u < unpack ? u : unpack;
	}
	printf("%-8s %-22s %10.1f %10.1f %13zu %8.4f\n",
	       row->type == CODEC_DEFLATE ? "deflate" : "zstd", row->name, len / pack / 1e6,
	       len / unpack / 1e6, sum, base ? (double)sum / (double)base : 1.0);
	fflush(stdout);
	codec_free(ctx.codec);
	libdeflate_free_compressor(ctx.libdeflate);
	return sum;
}

static void load(const char *path, struct clusters *in)
{
	uint8_t *zeros = need(calloc(1, in->size));
	FILE *file = fopen(path, "rb");
	size_t room = 0;

	if (!file) {
		perror(path);
		exit(1);
	}
	for (;;) {
		uint8_t *at;

		if (in->count == room) {
			room = 2 * room + 64;
			in->bytes = need(realloc(in->bytes, room * in->size));
		}
		at = in->bytes + in->count * in->size;
		if (fread(at, 1, in->size, file) != in->size)
			break;
		in->count += memcmp(at, zeros, in->size) != 0;
	}
	if (ferror(file))
		die("the file can't be read to its end");
	fclose(file);
	free(zeros);
	if (in->count == 0)
		die("there is nothing in the file");
}

int main(int argc, char **argv)
{
	struct clusters in = {.size = argc > 2 ? strtoul(argv[2], NULL, 0) : 65536};
	int rounds = argc > 3 ? (int)strtol(argv[3], NULL, 0) : 3;
	size_t base[2] = {0, 0};

	if (argc < 2 || argc > 4 || in.size < 512 || in.size > 2 << 20 || rounds < 1)
		die("usage: codec_bench FILE [CLUSTER_SIZE [ROUNDS]]");
	load(argv[1], &in);
	printf("%zu clusters of %zu bytes, best of %d\n", in.count, in.size, rounds);
	printf("%-8s %-22s %10s %10s %13s %8s\n", "", "", "pack MB/s", "unpack", "bytes", "size");
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		size_t sum = run_row(&rows[i], &in, rounds, base[rows[i].type]);

		if (!base[rows[i].type])
			base[rows[i].type] = sum;
	}
	free(in.bytes);
	return 0;
}
