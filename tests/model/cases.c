/* SPDX-License-Identifier: MIT */
/*
 * The kinds of images that random requests are made to. Disks are small, so that requests meet:
 * about 100 clusters of small size, a few of large size.
 */
#include "base/num.h"
#include "model/model.h"

#define K 1024ull
#define M (1024 * 1024ull)

/* Version, cluster bits, refcount bits, size; then what else. */
#define CASE(n, v, c, r, s, nops, ...)                                                             \
	{                                                                                          \
		.config = {.name = n,                                                              \
			   .version = v,                                                           \
			   .cluster_bits = c,                                                      \
			   .refcount_bits = r,                                                     \
			   .size = s,                                                              \
			   __VA_ARGS__},                                                           \
		.ops = nops                                                                        \
	}

#define SHORT_BACKING .backing = BACKING_RAW, .backing_size = 77 * 512
#define LONG_BACKING .backing = BACKING_QCOW2, .backing_size = 3 * M
#define SNAPSHOTS .filled = true, .snapshots = true

/* long: a flat table */
const struct model_case model_cases[] = {
	{.config = {.name = "raw", .raw = true, .size = 300 * K + 512}, .ops = 4000},
	CASE("c512", 3, 9, 16, 64 * K, 8000, .raw = false),
	CASE("c512-w1", 3, 9, 1, 200 * K, 6000, .filled = true),
	CASE("c512-w2", 3, 9, 2, 100 * K, 6000, .filled = true),
	CASE("c512-w4", 3, 9, 4, 64 * K, 6000, SHORT_BACKING),
	CASE("c512-w8", 3, 9, 8, 100 * K, 6000, SNAPSHOTS),
	CASE("c512-w32", 3, 9, 32, 500 * K, 6000, .prealloc = QCOW2_PREALLOC_METADATA),
	CASE("c512-w64", 3, 9, 64, 3 * M, 6000, .filled = true),
	CASE("c512-v2", 2, 9, 16, 100 * K, 6000, .filled = true),
	CASE("c512-v2-backing", 2, 9, 16, 50 * K, 6000, SHORT_BACKING),
	CASE("c512-v2-snapshots", 2, 9, 16, 50 * K, 5000, SNAPSHOTS),
	CASE("c1k-zstd", 3, 10, 16, 100 * K, 6000, .zstd = true, .filled = true),
	CASE("c1k-backing", 3, 10, 64, 70 * K + 512, 6000, LONG_BACKING),
	CASE("c2k-lazy", 3, 11, 16, 200 * K, 6000, .lazy = true),
	CASE("c4k", 3, 12, 16, 400 * K, 8000, .raw = false),
	CASE("c4k-w1", 3, 12, 1, 300 * K + 512, 5000, .lazy = true),
	CASE("c4k-backing-snapshots", 3, 12, 16, 300 * K + 512, 6000, SHORT_BACKING, SNAPSHOTS),
	CASE("c4k-v2", 2, 12, 16, 400 * K, 5000, .raw = false),
	CASE("c4k-v2-long-backing", 2, 12, 16, 300 * K, 5000, LONG_BACKING),
	CASE("c4k-data-file", 3, 12, 16, 300 * K, 6000, .data = DATA_FILE, .filled = true),
	CASE("c4k-data-file-raw", 3, 12, 16, 300 * K, 6000, .data = DATA_FILE_RAW),
	CASE("c4k-data-file-backing", 3, 12, 16, 300 * K, 5000, .data = DATA_FILE, SHORT_BACKING),
	CASE("c512-bitmap", 3, 9, 16, 100 * K, 5000, .bitmap_bits = 9, SHORT_BACKING),
	CASE("c4k-bitmap", 3, 12, 16, 300 * K + 512, 5000, .bitmap_bits = 13, SNAPSHOTS),
	CASE("c16k-extended", 3, 14, 16, 500 * K, 8000, .extended = true),
	CASE("c16k-extended-backing", 3, 14, 16, 500 * K + 512, 8000, .extended = true,
	     SHORT_BACKING),
	CASE("c16k-extended-snapshots", 3, 14, 8, 500 * K + 512, 6000, .extended = true, SNAPSHOTS),
	CASE("c16k-extended-data-file", 3, 14, 16, 500 * K, 6000, .extended = true,
	     .data = DATA_FILE, SHORT_BACKING),
	CASE("c16k-extended-lazy", 3, 14, 16, 500 * K, 5000, .extended = true, .lazy = true,
	     .zstd = true, .filled = true),
	CASE("c64k", 3, 16, 16, 2 * M, 6000, .raw = false),
	CASE("c64k-backing", 3, 16, 16, 2 * M + 512, 5000, LONG_BACKING),
	CASE("c64k-snapshots", 3, 16, 16, 2 * M, 5000, SNAPSHOTS),
	CASE("c64k-v2-backing", 2, 16, 16, M + 1536, 4000, SHORT_BACKING),
	CASE("c64k-extended-backing", 3, 16, 16, 2 * M, 5000, .extended = true, LONG_BACKING),
	CASE("c2m", 3, 21, 16, 9 * M, 1200, .raw = false),
	CASE("c2m-backing", 3, 21, 1, 5 * M + 512, 1000, LONG_BACKING),
	CASE("c2m-extended", 3, 21, 64, 9 * M, 1200, .extended = true, SHORT_BACKING),
};
const unsigned model_ncases = ARRAY_LEN(model_cases);
