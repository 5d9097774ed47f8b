/* SPDX-License-Identifier: MIT */
/*
 * The page cache and those who read or write a file once, from start to end. A file that is larger
 * than the cache would push everything else out of it and still not be there when it is read again.
 */
#include <unistd.h>

#include "storage/file.h"

void storage_spare_cache(struct qcow2_storage st, bool spare)
{
	struct file *f = file_of(st);

	if (!f)
		return;
	if (spare)
		atomic_fetch_add(&f->sparing, 1);
	else
		atomic_fetch_sub(&f->sparing, 1);
}

bool storage_spares_cache(struct qcow2_storage st)
{
	struct file *f = file_of(st);

	return f && atomic_load(&f->sparing) != 0;
}

uint64_t storage_cache_share(void)
{
	long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);

	return pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes / 2
					   : UINT64_MAX;
}
