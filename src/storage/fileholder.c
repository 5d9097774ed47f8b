/* SPDX-License-Identifier: MIT */
/*
 * Who holds a lock on a file. The system names the process for classic locks only; for those of
 * an open file description the descriptors of all processes are looked through, as far as we
 * may. Only for error sentences: the answer is old when it is given, and may be missing.
 */
#include "storage/file.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 64
#define INFO_BYTES 16384

/* The beginning of a small file, as a string. */
static bool read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t r = 1;

	if (fd < 0)
		return false;
	while (r != 0 && used < size - 1) {
		r = read(fd, text + used, size - 1 - used);
		if (r > 0)
			used += (size_t)r;
		else if (r < 0 && errno != EINTR)
			break;
	}
	close(fd);
	text[used] = '\0';
	return used != 0;
}

static const char *next_word(const char *s)
{
	s += strcspn(s, " \t");
	return s + strspn(s, " \t");
}

/*
 * Is line "lock: 1: OFDLCK ADVISORY READ -1 fd:00:1234 100 100" about that byte of that inode?
 * The device in it isn't always the one that stat tells.
 */
static bool holds_byte(const char *line, uint64_t inode, uint64_t byte)
{
	const char *word = line, *number;
	uint64_t start, end;
	char *rest;

	if (strncmp(line, "lock:", 5) != 0)
		return false;
	for (int i = 0; i < 6; i++)
		word = next_word(word);
	number = memchr(word, ':', strcspn(word, " \t"));
	if (number)
		number = strchr(number + 1, ':');
	if (!number || strtoull(number + 1, &rest, 10) != inode)
		return false;
	start = strtoull(rest, &rest, 10);
	end = strncmp(rest, " EOF", 4) == 0 ? UINT64_MAX : strtoull(rest, &rest, 10);
	return start <= byte && byte <= end;
}

/* Does that process hold the byte through that descriptor? info is room for INFO_BYTES. */
static bool descriptor_holds(long pid, long fd, const struct stat *file, uint64_t byte, char *info)
{
	char path[PATH_BYTES];
	struct stat sb;
	bool found = false;

	snprintf(path, sizeof(path), "/proc/%ld/fdinfo/%ld", pid, fd);
	if (!read_text(path, info, INFO_BYTES))
		return false;
	for (const char *line = info; line && !found; line = strchr(line, '\n')) {
		line += *line == '\n';
		found = holds_byte(line, file->st_ino, byte);
	}
	if (!found)
		return false;
	snprintf(path, sizeof(path), "/proc/%ld/fd/%ld", pid, fd);
	return stat(path, &sb) == 0 && sb.st_dev == file->st_dev && sb.st_ino == file->st_ino;
}

static bool process_holds(const struct file *f, long pid, const struct stat *file, uint64_t byte,
			  char *info)
{
	char path[PATH_BYTES];
	bool found = false;
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%ld/fdinfo", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		long fd;

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		fd = strtol(entry->d_name, NULL, 10);
		/* what we hold ourselves is in nobody's way */
		if (pid != getpid() || fd != f->fd)
			found = descriptor_holds(pid, fd, file, byte, info);
	}
	closedir(dir);
	return found;
}

static bool find_pid(const struct file *f, uint64_t byte, pid_t *pid)
{
	char info[INFO_BYTES];
	bool found = false;
	struct dirent *entry;
	struct stat file;
	DIR *dir;

	if (fstat(f->fd, &file) != 0)
		return false;
	dir = opendir("/proc");
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		*pid = (pid_t)strtol(entry->d_name, NULL, 10);
		found = process_holds(f, *pid, &file, byte, info);
	}
	closedir(dir);
	return found;
}

bool file_find_holder(const struct file *f, uint64_t byte, pid_t pid, struct file_holder *who)
{
	char path[PATH_BYTES];

	if (pid <= 0 && !find_pid(f, byte, &pid))
		return false;
	who->pid = pid;
	snprintf(path, sizeof(path), "/proc/%ld/comm", (long)pid);
	if (!read_text(path, who->name, sizeof(who->name)))
		return false;
	who->name[strcspn(who->name, "\n")] = '\0';
	/* a program names itself; the name is to be shown */
	for (char *c = who->name; *c; c++) {
		if (!isprint((unsigned char)*c))
			*c = '?';
	}
	return true;
}
