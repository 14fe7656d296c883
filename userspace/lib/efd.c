// SPDX-License-Identifier: MIT
/* eventfds, as doorbells of processes. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "efd.h"
#include "internal.h"

int vmp_efd_new(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	return fd >= 0 ? fd : vmp_fail(-errno, "eventfd: %s%s", strerror(errno),
				       errno == EMFILE ? "; raise the limit of open files (ulimit -n)" : "");
}

int vmp_efd_dup(int fd)
{
	int n = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	return n >= 0 ? n : vmp_fail(-errno, "dup of an eventfd: %s", strerror(errno));
}

int vmp_efd_signal(int fd)
{
	uint64_t one = 1, was;
	int tries;

	for (tries = 0; tries < 4; tries++) {
		if (write(fd, &one, sizeof(one)) == sizeof(one))
			return 0;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return vmp_fail(-errno, "ring: writing an eventfd: %s", strerror(errno));
		if (read(fd, &was, sizeof(was)) < 0 && errno != EAGAIN && errno != EINTR)
			return vmp_fail(-errno, "ring: reading an eventfd: %s", strerror(errno));
	}
	/* Somebody fills it as fast as we empty it: it is readable. */
	return 0;
}

int vmp_efd_check(int fd)
{
	char path[40], text[512];
	ssize_t n;
	int info, fl;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return -EPROTO;
	n = read(info, text, sizeof(text) - 1);
	close(info);
	if (n <= 0)
		return -EPROTO;
	text[n] = 0;
	if (!strstr(text, "eventfd-count:"))
		return -EPROTO;
	fl = fcntl(fd, F_GETFL);
	/* A blocking one could hold us up for ever once its counter is full. */
	if (fl < 0 || (!(fl & O_NONBLOCK) && fcntl(fd, F_SETFL, fl | O_NONBLOCK)))
		return -EPROTO;
	return 0;
}
