/* SPDX-License-Identifier: MIT */
/*
 * Signals. The handlers only set a flag; the progress callback of the job sees it and cancels.
 * Nothing here is restored: a process runs one verb.
 */
#include <signal.h>
#include <string.h>

#include "cli/interrupt.h"

static volatile sig_atomic_t pending;
static volatile sig_atomic_t asked;

static void note(int signum)
{
	pending = signum;
}

static void note_question(int signum)
{
	(void)signum;
	asked = 1;
}

static void catch_one(int signum, void (*handler)(int), int flags)
{
	struct sigaction action, old;

	/* what the parent told us to ignore (nohup) stays ignored */
	if (sigaction(signum, NULL, &old) == 0 && old.sa_handler == SIG_IGN)
		return;
	memset(&action, 0, sizeof(action));
	action.sa_handler = handler;
	action.sa_flags = flags;
	sigemptyset(&action.sa_mask);
	sigaction(signum, &action, NULL);
}

void cli_interrupt_catch(void)
{
	catch_one(SIGINT, note, (int)SA_RESETHAND | SA_RESTART);
	catch_one(SIGTERM, note, (int)SA_RESETHAND | SA_RESTART);
	catch_one(SIGHUP, note, (int)SA_RESETHAND | SA_RESTART);
	catch_one(SIGUSR1, note_question, SA_RESTART);
}

int cli_interrupt_pending(void)
{
	return pending;
}

bool cli_interrupt_asked(void)
{
	bool was = asked != 0;

	asked = 0;
	return was;
}

void cli_interrupt_die(void)
{
	if (!pending)
		return;
	signal(pending, SIG_DFL);
	raise(pending);
}
