/* SPDX-License-Identifier: MIT */
/*
 * VM state: section 12.4 of the reference. It lies behind the disk, in the same tables, so that a
 * snapshot takes it along; everything that is read and written for a disk is read and written for
 * it. It has no size of its own: what was never written reads as zeros, and nothing of a backing
 * file comes to light in it.
 *
 * Position p is the guest offset state_off + p. Tables are made as they are needed; only the L1
 * table has to be made longer first, for which the gate is closed.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/iov.h"
#include "base/num.h"
#include "image/image.h"

/* ---- as a disk ---- */

static struct image_qcow2 *image_of(struct disk *disk)
{
	return ((struct image_state *)disk)->image;
}

static int state_map(struct disk *disk, uint64_t guest_off, uint64_t len_bytes,
		     struct disk_run *run, struct qcow2_error *err)
{
	return image_map_tables(image_of(disk), guest_off, len_bytes, run, err);
}

static int state_read_compressed(struct disk *disk, const struct disk_run *run, void *buf,
				 size_t len, uint64_t guest_off, struct qcow2_error *err)
{
	return image_read_packed(image_of(disk), run, buf, len, guest_off, err);
}

static const struct disk_ops state_ops = {
	.format = "qcow2",
	.map = state_map,
	.read_compressed = state_read_compressed,
};

void image_state_init(struct image_qcow2 *q)
{
	struct image_state *s = &q->state;

	*s = (struct image_state){
		.disk = {.ops = &state_ops, .size_bytes = format_max_size(&q->meta.geometry)},
		.image = q,
	};
	s->disks[0] = &s->disk;
	s->layers = (struct data_layers){.disks = s->disks, .count = 1};
}

/* ---- requests ---- */

static int check_image(const struct qcow2_image *image, struct qcow2_error *err)
{
	if (!image->qcow2)
		return error_set(err, -ENOTSUP, "\"%s\" is a raw image: it has no VM state",
				 image->path);
	if (image->qcow2->meta.geometry.data_file)
		return error_set(err, -ENOTSUP,
				 "an image with an external data file can't have snapshots, and no "
				 "VM state either");
	return 0;
}

/* Position pos as a guest offset. -EINVAL if no number is large enough for its end. */
static int place(const struct qcow2_image *image, uint64_t pos, uint64_t len, uint64_t *guest_off,
		 struct qcow2_error *err)
{
	uint64_t end;

	if (add_fits(image->qcow2->meta.state_off, pos, guest_off) &&
	    add_fits(*guest_off, len, &end))
		return 0;
	return error_set(err, -EINVAL,
			 "%" PRIu64 " bytes at position %" PRIu64
			 " of the VM state pass the end of what can be counted",
			 len, pos);
}

static int read_state(struct qcow2_image *image, const struct iovec *iov, uint64_t pos,
		      struct qcow2_error *err)
{
	uint64_t guest_off = 0;
	int ret = image_check_readable(image, err);

	if (ret == 0)
		ret = check_image(image, err);
	if (ret == 0)
		ret = place(image, pos, iov->iov_len, &guest_off, err);
	if (ret < 0)
		return ret;
	return data_read(&image->qcow2->state.layers, iov, 1, guest_off, iov->iov_len, err);
}

int qcow2_vmstate_read(struct qcow2_image *image, void *buf, size_t len, uint64_t pos,
		       struct qcow2_error *err)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	unsigned ticket = image_enter(image);
	int ret = read_state(image, &iov, pos, err);

	image_leave(image, ticket);
	if (ret < 0)
		error_prefix(err, "reading the VM state of \"%s\"", image->path);
	return ret;
}

/* *entries: what the L1 table has to have for the range. */
static int check_write(const struct qcow2_image *image, uint64_t pos, uint64_t len,
		       uint64_t *guest_off, uint64_t *entries, struct qcow2_error *err)
{
	uint64_t max;
	int ret = image_check_writable(image, err);

	*entries = 0;
	if (ret == 0)
		ret = check_image(image, err);
	if (ret == 0)
		ret = place(image, pos, len, guest_off, err);
	if (ret < 0 || len == 0)
		return ret;
	max = format_max_size(&image->qcow2->meta.geometry);
	if (*guest_off + len > max)
		return error_set(err, -EFBIG,
				 "%" PRIu64 " bytes at position %" PRIu64
				 " of the VM state lie behind all that an L1 table of %u entries "
				 "maps",
				 len, pos, LAYOUT_L1_ENTRIES_MAX);
	*entries = format_size_to_l1(&image->qcow2->meta.geometry, *guest_off + len);
	return 0;
}

/* As others do, by half of what it has: a state is written from its beginning to its end. */
static uint64_t grown(uint64_t entries, uint64_t wanted)
{
	while (entries < wanted)
		entries = entries == 0 ? 1 : entries + div_ceil(entries, 2);
	return min_u64(entries, LAYOUT_L1_ENTRIES_MAX);
}

/* The L1 table doesn't reach there yet. Meanwhile somebody may have resized the disk. */
static int make_room(struct qcow2_image *image, uint64_t pos, uint64_t len, struct qcow2_error *err)
{
	struct meta *m = &image->qcow2->meta;
	uint64_t guest_off = 0, entries;
	int ret;

	meta_gate_close(image->gate);
	ret = check_write(image, pos, len, &guest_off, &entries, err);
	if (ret == 0)
		ret = meta_check_sound(m, err);
	if (ret == 0 && entries > m->l1_entries)
		ret = meta_l1_grow(m, grown(m->l1_entries, entries), err);
	meta_gate_open(image->gate);
	return ret;
}

/* In the gate. *small: nothing was done, the L1 table has to be made longer. */
static int write_state(struct qcow2_image *image, const struct iovec *iov, uint64_t pos,
		       bool *small, struct qcow2_error *err)
{
	struct iov_cursor cur;
	uint64_t guest_off = 0, entries;
	int ret = check_write(image, pos, iov->iov_len, &guest_off, &entries, err);

	*small = ret == 0 && entries > image->qcow2->meta.l1_entries;
	if (ret < 0 || *small || iov->iov_len == 0)
		return ret;
	iov_cursor_init(&cur, iov, 1);
	return data_write(image->qcow2->state.writer, &cur, guest_off, iov->iov_len, err);
}

int qcow2_vmstate_write(struct qcow2_image *image, const void *buf, size_t len, uint64_t pos,
			struct qcow2_error *err)
{
	/* struct iovec has no const; writing only reads the buffer */
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
	bool small;
	int ret;

	do {
		unsigned ticket = image_enter(image);

		ret = write_state(image, &iov, pos, &small, err);
		image_leave(image, ticket);
		if (small)
			ret = make_room(image, pos, len, err);
	} while (small && ret == 0);
	return image_finish_request(image, ret, 0, "writing VM state to", err);
}
