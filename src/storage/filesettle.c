/* SPDX-License-Identifier: MIT */
/* The name of a new file is part of its folder: a flush of the file needn't make it durable. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "storage/storage.h"

static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return mem_strdup(".");
	return mem_strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

int storage_file_settle(const char *path, struct qcow2_error *err)
{
	cleanup_free char *folder = folder_of(path);
	int fd, code = 0;

	if (!folder)
		return error_errno(err, -ENOMEM, "can't make the name \"%s\" durable", path);
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, -errno, "can't open the folder \"%s\"", folder);
	if (fsync(fd) != 0)
		code = -errno;
	close(fd);
	/* Some file systems have nothing to flush here, and say so. */
	if (code == 0 || code == -EINVAL || code == -ENOTSUP)
		return 0;
	return error_errno(err, code, "can't make the name \"%s\" durable", path);
}
