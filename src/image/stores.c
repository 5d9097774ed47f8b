/* SPDX-License-Identifier: MIT */
/* The library's own stores as public calls, where they take flags or options of the header. */
#include "image/image.h"
#include "image/options.h"

void qcow2_storage_close(struct qcow2_storage *storage)
{
	storage_close(storage);
}

int qcow2_storage_file(struct qcow2_storage *storage, const char *path, unsigned flags,
		       struct qcow2_error *err)
{
	*storage = (struct qcow2_storage){0};
	return storage_file_open(storage, path, image_storage_flags(flags), err);
}

int qcow2_storage_debug(struct qcow2_storage *storage, struct qcow2_storage lower,
			const struct qcow2_debug_options *options, struct qcow2_debug **debug,
			struct qcow2_error *err)
{
	struct qcow2_debug_options o = QCOW2_DEBUG_OPTIONS_INIT;
	struct qcow2_debug *unused;
	int ret = OPTIONS_TAKE(&o, options, "debug options", err);

	*storage = (struct qcow2_storage){0};
	if (ret < 0) {
		storage_close(&lower);
		return ret;
	}
	return storage_debug_new(storage, lower, &o, debug ? debug : &unused, err);
}
