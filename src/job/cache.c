/* SPDX-License-Identifier: MIT */
/* Long operations and the page cache: what goes through it once, and is huge, isn't kept there. */
#include "image/image.h"
#include "job/job.h"

/* What the file takes of the disk; 0 where there is none, or nobody can tell. */
static uint64_t disk_bytes(struct qcow2_storage st)
{
	struct storage_file_stat stat;

	if (!storage_is_open(st) || storage_file_stat(st, &stat, NULL) < 0)
		return 0;
	return stat.is_block_device ? stat.size_bytes : stat.disk_bytes;
}

static void spare_layers(struct qcow2_image *image, bool spare)
{
	for (const struct qcow2_image *l = image; l; l = l->backing) {
		storage_spare_cache(l->store, spare);
		if (l->qcow2)
			storage_spare_cache(l->qcow2->data_file, spare);
	}
}

bool job_spare_cache(struct qcow2_image *const *images, size_t nimages)
{
	uint64_t share = storage_cache_share(), sum = 0;

	for (size_t i = 0; i < nimages; i++) {
		for (const struct qcow2_image *l = images[i]; l && sum <= share; l = l->backing) {
			sum += disk_bytes(l->store);
			sum += l->qcow2 ? disk_bytes(l->qcow2->data_file) : 0;
		}
	}
	if (sum <= share)
		return false;
	for (size_t i = 0; i < nimages; i++)
		spare_layers(images[i], true);
	return true;
}

void job_spare_cache_end(struct qcow2_image *const *images, size_t nimages)
{
	for (size_t i = 0; i < nimages; i++)
		spare_layers(images[i], false);
}

void job_spare_cache_of(struct qcow2_image *image)
{
	spare_layers(image, true);
}
