/* SPDX-License-Identifier: MIT */
/* Whole L2 tables, read and told: see tables.h. */
#include "job/tables.h"

#include <endian.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"

#define BUF_MAX (256u * 1024)
#define STRIDE 16 /* entries that are looked at together */

void job_tables_init(struct job_tables *t, const struct job_source *source)
{
	const struct qcow2_image *image = source->images[0];
	bool top_only = source->nlayers == 1 && image->layers.count > 1;
	const struct meta *m;

	*t = (struct job_tables){.absent = top_only ? JOB_BLOCK_ABSENT : JOB_BLOCK_ZERO};
	if (source->nimages != 1 || !image->qcow2 || (image->layers.count > 1 && !top_only))
		return;
	m = &image->qcow2->meta;
	if (m->engine || m->geometry.extended_l2 || m->geometry.data_file ||
	    source->first_off != 0 || source->size_bytes != qcow2_size(image) ||
	    image_looks_preallocated(image)) /* its data may be holes, which only the map knows */
		return;
	t->size_bytes = source->size_bytes;
	t->buf_len = (size_t)min_u64(m->geometry.cluster_size, BUF_MAX);
	t->buf = mem_aligned(4096, t->buf_len);
	if (t->buf)
		t->m = m;
}

void job_tables_release(struct job_tables *t)
{
	mem_free(t->buf);
	*t = (struct job_tables){0};
}

/*
 * How many of the first n entries are clusters with data and nothing unusual about them. Words stay
 * as they are stored, and strides have no branch in them, so that the compiler can take several at
 * a time.
 */
static size_t count_plain(const struct format_geometry *g, const uint8_t *entries, size_t n)
{
	const uint64_t place = htobe64(LAYOUT_ENTRY_OFFSET_MASK);
	const uint64_t odd = htobe64(~(LAYOUT_ENTRY_OFFSET_MASK | LAYOUT_ENTRY_COPIED) |
				     (LAYOUT_ENTRY_OFFSET_MASK & (g->cluster_size - 1)));
	uint64_t words[STRIDE];
	size_t i = 0, step = STRIDE;

	while (i < n) {
		uint64_t bad = 0;

		if (step > n - i)
			step = 1;
		memcpy(words, entries + i * LAYOUT_L2_ENTRY_LEN, step * sizeof(*words));
		for (size_t k = 0; k < step; k++)
			bad |= (words[k] & odd) | ((words[k] & place) == 0);
		if (bad && step == 1)
			return i;
		if (bad)
			step = 1;
		else
			i += step;
	}
	return i;
}

/* How many of the first n entries are as the first, which isn't plain; 0: it can't be used. */
static size_t count_alike(const struct job_tables *t, const uint8_t *entries, size_t n,
			  enum job_block *kind)
{
	struct format_l2_entry e = format_l2_decode(&t->m->geometry, load_be64(entries), 0);
	size_t i = 1;

	if (e.faults & FORMAT_FAULT_FATAL)
		return 0;
	*kind = JOB_BLOCK_DATA;
	if (e.kind == FORMAT_CLUSTER_UNALLOCATED)
		*kind = t->absent;
	else if (e.kind == FORMAT_CLUSTER_ZERO_PLAIN || e.kind == FORMAT_CLUSTER_ZERO_ALLOCATED)
		*kind = JOB_BLOCK_ZERO;
	while (i < n &&
	       memcmp(entries + i * LAYOUT_L2_ENTRY_LEN, entries, LAYOUT_L2_ENTRY_LEN) == 0)
		i++;
	return i;
}

/* One buffer of entries, the first of which is for guest_off. Gives how far it got. */
static uint64_t tell_entries(const struct job_tables *t, uint64_t guest_off, size_t nentries,
			     void (*tell)(void *opaque, uint64_t guest_off,
					  const struct job_piece *p),
			     void *opaque)
{
	const struct format_geometry *g = &t->m->geometry;
	uint64_t off = guest_off;

	for (size_t i = 0, n; i < nentries; i += n) {
		const uint8_t *at = t->buf + i * LAYOUT_L2_ENTRY_LEN;
		struct job_piece p = {.kind = JOB_BLOCK_DATA};

		n = count_plain(g, at, nentries - i);
		if (n == 0)
			n = count_alike(t, at, nentries - i, &p.kind);
		if (n == 0)
			break;
		p.len_bytes = min_u64((uint64_t)n << g->cluster_bits, t->size_bytes - off);
		tell(opaque, off, &p);
		off += p.len_bytes;
	}
	return off - guest_off;
}

uint64_t job_tables_tell(const struct job_tables *t, uint64_t guest_off,
			 void (*tell)(void *opaque, uint64_t guest_off, const struct job_piece *p),
			 void *opaque)
{
	const struct format_geometry *g = t->m ? &t->m->geometry : NULL;
	uint64_t span, done = 0, len, told;
	struct format_l1_entry l1;

	if (!g || !is_aligned(guest_off, (uint64_t)g->l2_entries << g->cluster_bits))
		return 0;
	span = min_u64((uint64_t)g->l2_entries << g->cluster_bits, t->size_bytes - guest_off);
	l1 = format_l1_decode(g, meta_l1_get(t->m, format_l1_index(g, guest_off)));
	if (l1.faults & FORMAT_FAULT_FATAL)
		return 0;
	if (l1.l2_off == 0) {
		tell(opaque, guest_off, &(struct job_piece){t->absent, span});
		return span;
	}
	for (uint64_t pos = 0; done < span; pos += len, done += told) {
		uint64_t left = div_ceil(span - done, g->cluster_size) * LAYOUT_L2_ENTRY_LEN;

		len = min_u64(t->buf_len, left);
		if (storage_read(t->m->file, t->buf, (size_t)len, l1.l2_off + pos, NULL) < 0)
			break;
		told = tell_entries(t, guest_off + done, (size_t)(len / LAYOUT_L2_ENTRY_LEN), tell,
				    opaque);
		if (told < min_u64(len / LAYOUT_L2_ENTRY_LEN << g->cluster_bits, span - done))
			return done + told;
	}
	return done;
}
