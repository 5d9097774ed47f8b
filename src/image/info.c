/* SPDX-License-Identifier: MIT */
/*
 * What is known of an open image. The header was decoded at open; the snapshot table, the bitmap
 * directory and the LUKS header are read when somebody asks for the first time, and damage in them
 * is a warning: the rest can still be told.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "image/image.h"
#include "meta/bitmap.h"

static int list_snapshots(const struct qcow2_image *image, struct image_tables *t,
			  struct qcow2_error *err)
{
	const struct meta_snapshots *s = &t->snapshots;
	struct qcow2_snapshot_info *list = mem_zalloc(s->count, sizeof(*list));

	if (!list)
		return error_errno(err, -ENOMEM, "can't list snapshots");
	for (size_t i = 0; i < s->count; i++) {
		const struct format_snapshot *f = &s->list[i];

		list[i] = (struct qcow2_snapshot_info){
			.id = f->id,
			.name = f->name,
			.vm_state_bytes = f->vm_state_bytes,
			.disk_bytes = f->has_disk_size ? f->disk_size
						       : image->qcow2->meta.header.size_bytes,
			.date_sec = f->date_sec,
			.date_nsec = f->date_nsec,
			.vm_clock_nsec = f->vm_clock_nsec,
			.icount = f->has_icount ? f->icount : UINT64_MAX,
			.has_icount = f->has_icount && f->icount != UINT64_MAX,
		};
	}
	t->snapshot_info = list;
	return 0;
}

static int list_bitmaps(struct image_tables *t, struct qcow2_error *err)
{
	const uint32_t known = LAYOUT_BITMAP_FLAG_IN_USE | LAYOUT_BITMAP_FLAG_AUTO;
	const struct meta_bitmaps *b = &t->bitmaps;
	struct qcow2_bitmap_info *list = mem_zalloc(b->count, sizeof(*list));

	if (!list)
		return error_errno(err, -ENOMEM, "can't list bitmaps");
	for (size_t i = 0; i < b->count; i++) {
		const struct format_bitmap *f = &b->list[i];

		list[i] = (struct qcow2_bitmap_info){
			.name = f->name,
			.granularity = f->granularity_bits < 64 ? 1ull << f->granularity_bits : 0,
			.flags = (f->flags & LAYOUT_BITMAP_FLAG_IN_USE ? QCOW2_BITMAP_IN_USE : 0) |
				 (f->flags & LAYOUT_BITMAP_FLAG_AUTO ? QCOW2_BITMAP_AUTO : 0),
			.unknown_flags = f->flags & ~known,
		};
	}
	t->bitmap_info = list;
	return 0;
}

static void list_luks(struct image_luks *l, uint64_t host_off)
{
	for (size_t i = 0; i < FORMAT_LUKS_SLOTS; i++) {
		const struct format_luks_slot *s = &l->header.slots[i];

		l->slots[i] = (struct qcow2_luks_slot_info){
			.active = s->active,
			.iterations = s->iterations,
			.stripes = s->stripes,
			.key_off = (uint64_t)s->material_sector * LAYOUT_SECTOR,
		};
	}
	l->info = (struct qcow2_luks_info){
		.host_off = host_off,
		.cipher = l->spec.cipher,
		.cipher_mode = l->spec.mode,
		.ivgen = l->spec.ivgen,
		.ivgen_hash = l->spec.ivgen_hash[0] ? l->spec.ivgen_hash : NULL,
		.hash = l->header.hash,
		.uuid = l->header.uuid,
		.payload_off = (uint64_t)l->header.payload_sector * LAYOUT_SECTOR,
		.digest_iterations = l->header.digest_iterations,
		.nslots = FORMAT_LUKS_SLOTS,
		.slots = l->slots,
	};
}

static int read_luks(const struct meta *m, struct image_luks *l, struct qcow2_error *err)
{
	const struct format_ext_crypto *place = &m->header.ext.crypto;
	cleanup_free uint8_t *bytes = NULL;
	size_t got;
	int ret;

	if (!m->header.ext.has_crypto)
		return error_set(err, -EINVAL, "the image header doesn't say where it is");
	if (place->header_len < FORMAT_LUKS_HEADER_LEN)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, place->header_off,
				    "it has %" PRIu64 " bytes at 0x%" PRIx64
				    ", expected at least %d",
				    place->header_len, place->header_off, FORMAT_LUKS_HEADER_LEN);
	ret = meta_read_table(m, place->header_off, FORMAT_LUKS_HEADER_LEN, &bytes, &got, err);
	if (ret < 0)
		return ret;
	if (got < FORMAT_LUKS_HEADER_LEN)
		return error_set_at(err, -EINVAL, QCOW2_NO_OFFSET, place->header_off,
				    "the file has %zu bytes at 0x%" PRIx64 ", expected %d", got,
				    place->header_off, FORMAT_LUKS_HEADER_LEN);
	ret = format_luks_decode(&l->header, bytes, err);
	if (ret == 0)
		ret = format_luks_spec(&l->spec, &l->header, err);
	if (ret < 0)
		return ret;
	list_luks(l, place->header_off);
	return 0;
}

/* *luks stays NULL if the image has no such header, or with an error. */
static int load_luks(const struct meta *m, struct image_luks **luks, struct qcow2_error *err)
{
	cleanup_free struct image_luks *l = NULL;
	int ret;

	if (m->header.crypt_method != LAYOUT_CRYPT_LUKS)
		return 0;
	l = mem_zalloc(1, sizeof(*l));
	if (!l)
		return error_errno(err, -ENOMEM, "can't read the LUKS header");
	ret = read_luks(m, l, err);
	if (ret == 0)
		*luks = mem_steal(&l);
	return ret;
}

void image_free_tables(struct image_tables *t)
{
	while (t) {
		struct image_tables *older = t->older;

		meta_snapshots_release(&t->snapshots);
		meta_bitmaps_release(&t->bitmaps);
		mem_free(t->snapshot_info);
		mem_free(t->bitmap_info);
		mem_free(t->luks);
		mem_free(t);
		t = older;
	}
}

/* While the image is changed the file doesn't have all that is known of them. */
static int load_bitmaps(const struct meta *m, struct meta_bitmaps *b, struct qcow2_error *err)
{
	return m->engine ? meta_bitmaps_tell(m, b, err) : meta_load_bitmaps(m, b, err);
}

static int load_tables(const struct qcow2_image *image, struct image_tables *t,
		       struct qcow2_error *err)
{
	struct qcow2_error why;
	int ret;

	ret = meta_load_snapshots(&image->qcow2->meta, &t->snapshots, &why);
	if (ret == -ENOMEM)
		return error_set(err, ret, "%s", why.message);
	if (ret < 0)
		image_warn(image, "\"%s\": the snapshots can't be listed: %s", image->path,
			   why.message);
	ret = load_bitmaps(&image->qcow2->meta, &t->bitmaps, &why);
	if (ret == -ENOMEM)
		return error_set(err, ret, "%s", why.message);
	if (ret < 0)
		image_warn(image, "\"%s\": the bitmaps can't be listed: %s", image->path,
			   why.message);
	ret = load_luks(&image->qcow2->meta, &t->luks, &why);
	if (ret == -ENOMEM)
		return error_set(err, ret, "%s", why.message);
	if (ret < 0)
		image_warn(image, "\"%s\": the LUKS header can't be shown: %s", image->path,
			   why.message);
	ret = list_snapshots(image, t, err);
	return ret < 0 ? ret : list_bitmaps(t, err);
}

/*
 * Two threads may load at once; the first to finish wins, and the lock isn't held meanwhile.
 * NULL: *ret says why.
 */
static const struct image_tables *want_tables(struct qcow2_image *image, int *ret,
					      struct qcow2_error *err)
{
	const struct image_tables *tables;
	struct image_tables *mine;
	unsigned ticket;

	*ret = 0;
	pthread_mutex_lock(&image->lock);
	tables = image->tables;
	pthread_mutex_unlock(&image->lock);
	if (tables)
		return tables;
	mine = mem_zalloc(1, sizeof(*mine));
	if (!mine) {
		*ret = error_errno(err, -ENOMEM, "can't read the snapshot table");
		return NULL;
	}
	ticket = image_enter(image); /* snapshots aren't taken until it is known to everybody */
	*ret = load_tables(image, mine, err);
	if (*ret == 0) {
		pthread_mutex_lock(&image->lock);
		if (!image->tables)
			image->tables = mem_steal(&mine);
		tables = image->tables;
		pthread_mutex_unlock(&image->lock);
	}
	image_leave(image, ticket);
	image_free_tables(mine);
	return tables;
}

static void describe_qcow2(const struct qcow2_image *image, const struct image_tables *t,
			   struct qcow2_info *info)
{
	static const char *const compression[] = {"zlib", "zstd"};
	static const char *const encryption[] = {NULL, "aes", "luks"};
	const struct format_header *h = &image->qcow2->meta.header;

	info->version = h->version;
	info->cluster_size = image->qcow2->meta.geometry.cluster_size;
	info->refcount_bits = 1u << h->refcount_order;
	info->lazy_refcounts = h->compatible & LAYOUT_COMPAT_LAZY_REFCOUNTS;
	info->dirty = h->incompatible & LAYOUT_INCOMPAT_DIRTY;
	info->corrupt = h->incompatible & LAYOUT_INCOMPAT_CORRUPT;
	info->extended_l2 = h->incompatible & LAYOUT_INCOMPAT_EXTENDED_L2;
	info->compression_type = compression[h->compression_type];
	info->encryption = encryption[h->crypt_method];
	info->backing_file = h->backing_name;
	info->backing_path = image->backing_path;
	info->backing_format = h->ext.backing_format;
	info->data_file = h->ext.data_file;
	info->has_data_file = h->incompatible & LAYOUT_INCOMPAT_DATA_FILE;
	info->data_file_raw = h->autoclear & LAYOUT_AUTOCLEAR_DATA_FILE_RAW;
	info->nsnapshots = t->snapshots.count;
	info->snapshots = t->snapshot_info;
	info->nbitmaps = t->bitmaps.count;
	info->bitmaps = t->bitmap_info;
	info->bitmaps_lost = h->ext.has_bitmaps && !(h->autoclear & LAYOUT_AUTOCLEAR_BITMAPS);
	info->luks = t->luks ? &t->luks->info : NULL;
}

int qcow2_info(struct qcow2_image *image, struct qcow2_info *info, struct qcow2_error *err)
{
	struct qcow2_info full = QCOW2_INFO_INIT;
	size_t caller_size = info->struct_size;
	const struct image_tables *tables;
	struct storage_file_stat st;
	int ret;

	if (caller_size < sizeof(size_t))
		return error_set(err, -EINVAL, "info: struct_size isn't set");
	full.filename = image->path;
	full.format = image->format;
	full.virtual_size = image->disk->size_bytes;
	if (storage_file_stat(image->store, &st, NULL) == 0) {
		full.disk_bytes = st.disk_bytes;
		full.has_disk_bytes = true;
	}
	if (image->qcow2) {
		tables = want_tables(image, &ret, err);
		if (!tables)
			return ret;
		describe_qcow2(image, tables, &full);
	}
	memcpy(info, &full, min_u64(caller_size, sizeof(full)));
	info->struct_size = caller_size;
	return 0;
}
