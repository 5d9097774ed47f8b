/* SPDX-License-Identifier: MIT */
/*
 * Memory for whole disks and the like. The harnesses take and give back the same sizes thousands of
 * times, and a sanitizer's allocator maps and unmaps such blocks each time: half of the run was
 * page faults. Blocks that were given back are kept and taken again, poisoned in between.
 * Thread-safe.
 */
#ifndef TESTS_ENGINE_BULK_H
#define TESTS_ENGINE_BULK_H

#include <stddef.h>

/* Never NULL. Full of a pattern that no test writes on purpose, so that nothing old is read again.
 */
void *bulk_alloc(size_t len_bytes);
void *bulk_zeroed(size_t len_bytes);
void *bulk_copy(const void *bytes, size_t len_bytes);
void bulk_free(void *block); /* or NULL */

#endif
