/* SPDX-License-Identifier: MIT */
/*
 * qcow2 io: a shell that reads and writes an image, and the same called as qemu-io. This file has
 * the options of the program; the commands are in io/.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "compat/trace.h"
#include "compat/words.h"
#include "image.h"
#include "io/io.h"
#include "io/open.h"
#include "io/pool.h"
#include "names/object.h"
#include "verb.h"

/* The version of qemu-io whose behaviour the drop-in has; scripts ask for it. */
#define QEMU_IO_VERSION "7.2.0"

struct io_args {
	struct cli_list commands, objects;
	const char *format, *cache, *aio, *discard;
	struct cli_list traces;
	bool read_only, snapshot, no_cache, copy_on_read, misalign, native_aio, force_share, quiet;
	bool image_opts, version;
};

static const struct cli_option io_options[] = {
	{'c', "cmd", CLI_LIST, offsetof(struct io_args, commands), "CMD",
	 "run this command (may be repeated)", NULL},
	{'f', "format", CLI_STRING, offsetof(struct io_args, format), "FMT",
	 "format: qcow2 or raw (default: look)", NULL},
	{'r', "read-only", CLI_FLAG, offsetof(struct io_args, read_only), NULL,
	 "open it for reading only", NULL},
	{'s', "snapshot", CLI_FLAG, offsetof(struct io_args, snapshot), NULL,
	 "write to a temporary file", NULL},
	{'t', "cache", CLI_STRING, offsetof(struct io_args, cache), "CACHE",
	 "none, writeback, writethrough, directsync, unsafe", NULL},
	{'n', "nocache", CLI_FLAG, offsetof(struct io_args, no_cache), NULL, "short for -t none",
	 NULL},
	{'d', "discard", CLI_STRING, offsetof(struct io_args, discard), "MODE",
	 "unmap (the default), or ignore", NULL},
	{'i', "aio", CLI_STRING, offsetof(struct io_args, aio), "MODE",
	 "threads, native, io_uring: no effect", NULL},
	{'k', "native-aio", CLI_FLAG, offsetof(struct io_args, native_aio), NULL,
	 "short for -i native", NULL},
	{'m', "misalign", CLI_FLAG, offsetof(struct io_args, misalign), NULL,
	 "misalign the buffers", NULL},
	{'C', "copy-on-read", CLI_FLAG, offsetof(struct io_args, copy_on_read), NULL,
	 "copy what is read from below into it", NULL},
	{'U', "force-share", CLI_FLAG, offsetof(struct io_args, force_share), NULL,
	 "with -r: even while another program writes", NULL},
	{'q', "quiet", CLI_FLAG, offsetof(struct io_args, quiet), NULL, "no reports", NULL},
	{'T', "trace", CLI_LIST, offsetof(struct io_args, traces), "SPEC", "no effect", NULL},
	{0, "image-opts", CLI_FLAG, offsetof(struct io_args, image_opts), NULL,
	 "FILE is driver=FMT,file.filename=FILE,...", NULL},
	{0, "object", CLI_LIST, offsetof(struct io_args, objects), "OBJECT",
	 "secret,...: no effect", NULL},
	{'V', "version", CLI_FLAG, offsetof(struct io_args, version), NULL, "show the version",
	 NULL},
	CLI_END,
};

const struct cli_command io_command = {
	.name = "io",
	.operands = "[FILE]",
	.summary = "A shell that reads and writes a disk. 'qcow2 io -c help' lists its commands.",
	.options = io_options,
	.failure_status = EXIT_FAILURE,
};

/* Errors are in err. */
static int fill_setup(struct names_setup *setup, const struct io_args *args,
		      struct qcow2_error *err)
{
	int rc = 0;

	if (args->cache)
		rc = names_setup_cache(setup, args->cache, err);
	if (rc == 0 && args->no_cache)
		rc = names_setup_cache(setup, "none", err);
	if (rc == 0 && args->discard)
		rc = names_setup_discard(setup, args->discard, err);
	if (rc == 0 && args->aio)
		rc = names_setup_aio(setup, args->aio, err);
	if (rc == 0 && args->native_aio)
		rc = names_setup_aio(setup, "native", err);
	if (rc == 0 && args->format && args->image_opts)
		rc = names_reason(err, -1, "--image-opts and -f are mutually exclusive");
	setup->access = args->read_only ? NAMES_READ_ONLY : NAMES_ACCESS_DEFAULT;
	setup->snapshot = args->snapshot;
	setup->copy_on_read = args->copy_on_read;
	setup->force_share = args->force_share;
	return rc;
}

/* In a list qemu-io has no element without a name, as qemu-img has. */
static int take_name(struct names_setup *setup, const char *name, bool image_opts,
		     struct qcow2_error *err)
{
	unsigned seen;

	if (!image_opts)
		return names_setup_name(setup, name, false, err);
	setup->path_is_option = true;
	return names_setup_options(setup, name, false, &seen, err);
}

/* Opens the image that the command line names. Says what went wrong. */
static int open_first(struct io *io, const struct io_args *args, const char *name)
{
	struct names_setup setup;
	struct qcow2_error err = {0};
	int rc;

	names_setup_init(&setup);
	rc = names_check_objects(&args->objects, &err);
	if (rc == 0)
		rc = fill_setup(&setup, args, &err);
	if (rc < 0) {
		io_say(err.message);
	} else if (!name) {
		/* the command open may come */
	} else {
		rc = take_name(&setup, name, args->image_opts, &err);
		if (rc == 0 && args->format && setup.format &&
		    strcmp(args->format, setup.format) != 0)
			rc = names_reason(&err, -1, "Driver specified twice");
		if (rc == 0 && args->format)
			rc = names_setup_option(&setup, "driver", args->format, &err);
		if (rc < 0)
			io_open_failed(io, &setup, &err);
	}
	if (rc == 0 && name)
		rc = io_open(io, &setup);
	names_setup_release(&setup);
	return rc;
}

static int run(struct io *io, const struct io_args *args, const char *name)
{
	size_t i;

	if (open_first(io, args, name) != 0)
		return EXIT_FAILURE;
	for (i = 0; i < args->commands.n && !io->quit; i++)
		io_execute(io, args->commands.items[i]);
	if (args->commands.n == 0)
		io_interact(io);
	if (io_close(io) < 0)
		io->failed = true;
	return io->failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int take_traces(const struct cli_list *traces)
{
	int status = COMPAT_TRACE_GO_ON;

	for (size_t i = 0; status == COMPAT_TRACE_GO_ON && i < traces->n; i++)
		status = compat_trace_take(traces->items[i]);
	if (status == COMPAT_TRACE_GO_ON && traces->n > 0 &&
	    compat_trace_begin(traces->items[traces->n - 1]) != 0)
		status = EXIT_FAILURE;
	return status;
}

static int run_shell(int argc, char **argv, bool drop_in)
{
	struct io_args args = {0};
	struct io io = {.drop_in = drop_in, .overlay_fd = -1, .guard = PTHREAD_MUTEX_INITIALIZER};
	int trace = COMPAT_TRACE_GO_ON;
	int status, first = cli_parse(&io_command, argc, argv, &args, &status);

	names_setup_init(&io.setup);
	if (first >= 0 && drop_in)
		trace = take_traces(&args.traces);
	if (first < 0) {
		/* told */
	} else if (trace != COMPAT_TRACE_GO_ON) {
		status = trace;
	} else if (args.version) {
		if (drop_in)
			printf("qemu-io version %s (qcow2 %s)\n", QEMU_IO_VERSION, qcow2_version());
		else
			printf("qcow2 %s\n", qcow2_version());
		status = EXIT_SUCCESS;
	} else if (argc - first > 1) {
		status = cli_usage("io", "expecting one image file");
	} else {
		io.quiet = args.quiet;
		io.misalign = args.misalign;
		tool_many_files();
		status = run(&io, &args, first < argc ? argv[first] : NULL);
	}
	io_pool_free(io.pool);
	names_setup_release(&io.setup);
	pthread_mutex_destroy(&io.guard);
	cli_list_release(&args.commands);
	cli_list_release(&args.objects);
	cli_list_release(&args.traces);
	return status;
}

int verb_io(int argc, char **argv)
{
	return run_shell(argc, argv, false);
}

int face_qemu_io(int argc, char **argv)
{
	static const struct cli_face qemu_io = {.program = "qemu-io",
						.words = compat_qemu_io_words};

	cli_set_face(&qemu_io);
	return run_shell(argc, argv, true);
}
