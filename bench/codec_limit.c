/* SPDX-License-Identifier: MIT */
/*
 * The codec alone on all cores, over the clusters that a conversion has to put through it:
 *
 *	codec_limit REPORT deflate|zstd DISK	compresses the clusters of a raw disk that aren't
 *zeros codec_limit REPORT unpack IMAGE		decompresses those that a qcow2 image has compressed
 *
 * It writes "seconds cpu_seconds peak_kib" to the file REPORT, as spawn.c does. Only the time in
 * the codec counts, all threads' together divided by their number: reading isn't the codec's, and
 * nothing is written. Clusters are of 64 KiB in a raw disk. It knows sound images only.
 */
#include <endian.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "codec/codec.h"

#define CLUSTER_SIZE 65536u
#define OFFSET 0x00fffffffffffe00ull
#define COMPRESSED (1ull << 62)
#define SECTOR 512u
#define THREADS_MAX 256
#define BATCH 16 /* clusters that a thread takes at a time */

/* Where bytes lie that go into the codec. */
struct place {
	uint64_t off;
	uint32_t len;
};

/* What all threads share; they change the counter only. */
struct work {
	int fd;
	int unpack;
	enum codec_type type;
	size_t cluster;
	struct place *places;
	size_t nplaces, cap;
	atomic_size_t next;
};

struct thread {
	pthread_t id;
	struct work *work;
	double seconds;
};

static void die(const char *what)
{
	fprintf(stderr, "codec_limit: %s\n", what);
	exit(1);
}

static void *need(void *p)
{
	if (!p)
		die("no memory");
	return p;
}

static double now(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Beyond the end of the file there are zeros. */
static void get(const struct work *w, void *buf, size_t len, uint64_t off)
{
	ssize_t n = pread(w->fd, buf, len, (off_t)off);

	if (n < 0)
		die("the file can't be read");
	memset((char *)buf + n, 0, len - (size_t)n);
}

static void add(struct work *w, uint64_t off, size_t len)
{
	if (w->nplaces == w->cap) {
		w->cap = w->cap ? w->cap * 2 : 1024;
		w->places = need(realloc(w->places, w->cap * sizeof(*w->places)));
	}
	w->places[w->nplaces++] = (struct place){off, (uint32_t)len};
}

static uint64_t get_be(const struct work *w, size_t len, uint64_t off)
{
	uint8_t bytes[8] = {0};

	get(w, bytes + 8 - len, len, off);
	return (uint64_t)bytes[0] << 56 | (uint64_t)bytes[1] << 48 | (uint64_t)bytes[2] << 40 |
	       (uint64_t)bytes[3] << 32 | (uint64_t)bytes[4] << 24 | (uint64_t)bytes[5] << 16 |
	       (uint64_t)bytes[6] << 8 | bytes[7];
}

static void find_compressed(struct work *w)
{
	unsigned bits = (unsigned)get_be(w, 4, 20);
	unsigned shift = 62 - (bits - 8); /* of the number of sectors in an entry */
	uint64_t nl1 = get_be(w, 4, 36), l1_off = get_be(w, 8, 40);
	uint64_t *table;

	w->cluster = (size_t)1 << bits;
	table = need(malloc(w->cluster));
	w->type = get_be(w, 8, 72) & 8 ? (enum codec_type)get_be(w, 1, 104) : CODEC_DEFLATE;
	for (uint64_t i = 0; i < nl1; i++) {
		uint64_t l2_off = get_be(w, 8, l1_off + i * 8) & OFFSET;

		if (!l2_off)
			continue;
		get(w, table, w->cluster, l2_off);
		for (size_t k = 0; k < w->cluster / 8; k++) {
			uint64_t entry = be64toh(table[k]);
			uint64_t off = entry & ((1ull << shift) - 1);
			uint64_t more = (entry & (COMPRESSED - 1)) >> shift;

			if (entry & COMPRESSED)
				add(w, off, (size_t)(more + 1) * SECTOR - off % SECTOR);
		}
	}
	free(table);
}

/* Holes of the file aren't looked at. */
static void find_data(struct work *w)
{
	uint8_t *buf = need(malloc(CLUSTER_SIZE)), *zeros = need(calloc(1, CLUSTER_SIZE));
	off_t at = 0, end;

	w->cluster = CLUSTER_SIZE;
	while ((at = lseek(w->fd, at, SEEK_DATA)) >= 0) {
		end = lseek(w->fd, at, SEEK_HOLE);
		for (at = at / CLUSTER_SIZE * CLUSTER_SIZE; at < end; at += CLUSTER_SIZE) {
			get(w, buf, CLUSTER_SIZE, (uint64_t)at);
			if (memcmp(buf, zeros, CLUSTER_SIZE) != 0)
				add(w, (uint64_t)at, CLUSTER_SIZE);
		}
	}
	free(buf);
	free(zeros);
}

static void *run_codec(void *opaque)
{
	struct thread *t = opaque;
	struct work *w = t->work;
	size_t room = 2 * w->cluster + 2 * (size_t)SECTOR, first;
	uint8_t *in = need(malloc(room * BATCH)), *out = need(malloc(room));
	struct codec *codec;

	if (codec_new(&codec, w->type, 0, NULL) != 0)
		die("no codec");
	while ((first = atomic_fetch_add(&w->next, BATCH)) < w->nplaces) {
		size_t n = w->nplaces - first < BATCH ? w->nplaces - first : BATCH;
		const struct place *p = w->places + first;
		double start;

		for (size_t i = 0; i < n; i++)
			get(w, in + i * room, p[i].len, p[i].off);
		start = now(CLOCK_MONOTONIC);
		for (size_t i = 0; i < n; i++) {
			if (!w->unpack)
				codec_compress(codec, in + i * room, p[i].len, out, p[i].len - 1);
			else if (codec_decompress(codec, in + i * room, p[i].len, out, w->cluster,
						  NULL) != 0)
				die("a cluster can't be decompressed");
		}
		t->seconds += now(CLOCK_MONOTONIC) - start;
	}
	codec_free(codec);
	free(in);
	free(out);
	return NULL;
}

static double run_threads(struct work *w, unsigned n)
{
	struct thread threads[THREADS_MAX];
	double sum = 0;

	for (unsigned i = 0; i < n; i++) {
		threads[i] = (struct thread){.work = w};
		if (pthread_create(&threads[i].id, NULL, run_codec, &threads[i]) != 0)
			die("a thread can't be made");
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(threads[i].id, NULL);
		sum += threads[i].seconds;
	}
	return sum / n;
}

int main(int argc, char **argv)
{
	struct work w = {.fd = -1};
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	struct rusage use;
	double seconds;
	FILE *report;

	if (argc != 4)
		die("usage: codec_limit REPORT deflate|zstd|unpack FILE");
	w.unpack = strcmp(argv[2], "unpack") == 0;
	w.type = strcmp(argv[2], "zstd") == 0 ? CODEC_ZSTD : CODEC_DEFLATE;
	w.fd = open(argv[3], O_RDONLY | O_CLOEXEC);
	if (w.fd < 0)
		die(argv[3]);
	if (w.unpack)
		find_compressed(&w);
	else
		find_data(&w);
	if (w.nplaces == 0)
		die("there is nothing for the codec in the file");
	seconds = run_threads(&w, cores > THREADS_MAX ? THREADS_MAX : (unsigned)cores);
	getrusage(RUSAGE_SELF, &use);
	printf("%zu clusters, %.6f seconds\n", w.nplaces, seconds);
	report = fopen(argv[1], "w");
	if (!report)
		die(argv[1]);
	fprintf(report, "%.6f %.6f %ld\n", seconds, now(CLOCK_PROCESS_CPUTIME_ID), use.ru_maxrss);
	free(w.places);
	return fclose(report) == 0 ? 0 : 1;
}
