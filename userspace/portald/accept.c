// SPDX-License-Identifier: MIT
/*
 * Taking connections in: no faster than connect_rate, and never spinning on a
 * listening socket that stays readable because there is no descriptor left.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "portal.h"

#define BURST 100U		/* connects that may come at once */
#define STARVED_USEC 500000	/* out of descriptors: look again */

static void pause_until(struct acceptor *a, uint64_t usec)
{
	sd_event_source_set_enabled(a->io, SD_EVENT_OFF);
	sd_event_source_set_time(a->timer, usec);
	sd_event_source_set_enabled(a->timer, SD_EVENT_ONESHOT);
}

static int on_resume(sd_event_source *s, uint64_t usec, void *arg)
{
	struct acceptor *a = arg;

	sd_event_source_set_enabled(a->io, SD_EVENT_ON);
	return 0;
}

/* May one more come now? Otherwise the socket rests; who waits in it is not lost. */
static bool take_token(struct acceptor *a)
{
	unsigned int rate = a->portal->conf.connect_rate;
	uint64_t now = now_usec(a->portal), cost, most;

	if (!rate)
		return true;
	cost = USEC_PER_SEC / rate ?: 1;
	most = cost * BURST;
	a->tokens += now - a->refilled;
	a->refilled = now;
	if (a->tokens > most)
		a->tokens = most;
	if (a->tokens < cost) {
		pause_until(a, now + cost - a->tokens);
		return false;
	}
	a->tokens -= cost;
	return true;
}

static void accept_failed(struct acceptor *a, int err)
{
	if (err == EAGAIN || err == EINTR || err == ECONNABORTED)
		return;
	if (!a->starved)
		log_line(LOG_ERR, a->portal->conf.name,
			 "cannot accept a client: %s; trying on%s", strerror(err),
			 err == EMFILE ? " (raise LimitNOFILE= or lower max_guests)" : "");
	a->starved = true;
	pause_until(a, now_usec(a->portal) + STARVED_USEC);
}

static int on_accept(sd_event_source *s, int fd, uint32_t revents, void *arg)
{
	struct acceptor *a = arg;
	int conn;

	/* One per round: those who are connected are served in between. */
	if (!take_token(a))
		return 0;
	conn = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (conn < 0) {
		accept_failed(a, errno);
		return 0;
	}
	a->starved = false;
	client_new(a, conn);
	return 0;
}

int acceptor_open(struct acceptor *a, struct portal *p, int fd,
		  const struct client_ops *ops)
{
	int ret;

	a->portal = p;
	a->ops = ops;
	a->tokens = UINT64_MAX / 2;	/* take_token() trims it */
	a->refilled = now_usec(p);
	ret = sd_event_add_time(p->event, &a->timer, CLOCK_MONOTONIC, 0, 10000, on_resume, a);
	if (ret >= 0)
		ret = sd_event_source_set_enabled(a->timer, SD_EVENT_OFF);
	if (ret >= 0)
		ret = sd_event_add_io(p->event, &a->io, fd, EPOLLIN, on_accept, a);
	if (ret >= 0)	/* after the clients, so that a dead one makes room first */
		ret = sd_event_source_set_priority(a->io, SD_EVENT_PRIORITY_NORMAL + 10);
	return ret;
}

void acceptor_close(struct acceptor *a)
{
	a->io = sd_event_source_disable_unref(a->io);
	a->timer = sd_event_source_disable_unref(a->timer);
}
