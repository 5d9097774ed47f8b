/* SPDX-License-Identifier: MIT */
/* Sizes as people write and read them, by QEMU's rules. */
#ifndef TOOLS_CLI_SIZE_H
#define TOOLS_CLI_SIZE_H

#include <stddef.h>
#include <stdint.h>

/*
 * "512", "10G", "1.5T", "0x1000": a number of bytes, or of the unit that follows it (b, k, M, G,
 * T, P, E; powers of 1024). 0, -EINVAL for what isn't a size, -ERANGE for one below zero or beyond
 * 64 bits.
 */
int cli_size_parse(const char *text, uint64_t *bytes);

/* A whole number, decimal or 0x…, that is least to most. 0, -EINVAL, -ERANGE. */
int cli_number_parse(const char *text, uint64_t least, uint64_t most, uint64_t *number);

#define CLI_SIZE_TEXT 32

/* "64 MiB", "2.19 MiB", "0.977 GiB": three digits, in the unit that leaves less than 1000. */
char *cli_size_human(char buf[CLI_SIZE_TEXT], uint64_t bytes);

#endif
