/* SPDX-License-Identifier: MIT */
/*
 * meta_read [-w|-m|-s] IMAGE: reads the metadata of a qcow2 image in the order of the file, and
 * does nothing with them: what a check can't be faster than.
 *
 *	-w	writes each piece back and flushes: taking or deleting a snapshot
 *	-m	reads the L1 table of the disk and its L2 tables only: a map
 *	-s	reads the second half of the L1 table, of its L2 tables and of the refcount blocks,
 *		writes back all but the L2 tables, cuts the file to its half and flushes: shrinking
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
static uint64_t *places; /* clusters with tables; WRITE is set in those to be written back */
static size_t nplaces, cap;
static char mode; /* the option's letter, 'r' without one */

#define WRITE 1u

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

/* The table itself, and the clusters that its words point to; flags are for these. */
static void add_table(uint64_t off, uint64_t nwords, unsigned flags)
{
	uint64_t *words = malloc(nwords * 8 + 8);

	if (!words)
		die("meta_read");
	get(words, nwords * 8, off);
	for (uint64_t pos = 0; pos < nwords * 8; pos += cluster)
		add((off + pos) | (mode == 'w' || mode == 's' ? WRITE : 0));
	for (uint64_t i = mode == 's' ? nwords / 2 : 0; i < nwords; i++)
		if (be64toh(words[i]) & OFFSET)
			add((be64toh(words[i]) & OFFSET) | flags);
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
		add_table(be64(s), be32(s + 8), mode == 'w' ? WRITE : 0);
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

/* The refcount table counts to its last word in use, not to the end of its cluster. */
static uint64_t refcount_words(uint64_t off, uint64_t nwords)
{
	uint64_t *words = malloc(nwords * 8 + 8);

	if (!words)
		die("meta_read");
	get(words, nwords * 8, off);
	while (nwords > 0 && words[nwords - 1] == 0)
		nwords--;
	free(words);
	return nwords;
}

static void find_tables(void)
{
	uint8_t head[104];
	uint64_t reftable_off;
	unsigned refs = mode == 'w' || mode == 's' ? WRITE : 0;

	get(head, sizeof(head), 0);
	cluster = 1ull << be32(head + 20);
	reftable_off = be64(head + 48);
	if (mode != 'm')
		add_table(reftable_off,
			  refcount_words(reftable_off, be32(head + 56) * (cluster / 8)), refs);
	add_table(be64(head + 40), be32(head + 36), mode == 'w' ? WRITE : 0);
	if (mode != 'm')
		add_snapshots(be64(head + 64), be32(head + 60));
	qsort(places, nplaces, sizeof(*places), by_place);
}

/* Neighbours of one kind are read together. Gives their number. */
static size_t do_piece(size_t i, void *buf, uint64_t *total)
{
	uint64_t len = cluster, off = places[i] & ~(uint64_t)WRITE;
	size_t n;

	for (n = 1; i + n < nplaces && len < PIECE && places[i + n] <= places[i] + len &&
		    !((places[i + n] ^ places[i]) & WRITE);
	     n++)
		len = places[i + n] + cluster - places[i];
	get(buf, len, off);
	if ((places[i] & WRITE) && pwrite(fd, buf, len, (off_t)off) != (ssize_t)len)
		die("meta_read: write");
	*total += len;
	return n;
}

int main(int argc, char **argv)
{
	uint8_t *buf = malloc(4u << 20);
	uint64_t total = 0;
	off_t end;

	mode = argc == 3 && argv[1][0] == '-' ? argv[1][1] : 'r';
	if (argc < 2 || argc > 3 || (argc == 3) != (mode != 'r') || !strchr("wmsr", mode) || !buf)
		return 2;
	fd = open(argv[argc - 1], mode == 'w' || mode == 's' ? O_RDWR : O_RDONLY);
	if (fd < 0)
		die(argv[argc - 1]);
	find_tables();
	for (size_t i = 0; i < nplaces;)
		i += do_piece(i, buf, &total);
	end = lseek(fd, 0, SEEK_END);
	if (mode == 's' && ftruncate(fd, end / 2) != 0)
		die("meta_read: cut");
	if ((mode == 'w' || mode == 's') && fdatasync(fd) != 0)
		die("meta_read: flush");
	printf("%llu bytes\n", (unsigned long long)total);
	return 0;
}
