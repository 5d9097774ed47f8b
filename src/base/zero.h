/* SPDX-License-Identifier: MIT */
/* Are these bytes all zero? At the speed of memory. */
#ifndef BASE_ZERO_H
#define BASE_ZERO_H

#include <stdbool.h>
#include <stddef.h>

bool bytes_are_zero(const void *p, size_t len);

#endif
