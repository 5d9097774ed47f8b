/* SPDX-License-Identifier: MIT */
/* qcow2 compare: do two disks read the same? */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/diag.h"
#include "cli/out.h"
#include "cli/progress.h"
#include "image.h"
#include "verb.h"

#define EXIT_DIFFERENT 1
#define EXIT_TROUBLE 2
#define SECTOR 512 /* what qemu-img rounds a mismatch down to */

struct compare_args {
	bool image_opts;
	const char *format[2];
	bool strict, quiet, progress, force_share;
	int cache, output;
};

static const struct cli_option compare_options[] = {
	{'f', "a-format", CLI_STRING, offsetof(struct compare_args, format[0]), "FMT",
	 "format of the first image: qcow2 or raw", NULL},
	{'F', "b-format", CLI_STRING, offsetof(struct compare_args, format[1]), "FMT",
	 "format of the second (default: look)", NULL},
	{'s', "strict", CLI_FLAG, offsetof(struct compare_args, strict), NULL,
	 "sizes and allocation must be the same too", NULL},
	{'T', "cache", CLI_CHOICE, offsetof(struct compare_args, cache), "CACHE",
	 "cache mode; none, directsync: no page cache", tool_cache_modes},
	{'U', "force-share", CLI_FLAG, offsetof(struct compare_args, force_share), NULL,
	 "read even while another program writes", NULL},
	{'p', "progress", CLI_PROGRESS, offsetof(struct compare_args, progress), NULL,
	 "show the progress, in percent", NULL},
	{'q', "quiet", CLI_FLAG, offsetof(struct compare_args, quiet), NULL,
	 "say nothing but errors", NULL},
	{0, "output", CLI_CHOICE, offsetof(struct compare_args, output), "text|json",
	 "how to print the verdict", tool_outputs},
	{0, "image-opts", CLI_FLAG, offsetof(struct compare_args, image_opts), NULL,
	 "FILE is driver=FMT,file.filename=FILE,...", NULL},
	CLI_END,
};

const struct cli_command compare_command = {
	.name = "compare",
	.operands = "FILE1 FILE2",
	.summary = "Compares what two disks read as.",
	.options = compare_options,
	.notes = "\nWhere one disk is longer, the rest must be zeros.\n"
		 "Exit code: 0 the same, 1 different, 2 trouble.",
	.failure_status = EXIT_TROUBLE,
};

/* Prints the verdict unless quiet. Returns the exit code. */
static int tell(const struct qcow2_compare_result *result, uint64_t shorter, bool quiet)
{
	bool same_so_far =
		result->verdict == QCOW2_COMPARE_SAME ||
		(result->verdict == QCOW2_COMPARE_CONTENT && result->guest_off >= shorter);

	/* only said when there is no difference before the end of the shorter one */
	if (result->sizes_differ && same_so_far && !quiet)
		puts("Warning: Image size mismatch!");
	switch (result->verdict) {
	case QCOW2_COMPARE_SAME:
		if (!quiet)
			puts("Images are identical.");
		return EXIT_SUCCESS;
	case QCOW2_COMPARE_CONTENT:
		if (!quiet)
			printf("Content mismatch at offset %" PRIu64 "!\n",
			       result->guest_off / SECTOR * SECTOR);
		break;
	case QCOW2_COMPARE_SIZE:
		if (!quiet)
			puts("Strict mode: Image size mismatch!");
		break;
	case QCOW2_COMPARE_ALLOCATION:
		if (!quiet)
			printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n",
			       result->guest_off);
		break;
	}
	return EXIT_DIFFERENT;
}

/* The same as an object; the offset is that of the byte. */
static int tell_json(const struct qcow2_compare_result *result, bool quiet)
{
	static const char *const differences[] = {
		[QCOW2_COMPARE_CONTENT] = "content",
		[QCOW2_COMPARE_SIZE] = "size",
		[QCOW2_COMPARE_ALLOCATION] = "allocation",
	};
	bool same = result->verdict == QCOW2_COMPARE_SAME;
	struct cli_out out;

	if (quiet)
		return same ? EXIT_SUCCESS : EXIT_DIFFERENT;
	cli_out_init(&out, stdout, true);
	cli_out_open(&out, NULL, '{');
	cli_out_bool(&out, "identical", same);
	cli_out_bool(&out, "sizes-differ", result->sizes_differ);
	if (!same)
		cli_out_string(&out, "difference", differences[result->verdict]);
	if (!same && result->verdict != QCOW2_COMPARE_SIZE)
		cli_out_u64(&out, "offset", result->guest_off);
	cli_out_close(&out);
	return same ? EXIT_SUCCESS : EXIT_DIFFERENT;
}

static int compare(struct qcow2_image *const *images, const struct compare_args *args)
{
	struct qcow2_compare_result result = {0};
	struct cli_progress shown;
	struct qcow2_progress progress = {.tick = cli_progress_tick, .opaque = &shown};
	uint64_t size[2] = {qcow2_size(images[0]), qcow2_size(images[1])};
	struct qcow2_error err = {0};
	bool json = args->output == TOOL_OUTPUT_JSON;
	int rc, status = EXIT_TROUBLE;

	/* percents would stand before the object */
	cli_progress_begin(&shown, args->progress && !json, args->quiet);
	rc = qcow2_compare(images[0], images[1], args->strict ? QCOW2_COMPARE_STRICT : 0, &progress,
			   &result, &err);
	cli_progress_clear(&shown);
	if (rc < 0)
		tool_explain(&err, NULL);
	else if (json)
		status = tell_json(&result, args->quiet);
	else
		status = tell(&result, size[0] < size[1] ? size[0] : size[1], args->quiet);
	cli_progress_end(&shown, rc == 0 && status == EXIT_SUCCESS);
	return status;
}

int verb_compare(int argc, char **argv)
{
	struct compare_args args = {.cache = TOOL_CACHE_WRITEBACK};
	struct qcow2_image *images[2] = {NULL, NULL};
	int status, first = cli_parse(&compare_command, argc, argv, &args, &status);
	unsigned flags;
	int i, rc = 0;

	if (first < 0)
		return status;
	if (argc - first != 2) {
		cli_usage("compare", "expecting two image files");
		return cli_is_face() ? EXIT_FAILURE : EXIT_TROUBLE;
	}
	tool_many_files();
	flags = tool_cache_read_flags(args.cache) |
		(args.force_share ? QCOW2_OPEN_FORCE_SHARE : 0) |
		(args.image_opts ? TOOL_OPEN_IMAGE_OPTS : 0);
	for (i = 0; i < 2 && rc == 0; i++) {
		cli_set_subject("compare", argv[first + i]);
		rc = tool_known_format(args.format[i]) ? 0 : -EINVAL;
		if (rc == 0)
			rc = tool_open(&images[i], argv[first + i], args.format[i], NULL, flags);
	}
	status = rc == 0 ? compare(images, &args) : EXIT_TROUBLE;
	qcow2_close(images[1]);
	qcow2_close(images[0]);
	return status;
}
