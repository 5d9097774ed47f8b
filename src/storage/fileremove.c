/* SPDX-License-Identifier: MIT */
/*
 * Taking back a file that was made in vain. Only the name is removed, and only where it still is
 * the name of the file that is open: not a symbolic link to it, nor what somebody else has put in
 * its place since.
 */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/storage.h"

int storage_file_remove(struct qcow2_storage st, const char *path, struct qcow2_error *err)
{
	struct storage_file_stat mine;
	struct stat sb;
	int code;

	code = storage_file_stat(st, &mine, err);
	if (code != 0)
		return code;
	if (lstat(path, &sb) != 0)
		return error_errno(err, -errno, "can't look at \"%s\"", path);
	if (!S_ISREG(sb.st_mode) || sb.st_dev != mine.dev || sb.st_ino != mine.ino)
		return error_set(err, -ESTALE,
				 "can't remove \"%s\": it isn't the file that is open", path);
	if (unlink(path) != 0)
		return error_errno(err, -errno, "can't remove \"%s\"", path);
	return 0;
}
