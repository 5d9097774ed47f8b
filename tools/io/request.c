/* SPDX-License-Identifier: MIT */
/* Reads and writes, for the commands that wait for them and for those that don't. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/diag.h"
#include "cli/utf8.h"
#include "io/copy.h"
#include "io/guard.h"
#include "io/request.h"
#include "io/text.h"

#define BUFFER_ALIGN 4096
#define MISALIGN 16
#define REACH_MAX ((1ull << 63) - (1ull << 30)) /* no request ends behind it */

void io_request_init(struct io_request *request, struct io *io, const char *name, bool write)
{
	memset(request, 0, sizeof(*request));
	request->io = io;
	request->name = name;
	request->write = write;
	request->done = write ? "wrote" : "read";
	request->pattern = IO_PATTERN;
	request->quiet = io->quiet;
}

void io_request_release(struct io_request *request)
{
	free(request->memory);
	free(request->iov);
}

int io_request_buffer(struct io_request *request)
{
	size_t before = request->io->misalign ? MISALIGN : 0;
	void *memory = NULL;

	/* a buffer of nothing is a buffer too */
	if (posix_memalign(&memory, BUFFER_ALIGN, before + (size_t)request->len_bytes + 1) != 0) {
		cli_error("no memory for %" PRIu64 " bytes", request->len_bytes);
		return -ENOMEM;
	}
	request->memory = memory;
	request->buf = request->memory + before;
	memset(request->buf, request->pattern, (size_t)request->len_bytes);
	return 0;
}

static void tell_file(const char *path, const char *what)
{
	fflush(stdout);
	cli_text_put(stderr, path);
	fprintf(stderr, ": %s\n", what);
}

/* *len: how many bytes there are of it, at most the whole buffer. */
static int read_file(FILE *f, const char *path, uint8_t *buf, size_t *len)
{
	*len = fread(buf, 1, *len, f);
	if (ferror(f)) {
		tell_file(path, strerror(errno));
		return -EIO;
	}
	if (*len == 0) {
		tell_file(path, "file is empty");
		return -EINVAL;
	}
	return 0;
}

int io_request_fill_from(struct io_request *request, const char *path)
{
	size_t len = (size_t)request->len_bytes, have = len, i;
	FILE *f = fopen(path, "r");
	int rc;

	if (!f) {
		rc = -errno;
		tell_file(path, strerror(errno));
		return rc;
	}
	rc = len > 0 ? read_file(f, path, request->buf, &have) : 0;
	fclose(f);
	for (i = have; rc == 0 && i < len; i++)
		request->buf[i] = request->buf[i - have];
	return rc;
}

uint64_t io_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* -EIO for what doesn't lie inside the disk. */
static int check_range(const struct io *io, uint64_t guest_off, uint64_t len_bytes,
		       struct qcow2_error *err)
{
	uint64_t size = qcow2_size(io->image);

	if (guest_off <= size && len_bytes <= size - guest_off)
		return 0;
	return names_reason(err, -EIO,
			    "%" PRIu64 " bytes at offset %" PRIu64
			    " pass the end of the disk, which has %" PRIu64,
			    len_bytes, guest_off, size);
}

uint64_t io_vm_state_offset(const struct qcow2_info *info)
{
	uint64_t entries = info->cluster_size / (info->extended_l2 ? 16 : 8);
	uint64_t span = info->cluster_size * entries;

	return span ? (info->virtual_size + span - 1) / span * span : 0;
}

static int perform_on_state(struct io_request *r)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	int rc = qcow2_info(r->io->image, &info, &r->err);
	uint64_t begin = io_vm_state_offset(&info);

	if (rc < 0)
		return rc;
	if (!r->io->is_raw &&
	    (begin > REACH_MAX || r->guest_off > REACH_MAX || r->len_bytes > REACH_MAX ||
	     begin + r->guest_off > REACH_MAX - r->len_bytes))
		return names_reason(&r->err, -EIO,
				    "%" PRIu64 " bytes at position %" PRIu64
				    " of the VM state are too far away",
				    r->len_bytes, r->guest_off);
	if (r->write)
		return qcow2_vmstate_write(r->io->image, r->buf, (size_t)r->len_bytes, r->guest_off,
					   &r->err);
	return qcow2_vmstate_read(r->io->image, r->buf, (size_t)r->len_bytes, r->guest_off,
				  &r->err);
}

/* Zeros become a request of their own where the image is opened so. */
static void detect_zeroes(struct io_request *r)
{
	enum names_setup_zeroes mode = r->io->setup.detect_zeroes;

	if (mode == NAMES_ZEROES_AS_DATA || r->zero || r->len_bytes == 0 || r->buf[0] != 0 ||
	    memcmp(r->buf, r->buf + 1, (size_t)r->len_bytes - 1) != 0)
		return;
	r->zero = true;
	r->flags &= ~QCOW2_WRITE_COMPRESSED;
	r->flags |= mode == NAMES_ZEROES_UNMAP ? QCOW2_WRITE_MAY_UNMAP : 0;
}

static int perform(struct io_request *r)
{
	struct iovec whole = {.iov_base = r->buf, .iov_len = (size_t)r->len_bytes};
	const struct iovec *iov = r->iov ? r->iov : &whole;
	int niov = r->iov ? r->niov : 1;
	int rc = check_range(r->io, r->guest_off, r->len_bytes, &r->err);

	if (rc < 0)
		return rc;
	if (!r->write)
		rc = io_copy_range(r->io, r->guest_off, r->len_bytes, &r->err);
	if (rc < 0)
		return rc;
	if (r->discard)
		return qcow2_discard(r->io->image, r->guest_off, r->len_bytes, &r->err);
	if (!r->write)
		return qcow2_preadv(r->io->image, iov, niov, r->guest_off, &r->err);
	detect_zeroes(r);
	if (io_guard_concerns(r))
		return io_guard_write(r);
	if (r->zero)
		return qcow2_write_zeroes(r->io->image, r->guest_off, r->len_bytes, r->flags,
					  &r->err);
	return qcow2_pwritev(r->io->image, iov, niov, r->guest_off, r->flags, &r->err);
}

void io_request_perform(struct io_request *request)
{
	uint64_t start = io_now_ns();

	io_copy_lock(request->io);
	request->result = request->vm_state ? perform_on_state(request) : perform(request);
	io_copy_unlock(request->io);
	request->elapsed_ns = io_now_ns() - start;
}

/* Said once by the program that we stand in for, when it stops a write that would destroy tables.
 */
static void tell_damage(struct io *io, const char *message)
{
	static const char before[] = " would overwrite the ";
	static const struct {
		const char *ours, *theirs;
	} tables[] = {
		{"active L1 table", "active L1 table"},
		{"L1 table of a snapshot", "inactive L1 table"},
		{"refcount table", "refcount table"},
		{"refcount block", "refcount block"},
		{"snapshot table", "snapshot table"},
		{"bitmap directory", "bitmap directory"},
		{"L2 table", "active L2 table"},
	};
	const char *what = strstr(message, before), *name = NULL;
	size_t i;

	if (!what || io->told_damage)
		return;
	what += strlen(before);
	for (i = 0; !name && i < sizeof(tables) / sizeof(tables[0]); i++)
		if (strncmp(what, tables[i].ours, strlen(tables[i].ours)) == 0)
			name = tables[i].theirs;
	if (!name)
		return;
	io->told_damage = true;
	fflush(stdout);
	fprintf(stderr,
		"qcow2: Marking image as corrupt: Preventing invalid write on metadata (overlaps "
		"with %s); further corruption events will be suppressed\n",
		strstr(what, "of the snapshot") ? "inactive L2 table" : name);
}

void io_tell_failure(struct io *io, const char *name, int code, const struct qcow2_error *err)
{
	if (io->drop_in)
		tell_damage(io, err->message);
	/* damage that stops a write has a number of its own here, not there */
	printf("%s failed: %s\n", name, strerror(code == -EUCLEAN ? EIO : -code));
	if (!io->drop_in && err->message[0])
		cli_error("%s", err->message);
}

static bool check(const struct io_request *r)
{
	const uint8_t *at = r->buf + r->check_off;
	uint64_t i;

	for (i = 0; i < r->check_len && at[i] == r->pattern; i++)
		;
	if (i == r->check_len)
		return true;
	printf("Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n",
	       r->guest_off + r->check_off, r->check_len);
	return false;
}

int io_request_tell(const struct io_request *r)
{
	int rc = r->result;

	if (rc < 0) {
		io_tell_failure(r->io, r->name, rc, &r->err);
		return rc;
	}
	if (r->check && !check(r))
		rc = -EINVAL;
	if (r->quiet)
		return rc;
	if (r->dump)
		io_print_dump(stdout, r->buf, (size_t)r->len_bytes, r->guest_off);
	if (r->machine)
		io_print_figures(stdout, r->len_bytes, r->elapsed_ns);
	else
		io_print_report(stdout, r->done, r->guest_off, r->len_bytes, r->elapsed_ns);
	return rc;
}
