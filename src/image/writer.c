/* SPDX-License-Identifier: MIT */
/*
 * The append-only writer: see writer.h. One L2 table is in memory at a time, the one that the last
 * cluster belongs to; it is handed out to be written when the next one begins.
 */
#include "image/writer.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "format/entry.h"
#include "format/refbits.h"

#define NO_TABLE UINT64_MAX

/* How often host clusters with compressed data are used; the rest is used once. */
struct shared_counts {
	uint64_t first;	  /* host cluster of counts[0] */
	uint16_t *counts; /* 0: not compressed */
	size_t len, cap;
};

struct image_writer {
	struct image_writer_options o;
	struct image_draft *d;
	struct format_geometry g;
	uint8_t *l2;	     /* the table of l2_index, or NULL */
	uint64_t l2_index;   /* its L1 index */
	uint64_t next_off;   /* guest offset of the first cluster that may be put */
	uint64_t packed_end; /* behind the last compressed bytes; 0: there are none */
	struct shared_counts shared;
	/* the last compressed cluster that was taken as it is; file NULL: none */
	struct image_origin origin;
	uint64_t origin_len, origin_at; /* its bytes, and where they were put */
};

int image_writer_new(struct image_writer **writer, struct image_draft *draft,
		     const struct image_writer_options *options, struct qcow2_error *err)
{
	struct image_writer *w = mem_zalloc(1, sizeof(*w));

	if (!w)
		return error_errno(err, -ENOMEM, "can't set up the new image");
	w->o = *options;
	w->d = draft;
	w->g = draft->g;
	w->l2_index = NO_TABLE;
	if (!draft->l1)
		draft->l1 = mem_zalloc(draft->l1_entries, sizeof(*draft->l1));
	if (!draft->l1) {
		mem_free(w);
		return error_errno(err, -ENOMEM, "can't set up the new image");
	}
	*writer = w;
	return 0;
}

void image_writer_free(struct image_writer *writer)
{
	if (!writer)
		return;
	mem_free(writer->shared.counts);
	mem_free(writer->l2);
	mem_free(writer);
}

/* ---- tables ---- */

/* Hands the L2 table in memory out to be written. */
static int emit_l2(struct image_writer *w, struct image_writes *writes, struct qcow2_error *err)
{
	struct image_write write = {
		.store = w->d->file.st,
		.len = (size_t)w->g.cluster_size,
	};
	int ret;

	if (!w->l2)
		return 0;
	write.host_off = w->d->l1[w->l2_index] & LAYOUT_ENTRY_OFFSET_MASK;
	write.bytes = w->l2;
	write.owned = w->l2;
	ret = image_writes_add(writes, &write, err);
	if (ret == 0)
		w->l2 = NULL;
	return ret;
}

/* Makes the L2 table for guest_off the one in memory. */
static int want_l2(struct image_writer *w, uint64_t guest_off, struct image_writes *writes,
		   struct qcow2_error *err)
{
	uint64_t idx = format_l1_index(&w->g, guest_off);
	uint64_t cluster;
	int ret;

	if (w->l2 && w->l2_index == idx)
		return 0;
	ret = emit_l2(w, writes, err);
	if (ret < 0)
		return ret;
	w->l2 = mem_zalloc(w->g.cluster_size, 1);
	if (!w->l2)
		return error_errno(err, -ENOMEM, "can't make an L2 table");
	w->l2_index = idx;
	ret = image_fresh_alloc(&w->d->fresh, 1, &cluster, err);
	if (ret == 0)
		w->d->l1[idx] = format_l1_encode(cluster << w->g.cluster_bits, true);
	return ret;
}

static void set_entry(struct image_writer *w, uint64_t guest_off, uint64_t raw, uint64_t bitmap)
{
	uint8_t *p = w->l2 + (size_t)format_l2_index(&w->g, guest_off) * w->g.l2_entry_len;

	store_be64(p, raw);
	if (w->g.extended_l2)
		store_be64(p + 8, bitmap);
}

/* ---- clusters ---- */

/* A place for a whole cluster: in the data file where the guest sees it, else a fresh one. */
static int place_cluster(struct image_writer *w, uint64_t guest_off, uint64_t *host_off,
			 struct qcow2_error *err)
{
	uint64_t cluster;
	int ret;

	if (w->g.data_file) {
		*host_off = guest_off;
		return 0;
	}
	ret = image_fresh_alloc(&w->d->fresh, 1, &cluster, err);
	if (ret == 0) {
		*host_off = cluster << w->g.cluster_bits;
		w->d->data_end = max_u64(w->d->data_end, *host_off + w->g.cluster_size);
	}
	return ret;
}

/* IMAGE_PUT_ZERO: a cluster that reads as zeros, or shows what is below through its bitmap. */
static int put_whole(struct image_writer *w, uint64_t guest_off, enum image_put kind,
		     const uint8_t *bytes, struct image_writes *writes, struct qcow2_error *err)
{
	bool is_data = kind != IMAGE_PUT_ZERO;
	bool must_write = is_data || w->o.write_zeros || (!w->o.reads_zero && !w->g.extended_l2);
	struct image_write write = {
		.store = w->g.data_file ? w->d->data.st : w->d->file.st,
		.bytes = bytes,
		.moved = kind == IMAGE_PUT_MOVED,
		.guest_off = guest_off,
		.len = (size_t)w->g.cluster_size,
		.sparse = bytes && w->o.sparse && w->o.reads_zero &&
			  !(w->g.data_file && w->d->data.is_device),
	};
	int ret = place_cluster(w, guest_off, &write.host_off, err);

	if (ret < 0)
		return ret;
	if (w->g.data_file) /* it ends with the disk */
		write.len = (size_t)min_u64(write.len, w->d->o.size - guest_off);
	if (must_write)
		ret = image_writes_add(writes, &write, err);
	set_entry(w, guest_off, format_l2_encode_normal(write.host_off, true),
		  is_data ? format_subcluster_bitmap(UINT32_MAX, 0) : 0);
	return ret;
}

static int put_zero(struct image_writer *w, uint64_t guest_off, struct image_writes *writes,
		    struct qcow2_error *err)
{
	bool has_flag = w->d->o.version >= 3;

	/* extended entries of preallocated clusters show whatever is below, so a zero has to be
	 * said; version 2 has no way to say it but zeros */
	if (w->o.map_all && !(w->o.explicit_zeros && w->g.extended_l2))
		return put_whole(w, guest_off, IMAGE_PUT_ZERO, NULL, writes, err);
	if (w->o.explicit_zeros && !has_flag)
		return put_whole(w, guest_off, IMAGE_PUT_ZERO, NULL, writes, err);
	if (w->g.extended_l2)
		set_entry(w, guest_off, 0, format_subcluster_bitmap(0, UINT32_MAX));
	else
		set_entry(w, guest_off, format_l2_encode_zero(0, false), 0);
	return 0;
}

/* ---- compressed clusters: section 8.3 ---- */

static uint16_t *shared_count(struct image_writer *w, uint64_t cluster, struct qcow2_error *err)
{
	struct shared_counts *s = &w->shared;

	if (!s->counts)
		s->first = cluster;
	while (cluster - s->first >= s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 4096;
		uint16_t *counts = mem_realloc(s->counts, cap, sizeof(*counts));

		if (!counts) {
			error_errno(err, -ENOMEM, "can't count compressed clusters");
			return NULL;
		}
		memset(counts + s->cap, 0, (cap - s->cap) * sizeof(*counts));
		s->counts = counts;
		s->cap = cap;
	}
	s->len = max_u64(s->len, cluster - s->first + 1);
	return &s->counts[cluster - s->first];
}

static int use_shared(struct image_writer *w, uint64_t cluster, struct qcow2_error *err)
{
	uint16_t *count = shared_count(w, cluster, err);

	if (!count)
		return -ENOMEM;
	++*count;
	return 0;
}

/* Can all host clusters from start up to end take another reference? */
static bool all_have_room(const struct image_writer *w, uint64_t start, uint64_t end)
{
	uint64_t max = min_u64(w->g.refcount_max, UINT16_MAX);

	for (uint64_t c = start >> w->g.cluster_bits; c << w->g.cluster_bits < end; c++)
		if (c < w->shared.first || c - w->shared.first >= w->shared.len ||
		    w->shared.counts[c - w->shared.first] >= max)
			return false;
	return true;
}

/* len compressed bytes are at host_off from now on, in clusters that have room for them. */
static int claim_packed(struct image_writer *w, uint64_t host_off, size_t len,
			struct qcow2_error *err)
{
	uint64_t cs = w->g.cluster_size;
	int ret = 0;

	if (host_off + len > format_compressed_limit(&w->g))
		return error_set_at(err, -EFBIG, QCOW2_NO_OFFSET, host_off,
				    "the image grows beyond what compressed clusters of %" PRIu64
				    " bytes can reach",
				    cs);
	for (uint64_t cluster = host_off >> w->g.cluster_bits;
	     ret == 0 && cluster <= (host_off + len - 1) >> w->g.cluster_bits; cluster++)
		ret = use_shared(w, cluster, err);
	w->packed_end = max_u64(w->packed_end, host_off + len);
	w->d->data_end = max_u64(w->d->data_end, host_off + len);
	return ret;
}

/*
 * Finds a place for len compressed bytes: at start, in the clusters that there are for such bytes,
 * spilling over into the next one if that is free, else at the start of a fresh one.
 */
static int place_packed(struct image_writer *w, uint64_t start, size_t len, uint64_t *host_off,
			struct qcow2_error *err)
{
	uint64_t have = align_up(w->packed_end, w->g.cluster_size); /* the end of those clusters */
	bool fits = start < have && all_have_room(w, start, min_u64(start + len, have));
	uint64_t cluster;
	int ret;

	if (!fits || start + len > have) {
		ret = image_fresh_alloc(&w->d->fresh, 1, &cluster, err);
		if (ret < 0)
			return ret;
		if (!fits || cluster << w->g.cluster_bits != have)
			start = cluster << w->g.cluster_bits;
	}
	*host_off = start;
	return claim_packed(w, start, len, err);
}

static int put_compressed(struct image_writer *w, uint64_t guest_off, const uint8_t *bytes,
			  size_t len, struct image_writes *writes, struct qcow2_error *err)
{
	struct image_write write = {.store = w->d->file.st, .bytes = bytes, .len = len};
	int ret = place_packed(w, w->packed_end, len, &write.host_off, err);

	if (ret == 0)
		ret = image_writes_add(writes, &write, err);
	if (ret == 0)
		set_entry(w, guest_off, format_l2_encode_compressed(&w->g, write.host_off, len), 0);
	return ret;
}

/* Did the cluster at origin begin in the last one's sectors? Nothing has been put behind that. */
static bool shares_sector(const struct image_writer *w, const struct image_origin *origin)
{
	return origin->file && w->origin.file == origin->file &&
	       w->packed_end == w->origin_at + w->origin_len &&
	       origin->host_off > w->origin.host_off &&
	       origin->host_off - w->origin.host_off < w->origin_len;
}

/* Where to put what was at origin: in a sector with the one before it, if it was so. */
static uint64_t place_as_it_was(const struct image_writer *w, const struct image_origin *origin)
{
	if (shares_sector(w, origin))
		return w->origin_at + (origin->host_off - w->origin.host_off);
	return w->packed_end;
}

/* Gives a place to every cluster from next_off up to guest_off that was passed over. */
static int map_gap(struct image_writer *w, uint64_t guest_off, struct image_writes *writes,
		   struct qcow2_error *err)
{
	int ret = 0;

	for (; ret == 0 && w->o.map_all && w->next_off < guest_off;
	     w->next_off += w->g.cluster_size) {
		ret = want_l2(w, w->next_off, writes, err);
		if (ret == 0)
			ret = put_whole(w, w->next_off, IMAGE_PUT_ZERO, NULL, writes, err);
	}
	return ret;
}

/* Gets to the cluster at guest_off, and its L2 table if one is wanted. */
static int begin_put(struct image_writer *w, uint64_t guest_off, bool wants_entry,
		     struct image_writes *writes, struct qcow2_error *err)
{
	int ret = map_gap(w, guest_off, writes, err);

	w->next_off = guest_off + w->g.cluster_size;
	return ret == 0 && wants_entry ? want_l2(w, guest_off, writes, err) : ret;
}

/* The end of the last write comes again with this one, which may then be joined to it. */
static void cut_last(struct image_writes *writes, const struct image_write *write)
{
	struct image_write *last = writes->count ? &writes->list[writes->count - 1] : NULL;

	if (last && last->store.self == write->store.self && last->host_off < write->host_off &&
	    last->host_off + last->len > write->host_off &&
	    last->host_off + last->len <= write->host_off + write->len)
		last->len = (size_t)(write->host_off - last->host_off);
}

int image_writer_put_packed(struct image_writer *writer, uint64_t guest_off, const uint8_t *bytes,
			    size_t len, const struct image_origin *origin,
			    struct image_writes *writes, struct qcow2_error *err)
{
	struct image_write write = {.store = writer->d->file.st, .bytes = bytes, .len = len};
	int ret = begin_put(writer, guest_off, true, writes, err);

	if (ret == 0)
		ret = place_packed(writer, place_as_it_was(writer, origin), len, &write.host_off,
				   err);
	if (ret < 0)
		return ret;
	writer->origin = *origin;
	writer->origin_len = len;
	writer->origin_at = write.host_off;
	set_entry(writer, guest_off, format_l2_encode_compressed(&writer->g, write.host_off, len),
		  0);
	cut_last(writes, &write);
	return image_writes_add(writes, &write, err);
}

int image_writer_put(struct image_writer *writer, uint64_t guest_off, enum image_put kind,
		     const uint8_t *bytes, size_t len, struct image_writes *writes,
		     struct qcow2_error *err)
{
	bool is_absent = kind == IMAGE_PUT_ZERO && !writer->o.map_all && !writer->o.explicit_zeros;
	int ret = begin_put(writer, guest_off, !is_absent, writes, err);

	if (ret < 0 || is_absent) /* absent reads as zeros */
		return ret;
	switch (kind) {
	case IMAGE_PUT_DATA:
	case IMAGE_PUT_MOVED:
		return put_whole(writer, guest_off, kind, bytes, writes, err);
	case IMAGE_PUT_COMPRESSED:
		return put_compressed(writer, guest_off, bytes, len, writes, err);
	case IMAGE_PUT_ZERO:
		break;
	}
	return put_zero(writer, guest_off, writes, err);
}

/* ---- the end ---- */

/* Counts of shared host clusters, into a refcount block that has ones. */
static void patch_block(void *opaque, uint8_t *block, uint64_t first_cluster)
{
	const struct image_writer *w = opaque;
	const struct shared_counts *s = &w->shared;
	uint64_t end = first_cluster + w->g.refblock_entries;
	uint64_t from = max_u64(first_cluster, s->first);

	for (uint64_t c = from; c < end && c - s->first < s->len; c++) {
		if (s->counts[c - s->first])
			format_refcount_set(block, w->g.refcount_order, c - first_cluster,
					    s->counts[c - s->first]);
	}
}

int image_writer_finish(struct image_writer *writer, struct qcow2_error *err)
{
	struct image_fresh_patch patch = {.fn = patch_block, .opaque = writer};
	struct image_writes writes = {0};
	int ret;

	ret = map_gap(writer, writer->d->o.size, &writes, err);
	if (ret == 0)
		ret = emit_l2(writer, &writes, err);
	if (ret == 0)
		ret = image_writes_run(&writes, err);
	image_writes_release(&writes);
	/* compressed data end with a whole sector, which has to exist */
	writer->d->data_end = align_up(writer->d->data_end, LAYOUT_SECTOR);
	return ret < 0 ? ret : image_draft_finish(writer->d, &patch, err);
}
