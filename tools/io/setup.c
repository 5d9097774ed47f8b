/* SPDX-License-Identifier: MIT */
/*
 * Setups: what is typed becomes fields. Nothing is opened here, so whether an option fits the
 * format is found out later. Options of QEMU that change nothing for us are taken and forgotten.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/keyval.h"
#include "cli/size.h"
#include "image.h"
#include "io/io.h"
#include "io/setup.h"

int io_reason(struct qcow2_error *err, int code, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(err->message, sizeof(err->message), fmt, args);
	va_end(args);
	err->code = code;
	return code;
}

void io_setup_init(struct io_setup *setup)
{
	memset(setup, 0, sizeof(*setup));
	setup->discard = true;
	setup->pass_request = true;
	setup->pass_snapshot = true;
}

void io_setup_release(struct io_setup *setup)
{
	free(setup->path);
	free(setup->format);
	free(setup->backing_path);
	free(setup->backing_format);
	free(setup->qcow2_option);
	free(setup->unknown_option);
	io_setup_init(setup);
}

int io_setup_string(char **at, const char *text)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		return -ENOMEM;
	free(*at);
	*at = copy;
	return 0;
}

int io_setup_copy(struct io_setup *to, const struct io_setup *from)
{
	*to = *from;
	to->path = to->format = to->backing_path = to->backing_format = NULL;
	to->qcow2_option = to->unknown_option = NULL;
	if (io_setup_string(&to->path, from->path) == 0 &&
	    io_setup_string(&to->format, from->format) == 0 &&
	    io_setup_string(&to->backing_path, from->backing_path) == 0 &&
	    io_setup_string(&to->backing_format, from->backing_format) == 0)
		return 0;
	io_setup_release(to);
	return -ENOMEM;
}

int io_setup_cache(struct io_setup *setup, const char *mode, struct qcow2_error *err)
{
	static const struct {
		const char *name;
		bool direct, writethrough, no_flush;
	} modes[] = {
		{"none", true, false, false},	    {"off", true, false, false},
		{"writeback", false, false, false}, {"writethrough", false, true, false},
		{"directsync", true, true, false},  {"unsafe", false, false, true},
	};
	size_t i;

	for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(modes[i].name, mode) != 0)
			continue;
		setup->direct = modes[i].direct;
		setup->writethrough = modes[i].writethrough;
		setup->no_flush = modes[i].no_flush;
		return 0;
	}
	return io_reason(err, -EINVAL, "Invalid cache option: %s", mode);
}

static int discard_mode(struct io_setup *setup, const char *mode)
{
	if (strcmp(mode, "unmap") == 0 || strcmp(mode, "on") == 0)
		setup->discard = true;
	else if (strcmp(mode, "ignore") == 0 || strcmp(mode, "off") == 0)
		setup->discard = false;
	else
		return -EINVAL;
	return 0;
}

int io_setup_discard(struct io_setup *setup, const char *mode, struct qcow2_error *err)
{
	if (discard_mode(setup, mode) == 0)
		return 0;
	return io_reason(err, -EINVAL, "Invalid discard option: %s", mode);
}

int io_setup_aio(struct io_setup *setup, const char *mode, struct qcow2_error *err)
{
	setup->native_aio = strcmp(mode, "native") == 0;
	if (setup->native_aio || strcmp(mode, "threads") == 0 || strcmp(mode, "io_uring") == 0)
		return 0;
	return io_reason(err, -EINVAL, "Invalid aio option: %s", mode);
}

/* ---- driver options ---- */

struct parsing {
	struct io_setup *setup;
	unsigned seen;
	bool changing;
	struct qcow2_error *err;
};

enum kind {
	BOOL,	   /* a bool of the setup */
	TRISTATE,  /* unsigned: QCOW2_ON, QCOW2_OFF */
	SIZE,	   /* uint64_t */
	PATH,	   /* char *: the image itself */
	STRING,	   /* char * */
	DISCARD,   /* the discard mode */
	ACCESS,	   /* the access */
	FILE_NAME, /* of a driver for files: only those there are */
	NO_BOOL,   /* the rest is checked and forgotten */
	NO_SIZE,
	NO_ZERO, /* a size that has to be 0 */
	NO_STRING,
	NO_CHECKS, /* one of the sets of overlap checks */
	NO_LOCKS,  /* on, auto, off */
	NO_DETECT, /* on, unmap, off */
};

struct option {
	const char *name;
	enum kind kind;
	size_t at;
	bool only_qcow2;
	bool fixed; /* not to be changed by reopen */
	unsigned seen;
};

#define AT(member) offsetof(struct io_setup, member)

/* A name that ends with a point stands for all that begin with it. */
static const struct option options[] = {
	{"driver", STRING, AT(format), .fixed = true},
	{"filename", PATH, AT(path), .fixed = true},
	{"file.filename", PATH, AT(path), .fixed = true},
	{"file.driver", FILE_NAME, .fixed = true},
	{"file.locking", NO_LOCKS},
	{"file.aio", NO_STRING},
	{"file.", NO_STRING},
	{"read-only", ACCESS, .seen = IO_OPTIONS_ACCESS},
	{"auto-read-only", NO_BOOL},
	{"force-share", BOOL, AT(force_share), .fixed = true},
	{"cache.direct", BOOL, AT(direct), .seen = IO_OPTIONS_CACHE},
	{"cache.no-flush", BOOL, AT(no_flush), .seen = IO_OPTIONS_CACHE},
	{"discard", DISCARD, AT(discard)},
	{"detect-zeroes", NO_DETECT},
	{"node-name", NO_STRING, .fixed = true},
	{"offset", NO_ZERO},
	{"backing.driver", STRING, AT(backing_format), .only_qcow2 = true},
	{"backing.file.driver", FILE_NAME, .only_qcow2 = true},
	{"backing.file.filename", STRING, AT(backing_path), .only_qcow2 = true},
	{"backing.", NO_STRING, .only_qcow2 = true},
	{"lazy-refcounts", TRISTATE, AT(lazy_refcounts), true},
	{"cache-size", SIZE, AT(cache_bytes), true},
	{"l2-cache-size", SIZE, AT(l2_cache_bytes), true},
	{"l2-cache-entry-size", NO_SIZE, .only_qcow2 = true},
	{"refcount-cache-size", SIZE, AT(refcount_cache_bytes), true},
	{"cache-clean-interval", NO_SIZE, .only_qcow2 = true},
	{"overlap-check", NO_CHECKS, .only_qcow2 = true},
	{"overlap-check.template", NO_CHECKS, .only_qcow2 = true},
	{"overlap-check.", NO_BOOL, .only_qcow2 = true},
	{"pass-discard-request", BOOL, AT(pass_request), true},
	{"pass-discard-snapshot", BOOL, AT(pass_snapshot), true},
	{"pass-discard-other", BOOL, AT(pass_other), true},
	{"discard-no-unref", BOOL, AT(discard_keeps), true},
};

static const struct option *find(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		size_t len = strlen(options[i].name);
		bool is_prefix = options[i].name[len - 1] == '.';

		if (is_prefix ? strncmp(name, options[i].name, len) == 0 && name[len]
			      : strcmp(name, options[i].name) == 0)
			return &options[i];
	}
	return NULL;
}

static int one_of(const char *value, const char *const *words)
{
	for (; *words; words++)
		if (strcmp(*words, value) == 0)
			return 0;
	return -EINVAL;
}

static int take_bool(const char *name, const char *value, bool *on, struct qcow2_error *err)
{
	static const char *const yes[] = {"on", "yes", "true", "y", NULL};
	static const char *const no[] = {"off", "no", "false", "n", NULL};

	*on = one_of(value, yes) == 0;
	if (*on || one_of(value, no) == 0)
		return 0;
	return io_reason(err, -EINVAL, "Parameter '%s' expects 'on' or 'off'", name);
}

static int take_size(const char *name, const char *value, uint64_t *size, struct qcow2_error *err)
{
	if (cli_size_parse(value, size) == 0)
		return 0;
	return io_reason(err, -EINVAL,
			 "Parameter '%s' expects a non-negative number below 2^64\n"
			 "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, "
			 "peta-\nand exabytes, respectively.",
			 name);
}

/* The kinds whose values are words of a list. */
static int take_word(enum kind kind, const char *name, const char *value, struct qcow2_error *err)
{
	static const char *const files[] = {"file", "host_device", NULL};
	static const char *const checks[] = {"none", "constant", "cached", "all", NULL};
	static const char *const locks[] = {"on", "off", "auto", NULL};
	static const char *const detect[] = {"on", "off", "unmap", NULL};

	switch (kind) {
	case FILE_NAME:
		return one_of(value, files) == 0
			       ? 0
			       : io_reason(err, -EINVAL, "Unknown driver '%s'", value);
	case NO_CHECKS:
		if (one_of(value, checks) == 0)
			return 0;
		return io_reason(err, -EINVAL,
				 "Unsupported value '%s' for qcow2 option '%s'. Allowed are any of "
				 "the following: none, constant, cached, all",
				 value, name);
	default:
		if (one_of(value, kind == NO_LOCKS ? locks : detect) == 0)
			return 0;
		return io_reason(err, -EINVAL, "Parameter '%s' does not accept value '%s'", name,
				 value);
	}
}

static int take_string(char **at, const char *value, struct qcow2_error *err)
{
	if (io_setup_string(at, value) == 0)
		return 0;
	return io_reason(err, -ENOMEM, "out of memory");
}

/* Only reopen changes what the shell wants to do with the image; else it can only contradict. */
static int take_access(const struct parsing *p, bool read_only)
{
	if (p->changing)
		p->setup->access = read_only ? IO_READ_ONLY : IO_READ_WRITE;
	else if (read_only && p->setup->access != IO_READ_ONLY)
		return io_reason(p->err, -EACCES, "Block node is read-only");
	return 0;
}

static int store(const struct parsing *p, const struct option *o, const char *name,
		 const char *value)
{
	char *at = (char *)p->setup + o->at;
	uint64_t size = 0;
	bool on = false;
	int rc;

	switch (o->kind) {
	case BOOL:
		return take_bool(name, value, (bool *)at, p->err);
	case NO_BOOL:
		return take_bool(name, value, &on, p->err);
	case TRISTATE:
		rc = take_bool(name, value, &on, p->err);
		*(unsigned *)at = on ? QCOW2_ON : QCOW2_OFF;
		return rc;
	case ACCESS:
		rc = take_bool(name, value, &on, p->err);
		return rc == 0 ? take_access(p, on) : rc;
	case SIZE:
		return take_size(name, value, (uint64_t *)at, p->err);
	case NO_SIZE:
		return take_size(name, value, &size, p->err);
	case NO_ZERO:
		rc = take_size(name, value, &size, p->err);
		return rc == 0 && size
			       ? io_reason(p->err, -ENOTSUP, "option '%s' isn't supported", name)
			       : rc;
	case PATH:
		if (p->setup->path)
			return io_reason(p->err, -EINVAL,
					 "Can't specify 'file' and 'filename' options at the same "
					 "time");
		p->setup->path_is_option = true;
		return take_string((char **)at, value, p->err);
	case STRING:
		return take_string((char **)at, value, p->err);
	case NO_STRING:
		return 0;
	case DISCARD:
		return discard_mode(p->setup, value) == 0
			       ? 0
			       : io_reason(p->err, -EINVAL, "Invalid discard option");
	default:
		return take_word(o->kind, name, value, p->err);
	}
}

/* Whether value is what a fixed option has already. */
static bool is_same(const struct parsing *p, const struct option *o, const char *value)
{
	const char *now = o->kind == STRING || o->kind == PATH
				  ? *(char *const *)((const char *)p->setup + o->at)
				  : NULL;

	return now && strcmp(now, value) == 0;
}

static bool is_raw(const struct io_setup *setup)
{
	return setup->format && strcmp(setup->format, "raw") == 0 && !setup->snapshot;
}

static int take(void *opaque, const char *name, const char *value)
{
	struct parsing *p = opaque;
	const struct option *o = find(name);
	char text[256];

	if (!value) {
		snprintf(text, sizeof(text),
			 "warning: short-form boolean option '%.60s' deprecated\n"
			 "Please use %.60s=on instead",
			 name, name);
		io_say(text);
		value = "on";
	}
	/* "backing=" alone: no backing file */
	if (strcmp(name, "backing") == 0 && (!*value || strcmp(value, "null") == 0)) {
		p->setup->no_backing = true;
		return 0;
	}
	if (p->changing &&
	    (!o || (o->fixed && !is_same(p, o, value)) || (o->only_qcow2 && is_raw(p->setup))))
		return io_reason(p->err, -EINVAL, "Cannot change the option '%s'",
				 o && strncmp(name, "file.", 5) == 0 ? name + 5 : name);
	if (!o)
		return p->setup->unknown_option
			       ? 0
			       : take_string(&p->setup->unknown_option, name, p->err);
	if (p->changing && o->fixed)
		return 0;
	if (o->only_qcow2 && !p->setup->qcow2_option &&
	    take_string(&p->setup->qcow2_option, name, p->err) < 0)
		return -ENOMEM;
	p->seen |= o->seen;
	return store(p, o, name, value);
}

int io_setup_options(struct io_setup *setup, const char *list, bool changing, unsigned *seen,
		     struct qcow2_error *err)
{
	struct parsing p = {.setup = setup, .changing = changing, .err = err};
	int rc;

	err->message[0] = 0;
	rc = cli_keyval_each(list, take, &p);
	*seen = p.seen;
	if (rc < 0 && !err->message[0])
		io_reason(err, rc, "'%s' is not a list of NAME=VALUE", list);
	return rc;
}

/* ---- what the library gets ---- */

static unsigned pass_discard(const struct io_setup *s)
{
	if (!s->pass_request)
		return QCOW2_PASS_NONE;
	return s->pass_snapshot && s->pass_other ? QCOW2_PASS_ALL : QCOW2_PASS_DEFAULT;
}

void io_setup_fill(struct qcow2_open_options *to, const struct io_setup *s)
{
	to->flags = (s->access != IO_READ_ONLY ? QCOW2_OPEN_WRITE : 0) |
		    (s->force_share ? QCOW2_OPEN_FORCE_SHARE : 0) |
		    (s->no_backing ? QCOW2_OPEN_NO_BACKING : 0) |
		    (s->direct ? QCOW2_OPEN_DIRECT : 0) | (s->no_flush ? QCOW2_OPEN_NO_FLUSH : 0) |
		    (s->writethrough ? QCOW2_OPEN_WRITETHROUGH : 0);
	to->format = s->format;
	to->l2_cache_bytes = s->l2_cache_bytes;
	to->refcount_cache_bytes = s->refcount_cache_bytes;
	if (s->cache_bytes && !s->l2_cache_bytes)
		to->l2_cache_bytes = s->cache_bytes;
	to->discard = !s->discard	 ? QCOW2_DISCARD_IGNORE
		      : s->discard_keeps ? QCOW2_DISCARD_NO_UNREF
					 : QCOW2_DISCARD_UNMAP;
	to->pass_discard = pass_discard(s);
	to->lazy_refcounts = s->lazy_refcounts;
	to->warn = tool_warn;
}
