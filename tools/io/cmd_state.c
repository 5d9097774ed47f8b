/* SPDX-License-Identifier: MIT */
/* Commands on the image as a whole: opening and closing, size, flush, what it is; and discard. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/diag.h"
#include "cli/out.h"
#include "info_rows.h"
#include "io/cmd_args.h"
#include "io/copy.h"
#include "io/io.h"
#include "io/open.h"
#include "io/pool.h"
#include "io/text.h"

#define SECTOR 512

/* ---- open, close, reopen ---- */

/* One option of open. 0, 1 for a letter that isn't one, or negative with err. */
static int open_option(struct names_setup *setup, int letter, const char **list,
		       struct qcow2_error *err)
{
	switch (letter) {
	case 's':
		setup->snapshot = true;
		return 0;
	case 'C':
		setup->copy_on_read = true;
		return 0;
	case 'n':
		return names_setup_cache(setup, "none", err);
	case 'r':
		setup->access = NAMES_READ_ONLY;
		return 0;
	case 'k':
		return names_setup_aio(setup, "native", err);
	case 't':
		return names_setup_cache(setup, optarg, err);
	case 'd':
		return names_setup_discard(setup, optarg, err);
	case 'i':
		return names_setup_aio(setup, optarg, err);
	case 'U':
		setup->force_share = true;
		return 0;
	case 'o':
		*list = optarg;
		return 0;
	default:
		return 1;
	}
}

static int open_words(const struct io_command *self, int nwords, char **words,
		      struct names_setup *setup, const char **list, struct qcow2_error *err)
{
	int c, rc = 0;

	io_getopt_begin();
	while (rc == 0 && (c = getopt(nwords, words, "snCro:ki:t:d:U")) != -1)
		rc = open_option(setup, c, list, err);
	if (rc == 0 && optind < nwords - 1)
		rc = 1;
	if (rc > 0)
		return io_misused(self);
	if (rc == 0 && optind < nwords)
		rc = names_setup_name(setup, words[optind], false, err);
	return rc;
}

static int run_open(struct io *io, const struct io_command *self, int nwords, char **words)
{
	struct names_setup setup;
	struct qcow2_error err = {0};
	const char *list = NULL;
	unsigned seen;
	int rc;

	names_setup_init(&setup);
	rc = open_words(self, nwords, words, &setup, &list, &err);
	if (rc == 0 && io->image)
		rc = names_reason(&err, -EBUSY, "file open already, try 'help close'");
	if (rc < 0 && err.message[0])
		io_say(err.message);
	if (rc == 0 && list) {
		rc = names_setup_options(&setup, list, false, &seen, &err);
		if (rc < 0)
			io_open_failed(io, &setup, &err);
	}
	if (rc == 0)
		return io_open(io, &setup);
	names_setup_release(&setup);
	return rc;
}

static int run_close(struct io *io, const struct io_command *self, int nwords, char **words)
{
	(void)self;
	(void)nwords;
	(void)words;
	return io_close(io);
}

struct reopen_args {
	bool read_only, read_write;
	const char *cache, *list;
};

static int reopen_setup(struct names_setup *setup, const struct reopen_args *args,
			struct qcow2_error *err)
{
	unsigned seen = 0;
	int rc = 0;

	if (args->cache)
		rc = names_setup_cache(setup, args->cache, err);
	if (rc == 0 && args->read_only)
		setup->access = NAMES_READ_ONLY;
	if (rc == 0 && args->read_write)
		setup->access = NAMES_READ_WRITE;
	if (rc == 0 && args->list)
		rc = names_setup_options(setup, args->list, true, &seen, err);
	if (rc == 0 && args->cache && seen & NAMES_OPTIONS_CACHE)
		rc = names_reason(err, -EINVAL, "Cannot set both -c and the cache options");
	if (rc == 0 && (args->read_only || args->read_write) && seen & NAMES_OPTIONS_ACCESS)
		rc = names_reason(err, -EINVAL, "Cannot set both -r/-w and 'read-only'");
	return rc;
}

static int run_reopen(struct io *io, const struct io_command *self, int nwords, char **words)
{
	struct reopen_args args = {0};
	struct names_setup setup;
	struct qcow2_error err = {0};
	int c, rc = 0;

	io_getopt_begin();
	while ((c = getopt(nwords, words, "c:o:rw")) != -1) {
		if (c == 'c')
			args.cache = optarg;
		else if (c == 'o')
			args.list = optarg;
		else if (c == 'r')
			args.read_only = true;
		else if (c == 'w')
			args.read_write = true;
		else
			return io_misused(self);
	}
	if (optind != nwords)
		return io_misused(self);
	if (args.read_only && args.read_write)
		rc = names_reason(&err, -EINVAL, "Only one -r/-w option may be given");
	else if (names_setup_copy(&setup, &io->setup) < 0)
		rc = names_reason(&err, -ENOMEM, "out of memory");
	if (rc == 0) {
		rc = reopen_setup(&setup, &args, &err);
		if (rc == 0)
			return io_reopen(io, &setup);
		names_setup_release(&setup);
	}
	io_say(err.message);
	return rc;
}

/* ---- size ---- */

static int run_length(struct io *io, const struct io_command *self, int nwords, char **words)
{
	char size[IO_SIZE_TEXT];

	(void)self;
	(void)nwords;
	(void)words;
	puts(io_size_text(size, (double)qcow2_size(io->image)));
	return 0;
}

static int prealloc_mode(const char *word, unsigned *mode)
{
	static const char *const modes[] = {"off", "metadata", "falloc", "full"};
	char text[100];
	unsigned i;

	for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(modes[i], word) == 0) {
			*mode = i; /* the order of QCOW2_PREALLOC_* */
			return 0;
		}
	}
	snprintf(text, sizeof(text), "Invalid preallocation mode '%.60s'", word);
	io_say(text);
	return -EINVAL;
}

/* QEMU's words, for the drop-in. */
static void explain_resize(const struct io *io, int code, uint64_t size, unsigned mode,
			   struct qcow2_error *err)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	const char *words = NULL;

	qcow2_info(io->image, &info, NULL);
	if (!io->is_raw && size % SECTOR)
		words = "The new size must be a multiple of 512";
	else if (io->is_raw && mode == QCOW2_PREALLOC_METADATA)
		words = "Unsupported preallocation mode: metadata";
	else if (mode != QCOW2_PREALLOC_OFF && size < qcow2_size(io->image))
		words = io->is_raw ? "Cannot use preallocation for shrinking files"
				   : "Preallocation can't be used for shrinking an image";
	else if (code == -ENOTSUP && info.version == 2 && info.nsnapshots)
		words = "Can't resize a v2 image which has snapshots";
	else if (code == -ENOTSUP && info.version == 2 && io->has_backing)
		words = "Failed to zero out new clusters: Operation not supported";
	if (words)
		names_reason(err, code, "%s", words);
}

static int run_truncate(struct io *io, const struct io_command *self, int nwords, char **words)
{
	unsigned mode = QCOW2_PREALLOC_OFF;
	struct qcow2_error err = {0};
	uint64_t size;
	int c, rc;

	io_getopt_begin();
	while ((c = getopt(nwords, words, "m:")) != -1) {
		if (c != 'm')
			return io_misused(self);
		if (prealloc_mode(optarg, &mode) < 0)
			return -EINVAL;
	}
	if (optind >= nwords)
		return io_misused(self);
	if (io_parse_number(words[optind], &size) < 0)
		return -EINVAL;
	/* a raw disk ends with a whole sector, whatever its file does */
	if (io->is_raw)
		size = (size + SECTOR - 1) / SECTOR * SECTOR;
	io_copy_lock(io);
	rc = qcow2_resize(io->image, size, mode, QCOW2_RESIZE_SHRINK, &err);
	io_copy_unlock(io);
	if (rc < 0 && io->drop_in)
		explain_resize(io, rc, size, mode, &err);
	if (rc < 0)
		io_say(err.message);
	return rc;
}

/* ---- info ---- */

static int run_info(struct io *io, const struct io_command *self, int nwords, char **words)
{
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct qcow2_error err = {0};
	char text[IO_SIZE_TEXT];
	struct cli_out out;
	int rc = qcow2_info(io->image, &info, &err);

	(void)self;
	(void)nwords;
	(void)words;
	if (rc < 0) {
		io_say(err.message);
		return rc;
	}
	printf("format name: %s\n", info.format);
	printf("cluster size: %s\n", io_size_text(text, (double)info.cluster_size));
	printf("vm state offset: %s\n", io_size_text(text, (double)io_vm_state_offset(&info)));
	cli_out_init(&out, stdout, false);
	cli_out_open(&out, NULL, '{');
	info_rows_put_specific(&out, &info);
	cli_out_close(&out);
	return 0;
}

/* ---- flush, discard ---- */

static int run_flush(struct io *io, const struct io_command *self, int nwords, char **words)
{
	struct qcow2_error err = {0};
	int rc = qcow2_flush(io->image, &err);

	(void)self;
	(void)nwords;
	(void)words;
	if (rc < 0)
		io_say(err.message);
	return rc;
}

static int run_discard(struct io *io, const struct io_command *self, int nwords, char **words)
{
	struct io_request r;
	int c, rc = 0;

	io_request_init(&r, io, "discard", true);
	r.done = "discard";
	r.discard = true;
	io_getopt_begin();
	while ((c = getopt(nwords, words, "Cq")) != -1)
		if (!io_common_option(&r, c, &rc))
			return io_misused(self);
	if (optind != nwords - 2)
		return io_misused(self);
	if (io_parse_range(&r, words + optind, IO_LIMIT) < 0)
		return -EINVAL;
	io_request_perform(&r);
	io_pool_deliver(io->pool);
	return io_request_tell(&r);
}

const struct io_command io_state_commands[] = {
	{"close", NULL, NULL, "close the current open file", NULL, 0, 0, 0, run_close},
	{"discard", NULL, "[-Cq] off len", "discards a number of bytes at a specified offset",
	 " Without effect if the image was opened with -d ignore.\n"
	 " -C, -q as for read\n",
	 2, IO_MANY, IO_CHANGES, run_discard},
	{"flush", NULL, NULL, "flush all in-core file state to disk", NULL, 0, 0, 0, run_flush},
	{"info", NULL, NULL, "prints information about the current file", NULL, 0, 0, 0, run_info},
	{"length", NULL, NULL, "gets the length of the current file", NULL, 0, 0, 0, run_length},
	{"open", NULL, "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
	 "open the file specified by path",
	 " -r           for reading only\n"
	 " -s           what is written goes to a temporary file, lost on close\n"
	 " -C           what is read from a backing file is written to the image\n"
	 " -n           short for -t none\n"
	 " -k           native AIO: no effect, but needs -n\n"
	 " -i mode      AIO mode: no effect\n"
	 " -U           even while another program writes to it; needs -r\n"
	 " -t cache     none, writeback, writethrough, directsync, unsafe\n"
	 " -d discard   unmap, ignore\n"
	 " -o options   name=value,...: driver, lazy-refcounts, l2-cache-size, ...\n",
	 1, IO_MANY, IO_ANYTIME, run_open},
	{"reopen", NULL, "[(-r|-w)] [-c cache] [-o options]", "reopens an image with new options",
	 " -r, -w       for reading only, or for writing too\n"
	 " -c cache     the cache mode\n"
	 " -o options   as for open, but for those that say which file it is\n",
	 0, IO_MANY, 0, run_reopen},
	{"truncate", NULL, "[-m prealloc_mode] off",
	 "truncates the current file at the given offset",
	 " -m mode      off, metadata, falloc, full: for what is added\n", 1, 3, IO_CHANGES,
	 run_truncate},
	{.name = NULL},
};
