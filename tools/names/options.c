/* SPDX-License-Identifier: MIT */
/* Lists of driver options. They are typed by people, and short: looked through from the front. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "names/options.h"

int names_reason(struct qcow2_error *err, int code, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(err->message, sizeof(err->message), fmt, args);
	va_end(args);
	err->code = code;
	err->guest_off = err->host_off = 0;
	return code;
}

bool names_said(const struct qcow2_error *err)
{
	return err->guest_off == 0;
}

void names_options_release(struct names_options *o)
{
	size_t i;

	for (i = 0; i < o->n; i++) {
		free(o->list[i].name);
		free(o->list[i].value);
	}
	free(o->list);
	*o = (struct names_options){0};
}

static struct names_option *find(const struct names_options *o, const char *prefix,
				 const char *name)
{
	size_t i, len = strlen(prefix);

	for (i = 0; i < o->n; i++)
		if (strncmp(o->list[i].name, prefix, len) == 0 &&
		    strcmp(o->list[i].name + len, name) == 0)
			return &o->list[i];
	return NULL;
}

int names_options_set(struct names_options *o, const char *name, const char *value)
{
	struct names_option *at = find(o, "", name), *longer;
	char *copy = value ? strdup(value) : NULL;

	if (value && !copy)
		return -ENOMEM;
	if (at) {
		free(at->value);
		at->value = copy;
		return 0;
	}
	longer = realloc(o->list, (o->n + 1) * sizeof(*o->list));
	if (longer) {
		o->list = longer;
		longer[o->n] = (struct names_option){.name = strdup(name), .value = copy};
	}
	if (!longer || !longer[o->n].name) {
		free(copy);
		return -ENOMEM;
	}
	o->n++;
	return 0;
}

int names_options_copy(struct names_options *to, const struct names_options *from)
{
	size_t i;

	*to = (struct names_options){0};
	for (i = 0; i < from->n; i++) {
		if (names_options_set(to, from->list[i].name, from->list[i].value) < 0) {
			names_options_release(to);
			return -ENOMEM;
		}
	}
	return 0;
}

const char *names_options_get(struct names_options *o, const char *prefix, const char *name)
{
	struct names_option *at = find(o, prefix, name);

	if (!at)
		return NULL;
	at->used = true;
	return at->value;
}

const char *names_options_unused(const struct names_options *o, const char *prefix)
{
	size_t i;

	for (i = 0; i < o->n; i++)
		if (!o->list[i].used && strncmp(o->list[i].name, prefix, strlen(prefix)) == 0)
			return o->list[i].name;
	return NULL;
}

void names_options_use(struct names_options *o, const char *prefix)
{
	size_t i;

	for (i = 0; i < o->n; i++)
		if (strncmp(o->list[i].name, prefix, strlen(prefix)) == 0)
			o->list[i].used = true;
}

bool names_options_any(const struct names_options *o, const char *prefix)
{
	size_t i;

	for (i = 0; i < o->n; i++)
		if (strncmp(o->list[i].name, prefix, strlen(prefix)) == 0)
			return true;
	return false;
}
