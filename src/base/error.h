/* SPDX-License-Identifier: MIT */
/*
 * Filling the caller's error record. err may be NULL everywhere. A record is set once, where the
 * fault is seen, and prefixed on the way up.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include "qcow2.h"

/* Sets the record and returns code (negative errno), so that `return error_set(...)` works. */
int error_set(struct qcow2_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The same, with a place. Pass QCOW2_NO_OFFSET for what isn't known. */
int error_set_at(struct qcow2_error *err, int code, uint64_t guest_off, uint64_t host_off,
		 const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* Sets "<sentence>: <text of errno>". code is a negative errno. */
int error_errno(struct qcow2_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "<prefix>: " in front of the sentence. */
void error_prefix(struct qcow2_error *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Notes the guest offset where the record has none yet. */
void error_at_guest(struct qcow2_error *err, uint64_t guest_off);

void error_clear(struct qcow2_error *err);

#endif
