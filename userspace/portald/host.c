// SPDX-License-Identifier: MIT
/*
 * A process of this host on NAME.sock: proto.h. It must speak first, and soon;
 * those who have not spoken are few, and the oldest of them makes room.
 */
#include <endian.h>
#include <errno.h>
#include <linux/sockios.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "managed.h"
#include "portal.h"
#include "proto.h"
#include "region.h"

#define HELLO_USEC (5 * USEC_PER_SEC)
#define OTHERS_MAX 16		/* without hello at a time */
#define SNDBUF 32768		/* some 70 announcements; the rest waits in our queue */

_Static_assert(PD_MAX_FDS >= VECTORS_MAX, "a peer's eventfds fit in one message");

static int host_start(struct client *c)
{
	struct portal *p = c->portal;
	int size = SNDBUF;
	struct client *o;

	setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	p->others++;
	client_deadline(c, now_usec(p) + HELLO_USEC);
	if (p->others <= OTHERS_MAX)
		return 0;
	TAILQ_FOREACH(o, &p->clients, link)
		if (o->ops == &host_ops && !o->member && !o->doomed) {
			client_doom(o, "it said no hello, and others wait");
			break;
		}
	return 0;
}

static void to_wire(struct pd_msg *m)
{
	m->type = htole32(m->type);
	m->id = htole32(m->id);
	m->arg = htole32(m->arg);
	m->flags = htole32(m->flags);
	m->value = htole64(m->value);
}

/* To one that has no queue: before its hello. */
static int send_msg(struct client *c, struct pd_msg *m, const int *fds, unsigned int n)
{
	to_wire(m);
	return send_with_fds(c->fd, m, sizeof(*m), fds, n);
}

/* The only message this client gets: its buffer is empty, there is no "later". */
__attribute__((format(printf, 3, 4)))
static void refuse(struct client *c, int err, const char *fmt, ...)
{
	struct pd_msg m = { .type = PD_REFUSE, .arg = (uint32_t)err };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(m.text, sizeof(m.text), fmt, ap);
	va_end(ap);
	client_doom(c, "refused: %s", m.text);
	send_msg(c, &m, NULL, 0);
}

int host_greet(struct client *c)
{
	return client_push(c, ITEM_REGION, c->id, 0) ?:
	       client_push(c, ITEM_PEER, c->id, c->tenure) ?:
	       portal_tell_peers(c->portal, c, false) ?:
	       client_push(c, ITEM_READY, c->id, 0);
}

static void hello(struct client *c, const struct pd_msg *m)
{
	struct portal *p = c->portal;
	int ret;

	if (m->flags & PD_RDONLY) {
		c->rdonly = true;
		ret = region_reopen_rdonly(p->region);
		if (ret < 0) {
			refuse(c, -ret, "no read-only region: %s", strerror(-ret));
			return;
		}
		close(ret);
	}
	ret = portal_lease(p, c);
	if (ret < 0) {
		refuse(c, EBUSY, "all %u host ids of portal '%s' are taken: close a process, or raise host_peers",
		       p->conf.host_peers, p->conf.name);
		return;
	}
	client_deadline(c, 0);
	client_keep(c);
	kept_store32(&c->k->state, KEPT_JOINING);
	if (host_greet(c) == 0)
		portal_joined(p, c);
}

static void status(struct client *c)
{
	struct pd_msg m = { .type = PD_STATUS };
	uint64_t len = 0;
	int ret, fd = status_memfd(c->portal, &len);

	if (fd < 0) {
		refuse(c, -fd, "cannot make the status: %s", strerror(-fd));
		return;
	}
	m.value = len;
	ret = send_msg(c, &m, &fd, 1);
	close(fd);
	if (ret < 0)
		refuse(c, -ret, "cannot send the status: %s", strerror(-ret));
	else
		client_doom(c, "%s", "");
}

static bool text_is_zero(const struct pd_msg *m)
{
	size_t i;

	for (i = 0; i < sizeof(m->text); i++)
		if (m->text[i])
			return false;
	return true;
}

static void first_packet(struct client *c, struct pd_msg *m)
{
	m->type = le32toh(m->type);
	m->id = le32toh(m->id);
	m->arg = le32toh(m->arg);
	m->flags = le32toh(m->flags);
	if ((m->type != PD_HELLO && m->type != PD_STATUS) || m->id != PD_MAGIC) {
		refuse(c, EPROTO, "this is portald: the first packet must be a hello");
		return;
	}
	if (m->arg != PD_VERSION) {
		refuse(c, EPROTONOSUPPORT, "portald speaks version %u, not %u: update the older of the two",
		       PD_VERSION, m->arg);
		return;
	}
	if (m->value || (m->flags & ~PD_RDONLY) || !text_is_zero(m)) {
		refuse(c, EINVAL, "hello: unknown flags, or unused members are not zero");
		return;
	}
	if (m->type == PD_STATUS)
		status(c);
	else
		hello(c, m);
}

/*
 * What a member asks for. Who asks faster than he reads the answers is cut when too many
 * of them wait (client_push()).
 */
static void request(struct client *c, const struct pd_msg *m)
{
	uint32_t type = le32toh(m->type);

	if (m->flags || !text_is_zero(m))
		client_doom(c, "unused members of its request are not zero (type %u)", type);
	else if (type == PD_SESSION && !m->id && !m->value)
		session_ask(c, le32toh(m->arg));
	else if (type == PD_FENCE && !m->arg)
		warden_ask(c, le32toh(m->id), le64toh(m->value));
	else
		client_doom(c, "it sent something that is no request (type %u)", type);
}

/* An earlier portald was killed when it had answered this, and not yet taken it. */
static bool answered(const struct client *c, const struct pd_msg *m)
{
	return c->asked && (le32toh(m->type) == PD_HELLO ? c->member : kept_is_answered(c));
}

static void handle(struct client *c, struct pd_msg *m, size_t n)
{
	if (n != sizeof(*m))
		client_doom(c, "its %s has %zu bytes instead of %zu", c->member ? "request" : "hello", n,
			    sizeof(*m));
	else if (c->deaf || answered(c, m))
		return;
	else if (c->member)
		request(c, m);
	else
		first_packet(c, m);
}

/* The packet that was looked at; before its hello a client has no record. */
static int take(struct client *c)
{
	char byte;

	if (c->k)
		return kept_take(c);
	return recv(c->fd, &byte, 1, MSG_DONTWAIT) < 0 ? -errno : 0;
}

static void host_input(struct client *c)
{
	struct pd_msg m;
	ssize_t n;

	/*
	 * MSG_TRUNC: the packet's own length. No room for control data: see guest.c. It is
	 * answered, then taken, then the answer is sent: kept.h.
	 */
	n = recv(c->fd, &m, sizeof(m), MSG_DONTWAIT | MSG_TRUNC | MSG_PEEK);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_doom(c, "%s", "");
		return;
	}
	c->busy = true;
	if (c->k && !c->asked)
		kept_request(c);
	handle(c, &m, (size_t)n);
	if (take(c) < 0)
		client_doom(c, "%s", "");
	if (c->k)
		kept_request_done(c);
	c->busy = c->asked = false;
	client_flush(c);
}

static int host_send(struct client *c, const struct item *it)
{
	struct portal *p = c->portal;
	struct pd_msg m = { .id = it->id };
	struct efds *efds = NULL;
	const int *fds = NULL;
	unsigned int n = 0;
	int ret, fd = -1;

	/* Descriptors may be short for a while: -ENOMEM is later. */
	switch (it->kind) {
	case ITEM_REGION:
		m.type = PD_WELCOME;
		m.arg = p->conf.vectors;
		m.value = p->conf.size;
		if (c->rdonly)
			fd = region_reopen_rdonly(p->region);
		if (c->rdonly && fd < 0)
			return -ENOMEM;
		fds = c->rdonly ? &fd : &p->region;
		n = 1;
		break;
	case ITEM_PEER:
		efds = portal_efds(p, it->id);
		if (!efds)
			return 0;
		m.type = PD_PEER;
		m.value = it->tenure;
		fds = efds->fd;
		/* Doorbells are for writers: a reader gets its own, to be rung by. */
		n = c->rdonly && it->id != c->id ? 0 : efds->n;
		break;
	case ITEM_READY:
		m.type = PD_READY;
		break;
	case ITEM_SESSION:
		fd = session_lifeline(c);
		if (fd < 0)
			return -ENOMEM;
		m.type = PD_SESSION;
		m.value = session_token(c);
		fds = &fd;
		n = 1;
		break;
	case ITEM_REFUSAL:
		m.type = PD_SESSION;
		m.id = 0;
		m.arg = it->id;
		snprintf(m.text, sizeof(m.text), "%s", session_refusal((int)it->id));
		break;
	case ITEM_FENCE:
		m.type = PD_FENCE;
		m.arg = it->last;
		m.value = it->tenure;
		snprintf(m.text, sizeof(m.text), "%s", warden_refusal((int)it->last));
		break;
	case ITEM_CHANGE:
		m.type = PD_CHANGE;
		break;
	default:
		m.type = PD_GONE;
		m.arg = it->last;
		m.value = it->tenure;
		break;
	}
	to_wire(&m);
	ret = kept_send(c, &m, sizeof(m), fds, n);
	if (fd >= 0)
		close(fd);
	if (ret < 0)
		return ret;
	c->change_last = it->kind == ITEM_CHANGE;
	if (it->kind == ITEM_SESSION)
		c->session_told = true;
	return 0;
}

static unsigned int host_messages(const struct client *c, const struct item *it)
{
	return 1;
}

void host_change(struct client *c)
{
	int unread = 0;

	/*
	 * One that waits here, or unread in the socket behind everything else, is read after what
	 * it now has to tell: enough.
	 */
	if (sendq_has(&c->q, ITEM_CHANGE))
		return;
	if (c->change_last && ioctl(c->fd, SIOCOUTQ, &unread) == 0 && unread)
		return;
	if (client_push(c, ITEM_CHANGE, 0, 0) == 0)
		client_flush(c);
}

static void host_stalled(struct client *c)
{
	client_deafen(c);
	/* One that it will never hear of. */
	if (!c->session_told)
		session_over(c);
}

const struct client_ops host_ops = {
	.noun = "process",
	.start = host_start,
	.input = host_input,
	.stalled = host_stalled,
	.send = host_send,
	.messages = host_messages,
};
