/* SPDX-License-Identifier: MIT */
/* Which internal snapshot is meant: ID, NAME, or snapshot.id=ID,snapshot.name=NAME. */
#ifndef TOOLS_SNAPSHOT_ARG_H
#define TOOLS_SNAPSHOT_ARG_H

/*
 * Finds the snapshot that text means in the image at path (flags as for tool_open). *id is a copy
 * of its id, for the caller to free. Says what went wrong.
 */
int tool_find_snapshot(const char *path, const char *format, unsigned flags, const char *text,
		       char **id);

#endif
