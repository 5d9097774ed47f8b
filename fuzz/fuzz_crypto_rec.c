/* SPDX-License-Identifier: MIT */
/* The LUKS header. Input: the header. What decodes must encode to what decodes to the same. */
#include "fuzz.h"

#include <errno.h>

#include "format/crypto_rec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	uint8_t *buf = fuzz_copy(&in, FORMAT_LUKS_HEADER_LEN);
	uint8_t *again = malloc(FORMAT_LUKS_HEADER_LEN);
	struct format_luks a, b;
	struct qcow2_error err;
	int ret;

	CHECK(again);
	ret = format_luks_decode(&a, buf, &err);
	if (ret == 0) {
		uint64_t sectors = format_luks_slot_sectors(a.key_len);

		CHECK(strlen(a.cipher) < 32 && strlen(a.mode) < 32 && strlen(a.hash) < 32);
		CHECK(strlen(a.uuid) <= 40 && a.digest_iterations > 0);
		CHECK(8 * sectors + 8 <= a.payload_sector);
		for (int i = 0; i < FORMAT_LUKS_SLOTS; i++)
			CHECK(a.slots[i].material_sector + sectors <= a.payload_sector);
		format_luks_encode(&a, again);
		CHECK(format_luks_decode(&b, again, &err) == 0);
		CHECK(memcmp(&a, &b, sizeof(a)) == 0);
	} else {
		CHECK((ret == -EINVAL || ret == -ENOTSUP) && err.code == ret && err.message[0]);
	}
	free(buf);
	free(again);
	return 0;
}
