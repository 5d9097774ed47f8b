/* SPDX-License-Identifier: MIT */
/*
 * The shell on one image: `qcow2 io`, and the drop-in of qemu-io. What the commands print, and
 * whether they count as failed, is qemu-io's to the byte; only the timing figures are our own.
 *
 * The shell itself runs in one thread. Requests of aio_read and aio_write run in the threads of a
 * pool (pool.h); what became of them is printed by the shell's thread, so that no two reports mix.
 */
#ifndef TOOLS_IO_IO_H
#define TOOLS_IO_IO_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "names/setup.h"
#include "qcow2.h"

struct io_pool;

struct io {
	bool drop_in;  /* called as qemu-io: its words for what the library has others for */
	bool quiet;    /* no reports, whatever the commands say */
	bool misalign; /* buffers don't begin where O_DIRECT likes them to */
	bool quit;
	bool failed;	  /* some command did: the exit code */
	bool told_damage; /* of this image, in qemu-io's words */
	/* The open image, NULL if there is none; and how it was opened, for reopen. */
	struct qcow2_image *image;
	struct qcow2_debug *debug; /* of the blkdebug node below it, or NULL */
	struct names_setup setup;
	bool is_raw, guessed_raw, has_backing;
	uint64_t cluster_size; /* at least 1 */
	int overlay_fd;	       /* the nameless file of snapshot mode, -1: none */
	struct io_pool *pool;  /* NULL until the first aio_* command */
	/* For what has to go one by one: guard.h, copy.h. */
	pthread_mutex_t guard;
};

#define IO_ANYTIME 1u /* needs no open image */
#define IO_CHANGES 2u /* needs one that is open for writing */

#define IO_MANY (-1)

struct io_command {
	const char *name;
	const char *alias;   /* or NULL */
	const char *args;    /* as the usage line has them, or NULL */
	const char *summary; /* one line */
	const char *help;    /* what `help NAME` says beyond that, or NULL */
	int least, most;     /* words after the name; most may be IO_MANY */
	unsigned flags;	     /* IO_* */
	/* words[0] is the name as typed. Returns 0, or negative if the command counts as failed. */
	int (*run)(struct io *io, const struct io_command *self, int nwords, char **words);
};

/* The groups of commands, each up to an entry without a name. */
extern const struct io_command io_rw_commands[];
extern const struct io_command io_aio_commands[];
extern const struct io_command io_map_commands[];
extern const struct io_command io_state_commands[];
extern const struct io_command io_break_commands[];
extern const struct io_command io_misc_commands[];

/* Carries out one line; notes in io->failed whether it failed. */
void io_execute(struct io *io, const char *line);

/* Reads commands from standard input until it ends or quit. */
void io_interact(struct io *io);

/* The command of that name or alias, or NULL. */
const struct io_command *io_find_command(const char *name);

/* The commands in the order of their names: calls fn with each. */
void io_each_command(void (*fn)(const struct io_command *command));

/* Prints how a command is used, on standard output; name is the one to show. */
void io_print_usage(const struct io_command *command, const char *name);

/* The usage of a command that was typed wrong. Returns -EINVAL. */
int io_misused(const struct io_command *command);

/* getopt on a command's words, from the start; call it before the first getopt. */
void io_getopt_begin(void);

/* One or more lines (at '\n') on standard error, the program's name before the first. */
void io_say(const char *text);

#endif
