/* SPDX-License-Identifier: MIT */
/* What the header says of the image as a whole: marks, and bits that claim what isn't there. */
#include "base/bytes.h"
#include "base/num.h"
#include "check/run.h"

static bool claims(const struct check_run *run, uint64_t bit)
{
	return run->header.version >= 3 && (run->header.autoclear & bit);
}

int check_scan_marks(struct check_run *run)
{
	const struct format_header *h = &run->header;
	const struct {
		enum check_finding finding;
		bool is_so;
	} rows[] = {
		{CHECK_DIRTY, h->incompatible & LAYOUT_INCOMPAT_DIRTY},
		{CHECK_CORRUPT, h->incompatible & LAYOUT_INCOMPAT_CORRUPT},
		{CHECK_BITMAPS_MISSING, claims(run, LAYOUT_AUTOCLEAR_BITMAPS) &&
						!h->ext.has_bitmaps &&
						!(run->tolerated & FORMAT_HEADER_ALLOW_BITMAPS)},
		{CHECK_RAW_WITHOUT_DATA_FILE,
		 claims(run, LAYOUT_AUTOCLEAR_DATA_FILE_RAW) && !run->g.data_file},
		{CHECK_RAW_WITH_BACKING, claims(run, LAYOUT_AUTOCLEAR_DATA_FILE_RAW) &&
						 run->g.data_file && h->backing_name},
	};
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < ARRAY_LEN(rows); i++) {
		const struct check_report r = check_blank(rows[i].finding);

		if (rows[i].is_so && !(run->after_repair && i < 2))
			ret = check_found(run, &r);
	}
	return ret;
}

int check_repair_marks(struct check_run *run, bool *done, struct qcow2_error *err)
{
	static const struct {
		enum check_finding finding;
		uint64_t bit;
	} rows[] = {
		{CHECK_BITMAPS_BAD, LAYOUT_AUTOCLEAR_BITMAPS},
		{CHECK_BITMAPS_MISSING, LAYOUT_AUTOCLEAR_BITMAPS},
		{CHECK_RAW_WITHOUT_DATA_FILE, LAYOUT_AUTOCLEAR_DATA_FILE_RAW},
	};
	uint64_t bits = run->header.autoclear;
	uint8_t bytes[8];
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < ARRAY_LEN(rows); i++) {
		struct check_report r = check_blank(rows[i].finding);

		if (run->found[rows[i].finding] == 0)
			continue;
		bits &= ~rows[i].bit;
		r.repaired = true;
		ret = check_told(run, &r);
	}
	if (ret != 0 || bits == run->header.autoclear)
		return ret;
	*done = run->changed = true;
	store_be64(bytes, bits);
	ret = storage_write(run->file, bytes, sizeof(bytes), LAYOUT_OFF_AUTOCLEAR, err);
	return ret == 0 ? storage_flush(run->file, err) : ret;
}
