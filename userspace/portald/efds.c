// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "efds.h"

struct efds *efds_new(unsigned int n)
{
	struct efds *e = malloc(sizeof(*e) + n * sizeof(e->fd[0]));

	if (!e)
		return NULL;
	e->refs = 1;
	for (e->n = 0; e->n < n; e->n++) {
		e->fd[e->n] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (e->fd[e->n] < 0) {
			int err = errno;

			efds_put(e);
			errno = err;
			return NULL;
		}
	}
	return e;
}

struct efds *efds_adopt(const int *fds, unsigned int n)
{
	struct efds *e = malloc(sizeof(*e) + n * sizeof(e->fd[0]));
	unsigned int i;

	if (!e) {
		for (i = 0; i < n; i++)
			close(fds[i]);
		return NULL;
	}
	e->refs = 1;
	e->n = n;
	memcpy(e->fd, fds, n * sizeof(e->fd[0]));
	return e;
}

struct efds *efds_get(struct efds *e)
{
	e->refs++;
	return e;
}

void efds_put(struct efds *e)
{
	unsigned int i;

	if (!e || --e->refs)
		return;
	for (i = 0; i < e->n; i++)
		close(e->fd[i]);
	free(e);
}

/*
 * A holder shares the open file description, so he may have made it blocking, or
 * may empty it between a look and a read; O_NONBLOCK and poll() thus promise
 * nothing, RWF_NOWAIT does (eventfds have it since Linux 5.7). Where it fails, the
 * rings stay: the next holder is woken once for nothing, as proto.h allows.
 */
void efds_drain(struct efds *e)
{
	unsigned int i;
	uint64_t v;
	struct iovec iov = { &v, sizeof(v) };

	/* One read takes all there is; a peer that rings on cannot hold us here. */
	for (i = 0; i < e->n; i++)
		while (preadv2(e->fd[i], &iov, 1, -1, RWF_NOWAIT) < 0 && errno == EINTR)
			;
}

static void woken(int sig)
{
}

void efds_guard(bool on)
{
	/* Again and again: the first may come before the system call that it is to end. */
	const struct itimerval t = { { 0, on ? 20000 : 0 }, { 0, on ? 20000 : 0 } };
	const struct sigaction sa = { .sa_handler = woken };

	if (on)
		sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &t, NULL);
}

void efds_ring(const struct efds *e, unsigned int vector)
{
	struct pollfd f = { e->fd[vector], POLLOUT, 0 };
	uint64_t one = 1;

	/* Full is rung. */
	if (poll(&f, 1, 0) == 1 && f.revents & POLLOUT &&
	    write(f.fd, &one, sizeof(one)) < 0)
		return;
}
