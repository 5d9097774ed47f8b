/* SPDX-License-Identifier: MIT */
/*
 * The LUKS version 1 header inside an image, checked as QEMU checks it. Key material, ciphers and
 * passphrases are none of its business: that a cipher's name is known and fits the key length is
 * for whoever sets the cipher up.
 */
#include "format/crypto_rec.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/num.h"

_Static_assert(sizeof(((struct format_luks *)NULL)->cipher) == LAYOUT_LUKS_NAME_LEN + 1, "14.2");
_Static_assert(sizeof(((struct format_luks *)NULL)->uuid) == LAYOUT_LUKS_UUID_LEN + 1, "14.2");

/* An area of sectors that holds the key material of one slot. */
struct area {
	uint64_t first, end;
};

uint64_t format_luks_slot_sectors(uint32_t key_len)
{
	return align_up(div_ceil((uint64_t)key_len * LAYOUT_LUKS_STRIPES, LAYOUT_SECTOR),
			LAYOUT_LUKS_HEADER_SECTORS);
}

static int decode_name(char to[LAYOUT_LUKS_NAME_LEN + 1], const uint8_t *from, const char *what,
		       struct qcow2_error *err)
{
	if (!memchr(from, '\0', LAYOUT_LUKS_NAME_LEN))
		return error_set(err, -EINVAL, "LUKS header: %s isn't terminated", what);
	memcpy(to, from, strlen((const char *)from));
	return 0;
}

static struct area area_of(const struct format_luks *l, uint32_t i)
{
	struct area a = {.first = l->slots[i].material_sector};

	a.end = a.first + format_luks_slot_sectors(l->key_len);
	return a;
}

static int check_slot(const struct format_luks *l, uint32_t i, struct qcow2_error *err)
{
	const struct format_luks_slot *s = &l->slots[i];
	struct area a = area_of(l, i);

	if (s->stripes != LAYOUT_LUKS_STRIPES)
		return error_set(err, -EINVAL,
				 "LUKS header: key slot %" PRIu32 " has %" PRIu32
				 " stripes, expected %d",
				 i, s->stripes, LAYOUT_LUKS_STRIPES);
	if (a.first < LAYOUT_LUKS_HEADER_SECTORS)
		return error_set(err, -EINVAL,
				 "LUKS header: key material of slot %" PRIu32
				 " begins at sector %" PRIu64 ", expected at least %d",
				 i, a.first, LAYOUT_LUKS_HEADER_SECTORS);
	if (s->active && s->iterations == 0)
		return error_set(err, -EINVAL,
				 "LUKS header: active key slot %" PRIu32 " has no iterations", i);
	if (a.end > l->payload_sector)
		return error_set(err, -EINVAL,
				 "LUKS header: key material of slot %" PRIu32
				 " ends at sector %" PRIu64 ", past the payload's %" PRIu32,
				 i, a.end, l->payload_sector);
	for (uint32_t k = 0; k < i; k++) {
		struct area b = area_of(l, k);

		if (ranges_overlap(a.first, a.end - a.first, b.first, b.end - b.first))
			return error_set(err, -EINVAL,
					 "LUKS header: key material of slots %" PRIu32
					 " and %" PRIu32 " overlaps",
					 k, i);
	}
	return 0;
}

static int decode_slot(struct format_luks_slot *s, const uint8_t *p, uint32_t i,
		       struct qcow2_error *err)
{
	uint32_t state = load_be32(p + LAYOUT_LUKS_SLOT_OFF_STATE);

	if (state != LAYOUT_LUKS_SLOT_ACTIVE && state != LAYOUT_LUKS_SLOT_OFF)
		return error_set(err, -EINVAL,
				 "LUKS header: key slot %" PRIu32 " has state 0x%08" PRIx32
				 ", expected 0x%08x or 0x%08x",
				 i, state, LAYOUT_LUKS_SLOT_ACTIVE, LAYOUT_LUKS_SLOT_OFF);
	s->active = state == LAYOUT_LUKS_SLOT_ACTIVE;
	s->iterations = load_be32(p + LAYOUT_LUKS_SLOT_OFF_ITERATIONS);
	memcpy(s->salt, p + LAYOUT_LUKS_SLOT_OFF_SALT, LAYOUT_LUKS_SALT_LEN);
	s->material_sector = load_be32(p + LAYOUT_LUKS_SLOT_OFF_MATERIAL);
	s->stripes = load_be32(p + LAYOUT_LUKS_SLOT_OFF_STRIPES);
	return 0;
}

static int decode_slots(struct format_luks *l, const uint8_t *buf, struct qcow2_error *err)
{
	int ret;

	for (uint32_t i = 0; i < LAYOUT_LUKS_SLOTS; i++) {
		ret = decode_slot(&l->slots[i],
				  buf + LAYOUT_LUKS_OFF_SLOTS + i * LAYOUT_LUKS_SLOT_LEN, i, err);
		if (ret < 0)
			return ret;
		ret = check_slot(l, i, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int decode_names(struct format_luks *l, const uint8_t *buf, struct qcow2_error *err)
{
	int ret;

	ret = decode_name(l->cipher, buf + LAYOUT_LUKS_OFF_CIPHER, "cipher name", err);
	if (ret < 0)
		return ret;
	ret = decode_name(l->mode, buf + LAYOUT_LUKS_OFF_MODE, "cipher mode", err);
	if (ret < 0)
		return ret;
	return decode_name(l->hash, buf + LAYOUT_LUKS_OFF_HASH, "hash name", err);
}

int format_luks_decode(struct format_luks *l, const uint8_t *buf, struct qcow2_error *err)
{
	uint16_t version = load_be16(buf + LAYOUT_LUKS_OFF_VERSION);
	int ret;

	*l = (struct format_luks){0};
	if (memcmp(buf, LAYOUT_LUKS_MAGIC, LAYOUT_LUKS_MAGIC_LEN) != 0)
		return error_set(err, -EINVAL, "LUKS header: no LUKS magic number");
	if (version != LAYOUT_LUKS_VERSION)
		return error_set(err, -ENOTSUP, "LUKS header: version %u, expected %d", version,
				 LAYOUT_LUKS_VERSION);
	ret = decode_names(l, buf, err);
	if (ret < 0)
		return ret;
	l->payload_sector = load_be32(buf + LAYOUT_LUKS_OFF_PAYLOAD);
	l->key_len = load_be32(buf + LAYOUT_LUKS_OFF_KEY_LEN);
	memcpy(l->digest, buf + LAYOUT_LUKS_OFF_DIGEST, LAYOUT_LUKS_DIGEST_LEN);
	memcpy(l->digest_salt, buf + LAYOUT_LUKS_OFF_DIGEST_SALT, LAYOUT_LUKS_SALT_LEN);
	l->digest_iterations = load_be32(buf + LAYOUT_LUKS_OFF_DIGEST_ITERATIONS);
	memcpy(l->uuid, buf + LAYOUT_LUKS_OFF_UUID,
	       strnlen((const char *)buf + LAYOUT_LUKS_OFF_UUID, LAYOUT_LUKS_UUID_LEN));
	if (l->payload_sector < LAYOUT_LUKS_HEADER_SECTORS)
		return error_set(err, -EINVAL,
				 "LUKS header: payload at sector %" PRIu32 ", expected at least %d",
				 l->payload_sector, LAYOUT_LUKS_HEADER_SECTORS);
	if (l->key_len == 0 || l->key_len > LAYOUT_LUKS_KEY_MAX)
		return error_set(err, -EINVAL,
				 "LUKS header: key of %" PRIu32 " bytes, expected 1 to %d",
				 l->key_len, LAYOUT_LUKS_KEY_MAX);
	if (l->digest_iterations == 0)
		return error_set(err, -EINVAL, "LUKS header: no digest iterations");
	return decode_slots(l, buf, err);
}

static void copy_part(char to[FORMAT_LUKS_NAME_SIZE], const char *from, size_t len)
{
	memcpy(to, from, len);
	to[len] = '\0';
}

int format_luks_spec(struct format_luks_spec *spec, const struct format_luks *l,
		     struct qcow2_error *err)
{
	const char *dash = strchr(l->mode, '-');
	const char *ivgen = dash ? dash + 1 : "";
	size_t len = strcspn(ivgen, ":");
	bool has_hash = ivgen[len] == ':';

	*spec = (struct format_luks_spec){0};
	if (!dash || dash == l->mode || len == 0)
		return error_set(err, -EINVAL,
				 "LUKS header: cipher mode \"%s\", expected a mode and an IV "
				 "generator like \"xts-plain64\"",
				 l->mode);
	copy_part(spec->mode, l->mode, (size_t)(dash - l->mode));
	copy_part(spec->ivgen, ivgen, len);
	if (strcmp(spec->ivgen, "essiv") == 0) {
		if (!has_hash || ivgen[len + 1] == '\0')
			return error_set(err, -EINVAL,
					 "LUKS header: cipher mode \"%s\" has no hash, expected "
					 "one like in \"cbc-essiv:sha256\"",
					 l->mode);
		copy_part(spec->ivgen_hash, ivgen + len + 1, strlen(ivgen + len + 1));
	}
	/* XTS has two keys of one size */
	snprintf(spec->cipher, sizeof(spec->cipher), "%s-%" PRIu32, l->cipher,
		 strcmp(spec->mode, "xts") == 0 ? l->key_len * 4 : l->key_len * 8);
	return 0;
}

static void put_name(uint8_t *to, const char *name)
{
	memcpy(to, name, strlen(name));
}

void format_luks_encode(const struct format_luks *l, uint8_t *buf)
{
	memset(buf, 0, LAYOUT_LUKS_HEADER_LEN);
	memcpy(buf, LAYOUT_LUKS_MAGIC, LAYOUT_LUKS_MAGIC_LEN);
	store_be16(buf + LAYOUT_LUKS_OFF_VERSION, LAYOUT_LUKS_VERSION);
	put_name(buf + LAYOUT_LUKS_OFF_CIPHER, l->cipher);
	put_name(buf + LAYOUT_LUKS_OFF_MODE, l->mode);
	put_name(buf + LAYOUT_LUKS_OFF_HASH, l->hash);
	store_be32(buf + LAYOUT_LUKS_OFF_PAYLOAD, l->payload_sector);
	store_be32(buf + LAYOUT_LUKS_OFF_KEY_LEN, l->key_len);
	memcpy(buf + LAYOUT_LUKS_OFF_DIGEST, l->digest, LAYOUT_LUKS_DIGEST_LEN);
	memcpy(buf + LAYOUT_LUKS_OFF_DIGEST_SALT, l->digest_salt, LAYOUT_LUKS_SALT_LEN);
	store_be32(buf + LAYOUT_LUKS_OFF_DIGEST_ITERATIONS, l->digest_iterations);
	put_name(buf + LAYOUT_LUKS_OFF_UUID, l->uuid);
	for (uint32_t i = 0; i < LAYOUT_LUKS_SLOTS; i++) {
		const struct format_luks_slot *s = &l->slots[i];
		uint8_t *p = buf + LAYOUT_LUKS_OFF_SLOTS + i * LAYOUT_LUKS_SLOT_LEN;

		store_be32(p + LAYOUT_LUKS_SLOT_OFF_STATE,
			   s->active ? LAYOUT_LUKS_SLOT_ACTIVE : LAYOUT_LUKS_SLOT_OFF);
		store_be32(p + LAYOUT_LUKS_SLOT_OFF_ITERATIONS, s->iterations);
		memcpy(p + LAYOUT_LUKS_SLOT_OFF_SALT, s->salt, LAYOUT_LUKS_SALT_LEN);
		store_be32(p + LAYOUT_LUKS_SLOT_OFF_MATERIAL, s->material_sector);
		store_be32(p + LAYOUT_LUKS_SLOT_OFF_STRIPES, s->stripes);
	}
}
