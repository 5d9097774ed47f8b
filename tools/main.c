/* SPDX-License-Identifier: MIT */
/* The `qcow2` command: a table of verbs. */
#include <stdio.h>

#include "qcow2.h"

int main(void)
{
	printf("qcow2 %s\n", qcow2_version());
	return 0;
}
