/* SPDX-License-Identifier: MIT */
/*
 * meta_read [-w] IMAGE: reads the metadata of a qcow2 image in the order of the file, and does
 * nothing with them: what a check can't be faster than. With -w each piece is written back and the
 * file flushed: what taking or deleting a snapshot can't be faster than.
 *
 * It knows sound images only, and uses nothing of the library.
 */
#include <endian.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE (1u << 18)
#define OFFSET 0x00fffffffffffe00ull

static int fd;
static uint64_t cluster;
static uint64_t *places; /* clusters with tables */
static size_t nplaces, cap;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void get(void *buf, size_t len, uint64_t off)
{
	ssize_t n = pread(fd, buf, len, (off_t)off);

	if (n < 0)
		die("meta_read: read");
	memset((char *)buf + n, 0, len - (size_t)n);
}

static void add(uint64_t off)
{
	if (nplaces == cap) {
		cap = cap ? cap * 2 : 1024;
		places = realloc(places, cap * sizeof(*places));
		if (!places)
			die("meta_read");
	}
	places[nplaces++] = off;
}

/* The table itself, and the clusters that its words point to. */
static void add_table(uint64_t off, uint64_t nwords)
{
	uint64_t *words = malloc(nwords * 8 + 8);

	if (!words)
		die("meta_read");
	get(words, nwords * 8, off);
	for (uint64_t pos = 0; pos < nwords * 8; pos += cluster)
		add(off + pos);
	for (uint64_t i = 0; i < nwords; i++)
		if (be64toh(words[i]) & OFFSET)
			add(be64toh(words[i]) & OFFSET);
	free(words);
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t be64(const uint8_t *p)
{
	return (uint64_t)be32(p) << 32 | be32(p + 4);
}

static void add_snapshots(uint64_t off, uint32_t n)
{
	uint8_t s[40];

	for (; n > 0; n--) {
		get(s, sizeof(s), off);
		add_table(be64(s), be32(s + 8));
		off += sizeof(s) + be32(s + 36) + ((unsigned)s[12] << 8 | s[13]) +
		       ((unsigned)s[14] << 8 | s[15]);
		off = (off + 7) & ~7ull;
	}
}

static int by_place(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

int main(int argc, char **argv)
{
	int rewrite = argc == 3 && strcmp(argv[1], "-w") == 0;
	uint8_t head[104], *buf = malloc(4u << 20);
	uint64_t total = 0;

	if (argc != 2 + rewrite || !buf)
		return 2;
	fd = open(argv[1 + rewrite], rewrite ? O_RDWR : O_RDONLY);
	if (fd < 0)
		die(argv[1 + rewrite]);
	get(head, sizeof(head), 0);
	cluster = 1ull << be32(head + 20);
	add_table(be64(head + 48), be32(head + 56) * (cluster / 8));
	add_table(be64(head + 40), be32(head + 36));
	add_snapshots(be64(head + 64), be32(head + 60));
	qsort(places, nplaces, sizeof(*places), by_place);
	for (size_t i = 0, n; i < nplaces; i += n) {
		uint64_t len = cluster;

		for (n = 1; i + n < nplaces && len < PIECE && places[i + n] <= places[i] + len; n++)
			len = places[i + n] + cluster - places[i];
		get(buf, len, places[i]);
		if (rewrite && pwrite(fd, buf, len, (off_t)places[i]) != (ssize_t)len)
			die("meta_read: write");
		total += len;
	}
	if (rewrite && fdatasync(fd) != 0)
		die("meta_read: flush");
	printf("%llu bytes\n", (unsigned long long)total);
	return 0;
}
