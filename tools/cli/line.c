/* SPDX-License-Identifier: MIT */
/* A line of output in memory. Knows numbers and plain text, no escapes: names don't belong here. */
#include "cli/line.h"

size_t cli_u64_text(char *text, uint64_t value)
{
	static const char pairs[] = "00010203040506070809101112131415161718192021222324"
				    "25262728293031323334353637383940414243444546474849"
				    "50515253545556575859606162636465666768697071727374"
				    "75767778798081828384858687888990919293949596979899";
	char buf[CLI_U64_DIGITS];
	size_t at = sizeof(buf), len;

	/* two digits a division: that is where the time goes */
	for (; value >= 10; value /= 100) {
		at -= 2;
		memcpy(buf + at, pairs + 2 * (value % 100), 2);
	}
	if (value > 0 || at == sizeof(buf))
		buf[--at] = (char)('0' + value);
	len = sizeof(buf) - at;
	memcpy(text, buf + at, len);
	return len;
}

void cli_line_u64(struct cli_line *line, uint64_t value)
{
	assert(sizeof(line->text) - line->len >= CLI_U64_DIGITS);
	line->len += cli_u64_text(line->text + line->len, value);
}

void cli_line_write(struct cli_line *line, FILE *f)
{
	fwrite_unlocked(line->text, 1, line->len, f); /* lines are printed by one thread */
	line->len = 0;
}
