/* SPDX-License-Identifier: MIT */
/*
 * lock_helper FILE USE FORBID [hide]: opens a file, takes part in the image locks with those bits
 * of QCOW2_LOCK_*, prints "ok" or the error sentence, and holds on until its input ends. With
 * "hide" processes without privileges can't see what it has open.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "storage/storage.h"

int main(int argc, char **argv)
{
	struct qcow2_error err = {0};
	struct qcow2_storage st;
	unsigned use, forbid;
	int code;

	if (argc < 4 || argc > 5)
		return 2;
	if (argc == 5 && prctl(PR_SET_DUMPABLE, 0) != 0)
		return 2;
	use = (unsigned)strtoul(argv[2], NULL, 0);
	forbid = (unsigned)strtoul(argv[3], NULL, 0);
	code = storage_file_open(&st, argv[1], use & QCOW2_LOCK_WRITE ? STORAGE_FILE_WRITE : 0,
				 &err);
	if (code == 0)
		code = storage_lock(st, use, forbid, &err);
	printf("%s\n", code == 0 ? "ok" : err.message);
	fflush(stdout);
	while (getchar() != EOF)
		;
	storage_close(&st);
	return code == 0 ? 0 : 1;
}
