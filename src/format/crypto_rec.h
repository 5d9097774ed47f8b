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
#define FORMAT_LUKS_NAME_SIZE (LAYOUT_LUKS_NAME_LEN + 1)

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

/* What the cipher and its mode, as stored, are made of. */
struct format_luks_spec {
	char cipher[FORMAT_LUKS_NAME_SIZE + 8]; /* with the bits of one key: "aes-256" */
	char mode[FORMAT_LUKS_NAME_SIZE];
	char ivgen[FORMAT_LUKS_NAME_SIZE];
	char ivgen_hash[FORMAT_LUKS_NAME_SIZE]; /* empty unless the generator is essiv */
};

/* buf holds FORMAT_LUKS_HEADER_LEN bytes. -EINVAL with a sentence for what QEMU refuses. */
int format_luks_decode(struct format_luks *l, const uint8_t *buf, struct qcow2_error *err);
void format_luks_encode(const struct format_luks *l, uint8_t *buf);

/*
 * Takes the mode apart: "cbc-essiv:sha256" is a mode, an IV generator and its hash. -EINVAL with a
 * sentence if it has no generator, or essiv no hash.
 */
int format_luks_spec(struct format_luks_spec *spec, const struct format_luks *l,
		     struct qcow2_error *err);

/* Sectors that the key material of one slot takes. */
uint64_t format_luks_slot_sectors(uint32_t key_len);

#endif
