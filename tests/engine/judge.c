/* SPDX-License-Identifier: MIT */
/* What an image is held against: see world.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "check/check.h"
#include "engine/world.h"

/* Pieces that no cluster size divides. */
#define PIECE (200 * 1024 + 123u)

static int differ(const uint8_t *got, const uint8_t *want, uint64_t off, uint64_t len,
		  const char *when)
{
	uint64_t i = 0, n = 0;

	while (got[i] == want[i])
		i++;
	for (uint64_t j = i; j < len; j++)
		n += got[j] != want[j];
	return complain("%s: reads 0x%02x instead of 0x%02x at guest offset 0x%" PRIx64 "; %" PRIu64
			" of the next %" PRIu64 " bytes are wrong",
			when, got[i], want[i], off + i, n, len - i);
}

static int compare(struct qcow2_image *image, const uint8_t *bytes, uint64_t size, const char *when)
{
	struct qcow2_error err = {0};
	uint8_t *buf;
	uint64_t len;
	int ret = 0;

	buf = malloc(PIECE);
	for (uint64_t off = 0; ret == 0 && off < size; off += len) {
		len = min_u64(PIECE, size - off);
		if (qcow2_pread(image, buf, len, off, &err) < 0)
			ret = complain("%s: %s", when, err.message);
		else if (memcmp(buf, bytes + off, len) != 0)
			ret = differ(buf, bytes + off, off, len, when);
	}
	free(buf);
	return ret;
}

static int compare_state(struct world *w, struct qcow2_image *image, const char *when)
{
	struct qcow2_error err = {0};
	uint8_t *buf = malloc(w->state_size + 1);
	int ret = world_state_read(w, image, buf, 0, w->state_size, &err);

	if (ret < 0)
		complain("%s: %s", when, err.message);
	for (uint64_t i = 0; ret == 0 && i < w->state_size; i++) {
		if (buf[i] != w->bytes[w->max_size + i])
			ret = complain("%s: 0x%02x instead of 0x%02x at 0x%" PRIx64
				       " of the VM state",
				       when, buf[i], w->bytes[w->max_size + i], i);
	}
	free(buf);
	return ret;
}

int world_compare(struct world *w, struct qcow2_image *image, const char *when)
{
	if (qcow2_size(image) != w->size)
		return complain("%s: the disk has %" PRIu64 " bytes, not %" PRIu64, when,
				qcow2_size(image), w->size);
	if (compare_state(w, image, when) < 0)
		return -1;
	return compare(image, w->bytes, w->size, when);
}

static int check_granule(const struct world *w, uint64_t size, const uint8_t *disk, uint64_t idx,
			 bool dirty, bool exact, const char *when)
{
	uint64_t off = idx << w->c.bitmap_bits;
	uint64_t len = min_u64(1ull << w->c.bitmap_bits, size - off);

	if (dirty && !w->touched[idx])
		return complain("%s: the bitmap has 0x%" PRIx64 ", which nobody touched", when,
				off);
	if (!dirty && exact && w->touched[idx])
		return complain("%s: the bitmap hasn't 0x%" PRIx64 ", which was written", when,
				off);
	if (!dirty && memcmp(disk + off, w->recorded_from + off, len) != 0)
		return complain("%s: the bitmap hasn't 0x%" PRIx64 ", which has changed", when,
				off);
	return 0;
}

int world_check_bitmap(struct world *w, struct qcow2_image *image, const uint8_t *disk, bool exact,
		       const char *when)
{
	uint64_t size = qcow2_size(image), g = 1ull << w->c.bitmap_bits;
	struct qcow2_bitmap_extent e = {0};
	struct qcow2_error err = {0};
	int ret = 0;

	for (uint64_t off = 0; w->touched && ret == 0 && off < size; off += e.len_bytes) {
		ret = qcow2_bitmap_map(image, WORLD_BITMAP, off, size - off, &e, &err);
		if (ret == -ESTALE && !exact)
			return 0;
		if (ret < 0)
			return complain("%s: the bitmap: %s", when, err.message);
		for (uint64_t at = off; ret == 0 && at < off + e.len_bytes; at += g)
			ret = check_granule(w, size, disk, at / g, e.dirty, exact, when);
	}
	return ret;
}

int world_save(struct world *w)
{
	if (flat_save(&w->file, w->image_path) != 0 ||
	    (w->c.data != DATA_INSIDE && flat_save(&w->data, w->data_path) != 0))
		return complain("can't save the image");
	return 0;
}

static int reopen_and_compare(struct world *w, const char *when)
{
	struct qcow2_error err = {0};
	struct qcow2_image *image;
	int ret;

	if (world_open(w, &image, NULL, NULL, &err) < 0)
		return complain("%s: doesn't open again: %s", when, err.message);
	ret = world_compare(w, image, when);
	if (ret == 0)
		ret = world_check_bitmap(w, image, w->bytes, true, when);
	qcow2_close(image);
	return ret;
}

/* The snapshot is as it was. Its disk may look longer now, as the image has become. */
static int compare_snapshot(struct world *w)
{
	const char *when = "the snapshot afterwards";
	struct qcow2_error err = {0};
	struct qcow2_image *image;
	int ret;

	if (!w->snapshot_bytes)
		return 0;
	if (world_open(w, &image, NULL, "before", &err) < 0)
		return complain("%s: doesn't open: %s", when, err.message);
	if (qcow2_size(image) < w->snapshot_size)
		ret = complain("%s: has 0x%" PRIx64 " bytes", when, qcow2_size(image));
	else
		ret = compare(image, w->snapshot_bytes, w->snapshot_size, when);
	qcow2_close(image);
	return ret;
}

static int ask_qemu(struct world *w, const char *when)
{
	struct flat ref = {.bytes = w->bytes, .size = w->size};
	int code;

	if (world_save(w) < 0 || flat_save(&ref, w->ref_path) != 0)
		return complain("%s: can't save the files", when);
	code = w->c.raw ? 0 : QEMU_IMG(w, "check", "-f", "qcow2", w->image_path);
	if (code != 0)
		return world_complain_of_output(w, when, "qemu-img check", code);
	code = QEMU_IMG(w, "compare", "-f", w->c.raw ? "raw" : "qcow2", "-F", "raw", w->image_path,
			w->ref_path);
	return code == 0 ? 0 : world_complain_of_output(w, when, "qemu-img compare", code);
}

static int judge_data_file(struct world *w, const char *when)
{
	if (w->c.data != DATA_FILE_RAW)
		return 0;
	if (w->data.size < w->size)
		return complain("%s: the raw data file has %" PRIu64 " bytes, the disk %" PRIu64,
				when, w->data.size, w->size);
	if (memcmp(w->data.bytes, w->bytes, w->size) == 0)
		return 0;
	return differ(w->data.bytes, w->bytes, 0, w->size, "the raw data file");
}

/* The first finding that isn't a leak, in words. */
static int note_finding(void *opaque, const struct check_report *r)
{
	char *first = opaque;

	if (first[0] == '\0' && check_finding_kind(r->finding) != CHECK_KIND_LEAK)
		check_finding_text(r, first, 300);
	return 0;
}

/* The library's own check has to see what our audit sees. */
static int cross_check(struct world *w, const struct audit *a, const char *when)
{
	char first[300] = "";
	struct check_options options = {.report = note_finding, .opaque = first};
	struct check_result found;
	struct qcow2_error err = {0};

	if (check_image(flat_store(&w->file), &options, &found, &err) < 0)
		return complain("%s: check_image: %s", when, err.message);
	if ((found.corruptions + found.check_errors > 0) == (a->corruptions > 0) &&
	    (a->corruptions > 0 || found.leaks == a->leaks))
		return 0;
	return complain("%s: check_image sees %" PRIu64 " corruptions, %" PRIu64 " errors, %" PRIu64
			" leaks (%s); the audit %" PRIu64 " corruptions, %" PRIu64 " leaks (%s)",
			when, found.corruptions, found.check_errors, found.leaks, first,
			a->corruptions, a->leaks, a->first);
}

static int audit_base(struct world *w, const char *when)
{
	struct audit a = {0};

	if (!w->base_changes || w->c.backing != BACKING_QCOW2)
		return 0;
	audit_image(w->base.bytes, w->base.size, &a);
	return a.corruptions == 0 ? 0
				  : complain("%s: the backing file has %" PRIu64 " corruptions: %s",
					     when, a.corruptions, a.first);
}

int world_audit(struct world *w, const char *when, struct audit *a)
{
	int ret = audit_base(w, when);

	*a = (struct audit){0};
	if (w->c.raw || ret < 0)
		return ret;
	audit_image(w->file.bytes, w->file.size, a);
	if (a->corruptions > (w->flags_may_miss ? a->harmless_flags : 0))
		ret = complain("%s: %" PRIu64 " corruptions: %s", when, a->corruptions, a->first);
	return a->dirty || cross_check(w, a, when) == 0 ? ret : -1;
}

static int judge_tables(struct world *w, const char *when)
{
	struct audit a;
	int ret = world_audit(w, when, &a);

	if (ret == 0 && a.dirty)
		ret = complain("%s: still dirty after it was closed", when);
	if (ret == 0 && a.leaks > 0)
		ret = complain("%s: %" PRIu64 " leaks: %s", when, a.leaks, a.first);
	return ret;
}

int world_judge(struct world *w, const char *when)
{
	int ret = judge_tables(w, when);

	if (ret == 0)
		ret = reopen_and_compare(w, when);
	if (ret == 0)
		ret = compare_snapshot(w);
	if (ret == 0)
		ret = judge_data_file(w, when);
	return ret == 0 ? ask_qemu(w, when) : ret;
}
