// SPDX-License-Identifier: MIT
/*
 * A QEMU on NAME.ivshmem: the ivshmem client-server protocol, version 0 (QEMU's
 * docs/specs/ivshmem-spec.rst). Each message is one little-endian s64, some with
 * a descriptor beside it; QEMU takes them in this order and never answers:
 *
 *	0			the protocol's version
 *	id			its own
 *	-1 + memfd		the region
 *	id + eventfd		for each other peer, one per vector
 *	own id + eventfd	one per vector: now it is ready
 *	id + eventfd, id	later: a peer came (one per vector), a peer left
 */
#include <endian.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "log.h"
#include "managed.h"
#include "portal.h"

int guest_greet(struct client *c)
{
	return client_push(c, ITEM_VERSION, 0, 0) ?:
	       client_push(c, ITEM_ID, c->id, 0) ?:
	       client_push(c, ITEM_REGION, 0, 0) ?:
	       portal_tell_peers(c->portal, c, true) ?:
	       client_push(c, ITEM_PEER, c->id, 0);
}

static int guest_start(struct client *c)
{
	struct portal *p = c->portal;
	int ret = portal_admit_guest(p, c);

	if (ret == -EUSERS) {
		client_doom(c, "%u guests are connected, which is max_guests", p->guests);
		return 0;
	}
	if (ret == -ENOSPC) {
		client_doom(c, "all guest ids below %u are used up: they begin again when all %u guests have left, or when portald and all of them are restarted",
			    ID_END, p->guests);
		return 0;
	}
	if (ret < 0)
		return ret;
	warden_watch(c);
	client_keep(c);
	kept_store32(&c->k->state, KEPT_NEW);
	portal_number_guest(p, c);
	ret = guest_greet(c);
	if (ret < 0)
		return ret;
	portal_joined(p, c);
	return 0;
}

static void guest_input(struct client *c)
{
	char buf[64];
	ssize_t n;

	/* No room for control data: descriptors sent to us are never installed. */
	n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);
	if (n > 0)
		client_doom(c, "it sent data, which QEMU never does");
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		client_doom(c, "%s", "");
}

static void guest_stalled(struct client *c)
{
	client_doom(c, "it has not read for %u s; %u messages wait",
		    c->portal->conf.stall_timeout, c->q.len);
}

static int send_word(struct client *c, int64_t value, const int *fd)
{
	uint64_t wire = htole64((uint64_t)value);

	return kept_send(c, &wire, sizeof(wire), fd, fd ? 1 : 0);
}

static int guest_send(struct client *c, const struct item *it)
{
	struct efds *efds;

	switch (it->kind) {
	case ITEM_VERSION:
		return send_word(c, 0, NULL);
	case ITEM_REGION:
		return send_word(c, -1, &c->portal->region);
	case ITEM_PEER:
		efds = portal_efds(c->portal, it->id);
		return efds ? send_word(c, it->id, &efds->fd[it->next]) : 0;
	default:	/* ITEM_ID, ITEM_GONE */
		return send_word(c, it->id, NULL);
	}
}

static unsigned int guest_messages(const struct client *c, const struct item *it)
{
	return it->kind == ITEM_PEER ? c->portal->conf.vectors : 1;
}

const struct client_ops guest_ops = {
	.noun = "guest",
	.start = guest_start,
	.input = guest_input,
	.stalled = guest_stalled,
	.send = guest_send,
	.messages = guest_messages,
};
