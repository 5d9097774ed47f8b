/* SPDX-License-Identifier: MIT */
/*
 * Buffers of a cluster for copy-on-write. Fresh memory costs a page fault for every 4 KiB, and
 * those of many threads wait for each other; the buffer that was used last is still in the cache of
 * the processor. So some are kept, the last one first.
 */
#include "base/alloc.h"
#include "data/write.h"

#define KEPT_BYTES (4u << 20) /* in idle buffers */
#define ALIGN 4096

/* Lies in an idle buffer. */
struct data_bounce_idle {
	struct data_bounce_idle *next;
};

_Static_assert(sizeof(struct data_bounce_idle) <= 512, "a cluster has room for it");

void data_bounce_init(struct data_bounce *b, uint64_t cluster_size)
{
	pthread_mutex_init(&b->lock, NULL);
	b->len = cluster_size;
	b->idle = NULL;
	b->nidle = 0;
}

void data_bounce_release(struct data_bounce *b)
{
	while (b->idle) {
		struct data_bounce_idle *i = b->idle;

		b->idle = i->next;
		mem_free(i);
	}
	pthread_mutex_destroy(&b->lock);
}

uint8_t *data_bounce_get(struct data_bounce *b, uint64_t len)
{
	struct data_bounce_idle *i;

	if (len > b->len)
		return mem_aligned(ALIGN, len);
	pthread_mutex_lock(&b->lock);
	i = b->idle;
	if (i) {
		b->idle = i->next;
		b->nidle--;
	}
	pthread_mutex_unlock(&b->lock);
	return i ? (uint8_t *)i : mem_aligned(ALIGN, b->len);
}

void data_bounce_put(struct data_bounce *b, uint8_t *bytes, uint64_t len)
{
	struct data_bounce_idle *i = (struct data_bounce_idle *)(void *)bytes;

	if (i && len <= b->len) {
		pthread_mutex_lock(&b->lock);
		if ((b->nidle + 1) * b->len <= KEPT_BYTES) {
			i->next = b->idle;
			b->idle = i;
			b->nidle++;
			i = NULL;
		}
		pthread_mutex_unlock(&b->lock);
	}
	mem_free(i);
}
