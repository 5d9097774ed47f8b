/* SPDX-License-Identifier: MIT */
/* See world.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/num.h"
#include "engine/world.h"

extern char **environ;

#define STATE_SIZE (24 * 1024u)
#define STATE_PIECE (9000u) /* the first; the second begins so many tables further on: */
#define STATE_GAP 3u

/* ---- numbers ---- */

uint64_t rnd(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

uint64_t rnd_below(uint64_t *state, uint64_t n)
{
	return rnd(state) % n;
}

/* The eight bytes of the disk from 8 * idx on. */
static uint64_t word_at(uint64_t idx, uint64_t tag, enum fill how)
{
	uint64_t state = tag * 0xd1342543de82ef95ull + (how == FILL_TEXT ? idx / 16 : idx);

	if (how == FILL_ZERO)
		return 0;
	return how == FILL_TEXT ? (rnd(&state) % 255 + 1) * 0x0101010101010101ull : rnd(&state);
}

void fill_bytes(uint8_t *buf, uint64_t guest_off, uint64_t len, uint64_t tag, enum fill how)
{
	while (len > 0) {
		uint64_t word = word_at(guest_off / 8, tag, how);
		uint64_t at = guest_off % 8, n = min_u64(8 - at, len);

		memcpy(buf, (uint8_t *)&word + at, n);
		buf += n;
		guest_off += n;
		len -= n;
	}
}

int complain(const char *fmt, ...)
{
	va_list ap;

	flockfile(stdout);
	printf("# ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
	funlockfile(stdout);
	return -1;
}

/* ---- programs ---- */

int world_run(const struct world *w, const char *const *argv)
{
	posix_spawn_file_actions_t actions;
	char out[112];
	int status;
	pid_t pid;

	snprintf(out, sizeof(out), "%s/out", w->dir);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 1, out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	posix_spawn_file_actions_adddup2(&actions, 1, 2);
	status = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv,
			      environ);
	posix_spawn_file_actions_destroy(&actions);
	if (status != 0)
		return complain("%s doesn't start: %s", argv[0], strerror(status));
	if (waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* What the last program said. */
int world_complain_of_output(const struct world *w, const char *when, const char *what, int code)
{
	char path[112], line[300];
	FILE *f;

	snprintf(path, sizeof(path), "%s/out", w->dir);
	f = fopen(path, "r");
	complain("%s: %s gives %d", when, what, code);
	for (int i = 0; f && i < 8 && fgets(line, sizeof(line), f); i++)
		complain("    %.*s", (int)strcspn(line, "\n"), line);
	if (f)
		fclose(f);
	return -1;
}

/* ---- making ---- */

static int write_file(const char *path, const uint8_t *bytes, uint64_t len)
{
	struct flat f = {.bytes = (uint8_t *)(uintptr_t)bytes, .size = len};

	return flat_save(&f, path) == 0 ? 0 : complain("can't write \"%s\"", path);
}

/* Noise, text and zeros in runs, and the same in the reference. */
static int make_base(struct world *w, uint64_t seed)
{
	uint64_t len, size = w->c.backing_size;
	uint8_t *bytes = calloc(1, size + 1);
	int ret;

	if (!bytes)
		return -1;
	for (uint64_t off = 0; off < size; off += len) {
		len = min_u64((rnd_below(&seed, 60) + 1) * 512, size - off);
		fill_bytes(bytes + off, off, len, rnd(&seed), rnd_below(&seed, FILLS));
	}
	memcpy(w->bytes, bytes, min_u64(size, w->size));
	ret = write_file(w->ref_path, bytes, size);
	free(bytes);
	if (ret == 0 && w->c.backing == BACKING_RAW)
		ret = rename(w->ref_path, w->base_path);
	else if (ret == 0)
		ret = QEMU_IMG(w, "convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4096",
			       w->ref_path, w->base_path);
	if (ret != 0 || flat_load(&w->base, w->base_path) != 0)
		return complain("can't make the backing file");
	flat_name(w->base_path, &w->base);
	return 0;
}

static int create(struct world *w)
{
	struct qcow2_create_options o = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_error err = {0};

	o.format = w->c.raw ? "raw" : "qcow2";
	o.size = w->size;
	if (!w->c.raw) {
		o.version = w->c.version;
		o.cluster_size = world_cluster(w);
		o.refcount_bits = w->c.refcount_bits;
		o.extended_l2 = w->c.extended;
		o.lazy_refcounts = w->c.lazy;
		o.compression = w->c.zstd;
		o.prealloc = w->c.prealloc;
		o.data_file = w->c.data == DATA_INSIDE ? NULL : w->data_path;
		o.data_file_raw = w->c.data == DATA_FILE_RAW;
		if (w->c.backing != BACKING_NONE) {
			o.backing_file = w->base_path;
			o.backing_format = w->c.backing == BACKING_RAW ? "raw" : "qcow2";
		}
	}
	if (qcow2_create(w->image_path, &o, &err) < 0)
		return complain("can't create: %s", err.message);
	if (flat_load(&w->file, w->image_path) != 0 ||
	    (o.data_file && flat_load(&w->data, w->data_path) != 0))
		return complain("can't load what was created");
	if (o.data_file)
		flat_name(w->data_path, &w->data);
	return 0;
}

/* About half of the disk, in pieces; every third compressible cluster compressed. */
static int fill_disk(struct world *w, uint64_t seed)
{
	struct world_how how = {0};
	struct qcow2_image *image;
	struct qcow2_error err = {0};
	uint64_t cs = world_cluster(w), len;
	int ret = world_open(w, &image, &how, NULL, &err);

	for (uint64_t off = 0; ret == 0 && off < w->size; off += len) {
		unsigned kind = (unsigned)rnd_below(&seed, 3);

		len = min_u64(rnd_below(&seed, 3) * cs + 512, w->size - off);
		if (kind == 0)
			continue;
		if (off % cs == 0 && w->c.data == DATA_INSIDE && !w->c.raw &&
		    rnd_below(&seed, 3) == 0) {
			len = min_u64(align_up(len, cs), w->size - off);
			fill_bytes(w->bytes + off, off, len, rnd(&seed), FILL_TEXT);
			ret = qcow2_pwrite(image, w->bytes + off, len, off, QCOW2_WRITE_COMPRESSED,
					   &err);
		} else {
			fill_bytes(w->bytes + off, off, len, rnd(&seed), FILL_NOISE);
			ret = qcow2_pwrite(image, w->bytes + off, len, off, 0, &err);
		}
	}
	if (ret == 0)
		ret = qcow2_finish(image, &err);
	if (image)
		qcow2_close(image);
	return ret == 0 ? 0 : complain("can't fill the disk: %s", err.message);
}

static int take_snapshot(struct world *w)
{
	int ret = world_save(w);

	if (ret == 0)
		ret = QEMU_IMG(w, "snapshot", "-c", "before", w->image_path);
	if (ret != 0)
		return world_complain_of_output(w, "making", "qemu-img snapshot", ret);
	w->snapshot_size = w->size;
	w->snapshot_bytes = malloc(w->size + 1);
	if (!w->snapshot_bytes || flat_load(&w->file, w->image_path) != 0)
		return complain("can't load the image again");
	memcpy(w->snapshot_bytes, w->bytes, w->size);
	return 0;
}

/* Two bitmaps: one that records, and one that doesn't. */
static int add_bitmaps(struct world *w)
{
	struct world_how how = {0};
	struct qcow2_image *image;
	struct qcow2_error err = {0};
	int ret = world_open(w, &image, &how, NULL, &err);

	if (ret == 0)
		ret = qcow2_bitmap_add(image, WORLD_BITMAP, 1ull << w->c.bitmap_bits,
				       QCOW2_BITMAP_AUTO, &err);
	if (ret == 0)
		ret = qcow2_bitmap_add(image, "still", 0, 0, &err);
	if (ret == 0)
		ret = qcow2_finish(image, &err);
	if (image)
		qcow2_close(image);
	w->recorded_from = malloc(w->max_size + 1);
	w->touched = calloc(1, (w->max_size >> w->c.bitmap_bits) + 2);
	if (ret < 0 || !w->recorded_from || !w->touched)
		return complain("can't add bitmaps: %s", err.message);
	memcpy(w->recorded_from, w->bytes, w->max_size);
	return 0;
}

void world_touch(struct world *w, uint64_t off, uint64_t len)
{
	for (uint64_t i = off >> w->c.bitmap_bits;
	     w->touched && len > 0 && i <= (off + len - 1) >> w->c.bitmap_bits; i++)
		__atomic_store_n(&w->touched[i], 1, __ATOMIC_RELAXED);
}

int world_make(struct world *w, const struct world_config *c, uint64_t seed)
{
	const char *tmp = getenv("TMPDIR");
	int ret = 0;

	*w = (struct world){.c = *c, .size = c->size};
	w->max_size = c->max_size ? c->max_size : 2 * c->size;
	w->state_size = c->raw || c->data != DATA_INSIDE ? 0 : STATE_SIZE;
	w->total = w->max_size + w->state_size;
	w->bytes = calloc(1, w->total + 512);
	flat_init(&w->file, 1);
	flat_init(&w->data, 2);
	flat_init(&w->base, 3);
	snprintf(w->dir, sizeof(w->dir), "%.80s/engine-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!w->bytes || !mkdtemp(w->dir))
		return complain("can't make a folder");
	snprintf(w->image_path, sizeof(w->image_path), "%s/image", w->dir);
	snprintf(w->data_path, sizeof(w->data_path), "%s/data", w->dir);
	snprintf(w->base_path, sizeof(w->base_path), "%s/base", w->dir);
	snprintf(w->ref_path, sizeof(w->ref_path), "%s/ref", w->dir);
	if (c->backing != BACKING_NONE)
		ret = make_base(w, seed);
	if (ret == 0)
		ret = create(w);
	if (ret == 0 && c->filled)
		ret = fill_disk(w, seed);
	if (ret == 0 && c->snapshots)
		ret = take_snapshot(w);
	if (ret == 0 && c->bitmap_bits)
		ret = add_bitmaps(w);
	return ret;
}

void world_release(struct world *w)
{
	DIR *d = opendir(w->dir);
	char path[400];
	struct dirent *e;

	while (d && (e = readdir(d))) {
		snprintf(path, sizeof(path), "%s/%s", w->dir, e->d_name);
		unlink(path);
	}
	if (d)
		closedir(d);
	rmdir(w->dir);
	flat_forget_names(&w->data);
	flat_forget_names(&w->base);
	flat_release(&w->file);
	flat_release(&w->data);
	flat_release(&w->base);
	free(w->bytes);
	free(w->snapshot_bytes);
	free(w->recorded_from);
	free(w->touched);
}

uint64_t world_cluster(const struct world *w)
{
	return w->c.raw ? 1 : 1ull << w->c.cluster_bits;
}

uint64_t world_span(const struct world *w)
{
	return (1ull << w->c.cluster_bits) * (1ull << w->c.cluster_bits) / (w->c.extended ? 16 : 8);
}

/* Where byte off lies, and how many follow it there. */
static uint64_t place_of_state(const struct world *w, uint64_t off, uint64_t *len)
{
	if (off >= STATE_PIECE)
		return off + STATE_GAP * world_span(w);
	*len = min_u64(*len, STATE_PIECE - off);
	return off;
}

int world_state_read(const struct world *w, struct qcow2_image *image, uint8_t *buf, uint64_t off,
		     uint64_t len, struct qcow2_error *err)
{
	int ret = 0;

	for (uint64_t n; ret == 0 && len > 0; buf += n, off += n, len -= n) {
		uint64_t pos = place_of_state(w, off, (n = len, &n));

		ret = qcow2_vmstate_read(image, buf, n, pos, err);
	}
	return ret;
}

int world_state_write(const struct world *w, struct qcow2_image *image, const uint8_t *buf,
		      uint64_t off, uint64_t len, struct qcow2_error *err)
{
	int ret = 0;

	for (uint64_t n; ret == 0 && len > 0; buf += n, off += n, len -= n) {
		uint64_t pos = place_of_state(w, off, (n = len, &n));

		ret = qcow2_vmstate_write(image, buf, n, pos, err);
	}
	return ret;
}

int world_open(struct world *w, struct qcow2_image **image, const struct world_how *rw,
	       const char *snapshot, struct qcow2_error *err)
{
	struct qcow2_open_options o = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	const struct qcow2_storage st = flat_store(&w->file);

	policy.follow = QCOW2_FOLLOW_LOCAL;
	o.policy = &policy;
	o.format = w->c.raw ? "raw" : "qcow2";
	o.snapshot = snapshot;
	if (rw) {
		o.flags = QCOW2_OPEN_WRITE | rw->flags;
		o.discard = rw->discard;
		o.pass_discard = rw->pass_discard;
		o.lazy_refcounts = w->c.version < 3 ? QCOW2_AS_RECORDED : rw->lazy;
		o.overlap_check = rw->overlap_check;
		o.l2_cache_bytes = rw->l2_cache_bytes;
		o.refcount_cache_bytes = rw->refcount_cache_bytes;
	}
	return qcow2_open_storage(image, st, w->image_path, &o, err);
}
