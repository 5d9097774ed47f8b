/* SPDX-License-Identifier: MIT */
/* See bulk.h. */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bulk.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, len) ((void)(at), (void)(len))
#define ASAN_UNPOISON_MEMORY_REGION(at, len) ((void)(at), (void)(len))
#endif

#define LEAST (32u << 10) /* smaller blocks come and go without page faults */
#define MOST 64u
#define PATTERN 0xa5

/* Before the bytes, which keep malloc's alignment. */
struct head {
	_Alignas(max_align_t) size_t len_bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct head *kept[MOST]; /* the one that was given back first comes first */
static size_t nkept;

static struct head *take_kept(size_t len_bytes)
{
	struct head *found = NULL;

	pthread_mutex_lock(&lock);
	for (size_t i = nkept; !found && i-- > 0;) {
		if (kept[i]->len_bytes != len_bytes)
			continue;
		found = kept[i];
		memmove(&kept[i], &kept[i + 1], (--nkept - i) * sizeof(kept[0]));
	}
	pthread_mutex_unlock(&lock);
	if (found)
		ASAN_UNPOISON_MEMORY_REGION(found + 1, len_bytes);
	return found;
}

static void *filled(size_t len_bytes, int with)
{
	struct head *h = len_bytes < LEAST ? NULL : take_kept(len_bytes);

	if (!h) {
		h = malloc(sizeof(*h) + len_bytes);
		assert(h);
		h->len_bytes = len_bytes;
	}
	return memset(h + 1, with, len_bytes);
}

void *bulk_alloc(size_t len_bytes)
{
	return filled(len_bytes, PATTERN);
}

void *bulk_zeroed(size_t len_bytes)
{
	return filled(len_bytes, 0);
}

void *bulk_copy(const void *bytes, size_t len_bytes)
{
	return memcpy(bulk_alloc(len_bytes), bytes, len_bytes);
}

void bulk_free(void *block)
{
	struct head *h, *out = NULL;

	if (!block)
		return;
	h = (struct head *)block - 1;
	if (h->len_bytes < LEAST) {
		free(h);
		return;
	}
	ASAN_POISON_MEMORY_REGION(block, h->len_bytes);
	pthread_mutex_lock(&lock);
	if (nkept == MOST) {
		out = kept[0];
		memmove(&kept[0], &kept[1], --nkept * sizeof(kept[0]));
	}
	kept[nkept++] = h;
	pthread_mutex_unlock(&lock);
	if (out)
		ASAN_UNPOISON_MEMORY_REGION(out + 1, out->len_bytes);
	free(out);
}
