/* SPDX-License-Identifier: MIT */
/* The exported symbols of <qcow2.h> that have no other home. */
#include "qcow2.h"

#define TEXT(x) #x
#define DOTTED(a, b, c) TEXT(a) "." TEXT(b) "." TEXT(c)

const char *qcow2_version(void)
{
	return DOTTED(QCOW2_VERSION_MAJOR, QCOW2_VERSION_MINOR, QCOW2_VERSION_PATCH);
}
