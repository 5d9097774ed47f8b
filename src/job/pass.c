/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters that a copy takes over as they are: those whose type and size are the
 * target's. They are neither decompressed nor looked into, so what is damaged in one stays so.
 *
 * What is taken is all that the descriptor names, to the end of its last sector: where the stream
 * ends only the decompressor knows. The writer lays clusters that share sectors out as they were.
 */
#include <errno.h>

#include "base/num.h"
#include "format/entry.h"
#include "job/source.h"

/* So short only zeros get, or the like: it is worth while to look, they may need no cluster. */
#define SHORT_SHARE 64u
#define SHORT_MIN (2 * LAYOUT_SECTOR)

static const struct meta *meta_of(const struct qcow2_image *image, unsigned depth)
{
	for (; depth > 0; depth--)
		image = image->backing;
	return &image->qcow2->meta;
}

bool job_pass_fits(const struct job_source *s, uint64_t guest_off, size_t image_idx,
		   uint64_t image_off, const struct data_run *r)
{
	const uint64_t cs = s->pass_cluster_size;
	const struct meta *m;
	struct format_l2_entry e;

	if (cs == 0 || r->run.kind != DISK_RUN_COMPRESSED || r->run.len_bytes != cs ||
	    !is_aligned(guest_off, cs) || !is_aligned(image_off, cs))
		return false;
	m = meta_of(s->images[image_idx], r->depth);
	if (m->geometry.cluster_size != cs ||
	    (int)m->header.compression_type != s->pass_compression)
		return false;
	e = format_l2_decode(&m->geometry, r->run.cookie, 0);
	return e.compressed_len <= cs && e.compressed_len > max_u64(SHORT_MIN, cs / SHORT_SHARE);
}

static bool is_written(const struct qcow2_image *image)
{
	return image->qcow2 && image->qcow2->writer;
}

/* While the map of the image can't change. */
static int fetch(const struct job_source *s, uint64_t guest_off, uint8_t *packed, size_t *len,
		 struct image_origin *origin, struct qcow2_error *err)
{
	const struct meta *m;
	struct format_l2_entry e;
	struct data_run r;
	uint64_t image_off;
	size_t i;
	int ret = job_source_run_of(s, guest_off, &i, &image_off, &r, err);

	*len = 0;
	if (ret < 0 || !job_pass_fits(s, guest_off, i, image_off, &r))
		return ret;
	m = meta_of(s->images[i], r.depth);
	e = format_l2_decode(&m->geometry, r.run.cookie, 0);
	*len = (size_t)e.compressed_len;
	/* who is written to may have other bytes behind this when its neighbour is fetched */
	*origin = (struct image_origin){is_written(s->images[i]) ? NULL : m->file.self, e.host_off};
	return storage_read(m->file, packed, *len, e.host_off, err);
}

int job_pass_fetch(const struct job_reader *r, uint64_t guest_off, uint8_t *packed, size_t *len,
		   struct image_origin *origin, uint8_t *buf, struct qcow2_error *err)
{
	const struct job_source *s = (const struct job_source *)r;
	uint64_t left = s->pass_cluster_size;
	const struct qcow2_image *image = job_source_image(s, guest_off, &left);
	unsigned ticket = image_enter(image);
	int ret = fetch(s, guest_off, packed, len, origin, err);

	image_leave(image, ticket);
	if (ret == 0 && *len == 0) /* somebody has written to it */
		ret = job_source_read(s, guest_off, buf, s->pass_cluster_size, err);
	return ret;
}
