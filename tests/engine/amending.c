/* SPDX-License-Identifier: MIT */
/* Workloads that amend an image: see workload.h. */
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "engine/workload.h"

static int write_some(struct run *r, unsigned n)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < n; i++) {
		uint64_t off = rnd_below(&r->rng, r->w->size - 3000);

		ret = run_write(r, off, 3000, FILL_NOISE, 0);
		if (ret == 0 && i % 2)
			ret = run_flush(r);
	}
	return ret;
}

static int amend_version(struct run *r, unsigned version)
{
	struct qcow2_amend_options o = QCOW2_AMEND_OPTIONS_INIT;

	o.what = QCOW2_AMEND_VERSION;
	o.version = version;
	return run_amend(r, &o);
}

static int amend_width(struct run *r, unsigned bits)
{
	struct qcow2_amend_options o = QCOW2_AMEND_OPTIONS_INIT;

	o.what = QCOW2_AMEND_REFCOUNT_BITS;
	o.refcount_bits = bits;
	return run_amend(r, &o);
}

/* Zeros of both kinds, in tables and clusters that a snapshot shares and in some that it doesn't.
 */
int amending_change_version(struct run *r)
{
	uint64_t cs = world_cluster(r->w);
	int ret = run_write(r, 0, 8 * cs, FILL_NOISE, 0);

	if (ret == 0)
		ret = run_zero(r, cs, 2 * cs, 0);
	if (ret == 0 && r->history)
		ret = run_take(r);
	if (ret == 0)
		ret = run_zero(r, 4 * cs, 2 * cs, 0);
	if (ret == 0)
		ret = run_zero(r, 6 * cs, 3 * cs, QCOW2_WRITE_MAY_UNMAP);
	for (unsigned i = 0; ret == 0 && i < 2; i++) {
		ret = amend_version(r, i % 2 ? 3 : 2);
		if (ret == 0)
			ret = run_write(r, (5 + i) * cs + 100, cs, FILL_NOISE, 0);
	}
	return ret;
}

/* One is in the file already when version 2 comes, and one isn't. */
int amending_drop_bitmaps(struct run *r)
{
	struct qcow2_amend_options o = QCOW2_AMEND_OPTIONS_INIT;
	int ret = 0;

	o.what = QCOW2_AMEND_VERSION;
	o.flags = QCOW2_AMEND_DROP_BITMAPS;
	for (unsigned i = 0; ret == 0 && i < 2; i++) {
		if (r->image)
			(void)qcow2_bitmap_add(r->image, "one", 512, QCOW2_BITMAP_AUTO, NULL);
		ret = write_some(r, 3);
		if (ret == 0)
			ret = run_close(r);
		if (ret == 0)
			ret = run_open(r);
		if (ret == 0 && r->image)
			(void)qcow2_bitmap_add(r->image, "two", 512, QCOW2_BITMAP_AUTO, NULL);
		if (ret == 0)
			ret = write_some(r, 2);
		o.version = 2;
		if (ret == 0)
			ret = run_amend(r, &o);
		if (ret == 0)
			ret = write_some(r, 2);
		o.version = 3;
		if (ret == 0)
			ret = run_amend(r, &o);
	}
	return ret;
}

int amending_change_width(struct run *r)
{
	static const unsigned bits[] = {8, 64, 32, 16};
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(bits); i++) {
		ret = write_some(r, 3);
		if (ret == 0)
			ret = amend_width(r, bits[i]);
	}
	return ret == 0 ? write_some(r, 2) : ret;
}

int amending_change_laziness(struct run *r)
{
	struct qcow2_amend_options o = QCOW2_AMEND_OPTIONS_INIT;
	int ret = 0;

	o.what = QCOW2_AMEND_LAZY_REFCOUNTS;
	for (unsigned i = 0; ret == 0 && i < 3; i++) {
		o.lazy_refcounts = i % 2 == 0;
		ret = run_amend(r, &o);
		if (ret == 0)
			ret = write_some(r, 3);
	}
	return ret;
}

/* Names that end before, in and behind the header's first sector. */
int amending_change_data_file(struct run *r)
{
	static const size_t lengths[] = {40, 480, 60, 900, 30};
	struct qcow2_amend_options o = QCOW2_AMEND_OPTIONS_INIT;
	size_t len = strlen(r->w->data_path);
	char name[1024];
	int ret = write_some(r, 2);

	o.what = QCOW2_AMEND_DATA_FILE;
	o.data_file = name;
	for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(lengths); i++) {
		snprintf(name, sizeof(name), "%s-%0*u", r->w->data_path, (int)lengths[i], i);
		name[len + lengths[i]] = '\0';
		flat_name(name, &r->w->data);
		ret = run_amend(r, &o);
		if (ret == 0)
			ret = write_some(r, 1);
	}
	return ret;
}
