/* SPDX-License-Identifier: MIT */
/* The error record: one sentence, one place, never longer than its buffer. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static __attribute__((format(printf, 5, 0))) void set_v(struct qcow2_error *err, int code,
							uint64_t guest_off, uint64_t host_off,
							const char *fmt, va_list ap)
{
	err->code = code;
	err->guest_off = guest_off;
	err->host_off = host_off;
	vsnprintf(err->message, sizeof(err->message), fmt, ap);
}

int error_set(struct qcow2_error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		va_start(ap, fmt);
		set_v(err, code, QCOW2_NO_OFFSET, QCOW2_NO_OFFSET, fmt, ap);
		va_end(ap);
	}
	return code;
}

int error_set_at(struct qcow2_error *err, int code, uint64_t guest_off, uint64_t host_off,
		 const char *fmt, ...)
{
	va_list ap;

	if (err) {
		va_start(ap, fmt);
		set_v(err, code, guest_off, host_off, fmt, ap);
		va_end(ap);
	}
	return code;
}

int error_errno(struct qcow2_error *err, int code, const char *fmt, ...)
{
	va_list ap;
	size_t used;

	if (!err)
		return code;
	va_start(ap, fmt);
	set_v(err, code, QCOW2_NO_OFFSET, QCOW2_NO_OFFSET, fmt, ap);
	va_end(ap);
	used = strlen(err->message);
	/* strerror is thread-safe in glibc (2.32 on) and musl, and its text is copied at once */
	snprintf(err->message + used, sizeof(err->message) - used, ": %s", strerror(-code));
	return code;
}

void error_prefix(struct qcow2_error *err, const char *fmt, ...)
{
	char old[QCOW2_ERROR_MESSAGE_SIZE];
	va_list ap;
	size_t used;

	if (!err)
		return;
	memcpy(old, err->message, sizeof(old));
	va_start(ap, fmt);
	vsnprintf(err->message, sizeof(err->message), fmt, ap);
	va_end(ap);
	used = strlen(err->message);
	snprintf(err->message + used, sizeof(err->message) - used, ": %s", old);
}

void error_at_guest(struct qcow2_error *err, uint64_t guest_off)
{
	if (err && err->guest_off == QCOW2_NO_OFFSET)
		err->guest_off = guest_off;
}

void error_clear(struct qcow2_error *err)
{
	if (err)
		*err = (struct qcow2_error){
			.guest_off = QCOW2_NO_OFFSET,
			.host_off = QCOW2_NO_OFFSET,
		};
}
