/* SPDX-License-Identifier: MIT */
/*
 * check_helper FILE [leaks|all]: checks a qcow2 image, and repairs it on demand, with no lock
 * taken. Prints what was found, a line each on standard error, and the result as JSON. Exit codes
 * as section 18.4 has them: 0 clean, 1 couldn't be completed, 2 corruptions, 3 leaks.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "check/check.h"

#define LINES_MAX 1000 /* an image can have billions of findings */

static uint64_t by_finding[CHECK_FINDINGS], left_by_finding[CHECK_FINDINGS];

static int report(void *opaque, const struct check_report *r)
{
	unsigned *lines = opaque;
	char text[256];

	if (r->repaired || r->kept || check_finding_kind(r->finding) == CHECK_KIND_NOTE)
		return 0;
	(r->after_repair ? left_by_finding : by_finding)[r->finding] += r->nclusters;
	if ((*lines)++ < LINES_MAX)
		fprintf(stderr, "%s%s: %s\n", r->after_repair ? "left: " : "",
			check_finding_name(r->finding), check_finding_text(r, text, sizeof(text)));
	return 0;
}

static void print_findings(const char *name, const uint64_t *counts)
{
	const char *comma = "";

	printf(",\n \"%s\": {", name);
	for (int i = 0; i < CHECK_FINDINGS; i++) {
		if (counts[i] == 0)
			continue;
		printf("%s\"%s\": %" PRIu64, comma, check_finding_name(i), counts[i]);
		comma = ", ";
	}
	printf("}");
}

static void print_result(const struct check_result *r)
{
	const struct {
		const char *name;
		uint64_t value;
	} rows[] = {
		{"check-errors", r->check_errors},
		{"corruptions", r->corruptions},
		{"leaks", r->leaks},
		{"corruptions-fixed", r->corruptions_fixed},
		{"leaks-fixed", r->leaks_fixed},
		{"image-end-offset", r->image_end_off},
		{"total-clusters", r->total_clusters},
		{"allocated-clusters", r->allocated_clusters},
		{"fragmented-clusters", r->fragmented_clusters},
		{"compressed-clusters", r->compressed_clusters},
	};

	printf("{\"hides-references\": %s", r->hides_references ? "true" : "false");
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		printf(",\n \"%s\": %" PRIu64, rows[i].name, rows[i].value);
	print_findings("findings", by_finding);
	print_findings("left", left_by_finding);
	printf("}\n");
}

static int exit_code(const struct check_result *r)
{
	if (r->check_errors > 0)
		return 1;
	return r->corruptions > 0 ? 2 : r->leaks > 0 ? 3 : 0;
}

int main(int argc, char **argv)
{
	struct check_options options = {.report = report};
	struct check_result result;
	struct qcow2_error err = {0};
	struct qcow2_storage st;
	unsigned lines = 0;
	int ret;

	if (argc == 3 && strcmp(argv[2], "leaks") == 0)
		options.repair = CHECK_REPAIR_LEAKS;
	else if (argc == 3 && strcmp(argv[2], "all") == 0)
		options.repair = CHECK_REPAIR_ALL | CHECK_REPAIR_CLEAR;
	else if (argc != 2)
		return 1;
	options.opaque = &lines;
	ret = storage_file_open(&st, argv[1], options.repair ? STORAGE_FILE_WRITE : 0, &err);
	if (ret == 0) {
		ret = check_image(st, &options, &result, &err);
		storage_close(&st);
	}
	if (ret != 0) {
		fprintf(stderr, "check_helper: %s\n", err.message);
		return 1;
	}
	print_result(&result);
	return exit_code(&result);
}
