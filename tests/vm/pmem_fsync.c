// SPDX-License-Identifier: MIT
/*
 * A disk that is slow or fails, for QEMU: preloaded, it stands before fsync(). What
 * it does is in the file that VMPORTAL_FSYNC names, read at each call: "hold" waits
 * until the file says something else, "fail" gives EIO, anything else flushes. Each
 * call adds a line to that file's name + ".count".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char order(const char *path)
{
	char c = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (read(fd, &c, 1) != 1)
		c = 0;
	close(fd);
	return c;
}

static void count(const char *path)
{
	char name[4096];
	int fd;

	snprintf(name, sizeof(name), "%s.count", path);
	fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	if (write(fd, "\n", 1) != 1)
		perror(name);
	close(fd);
}

int fsync(int fd)
{
	const char *path = getenv("VMPORTAL_FSYNC");
	int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");

	if (!path)
		return real(fd);
	count(path);
	while (order(path) == 'h')
		usleep(10000);
	if (order(path) == 'f') {
		errno = EIO;
		return -1;
	}
	return real(fd);
}
