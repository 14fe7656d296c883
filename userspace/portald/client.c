// SPDX-License-Identifier: MIT
/*
 * What guests and processes have in common: who it is, its queue, and the two
 * reasons to wait with it: its socket is full (until it reads, or stall_timeout
 * is over), or the kernel has too many descriptors in flight.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "portal.h"

#define RETRY_USEC 100000

void client_doom(struct client *c, const char *fmt, ...)
{
	va_list ap;

	if (c->doomed)
		return;
	va_start(ap, fmt);
	vsnprintf(c->why, sizeof(c->why), fmt, ap);
	va_end(ap);
	c->doomed = true;
	/* Level-triggered: silence it, or a hung-up socket spins until the reaper. */
	sd_event_source_set_enabled(c->io, SD_EVENT_OFF);
	sd_event_source_set_enabled(c->timer, SD_EVENT_OFF);
	sd_event_source_set_enabled(c->portal->reaper, SD_EVENT_ONESHOT);
}

void client_log(const struct client *c, int prio, const char *event, const char *fmt, ...)
{
	const struct portal *p = c->portal;
	const struct log_client l = {
		.event = event, .kind = c->ops->noun, .pid = c->pid, .command = c->comm,
		.id = c->id == NOBODY ? -1 : (long)c->id,
	};
	char text[384];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (c->id == NOBODY)
		log_client(prio, p->conf.name, &l, "client of %s %s (pid %d, %s)",
			   c->ops == &guest_ops ? p->l.guest.path : p->l.host.path, text,
			   c->pid, c->comm);
	else
		log_client(prio, p->conf.name, &l, "%s %u %s (pid %d, %s)", c->ops->noun,
			   c->id, text, c->pid, c->comm);
}

void client_deafen(struct client *c)
{
	client_log(c, LOG_WARNING, "deaf",
		   "has not read for %u s and is told nothing more; it keeps its id until it ends",
		   c->portal->conf.stall_timeout);
	c->deaf = true;
	sendq_clear(&c->q);
	c->retry = 0;
	client_deadline(c, 0);
	sd_event_source_set_io_events(c->io, EPOLLIN);
	shutdown(c->fd, SHUT_WR);
}

int send_with_fds(int sock, const void *buf, size_t len, const int *fds, unsigned int n)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(VECTORS_MAX * sizeof(int))];
	} ctl;
	struct iovec iov = { .iov_base = (void *)buf, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *cm;
	ssize_t ret;

	if (n) {
		memset(&ctl, 0, sizeof(ctl));
		msg.msg_control = ctl.buf;
		msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
		cm = CMSG_FIRSTHDR(&msg);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(cm), fds, n * sizeof(int));
	}
	do
		ret = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -errno;
	/* 8 bytes on a stream and a packet are one buffer each: all or nothing. */
	return (size_t)ret == len ? 0 : -EIO;
}

static void arm(struct client *c)
{
	uint64_t at = c->deadline;

	if (c->retry && (!at || c->retry < at))
		at = c->retry;
	if (at)
		sd_event_source_set_time(c->timer, at);
	sd_event_source_set_enabled(c->timer, at ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
}

void client_deadline(struct client *c, uint64_t usec)
{
	c->deadline = usec;
	arm(c);
}

/* Sends until the queue is empty (0) or it does not go on (-errno). */
static int drain(struct client *c, bool *progress)
{
	struct item *it;
	int ret;

	while ((it = sendq_head(&c->q))) {
		ret = c->ops->send(c, it);
		if (ret < 0)
			return ret;
		*progress = true;
		if (ret > 0)
			sendq_pop(&c->q);
	}
	return 0;
}

void client_flush(struct client *c)
{
	uint64_t stall = c->portal->conf.stall_timeout * USEC_PER_SEC;
	bool progress = false;
	int ret;

	if (c->doomed || c->deaf)
		return;
	ret = drain(c, &progress);
	/*
	 * Too many in flight is no fault of this socket, which stays writable: ask
	 * again by the clock. Those who do not read are cut in the end.
	 */
	c->retry = ret == -ETOOMANYREFS || ret == -ENOMEM || ret == -ENOBUFS ?
		   now_usec(c->portal) + RETRY_USEC : 0;
	if (ret < 0 && ret != -EAGAIN && !c->retry) {
		if (ret == -EPIPE || ret == -ECONNRESET)
			client_doom(c, "%s", "");
		else
			client_doom(c, "cannot send to it: %s", strerror(-ret));
		return;
	}
	sd_event_source_set_io_events(c->io, EPOLLIN | (ret == -EAGAIN ? EPOLLOUT : 0));
	if (ret == 0)
		c->deadline = 0;
	else if (progress || !c->deadline)
		c->deadline = now_usec(c->portal) + stall;
	arm(c);
}

int client_push(struct client *c, enum item_kind kind, uint32_t id, uint64_t tenure,
		struct efds *efds)
{
	const struct portal_conf *p = &c->portal->conf;
	int ret;

	if (c->doomed || c->deaf)
		return 0;
	/* Cannot happen (see sendq.h), and must not be believed: bounded for sure. */
	if (c->q.len > 4 * (p->max_guests + p->host_peers) + 64) {
		client_doom(c, "it does not read: %u messages wait", c->q.len);
		return -ENOBUFS;
	}
	ret = sendq_push(&c->q, kind, id, tenure, efds);
	if (ret < 0)
		client_doom(c, "out of memory");
	return ret;
}

int client_push_answer(struct client *c, uint32_t slot, uint32_t err, uint64_t claim)
{
	int ret = client_push(c, ITEM_FENCE, slot, claim, NULL);

	if (ret == 0 && !c->doomed && !c->deaf)
		TAILQ_LAST(&c->q.items, item_list)->last = err;
	return ret;
}

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *arg)
{
	struct client *c = arg;

	if (c->doomed)
		return 0;
	if (revents & EPOLLOUT)
		client_flush(c);
	if (!c->doomed && (revents & EPOLLIN))
		c->ops->input(c);
	if (!c->doomed && (revents & (EPOLLHUP | EPOLLERR)))
		client_doom(c, "%s", "");
	return 0;
}

static int on_timer(sd_event_source *s, uint64_t usec, void *arg)
{
	struct client *c = arg;
	uint64_t now = now_usec(c->portal);

	if (c->doomed)
		return 0;
	if (c->deadline && now >= c->deadline) {
		if (c->member)
			c->ops->stalled(c);
		else
			client_doom(c, "it said no hello");
	} else if (c->retry && now >= c->retry) {
		client_flush(c);
	} else {
		arm(c);
	}
	return 0;
}

static void who(struct client *c)
{
	struct ucred cred = { .pid = 0, .uid = (uid_t)-1 };
	socklen_t len = sizeof(cred);
	char path[32], *s;
	ssize_t n = -1;
	int fd;

	getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
	c->pid = cred.pid;
	c->uid = (int)cred.uid;
	snprintf(path, sizeof(path), "/proc/%d/comm", c->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, c->comm, sizeof(c->comm) - 1);
		close(fd);
	}
	c->comm[n > 0 ? n : 0] = '\0';
	c->comm[strcspn(c->comm, "\n")] = '\0';
	/* Its owner chose the name: no escapes into our log. */
	for (s = c->comm; *s; s++)
		if (*s < ' ' || *s > '~')
			*s = '?';
	if (!*c->comm)
		strcpy(c->comm, "?");
}

static int watch(struct client *c)
{
	int ret;

	ret = sd_event_add_io(c->portal->event, &c->io, c->fd, EPOLLIN, on_io, c);
	if (ret >= 0)
		ret = sd_event_add_time(c->portal->event, &c->timer, CLOCK_MONOTONIC, 0,
					50000, on_timer, c);
	if (ret >= 0)
		ret = sd_event_source_set_enabled(c->timer, SD_EVENT_OFF);
	return ret;
}

void client_new(struct acceptor *a, int fd)
{
	struct portal *p = a->portal;
	struct client *c = calloc(1, sizeof(*c));
	int ret;

	if (!c) {
		close(fd);
		return;
	}
	c->portal = p;
	c->ops = a->ops;
	c->fd = fd;
	c->id = NOBODY;
	c->region_ro = c->lifeline = c->pidfd = -1;
	c->since = now_usec(p);
	sendq_init(&c->q);
	who(c);
	ret = watch(c);
	if (ret < 0) {
		log_line(LOG_ERR, p->conf.name, "cannot watch a new client: %s",
			 strerror(-ret));
		client_free(c);
		return;
	}
	TAILQ_INSERT_TAIL(&p->clients, c, link);
	ret = c->ops->start(c);
	if (ret < 0)
		client_doom(c, "%s", strerror(-ret));
}

void client_disconnect(struct client *c)
{
	c->io = sd_event_source_disable_unref(c->io);
	c->timer = sd_event_source_disable_unref(c->timer);
	sendq_clear(&c->q);
	efds_put(c->efds);
	c->efds = NULL;
	if (c->region_ro >= 0)
		close(c->region_ro);
	if (c->fd >= 0)
		close(c->fd);
	c->region_ro = c->fd = -1;
}

void client_free(struct client *c)
{
	client_disconnect(c);
	sd_event_source_disable_unref(c->process);
	if (c->pidfd >= 0)
		close(c->pidfd);
	free(c);
}
