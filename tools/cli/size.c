/* SPDX-License-Identifier: MIT */
/*
 * Sizes in and out. The odd corners (a leading space and plus are taken, ".5G" isn't, a fraction
 * needs a unit) are QEMU's, because people's scripts were written against it.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdbool.h>
#include <string.h>

#include "cli/size.h"

static const char units[] = "bkmgtpe";

/* The digits at *text in the given base. -ERANGE if they say more than 64 bits hold. */
static int digits(const char **text, unsigned base, uint64_t *value)
{
	uint64_t v = 0;
	int rc = -EINVAL;

	for (;; (*text)++) {
		unsigned char c = (unsigned char)**text;
		unsigned digit;

		if (isdigit(c))
			digit = c - '0';
		else if (base == 16 && isxdigit(c))
			digit = (unsigned)tolower(c) - 'a' + 10;
		else
			break;
		if (rc == -EINVAL)
			rc = 0;
		if (v > (UINT64_MAX - digit) / base)
			rc = -ERANGE;
		else
			v = v * base + digit;
	}
	*value = v;
	return rc;
}

/* What follows the point, as a part of one: as many digits as a double tells apart. */
static double fraction(const char **text)
{
	uint64_t part = 0, scale = 1;

	for (; isdigit((unsigned char)**text); (*text)++) {
		if (scale >= UINT64_C(1000000000000000000))
			continue;
		part = part * 10 + (uint64_t)(**text - '0');
		scale *= 10;
	}
	return (double)part / (double)scale;
}

static bool has_nonzero(const char *text)
{
	return text[strspn(text, "0")] >= '1' && text[strspn(text, "0")] <= '9';
}

/* The unit at *text, none is 1; 0 for what isn't one. */
static uint64_t unit(const char **text)
{
	const char *found;

	if (!**text)
		return 1;
	found = strchr(units, tolower((unsigned char)**text));
	if (!found)
		return 0;
	(*text)++;
	return UINT64_C(1) << (10 * (found - units));
}

int cli_size_parse(const char *text, uint64_t *bytes)
{
	bool negative, hex, part = false;
	uint64_t whole, times, rest;
	double below = 0;
	int rc;

	while (isspace((unsigned char)*text))
		text++;
	negative = *text == '-';
	if (*text == '+' || *text == '-')
		text++;
	hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
	if (hex)
		text += 2;
	rc = digits(&text, hex ? 16 : 10, &whole);
	if (rc == -EINVAL)
		return rc;
	if (*text == '.' && !hex) {
		text++;
		part = has_nonzero(text);
		below = fraction(&text);
	}
	times = unit(&text);
	if (times == 0 || *text || (part && times == 1))
		return -EINVAL;
	if (negative || rc < 0 || whole > UINT64_MAX / times)
		return -ERANGE;
	whole *= times;
	rest = (uint64_t)(below * (double)times + 0.5);
	if (rest > UINT64_MAX - whole)
		return -ERANGE;
	*bytes = whole + rest;
	return 0;
}

int cli_number_parse(const char *text, uint64_t least, uint64_t most, uint64_t *number)
{
	bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
	int rc;

	if (hex)
		text += 2;
	rc = digits(&text, hex ? 16 : 10, number);
	if (rc == -EINVAL || *text)
		return -EINVAL;
	return rc == 0 && *number >= least && *number <= most ? 0 : -ERANGE;
}

char *cli_size_human(char buf[CLI_SIZE_TEXT], uint64_t bytes)
{
	static const char *const names[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
	unsigned i = 0;

	while (i < 6 && (bytes >> (10 * i)) >= 1000)
		i++;
	snprintf(buf, CLI_SIZE_TEXT, "%.3g %sB", (double)bytes / (double)(UINT64_C(1) << (10 * i)),
		 names[i]);
	return buf;
}
