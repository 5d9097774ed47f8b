/* SPDX-License-Identifier: MIT */
/*
 * Setups: what is typed becomes fields. Nothing is opened here, so whether an option fits the
 * format is found out later. Options of QEMU that change nothing for us are taken and forgotten.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diag.h"
#include "cli/keyval.h"
#include "cli/size.h"
#include "image.h"
#include "names/setup.h"

void names_setup_init(struct names_setup *setup)
{
	memset(setup, 0, sizeof(*setup));
	setup->discard = true;
	setup->pass_request = true;
	setup->pass_snapshot = true;
}

void names_setup_release(struct names_setup *setup)
{
	free(setup->path);
	free(setup->format);
	free(setup->name);
	free(setup->qcow2_option);
	free(setup->overlap_template);
	free(setup->overlap_word);
	names_options_release(&setup->tree);
	names_setup_init(setup);
}

int names_setup_string(char **at, const char *text)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		return -ENOMEM;
	free(*at);
	*at = copy;
	return 0;
}

int names_setup_copy(struct names_setup *to, const struct names_setup *from)
{
	*to = *from;
	to->name = to->path = to->format = to->qcow2_option = NULL;
	to->overlap_template = to->overlap_word = NULL;
	to->tree = (struct names_options){0};
	if (names_setup_string(&to->name, from->name) == 0 &&
	    names_setup_string(&to->path, from->path) == 0 &&
	    names_setup_string(&to->format, from->format) == 0 &&
	    names_setup_string(&to->qcow2_option, from->qcow2_option) == 0 &&
	    names_setup_string(&to->overlap_template, from->overlap_template) == 0 &&
	    names_setup_string(&to->overlap_word, from->overlap_word) == 0 &&
	    names_options_copy(&to->tree, &from->tree) == 0)
		return 0;
	names_setup_release(to);
	return -ENOMEM;
}

int names_setup_cache(struct names_setup *setup, const char *mode, struct qcow2_error *err)
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
	return names_reason(err, -EINVAL, "Invalid cache option: %s", mode);
}

static int discard_mode(struct names_setup *setup, const char *mode)
{
	if (strcmp(mode, "unmap") == 0 || strcmp(mode, "on") == 0)
		setup->discard = true;
	else if (strcmp(mode, "ignore") == 0 || strcmp(mode, "off") == 0)
		setup->discard = false;
	else
		return -EINVAL;
	return 0;
}

int names_setup_discard(struct names_setup *setup, const char *mode, struct qcow2_error *err)
{
	if (discard_mode(setup, mode) == 0)
		return 0;
	return names_reason(err, -EINVAL, "Invalid discard option: %s", mode);
}

int names_setup_aio(struct names_setup *setup, const char *mode, struct qcow2_error *err)
{
	setup->native_aio = strcmp(mode, "native") == 0;
	if (setup->native_aio || strcmp(mode, "threads") == 0 || strcmp(mode, "io_uring") == 0)
		return 0;
	return names_reason(err, -EINVAL, "Invalid aio option: %s", mode);
}

/* ---- driver options ---- */

struct parsing {
	struct names_setup *setup;
	const char *implied; /* the name of a first element that has only a value */
	unsigned seen;
	bool changing;
	struct qcow2_error *err;
};

enum kind {
	BOOL,	  /* a bool of the setup */
	TRISTATE, /* unsigned: QCOW2_ON, QCOW2_OFF */
	SIZE,	  /* uint64_t */
	PATH,	  /* char *: the image itself */
	STRING,	  /* char * */
	DISCARD,  /* the discard mode */
	ACCESS,	  /* the access */
	CHECKS,	  /* a set of overlap checks */
	REGION,	  /* one of them */
	NO_BOOL,  /* the rest is checked and forgotten */
	NO_INTERVAL,
	NO_STRING,
	DETECT, /* off, on, unmap */
};

struct option {
	const char *name;
	enum kind kind;
	size_t at;
	bool only_qcow2;
	bool fixed; /* not to be changed by reopen */
	unsigned seen;
};

#define AT(member) offsetof(struct names_setup, member)

/* A name that ends with a point stands for all that begin with it. */
static const struct option options[] = {
	{"driver", STRING, AT(format), .fixed = true},
	{"filename", PATH, AT(path), .fixed = true},
	{"file.filename", PATH, AT(path), .fixed = true},
	{"read-only", ACCESS, .seen = NAMES_OPTIONS_ACCESS},
	{"auto-read-only", NO_BOOL},
	{"force-share", BOOL, AT(force_share), .fixed = true},
	{"cache.direct", BOOL, AT(direct), .seen = NAMES_OPTIONS_CACHE},
	{"cache.no-flush", BOOL, AT(no_flush), .seen = NAMES_OPTIONS_CACHE},
	{"discard", DISCARD, AT(discard)},
	{"detect-zeroes", DETECT},
	{"node-name", NO_STRING, .fixed = true},
	{"lazy-refcounts", TRISTATE, AT(lazy_refcounts), true},
	{"cache-size", SIZE, AT(cache_bytes), true},
	{"l2-cache-size", SIZE, AT(l2_cache_bytes), true},
	{"l2-cache-entry-size", SIZE, AT(l2_entry_bytes), true},
	{"refcount-cache-size", SIZE, AT(refcount_cache_bytes), true},
	{"cache-clean-interval", NO_INTERVAL, .only_qcow2 = true},
	{"overlap-check", CHECKS, AT(overlap_word), true},
	{"overlap-check.template", CHECKS, AT(overlap_template), true},
	{"overlap-check.", REGION, .only_qcow2 = true},
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
	return names_reason(err, -EINVAL, "Parameter '%s' expects 'on' or 'off'", name);
}

static int take_size(const char *name, const char *value, uint64_t *size, struct qcow2_error *err)
{
	int rc = cli_size_parse(value, size);

	if (rc == 0)
		return 0;
	if (rc == -ERANGE && value[0] != '-')
		return names_reason(err, -ERANGE, "Value '%s' is out of range for parameter '%s'",
				    value, name);
	return names_reason(err, -EINVAL,
			    "Parameter '%s' expects a non-negative number below 2^64\n"
			    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, "
			    "peta-\nand exabytes, respectively.",
			    name);
}

static int take_detect(struct names_setup *setup, const char *value, struct qcow2_error *err)
{
	static const char *const modes[] = {"off", "on", "unmap"};
	unsigned i;

	for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(modes[i], value) == 0)
			break;
	if (i == sizeof(modes) / sizeof(modes[0]))
		return names_reason(err, -EINVAL, "invalid parameter value: %s", value);
	setup->detect_zeroes = (enum names_setup_zeroes)i;
	return 0;
}

/* Seconds: nothing is thrown away by time here, but the number has to be one. */
static int take_interval(const char *name, const char *value, struct qcow2_error *err)
{
	uint64_t seconds;

	if (cli_number_parse(value, 0, UINT64_MAX, &seconds) < 0)
		return names_reason(err, -EINVAL, "Parameter '%s' expects a number", name);
	if (seconds > UINT32_MAX)
		return names_reason(err, -EINVAL, "Cache clean interval too big");
	return 0;
}

/* ---- overlap checks ---- */

#define CONSTANT                                                                                   \
	(QCOW2_OVERLAP_MAIN_HEADER | QCOW2_OVERLAP_ACTIVE_L1 | QCOW2_OVERLAP_REFCOUNT_TABLE |      \
	 QCOW2_OVERLAP_SNAPSHOT_TABLE | QCOW2_OVERLAP_BITMAP_DIRECTORY)
#define CACHED                                                                                     \
	(CONSTANT | QCOW2_OVERLAP_ACTIVE_L2 | QCOW2_OVERLAP_REFCOUNT_BLOCK |                       \
	 QCOW2_OVERLAP_INACTIVE_L1)

static const struct {
	const char *name;
	unsigned bits;
} templates[] = {
	{"none", 0},
	{"constant", CONSTANT},
	{"cached", CACHED},
	{"all", CACHED | QCOW2_OVERLAP_INACTIVE_L2},
};

static const struct {
	const char *name;
	unsigned bit;
} regions[] = {
	{"main-header", QCOW2_OVERLAP_MAIN_HEADER},
	{"active-l1", QCOW2_OVERLAP_ACTIVE_L1},
	{"active-l2", QCOW2_OVERLAP_ACTIVE_L2},
	{"refcount-table", QCOW2_OVERLAP_REFCOUNT_TABLE},
	{"refcount-block", QCOW2_OVERLAP_REFCOUNT_BLOCK},
	{"snapshot-table", QCOW2_OVERLAP_SNAPSHOT_TABLE},
	{"inactive-l1", QCOW2_OVERLAP_INACTIVE_L1},
	{"inactive-l2", QCOW2_OVERLAP_INACTIVE_L2},
	{"bitmap-directory", QCOW2_OVERLAP_BITMAP_DIRECTORY},
};

/* A template sets all, whatever came before. */
static int take_checks(struct names_setup *setup, char **at, const char *name, const char *value,
		       struct qcow2_error *err)
{
	const char *other;
	size_t i;

	for (i = 0; i < sizeof(templates) / sizeof(templates[0]); i++) {
		if (strcmp(templates[i].name, value) != 0)
			continue;
		setup->overlap_check = QCOW2_OVERLAP_CHOSEN | templates[i].bits;
		if (names_setup_string(at, value) < 0)
			return names_reason(err, -ENOMEM, "out of memory");
		other = at == &setup->overlap_word ? setup->overlap_template : setup->overlap_word;
		if (!other || strcmp(other, value) == 0)
			return 0;
		return names_reason(err, -EINVAL,
				    "Conflicting values for qcow2 options 'overlap-check' ('%s') "
				    "and 'overlap-check.template' ('%s')",
				    setup->overlap_word, setup->overlap_template);
	}
	return names_reason(err, -EINVAL,
			    "Unsupported value '%s' for qcow2 option '%s'. Allowed are any of "
			    "the following: none, constant, cached, all",
			    value, name);
}

static int take_region(struct names_setup *setup, const char *name, const char *value,
		       struct qcow2_error *err)
{
	bool on;
	size_t i;

	for (i = 0; i < sizeof(regions) / sizeof(regions[0]); i++) {
		if (strcmp(regions[i].name, strchr(name, '.') + 1) != 0)
			continue;
		if (take_bool(name, value, &on, err) < 0)
			return err->code;
		if (!setup->overlap_check)
			setup->overlap_check = QCOW2_OVERLAP_CHOSEN | CACHED;
		setup->overlap_check &= ~regions[i].bit;
		setup->overlap_check |= on ? regions[i].bit : 0;
		return 0;
	}
	return names_reason(err, -EINVAL, "Block format 'qcow2' does not support the option '%s'",
			    name);
}

static int take_string(char **at, const char *value, struct qcow2_error *err)
{
	if (names_setup_string(at, value) == 0)
		return 0;
	return names_reason(err, -ENOMEM, "out of memory");
}

/* Only reopen changes what the shell wants to do with the image; else it can only contradict. */
static int take_access(const struct parsing *p, bool read_only)
{
	if (p->changing)
		p->setup->access = read_only ? NAMES_READ_ONLY : NAMES_READ_WRITE;
	else if (read_only && p->setup->access != NAMES_READ_ONLY)
		return names_reason(p->err, -EACCES, "Block node is read-only");
	return 0;
}

static int store(const struct parsing *p, const struct option *o, const char *name,
		 const char *value)
{
	char *at = (char *)p->setup + o->at;
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
	case NO_INTERVAL:
		return take_interval(name, value, p->err);
	case PATH:
		if (p->setup->path)
			return names_reason(
				p->err, -EINVAL,
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
			       : names_reason(p->err, -EINVAL, "Invalid discard option");
	case CHECKS:
		return take_checks(p->setup, (char **)at, name, value, p->err);
	case REGION:
		return take_region(p->setup, name, value, p->err);
	default:
		return take_detect(p->setup, value, p->err);
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

static bool is_raw(const struct names_setup *setup)
{
	return setup->format && strcmp(setup->format, "raw") == 0 && !setup->snapshot;
}

/* What isn't in the table is kept for the nodes below, and for who knows it when it is opened. */
static int keep(const struct parsing *p, const char *name, const char *value)
{
	const char *now = names_options_get(&p->setup->tree, "", name);

	if (p->changing && strncmp(name, "backing.", 8) != 0 &&
	    (!now || !value || strcmp(now, value) != 0))
		return names_reason(p->err, -EINVAL, "Cannot change the option '%s'",
				    strncmp(name, "file.", 5) == 0 ? name + 5 : name);
	if (names_options_set(&p->setup->tree, name, value) < 0)
		return names_reason(p->err, -ENOMEM, "out of memory");
	return 0;
}

static int take_one(const struct parsing *p, const char *name, const char *value)
{
	const struct option *o = find(name);

	/* "backing=" alone: no backing file */
	if (strcmp(name, "backing") == 0 && (!value || !*value || strcmp(value, "null") == 0)) {
		p->setup->no_backing = true;
		return 0;
	}
	if (!o)
		return keep(p, name, value);
	if (!value)
		return names_reason(p->err, -EINVAL, "Invalid parameter type for '%s'", name);
	if (p->changing &&
	    ((o->fixed && !is_same(p, o, value)) || (o->only_qcow2 && is_raw(p->setup))))
		return names_reason(p->err, -EINVAL, "Cannot change the option '%s'",
				    strncmp(name, "file.", 5) == 0 ? name + 5 : name);
	if (p->changing && o->fixed)
		return 0;
	if (o->only_qcow2 && !p->setup->qcow2_option &&
	    take_string(&p->setup->qcow2_option, name, p->err) < 0)
		return -ENOMEM;
	return store(p, o, name, value);
}

/* As typed: "NAME" alone is a deprecated way to say "NAME=on". */
static int take(void *opaque, const char *name, const char *value)
{
	struct parsing *p = opaque;
	const struct option *o;

	if (!value && p->implied) {
		value = name;
		name = p->implied;
	}
	p->implied = NULL;
	o = find(name);
	if (!value) {
		fflush(stdout);
		fprintf(stderr,
			"%s: warning: short-form boolean option '%s' deprecated\n"
			"Please use %s=on instead\n",
			cli_program(), name, name);
		value = "on";
	}
	p->seen |= o ? o->seen : 0;
	return take_one(p, name, value);
}

static int take_member(void *opaque, const char *name, const char *value)
{
	return take_one(opaque, name, value);
}

int names_setup_option(struct names_setup *setup, const char *name, const char *value,
		       struct qcow2_error *err)
{
	const struct parsing p = {.setup = setup, .err = err};

	return take_one(&p, name, value);
}

static int take_list(struct parsing *p, const char *list)
{
	int rc;

	p->err->message[0] = 0;
	rc = cli_keyval_each(list, take, p);
	if (rc < 0 && !p->err->message[0])
		names_reason(p->err, rc, "'%s' is not a list of NAME=VALUE", list);
	return rc;
}

int names_setup_name(struct names_setup *setup, const char *name, bool image_opts,
		     struct qcow2_error *err)
{
	struct parsing p = {.setup = setup, .err = err};

	if (image_opts) {
		setup->path_is_option = true;
		p.implied = "file";
		return take_list(&p, name);
	}
	if (names_setup_string(&setup->name, name) < 0)
		return names_reason(err, -ENOMEM, "out of memory");
	if (strncmp(name, "json:", 5) == 0)
		return names_json_each(name + 5, take_member, &p, err);
	return take_string(&setup->path, name, err);
}

int names_setup_options(struct names_setup *setup, const char *list, bool changing, unsigned *seen,
			struct qcow2_error *err)
{
	struct parsing p = {.setup = setup, .changing = changing, .err = err};
	int rc = take_list(&p, list);

	*seen = p.seen;
	return rc;
}

/* ---- what the library gets ---- */

static unsigned pass_discard(const struct names_setup *s)
{
	return QCOW2_PASS_EACH | (s->pass_request ? QCOW2_PASS_REQUEST : 0) |
	       (s->pass_snapshot ? QCOW2_PASS_SNAPSHOT : 0) |
	       (s->pass_other ? QCOW2_PASS_OTHER : 0);
}

void names_setup_fill(struct qcow2_open_options *to, const struct names_setup *s)
{
	to->flags = (s->access != NAMES_READ_ONLY ? QCOW2_OPEN_WRITE : 0) |
		    (s->force_share ? QCOW2_OPEN_FORCE_SHARE : 0) |
		    (s->no_backing ? QCOW2_OPEN_NO_BACKING : 0) |
		    (s->direct ? QCOW2_OPEN_DIRECT : 0) | (s->no_flush ? QCOW2_OPEN_NO_FLUSH : 0) |
		    (s->writethrough ? QCOW2_OPEN_WRITETHROUGH : 0);
	to->format = s->format;
	to->l2_cache_bytes = s->l2_cache_bytes;
	to->refcount_cache_bytes = s->refcount_cache_bytes;
	/* of both together: what one of them leaves is the other's */
	if (s->cache_bytes && !s->l2_cache_bytes)
		to->l2_cache_bytes = s->cache_bytes > s->refcount_cache_bytes
					     ? s->cache_bytes - s->refcount_cache_bytes
					     : 1;
	else if (s->cache_bytes && !s->refcount_cache_bytes)
		to->refcount_cache_bytes =
			s->cache_bytes > s->l2_cache_bytes ? s->cache_bytes - s->l2_cache_bytes : 1;
	to->discard = !s->discard	 ? QCOW2_DISCARD_IGNORE
		      : s->discard_keeps ? QCOW2_DISCARD_NO_UNREF
					 : QCOW2_DISCARD_UNMAP;
	to->pass_discard = pass_discard(s);
	to->overlap_check = s->overlap_check;
	to->lazy_refcounts = s->lazy_refcounts;
	to->warn = tool_warn;
}
