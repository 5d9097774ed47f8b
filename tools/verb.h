/* SPDX-License-Identifier: MIT */
/* The verbs of the command, one a file; main.c has the table. */
#ifndef TOOLS_VERB_H
#define TOOLS_VERB_H

#include "cli/args.h"

struct verb {
	const struct cli_command *command;
	int (*run)(int argc, char **argv);
};

/* NULL if there is none of that name. */
const struct verb *verb_find(const char *name);

/* argv[0] is the verb's name. Returns the exit code. */
int verb_amend(int argc, char **argv);
int verb_bench(int argc, char **argv);
int verb_bitmap(int argc, char **argv);
int verb_check(int argc, char **argv);
int verb_commit(int argc, char **argv);
int verb_compare(int argc, char **argv);
int verb_convert(int argc, char **argv);
int verb_create(int argc, char **argv);
int verb_dd(int argc, char **argv);
int verb_dump(int argc, char **argv);
int verb_info(int argc, char **argv);
int verb_io(int argc, char **argv);
int verb_map(int argc, char **argv);
int verb_measure(int argc, char **argv);
int verb_rebase(int argc, char **argv);
int verb_resize(int argc, char **argv);
int verb_snapshot(int argc, char **argv);

extern const struct cli_command amend_command;
extern const struct cli_command bench_command;
extern const struct cli_command bitmap_command;
extern const struct cli_command check_command;
extern const struct cli_command commit_command;
extern const struct cli_command compare_command;
extern const struct cli_command convert_command;
extern const struct cli_command create_command;
extern const struct cli_command dd_command;
extern const struct cli_command dump_command;
extern const struct cli_command info_command;
extern const struct cli_command io_command;
extern const struct cli_command map_command;
extern const struct cli_command measure_command;
extern const struct cli_command rebase_command;
extern const struct cli_command resize_command;
extern const struct cli_command snapshot_command;

/* The programs that the command stands in for, when it is called by their names. */
int face_qemu_img(int argc, char **argv);
int face_qemu_io(int argc, char **argv);

#endif
