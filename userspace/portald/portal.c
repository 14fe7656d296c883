// SPDX-License-Identifier: MIT
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "managed.h"
#include "portal.h"
#include "region.h"

uint64_t now_usec(struct portal *p)
{
	uint64_t t = 0;

	sd_event_now(p->event, CLOCK_MONOTONIC, &t);
	return t;
}

int portal_new_guest(struct portal *p, struct client *c)
{
	if (p->guests >= p->conf.max_guests)
		return -EUSERS;
	if (p->next_id >= ID_END)
		return -ENOSPC;
	c->efds = efds_new(p->conf.vectors);
	if (!c->efds)
		return -errno;
	c->id = p->next_id++;
	return 0;
}

struct client *portal_guest(struct portal *p, uint32_t id)
{
	struct client *c = id < ID_END ? p->guest[id] : NULL;

	return c && !c->doomed ? c : NULL;
}

int portal_lease(struct portal *p, struct client *c)
{
	struct slot *s, *best = NULL;

	for (s = p->slots; s < p->slots + p->conf.host_peers; s++)
		if (!s->holder && (!best || s->freed < best->freed))
			best = s;
	if (!best)
		return -EBUSY;
	/* What was rung for its last holder is not for this one. */
	efds_drain(best->efds);
	best->holder = c;
	c->tenure = p->next_tenure++;
	c->efds = efds_get(best->efds);
	c->id = (uint32_t)(best - p->slots);
	return 0;
}

int portal_tell_peers(struct portal *p, struct client *c, bool all_host_ids)
{
	struct client *o;
	struct slot *s;
	int ret = 0;

	for (s = p->slots; s < p->slots + conf_host_ids(&p->conf) && ret == 0; s++)
		if (s->holder != c && (s->holder || all_host_ids))
			ret = client_push(c, ITEM_PEER, (uint32_t)(s - p->slots),
					  s->holder ? s->holder->tenure : 0, s->efds);
	TAILQ_FOREACH(o, &p->clients, link)
		if (ret == 0 && o != c && o->member && o->ops == &guest_ops)
			ret = client_push(c, ITEM_PEER, o->id, 0, o->efds);
	return ret;
}

/* A guest concerns everybody; a process only the other processes. */
static bool concerns(const struct client *news, const struct client *o)
{
	return o != news && o->member && !o->doomed && !o->deaf &&
	       (news->ops == &guest_ops || o->ops == &host_ops);
}

void portal_joined(struct portal *p, struct client *c)
{
	struct client *o;

	c->member = true;
	if (c->ops == &guest_ops) {
		p->guest[c->id] = c;
		p->guests++;
		p->total_guests++;
	} else {
		p->processes++;
		p->others--;
		p->total_processes++;
	}
	client_log(c, LOG_INFO, "joined", "joined");
	TAILQ_FOREACH(o, &p->clients, link)
		if (concerns(c, o)) {
			client_push(o, ITEM_PEER, c->id, c->tenure, c->efds);
			client_flush(o);
		}
	if (p->changed)
		p->changed(p->changed_arg);
}

/*
 * Only now that nobody has heard of the ids above may they begin again: QEMU's
 * trouble is with an id that the same QEMU process has seen leave.
 */
static void maybe_restart_ids(struct portal *p)
{
	if (p->guests || p->next_id < ID_END / 2)
		return;
	p->next_id = p->conf.first_guest_id < ID_END / 2 ? p->conf.first_guest_id :
							   conf_host_ids(&p->conf);
	log_line(LOG_NOTICE, p->conf.name,
		 "the last guest has left: guest ids begin again at %u", p->next_id);
}

static void log_end(const struct client *c)
{
	uint64_t s = (now_usec(c->portal) - c->since) / USEC_PER_SEC;

	if (*c->why)
		client_log(c, LOG_WARNING, "cut", "cut: %s", c->why);
	else if (c->member)
		client_log(c, LOG_INFO, "left", "left after %" PRIu64 " s", s);
}

static void forget(struct portal *p, struct client *c)
{
	if (c->ops == &guest_ops) {
		if (c->member) {
			p->guest[c->id] = NULL;
			p->guests--;
		}
		return;
	}
	if (c->member)
		p->processes--;
	else
		p->others--;
	if (c->id != NOBODY) {
		p->slots[c->id].holder = NULL;
		p->slots[c->id].freed = now_usec(p);
	}
}

/* @c has left: @o is told, unless it never heard of it and need not. */
static void tell_end(struct client *o, const struct client *c)
{
	if (o->ops == &guest_ops ? sendq_withdraw(&o->q, c->id) : sendq_turn(&o->q, c->id))
		return;
	client_push(o, ITEM_GONE, c->id, c->tenure, NULL);
	client_flush(o);
}

static void part(struct portal *p, struct client *c)
{
	bool member = c->member;
	struct client *o;

	log_end(c);
	TAILQ_REMOVE(&p->clients, c, link);
	forget(p, c);
	TAILQ_FOREACH(o, &p->clients, link)
		if (member && concerns(c, o))
			tell_end(o, c);
	if (!member || c->ops != &guest_ops || !warden_part(c))
		client_free(c);
	maybe_restart_ids(p);
	if (member && p->changed)
		p->changed(p->changed_arg);
}

/*
 * A process whose connection is over may still store, until its session is: so long its id
 * is its own, and nobody is told that it is gone.
 */
static bool lingers(struct client *c)
{
	if (session_over(c))
		return false;
	if (!c->lingers) {
		c->lingers = true;
		client_log(c, LOG_NOTICE, "lingers", "has no connection any more, but the memory still%s%s",
			   *c->why ? ": " : "", c->why);
		sendq_clear(&c->q);
		shutdown(c->fd, SHUT_RDWR);
	}
	return true;
}

static int reap(sd_event_source *s, void *arg)
{
	struct portal *p = arg;
	struct client *c;
	bool again;

	/* Telling others that one is gone may doom more: from the start again. */
	do {
		again = false;
		TAILQ_FOREACH(c, &p->clients, link)
			if (c->doomed && !lingers(c)) {
				part(p, c);
				again = true;
				break;
			}
	} while (again);
	return 0;
}

static int make_slots(struct portal *p)
{
	unsigned int i;

	p->slots = calloc(conf_host_ids(&p->conf) + 1U, sizeof(*p->slots));
	p->guest = calloc(ID_END, sizeof(struct client *));
	if (!p->slots || !p->guest)
		return -ENOMEM;
	for (i = 0; i < conf_host_ids(&p->conf); i++) {
		p->slots[i].efds = efds_new(p->conf.vectors);
		if (!p->slots[i].efds)
			return -errno;
	}
	return 0;
}

static int start(struct portal *p)
{
	int ret = make_slots(p);

	if (ret == 0)
		ret = sd_event_add_defer(p->event, &p->reaper, reap, p);
	if (ret >= 0)
		ret = sd_event_source_set_enabled(p->reaper, SD_EVENT_OFF);
	if (ret >= 0)
		ret = acceptor_open(&p->accept_guest, p, p->l.guest.fd, &guest_ops);
	if (ret >= 0)
		ret = acceptor_open(&p->accept_host, p, p->l.host.fd, &host_ops);
	return ret;
}

static void announce(const struct portal *p)
{
	const struct portal_conf *c = &p->conf;

	if (p->l.stale_pid)
		log_line(LOG_WARNING, c->name,
			 "an earlier portald (pid %d) did not end cleanly: its region is lost; guests still on it keep exchanging among themselves, new guests and all processes get a new region; to bring the others here, end and start their QEMU (a reboot inside the guest is not enough)",
			 p->l.stale_pid);
	log_line(LOG_INFO, c->name,
		 "serving %" PRIu64 " KiB%s, %u vectors, host ids %u, guests up to %u from id %u, on %s and %s",
		 c->size >> 10, c->managed ? ", managed" : "", c->vectors, c->host_peers, c->max_guests, p->next_id,
		 p->l.guest.path, p->l.host.path);
	if ((c->max_guests + conf_host_ids(c)) * c->vectors > QEMU_FDS)
		log_line(LOG_NOTICE, c->name,
			 "(max_guests + host_peers) x vectors is %u: each QEMU may need as many descriptors; run it with ulimit -n 4096 or more",
			 (c->max_guests + conf_host_ids(c)) * c->vectors);
}

struct portal *portal_open(const struct portal_conf *conf, const char *dir,
			   sd_event *event, struct err *e)
{
	struct portal *p = calloc(1, sizeof(*p));
	int ret;

	if (!p) {
		err_set(e, "out of memory");
		return NULL;
	}
	p->conf = *conf;
	p->conf.next = NULL;
	p->event = event;
	p->next_id = conf->first_guest_id;
	p->next_tenure = 1;
	TAILQ_INIT(&p->clients);
	p->region = region_create(conf, e);
	if (p->region < 0) {
		free(p);
		return NULL;
	}
	if (listen_open(&p->l, conf, dir, e) < 0) {
		close(p->region);
		free(p);
		return NULL;
	}
	ret = start(p);
	if (ret < 0)
		err_set(e, "cannot start serving: %s", strerror(-ret));
	else if (conf->managed)
		ret = managed_open(p, e);
	if (ret < 0) {
		portal_close(p);
		return NULL;
	}
	p->started = now_usec(p);
	announce(p);
	return p;
}

void portal_close(struct portal *p)
{
	struct client *c;
	unsigned int i;

	if (p->managed)
		managed_close(p->managed);
	acceptor_close(&p->accept_guest);
	acceptor_close(&p->accept_host);
	if (p->guests || p->processes)
		log_line(LOG_NOTICE, p->conf.name,
			 "ending with %u guests and %u processes connected: they keep this region among themselves; for the next portald's, end and start their QEMU (a reboot inside the guest is not enough)",
			 p->guests, p->processes);
	while ((c = TAILQ_FIRST(&p->clients))) {
		TAILQ_REMOVE(&p->clients, c, link);
		client_free(c);
	}
	listen_close(&p->l);
	sd_event_source_disable_unref(p->reaper);
	for (i = 0; p->slots && i < conf_host_ids(&p->conf); i++)
		efds_put(p->slots[i].efds);
	free(p->slots);
	free(p->guest);
	close(p->region);
	free(p);
}
