/* SPDX-License-Identifier: MIT */
/*
 * A stranger's image, checked and repaired. A repair that says that all is well must leave an
 * image that a second check finds clean, and must not have changed what the guest would see as
 * far as the tables say; a check changes nothing; and mending leaks never makes the image worse.
 */
#include "check/check.h"
#include "storage/storage.h"

#include "fuzz.h"

#define IMAGE_MAX (128u << 10) /* more only makes it slow */

static int hear(void *opaque, const struct check_report *r)
{
	char text[256];

	CHECK(r->finding < CHECK_FINDINGS && r->nclusters > 0);
	CHECK(check_finding_text(r, text, sizeof(text))[0] && check_finding_name(r->finding)[0]);
	CHECK(check_finding_text(r, text, 8) == text && strlen(text) < 8);
	CHECK(check_finding_repair(r->finding)[0] && check_finding_words(r->finding)[0]);
	*(uint64_t *)opaque += check_finding_kind(r->finding) != CHECK_KIND_NOTE;
	return 0;
}

static int check(struct qcow2_storage st, unsigned repair, struct check_result *result)
{
	uint64_t heard = 0;
	struct check_options options = {.repair = repair, .report = hear, .opaque = &heard};
	struct qcow2_error err = {0};
	int ret = check_image(st, &options, result, &err);

	CHECK(ret <= 0 && (ret == 0 || (err.code == ret && err.message[0])));
	CHECK(ret == 0 || result->check_errors > 0);
	if (!repair && ret == 0)
		CHECK((heard > 0) ==
		      (result->corruptions + result->leaks + result->check_errors > 0));
	return ret;
}

static void is_unchanged(struct qcow2_storage st, const uint8_t *data, size_t len)
{
	uint8_t *now = malloc(len + 1);
	uint64_t size;

	CHECK(storage_size(st, &size, NULL) == 0 && size == len);
	CHECK(storage_read(st, now, len, 0, NULL) == 0 && memcmp(now, data, len) == 0);
	free(now);
}

static void repair(const uint8_t *data, size_t len, unsigned mode,
		   const struct check_result *before)
{
	struct check_result after, again;
	struct qcow2_storage st;

	CHECK(storage_mem_new(&st, len, NULL) == 0);
	CHECK(storage_write(st, data, len, 0, NULL) == 0);
	if (check(st, mode, &after) == 0) {
		CHECK(check(st, 0, &again) == 0);
		CHECK(again.corruptions == after.corruptions && again.leaks == after.leaks);
		/* Nothing is left of what can be mended, unless something can't. */
		if (mode != CHECK_REPAIR_LEAKS && after.check_errors == 0 && after.corruptions == 0)
			CHECK(after.leaks == 0);
		CHECK(again.hides_references == before->hides_references ||
		      mode != CHECK_REPAIR_LEAKS);
		CHECK(again.allocated_clusters <= before->allocated_clusters);
	}
	storage_close(&st);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct check_result before;
	struct qcow2_storage st;

	if (len == 0 || len > IMAGE_MAX)
		return 0;
	CHECK(storage_mem_new(&st, len, NULL) == 0);
	CHECK(storage_write(st, data, len, 0, NULL) == 0);
	if (check(st, 0, &before) == 0) {
		repair(data, len, CHECK_REPAIR_LEAKS, &before);
		repair(data, len, CHECK_REPAIR_ALL, &before);
		repair(data, len, CHECK_REPAIR_ALL | CHECK_REPAIR_CLEAR, &before);
	}
	is_unchanged(st, data, len);
	CHECK(check_repair_dirty(st, NULL) <= 0);
	storage_close(&st);
	return 0;
}
