/* SPDX-License-Identifier: MIT */
/* The same bytes of the same file, told by two maps. */
#include "job/twin.h"

#include <errno.h>

#include "base/alloc.h"

/* Where a layer's data are: its file, or its external data file. */
static struct qcow2_storage data_store(const struct qcow2_image *layer)
{
	return layer->qcow2 ? layer->qcow2->meta.data : layer->store;
}

int job_files_init(struct job_files *f, const struct qcow2_image *image, struct qcow2_error *err)
{
	struct storage_file_stat st;

	*f = (struct job_files){.layers = mem_zalloc(image->layers.count, sizeof(*f->layers))};
	if (!f->layers)
		return error_errno(err, -ENOMEM, "can't look at the files of \"%s\"", image->path);
	f->is_copied = true;
	for (const struct qcow2_image *l = image; l; l = l->backing) {
		struct job_file *file = &f->layers[f->count++];
		struct qcow2_storage store = data_store(l);

		file->self = store.self;
		file->is_known = storage_file_stat(store, &st, NULL) == 0;
		f->is_copied = f->is_copied && file->is_known && !(l->flags & QCOW2_OPEN_DIRECT) &&
			       !storage_spares_cache(store);
		if (!file->is_known)
			continue;
		file->dev = st.dev;
		file->ino = st.ino;
	}
	return 0;
}

void job_files_release(struct job_files *f)
{
	mem_free(f->layers);
	*f = (struct job_files){0};
}

static bool is_same_file(const struct job_file *a, const struct job_file *b)
{
	if (a->is_known && b->is_known)
		return a->dev == b->dev && a->ino == b->ino;
	return !a->is_known && !b->is_known && a->self == b->self;
}

bool job_is_twin(const struct job_files *a, const struct data_run *x, const struct job_files *b,
		 const struct data_run *y)
{
	if (x->run.kind != y->run.kind || !is_same_file(&a->layers[x->depth], &b->layers[y->depth]))
		return false;
	if (x->run.kind == DISK_RUN_DATA)
		return x->run.host_off == y->run.host_off;
	/* the same part of it: both begin at one place of their disks, and clusters at multiples */
	return x->run.kind == DISK_RUN_COMPRESSED && x->run.cookie == y->run.cookie;
}

size_t job_compare_step(const struct job_files *a, const struct job_files *b)
{
	return a->is_copied && b->is_copied ? JOB_COMPARE_STEP : SIZE_MAX;
}
