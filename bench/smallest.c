/* SPDX-License-Identifier: MIT */
/*
 * smallest FILE: opens it, reads the first bytes, prints something. No program that looks at an
 * image can be faster: what is left is the start of a process and the C library.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	unsigned char head[4096];
	int fd = argc == 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = fd < 0 ? -1 : pread(fd, head, sizeof(head), 0);

	if (n < 24)
		return 1;
	printf("%zd bytes of version %u\n", n, head[7]);
	close(fd);
	return 0;
}
