/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters, read.
 *
 * A request for a whole cluster is decompressed straight into the caller's buffer. A request for
 * less goes through a cache, so that stepping through a cluster decompresses it once, and what a
 * guest reads over and over is decompressed once; two threads that want the same cluster decompress
 * it once too, the second waits. A cluster has one small set of slots where it may be, which is
 * walked under the lock; nothing is read or decompressed under it. A slot takes memory from its
 * first use on.
 *
 * The descriptor (the L2 entry) is the key: it names the host bytes. Those change only after
 * everybody who found the descriptor in the map has gone, and who writes them says so
 * (data_packed_forget).
 */
#include "data/data.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "format/entry.h"

#define SET 8u /* slots */
#define SLOTS_MAX 4096u
#define CACHE_BYTES (32u * 1024 * 1024)
#define TOOLS_KEPT 16

/* What one thread needs to decompress. */
struct tool {
	struct codec *codec;
	uint8_t *in; /* compressed bytes */
	size_t in_cap;
	struct tool *next;
};

struct slot {
	uint64_t raw; /* 0: empty */
	bool filling;
	unsigned pins;
	uint64_t age; /* of the last use */
	uint8_t *bytes;
};

struct data_packed {
	/* immutable */
	const struct meta *m;
	unsigned nsets; /* a power of two */
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t filled;
	struct slot *slots; /* of the first set, of the second, ...; NULL until one is needed */
	uint64_t clock;
	struct tool *idle;
	unsigned nidle;
};

int data_packed_new(struct data_packed **p, const struct meta *m, struct qcow2_error *err)
{
	struct data_packed *new = mem_zalloc(1, sizeof(*new));
	uint64_t nslots = min_u64(CACHE_BYTES / m->geometry.cluster_size, SLOTS_MAX);

	if (!new)
		return error_errno(err, -ENOMEM, "can't set up the cache of decompressed clusters");
	new->m = m;
	new->nsets = (unsigned)max_u64(nslots / SET, 1);
	pthread_mutex_init(&new->lock, NULL);
	pthread_cond_init(&new->filled, NULL);
	*p = new;
	return 0;
}

static void free_tool(struct tool *t)
{
	codec_free(t->codec);
	mem_free(t->in);
	mem_free(t);
}

void data_packed_free(struct data_packed *p)
{
	if (!p)
		return;
	while (p->idle) {
		struct tool *t = p->idle;

		p->idle = t->next;
		free_tool(t);
	}
	for (unsigned i = 0; p->slots && i < p->nsets * SET; i++)
		mem_free(p->slots[i].bytes);
	mem_free(p->slots);
	pthread_cond_destroy(&p->filled);
	pthread_mutex_destroy(&p->lock);
	mem_free(p);
}

static struct tool *new_tool(const struct data_packed *p, struct qcow2_error *err)
{
	struct tool *t = mem_zalloc(1, sizeof(*t));

	if (!t) {
		error_errno(err, -ENOMEM, "can't decompress a cluster");
		return NULL;
	}
	if (codec_new(&t->codec, (enum codec_type)p->m->header.compression_type, 0, err) < 0)
		free_tool(mem_steal(&t));
	return t;
}

static struct tool *get_tool(struct data_packed *p, struct qcow2_error *err)
{
	struct tool *t;

	pthread_mutex_lock(&p->lock);
	t = p->idle;
	if (t) {
		p->idle = t->next;
		p->nidle--;
	}
	pthread_mutex_unlock(&p->lock);
	return t ? t : new_tool(p, err);
}

static void put_tool(struct data_packed *p, struct tool *t)
{
	pthread_mutex_lock(&p->lock);
	if (p->nidle < TOOLS_KEPT) {
		t->next = p->idle;
		p->idle = t;
		p->nidle++;
		t = NULL;
	}
	pthread_mutex_unlock(&p->lock);
	if (t)
		free_tool(t);
}

static int read_with(const struct data_packed *p, struct tool *t, const struct format_l2_entry *e,
		     uint8_t *out, struct qcow2_error *err)
{
	size_t len = (size_t)e->compressed_len;
	int ret;

	if (t->in_cap < len) {
		uint8_t *in = mem_realloc(t->in, len, 1);

		if (!in)
			return error_errno(err, -ENOMEM, "can't read a compressed cluster");
		t->in = in;
		t->in_cap = len;
	}
	ret = storage_read(p->m->file, t->in, len, e->host_off, err);
	if (ret < 0)
		return ret;
	ret = codec_decompress(t->codec, t->in, len, out, (size_t)p->m->geometry.cluster_size, err);
	if (ret < 0)
		error_prefix(err, "the compressed cluster at 0x%" PRIx64 " (%zu bytes)",
			     e->host_off, len);
	return ret;
}

/* Decompresses the cluster of raw into out, which has room for a whole one. */
static int inflate_cluster(struct data_packed *p, uint64_t raw, uint8_t *out,
			   struct qcow2_error *err)
{
	struct format_l2_entry e = format_l2_decode(&p->m->geometry, raw, 0);
	struct tool *t = get_tool(p, err);
	int ret;

	if (!t)
		return -ENOMEM;
	ret = read_with(p, t, &e, out, err);
	put_tool(p, t);
	return ret;
}

/* The first slot of the set where the cluster may be. */
static struct slot *set_of(struct data_packed *p, uint64_t raw)
{
	return &p->slots[(raw * 0x9e3779b97f4a7c15ull >> 40 & (p->nsets - 1)) * SET];
}

static struct slot *find_locked(struct data_packed *p, uint64_t raw)
{
	if (!p->slots)
		return NULL;
	for (struct slot *s = set_of(p, raw), *end = s + SET; s < end; s++) {
		if (s->raw == raw)
			return s;
	}
	return NULL;
}

/*
 * The slot of the set that was used longest ago and that nobody holds; NULL if all are held, or
 * memory is short.
 */
static struct slot *oldest_locked(struct data_packed *p, uint64_t raw)
{
	struct slot *best = NULL;

	if (!p->slots)
		p->slots = mem_zalloc(p->nsets * SET, sizeof(*p->slots));
	if (!p->slots)
		return NULL;
	for (struct slot *s = set_of(p, raw), *end = s + SET; s < end; s++) {
		if (s->pins == 0 && (!best || s->age < best->age))
			best = s;
	}
	return best;
}

/* Pins the slot with the cluster, or one to fill (then *fill). NULL: none is free. */
static struct slot *pin_slot(struct data_packed *p, uint64_t raw, bool *fill)
{
	struct slot *s;

	*fill = false;
	pthread_mutex_lock(&p->lock);
	while ((s = find_locked(p, raw)) && s->filling)
		pthread_cond_wait(&p->filled, &p->lock);
	if (!s) {
		s = oldest_locked(p, raw);
		if (s) {
			s->raw = raw;
			s->filling = true;
			*fill = true;
		}
	}
	if (s) {
		s->pins++;
		s->age = ++p->clock;
	}
	pthread_mutex_unlock(&p->lock);
	return s;
}

static void unpin_slot(struct data_packed *p, struct slot *s)
{
	pthread_mutex_lock(&p->lock);
	s->pins--;
	pthread_mutex_unlock(&p->lock);
}

/* Ends the filling; those who wait look again, and find nothing if it failed. */
static void slot_filled(struct data_packed *p, struct slot *s, bool good)
{
	pthread_mutex_lock(&p->lock);
	s->filling = false;
	if (!good)
		s->raw = 0;
	pthread_cond_broadcast(&p->filled);
	pthread_mutex_unlock(&p->lock);
}

static int fill_slot(struct data_packed *p, struct slot *s, uint64_t raw, struct qcow2_error *err)
{
	if (!s->bytes)
		s->bytes = mem_alloc(p->m->geometry.cluster_size, 1);
	if (!s->bytes)
		return error_errno(err, -ENOMEM, "can't read a compressed cluster");
	return inflate_cluster(p, raw, s->bytes, err);
}

/* The part of a cluster when the cache has no room: everything in it is being read by others. */
static int read_uncached(struct data_packed *p, uint64_t raw, uint64_t in_cluster, void *buf,
			 size_t len, struct qcow2_error *err)
{
	cleanup_free uint8_t *bytes = mem_alloc(p->m->geometry.cluster_size, 1);
	int ret;

	if (!bytes)
		return error_errno(err, -ENOMEM, "can't read a compressed cluster");
	ret = inflate_cluster(p, raw, bytes, err);
	if (ret == 0)
		memcpy(buf, bytes + in_cluster, len);
	return ret;
}

int data_packed_read(struct data_packed *p, uint64_t raw, uint64_t in_cluster, void *buf,
		     size_t len, struct qcow2_error *err)
{
	struct slot *s;
	bool fill;
	int ret = 0;

	if (len == p->m->geometry.cluster_size)
		return inflate_cluster(p, raw, buf, err);
	s = pin_slot(p, raw, &fill);
	if (!s)
		return read_uncached(p, raw, in_cluster, buf, len, err);
	if (fill) {
		ret = fill_slot(p, s, raw, err);
		slot_filled(p, s, ret == 0);
	}
	/* others may have it by now; our pin keeps it in place while we copy */
	if (ret == 0)
		memcpy(buf, s->bytes + in_cluster, len);
	unpin_slot(p, s);
	return ret;
}

void data_packed_forget(struct data_packed *p, uint64_t raw)
{
	struct slot *s;

	pthread_mutex_lock(&p->lock);
	s = find_locked(p, raw);
	if (s)
		s->raw = 0;
	pthread_mutex_unlock(&p->lock);
}
