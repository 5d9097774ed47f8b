/* SPDX-License-Identifier: MIT */
/*
 * Opening by a setup. As the drop-in it says what went wrong in QEMU's words where there are such
 * for the case, and else in the library's.
 *
 * There is no way to change an open image's options: reopening closes it and opens it again. In
 * between it isn't locked.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/diag.h"
#include "image.h"
#include "io/open.h"
#include "io/pool.h"
#include "names/open.h"

#define MAGIC "QFI\xfb"

static bool wants_writing(const struct names_setup *s)
{
	return s->access != NAMES_READ_ONLY;
}

static int check_setup(const struct names_setup *s, struct qcow2_error *err)
{
	if (s->copy_on_read && !wants_writing(s))
		return names_reason(err, -EINVAL, "Can't use copy-on-read on read-only device");
	return names_check(s, wants_writing(s) ? QCOW2_OPEN_WRITE : 0, err);
}

/* QEMU's words for a failure, if they are known; else the library's stay. */
static void translate(const struct names_setup *s, int code, struct qcow2_error *err)
{
	char head[4];
	ssize_t n;
	int fd;

	/* what is below it has its own */
	if (!s->path || (strchr(s->path, ':') && !names_plain_path(s)) ||
	    strncmp(err->message, "Unknown protocol", 16) == 0)
		return;
	if (code == -EAGAIN) {
		names_reason(err, code,
			     "Failed to get %s\"write\" lock\n"
			     "Is another process using the image [%s]?",
			     wants_writing(s) ? "" : "shared ", s->path);
		return;
	}
	fd = open(s->path, (wants_writing(s) ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		names_reason(err, code, "Could not open '%s': %s", s->path, strerror(errno));
		return;
	}
	n = pread(fd, head, sizeof(head), 0);
	close(fd);
	if (code == -EINVAL && s->format && strcmp(s->format, "qcow2") == 0 &&
	    (n != (ssize_t)sizeof(head) || memcmp(head, MAGIC, sizeof(head)) != 0))
		names_reason(err, code, "Image is not in qcow2 format");
}

void io_open_failed(const struct io *io, const struct names_setup *s, const struct qcow2_error *err)
{
	char text[QCOW2_ERROR_MESSAGE_SIZE + PATH_MAX + 64];

	if (!io->drop_in) {
		io_say(err->message);
		return;
	}
	if (s->name)
		snprintf(text, sizeof(text), "can't open device %s: %s", s->name, err->message);
	else
		snprintf(text, sizeof(text), "can't open: %s", err->message);
	io_say(text);
}

static void warn_of_guess(const struct io *io, const char *path)
{
	char text[PATH_MAX + 400];

	if (!io->drop_in) {
		cli_warn("the format of \"%s\" was guessed to be raw: what makes it look like "
			 "another format isn't written (-f raw allows it)",
			 path);
		return;
	}
	snprintf(text, sizeof(text),
		 "WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
		 "         Automatically detecting the format is dangerous for raw images, write "
		 "operations on block 0 will be restricted.\n"
		 "         Specify the 'raw' format explicitly to remove the restrictions.\n",
		 path);
	fflush(stdout);
	fputs(text, stderr);
}

/* A new file for the overlay. *path is the caller's to free; the file is to be removed. */
static int make_temporary(char **path, struct qcow2_error *err)
{
	const char *folder = getenv("TMPDIR");
	int fd;

	if (asprintf(path, "%s/qcow2-io-XXXXXX", folder && *folder ? folder : "/var/tmp") < 0) {
		*path = NULL;
		return names_reason(err, -ENOMEM, "out of memory");
	}
	fd = mkostemp(*path, O_CLOEXEC);
	if (fd < 0)
		return names_reason(err, -errno, "can't make the temporary file \"%s\": %s", *path,
				    strerror(errno));
	close(fd);
	return 0;
}

/* An empty image at path, as large as base, and as if that were below. */
static int create_overlay(const char *path, struct qcow2_image *base, struct qcow2_error *err)
{
	struct qcow2_create_options options = QCOW2_CREATE_OPTIONS_INIT;

	options.size = qcow2_size(base);
	options.flags = QCOW2_CREATE_OVERWRITE;
	return qcow2_create(path, &options, err);
}

/*
 * An empty image on top of the one that is meant takes what is written. Its file has no name, so
 * that it is gone when the program is, however that ends; what keeps it is io->overlay_fd.
 */
static int make_overlay(struct io *io, struct qcow2_image *base, struct qcow2_error *err)
{
	char *path = NULL;
	int rc = make_temporary(&path, err);

	if (rc == 0) {
		rc = create_overlay(path, base, err);
		if (rc == 0)
			io->overlay_fd = open(path, O_RDWR | O_CLOEXEC);
		if (rc == 0 && io->overlay_fd < 0)
			rc = names_reason(err, -errno, "\"%s\": %s", path, strerror(errno));
		unlink(path);
	}
	free(path);
	return rc;
}

static void drop_overlay(struct io *io)
{
	if (io->overlay_fd >= 0)
		close(io->overlay_fd);
	io->overlay_fd = -1;
}

/* The image that is meant has been opened for reading, and gets one on top. */
static int open_overlay(struct io *io, struct names_opening *o, struct qcow2_error *err)
{
	struct qcow2_open_options options = o->options;
	char path[64];
	int rc = io->overlay_fd >= 0 ? 0 : make_overlay(io, o->image, err);

	if (rc < 0) {
		qcow2_close(o->image);
		return rc;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", io->overlay_fd);
	options.format = "qcow2";
	options.flags &= ~(QCOW2_OPEN_NO_BACKING | QCOW2_OPEN_WRITETHROUGH);
	options.flags |= QCOW2_OPEN_NO_FLUSH | QCOW2_OPEN_WRITE;
	options.backing = o->image;
	return qcow2_open(&io->image, path, &options, err);
}

/* What kind of image it is, to be the same when it is opened again. */
static int note_kind(struct io *io, struct names_setup *s, const struct qcow2_info *info,
		     struct qcow2_error *err)
{
	io->is_raw = strcmp(info->format, "raw") == 0;
	io->cluster_size = info->cluster_size ? info->cluster_size : 1;
	io->has_backing = qcow2_backing(io->image) != NULL;
	if (!s->format && !s->snapshot) {
		if (names_setup_string(&s->format, info->format) < 0)
			return names_reason(err, -ENOMEM, "out of memory");
		s->guessed = true;
		if (io->is_raw && wants_writing(s))
			warn_of_guess(io, s->name ? s->name : s->path ? s->path : "");
	}
	io->guessed_raw = io->is_raw && s->guessed;
	return 0;
}

static void told(void *opaque, const char *tag, bool resumed)
{
	(void)opaque;
	printf("blkdebug: %s request '%s'\n", resumed ? "Resuming" : "Suspended", tag);
}

static int open_quietly(struct io *io, struct names_setup *s, struct qcow2_error *err)
{
	struct names_opening o = {.options = QCOW2_OPEN_OPTIONS_INIT, .told = told};
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_info info = QCOW2_INFO_INIT;
	int rc = check_setup(s, err);

	if (rc < 0)
		return rc;
	policy.follow = QCOW2_FOLLOW_LOCAL;
	o.options.policy = &policy;
	names_setup_fill(&o.options, s);
	if (s->snapshot)
		o.options.flags &= ~QCOW2_OPEN_WRITE;
	io->told_damage = false;
	rc = names_open(&o, s, err);
	if (rc == 0 && s->snapshot)
		rc = open_overlay(io, &o, err);
	else
		io->image = o.image;
	if (rc < 0 && io->drop_in)
		translate(s, rc, err);
	io->debug = o.debug;
	if (rc == 0)
		rc = qcow2_info(io->image, &info, err);
	if (rc == 0)
		rc = note_kind(io, s, &info, err);
	if (rc < 0) {
		qcow2_close(io->image);
		io->image = NULL;
		io->debug = NULL;
	}
	return rc;
}

int io_open(struct io *io, struct names_setup *setup)
{
	struct qcow2_error err = {0};
	int rc = open_quietly(io, setup, &err);

	if (rc < 0) {
		drop_overlay(io);
		io_open_failed(io, setup, &err);
	}
	names_setup_release(&io->setup);
	io->setup = *setup;
	names_setup_init(setup);
	return rc;
}

void io_drain(struct io *io)
{
	if (io->debug)
		qcow2_debug_unbreak(io->debug, NULL, NULL);
	io_pool_drain(io->pool);
}

static int shut(struct io *io, struct qcow2_error *err)
{
	int rc = qcow2_finish(io->image, err);

	qcow2_close(io->image);
	io->image = NULL;
	io->debug = NULL;
	return rc;
}

int io_reopen(struct io *io, struct names_setup *setup)
{
	struct qcow2_error err = {0}, again = {0};
	int rc;

	io_drain(io);
	rc = shut(io, &err);
	if (rc == 0)
		rc = open_quietly(io, setup, &err);
	if (rc < 0) {
		io_say(err.message);
		names_setup_release(setup);
		if (open_quietly(io, &io->setup, &again) < 0) {
			drop_overlay(io);
			io_say(again.message);
		}
		return rc;
	}
	names_setup_release(&io->setup);
	io->setup = *setup;
	names_setup_init(setup);
	return 0;
}

int io_close(struct io *io)
{
	struct qcow2_error err = {0};
	int rc;

	if (!io->image)
		return 0;
	io_drain(io);
	rc = shut(io, &err);
	drop_overlay(io);
	if (rc < 0)
		io_say(err.message);
	return rc;
}
