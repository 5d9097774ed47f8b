/* SPDX-License-Identifier: MIT */
/*
 * The store for tests that an embedder can have: errors at named steps, and requests that stop
 * there. The rules and their states are here; what carries them out is the fault layer, whose hook
 * this is, and in front of it the layer that cuts requests to pieces if there are limits.
 *
 * A step makes the rules that name it the active ones, in place of those before; a rule without a
 * step is active from the beginning, until some step brings others. An operation fails by the first
 * active rule that fits it. A thread that stops at a step waits here until it is told to go on; no
 * lock of the library is held then (docs/threads.md).
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/num.h"
#include "storage/storage.h"

struct brk { /* a step where the next request stops */
	char *tag;
	unsigned event;
	struct brk *next;
};

struct stopped { /* a request that has stopped; on the stack of its thread */
	const char *tag;
	bool go;
	struct stopped *next;
};

struct rule {
	struct qcow2_debug_rule r;
	bool active;
	bool spent;
};

struct qcow2_debug {
	/* immutable */
	size_t nrules;
	void (*told)(void *opaque, const char *tag, bool resumed);
	void *opaque;
	/* guarded by lock, which isn't held while told runs */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a request stopped, or may go on */
	unsigned state;
	struct brk *breaks;
	struct stopped *stopped;
	struct rule rules[];
};

/* ---- rules ---- */

static bool fits(const struct rule *rule, enum storage_op op, uint64_t host_off, uint64_t len_bytes)
{
	static const unsigned bits[STORAGE_OP_COUNT] = {
		[STORAGE_OP_READ] = QCOW2_DEBUG_READ,
		[STORAGE_OP_WRITE] = QCOW2_DEBUG_WRITE,
		[STORAGE_OP_ZERO] = QCOW2_DEBUG_ZERO,
		[STORAGE_OP_FLUSH] = QCOW2_DEBUG_FLUSH,
		[STORAGE_OP_DISCARD] = QCOW2_DEBUG_DISCARD,
		[STORAGE_OP_EXTENT] = QCOW2_DEBUG_EXTENT,
	};
	const struct qcow2_debug_rule *r = &rule->r;

	return rule->active && (r->ops & bits[op]) &&
	       (r->host_off == QCOW2_NO_OFFSET ||
		ranges_overlap(r->host_off, 1, host_off, len_bytes));
}

static int before(void *opaque, enum storage_op op, uint64_t host_off, uint64_t len_bytes)
{
	struct qcow2_debug *d = opaque;
	int code = 0;

	pthread_mutex_lock(&d->lock);
	for (size_t i = 0; code == 0 && i < d->nrules; i++) {
		struct rule *rule = &d->rules[i];

		if (!fits(rule, op, host_off, len_bytes))
			continue;
		code = rule->r.code;
		rule->spent = rule->r.once;
		rule->active = !rule->spent;
	}
	pthread_mutex_unlock(&d->lock);
	return code;
}

static bool is_due(const struct qcow2_debug *d, const struct rule *rule, unsigned event)
{
	return rule->r.event == event && !rule->spent &&
	       (rule->r.state == 0 || rule->r.state == d->state);
}

static void follow_rules_locked(struct qcow2_debug *d, unsigned event)
{
	unsigned state = d->state;
	bool injects = false;

	for (size_t i = 0; i < d->nrules; i++)
		injects =
			injects || (is_due(d, &d->rules[i], event) && d->rules[i].r.new_state == 0);
	for (size_t i = 0; i < d->nrules; i++) {
		struct rule *rule = &d->rules[i];

		if (injects)
			rule->active = rule->r.new_state == 0 && is_due(d, rule, event);
		if (is_due(d, rule, event) && rule->r.new_state != 0)
			state = rule->r.new_state;
	}
	d->state = state;
}

/* ---- breakpoints ---- */

/* The break at that step, taken off the list; or NULL. */
static struct brk *take_break_locked(struct qcow2_debug *d, unsigned event)
{
	struct brk **at = &d->breaks, *b;

	while (*at && (*at)->event != event)
		at = &(*at)->next;
	b = *at;
	if (b)
		*at = b->next;
	return b;
}

static void free_break(struct brk *b)
{
	if (b)
		mem_free(b->tag);
	mem_free(b);
}

static void tell(const struct qcow2_debug *d, const char *tag, bool resumed)
{
	if (d->told)
		d->told(d->opaque, tag, resumed);
}

static void stop(struct qcow2_debug *d, const char *tag)
{
	struct stopped self = {.tag = tag};
	struct stopped **at;

	tell(d, tag, false); /* before anybody can let it go */
	pthread_mutex_lock(&d->lock);
	self.next = d->stopped;
	d->stopped = &self;
	pthread_cond_broadcast(&d->changed);
	while (!self.go)
		pthread_cond_wait(&d->changed, &d->lock);
	for (at = &d->stopped; *at != &self; at = &(*at)->next)
		;
	*at = self.next;
	pthread_mutex_unlock(&d->lock);
}

static void told(void *opaque, unsigned event)
{
	struct qcow2_debug *d = opaque;
	struct brk *b;

	pthread_mutex_lock(&d->lock);
	follow_rules_locked(d, event);
	b = take_break_locked(d, event);
	pthread_mutex_unlock(&d->lock);
	if (b)
		stop(d, b->tag);
	free_break(b);
}

int qcow2_debug_break(struct qcow2_debug *debug, unsigned event, const char *tag,
		      struct qcow2_error *err)
{
	struct brk *b;

	if (event == QCOW2_EVENT_NONE || event >= QCOW2_EVENT_COUNT)
		return error_set(err, -ENOENT, "no step of that name");
	b = mem_zalloc(1, sizeof(*b));
	if (b)
		b->tag = mem_strdup(tag);
	if (!b || !b->tag) {
		free_break(b);
		return error_errno(err, -ENOMEM, "can't set a breakpoint");
	}
	b->event = event;
	pthread_mutex_lock(&debug->lock);
	b->next = debug->breaks;
	debug->breaks = b;
	pthread_mutex_unlock(&debug->lock);
	return 0;
}

static struct stopped *find_locked(const struct qcow2_debug *d, const char *tag)
{
	struct stopped *s = d->stopped;

	while (s && (s->go || (tag && strcmp(s->tag, tag) != 0)))
		s = s->next;
	return s;
}

bool qcow2_debug_wait(struct qcow2_debug *debug, const char *tag, unsigned timeout_ms)
{
	struct timespec end;
	bool found;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += timeout_ms / 1000;
	end.tv_nsec += timeout_ms % 1000 * 1000000l;
	end.tv_sec += end.tv_nsec / 1000000000l;
	end.tv_nsec %= 1000000000l;
	pthread_mutex_lock(&debug->lock);
	while (rc == 0 && !find_locked(debug, tag))
		rc = pthread_cond_timedwait(&debug->changed, &debug->lock, &end);
	found = find_locked(debug, tag) != NULL;
	pthread_mutex_unlock(&debug->lock);
	return found;
}

/* Lets one go. false: there is none. */
static bool resume_one(struct qcow2_debug *debug, const char *tag)
{
	struct stopped *s;
	char *copy = NULL;

	pthread_mutex_lock(&debug->lock);
	s = find_locked(debug, tag);
	if (s) {
		copy = mem_strdup(s->tag); /* the thread frees its own */
		s->go = true;
	}
	pthread_mutex_unlock(&debug->lock);
	if (!s)
		return false;
	tell(debug, copy ? copy : "", true);
	mem_free(copy);
	/* it looks only now, so that what is told comes in order */
	pthread_mutex_lock(&debug->lock);
	pthread_cond_broadcast(&debug->changed);
	pthread_mutex_unlock(&debug->lock);
	return true;
}

int qcow2_debug_resume(struct qcow2_debug *debug, const char *tag, struct qcow2_error *err)
{
	if (resume_one(debug, tag))
		return 0;
	return error_set(err, -ENOENT, "no request has stopped with the tag \"%s\"", tag);
}

/* Takes away the breaks of that tag; NULL: all. */
static bool drop_breaks(struct qcow2_debug *d, const char *tag)
{
	struct brk *gone = NULL, **at;
	bool any;

	pthread_mutex_lock(&d->lock);
	for (at = &d->breaks; *at;) {
		struct brk *b = *at;

		if (tag && strcmp(b->tag, tag) != 0) {
			at = &b->next;
			continue;
		}
		*at = b->next;
		b->next = gone;
		gone = b;
	}
	pthread_mutex_unlock(&d->lock);
	any = gone != NULL;
	while (gone) {
		struct brk *next = gone->next;

		free_break(gone);
		gone = next;
	}
	return any;
}

int qcow2_debug_unbreak(struct qcow2_debug *debug, const char *tag, struct qcow2_error *err)
{
	bool any = drop_breaks(debug, tag);

	while (resume_one(debug, tag))
		any = true;
	if (any || !tag)
		return 0;
	return error_set(err, -ENOENT, "there is no breakpoint with the tag \"%s\"", tag);
}

/* ---- making one ---- */

static void release(void *opaque)
{
	struct qcow2_debug *d = opaque;

	drop_breaks(d, NULL);
	pthread_cond_destroy(&d->changed);
	pthread_mutex_destroy(&d->lock);
	mem_free(d);
}

static int check_rule(const struct qcow2_debug_rule *r, struct qcow2_error *err)
{
	if (r->event >= QCOW2_EVENT_COUNT || r->ops & ~QCOW2_DEBUG_ALL)
		return error_set(err, -EINVAL, "a rule with an unknown step or operation");
	if (r->code > 0 || (r->code == 0 && r->new_state == 0))
		return error_set(err, -EINVAL, "a rule that neither fails nor changes the state");
	return 0;
}

static int make(struct qcow2_debug **debug, const struct qcow2_debug_options *o,
		struct qcow2_error *err)
{
	struct qcow2_debug *d;
	pthread_condattr_t monotonic;
	uint64_t bytes;

	for (size_t i = 0; i < o->nrules; i++) {
		int ret = check_rule(&o->rules[i], err);

		if (ret < 0)
			return ret;
	}
	if (!mul_fits(o->nrules, sizeof(d->rules[0]), &bytes) ||
	    !add_fits(bytes, sizeof(*d), &bytes))
		bytes = UINT64_MAX;
	d = mem_zalloc(bytes, 1);
	if (!d)
		return error_errno(err, -ENOMEM, "can't make a store for tests");
	d->nrules = o->nrules;
	d->told = o->told;
	d->opaque = o->opaque;
	d->state = 1;
	for (size_t i = 0; i < o->nrules; i++) {
		struct rule *rule = &d->rules[i];

		rule->r = o->rules[i];
		if (rule->r.ops == 0)
			rule->r.ops = QCOW2_DEBUG_ALL & ~QCOW2_DEBUG_EXTENT;
		rule->active = rule->r.event == QCOW2_EVENT_NONE && rule->r.new_state == 0;
	}
	pthread_mutex_init(&d->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&d->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	*debug = d;
	return 0;
}

static bool has_limits(const struct storage_limits *l)
{
	return l->max_transfer || l->max_zero || l->opt_zero || l->max_discard || l->opt_discard;
}

int storage_debug_new(struct qcow2_storage *st, struct qcow2_storage lower,
		      const struct qcow2_debug_options *o, struct qcow2_debug **debug,
		      struct qcow2_error *err)
{
	struct storage_fault_hook hook = {.before = before, .told = told, .release = release};
	const struct storage_limits limits = {.max_transfer = o->max_transfer,
					      .max_zero = o->max_zero,
					      .opt_zero = o->opt_zero,
					      .max_discard = o->max_discard,
					      .opt_discard = o->opt_discard};
	struct qcow2_debug *d = NULL;
	int ret = make(&d, o, err);

	*st = (struct qcow2_storage){0};
	if (ret < 0) {
		storage_close(&lower);
		return ret;
	}
	ret = storage_fault_new(st, lower, err);
	if (ret < 0) {
		release(d);
		return ret;
	}
	hook.opaque = d;
	storage_fault_set_hook(*st, &hook);
	if (has_limits(&limits))
		ret = storage_pieces_new(st, *st, &limits, err);
	if (ret == 0)
		*debug = d;
	return ret;
}
