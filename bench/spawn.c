/* SPDX-License-Identifier: MIT */
/*
 * spawn REPORT REPEAT COMMAND...: runs the command that many times, one after the other, and
 * writes "seconds cpu_seconds peak_kib" of all runs together to the file REPORT.
 *
 * It is a program of its own because it must be small: the kernel counts the memory of the process
 * that starts a command towards the command's peak, and a start must not cost more than what is
 * measured. Standard output is thrown away. The exit code is the command's, 125 for our own faults.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static double seconds(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The command's exit code; *use is what it took. */
static int run(char **argv, posix_spawn_file_actions_t *actions, struct rusage *use)
{
	int status;
	pid_t pid;
	int rc = posix_spawnp(&pid, argv[0], actions, NULL, argv, environ);

	if (rc != 0) {
		fprintf(stderr, "spawn: %s: %s\n", argv[0], strerror(rc));
		return 125;
	}
	while (wait4(pid, &status, 0, use) < 0) {
		if (errno != EINTR)
			return 125;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	posix_spawn_file_actions_t actions;
	double start, wall, cpu = 0;
	struct rusage use;
	long repeat, peak = 0;
	FILE *report;
	int rc = 0;

	if (argc < 4)
		return 125;
	repeat = strtol(argv[2], NULL, 10);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	start = now();
	for (long n = 0; n < repeat && rc == 0; n++) {
		rc = run(argv + 3, &actions, &use);
		cpu += seconds(use.ru_utime) + seconds(use.ru_stime);
		peak = use.ru_maxrss > peak ? use.ru_maxrss : peak;
	}
	wall = now() - start;
	posix_spawn_file_actions_destroy(&actions);
	if (rc != 0)
		return rc;
	report = fopen(argv[1], "w");
	if (report == NULL)
		return 125;
	fprintf(report, "%.6f %.6f %ld\n", wall, cpu, peak);
	return fclose(report) == 0 ? 0 : 125;
}
