/* SPDX-License-Identifier: MIT */
/*
 * The bitmaps of an open image: which there are, what is recorded in them, and that the file says
 * "in use" of one before it begins to be wrong there. See bitmap.h.
 */
#include "meta/bitmap.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"

/* ---- opening ---- */

static uint64_t disk_size(const struct meta *m)
{
	return align_down(m->header.size_bytes, LAYOUT_SECTOR);
}

static void free_list(struct meta_bitmap **list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		meta_bitmap_free(list[i]);
	mem_free(list);
}

static void free_set(struct meta_bitmap_set *s)
{
	if (!s)
		return;
	free_list(s->list, s->count);
	free_list(s->gone, s->ngone);
	meta_slot_release(&s->marking);
	mem_free(s);
}

static enum meta_bitmap_state state_of(const struct meta *m, const struct format_bitmap *f,
				       uint64_t *room)
{
	uint64_t clusters =
		div_ceil((uint64_t)f->table_entries * sizeof(uint64_t), m->geometry.cluster_size);

	if (!f->usable)
		return META_BITMAP_UNKNOWN;
	if (f->flags & LAYOUT_BITMAP_FLAG_IN_USE)
		return META_BITMAP_STALE;
	/* no file has tables that are larger than itself: memory is bounded by that */
	if (clusters > *room ||
	    f->table_entries !=
		    format_bitmap_table_entries(&m->geometry, disk_size(m), f->granularity_bits))
		return META_BITMAP_UNKNOWN;
	*room -= clusters;
	return META_BITMAP_GOOD;
}

/* Takes what *f owns. */
static struct meta_bitmap *adopt(const struct meta *m, struct format_bitmap *f, uint64_t host_off,
				 uint64_t *room)
{
	enum meta_bitmap_state state = state_of(m, f, room);
	struct meta_bitmap *b;

	b = meta_bitmap_new(disk_size(m), state == META_BITMAP_GOOD ? f->granularity_bits : 0);
	if (!b)
		return NULL;
	b->rec = *f;
	*f = (struct format_bitmap){0};
	b->state = state;
	b->enabled = b->rec.flags & LAYOUT_BITMAP_FLAG_AUTO;
	b->stored = true;
	b->stored_flags = b->rec.flags;
	b->flags_off = host_off + LAYOUT_BITMAP_OFF_FLAGS;
	b->stored_bits = b->table_bits = state == META_BITMAP_GOOD ? b->nbits : 0;
	return b;
}

static int fill_set(const struct meta *m, struct meta_bitmap_set *s, struct qcow2_error *err)
{
	uint64_t room = div_ceil(m->file_size, m->geometry.cluster_size);
	struct meta_bitmaps dir;
	int ret = meta_load_bitmaps(m, &dir, err);

	if (ret < 0)
		return ret;
	s->list = mem_zalloc(dir.count, sizeof(struct meta_bitmap *));
	for (; s->list && s->count < dir.count; s->count++) {
		struct meta_bitmap *b =
			adopt(m, &dir.list[s->count], dir.host_off[s->count], &room);

		if (!b)
			break;
		s->list[s->count] = b;
	}
	if (!s->list || s->count < dir.count)
		ret = error_errno(err, -ENOMEM, "can't read the bitmap directory");
	meta_bitmaps_release(&dir);
	return ret;
}

int meta_bitmaps_open(struct meta *m, struct qcow2_error *err)
{
	struct meta_bitmap_set *s, *there = NULL;
	int ret;

	if (__atomic_load_n(&m->bitmaps, __ATOMIC_ACQUIRE))
		return 0;
	s = mem_zalloc(1, sizeof(*s));
	if (!s)
		return error_errno(err, -ENOMEM, "can't read the bitmap directory");
	meta_slot_init(&s->marking);
	ret = fill_set(m, s, err);
	if (ret < 0 || !__atomic_compare_exchange_n(&m->bitmaps, &there, s, false, __ATOMIC_ACQ_REL,
						    __ATOMIC_ACQUIRE))
		free_set(s);
	return ret;
}

void meta_bitmaps_close(struct meta *m)
{
	free_set(m->bitmaps);
	m->bitmaps = NULL;
}

struct meta_bitmap *meta_bitmaps_find(const struct meta *m, const char *name)
{
	const struct meta_bitmap_set *s = __atomic_load_n(&m->bitmaps, __ATOMIC_ACQUIRE);

	for (size_t i = 0; s && i < s->count; i++) {
		if (strcmp(s->list[i]->rec.name, name) == 0)
			return s->list[i];
	}
	return NULL;
}

int meta_bitmap_check(const struct meta_bitmap *b, struct qcow2_error *err)
{
	if (b->state == META_BITMAP_STALE)
		return error_set(err, -ESTALE,
				 "bitmap \"%s\" is inconsistent: whoever kept it up to date didn't "
				 "close the image, so that it can only be removed",
				 b->rec.name);
	if (b->state == META_BITMAP_UNKNOWN)
		return error_set(
			err, -ENOTSUP,
			"bitmap \"%s\" can't be used: its type, its granularity, its flags "
			"or the size of its table aren't those of a bitmap for this disk",
			b->rec.name);
	return 0;
}

uint32_t meta_bitmap_flags(const struct meta_bitmap *b)
{
	if (b->state != META_BITMAP_GOOD)
		return b->stored_flags;
	return (b->rec.flags & LAYOUT_BITMAP_FLAG_EXTRA_COMPATIBLE) |
	       (b->enabled ? LAYOUT_BITMAP_FLAG_AUTO : 0);
}

int meta_bitmaps_tell(const struct meta *m, struct meta_bitmaps *b, struct qcow2_error *err)
{
	const struct meta_bitmap_set *s = m->bitmaps;

	*b = (struct meta_bitmaps){0};
	b->list = mem_zalloc(s->count, sizeof(*b->list));
	for (size_t i = 0; b->list && i < s->count; i++) {
		struct format_bitmap *f = &b->list[i];

		*f = s->list[i]->rec;
		f->extra = NULL;
		f->extra_len = 0;
		f->flags = meta_bitmap_flags(s->list[i]);
		f->name = mem_strndup(f->name, f->name_len);
		if (!f->name)
			break;
		b->count++;
	}
	if (b->list && b->count == s->count)
		return 0;
	meta_bitmaps_release(b);
	return error_errno(err, -ENOMEM, "can't list the bitmaps");
}

/* ---- in use ---- */

/* Whether the file has to say so before the disk (all: the size of the disk) changes. */
static bool wants_mark(const struct meta_bitmap *b, bool all)
{
	return b->stored && !(b->stored_flags & LAYOUT_BITMAP_FLAG_IN_USE) &&
	       (all || b->stored_flags & LAYOUT_BITMAP_FLAG_AUTO);
}

/* Four bytes in one sector: whatever a crash leaves of several, each is one or the other. */
static int mark_stored(struct meta *m, struct meta_bitmap *const *list, size_t count, bool all,
		       size_t *nmarked, struct qcow2_error *err)
{
	uint8_t bytes[4];
	int ret = 0;

	for (size_t i = 0; i < count && ret == 0; i++) {
		struct meta_bitmap *b = list[i];

		if (!wants_mark(b, all))
			continue;
		store_be32(bytes, b->stored_flags | LAYOUT_BITMAP_FLAG_IN_USE);
		ret = storage_write(m->file, bytes, sizeof(bytes), b->flags_off, err);
		*nmarked += 1;
	}
	return ret;
}

static void note_marks(struct meta_bitmap *const *list, size_t count, bool all)
{
	for (size_t i = 0; i < count; i++) {
		if (wants_mark(list[i], all))
			list[i]->stored_flags |= LAYOUT_BITMAP_FLAG_IN_USE;
	}
}

/* The caller has the slot. */
static int mark_in_use(struct meta *m, bool all, struct qcow2_error *err)
{
	struct meta_bitmap_set *s = m->bitmaps;
	size_t nmarked = 0;
	int ret = meta_check_sound(m, err);

	if (ret == 0)
		ret = mark_stored(m, s->list, s->count, all, &nmarked, err);
	if (ret == 0)
		ret = mark_stored(m, s->gone, s->ngone, all, &nmarked, err);
	if (ret == 0 && nmarked > 0 && !META_BROKEN(15))
		ret = meta_barrier(m, err);
	if (ret < 0) {
		error_prefix(err, "can't mark the bitmaps as in use");
		return ret;
	}
	note_marks(s->list, s->count, all);
	note_marks(s->gone, s->ngone, all);
	if (nmarked > 0)
		s->changed = true;
	atomic_store(&s->settled, true);
	return 0;
}

static int settle(struct meta *m, struct qcow2_error *err)
{
	struct meta_bitmap_set *s = m->bitmaps;
	int ret = 0;

	meta_slot_take(&s->marking);
	if (!atomic_load(&s->settled))
		ret = mark_in_use(m, false, err);
	meta_slot_leave(&s->marking);
	return ret;
}

/* ---- recording ---- */

static int record(const struct meta_bitmap_set *s, uint64_t guest_off, uint64_t len_bytes)
{
	int ret = 0;

	for (size_t i = 0; i < s->count && ret == 0; i++) {
		if (s->list[i]->enabled && s->list[i]->state == META_BITMAP_GOOD)
			ret = meta_bitmap_set(s->list[i], guest_off, len_bytes);
	}
	return ret;
}

int meta_bitmaps_mark(struct meta *m, uint64_t guest_off, uint64_t len_bytes,
		      struct qcow2_error *err)
{
	const struct meta_bitmap_set *s = m->bitmaps;
	int ret = 0;

	if (!s || s->count + s->ngone == 0)
		return 0;
	if (!atomic_load_explicit(&s->settled, memory_order_acquire))
		ret = settle(m, err);
	if (ret == 0 && record(s, guest_off, len_bytes) < 0)
		ret = error_errno(err, -ENOMEM, "can't record in the bitmaps what is written");
	return ret;
}

bool meta_bitmaps_try_mark(struct meta *m, uint64_t guest_off, uint64_t len_bytes)
{
	const struct meta_bitmap_set *s = m->bitmaps;

	if (!s || s->count + s->ngone == 0)
		return true;
	return atomic_load_explicit(&s->settled, memory_order_acquire) &&
	       record(s, guest_off, len_bytes) == 0;
}

/* ---- changes ---- */

static int grow_list(struct meta_bitmap ***list, size_t count, struct qcow2_error *err)
{
	struct meta_bitmap **longer = mem_realloc(*list, count + 1, sizeof(*longer));

	if (!longer)
		return error_errno(err, -ENOMEM, "can't change the bitmaps");
	*list = longer;
	return 0;
}

/* Whether a bitmap of that granularity is small enough for a disk of that size. */
static int check_space(const struct meta *m, const char *name, uint64_t size_bytes,
		       uint32_t granularity_bits, struct qcow2_error *err)
{
	uint64_t n = format_bitmap_table_entries(&m->geometry, size_bytes, granularity_bits);

	if (n == 0)
		return error_set(err, -EINVAL,
				 "bitmap \"%s\": a disk of no size can't have bitmaps", name);
	if (n > LAYOUT_BITMAP_TABLE_ENTRIES_MAX ||
	    n > LAYOUT_BITMAP_BYTES_MAX / m->geometry.cluster_size)
		return error_set(
			err, -EFBIG,
			"bitmap \"%s\" would take more space than the format allows (%llu "
			"bytes): a disk of %" PRIu64 " bytes needs a granularity larger than %llu",
			name, LAYOUT_BITMAP_BYTES_MAX, size_bytes, 1ull << granularity_bits);
	return 0;
}

static int check_directory(const struct meta_bitmap_set *s, size_t name_len,
			   struct qcow2_error *err)
{
	uint64_t len = align_up(LAYOUT_BITMAP_FIXED_LEN + name_len, 8);

	if (s->count >= LAYOUT_BITMAPS_MAX)
		return error_set(err, -EFBIG, "an image can't have more than %u bitmaps",
				 LAYOUT_BITMAPS_MAX);
	for (size_t i = 0; i < s->count; i++)
		len += format_bitmap_encoded_len(&s->list[i]->rec);
	if (len > LAYOUT_BITMAP_DIRECTORY_BYTES_MAX)
		return error_set(err, -EFBIG,
				 "the bitmap directory would have %" PRIu64
				 " bytes, more than the %u allowed",
				 len, LAYOUT_BITMAP_DIRECTORY_BYTES_MAX);
	return 0;
}

int meta_bitmaps_add(struct meta *m, const char *name, uint32_t granularity_bits, bool enabled,
		     struct qcow2_error *err)
{
	struct meta_bitmap_set *s = m->bitmaps;
	struct meta_bitmap *b;
	int ret = check_space(m, name, m->size_bytes, granularity_bits, err);

	if (ret == 0)
		ret = check_directory(s, strlen(name), err);
	if (ret == 0)
		ret = grow_list(&s->list, s->count, err);
	if (ret < 0)
		return ret;
	b = meta_bitmap_new(m->size_bytes, granularity_bits);
	if (b)
		b->rec.name = mem_strdup(name);
	if (!b || !b->rec.name) {
		meta_bitmap_free(b);
		return error_errno(err, -ENOMEM, "can't add a bitmap");
	}
	b->rec.name_len = (uint16_t)strlen(name);
	b->rec.type = LAYOUT_BITMAP_TYPE_DIRTY;
	b->rec.usable = true;
	b->enabled = enabled;
	b->changed = s->changed = true;
	s->list[s->count++] = b;
	return 0;
}

int meta_bitmaps_remove(struct meta *m, struct meta_bitmap *b, struct qcow2_error *err)
{
	struct meta_bitmap_set *s = m->bitmaps;
	size_t idx = 0;
	int ret = b->stored ? grow_list(&s->gone, s->ngone, err) : 0;

	if (ret < 0)
		return ret;
	while (s->list[idx] != b)
		idx++;
	memmove(&s->list[idx], &s->list[idx + 1],
		(s->count - idx - 1) * sizeof(struct meta_bitmap *));
	s->count--;
	s->changed = true;
	if (b->stored)
		s->gone[s->ngone++] = b;
	else
		meta_bitmap_free(b);
	return 0;
}

int meta_bitmaps_remove_all(struct meta *m, struct qcow2_error *err)
{
	struct meta_bitmap_set *s = m->bitmaps;
	int ret = 0;

	while (ret == 0 && s && s->count > 0)
		ret = meta_bitmaps_remove(m, s->list[s->count - 1], err);
	return ret;
}

void meta_bitmaps_enable(struct meta *m, struct meta_bitmap *b, bool enabled)
{
	if (b->enabled != enabled)
		m->bitmaps->changed = true;
	b->enabled = enabled;
}

void meta_bitmaps_clear(struct meta *m, struct meta_bitmap *b)
{
	meta_bitmap_clear(b);
	m->bitmaps->changed = true;
}

int meta_bitmaps_merge(struct meta *m, struct meta_bitmap *b, const struct meta_bitmap *bits,
		       struct qcow2_error *err)
{
	m->bitmaps->changed = true;
	b->changed = true;
	if (meta_bitmap_add(b, bits) < 0)
		return error_errno(err, -ENOMEM, "can't merge a bitmap into \"%s\"", b->rec.name);
	return 0;
}

/* ---- another size ---- */

int meta_bitmaps_prepare_resize(struct meta *m, uint64_t size_bytes, struct qcow2_error *err)
{
	struct meta_bitmap_set *s = m->bitmaps;
	int ret = 0;

	for (size_t i = 0; s && i < s->count && ret == 0; i++) {
		ret = meta_bitmap_check(s->list[i], err);
		if (ret == 0)
			ret = check_space(m, s->list[i]->rec.name, size_bytes,
					  s->list[i]->rec.granularity_bits, err);
	}
	if (ret < 0 || !s || s->count + s->ngone == 0)
		return ret;
	meta_slot_take(&s->marking);
	ret = mark_in_use(m, true, err);
	meta_slot_leave(&s->marking);
	return ret;
}

int meta_bitmaps_resized(struct meta *m, uint64_t old_size, struct qcow2_error *err)
{
	struct meta_bitmap_set *s = m->bitmaps;
	int ret = 0;

	for (size_t i = 0; s && i < s->count; i++) {
		struct meta_bitmap *b = s->list[i];
		int failed = meta_bitmap_resize(b, m->size_bytes);

		if (failed == 0 && b->enabled && m->size_bytes > old_size)
			failed = meta_bitmap_set(b, old_size, m->size_bytes - old_size);
		if (failed < 0) /* it fits the disk no more, and is marked as in use */
			b->state = META_BITMAP_STALE;
		ret = ret ? ret : failed;
		s->changed = true;
	}
	return ret < 0 ? error_errno(err, ret, "can't adapt the bitmaps to the new size") : 0;
}
