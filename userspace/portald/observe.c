// SPDX-License-Identifier: MIT
/*
 * Other machines, as their rows show them: whose heart stands still is suspect, whose heart
 * beats again is not; and our processes hear of each difference.
 */
#include <stddef.h>
#include <string.h>

#include "log.h"
#include "managed.h"

/* A look that comes so late says nothing about hearts: it is we who stood still. */
#define LATE(m) (3 * (m)->portal->conf.heartbeat * 1000ULL)

static void read_sight(const struct portal_peer *row, struct sight *s)
{
	s->claim = load_word(&row->claim);
	s->dead = load_word(&row->dead);
	s->suspect = load_word(&row->suspect);
	s->life = load_word(&row->life);
	s->changes = load_word(&row->changes);
	s->heartbeat = load_word(&row->heartbeat);
}

/* Has it beaten since the last look? True if a verdict was stored, and is in @now. */
static bool judge_heart(struct managed *m, uint32_t slot, struct sight *now, bool beats,
			uint64_t usec)
{
	struct portal_peer *row = peer_row(m, slot);
	uint64_t every = __atomic_load_n(&row->heartbeat_ms, __ATOMIC_RELAXED) * 1000ULL;
	uint32_t reason = __atomic_load_n(&row->reason, __ATOMIC_RELAXED);

	if (!now->claim || now->claim == now->dead || life_low(now->life) != PORTAL_LIFE_ALIVE)
		return false;
	if (beats && now->suspect == now->claim && reason == PORTAL_REASON_SILENT) {
		if (!swap_word(&row->suspect, now->claim, 0))
			return false;
		now->suspect = 0;
		log_line(LOG_NOTICE, m->portal->conf.name,
			 "machine in slot %u (id %u): its heart beats again", slot,
			 claim_address(now->claim));
		return true;
	}
	if (beats || !every || now->suspect == now->claim || usec - now->beat_at < 3 * every)
		return false;
	if (!swap_word(&row->suspect, now->suspect, now->claim))
		return false;
	now->suspect = now->claim;
	__atomic_store_n(&row->reason, PORTAL_REASON_SILENT, __ATOMIC_RELEASE);
	log_line(LOG_WARNING, m->portal->conf.name,
		 "machine in slot %u (id %u) is suspect: its heart has stood still for %u ms", slot,
		 claim_address(now->claim), (unsigned int)((usec - now->beat_at) / 1000));
	return true;
}

static bool same(const struct sight *a, const struct sight *b)
{
	return a->claim == b->claim && a->dead == b->dead && a->suspect == b->suspect &&
	       a->life == b->life && a->changes == b->changes;
}

void tell_change(struct portal *p)
{
	struct client *c;

	TAILQ_FOREACH(c, &p->clients, link)
		if (c->ops == &host_ops && c->member && !c->doomed && !c->deaf)
			host_change(c);
}

void observe(struct managed *m)
{
	uint64_t usec = now_usec(m->portal);
	bool late = usec - m->looked > LATE(m), news = false, verdict = false, beats;
	struct sight now, *last;
	uint32_t slot;

	m->looked = usec;
	for (slot = 1; slot < m->super.peers; slot++) {
		last = &m->sight[slot];
		read_sight(peer_row(m, slot), &now);
		news = news || !same(&now, last);
		beats = now.claim == last->claim && now.heartbeat != last->heartbeat;
		now.beat_at = late || beats || now.claim != last->claim || now.life != last->life ?
			      usec : last->beat_at;
		if (judge_heart(m, slot, &now, beats, usec))
			verdict = true;
		*last = now;
	}
	if (verdict)
		managed_changed(m);
	else if (news)
		tell_change(m->portal);
}
