/* SPDX-License-Identifier: MIT */
/*
 * A stranger's image: opened, asked for everything, mapped and read. Nothing in it may crash us,
 * make us loop, or cost memory out of proportion; and what is mapped must agree with what is read.
 */
#include "qcow2.h"

#include "fuzz.h"

#define EXTENTS_MAX 256
#define READ_MAX 65536u

struct file {
	const uint8_t *data;
	size_t len;
};

static int file_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	(void)err;
	*size_bytes = ((struct file *)self)->len;
	return 0;
}

static int file_readv(void *self, const struct iovec *iov, int iovcnt, uint64_t off,
		      struct qcow2_error *err)
{
	const struct file *f = self;

	(void)err;
	for (int i = 0; i < iovcnt; i++) {
		size_t have = off < f->len ? f->len - (size_t)off : 0;

		if (have > iov[i].iov_len)
			have = iov[i].iov_len;
		memset(iov[i].iov_base, 0, iov[i].iov_len);
		if (have)
			memcpy(iov[i].iov_base, f->data + off, have);
		off += iov[i].iov_len;
	}
	return 0;
}

static const struct qcow2_storage_ops file_ops = {
	.kind = "fuzz",
	.size = file_size,
	.preadv = file_readv,
};

static int count_field(void *opaque, const struct qcow2_field *field)
{
	CHECK(field->name && field->table);
	return ++*(unsigned *)opaque > 4096;
}

static void hear(void *opaque, const char *sentence)
{
	(void)opaque;
	CHECK(sentence[0]);
}

static bool is_zero(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (p[i])
			return false;
	}
	return true;
}

/* The start and the end of an extent; zeros must read as such. */
static void read_extent(struct qcow2_image *image, const struct qcow2_extent *x, uint8_t *buf)
{
	uint64_t n = x->len_bytes < READ_MAX ? x->len_bytes : READ_MAX;
	uint64_t tail = x->guest_off + x->len_bytes - n;
	int ret;

	ret = qcow2_pread(image, buf, (size_t)n, x->guest_off, NULL);
	CHECK(ret == 0 || (x->flags & QCOW2_EXTENT_COMPRESSED));
	if (x->flags & QCOW2_EXTENT_ZERO)
		CHECK(ret == 0 && is_zero(buf, (size_t)n));
	ret = qcow2_pread(image, buf, (size_t)n, tail, NULL);
	CHECK(ret == 0 || (x->flags & QCOW2_EXTENT_COMPRESSED));
}

static void walk(struct qcow2_image *image, uint8_t *buf)
{
	struct qcow2_extent x;
	struct qcow2_error err;
	uint64_t off = 0;

	for (unsigned i = 0; i < EXTENTS_MAX && off < qcow2_size(image); i++) {
		err.message[0] = '\0';
		if (qcow2_map(image, off, UINT64_MAX, &x, &err) < 0) {
			CHECK(err.message[0]);
			off += 512; /* go on behind what is damaged */
			continue;
		}
		CHECK(x.len_bytes > 0 && x.guest_off == off);
		CHECK(x.len_bytes <= qcow2_size(image) - off);
		read_extent(image, &x, buf);
		off += x.len_bytes;
	}
}

/* Whatever is behind the disk, and far behind it. */
static void read_state(struct qcow2_image *image, uint8_t *buf)
{
	struct qcow2_error err = {0};

	for (uint64_t pos = 0; pos < UINT64_MAX / 32; pos = pos * 16 + 4096) {
		if (qcow2_vmstate_read(image, buf, READ_MAX, pos, &err) < 0)
			CHECK(err.message[0]);
	}
}

static void look_at(struct qcow2_image *image)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	unsigned fields = 0;

	if (qcow2_info(image, &info, NULL) == 0)
		CHECK(info.format && info.virtual_size == qcow2_size(image));
	for (unsigned what = QCOW2_DUMP_HEADER; what <= QCOW2_DUMP_BITMAPS; what++) {
		fields = 0;
		(void)qcow2_dump(image, what, 0, count_field, &fields, NULL);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const unsigned flags[] = {QCOW2_OPEN_INFO, QCOW2_OPEN_NO_BACKING, 0};
	static uint8_t buf[READ_MAX];
	struct file file = {data, len};
	struct qcow2_storage store = {&file_ops, &file};

	for (size_t i = 0; i < 3; i++) {
		struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
		struct qcow2_image *image = NULL;
		struct qcow2_error err = {0};

		options.format = "qcow2";
		options.flags = flags[i];
		options.warn = hear;
		options.l2_cache_bytes = i == 1 ? 4096 : 0;
		if (qcow2_open_storage(&image, store, "fuzz.qcow2", &options, &err) < 0) {
			CHECK(!image && err.code < 0 && err.message[0]);
			continue;
		}
		look_at(image);
		if (!(flags[i] & QCOW2_OPEN_INFO)) {
			walk(image, buf);
			read_state(image, buf);
		}
		qcow2_close(image);
	}
	return 0;
}
