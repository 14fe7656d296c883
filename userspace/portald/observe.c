// SPDX-License-Identifier: MIT
/*
 * Other machines, as their rows show them: whose heart stands still is suspect, whose heart
 * beats again is not; and our processes hear of each difference.
 */
#include <stddef.h>
#include <string.h>

#include "log.h"
#include "managed.h"

/* Kernels listen to none that is faster or slower, either. */
#define HEART_MIN_MS 100
#define HEART_MAX_MS 60000

/* Of its beats and of our looks that it stands still for; and how far clocks may differ. */
#define SILENT_BEATS 3
#define SILENT_LOOKS 2
#define CLOCKS_DIFFER 8

#define TELL_USEC (60 * USEC_PER_SEC)

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

/* Whoever can write the region can make hearts stop and beat: a line each, once a minute. */
static bool may_tell(struct sight *now, bool beats, uint64_t usec)
{
	if (now->told[beats] && usec - now->told[beats] < TELL_USEC)
		return false;
	now->told[beats] = usec;
	return true;
}

/*
 * When kernels say so, too (portal_silent() in drivers/core/watch.c): three of its beats after
 * its last, less the look before that was seen, and the one that would be too late.
 */
static bool silent(const struct managed *m, const struct sight *now, uint32_t ms, uint64_t usec)
{
	uint64_t look = m->portal->conf.heartbeat * 1000ULL;
	uint64_t looks = SILENT_LOOKS * look - look / CLOCKS_DIFFER, still = usec - now->beat_at;

	return ms >= HEART_MIN_MS && ms <= HEART_MAX_MS && now->looks >= SILENT_LOOKS &&
	       still >= looks && still + looks >= SILENT_BEATS * 1000ULL * ms;
}

/* Has it beaten since the last look? True if a verdict was stored, and is in @now. */
static bool judge_heart(struct managed *m, uint32_t slot, struct sight *now, bool beats,
			uint64_t usec)
{
	uint32_t ms = __atomic_load_n((uint32_t *)&peer_row(m, slot)->heartbeat_ms, __ATOMIC_RELAXED);

	if (!now->claim || now->claim == now->dead || life_low(now->life) != PORTAL_LIFE_ALIVE)
		return false;
	if (beats && now->suspect == now->claim) {
		if (!heard(m, slot, now->claim))
			return false;
		now->suspect = 0;
		if (may_tell(now, true, usec))
			log_line(LOG_NOTICE, m->portal->conf.name,
				 "machine in slot %u (id %u): its heart beats again", slot,
				 claim_address(now->claim));
		return true;
	}
	if (beats || now->suspect == now->claim || !silent(m, now, ms, usec))
		return false;
	if (!swap_word(&peer_row(m, slot)->suspect, now->suspect, now->claim))
		return false;
	now->suspect = now->claim;
	/* Unless a warden has given his own; one of an earlier claim is there no more. */
	swap_reason(m, slot, PORTAL_REASON_NONE, PORTAL_REASON_SILENT);
	if (!may_tell(now, false, usec))
		return true;
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

void observe(struct managed *m, bool beat)
{
	uint64_t usec = now_usec(m->portal);
	bool late = usec - m->looked > LATE(m), news = false, verdict = false, beats;
	struct sight now, *last;
	uint32_t slot;

	m->looked = usec;
	for (slot = 1; slot < m->super.peers; slot++) {
		last = &m->sight[slot];
		now = *last;
		read_sight(peer_row(m, slot), &now);
		news = news || !same(&now, last);
		beats = now.claim == last->claim && now.heartbeat != last->heartbeat;
		now.looks += beat;
		if (late || beats || now.claim != last->claim || now.life != last->life) {
			now.beat_at = usec;
			now.looks = 0;
		}
		if (judge_heart(m, slot, &now, beats, usec))
			verdict = true;
		*last = now;
	}
	if (verdict)
		managed_changed(m);
	else if (news)
		tell_change(m->portal);
}
