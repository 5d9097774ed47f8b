/* SPDX-License-Identifier: MIT */
/* How `info` shows an image: one table of rows, for text and for JSON. */
#ifndef TOOLS_INFO_ROWS_H
#define TOOLS_INFO_ROWS_H

#include "cli/out.h"
#include "qcow2.h"

/* The members of one image, into whatever is open in out. */
void info_rows_put(struct cli_out *out, const struct qcow2_info *info);

/* The same, but "Format specific information" alone, as text. */
void info_rows_put_specific(struct cli_out *out, const struct qcow2_info *info);

/* The snapshots alone; in JSON a list, which may be empty. */
void info_rows_put_snapshots(struct cli_out *out, const struct qcow2_info *info);

/* Where the space of the file goes. */
void info_rows_put_usage(struct cli_out *out, const struct qcow2_check_result *usage);

#endif
