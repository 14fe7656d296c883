// SPDX-License-Identifier: MIT
/* eventfds, as doorbells of processes. */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
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

/* Take what is in it, without waiting, whatever its flags say. */
static int drain(int fd)
{
	uint64_t was;
	struct iovec v = { &was, sizeof(was) };
	struct pollfd f = { fd, POLLIN, 0 };

	if (preadv2(fd, &v, 1, -1, RWF_NOWAIT) >= 0 || errno == EAGAIN || errno == EINTR)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return -errno;
	/* Before Linux 5.8. */
	if (poll(&f, 1, 0) == 1 && read(fd, &was, sizeof(was)) < 0 &&
	    errno != EAGAIN && errno != EINTR)
		return -errno;
	return 0;
}

/*
 * @shared: with strangers. O_NONBLOCK belongs to the open file, which its other holders share and can change.
 * So ask each time whether there is room; who fills it just then, again and again, can
 * hold up the one thread that rings him.
 */
int vmp_efd_signal(int fd, bool shared)
{
	struct pollfd f = { fd, POLLOUT, 0 };
	uint64_t one = 1;
	int tries, r;

	for (tries = 0; tries < 4; tries++) {
		if (!shared || (poll(&f, 1, 0) == 1 && f.revents & POLLOUT)) {
			if (write(fd, &one, sizeof(one)) == sizeof(one))
				return 0;
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN)
				return vmp_fail(-errno, "ring: writing an eventfd: %s", strerror(errno));
		}
		r = drain(fd);
		if (r)
			return vmp_fail(r, "ring: reading an eventfd: %s", strerror(-r));
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
		return vmp_fail(-EPROTO, "cannot look at a descriptor in %s: %s%s", path, strerror(errno),
				errno == ENOENT ? "; is /proc mounted?" : "");
	n = read(info, text, sizeof(text) - 1);
	close(info);
	text[n > 0 ? n : 0] = 0;
	if (!strstr(text, "eventfd-count:"))
		return vmp_fail(-EPROTO, "a descriptor that should be an eventfd is none");
	fl = fcntl(fd, F_GETFL);
	/* For those who read it. */
	if (fl < 0 || (!(fl & O_NONBLOCK) && fcntl(fd, F_SETFL, fl | O_NONBLOCK)))
		return vmp_fail(-EPROTO, "an eventfd: fcntl: %s", strerror(errno));
	return 0;
}
