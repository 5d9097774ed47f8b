/* SPDX-License-Identifier: MIT */
/* Memory: checked sizes, one door, a hook for tests. */
#include "base/alloc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"

bool (*mem_fault_hook)(size_t size);

static bool granted(uint64_t count, size_t size, size_t *bytes)
{
	uint64_t total;

	if (!mul_fits(count, size, &total) || total > PTRDIFF_MAX)
		return false;
	*bytes = total ? (size_t)total : 1;
	return !mem_fault_hook || mem_fault_hook(*bytes);
}

void *mem_zalloc(uint64_t count, size_t size)
{
	size_t bytes;

	return granted(count, size, &bytes) ? calloc(1, bytes) : NULL;
}

void *mem_alloc(uint64_t count, size_t size)
{
	size_t bytes;

	return granted(count, size, &bytes) ? malloc(bytes) : NULL;
}

void *mem_realloc(void *old, uint64_t count, size_t size)
{
	size_t bytes;

	return granted(count, size, &bytes) ? realloc(old, bytes) : NULL;
}

void *mem_aligned(size_t align, uint64_t size)
{
	size_t bytes;
	void *p = NULL;

	if (align < sizeof(void *))
		align = sizeof(void *);
	if (!granted(size, 1, &bytes) || posix_memalign(&p, align, bytes) != 0)
		return NULL;
	return p;
}

char *mem_strndup(const void *s, size_t len)
{
	char *copy = len < SIZE_MAX ? mem_alloc(len + 1, 1) : NULL;

	if (copy) {
		memcpy(copy, s, len);
		copy[len] = '\0';
	}
	return copy;
}

char *mem_strdup(const char *s)
{
	return mem_strndup(s, strlen(s));
}

void mem_free(void *p)
{
	free(p);
}

void mem_free_ptr(void *pp)
{
	free(*(void **)pp);
}
