/* SPDX-License-Identifier: MIT */
/* qcow2 bench: how long so many requests of one kind take, through a queue. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/diag.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/out.h"
#include "cli/size.h"
#include "image.h"
#include "verb.h"

#define BUFFER_MAX INT32_MAX
#define DEPTH_MAX 4096 /* that of a queue */

enum aio { AIO_THREADS, AIO_NATIVE, AIO_IO_URING };

#define CANCELED (-1) /* instead of an exit code: the process ends by the signal that came */

struct bench_args {
	bool image_opts;
	const char *format, *count_text, *depth_text, *pattern_text, *flush_text, *filename;
	struct cli_size size, step, start;
	int cache, aio, output;
	bool write, native, no_drain, force_share, progress, quiet;
	/* of the texts */
	uint64_t count, depth, pattern, flush_interval;
};

#define AT(member) offsetof(struct bench_args, member)

static const char *const aio_names[] = {"threads", "native", "io_uring", NULL};

static const struct cli_option bench_options[] = {
	{'w', "write", CLI_FLAG, AT(write), NULL, "write (default: read)", NULL},
	{'c', "count", CLI_STRING, AT(count_text), "N", "how many requests (75000)", NULL},
	{'d', "depth", CLI_STRING, AT(depth_text), "N", "how many in parallel (64)", NULL},
	{'s', "buffer-size", CLI_SIZE, AT(size), "SIZE", "size of each (4k)", NULL},
	{'o', "offset", CLI_SIZE, AT(start), "SIZE", "where the first begins", NULL},
	{'S', "step-size", CLI_SIZE, AT(step), "SIZE", "from one to the next (as -s)", NULL},
	{0, "pattern", CLI_STRING, AT(pattern_text), "BYTE", "what is written (0)", NULL},
	{0, "flush-interval", CLI_STRING, AT(flush_text), "N", "with -w: flush after so many",
	 NULL},
	{0, "no-drain", CLI_FLAG, AT(no_drain), NULL, "don't wait for all of them before a flush",
	 NULL},
	{'i', "aio", CLI_CHOICE, AT(aio), "AIO", "threads, native or io_uring (the default)",
	 aio_names},
	{'n', "native", CLI_FLAG, AT(native), NULL, "as -i native: io_uring here", NULL},
	{'f', "format", CLI_STRING, AT(format), "FMT", "format of the image: qcow2 or raw", NULL},
	{'t', "cache", CLI_CHOICE, AT(cache), "CACHE", "cache mode (default: writeback)",
	 tool_cache_modes},
	{'U', "force-share", CLI_FLAG, AT(force_share), NULL, "read even while others write", NULL},
	{'p', "progress", CLI_PROGRESS, AT(progress), NULL, "show the progress, in percent", NULL},
	{'q', "quiet", CLI_FLAG, AT(quiet), NULL, "changes nothing", NULL},
	{0, "output", CLI_CHOICE, AT(output), "text|json", "how to print the result", tool_outputs},
	{0, "image-opts", CLI_FLAG, AT(image_opts), NULL,
	 "FILE is driver=FMT,file.filename=FILE,...", NULL},
	CLI_END,
};

const struct cli_command bench_command = {
	.name = "bench",
	.operands = "FILE",
	.summary = "Measures how long many requests take. -w destroys what is in the image.",
	.options = bench_options,
	.notes = "CACHE is none, writeback, writethrough, directsync or unsafe.",
	.failure_status = EXIT_FAILURE,
	.own_progress = true,
};

/* ---- the requests ---- */

struct slot {
	struct qcow2_request request;
	struct iovec iov;
	struct slot *next; /* free */
};

struct bench {
	const struct bench_args *args;
	struct qcow2_queue *queue;
	uint64_t disk_bytes;
	uint8_t *buf;	    /* of all of them; the contents don't matter */
	struct slot *slots; /* depth, and one for a flush */
	struct slot *free;
	uint64_t sent, in_flight, off;
	bool flush_due;
	int failed; /* negative errno */
};

static int init_slots(struct bench *b)
{
	const struct bench_args *args = b->args;
	uint64_t len = args->size.value, n = args->depth + 1;

	b->slots = calloc(n, sizeof(*b->slots));
	if (!b->slots || (len > 0 && SIZE_MAX / len < n) ||
	    posix_memalign((void **)&b->buf, 4096, len * n + 1) != 0)
		return cli_error("out of memory");
	memset(b->buf, (int)args->pattern, len * n);
	for (uint64_t i = 0; i < n; i++) {
		struct slot *s = &b->slots[i];

		s->iov = (struct iovec){.iov_base = b->buf + i * len, .iov_len = len};
		s->next = b->free;
		b->free = s;
	}
	return 0;
}

static void submit(struct bench *b, enum qcow2_op op)
{
	struct slot *s = b->free;
	struct qcow2_request *request = &s->request;
	int rc;

	b->free = s->next;
	*request = (struct qcow2_request){
		.op = op, .guest_off = b->off, .iov = &s->iov, .iovcnt = 1, .opaque = s};
	rc = qcow2_queue_submit(b->queue, &request, 1, NULL);
	if (rc < 0) {
		b->failed = rc;
		return;
	}
	b->in_flight++;
}

/* One more of the requests that are measured; they go round the disk. */
static void send_next(struct bench *b)
{
	const struct bench_args *args = b->args;

	submit(b, args->write ? QCOW2_OP_WRITE : QCOW2_OP_READ);
	b->sent++;
	b->off += args->step.value;
	if (b->disk_bytes > 0 && b->off >= b->disk_bytes)
		b->off %= b->disk_bytes;
	b->flush_due =
		args->flush_interval > 0 && (args->count - b->sent) % args->flush_interval == 0;
}

/* As many as there may be at a time, with the flushes between them. */
static void fill(struct bench *b)
{
	while (b->failed == 0 && !cli_interrupt_pending()) {
		if (b->flush_due && (b->args->no_drain ? b->free != NULL : b->in_flight == 0)) {
			submit(b, QCOW2_OP_FLUSH);
			b->flush_due = false;
			if (!b->args->no_drain)
				return;
		} else if (b->flush_due || b->sent == b->args->count ||
			   b->in_flight >= b->args->depth) {
			return;
		} else {
			send_next(b);
		}
	}
}

static void reap(struct bench *b)
{
	struct qcow2_request *done[64];
	size_t n = qcow2_queue_poll(b->queue, done, sizeof(done) / sizeof(done[0]), 1);

	for (size_t i = 0; i < n; i++) {
		struct slot *s = done[i]->opaque;

		if (done[i]->result < 0 && b->failed == 0)
			b->failed = done[i]->result;
		s->next = b->free;
		b->free = s;
		b->in_flight--;
	}
}

static uint64_t ns_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)((now.tv_sec - start->tv_sec) * 1000000000 + now.tv_nsec - start->tv_nsec);
}

static void announce(const struct bench_args *args)
{
	printf("Sending %" PRIu64 " %s requests, %" PRIu64 " bytes each, %" PRIu64
	       " in parallel (starting at offset %" PRIu64 ", step size %" PRIu64 ")\n",
	       args->count, args->write ? "write" : "read", args->size.value, args->depth,
	       args->start.value, args->step.value);
	if (args->flush_interval > 0)
		printf("Sending flush every %" PRIu64 " requests\n", args->flush_interval);
	fflush(stdout);
}

static void tell_json(const struct bench_args *args, uint64_t elapsed_ns)
{
	struct cli_out out;

	cli_out_init(&out, stdout, true);
	cli_out_open(&out, NULL, '{');
	cli_out_string(&out, "operation", args->write ? "write" : "read");
	cli_out_u64(&out, "requests", args->count);
	cli_out_u64(&out, "bytes", args->size.value);
	cli_out_u64(&out, "depth", args->depth);
	cli_out_u64(&out, "offset", args->start.value);
	cli_out_u64(&out, "step", args->step.value);
	cli_out_u64(&out, "flush-interval", args->flush_interval);
	cli_out_u64(&out, "elapsed-ns", elapsed_ns);
	cli_out_close(&out);
}

/* Requests may be of no bytes at all, and one of those in flight a flush. */
static void tell_progress(struct bench *b, struct cli_progress *progress)
{
	uint64_t len = b->args->size.value ? b->args->size.value : 1;
	uint64_t done = b->sent > b->in_flight ? b->sent - b->in_flight : 0;

	(void)cli_progress_tick(progress, done * len, b->args->count * len);
}

static int run(struct bench *b)
{
	bool json = b->args->output == TOOL_OUTPUT_JSON;
	struct cli_progress progress;
	struct timespec start;
	uint64_t elapsed_ns;

	if (!json)
		announce(b->args);
	cli_interrupt_catch();
	cli_progress_begin(&progress, b->args->progress && !json, false);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (fill(b); b->in_flight > 0; fill(b)) {
		reap(b);
		tell_progress(b, &progress);
	}
	elapsed_ns = ns_since(&start);
	cli_progress_end(&progress, b->failed == 0 && b->sent == b->args->count);
	if (b->failed == 0 && b->sent < b->args->count)
		return CANCELED;
	/* one that passes the end of the disk is an I/O error as others have it */
	if (b->failed < 0)
		return cli_error("Failed request: %s",
				 strerror(b->failed == -EINVAL ? EIO : -b->failed));
	if (json)
		tell_json(b->args, elapsed_ns);
	else
		printf("Run completed in %3.3f seconds.\n", (double)elapsed_ns / 1e9);
	return EXIT_SUCCESS;
}

static int bench(struct qcow2_image *image, const struct bench_args *args)
{
	struct bench b = {.args = args, .disk_bytes = qcow2_size(image), .off = args->start.value};
	struct qcow2_queue_options options = QCOW2_QUEUE_OPTIONS_INIT;
	struct qcow2_error err = {0};
	int status = init_slots(&b);

	options.depth = (unsigned)args->depth + 1;
	options.flags = args->aio == AIO_THREADS ? QCOW2_QUEUE_THREADS : 0;
	if (status == 0 && qcow2_queue_new(&b.queue, image, &options, &err) < 0) {
		tool_explain(&err, NULL);
		status = EXIT_FAILURE;
	}
	if (status == 0)
		status = run(&b);
	qcow2_queue_free(b.queue);
	free(b.slots);
	free(b.buf);
	return status;
}

/* ---- the command line ---- */

static int read_number(const char *text, uint64_t least, uint64_t most, uint64_t *number,
		       const char *what)
{
	if (!text || cli_number_parse(text, least, most, number) == 0)
		return 0;
	return cli_error("Invalid %s specified", what);
}

static int read_args(struct bench_args *args)
{
	int status = read_number(args->count_text, 0, INT32_MAX, &args->count, "request count");

	if (status == 0)
		status = read_number(args->depth_text, 1, DEPTH_MAX - 1, &args->depth,
				     "queue depth");
	if (status == 0)
		status = read_number(args->pattern_text, 0, 255, &args->pattern, "pattern byte");
	if (status == 0)
		status = read_number(args->flush_text, 0, INT32_MAX, &args->flush_interval,
				     "flush interval");
	if (status != 0)
		return status;
	if (!args->size.given)
		args->size.value = 4096;
	if (args->size.value > BUFFER_MAX)
		return cli_error("Invalid buffer size specified. Must be between 0 and %d.",
				 BUFFER_MAX);
	if (args->step.value == 0)
		args->step.value = args->size.value;
	if (args->flush_interval > 0 && !args->write)
		return cli_error("--flush-interval is only available in write tests");
	if (args->flush_interval > 0 && args->flush_interval < args->depth)
		return cli_error("Flush interval can't be smaller than depth");
	return tool_known_format(args->format) ? 0 : EXIT_FAILURE;
}

static unsigned open_flags(const struct bench_args *args)
{
	if (!args->write)
		return tool_cache_read_flags(args->cache) |
		       (args->force_share ? QCOW2_OPEN_FORCE_SHARE : 0);
	return QCOW2_OPEN_WRITE | tool_cache_write_flags(args->cache);
}

int verb_bench(int argc, char **argv)
{
	struct bench_args args = {
		.cache = TOOL_CACHE_WRITEBACK, .aio = AIO_IO_URING, .count = 75000, .depth = 64};
	struct qcow2_image *image = NULL;
	int status, first = cli_parse(&bench_command, argc, argv, &args, &status);

	if (first < 0)
		return status;
	if (argc - first != 1)
		return cli_usage("bench", "expecting one image file");
	args.filename = argv[first];
	status = read_args(&args);
	if (status != 0)
		return status;
	if (args.write && args.force_share)
		return cli_error("Could not open '%s': -U goes with reading only", args.filename);
	tool_many_files();
	status = EXIT_FAILURE;
	if (tool_open(&image, args.filename, args.format, NULL,
		      open_flags(&args) | (args.image_opts ? TOOL_OPEN_IMAGE_OPTS : 0)) == 0)
		status = bench(image, &args);
	qcow2_close(image);
	if (status == CANCELED)
		cli_interrupt_die();
	return status == CANCELED ? EXIT_FAILURE : status;
}
