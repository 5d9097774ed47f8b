/* SPDX-License-Identifier: MIT */
/*
 * QEMU's image locks (section 25 of the format reference): shared open-file-description locks on
 * single bytes, "I use it" at 100 + i and "nobody else may" at 200 + i. Everybody takes first
 * and looks after, so that of two who come at once at least one sees the other.
 *
 * Bytes are never locked exclusively and nobody waits for them. Where the system has no such
 * locks there is no locking, as in QEMU.
 */
#include "storage/file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/num.h"

#define USE_BYTE 100
#define FORBID_BYTE 200
#define NBITS 4

/* Bits of QCOW2_LOCK_*, as they stand on the disk's bytes. */
struct bits {
	unsigned use, forbid;
};

/* The byte that was in the way, and who the system says holds it (-1: it doesn't). */
struct conflict {
	off_t byte;
	pid_t pid;
};

static struct flock one_byte(short type, off_t byte)
{
	return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
}

static int set_byte(const struct file *f, short type, off_t byte)
{
	struct flock lock = one_byte(type, byte);
	int code;

	do
		code = fcntl(f->fd, F_OFD_SETLK, &lock) == 0 ? 0 : -errno;
	while (code == -EINTR);
	return code == -EACCES ? -EAGAIN : code;
}

/* -EAGAIN if somebody else's lock forbids one of that type. */
static int test_byte(const struct file *f, short type, off_t byte, struct conflict *conflict)
{
	struct flock lock = one_byte(type, byte);

	if (fcntl(f->fd, F_OFD_GETLK, &lock) != 0)
		return -errno;
	if (lock.l_type == F_UNLCK)
		return 0;
	*conflict = (struct conflict){.byte = byte, .pid = lock.l_pid};
	return -EAGAIN;
}

static void release(const struct file *f, struct bits bits)
{
	for (int i = 0; i < NBITS; i++) {
		/* can't fail in a way that matters: closing releases whatever is left */
		if (bits.use & 1u << i)
			set_byte(f, F_UNLCK, USE_BYTE + i);
		if (bits.forbid & 1u << i)
			set_byte(f, F_UNLCK, FORBID_BYTE + i);
	}
}

void file_unlock(struct file *f)
{
	release(f, (struct bits){f->lock_use, f->lock_forbid});
}

static int take_bit(const struct file *f, bool wanted, off_t byte, struct conflict *conflict)
{
	int code = wanted ? set_byte(f, F_RDLCK, byte) : 0;

	if (code == -EAGAIN) {
		*conflict = (struct conflict){.byte = byte, .pid = -1};
		test_byte(f, F_RDLCK, byte, conflict);
	}
	return code;
}

static int take(const struct file *f, struct bits bits, struct conflict *conflict)
{
	int code = 0;

	for (int i = 0; i < NBITS && code == 0; i++) {
		code = take_bit(f, bits.use & 1u << i, USE_BYTE + i, conflict);
		if (code == 0)
			code = take_bit(f, bits.forbid & 1u << i, FORBID_BYTE + i, conflict);
	}
	return code;
}

/* Who uses what we forbid comes first: it says more than that somebody forbids. */
static int look(const struct file *f, struct bits bits, struct conflict *conflict)
{
	int code = 0;

	for (int i = 0; i < NBITS && code == 0; i++) {
		if (bits.forbid & 1u << i)
			code = test_byte(f, F_WRLCK, USE_BYTE + i, conflict);
	}
	for (int i = 0; i < NBITS && code == 0; i++) {
		if (bits.use & 1u << i)
			code = test_byte(f, F_WRLCK, FORBID_BYTE + i, conflict);
	}
	return code;
}

static int refuse(const struct file *f, const struct conflict *conflict, struct qcow2_error *err)
{
	static const char *const uses[NBITS] = {"reads it", "writes to it", "writes to it",
						"may resize it"};
	static const char *const forbids[NBITS] = {
		"lets nobody else read it", "lets nobody else write to it",
		"lets nobody else write to it", "lets nobody else resize it"};
	bool is_use = conflict->byte < FORBID_BYTE;
	const char *does =
		is_use ? uses[conflict->byte - USE_BYTE] : forbids[conflict->byte - FORBID_BYTE];
	struct file_holder who;

	if (!file_find_holder(f, conflict->byte, conflict->pid, &who))
		return error_set(err, -EAGAIN, "\"%s\" is in use by another program, which %s",
				 f->path, does);
	if (who.pid == getpid())
		return error_set(err, -EAGAIN, "\"%s\" is already open in this program, which %s",
				 f->path, does);
	return error_set(err, -EAGAIN, "\"%s\" is in use by another program: %s (process %ld) %s",
			 f->path, who.name, (long)who.pid, does);
}

/* Are there no such locks, as opposed to a fault with them? */
static bool is_missing(int code)
{
	return code == -EINVAL || code == -ENOSYS || code == -EOPNOTSUPP || code == -ENOTSUP;
}

int file_lock(void *self, unsigned use, unsigned forbid, struct qcow2_error *err)
{
	struct file *f = self;
	struct bits wanted = {use, forbid}, added, surplus;
	struct conflict conflict = {.byte = USE_BYTE, .pid = -1};
	int code;

	pthread_mutex_lock(&f->lock_lock);
	added = (struct bits){use & ~f->lock_use, forbid & ~f->lock_forbid};
	surplus = (struct bits){f->lock_use & ~use, f->lock_forbid & ~forbid};
	code = take(f, added, &conflict);
	if (code == 0)
		code = look(f, wanted, &conflict);
	release(f, code == 0 ? surplus : added);
	if (code == 0) {
		atomic_store(&f->settled, forbid & QCOW2_LOCK_WRITE);
		f->lock_use = use;
		f->lock_forbid = forbid;
	}
	pthread_mutex_unlock(&f->lock_lock);
	if (code == 0 || is_missing(code))
		return 0;
	if (code == -EAGAIN)
		return refuse(f, &conflict, err);
	return error_errno(err, code, "can't lock \"%s\"", f->path);
}
