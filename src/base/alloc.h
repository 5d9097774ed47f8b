/* SPDX-License-Identifier: MIT */
/*
 * The only place that asks for memory. Sizes are checked products; a refusal is NULL. Tests may
 * install a hook that makes chosen allocations fail.
 */
#ifndef BASE_ALLOC_H
#define BASE_ALLOC_H

#include <stddef.h>
#include <stdint.h>

/* count * size bytes, zeroed. NULL when that overflows or memory is short. Never NULL for 0. */
void *mem_zalloc(uint64_t count, size_t size) __attribute__((warn_unused_result));
/* The same, not cleared. */
void *mem_alloc(uint64_t count, size_t size) __attribute__((warn_unused_result));
/* Resizes to count * size bytes; on failure NULL, and old stays as it was. */
void *mem_realloc(void *old, uint64_t count, size_t size) __attribute__((warn_unused_result));
/* size bytes at an address that is a multiple of align (a power of two). Freed by mem_free. */
void *mem_aligned(size_t align, uint64_t size) __attribute__((warn_unused_result));
char *mem_strdup(const char *s) __attribute__((warn_unused_result));
/* len bytes and a NUL. */
char *mem_strndup(const void *s, size_t len) __attribute__((warn_unused_result));
void mem_free(void *p);

/* For tests: asked before every allocation; false makes it fail. NULL removes the hook. */
extern _Bool (*mem_fault_hook)(size_t size);

/* For locals: `cleanup_free char *name = NULL;` */
void mem_free_ptr(void *pp);
#define cleanup_free __attribute__((cleanup(mem_free_ptr)))

/* Hands the pointer on and leaves NULL behind. */
#define mem_steal(pp)                                                                              \
	({                                                                                         \
		__typeof__(*(pp)) v__ = *(pp);                                                     \
		*(pp) = NULL;                                                                      \
		v__;                                                                               \
	})

#endif
