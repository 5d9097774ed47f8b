/* SPDX-License-Identifier: MIT */
/*
 * An audit of a qcow2 image in memory by a hand of its own: it shares no code with the engine or
 * with the library's check, so that a fault of theirs can't hide itself. Standing on the format
 * reference alone, it counts who refers to each cluster and compares that with the refcounts and
 * the COPIED flags.
 *
 * Corruptions are what can lose data: a reference to a cluster whose count is too low, two owners,
 * a COPIED flag that lies, a table where none can be, reserved bits. Leaks are counts that are too
 * high. Doesn't look into bitmaps.
 */
#ifndef TESTS_ENGINE_AUDIT_H
#define TESTS_ENGINE_AUDIT_H

#include <stdbool.h>
#include <stdint.h>

struct audit {
	bool dirty; /* the image says that its refcounts mean nothing */
	uint64_t corruptions;
	/* those of them that are flags that could be set, or are but for a count too high */
	uint64_t harmless_flags;
	uint64_t leaks;		  /* clusters */
	uint64_t size_bytes;	  /* of the disk */
	uint64_t data_clusters;	  /* standard clusters that the active table maps */
	uint64_t packed_clusters; /* compressed ones */
	char first[200];	  /* the first corruption, else the first leak, as a sentence */
};

/*
 * Looks at len bytes of an image. With the dirty bit refcounts aren't compared, all else is.
 * data_len: of the external data file, if the image has one.
 */
void audit_image(const uint8_t *bytes, uint64_t len, struct audit *a);

#endif
