/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters, written: each a whole guest cluster, the last of a disk filled up with
 * zeros. They lie packed, several in a host cluster (meta_take_packed). What doesn't become smaller
 * is written plain. Compressing goes on without owning anything.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "codec/codec.h"
#include "data/write.h"

struct packer {
	struct data_writer *w;
	struct codec *codec;
	uint8_t *plain, *packed; /* a cluster each */
};

/* Puts len bytes into the file and maps the cluster of a chunk to them. */
static int place_packed(struct data_chunk *c, const uint8_t *bytes, size_t len,
			struct qcow2_error *err)
{
	struct data_writer *w = c->w;
	struct meta_entry entry = {0};
	uint64_t host_off;
	int ret = meta_take_packed(w->m, len, &host_off, err);

	if (ret < 0)
		return ret;
	ret = meta_guard_check(w->m, host_off, len, META_REGION_NONE, err);
	storage_event(w->m->file, QCOW2_EVENT_WRITE_COMPRESSED);
	if (ret == 0)
		ret = storage_write(w->m->file, bytes, len, host_off, err);
	entry.raw = format_l2_encode_compressed(&w->m->geometry, host_off, len);
	/* an older cluster may have had this very descriptor */
	data_packed_forget(w->packed, entry.raw);
	if (ret == 0)
		ret = meta_entries_set(w->m, c->first_off, &entry, 1, true, err);
	if (ret < 0)
		meta_untake_packed(w->m, host_off, len);
	else
		data_drop_old(w, &c->e[0], w->give_back);
	return ret;
}

static int write_packed(struct data_writer *w, uint64_t guest_off, const uint8_t *bytes, size_t len,
			struct qcow2_error *err)
{
	struct data_chunk c;
	int ret = meta_table_ensure(w->m, guest_off, err);

	if (ret == 0)
		ret = data_chunk_take(&c, w, guest_off, guest_off + 1, err);
	if (ret < 0)
		return ret;
	ret = place_packed(&c, bytes, len, err);
	data_chunk_leave(&c);
	return ret;
}

static int write_cluster(struct packer *p, struct iov_cursor *cur, uint64_t guest_off, size_t len,
			 struct qcow2_error *err)
{
	const size_t cs = (size_t)p->w->m->geometry.cluster_size;
	struct iovec iov = {.iov_base = p->plain, .iov_len = len};
	struct iov_cursor plain;
	size_t packed;

	iov_get(cur, p->plain, len);
	memset(p->plain + len, 0, cs - len);
	packed = codec_compress(p->codec, p->plain, cs, p->packed, cs - 1);
	if (packed > 0)
		return write_packed(p->w, guest_off, p->packed, packed, err);
	iov_cursor_init(&plain, &iov, 1);
	return data_write(p->w, &plain, guest_off, len, err);
}

static int check_compressed(const struct data_writer *w, uint64_t guest_off, uint64_t len_bytes,
			    struct qcow2_error *err)
{
	const uint64_t cs = w->m->geometry.cluster_size;
	uint64_t end = guest_off + len_bytes;

	if (w->m->geometry.data_file)
		return error_set(err, -ENOTSUP,
				 "an image with an external data file can't hold compressed data");
	if (!is_aligned(guest_off, cs) || (!is_aligned(end, cs) && end != data_size(w)))
		return error_set_at(err, -EINVAL, guest_off, QCOW2_NO_OFFSET,
				    "compressed data have to begin and end at clusters of %llu "
				    "bytes",
				    (unsigned long long)cs);
	return meta_check_sound(w->m, err);
}

int data_write_compressed(struct data_writer *w, struct iov_cursor *cur, uint64_t guest_off,
			  uint64_t len_bytes, struct qcow2_error *err)
{
	const uint64_t cs = w->m->geometry.cluster_size;
	struct packer p = {.w = w};
	int ret = check_compressed(w, guest_off, len_bytes, err);

	if (ret < 0)
		return ret;
	p.plain = mem_alloc(cs, 1);
	p.packed = mem_alloc(cs, 1);
	if (!p.plain || !p.packed)
		ret = error_errno(err, -ENOMEM, "can't compress a cluster");
	if (ret == 0)
		ret = codec_new(&p.codec, (enum codec_type)w->m->header.compression_type, 0, err);
	while (ret == 0 && len_bytes > 0) {
		size_t len = (size_t)min_u64(len_bytes, cs);

		ret = write_cluster(&p, cur, guest_off, len, err);
		guest_off += len;
		len_bytes -= len;
	}
	codec_free(p.codec);
	mem_free(p.plain);
	mem_free(p.packed);
	return ret;
}

int data_write_packed(struct data_writer *w, uint64_t guest_off, const uint8_t *bytes, size_t len,
		      struct qcow2_error *err)
{
	int ret = check_compressed(w, guest_off, 0, err);

	return ret == 0 ? write_packed(w, guest_off, bytes, len, err) : ret;
}
