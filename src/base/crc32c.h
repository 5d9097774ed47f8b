/* SPDX-License-Identifier: MIT */
/* CRC-32C (Castagnoli), as iSCSI and ext4 have it. */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Of some bytes; crc is 0, or the result for the bytes before them. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t len);

#endif
