/* SPDX-License-Identifier: MIT */
/*
 * What an image says about itself becomes something else: its version, the width of its refcounts,
 * names and bits of its header. The gate is closed. Each call leaves the image as it was or as it
 * is to be, also after a crash in the middle ("Amending" in docs/ordering.md); what the disk and
 * the snapshots read as never changes.
 */
#ifndef META_AMEND_H
#define META_AMEND_H

#include "meta/engine.h"

/* Told how far it is; a nonzero return ends the work where that leaves the image as it was. */
struct meta_watch {
	int (*step)(void *opaque, uint64_t bytes); /* so many more are done */
	void *opaque;
};

/* -ECANCELED if the watcher, which may be NULL, wants an end. */
int meta_watch_step(const struct meta_watch *watch, uint64_t bytes, struct qcow2_error *err);

/* ---- width of refcounts (refwidth.c) ---- */

/*
 * Whether all counts fit: -EINVAL if not, -EFBIG if a table would become too large.
 * *blocks_bytes: what is to be written.
 */
int meta_check_width(struct meta *m, uint32_t order, uint64_t *blocks_bytes,
		     struct qcow2_error *err);
/* Version 3. The geometry becomes another; nobody may look at it meanwhile. */
int meta_change_width(struct meta *m, uint32_t order, const struct meta_watch *watch,
		      struct qcow2_error *err);

/* ---- zero clusters, which version 2 doesn't know (expand.c) ---- */

struct meta_zeros {
	uint64_t tables;	 /* L2 tables that there are, of the disk and of snapshots */
	uint64_t changed_tables; /* those with zero clusters */
	uint64_t emptied;	 /* clusters that become unallocated */
	uint64_t filled;	 /* that have to be written with zeros */
	uint64_t compressed;	 /* clusters that are compressed */
};

/* Counts them. -EUCLEAN: an entry makes no sense. */
int meta_zeros_survey(struct meta *m, const struct meta_snapshots *s, struct meta_zeros *zeros,
		      struct qcow2_error *err);
/*
 * Afterwards no table has any. Under the dirty bit, which is set when this returns. Cut off it may
 * have done a part: that is as good as before.
 */
int meta_zeros_expand(struct meta *m, const struct meta_snapshots *s,
		      const struct meta_watch *watch, struct qcow2_error *err);

/* ---- the header (amend.c) ---- */

/* Whether a header of that version, with that name of a data file (NULL: as it is), can be. */
int meta_check_header(struct meta *m, uint32_t version, const char *data_file,
		      struct qcow2_error *err);
/* s: all there are; those that don't record the disk's size do from then on. */
int meta_upgrade(struct meta *m, struct meta_snapshots *s, struct qcow2_error *err);
/*
 * Refcounts have 16 bits; there is neither a feature that version 2 doesn't have, nor a compressed
 * cluster if they are zstd, nor a snapshot of another size.
 */
int meta_downgrade(struct meta *m, const struct meta_snapshots *s, const struct meta_watch *watch,
		   struct qcow2_error *err);
/* Version 3. */
int meta_set_lazy(struct meta *m, bool lazy, struct qcow2_error *err);
/* The data file may be written without regard to who reads it as a raw image. */
int meta_drop_raw_data(struct meta *m, struct qcow2_error *err);
/* On success m owns the name, and the caller the one that was there. */
int meta_set_data_file(struct meta *m, char **name, struct qcow2_error *err);

#endif
