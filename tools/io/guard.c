/* SPDX-License-Identifier: MIT */
/*
 * The guard of the first sector. Knows the beginnings of the formats that QEMU tells by them: an
 * image that we write is read by others too. A format that is told by the end of a file or by its
 * name isn't here.
 */
#include <errno.h>
#include <string.h>

#include "io/guard.h"

#define SECTOR 512

struct magic {
	const char *format;
	size_t at, len;
	const char *bytes;
};

#define MAGIC(format, at, bytes)                                                                   \
	{                                                                                          \
		format, at, sizeof(bytes) - 1, bytes                                               \
	}

static const struct magic magics[] = {
	MAGIC("qed", 0, "QED\0"),
	MAGIC("luks", 0, "LUKS\xba\xbe"),
	MAGIC("vmdk", 0, "KDMV"),
	MAGIC("vmdk", 0, "COWD"),
	MAGIC("vmdk", 0, "# Disk DescriptorFile"),
	MAGIC("vdi", 64, "\x7f\x10\xda\xbe"),
	MAGIC("vpc", 0, "conectix"),
	MAGIC("vhdx", 0, "vhdxfile"),
	MAGIC("parallels", 0, "WithoutFreeSpace"),
	MAGIC("parallels", 0, "WithouFreSpacExt"),
	MAGIC("bochs", 0, "Bochs Virtual HD Image"),
	MAGIC("cloop", 0, "#!/bin/sh\n#V2.0 Format\nmodprobe cloop"),
};

const char *io_guard_format(const uint8_t sector[SECTOR])
{
	size_t i;

	/* without a version it is nobody's */
	if (memcmp(sector, "QFI\xfb", 4) == 0 && memcmp(sector + 4, "\0\0\0\0", 4) != 0)
		return memcmp(sector + 4, "\0\0\0\1", 4) == 0 ? "qcow" : "qcow2";
	for (i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		if (memcmp(sector + magics[i].at, magics[i].bytes, magics[i].len) == 0)
			return magics[i].format;
	return NULL;
}

bool io_guard_concerns(const struct io_request *request)
{
	return request->io->guessed_raw && request->guest_off < SECTOR && request->len_bytes > 0;
}

/* What the first sector will be after the write. */
static int compose(const struct io_request *request, uint8_t sector[SECTOR],
		   struct qcow2_error *err)
{
	size_t at = (size_t)request->guest_off, n = SECTOR - at;
	int rc = qcow2_pread(request->io->image, sector, SECTOR, 0, err);

	if (request->len_bytes < n)
		n = (size_t)request->len_bytes;
	if (rc == 0 && request->zero)
		memset(sector + at, 0, n);
	else if (rc == 0)
		memcpy(sector + at, request->buf, n);
	return rc;
}

int io_guard_write(struct io_request *request)
{
	struct io *io = request->io;
	uint8_t sector[SECTOR];
	const char *format;
	int rc;

	/* two writes at once could make together what neither makes alone */
	pthread_mutex_lock(&io->guard);
	rc = compose(request, sector, &request->err);
	format = rc == 0 ? io_guard_format(sector) : NULL;
	if (format)
		rc = names_reason(
			&request->err, -EPERM,
			"this would make the disk look like a %s image, and its format was "
			"only guessed to be raw (-f raw allows it)",
			format);
	if (rc == 0 && request->zero)
		rc = qcow2_write_zeroes(io->image, request->guest_off, request->len_bytes,
					request->flags, &request->err);
	else if (rc == 0)
		rc = qcow2_pwrite(io->image, request->buf, (size_t)request->len_bytes,
				  request->guest_off, request->flags, &request->err);
	pthread_mutex_unlock(&io->guard);
	return rc;
}
