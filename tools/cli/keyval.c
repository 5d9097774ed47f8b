/* SPDX-License-Identifier: MIT */
/* Lists of name=value. The rules are QEMU's: only commas are special, and doubled they are text. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/keyval.h"
#include "cli/utf8.h"

/* Moves the element at *text to element, without doubled commas, and steps over its comma. */
static void next_element(const char **text, char *element)
{
	const char *s = *text;

	for (; *s; s++) {
		if (*s == ',' && s[1] != ',')
			break;
		if (*s == ',')
			s++;
		*element++ = *s;
	}
	*element = 0;
	*text = s;
}

int cli_keyval_each(const char *text,
		    int (*take)(void *opaque, const char *name, const char *value), void *opaque)
{
	char *element = malloc(strlen(text) + 1);
	int rc = element ? 0 : -ENOMEM;

	while (rc == 0) {
		char *value;

		next_element(&text, element);
		value = strchr(element, '=');
		if (!*element) {
			rc = -EINVAL;
			break;
		}
		if (value)
			*value++ = 0;
		rc = take(opaque, element, value);
		if (!*text)
			break;
		text++;
	}
	free(element);
	return rc;
}

void cli_keyval_put(FILE *f, const char *value)
{
	while (*value) {
		size_t len = strcspn(value, ",");
		char *piece = strndup(value, len);

		if (piece)
			cli_text_put(f, piece);
		free(piece);
		value += len;
		if (*value) {
			fputs(",,", f);
			value++;
		}
	}
}
