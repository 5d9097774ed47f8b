/* SPDX-License-Identifier: MIT */
/* The LUKS version 1 header inside an image: section 14.2. Decoding only looks; no cipher here. */
#ifndef FORMAT_CRYPTO_REC_H
#define FORMAT_CRYPTO_REC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "format/layout.h"

#define FORMAT_LUKS_HEADER_LEN LAYOUT_LUKS_HEADER_LEN
#define FORMAT_LUKS_SLOTS LAYOUT_LUKS_SLOTS
#define FORMAT_LUKS_STRIPES LAYOUT_LUKS_STRIPES

struct format_luks_slot {
	bool active;
	uint32_t iterations;
	uint8_t salt[32];
	uint32_t material_sector;
	uint32_t stripes;
};

struct format_luks {
	char cipher[33], mode[33], hash[33], uuid[41];
	uint32_t payload_sector;
	uint32_t key_len;
	uint8_t digest[20];
	uint8_t digest_salt[32];
	uint32_t digest_iterations;
	struct format_luks_slot slots[FORMAT_LUKS_SLOTS];
};

/* buf holds FORMAT_LUKS_HEADER_LEN bytes. -EINVAL with a sentence for what QEMU refuses. */
int format_luks_decode(struct format_luks *l, const uint8_t *buf, struct qcow2_error *err);
void format_luks_encode(const struct format_luks *l, uint8_t *buf);

/* Sectors that the key material of one slot takes. */
uint64_t format_luks_slot_sectors(uint32_t key_len);

#endif
