// SPDX-License-Identifier: MIT
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "managed.h"
#include "portal.h"
#include "region.h"
#include "store.h"

uint64_t now_usec(struct portal *p)
{
	uint64_t t = 0;

	sd_event_now(p->event, CLOCK_MONOTONIC, &t);
	return t;
}

int portal_admit_guest(struct portal *p, struct client *c)
{
	if (p->guests >= p->conf.max_guests)
		return -EUSERS;
	if (p->kept.head->next_id >= ID_END)
		return -ENOSPC;
	c->efds = efds_new(p->conf.vectors);
	if (!c->efds)
		return -errno;
	return kept_attach(&p->kept, c) < 0 ? -EUSERS : 0;
}

void portal_number_guest(struct portal *p, struct client *c)
{
	c->id = (uint32_t)p->kept.head->next_id;
	kept_store(&p->kept.head->next_id, c->id + 1);
	kept_store32(&c->k->id, c->id);
	kept_store32(&c->k->state, KEPT_JOINING);
	p->guest[c->id] = c;
}

struct client *portal_guest(struct portal *p, uint32_t id)
{
	struct client *c = id < ID_END ? p->guest[id] : NULL;

	return c && !c->doomed ? c : NULL;
}

struct efds *portal_efds(struct portal *p, uint32_t id)
{
	if (id < conf_host_ids(&p->conf))
		return p->slots[id].efds;
	return id < ID_END && p->guest[id] ? p->guest[id]->efds : NULL;
}

int portal_lease(struct portal *p, struct client *c)
{
	uint64_t *freed = p->kept.freed;
	uint32_t i, best = p->conf.host_peers;

	for (i = 0; i < p->conf.host_peers; i++)
		if (!p->slots[i].holder && (best == p->conf.host_peers || freed[i] < freed[best]))
			best = i;
	if (best == p->conf.host_peers || kept_attach(&p->kept, c) < 0)
		return -EBUSY;
	/* What was rung for its last holder is not for this one. */
	efds_drain(p->slots[best].efds);
	p->slots[best].holder = c;
	c->tenure = p->kept.head->next_tenure;
	kept_store(&p->kept.head->next_tenure, c->tenure + 1);
	c->efds = efds_get(p->slots[best].efds);
	c->id = best;
	c->k->tenure = c->tenure;
	c->k->id = c->id;
	c->k->flags |= c->rdonly ? KEPT_RDONLY : 0;
	/* Its hello is in the socket still. */
	kept_request(c);
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
					  s->holder && !all_host_ids ? s->holder->tenure : 0);
	TAILQ_FOREACH(o, &p->clients, link)
		if (ret == 0 && o != c && o->member && o->ops == &guest_ops)
			ret = client_push(c, ITEM_PEER, o->id, 0);
	return ret;
}

/* A guest concerns everybody; a process only the other processes. */
static bool concerns(const struct client *news, const struct client *o)
{
	return o != news && o->member && !o->doomed && !o->deaf &&
	       (news->ops == &guest_ops || o->ops == &host_ops);
}

void portal_flush(struct portal *p)
{
	struct client *o;

	TAILQ_FOREACH(o, &p->clients, link)
		if (o->member)
			client_flush(o);
}

void portal_count(struct portal *p, struct client *c)
{
	c->member = true;
	if (c->ops == &guest_ops) {
		p->guest[c->id] = c;
		p->guests++;
	} else {
		p->slots[c->id].holder = c;
		p->processes++;
	}
}

void portal_joined(struct portal *p, struct client *c)
{
	uint64_t *total = c->ops == &guest_ops ? &p->kept.head->total_guests :
						 &p->kept.head->total_processes;
	struct client *o;

	if (c->ops == &host_ops && !c->restored)
		p->others--;
	portal_count(p, c);
	client_log(c, LOG_INFO, "joined", "joined");
	TAILQ_FOREACH(o, &p->clients, link)
		if (concerns(c, o) && !sendq_has_peer(&o->q, c->id, c->tenure))
			client_push(o, ITEM_PEER, c->id, c->tenure);
	++*total;
	kept_store32(&c->k->state, KEPT_MEMBER);
	portal_flush(p);
	if (p->changed)
		p->changed(p->changed_arg);
}

/*
 * Only now that nobody has heard of the ids above may they begin again: QEMU's
 * trouble is with an id that the same QEMU process has seen leave. And a machine of
 * which we do not know that it is dead keeps its own: the next one's death is not its.
 */
void portal_restart_ids(struct portal *p)
{
	uint32_t first = conf_host_ids(&p->conf);

	if (p->guests || p->kept.head->next_id < ID_END / 2 ||
	    (p->managed && !TAILQ_EMPTY(&p->managed->ghosts)))
		return;
	if (p->conf.first_guest_id < ID_END / 2)
		first = p->conf.first_guest_id;
	if (first < p->kept.head->unproven)
		first = (uint32_t)p->kept.head->unproven;
	if (first >= p->kept.head->next_id)
		return;
	kept_store(&p->kept.head->next_id, first);
	log_line(LOG_NOTICE, p->conf.name,
		 "the last guest has left: guest ids begin again at %u", first);
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
		if (c->member)
			p->guests--;
		if (c->id != NOBODY)
			p->guest[c->id] = NULL;
		return;
	}
	if (c->member)
		p->processes--;
	else if (!c->restored)
		p->others--;
	if (c->id != NOBODY) {
		p->slots[c->id].holder = NULL;
		p->kept.freed[c->id] = now_usec(p);
	}
}

/* @c has left: @o is to be told, unless it never heard of it and need not. */
static void tell_end(struct client *o, const struct client *c)
{
	int ret = o->ops == &guest_ops ? sendq_end_guest(&o->q, c->id) :
					 sendq_end_process(&o->q, c->id, c->tenure);

	if (ret < 0)
		client_doom(o, "it does not read: %u messages wait", o->q.len);
}

static void part(struct portal *p, struct client *c)
{
	bool ghost = c->member && c->ops == &guest_ops && p->managed;
	struct client *o;

	log_end(c);
	TAILQ_REMOVE(&p->clients, c, link);
	if (c->k)
		kept_store32(&c->k->state, KEPT_LEAVING);
	forget(p, c);
	TAILQ_FOREACH(o, &p->clients, link)
		if (c->member && concerns(c, o))
			tell_end(o, c);
	/* All know; from here on the rest may be told. */
	if (ghost)
		kept_store32(&c->k->state, KEPT_GHOST);
	else
		kept_detach(c);
	portal_flush(p);
	if (ghost)
		warden_part(c);
	else
		client_free(c);
	portal_restart_ids(p);
	if (p->changed)
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
		if (c->fd >= 0)
			shutdown(c->fd, SHUT_RDWR);
	}
	return true;
}

void portal_reap(struct portal *p)
{
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
}

static int reap(sd_event_source *s, void *arg)
{
	portal_reap(arg);
	return 0;
}

/* ---- Beginning, going on, ending --------------------------------------------- */

static const char *slot_name(uint32_t i)
{
	static char name[16];

	snprintf(name, sizeof(name), "slot.%u", i);
	return name;
}

/* The host's doorbells: an earlier portald's, which QEMUs have, or new ones. */
static int make_slots(struct portal *p, bool restored)
{
	unsigned int i, n = conf_host_ids(&p->conf);
	int fds[VECTORS_MAX];

	p->slots = calloc(n + 1U, sizeof(*p->slots));
	p->guest = calloc(ID_END, sizeof(struct client *));
	if (!p->slots || !p->guest)
		return -ENOMEM;
	for (i = 0; i < n; i++) {
		if (!restored)
			p->slots[i].efds = efds_new(p->conf.vectors);
		else if (store_take_bundle(p->conf.name, slot_name(i), fds, p->conf.vectors) ==
			 p->conf.vectors)
			p->slots[i].efds = efds_adopt(fds, p->conf.vectors);
		if (!p->slots[i].efds)
			return restored ? -EBADF : -errno;
		if (!restored &&
		    store_put(p->conf.name, slot_name(i), p->slots[i].efds->fd, p->conf.vectors) < 0)
			return -ETOOMANYREFS;
	}
	return 0;
}

static int start(struct portal *p, bool restored)
{
	int ret = make_slots(p, restored);

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

static void announce(const struct portal *p, bool restored)
{
	const struct portal_conf *c = &p->conf;

	if (restored)
		log_line(LOG_NOTICE, c->name,
			 "goes on where the portald before left it: %u guests, %u processes", p->guests,
			 p->processes);
	else if (p->l.stale_pid)
		log_line(LOG_WARNING, c->name,
			 "an earlier portald (pid %d) did not end cleanly, and nobody kept its descriptors (portald --keep, or a service of systemd): its region is lost; guests still on it keep exchanging among themselves, new guests and all processes get a new region; to bring the others here, end and start their QEMU (a reboot inside the guest is not enough)",
			 p->l.stale_pid);
	log_line(LOG_INFO, c->name,
		 "serving %" PRIu64 " KiB%s, %u vectors, host ids %u, guests up to %u from id %" PRIu64 ", on %s and %s",
		 c->size >> 10, c->managed ? ", managed" : "", c->vectors, c->host_peers, c->max_guests,
		 p->kept.head->next_id, p->l.guest.path, p->l.host.path);
	if ((c->max_guests + conf_host_ids(c)) * c->vectors > QEMU_FDS)
		log_line(LOG_NOTICE, c->name,
			 "(max_guests + host_peers) x vectors is %u: each QEMU may need as many descriptors; run it with ulimit -n 4096 or more",
			 (c->max_guests + conf_host_ids(c)) * c->vectors);
}

/* What an earlier portald left: its memory and region; false: there is nothing of use. */
static bool take_over(struct portal *p, const struct portal_conf *conf)
{
	int kept = store_take(conf->name, "kept"), region = store_take(conf->name, "region");
	struct err e;

	if (kept >= 0 && region >= 0 && kept_adopt(&p->kept, kept, &p->conf, &e) == 0) {
		p->region = region;
		if (!conf_same(&p->conf, conf))
			log_line(LOG_WARNING, conf->name,
				 "size, vectors, host_peers, max_guests, managed and sessions stay as they are: what is new of them waits until portald is stopped for good");
		return true;
	}
	if (kept >= 0 && region >= 0)
		log_line(LOG_ERR, conf->name,
			 "cannot go on where the portald before left it: %s; all begins anew: guests and processes still on the old region are cut, and keep it among themselves; to bring them here, end and start their QEMU",
			 e.text);
	if (kept >= 0)
		close(kept);
	if (region >= 0)
		close(region);
	return false;
}

/* Nothing of that is to meet what is put there now, by the same names. Was there anything? */
static bool clear_store(const char *portal)
{
	store_drop(portal, "kept");
	store_drop(portal, "region");
	return store_sweep(portal) > 0;
}

static int begin(struct portal *p, struct err *e)
{
	int ret;

	p->region = region_create(&p->conf, e);
	if (p->region < 0)
		return -1;
	ret = kept_create(&p->kept, &p->conf);
	if (ret == 0)
		ret = store_put(p->conf.name, "region", &p->region, 1);
	if (ret == 0)
		ret = store_put(p->conf.name, "kept", &p->kept.fd, 1);
	if (ret < 0)
		return err_set(e, "cannot make the kept memory: %s", strerror(-ret));
	p->kept.head->started = now_usec(p);
	return 0;
}

static int open_all(struct portal *p, const struct portal_conf *conf, const char *dir,
		    bool *was_there, struct err *e)
{
	bool restored = *was_there = take_over(p, conf);
	int ret;

	/* The sockets first: who waits in them waits on. */
	if (listen_open(&p->l, &p->conf, dir, e) < 0)
		return -1;
	if (!restored) {
		if (clear_store(p->conf.name))
			p->l.stale_pid = 0;	/* it has been told what became of that one's */
		if (begin(p, e) < 0)
			return -1;
	}
	ret = start(p, restored);
	if (ret == -EBADF)	/* doorbells are missing, now and ever: the next start begins anew */
		kept_store(&p->kept.head->complete, 0);
	if (ret < 0)
		return err_set(e, "cannot start serving: %s", strerror(-ret));
	if (p->conf.managed && managed_open(p, e) < 0)
		return -1;
	if (restored) {
		ret = portal_restore(p);
		if (ret < 0)
			return err_set(e, "cannot restore the clients: %s", strerror(-ret));
	}
	/* What was about to be of use, or not any more. */
	store_sweep(p->conf.name);
	kept_store(&p->kept.head->complete, 1);
	p->kept.head->tries = 0;
	announce(p, restored);
	return 0;
}

struct portal *portal_open(const struct portal_conf *conf, const char *dir,
			   sd_event *event, struct err *e)
{
	struct portal *p = calloc(1, sizeof(*p));
	bool restored;

	if (!p) {
		err_set(e, "out of memory");
		return NULL;
	}
	p->conf = *conf;
	p->conf.next = NULL;
	p->event = event;
	p->region = -1;
	p->l.guest.fd = p->l.host.fd = p->l.lock = -1;
	TAILQ_INIT(&p->clients);
	if (open_all(p, conf, dir, &restored, e) < 0) {
		/*
		 * Another try may have more luck. However many it takes: those that were on it have
		 * it still, and a new beginning would lack the same thing.
		 */
		portal_close(p, restored);
		return NULL;
	}
	return p;
}

/* From here on nobody goes on with it, if we are killed on the way. */
static void give_up(struct portal *p)
{
	if (p->kept.head)
		kept_store(&p->kept.head->complete, 0);
	store_drop(p->conf.name, "kept");
	store_drop(p->conf.name, "region");
}

static void drop_slots(struct portal *p)
{
	unsigned int i;

	for (i = 0; i < conf_host_ids(&p->conf); i++)
		store_drop(p->conf.name, slot_name(i));
}

void portal_close(struct portal *p, bool keep)
{
	struct client *c;
	unsigned int i;

	if (!keep)
		give_up(p);
	else if (p->kept.head)
		p->kept.head->tries = 0;	/* nothing that was taken over has killed this one */
	if (p->managed)
		managed_close(p->managed, keep);
	acceptor_close(&p->accept_guest);
	acceptor_close(&p->accept_host);
	if (!keep && (p->guests || p->processes))
		log_line(LOG_NOTICE, p->conf.name,
			 "ending with %u guests and %u processes connected: they keep this region among themselves; for the next portald's, end and start their QEMU (a reboot inside the guest is not enough)",
			 p->guests, p->processes);
	while ((c = TAILQ_FIRST(&p->clients))) {
		TAILQ_REMOVE(&p->clients, c, link);
		if (keep)
			client_leave(c);
		else
			client_free(c);
	}
	listen_close(&p->l, p->conf.name, keep);
	if (!keep)
		drop_slots(p);
	sd_event_source_disable_unref(p->reaper);
	for (i = 0; p->slots && i < conf_host_ids(&p->conf); i++)
		efds_put(p->slots[i].efds);
	free(p->slots);
	free(p->guest);
	kept_close(&p->kept);
	if (p->region >= 0)
		close(p->region);
	free(p);
}
