// SPDX-License-Identifier: MIT
/*
 * What guests and processes have in common: who it is, its queue, and the two
 * reasons to wait with it: its socket is full (until it reads, or stall_timeout
 * is over), or the kernel has too many descriptors in flight.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "portal.h"
#include "store.h"

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
	if (c->k)
		kept_store32(&c->k->flags, c->k->flags | KEPT_DOOMED);
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
	kept_store32(&c->k->flags, c->k->flags | KEPT_DEAF);
	sendq_clear(&c->q);
	c->retry = 0;
	client_deadline(c, 0);
	sd_event_source_set_io_events(c->io, EPOLLIN);
	shutdown(c->fd, SHUT_WR);
}

void send_prepare(struct send_parts *s, struct msghdr *msg, const void *buf, size_t len,
		  const int *fds, unsigned int n)
{
	struct cmsghdr *cm;

	memset(msg, 0, sizeof(*msg));
	s->iov = (struct iovec){ .iov_base = (void *)buf, .iov_len = len };
	msg->msg_iov = &s->iov;
	msg->msg_iovlen = 1;
	if (!n)
		return;
	memset(&s->ctl, 0, sizeof(s->ctl));
	msg->msg_control = s->ctl.buf;
	msg->msg_controllen = CMSG_SPACE(n * sizeof(int));
	cm = CMSG_FIRSTHDR(msg);
	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(cm), fds, n * sizeof(int));
}

int send_with_fds(int sock, const void *buf, size_t len, const int *fds, unsigned int n)
{
	struct send_parts parts;
	struct msghdr msg;
	ssize_t ret;

	send_prepare(&parts, &msg, buf, len, fds, n);
	do
		ret = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -errno;
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
	struct item it;
	int ret;

	while (sendq_head(&c->q, &it)) {
		ret = c->ops->send(c, &it);
		if (ret < 0)
			return ret;
		*progress = true;
		sendq_sent(&c->q, it.next + 1 >= c->ops->messages(c, &it));
		kept_sent(c);
	}
	return 0;
}

void client_flush(struct client *c)
{
	uint64_t stall = c->portal->conf.stall_timeout * USEC_PER_SEC;
	bool progress = false;
	int ret;

	if (c->doomed || c->deaf || c->busy || c->portal->restoring || !c->k)
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

int client_push_item(struct client *c, const struct item *it)
{
	const struct portal_conf *p = &c->portal->conf;

	if (c->doomed || c->deaf)
		return 0;
	/* Cannot happen (see sendq.h), and must not be believed: bounded for sure. */
	if (c->q.len > 4 * (p->max_guests + conf_host_ids(p)) + 64 || sendq_push(&c->q, it) < 0) {
		client_doom(c, "it does not read: %u messages wait", c->q.len);
		return -ENOBUFS;
	}
	return 0;
}

int client_push(struct client *c, enum item_kind kind, uint32_t id, uint64_t tenure)
{
	const struct item it = { .kind = kind, .id = id, .last = id, .tenure = tenure };

	return client_push_item(c, &it);
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

int client_watch(struct client *c)
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

struct client *client_alloc(struct portal *p, const struct client_ops *ops, int fd)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->portal = p;
	c->ops = ops;
	c->fd = fd;
	c->id = NOBODY;
	c->lifeline = c->pidfd = -1;
	c->since = now_usec(p);
	return c;
}

void client_new(struct acceptor *a, int fd)
{
	struct portal *p = a->portal;
	struct client *c = client_alloc(p, a->ops, fd);
	int ret;

	if (!c) {
		close(fd);
		return;
	}
	who(c);
	ret = client_watch(c);
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

/* Its name in the store, and that of its lifeline. */
const char *client_name(const struct client *c, char kind)
{
	static char name[32];

	snprintf(name, sizeof(name), "%c.%" PRIu64, kind, c->gen);
	return name;
}

int client_keep(struct client *c)
{
	int fds[2 + VECTORS_MAX], ret;
	unsigned int n = 0;

	fds[n++] = c->fd;
	if (c->pidfd >= 0) {
		fds[n++] = c->pidfd;
		c->k->flags |= KEPT_PIDFD;
	}
	if (c->ops == &guest_ops) {
		memcpy(fds + n, c->efds->fd, c->efds->n * sizeof(int));
		n += c->efds->n;
	}
	ret = store_put(c->portal->conf.name, client_name(c, 'c'), fds, n);
	/* Too many descriptors in flight: it is served all the same. */
	if (ret < 0)
		client_log(c, LOG_WARNING, "unkept", "cannot be kept over a restart of portald: %s",
			   strerror(-ret));
	return ret;
}

static void let_go(struct client *c)
{
	c->io = sd_event_source_disable_unref(c->io);
	c->timer = sd_event_source_disable_unref(c->timer);
	efds_put(c->efds);
	c->efds = NULL;
}

void client_cut(struct client *c)
{
	let_go(c);
	shutdown(c->fd, SHUT_WR);
}

void client_disconnect(struct client *c)
{
	let_go(c);
	if (c->fd >= 0) {
		/* The store has it, too, for a moment. */
		if (c->gen && store_on())
			shutdown(c->fd, SHUT_RDWR);
		close(c->fd);
	}
	c->fd = -1;
}

void client_free(struct client *c)
{
	kept_detach(c);
	client_disconnect(c);
	sd_event_source_disable_unref(c->process);
	if (c->pidfd >= 0)
		close(c->pidfd);
	if (c->gen)
		store_drop(c->portal->conf.name, client_name(c, 'c'));
	free(c);
}

void client_leave(struct client *c)
{
	c->gen = 0;	/* nothing is shut down, nor dropped */
	c->k = NULL;
	client_free(c);
}
