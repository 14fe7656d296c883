// SPDX-License-Identifier: MIT
/*
 * Clients of a portald that was killed, or ended for another: from its records (kept.h) and
 * what it stored. Nothing is sent, and no event is handled, before all of them are there;
 * and what was under way when it was killed is finished first.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "managed.h"
#include "store.h"

/* Its descriptors; those that were not kept, or are of no use, are -1. */
static void take_fds(struct client *c)
{
	const struct portal_conf *conf = &c->portal->conf;
	unsigned int n, at = 1, want = 1 + !!(c->k->flags & KEPT_PIDFD);
	int fds[2 + VECTORS_MAX];

	if (c->ops == &host_ops) {
		c->fd = store_take(conf->name, client_name(c, 'c'));
		return;
	}
	n = store_take_bundle(conf->name, client_name(c, 'c'), fds, 2 + conf->vectors);
	if (n != want + conf->vectors) {
		while (n)
			close(fds[--n]);
		return;
	}
	c->fd = fds[0];
	if (c->k->flags & KEPT_PIDFD)
		c->pidfd = fds[at++];
	c->efds = efds_adopt(fds + at, conf->vectors);
}

static struct client *restore(struct portal *p, uint32_t i)
{
	struct kept_client *k = &p->kept.client[i];
	struct client *c = client_alloc(p, k->flags & KEPT_GUEST ? &guest_ops : &host_ops, -1);

	if (!c)
		return NULL;
	kept_bind(&p->kept, c, i);
	c->gen = k->gen;
	c->id = k->state == KEPT_NEW ? NOBODY : k->id;
	c->tenure = k->tenure;
	c->since = k->since;
	c->pid = k->pid;
	c->uid = k->uid;
	memcpy(c->comm, k->comm, sizeof(c->comm));
	c->comm[sizeof(c->comm) - 1] = '\0';
	c->rdonly = k->flags & KEPT_RDONLY;
	c->deaf = k->flags & KEPT_DEAF;
	c->outlived = k->flags & KEPT_OUTLIVED;
	c->restored = true;
	take_fds(c);
	if (c->ops == &host_ops && c->id < p->conf.host_peers)
		c->efds = efds_get(p->slots[c->id].efds);
	return c;
}

/* The request that was being answered: is it still in the socket? Then nothing is sent before. */
static void settle_request(struct client *c)
{
	char byte;

	if (kept_is_begun(c) && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1)
		c->asked = c->busy = true;
	else
		kept_request_done(c);
}

/* The message that was being sent: is it still to be sent? */
static void settle_message(struct client *c)
{
	struct item it;

	if (sendq_head(&c->q, &it) && kept_was_sent(c))
		sendq_sent(&c->q, it.next + 1 >= c->ops->messages(c, &it));
	kept_sent(c);
	settle_request(c);
	/* A QEMU is told of each end by itself. */
	if (c->ops == &host_ops)
		sendq_repair(&c->q);
}

/* One of which something is missing is as good as gone. A guest that is new has no id yet. */
static bool whole(const struct client *c)
{
	uint32_t end = c->ops == &guest_ops ? ID_END : c->portal->conf.host_peers;

	return c->fd >= 0 && c->efds && (c->id < end || c->k->state == KEPT_NEW);
}

static int go_on(struct client *c)
{
	struct portal *p = c->portal;
	int ret = c->fd >= 0 ? client_watch(c) : 0;

	if (ret < 0)
		return ret;
	TAILQ_INSERT_TAIL(&p->clients, c, link);
	/* One that could not be watched cannot now: its pid may be another's. */
	if (c->ops == &guest_ops && c->fd >= 0 && c->pidfd >= 0 && !c->outlived)
		warden_watch(c);
	if (c->k->state != KEPT_NEW && c->k->state != KEPT_JOINING && c->id < ID_END)
		portal_count(p, c);
	else if (c->ops == &host_ops)
		p->slots[c->id].holder = c;
	if (c->ops == &host_ops)
		session_restore(c);
	if (!whole(c))
		client_doom(c, "its connection was not kept");
	else if (c->k->flags & KEPT_DOOMED || c->k->state == KEPT_LEAVING)
		client_doom(c, "%s", "");
	return 0;
}

/* It was about to join: once more, from where it has its id, or none yet. */
static int join_again(struct client *c)
{
	struct portal *p = c->portal;
	int ret;

	if (c->k->state == KEPT_NEW)
		portal_number_guest(p, c);
	sendq_clear(&c->q);
	ret = c->ops == &guest_ops ? guest_greet(c) : host_greet(c);
	if (ret == 0)
		portal_joined(p, c);
	return ret;
}

/* And does nobody else have its id? */
static bool possible(const struct portal *p, uint32_t i)
{
	const struct kept_client *k = &p->kept.client[i];

	if (!kept_possible(&p->kept, &p->conf, i))
		return false;
	if (k->flags & KEPT_GUEST)
		return k->state == KEPT_NEW || k->state == KEPT_GHOST || !p->guest[k->id];
	return !p->slots[k->id].holder;
}

static int restore_one(struct portal *p, uint32_t i, struct client **joining)
{
	struct kept_client *k = &p->kept.client[i];
	struct client *c;
	int ret;

	if (!possible(p, i)) {
		log_line(LOG_ERR, p->conf.name, "a client's record (%u) is damaged: its connection is cut", i);
		kept_store32(&k->state, KEPT_FREE);
		return 0;
	}
	c = restore(p, i);
	if (!c)
		return -ENOMEM;
	settle_message(c);
	if (k->state == KEPT_GHOST && p->managed) {
		warden_restore(c);
		return 0;
	}
	ret = go_on(c);
	if (ret < 0)
		return ret;
	if ((k->state == KEPT_NEW || k->state == KEPT_JOINING) && !c->doomed)
		*joining = c;
	return 0;
}

/* Those without connection, or the others. */
static int restore_all(struct portal *p, bool ghosts, struct client **joining)
{
	uint32_t i, state;
	int ret = 0;

	for (i = 0; i < p->kept.n && ret == 0; i++) {
		state = p->kept.client[i].state;
		if (state != KEPT_FREE && (state == KEPT_GHOST) == ghosts)
			ret = restore_one(p, i, joining);
	}
	return ret;
}

int portal_restore(struct portal *p)
{
	struct client *joining = NULL;
	int ret;

	p->restoring = true;
	ret = restore_all(p, false, &joining);
	/* A verdict looks whether the portal was formatted, which ends all sessions: they are there. */
	if (ret == 0)
		ret = restore_all(p, true, &joining);
	if (ret < 0)
		return ret;
	/* Either somebody was joining or somebody was leaving: not both. */
	if (joining)
		join_again(joining);
	portal_reap(p);
	p->restoring = false;
	if (p->managed)
		managed_resume(p->managed);
	portal_flush(p);
	return 0;
}
