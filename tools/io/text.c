/* SPDX-License-Identifier: MIT */
/*
 * Text in qemu-io's forms. Their oddities are kept: a fraction that begins with three zeros is cut
 * off ("200.000040 bytes" is "200 bytes"), below a second the time has no minutes.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/size.h"
#include "io/text.h"

#define NS_PER_SEC 1000000000

char *io_size_text(char buf[IO_SIZE_TEXT], double bytes)
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	size_t unit = 0;
	char *zeros;

	while (bytes >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		bytes /= 1024;
		unit++;
	}
	snprintf(buf, IO_SIZE_TEXT, "%.*f", unit ? 3 : 6, bytes);
	zeros = strstr(buf, ".000");
	if (zeros)
		*zeros = 0;
	snprintf(buf + strlen(buf), IO_SIZE_TEXT - strlen(buf), " %s", units[unit]);
	return buf;
}

int io_parse_number(const char *text, uint64_t *value)
{
	int rc = cli_size_parse(text, value);

	if (rc == 0 && *value > INT64_MAX)
		rc = -ERANGE;
	if (rc == 0)
		return 0;
	if (rc == -ERANGE && !strchr(text, '-'))
		printf("Parsing error: argument too large -- %s\n", text);
	else
		printf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- "
		       "%s\n",
		       text);
	return -EINVAL;
}

int io_parse_pattern(const char *text, uint8_t *pattern)
{
	char *end;
	long value = strtol(text, &end, 0);

	if (end == text || *end || value < 0 || value > UINT8_MAX) {
		printf("%s is not a valid pattern byte\n", text);
		return -EINVAL;
	}
	*pattern = (uint8_t)value;
	return 0;
}

/* always: with hours and minutes, even if there are none. */
static void time_text(char *buf, size_t size, uint64_t ns, bool always)
{
	uint64_t sec = ns / NS_PER_SEC;
	double rest = (double)(ns % NS_PER_SEC) / NS_PER_SEC;

	if (sec == 0 && !always)
		snprintf(buf, size, "%05.2f sec", rest);
	else
		snprintf(buf, size, "%" PRIu64 ":%02" PRIu64 ":%05.2f", sec / 3600, sec / 60 % 60,
			 (double)(sec % 60) + rest);
}

void io_print_figures(FILE *f, uint64_t len_bytes, uint64_t elapsed_ns)
{
	double seconds = (double)elapsed_ns / NS_PER_SEC;
	char time[64];

	time_text(time, sizeof(time), elapsed_ns, true);
	fprintf(f, "%" PRIu64 ",1,%s,%.3f,%.3f\n", len_bytes, time, (double)len_bytes / seconds,
		1 / seconds);
}

void io_print_report(FILE *f, const char *done, uint64_t guest_off, uint64_t len_bytes,
		     uint64_t elapsed_ns)
{
	double seconds = (double)elapsed_ns / NS_PER_SEC;
	char size[IO_SIZE_TEXT], rate[IO_SIZE_TEXT], time[64];

	time_text(time, sizeof(time), elapsed_ns, false);
	fprintf(f, "%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", done, len_bytes,
		len_bytes, guest_off);
	fprintf(f, "%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n",
		io_size_text(size, (double)len_bytes), time,
		io_size_text(rate, (double)len_bytes / seconds), 1 / seconds);
}

void io_print_dump(FILE *f, const uint8_t *buf, size_t len, uint64_t guest_off)
{
	size_t row, i;

	for (row = 0; row < len; row += 16) {
		size_t n = len - row < 16 ? len - row : 16;

		fprintf(f, "%08" PRIx64 ":  ", guest_off + row);
		for (i = 0; i < n; i++)
			fprintf(f, "%02x ", buf[row + i]);
		putc(' ', f);
		for (i = 0; i < n; i++)
			putc(isalnum(buf[row + i]) ? buf[row + i] : '.', f);
		putc('\n', f);
	}
}
