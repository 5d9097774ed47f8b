/* SPDX-License-Identifier: MIT */
/* What holds for both types of compression. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "codec/codec.h"
#include "codec_data.h"

static const enum codec_type types[] = {CODEC_DEFLATE, CODEC_ZSTD};

#define FOR_TYPES(t) for (size_t t = 0; t < 2; t++)

static struct codec *open_codec(enum codec_type type, int level)
{
	struct codec *codec = NULL;

	assert_int_equal(codec_new(&codec, type, level, NULL), 0);
	return codec;
}

/* Both buffers have exactly the size that is promised, so that a sanitizer sees a byte too many. */
static void expect_round_trip(struct codec *codec, const uint8_t *in, size_t len, size_t cap,
			      size_t *packed_len)
{
	uint8_t *packed = malloc(cap ? cap : 1), *exact, *out = malloc(len);

	assert_non_null(packed);
	assert_non_null(out);
	*packed_len = codec_compress(codec, in, len, packed, cap);
	assert_true(*packed_len <= cap);
	if (*packed_len) {
		exact = malloc(*packed_len);
		assert_non_null(exact);
		memcpy(exact, packed, *packed_len);
		memset(out, 0x5a, len);
		assert_int_equal(codec_decompress(codec, exact, *packed_len, out, len, NULL), 0);
		assert_memory_equal(in, out, len);
		free(exact);
	}
	free(packed);
	free(out);
}

static void every_cluster_size_comes_back(void **state)
{
	uint8_t *in = malloc(MAX_CLUSTER);
	size_t packed_len;

	(void)state;
	assert_non_null(in);
	FOR_TYPES(t)
	{
		struct codec *codec = open_codec(types[t], 0);

		for (int kind = 0; kind < DATA_KINDS; kind++) {
			data_fill(in, MAX_CLUSTER, (enum data_kind)kind, 1);
			for (size_t len = 512; len <= MAX_CLUSTER; len *= 2) {
				expect_round_trip(codec, in, len, len - 1, &packed_len);
				if (kind == DATA_RANDOM)
					assert_int_equal(packed_len, 0);
				else if (kind != DATA_FAR)
					assert_in_range(packed_len, 1, len - 1);
			}
		}
		codec_free(codec);
	}
	free(in);
}

static void every_level_comes_back(void **state)
{
	enum { LEN = 65536 };
	uint8_t *in = malloc(LEN);
	size_t packed_len;

	(void)state;
	assert_non_null(in);
	FOR_TYPES(t)
	{
		for (int level = 1; level <= 12; level++) {
			struct codec *codec = open_codec(types[t], level);

			for (int kind = 0; kind < DATA_KINDS; kind++) {
				data_fill(in, LEN, (enum data_kind)kind, (uint64_t)level << 20);
				expect_round_trip(codec, in, LEN, LEN - 1, &packed_len);
			}
			codec_free(codec);
		}
	}
	free(in);
}

static void odd_lengths_come_back(void **state)
{
	uint8_t in[600];
	size_t packed_len, got;

	(void)state;
	FOR_TYPES(t)
	{
		struct codec *codec = open_codec(types[t], 0);

		for (int kind = 0; kind < DATA_KINDS; kind++) {
			data_fill(in, sizeof(in), (enum data_kind)kind, 3);
			for (size_t len = 1; len <= sizeof(in); len++) {
				expect_round_trip(codec, in, len, len + 100, &packed_len);
				assert_true(packed_len > 0);
				expect_round_trip(codec, in, len, packed_len - 1, &got);
				assert_int_equal(got, 0);
			}
		}
		codec_free(codec);
	}
}

static void output_that_fits_to_the_byte_is_given(void **state)
{
	enum { LEN = 4096 };
	uint8_t in[LEN];
	size_t need, got;

	(void)state;
	FOR_TYPES(t)
	{
		struct codec *codec = open_codec(types[t], 0);

		for (int kind = 0; kind < DATA_KINDS; kind++) {
			data_fill(in, LEN, (enum data_kind)kind, 4);
			expect_round_trip(codec, in, LEN, LEN + 100, &need);
			assert_true(need > 0);
			/* zstd asks for some room more than it uses. */
			if (types[t] == CODEC_DEFLATE) {
				expect_round_trip(codec, in, LEN, need, &got);
				assert_int_equal(got, need);
			}
			expect_round_trip(codec, in, LEN, need - 1, &got);
			assert_int_equal(got, 0);
			for (size_t cap = 0; cap < 10 && cap < need; cap++) {
				expect_round_trip(codec, in, LEN, cap, &got);
				assert_int_equal(got, 0);
			}
		}
		codec_free(codec);
	}
}

static size_t compress(struct codec *codec, const uint8_t *in, size_t len, uint8_t *out)
{
	memset(out, 0, len);
	return codec_compress(codec, in, len, out, len - 1);
}

static void history_does_not_change_the_output(void **state)
{
	enum { LEN = 65536 };
	uint8_t *in = malloc(LEN), *other = malloc(LEN), *a = malloc(LEN), *b = malloc(LEN);

	(void)state;
	assert_true(in && other && a && b);
	data_fill(other, LEN, DATA_MIXTURE, 77);
	FOR_TYPES(t)
	{
		struct codec *used = open_codec(types[t], 0);

		for (uint64_t seed = 0; seed < 200; seed++) {
			size_t len = (size_t)512 << seed % 8;
			struct codec *fresh = open_codec(types[t], 0);

			data_fill(in, len, (enum data_kind)(seed % DATA_KINDS), seed << 8);
			assert_int_equal(compress(fresh, in, len, a), compress(used, in, len, b));
			assert_memory_equal(a, b, len);
			compress(used, other, (size_t)512 << seed / 3 % 8, b);
			codec_free(fresh);
		}
		codec_free(used);
	}
	free(in);
	free(other);
	free(a);
	free(b);
}

static void what_follows_the_stream_is_ignored(void **state)
{
	enum { LEN = 65536 };
	uint8_t *in = malloc(LEN), *packed = malloc(LEN + 512), *out = malloc(LEN);

	(void)state;
	assert_true(in && packed && out);
	data_fill(in, LEN, DATA_TEXT, 5);
	FOR_TYPES(t)
	{
		struct codec *codec = open_codec(types[t], 0);
		size_t len = codec_compress(codec, in, LEN, packed, LEN - 1);

		for (int byte = 0; byte < 256; byte += 51) {
			memset(packed + len, byte, 512);
			assert_int_equal(codec_decompress(codec, packed, len + 512, out, LEN, NULL),
					 0);
			assert_memory_equal(in, out, LEN);
		}
		codec_free(codec);
	}
	free(in);
	free(packed);
	free(out);
}

/* A damaged stream gives an error with a sentence, or bytes; the context is good afterwards. */
static void expect_no_harm(struct codec *codec, const uint8_t *packed, size_t packed_len,
			   size_t out_len)
{
	struct qcow2_error err = {0};
	uint8_t *exact = malloc(packed_len ? packed_len : 1), *out = malloc(out_len);
	int ret;

	assert_true(exact && out);
	memcpy(exact, packed, packed_len);
	ret = codec_decompress(codec, exact, packed_len, out, out_len, &err);
	assert_true(ret == 0 || ret == -EIO);
	assert_int_equal(err.code, ret);
	assert_true((err.message[0] != 0) == (ret != 0));
	free(exact);
	free(out);
}

static void damaged_streams_do_no_harm(void **state)
{
	enum { LEN = 4096 };
	uint8_t in[LEN], packed[LEN], hurt[LEN];
	uint64_t seed = 6;
	size_t packed_len;

	(void)state;
	FOR_TYPES(t)
	{
		struct codec *codec = open_codec(types[t], 0);

		data_fill(in, LEN, DATA_MIXTURE, 9);
		packed_len = codec_compress(codec, in, LEN, packed, LEN - 1);
		assert_true(packed_len > 0);
		for (size_t len = 0; len < packed_len; len++)
			expect_no_harm(codec, packed, len, LEN);
		for (size_t bit = 0; bit < 8 * packed_len; bit++) {
			memcpy(hurt, packed, packed_len);
			hurt[bit / 8] ^= (uint8_t)(1 << bit % 8);
			expect_no_harm(codec, hurt, packed_len, LEN);
		}
		for (int i = 0; i < 20000; i++) {
			data_fill(hurt, 64, DATA_RANDOM, seed += 16);
			expect_no_harm(codec, hurt, 64, 512);
		}
		expect_round_trip(codec, in, LEN, LEN, &packed_len);
		assert_true(packed_len > 0);
		codec_free(codec);
	}
}

static void the_other_type_is_an_error(void **state)
{
	uint8_t in[4096], packed[4096], out[4096];
	struct codec *codecs[] = {open_codec(CODEC_DEFLATE, 0), open_codec(CODEC_ZSTD, 0)};

	(void)state;
	data_fill(in, sizeof(in), DATA_TEXT, 8);
	FOR_TYPES(t)
	{
		size_t len = codec_compress(codecs[t], in, sizeof(in), packed, sizeof(packed));

		assert_true(len > 0);
		assert_int_equal(codec_decompress(codecs[!t], packed, len, out, sizeof(out), NULL),
				 -EIO);
	}
	codec_free(codecs[0]);
	codec_free(codecs[1]);
}

static void an_unknown_type_is_refused(void **state)
{
	struct qcow2_error err;
	struct codec *codec;

	(void)state;
	assert_int_equal(codec_new(&codec, (enum codec_type)2, 0, &err), -ENOTSUP);
	assert_null(codec);
	assert_string_equal(err.message, "unknown compression type 2");
	codec_free(NULL);
}

static int allocations_left;

static _Bool few_allocations(size_t size)
{
	(void)size;
	return allocations_left-- > 0;
}

static void short_memory_is_an_error_without_a_leak(void **state)
{
	struct qcow2_error err;
	struct codec *codec;
	int ret = -ENOMEM;

	(void)state;
	mem_fault_hook = few_allocations;
	FOR_TYPES(t)
	{
		for (int n = 0; ret != 0; n++) {
			assert_in_range(n, 0, 10);
			allocations_left = n;
			ret = codec_new(&codec, types[t], 0, &err);
			if (ret) {
				assert_int_equal(ret, -ENOMEM);
				assert_null(codec);
			}
		}
		codec_free(codec);
		ret = -ENOMEM;
	}
	mem_fault_hook = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_cluster_size_comes_back),
		cmocka_unit_test(every_level_comes_back),
		cmocka_unit_test(odd_lengths_come_back),
		cmocka_unit_test(output_that_fits_to_the_byte_is_given),
		cmocka_unit_test(history_does_not_change_the_output),
		cmocka_unit_test(what_follows_the_stream_is_ignored),
		cmocka_unit_test(damaged_streams_do_no_harm),
		cmocka_unit_test(the_other_type_is_an_error),
		cmocka_unit_test(an_unknown_type_is_refused),
		cmocka_unit_test(short_memory_is_an_error_without_a_leak),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
