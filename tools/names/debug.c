/* SPDX-License-Identifier: MIT */
/*
 * blkdebug nodes: rules from options (inject-error.0.event=...) and from a configuration file
 * ("[inject-error]", then lines of NAME = "VALUE"), whose sections become options of the same kind.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/size.h"
#include "names/store.h"

#define RULES_MAX 64
#define LINE_MAX_LEN 1024
#define NAME_LEN 256

static const char *const kinds[] = {"inject-error", "set-state"};

struct reading {
	struct names_options found;
	struct qcow2_debug_rule rules[RULES_MAX];
	size_t nrules;
	struct qcow2_error *err;
};

/* ---- one rule ---- */

static int take_number(struct names_options *o, const char *prefix, const char *name,
		       uint64_t missing, uint64_t *number, struct qcow2_error *err)
{
	const char *value = names_options_get(o, prefix, name);
	char *end;

	*number = missing;
	if (!value)
		return 0;
	errno = 0;
	*number = strtoull(value, &end, 0);
	if (end == value || *end || errno || value[0] == '-')
		return names_reason(err, -EINVAL, "Parameter '%s' expects a number", name);
	return 0;
}

static int take_flag(struct names_options *o, const char *prefix, const char *name, bool *on,
		     struct qcow2_error *err)
{
	const char *value = names_options_get(o, prefix, name);

	*on = value && strcmp(value, "on") == 0;
	if (!value || *on || strcmp(value, "off") == 0)
		return 0;
	return names_reason(err, -EINVAL, "Parameter '%s' expects 'on' or 'off'", name);
}

static int take_event(struct names_options *o, const char *prefix, unsigned *event,
		      struct qcow2_error *err)
{
	const char *value = names_options_get(o, prefix, "event");

	if (!value)
		return names_reason(err, -EINVAL, "Missing event name for rule");
	*event = qcow2_event_find(value);
	if (*event == QCOW2_EVENT_NONE && strcmp(value, "none") != 0)
		return names_reason(err, -EINVAL, "invalid parameter value: %s", value);
	return 0;
}

static int take_iotype(struct names_options *o, const char *prefix, unsigned *ops,
		       struct qcow2_error *err)
{
	static const char *const names[] = {"read",    "write", "write-zeroes",
					    "discard", "flush", "block-status"};
	const char *value = names_options_get(o, prefix, "iotype");
	size_t i;

	*ops = 0;
	if (!value)
		return 0;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i], value) == 0)
			*ops = 1u << i; /* the order of QCOW2_DEBUG_* */
	return *ops ? 0 : names_reason(err, -EINVAL, "invalid parameter value: %s", value);
}

static int take_error(struct names_options *o, const char *prefix, struct qcow2_debug_rule *rule,
		      struct qcow2_error *err)
{
	uint64_t code = 0, sector = 0;
	bool immediately; /* there is nothing in between here */
	int rc = take_number(o, prefix, "errno", EIO, &code, err);

	if (rc == 0)
		rc = take_number(o, prefix, "sector", QCOW2_NO_OFFSET, &sector, err);
	if (rc == 0)
		rc = take_flag(o, prefix, "once", &rule->once, err);
	if (rc == 0)
		rc = take_flag(o, prefix, "immediately", &immediately, err);
	if (rc == 0)
		rc = take_iotype(o, prefix, &rule->ops, err);
	if (rc < 0)
		return rc;
	if (code == 0 || code > 4095)
		return names_reason(err, -EINVAL, "Parameter 'errno' expects an error number");
	if (sector != QCOW2_NO_OFFSET && sector > UINT64_MAX / 512)
		return names_reason(err, -EINVAL, "Parameter 'sector' is out of range");
	rule->code = -(int)code;
	rule->host_off = sector == QCOW2_NO_OFFSET ? sector : sector * 512;
	return 0;
}

static int take_rule(struct names_options *o, const char *prefix, bool is_error,
		     struct qcow2_debug_rule *rule, struct qcow2_error *err)
{
	uint64_t number = 0;
	int rc = take_event(o, prefix, &rule->event, err);

	if (rc == 0)
		rc = take_number(o, prefix, "state", 0, &number, err);
	rule->state = (unsigned)number;
	if (rc == 0 && is_error)
		return take_error(o, prefix, rule, err);
	if (rc == 0)
		rc = take_number(o, prefix, "new_state", 1, &number, err);
	rule->new_state = (unsigned)number ? (unsigned)number : 1;
	return rc;
}

/* The rules KIND.0, KIND.1, ... among options that begin with prefix. */
static int take_rules(struct reading *r, struct names_options *o, const char *prefix)
{
	char at[2 * NAME_LEN], kind[NAME_LEN];
	const char *bad;
	size_t k, i;

	for (k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		snprintf(kind, sizeof(kind), "%s%s.", prefix, kinds[k]);
		for (i = 0; i <= RULES_MAX; i++) {
			int rc;

			snprintf(at, sizeof(at), "%s%zu.", kind, i);
			if (!names_options_any(o, at))
				break;
			if (r->nrules == RULES_MAX)
				return names_reason(r->err, -E2BIG, "more than %d rules",
						    RULES_MAX);
			rc = take_rule(o, at, k == 0, &r->rules[r->nrules++], r->err);
			if (rc < 0)
				return rc;
		}
		bad = names_options_unused(o, kind);
		if (bad)
			return names_reason(r->err, -EINVAL, "Unused option '%s' for [%s]",
					    bad + strlen(kind), kinds[k]);
	}
	return 0;
}

/* ---- the configuration file ---- */

static char *trim(char *s)
{
	size_t len;

	s += strspn(s, " \t");
	len = strcspn(s, "\r\n");
	while (len > 0 && (s[len - 1] == ' ' || s[len - 1] == '\t'))
		len--;
	s[len] = 0;
	return s;
}

/* "[inject-error]" or "[inject-error "NAME"]": which kind, or -1. */
static int section_of(const char *line)
{
	size_t k, len = strcspn(line + 1, " ]");

	for (k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
		if (strlen(kinds[k]) == len && strncmp(kinds[k], line + 1, len) == 0)
			return (int)k;
	return -1;
}

/* NAME = "VALUE", as an option of the section that is being read. */
static int take_line(struct reading *r, char *line, const char *section)
{
	char name[NAME_LEN], *value = strchr(line, '=');
	size_t len;

	if (!value)
		return names_reason(r->err, -EINVAL, "Invalid parameter '%s'", line);
	/* QEMU wants the spaces, and so do those who move such files to and fro */
	if (value == line || value[-1] != ' ')
		return names_reason(r->err, -EINVAL, "Invalid parameter '%s'", line);
	*value++ = 0;
	value = trim(value);
	len = strlen(value);
	if (len < 2 || value[0] != '"' || value[len - 1] != '"')
		return names_reason(r->err, -EINVAL, "Invalid parameter '%s'", trim(line));
	value[len - 1] = 0;
	if (snprintf(name, sizeof(name), "%s%s", section, trim(line)) >= (int)sizeof(name))
		return names_reason(r->err, -EINVAL, "Invalid parameter '%s'", line);
	if (names_options_set(&r->found, name, value + 1) < 0)
		return names_reason(r->err, -ENOMEM, "out of memory");
	return 0;
}

static int read_lines(struct reading *r, FILE *f)
{
	unsigned count[sizeof(kinds) / sizeof(kinds[0])] = {0};
	char text[LINE_MAX_LEN], section[NAME_LEN] = "";
	int rc = 0;

	while (rc == 0 && fgets(text, sizeof(text), f)) {
		char *line = trim(text);
		int k;

		if (!*line || *line == '#')
			continue;
		if (*line != '[') {
			rc = *section ? take_line(r, line, section)
				      : names_reason(r->err, -EINVAL, "no group defined");
			continue;
		}
		k = section_of(line);
		if (k < 0)
			return names_reason(r->err, -EINVAL, "There is no option group '%.*s'",
					    (int)strcspn(line + 1, " ]"), line + 1);
		snprintf(section, sizeof(section), "%s.%u.", kinds[k], count[k]++);
	}
	return rc;
}

static int read_config(struct reading *r, const char *path)
{
	FILE *f = fopen(path, "re");
	int rc;

	if (!f)
		return names_reason(r->err, -errno, "Could not read blkdebug config file: %s",
				    strerror(errno));
	rc = read_lines(r, f);
	fclose(f);
	return rc == 0 ? take_rules(r, &r->found, "") : rc;
}

/* ---- the node ---- */

static int take_limits(struct names_options *o, const char *prefix, struct qcow2_debug_options *to,
		       struct qcow2_error *err)
{
	uint64_t align = 0;
	const struct {
		const char *name;
		uint64_t *at;
	} limits[] = {
		{"max-transfer", &to->max_transfer}, {"opt-write-zero", &to->opt_zero},
		{"max-write-zero", &to->max_zero},   {"opt-discard", &to->opt_discard},
		{"max-discard", &to->max_discard},
	};
	int rc = names_size_option(o, prefix, "align", &align, err);
	size_t i;

	if (rc == 0 && align > INT32_MAX)
		rc = names_reason(err, -EINVAL, "Cannot meet constraints with align %" PRIu64,
				  align);
	if (rc == 0 && align & (align - 1))
		rc = names_reason(err, -EINVAL, "Cannot meet constraints with align %" PRIu64,
				  align);
	for (i = 0; rc == 0 && i < sizeof(limits) / sizeof(limits[0]); i++) {
		rc = names_size_option(o, prefix, limits[i].name, limits[i].at, err);
		if (rc == 0 && (*limits[i].at > INT32_MAX || (align && *limits[i].at % align)))
			rc = names_reason(err, -EINVAL, "Cannot meet constraints with %s %" PRIu64,
					  limits[i].name, *limits[i].at);
	}
	return rc;
}

int names_debug_open(struct names_stores *s, const char *prefix, const char *config,
		     struct qcow2_storage lower, struct qcow2_storage *storage,
		     struct qcow2_error *err)
{
	struct qcow2_debug_options o = QCOW2_DEBUG_OPTIONS_INIT;
	struct reading r = {.err = err};
	int rc = config && *config ? read_config(&r, config) : 0;

	if (rc == 0)
		rc = take_rules(&r, s->options, prefix);
	if (rc == 0)
		rc = take_limits(s->options, prefix, &o, err);
	names_options_release(&r.found);
	if (rc < 0) {
		qcow2_storage_close(&lower);
		return rc;
	}
	o.rules = r.rules;
	o.nrules = r.nrules;
	o.told = s->told;
	return qcow2_storage_debug(storage, lower, &o, &s->debug, err);
}
