/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check_lines.h"
#include "cli/diag.h"

#define LINE_SIZE 512	/* the longest words, with their numbers */
#define RUN_MAX 1000000 /* so many clusters in a row have a line each */

/*
 * The words of qemu-img. @P is "ERROR" or "Repairing", @k the number of the host cluster, @r the
 * stored and @c the computed count, @s the stored entry, @h the host offset, @l a length (all three
 * in hexadecimal), @i the index of the entry.
 */
static const struct {
	const char *code, *words;
} phrases[] = {
	{"refcount-low", "@P cluster @k refcount=@r reference=@c"},
	{"refcount-zero", "@P cluster @k refcount=@r reference=@c"},
	{"refcount-overflow", "ERROR: overflow cluster offset=0x@h"},
	{"l1-reserved", "ERROR found L1 entry with reserved bits set: @s"},
	{"l1-unaligned", "ERROR l2_offset=@h: Table is not cluster aligned; L1 entry corrupted"},
	{"l1-copied", "@P OFLAG_COPIED L2 cluster: l1_index=@i l1_entry=@s refcount=@c"},
	{"l2-reserved", "ERROR found l2 entry with reserved bits set: @s"},
	{"l2-copied", "@P OFLAG_COPIED data cluster: l2_entry=@s refcount=@c"},
	{"compressed-copied",
	 "ERROR: coffset=0x@h: copied flag must never be set for compressed clusters"},
	{"compressed-data-file", "ERROR compressed cluster @i with data file, entry=0x@s"},
	{"compressed-bitmap", "ERROR compressed cluster @i with non-zero subcluster allocation "
			      "bitmap, entry=0x@s"},
	{"subcluster-both",
	 "ERROR offset=@h: Allocated cluster has corrupted subcluster allocation bitmap"},
	{"subcluster-unallocated",
	 "ERROR: Unallocated cluster has non-zero subcluster allocation map"},
	{"zero-unaligned",
	 "@P offset=@h: Preallocated cluster is not properly aligned; L2 entry corrupted."},
	{"data-unaligned",
	 "@P offset=@h: Data cluster is not properly aligned; L2 entry corrupted."},
	{"data-past-end", "ERROR: counting reference for region exceeding the end of the file by "
			  "one cluster or more: offset 0x@h size 0x@l"},
	{"l2-past-end", "ERROR: counting reference for region exceeding the end of the file by "
			"one cluster or more: offset 0x@h size 0x@l"},
	{"table-past-end", "ERROR: counting reference for region exceeding the end of the file by "
			   "one cluster or more: offset 0x@h size 0x@l"},
	{"reftable-reserved", "ERROR refcount table entry @i has reserved bits set"},
	{"reftable-unaligned", "ERROR refcount block @i is not cluster aligned; refcount table "
			       "entry corrupted"},
	{"refblock-past-end", "ERROR refcount block @i is outside image"},
	{"refblock-shared", "ERROR refcount block @i refcount=@c"},
};

static const char *words_for(const struct qcow2_check_finding *f)
{
	bool repaired = f->phase == QCOW2_CHECK_REPAIRED;

	if (strcmp(f->code, "leak") == 0)
		return repaired ? "Repairing cluster @k refcount=@r reference=@c"
				: "Leaked cluster @k refcount=@r reference=@c";
	if (strcmp(f->code, "needs-rebuild") == 0)
		return repaired ? "Rebuilding refcount structure"
				: "ERROR need to rebuild refcount structures";
	for (size_t i = 0; i < sizeof(phrases) / sizeof(phrases[0]); i++)
		if (strcmp(phrases[i].code, f->code) == 0)
			return repaired && phrases[i].words[0] != '@' ? NULL : phrases[i].words;
	return NULL;
}

/*
 * Puts digits at end, and gives the new end. There may be millions of numbers: not with printf,
 * inline, so that the compiler knows the base, and where they are to stand, for what is stored in
 * bytes and then copied in words makes a processor wait.
 */
static inline char *put_digits(char *end, uint64_t value, unsigned base)
{
	size_t n = 1;

	for (uint64_t rest = value / base; rest > 0; rest /= base)
		n++;
	end += n;
	for (char *p = end; n > 0; n--, value /= base)
		*--p = "0123456789abcdef"[value % base];
	return end;
}

/* What a letter stands for. nth: of the clusters in a row. */
static char *put_value(char *end, char letter, const struct qcow2_check_finding *f, uint64_t nth)
{
	switch (letter) {
	case 'P':
		return stpcpy(end, f->phase == QCOW2_CHECK_REPAIRED ? "Repairing" : "ERROR");
	case 'k':
		return put_digits(end, f->host_off / f->cluster_bytes + nth, 10);
	case 'h':
		return put_digits(end, f->host_off + nth * f->cluster_bytes, 16);
	case 'r':
		return put_digits(end, f->stored, 10);
	case 's':
		return put_digits(end, f->stored, 16);
	case 'c':
		return put_digits(end, f->computed, 10);
	case 'i':
		return put_digits(end, f->entry_index, 10);
	default:
		return put_digits(end, f->len_bytes, 16);
	}
}

static void put_words(const char *words, const struct qcow2_check_finding *f, uint64_t nth)
{
	char line[LINE_SIZE], *end = line;

	while (*words) {
		const char *at = strchrnul(words, '@');

		end = mempcpy(end, words, (size_t)(at - words));
		words = at;
		if (*words == '@') {
			end = put_value(end, words[1], f, nth);
			words += 2;
		}
	}
	*end++ = '\n';
	fwrite_unlocked(line, 1, (size_t)(end - line), stderr); /* one thread reports */
}

static void put_sentence(const struct qcow2_check_finding *f)
{
	const char *start = "ERROR";

	if (f->phase == QCOW2_CHECK_REPAIRED)
		start = "Repairing";
	else if (f->severity == QCOW2_CHECK_LEAK)
		start = "Leak:";
	fprintf(stderr, "%s %s\n", start, f->sentence);
}

const char *const check_severities[] = {"error", "leak", "failed", "note"};

void check_lines_begin(struct check_lines *lines)
{
	if (lines->begun)
		return;
	lines->begun = true;
	cli_out_open(lines->json, NULL, '{');
	cli_out_open(lines->json, "findings", '[');
}

static void put_object(struct check_lines *lines, const struct qcow2_check_finding *f)
{
	static const char *const phases[] = {"found", "repaired", "kept", "left"};
	const struct {
		const char *key;
		uint64_t off;
	} offsets[] = {{"guest-offset", f->guest_off},
		       {"host-offset", f->host_off},
		       {"entry-offset", f->entry_off}};
	struct cli_out *out = lines->json;

	check_lines_begin(lines);
	cli_out_open(out, NULL, '{');
	cli_out_string(out, "code", f->code);
	cli_out_string(out, "severity", check_severities[f->severity]);
	cli_out_string(out, "sentence", f->sentence);
	for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++)
		if (offsets[i].off != QCOW2_NO_OFFSET)
			cli_out_u64(out, offsets[i].key, offsets[i].off);
	if (f->host_off != QCOW2_NO_OFFSET && f->nclusters > 0)
		cli_out_u64(out, "clusters", f->nclusters);
	cli_out_string(out, "phase", phases[f->phase]);
	cli_out_bool(out, "repaired", f->phase == QCOW2_CHECK_REPAIRED);
	cli_out_string(out, "repair", f->repair);
	cli_out_close(out);
}

int check_lines_put(void *opaque, const struct qcow2_check_finding *f)
{
	struct check_lines *lines = opaque;
	const char *words = words_for(f);
	bool found = f->phase != QCOW2_CHECK_REPAIRED;

	if (found && strcmp(f->code, "needs-rebuild") == 0)
		lines->needs_rebuild = true;
	if (lines->json) {
		put_object(lines, f);
		return cli_output_lost() ? -EIO : 0;
	}
	/* That the image is marked says nothing about what is in it. */
	if (f->severity == QCOW2_CHECK_NOTE)
		return 0;
	cli_progress_clear(lines->progress);
	if (!words || f->nclusters > RUN_MAX)
		put_sentence(f);
	else
		for (uint64_t i = 0; i < f->nclusters; i++)
			put_words(words, f, i);
	return ferror_unlocked(stderr) ? -EIO : 0;
}
