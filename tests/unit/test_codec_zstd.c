/* SPDX-License-Identifier: MIT */
/* Frames of others, and what ours look like. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "codec/codec.h"
#include "codec_data.h"

enum { LEN = 65536, ROOM = 4 * LEN };

/* Compressed clusters in the making. */
struct frames {
	uint8_t in[2 * LEN], out[LEN], packed[ROOM];
	size_t len; /* bytes in packed */
	struct codec *codec;
	struct qcow2_error err;
};

static int setup(void **state)
{
	struct frames *f = calloc(1, sizeof(*f));

	if (!f || codec_new(&f->codec, CODEC_ZSTD, 0, NULL) != 0)
		return -1;
	data_fill(f->in, sizeof(f->in), DATA_MIXTURE, 21);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct frames *f = *state;

	codec_free(f->codec);
	free(f);
	return 0;
}

enum frame_flags { CHECKSUM = 1, NO_SIZE = 2 };

static void add_frame(struct frames *f, size_t from, size_t to, int flags)
{
	ZSTD_CCtx *cctx = ZSTD_createCCtx();
	size_t n;

	ZSTD_CCtx_setParameter(cctx, ZSTD_c_checksumFlag, !!(flags & CHECKSUM));
	ZSTD_CCtx_setParameter(cctx, ZSTD_c_contentSizeFlag, !(flags & NO_SIZE));
	n = ZSTD_compress2(cctx, f->packed + f->len, ROOM - f->len, f->in + from, to - from);
	assert_false(ZSTD_isError(n));
	f->len += n;
	ZSTD_freeCCtx(cctx);
}

static void add_bytes(struct frames *f, const void *bytes, size_t len)
{
	memcpy(f->packed + f->len, bytes, len);
	f->len += len;
}

static int decompress(struct frames *f)
{
	uint8_t *exact = malloc(f->len);
	int ret;

	assert_non_null(exact);
	memcpy(exact, f->packed, f->len);
	ret = codec_decompress(f->codec, exact, f->len, f->out, LEN, &f->err);
	if (ret == 0)
		assert_memory_equal(f->in, f->out, LEN);
	free(exact);
	return ret;
}

static void a_frame_says_its_size_and_has_no_checksum(void **state)
{
	struct frames *f = *state;

	f->len = codec_compress(f->codec, f->in, LEN, f->packed, LEN - 1);
	assert_true(f->len > 0);
	assert_memory_equal(f->packed, "\x28\xb5\x2f\xfd\x60\x00\xff", 7);
	assert_int_equal(ZSTD_findFrameCompressedSize(f->packed, f->len), f->len);
	assert_int_equal(decompress(f), 0);
}

static void frames_follow_each_other(void **state)
{
	static const char skipped[] = "\x5a\x2a\x4d\x18\x05\0\0\0hello";
	struct frames *f = *state;

	add_bytes(f, skipped, 13);
	add_frame(f, 0, 100, 0);
	add_frame(f, 100, 100, 0);
	add_frame(f, 100, 40000, CHECKSUM);
	add_bytes(f, skipped, 13);
	add_frame(f, 40000, LEN, NO_SIZE);
	add_bytes(f, "garbage", 7);
	assert_int_equal(decompress(f), 0);
}

static void a_last_frame_that_holds_more_is_an_error(void **state)
{
	struct frames *f = *state;

	add_frame(f, 0, LEN + 1, 0);
	assert_int_equal(decompress(f), -EIO);
	f->len = 0;
	add_frame(f, 0, LEN + 1, NO_SIZE);
	assert_int_equal(decompress(f), -EIO);
	f->len = 0;
	add_frame(f, 0, 1000, 0);
	add_frame(f, 1000, LEN + 1, 0);
	assert_int_equal(decompress(f), -EIO);
	assert_string_equal(f->err.message, "zstd frame is damaged after 0x3e8 of 0x10000 bytes: "
					    "Destination buffer is too small");
}

static void frames_that_hold_less_are_an_error(void **state)
{
	struct frames *f = *state;

	add_frame(f, 0, 1000, 0);
	add_frame(f, 1000, LEN - 1, 0);
	assert_int_equal(decompress(f), -EIO);
	assert_string_equal(f->err.message, "zstd frames end after 0xffff of 0x10000 bytes");
	f->len = 0;
	add_frame(f, 0, LEN, 0);
	f->len--;
	assert_int_equal(decompress(f), -EIO);
}

static void a_wrong_checksum_is_an_error(void **state)
{
	struct frames *f = *state;

	add_frame(f, 0, LEN, CHECKSUM);
	assert_int_equal(decompress(f), 0);
	f->packed[f->len - 1] ^= 1;
	assert_int_equal(decompress(f), -EIO);
}

static void empty_frames_without_end_are_an_error(void **state)
{
	struct frames *f = *state;

	while (f->len < LEN)
		add_frame(f, 0, 0, 0);
	assert_int_equal(decompress(f), -EIO);
	assert_string_equal(f->err.message, "zstd frames end after 0x0 of 0x10000 bytes");
}

/* The header asks for 2 GiB, which the streaming decoder would refuse or allocate. */
static void a_huge_window_costs_no_memory(void **state)
{
	struct frames *f = *state;

	add_frame(f, 0, LEN, NO_SIZE);
	assert_int_equal(f->packed[4] & 0x20, 0);
	f->packed[5] = (31 - 10) << 3;
	assert_int_equal(decompress(f), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_frame_says_its_size_and_has_no_checksum),
		TEST(frames_follow_each_other),
		TEST(a_last_frame_that_holds_more_is_an_error),
		TEST(frames_that_hold_less_are_an_error),
		TEST(a_wrong_checksum_is_an_error),
		TEST(empty_frames_without_end_are_an_error),
		TEST(a_huge_window_costs_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
