/* SPDX-License-Identifier: MIT */
/* Numbers in, sizes and dumps out, in the forms that qemu-io has. */
#ifndef TOOLS_IO_TEXT_H
#define TOOLS_IO_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* What one request may be at most: the largest multiple of 512 that an int holds. */
#define IO_REQUEST_MAX UINT64_C(2147483136)

#define IO_SIZE_TEXT 64

/* "512 bytes", "64 KiB", "1.062 MiB". Returns buf. */
char *io_size_text(char buf[IO_SIZE_TEXT], double bytes);

/* An offset or length, at most INT64_MAX. -EINVAL after telling what is wrong with it. */
int io_parse_number(const char *text, uint64_t *value);

/* 0 to 255, in decimal, octal or hexadecimal. -EINVAL after telling. */
int io_parse_pattern(const char *text, uint8_t *pattern);

/* "wrote 512/512 bytes at offset 0" and a line of figures. */
void io_print_report(FILE *f, const char *done, uint64_t guest_off, uint64_t len_bytes,
		     uint64_t elapsed_ns);

/* The figures alone, for machines. */
void io_print_figures(FILE *f, uint64_t len_bytes, uint64_t elapsed_ns);

/* 16 bytes a line, in hexadecimal and as text. */
void io_print_dump(FILE *f, const uint8_t *buf, size_t len, uint64_t guest_off);

#endif
