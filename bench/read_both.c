/* SPDX-License-Identifier: MIT */
/*
 * read_both A B [OUT]: reads two files of the same length on all cores and compares them, holes of
 * both left out: what comparing two disks can't be faster than. They may differ only where there
 * is an OUT, which gets those pieces of A that differ: what a rebase can't be faster than.
 *
 * The exit code is 1 if they differ and there is no OUT.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE (1u << 18) /* read at a time: both lie in a core's own cache then */
#define GRAIN (1u << 16) /* what is compared and written */
#define THREADS_MAX 256

static int files[2], out = -1;
static off_t end;
static atomic_llong next_off;
static atomic_int differ;

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static int is_hole(int fd, off_t off, off_t len)
{
	off_t data = lseek(fd, off, SEEK_DATA);

	return data < 0 || data >= off + len;
}

static void compare(const uint8_t *a, const uint8_t *b, size_t len, off_t off)
{
	for (size_t pos = 0; pos < len; pos += GRAIN) {
		size_t n = len - pos < GRAIN ? len - pos : GRAIN;

		if (memcmp(a + pos, b + pos, n) == 0)
			continue;
		atomic_store(&differ, 1);
		if (out >= 0 && pwrite(out, a + pos, n, off + (off_t)pos) != (ssize_t)n)
			die("read_both: write");
	}
}

static void *run(void *unused)
{
	uint8_t *a = malloc(PIECE), *b = malloc(PIECE);
	off_t off;

	if (!a || !b)
		die("read_both");
	while ((off = (off_t)atomic_fetch_add(&next_off, PIECE)) < end) {
		size_t len = end - off < (off_t)PIECE ? (size_t)(end - off) : PIECE;

		if (is_hole(files[0], off, (off_t)len) && is_hole(files[1], off, (off_t)len))
			continue;
		if (pread(files[0], a, len, off) != (ssize_t)len ||
		    pread(files[1], b, len, off) != (ssize_t)len)
			die("read_both: read");
		compare(a, b, len, off);
	}
	free(a);
	free(b);
	return unused;
}

int main(int argc, char **argv)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t threads[THREADS_MAX];
	struct stat st[2];

	if (argc < 3 || argc > 4)
		return 2;
	for (int i = 0; i < 2; i++) {
		files[i] = open(argv[1 + i], O_RDONLY | O_CLOEXEC);
		if (files[i] < 0 || fstat(files[i], &st[i]) != 0)
			die(argv[1 + i]);
	}
	end = st[0].st_size;
	if (end != st[1].st_size) {
		fputs("read_both: the files aren't of the same length\n", stderr);
		return 2;
	}
	if (argc == 4 && (out = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) < 0)
		die(argv[3]);
	cores = cores > THREADS_MAX ? THREADS_MAX : cores;
	for (long i = 0; i < cores; i++) {
		if (pthread_create(&threads[i], NULL, run, NULL) != 0)
			die("read_both: thread");
	}
	for (long i = 0; i < cores; i++)
		pthread_join(threads[i], NULL);
	return out < 0 && differ;
}
