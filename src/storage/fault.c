/* SPDX-License-Identifier: MIT */
/*
 * A layer that fails, delays, cuts short or drops operations on the store below, as rules say.
 * Operations of each kind are numbered from 0 for the life of the store; of several rules that
 * fit the first one added counts. What no rule fits goes through untouched. A hook may decide
 * beyond the rules: that is how debug.c is built on this layer.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/iov.h"
#include "base/num.h"
#include "storage/storage.h"

#define MAX_RULES 16
#define PIECES 16

struct fault {
	struct qcow2_storage lower;	/* immutable */
	struct storage_fault_hook hook; /* immutable once the store is used */

	/* guarded by lock, which isn't held while lower works */
	pthread_mutex_t lock;
	struct storage_fault_rule rules[MAX_RULES];
	uint64_t counted[MAX_RULES]; /* operations since the rule's event, for rules with one */
	unsigned nrules;
	unsigned event; /* the last that was told */
	uint64_t seen[STORAGE_OP_COUNT];
};

static const struct qcow2_storage_ops fault_ops;

static const char *const op_names[STORAGE_OP_COUNT] = {
	[STORAGE_OP_READ] = "read",	    [STORAGE_OP_WRITE] = "write",
	[STORAGE_OP_ZERO] = "zero",	    [STORAGE_OP_DISCARD] = "discard",
	[STORAGE_OP_FLUSH] = "flush",	    [STORAGE_OP_TRUNCATE] = "truncate",
	[STORAGE_OP_ALLOCATE] = "allocate", [STORAGE_OP_EXTENT] = "extent",
};

static struct fault *fault_of(struct qcow2_storage st)
{
	assert(st.ops == &fault_ops);
	return st.self;
}

/* Whether rule i is for this operation, the n-th of its kind. */
static bool fits_locked(struct fault *f, unsigned i, enum storage_op op, uint64_t n)
{
	const struct storage_fault_rule *rule = &f->rules[i];

	if (rule->op != op || (rule->event != 0 && rule->event != f->event))
		return false;
	if (rule->event != 0)
		n = f->counted[i]++;
	return n >= rule->nth && n - rule->nth < rule->times;
}

/* Where in the store an operation works. */
struct place {
	uint64_t host_off, len_bytes;
};

/* Of a vector; one that is malformed is told by the store below. */
static struct place place_of(const struct iovec *iov, int iovcnt, uint64_t host_off)
{
	struct place at = {.host_off = host_off};

	if (!iov_total(iov, iovcnt, &at.len_bytes))
		at.len_bytes = 0;
	return at;
}

/*
 * Numbers the operation and does what the rules say of it. true: it isn't to be done, *code is
 * its result. *rule is what applies, or all zeros.
 */
static bool intercept(struct fault *f, enum storage_op op, const struct place *at,
		      struct storage_fault_rule *rule, int *code, struct qcow2_error *err)
{
	struct timespec delay;
	uint64_t n;

	*rule = (struct storage_fault_rule){0};
	pthread_mutex_lock(&f->lock);
	n = f->seen[op]++;
	for (unsigned i = 0; i < f->nrules; i++) {
		if (fits_locked(f, i, op, n)) {
			*rule = f->rules[i];
			break;
		}
	}
	pthread_mutex_unlock(&f->lock);
	delay = (struct timespec){.tv_sec = rule->delay_us / 1000000,
				  .tv_nsec = rule->delay_us % 1000000 * 1000l};
	if (rule->delay_us != 0)
		nanosleep(&delay, NULL);
	*code = rule->code;
	if (*code == 0 && !rule->drop && f->hook.before) {
		*code = f->hook.before(f->hook.opaque, op, at->host_off, at->len_bytes);
		if (*code != 0)
			error_errno(err, *code, "injected fault");
		return *code != 0;
	}
	if (rule->code != 0)
		error_errno(err, rule->code, "injected fault in %s %llu", op_names[op],
			    (unsigned long long)n);
	return rule->code != 0 || rule->drop;
}

static void fault_close(void *self)
{
	struct fault *f = self;

	storage_close(&f->lower);
	if (f->hook.release)
		f->hook.release(f->hook.opaque);
	pthread_mutex_destroy(&f->lock);
	mem_free(f);
}

static int fault_size(void *self, uint64_t *size_bytes, struct qcow2_error *err)
{
	const struct fault *f = self;

	return storage_size(f->lower, size_bytes, err);
}

static int fault_preadv(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
			struct qcow2_error *err)
{
	struct place at = place_of(iov, iovcnt, host_off);
	struct storage_fault_rule rule;
	struct fault *f = self;
	struct iov_cursor c;
	int code;

	if (!intercept(f, STORAGE_OP_READ, &at, &rule, &code, err))
		return storage_readv(f->lower, iov, iovcnt, host_off, err);
	/* a read that is dropped has read nothing, but the buffers have to hold something */
	if (code == 0) {
		iov_cursor_init(&c, iov, iovcnt);
		iov_fill(&c, 0, (size_t)at.len_bytes);
	}
	return code;
}

/* Does the first len bytes of a write that is to fail; nobody asks whether that works. */
static void write_part(struct fault *f, const struct iovec *iov, int iovcnt, uint64_t host_off,
		       uint64_t len)
{
	struct iovec pieces[PIECES];
	struct iov_cursor c;
	size_t taken = 1;

	iov_cursor_init(&c, iov, iovcnt);
	while (len != 0 && taken != 0) {
		int n = iov_cut(&c, (size_t)min_u64(len, SIZE_MAX), pieces, PIECES, &taken);

		if (storage_writev(f->lower, pieces, n, host_off, NULL) != 0)
			return;
		host_off += taken;
		len -= taken;
	}
}

static int fault_pwritev(void *self, const struct iovec *iov, int iovcnt, uint64_t host_off,
			 struct qcow2_error *err)
{
	struct place at = place_of(iov, iovcnt, host_off);
	struct storage_fault_rule rule;
	struct fault *f = self;
	int code;

	if (!intercept(f, STORAGE_OP_WRITE, &at, &rule, &code, err))
		return storage_writev(f->lower, iov, iovcnt, host_off, err);
	if (code != 0)
		write_part(f, iov, iovcnt, host_off, rule.short_bytes);
	return code;
}

static int fault_zero(void *self, uint64_t host_off, uint64_t len_bytes, unsigned flags,
		      struct qcow2_error *err)
{
	const struct place at = {host_off, len_bytes};
	struct storage_fault_rule rule;
	struct fault *f = self;
	int code;

	if (intercept(f, STORAGE_OP_ZERO, &at, &rule, &code, err))
		return code;
	return storage_zero(f->lower, host_off, len_bytes, flags, err);
}

static int fault_discard(void *self, uint64_t host_off, uint64_t len_bytes, struct qcow2_error *err)
{
	const struct place at = {host_off, len_bytes};
	struct storage_fault_rule rule;
	struct fault *f = self;
	int code;

	if (intercept(f, STORAGE_OP_DISCARD, &at, &rule, &code, err))
		return code;
	return storage_discard(f->lower, host_off, len_bytes, err);
}

static int fault_flush(void *self, struct qcow2_error *err)
{
	const struct place at = {0, 0};
	struct storage_fault_rule rule;
	struct fault *f = self;
	int code;

	if (intercept(f, STORAGE_OP_FLUSH, &at, &rule, &code, err))
		return code;
	return storage_flush(f->lower, err);
}

static int fault_truncate(void *self, uint64_t size_bytes, struct qcow2_error *err)
{
	const struct place at = {size_bytes, 0};
	struct storage_fault_rule rule;
	struct fault *f = self;
	int code;

	if (intercept(f, STORAGE_OP_TRUNCATE, &at, &rule, &code, err))
		return code;
	return storage_truncate(f->lower, size_bytes, err);
}

static int fault_allocate(void *self, uint64_t host_off, uint64_t len_bytes,
			  struct qcow2_error *err)
{
	const struct place at = {host_off, len_bytes};
	struct storage_fault_rule rule;
	struct fault *f = self;
	int code;

	if (intercept(f, STORAGE_OP_ALLOCATE, &at, &rule, &code, err))
		return code;
	return storage_allocate(f->lower, host_off, len_bytes, err);
}

static int fault_extent(void *self, uint64_t host_off, uint64_t len_bytes,
			struct qcow2_storage_extent *out, struct qcow2_error *err)
{
	const struct place at = {host_off, len_bytes};
	struct storage_fault_rule rule;
	struct fault *f = self;
	int code;

	/* dropped: the answer that is always safe, which is in *out already */
	if (intercept(f, STORAGE_OP_EXTENT, &at, &rule, &code, err))
		return code;
	return storage_extent(f->lower, host_off, len_bytes, out, err);
}

static int fault_lock(void *self, unsigned use, unsigned forbid, struct qcow2_error *err)
{
	const struct fault *f = self;

	return storage_lock(f->lower, use, forbid, err);
}

static void fault_event(void *self, unsigned event)
{
	struct fault *f = self;

	pthread_mutex_lock(&f->lock);
	f->event = event;
	pthread_mutex_unlock(&f->lock);
	if (f->hook.told)
		f->hook.told(f->hook.opaque, event);
	storage_event(f->lower, event);
}

static const struct qcow2_storage_ops fault_ops = {
	.kind = "fault",
	.close = fault_close,
	.size = fault_size,
	.preadv = fault_preadv,
	.pwritev = fault_pwritev,
	.zero = fault_zero,
	.discard = fault_discard,
	.flush = fault_flush,
	.truncate = fault_truncate,
	.allocate = fault_allocate,
	.extent = fault_extent,
	.lock = fault_lock,
	.event = fault_event,
};

int storage_fault_new(struct qcow2_storage *st, struct qcow2_storage lower, struct qcow2_error *err)
{
	struct fault *f = mem_zalloc(1, sizeof(*f));

	*st = (struct qcow2_storage){0};
	if (!f) {
		storage_close(&lower);
		return error_errno(err, -ENOMEM, "can't make a fault store");
	}
	f->lower = lower;
	pthread_mutex_init(&f->lock, NULL);
	*st = (struct qcow2_storage){.ops = &fault_ops, .self = f};
	return 0;
}

void storage_fault_set_hook(struct qcow2_storage st, const struct storage_fault_hook *hook)
{
	fault_of(st)->hook = *hook;
}

int storage_fault_add(struct qcow2_storage st, const struct storage_fault_rule *rule)
{
	struct fault *f = fault_of(st);
	int code = 0;

	if ((unsigned)rule->op >= STORAGE_OP_COUNT || rule->code > 0)
		return -EINVAL;
	pthread_mutex_lock(&f->lock);
	if (f->nrules < MAX_RULES) {
		f->counted[f->nrules] = 0;
		f->rules[f->nrules++] = *rule;
	} else {
		code = -ENOSPC;
	}
	pthread_mutex_unlock(&f->lock);
	return code;
}

void storage_fault_clear(struct qcow2_storage st)
{
	struct fault *f = fault_of(st);

	pthread_mutex_lock(&f->lock);
	f->nrules = 0;
	pthread_mutex_unlock(&f->lock);
}

uint64_t storage_fault_seen(struct qcow2_storage st, enum storage_op op)
{
	struct fault *f = fault_of(st);
	uint64_t seen;

	pthread_mutex_lock(&f->lock);
	seen = f->seen[op];
	pthread_mutex_unlock(&f->lock);
	return seen;
}
