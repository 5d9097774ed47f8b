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

#define MAGIC "QFI\xfb"

static bool wants_writing(const struct io_setup *s)
{
	return s->access != IO_READ_ONLY;
}

/* What can be said before anything is opened. */
static int check_setup(const struct io_setup *s, struct qcow2_error *err)
{
	if (!s->path)
		return io_reason(err, -EINVAL,
				 s->format ? "A block device must be specified for \"file\""
					   : "Must specify either driver or file");
	if (s->format && strcmp(s->format, "qcow2") != 0 && strcmp(s->format, "raw") != 0)
		return io_reason(err, -EINVAL, "Unknown driver '%s'", s->format);
	if (s->force_share && wants_writing(s))
		return io_reason(err, -EINVAL,
				 "force-share=on can only be used with read-only images");
	if (s->native_aio && !s->direct)
		return io_reason(err, -EINVAL,
				 "aio=native was specified, but it requires cache.direct=on, which "
				 "was not specified.");
	if (s->copy_on_read && !wants_writing(s))
		return io_reason(err, -EINVAL, "Can't use copy-on-read on read-only device");
	if (s->cache_bytes && s->l2_cache_bytes > s->cache_bytes)
		return io_reason(err, -EINVAL, "l2-cache-size may not exceed cache-size");
	if (s->cache_bytes && s->refcount_cache_bytes > s->cache_bytes)
		return io_reason(err, -EINVAL, "refcount-cache-size may not exceed cache-size");
	return 0;
}

/* QEMU's words for a failure, if they are known; else the library's stay. */
static void translate(const struct io_setup *s, int code, struct qcow2_error *err)
{
	char head[4];
	ssize_t n;
	int fd;

	if (code == -EAGAIN) {
		io_reason(err, code,
			  "Failed to get %s\"write\" lock\n"
			  "Is another process using the image [%s]?",
			  wants_writing(s) ? "" : "shared ", s->path);
		return;
	}
	fd = open(s->path, (wants_writing(s) ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		io_reason(err, code, "Could not open '%s': %s", s->path, strerror(errno));
		return;
	}
	n = pread(fd, head, sizeof(head), 0);
	close(fd);
	if (code == -EINVAL && s->format && strcmp(s->format, "qcow2") == 0 &&
	    (n != (ssize_t)sizeof(head) || memcmp(head, MAGIC, sizeof(head)) != 0))
		io_reason(err, code, "Image is not in qcow2 format");
}

void io_open_failed(const struct io *io, const struct io_setup *s, const struct qcow2_error *err)
{
	char text[QCOW2_ERROR_MESSAGE_SIZE + PATH_MAX + 64];

	if (!io->drop_in) {
		io_say(err->message);
		return;
	}
	if (s->path && !s->path_is_option)
		snprintf(text, sizeof(text), "can't open device %s: %s", s->path, err->message);
	else
		snprintf(text, sizeof(text), "can't open: %s", err->message);
	io_say(text);
}

/* What the options said of an image that is open now: does it fit? */
static int check_opened(struct io *io, const struct io_setup *s, const struct qcow2_info *info,
			struct qcow2_error *err)
{
	const char *bad = s->unknown_option ? s->unknown_option : s->qcow2_option;
	struct qcow2_image *backing = qcow2_backing(io->image);
	struct qcow2_info below = QCOW2_INFO_INIT;
	struct stat a, b;

	if (s->unknown_option || (s->qcow2_option && io->is_raw))
		return io_reason(err, -EINVAL, "Block format '%s' does not support the option '%s'",
				 info->format, bad);
	if (!s->backing_path && !s->backing_format)
		return 0;
	if (!backing || qcow2_info(backing, &below, err) < 0)
		return io_reason(err, -ENOTSUP, "there is no backing file to give options to");
	if (s->backing_format && strcmp(s->backing_format, below.format) != 0)
		return io_reason(err, -ENOTSUP,
				 "the backing file is %s; taking it for something else isn't "
				 "supported",
				 below.format);
	if (s->backing_path && (stat(s->backing_path, &a) < 0 || stat(below.filename, &b) < 0 ||
				a.st_dev != b.st_dev || a.st_ino != b.st_ino))
		return io_reason(err, -ENOTSUP,
				 "the backing file is \"%s\"; another one isn't supported",
				 below.filename);
	return 0;
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
		return io_reason(err, -ENOMEM, "out of memory");
	}
	fd = mkostemp(*path, O_CLOEXEC);
	if (fd < 0)
		return io_reason(err, -errno, "can't make the temporary file \"%s\": %s", *path,
				 strerror(errno));
	close(fd);
	return 0;
}

/* An empty image at path, on top of base, which is at base_path. */
static int create_overlay(const char *path, const char *base_path, struct qcow2_image *base,
			  struct qcow2_error *err)
{
	struct qcow2_create_options options = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_info info = QCOW2_INFO_INIT;
	char *full = realpath(base_path, NULL);
	int rc = full ? qcow2_info(base, &info, err)
		      : io_reason(err, -errno, "\"%s\": %s", base_path, strerror(errno));

	options.backing_file = full;
	options.backing_format = info.format;
	if (rc == 0)
		rc = qcow2_create(path, &options, err);
	free(full);
	return rc;
}

/*
 * An empty image on top of the one at s->path takes what is written. Its file has no name, so that
 * it is gone when the program is, however that ends; what keeps it is io->overlay_fd.
 */
static int make_overlay(struct io *io, const struct io_setup *s, struct qcow2_error *err)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_image *base = NULL;
	char *path = NULL;
	int rc;

	options.flags = QCOW2_OPEN_INFO | (s->force_share ? QCOW2_OPEN_FORCE_SHARE : 0);
	options.format = s->format;
	rc = qcow2_open(&base, s->path, &options, err);
	if (rc == 0)
		rc = make_temporary(&path, err);
	if (rc == 0) {
		rc = create_overlay(path, s->path, base, err);
		if (rc == 0)
			io->overlay_fd = open(path, O_RDWR | O_CLOEXEC);
		if (rc == 0 && io->overlay_fd < 0)
			rc = io_reason(err, -errno, "\"%s\": %s", path, strerror(errno));
		unlink(path);
	}
	qcow2_close(base);
	free(path);
	return rc;
}

static void drop_overlay(struct io *io)
{
	if (io->overlay_fd >= 0)
		close(io->overlay_fd);
	io->overlay_fd = -1;
}

static int open_overlay(struct io *io, const struct io_setup *s, struct qcow2_open_options *options,
			struct qcow2_error *err)
{
	char path[64];
	int rc = io->overlay_fd >= 0 ? 0 : make_overlay(io, s, err);

	if (rc < 0)
		return rc;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", io->overlay_fd);
	options->format = "qcow2";
	options->flags &= ~(QCOW2_OPEN_NO_BACKING | QCOW2_OPEN_WRITETHROUGH);
	options->flags |= QCOW2_OPEN_NO_FLUSH;
	return qcow2_open(&io->image, path, options, err);
}

/* What kind of image it is, to be the same when it is opened again. */
static int note_kind(struct io *io, struct io_setup *s, const struct qcow2_info *info,
		     struct qcow2_error *err)
{
	io->is_raw = strcmp(info->format, "raw") == 0;
	io->cluster_size = info->cluster_size ? info->cluster_size : 1;
	io->has_backing = qcow2_backing(io->image) != NULL;
	if (!s->format && !s->snapshot) {
		if (io_setup_string(&s->format, info->format) < 0)
			return io_reason(err, -ENOMEM, "out of memory");
		s->guessed = true;
		if (io->is_raw && wants_writing(s))
			warn_of_guess(io, s->path);
	}
	io->guessed_raw = io->is_raw && s->guessed;
	return 0;
}

static int open_quietly(struct io *io, struct io_setup *s, struct qcow2_error *err)
{
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;
	struct qcow2_info info = QCOW2_INFO_INIT;
	int rc = check_setup(s, err);

	if (rc < 0)
		return rc;
	policy.follow = QCOW2_FOLLOW_LOCAL;
	options.policy = &policy;
	io_setup_fill(&options, s);
	rc = s->snapshot ? open_overlay(io, s, &options, err)
			 : qcow2_open(&io->image, s->path, &options, err);
	if (rc < 0 && io->drop_in)
		translate(s, rc, err);
	if (rc == 0)
		rc = qcow2_info(io->image, &info, err);
	if (rc == 0)
		rc = note_kind(io, s, &info, err);
	if (rc == 0)
		rc = check_opened(io, s, &info, err);
	if (rc < 0) {
		qcow2_close(io->image);
		io->image = NULL;
	}
	return rc;
}

int io_open(struct io *io, struct io_setup *setup)
{
	struct qcow2_error err = {0};
	int rc = open_quietly(io, setup, &err);

	if (rc < 0) {
		drop_overlay(io);
		io_open_failed(io, setup, &err);
	}
	io_setup_release(&io->setup);
	io->setup = *setup;
	io_setup_init(setup);
	return rc;
}

static int shut(struct io *io, struct qcow2_error *err)
{
	int rc = qcow2_finish(io->image, err);

	qcow2_close(io->image);
	io->image = NULL;
	return rc;
}

int io_reopen(struct io *io, struct io_setup *setup)
{
	struct qcow2_error err = {0}, again = {0};
	int rc;

	io_pool_drain(io->pool);
	rc = shut(io, &err);
	if (rc == 0)
		rc = open_quietly(io, setup, &err);
	if (rc < 0) {
		io_say(err.message);
		io_setup_release(setup);
		if (open_quietly(io, &io->setup, &again) < 0) {
			drop_overlay(io);
			io_say(again.message);
		}
		return rc;
	}
	io_setup_release(&io->setup);
	io->setup = *setup;
	io_setup_init(setup);
	return 0;
}

int io_close(struct io *io)
{
	struct qcow2_error err = {0};
	int rc;

	if (!io->image)
		return 0;
	io_pool_drain(io->pool);
	rc = shut(io, &err);
	drop_overlay(io);
	if (rc < 0)
		io_say(err.message);
	return rc;
}
