/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "codec/codec.h"

static const enum codec_type types[] = {CODEC_DEFLATE, CODEC_ZSTD};

static void a_cluster_comes_back(void **state)
{
	static uint8_t in[65536], packed[65536], out[65536];
	struct codec *c;
	size_t len;

	(void)state;
	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)("a cluster of text"[i % 17] + (i >> 12));
	for (size_t t = 0; t < 2; t++) {
		assert_int_equal(codec_new(&c, types[t], 0, NULL), 0);
		len = codec_compress(c, in, sizeof(in), packed, sizeof(in) - 1);
		assert_in_range(len, 1, 8192);
		memset(packed + len, 0xa5, 512);
		memset(out, 0, sizeof(out));
		assert_int_equal(codec_decompress(c, packed, len + 512, out, sizeof(out), NULL), 0);
		assert_memory_equal(in, out, sizeof(in));
		codec_free(c);
	}
}

static void an_unknown_type_is_refused(void **state)
{
	struct qcow2_error err;
	struct codec *c;

	(void)state;
	assert_int_equal(codec_new(&c, (enum codec_type)2, 0, &err), -ENOTSUP);
	assert_null(c);
	assert_string_equal(err.message, "unknown compression type 2");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_cluster_comes_back),
		cmocka_unit_test(an_unknown_type_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
