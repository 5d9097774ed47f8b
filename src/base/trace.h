/* SPDX-License-Identifier: MIT */
/*
 * Trace points for tools that look at running programs (USDT: bpftrace, perf, systemtap). They cost
 * one no-op instruction, and nothing where the build lacks <sys/sdt.h>.
 */
#ifndef BASE_TRACE_H
#define BASE_TRACE_H

#ifdef QCOW2_HAVE_SDT
#include <sys/sdt.h>
#define TRACE2(name, a, b) DTRACE_PROBE2(libqcow2, name, a, b)
#else
#define TRACE2(name, a, b) ((void)(a), (void)(b))
#endif

#endif
