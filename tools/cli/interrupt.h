/* SPDX-License-Identifier: MIT */
/* Ctrl-C during a long operation: finish tidily, then end by that very signal. */
#ifndef TOOLS_CLI_INTERRUPT_H
#define TOOLS_CLI_INTERRUPT_H

#include <stdbool.h>

/* From now on SIGINT, SIGTERM and SIGHUP are noted once; a second one ends the process. */
void cli_interrupt_catch(void);

/* The signal that came, or 0. */
int cli_interrupt_pending(void);

/* Whether SIGUSR1 ("how far are you?") came since the last question. */
bool cli_interrupt_asked(void);

/* Ends the process by the signal that came; returns if none did. */
void cli_interrupt_die(void);

#endif
