/* SPDX-License-Identifier: MIT */
/*
 * Our deflate streams as zlib sees them, set up as in QEMU's reader, and streams of others as we
 * see them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "codec/codec.h"
#include "codec/inflate.h"
#include "codec_data.h"

enum { LEN = 65536 };

static struct codec *open_codec(int level)
{
	struct codec *codec = NULL;

	assert_int_equal(codec_new(&codec, CODEC_DEFLATE, level, NULL), 0);
	return codec;
}

static int read_packed(const uint8_t *packed, size_t len, uint8_t *out, size_t out_len,
		       struct qcow2_error *err)
{
	struct codec *codec = open_codec(0);
	uint8_t *exact = malloc(len ? len : 1);
	int ret;

	assert_non_null(exact);
	memcpy(exact, packed, len);
	ret = codec_decompress(codec, exact, len, out, out_len, err);
	free(exact);
	codec_free(codec);
	return ret;
}

/* zlib's stream of in, without its header. */
static size_t zlib_pack(const uint8_t *in, size_t len, int level, int window_bits, int flush,
			uint8_t *out, size_t cap)
{
	z_stream z = {0};

	assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, -window_bits, 9, Z_DEFAULT_STRATEGY),
			 Z_OK);
	z.next_in = (Bytef *)(uintptr_t)in;
	z.avail_in = (uInt)len;
	z.next_out = out;
	z.avail_out = (uInt)cap;
	deflate(&z, flush);
	assert_int_equal(z.avail_in, 0);
	assert_true(z.avail_out > 0);
	len = z.total_out;
	deflateEnd(&z);
	return len;
}

/*
 * Does zlib, with a window of 4 KiB, decode the stream when it is given room for one byte at a
 * time? Then it has nothing but the window to copy from, and no distance is above 4096.
 */
static bool decodes_through_window(const uint8_t *packed, size_t packed_len, const uint8_t *want,
				   size_t len)
{
	z_stream z = {0};
	uint8_t byte = 0;
	bool good = true;
	int ret = Z_OK;

	assert_int_equal(inflateInit2(&z, -12), Z_OK);
	z.next_in = (Bytef *)(uintptr_t)packed;
	z.avail_in = (uInt)packed_len;
	for (size_t i = 0; i < len && good; i++) {
		z.next_out = &byte;
		z.avail_out = 1;
		ret = inflate(&z, Z_SYNC_FLUSH);
		good = (ret == Z_OK || ret == Z_STREAM_END) && z.avail_out == 0 && byte == want[i];
	}
	if (good && ret == Z_OK) {
		z.next_out = &byte;
		z.avail_out = 1;
		ret = inflate(&z, Z_SYNC_FLUSH);
	}
	good = good && ret == Z_STREAM_END && z.total_out == len && z.avail_in == 0;
	inflateEnd(&z);
	return good;
}

static void no_match_is_farther_than_4_kib(void **state)
{
	uint8_t *in = malloc(MAX_CLUSTER), *packed = malloc(MAX_CLUSTER);

	(void)state;
	assert_true(in && packed);
	for (int level = 0; level <= 12; level += 3) {
		struct codec *codec = open_codec(level);

		for (int kind = 0; kind < DATA_KINDS; kind++) {
			size_t len = kind == DATA_MIXTURE ? MAX_CLUSTER : 2 * LEN;
			size_t n;

			data_fill(in, len, (enum data_kind)kind, 11);
			n = codec_compress(codec, in, len, packed, len - 1);
			if (n)
				assert_true(decodes_through_window(packed, n, in, len));
			else
				assert_true(kind == DATA_RANDOM || kind == DATA_FAR);
		}
		codec_free(codec);
	}
	free(in);
	free(packed);
}

static void the_window_test_sees_a_far_match(void **state)
{
	uint8_t in[8192], packed[16384];
	size_t n;

	(void)state;
	data_fill(in, 4097, DATA_RANDOM, 12);
	memcpy(in + 4097, in, 200);
	n = zlib_pack(in, 4297, 6, 15, Z_FINISH, packed, sizeof(packed));
	assert_true(n < 4200);
	assert_false(decodes_through_window(packed, n, in, 4297));
	memcpy(in + 4096, in, 201);
	n = zlib_pack(in, 4297, 6, 15, Z_FINISH, packed, sizeof(packed));
	assert_true(n < 4200);
	assert_true(decodes_through_window(packed, n, in, 4297));
}

static void the_whole_window_is_used(void **state)
{
	uint8_t in[8192], packed[8192];
	struct codec *codec = open_codec(0);
	size_t n;

	(void)state;
	data_fill(in, 4096, DATA_RANDOM, 13);
	memcpy(in + 4096, in, 4096);
	n = codec_compress(codec, in, sizeof(in), packed, sizeof(packed));
	assert_in_range(n, 4096, 4500);
	assert_true(decodes_through_window(packed, n, in, sizeof(in)));
	codec_free(codec);
}

static void output_is_no_larger_than_zlib_s(void **state)
{
	uint8_t *in = malloc(LEN), *packed = malloc(2 * LEN);
	struct codec *codec = open_codec(0);
	size_t ours = 0, theirs = 0;

	(void)state;
	assert_true(in && packed);
	for (uint64_t seed = 0; seed < 20; seed++) {
		size_t n;

		data_fill(in, LEN, seed & 1 ? DATA_MIXTURE : DATA_RECORDS, seed << 10);
		n = codec_compress(codec, in, LEN, packed, LEN - 1);
		assert_true(n > 0);
		ours += n;
		theirs += zlib_pack(in, LEN, 6, 12, Z_FINISH, packed, 2 * LEN);
	}
	assert_true(ours <= theirs);
	codec_free(codec);
	free(in);
	free(packed);
}

/* A stream of text of len bytes, read as a cluster of LEN. */
static int read_text(size_t len, int level, int window_bits, int flush, size_t cut, const char *end,
		     size_t end_len, struct qcow2_error *err)
{
	uint8_t *in = malloc(3 * LEN), *packed = malloc(4 * LEN), *out = malloc(LEN);
	size_t n;
	int ret;

	assert_true(in && packed && out);
	data_fill(in, 3 * LEN, DATA_TEXT, 14);
	n = zlib_pack(in, len, level, window_bits, flush, packed, 4 * LEN) - cut;
	memcpy(packed + n, end, end_len);
	ret = read_packed(packed, n + end_len, out, LEN, err);
	if (ret == 0)
		assert_memory_equal(in, out, LEN);
	free(in);
	free(packed);
	free(out);
	return ret;
}

static void a_stream_that_holds_more_is_cut(void **state)
{
	(void)state;
	assert_int_equal(read_text(LEN + 1, 6, 12, Z_FINISH, 0, "", 0, NULL), 0);
	assert_int_equal(read_text(3 * LEN, 6, 12, Z_FINISH, 0, "", 0, NULL), 0);
	assert_int_equal(read_text(3 * LEN, 1, 15, Z_FINISH, 0, "", 0, NULL), 0);
	assert_int_equal(read_text(3 * LEN, 0, 12, Z_FINISH, 0, "", 0, NULL), 0);
	assert_int_equal(read_text(3 * LEN, 6, 12, Z_FINISH, 20, "", 0, NULL), 0);
}

static void a_stream_that_holds_less_is_an_error(void **state)
{
	struct qcow2_error err;

	(void)state;
	assert_int_equal(read_text(LEN - 1, 6, 12, Z_FINISH, 0, "\xff\xff", 2, &err), -EIO);
	assert_string_equal(err.message, "deflate stream ends after 0xffff of 0x10000 bytes");
	assert_int_equal(read_text(LEN, 6, 12, Z_FINISH, 100, "", 0, &err), -EIO);
	assert_int_equal(read_text(0, 6, 12, Z_FINISH, 0, "", 0, &err), -EIO);
	assert_string_equal(err.message, "deflate stream ends after 0x0 of 0x10000 bytes");
}

static void a_stream_without_an_end_is_read_if_nothing_is_missing(void **state)
{
	struct qcow2_error err;

	(void)state;
	/* Four bytes of an empty stored block, then three bits and what aligns them. */
	assert_int_equal(read_text(LEN, 6, 12, Z_SYNC_FLUSH, 0, "", 0, NULL), 0);
	assert_int_equal(read_text(LEN, 6, 12, Z_SYNC_FLUSH, 4, "", 0, NULL), 0);
	assert_int_equal(read_text(LEN, 6, 12, Z_SYNC_FLUSH, 5, "", 0, NULL), 0);
	/* Stored bytes: cut off right behind the cluster's last one. */
	assert_int_equal(read_text(LEN, 0, 12, Z_SYNC_FLUSH, 5, "", 0, NULL), 0);
	assert_int_equal(read_text(LEN, 0, 12, Z_SYNC_FLUSH, 6, "", 0, &err), -EIO);
	assert_string_equal(err.message, "deflate stream ends after 0xffff of 0x10000 bytes");
}

static void damage_right_behind_the_last_byte_is_an_error(void **state)
{
	static const char bad_type[] = "\xff\xff\xff", bad_stored[] = "\0\x12\x34\x56\x78";
	static const char more[] = "\x01\x05\0\xfa\xffhello";
	struct qcow2_error err;

	(void)state;
	assert_int_equal(read_text(LEN, 6, 12, Z_SYNC_FLUSH, 0, bad_type, 3, &err), -EIO);
	assert_string_equal(err.message,
			    "deflate stream is damaged after 0x10000 of 0x10000 bytes");
	assert_int_equal(read_text(LEN, 6, 12, Z_SYNC_FLUSH, 0, bad_stored, 5, &err), -EIO);
	assert_int_equal(read_text(LEN, 6, 12, Z_SYNC_FLUSH, 0, more, 10, &err), 0);
}

static void matches_of_up_to_32_kib_are_read(void **state)
{
	uint8_t *in = malloc(LEN + 1), *packed = malloc(2 * LEN), *out = malloc(LEN);
	size_t n;

	(void)state;
	assert_true(in && packed && out);
	data_fill(in, 32500, DATA_RANDOM, 15);
	for (size_t i = 32500; i <= LEN; i++)
		in[i] = in[i - 32500];
	/* The second time it is our own decoder that reads. */
	for (size_t more = 0; more <= 1; more++) {
		n = zlib_pack(in, LEN + more, 9, 15, Z_FINISH, packed, 2 * LEN);
		assert_true(n < 40000);
		assert_int_equal(read_packed(packed, n, out, LEN, NULL), 0);
		assert_memory_equal(in, out, LEN);
	}
	free(in);
	free(packed);
	free(out);
}

static void a_match_before_the_beginning_is_an_error(void **state)
{
	/* Fixed code: a literal 'a', then 3 bytes from 2 back. */
	static const uint8_t packed[] = {0x4b, 0x04, 0x42, 0x00};
	struct qcow2_error err;
	uint8_t out[512];

	(void)state;
	assert_int_equal(read_packed(packed, sizeof(packed), out, sizeof(out), &err), -EIO);
	assert_string_equal(err.message, "deflate stream is damaged after 0x1 of 0x200 bytes");
}

static void a_zlib_header_is_an_error(void **state)
{
	static const uint8_t packed[] = {0x78, 0x9c, 0x63, 0x60, 0x18, 0x05, 0xa3, 0, 0, 0};
	uint8_t out[512];

	(void)state;
	assert_int_equal(read_packed(packed, sizeof(packed), out, sizeof(out), NULL), -EIO);
}

/* The two decoders and zlib in one call agree on damaged streams. */
static void damaged_streams_end_as_with_zlib(void **state)
{
	uint8_t in[2048], packed[4096], ours[1500], theirs[1500];
	uint64_t seed = 16;
	unsigned accepted = 0;

	(void)state;
	for (int i = 0; i < 30000; i++) {
		z_stream z = {0};
		size_t n, done;
		bool want;
		int ret;

		data_fill(in, sizeof(in), (enum data_kind)(i % DATA_KINDS), seed);
		n = zlib_pack(in, sizeof(in), i % 3 ? 6 : 0, 12, Z_FINISH, packed, sizeof(packed));
		for (int flips = i % 4; flips; flips--)
			packed[data_random(&seed) % n] ^= (uint8_t)(1 << data_random(&seed) % 8);
		assert_int_equal(inflateInit2(&z, -12), Z_OK);
		z.next_in = packed;
		z.avail_in = (uInt)n;
		z.next_out = theirs;
		z.avail_out = sizeof(theirs);
		ret = inflate(&z, Z_FINISH);
		want = (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && z.avail_out == 0;
		inflateEnd(&z);
		assert_int_equal(inflate_cluster(packed, n, ours, sizeof(ours), &done) ==
					 INFLATE_FULL,
				 want);
		if (want)
			assert_memory_equal(ours, theirs, sizeof(ours));
		accepted += want;
	}
	assert_in_range(accepted, 7500, 25000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_match_is_farther_than_4_kib),
		cmocka_unit_test(the_window_test_sees_a_far_match),
		cmocka_unit_test(the_whole_window_is_used),
		cmocka_unit_test(output_is_no_larger_than_zlib_s),
		cmocka_unit_test(a_stream_that_holds_more_is_cut),
		cmocka_unit_test(a_stream_that_holds_less_is_an_error),
		cmocka_unit_test(a_stream_without_an_end_is_read_if_nothing_is_missing),
		cmocka_unit_test(damage_right_behind_the_last_byte_is_an_error),
		cmocka_unit_test(matches_of_up_to_32_kib_are_read),
		cmocka_unit_test(a_match_before_the_beginning_is_an_error),
		cmocka_unit_test(a_zlib_header_is_an_error),
		cmocka_unit_test(damaged_streams_end_as_with_zlib),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
